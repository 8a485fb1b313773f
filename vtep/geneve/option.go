package geneve

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// Limits of one option (RFC 8926 section 3.5).
const (
	MaxOptionData = 31 * 4 // bytes of data

	optionHeaderLen = 4
	optionLenMask   = 0x1f // below it three reserved bits
	optionCritical  = 0x80 // of Type
)

// Option is one tunnel option.
type Option struct {
	// Class is the namespace of Type, from the IANA registry; 0xff00 to
	// 0xffff are for experiments (RFC 8926 section 7).
	Class uint16
	// Type tells options of a class apart; its top bit is the critical bit.
	Type uint8
	// Data is 0 to 124 bytes, a multiple of 4.
	Data []byte
}

// Critical reports whether a receiver that does not know o must drop the
// whole datagram.
func (o Option) Critical() bool { return o.Type&optionCritical != 0 }

// Options is an option area as it is on the wire: options one behind the
// other, nothing before, between or after them. One that came from Parse
// without error, with ErrCritical or from AppendOption is well formed; of any
// other, also of a control message, Check tells.
type Options []byte

// next splits off the first option. ok is false at the end of the area and
// at an option that runs over it; then rest is what could not be split.
func (o Options) next() (opt Option, rest Options, ok bool) {
	if len(o) < optionHeaderLen {
		return Option{}, o, false
	}
	end := optionHeaderLen + int(o[3]&optionLenMask)*4
	if end > len(o) {
		return Option{}, o, false
	}
	return Option{
		Class: binary.BigEndian.Uint16(o),
		Type:  o[2],
		Data:  o[optionHeaderLen:end:end],
	}, o[end:], true
}

// Check walks the whole area. It returns ErrOptions if an option runs over
// the end, else ErrCritical if there is a critical option that known does not
// claim, else nil. A nil known knows none.
func (o Options) Check(known func(class uint16, typ uint8) bool) error {
	var err error
	for len(o) > 0 {
		opt, rest, ok := o.next()
		if !ok {
			return ErrOptions
		}
		if opt.Critical() && (known == nil || !known(opt.Class, opt.Type)) {
			err = ErrCritical
		}
		o = rest
	}
	return err
}

// All yields the options in their order on the wire, as views into the area,
// and does not allocate. It stops early at an option that runs over the end.
func (o Options) All() iter.Seq[Option] {
	return func(yield func(Option) bool) {
		for rest := o; ; {
			opt, more, ok := rest.next()
			if !ok || !yield(opt) {
				return
			}
			rest = more
		}
	}
}

// Find returns the first option of that class and type, critical bit
// included. The order of options has no meaning (RFC 8926 section 3.5.1).
func (o Options) Find(class uint16, typ uint8) (Option, bool) {
	for opt := range o.All() {
		if opt.Class == class && opt.Type == typ {
			return opt, true
		}
	}
	return Option{}, false
}

// AppendOption appends opt to the area dst, reserved bits zero. It returns dst
// as it was and an error if the data is not a multiple of 4 bytes long or
// longer than 124, or if the area would exceed 252 bytes.
func AppendOption(dst Options, opt Option) (Options, error) {
	n := len(opt.Data)
	switch {
	case n%4 != 0:
		return dst, fmt.Errorf("geneve: option data of %d bytes: pad it to a multiple of 4", n)
	case n > MaxOptionData:
		return dst, fmt.Errorf("geneve: option data of %d bytes: at most %d fit one option", n, MaxOptionData)
	case len(dst)+optionHeaderLen+n > MaxOptionsLen:
		return dst, fmt.Errorf("geneve: option of %d bytes behind %d: at most %d fit one header", optionHeaderLen+n, len(dst), MaxOptionsLen)
	}
	dst = binary.BigEndian.AppendUint16(dst, opt.Class)
	dst = append(dst, opt.Type, uint8(n/4))
	return append(dst, opt.Data...), nil
}
