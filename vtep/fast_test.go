package vtep

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// memFast notes what it is told.
type memFast struct {
	seed    uint64
	tunnels map[uint32]netio.FastTunnel
	entries map[packet.MAC]int32
	counts  map[int32]netio.FastCounts
	heard   map[packet.MAC]time.Duration // behind whom the entries say
	sets    int
	ports   []uint16
}

func newMemFast() *memFast {
	return &memFast{
		tunnels: make(map[uint32]netio.FastTunnel), entries: make(map[packet.MAC]int32),
		counts: make(map[int32]netio.FastCounts), heard: make(map[packet.MAC]time.Duration),
	}
}

func (f *memFast) Start(seed uint64) { f.seed = seed }

func (f *memFast) Listen(ports []uint16) { f.ports = ports }

func (f *memFast) Set(t netio.FastTunnel) map[int32]netio.FastCounts {
	f.sets++
	f.tunnels[t.Port] = t
	last := make(map[int32]netio.FastCounts)
	for id, c := range f.counts {
		there := false
		for _, p := range t.Peers {
			there = there || p.ID == id
		}
		if !there {
			last[id] = c
			delete(f.counts, id)
		}
	}
	return last
}

func (f *memFast) Remove(port uint32) map[int32]netio.FastCounts {
	delete(f.tunnels, port)
	last := maps.Clone(f.counts)
	clear(f.counts)
	return last
}

func (f *memFast) Entry(_ uint32, mac packet.MAC, peer int32) { f.entries[mac] = peer }

func (f *memFast) Counts(yield func(int32, netio.FastCounts)) {
	for id, c := range f.counts {
		yield(id, c)
	}
}

func (f *memFast) Heard(yield func(uint32, packet.MAC, int32, time.Duration, time.Duration)) {
	for port := range f.tunnels {
		for mac, ago := range f.heard {
			yield(port, mac, f.entries[mac], ago, ago)
		}
	}
}

func (f *memFast) State(uint32) netio.FastState {
	return netio.FastState{Devices: []netio.FastDevice{{Name: "eth0"}}}
}
func (f *memFast) Punts() []netio.FastPunt { return []netio.FastPunt{{Reason: "group", Count: 1}} }

// newFastHost is a host with a fast path and routes to two peers.
func newFastHost(t *testing.T) (*host, *memFast) {
	t.Helper()
	fast := newMemFast()
	h := &host{t: t, devices: &memDevices{t: t}, underlay: newMemUnderlay(t, new(memWire), "192.0.2.1")}
	for _, to := range []string{"192.0.2.2", "192.0.2.3"} {
		h.underlay.to(to, netio.Route{Source: addr("192.0.2.1"), MTU: 1500, Link: 1500})
	}
	var err error
	if h.Endpoint, err = New(Config{Workers: 1, Devices: h.devices, Underlay: h.underlay, FastPath: fast}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, fast
}

func fastTunnelOf(remotes ...string) Tunnel {
	cfg := testTunnel("gnv0", remotes...)
	cfg.FastPath = spec.FastOn
	return cfg
}

// only is the one tunnel that was told of.
func (f *memFast) only(t *testing.T) netio.FastTunnel {
	t.Helper()
	for _, told := range f.tunnels {
		if len(f.tunnels) == 1 {
			return told
		}
	}
	t.Fatalf("told of %d tunnels, want 1", len(f.tunnels))
	return netio.FastTunnel{}
}

// TestFastTold: all of a peer and its admission is told, and again only when it has changed.
func TestFastTold(t *testing.T) {
	h, fast := newFastHost(t)
	cfg := fastTunnelOf("192.0.2.2")
	cfg.TOS, cfg.TTL, cfg.Mark = 0xb8, Inherit, 7
	cfg.Peers[0].BUMLimit = 10
	dev := h.add(cfg)
	want := netio.FastTunnel{Ifindex: dev.index, Name: "gnv0", MAC: macA, Peers: []netio.FastPeer{{
		Ifindex: h.underlay.routeVia, Source: addr("192.0.2.1"), Remote: h.tunnels["gnv0"].peers[0].Dest.Remote,
		Header: [8]byte{0, 0, 0x65, 0x58, 0x12, 0x34, 0x56}, Ports: []uint16{50000, 50001}, Mark: 7, TTL: 64, TOS: 0xb8,
		InheritTTL: true, Limit: 1464, FloodLimited: true,
		Admit: []netio.FastAdmission{{VNI: testVNI, Local: addr("192.0.2.1"), Port: 6081}},
	}}}
	ignore := []cmp.Option{cmpopts.IgnoreFields(netio.FastTunnel{}, "Port"), cmpopts.IgnoreFields(netio.FastPeer{}, "ID"), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}
	if diff := cmp.Diff(want, fast.only(t), ignore...); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if fast.seed == 0 || !slices.Equal(fast.ports, []uint16{6081}) {
		t.Errorf("the key of the hash is %d, ports %d", fast.seed, fast.ports)
	}
	sets := fast.sets
	h.add(testTunnel("gnv1", "192.0.2.3"))
	if fast.sets != sets || len(fast.tunnels) != 1 {
		t.Errorf("another tunnel: told %d times again, %d tunnels", fast.sets-sets, len(fast.tunnels))
	}
	h.underlay.to("192.0.2.2", netio.Route{Source: addr("192.0.2.9"), MTU: 1400, Link: 1400})
	h.checkPaths(anyPeer)
	if p := fast.only(t).Peers[0]; p.Source != addr("192.0.2.9") || p.Limit != 1364 {
		t.Errorf("another route: source %s, limit %d", p.Source, p.Limit)
	}
	// A way that the kernel would not find without ports.
	for _, hop := range []string{"192.0.2.2", "192.0.2.254"} {
		route := netio.Route{Source: addr("192.0.2.1"), MTU: 1500, Link: 1500, BySocket: true}
		if hop != "192.0.2.2" {
			route.Gateway = addr(hop)
		}
		h.underlay.to("192.0.2.2", route)
		h.checkPaths(anyPeer)
		if got := fast.only(t).Peers[0].NextHop; got != addr(hop) {
			t.Errorf("route %+v: next hop %s", route, got)
		}
	}
	// A path that is narrower than its link although nothing was learned is IPsec's.
	h.underlay.to("192.0.2.2", netio.Route{Source: addr("192.0.2.1"), MTU: 1438, Link: 1500})
	h.checkPaths(anyPeer)
	if n := len(fast.only(t).Peers); n != 0 {
		t.Errorf("behind IPsec: %d peers", n)
	}
	if err := h.Remove("gnv0"); err != nil || len(fast.tunnels) != 0 {
		t.Errorf("removed: %v, %d tunnels", err, len(fast.tunnels))
	}
}

// TestFastNot: what is not for the fast path is not told, and why is.
func TestFastNot(t *testing.T) {
	for want, edit := range map[string]func(*Tunnel){
		"off":             func(c *Tunnel) { c.FastPath = spec.FastOff },
		"mode l3":         func(c *Tunnel) { c.Device.L3, c.Device.LLAddr = true, packet.MAC{} },
		"trunks":          func(c *Tunnel) { c.VLANs = []VLANRange{{First: 1, Last: 1, VNI: 1}} },
		"encap vxlan":     func(c *Tunnel) { c.Encap = encap.VXLAN },
		"options":         func(c *Tunnel) { c.OptionRules = make([]option.Rule, 1) },
		"df inherit":      func(c *Tunnel) { c.DF = DFInherit },
		"ageing":          func(c *Tunnel) { c.Ageing = 3 * time.Second },
		"64 source ports": func(c *Tunnel) { c.SrcPorts = 65 },
		"namespace":       func(c *Tunnel) { c.Device.Netns = "blue" },
	} {
		h, fast := newFastHost(t)
		cfg := fastTunnelOf("192.0.2.2")
		edit(&cfg)
		h.add(cfg)
		if s := h.State().Tunnels[0].Fast; len(fast.tunnels) != 0 || !strings.Contains(s.Reason, want) {
			t.Errorf("%s: told of %d tunnels, reason %q", want, len(fast.tunnels), s.Reason)
		}
	}
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(fastTunnelOf("192.0.2.2"))
	if s := h.State().Tunnels[0].Fast; s.Reason == "" {
		t.Error("without a fast path no reason is told")
	}
}

// TestFastEntries: entries are told as they come, move and go, those that are there when it
// is switched on, and no others.
func TestFastEntries(t *testing.T) {
	h, fast := newFastHost(t)
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	h.add(cfg)
	tun := h.tunnels["gnv0"]
	table, first, second := tun.domains[0].fdb, tun.peers[0], tun.peers[1]
	c, d := packet.MAC{2, 0, 0, 0, 0, 0xc}, packet.MAC{2, 0, 0, 0, 0, 0xd}
	table.Learn(macB, first.Nexthop, h.clock())
	if len(fast.entries) != 0 {
		t.Errorf("off, and told of %v", fast.entries)
	}
	set := func(f spec.FastPath) {
		if err := h.Update("gnv0", func(c *Tunnel) error { c.FastPath = f; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, want map[packet.MAC]int32) {
		t.Helper()
		if !maps.Equal(fast.entries, want) {
			t.Errorf("%s: told of %v, want %v", when, fast.entries, want)
		}
	}
	set(spec.FastOn)
	check("on", map[packet.MAC]int32{macB: first.ID})
	table.Learn(c, 0, h.clock())
	check("here", map[packet.MAC]int32{macB: first.ID, c: 0})
	table.Learn(macB, second.Nexthop, h.clock())
	check("moved", map[packet.MAC]int32{macB: second.ID, c: 0})
	table.Delete(c, h.clock())
	check("deleted", map[packet.MAC]int32{macB: second.ID, c: netio.FastNowhere})
	port := h.tunnels["gnv0"].port
	port.Segment.Nexthops = append(port.Segment.Nexthops, []*forward.Peer{first.Peer, second.Peer}, []*forward.Peer{first.Peer})
	for i := range fdb.Nexthop(2) {
		table.Learn(d, fdb.Nexthop(len(port.Segment.Nexthops))-1-i, h.clock())
		check("of a set", map[packet.MAC]int32{macB: second.ID, c: netio.FastNowhere, d: netio.FastNowhere})
	}
	table.Delete(d, h.clock())
	if err := h.Update("gnv0", func(c *Tunnel) error { c.Peers = c.Peers[:1]; return nil }); err != nil {
		t.Fatal(err)
	}
	if fast.entries[macB] != netio.FastNowhere {
		t.Errorf("behind a removed peer: %v", fast.entries)
	}
	set(spec.FastOff)
	table.Learn(c, 0, h.clock())
	if fast.entries[c] != netio.FastNowhere {
		t.Error("told of an entry after it was switched off")
	}
}

// TestFastCounts: what the fast path counts is counted once, and of a removed peer to the
// last packet.
func TestFastCounts(t *testing.T) {
	h, fast := newFastHost(t)
	h.add(fastTunnelOf("192.0.2.2", "192.0.2.3"))
	id := h.tunnels["gnv0"].peers[0].ID
	fast.counts[id] = netio.FastCounts{RxPackets: 2, RxBytes: 20, TxPackets: 3, TxBytes: 30, Seen: 0}
	for range 3 {
		s := h.State().Tunnels[0]
		if got := s.Stats; got.RxPackets != 2 || got.RxBytes != 20 || got.TxPackets != 3 || got.TxBytes != 30 || s.Fast.RxPackets != 2 || s.Fast.TxPackets != 3 {
			t.Fatalf("counted %+v, by the fast path %+v", got, s.Fast)
		}
		if ago := time.Since(s.Peers[0].LastSeen); ago < 0 || ago > time.Second || !s.Peers[1].LastSeen.IsZero() {
			t.Errorf("last seen %v ago", ago)
		}
	}
	fast.counts[id] = netio.FastCounts{RxPackets: 5, RxBytes: 50, TxPackets: 3, TxBytes: 30, Seen: -1}
	if err := h.Update("gnv0", func(c *Tunnel) error { c.Peers = c.Peers[1:]; return nil }); err != nil {
		t.Fatal(err)
	}
	if s := h.State().Tunnels[0].Stats; s.RxPackets != 5 || s.RxBytes != 50 || s.TxPackets != 3 {
		t.Errorf("after the peer was removed: %+v", s)
	}
}

// TestFastHeard: what only the fast path hears does not age.
func TestFastHeard(t *testing.T) {
	h, fast := newFastHost(t)
	h.add(fastTunnelOf("192.0.2.2"))
	tun := h.tunnels["gnv0"]
	table, via := tun.domains[0].fdb, tun.peers[0].Nexthop
	silent := packet.MAC{2, 0, 0, 0, 0, 0xc}
	start := h.clock()
	table.Learn(macB, via, start-int64(299*time.Second))
	table.Learn(silent, via, start-int64(299*time.Second))
	fast.heard[macB] = 0
	h.pullHeard()
	later := start + int64(2*time.Second)
	if _, ok := table.Lookup(macB, later); !ok {
		t.Error("an entry has aged that was heard")
	}
	if _, ok := table.Lookup(silent, later); ok {
		t.Error("an entry that was not heard has not aged")
	}
}

// TestFastBridge: a device in a bridge is carried as long as no way to a peer leads by that
// bridge; else what comes out of the device has to be looked at.
func TestFastBridge(t *testing.T) {
	h, fast := newFastHost(t)
	dev := h.add(fastTunnelOf("192.0.2.2"))
	bridge := func(ifindex int) {
		h.underlay.mu.Lock()
		h.underlay.uppers = []netio.Upper{{Ifindex: ifindex, Below: []int{dev.index}, Joint: "br0", Bridge: ifindex}}
		h.underlay.mu.Unlock()
		h.lookAbove()
	}
	bridge(h.underlay.routeVia + 100)
	if h.pool.Snapshot().Guard == nil || len(fast.tunnels) != 1 {
		t.Errorf("in a bridge: told of %d tunnels, want it carried", len(fast.tunnels))
	}
	bridge(h.underlay.routeVia)
	if s := h.State().Tunnels[0].Fast; len(fast.tunnels) != 0 || !strings.Contains(s.Reason, "bridge") {
		t.Errorf("in the bridge that the way to a peer leads by: told of %d tunnels, reason %q", len(fast.tunnels), s.Reason)
	}
}

// TestFastDown: a device that is down is not carried, whoever set it down, so that what comes
// for it is counted as that; when it is up again it is carried.
func TestFastDown(t *testing.T) {
	h, fast := newFastHost(t)
	dev := h.add(fastTunnelOf("192.0.2.2"))
	check := func(when string, carried bool) {
		t.Helper()
		if s := h.State().Tunnels[0].Fast; (len(fast.tunnels) == 1) != carried || !carried && s.Reason != "the device is down" {
			t.Errorf("%s: told of %d tunnels, reason %q", when, len(fast.tunnels), s.Reason)
		}
	}
	check("up", true)
	byHand := func(down bool) {
		dev.mu.Lock()
		dev.down = down
		dev.mu.Unlock()
		h.followDevices()
	}
	byHand(true)
	check("down by hand", false)
	byHand(false)
	check("up by hand", true)
	for _, down := range []bool{true, false} {
		if err := h.Update("gnv0", func(c *Tunnel) error { c.Device.Down = down; return nil }); err != nil {
			t.Fatal(err)
		}
		check("as configured", !down)
	}
}
