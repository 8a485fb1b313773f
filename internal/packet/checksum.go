package packet

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071). Running sums are kept as 64-bit
// ones-complement numbers over little-endian words, because the sum does not
// depend on the byte order as long as it is turned round once at the end
// (RFC 1071 section 2 B): Fold does that. So a running sum means something only
// to Sum and Fold; numbers enter it by SumWord.

// Sum adds the bytes of b to the running sum initial. An odd last byte counts
// as if a zero followed, so only the last part of what is summed may be odd.
func Sum(b []byte, initial uint64) uint64 {
	long, b := sumLong(b)
	sum, c := bits.Add64(initial, long, 0)
	for len(b) >= 128 {
		p := (*[128]byte)(b)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[0:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[8:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[16:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[24:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[32:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[40:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[48:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[56:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[64:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[72:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[80:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[88:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[96:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[104:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[112:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[120:]), c)
		b = b[128:]
	}
	if len(b) >= 64 {
		p := (*[64]byte)(b)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[0:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[8:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[16:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[24:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[32:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[40:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[48:]), c)
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(p[56:]), c)
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, c = bits.Add64(sum, binary.LittleEndian.Uint64(b), c)
		b = b[8:]
	}
	var last uint64 // up to seven bytes
	shift := 0
	if len(b) >= 4 {
		last = uint64(binary.LittleEndian.Uint32(b))
		shift = 32
		b = b[4:]
	}
	if len(b) >= 2 {
		last |= uint64(binary.LittleEndian.Uint16(b)) << shift
		shift += 16
		b = b[2:]
	}
	if len(b) == 1 {
		last |= uint64(b[0]) << shift
	}
	sum, c = bits.Add64(sum, last, c)
	return sum + c // no carry out of this: last has only 56 bits
}

// SumCopy copies src to dst, which is at least as long and does not overlap it,
// and returns Sum(src, initial). Both at once cost little more than the sum.
func SumCopy(dst, src []byte, initial uint64) uint64 {
	long, n := copySumLong(dst, src)
	sum, c := bits.Add64(initial, long, 0)
	sum += c // no carry out of this: long is a sum of 32-bit words, far from 64 bits
	rest := src[n:]
	copy(dst[n:], rest)
	return Sum(rest, sum)
}

// SumWord is the 16-bit number w as a part of a running sum. Up to 2^48 of
// them, and of their complements (which subtract), can be added with +
// before the result is given to Sum as initial.
func SumWord(w uint16) uint64 { return uint64(bits.ReverseBytes16(w)) }

// Fold turns a running sum into the 16-bit sum, as a number. The checksum
// field is its complement; the sum over correct data with its checksum is
// 0xffff.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return bits.ReverseBytes16(uint16(sum))
}

// PseudoSum is the running sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200
// section 8.1) of length bytes of transport header and payload in frame, with
// h.Version 4 or 6. The addresses are those of the IP header: not the right ones
// for a packet under way by source route.
func PseudoSum(frame []byte, h *Headers, length int) uint64 {
	initial := uint64(bits.ReverseBytes32(uint32(length))) + SumWord(uint16(h.Proto))
	ip := frame[h.L3:]
	if h.Version == 4 {
		return initial + uint64(binary.LittleEndian.Uint32(ip[12:])) + uint64(binary.LittleEndian.Uint32(ip[16:]))
	}
	return Sum(ip[8:40], initial)
}

// UpdateChecksum returns the checksum field after one 16-bit word that it
// covers, at an even offset, went from old to new (RFC 1624 section 3,
// equation 3).
func UpdateChecksum(check, old, new uint16) uint16 {
	sum := uint32(^check) + uint32(^old) + uint32(new)
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum)
}
