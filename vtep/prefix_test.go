package vtep

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// l3Tunnel is a tunnel with peers 192.0.2.2, .3 and so on, with these routes.
func l3Tunnel(routes ...[]string) Tunnel {
	cfg := testTunnel("gnv0")
	l3(&cfg)
	for i, texts := range routes {
		p := Peer{Remote: netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i)}), Routes: []netip.Prefix{}}
		for _, text := range texts {
			p.Routes = append(p.Routes, netip.MustParsePrefix(text))
		}
		cfg.Peers = append(cfg.Peers, p)
	}
	return cfg
}

// innerIP is an IP packet without payload.
func innerIP(src, dst netip.Addr) []byte {
	if src.Is6() {
		b := append(make([]byte, 8), append(src.AsSlice(), dst.AsSlice()...)...)
		b[0], b[6], b[7] = 0x60, 59, 64
		return b
	}
	b := append(make([]byte, 12), append(src.AsSlice(), dst.AsSlice()...)...)
	b[0], b[3], b[8], b[9] = 0x45, 20, 64, 253
	return b
}

// TestPrefixes: with any routes of three peers, and after any change of them, a
// packet goes to the peer with the longest prefix of its destination and is
// taken from the one with the longest of its source, as a plain search says.
func TestPrefixes(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, seed))
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	// A small world, so that prefixes overlap and are hit.
	address := func() netip.Addr {
		if rnd.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(rnd.IntN(4)), 0, byte(rnd.IntN(8))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(rnd.IntN(4)), 15: byte(rnd.IntN(8))})
	}
	shuffled := func() Tunnel {
		cfg := l3Tunnel(nil, nil, nil)
		for range rnd.IntN(30) {
			a := address()
			route := netip.PrefixFrom(a, rnd.IntN(a.BitLen()+1)).Masked()
			if !slices.ContainsFunc(cfg.Peers, func(p Peer) bool { return slices.Contains(p.Routes, route) }) {
				p := &cfg.Peers[rnd.IntN(3)]
				p.Routes = append(p.Routes, route)
			}
		}
		return cfg
	}
	h.add(shuffled())
	hits, misses := 0, 0
	for round := range 300 {
		cfg := shuffled()
		if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
			t.Fatal(err)
		}
		p := h.pool.Snapshot().Ports[0]
		for range 30 {
			src, dst := address(), address()
			for src.Is4() != dst.Is4() {
				dst = address()
			}
			owner := func(a netip.Addr) (who netip.Addr) {
				best := -1
				for _, peer := range cfg.Peers {
					for _, route := range peer.Routes {
						if route.Contains(a) && route.Bits() > best {
							who, best = peer.Remote, route.Bits()
						}
					}
				}
				return who
			}
			ip := innerIP(src, dst)
			var headers packet.Headers
			packet.Walk(ip, true, &headers)
			peers, flood, reason := p.Segment.Forward(p, ip, &headers, 1, 0)
			to := netip.Addr{}
			if len(peers) > 0 {
				to = peers[0].Dest.Remote.Addr()
				hits++
			} else if misses++; reason != count.DropNoPeer {
				t.Fatalf("no peer for %s: reason %s", dst, reason)
			}
			if want := owner(dst); len(peers) > 1 || flood || to != want {
				t.Fatalf("seed %d, round %d: %s goes to %v, want %v with %+v", seed, round, dst, to, want, cfg.Peers)
			}
			for _, from := range h.tunnels["gnv0"].peers {
				if got, want := p.Segment.RoutedBack(ip, &headers, from.Peer), owner(src) == from.config.Remote; got != want {
					t.Fatalf("seed %d, round %d: from %s taken of %s: %v, want %v with %+v", seed, round, src, from.config.Remote, got, want, cfg.Peers)
				}
			}
		}
	}
	if hits < 1000 || misses < 1000 {
		t.Errorf("%d packets with a route and %d without: too few to say anything", hits, misses)
	}
}

// TestRoutesRefused: what would leave open where a packet goes.
func TestRoutesRefused(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	one := l3Tunnel([]string{"10.0.0.0/8"}, nil)
	for name, edit := range map[string]func(*Tunnel){
		"no routes at one of two": func(c *Tunnel) { c.Peers[1].Routes = nil },
		"a prefix at both":        func(c *Tunnel) { c.Peers[1].Routes = slices.Clone(c.Peers[0].Routes) },
		"bits behind the prefix":  func(c *Tunnel) { c.Peers[1].Routes = []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")} },
		"noflood":                 func(c *Tunnel) { c.Peers[1].NoFlood = true },
		"routes in L2":            func(c *Tunnel) { c.Device.L3 = false },
	} {
		cfg := one
		cfg.Peers = slices.Clone(one.Peers)
		edit(&cfg)
		if err := h.Add(cfg); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EEXIST) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := h.Add(one); err != nil {
		t.Errorf("as it should be: %v", err)
	}
}

// TestInnerTTL: of mode l3 no packet with TTL or hop limit 0 goes out or comes in (RFC 2003 section 3.1), and
// one with 1 does as it is: the kernel's routing around the device has counted it down. Ethernet frames are
// none of that.
func TestInnerTTL(t *testing.T) {
	for _, tc := range []struct {
		src, dst string
		ttl      int // where it is in the packet
	}{{"10.9.0.1", "10.1.0.2", 8}, {"fd00:9::1", "fd00:1::2", 7}} {
		for ttl := range byte(3) {
			h := newHost(t, new(memWire), 1, "192.0.2.1")
			dev := h.add(l3Tunnel([]string{"10.0.0.0/8", "fd00::/16"}, []string{"10.1.0.0/16", "fd00:1::/32"}))
			out, in := innerIP(addr(tc.src), addr(tc.dst)), innerIP(addr(tc.dst), addr(tc.src))
			out[tc.ttl], in[tc.ttl] = ttl, ttl
			protocol := uint16(packet.EtherTypeIPv4)
			if out[0]>>4 == 6 {
				protocol = packet.EtherTypeIPv6
			}
			dev.queues[0].feed(memFrame{bytes: out})
			h.underlay.listeners[0].receivers[0].push(packet.Train{From: addr("192.0.2.3"), Ifindex: 2, Data: datagram(0, 0, protocol, testVNI, nil, in), Size: 8 + len(in)})
			h.step()
			s, want := h.State().Tunnels[0], uint64(1)
			if ttl == 0 {
				want = 0
			}
			if s.Stats.TxPackets != want || s.Stats.RxPackets != want || s.Drops.Tx[count.DropInnerTTL] != 1-want || s.Drops.Rx[count.DropInnerTTL] != 1-want {
				t.Errorf("%s with TTL %d: %d out and %d in, drops %v; want %d", tc.src, ttl, s.Stats.TxPackets, s.Stats.RxPackets, s.Drops, want)
			}
			if written := dev.queues[0].take(); want == 1 && (len(written) != 1 || written[0].bytes[tc.ttl] != ttl) {
				t.Errorf("%s with TTL %d: it arrived as %v", tc.src, ttl, written)
			}
		}
	}
}
