package fdb

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"gvtep/internal/packet"
)

// slot is the place of one address in an array: half a cache line. Once key is
// set it never changes, so whoever has found a slot by its key may read the
// other words one by one, without ever seeing another address's. An address
// that goes leaves its slot behind, with state 0, to come back to; only a new
// array is without such leftovers.
type slot struct {
	key     atomic.Uint64 // 0: free, and the end of every search
	value   atomic.Uint64 // written under the table's lock only
	updated atomic.Int64
	used    atomic.Int64
}

// occupied makes the key of 00:00:00:00:00:00 differ from that of a free slot.
const occupied = 1 << 48

func keyOf(m packet.MAC) uint64 {
	return occupied | uint64(m[0])<<40 | uint64(m[1])<<32 | uint64(m[2])<<24 | uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
}

func macOf(key uint64) packet.MAC {
	return packet.MAC{byte(key >> 40), byte(key >> 32), byte(key >> 24), byte(key >> 16), byte(key >> 8), byte(key)}
}

// value is nexthop, state, flags, moves and what damping remembers in one word,
// so that they are read and changed together:
//
//	63     48 47   39 38     36 35   34 33   32 31                0
//	|  moves | since | strikes | flags | state |      nexthop      |
type value uint64

const (
	stateShift   = 32
	flagsShift   = 34
	strikesShift = 36
	sinceShift   = 39
	movesShift   = 48

	stateMask   = 3 << stateShift
	flagsMask   = 3
	strikesMask = 7
	sinceMask   = 1<<9 - 1
)

func makeValue(via Nexthop, s State, f Flags, moves uint16) value {
	return value(via) | value(s)<<stateShift | value(f&flagsMask)<<flagsShift | value(moves)<<movesShift
}

func (v value) nexthop() Nexthop { return Nexthop(v) }
func (v value) state() State     { return State(v & stateMask >> stateShift) }
func (v value) flags() Flags     { return Flags(v >> flagsShift & flagsMask) }
func (v value) strikes() int     { return int(v >> strikesShift & strikesMask) }
func (v value) since() uint64    { return uint64(v >> sinceShift & sinceMask) }
func (v value) moves() uint16    { return uint16(v >> movesShift) }

func (v value) withStrikes(n int, since uint64) value {
	v &^= strikesMask<<strikesShift | sinceMask<<sinceShift
	return v | value(n)<<strikesShift | value(since&sinceMask)<<sinceShift
}

// dead: the address is gone, its slot is left.
func (v value) dead() bool { return v&stateMask == 0 }

func (v value) ages() bool {
	return v&(stateMask|value(ExternLearn)<<flagsShift) == value(Dynamic)<<stateShift
}

func (v value) pinned() bool {
	return v&(stateMask|value(Sticky)<<flagsShift) != value(Dynamic)<<stateShift
}

// moved is v behind another nexthop, without strikes.
func (v value) moved(via Nexthop) value {
	moves := v.moves()
	if moves < 1<<16-1 {
		moves++
	}
	return makeValue(via, v.state(), v.flags()&^ExternLearn, moves)
}

// hasher maps keys to numbers with secrets of its own, so that nobody can
// choose addresses that crowd into one place.
type hasher [4]uint64

func newHasher() hasher {
	return hasher{rand.Uint64(), rand.Uint64() | 1, rand.Uint64(), rand.Uint64() | 1}
}

// hash is two rounds of a folded 64 x 64 bit multiplication. One round is
// universal, but with unlucky secrets it leaves a series of addresses in steps
// that fill neighbouring slots: over 400 secrets and a load of 0.73 the worst
// mean search was 114 slots beyond the first, with the second round 1.9.
func (h *hasher) hash(key uint64) uint64 {
	hi, lo := bits.Mul64(key^h[0], h[1])
	hi, lo = bits.Mul64(hi^lo^h[2], h[3])
	return hi ^ lo
}

// Sizes of arrays, in slots. A slot is 32 bytes: a table of at most 12
// addresses has 512 bytes of them, and one that has just doubled 85 bytes an
// address. By Knuth's formula a search in vain looks at 8.5 slots on average in
// an array three quarters full, at 2.5 in one half full.
const minSlots = 16

// crowded is how many slots may be taken before a new array is made, limit how
// many may be while it is being made.
func crowded(slots int) int { return slots / 4 * 3 }
func limit(slots int) int   { return slots / 8 * 7 }

// slotsFor is the size of a new array for n addresses.
func slotsFor(n int) int {
	size := minSlots
	for n > size/16*11 {
		size *= 2
	}
	return size
}

// array is an open-addressing hash table with linear probing. Its home slot
// for a key is given by the top bits of the hash: the order of the addresses is
// nearly the same in arrays of all sizes, and copying one to another runs
// through both from front to back.
type array struct {
	slots []slot
	shift uint8
	taken atomic.Int64 // slots with a key, dead ones too
	// promised is how many slots will be taken when the array has been
	// filled, at most. Under the table's lock.
	promised int
	// next is the array that takes the place of this one, from the moment it
	// is being filled; it is never cleared. Every change is made to both,
	// so what is found here is right until the table points to next.
	next atomic.Pointer[array]
}

func newArray(size int) *array {
	return &array{slots: make([]slot, size), shift: uint8(64 - bits.Len(uint(size-1)))}
}

// find returns the slot of key, or nil. It needs no lock.
func (a *array) find(key, hash uint64) *slot {
	slots := a.slots
	for i := hash >> a.shift; ; i++ {
		s := &slots[i&uint64(len(slots)-1)]
		switch s.key.Load() {
		case key:
			return s
		case 0:
			return nil
		}
	}
}

// claim returns the slot of key, or a free one that it gives to key: one in
// which all other words are 0, which reads as dead. It needs no lock, but room.
func (a *array) claim(key, hash uint64) *slot {
	slots := a.slots
	for i := hash >> a.shift; ; i++ {
		s := &slots[i&uint64(len(slots)-1)]
		k := s.key.Load()
		if k == 0 {
			if s.key.CompareAndSwap(0, key) {
				a.taken.Add(1)
				return s
			}
			k = s.key.Load() // somebody was faster, perhaps for the same key
		}
		if k == key {
			return s
		}
	}
}

// put gives key a slot with these contents, its old one if it has any. The
// table's lock is held and there is room.
func (a *array) put(key, hash uint64, v value, updated, used int64) {
	s := a.claim(key, hash)
	// Times before value: who sees the one sees the other.
	s.updated.Store(updated)
	s.used.Store(used)
	s.value.Store(uint64(v))
}
