package packet

import "encoding/binary"

// The multipliers of Hash: odd, their bits well mixed.
const (
	hashMul   = 0x9e3779b97f4a7c15 // 2^64 / golden ratio
	hashFinal = 0xff51afd7ed558ccd // from the finisher of MurmurHash3
)

// Hash returns a keyed hash of the flow that frame belongs to; h is what Walk
// found in it with the same l3. All packets of one flow have one hash, also
// behind VLAN tags and without a link header:
//
//	TCP, UDP, SCTP, DCCP  addresses, protocol, ports
//	IP, all else          addresses, protocol: also for every fragment, as only
//	                      the first of a packet has the ports
//	not IP                MAC addresses, EtherType
//
// The function takes words w of 64 bits, read in network byte order:
//
//	x = seed;  for each w: x = (x ^ w) * hashMul;  x = x ^ x>>32
//	hash = upper 32 bits of x * hashFinal
//
// with w = both IPv4 addresses, or the four halves of both IPv6 addresses, then
// ports<<8 | protocol; or the first 8 bytes of the MACs, then their last 4 <<16 |
// EtherType. The best bits are the high ones: choose one of n by hash*n >> 32.
// It is no defence against one who knows the seed.
func Hash(frame []byte, h *Headers, l3 bool, seed uint64) uint32 {
	x := seed
	switch h.Version {
	case 4:
		ip := frame[h.L3:]
		x = hashMix(x, binary.BigEndian.Uint64(ip[12:]))
	case 6:
		ip := frame[h.L3:][:40]
		x = hashMix(x, binary.BigEndian.Uint64(ip[8:]))
		x = hashMix(x, binary.BigEndian.Uint64(ip[16:]))
		x = hashMix(x, binary.BigEndian.Uint64(ip[24:]))
		x = hashMix(x, binary.BigEndian.Uint64(ip[32:]))
	default:
		var last uint64
		if !l3 && len(frame) >= 12 {
			x = hashMix(x, binary.BigEndian.Uint64(frame))
			last = uint64(binary.BigEndian.Uint32(frame[8:])) << 16
		}
		return hashEnd(hashMix(x, last|uint64(h.EtherType)))
	}
	var ports uint64
	if h.L4 != 0 {
		ports = uint64(binary.BigEndian.Uint32(frame[h.L4:]))
	}
	return hashEnd(hashMix(x, ports<<8|uint64(h.Proto)))
}

func hashMix(x, w uint64) uint64 {
	x = (x ^ w) * hashMul
	return x ^ x>>32
}

func hashEnd(x uint64) uint32 { return uint32(x * hashFinal >> 32) }
