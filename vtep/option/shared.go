package option

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unique"

	"gvtep/vtep/geneve"
)

// Shared is what is sent, as small as a pointer: equal ones share their memory. It is for what there
// can be a million of. The zero value is nothing. It can be compared.
type Shared struct{ handle unique.Handle[Sent] }

// Share returns s as Shared.
func (s Sent) Share() (h Shared) {
	if !s.IsZero() {
		h.handle = unique.Make(s)
	}
	return h
}

// IsZero reports whether nothing is sent.
func (h Shared) IsZero() bool { return h == Shared{} }

// Equal reports whether the same is sent.
func (h Shared) Equal(o Shared) bool { return h == o }

// Sent returns what is sent.
func (h Shared) Sent() (s Sent) {
	if !h.IsZero() {
		s = h.handle.Value()
	}
	return s
}

// MarshalText writes it for another process of ours: the set, and what packets fill in, both in
// hexadecimal.
func (h Shared) MarshalText() ([]byte, error) {
	s := h.Sent()
	return fmt.Appendf(nil, "%x/%x", s.Set, s.slots), nil
}

// UnmarshalText reads what MarshalText has written, and trusts none of it.
func (h *Shared) UnmarshalText(text []byte) error {
	set, slots, _ := strings.Cut(string(text), "/")
	a, err := hex.DecodeString(set)
	b, err2 := hex.DecodeString(slots)
	if err != nil || err2 != nil || len(a) > MaxSetLen || len(b)%2 != 0 {
		return fmt.Errorf("options %q: not what was written", text)
	}
	if err := geneve.Options(a).Check(func(uint16, uint8) bool { return true }); err != nil {
		return fmt.Errorf("options %q: %w", text, err)
	}
	s := Sent{Set(a), string(b)}
	for _, slot := range s.Slots() {
		if !s.fits(slot) {
			return fmt.Errorf("options %q: what a packet fills in has no place", text)
		}
	}
	*h = s.Share()
	return nil
}

// fits reports whether a slot is the data of an option, as long as what goes there.
func (s Sent) fits(slot Slot) bool {
	at := 0
	for opt := range geneve.Options(s.Set).All() {
		for _, src := range sources {
			if slot.At == at+4 && slot.From == src.of && len(opt.Data) == src.len {
				return true
			}
		}
		at += 4 + len(opt.Data)
	}
	return false
}
