package icmp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"gvtep/internal/packet"
)

var (
	near  = []byte{2, 0, 0, 0, 0, 1}
	far   = []byte{2, 0, 0, 0, 0, 2}
	link4 = slices.Concat(far, near, []byte{0x08, 0x00})
	link6 = slices.Concat(far, near, []byte{0x86, 0xdd})
)

// packet4 is an IPv4 packet of so many bytes.
func packet4(length int, proto, kind uint8, from, to string) []byte {
	p := make([]byte, length)
	for i := range p {
		p[i] = byte(i)
	}
	p[0], p[6], p[7], p[8], p[9] = 0x45, dontFragment, 0, 9, proto
	binary.BigEndian.PutUint16(p[2:], uint16(length))
	copy(p[12:], netip.MustParseAddr(from).AsSlice())
	copy(p[16:], netip.MustParseAddr(to).AsSlice())
	p[20] = kind
	return p
}

func packet6(length int, proto, kind uint8, from, to string) []byte {
	p := make([]byte, length)
	for i := range p {
		p[i] = byte(i)
	}
	p[0], p[6], p[7] = 0x60, proto, 9
	binary.BigEndian.PutUint16(p[4:], uint16(length-40))
	copy(p[8:], netip.MustParseAddr(from).AsSlice())
	copy(p[24:], netip.MustParseAddr(to).AsSlice())
	p[40] = kind
	return p
}

func answer(frame []byte, mtu int, l3 bool) ([]byte, bool) {
	var h packet.Headers
	packet.Walk(frame, l3, &h)
	if h.Version == 0 {
		return nil, false
	}
	return TooBig(frame, &h, mtu, make([]byte, MaxLen))
}

// TestTooBig reads the answers with another's code, and checks that they go back to
// who sent the packet, from where that was to go, and quote it.
func TestTooBig(t *testing.T) {
	a4, b4, a6, b6 := "192.0.2.1", "198.51.100.2", "2001:db8::1", "2001:db8:1::2"
	tags := func(link []byte, n int) []byte {
		return slices.Concat(link[:12], bytes.Repeat([]byte{0x81, 0, 0, 42}, n), link[12:])
	}
	for _, tc := range []struct {
		name  string
		link  []byte
		p     []byte
		mtu   int
		quote int
	}{
		{"IPv4", link4, packet4(1500, packet.ProtoTCP, 0, a4, b4), 1400, 548},
		{"IPv4, short", link4, packet4(120, packet.ProtoTCP, 0, a4, b4), 100, 120},
		{"IPv4, least", link4, packet4(120, packet.ProtoTCP, 0, a4, b4), 68, 120},
		{"IPv4 behind tags", tags(link4, 2), packet4(1500, packet.ProtoTCP, 0, a4, b4), 1400, 548},
		{"IPv4 alone", nil, packet4(1500, packet.ProtoUDP, 0, a4, b4), 1400, 548},
		{"a large MTU", nil, packet4(65535, packet.ProtoUDP, 0, a4, b4), 70000, 548},
		{"ping", link4, packet4(1500, protoICMP, 8, a4, b4), 1400, 548},
		{"IPv6", link6, packet6(1500, packet.ProtoTCP, 0, a6, b6), 1430, 1232},
		{"IPv6, least", tags(link6, 1), packet6(1300, packet.ProtoTCP, 0, a6, b6), 1280, 1232},
		{"IPv6 alone", nil, packet6(1281, packet.ProtoUDP, 0, a6, b6), 1280, 1232},
		{"IPv6 ping", link6, packet6(1500, packet.ProtoICMPv6, 128, a6, b6), 1400, 1232},
	} {
		frame := slices.Concat(tc.link, tc.p)
		before := bytes.Clone(frame)
		got, ok := answer(frame, tc.mtu, tc.link == nil)
		if !ok {
			t.Errorf("%s: no answer", tc.name)
			continue
		}
		if !bytes.Equal(frame, before) {
			t.Errorf("%s: the packet was changed", tc.name)
		}
		if tc.link != nil {
			want := slices.Concat(tc.link[6:12], tc.link[0:6], tc.link[12:])
			if !bytes.HasPrefix(got, want) {
				t.Errorf("%s: link header %x, want %x", tc.name, got[:len(want)], want)
			}
			got = got[len(want):]
		}
		var quote []byte
		mtu := 0
		if tc.p[0]>>4 == 4 {
			h, err := ipv4.ParseHeader(got)
			if err != nil || h.TotalLen != len(got) || h.Protocol != protoICMP || h.TTL != ttl || packet.Fold(packet.Sum(got[:20], 0)) != 0xffff {
				t.Fatalf("%s: header %v, %v", tc.name, h, err)
			}
			if h.Src.String() != b4 || h.Dst.String() != a4 {
				t.Errorf("%s: from %v to %v, want from %s to %s", tc.name, h.Src, h.Dst, b4, a4)
			}
			m, err := icmp.ParseMessage(protoICMP, got[20:])
			if err != nil || m.Type != ipv4.ICMPTypeDestinationUnreachable || m.Code != codeFragNeeded || packet.Fold(packet.Sum(got[20:], 0)) != 0xffff {
				t.Fatalf("%s: message %+v, %v", tc.name, m, err)
			}
			mtu = int(binary.BigEndian.Uint16(got[26:]))
			quote = m.Body.(*icmp.DstUnreach).Data
		} else {
			h, err := ipv6.ParseHeader(got)
			if err != nil || h.PayloadLen != len(got)-40 || h.NextHeader != packet.ProtoICMPv6 || h.HopLimit != ttl {
				t.Fatalf("%s: header %v, %v", tc.name, h, err)
			}
			if h.Src.String() != b6 || h.Dst.String() != a6 {
				t.Errorf("%s: from %v to %v, want from %s to %s", tc.name, h.Src, h.Dst, b6, a6)
			}
			m, err := icmp.ParseMessage(packet.ProtoICMPv6, got[40:])
			if err != nil || m.Type != ipv6.ICMPTypePacketTooBig || m.Code != 0 {
				t.Fatalf("%s: message %+v, %v", tc.name, m, err)
			}
			pseudo := slices.Concat(got[8:40], binary.BigEndian.AppendUint32(nil, uint32(len(got)-40)), []byte{0, 0, 0, packet.ProtoICMPv6}, got[40:])
			if packet.Fold(packet.Sum(pseudo, 0)) != 0xffff {
				t.Errorf("%s: wrong checksum", tc.name)
			}
			body := m.Body.(*icmp.PacketTooBig)
			mtu, quote = body.MTU, body.Data
		}
		if want := min(tc.mtu, 65535); mtu != want {
			t.Errorf("%s: MTU %d, want %d", tc.name, mtu, want)
		}
		if len(quote) != tc.quote || !bytes.HasPrefix(tc.p, quote) {
			t.Errorf("%s: %d bytes quoted, want the first %d of the packet", tc.name, len(quote), tc.quote)
		}
	}
}

// TestNoAnswer: what must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
func TestNoAnswer(t *testing.T) {
	a4, b4, a6, b6 := "192.0.2.1", "198.51.100.2", "2001:db8::1", "2001:db8:1::2"
	group := slices.Concat([]byte{1, 0, 0x5e, 0, 0, 1}, near, []byte{0x08, 0x00})
	later := packet4(1500, packet.ProtoUDP, 0, a4, b4)
	later[6], later[7] = 0x20, 1
	first := packet4(1500, packet.ProtoUDP, 0, a4, b4)
	first[6] = 0x20
	if _, ok := answer(slices.Concat(link4, first), 1400, false); !ok {
		t.Error("no answer to a first fragment, want one")
	}
	behind := packet6(1500, 60, packet.ProtoICMPv6, a6, b6) // destination options, and then an error
	copy(behind[41:], []byte{0, 1, 4, 0, 0, 0, 0, 1, 0})
	for name, tc := range map[string]struct {
		frame []byte
		mtu   int
	}{
		"no IP":                      {slices.Concat(far, near, []byte{0x88, 0xb5}, make([]byte, 1500)), 1400},
		"to a group's link address":  {slices.Concat(group, packet4(1500, packet.ProtoUDP, 0, a4, b4)), 1400},
		"a later fragment":           {slices.Concat(link4, later), 1400},
		"to a group":                 {slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, a4, "239.1.1.1")), 1400},
		"to all":                     {slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, a4, "255.255.255.255")), 1400},
		"from nobody":                {slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, "0.0.0.0", b4)), 1400},
		"from a group":               {slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, "224.0.0.1", b4)), 1400},
		"from loopback":              {slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, "127.0.0.1", b4)), 1400},
		"unreachable":                {slices.Concat(link4, packet4(1500, protoICMP, 3, a4, b4)), 1400},
		"time exceeded":              {slices.Concat(link4, packet4(1500, protoICMP, 11, a4, b4)), 1400},
		"ICMP without a type":        {slices.Concat(link4, packet4(1500, protoICMP, 8, a4, b4)[:20]), 1400},
		"an MTU that is none":        {slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, a4, b4)), 67},
		"IPv6, too big":              {slices.Concat(link6, packet6(1500, packet.ProtoICMPv6, 2, a6, b6)), 1400},
		"IPv6, redirect":             {slices.Concat(link6, packet6(1500, packet.ProtoICMPv6, 137, a6, b6)), 1400},
		"IPv6, error behind options": {slices.Concat(link6, behind), 1400},
		"IPv6 to a group":            {slices.Concat(link6, packet6(1500, packet.ProtoUDP, 0, a6, "ff02::1")), 1400},
		"IPv6 from nobody":           {slices.Concat(link6, packet6(1500, packet.ProtoUDP, 0, "::", b6)), 1400},
		"IPv6 below its least MTU":   {slices.Concat(link6, packet6(1500, packet.ProtoUDP, 0, a6, b6)), 1279},
	} {
		if got, ok := answer(tc.frame, tc.mtu, false); ok {
			t.Errorf("%s: answered with %x", name, got)
		}
	}
	var h packet.Headers
	frame := slices.Concat(link4, packet4(1500, packet.ProtoUDP, 0, a4, b4))
	packet.Walk(frame, false, &h)
	if _, ok := TooBig(frame, &h, 1400, make([]byte, MaxLen-1)); ok {
		t.Error("an answer without room for it")
	}
}

// FuzzTooBig: whatever the frame, an answer is never longer than MaxLen, walks as a
// packet of its version between the same two, and is never itself answered.
func FuzzTooBig(f *testing.F) {
	f.Add(slices.Concat(link4, packet4(1500, packet.ProtoTCP, 0, "192.0.2.1", "192.0.2.2")), 1400, false)
	f.Add(packet6(1500, packet.ProtoTCP, 0, "2001:db8::1", "2001:db8::2"), 1400, true)
	f.Fuzz(func(t *testing.T, frame []byte, mtu int, l3 bool) {
		if len(frame) > packet.MaxFrame {
			return
		}
		var h packet.Headers
		packet.Walk(frame, l3, &h)
		got, ok := answer(frame, mtu, l3)
		if !ok {
			return
		}
		var back packet.Headers
		packet.Walk(got, l3, &back)
		if len(got) > MaxLen || back.Version != h.Version || int(back.End) != len(got) || back.L3 != h.L3 {
			t.Fatalf("%x answered with %x", frame, got)
		}
		if again, ok := answer(got, mtu, l3); ok {
			t.Fatalf("the answer %x is answered with %x", got, again)
		}
	})
}
