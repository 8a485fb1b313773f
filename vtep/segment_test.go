package vtep

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/work"
)

var (
	macC  = packet.MAC{0x02, 0, 0, 0, 0x0c, 0x03}
	mcast = packet.MAC{0x01, 0x00, 0x5e, 0x01, 0x02, 0x03}
)

// lab is one endpoint whose test looks at what it sends.
type lab struct {
	*host
	dev *memDevice
}

func newLab(t *testing.T, cfg Tunnel) *lab {
	t.Helper()
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	l := &lab{host: h, dev: h.add(cfg)}
	h.step()
	return l
}

// out feeds a frame and returns where it went.
func (l *lab) out(dst, src packet.MAC) (to []string) {
	l.dev.queues[0].feed(memFrame{bytes: frame(dst, src, 0x88b5, make([]byte, 46))})
	l.step()
	for _, d := range l.underlay.sent {
		vni := uint32(d.bytes[4])<<16 | uint32(d.bytes[5])<<8 | uint32(d.bytes[6])
		where := d.to.Addr().String()
		if d.to.Port() != 6081 {
			where = d.to.String()
		}
		if vni != testVNI {
			where += " other vni"
		}
		to = append(to, where)
	}
	l.underlay.sent = nil
	return to
}

// in sends a frame from a VTEP and reports whether it was delivered.
func (l *lab) in(from string, dst, src packet.MAC) bool {
	f := frame(dst, src, 0x88b5, make([]byte, 46))
	l.underlay.inject(addr(from), 6081, 0, 2, len(f)+8, good(f))
	l.step()
	return len(l.dev.queues[0].take()) == 1
}

func (l *lab) wantOut(what string, got []string, want ...string) {
	l.t.Helper()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		l.t.Errorf("%s: sent to %v, want %v", what, got, want)
	}
}

// TestEntryVerbs walks through the verbs of `bridge fdb` and what they do to
// frames.
func TestEntryVerbs(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	set := func(verb Verb, entry Entry, want error) {
		t.Helper()
		if err := l.SetEntry("gnv0", verb, entry); !errors.Is(err, want) {
			t.Errorf("verb %d %+v: %v, want %v", verb, entry, err, want)
		}
		l.step()
	}
	del := func(entry Entry, want error) {
		t.Helper()
		if err := l.DeleteEntry("gnv0", entry); !errors.Is(err, want) {
			t.Errorf("del %+v: %v, want %v", entry, err, want)
		}
		l.step()
	}
	at := func(mac packet.MAC, remote string) Entry { return Entry{MAC: mac, Remote: addr(remote)} }
	all := []string{"192.0.2.2", "192.0.2.3"}

	set(EntryAdd, at(macB, "192.0.2.2"), nil)
	l.wantOut("added", l.out(macB, macA), "192.0.2.2")
	set(EntryAdd, at(macB, "192.0.2.3"), unix.EEXIST)
	set(EntryAppend, at(macB, "192.0.2.3"), unix.EEXIST)
	set(EntryReplace, at(macB, "192.0.2.3"), nil)
	l.wantOut("replaced", l.out(macB, macA), "192.0.2.3")
	if l.in("192.0.2.2", macA, macB) {
		t.Error("a frame with a pinned source was taken from another peer")
	}
	if got := l.State().Tunnels[0].Drops.Rx[count.DropLocked]; got != 1 {
		t.Errorf("locked drops %d, want 1", got)
	}
	if !l.in("192.0.2.3", macA, macB) {
		t.Error("a frame with a pinned source was not taken from its own peer")
	}
	del(at(macB, "192.0.2.2"), unix.ENOENT)
	del(at(macB, "192.0.2.3"), nil)
	del(Entry{MAC: macB}, unix.ENOENT)
	l.wantOut("deleted", l.out(macB, macA), all...)

	// Somewhere that is no peer, with a port and a VNI of its own.
	set(EntryAdd, Entry{MAC: macC, Remote: addr("192.0.2.9"), Port: 7000, VNI: 5, HasVNI: true}, nil)
	l.wantOut("own port and VNI", l.out(macC, macA), "192.0.2.9:7000 other vni")
	l.wantOut("no copies of broadcasts", l.out(broadcast, macA), all...)
	if l.in("192.0.2.9", macA, macB) {
		t.Error("a destination of an entry may speak without being a peer")
	}

	// Group addresses have several destinations.
	l.wantOut("multicast", l.out(mcast, macA), all...)
	set(EntryAppend, at(mcast, "192.0.2.2"), nil)
	set(EntryAppend, at(mcast, "192.0.2.9"), nil)
	set(EntryAppend, at(mcast, "192.0.2.9"), unix.EEXIST)
	l.wantOut("multicast with entries", l.out(mcast, macA), "192.0.2.2", "192.0.2.9")
	if got, err := l.Entry("gnv0", mcast); err != nil || len(got) != 2 {
		t.Errorf("Entry(%s): %v, %v, want two", mcast, got, err)
	}
	del(at(mcast, "192.0.2.2"), nil)
	l.wantOut("one destination gone", l.out(mcast, macA), "192.0.2.9")
	del(Entry{MAC: mcast}, nil)
	l.wantOut("all gone", l.out(mcast, macA), all...)

	// The zero address is the flood list.
	set(EntryAdd, at(packet.MAC{}, "192.0.2.4"), unix.EEXIST)
	set(EntryAppend, at(packet.MAC{}, "192.0.2.2"), unix.EEXIST)
	set(EntryAppend, at(packet.MAC{}, "192.0.2.4"), nil)
	l.wantOut("flood list longer", l.out(broadcast, macA), "192.0.2.2", "192.0.2.3", "192.0.2.4")
	if !l.in("192.0.2.4", macA, macB) {
		t.Error("a remote of the flood list may not speak")
	}
	del(at(packet.MAC{}, "192.0.2.2"), nil)
	del(at(packet.MAC{}, "192.0.2.2"), unix.ENOENT)
	l.wantOut("flood list shorter", l.out(broadcast, macA), "192.0.2.3", "192.0.2.4")

	set(EntryAdd, Entry{MAC: macB, Remote: addr("fd00::2"), Local: true}, unix.EINVAL)
	set(EntryAdd, Entry{MAC: macB}, unix.EINVAL)
	if err := l.SetEntry("nosuch", EntryAdd, at(macB, "192.0.2.2")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such tunnel: %v", err)
	}
	n, err := l.FlushEntries("gnv0", func(e *FDBEntry) bool { return e.State == fdb.Permanent })
	if n != 1 || err != nil {
		t.Errorf("flushed %d, %v, want the one permanent entry", n, err)
	}
	l.wantOut("flushed", l.out(macC, macA), "192.0.2.3", "192.0.2.4")
}

// TestEntryPeers: a destination that is no peer is one for as long as an entry points
// to it, and the workers are told of peers that come and go, not of entries.
func TestEntryPeers(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	for _, tc := range []struct {
		verb   Verb
		del    bool
		mac    packet.MAC
		remote string
		peers  int
		told   bool
	}{
		{mac: macB, remote: "192.0.2.2", peers: 2},
		{verb: EntryReplace, mac: macB, remote: "192.0.2.3", peers: 2},
		{del: true, mac: macB, peers: 2},
		{mac: macB, remote: "192.0.2.9", peers: 3, told: true},
		{mac: macC, remote: "192.0.2.9", peers: 3},
		{del: true, mac: macB, peers: 3},
		{verb: EntryReplace, mac: macC, remote: "192.0.2.2", peers: 2, told: true},
		{mac: macB, remote: "192.0.2.8", peers: 3, told: true},
		{del: true, mac: macB, remote: "192.0.2.8", peers: 2, told: true},
		{del: true, mac: macC, remote: "192.0.2.2", peers: 2},
	} {
		before := l.pool.Snapshot()
		entry := Entry{MAC: tc.mac}
		if tc.remote != "" {
			entry.Remote = addr(tc.remote)
		}
		var err error
		if tc.del {
			err = l.DeleteEntry("gnv0", entry)
		} else {
			err = l.SetEntry("gnv0", tc.verb, entry)
		}
		if err != nil {
			t.Fatalf("%+v: %v", tc, err)
		}
		l.step()
		if n := len(l.tunnels["gnv0"].peers); n != tc.peers {
			t.Errorf("%+v: %d peers", tc, n)
		}
		if told := l.pool.Snapshot() != before; told != tc.told {
			t.Errorf("%+v: workers told %v", tc, told)
		}
		if !tc.del {
			l.wantOut(fmt.Sprintf("%+v", tc), l.out(tc.mac, macA), tc.remote)
		}
	}
	if n := len(entriesOf(l.Endpoint)); n != 2 {
		t.Errorf("%d entries at the end, want the flood list's 2: %v", n, entriesOf(l.Endpoint))
	}
}

// TestConfiguredEntries: entries of the configuration are there from the
// start and come and go with it; those made by hand stay.
func TestConfiguredEntries(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.Entries = []Entry{{MAC: macB, Remote: addr("192.0.2.7")}}
	l := newLab(t, cfg)
	l.wantOut("configured", l.out(macB, macA), "192.0.2.7")
	if err := l.SetEntry("gnv0", EntryAdd, Entry{MAC: macC, Remote: addr("192.0.2.8")}); err != nil {
		t.Fatal(err)
	}
	cfg.Entries = []Entry{{MAC: mcast, Remote: addr("192.0.2.5")}}
	if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	l.step()
	l.wantOut("no longer configured", l.out(macB, macA), "192.0.2.2")
	l.wantOut("made by hand", l.out(macC, macA), "192.0.2.8")
	l.wantOut("newly configured", l.out(mcast, macA), "192.0.2.5")
}

// TestFloodSwitches turns kinds of flooding off.
func TestFloodSwitches(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		adjust                func(*Tunnel)
		unknown, multi, broad bool
	}{
		{"all on", func(*Tunnel) {}, true, true, true},
		{"flood off", func(c *Tunnel) { c.NoFlood = true }, false, true, true},
		{"mcast_flood off", func(c *Tunnel) { c.NoMcastFlood = true }, true, false, true},
		{"bcast_flood off", func(c *Tunnel) { c.NoBcastFlood = true }, true, true, false},
	} {
		cfg := testTunnel("gnv0", "192.0.2.2")
		tc.adjust(&cfg)
		l := newLab(t, cfg)
		off := uint64(0)
		for _, k := range []struct {
			kind string
			dst  packet.MAC
			want bool
		}{{"unknown unicast", macB, tc.unknown}, {"multicast", mcast, tc.multi}, {"broadcast", broadcast, tc.broad}} {
			if got := len(l.out(k.dst, macA)) == 1; got != k.want {
				t.Errorf("%s: %s sent %v, want %v", tc.name, k.kind, got, k.want)
			}
			if !k.want {
				off++
			}
		}
		if got := l.State().Tunnels[0].Drops.Tx[count.DropFloodOff]; got != off {
			t.Errorf("%s: flood_off drops %d, want %d", tc.name, got, off)
		}
	}
}

// TestLocked: with locked on only addresses with a static entry may speak.
func TestLocked(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.Locked, cfg.Learning = true, false
	cfg.Entries = []Entry{{MAC: macB, Remote: addr("192.0.2.2")}}
	l := newLab(t, cfg)
	if !l.in("192.0.2.2", macA, macB) || l.in("192.0.2.3", macA, macB) || l.in("192.0.2.2", macA, macC) {
		t.Error("want the pinned address from its peer, and nothing else")
	}
}

// TestBUMStorm: a storm stays under the limit and unicast is not touched.
func TestBUMStorm(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.BUMLimit = 10
	cfg.Entries = []Entry{{MAC: macB, Remote: addr("192.0.2.2")}}
	l := newLab(t, cfg)
	sent := 0
	for range 100 {
		sent += len(l.out(broadcast, macA))
	}
	if dropped := l.State().Tunnels[0].Drops.Tx[count.DropBUMLimit]; sent > 20 || sent+int(dropped) != 100 {
		t.Errorf("of 100 broadcasts at once %d were sent and %d dropped, want few and the rest", sent, dropped)
	}
	for range 50 {
		l.wantOut("unicast", l.out(macB, macA), "192.0.2.2")
	}
}

// TestAccept: whoever speaks from an accepted prefix becomes a peer, and is
// learned from with its first frame.
func TestAccept(t *testing.T) {
	cfg := testTunnel("gnv0")
	cfg.Local, cfg.Ageing = addr("192.0.2.1"), 2*time.Second
	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(cfg)
	if mtu, _ := dev.MTU(); mtu != 1450 {
		t.Errorf("MTU %d before anybody spoke, want 1450", mtu)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()

	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	h.underlay.inject(addr("192.0.2.200"), 6081, 0, 2, len(hello)+8, good(hello))
	h.underlay.inject(addr("192.0.2.77"), 6081, 0, 2, len(hello)+8, good(hello))
	arrives(t, dev, hello)
	known := func() bool {
		return slices.ContainsFunc(entriesOf(h.Endpoint), func(e FDBEntry) bool { return e.MAC == macC && e.Remote.Addr() == addr("192.0.2.77") })
	}
	if !known() {
		t.Errorf("the first frame taught nothing: %v", entriesOf(h.Endpoint))
	}
	s := h.State()
	if s.Drops.Rx[count.DropUnknownPeer] != 1 {
		t.Errorf("unknown_peer drops %d, want 1 from outside the prefix", s.Drops.Rx[count.DropUnknownPeer])
	}
	if peers := s.Tunnels[0].Peers; len(peers) != 1 || !peers[0].Dynamic {
		t.Errorf("peers %+v, want the new one", peers)
	}
	// Long silent ones are forgotten.
	time.Sleep(cfg.Ageing + 100*time.Millisecond)
	h.removeSilent()
	if peers := h.State().Tunnels[0].Peers; len(peers) != 0 {
		t.Errorf("%d peers after long silence, want 0", len(peers))
	}
}

// senders are the sources that a tunnel has let in.
func senders(s TunnelState) (all []string) {
	for _, p := range s.Peers {
		if p.Dynamic {
			all = append(all, p.Remote.Addr().String())
		}
	}
	slices.Sort(all)
	return all
}

// TestAcceptChanges: who was let in stays as long as accept lets it in and it is not
// configured, and that it was let in is no reason to refuse to configure it.
func TestAcceptChanges(t *testing.T) {
	cfg := testTunnel("gnv0")
	cfg.Local = addr("192.0.2.1")
	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(cfg)
	h.run()
	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	says := func(from string) { h.underlay.inject(addr(from), 6081, 0, 2, len(hello)+8, good(hello)) }
	for _, from := range []string{"192.0.2.10", "192.0.2.20", "192.0.2.200"} {
		says(from)
		arrives(t, dev, hello)
	}
	want := func(when string, accepted ...string) {
		t.Helper()
		if got := senders(h.State().Tunnels[0]); !slices.Equal(got, accepted) {
			t.Errorf("%s: %v have been let in, want %v", when, got, accepted)
		}
	}
	want("at first", "192.0.2.10", "192.0.2.20", "192.0.2.200")

	cfg.Peers = []Peer{{Remote: addr("192.0.2.20")}}
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatalf("a peer that had been let in: %v", err)
	}
	want("with one configured", "192.0.2.10", "192.0.2.200")
	if p := h.State().Tunnels[0].Peers[0]; p.Remote.Addr() != addr("192.0.2.20") || p.Stats.RxPackets != 1 {
		t.Errorf("the configured peer is %+v, want 192.0.2.20 with what it sent before", p)
	}

	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	want("with less accepted", "192.0.2.10")
	says("192.0.2.200")
	eventually(t, "it may no longer speak", func() bool { return h.State().Drops.Rx[count.DropUnknownPeer] == 1 })
	says("192.0.2.10")
	arrives(t, dev, hello)
}

// TestSenderFlood: many datagrams of one unknown sender take few of the places of others, and
// one that cannot be let in does not keep those that come with it outside.
func TestSenderFlood(t *testing.T) {
	cfg := testTunnel("gnv0")
	cfg.Local = addr("192.0.2.1")
	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(cfg)
	h.step()
	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	for range 2 * work.MaxPending {
		h.underlay.inject(addr("192.0.2.10"), 6081, 0, 2, len(hello)+8, good(hello))
	}
	h.underlay.inject(addr("192.0.2.20"), 6081, 0, 2, len(hello)+8, good(hello))
	h.step()
	if n := len(h.senders); n != 2 {
		t.Errorf("%d want to be let in, want 2", n)
	}
	if n := h.pool.Pending(); n != work.MaxPendingOfOne+1 {
		t.Errorf("%d datagrams wait, want %d and the one of another sender", n, work.MaxPendingOfOne)
	}
	if n := h.State().Drops.Rx[count.DropUnknownPeer]; n != 2*work.MaxPending-work.MaxPendingOfOne {
		t.Errorf("%d dropped, want %d", n, 2*work.MaxPending-work.MaxPendingOfOne)
	}
	p := h.tunnels["gnv0"].port
	h.underlay.addr = append(h.underlay.addr, addr("192.0.2.30"))
	h.senders <- sender{p, addr("192.0.2.30")}   // our own
	h.senders <- sender{p, addr("198.51.100.9")} // accepted no more
	h.admitSenders(<-h.senders)
	if got := senders(h.State().Tunnels[0]); !slices.Equal(got, []string{"192.0.2.10", "192.0.2.20"}) {
		t.Errorf("%v have been let in, want the two that may", got)
	}
	h.step()
	if n := h.pool.Pending(); n != 0 || h.State().Tunnels[0].Stats.RxPackets != work.MaxPendingOfOne+1 {
		t.Errorf("%d still wait, %d were delivered; want 0, %d", n, h.State().Tunnels[0].Stats.RxPackets, work.MaxPendingOfOne+1)
	}
}

// TestSendersMakeRoom: sources that were heard once only do not keep others out, those that
// went on speaking stay.
func TestSendersMakeRoom(t *testing.T) {
	cfg := testTunnel("gnv0")
	cfg.Local = addr("192.0.2.1")
	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	l := newLab(t, cfg)
	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	speak := func(from string) {
		t.Helper()
		l.underlay.inject(addr(from), 6081, 0, 2, len(hello)+8, good(hello))
		l.step()
		for len(l.senders) > 0 {
			l.admitSenders(<-l.senders)
			l.step()
		}
	}
	knows := func(a string) bool { return slices.Contains(senders(l.State().Tunnels[0]), a) }
	speak("192.0.2.10")
	speak("192.0.2.11")
	l.later(2 * time.Second)
	speak("192.0.2.10")
	p := l.tunnels["gnv0"].port
	for i := range maxSenders {
		l.senders <- sender{p, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
		if len(l.senders) == senderQueue {
			l.admitSenders(<-l.senders)
		}
	}
	l.step()
	if n := len(senders(l.State().Tunnels[0])); n != maxSenders {
		t.Errorf("%d have been let in, want %d", n, maxSenders)
	}
	l.later(time.Second)
	speak("192.0.2.20")
	if !knows("192.0.2.20") || !knows("192.0.2.10") {
		t.Errorf("a new one is let in: %t, one that goes on speaking stays: %t; want both", knows("192.0.2.20"), knows("192.0.2.10"))
	}
	if n := len(senders(l.State().Tunnels[0])); n != maxSenders {
		t.Errorf("%d have been let in, want %d", n, maxSenders)
	}
	// Making room is not done as often as somebody likes.
	again := &l.tunnels["gnv0"].state.RoomAgain
	if *again == 0 {
		t.Error("there is no limit to how often room is made")
	}
	*again = l.clock() + int64(time.Minute) // however slow the test is
	before := l.pool.Snapshot()
	speak("192.0.2.21")
	if knows("192.0.2.21") || l.pool.Snapshot() != before {
		t.Error("one more was let in at once")
	}
	l.later(time.Minute)
	l.admitSenders(sender{l.tunnels["gnv0"].port, addr("192.0.2.21")})
	if !knows("192.0.2.21") || !knows("192.0.2.20") {
		t.Error("one more was not let in later, or in the place of the last one")
	}
}

// TestGroupFollows: in a group without peers those may speak who are on the networks
// that the underlay device has now; the way to the group is not pinned to an index that
// the device may lose.
func TestGroupFollows(t *testing.T) {
	cfg := testTunnel("gnv0")
	cfg.Local, cfg.Group, cfg.Dev = addr("192.0.2.1"), addr("239.1.1.1"), "eth0"
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.networks = []netip.Prefix{}
	dev := h.add(cfg)
	h.run()
	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	says := func(from string) { h.underlay.inject(addr(from), 6081, 0, 2, len(hello)+8, good(hello)) }
	refused := uint64(0)
	for _, network := range []string{"192.0.2.0/24", "198.51.100.0/24"} {
		prefix := netip.MustParsePrefix(network)
		from := prefix.Addr().Next().Next().String()
		says(from)
		refused++
		eventually(t, "refused at first", func() bool { return h.State().Drops.Rx[count.DropUnknownPeer] == refused })
		h.underlay.mu.Lock()
		h.underlay.networks = []netip.Prefix{prefix}
		h.underlay.mu.Unlock()
		h.underlay.changed <- netio.Changes{All: true}
		eventually(t, "the network is known", func() bool { return slices.Equal(h.State().Tunnels[0].Accept, h.underlay.networks) })
		if got := senders(h.State().Tunnels[0]); len(got) != 0 {
			t.Errorf("of another network %v may speak yet", got)
		}
		says(from)
		arrives(t, dev, hello)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.tunnels["gnv0"].peers {
		if p.config.Remote == cfg.Group && p.Path.Ifindex != 0 {
			t.Errorf("the way to the group is pinned to device %d", p.Path.Ifindex)
		}
	}
}

// TestOwnAddressFollows: the device's address is changed by somebody else.
func TestOwnAddressFollows(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	l.dev.mu.Lock()
	before := l.dev.mac
	l.dev.mac = packet.MAC{2, 0, 0, 0, 0xff, 1}
	l.dev.mu.Unlock()
	l.followDevices()
	l.step()
	if l.in("192.0.2.2", broadcast, l.dev.mac) {
		t.Error("a frame that claims to come from our own address was delivered")
	}
	if n := l.State().Tunnels[0].Drops.Rx[count.DropBadSourceMAC]; n != 1 {
		t.Errorf("%d bad_source_mac drops, want 1", n)
	}
	if !l.in("192.0.2.2", broadcast, before) {
		t.Error("a frame from the address that was ours was not delivered")
	}
	if _, ok := l.tunnels["gnv0"].domains[0].fdb.Lookup(before, l.clock()); !ok {
		t.Error("the address that was ours was not learned")
	}
	if got := l.tunnels["gnv0"].domains[0].fdb.Learn(l.dev.mac, 1, l.clock()); got != fdb.Own {
		t.Errorf("our own address can be learned: %v, want %v", got, fdb.Own)
	}
}

// TestEvents: who subscribes sees tunnels, peers and addresses come and go.
func TestEvents(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	sub := h.Subscribe()
	h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	f := frame(macA, macB, 0x0806, make([]byte, 46))
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(f)+8, good(f))
	h.step()
	if err := h.SetEntry("gnv0", EntryAppend, Entry{Remote: addr("192.0.2.3")}); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove("gnv0"); err != nil {
		t.Fatal(err)
	}
	sub.Close()
	var got []string
	for len(sub.C) > 0 {
		e := <-sub.C
		got = append(got, e.Object+" "+e.Action)
		if e.Object == "fdb" && (e.MAC != macB || e.Remote.Addr() != addr("192.0.2.2")) {
			t.Errorf("event %+v, want %s at 192.0.2.2", e, macB)
		}
	}
	want := []string{"tunnel new", "fdb new", "peer new", "tunnel changed", "tunnel deleted"}
	if !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

// arp is an ARP packet of srcMAC, to everybody unless it says otherwise.
func arp(op uint16, srcMAC packet.MAC, src, dst string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	b = append(append(b, srcMAC[:]...), addr(src).AsSlice()...)
	b = append(append(b, make([]byte, 6)...), addr(dst).AsSlice()...)
	return frame(broadcast, srcMAC, 0x0806, append(b, make([]byte, 18)...))
}

// says has a station behind a VTEP send a frame.
func (l *lab) says(from string, f []byte) {
	l.underlay.inject(addr(from), 6081, 0, 2, len(f)+8, good(f))
	l.step()
	l.dev.queues[0].take()
}

// asks has our side ask for an address, and returns the answer given here, nil if none,
// and the frames that were sent instead.
func (l *lab) asks(dst string) (answer []byte, sent []memDatagram) {
	l.t.Helper()
	l.dev.queues[0].feed(memFrame{bytes: arp(1, macA, "10.0.0.1", dst)})
	l.step()
	out := l.dev.queues[0].take()
	if len(out) > 1 {
		l.t.Fatalf("%d frames to the device", len(out))
	}
	if len(out) == 1 {
		answer = out[0].bytes
	}
	sent = l.underlay.sent
	l.underlay.sent = nil
	return answer, sent
}

// later lets time pass.
func (l *lab) later(d time.Duration) { l.started = l.started.Add(-d) }

// TestNeighSuppress: an ARP request for an address behind a peer that was
// heard is answered here; for others it is flooded.
func TestNeighSuppress(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.NeighSuppress = true
	l := newLab(t, cfg)
	l.says("192.0.2.2", arp(1, macB, "10.0.0.2", "10.0.0.9"))

	reply, sent := l.asks("10.0.0.2")
	if reply == nil || len(sent) != 0 {
		t.Fatalf("answer %x and %d sent, want an answer and nothing sent", reply, len(sent))
	}
	if packet.MAC(reply[0:6]) != macA || packet.MAC(reply[6:12]) != macB || reply[21] != 2 ||
		packet.MAC(reply[22:28]) != macB || netip.AddrFrom4([4]byte(reply[28:32])) != addr("10.0.0.2") {
		t.Errorf("answer %x, want an ARP reply that 10.0.0.2 is at %s", reply, macB)
	}
	if got := l.State().Tunnels[0].Answered; got != 1 {
		t.Errorf("answered %d, want 1", got)
	}
	if _, sent := l.asks("10.0.0.77"); len(sent) != 1 {
		t.Errorf("a request for an unknown address was sent %d times, want once", len(sent))
	}
}

// TestSuppressWithoutFlood: what can be answered is answered, whatever the tunnel
// would do with a request that cannot, and takes nothing of what may be flooded.
func TestSuppressWithoutFlood(t *testing.T) {
	for name, change := range map[string]func(*Tunnel){
		"bcast_flood off": func(c *Tunnel) { c.NoBcastFlood = true },
		"bum_limit 1":     func(c *Tunnel) { c.BUMLimit = 1 },
		"nobody to go to": func(c *Tunnel) { c.Peers[0].NoFlood = true },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testTunnel("gnv0", "192.0.2.2")
			cfg.NeighSuppress = true
			change(&cfg)
			l := newLab(t, cfg)
			l.says("192.0.2.2", arp(1, macB, "10.0.0.2", "10.0.0.9"))
			for i := range 5 {
				if reply, sent := l.asks("10.0.0.2"); reply == nil || len(sent) != 0 {
					t.Fatalf("request %d: answer %x and %d sent, want an answer and nothing sent", i, reply, len(sent))
				}
			}
			if cfg.BUMLimit > 0 {
				if _, sent := l.asks("10.0.0.77"); len(sent) != 1 {
					t.Errorf("after 5 answers a request for an unknown address was sent %d times, want once", len(sent))
				}
			}
			drops := l.State().Tunnels[0].Drops
			if drops.Tx != (count.Drops{}).Tx {
				t.Errorf("drops %v, want none", drops.Tx)
			}
			// What our side says of itself is heard, though it goes nowhere.
			l.dev.queues[0].feed(memFrame{bytes: arp(1, macC, "10.0.0.2", "10.0.0.9")})
			l.step()
			l.underlay.sent = nil
			if reply, _ := l.asks("10.0.0.2"); reply != nil {
				t.Errorf("answer %x for an address that has come over to our side", reply)
			}
		})
	}
}

// TestSuppressAsksOwner: a request for an address that was not heard of lately goes to
// its station alone, which answers for itself; if it does not, the next one is flooded.
func TestSuppressAsksOwner(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.NeighSuppress = true
	l := newLab(t, cfg)
	want := func(when string, answered bool, to ...string) {
		t.Helper()
		reply, sent := l.asks("10.0.0.2")
		var got []string
		for _, d := range sent {
			got = append(got, d.to.Addr().String())
			if dst := packet.MAC(d.bytes[8:14]); len(to) == 1 && dst != macB {
				t.Errorf("%s: the request went to %s, want %s", when, dst, macB)
			}
		}
		if (reply != nil) != answered || !slices.Equal(got, to) {
			t.Errorf("%s: answered %t, sent to %v; want %t, %v", when, reply != nil, got, answered, to)
		}
	}
	speak := func() { l.says("192.0.2.2", arp(2, macB, "10.0.0.2", "10.0.0.1")) }
	speak()
	want("just heard", true)
	l.later(4 * time.Second)
	want("heard 4 s ago", true)
	l.later(2 * time.Second)
	want("heard 6 s ago", false, "192.0.2.2")
	want("asked just now", false, "192.0.2.2")
	speak()
	want("it has answered", true)
	l.later(6 * time.Second)
	want("heard 6 s ago, again", false, "192.0.2.2")
	l.later(1500 * time.Millisecond)
	want("it has not answered", false, "192.0.2.2", "192.0.2.3")
	l.later(10 * time.Second)
	want("nor later", false, "192.0.2.2", "192.0.2.3")
	speak()
	want("it is back", true)
}

// TestNeighLimitsFollow: what neigh_suppress remembers has the limit and the ageing time
// that the tunnel has now.
func TestNeighLimitsFollow(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.NeighSuppress, cfg.MaxAddress = true, 1
	l := newLab(t, cfg)
	hear := func(address string, known bool) {
		t.Helper()
		l.says("192.0.2.2", arp(1, macB, address, "10.0.0.9"))
		if reply, _ := l.asks(address); (reply != nil) != known {
			t.Errorf("%s: answered %t, want %t", address, reply != nil, known)
		}
	}
	hear("10.0.0.2", true)
	hear("10.0.0.3", false)
	cfg.MaxAddress = 2
	if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	hear("10.0.0.3", true)
	cfg.Ageing = time.Second
	if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	l.later(2 * time.Second)
	if n := l.tunnels["gnv0"].domains[0].neighbours.Sweep(l.clock()); n != 2 {
		t.Errorf("%d have expired, want 2", n)
	}
}

// TestFlapping: an address that flaps is held, and said so once a second for as
// long as it goes on. Without damping it moves, and that is said, too.
func TestFlapping(t *testing.T) {
	for _, damping := range []bool{true, false} {
		cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
		cfg.NoMoveDamping = !damping
		l := newLab(t, cfg)
		core, logs := observer.New(zap.WarnLevel)
		l.log = zap.New(core)
		said := func() (macs []any) {
			l.alarm()
			for _, line := range logs.TakeAll() {
				macs = append(macs, line.ContextMap()["mac"])
			}
			return macs
		}
		both := func(n int) {
			for range n {
				l.in("192.0.2.2", macA, macB)
				l.in("192.0.2.3", macA, macB)
			}
		}
		l.in("192.0.2.2", macA, macC)
		both(1)
		if got := said(); got != nil {
			t.Errorf("damping %t: an address that has moved once is named: %v", damping, got)
		}
		both(20)
		for range 2 {
			if got, want := said(), []any{[]any{macB.String() + " on gnv0"}}; !reflect.DeepEqual(got, want) {
				t.Errorf("damping %t: while it flaps the log says %v, want %v", damping, got, want)
			}
			if got := said(); got != nil {
				t.Errorf("damping %t: a second of peace, and the log says %v", damping, got)
			}
			both(20)
		}
		s := l.State().Tunnels[0].FDB
		if damping && (s.Moved != fdb.DampMoves || s.Frozen != 1 || s.Damped == 0) || !damping && (s.Moved != 121 || s.Frozen != 0 || s.Damped != 0) {
			t.Errorf("damping %t: moved %d, frozen %d, damped %d", damping, s.Moved, s.Frozen, s.Damped)
		}
		if got := l.State().Tunnels[0].Stats.RxPackets; got != 1+2*61 {
			t.Errorf("damping %t: %d of 123 frames were delivered", damping, got)
		}
	}
}

// TestGroup: what is flooded goes to the group, what is known to the peer that
// was heard, and whoever is on the device's network may speak.
func TestGroup(t *testing.T) {
	cfg := testTunnel("gnv0")
	cfg.Local, cfg.Group, cfg.Dev = addr("192.0.2.1"), addr("239.1.1.1"), "eth1"
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()

	sentTo := func() string {
		for range 500 {
			h.underlay.mu.Lock()
			sent := h.underlay.sent
			h.underlay.sent = nil
			h.underlay.mu.Unlock()
			if len(sent) == 1 {
				return sent[0].to.Addr().String()
			} else if len(sent) > 1 {
				return fmt.Sprint(len(sent), " datagrams")
			}
			time.Sleep(time.Millisecond)
		}
		return "nowhere"
	}
	dev.queues[1].feed(memFrame{bytes: frame(macB, macA, 0x88b5, make([]byte, 46))})
	if to := sentTo(); to != "239.1.1.1" {
		t.Errorf("an unknown address: sent to %s, want the group", to)
	}
	hello := frame(broadcast, macB, 0x0806, make([]byte, 46))
	h.underlay.inject(addr("192.0.2.5"), 6081, 0, 2, len(hello)+8, good(hello))
	arrives(t, dev, hello)
	dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x88b5, make([]byte, 46))})
	if to := sentTo(); to != "192.0.2.5" {
		t.Errorf("an address that was heard: sent to %s, want its VTEP", to)
	}
	s := h.State()
	if len(s.Sockets) != 2 || len(s.Tunnels[0].Accept) != 1 {
		t.Errorf("sockets %v, accept %v; want one for the group and one beside it, and the device's network", s.Sockets, s.Tunnels[0].Accept)
	}
}

// TestPeerShare: a peer that makes up addresses does not use up the places of others.
func TestPeerShare(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.MaxAddress = 8
	l := newLab(t, cfg)
	for i := range byte(20) {
		l.in("192.0.2.2", broadcast, packet.MAC{2, 0, 0, 0, 1, i})
	}
	l.out(broadcast, macB)
	l.in("192.0.2.3", broadcast, macC)
	where := map[packet.MAC]string{}
	for _, e := range l.FDB() {
		if !e.Flood {
			where[e.MAC] = e.Remote.String()
		}
	}
	if len(where) != 8 || where[macB] != "invalid AddrPort" || where[macC] != "192.0.2.3:6081" {
		t.Errorf("the table has %v, want 8 addresses, and %s here, %s at 192.0.2.3", where, macB, macC)
	}
}

// TestDynamicByHand: a dynamic entry that somebody sets is a first value. It moves and ages
// like any other, and no later change brings it back.
func TestDynamicByHand(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.Entries = []Entry{{MAC: macC, Remote: addr("192.0.2.9"), State: fdb.Dynamic}}
	l := newLab(t, cfg)
	macD, macE := packet.MAC{2, 0, 0, 0, 0x0d, 4}, packet.MAC{2, 0, 0, 0, 0x0e, 5}
	set := func(entry Entry) {
		t.Helper()
		if err := l.SetEntry("gnv0", EntryReplace, entry); err != nil {
			t.Fatalf("%+v: %v", entry, err)
		}
		l.step()
	}
	change := func() {
		t.Helper()
		set(Entry{MAC: macE, Remote: addr("192.0.2.7")})
		if err := l.DeleteEntry("gnv0", Entry{MAC: macE}); err != nil {
			t.Fatal(err)
		}
		cfg.TTL++
		if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
			t.Fatal(err)
		}
		l.step()
	}
	peers := func(when string, want int) {
		t.Helper()
		if n := len(l.tunnels["gnv0"].peers); n != want {
			t.Errorf("%s: %d peers, want %d", when, n, want)
		}
	}
	all := []string{"192.0.2.2", "192.0.2.3"}
	set(Entry{MAC: macB, Remote: addr("192.0.2.8"), State: fdb.Dynamic})
	set(Entry{MAC: macD, Remote: addr("192.0.2.8"), State: fdb.Dynamic})
	peers("set", 4)
	for _, at := range []struct {
		mac    packet.MAC
		remote string
	}{{macB, "192.0.2.8"}, {macD, "192.0.2.8"}, {macC, "192.0.2.9"}} {
		l.wantOut("set", l.out(at.mac, macA), at.remote)
	}
	l.in("192.0.2.2", macA, macB)
	l.in("192.0.2.2", macA, macC)
	change()
	l.wantOut("moved", l.out(macB, macA), "192.0.2.2")
	l.wantOut("moved, of the configuration", l.out(macC, macA), "192.0.2.2")
	l.wantOut("not moved", l.out(macD, macA), "192.0.2.8")
	peers("one that nothing points to any more", 3)
	l.later(301 * time.Second)
	change()
	l.wantOut("aged", l.out(macD, macA), all...)
	l.sweep()
	l.removeSilent()
	peers("aged", 2)
}

// TestOtherChange: a change of something else brings no entry back that was deleted.
func TestOtherChange(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.Entries = []Entry{{MAC: macB, Remote: addr("192.0.2.2")}, {MAC: macC, Remote: addr("192.0.2.2")}}
	l := newLab(t, cfg)
	if err := l.DeleteEntry("gnv0", Entry{MAC: macB}); err != nil {
		t.Fatal(err)
	}
	if err := l.Update("gnv0", func(c *Tunnel) error { c.TTL++; return nil }); err != nil {
		t.Fatal(err)
	}
	l.step()
	l.wantOut("deleted", l.out(macB, macA), "192.0.2.2", "192.0.2.3")
	l.wantOut("not deleted", l.out(macC, macA), "192.0.2.2")
}

// TestImplicitPeerShared: a destination that is no peer belongs to all the entries that
// point to it, and goes with the last.
func TestImplicitPeerShared(t *testing.T) {
	for _, state := range []fdb.State{fdb.Dynamic, fdb.Static} {
		l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
		macs := []packet.MAC{macB, macC, {2, 0, 0, 0, 0x0d, 4}}
		for _, mac := range macs {
			entry := Entry{MAC: mac, Remote: addr("192.0.2.9"), State: state}
			if state == fdb.Dynamic {
				entry.Flags = fdb.ExternLearn
			}
			if err := l.SetEntry("gnv0", EntryAdd, entry); err != nil {
				t.Fatal(err)
			}
		}
		for i, mac := range macs {
			if err := l.DeleteEntry("gnv0", Entry{MAC: mac}); err != nil {
				t.Errorf("%v: deleting %s: %v", state, mac, err)
			}
			l.step()
			for _, other := range macs[i+1:] {
				l.wantOut("one is deleted, another", l.out(other, macA), "192.0.2.9")
			}
		}
		if n := len(l.tunnels["gnv0"].peers); n != 1 {
			t.Errorf("%v: %d peers at the end, want 1", state, n)
		}
	}
}

// TestNexthopsReused: what comes and goes leaves nothing behind in the snapshots.
func TestNexthopsReused(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	for i := range 50 {
		for _, entry := range []Entry{
			{MAC: macB, Remote: addr("192.0.2.9")},
			{MAC: mcast, Remote: addr("192.0.2.2")},
			{MAC: mcast, Remote: addr("192.0.2.9")},
		} {
			if err := l.SetEntry("gnv0", EntryAppend, entry); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
		}
		for _, mac := range []packet.MAC{mcast, macB} {
			if err := l.DeleteEntry("gnv0", Entry{MAC: mac}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(l.tunnels["gnv0"].port.Segment.Nexthops); n > 5 {
		t.Errorf("%d nexthops after 50 rounds, want 5 at most", n)
	}
}

// TestLocalInSet: an entry of our own side beside others of a group address is no way out.
func TestLocalInSet(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	for _, entry := range []Entry{{MAC: mcast, Local: true}, {MAC: mcast, Remote: addr("192.0.2.3")}} {
		if err := l.SetEntry("gnv0", EntryAppend, entry); err != nil {
			t.Fatal(err)
		}
	}
	l.step()
	l.wantOut("multicast", l.out(mcast, macA), "192.0.2.3")
}

// TestLinkLocal: the configuration names the device of a link-local address once, and
// all that is sent there goes out of it, to those too that accept lets in.
func TestLinkLocal(t *testing.T) {
	cfg := testTunnel("gnv0", "fe80::2", "2001:db8::2")
	cfg.Dev = "eth0"
	cfg.Accept = []netip.Prefix{netip.MustParsePrefix("fe80::/10")}
	cfg.Entries = []Entry{{MAC: macB, Remote: addr("fe80::3")}, {MAC: macC, Remote: addr("fe80::3"), Via: "eth1"}}
	h := newHost(t, new(memWire), 1, "fe80::1")
	h.add(cfg)
	h.admitSenders(sender{h.tunnels["gnv0"].port, addr("fe80::9")})
	hello := frame(broadcast, packet.MAC{2, 0, 0, 0, 0, 0x99}, 0x0806, make([]byte, 46))
	h.underlay.inject(addr("fe80::9"), 6081, 0, 2, len(hello)+8, good(hello))
	h.step()
	remotes := func(h *host) (all []string) {
		for _, p := range h.State().Tunnels[0].Peers {
			all = append(all, p.Remote.Addr().String())
		}
		slices.Sort(all)
		return all
	}
	want := []string{"2001:db8::2", "fe80::2%eth0", "fe80::3%eth0", "fe80::3%eth1", "fe80::9%eth0"}
	if got := remotes(h); !slices.Equal(got, want) {
		t.Errorf("peers %v, want %v", got, want)
	}
	again := newHost(t, new(memWire), 1, "fe80::1")
	again.add(cfg)
	again.Recall(h.Memory(), time.Second)
	if got := remotes(again); !slices.Equal(got, want) {
		t.Errorf("peers %v after a restart, want %v", got, want)
	}
}

// TestAcceptAny: of both halves of "any" a tunnel listens to that of its own address.
func TestAcceptAny(t *testing.T) {
	for local, want := range map[string]int{"192.0.2.1": 1, "::": 1, "": 2} {
		cfg := testTunnel("gnv0")
		cfg.Accept = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		if local != "" {
			cfg.Local = addr(local)
		}
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.add(cfg)
		accept := h.State().Tunnels[0].Accept
		if len(accept) != want || len(h.sockets) != want || want == 1 && accept[0].Addr().Is4() != cfg.Local.Is4() {
			t.Errorf("local %q: accept %v with %d sockets, want %d", local, accept, len(h.sockets), want)
		}
	}
}
