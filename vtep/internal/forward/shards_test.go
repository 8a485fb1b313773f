package forward

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gvtep/internal/packet"
)

// TestShards compares maps and their copies with Go's while both are changed.
func TestShards(t *testing.T) {
	type pair struct {
		shards Shards[PeerID, int]
		model  map[PeerID]int
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	all := []*pair{{model: make(map[PeerID]int)}}
	for range 20_000 {
		p := all[rnd.IntN(len(all))]
		key := PeerID(rnd.IntN(2000))
		switch op := rnd.IntN(100); {
		case op == 0 && len(all) < 50:
			all = append(all, &pair{p.shards.Copy(), maps.Clone(p.model)})
		case op < 30:
			p.shards.Delete(key)
			delete(p.model, key)
		default:
			value := rnd.Int()
			p.shards.Set(key, value)
			p.model[key] = value
		}
	}
	for i, p := range all {
		if p.shards.Len() != len(p.model) {
			t.Errorf("copy %d: %d keys, want %d", i, p.shards.Len(), len(p.model))
		}
		for key := range PeerID(2000) {
			if got := p.shards.Get(key); got != p.model[key] {
				t.Fatalf("copy %d: %d is %d, want %d", i, key, got, p.model[key])
			}
		}
	}
}

// TestShardsSpread: peers of a subnet, of many and of one tunnel are in many parts.
func TestShardsSpread(t *testing.T) {
	for name, key := range map[string]func(i int) Admission{
		"a subnet": func(i int) Admission {
			return Admission{VNIKey{1, 5}, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
		},
		"first hosts": func(i int) Admission {
			return Admission{VNIKey{1, 5}, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})}
		},
		"many VNIs": func(i int) Admission {
			return Admission{VNIKey{1, packet.VNI(i)}, netip.AddrFrom4([4]byte{10, 0, 0, 1})}
		},
		"IPv6 subnets": func(i int) Admission {
			return Admission{VNIKey{1, 5}, netip.AddrFrom16([16]byte{0xfd, 6: byte(i >> 8), 7: byte(i), 15: 1})}
		},
	} {
		var counts [numShards]int
		most := 0
		for i := range 1000 {
			s := key(i).shard()
			counts[s]++
			most = max(most, counts[s])
		}
		if most > 50 {
			t.Errorf("%s: one part has %d of 1000", name, most)
		}
	}
}

// BenchmarkAdmitted is the lookup that each train of datagrams must pass, in a map in parts
// and in one of Go's.
func BenchmarkAdmitted(b *testing.B) {
	for _, n := range []int{1, 10, 1000, 10_000} {
		keys := make([]Admission, n)
		var snap Snapshot
		plain := make(map[Admission]*Peer)
		state := new(PortState)
		state.Current.Store(&Port{Segment: new(Segment)})
		for i := range keys {
			keys[i] = Admission{VNIKey{1, 5}, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
			p := &Peer{Tunnel: state}
			snap.Admit.Set(keys[i], p)
			plain[keys[i]] = p
		}
		b.Run(fmt.Sprintf("parts/%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				if p, _ := snap.Admitted(&keys[i]); p == nil {
					b.Fatal("not there")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("plain/%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				if plain[keys[i]] == nil {
					b.Fatal("not there")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

// trunksOf are trunks with one peer and one VNI each: their own or, by sameVNI and samePeer, one for all.
func trunksOf(n int, sameVNI, samePeer bool) (snap Snapshot, keys []Admission) {
	for i := range n {
		vni, addr := packet.VNI(5), netip.AddrFrom4([4]byte{198, 18, 0, 1})
		if !sameVNI {
			vni += packet.VNI(i)
		}
		if !samePeer {
			addr = netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
		}
		state := &PortState{ID: uint32(i + 1)}
		state.Current.Store(&Port{Segment: new(Segment), PortState: state, Trunk: &Trunk{ByVNI: map[packet.VNI]*Segment{vni: {VNI: vni}}}})
		key := Admission{VNIKey{1, vni}, addr}
		snap.Trunks.Set(key.VNIKey, append(snap.Trunks.Get(key.VNIKey), state))
		snap.Sources.Set(key.From(), append(snap.Sources.Get(key.From()), &Peer{Tunnel: state}))
		keys = append(keys, key)
	}
	return snap, keys
}

// TestTrunkNoMore: a worker with an older snapshot may admit for a tunnel that is a trunk no more,
// or has the VLAN no more.
func TestTrunkNoMore(t *testing.T) {
	snap, keys := trunksOf(3, false, true)
	for i := range keys {
		p, seg := snap.Admitted(&keys[i])
		if p == nil || p.Tunnel.ID != uint32(i+1) || seg.VNI != keys[i].VNI {
			t.Fatalf("trunk %d: its peer is %v in %v", i+1, p, seg)
		}
		for _, trunk := range []*Trunk{{}, nil} {
			p.Tunnel.Current.Store(&Port{Segment: new(Segment), PortState: p.Tunnel, Trunk: trunk})
			if p, _ := snap.Admitted(&keys[i]); p != nil {
				t.Errorf("trunk %d: admitted although it has no such VLAN any more", i+1)
			}
		}
	}
}

// BenchmarkAdmittedByTrunk is the same lookup where all tunnels are trunks.
func BenchmarkAdmittedByTrunk(b *testing.B) {
	for _, c := range []struct {
		name              string
		sameVNI, samePeer bool
	}{{"peers in common", false, true}, {"VNIs in common", true, false}} {
		for _, n := range []int{1, 1000} {
			snap, keys := trunksOf(n, c.sameVNI, c.samePeer)
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if p, _ := snap.Admitted(&keys[i]); p == nil {
						b.Fatal("not there")
					}
					if i++; i == n {
						i = 0
					}
				}
			})
		}
	}
}
