package packet

import "golang.org/x/sys/cpu"

const (
	// blockLen is what the functions in assembly take at a time.
	blockLen = 32
	// longLen is from where on they pay.
	longLen = 256
)

// sumBlocks returns the sum of the little-endian 32-bit words in the n bytes
// at p. n is a positive multiple of blockLen. It needs AVX2.
//
//go:noescape
func sumBlocks(p *byte, n int) uint64

// copySumBlocks is sumBlocks of src, and copies it to dst, which does not overlap.
//
//go:noescape
func copySumBlocks(dst, src *byte, n int) uint64

// sumLong sums whole blocks of b faster than Sum's own loop does, and returns
// what is left of b: nothing is done on a processor that cannot, or if b is
// so short that it does not pay.
func sumLong(b []byte) (sum uint64, rest []byte) {
	if len(b) < longLen || !cpu.X86.HasAVX2 {
		return 0, b
	}
	n := len(b) &^ (blockLen - 1)
	return sumBlocks(&b[0], n), b[n:]
}

// copySumLong is sumLong of src, and copies what it sums to dst, at least as long.
func copySumLong(dst, src []byte) (sum uint64, n int) {
	if len(src) < longLen || !cpu.X86.HasAVX2 {
		return 0, 0
	}
	n = len(src) &^ (blockLen - 1)
	return copySumBlocks(&dst[:n][0], &src[0], n), n
}
