package encap

import (
	"encoding/binary"

	"gvtep/internal/packet"
)

// Peek returns what a datagram says of VNI and payload type without holding it against anything, 0
// where it is too short.
func (f Format) Peek(b []byte) (vni packet.VNI, protocol uint16) {
	if len(b) >= HeaderLen {
		vni = packet.VNI(binary.BigEndian.Uint32(b[4:]) >> 8)
	}
	switch {
	case f == VXLAN:
		protocol = packet.EtherTypeEthernet
	case len(b) >= 4:
		protocol = binary.BigEndian.Uint16(b[2:])
	}
	return vni, protocol
}

// LooksLikeVXLAN reports whether a datagram that is no good GENEVE begins like VXLAN: the I flag
// alone, three reserved bytes, a VNI, another reserved byte (RFC 7348 section 5). In GENEVE that
// would be options before a payload of the type 0, which is none.
func LooksLikeVXLAN(b []byte) bool {
	return len(b) > HeaderLen && b[0] == 0x08 && b[1] == 0 && b[2] == 0 && b[3] == 0 && b[7] == 0
}
