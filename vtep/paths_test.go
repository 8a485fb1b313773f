package vtep

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"gvtep/internal/netio"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
)

// to makes the routes to a remote what r says.
func (u *memUnderlay) to(remote string, r netio.Route) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.routes == nil {
		u.routes = make(map[netip.Addr]netio.Route)
	}
	r.Ifindex = u.routeVia
	u.routes[addr(remote)] = r
}

// TestMTUOfLinks: the device's MTU follows links and what administrators wrote, not what
// was learned of one path, and stays where IPv6 lives.
func TestMTUOfLinks(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	for _, step := range []struct {
		what   string
		routes [2]netio.Route
		noIPv6 bool
		want   int
		paths  [2]int
	}{
		{"two links", [2]netio.Route{{MTU: 1500, Link: 1500}, {MTU: 1500, Link: 1500}}, false, 1450, [2]int{1500, 1500}},
		{"one path is learned", [2]netio.Route{{MTU: 1300, Link: 1500, Learned: true}, {MTU: 1500, Link: 1500}}, false, 1450, [2]int{1300, 1500}},
		{"one route is written", [2]netio.Route{{MTU: 1500, Link: 1500}, {MTU: 1400, Link: 1400}}, false, 1350, [2]int{1500, 1400}},
		{"and learned below", [2]netio.Route{{MTU: 1500, Link: 1500}, {MTU: 552, Link: 1400, Learned: true}}, false, 1350, [2]int{1500, 552}},
		{"IPsec takes its part", [2]netio.Route{{MTU: 1446, Link: 1500}, {MTU: 1500, Link: 1500}}, false, 1396, [2]int{1446, 1500}},
		{"and takes it of what is learned", [2]netio.Route{{MTU: 1246, Link: 1500, Learned: true}, {MTU: 1500, Link: 1500}}, false, 1396, [2]int{1246, 1500}},
		{"no way for a moment", [2]netio.Route{{MTU: 1446, Link: 1500}, {}}, false, 1396, [2]int{1446, 0}},
		{"larger links", [2]netio.Route{{MTU: 9000, Link: 9000}, {MTU: 9000, Link: 9000}}, false, 8950, [2]int{9000, 9000}},
		{"below IPv6", [2]netio.Route{{MTU: 1300, Link: 1300}, {MTU: 9000, Link: 9000}}, false, 1280, [2]int{1300, 9000}},
		{"below IPv6 without it", [2]netio.Route{{MTU: 1300, Link: 1300}, {MTU: 9000, Link: 9000}}, true, 1250, [2]int{1300, 9000}},
		{"far below", [2]netio.Route{{MTU: 500, Link: 500}, {MTU: 9000, Link: 9000}}, true, 576, [2]int{500, 9000}},
		{"IPv6 comes back", [2]netio.Route{{MTU: 500, Link: 500}, {MTU: 9000, Link: 9000}}, false, 1280, [2]int{500, 9000}},
	} {
		l.underlay.to("192.0.2.2", step.routes[0])
		l.underlay.to("192.0.2.3", step.routes[1])
		l.dev.mu.Lock()
		l.dev.noIPv6 = step.noIPv6
		l.dev.mu.Unlock()
		l.checkPaths(anyPeer)
		if got, _ := l.dev.MTU(); got != step.want {
			t.Errorf("%s: MTU %d, want %d", step.what, got, step.want)
		}
		s := l.State().Tunnels[0]
		if got := [2]int{s.Peers[0].PathMTU, s.Peers[1].PathMTU}; got != step.paths {
			t.Errorf("%s: path MTUs %v, want %v", step.what, got, step.paths)
		}
		if err := l.Apply(Change{Set: []Tunnel{testTunnel("gnv0", "192.0.2.2", "192.0.2.3")}}); err != nil {
			t.Fatal(err)
		}
		if got, _ := l.dev.MTU(); got != step.want {
			t.Errorf("%s: MTU %d after a change, want %d", step.what, got, step.want)
		}
	}
	// A tunnel that comes to such a link has no less.
	l.underlay.to("192.0.2.4", netio.Route{MTU: 1000, Link: 1000})
	other := testTunnel("gnv1", "192.0.2.4")
	other.VNI = 7
	if got, _ := l.add(other).MTU(); got != 1280 {
		t.Errorf("a new tunnel over 1000 bytes: MTU %d, want 1280", got)
	}
}

// TestRefusedSend: a sender that obeys comes through within a few tries where the kernel
// refuses what its routes allow, to this peer only, and gets more when it can.
func TestRefusedSend(t *testing.T) {
	for _, tc := range []struct{ link, carries, tries int }{
		{1500, 1400, 3}, {1500, 1446, 2}, {1500, 1499, 2}, {9000, 1400, 8}, {9000, 8900, 3}, {1500, 1100, 4},
	} {
		l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
		l.underlay.mu.Lock()
		l.underlay.mtu = tc.link
		l.underlay.mu.Unlock()
		l.checkPaths(anyPeer)
		l.in("192.0.2.2", macA, macB)
		l.underlay.mu.Lock()
		l.underlay.carries = tc.carries - 28 // the payload of UDP
		l.underlay.mu.Unlock()
		size, tries := tc.link-50, 0
		for ; tries < 20; tries++ {
			l.underlay.sent = nil
			l.tunnels["gnv0"].state.TooBigDue.Store(0) // time has passed
			for range 3 {                              // a burst is one refusal
				l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 7, 9, strings.Repeat("x", size-28)))})
			}
			l.step()
			if len(l.underlay.sent) == 3 {
				break
			}
			if len(l.recheck) > 0 {
				<-l.recheck
				l.checkPaths(doubtfulPeer)
			}
			if answers := l.dev.queues[0].take(); len(answers) > 0 {
				answer := answers[len(answers)-1].bytes
				size = int(binary.BigEndian.Uint16(answer[14+26:]))
			}
		}
		if s := l.State().Tunnels[0]; tries > 2*tc.tries || s.Peers[1].PathMTU != tc.link {
			t.Errorf("a path of %d on a link of %d: %d tries, paths %d, %d; want %d tries (a refusal and an answer each), and the other peer to have %d",
				tc.carries, tc.link, tries, s.Peers[0].PathMTU, s.Peers[1].PathMTU, 2*tc.tries, tc.link)
		}
		if size < 576 || size+50 < tc.carries/2 {
			t.Errorf("a path of %d on a link of %d: packets of %d bytes left", tc.carries, tc.link, size)
		}
		if mtu, _ := l.dev.MTU(); mtu != tc.link-50 {
			t.Errorf("MTU of the device %d, want %d: one peer does not change it", mtu, tc.link-50)
		}
		// What the routes say does not contradict it again and again, until it changes.
		before := l.State().Tunnels[0].Peers[0].PathMTU
		l.checkPaths(anyPeer)
		if now := l.State().Tunnels[0].Peers[0].PathMTU; now != before {
			t.Errorf("a path of %d on a link of %d: %d with the next look, was %d", tc.carries, tc.link, now, before)
		}
		l.underlay.to("192.0.2.2", netio.Route{MTU: tc.link + 8, Link: tc.link + 8})
		l.checkPaths(anyPeer)
		if now := l.State().Tunnels[0].Peers[0].PathMTU; now != tc.link+8 {
			t.Errorf("after a change: path %d, want %d", now, tc.link+8)
		}
	}
}

// TestRefusedSendExplained: where the kernel explains a refusal, its word counts.
func TestRefusedSendExplained(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	l.underlay.carries = 1450 - 28
	l.underlay.to("192.0.2.2", netio.Route{MTU: 1450, Link: 1500, Learned: true})
	l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x88b5, make([]byte, 1436))})
	l.step()
	l.checkPaths(doubtfulPeer)
	if path := l.State().Tunnels[0].Peers[0].PathMTU; path != 1450 {
		t.Errorf("path %d, want 1450", path)
	}
	// It rises with the kernel's, and after ten minutes without a word.
	l.underlay.to("192.0.2.2", netio.Route{MTU: 1500, Link: 1500})
	l.checkPaths(anyPeer)
	if path := l.State().Tunnels[0].Peers[0].PathMTU; path != 1500 {
		t.Errorf("path %d after the kernel has forgotten, want 1500", path)
	}
	p := l.tunnels["gnv0"].peers[0]
	p.Refuse(1450)
	now := l.clock()
	r := netio.Route{Ifindex: l.underlay.routeVia, MTU: 1500, Link: 1500}
	for _, step := range []struct {
		after int64
		want  int32
		tell  bool
	}{{0, 1386, true}, {int64(forward.RefusedRetry) / 2, 1386, false}, {int64(forward.RefusedRetry) + 1, 1464, false}} {
		if tell := p.setRoute(r, now+step.after); p.Limit.Load() != step.want || tell != step.tell {
			t.Errorf("%d ns after a refusal: limit %d, told %v; want %d, %v", step.after, p.Limit.Load(), tell, step.want, step.tell)
		}
	}
}

// TestFragments: what everybody may send, 1280 bytes of packet, is carried by outer
// fragments where there is no other way, and nothing longer.
func TestFragments(t *testing.T) {
	for _, version := range []int{4, 6} {
		l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
		send := func(size int) (sent, dropped int, told int) {
			var p []byte
			kind := uint16(0x0800)
			if version == 4 {
				p = ipv4(0, "10.99.0.1", "10.99.0.2", 7, 9, strings.Repeat("x", size-28))
				p[6] = 0x40
			} else {
				kind = 0x86dd
				p = make([]byte, size)
				p[0], p[6], p[7] = 0x60, 59, 64
				binary.BigEndian.PutUint16(p[4:], uint16(size-40))
				copy(p[8:], addr("fd99::1").AsSlice())
				copy(p[24:], addr("fd99::2").AsSlice())
			}
			before := l.State().Tunnels[0].Drops.Tx[count.DropTooBig]
			l.underlay.sent = nil
			l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, kind, p)})
			l.step()
			if answers := l.dev.queues[0].take(); len(answers) == 1 {
				answer := answers[0].bytes[14:]
				if told = int(binary.BigEndian.Uint16(answer[26:])); version == 6 {
					told = int(binary.BigEndian.Uint32(answer[44:]))
				}
			}
			return len(l.underlay.sent), int(l.State().Tunnels[0].Drops.Tx[count.DropTooBig] - before), told
		}
		if l.tunnels["gnv0"].peers[0].PathFrag != nil {
			t.Error("source ports for fragments are open on a path of 1500")
		}
		for _, path := range []int{1300, 1200, 600} {
			l.underlay.to("192.0.2.2", netio.Route{MTU: path, Link: 1500, Learned: true})
			l.checkPaths(anyPeer)
			l.underlay.carries = path - 28 // of what must not be cut
			for _, size := range []int{500, path - 51, path - 49, 1280} {
				if sent, dropped, told := send(size); sent != 1 || dropped != 0 || told != 0 {
					t.Errorf("IPv%d, path %d, a packet of %d: %d sent, %d dropped, told %d; want it sent", version, path, size, sent, dropped, told)
				}
			}
			want := 1280
			if version == 4 {
				want = path - 50
			}
			if sent, dropped, told := send(1281); sent != 0 || dropped != 1 || told != want {
				t.Errorf("IPv%d, path %d, a packet of 1281: %d sent, %d dropped, told %d; want it dropped, and told %d", version, path, sent, dropped, told, want)
			}
		}
	}
}

// TestFragmentPolicy: what exceeds the path goes in outer fragments only if the policy allows it
// and routers may cut it, too. The sender of anything else is told.
func TestFragmentPolicy(t *testing.T) {
	df := ipv4(0, "10.99.0.1", "10.99.0.2", 7, 9, strings.Repeat("x", 1400-28))
	df[6] = 0x40
	may := ipv4(0, "10.99.0.1", "10.99.0.2", 7, 9, strings.Repeat("x", 1400-28))
	v6 := make([]byte, 1400)
	v6[0], v6[6], v6[7] = 0x60, 59, 64
	binary.BigEndian.PutUint16(v6[4:], 1400-40)
	copy(v6[8:], addr("fd99::1").AsSlice())
	copy(v6[24:], addr("fd99::2").AsSlice())
	for _, remote := range []string{"192.0.2.2", "2001:db8::2"} {
		for _, tc := range []struct {
			policy      DF
			name        string
			kind        uint16
			packet      []byte
			sent, sizes int // datagrams; answers that tell a size
		}{
			{DFSet, "IPv4 with DF", 0x0800, df, 0, 1},
			{DFSet, "IPv4 without DF", 0x0800, may, 0, 1},
			{DFSet, "IPv6", 0x86dd, v6, 0, 1},
			{DFUnset, "IPv4 with DF", 0x0800, df, 0, 1},
			{DFUnset, "IPv4 without DF", 0x0800, may, 1, 0},
			{DFUnset, "IPv6", 0x86dd, v6, 0, 1},
			{DFUnset, "not IP", 0x88b5, may, 1, 0},
			{DFInherit, "IPv4 with DF", 0x0800, df, 0, 1},
			{DFInherit, "IPv4 without DF", 0x0800, may, 1, 0},
			{DFInherit, "IPv6", 0x86dd, v6, 0, 1},
		} {
			cfg := testTunnel("gnv0", remote)
			cfg.DF = tc.policy
			l := newLab(t, cfg)
			if p, want := l.tunnels["gnv0"].peers[0], tc.policy != DFUnset || remote != "192.0.2.2"; (p.Path != nil) != want {
				t.Errorf("to %s, policy %d: ports that must not cut %v, want %v", remote, tc.policy, !want, want)
			}
			l.underlay.to(remote, netio.Route{MTU: 1400, Link: 1500, Learned: true})
			l.checkPaths(anyPeer)
			l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, tc.kind, slices.Clone(tc.packet))})
			l.step()
			if sent, told := len(l.underlay.sent), len(l.dev.queues[0].take()); sent != tc.sent || told != tc.sizes {
				t.Errorf("to %s, policy %d, %s: %d sent, %d told; want %d and %d", remote, tc.policy, tc.name, sent, told, tc.sent, tc.sizes)
			}
		}
	}
}

// TestFloodedTooBig: one narrow path of many is no reason to tell the sender of a flooded
// frame, and if all are narrow the widest counts.
func TestFloodedTooBig(t *testing.T) {
	for _, tc := range []struct {
		paths [2]int
		want  int // told; 0: nothing
	}{{[2]int{1500, 1400}, 0}, {[2]int{1400, 1500}, 0}, {[2]int{1400, 1360}, 1350}, {[2]int{1360, 1400}, 1350}, {[2]int{1360, 0}, 1310}} {
		l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
		for i, mtu := range tc.paths {
			l.underlay.to(fmt.Sprintf("192.0.2.%d", 2+i), netio.Route{MTU: mtu, Link: min(mtu, 1) * 1500, Learned: mtu > 0})
		}
		l.checkPaths(anyPeer)
		l.dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 7, 9, strings.Repeat("x", 1450-28)))})
		l.step()
		told := 0
		if answers := l.dev.queues[0].take(); len(answers) > 0 {
			told = int(binary.BigEndian.Uint16(answers[0].bytes[14+26:]))
		}
		if told != tc.want {
			t.Errorf("paths of %v: told %d, want %d", tc.paths, told, tc.want)
		}
	}
}

// TestQuestions: the kernel is asked without the lock, and about nothing but what a
// change brings.
func TestQuestions(t *testing.T) {
	var remotes []string
	for i := range 50 {
		remotes = append(remotes, fmt.Sprintf("192.0.2.%d", 2+i))
	}
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	var held atomic.Int32
	h.underlay.asking = func(netip.AddrPort) {
		if !h.mu.TryLock() {
			held.Add(1)
			return
		}
		h.mu.Unlock()
	}
	asked := func(what string, want int, f func() error) {
		t.Helper()
		h.underlay.mu.Lock()
		h.underlay.asked = 0
		h.underlay.mu.Unlock()
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		h.underlay.mu.Lock()
		defer h.underlay.mu.Unlock()
		if h.underlay.asked != want {
			t.Errorf("%s: %d questions, want %d", what, h.underlay.asked, want)
		}
	}
	cfg := testTunnel("gnv0", remotes...)
	// Once before, and once when its device is there.
	asked("a tunnel", 2*len(remotes), func() error { return h.Apply(Change{Add: []Tunnel{cfg}}) })
	twin := testTunnel("gnv1", remotes...)
	twin.VNI = 7
	asked("another one to the same peers", 2*len(remotes), func() error { return h.Apply(Change{Add: []Tunnel{twin}}) })
	cfg.TTL = 9
	asked("another TTL", 0, func() error { return h.Apply(Change{Set: []Tunnel{cfg}}) })
	cfg.Peers = append(slices.Clip(cfg.Peers), Peer{Remote: addr("192.0.2.200")})
	asked("one more peer", 1, func() error { return h.Apply(Change{Set: []Tunnel{cfg}}) })
	cfg.Mark = 7
	asked("another mark", len(cfg.Peers), func() error { return h.Apply(Change{Set: []Tunnel{cfg}}) })
	asked("an entry", 1, func() error {
		return h.SetEntry("gnv0", EntryReplace, Entry{MAC: macB, Remote: addr("192.0.2.201")})
	})
	asked("an entry for a peer", 0, func() error {
		return h.SetEntry("gnv0", EntryReplace, Entry{MAC: macB, Remote: addr("192.0.2.5")})
	})
	asked("one more to flood to", 1, func() error {
		return h.SetEntry("gnv0", EntryAppend, Entry{Remote: addr("192.0.2.202")})
	})
	for _, p := range h.State().Tunnels[0].Peers {
		if p.Error != "" {
			t.Errorf("%v: %s", p.Remote, p.Error)
		}
	}
	asked("a look", 2*len(remotes)+2, func() error { h.checkPaths(anyPeer); return nil }) // marks differ
	if n := held.Load(); n != 0 {
		t.Errorf("%d questions were asked while the lock was held", n)
	}
	// A remote that is ours is refused before anything is opened.
	bad := testTunnel("gnv2", "192.0.2.1")
	bad.VNI = 8
	if err := h.Apply(Change{Add: []Tunnel{bad}}); err == nil || len(h.devices.opened) != 2 {
		t.Errorf("a tunnel to ourselves: %v, %d devices", err, len(h.devices.opened))
	}
}
