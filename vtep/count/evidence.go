package count

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"gvtep/internal/packet"
)

const (
	// EvidenceSize is how many kinds of refused packets a worker remembers.
	EvidenceSize = 64
	// HeadLen is how much of a packet is kept.
	HeadLen = 64
	// forgotten is how long after its last packet an entry has to make room before all others,
	// whatever its count.
	forgotten = int64(10 * time.Minute)
	// evictPause is the time between two entries that take the place of others: a flood from
	// made-up sources then costs a look for each packet, not a search for the least.
	evictPause = int64(50 * time.Microsecond)
	// readTries is how often a reader looks at an entry that is being written. A write takes
	// some 20 ns, so a second look nearly always succeeds.
	readTries = 100
)

// Sight is what a dropped packet looked like.
type Sight struct {
	Reason   Reason
	Source   netip.Addr // of the outer packet, without zone
	VNI      packet.VNI
	Protocol uint16 // of the payload, as the header says
}

// Refused is what is remembered of packets that looked alike.
type Refused struct {
	Sight
	First, Last int64  // ns of the clock that Add was given
	Count       uint64 // packets
	Port        uint16 // that the first one was sent to; 0: it is not known
	Head        []byte // the first bytes of the first one, from the GENEVE header on
}

// Evidence is what one worker remembers of packets from the underlay that it has dropped. One thread
// writes, without lock or allocation; any number read at the same time. Its zero value is empty.
type Evidence struct {
	// Of the writer alone. tags are hashes of the keys, which stand close together: most
	// packets of a flood are looked for in vain.
	tags    [EvidenceSize]uint64
	kinds   [EvidenceSize]kind
	used    int
	evicted int64 // when last

	slots [EvidenceSize]slot
}

// kind is what the writer knows of an entry.
type kind struct {
	key         key
	first, last int64
	count       uint64
}

// key is a Sight in three words: source, then reason, family, protocol and VNI.
type key [3]uint64

func (s *Sight) key() key {
	source := s.Source.As16()
	k := key{binary.BigEndian.Uint64(source[:]), binary.BigEndian.Uint64(source[8:]),
		uint64(s.Reason)<<56 | uint64(s.Protocol)<<32 | uint64(s.VNI)}
	if s.Source.Is4() {
		k[2] |= isIPv4
	}
	return k
}

const isIPv4 = 1 << 48

// tag is a hash that says of nearly all other keys that they are others; never 0.
func (k *key) tag() uint64 {
	return (k[0]*0x9e3779b97f4a7c15^k[1])*0xbf58476d1ce4e5b9 ^ k[2] | 1
}

func (k *key) sight() Sight {
	var source [16]byte
	binary.BigEndian.PutUint64(source[:], k[0])
	binary.BigEndian.PutUint64(source[8:], k[1])
	s := Sight{Reason: Reason(k[2] >> 56), Source: netip.AddrFrom16(source), VNI: packet.VNI(uint32(k[2])), Protocol: uint16(k[2] >> 32)}
	if k[2]&isIPv4 != 0 {
		s.Source = s.Source.Unmap()
	}
	return s
}

// slot is an entry as readers see it. seq is odd while it is being written (a seqlock); each
// word is atomic, so that a torn read is noticed and not undefined.
type slot struct {
	seq   atomic.Uint64
	words [slotWords]atomic.Uint64
}

// The words of a slot: the times, the count, the key, port and length of the head, the head.
const (
	wordFirst = iota
	wordLast
	wordCount
	wordKey
	wordPort  = wordKey + 3
	wordHead  = wordPort + 1
	slotWords = wordHead + HeadLen/8
)

// Add takes note of n packets that looked like s and were sent to port, the last of them at now.
// packet is one of them, from the GENEVE header on.
func (e *Evidence) Add(s Sight, n uint64, port uint16, now int64, packet []byte) {
	k := s.key()
	tag := k.tag()
	for i, t := range &e.tags {
		if t == tag && e.kinds[i].key == k {
			e.kinds[i].count += n
			e.kinds[i].last = now
			e.slots[i].update(&e.kinds[i])
			return
		}
	}
	i := e.room(now)
	if i < 0 {
		return
	}
	e.tags[i], e.kinds[i] = tag, kind{k, now, now, n}
	e.slots[i].write(&e.kinds[i], port, packet[:min(len(packet), HeadLen)])
}

// room returns the place for a new entry; -1: there is none at the moment.
func (e *Evidence) room(now int64) int {
	if e.used < EvidenceSize {
		e.used++
		return e.used - 1
	}
	if now-e.evicted < evictPause {
		return -1
	}
	e.evicted = now
	least := 0
	for i := range e.kinds {
		if e.kinds[i].before(&e.kinds[least], now) {
			least = i
		}
	}
	return least
}

// before reports whether k makes room before o does: what is forgotten, then the smallest count,
// then the oldest.
func (k *kind) before(o *kind, now int64) bool {
	if old, other := now-k.last > forgotten, now-o.last > forgotten; old != other {
		return old
	}
	if k.count != o.count {
		return k.count < o.count
	}
	return k.last < o.last
}

func (s *slot) write(k *kind, port uint16, head []byte) {
	var bytes [HeadLen]byte
	copy(bytes[:], head)
	s.seq.Add(1)
	s.words[wordFirst].Store(uint64(k.first))
	s.words[wordLast].Store(uint64(k.last))
	s.words[wordCount].Store(k.count)
	for i, w := range k.key {
		s.words[wordKey+i].Store(w)
	}
	s.words[wordPort].Store(uint64(port)<<8 | uint64(len(head)))
	for i := range HeadLen / 8 {
		s.words[wordHead+i].Store(binary.BigEndian.Uint64(bytes[8*i:]))
	}
	s.seq.Add(1)
}

// update writes what another packet of the same kind changes.
func (s *slot) update(k *kind) {
	s.seq.Add(1)
	s.words[wordLast].Store(uint64(k.last))
	s.words[wordCount].Store(k.count)
	s.seq.Add(1)
}

// read returns the entry, false if there is none or it changes without end.
func (s *slot) read() (r Refused, ok bool) {
	var words [slotWords]uint64
	for range readTries {
		before := s.seq.Load()
		if before == 0 {
			return r, false
		}
		for i := range words {
			words[i] = s.words[i].Load()
		}
		if before&1 == 0 && s.seq.Load() == before {
			ok = true
			break
		}
	}
	if !ok {
		return r, false
	}
	k := key(words[wordKey:wordPort])
	r.Sight = k.sight()
	r.First, r.Last, r.Count = int64(words[wordFirst]), int64(words[wordLast]), words[wordCount]
	r.Port = uint16(words[wordPort] >> 8)
	for _, w := range words[wordHead:] {
		r.Head = binary.BigEndian.AppendUint64(r.Head, w)
	}
	r.Head = r.Head[:words[wordPort]&0xff]
	return r, true
}

// AddTo adds what is remembered to what other workers do. It may be called at any time.
func (e *Evidence) AddTo(all map[Sight]*Refused) {
	for i := range e.slots {
		r, ok := e.slots[i].read()
		if !ok {
			continue
		}
		known := all[r.Sight]
		if known == nil {
			all[r.Sight] = &r
			continue
		}
		known.Count += r.Count
		known.Last = max(known.Last, r.Last)
		if r.First < known.First {
			known.First, known.Port, known.Head = r.First, r.Port, r.Head
		}
	}
}

// SortedRefused returns what AddTo has gathered, the most frequent first.
func SortedRefused(all map[Sight]*Refused) []Refused {
	out := make([]Refused, 0, len(all))
	for _, r := range all {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Refused) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(b.Last, a.Last), a.Source.Compare(b.Source),
			cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}
