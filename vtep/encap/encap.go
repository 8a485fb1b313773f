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
	parse     Parser
}{
	Geneve: {"geneve", geneve.Port, true, geneve.Scan},
	VXLAN:  {"vxlan", vxlan.Port, false, vxlan.Scan},
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

// Parser reads the header of a datagram: VNI, EtherType of the payload, and its length in bytes,
// behind which the payload begins. Of an error Reason tells; length is then 0, unless Options
// may be looked at all the same. It does not allocate.
type Parser func(datagram []byte) (vni packet.VNI, protocol uint16, length int, err error)

// Parser is that of f. Whoever receives keeps it: a switch for each datagram costs as much again.
func (f Format) Parser() Parser { return formats[f].parse }

// Options are those in a datagram with a header of that length; nil: there are none.
func Options(datagram []byte, length int) geneve.Options {
	if length <= HeaderLen {
		return nil
	}
	return geneve.Options(datagram[HeaderLen:length:length])
}

// Reason names the fault that a Parser found, as a reason to drop the datagram.
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

// AppendControl is AppendHeader for control packets, which only GENEVE has (its O bit).
func AppendControl(dst []byte, vni packet.VNI, protocol uint16) ([]byte, error) {
	return geneve.AppendHeader(dst, geneve.Header{VNI: vni, Protocol: protocol, Control: true})
}

// HasControl reports whether f tells control packets from others.
func (f Format) HasControl() bool { return f == Geneve }

// VNI reads the VNI of a header of any format.
func VNI(header []byte) packet.VNI {
	_ = header[HeaderLen-1]
	return packet.VNI(header[4])<<16 | packet.VNI(header[5])<<8 | packet.VNI(header[6])
}

// PutVNI writes a VNI into a header. All formats have it at the same place.
func PutVNI(header []byte, v packet.VNI) {
	_ = header[HeaderLen-1]
	header[4], header[5], header[6] = byte(v>>16), byte(v>>8), byte(v)
}
