package vtep

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
)

// TestSet changes a tunnel that is there: device, counters, and what was
// learned of the peers that stay, stay.
func TestSet(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	h.step()
	hear := func(from string, src packet.MAC) {
		f := frame(broadcast, src, 0x0806, make([]byte, 28))
		h.underlay.inject(addr(from), 6081, 0, 2, len(f)+8, good(f))
		h.step()
	}
	hear("192.0.2.2", macB)
	hear("192.0.2.3", macC)

	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.4")
	cfg.TTL, cfg.MaxAddress = 9, 7
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	h.step()
	s := h.State().Tunnels[0]
	if len(h.devices.opened) != 1 || dev.closed || s.Stats.RxPackets != 2 || s.Peers[0].Stats.RxPackets != 1 || s.FDB.Limit != 7 {
		t.Errorf("after Set: %d devices, closed %v, %d packets, %d of the peer that stayed, limit %d; want 1, false, 2, 1, 7",
			len(h.devices.opened), dev.closed, s.Stats.RxPackets, s.Peers[0].Stats.RxPackets, s.FDB.Limit)
	}
	known := func(mac packet.MAC) bool {
		return slices.ContainsFunc(entriesOf(h.Endpoint), func(e FDBEntry) bool { return e.MAC == mac })
	}
	if !known(macB) || known(macC) {
		t.Errorf("address of the peer that stayed known: %v, of the one that went: %v; want true, false", known(macB), known(macC))
	}
	dev.queues[0].feed(memFrame{bytes: frame(broadcast, macA, 0x0806, make([]byte, 28))})
	h.step()
	var to []string
	for _, d := range h.underlay.sent {
		to = append(to, d.to.Addr().String())
		if d.ttl != 9 {
			t.Errorf("outer TTL %d, want 9", d.ttl)
		}
	}
	if want := []string{"192.0.2.2", "192.0.2.4"}; !slices.Equal(to, want) {
		t.Errorf("flooded to %v, want %v", to, want)
	}
	hear("192.0.2.3", macC)
	if got := h.State().Drops.Rx[count.DropUnknownPeer]; got != 1 {
		t.Errorf("unknown_peer drops %d, want 1 from the peer that went", got)
	}
}

// TestApplyAllOrNothing: whatever fails, everything is as before.
func TestApplyAllOrNothing(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1", "fd00::1")
	h.add(testTunnel("a", "192.0.2.2"))
	h.add(testTunnel("b", "192.0.2.3"))
	describe := func() string {
		s := h.State()
		text := fmt.Sprint(len(h.underlay.listeners), h.underlay.sets-h.underlay.released, h.admit.Len())
		for _, tn := range s.Tunnels {
			text += fmt.Sprint(" ", tn.Config.Device.Name, tn.Config.TTL, tn.MTU)
		}
		for _, d := range h.devices.opened {
			text += fmt.Sprint(" ", d.opts.Name, d.closed)
		}
		return text
	}
	before := describe()
	changed := testTunnel("a", "192.0.2.2", "fd00::9")
	changed.TTL = 3
	other := testTunnel("c", "192.0.2.4")
	moved := testTunnel("a", "192.0.2.2")
	moved.DstPort = 7000
	stolen := testTunnel("a", "192.0.2.3") // the peer of b, same VNI
	for name, tc := range map[string]struct {
		change Change
		want   error
	}{
		"unknown to remove": {Change{Set: []Tunnel{changed}, Remove: []string{"b", "x"}}, unix.ENOENT},
		"unknown to set":    {Change{Set: []Tunnel{changed, other}}, unix.ENOENT},
		"known to add":      {Change{Set: []Tunnel{changed}, Add: []Tunnel{testTunnel("b", "192.0.2.9")}}, unix.EEXIST},
		"fixed setting":     {Change{Set: []Tunnel{moved}, Remove: []string{"b"}}, unix.EBUSY},
		"peer of another":   {Change{Set: []Tunnel{stolen}}, unix.EEXIST},
		"bad in the middle": {Change{Set: []Tunnel{changed}, Add: []Tunnel{testTunnel("d", "192.0.2.1")}}, unix.EINVAL},
	} {
		if err := h.Apply(tc.change); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if after := describe(); after != before {
			t.Errorf("%s: was %s\nnow  %s", name, before, after)
		}
	}
	h.devices.fail = errors.New("no device today")
	if err := h.Apply(Change{Set: []Tunnel{changed}, Add: []Tunnel{other}}); !errors.Is(err, h.devices.fail) {
		t.Errorf("device fails: %v", err)
	}
	if after := describe(); after != before {
		t.Errorf("device fails: was %s\nnow  %s", before, after)
	}
}

// TestSetLosesNothing changes a tunnel again and again under traffic.
func TestSetLosesNothing(t *testing.T) {
	wire := new(memWire)
	a, b := newHost(t, wire, 2, "192.0.2.1"), newHost(t, wire, 2, "192.0.2.2")
	devA := a.add(testTunnel("gnv0", "192.0.2.2"))
	cfg := testTunnel("gnv0", "192.0.2.1")
	cfg.Device.LLAddr = macB
	devB := b.add(cfg)
	for _, q := range devB.queues {
		q.discard = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- a.Run(ctx) }()
	go func() { done <- b.Run(ctx) }()
	const frames = 2000
	go func() {
		f := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "x"))
		for i := range frames {
			devA.queues[i%2].feed(memFrame{bytes: f})
			time.Sleep(20 * time.Microsecond)
		}
	}()
	for i := range 50 {
		there, here := testTunnel("gnv0", "192.0.2.2"), cfg
		there.TTL, here.TTL = 1+i, 1+i
		if i%2 == 0 {
			there.Peers = append(there.Peers, Peer{Remote: addr("192.0.2.77")})
		}
		if err := errors.Join(a.Apply(Change{Set: []Tunnel{there}}), b.Apply(Change{Set: []Tunnel{here}})); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for b.State().Tunnels[0].Stats.RxPackets < frames && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := b.State().Tunnels[0].Stats.RxPackets; got != frames {
		t.Errorf("%d of %d frames arrived while the tunnel was changed", got, frames)
	}
	cancel()
	<-done
	<-done
}

// TestRelisten: sockets whose device has come back as another are opened anew,
// as soon as that is possible, for all tunnels that use them.
func TestRelisten(t *testing.T) {
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	a, b := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1", "192.0.2.2")
	b.VNI++
	dev := h.add(a)
	h.add(b)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()

	u := h.underlay
	listening := func() (all []*memListener) {
		u.mu.Lock()
		defer u.mu.Unlock()
		return slices.Clone(u.listeners)
	}
	if n := len(listening()); n != 1 {
		t.Fatalf("%d listeners, want 1", n)
	}
	old := listening()[0]
	refuse := func(err error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		old.stale, u.listenErr = true, err
	}
	refuse(unix.EADDRNOTAVAIL)
	h.look(t)
	if now := listening(); len(now) != 1 || now[0] != old {
		t.Fatal("the old sockets are gone and there are no others")
	}
	refuse(nil)
	h.look(t)
	for range 2000 {
		if now := listening(); len(now) == 1 && now[0] != old {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if now := listening(); len(now) != 1 || now[0] == old {
		t.Fatalf("%d listeners, the first of them the old one: %t; want one new one", len(now), now[0] == old)
	}
	hello := frame(macA, macB, 0x88b5, make([]byte, 46))
	u.inject(addr("192.0.2.2"), 6081, 0, 2, len(hello)+8, good(hello))
	arrives(t, dev, hello)
	for _, name := range []string{"gnv0", "gnv1"} {
		if err := h.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if n := len(listening()); n != 0 {
		t.Errorf("%d listeners after both tunnels are gone, want none", n)
	}
}

// look tells the endpoint of a change and waits until it has looked.
func (h *host) look(t *testing.T) {
	t.Helper()
	looks := func() int {
		h.underlay.mu.Lock()
		defer h.underlay.mu.Unlock()
		return h.underlay.renewed
	}
	for range 2 { // the first one is over when the second begins
		before := looks()
		h.underlay.changed <- netio.Changes{All: true}
		eventually(t, "the endpoint looks at changes", func() bool { return looks() > before })
	}
}

// TestMoveRemote: in one change a remote goes from one tunnel to another, whichever of
// them comes first, and a change that fails leaves all as it was.
func TestMoveRemote(t *testing.T) {
	for _, backwards := range []bool{false, true} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.add(testTunnel("gnv0", "192.0.2.2"))
		h.add(testTunnel("gnv1", "192.0.2.3", "192.0.2.4"))
		h.step()
		remotes := func() (all [2][]string) {
			for i, s := range h.State().Tunnels {
				for _, p := range s.Peers {
					all[i] = append(all[i], p.Remote.Addr().String())
				}
			}
			return all
		}
		set := []Tunnel{testTunnel("gnv0", "192.0.2.2", "192.0.2.3"), testTunnel("gnv1", "192.0.2.4")}
		if backwards {
			slices.Reverse(set)
		}
		if err := h.Apply(Change{Set: set}); err != nil {
			t.Fatalf("backwards %v: %v", backwards, err)
		}
		want := [2][]string{{"192.0.2.2", "192.0.2.3"}, {"192.0.2.4"}}
		if got := remotes(); !reflect.DeepEqual(got, want) {
			t.Errorf("backwards %v: %v, want %v", backwards, got, want)
		}
		both := []Tunnel{testTunnel("gnv0", "192.0.2.5"), testTunnel("gnv1", "192.0.2.5")}
		if err := h.Apply(Change{Set: both}); !errors.Is(err, unix.EEXIST) {
			t.Errorf("a remote in two tunnels of one VNI: %v, want EEXIST", err)
		}
		if got := remotes(); !reflect.DeepEqual(got, want) {
			t.Errorf("backwards %v: after a change that was refused %v, want %v", backwards, got, want)
		}
	}
}

// TestExchangeSockets: what a change gives up is in nobody's way, whichever of the
// two addresses is the wider one; what stays is.
func TestExchangeSockets(t *testing.T) {
	on := func(name, local, remote string) Tunnel {
		cfg := testTunnel(name, remote)
		cfg.Local = addr(local)
		return cfg
	}
	vxlan := func(cfg Tunnel) Tunnel {
		cfg.Encap = encap.VXLAN
		return cfg
	}
	both := func(name string) Tunnel { return testTunnel(name, "192.0.2.2", "fd00::2") }
	six := func(name string) Tunnel { return testTunnel(name, "fd00::2") }
	silent := func(name, local string) Tunnel { // nobody is there to be heard
		cfg := testTunnel(name)
		cfg.Local = addr(local)
		return cfg
	}
	for name, tc := range map[string]struct {
		before []Tunnel
		change Change
		refuse bool
	}{
		"any for one":                    {[]Tunnel{on("a", "0.0.0.0", "192.0.2.2")}, Change{Remove: []string{"a"}, Add: []Tunnel{on("b", "192.0.2.1", "192.0.2.2")}}, false},
		"one for any":                    {[]Tunnel{on("a", "192.0.2.1", "192.0.2.2")}, Change{Remove: []string{"a"}, Add: []Tunnel{on("b", "0.0.0.0", "192.0.2.2")}}, false},
		"two for any":                    {[]Tunnel{on("a", "192.0.2.1", "192.0.2.2"), on("b", "192.0.2.9", "192.0.2.2")}, Change{Remove: []string{"a", "b"}, Add: []Tunnel{on("c", "0.0.0.0", "192.0.2.2")}}, false},
		"one stays":                      {[]Tunnel{on("a", "192.0.2.1", "192.0.2.2"), on("b", "192.0.2.9", "192.0.2.2")}, Change{Remove: []string{"a"}, Add: []Tunnel{on("c", "0.0.0.0", "192.0.2.2")}}, true},
		"another user":                   {[]Tunnel{on("a", "0.0.0.0", "192.0.2.2"), on("b", "0.0.0.0", "192.0.2.3")}, Change{Remove: []string{"a"}, Add: []Tunnel{on("c", "192.0.2.1", "192.0.2.2")}}, true},
		"beside":                         {[]Tunnel{on("a", "0.0.0.0", "192.0.2.2")}, Change{Add: []Tunnel{on("c", "192.0.2.1", "192.0.2.2")}}, true},
		"another encap in its place":     {[]Tunnel{on("a", "0.0.0.0", "192.0.2.2")}, Change{Remove: []string{"a"}, Add: []Tunnel{vxlan(on("b", "0.0.0.0", "192.0.2.2"))}}, false},
		"another encap beside":           {[]Tunnel{on("a", "0.0.0.0", "192.0.2.2")}, Change{Add: []Tunnel{vxlan(on("c", "0.0.0.0", "192.0.2.2"))}}, true},
		"another encap, another address": {[]Tunnel{on("a", "192.0.2.1", "192.0.2.2")}, Change{Add: []Tunnel{vxlan(on("c", "192.0.2.9", "192.0.2.2"))}}, true},
		"another encap, and one stays":   {[]Tunnel{on("a", "192.0.2.1", "192.0.2.2"), on("b", "192.0.2.1", "192.0.2.3")}, Change{Remove: []string{"a"}, Add: []Tunnel{vxlan(on("c", "192.0.2.1", "192.0.2.2"))}}, true},
		"a family is given up":           {[]Tunnel{both("a")}, Change{Set: []Tunnel{six("a")}, Add: []Tunnel{on("b", "192.0.2.1", "192.0.2.2")}}, false},
		"a family is kept":               {[]Tunnel{both("a")}, Change{Set: []Tunnel{both("a")}, Add: []Tunnel{on("b", "192.0.2.1", "192.0.2.3")}}, true},
		"it is taken up later":           {[]Tunnel{both("a"), silent("b", "192.0.2.1")}, Change{Set: []Tunnel{on("b", "192.0.2.1", "192.0.2.3"), both("a")}}, true},
		"it is given up after all":       {[]Tunnel{both("a"), silent("b", "192.0.2.1")}, Change{Set: []Tunnel{on("b", "192.0.2.1", "192.0.2.3"), six("a")}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, new(memWire), 1, "192.0.2.1", "192.0.2.9", "fd00::1")
			for _, cfg := range tc.before {
				cfg.VNI = packet.VNI(cfg.Device.Name[0])
				if err := h.Add(cfg); err != nil {
					t.Fatal(err)
				}
			}
			for _, list := range [][]Tunnel{tc.change.Set, tc.change.Add} {
				for i := range list {
					list[i].VNI = packet.VNI(list[i].Device.Name[0])
				}
			}
			open := len(h.underlay.listeners)
			err := h.Apply(tc.change)
			if refused := errors.Is(err, unix.EADDRINUSE); refused != tc.refuse || err != nil && !refused {
				t.Fatalf("%v; want it refused: %v", err, tc.refuse)
			}
			h.step()
			if tc.refuse && len(h.underlay.listeners) != open {
				t.Errorf("%d listeners after a change that was refused, %d before", len(h.underlay.listeners), open)
			}
			for i, l := range h.underlay.listeners {
				for _, o := range h.underlay.listeners[:i] {
					if overlap(l.opts, o.opts) {
						t.Errorf("%v and %v are both open", l.opts, o.opts)
					}
				}
			}
			if h.departing != nil {
				t.Error("what leaves is remembered beyond the change")
			}
		})
	}
}
