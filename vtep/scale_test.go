package vtep

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gvtep/internal/packet"
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
				e.Memory()
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
