package packet

import "encoding/binary"

// The ECN field, the lower two bits of Headers.TOS (RFC 3168 section 5).
const (
	ECNNot  = 0 // not ECN-capable transport
	ECNECT1 = 1
	ECNECT0 = 2
	ECNCE   = 3 // congestion experienced
)

// SetECN writes ecn into the IP header that h, from Walk, found in frame,
// repairs the IPv4 header checksum and brings h.TOS up to date. A frame
// without an IP header is left alone.
func SetECN(frame []byte, h *Headers, ecn uint8) {
	if h.Version == 0 || h.TOS&3 == ecn&3 {
		return
	}
	h.TOS = h.TOS&^3 | ecn&3
	ip := frame[h.L3:]
	if h.Version == 6 {
		ip[1] = h.TOS<<4 | ip[1]&0x0f
		return
	}
	old := binary.BigEndian.Uint16(ip)
	ip[1] = h.TOS
	check := binary.BigEndian.Uint16(ip[10:])
	binary.BigEndian.PutUint16(ip[10:], UpdateChecksum(check, old, binary.BigEndian.Uint16(ip)))
}
