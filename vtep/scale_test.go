package vtep

import (
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
)

func scaleMAC(i int) packet.MAC {
	return packet.MAC{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

func scalePeer(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

func scaleHost(b *testing.B) *Endpoint {
	e, err := New(Config{Workers: 1, Devices: &memDevices{t: b}, Underlay: newMemUnderlay(b, new(memWire), "192.0.2.1")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	return e
}

// BenchmarkConfiguredEntries is what a tunnel with many entries costs: to open, to change a
// setting, to set one entry more, and to remember. Each but "one" is by the number of
// entries, not by its square.
func BenchmarkConfiguredEntries(b *testing.B) {
	for _, n := range []int{1000, 10_000, 60_000} {
		cfg := testTunnel("gnv0", "192.0.2.2")
		cfg.MaxAddress = 1 << 24
		for i := range n {
			cfg.Entries = append(cfg.Entries, Entry{MAC: scaleMAC(i), Remote: scalePeer(i % 100)})
		}
		open := func(b *testing.B) *Endpoint {
			e := scaleHost(b)
			if err := e.Add(cfg); err != nil {
				b.Fatal(err)
			}
			return e
		}
		b.Run(fmt.Sprintf("open/%d", n), func(b *testing.B) {
			for b.Loop() {
				open(b)
			}
		})
		b.Run(fmt.Sprintf("set/%d", n), func(b *testing.B) {
			e, now := open(b), cfg
			for b.Loop() {
				now.TTL = 64 + now.TTL%2
				if err := e.Apply(Change{Set: []Tunnel{now}}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("one/%d", n), func(b *testing.B) {
			e := open(b)
			for b.Loop() {
				if err := e.SetEntry("gnv0", EntryReplace, Entry{MAC: scaleMAC(n), Remote: scalePeer(1)}); err != nil {
					b.Fatal(err)
				}
				if err := e.DeleteEntry("gnv0", Entry{MAC: scaleMAC(n)}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("memory/%d", n), func(b *testing.B) {
			e := open(b)
			for b.Loop() {
				for _, table := range e.Memory() {
					for range table {
					}
				}
			}
		})
	}
}

// BenchmarkPeersLeave is half of 600 peers that leave a tunnel that knows 1,000,000 addresses.
func BenchmarkPeersLeave(b *testing.B) {
	cfg := testTunnel("gnv0")
	cfg.MaxAddress = 1 << 24
	for i := range 600 {
		cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
	}
	fewer := cfg
	fewer.Peers = cfg.Peers[:300]
	e := scaleHost(b)
	if err := e.Add(cfg); err != nil {
		b.Fatal(err)
	}
	fill := func() {
		t := e.tunnels["gnv0"]
		for i := range 1_000_000 {
			t.domains[0].fdb.Learn(scaleMAC(i), t.peers[i%600].Nexthop, e.clock())
		}
		time.Sleep(50 * time.Millisecond) // for the table to grow
		for i := range 1_000_000 {
			t.domains[0].fdb.Learn(scaleMAC(i), t.peers[i%600].Nexthop, e.clock())
		}
	}
	for b.Loop() {
		b.StopTimer()
		if err := e.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
			b.Fatal(err)
		}
		fill()
		b.StartTimer()
		if err := e.Apply(Change{Set: []Tunnel{fewer}}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestChangeTouchesItsOwn: a change of one tunnel leaves what belongs to others alone, and of
// its own peers those that it does not name. What is counted are calls on devices and the
// underlay, and what is the same afterwards.
func TestChangeTouchesItsOwn(t *testing.T) {
	const tunnels, peers = 20, 100
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	tunnel := func(i int) Tunnel {
		cfg := testTunnel(fmt.Sprint("gnv", i))
		cfg.VNI = packet.VNI(i)
		for j := range peers {
			cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(j)})
		}
		return cfg
	}
	var c Change
	for i := range tunnels {
		c.Add = append(c.Add, tunnel(i))
	}
	if err := h.Apply(c); err != nil {
		t.Fatal(err)
	}
	update := func(edit func(*Tunnel)) func() error {
		return func() error { return h.Update("gnv0", func(cfg *Tunnel) error { edit(cfg); return nil }) }
	}
	for _, step := range []struct {
		name         string
		kept         int // peers of gnv0
		sets, routes int // asked for at most
		do           func() error
	}{
		{"a setting", peers, 1, 0, update(func(cfg *Tunnel) { cfg.TTL = 9 })},
		{"one more peer", peers, 2, 1, update(func(cfg *Tunnel) {
			cfg.Peers = slices.Insert(slices.Clone(cfg.Peers), peers/2, Peer{Remote: scalePeer(peers)})
		})},
		{"a peer's setting", peers, 2, 0, update(func(cfg *Tunnel) {
			cfg.Peers = slices.Clone(cfg.Peers)
			cfg.Peers[peers/2].NoFlood = true
		})},
		{"one peer less", peers, 1, 0, update(func(cfg *Tunnel) {
			cfg.Peers = slices.Delete(slices.Clone(cfg.Peers), peers/2, peers/2+1)
		})},
		{"a destination more", peers, 2, 1, func() error {
			return h.SetEntry("gnv0", EntryAdd, Entry{MAC: macB, Remote: scalePeer(peers + 1)})
		}},
		{"a destination less", peers, 1, 0, func() error { return h.DeleteEntry("gnv0", Entry{MAC: macB}) }},
		{"another tunnel", peers, peers, 2 * peers, func() error { return h.Add(tunnel(tunnels)) }}, // again when its device is there
		{"that goes", peers, 0, 0, func() error { return h.Remove(fmt.Sprint("gnv", tunnels)) }},
		{"all peers", 0, peers, peers, update(func(cfg *Tunnel) { cfg.Mark = 1 })},
	} {
		ports := make(map[string]any)
		for _, p := range h.pool.Snapshot().Ports[:tunnels] {
			ports[p.Name] = p
		}
		own := make(map[any]bool)
		for _, p := range h.tunnels["gnv0"].peers {
			own[p.Peer] = true
		}
		counts := func() (touched, sets, routes int) {
			for _, d := range h.devices.opened[1:tunnels] {
				touched += d.touched
				for _, q := range d.queues {
					touched += int(q.looked.Load())
				}
			}
			return touched, h.underlay.sets, h.underlay.asked
		}
		touched, sets, routes := counts()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		touchedNow, setsNow, routesNow := counts()
		if touchedNow != touched || setsNow-sets > step.sets || routesNow-routes > step.routes {
			t.Errorf("%s: %d calls on devices of others, %d sets of source ports and %d routes asked for; want 0, and at most %d and %d",
				step.name, touchedNow-touched, setsNow-sets, routesNow-routes, step.sets, step.routes)
		}
		for _, p := range h.pool.Snapshot().Ports {
			if before := ports[p.Name]; before != nil && before != any(p) && p.Name != "gnv0" {
				t.Errorf("%s: %s was made anew", step.name, p.Name)
			}
		}
		kept := 0
		for _, p := range h.tunnels["gnv0"].peers {
			if own[p.Peer] {
				kept++
			}
		}
		if kept < step.kept || step.kept == 0 && kept > 0 {
			t.Errorf("%s: %d peers of its own were left alone, want %d", step.name, kept, step.kept)
		}
	}
	if listens := len(h.underlay.listeners); listens != 1 {
		t.Errorf("%d receive sockets, want 1", listens)
	}
	if err := h.Close(); err != nil || h.underlay.sets != h.underlay.released {
		t.Errorf("%d of %d sets of source ports given back (%v)", h.underlay.released, h.underlay.sets, err)
	}
}

// TestNoticesOfMany: what holds for many peers at once is one line of the log, and for one it
// names that.
func TestNoticesOfMany(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.log = zap.New(core)
	for i := range 2 {
		cfg := testTunnel(fmt.Sprint("gnv", i))
		cfg.VNI = packet.VNI(i)
		for j := range 300 {
			cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(j)})
		}
		h.add(cfg)
	}
	for _, step := range []struct {
		text  string
		peers int
		do    func()
	}{
		{"no route to the peer", 600, func() { h.underlay.mtu = 0; h.checkPaths(anyPeer) }},
		{"a route to the peer has come", 600, func() { h.underlay.mtu = 1500; h.checkPaths(anyPeer) }},
		{"no route to the peer", 1, func() {
			h.underlay.mtu = 0
			h.checkPaths(func(t *tunnel, p *peer) bool { return p == h.tunnels["gnv1"].peers[7] })
		}},
	} {
		logged.TakeAll()
		step.do()
		lines := logged.FilterMessage(step.text).TakeAll()
		if len(lines) != 1 {
			t.Fatalf("%s for %d: %d lines, want 1", step.text, step.peers, len(lines))
		}
		fields := lines[0].ContextMap()
		if step.peers == 1 && (fields["device"] != "gnv1" || fields["remote"] != scalePeer(7).String() || fields["err"] == nil) ||
			step.peers > 1 && (fields["peers"] != int64(step.peers) || len(fields["first"].([]any)) != maxFlaps) {
			t.Errorf("%s for %d: %v", step.text, step.peers, fields)
		}
	}
}

// entriesOf are the entries of tunnels.
func entriesOf(e *Endpoint, names ...string) (all []FDBEntry) {
	for _, entry := range e.FDB(names...) {
		all = append(all, entry)
	}
	return all
}

// TestFDBOfOne: the entries of one tunnel are told without those of others, and all of them
// without names.
func TestFDBOfOne(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	for i := range 3 {
		cfg := testTunnel(fmt.Sprint("gnv", i), "192.0.2.2")
		cfg.VNI = packet.VNI(i)
		h.add(cfg)
		h.tunnels[cfg.Device.Name].domains[0].fdb.Learn(scaleMAC(i), 1, h.clock())
	}
	for _, tc := range []struct {
		names []string
		want  int // with the flood list
	}{{nil, 6}, {[]string{"gnv1"}, 2}, {[]string{"gnv1", "gnv2"}, 4}, {[]string{"gnv7"}, 0}} {
		entries := entriesOf(h.Endpoint, tc.names...)
		for _, e := range entries {
			if len(tc.names) > 0 && !slices.Contains(tc.names, e.Tunnel) {
				t.Errorf("of %v: one of %s", tc.names, e.Tunnel)
			}
		}
		if len(entries) != tc.want {
			t.Errorf("of %v: %d entries, want %d", tc.names, len(entries), tc.want)
		}
	}
}

// peersHost is a host with one tunnel of n peers.
func peersHost(b *testing.B, n int) (*Endpoint, Tunnel) {
	cfg := testTunnel("gnv0")
	for i := range n {
		cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
	}
	e := scaleHost(b)
	if err := e.Add(cfg); err != nil {
		b.Fatal(err)
	}
	return e, cfg
}

// BenchmarkPeers is what one change of a tunnel with many peers costs: of a setting, and of
// one peer, which comes and goes.
func BenchmarkPeers(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		update := func(b *testing.B, e *Endpoint, edit func(*Tunnel) error) {
			if err := e.Update("gnv0", edit); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("set/%d", n), func(b *testing.B) {
			e, _ := peersHost(b, n)
			b.ReportAllocs()
			for b.Loop() {
				update(b, e, func(cfg *Tunnel) error { cfg.TTL = 64 + cfg.TTL%2; return nil })
			}
		})
		add := func(cfg *Tunnel) error {
			cfg.Peers = append(slices.Clip(cfg.Peers), Peer{Remote: scalePeer(n)})
			return nil
		}
		del := func(cfg *Tunnel) error { cfg.Peers = cfg.Peers[:n]; return nil }
		b.Run(fmt.Sprintf("add/%d", n), func(b *testing.B) {
			e, _ := peersHost(b, n)
			b.ReportAllocs()
			for b.Loop() {
				update(b, e, add)
				b.StopTimer()
				update(b, e, del)
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("del/%d", n), func(b *testing.B) {
			e, _ := peersHost(b, n)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				update(b, e, add)
				b.StartTimer()
				update(b, e, del)
			}
		})
	}
}

// BenchmarkTunnels is what one change of one of many tunnels costs.
func BenchmarkTunnels(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("set/%d", n), func(b *testing.B) {
			e := scaleHost(b)
			var c Change
			for i := range n {
				cfg := testTunnel(fmt.Sprint("gnv", i), "198.51.100.1", "198.51.100.2")
				cfg.VNI = packet.VNI(i)
				c.Add = append(c.Add, cfg)
			}
			if err := e.Apply(c); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				err := e.Update("gnv0", func(cfg *Tunnel) error { cfg.TTL = 64 + cfg.TTL%2; return nil })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestFewerQueues: a device has as many queues as were asked for, at most one for each worker, and
// every worker writes to it.
func TestFewerQueues(t *testing.T) {
	for _, tc := range []struct{ asked, workers, want int }{{0, 4, 4}, {1, 4, 1}, {2, 4, 2}, {3, 4, 3}, {9, 4, 4}, {1, 1, 1}} {
		h := newHost(t, new(memWire), tc.workers, "192.0.2.1")
		cfg := testTunnel("gnv0", "192.0.2.2")
		cfg.Device.Queues = tc.asked
		dev := h.add(cfg)
		port := h.pool.Snapshot().Ports[0]
		if len(dev.queues) != tc.want || len(port.Queues) != tc.want || h.State().Tunnels[0].Queues != tc.want {
			t.Errorf("%d of %d workers: %d queues, %d are read, %d told; want %d", tc.asked, tc.workers, len(dev.queues), len(port.Queues), h.State().Tunnels[0].Queues, tc.want)
		}
		if n := h.pool.Polled(); n != tc.want+tc.workers {
			t.Errorf("%d of %d workers: %d descriptors are waited for, want %d queues and %d sockets", tc.asked, tc.workers, n, tc.want, tc.workers)
		}
		for i, w := range port.Writers {
			if w != netio.Writer(dev.queues[i%tc.want]) {
				t.Errorf("worker %d of %d writes to another queue than that", i, tc.workers)
			}
		}
		if len(port.Writers) != tc.workers {
			t.Errorf("%d of %d workers write", len(port.Writers), tc.workers)
		}
		// They stay with the next versions.
		if err := h.Update("gnv0", func(cfg *Tunnel) error { cfg.TTL = 9; return nil }); err != nil {
			t.Fatal(err)
		}
		if next := h.pool.Snapshot().Ports[0]; !slices.Equal(next.Writers, port.Writers) || len(next.Queues) != tc.want {
			t.Error("a change of something else changed the writers")
		}
	}
}

// TestChangeAmongMany: what one change of one tunnel allocates hardly depends on how many others
// there are, and a failed one leaves all of them. Bytes are counted: a list of all tunnels takes 8 or 32 for
// each, a map 60.
func TestChangeAmongMany(t *testing.T) {
	const few, many = 50, 800
	cost := func(tunnels int) float64 {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		var c Change
		for i := range tunnels {
			cfg := testTunnel(fmt.Sprint("gnv", i), "198.51.100.1")
			cfg.VNI = packet.VNI(i)
			c.Add = append(c.Add, cfg)
		}
		if err := h.Apply(c); err != nil {
			t.Fatal(err)
		}
		set := func(ttl int) {
			if err := h.Update("gnv7", func(cfg *Tunnel) error { cfg.TTL = ttl; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		set(8)
		const turns = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range turns {
			set(9 + i)
		}
		runtime.ReadMemStats(&after)
		// Of a change that fails nothing is left.
		bad := testTunnel("gnv9", "198.51.100.1")
		bad.VNI = 8
		if err := h.Apply(Change{Remove: []string{"gnv3"}, Set: []Tunnel{bad}, Add: []Tunnel{testTunnel("other", "198.51.100.9")}}); err == nil {
			t.Fatal("a VNI that another tunnel has was taken")
		}
		snap := h.pool.Snapshot()
		if len(h.tunnels) != tunnels || len(h.owners) != tunnels || len(snap.Ports) != tunnels || snap.VNIs.Len() != tunnels {
			t.Errorf("%d tunnels, %d owners, %d ports and %d VNIs, want %d of each", len(h.tunnels), len(h.owners), len(snap.Ports), snap.VNIs.Len(), tunnels)
		}
		for _, p := range snap.Ports {
			now := h.tunnels[p.Name]
			if now.port != p || h.owners[now.state] != now || now.state.Current.Load() != p {
				t.Fatalf("%s is not what it was", p.Name)
			}
		}
		if port := h.tunnels["gnv7"].port; port.Segment.TTL != 8+turns {
			t.Errorf("workers see ttl %d, want %d", port.Segment.TTL, 8+turns)
		}
		return float64(after.TotalAlloc-before.TotalAlloc) / turns
	}
	if each := (cost(many) - cost(few)) / (many - few); each > 130 {
		t.Errorf("a change takes %.0f bytes for each other tunnel, want at most 130", each)
	}
}

// TestChangeAmongEntries: a change of a tunnel with many entries looks at those that it concerns. What
// it takes does not depend on their number, and what was checked once is not read again: here another destination
// is written over it, which nobody asks a route for. A VLAN more leaves what is in the others.
func TestChangeAmongEntries(t *testing.T) {
	const few, many, turns = 100, 6000, 5
	group := packet.MAC{1, 0, 0x5e, 0, 0, 9}
	steps := []struct {
		name string
		do   func(h *host, i int) error
	}{
		{"a setting", func(h *host, i int) error {
			return h.Update("gnv0", func(cfg *Tunnel) error { cfg.TTL = 9 + i; return nil })
		}},
		{"a VLAN", func(h *host, i int) error {
			return h.Update("gnv0", func(cfg *Tunnel) error {
				cfg.VLANs = append(slices.Clip(cfg.VLANs), VLANRange{First: uint16(20 + i), Last: uint16(20 + i), VNI: packet.VNI(520 + i)})
				return nil
			})
		}},
		{"a peer", func(h *host, i int) error {
			return h.Update("gnv0", func(cfg *Tunnel) error {
				cfg.Peers = append(slices.Clip(cfg.Peers), Peer{Remote: scalePeer(7000 + i)})
				return nil
			})
		}},
		{"an entry", func(h *host, i int) error {
			return h.SetEntry("gnv0", EntryAdd, Entry{MAC: scaleMAC(many + i), Remote: scalePeer(1)})
		}},
		{"one less", func(h *host, i int) error { return h.DeleteEntry("gnv0", Entry{MAC: scaleMAC(many + i)}) }},
		{"a destination of a group", func(h *host, i int) error {
			return h.SetEntry("gnv0", EntryAppend, Entry{MAC: group, Remote: scalePeer(i)})
		}},
		{"that goes", func(h *host, i int) error {
			return h.DeleteEntry("gnv0", Entry{MAC: group, Remote: scalePeer(i)})
		}},
	}
	cost := func(entries int) (each []float64) {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		cfg := testTunnel("gnv0")
		for i := range 8 {
			cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
		}
		cfg.VLANs = []VLANRange{{First: 10, Last: 11, VNI: 510}}
		for i := range entries {
			cfg.Entries = append(cfg.Entries, Entry{MAC: scaleMAC(i), VLAN: uint16(i%2) * 10, Remote: scalePeer(i % 8)})
		}
		h.add(cfg)
		for i := range cfg.Entries {
			cfg.Entries[i].Remote = scalePeer(30_000 + i)
		}
		for _, step := range steps {
			var before, after runtime.MemStats
			asked := h.underlay.asked
			runtime.ReadMemStats(&before)
			for i := range turns {
				if err := step.do(h, i); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
			}
			runtime.ReadMemStats(&after)
			if n := h.underlay.asked - asked; n > 2*turns {
				t.Errorf("%s: %d routes were asked for in %d turns", step.name, n, turns)
			}
			each = append(each, float64(after.TotalAlloc-before.TotalAlloc)/turns)
		}
		now := h.tunnels["gnv0"]
		for i := range entries {
			d := now.domain(uint16(i%2) * 10)
			if have, ok := d.fdb.Get(scaleMAC(i), h.clock()); !ok || now.port.Segment.Remote(have.Nexthop).Addr() != scalePeer(i%8) {
				t.Fatalf("entry %d is %v", i, have)
			}
		}
		return each
	}
	base, big := cost(few), cost(many)
	for i, step := range steps {
		if each := (big[i] - base[i]) / (many - few); each > 8 {
			t.Errorf("%s takes %.1f bytes for each other entry, %.0f with %d, want none", step.name, each, big[i], many)
		}
	}
}

// partsOf are the parts of a map of a snapshot.
func partsOf(shards any) (all []uintptr) {
	parts := reflect.ValueOf(shards).Field(0)
	for i := range parts.Len() {
		all = append(all, parts.Index(i).Pointer())
	}
	return all
}

// TestSharedSnapshot: the next snapshot has the parts of the maps of the last one that a change does
// not concern, whatever it is a change of, and others, with what is true now, of those it does.
func TestSharedSnapshot(t *testing.T) {
	const tunnels = 300
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	var c Change
	for i := range tunnels {
		cfg := testTunnel(fmt.Sprint("gnv", i), "198.51.100.1")
		cfg.VNI = packet.VNI(i)
		c.Add = append(c.Add, cfg)
	}
	if err := h.Apply(c); err != nil {
		t.Fatal(err)
	}
	prefix := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	for _, step := range []struct {
		name string
		most int // parts that are not shared
		edit func(*Tunnel)
	}{
		{"a setting", 0, func(cfg *Tunnel) { cfg.TTL = 9 }},
		{"one peer more", 3, func(cfg *Tunnel) { cfg.Peers = append(slices.Clip(cfg.Peers), Peer{Remote: scalePeer(1)}) }},
		{"source ports", 4, func(cfg *Tunnel) { cfg.SrcPorts = 2 }}, // two peers, each in two maps
		{"accept", 1, func(cfg *Tunnel) { cfg.Accept = prefix }},
		{"a setting with accept", 0, func(cfg *Tunnel) { cfg.TTL = 10 }},
		{"the first VLANs", 6 + 2*3, func(cfg *Tunnel) { cfg.VLANs = []VLANRange{{First: 10, Last: 12, VNI: 5010}} }},
		{"a setting of a trunk", 0, func(cfg *Tunnel) { cfg.TTL = 11 }},
		{"one VLAN more", 2, func(cfg *Tunnel) {
			cfg.VLANs = append(slices.Clip(cfg.VLANs), VLANRange{First: 20, Last: 20, VNI: 5020})
		}},
		{"a VLAN moves", 2 * 2, func(cfg *Tunnel) {
			cfg.VLANs = []VLANRange{{First: 10, Last: 12, VNI: 5010}, {First: 20, Last: 20, VNI: 5021}}
		}},
		{"without accept", 5, func(cfg *Tunnel) { cfg.Accept = nil }},
		{"another prefix", 5, func(cfg *Tunnel) { cfg.Accept = prefix }},
		{"without VLANs", 6 + 2*4, func(cfg *Tunnel) { cfg.VLANs = nil }},
		{"without accept again", 1, func(cfg *Tunnel) { cfg.Accept = nil }},
	} {
		last := h.pool.Snapshot()
		if err := h.Update("gnv1", func(cfg *Tunnel) error { step.edit(cfg); return nil }); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		snap, now := h.pool.Snapshot(), h.tunnels["gnv1"]
		other := 0
		for _, maps := range [][2]any{
			{snap.Admit, last.Admit}, {snap.Sources, last.Sources}, {snap.Peers, last.Peers},
			{snap.VNIs, last.VNIs}, {snap.Trunks, last.Trunks}, {snap.Open, last.Open},
		} {
			before := partsOf(maps[1])
			for i, p := range partsOf(maps[0]) {
				if p != before[i] {
					other++
				}
			}
		}
		if other > step.most {
			t.Errorf("%s: %d parts of maps are not shared, want %d at most", step.name, other, step.most)
		}
		for i, p := range snap.Ports {
			if (p == last.Ports[i]) == (p.Name == "gnv1") {
				t.Errorf("%s: the port of %s is the same: %v", step.name, p.Name, p == last.Ports[i])
			}
		}
		checkArrivals(t, step.name, snap, now)
	}
}

// checkArrivals checks what a snapshot says of VNIs that a tunnel has, had, or never had.
func checkArrivals(t *testing.T, step string, snap *forward.Snapshot, now *tunnel) {
	t.Helper()
	s, from := now.sockets[0], netip.MustParseAddr("198.51.100.1")
	has := map[packet.VNI]bool{now.config.VNI: true}
	for _, r := range now.config.VLANs {
		for i := range packet.VNI(r.Last-r.First) + 1 {
			has[r.VNI+i] = true
		}
	}
	for _, vni := range []packet.VNI{now.config.VNI, 5009, 5010, 5012, 5013, 5020, 5021} {
		var open *forward.Port
		if has[vni] && len(now.config.Accept) > 0 {
			open = now.port
		}
		if known, got := snap.Listening(s.Key(vni)); known != has[vni] || got != open {
			t.Errorf("%s: VNI %d is known %v, with the port %p that takes in others; want %v and %p", step, vni, known, got, has[vni], open)
		}
		key := s.Admission(vni, from)
		p, seg := snap.Admitted(&key)
		if (p != nil) != has[vni] || p != nil && (seg.VNI != vni || p.Port() != now.port) {
			t.Errorf("%s: with VNI %d its peer is admitted %v, to %v", step, vni, p != nil, seg)
		}
	}
}

// TestTrunksAlike: trunks that have all their peers in common, or all their VNIs, are told apart,
// and who would have both is refused. When they go nothing is left of them.
func TestTrunksAlike(t *testing.T) {
	const trunks = 20
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	trunk := func(i int, first packet.VNI, remote netip.Addr) Tunnel {
		cfg := testTunnel(fmt.Sprint("gnv", i), remote.String())
		cfg.NoVNI, cfg.VNI = true, 0
		cfg.VLANs = []VLANRange{{First: 1, Last: 3, VNI: first}}
		return cfg
	}
	want := make(map[forward.Admission]string)
	add := func(cfg Tunnel) {
		t.Helper()
		if err := h.Add(cfg); err != nil {
			t.Fatal(err)
		}
		s := h.tunnels[cfg.Device.Name].sockets[0]
		for i := range packet.VNI(3) {
			want[s.Admission(cfg.VLANs[0].VNI+i, cfg.Peers[0].Remote)] = cfg.Device.Name
		}
	}
	check := func(step string) {
		t.Helper()
		for key, name := range want {
			p, seg := h.pool.Snapshot().Admitted(&key)
			if name == "" {
				if p != nil {
					t.Errorf("%s: %v is admitted to %s", step, key, p.Port().Name)
				}
			} else if p == nil || p.Port().Name != name || seg.VNI != key.VNI || p.Dest.Remote.Addr() != key.Source {
				t.Errorf("%s: %v is admitted as %v, want %s", step, key, p, name)
			}
		}
	}
	remote := scalePeer(999)
	for i := range trunks { // one remote, and VNIs of their own
		add(trunk(i, packet.VNI(1000+10*i), remote))
	}
	for i := range trunks { // the VNIs of the first, and a remote of their own
		add(trunk(trunks+i, 1000, scalePeer(i)))
	}
	check("all")
	if h.Add(trunk(99, 1000+10*7+2, remote)) == nil {
		t.Error("a VLAN was taken with the VNI that another trunk has with the same peer")
	}
	plain := testTunnel("plain", remote.String())
	plain.VNI = 1000 + 10*3
	if h.Add(plain) == nil {
		t.Error("a tunnel was taken with the VNI that a trunk has with the same peer")
	}
	plain.VNI = 5
	add5 := h.Add(plain)
	if add5 != nil {
		t.Fatal(add5)
	}
	if err := h.Update("gnv3", func(cfg *Tunnel) error {
		cfg.VLANs = append(slices.Clip(cfg.VLANs), VLANRange{First: 9, Last: 9, VNI: 5})
		return nil
	}); err == nil {
		t.Error("a VLAN was added with the VNI that a tunnel has with the same peer")
	}
	check("after what was refused")
	for i := range 2 * trunks {
		if i%3 == 0 {
			continue
		}
		name := fmt.Sprint("gnv", i)
		if err := h.Remove(name); err != nil {
			t.Fatal(err)
		}
		for key, of := range want {
			if of == name {
				want[key] = ""
			}
		}
	}
	check("some are gone")
	for _, p := range h.pool.Snapshot().Ports {
		if err := h.Remove(p.Name); err != nil {
			t.Fatal(err)
		}
	}
	if left := h.admit.Len() + h.sources.Len() + h.byID.Len() + h.remotes.Len() + h.vnis.Len() + h.trunks.Len() + h.admitted.open.Len(); left != 0 {
		t.Errorf("%d keys are left of tunnels that are gone", left)
	}
}

// TestPointedPeers: what one look at each table says of all peers is what a look at each peer says.
func TestPointedPeers(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0")
	cfg.VLANs = []VLANRange{{First: 1, Last: 50, VNI: 1001}}
	for i := range 30 {
		cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
	}
	h.add(cfg)
	now := h.tunnels["gnv0"]
	for i, p := range now.peers {
		switch i % 3 {
		case 0: // learned in one VLAN, and gone again from another
			now.domains[i+1].fdb.Learn(scaleMAC(i), p.Nexthop, h.clock())
			now.domains[i+2].fdb.Learn(scaleMAC(i), p.Nexthop, h.clock())
			if err := now.domains[i+2].fdb.Delete(scaleMAC(i), h.clock()); err != nil {
				t.Fatal(err)
			}
		case 1: // gone everywhere
			now.domains[i].fdb.Learn(scaleMAC(i), p.Nexthop, h.clock())
			if err := now.domains[i].fdb.Delete(scaleMAC(i), h.clock()); err != nil {
				t.Fatal(err)
			}
		}
	}
	pointed := now.pointedPeers()
	for i, p := range now.peers {
		if want := i%3 == 0; pointed[p.Nexthop] != want || now.pointedAt(p) != want {
			t.Errorf("peer %d is pointed at: %v, by itself %v, want %v", i, pointed[p.Nexthop], now.pointedAt(p), want)
		}
	}
	tm, at, _ := now.remember(h.Endpoint)
	if len(tm.Destinations) != 10 || len(at) != 11 {
		t.Errorf("%d destinations are remembered, and %d nexthops, want 10 and 11", len(tm.Destinations), len(at))
	}
}
