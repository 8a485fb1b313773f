package vtep

import (
	"bytes"
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// readMatch reads rules for what arrives.
func readMatch(t testing.TB, texts ...string) (rules []option.Rule) {
	t.Helper()
	for _, text := range texts {
		u, err := option.Default().ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, u)
	}
	return rules
}

// withOption is a datagram of a VNI with one option of class ff01, type 1.
func withOption(t *testing.T, vni uint32, data string, inner []byte) []byte {
	t.Helper()
	b, err := hex.DecodeString("ff010101" + data)
	if err != nil {
		t.Fatal(err)
	}
	return datagram(2, 0, packet.EtherTypeEthernet, vni, b, inner)
}

const otherVNI = testVNI + 1

// TestMatchVNI: a rule takes a packet to the segment of another VNI, which learns from it, if its
// sender is a peer there.
func TestMatchVNI(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first, second := testTunnel("gnv0", "192.0.2.2", "192.0.2.3"), testTunnel("gnv1", "192.0.2.2")
	second.VNI = otherVNI
	first.OptionRules = readMatch(t, "count any", "vni 1193047 ff01:01:00000001", "vni 99 ff01:01:00000002")
	second.OptionRules = readMatch(t, "drop any") // of its own packets, not of those that are moved
	if first.OptionRules[1].To != otherVNI {
		t.Fatalf("the rule is for VNI %d, want %d", first.OptionRules[1].To, otherVNI)
	}
	devices := []*memDevice{h.add(first), h.add(second)}
	plain := frame(macA, macB, 0x88b5, make([]byte, 46))
	for _, c := range []struct {
		from   string
		vni    uint32
		option string
		device int // -1: none
		reason count.Reason
	}{
		{"192.0.2.2", testVNI, "00000001", 1, 0},
		{"192.0.2.2", testVNI, "00000003", 0, 0},
		{"192.0.2.2", testVNI, "00000002", -1, count.DropUnknownVNI},
		{"192.0.2.3", testVNI, "00000001", -1, count.DropUnknownPeer},
		{"192.0.2.2", otherVNI, "00000001", -1, count.DropOptionRule},
	} {
		before := h.State().Dropped.Rx
		d := withOption(t, c.vni, c.option, plain)
		h.underlay.inject(addr(c.from), 6081, 0, 2, len(d), d)
		h.step()
		for i, dev := range devices {
			got := dev.queues[0].take()
			if n := len(got); (n == 1) != (i == c.device) || n == 1 && !bytes.Equal(got[0].bytes, plain) {
				t.Errorf("%+v: %s got %v", c, dev.Name(), got)
			}
		}
		if got := h.State().Dropped.Rx; c.device < 0 && got[c.reason] != before[c.reason]+1 || c.device >= 0 && got != before {
			t.Errorf("%+v: drops %v, want %v", c, got, c.reason)
		}
	}
	s := h.State().Tunnels
	if !slices.Equal(s[0].OptionHits, []uint64{4, 2, 1}) || !slices.Equal(s[1].OptionHits, []uint64{1}) {
		t.Errorf("rules matched %v and %v packets, want 4, 2, 1 and 1", s[0].OptionHits, s[1].OptionHits)
	}
	if s[0].Drops.Rx[count.DropUnknownVNI] != 1 || s[0].Drops.Rx[count.DropUnknownPeer] != 1 || s[0].Stats.RxPackets != 1 || s[1].Stats.RxPackets != 1 {
		t.Errorf("drops and packets are not those of the tunnels: %+v, %+v", s[0].Stats, s[1].Stats)
	}
	// In either what was delivered there is learned: macB is behind the peer, once each.
	for _, name := range []string{"gnv0", "gnv1"} {
		if all, err := h.Entry(name, macB); err != nil || len(all) != 1 || all[0].Remote.Addr() != addr("192.0.2.2") {
			t.Errorf("%s: entries %v, error %v", name, all, err)
		}
	}
}

// TestMatchTrain: in one train each datagram goes where its own options say, and each is counted.
func TestMatchTrain(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first, second := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1", "192.0.2.2")
	second.VNI = otherVNI
	first.OptionRules = readMatch(t, "vlan 7 ff01:01:00000002", "vni 1193047 ff01:01")
	devices := []*memDevice{h.add(first), h.add(second)}
	short, long := frame(macA, macB, 0x88b5, make([]byte, 46)), frame(macA, macB, 0x88b5, make([]byte, 54))
	train := slices.Concat(withOption(t, testVNI, "00000001", short), good(long), withOption(t, testVNI, "00000002", short),
		withOption(t, testVNI, "00000001", short), ofVNI(otherVNI, long), good(long))
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(good(long)), train)
	h.step()
	for i, want := range [][][]byte{{long, withTag(short, 0x8100, 7), long}, {short, short, long}} {
		got := devices[i].queues[0].take()
		if !slices.EqualFunc(got, want, func(f memFrame, w []byte) bool { return bytes.Equal(f.bytes, w) }) {
			t.Errorf("%s got %x, want %x", devices[i].Name(), got, want)
		}
	}
	s := h.State().Tunnels
	if !slices.Equal(s[0].OptionHits, []uint64{1, 2}) || s[0].Stats.RxPackets != 3 || s[1].Stats.RxPackets != 3 {
		t.Errorf("rules matched %v packets, %d and %d received; want 1 and 2, 3 and 3", s[0].OptionHits, s[0].Stats.RxPackets, s[1].Stats.RxPackets)
	}
}

// TestMatchEvery: rules are asked, and options counted, for each piece of a flow, though they are joined.
func TestMatchEvery(t *testing.T) {
	for _, c := range []struct {
		options, rules string
		device         int // that the flow is delivered on, -1: on none
		tag            bool
		hits           []uint64
	}{
		{"", "vni 1193047 any", 1, false, []uint64{10}},
		{"", "vlan 7 any", 0, true, []uint64{10}},
		{"", "accept any", 0, false, []uint64{10}},
		{"", "count any; drop ff01:01", 0, false, []uint64{10, 0}},
		{"ff01:01:00000001", "", 0, false, nil},
		{"ff01:01:00000001", "drop ff01:02", 0, false, []uint64{0}},
		{"ff01:01:00000001", "count ff01:01; count any; accept ff01:01:00000001; drop any", 0, false, []uint64{10, 10, 10, 0}},
		{"ff01:01:00000001,ff01:81:", "drop ff01:01:00000002; accept ff01:81", 0, false, []uint64{0, 10}},
		{"ff01:01:00000001", "vni 1193047 ff01:01", 1, false, []uint64{10}},
		{"ff01:01:00000001", "vlan 7 ff01:01", 0, true, []uint64{10}},
		{"ff01:01:00000001", "drop ff01:01", -1, false, []uint64{10}},
	} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		first, second := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1", "192.0.2.2")
		second.VNI = otherVNI
		first.Device.LLAddr, second.Device.LLAddr = macB, macB
		if c.rules != "" {
			first.OptionRules = readMatch(t, strings.Split(c.rules, "; ")...)
		}
		devices := []*memDevice{h.add(first), h.add(second)}
		// The pieces, as another of us sends them.
		from := newHost(t, new(memWire), 1, "192.0.2.2")
		from.devices.offload, from.underlay.keep = h.devices.offload, true
		cfg := testTunnel("gnv0", "192.0.2.1")
		if c.options != "" {
			var err error
			if cfg.Options, err = option.Default().Parse(c.options); err != nil {
				t.Fatal(err)
			}
		}
		dev := from.add(cfg)
		super, hdr := tcpSuper(10, 1000)
		dev.queues[0].feed(memFrame{bytes: slices.Clone(super), hdr: hdr})
		from.step()
		var train []byte
		for _, d := range from.underlay.sent {
			train = append(train, d.bytes...)
		}
		h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(from.underlay.sent[0].bytes), train)
		h.step()
		want := slices.Clone(super)
		if c.tag {
			want = withTag(want, 0x8100, 7)
		}
		for i, dev := range devices {
			got := dev.queues[0].take()
			if i != c.device && len(got) > 0 || i == c.device && (len(got) != 1 || !bytes.Equal(got[0].bytes[:12], want[:12]) || len(got[0].bytes) != len(want) || !bytes.Equal(got[0].bytes[len(want)-10000:], want[len(want)-10000:])) {
				t.Errorf("%q with %q: %d frames on %s, want one of %d bytes on device %d", c.rules, c.options, len(got), dev.Name(), len(want), c.device)
			}
		}
		s := h.State()
		if hits := s.Tunnels[0].OptionHits; !slices.Equal(hits, c.hits) {
			t.Errorf("%q with %q: matched %v packets, want %v", c.rules, c.options, hits, c.hits)
		}
		if c.device >= 0 {
			if got := s.Tunnels[c.device].Stats; got.RxPackets != 10 || got.RxBytes != uint64(len(super)+9*54) {
				t.Errorf("%q with %q: %d packets of %d bytes, want 10 of %d", c.rules, c.options, got.RxPackets, got.RxBytes, len(super)+9*54)
			}
		}
		if c.options != "" && (len(s.Options) != 1 || s.Options[0].Class != 0xff01 || s.Options[0].Ignored != 10) {
			t.Errorf("%q with %q: options of %+v, want 10 packets of class ff01", c.rules, c.options, s.Options)
		}
	}
}

// TestMatchVLANs: on a trunk a rule chooses the VLAN by its VNI.
func TestMatchVLANs(t *testing.T) {
	cfg := testTrunk("gnv0", "192.0.2.2")
	cfg.OptionRules = readMatch(t, "vni 5012 ff01:01:00000001")
	l := newLab(t, cfg)
	plain := frame(macA, macB, 0x88b5, make([]byte, 46))
	for data, vid := range map[string]uint16{"00000001": 12, "00000002": 10} {
		d := withOption(t, 5010, data, plain)
		l.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(d), d)
		l.step()
		if got := l.dev.queues[0].take(); len(got) != 1 || !bytes.Equal(got[0].bytes, withTag(plain, 0x8100, vid)) {
			t.Errorf("option %s: got %x, want the frame in VLAN %d", data, got, vid)
		}
	}
	l.wantOut("learned in the VLAN of the rule", l.outVLAN(12, macB, macA), "192.0.2.2 vni 5012")
}

// TestMatchAccept: who may speak to the other tunnel by its accept becomes a peer there by a packet
// that a rule takes to it, and the packet is delivered.
func TestMatchAccept(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first, second := testTunnel("gnv0", "192.0.2.2"), testTunnel("gnv1")
	second.VNI, second.Accept = otherVNI, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
	first.OptionRules = readMatch(t, "vni 1193047 ff01:01")
	h.add(first)
	dev := h.add(second)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()
	plain := frame(macA, macB, 0x88b5, make([]byte, 46))
	d := withOption(t, testVNI, "00000001", plain)
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(d), d)
	arrives(t, dev, plain)
	if peers := h.State().Tunnels[1].Peers; len(peers) != 1 || !peers[0].Dynamic {
		t.Errorf("peers %+v, want the new one", peers)
	}
}

// sharedOf reads options of an entry.
func sharedOf(t testing.TB, text string) option.Shared {
	t.Helper()
	s, err := option.Default().Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s.Share()
}

// The headers of datagrams with the options of an entry, and with those of the tunnel.
const (
	entryHead  = "0540655812345600" + "ff018101" + "0000002e" + "ff010202" + "0000000000000000"
	tunnelHead = "0200655812345600" + "ff010101" + "00000001"
)

// optionLab is a tunnel with options, and an entry for macB that has its own.
func optionLab(t *testing.T) (*lab, Tunnel) {
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.Options = sharedOf(t, "ff01:01:00000001").Sent()
	cfg.Entries = []Entry{{MAC: macB, Remote: addr("192.0.2.2"), State: fdb.Static, Options: sharedOf(t, "ff01:81:@dscp,ff01:02:0000000000000000")}}
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
	h.underlay.keep = true
	return &lab{host: h, dev: h.add(cfg)}, cfg
}

// heads are the headers with which a packet of that many bytes goes out.
func (l *lab) heads(dst packet.MAC, size int) (all []string) {
	l.t.Helper()
	l.dev.queues[0].feed(memFrame{bytes: frame(dst, macA, 0x0800, ipv4(0xb8, "10.99.0.1", "10.99.0.2", 1, 2, strings.Repeat("x", size-28)))})
	l.step()
	for _, d := range l.underlay.sent {
		all = append(all, hex.EncodeToString(d.bytes[:8+4*int(d.bytes[0]&0x3f)]))
	}
	l.underlay.sent = nil
	return all
}

// wantRoom wants the MTU to leave room for options of that many bytes.
func (l *lab) wantRoom(options int) {
	l.t.Helper()
	if got := l.dev.State().MTU; got != 1500-50-options {
		l.t.Errorf("MTU %d, want %d: the longest options are %d bytes", got, 1500-50-options, options)
	}
}

// TestEntryOptions: frames to an address carry the options of its entry, in the place of those of tunnel
// and peer, and others do not; the device's MTU and the path have room for them, as long as there are any.
func TestEntryOptions(t *testing.T) {
	l, cfg := optionLab(t)
	l.wantRoom(20)
	if got := l.heads(macB, 38); !slices.Equal(got, []string{entryHead}) {
		t.Errorf("to the entry %v, want %s", got, entryHead)
	}
	if got := l.heads(macC, 38); !slices.Equal(got, []string{tunnelHead, tunnelHead}) {
		t.Errorf("flooded %v, want two of %s", got, tunnelHead)
	}
	if got := l.heads(macB, 1450-20); len(got) != 1 {
		t.Errorf("as long as the path: %v, want one", got)
	}
	before := l.State().Tunnels[0].Drops.Tx[count.DropTooBig]
	if got := l.heads(macB, 1450-20+1); len(got) != 0 || l.State().Tunnels[0].Drops.Tx[count.DropTooBig] != before+1 {
		t.Errorf("a byte longer than the path: %v, want none, and a drop", got)
	}
	super, hdr := tcpSuper(10, 1000) // to macB
	l.dev.queues[0].feed(memFrame{bytes: super, hdr: hdr})
	l.step()
	for _, d := range l.underlay.sent {
		if got := hex.EncodeToString(d.bytes[:28]); got != strings.Replace(entryHead, "0000002e", "00000000", 1) {
			t.Errorf("a piece begins with %s, want the options", got)
		}
	}
	if len(l.underlay.sent) != 10 {
		t.Errorf("%d pieces, want 10", len(l.underlay.sent))
	}
	l.underlay.sent = nil
	cfg.Entries = nil
	if err := l.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	l.step()
	l.wantRoom(8)
	if got := l.heads(macB, 38); !slices.Equal(got, []string{tunnelHead, tunnelHead}) {
		t.Errorf("without the entry %v, want two of %s", got, tunnelHead)
	}
}

// TestEntryOptionsByHand: the same of entries that are set while it runs, of stations and of a group;
// another process goes on with them.
func TestEntryOptionsByHand(t *testing.T) {
	l, cfg := optionLab(t)
	set := func(verb Verb, e Entry) {
		t.Helper()
		if err := l.SetEntry("gnv0", verb, e); err != nil {
			t.Fatal(err)
		}
		l.step()
	}
	long := sharedOf(t, "ff01:03:"+strings.Repeat("00", 60))
	set(EntryAdd, Entry{MAC: macC, Remote: addr("192.0.2.2"), Options: long})
	l.wantRoom(64)
	has := func(e *Endpoint) bool {
		all, err := e.Entry("gnv0", macC)
		return err == nil && len(all) == 1 && all[0].Options == long
	}
	if !has(l.Endpoint) {
		t.Error("the entry does not have its options")
	}
	set(EntryAdd, Entry{MAC: mcast, Remote: addr("192.0.2.2"), Options: sharedOf(t, "ff01:04:")})
	set(EntryAppend, Entry{MAC: mcast, Remote: addr("192.0.2.3")})
	if got := l.heads(mcast, 38); !slices.Equal(got, []string{"0100655812345600" + "ff010400", tunnelHead}) {
		t.Errorf("to the group %v, want one with each set", got)
	}
	next := newHost(t, new(memWire), 1, "192.0.2.1")
	next.add(cfg)
	next.Recall(keep(l.Memory()), 0)
	if !has(next.Endpoint) {
		t.Error("after a restart the entry does not have its options")
	}
	if err := l.DeleteEntry("gnv0", Entry{MAC: macC}); err != nil {
		t.Fatal(err)
	}
	l.step()
	l.wantRoom(20)

	// Where nothing has options, or nothing is sent.
	vxlan := testTunnel("gnv1", "192.0.2.2")
	vxlan.Encap, vxlan.VNI, vxlan.DstPort = encap.VXLAN, 7, 4789
	l.add(vxlan)
	for name, e := range map[string]Entry{
		"local": {MAC: macC, Local: true, Options: long}, "of the flood list": {Remote: addr("192.0.2.9"), Options: long}, "of VXLAN": {MAC: macC, Remote: addr("192.0.2.2"), Options: long},
	} {
		dev := map[bool]string{true: "gnv1", false: "gnv0"}[name == "of VXLAN"]
		if err := l.SetEntry(dev, EntryAppend, e); err == nil || !strings.Contains(err.Error(), "options") {
			t.Errorf("an entry %s has options of its own: error %v", name, err)
		}
	}
}

// BenchmarkOptions is what three options in each packet cost: a super-frame of ten pieces out, and its pieces in.
func BenchmarkOptions(b *testing.B) {
	parse := func(text string) option.Sent {
		s, err := option.Default().Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	const three = "ff01:01:0000004d,ff01:02:@dscp,ff01:03:@src"
	for _, c := range []struct {
		name string
		edit func(*Tunnel)
	}{
		{"none", func(*Tunnel) {}},
		{"sent", func(c *Tunnel) { c.Options = parse(three) }},
		{"by rule", func(c *Tunnel) {
			c.SendRules = readSend(b, "src 10.0.0.0/24 then options none", "proto tcp dport 2000 then options "+three)
		}},
		{"matched", func(c *Tunnel) {
			c.Options, c.OptionRules = parse(three), readMatch(b, "drop ff01:01:0000004e", "count ff01:02", "accept ff01:03", "drop any")
		}},
	} {
		open := func(local string, cfg Tunnel) (*Endpoint, *memQueue, *memUnderlay) {
			devices, underlay := &memDevices{t: b, offload: packet.OffloadCsum | packet.OffloadTSO4}, newMemUnderlay(b, new(memWire), local)
			e, err := New(Config{Workers: 1, Devices: devices, Underlay: underlay})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { e.Close() })
			c.edit(&cfg)
			if err := e.Add(cfg); err != nil {
				b.Fatal(err)
			}
			return e, devices.opened[0].queues[0], underlay
		}
		super, hdr := tcpSuper(10, 1000)
		from, q, sent := open("192.0.2.1", testTunnel("gnv0", "192.0.2.2"))
		cfg := testTunnel("gnv0", "192.0.2.1")
		cfg.Device.LLAddr = macB
		to, device, underlay := open("192.0.2.2", cfg)
		sent.keep = true
		q.feed(memFrame{bytes: super, hdr: hdr})
		from.pool.Step()
		train := packet.Train{From: addr("192.0.2.1"), Ifindex: 2, Size: len(sent.sent[0].bytes)}
		for _, d := range sent.sent {
			train.Data = append(train.Data, d.bytes...)
		}
		sent.keep, sent.sent, sent.forget, device.discard = false, nil, true, true
		b.Run("out/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				q.feed(memFrame{bytes: super, hdr: hdr})
				from.pool.Step()
			}
		})
		b.Run("in/"+c.name, func(b *testing.B) {
			r := underlay.listeners[0].receivers[0]
			b.ReportAllocs()
			for b.Loop() {
				r.mu.Lock()
				r.queued = append(r.queued, train)
				r.wakeup.ring()
				r.mu.Unlock()
				to.pool.Step()
			}
			if s := to.State().Tunnels[0]; s.Stats.RxPackets == 0 || s.Drops != (count.Drops{}) {
				b.Errorf("%d packets, drops %v", s.Stats.RxPackets, s.Drops)
			}
		})
	}
}
