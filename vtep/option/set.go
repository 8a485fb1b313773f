package option

import (
	"encoding/binary"
	"fmt"
	"strings"

	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// MaxSetLen is how long a set can be on the wire, in bytes.
const MaxSetLen = geneve.MaxOptionsLen

// Set are options as they are sent, in their order: an option area, well formed. It can be
// compared; "" is none.
type Set string

// Source is what a packet says that data of an option is taken from.
type Source uint8

// The sources.
const (
	FromVLAN   Source = iota + 1 // the VLAN ID of a trunk's segment, or of the frame's tag
	FromDSCP                     // the DSCP of the inner packet, 0 to 63
	FromSrcMAC                   // the source address of the frame
	FromDstMAC                   // the destination address of the frame
)

// sources are the words for what is taken from the packet, and how long it is in an option.
var sources = []struct {
	word string
	of   Source
	len  int
}{
	{"@vlan", FromVLAN, 4}, {"@dscp", FromDSCP, 4}, {"@src", FromSrcMAC, 8}, {"@dst", FromDstMAC, 8},
}

// Slot is where in a set something of the packet goes.
type Slot struct {
	At   int // of the data, counted from the begin of the set
	From Source
}

// Sent is what a tunnel sends: a set, and what of it each packet fills in. It can be compared.
type Sent struct {
	Set   Set
	slots string // two bytes for each: source, offset in the set
}

// IsZero reports whether nothing is sent.
func (s Sent) IsZero() bool { return s.Set == "" }

// Equal reports whether the same is sent.
func (s Sent) Equal(o Sent) bool { return s == o }

// Slots are what each packet fills in.
func (s Sent) Slots() (all []Slot) {
	for b := s.slots; b != ""; b = b[2:] {
		all = append(all, Slot{At: int(b[1]), From: Source(b[0])})
	}
	return all
}

// Parse reads options as iproute2's geneve_opts has them: CLASS:TYPE:DATA in hexadecimal, a name
// in the place of CLASS:TYPE, and commas between several. In the place of DATA, @vlan, @dscp,
// @src and @dst stand for what each packet has.
func (r *Registry) Parse(text string) (s Sent, err error) {
	var area geneve.Options
	for _, word := range strings.Split(text, ",") {
		at := strings.LastIndexByte(word, ':')
		if f := r.macAt(word); f > 0 {
			at = f
		}
		if at < 0 {
			return Sent{}, fmt.Errorf("option %q: want CLASS:TYPE:DATA, such as 0102:80:00010002, or NAME:DATA", word)
		}
		id, err := r.ID(word[:at])
		if err != nil {
			return Sent{}, fmt.Errorf("option %q: %w", word, err)
		}
		data, from := []byte(nil), Source(0)
		for _, src := range sources {
			if word[at+1:] == src.word {
				data, from = make([]byte, src.len), src.of
			}
		}
		if from == 0 {
			if data, err = r.data(id, word[at+1:]); err != nil {
				return Sent{}, fmt.Errorf("option %q: %w", word, err)
			}
		} else if k, ok := r.byID[id]; ok && k.Len != Variable && k.Len != len(data) {
			return Sent{}, fmt.Errorf("option %q: %s are %d bytes, %s has %d", word, word[at+1:], len(data), k.Name, k.Len)
		}
		if from != 0 {
			s.slots += string([]byte{byte(from), byte(len(area) + 4)})
		}
		if area, err = geneve.AppendOption(area, geneve.Option{Class: id.Class, Type: id.Type, Data: data}); err != nil {
			return Sent{}, fmt.Errorf("option %q: %w", word, err)
		}
	}
	s.Set = Set(area)
	return s, nil
}

// macAt is where the data begins if it is an Ethernet address, which has colons of its own;
// else 0.
func (r *Registry) macAt(word string) int {
	for name, k := range r.byName {
		if k.Format == MAC && strings.HasPrefix(word, name+":") {
			return len(name)
		}
	}
	return 0
}

// Words writes what is sent as Parse reads it, one word for each option.
func (r *Registry) Words(s Sent) (all []string) {
	at := 0
	for opt := range geneve.Options(s.Set).All() {
		all = append(all, r.word(opt, s.source(at+4)))
		at += 4 + len(opt.Data)
	}
	return all
}

// source is the word for what goes to an offset; "": what stands there.
func (s Sent) source(at int) string {
	for _, slot := range s.Slots() {
		for _, src := range sources {
			if slot.At == at && slot.From == src.of {
				return src.word
			}
		}
	}
	return ""
}

// word writes one option; data: instead of its own.
func (r *Registry) word(opt geneve.Option, data string) string {
	id := ID{opt.Class, opt.Type}
	if data == "" {
		k, _ := r.Find(id)
		data = k.Text(opt.Data)
	}
	return r.Name(id) + ":" + data
}

// Describe writes the options of a datagram for people, without an end at faults: what of them
// is well formed.
func (r *Registry) Describe(area []byte) (all []string) {
	for opt := range geneve.Options(area).All() {
		all = append(all, r.word(opt, ""))
	}
	return all
}

// Fill writes what of a packet goes into the options of a header: frame has the headers h, and
// vid is the VLAN of its segment, 0 if that is of none.
func Fill(header []byte, slots []Slot, frame []byte, h *packet.Headers, vid uint16) {
	for _, s := range slots {
		to := header[s.At:]
		switch s.From {
		case FromVLAN:
			binary.BigEndian.PutUint32(to, uint32(vlanOf(frame, h, vid)))
		case FromDSCP:
			dscp := uint32(0)
			if h.Version != 0 {
				dscp = uint32(h.TOS >> 2)
			}
			binary.BigEndian.PutUint32(to, dscp)
		case FromSrcMAC:
			copy(to, frame[6:12])
		case FromDstMAC:
			copy(to, frame[0:6])
		}
	}
}
