package packet

import "golang.org/x/sys/cpu"

// blockLen is what sumBlocks takes at a time.
const blockLen = 128

// sumBlocks returns the sum of the little-endian 32-bit words in the n bytes
// at p. n is a positive multiple of blockLen. It needs AVX2.
//
//go:noescape
func sumBlocks(p *byte, n int) uint64

// sumLong sums whole blocks of b faster than Sum's own loop does, and returns
// what is left of b: nothing is done on a processor that cannot, or if b is
// so short that it does not pay.
func sumLong(b []byte) (sum uint64, rest []byte) {
	if len(b) < 2*blockLen || !cpu.X86.HasAVX2 {
		return 0, b
	}
	n := len(b) &^ (blockLen - 1)
	return sumBlocks(&b[0], n), b[n:]
}
