package forward

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvtep/internal/packet"
)

func guardOf(locals ...string) *Guard {
	g := &Guard{Listening: make(Listening)}
	for _, s := range []string{"0.0.0.0:6081", "[fd00::1]:7000", "239.1.1.1:6081"} {
		at := netip.MustParseAddrPort(s)
		g.Listening.Add(at.Addr(), at.Port())
	}
	for _, s := range []string{"10.0.0.2", "fd00::2"} {
		g.Remotes.Set(Remote{netip.MustParseAddr(s)}, []*PeerState{{}})
	}
	if locals != nil {
		var prefixes []netip.Prefix
		for _, l := range locals {
			prefixes = append(prefixes, netip.MustParsePrefix(l))
		}
		g.Locals = NewLocals(prefixes)
	}
	return g
}

// inner makes a frame: tags, then an IP packet whose payload is given. extension is put
// between IPv6 header and payload.
func inner(tags int, src, dst string, proto uint8, fragment uint16, extension, payload []byte) []byte {
	f := make([]byte, 12, 128)
	from, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	for range tags {
		f = append(f, 0x81, 0, 0, 5)
	}
	if from.Is4() {
		f = append(f, 8, 0, 0x45, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(20+len(payload)))
		f = append(f, 0, 1)
		f = binary.BigEndian.AppendUint16(f, fragment)
		f = append(f, 64, proto, 0, 0)
	} else {
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0)
		f = binary.BigEndian.AppendUint16(f, uint16(len(extension)+len(payload)))
		f = append(f, proto, 64)
	}
	f = append(append(append(append(f, from.AsSlice()...), to.AsSlice()...), extension...), payload...)
	return f
}

func udpTo(port uint16) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0xc3, 0x50}, port), 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
}

func TestGuard(t *testing.T) {
	const udp, tcp, frag = 17, 6, 44
	fragment := func(next uint8, offset uint16) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{next, 0}, offset), 0, 0, 0, 1)
	}
	options := func(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	var many []byte
	for range 12 {
		many = append(many, options(60)...)
	}
	many = append(many, options(udp)...)
	known := guardOf("10.0.0.1/32", "10.7.0.0/24", "fd00::1/128", "127.0.0.0/8")
	for _, c := range []struct {
		name        string
		frame       []byte
		ours, forUs bool
	}{
		{"to us", inner(0, "10.0.0.2", "10.0.0.1", udp, 0, nil, udpTo(6081)), false, true},
		{"in two tags", inner(2, "10.0.0.2", "10.0.0.1", udp, 0, nil, udpTo(6081)), false, true},
		{"in three tags", inner(3, "10.0.0.2", "10.0.0.1", udp, 0, nil, udpTo(6081)), false, true},
		{"to an address of a local network", inner(0, "10.0.0.2", "10.7.0.9", udp, 0, nil, udpTo(6081)), false, true},
		{"to a group of ours", inner(0, "10.0.0.2", "239.1.1.1", udp, 0, nil, udpTo(6081)), false, true},
		{"to another group", inner(0, "10.0.0.2", "239.1.1.2", udp, 0, nil, udpTo(6081)), false, false},
		{"to another port", inner(0, "10.0.0.2", "10.0.0.1", udp, 0, nil, udpTo(6082)), false, false},
		{"to another host", inner(0, "10.0.0.3", "10.0.0.4", udp, 0, nil, udpTo(6081)), false, false},
		{"TCP", inner(0, "10.0.0.2", "10.0.0.1", tcp, 0, nil, udpTo(6081)), false, false},
		{"a first fragment", inner(0, "10.0.0.2", "10.0.0.1", udp, 0x2000, nil, udpTo(6081)), false, true},
		{"a first fragment to another port", inner(0, "10.0.0.2", "10.0.0.1", udp, 0x2000, nil, udpTo(53)), false, false},
		{"a first fragment of TCP", inner(0, "10.0.0.2", "10.0.0.1", tcp, 0x2000, nil, udpTo(6081)), false, false},
		{"a later fragment", inner(0, "10.0.0.2", "10.0.0.1", udp, 2, nil, udpTo(6081)), false, false},
		{"IPv6", inner(0, "fd00::2", "fd00::1", udp, 0, nil, udpTo(7000)), false, true},
		{"IPv6 to the port of IPv4", inner(0, "fd00::2", "fd00::1", udp, 0, nil, udpTo(6081)), false, false},
		{"IPv6, a first fragment", inner(0, "fd00::2", "fd00::1", frag, 0, fragment(udp, 1), udpTo(7000)), false, true},
		{"IPv6, a first fragment to another port", inner(0, "fd00::2", "fd00::1", frag, 0, fragment(udp, 1), udpTo(53)), false, false},
		{"IPv6, a later fragment", inner(0, "fd00::2", "fd00::1", frag, 0, fragment(udp, 17), udpTo(7000)), false, false},
		{"IPv6, a fragment behind options", inner(0, "fd00::2", "fd00::1", 60, 0, append(options(frag), fragment(udp, 1)...), udpTo(7000)), false, true},
		{"IPv6, options in a fragment", inner(0, "fd00::2", "fd00::1", frag, 0, append(fragment(60, 1), options(udp)...), udpTo(7000)), false, true},
		{"IPv6, more options than are walked", inner(0, "fd00::2", "fd00::1", 60, 0, many, udpTo(7000)), false, true},
		{"IPv6, such to others", inner(0, "fd00::2", "fd00::3", 60, 0, many, udpTo(7000)), false, false},
		{"from us to a peer", inner(0, "10.0.0.1", "10.0.0.2", udp, 0, nil, udpTo(6081)), true, false},
		{"from us to a peer, a later fragment", inner(0, "10.0.0.1", "10.0.0.2", udp, 100, nil, udpTo(6081)), true, false},
		{"from us to a peer, ESP", inner(0, "10.0.0.1", "10.0.0.2", 50, 0, nil, udpTo(6081)), true, false},
		{"from us to a peer, IPv6", inner(1, "fd00::1", "fd00::2", udp, 0, nil, udpTo(6081)), true, false},
		{"from another to a peer", inner(0, "10.0.0.9", "10.0.0.2", udp, 0, nil, udpTo(6081)), false, false},
		{"from us to another", inner(0, "10.0.0.1", "10.0.0.3", udp, 0, nil, udpTo(6081)), false, false},
		{"no IP", append(make([]byte, 12), 8, 6, 0, 1), false, false},
		{"nothing", nil, false, false},
	} {
		var h packet.Headers
		packet.Walk(c.frame, false, &h)
		if got := known.Ours(c.frame, &h); got != c.ours {
			t.Errorf("%s: ours is %v, want %v", c.name, got, c.ours)
		}
		if got := known.ForUs(c.frame, &h); got != c.forUs {
			t.Errorf("%s: for us is %v, want %v", c.name, got, c.forUs)
		}
		unknown := guardOf()
		if c.ours && !unknown.Ours(c.frame, &h) || c.forUs && !unknown.ForUs(c.frame, &h) {
			t.Errorf("%s: passes while the addresses of this host are not known", c.name)
		}
	}
	var h packet.Headers
	other := inner(0, "10.0.0.3", "10.0.0.4", udp, 0, nil, udpTo(6081))
	packet.Walk(other, false, &h)
	if !guardOf().ForUs(other, &h) {
		t.Error("to an address that may be ours: passes")
	}
	if n := testing.AllocsPerRun(100, func() { known.Ours(other, &h); known.ForUs(other, &h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzGuard: whatever comes, and nothing is found behind its end.
func FuzzGuard(f *testing.F) {
	f.Add(inner(0, "10.0.0.2", "10.0.0.1", 17, 0x2000, nil, nil))
	f.Add(inner(2, "fd00::2", "fd00::1", 44, 0, []byte{17, 0, 0, 1}, nil))
	g := guardOf("10.0.0.1/32", "fd00::1/128")
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, l3 := range []bool{false, true} {
			var h packet.Headers
			packet.Walk(frame[:len(frame):len(frame)], l3, &h)
			g.Ours(frame, &h)
			g.ForUs(frame, &h)
		}
	})
}

func TestEchoes(t *testing.T) {
	hop := packet.MAC{2, 0, 0, 0, 0, 9}
	from := &Peer{PeerState: new(PeerState)}
	of := func(src packet.MAC) []byte { return append(make([]byte, 6), append(src[:], 8, 6)...) }
	check := func(what string, src packet.MAC, at time.Duration, yes, fresh bool) {
		t.Helper()
		if y, f := from.Echoes(of(src), int64(at)); y != yes || f != fresh {
			t.Errorf("%s: %v, fresh %v; want %v, %v", what, y, f, yes, fresh)
		}
	}
	check("no next hop is known", hop, 0, false, false)
	from.Hop.Store(HopNumber(hop))
	other := packet.MAC{2, 0, 0, 0, 0, 8}
	check("another speaks", other, 0, false, false)
	check("the next hop speaks", hop, 0, true, true)
	check("again", hop, time.Second, true, false)
	check("another speaks then", other, 2*time.Second, true, false)
	check("another speaks, later", other, time.Second+echoHold+1, false, false)
	check("the next hop speaks, later", hop, 2*time.Minute, true, true)
}

// TestGuardCarried: the datagrams of a peer that is reached through another tunnel of ours are
// frames of that one, out and in, and no loop.
func TestGuardCarried(t *testing.T) {
	const udp = 17
	g := guardOf("10.0.0.1/32")
	out := inner(0, "10.0.0.1", "10.0.0.2", udp, 0, nil, udpTo(6081))
	in := inner(0, "10.0.0.2", "10.0.0.1", udp, 0, nil, udpTo(6081))
	for _, through := range []int32{0, 7} {
		g.Remotes.Get(Remote{netip.MustParseAddr("10.0.0.2")})[0].Through.Store(through)
		for name, c := range map[string]struct {
			frame []byte
			says  func([]byte, *packet.Headers) bool
		}{"Ours": {out, g.Ours}, "ForUs": {in, g.ForUs}} {
			var h packet.Headers
			packet.Walk(c.frame, false, &h)
			if got := c.says(c.frame, &h); got != (through == 0) {
				t.Errorf("%s of a peer that is reached through device %d: %v", name, through, got)
			}
		}
	}
}
