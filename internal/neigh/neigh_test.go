package neigh

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gvtep/internal/packet"
)

const sec = int64(time.Second)

var (
	macA = packet.MAC{2, 0, 0, 0, 0x0a, 1} // asks, on our side
	macB = packet.MAC{2, 0, 0, 0, 0x0b, 2} // behind a peer
	macC = packet.MAC{2, 0, 0, 0, 0x0c, 3}

	ip4A, ip4B = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	ip6A, ip6B = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// The frames of one resolution, byte by byte. The checksums are from another
// program.
var (
	arpAsk = unhex(`ffffffffffff 020000000a01 0806
		0001 0800 06 04 0001 020000000a01 0a000001 000000000000 0a000002`)
	arpAnswer = unhex(`020000000a01 020000000b02 0806
		0001 0800 06 04 0002 020000000b02 0a000002 020000000a01 0a000001`)
	ndAsk = unhex(`3333ff000002 020000000a01 86dd
		60000000 0020 3a ff fd000000000000000000000000000001 ff0200000000000000000001ff000002
		87 00 7397 00000000 fd000000000000000000000000000002 01 01 020000000a01`)
	ndAnswer = unhex(`020000000a01 020000000b02 86dd
		60000000 0020 3a ff fd000000000000000000000000000002 fd000000000000000000000000000001
		88 00 119a 60000000 fd000000000000000000000000000002 02 01 020000000b02`)
	ndUnsolicited = unhex(`333300000001 020000000b02 86dd
		60000000 0020 3a ff fd000000000000000000000000000002 ff020000000000000000000000000001
		88 00 4f98 20000000 fd000000000000000000000000000002 02 01 020000000b02`)
)

// change returns a copy of a frame with bytes put at an offset. The checksum of
// neighbour discovery is made right again.
func change(frame []byte, at int, b ...byte) []byte {
	f := slices.Clone(frame)
	copy(f[at:], b)
	return sum(f)
}

// insert returns a copy with bytes put in between.
func insert(frame []byte, at int, b ...byte) []byte {
	return slices.Insert(slices.Clone(frame), at, b...)
}

// grow appends to an IPv6 packet.
func grow(frame []byte, b ...byte) []byte {
	f := append(slices.Clone(frame), b...)
	binary.BigEndian.PutUint16(f[18:], uint16(len(f)-54))
	return sum(f)
}

// sum puts the checksum into an untagged neighbour discovery message, word by
// word after RFC 1071 section 4.1.
func sum(f []byte) []byte {
	if len(f) < 58 || f[12] != 0x86 {
		return f
	}
	f[56], f[57] = 0, 0
	words := append(slices.Clone(f[22:]), 0, 0, byte((len(f)-54)>>8), byte(len(f)-54), 0, 0, 0, 58)
	s := 0
	for i := 0; i+1 < len(words); i += 2 {
		s += int(words[i])<<8 | int(words[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	binary.BigEndian.PutUint16(f[56:], ^uint16(s))
	return f
}

// extended is ndAnswer with an extension header of 8 bytes, which its checksum
// does not cover.
func extended(typ byte, header ...byte) []byte {
	f := insert(ndAnswer, 54, header...)
	f[19], f[20] = f[19]+8, typ
	return f
}

func tagged(f []byte, tags ...byte) []byte { return insert(f, 12, tags...) }

func observe(t *Table, frame []byte, local bool, now int64) {
	var h packet.Headers
	f := frame[:len(frame):len(frame)]
	packet.Walk(f, false, &h)
	t.Observe(f, &h, local, now)
}

func answer(t *Table, frame []byte, now int64) (reply []byte, ok bool) {
	_, reply = ownerOf(t, frame, now)
	return reply, reply != nil
}

func ownerOf(t *Table, frame []byte, now int64) (owner packet.MAC, reply []byte) {
	var h packet.Headers
	f := frame[:len(frame):len(frame)]
	packet.Walk(f, false, &h)
	return t.Answer(f, &h, now, make([]byte, MaxReply))
}

// get returns what the table has for an address, zero if nothing.
func get(t *Table, addr netip.Addr, vlans [2]uint16, now int64) Entry {
	for e := range t.All(now) {
		if e.Addr == addr && e.VLANs == vlans {
			return e
		}
	}
	return Entry{}
}

func TestOfCode(t *testing.T) {
	for _, f := range [][]byte{ndAsk, ndAnswer, ndUnsolicited} {
		if !bytes.Equal(sum(slices.Clone(f)), f) {
			t.Errorf("the checksum of the test makes %x of %x", sum(slices.Clone(f)), f)
		}
	}
}

func TestObserve(t *testing.T) {
	arpSaysB := change(arpAnswer, 0, 255, 255, 255, 255, 255, 255)
	b4 := Entry{Addr: ip4B, MAC: macB}
	b6 := Entry{Addr: ip6B, MAC: macB}
	a6 := Entry{Addr: ip6A, MAC: macA, Silent: true}
	at := func(e Entry, edit func(*Entry)) Entry { edit(&e); return e }
	// As for a station that answers an advertisement from macC.
	fromC := change(change(ndUnsolicited, 6, macC[:]...), 80, macC[:]...)
	for _, c := range []struct {
		name   string
		before []Entry
		frame  []byte
		local  bool
		want   []Entry
	}{
		{name: "ARP request", frame: arpAsk, want: []Entry{{Addr: ip4A, MAC: macA}}},
		{name: "ARP request, local", frame: arpAsk, local: true, want: []Entry{{Addr: ip4A, MAC: macA, Local: true}}},
		{name: "ARP reply", frame: arpAnswer, want: []Entry{b4}},
		{name: "ARP, padded", frame: append(slices.Clone(arpAnswer), make([]byte, 18)...), want: []Entry{b4}},
		{name: "gratuitous ARP reply", frame: change(arpSaysB, 38, 10, 0, 0, 2), want: []Entry{b4}},
		{name: "gratuitous ARP moves at once", before: []Entry{{Addr: ip4B, MAC: macC}}, frame: change(arpSaysB, 38, 10, 0, 0, 2), want: []Entry{b4}},
		{name: "gratuitous ARP comes over", before: []Entry{b4}, frame: change(arpSaysB, 38, 10, 0, 0, 2), local: true, want: []Entry{at(b4, func(e *Entry) { e.Local = true })}},
		{name: "one tag", frame: tagged(arpAnswer, 0x81, 0, 0xe0, 7), want: []Entry{at(b4, func(e *Entry) { e.VLANs = [2]uint16{7} })}},
		{name: "two tags", frame: tagged(arpAnswer, 0x88, 0xa8, 0x01, 7, 0x81, 0, 0xf1, 8), want: []Entry{at(b4, func(e *Entry) { e.VLANs = [2]uint16{0x107, 0x108} })}},
		{name: "priority tag", frame: tagged(arpAnswer, 0x81, 0, 0xe0, 0), want: []Entry{b4}},
		{name: "three tags", frame: tagged(arpAnswer, 0x81, 0, 0, 7, 0x81, 0, 0, 7, 0x81, 0, 0, 7)},
		{name: "another VLAN", before: []Entry{{Addr: ip4B, MAC: macC}}, frame: tagged(arpAnswer, 0x81, 0, 0, 7),
			want: []Entry{{Addr: ip4B, MAC: macC}, at(b4, func(e *Entry) { e.VLANs = [2]uint16{7} })}},
		{name: "ARP cut off", frame: arpAnswer[:41]},
		{name: "ARP behind a tag cut off", frame: tagged(arpAnswer, 0x81, 0, 0, 7)[:45]},
		{name: "not Ethernet", frame: change(arpAnswer, 15, 6)},
		{name: "not IPv4", frame: change(arpAnswer, 16, 0x86, 0xdd)},
		{name: "long MAC", frame: change(arpAnswer, 18, 8)},
		{name: "long address", frame: change(arpAnswer, 19, 16)},
		{name: "RARP request", frame: change(arpAnswer, 21, 3)},
		{name: "operation 0x102", frame: change(arpAnswer, 20, 1, 2)},
		{name: "ARP probe", frame: change(arpAsk, 28, 0, 0, 0, 0)},
		{name: "address of this network", frame: change(arpAsk, 28, 0, 1, 2, 3)},
		{name: "loopback address", frame: change(arpAsk, 28, 127, 0, 0, 1)},
		{name: "multicast address", frame: change(arpAsk, 28, 224, 0, 0, 1)},
		{name: "broadcast address", frame: change(arpAsk, 28, 255, 255, 255, 255)},
		{name: "another's MAC", frame: change(arpAnswer, 6, macC[:]...)},
		{name: "another's MAC, known", before: []Entry{b4}, frame: change(arpAnswer, 6, macC[:]...)},
		{name: "another's MAC, static", before: []Entry{at(b4, func(e *Entry) { e.Static = true })}, frame: change(arpAnswer, 6, macC[:]...),
			want: []Entry{at(b4, func(e *Entry) { e.Static = true })}},
		{name: "a group's MAC", frame: change(change(arpAnswer, 6, 3), 22, 3)},
		{name: "static", before: []Entry{{Addr: ip4B, MAC: macC, Static: true}}, frame: arpAnswer, local: true, want: []Entry{{Addr: ip4B, MAC: macC, Static: true}}},
		{name: "IPv4", frame: unhex("ffffffffffff 020000000a01 0800 45000014 00000000 40010000 0a000001 0a000002")},
		{name: "nothing", frame: nil},

		{name: "solicitation", frame: ndAsk, want: []Entry{a6}},
		{name: "solicitation, tagged", frame: tagged(ndAsk, 0x81, 0, 0, 9), local: true, want: []Entry{at(a6, func(e *Entry) { e.Local, e.VLANs = true, [2]uint16{9} })}},
		{name: "solicitation of a known router", before: []Entry{{Addr: ip6A, MAC: macA, Router: true}}, frame: ndAsk, want: []Entry{{Addr: ip6A, MAC: macA, Router: true}}},
		{name: "solicitation moves at once", before: []Entry{{Addr: ip6A, MAC: macC, Router: true}}, frame: ndAsk, want: []Entry{a6}},
		{name: "duplicate address detection", frame: change(ndAsk, 22, make([]byte, 16)...)},
		{name: "solicitation without option", frame: grow(ndAsk[:78])},
		{name: "solicitation without option, known", before: []Entry{at(a6, func(e *Entry) { e.Updated = time.Second })}, frame: grow(ndAsk[:78]), local: true, want: []Entry{at(a6, func(e *Entry) { e.Local = true })}},
		{name: "solicitation without option, other MAC", before: []Entry{{Addr: ip6A, MAC: macC, Updated: time.Second}}, frame: grow(ndAsk[:78]), want: []Entry{{Addr: ip6A, MAC: macC, Updated: time.Second}}},
		{name: "advertisement", frame: ndAnswer, want: []Entry{b6}},
		{name: "advertisement behind two tags", frame: tagged(ndAnswer, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8), want: []Entry{at(b6, func(e *Entry) { e.VLANs = [2]uint16{7, 8} })}},
		{name: "unsolicited", frame: ndUnsolicited, want: []Entry{b6}},
		{name: "router", frame: change(ndAnswer, 58, 0xe0), want: []Entry{at(b6, func(e *Entry) { e.Router = true })}},
		{name: "no longer a router", before: []Entry{at(b6, func(e *Entry) { e.Router = true })}, frame: ndAnswer, want: []Entry{b6}},
		{name: "anycast", frame: change(ndAnswer, 58, 0x40), want: []Entry{at(b6, func(e *Entry) { e.Anycast = true })}},
		{name: "ends the silence", before: []Entry{at(b6, func(e *Entry) { e.Silent = true })}, frame: ndUnsolicited, want: []Entry{b6}},
		{name: "overrides", before: []Entry{b6}, frame: fromC, want: []Entry{at(b6, func(e *Entry) { e.MAC = macC })}},
		{name: "does not override", before: []Entry{b6}, frame: change(fromC, 58, 0), want: []Entry{b6}},
		{name: "static, advertised", before: []Entry{at(b6, func(e *Entry) { e.Static = true })}, frame: fromC, want: []Entry{at(b6, func(e *Entry) { e.Static = true })}},
		{name: "comes over", before: []Entry{b6}, frame: ndUnsolicited, local: true, want: []Entry{at(b6, func(e *Entry) { e.Local = true })}},
		{name: "advertised by another", frame: change(ndAnswer, 6, macC[:]...)},
		{name: "advertised by another, known", before: []Entry{b6}, frame: change(ndAnswer, 6, macC[:]...)},
		{name: "solicited, to all", frame: change(ndUnsolicited, 58, 0x60)},
		{name: "redirect", frame: change(ndAnswer, 54, 137)},
		{name: "echo request", frame: change(ndAnswer, 54, 128)},
		{name: "code 1", frame: change(ndAnswer, 55, 1)},
		{name: "hop limit 254", frame: change(ndAnswer, 21, 254)},
		{name: "wrong checksum", frame: append(slices.Clone(ndAnswer[:85]), 3)},
		{name: "22 bytes", frame: grow(ndAnswer[:76])},
		{name: "option of no length", frame: change(ndAnswer, 79, 0)},
		{name: "option too long", frame: change(ndAnswer, 79, 2)},
		{name: "half an option", frame: grow(ndAnswer[:82])},
		{name: "option after an option", frame: grow(ndAnswer, 14, 1, 1, 2, 3, 4, 5, 6), want: []Entry{b6}},
		{name: "second option of no length", frame: grow(ndAnswer, 14, 0, 1, 2, 3, 4, 5, 6)},
		{name: "payload longer than the frame", frame: sum(change(ndAnswer, 19, 40))},
		{name: "padded", frame: append(slices.Clone(ndAnswer), 0, 0, 0), want: []Entry{b6}},
		{name: "mapped address", frame: change(ndAnswer, 62, unhex("00000000000000000000ffff 0a000002")...)},
		{name: "multicast target", frame: change(ndAnswer, 62, 0xff)},
		{name: "hop-by-hop options", frame: extended(0, 58, 0, 1, 4, 0, 0, 0, 0)},
		{name: "fragment", frame: extended(44, 58, 0, 0, 0, 0, 0, 0, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := NewTable(Options{})
			for _, e := range c.before {
				if err := table.Set(e, 5*sec); err != nil {
					t.Fatal(err)
				}
			}
			observe(table, c.frame, c.local, 5*sec)
			got := slices.SortedFunc(table.All(5*sec), func(x, y Entry) int { return int(x.VLANs[0]) - int(y.VLANs[0]) })
			if !slices.Equal(got, c.want) {
				t.Errorf("entries:\n got %+v\nwant %+v", got, c.want)
			}
			want(t, "Len", table.Len(), len(c.want))
		})
	}
}

func TestAnswer(t *testing.T) {
	b4, b6 := Entry{Addr: ip4B, MAC: macB}, Entry{Addr: ip6B, MAC: macB}
	at := func(e Entry, edit func(*Entry)) Entry { edit(&e); return e }
	for _, c := range []struct {
		name  string
		entry Entry
		frame []byte
		want  []byte // nil: none
	}{
		{"ARP", b4, arpAsk, arpAnswer},
		{"ARP, padded", b4, append(slices.Clone(arpAsk), make([]byte, 18)...), arpAnswer},
		{"static", at(b4, func(e *Entry) { e.Static = true }), arpAsk, arpAnswer},
		{"one tag", at(b4, func(e *Entry) { e.VLANs = [2]uint16{7} }), tagged(arpAsk, 0x81, 0, 0xe0, 7), tagged(arpAnswer, 0x81, 0, 0xe0, 7)},
		{"two tags", at(b4, func(e *Entry) { e.VLANs = [2]uint16{7, 8} }), tagged(arpAsk, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8), tagged(arpAnswer, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8)},
		{"priority tag", b4, tagged(arpAsk, 0x81, 0, 0xe0, 0), tagged(arpAnswer, 0x81, 0, 0xe0, 0)},
		{"another VLAN", at(b4, func(e *Entry) { e.VLANs = [2]uint16{8} }), tagged(arpAsk, 0x81, 0, 0, 7), nil},
		{"asked without tag", at(b4, func(e *Entry) { e.VLANs = [2]uint16{7} }), arpAsk, nil},
		{"unknown", Entry{Addr: ip4A, MAC: macB}, arpAsk, nil},
		{"local", at(b4, func(e *Entry) { e.Local = true }), arpAsk, nil},
		{"expired", at(b4, func(e *Entry) { e.Updated = DefaultAgeing }), arpAsk, nil},
		{"still fresh", at(b4, func(e *Entry) { e.Updated = FreshFor - 1 }), arpAsk, arpAnswer},
		{"no longer fresh", at(b4, func(e *Entry) { e.Updated = FreshFor }), arpAsk, nil},
		{"static and old", at(b4, func(e *Entry) { e.Static, e.Updated = true, DefaultAgeing }), arpAsk, arpAnswer},
		{"sent to one station", b4, change(arpAsk, 0, macB[:]...), nil},
		{"reply", Entry{Addr: ip4A, MAC: macC}, change(arpAnswer, 0, 255, 255, 255, 255, 255, 255), nil},
		{"probe", b4, change(arpAsk, 28, 0, 0, 0, 0), nil},
		{"gratuitous", b4, change(arpAsk, 28, 10, 0, 0, 2), nil},
		{"its own, under another address", at(b4, func(e *Entry) { e.MAC = macA }), arpAsk, nil},
		{"in another's name", b4, change(arpAsk, 6, macC[:]...), nil},
		{"cut off", b4, arpAsk[:41], nil},
		{"13 bytes", b4, arpAsk[:13], nil},
		{"nothing", b4, nil, nil},

		{"ND", b6, ndAsk, ndAnswer},
		{"ND, tagged", at(b6, func(e *Entry) { e.VLANs = [2]uint16{7, 8} }), tagged(ndAsk, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8), tagged(ndAnswer, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8)},
		{"router", at(b6, func(e *Entry) { e.Router = true }), ndAsk, change(ndAnswer, 56, 0x91, 0x99, 0xe0)},
		{"anycast", at(b6, func(e *Entry) { e.Anycast = true }), ndAsk, change(ndAnswer, 56, 0x31, 0x9a, 0x40)},
		{"silent", at(b6, func(e *Entry) { e.Silent = true }), ndAsk, nil},
		{"ND, local", at(b6, func(e *Entry) { e.Local = true }), ndAsk, nil},
		{"ND, unknown", Entry{Addr: ip6A, MAC: macB}, ndAsk, nil},
		{"ND to one station", b6, change(ndAsk, 0, macB[:]...), nil},
		{"ND to one station's address", b6, change(ndAsk, 38, ndAnswer[22:38]...), nil},
		{"duplicate address detection", b6, grow(change(ndAsk, 22, make([]byte, 16)...)[:78]), nil},
		{"duplicate address detection with option", b6, change(ndAsk, 22, make([]byte, 16)...), nil},
		{"for itself", b6, change(ndAsk, 22, ndAnswer[22:38]...), nil},
		{"without option", b6, grow(ndAsk[:78]), nil},
		{"with a nonce", b6, grow(ndAsk, 14, 1, 1, 2, 3, 4, 5, 6), nil},
		{"option twice", b6, grow(ndAsk, ndAsk[78:]...), nil},
		{"for a mapped address", b4, change(ndAsk, 62, unhex("00000000000000000000ffff 0a000002")...), nil},
		{"option in another's name", b6, change(ndAsk, 6, macC[:]...), nil},
		{"option of no length", b6, change(ndAsk, 79, 0), nil},
		{"hop limit 254", b6, change(ndAsk, 21, 254), nil},
		{"wrong checksum", b6, append(slices.Clone(ndAsk[:85]), 2), nil},
		{"advertisement", b6, ndUnsolicited, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := NewTable(Options{})
			if err := table.Set(c.entry, 1000*sec); err != nil {
				t.Fatal(err)
			}
			got, ok := answer(table, c.frame, 1000*sec)
			if ok != (c.want != nil) || !bytes.Equal(got, c.want) {
				t.Errorf("Answer:\n got %x, %t\nwant %x", got, ok, c.want)
			}
		})
	}
}

func TestReplyNeedsRoom(t *testing.T) {
	table := NewTable(Options{})
	observe(table, arpAnswer, false, 0)
	var h packet.Headers
	packet.Walk(arpAsk, false, &h)
	if owner, reply := table.Answer(arpAsk, &h, 0, make([]byte, MaxReply-1)); !owner.IsZero() || reply != nil {
		t.Errorf("Answer without room: got %s, %x", owner, reply)
	}
	buf := make([]byte, MaxReply)
	_, reply := table.Answer(arpAsk, &h, 0, buf)
	if len(reply) == 0 || &reply[0] != &buf[0] {
		t.Error("the reply is not a part of buf")
	}
}

// TestConversation is two stations that find each other, as seen by the
// endpoint of the first.
func TestConversation(t *testing.T) {
	table := NewTable(Options{Ageing: 60 * time.Second})
	if _, ok := answer(table, ndAsk, 0); ok {
		t.Error("answered before anything was heard")
	}
	observe(table, ndAsk, true, 0)
	observe(table, ndAnswer, false, 0)
	if got, ok := answer(table, ndAsk, 4*sec); !ok || !bytes.Equal(got, ndAnswer) {
		t.Errorf("second time: got %x, %t; want %x", got, ok, ndAnswer)
	}
	// Its owner is asked itself after a while, and has a second to answer.
	for _, c := range []struct {
		now   int64
		owner packet.MAC
	}{{50 * sec, macB}, {51*sec - 1, macB}, {51 * sec, packet.MAC{}}, {59 * sec, packet.MAC{}}} {
		if owner, reply := ownerOf(table, ndAsk, c.now); owner != c.owner || reply != nil {
			t.Errorf("after %v: the owner is %s, reply %x; want %s, none", time.Duration(c.now), owner, reply, c.owner)
		}
	}
	if owner, _ := ownerOf(table, ndAsk, 60*sec); !owner.IsZero() {
		t.Error("answered for an entry that has expired")
	}
	want(t, "Len", table.Len(), 1) // the question removed it
	want(t, "swept", table.Sweep(60*sec), 1)
	want(t, "stats", table.Stats(), Stats{Learned: 2, Aged: 2})
}

func TestLimit(t *testing.T) {
	table := NewTable(Options{Limit: 2, Ageing: 10 * time.Second})
	want(t, "Set", table.Set(Entry{Addr: ip6A, MAC: macA, Static: true}, 0), nil)
	from := func(n byte) []byte { return change(arpAsk, 31, n) }
	for n := range byte(4) {
		observe(table, from(1+n), false, 0)
	}
	want(t, "Len", table.Len(), 3)
	want(t, "full", table.Stats().Full, 2)
	observe(table, from(1), false, 9*sec) // known: refreshed when full
	observe(table, from(3), false, 9*sec)
	want(t, "full", table.Stats().Full, 3)
	want(t, "swept", table.Sweep(10*sec), 1)
	observe(table, from(3), false, 10*sec)
	want(t, "after the sweep", get(table, netip.MustParseAddr("10.0.0.3"), [2]uint16{}, 10*sec).MAC, macA)
	want(t, "flushed", table.Flush(), 2)
	want(t, "static ones stay", table.Len(), 1)
	for n := range byte(4) {
		observe(table, from(1+n), false, 0)
	}
	want(t, "Len", table.Len(), 3)
}

func TestSetDelete(t *testing.T) {
	table := NewTable(Options{})
	for _, e := range []Entry{
		{}, {Addr: ip4B}, {MAC: macB}, {Addr: ip4B, MAC: packet.MAC{1}}, {Addr: netip.MustParseAddr("fe80::1%eth0"), MAC: macB},
		{Addr: netip.MustParseAddr("224.0.0.1"), MAC: macB}, {Addr: netip.MustParseAddr("::ffff:10.0.0.2"), MAC: macB},
		{Addr: ip4B, MAC: macB, VLANs: [2]uint16{4095}}, {Addr: ip4B, MAC: macB, VLANs: [2]uint16{1, 4095}},
	} {
		want(t, "Set", table.Set(e, 0), ErrInvalid)
	}
	static := Entry{Addr: ip4B, MAC: macB, Static: true}
	want(t, "Set", table.Set(static, 0), nil)
	want(t, "entry", get(table, ip4B, [2]uint16{}, 1e6*sec), Entry{Addr: ip4B, MAC: macB, Static: true, Updated: 1e6 * time.Second})
	want(t, "Delete in a VLAN", table.Delete(ip4B, [2]uint16{1}, 0), ErrNotFound)
	want(t, "Delete of no address", table.Delete(netip.Addr{}, [2]uint16{}, 0), ErrNotFound)
	want(t, "Delete", table.Delete(ip4B, [2]uint16{}, 0), nil)
	want(t, "Delete again", table.Delete(ip4B, [2]uint16{}, 0), ErrNotFound)
	want(t, "dynamic ones", table.dynamic, 0)
}

func TestNoAllocs(t *testing.T) {
	table := NewTable(Options{})
	observe(table, arpAnswer, false, 0)
	observe(table, ndAnswer, false, 0)
	buf := make([]byte, MaxReply)
	var h4, h6 packet.Headers
	packet.Walk(arpAsk, false, &h4)
	packet.Walk(ndAsk, false, &h6)
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"Observe ARP", func() { table.Observe(arpAnswer, &h4, false, 1) }},
		{"Observe ND", func() { table.Observe(ndAnswer, &h6, false, 1) }},
		{"Answer ARP", func() { table.Answer(arpAsk, &h4, 1, buf) }},
		{"Answer ND", func() { table.Answer(ndAsk, &h6, 1, buf) }},
	} {
		if n := testing.AllocsPerRun(100, c.run); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", c.name, n)
		}
	}
}

// TestTogether is for the race detector.
func TestTogether(t *testing.T) {
	table := NewTable(Options{Limit: 20, Ageing: time.Second})
	var wg sync.WaitGroup
	for id := range byte(3) {
		wg.Go(func() {
			for i := range 2000 {
				now := int64(i) * sec / 100
				observe(table, change(arpAnswer, 31, byte(i)), i%3 == 0, now)
				answer(table, arpAsk, now)
				switch i % 50 {
				case 0:
					table.Sweep(now)
				case 1:
					table.Set(Entry{Addr: ip4B, MAC: macB, Static: id == 0}, now)
				case 2:
					table.Delete(ip4B, [2]uint16{}, now)
				case 3:
					for range table.All(now) {
					}
				case 4:
					table.Flush()
				}
			}
		})
	}
	wg.Wait()
	table.Delete(ip4B, [2]uint16{}, 0)
	want(t, "dynamic ones", table.dynamic, table.Len())
}

func bench(b *testing.B, frame []byte, run func(t *Table, h *packet.Headers, buf []byte)) {
	t := NewTable(Options{})
	for i := range 4000 {
		observe(t, change(arpAnswer, 29, 1, byte(i>>8), byte(i)), false, 0)
	}
	observe(t, arpAnswer, false, 0)
	observe(t, ndAnswer, false, 0)
	var h packet.Headers
	packet.Walk(frame, false, &h)
	buf := make([]byte, MaxReply)
	b.ReportAllocs()
	for b.Loop() {
		run(t, &h, buf)
	}
}

func BenchmarkObserveARP(b *testing.B) {
	bench(b, arpAnswer, func(t *Table, h *packet.Headers, _ []byte) { t.Observe(arpAnswer, h, false, 1) })
}

func BenchmarkObserveND(b *testing.B) {
	bench(b, ndAnswer, func(t *Table, h *packet.Headers, _ []byte) { t.Observe(ndAnswer, h, false, 1) })
}

func BenchmarkObserveOther(b *testing.B) {
	f := unhex("020000000b02 020000000a01 0800 45000014 00000000 40060000 0a000001 0a000002")
	bench(b, f, func(t *Table, h *packet.Headers, _ []byte) { t.Observe(f, h, false, 1) })
}

func BenchmarkAnswerARP(b *testing.B) {
	bench(b, arpAsk, func(t *Table, h *packet.Headers, buf []byte) { t.Answer(arpAsk, h, 1, buf) })
}

func BenchmarkAnswerND(b *testing.B) {
	bench(b, ndAsk, func(t *Table, h *packet.Headers, buf []byte) { t.Answer(ndAsk, h, 1, buf) })
}
