package vtep

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// all is whatever a change could leave behind, as text.
func (h *host) all() string {
	s := h.State()
	text := fmt.Sprint(h.underlay.opened, len(h.underlay.listeners), h.underlay.sets-h.underlay.released, h.admit.Len(), len(h.sockets), len(h.owners), len(h.tunnels), len(h.switched), h.departing == nil, h.rehearsing)
	for _, tn := range s.Tunnels {
		text += fmt.Sprintf("\n%+v %d %v", tn.Config, tn.MTU, tn.Up)
		for _, p := range tn.Peers {
			text += fmt.Sprintf("\n  %v %d %v %s", p.Remote, p.PathMTU, p.Flood, p.Error)
		}
	}
	for _, d := range h.devices.opened {
		text += fmt.Sprint("\n", d.opts.Name, d.closed, d.mtu, d.up, d.alone)
	}
	for _, e := range entriesOf(h.Endpoint) {
		e.Used, e.Updated = 0, 0
		text += fmt.Sprintf("\n%+v", e)
	}
	return text
}

// TestRehearsal: a rehearsal says what the change then says, word by word, and leaves all as it is.
func TestRehearsal(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1", "fd00::1")
	h.add(testTunnel("a", "192.0.2.2", "192.0.2.5"))
	h.add(testTunnel("b", "192.0.2.3"))
	h.step()
	with := func(name string, edit func(*Tunnel), remotes ...string) Tunnel {
		cfg := testTunnel(name, remotes...)
		edit(&cfg)
		return cfg
	}
	entry := func(last byte, remote string) Entry {
		e := Entry{MAC: packet.MAC{2, 0, 0, 0, 0, last}, State: fdb.Static}
		if remote != "" {
			e.Remote = addr(remote)
		}
		return e
	}
	flood := func(remote string) Entry { return Entry{Remote: addr(remote), State: fdb.Permanent} }
	group := entry(1, "192.0.2.2")
	group.MAC = packet.MAC{0x01, 0, 0x5e, 1, 2, 3}
	second := group
	second.Remote = addr("192.0.2.77")
	type maker interface {
		Apply(Change) error
		SetEntry(string, Verb, Entry) error
		DeleteEntry(string, Entry) error
		FlushEntries(string, func(*FDBEntry) bool) (int, error)
	}
	flush := func(m maker, name string) error {
		n, err := m.FlushEntries(name, func(e *FDBEntry) bool { return e.State == fdb.Static })
		return errors.Join(err, fmt.Errorf("%d entries", n))
	}
	add := func(cfg Tunnel) func(maker) error {
		return func(m maker) error { return m.Apply(Change{Add: []Tunnel{cfg}}) }
	}
	set := func(cfg Tunnel) func(maker) error {
		return func(m maker) error { return m.Apply(Change{Set: []Tunnel{cfg}}) }
	}
	put := func(name string, verb Verb, e Entry) func(maker) error {
		return func(m maker) error { return m.SetEntry(name, verb, e) }
	}
	del := func(name string, e Entry) func(maker) error {
		return func(m maker) error { return m.DeleteEntry(name, e) }
	}

	for _, tc := range []struct {
		name string
		do   func(maker) error
		fail func()
		fine bool
	}{
		{"add", add(testTunnel("c", "192.0.2.4")), nil, true},
		{"add it again", add(testTunnel("c", "192.0.2.4")), nil, false},
		{"add the peer of another", add(testTunnel("d", "192.0.2.3")), nil, false},
		{"add with our own address", add(testTunnel("d", "192.0.2.1")), nil, false},
		{"add two of one peer", func(m maker) error {
			return m.Apply(Change{Add: []Tunnel{testTunnel("d", "192.0.2.9"), testTunnel("e", "192.0.2.9")}})
		}, nil, false},
		{"add, and the device fails", add(testTunnel("d", "192.0.2.8")), func() { h.devices.fail = errors.New("no device today") }, false},
		{"add, and the port is taken", add(with("d", func(c *Tunnel) { c.DstPort = 7777 }, "192.0.2.8")), func() { h.underlay.listenErr = unix.EADDRINUSE }, false},
		{"set what there is not", set(testTunnel("x", "192.0.2.4")), nil, false},
		{"set what is fixed", set(with("a", func(c *Tunnel) { c.DstPort = 7000 }, "192.0.2.2")), nil, false},
		{"set the peer of another", set(testTunnel("a", "192.0.2.3")), nil, false},
		{"set", set(with("a", func(c *Tunnel) { c.TTL, c.Device.MTU, c.Device.Down, c.MaxAddress = 9, 1300, true, 7 }, "192.0.2.2", "192.0.2.6", "fd00::9")), nil, true},
		{"set a VLAN and a mark", set(with("a", func(c *Tunnel) { c.VLANs, c.Mark = []VLANRange{{First: 5, Last: 9, VNI: 50}}, 3 }, "192.0.2.2")), nil, true},
		{"set isolated, and there is no bridge", set(with("a", func(c *Tunnel) { c.Device.Isolated = true }, "192.0.2.2")),
			func() { h.devices.opened[0].refuse = errors.New("in no bridge") }, false},
		{"set back", set(testTunnel("a", "192.0.2.2")), nil, true},
		{"entry", put("a", EntryAdd, entry(1, "192.0.2.2")), nil, true},
		{"entry again", put("a", EntryAdd, entry(1, "192.0.2.2")), nil, false},
		{"entry to a new peer", put("a", EntryReplace, entry(1, "192.0.2.88")), nil, true},
		{"entry to ourselves", put("a", EntryReplace, entry(1, "192.0.2.1")), nil, false},
		{"entry of the other family", put("a", EntryReplace, entry(1, "")), nil, false},
		{"entry here", put("a", EntryAdd, Entry{MAC: packet.MAC{2, 0, 0, 0, 0, 7}, Local: true, State: fdb.Permanent}), nil, true},
		{"entry of what there is not", put("x", EntryAdd, entry(1, "192.0.2.2")), nil, false},
		{"group", put("a", EntryAppend, group), nil, true},
		{"group, second", put("a", EntryAppend, second), nil, true},
		{"group, second again", put("a", EntryAppend, second), nil, false},
		{"flood list", put("a", EntryAppend, flood("192.0.2.66")), nil, true},
		{"flood list again", put("a", EntryAppend, flood("192.0.2.66")), nil, false},
		{"delete one of the group", del("a", second), nil, true},
		{"delete it again", del("a", second), nil, false},
		{"delete of the flood list", del("a", flood("192.0.2.66")), nil, true},
		{"delete it again", del("a", flood("192.0.2.66")), nil, false},
		{"flush", func(m maker) error { return flush(m, "a") }, nil, false}, // its error is a number
		{"flush again", func(m maker) error { return flush(m, "a") }, nil, false},
		{"flush what there is not", func(m maker) error { return flush(m, "x") }, nil, false},
		{"remove", func(m maker) error { return m.Apply(Change{Remove: []string{"b"}}) }, nil, true},
		{"remove it again", func(m maker) error { return m.Apply(Change{Remove: []string{"b"}}) }, nil, false},
	} {
		if tc.fail != nil {
			tc.fail()
		}
		before, asked := h.all(), len(h.devices.opened)
		would := tc.do(h.Rehearsal())
		h.step()
		if after := h.all(); after != before || len(h.devices.opened) != asked {
			t.Errorf("%s: the rehearsal changed it from\n%s\nto\n%s", tc.name, before, after)
		}
		is := tc.do(h)
		h.step()
		if fmt.Sprint(would) != fmt.Sprint(is) || (is == nil) != tc.fine {
			t.Errorf("%s: would be %v, is %v; want it done: %t", tc.name, would, is, tc.fine)
		}
		if tc.fine && h.all() == before {
			t.Errorf("%s: done, and nothing has changed", tc.name)
		}
		h.devices.fail, h.underlay.listenErr, h.devices.opened[0].refuse = nil, nil, nil
	}
	h.Close()
	cfg := testTunnel("z", "192.0.2.9")
	if would, is := add(cfg)(h.Rehearsal()), add(cfg)(h); would == nil || fmt.Sprint(would) != fmt.Sprint(is) {
		t.Errorf("closed: would be %v, is %v", would, is)
	}
}

// TestRehearsalKeepsWay: what is known of the way to a peer stays, also where another question about
// it is asked, and a cause that waits for the kernel's word, too.
func TestRehearsalKeepsWay(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(testTunnel("a", "192.0.2.2"))
	down := testTunnel("a", "192.0.2.2")
	down.Device.Down = true
	if err := h.Apply(Change{Set: []Tunnel{down}, By: &Caller{PID: 7}}); err != nil {
		t.Fatal(err)
	}
	h.switched[h.tunnels["a"].state] = &Cause{}
	before := h.all()
	p := h.tunnels["a"].peers[0]
	limit, route := p.Limit.Load(), p.route
	h.underlay.mtu = 1280
	h.underlay.routes = map[netip.Addr]netio.Route{addr("192.0.2.2"): {Ifindex: 9, MTU: 1280, Link: 1280}}
	marked := down
	marked.Mark = 5
	for _, c := range []Change{{Set: []Tunnel{marked}}, {Remove: []string{"a"}}} {
		if err := h.Rehearsal().Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if p.Limit.Load() != limit || p.route != route || h.all() != before {
		t.Errorf("limit %d, was %d; way %+v, was %+v\nnow %s\nwas %s", p.Limit.Load(), limit, p.route, route, h.all(), before)
	}
}
