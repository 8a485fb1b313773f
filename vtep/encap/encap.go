// Package encap is the wire format of a tunnel: what stands between the outer UDP header and
// the inner frame, GENEVE or VXLAN. It is the one place that tells formats apart.
//
// Both begin with eight bytes, the VNI at the same place in them. Only GENEVE has options and
// says what its payload is.
package encap

import (
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/geneve"
	"gvtep/vtep/vxlan"
)

// Format is a wire format. The zero value is GENEVE.
type Format uint8

// The formats.
const (
	Geneve Format = iota // RFC 8926
	VXLAN                // RFC 7348
)

// formats is what there is to say of each.
var formats = [...]struct {
	name      string
	port      uint16
	carriesIP bool
}{
	Geneve: {"geneve", geneve.Port, true},
	VXLAN:  {"vxlan", vxlan.Port, false},
}

// String is the word for f, in configurations and in iproute2.
func (f Format) String() string { return formats[f].name }

// Port is the UDP port that IANA has given to f.
func (f Format) Port() uint16 { return formats[f].port }

// CarriesIP reports whether a payload can be an IP packet: a header tells what it is. Else it
// is always an Ethernet frame.
func (f Format) CarriesIP() bool { return formats[f].carriesIP }

// Formats are all formats, in the order of their numbers.
func Formats() []Format {
	all := make([]Format, len(formats))
	for i := range all {
		all[i] = Format(i)
	}
	return all
}

// Lengths of a header, in bytes.
const (
	HeaderLen    = geneve.HeaderLen    // of the part that every header has
	MaxHeaderLen = geneve.MaxHeaderLen // with all options
)

// Header is what the header of a datagram says.
type Header struct {
	VNI      packet.VNI
	Protocol uint16 // EtherType of the payload
	Len      int    // of the header, in bytes: the payload begins there
}

// Options are those in the datagram that h is the header of; nil: there are none.
func (h Header) Options(datagram []byte) geneve.Options {
	if h.Len <= HeaderLen {
		return nil
	}
	return geneve.Options(datagram[HeaderLen:h.Len:h.Len])
}

// Parse reads the header of a datagram. Of an error Reason tells; Len is then 0, unless the
// options may be looked at all the same. Every datagram passes here: nothing is allocated, and
// what is returned fits registers.
func (f Format) Parse(datagram []byte) (h Header, err error) {
	if f == VXLAN {
		if h.VNI, err = vxlan.Parse(datagram); err == nil {
			h.Protocol, h.Len = packet.EtherTypeEthernet, vxlan.HeaderLen
		}
		return h, err
	}
	h.VNI, h.Protocol, h.Len, err = geneve.Scan(datagram)
	return h, err
}

// Reason names the fault that Parse found, as a reason to drop the datagram.
func Reason(err error) count.Reason {
	switch err {
	case geneve.ErrVersion:
		return count.DropBadVersion
	case geneve.ErrControl:
		return count.DropControl
	case geneve.ErrOptions:
		return count.DropBadOptions
	case geneve.ErrCritical:
		return count.DropCriticalOption
	case vxlan.ErrNoVNI:
		return count.DropNoVNI
	}
	return count.DropShort
}

// AppendHeader appends the header of datagrams with a VNI whose payload is of an EtherType. It
// returns dst as it was and an error if the VNI has more than 24 bits. Only a format that
// CarriesIP has another EtherType than that of Ethernet.
func (f Format) AppendHeader(dst []byte, vni packet.VNI, protocol uint16) ([]byte, error) {
	if f == VXLAN {
		return vxlan.AppendHeader(dst, vni)
	}
	return geneve.AppendHeader(dst, geneve.Header{VNI: vni, Protocol: protocol})
}

// PutVNI writes a VNI into a header. All formats have it at the same place.
func PutVNI(header []byte, v packet.VNI) {
	_ = header[HeaderLen-1]
	header[4], header[5], header[6] = byte(v>>16), byte(v>>8), byte(v)
}
