// Package encap is the wire format of a tunnel: what stands between the outer UDP header and
// the inner frame. It is the one place that tells formats apart.
package encap

import (
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/geneve"
)

// Format is a wire format. The zero value is GENEVE.
type Format uint8

// The formats.
const (
	Geneve Format = iota // RFC 8926
)

// names are the words for the formats, as in configurations.
var names = [...]string{Geneve: "geneve"}

// String is the word for f.
func (f Format) String() string { return names[f] }

// Formats are all formats, in the order of their numbers.
func Formats() []Format {
	all := make([]Format, len(names))
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
	}
	return count.DropShort
}

// AppendHeader appends the header of datagrams with a VNI whose payload is of an EtherType.
func (f Format) AppendHeader(dst []byte, vni packet.VNI, protocol uint16) ([]byte, error) {
	return geneve.AppendHeader(dst, geneve.Header{VNI: vni, Protocol: protocol})
}

// PutVNI writes a VNI into a header. All formats have it at the same place.
func PutVNI(header []byte, v packet.VNI) {
	_ = header[HeaderLen-1]
	header[4], header[5], header[6] = byte(v>>16), byte(v>>8), byte(v)
}
