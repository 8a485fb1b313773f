package vtep

import (
	"iter"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvtep/fdb"
	"gvtep/internal/packet"
)

// keep is a memory that does not change any more.
func keep(m Memory) Memory {
	var tunnels []*TunnelMemory
	var tables [][]Learned
	for tm, table := range m {
		tunnels, tables = append(tunnels, tm), append(tables, slices.Collect(table))
	}
	return func(yield func(*TunnelMemory, iter.Seq[Learned]) bool) {
		for i := range tunnels {
			if !yield(tunnels[i], slices.Values(tables[i])) {
				return
			}
		}
	}
}

// TestRecall: another endpoint goes on with the memory of the first, as far as
// its configuration and the time passed allow.
func TestRecall(t *testing.T) {
	heard := packet.MAC{2, 0, 0, 0, 0, 0x11}
	static := packet.MAC{2, 0, 0, 0, 0, 0x12}
	extern := packet.MAC{2, 0, 0, 0, 0, 0x13}
	own := packet.MAC{2, 0, 0, 0, 0, 0x14}
	base := func() Tunnel {
		cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
		cfg.Local = addr("192.0.2.1")
		cfg.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26")}
		return cfg
	}
	first := newLab(t, base())
	first.in("192.0.2.3", macA, heard)
	first.admitSenders(sender{first.tunnels["gnv0"].port, addr("192.0.2.70")})
	first.in("192.0.2.70", macA, macC)
	for _, e := range []Entry{
		{MAC: static, Remote: addr("192.0.2.9"), State: fdb.Static},
		{MAC: extern, Remote: addr("192.0.2.2"), State: fdb.Dynamic, Flags: fdb.ExternLearn},
		{MAC: own, Local: true},
	} {
		if err := first.SetEntry("gnv0", EntryAdd, e); err != nil {
			t.Fatal(err)
		}
	}
	kept := keep(first.Memory())

	for _, v := range []struct {
		name    string
		change  func(*Tunnel)
		elapsed time.Duration
		want    map[packet.MAC]string // where the entry points to; none: there is none
	}{
		{"all", func(*Tunnel) {}, time.Second, map[packet.MAC]string{
			heard: "192.0.2.3", macC: "192.0.2.70", static: "192.0.2.9", extern: "192.0.2.2", own: "local"}},
		{"too late for what ages", func(*Tunnel) {}, 301 * time.Second, map[packet.MAC]string{
			static: "192.0.2.9", extern: "192.0.2.2", own: "local"}},
		{"another VNI", func(c *Tunnel) { c.VNI++ }, 0, nil},
		{"another name", func(c *Tunnel) { c.Device.Name = "gnv1" }, 0, nil},
		{"a peer is gone", func(c *Tunnel) { c.Peers = c.Peers[:1] }, 0, map[packet.MAC]string{
			macC: "192.0.2.70", static: "192.0.2.9", extern: "192.0.2.2", own: "local"}},
		{"accepted no more", func(c *Tunnel) { c.Accept = nil }, 0, map[packet.MAC]string{
			heard: "192.0.2.3", static: "192.0.2.9", extern: "192.0.2.2", own: "local"}},
		{"no learning", func(c *Tunnel) { c.Learning = false }, 0, map[packet.MAC]string{
			static: "192.0.2.9", extern: "192.0.2.2", own: "local"}},
		{"the configuration goes first", func(c *Tunnel) {
			c.Entries = []Entry{{MAC: static, Remote: addr("192.0.2.3")}, {MAC: heard, Remote: addr("192.0.2.2")}}
		}, 0, map[packet.MAC]string{heard: "192.0.2.2", macC: "192.0.2.70", static: "192.0.2.3", extern: "192.0.2.2", own: "local"}},
		{"the device has a heard address", func(c *Tunnel) { c.Device.LLAddr = heard }, 0, map[packet.MAC]string{
			macC: "192.0.2.70", static: "192.0.2.9", extern: "192.0.2.2", own: "local"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			cfg := base()
			v.change(&cfg)
			next := newLab(t, cfg)
			next.Recall(kept, v.elapsed)
			next.step()
			got := map[packet.MAC]string{}
			for _, e := range next.FDB() {
				switch {
				case e.Flood:
				case e.Local:
					got[e.MAC] = "local"
				default:
					got[e.MAC] = e.Remote.Addr().String()
				}
				if !e.Flood && e.State == fdb.Dynamic && e.Updated < v.elapsed {
					t.Errorf("%s was updated %s ago, want at least %s", e.MAC, e.Updated, v.elapsed)
				}
			}
			if len(got) != len(v.want) {
				t.Errorf("entries %v, want %v", got, v.want)
			}
			for mac, where := range v.want {
				if got[mac] != where {
					t.Errorf("%s is at %q, want %q", mac, got[mac], where)
				}
				if where != "local" {
					next.wantOut(mac.String(), next.out(mac, macA), where)
				}
			}
		})
	}

	// The limit of the table holds, and a peer that was heard counts as seen.
	cfg := base()
	cfg.MaxAddress = 1
	next := newLab(t, cfg)
	if n := next.Recall(first.Memory(), time.Minute); n != 1 {
		t.Errorf("%d entries recalled with room for 1", n)
	}
	for _, p := range next.Brief()[0].Peers {
		seen := p.Remote.Addr() != addr("192.0.2.2") // which never spoke
		if p.LastSeen.IsZero() == seen || seen && time.Since(p.LastSeen) < time.Minute {
			t.Errorf("peer %s was last seen %v", p.Remote, p.LastSeen)
		}
	}
}

// TestMemoryWaitsForNobody: while a table is read, the endpoint answers and changes, and what
// is configured costs nothing.
func TestMemoryWaitsForNobody(t *testing.T) {
	cfg := testTunnel("gnv0", "192.0.2.2")
	for i := range 1000 {
		cfg.Entries = append(cfg.Entries, Entry{MAC: scaleMAC(i), Remote: addr("192.0.2.2")})
	}
	l := newLab(t, cfg)
	byHand := Entry{MAC: scaleMAC(1001), Remote: addr("192.0.2.9"), State: fdb.Static}
	if err := l.SetEntry("gnv0", EntryAdd, byHand); err != nil {
		t.Fatal(err)
	}
	l.in("192.0.2.2", macA, macC)
	tables := 0
	for tm, table := range l.Memory() {
		if !slices.Equal(tm.ByHand, []Entry{byHand}) || tm.Device.Name != "gnv0" {
			t.Errorf("set by hand on %s: %v, want %v", tm.Device.Name, tm.ByHand, byHand)
		}
		for entry := range table {
			tables++
			if entry.MAC != macC {
				t.Errorf("%s is no learned entry", entry.MAC)
			}
			// Both wait for a lock that is held meanwhile, for ever.
			l.State()
			if err := l.DeleteEntry("gnv0", byHand); err != nil {
				t.Fatal(err)
			}
		}
	}
	if tables != 1 {
		t.Errorf("%d learned entries, want 1", tables)
	}
	for tm := range l.Memory() {
		if len(tm.ByHand) > 0 {
			t.Errorf("remembered after its removal: %v", tm.ByHand)
		}
	}
}
