// Package vxlan converts between bytes and the VXLAN header of RFC 7348. It is pure: no
// sockets, no clocks, no state.
//
// The header has one flag, I, which says that the VNI is valid, and reserved bits, which are 0
// when sent and ignored when received (section 5). What others have made of some of these bits
// is ignored like all: the group policy of draft-smith-vxlan-group-policy, and the next protocol
// of VXLAN-GPE (RFC 9305), whose port is another.
package vxlan

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gvtep/internal/packet"
)

const (
	// HeaderLen is the length of the header in bytes. It has no options.
	HeaderLen = 8
	// Port is the UDP port that IANA has given to VXLAN (section 5).
	Port = 4789
)

// What Scan can find wrong.
var (
	// ErrShort: fewer than 8 bytes.
	ErrShort = errors.New("vxlan: datagram is shorter than its header")
	// ErrNoVNI: the I flag is not set (section 5: it MUST be).
	ErrNoVNI = errors.New("vxlan: the I flag is not set")
)

// The header as one big-endian number.
const (
	flagI    = 1 << 59
	vniShift = 8
)

// Scan returns what there is to know of a datagram: its VNI, that the inner packet is an Ethernet
// frame, and the length of the header, which is 0 with an error. The frame may be empty. Scan
// does not allocate.
func Scan(b []byte) (vni packet.VNI, protocol uint16, length int, err error) {
	if len(b) < HeaderLen {
		return 0, 0, 0, ErrShort
	}
	w := binary.BigEndian.Uint64(b)
	if w&flagI == 0 {
		return 0, 0, 0, ErrNoVNI
	}
	return packet.VNI(w>>vniShift) & packet.MaxVNI, packet.EtherTypeEthernet, HeaderLen, nil
}

// AppendHeader appends a header to dst: I flag and VNI, and all other bits zero. It returns dst
// as it was and an error if the VNI has more than 24 bits.
func AppendHeader(dst []byte, vni packet.VNI) ([]byte, error) {
	if !vni.Valid() {
		return dst, fmt.Errorf("vxlan: VNI %d has more than 24 bits: want at most %d", vni, packet.MaxVNI)
	}
	return binary.BigEndian.AppendUint64(dst, flagI|uint64(vni)<<vniShift), nil
}
