package capture

import "sync/atomic"

// ring is a queue of records with their bytes, of one writer and one reader.
type ring struct {
	slots []slot // a power of two
	buf   []byte

	_    [64]byte
	head atomic.Uint64 // slots written so far
	end  uint64        // of the writer: bytes used so far, counted on from lap to lap
	lost [NumPoints]atomic.Uint64

	_     [64]byte
	tail  atomic.Uint64 // slots read so far
	freed atomic.Uint64 // bytes given back so far
	_     [64]byte
}

// slot is a record whose Data is in the buffer of the ring, up to end.
type slot struct {
	Record
	end uint64
}

// add appends a record with its bytes, or counts it as lost.
func (q *ring) add(r *Record, first, second []byte) {
	head, size, n := q.head.Load(), uint64(len(q.buf)), uint64(len(first)+len(second))
	start := q.end
	if at := start % size; at+n > size {
		start += size - at // the bytes of a record stand in one piece
	}
	end := start + n
	if head-q.tail.Load() == uint64(len(q.slots)) || end-q.freed.Load() > size {
		q.lost[r.Point].Add(1)
		return
	}
	s := &q.slots[head&uint64(len(q.slots)-1)]
	s.Record, s.end = *r, end
	s.Data = q.buf[start%size:][:n:n]
	copy(s.Data[copy(s.Data, first):], second)
	q.end = end
	q.head.Store(head + 1)
}

// peek is the oldest record, nil if there is none.
func (q *ring) peek() *slot {
	tail := q.tail.Load()
	if tail == q.head.Load() {
		return nil
	}
	return &q.slots[tail&uint64(len(q.slots)-1)]
}

// free gives back what peek returned.
func (q *ring) free() {
	q.freed.Store(q.peek().end)
	q.tail.Add(1)
}
