package fastpath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// need skips where programs cannot be loaded.
func need(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("GVTEP_TEST_REQUIRE") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

// cases runs a test for all four pairs of outer and inner address families.
func cases(t *testing.T, edit func(*netio.FastPeer), run func(t *testing.T, p *Path, family, version int)) {
	for _, family := range []int{4, 6} {
		t.Run(fmt.Sprint("underlay ", family), func(t *testing.T) {
			p := newPath(t, family, edit)
			for _, version := range []int{4, 6} {
				t.Run(fmt.Sprint("inner ", version), func(t *testing.T) { run(t, p, family, version) })
			}
		})
	}
}

// TestEncapsulates: what leaves is, byte for byte, what the sockets would send, with the
// outer checksum of all that is in it.
func TestEncapsulates(t *testing.T) {
	cases(t, func(p *netio.FastPeer) { p.Mark = 5 }, func(t *testing.T, p *Path, family, version int) {
		for _, proto := range []byte{packet.ProtoTCP, packet.ProtoUDP, 1} {
			for _, payload := range []int{0, 1, 77, 1300} {
				f := plain()
				f.version, f.proto, f.tos, f.payload = version, proto, 0xba, payload
				if proto == 1 && version == 6 {
					f.proto, f.icmp = packet.ProtoICMPv6, 128
				}
				frame := f.bytes()
				r := p.test(t, p.kernel.TapEgress, frame, 0)
				if r.action != redirect || r.mark != 5 {
					t.Fatalf("protocol %d, %d bytes: action %d, mark %d, punts %v", proto, payload, r.action, r.mark, r.punts)
				}
				a := underlays[family]
				var h packet.Headers
				packet.Walk(frame, false, &h)
				want := outer{
					family: family, from: a[1], to: a[0], tos: 0xba & 3, dport: 6081, inner: frame, geneve: [8]byte{0, 0, 0x65, 0x58, 0, 0, vni, 0},
					sport: ports[uint64(packet.Hash(frame, &h, false, seed))*uint64(len(ports))>>32],
				}.bytes()
				if got := r.data[14:]; !bytes.Equal(got, want[14:]) {
					t.Errorf("protocol %d, %d bytes:\n%x, want\n%x", proto, payload, got, want[14:])
				}
			}
		}
	})
}

// TestSourcePort: a flow has one source port on both paths, over 1,000 flows.
func TestSourcePort(t *testing.T) {
	cases(t, nil, func(t *testing.T, p *Path, family, version int) {
		seen := map[uint16]int{}
		for range 1000 {
			f := plain()
			f.version, f.sport, f.dport, f.proto = version, uint16(rand.IntN(65536)), uint16(rand.IntN(6000)), []byte{6, 17}[rand.IntN(2)]
			frame := f.bytes()
			var h packet.Headers
			packet.Walk(frame, false, &h)
			want := ports[uint64(packet.Hash(frame, &h, false, seed))*uint64(len(ports))>>32]
			r := p.test(t, p.kernel.TapEgress, frame, 0)
			if r.action != redirect {
				t.Fatalf("action %d, punts %v", r.action, r.punts)
			}
			got := binary.BigEndian.Uint16(r.data[map[int]int{4: 34, 6: 54}[family]:])
			if got != want {
				t.Fatalf("source port %d, want %d", got, want)
			}
			seen[got]++
		}
		if len(seen) != len(ports) {
			t.Errorf("1000 flows used the source ports %v, want all of %v", seen, ports)
		}
	})
}

// TestOuter: TTL, TOS, Don't Fragment and checksum as the peer says.
func TestOuter(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*netio.FastPeer)
		tos  byte
		ttl  byte
		df   bool
		sum  bool
	}{
		{"fixed", func(p *netio.FastPeer) { p.TTL, p.TOS = 9, 0xb8 }, 0xba, 9, true, true},
		{"inherit", func(p *netio.FastPeer) { p.InheritTTL, p.InheritTOS = true, true }, 0x2e, 33, true, true},
		{"without checksum", func(p *netio.FastPeer) { p.NoChecksum = true }, 2, 64, true, false},
		{"cut", func(p *netio.FastPeer) { p.MayCut = true }, 2, 64, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cases(t, c.edit, func(t *testing.T, p *Path, family, version int) {
				f := plain()
				f.version, f.tos, f.ttl = version, 0x2e, 33
				r := p.test(t, p.kernel.TapEgress, f.bytes(), 0)
				if r.action != redirect {
					t.Fatalf("action %d, punts %v", r.action, r.punts)
				}
				ip := r.data[14:]
				tos, ttl, udp := ip[1], ip[8], ip[20:]
				if family == 6 {
					tos, ttl, udp = ip[0]<<4|ip[1]>>4, ip[7], ip[40:]
				} else if df := ip[6]&0x40 != 0; df != c.df || !df && sum16(ip[4:6]) == 0 {
					t.Errorf("Don't Fragment %t, ID %x, want %t", df, ip[4:6], c.df)
				} else if sum16(ip[:20]) != 0xffff {
					t.Error("the header checksum is wrong")
				}
				if sum := sum16(udp[6:8]) != 0; tos != c.tos || ttl != c.ttl || sum != c.sum {
					t.Errorf("TOS %#x, TTL %d, checksum %t; want %#x, %d, %t", tos, ttl, sum, c.tos, c.ttl, c.sum)
				}
			})
		})
	}
}

// TestDecapsulates: what comes in is delivered as it was, with ECN of RFC 6040.
func TestDecapsulates(t *testing.T) {
	cases(t, nil, func(t *testing.T, p *Path, family, version int) {
		for _, c := range []struct{ inner, outer, want byte }{{0, 0, 0}, {0, 1, 0}, {0, 2, 0}, {1, 0, 1}, {1, 3, 3}, {2, 0, 2}, {2, 2, 2}, {2, 3, 3}, {3, 0, 3}, {3, 3, 3}} {
			for _, payload := range []int{0, 1, 501, 1300} {
				f := back()
				f.version, f.tos, f.payload = version, c.inner, payload
				o := carrying(family, f.bytes())
				o.tos = c.outer
				f.tos = c.want
				r := p.test(t, p.kernel.UnderlayIngress, o.bytes(), 0)
				if r.action != redirect || r.mark != 0 || !bytes.Equal(r.data, f.bytes()) {
					t.Fatalf("ECN %d in %d, %d bytes: action %d, mark %d, punts %v\n%x, want\n%x", c.inner, c.outer, payload, r.action, r.mark, r.punts, r.data, f.bytes())
				}
			}
		}
	})
}

// TestPuntsOut: every reason to leave a frame from the device to userspace, as it is.
func TestPuntsOut(t *testing.T) {
	cases(t, nil, func(t *testing.T, p *Path, family, version int) {
		frame := func(edit func(*inner)) func() []byte {
			return func() []byte {
				f := plain()
				f.version = version
				edit(&f)
				return f.bytes()
			}
		}
		raw := func(edit func([]byte) []byte) func() []byte {
			return func() []byte {
				f := plain()
				f.version = version
				return edit(f.bytes())
			}
		}
		tag := func(b []byte) []byte {
			return append(append(slices.Clone(b[:12]), 0x81, 0, 0, 5), b[12:]...)
		}
		for _, c := range []struct {
			want  string
			frame func() []byte
			gso   int
		}{
			{"group out", frame(func(f *inner) { f.dst[0] |= 1 }), 0},
			{"group out", frame(func(f *inner) { f.src[0] |= 1 }), 0},
			{"not_ip out", raw(func(b []byte) []byte { b[12], b[13] = 8, 6; return b }), 0},
			{"vlan out", raw(tag), 0},
			{"headers out", raw(func(b []byte) []byte {
				if version == 4 {
					b[14] = 0x46
				} else {
					b[20] = 0
				}
				return b
			}), 0},
			{"headers out", raw(func(b []byte) []byte { return b[:len(b)-110] }), 0},
			{"fragment out", raw(func(b []byte) []byte {
				if version == 4 {
					b[20] = 0x20
				} else {
					b[20] = 44
				}
				return b
			}), 0},
			{"protocol out", raw(func(b []byte) []byte { b[map[int]int{4: 23, 6: 20}[version]] = 47; return b }), 0},
			{"length out", raw(func(b []byte) []byte { return append(b, 0, 0) }), 0},
			{"no_checksum out", func() []byte {
				f := plain()
				f.version, f.proto = version, packet.ProtoUDP
				b := f.bytes()
				at := map[int]int{4: 34, 6: 54}[version] + 6
				b[at], b[at+1] = 0, 0
				return b
			}, 0},
			{"unknown_destination out", frame(func(f *inner) { f.dst = nobody }), 0},
			{"local_destination out", frame(func(f *inner) { f.dst = mine }), 0},
			{"source out", frame(func(f *inner) { f.src = nobody }), 0},
			{"source out", frame(func(f *inner) { f.src = others }), 0}, // it has moved
			{"too_big out", frame(func(f *inner) { f.payload = 1450 }), 0},
			{"too_big out", frame(func(f *inner) { f.payload = 2000 }), 1440},
			{"own_flow out", frame(func(f *inner) { f.proto, f.dport = packet.ProtoUDP, 6081 }), 0},
		} {
			b := c.frame()
			if r := p.test(t, p.kernel.TapEgress, b, c.gso); r.action != next || !slices.Equal(r.punts, []string{c.want}) || !bytes.Equal(r.data, b) || r.mark != 99 {
				t.Errorf("action %d, punts %v, want %s and nothing changed", r.action, r.punts, c.want)
			}
		}
		if version == 6 {
			f := plain()
			f.version, f.proto, f.icmp = 6, packet.ProtoICMPv6, 135
			if r := p.test(t, p.kernel.TapEgress, f.bytes(), 0); r.action != next || !slices.Equal(r.punts, []string{"neighbour out"}) {
				t.Errorf("neighbour solicitation: action %d, punts %v", r.action, r.punts)
			}
		}
	})
}

// TestPuntsIn: every reason to leave a datagram to userspace, as it is, and what is not ours
// is not counted.
func TestPuntsIn(t *testing.T) {
	cases(t, nil, func(t *testing.T, p *Path, family, version int) {
		frame := func(edit func(*inner)) func() outer {
			return func() outer {
				f := back()
				f.version = version
				edit(&f)
				return carrying(family, f.bytes())
			}
		}
		datagram := func(edit func(*outer)) func() outer {
			return func() outer {
				f := back()
				f.version = version
				o := carrying(family, f.bytes())
				edit(&o)
				return o
			}
		}
		for _, c := range []struct {
			name, want string
			datagram   func() outer
			gso        int
		}{
			{"version", "geneve in", datagram(func(o *outer) { o.geneve[0] = 0x40 }), 0},
			{"options", "geneve in", datagram(func(o *outer) { o.geneve[0] = 1 }), 0},
			{"control", "geneve in", datagram(func(o *outer) { o.geneve[1] = 0x80 }), 0},
			{"critical", "geneve in", datagram(func(o *outer) { o.geneve[1] = 0x40 }), 0},
			{"protocol", "geneve in", datagram(func(o *outer) { o.geneve[3] = 0x59 }), 0},
			{"train", "bulk in", datagram(func(o *outer) { o.sport = 1 }), 500},
			{"behind a train", "bulk in", datagram(func(o *outer) { o.sport = 1 }), 0},
			{"group", "group in", frame(func(f *inner) { f.dst[0] |= 1 }), 0},
			{"new source", "source in", frame(func(f *inner) { f.src = nobody }), 0},
			{"moved here", "source in", frame(func(f *inner) { f.src = local }), 0},
			{"moved there", "source in", frame(func(f *inner) { f.src = others }), 0},
			{"our own", "source in", frame(func(f *inner) { f.src = mine }), 0},
			{"no ECN", "ecn in", datagram(func(o *outer) { o.tos = 3 }), 0},
			{"ECT(1) on ECT(0)", "ecn in", func() outer {
				o := frame(func(f *inner) { f.tos = 2 })()
				o.tos = 1
				return o
			}, 0},
			{"flood", "flood_limit in", func() outer {
				o := frame(func(f *inner) { f.src, f.dst = others, nobody })()
				o.from = underlays[family][2]
				return o
			}, 0},
			{"to our port", "own_flow in", frame(func(f *inner) { f.proto, f.dport = packet.ProtoUDP, 7777 }), 0},
			{"other VNI", "", datagram(func(o *outer) { o.geneve[6]++ }), 0},
			{"reserved byte", "", datagram(func(o *outer) { o.geneve[7]++ }), 0},
			{"other port", "", datagram(func(o *outer) { o.dport++ }), 0},
			{"stranger", "", datagram(func(o *outer) { o.from = o.from.Next().Next() }), 0},
			{"not for us", "", datagram(func(o *outer) { o.to = o.to.Next().Next() }), 0},
		} {
			b := c.datagram().bytes()
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			if r := p.test(t, p.kernel.UnderlayIngress, b, c.gso); r.action != next || !slices.Equal(r.punts, want) || !bytes.Equal(r.data, b) || r.mark != 99 {
				t.Errorf("%s: action %d, punts %v, want %v and nothing changed", c.name, r.action, r.punts, want)
			}
		}
		f := back()
		f.version = version
		good := carrying(family, f.bytes()).bytes()
		udp := map[int]int{4: 34, 6: 54}[family]
		for _, c := range []struct {
			name, want string
			edit       func([]byte) []byte
		}{
			{"damaged", "checksum in", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
			{"trailing bytes", "length in", func(b []byte) []byte { return append(b, 0) }},
			{"UDP length", "length in", func(b []byte) []byte { b[udp+5]--; return b }},
			{"not IP", "", func(b []byte) []byte { b[12] = 0x22; return b }},
			{"fragment", "", func(b []byte) []byte {
				if family == 4 {
					b[20] = 0x20
				} else {
					b[20] = 44
				}
				return b
			}},
			{"damaged header", "", func(b []byte) []byte {
				if family == 4 {
					b[18]++ // the ID, which nothing else looks at
				} else {
					b[14] = 0x50
				}
				return b
			}},
			{"for another station", "", func(b []byte) []byte { b[5] = 1; return b }},
		} {
			b := c.edit(slices.Clone(good))
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			if r := p.test(t, p.kernel.UnderlayIngress, b, 0); r.action != next || !slices.Equal(r.punts, want) || !bytes.Equal(r.data, b) {
				t.Errorf("%s: action %d, punts %v, want %v", c.name, r.action, r.punts, want)
			}
		}
		zero := carrying(family, f.bytes())
		zero.noSum = true
		r := p.test(t, p.kernel.UnderlayIngress, zero.bytes(), 0)
		if taken := r.action == redirect; taken != (family == 4) {
			t.Errorf("without a checksum: action %d, punts %v; want it taken over IPv4 alone", r.action, r.punts)
		}
		known := frame(func(f *inner) { f.src = others })()
		known.from = underlays[family][2]
		if r := p.test(t, p.kernel.UnderlayIngress, known.bytes(), 0); r.action != redirect {
			t.Errorf("to a station that is known here, from a peer with a limit: action %d, punts %v", r.action, r.punts)
		}
	})
}

// TestLone: where the underlay does not cut in tunnels, super-frames and for a while what
// follows them in their flow are for userspace.
func TestLone(t *testing.T) {
	cases(t, nil, func(t *testing.T, p *Path, family, version int) {
		p.under[loopback] = &device{name: "lo"}
		p.apply()
		f := plain()
		f.version, f.payload = version, 2880
		big := f.bytes()
		f.payload = 100
		small := f.bytes()
		f.sport++
		other := f.bytes()
		for _, c := range []struct {
			name   string
			frame  []byte
			gso    int
			action int
		}{{"before", small, 0, redirect}, {"super-frame", big, 1000, next}, {"behind it", small, 0, next}, {"another flow", other, 0, redirect}} {
			if r := p.test(t, p.kernel.TapEgress, c.frame, c.gso); r.action != c.action {
				t.Errorf("%s: action %d, punts %v, want %d", c.name, r.action, r.punts, c.action)
			}
		}
		time.Sleep(110 * time.Millisecond) // GAP of fast.c
		if r := p.test(t, p.kernel.TapEgress, small, 0); r.action != redirect {
			t.Errorf("110 ms later: action %d, punts %v", r.action, r.punts)
		}
		p.under[loopback] = &device{name: "lo", bulk: true}
		p.apply()
	})
}

// TestRemainder: super-frames whose last piece is shorter have no checksum that fits all
// pieces: over IPv6 userspace sends them, and for a while what follows in their flow. (A
// test cannot have the kernel encapsulate one that is carried: "kernel" says that it was
// decided to. What the pieces look like is tested end to end.)
func TestRemainder(t *testing.T) {
	cases(t, nil, func(t *testing.T, p *Path, family, version int) {
		f := plain()
		f.version, f.payload, f.sport = version, 2999, uint16(3000+version)
		want := []string{"kernel out"}
		if family == 6 {
			want = []string{"remainder out"}
		}
		if r := p.test(t, p.kernel.TapEgress, f.bytes(), 1000); r.action != next || !slices.Equal(r.punts, want) {
			t.Errorf("action %d, punts %v, want %v", r.action, r.punts, want)
		}
		f.payload = 100
		if r := p.test(t, p.kernel.TapEgress, f.bytes(), 0); family == 6 && !slices.Equal(r.punts, []string{"bulk out"}) {
			t.Errorf("behind it: action %d, punts %v, want bulk", r.action, r.punts)
		}
		f.payload, f.sport = 3000, f.sport+10
		if r := p.test(t, p.kernel.TapEgress, f.bytes(), 1000); !slices.Equal(r.punts, []string{"kernel out"}) {
			t.Errorf("of equal pieces: action %d, punts %v, want kernel", r.action, r.punts)
		}
	})
}

// TestNarrow: after a router has told of a narrow path to the peer, userspace sends.
func TestNarrow(t *testing.T) {
	for _, family := range []int{4, 6} {
		p := newPath(t, family, nil)
		a := underlays[family]
		sent := carrying(family, nil)
		sent.from, sent.to = a[1], a[0]
		quoted := sent.bytes()[14:]
		var b []byte
		if family == 4 {
			ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 9, 10, 77, 0, 1}
			binary.BigEndian.PutUint16(ip[10:], ^sum16(ip))
			b = append(append(append(make([]byte, 12), 8, 0), ip...), 3, 4, 0, 0, 0, 0, 5, 0)
		} else {
			b = append(make([]byte, 12), 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 58, 64)
			b = append(append(b, a[2].AsSlice()...), a[1].AsSlice()...)
			b = append(b, 2, 0, 0, 0, 0, 0, 5, 0)
		}
		if r := p.test(t, p.kernel.TapEgress, plain().bytes(), 0); r.action != redirect {
			t.Fatalf("before: action %d, punts %v", r.action, r.punts)
		}
		if r := p.test(t, p.kernel.UnderlayIngress, append(b, quoted...), 0); r.action != next {
			t.Fatalf("ICMP: action %d", r.action)
		}
		if r := p.test(t, p.kernel.TapEgress, plain().bytes(), 0); r.action != next || !slices.Equal(r.punts, []string{"path out"}) {
			t.Errorf("after: action %d, punts %v, want path", r.action, r.punts)
		}
	}
}

// TestRemoved: a peer that is removed is let in no longer when Set returns, and its counters
// are returned; nothing of a tunnel that is removed stays in the maps.
func TestRemoved(t *testing.T) {
	p := newPath(t, 4, nil)
	in := carrying(4, back().bytes()).bytes()
	if r := p.test(t, p.kernel.UnderlayIngress, in, 0); r.action != redirect {
		t.Fatalf("action %d, punts %v", r.action, r.punts)
	}
	p.Heard(func(at uint32, mac packet.MAC, peer int32, heard, used time.Duration) {
		if at != port || mac != theirs || peer != remote || heard < 0 || heard > time.Second || used >= 0 {
			t.Errorf("heard %d %s behind %d, %v and %v ago", at, mac, peer, heard, used)
		}
	})
	without := tunnelOf(4, nil)
	without.Peers = without.Peers[1:]
	last := p.Set(without)
	if c := last[remote]; len(last) != 1 || c.RxPackets != 1 || c.Seen < 0 || c.Seen > time.Second {
		t.Errorf("last counters %+v, want one packet of the peer", last)
	}
	if r := p.test(t, p.kernel.UnderlayIngress, in, 0); r.action != next || r.punts != nil {
		t.Errorf("from a removed peer: action %d, punts %v", r.action, r.punts)
	}
	if r := p.test(t, p.kernel.TapEgress, plain().bytes(), 0); r.action != next || !slices.Equal(r.punts, []string{"no_peer out"}) {
		t.Errorf("to a removed peer: action %d, punts %v", r.action, r.punts)
	}
	p.Set(tunnelOf(4, nil))
	p.Remove(port)
	p.Heard(func(uint32, packet.MAC, int32, time.Duration, time.Duration) {}) // removes entries of nobody
	for name, entries := range map[string]func() int{
		"taps":   func() int { return entries[uint32, bpfTap](p.kernel.Taps) },
		"fdb":    func() int { return entries[bpfStation, bpfPlace](p.kernel.Fdb) },
		"peers":  func() int { return entries[int32, bpfPeer](p.kernel.Peers) },
		"admits": func() int { return entries[bpfAdmit, bpfAdmitted](p.kernel.Admits) },
		"counts": func() int { return entries[int32, []bpfTraffic](p.kernel.Counts) },
	} {
		if n := entries(); n != 0 {
			t.Errorf("%d entries in %s after the last tunnel was removed", n, name)
		}
	}
	if r := p.test(t, p.kernel.TapEgress, plain().bytes(), 0); r.action != next || r.punts != nil {
		t.Errorf("from a removed tunnel: action %d, punts %v", r.action, r.punts)
	}
}

// TestKernel: what is written by hand of the kernel's headers is the running kernel's.
func TestKernel(t *testing.T) {
	need(t)
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"SKB_GSO_UDP_TUNNEL": 1 << 10, "SKB_GSO_UDP_TUNNEL_CSUM": 1 << 11}
	for typ, err := range spec.All() {
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := typ.(*btf.Enum); ok {
			for _, v := range e.Values {
				if w, ours := want[v.Name]; ours && v.Value == w {
					delete(want, v.Name)
				}
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("other values in this kernel: %v", want)
	}
}
