package forward

import (
	"maps"
	"net/netip"
)

// numShards is in how many parts a map of the snapshot is. With 256 a change of one of
// 10,000 entries copies 40, and the parts themselves are 2 KiB.
const numShards = 256

// Sharded is a key that says in which part it is. Equal keys are in the same.
type Sharded interface {
	comparable
	shard() uint8
}

// Shards is a map in parts, which its copies share until one of them is changed. So the
// maps of a snapshot cost what a change touches, not what there is. The zero value is
// empty. Any number may read; one that is being changed is for one caller.
type Shards[K Sharded, V any] struct {
	parts [numShards]map[K]V
	own   [numShards]bool // parts that no copy shares
}

// Get returns the value of a key, the zero value if there is none.
func (s *Shards[K, V]) Get(key K) V { return s.parts[key.shard()][key] }

// Len is how many keys there are.
func (s *Shards[K, V]) Len() (n int) {
	for _, part := range s.parts {
		n += len(part)
	}
	return n
}

// Copy returns a copy, which no change of s changes.
func (s *Shards[K, V]) Copy() Shards[K, V] {
	s.own = [numShards]bool{}
	return *s
}

// Set sets the value of a key.
func (s *Shards[K, V]) Set(key K, value V) { s.mine(key)[key] = value }

// Delete removes a key.
func (s *Shards[K, V]) Delete(key K) { delete(s.mine(key), key) }

// mine returns the part of a key for it to be changed.
func (s *Shards[K, V]) mine(key K) map[K]V {
	i := key.shard()
	switch {
	case s.own[i]:
	case s.parts[i] == nil:
		s.parts[i] = make(map[K]V)
	default:
		s.parts[i] = maps.Clone(s.parts[i])
	}
	s.own[i] = true
	return s.parts[i]
}

// PeerID is Peer.ID as a key.
type PeerID int32

func (id PeerID) shard() uint8 { return uint8(id) }

func (s Source) shard() uint8 { return shardOf(s.Addr) + uint8(s.Socket)*59 }

func (a Admission) shard() uint8 { return shardOf(a.Source) + a.VNIKey.shard() }

func (k VNIKey) shard() uint8 { return uint8(k.Socket)*59 + uint8(k.VNI)*71 + uint8(k.VNI>>8)*29 }

// Remote is the address of a peer as a key.
type Remote struct{ netip.Addr }

func (r Remote) shard() uint8 { return shardOf(r.Addr) }

// shardOf spreads hosts of one subnet, and subnets with few hosts each. Who picks addresses
// that come together makes changes slower, no lookup.
func shardOf(addr netip.Addr) uint8 {
	if addr.Is4() {
		a := addr.As4()
		return a[3] + a[2]*31 + a[1]*47 + a[0]*97
	}
	a := addr.As16()
	return a[15] + a[14]*31 + a[7]*13 + a[6]*19 + a[5]*47
}
