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
