// Package geneve converts between bytes and the GENEVE header and options of
// RFC 8926. It is pure: no sockets, no clocks, no state, and what it returns
// from a buffer are views into that buffer.
//
// A datagram is taken apart by Parse and put together by AppendHeader:
//
//	h, frame, err := geneve.Parse(datagram)
//
//	var opts geneve.Options
//	opts, err = geneve.AppendOption(opts, geneve.Option{Class: 0xff00, Type: 1, Data: data})
//	buf, err = geneve.AppendHeader(buf, geneve.Header{VNI: 100, Protocol: packet.EtherTypeEthernet, Options: opts})
//	buf = append(buf, frame...)
//
// Where RFC 8926 leaves a choice, this package takes the strict side: the
// options are walked whether or not the C bit is set, a critical option is
// reported with the C bit clear too (section 3.5 and 3.5.1 against 3.4), and
// option lengths that do not add up are refused. A C bit without a critical
// option is accepted, for nothing in such a header has to be understood.
package geneve

import (
	"encoding/binary"
	"errors"
	"fmt"

	"gvtep/internal/packet"
)

// Port is the UDP port that IANA has given to GENEVE (RFC 8926 section 3.3).
const Port = 6081

// Lengths of the header, in bytes (RFC 8926 section 3.4).
const (
	HeaderLen     = 8                         // of the fixed part
	MaxOptionsLen = 63 * 4                    // of all options together
	MaxHeaderLen  = HeaderLen + MaxOptionsLen // of both
)

// What Parse can find wrong, one value for each reason to drop a datagram.
var (
	// ErrShort: fewer than 8 bytes, or fewer than Opt Len announces.
	ErrShort = errors.New("geneve: datagram is shorter than its header")
	// ErrVersion: not version 0 (RFC 8926 section 3.4: MUST drop).
	ErrVersion = errors.New("geneve: version is not 0")
	// ErrControl: the O bit is set; the payload must not be forwarded
	// (RFC 8926 section 3.4).
	ErrControl = errors.New("geneve: control message")
	// ErrOptions: an option runs over the end of the option area (RFC 8926
	// section 3.5: MUST silently drop).
	ErrOptions = errors.New("geneve: option lengths do not add up to Opt Len")
	// ErrCritical: an option that is not known has its critical bit set
	// (RFC 8926 section 3.5: MUST drop).
	ErrCritical = errors.New("geneve: unknown critical option")
)

// Header is the GENEVE header without version, which is 0, and without
// reserved bits, which are 0 when sent and ignored when received. Opt Len is
// the length of Options.
type Header struct {
	VNI      packet.VNI
	Protocol uint16 // EtherType of the payload
	Control  bool   // the O bit
	// Critical is the C bit as it was received. When sending it is not
	// looked at: AppendHeader takes the bit from the options.
	Critical bool
	// Options is the option area, nil if there is none. After Parse it is a
	// view into the datagram.
	Options Options
}

// Len returns the length of h on the wire, in bytes, 8 to 260.
func (h Header) Len() int { return HeaderLen + len(h.Options) }

// The first eight bytes of a datagram as one big-endian number.
const (
	versionShift = 62
	optLenShift  = 56
	optLenMask   = 0x3f
	controlBit   = 1 << 55
	criticalBit  = 1 << 54
	protoShift   = 32
	vniShift     = 8
)

// Parse takes the datagram b apart. The payload begins where Opt Len says and
// ends with b; it may be empty. Header and payload are views into b, valid as
// long as its bytes are; appending to them never writes into b.
//
// The checks come in this order, and the error is the first that fails:
// length (ErrShort), version (ErrVersion), Opt Len (ErrShort), O bit
// (ErrControl), then the options (ErrOptions before ErrCritical). With
// ErrControl and ErrCritical header and payload are returned as well, for a
// caller that handles control messages or knows options: it calls
// Options.Check with what it knows. With the other errors both are zero.
//
// Whether Protocol and VNI are wanted is for the caller to say. Parse does
// not allocate.
func Parse(b []byte) (h Header, payload []byte, err error) {
	vni, protocol, length, err := Scan(b)
	if length == 0 {
		return Header{}, nil, err
	}
	h = Header{VNI: vni, Protocol: protocol, Control: b[1]&(controlBit>>48) != 0, Critical: b[1]&(criticalBit>>48) != 0}
	if length > HeaderLen {
		h.Options = Options(b[HeaderLen:length:length])
	}
	return h, b[length:len(b):len(b)], err
}

// Scan makes the checks of Parse, and returns what every datagram is asked for: VNI,
// protocol, and the length of the whole header, which is 0 if header and payload are not to
// be looked at. It is several times as fast.
func Scan(b []byte) (vni packet.VNI, protocol uint16, length int, err error) {
	if len(b) < HeaderLen {
		return 0, 0, 0, ErrShort
	}
	w := binary.BigEndian.Uint64(b)
	if w>>versionShift != 0 {
		return 0, 0, 0, ErrVersion
	}
	length = HeaderLen + int(w>>optLenShift&optLenMask)*4
	if length > len(b) {
		return 0, 0, 0, ErrShort
	}
	switch {
	case w&controlBit != 0:
		err = ErrControl
	case length > HeaderLen:
		if err = Options(b[HeaderLen:length]).Check(nil); err != nil && err != ErrCritical {
			return 0, 0, 0, err
		}
	}
	return packet.VNI(w>>vniShift) & packet.MaxVNI, uint16(w >> protoShift), length, err
}

// AppendHeader appends h as it goes on the wire to dst: version 0, Opt Len
// from the length of h.Options, C set if one of them is critical (RFC 8926
// section 3.5) and all reserved bits, those in the options too, zero. It
// returns dst as it was and an error if the VNI has more than 24 bits or the
// options are not a well-formed area of at most 252 bytes.
func AppendHeader(dst []byte, h Header) ([]byte, error) {
	if !h.VNI.Valid() {
		return dst, fmt.Errorf("geneve: VNI %d has more than 24 bits: want at most %d", h.VNI, packet.MaxVNI)
	}
	if len(h.Options) > MaxOptionsLen {
		return dst, fmt.Errorf("geneve: %d bytes of options are more than %d, which is all that Opt Len can tell", len(h.Options), MaxOptionsLen)
	}
	w := uint64(len(h.Options)/4)<<optLenShift | uint64(h.Protocol)<<protoShift | uint64(h.VNI)<<vniShift
	if h.Control {
		w |= controlBit
	}
	switch err := h.Options.Check(nil); err {
	case nil:
	case ErrCritical:
		w |= criticalBit
	default:
		return dst, err
	}
	dst = binary.BigEndian.AppendUint64(dst, w)
	at := len(dst)
	dst = append(dst, h.Options...)
	for at < len(dst) {
		dst[at+3] &= optionLenMask
		at += optionHeaderLen + int(dst[at+3])*4
	}
	return dst, nil
}
