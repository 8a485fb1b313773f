package logging

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// room bounds the messages that wait to be written, in bytes: some
	// thousands, as many as a link that flaps under as many peers causes.
	room = 1 << 20
	// farewell bounds the wait for the rest of the log when the process ends.
	farewell = time.Second
)

// record is one message, ready to be written.
type record struct {
	text  []byte // for a file or a terminal
	entry []byte // for the journal; nil: it goes to a file
	lost  uint64 // it says that this many messages were dropped; 0: it is a message
}

func (r *record) size() int { return len(r.text) + len(r.entry) }

// queue decouples logging from writing. Logging never waits: one goroutine writes, in the
// order of the messages. Messages that do not fit meanwhile, or cannot be written, are
// dropped and counted, and the log says how many are missing where.
type queue struct {
	write   func(record) error
	notice  func(lost uint64) record
	dropped atomic.Uint64
	ended   chan struct{} // closed when all is written after close

	mu      sync.Mutex
	changed sync.Cond // of what follows
	waiting []record
	bytes   int    // of what waits and what is being written
	lost    uint64 // messages dropped that no record tells of yet
	failing bool   // the last write failed
	closed  bool
}

// newQueue begins to write what put is given. notice makes the record that
// says how many messages are missing.
func newQueue(write func(record) error, notice func(lost uint64) record) *queue {
	q := &queue{write: write, notice: notice, ended: make(chan struct{})}
	q.changed.L = &q.mu
	go q.run()
	return q
}

// put queues a record. It does not wait.
func (q *queue) put(r record) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// After the first that does not fit, half of the room is made before the next
	// is taken: one gap of many messages, not many gaps of one.
	most := room
	if q.lost > 0 && !q.failing {
		most /= 2
	}
	// One that is longer than all of the room is taken if nothing else waits.
	if q.closed || q.bytes > 0 && q.bytes+r.size() > most {
		q.lost++
		q.dropped.Add(1)
		return
	}
	if q.lost > 0 {
		q.add(q.tell())
	}
	q.add(r)
	q.changed.Signal()
}

// Write queues text as it is, such as what else goes to standard error.
func (q *queue) Write(text []byte) (int, error) {
	q.put(record{text: bytes.Clone(text)})
	return len(text), nil
}

// add appends a record. q.mu is held.
func (q *queue) add(r record) {
	q.waiting = append(q.waiting, r)
	q.bytes += r.size()
}

// tell makes the record about what is missing. q.mu is held.
func (q *queue) tell() record {
	r := q.notice(q.lost)
	r.lost, q.lost = q.lost, 0
	return r
}

func (q *queue) run() {
	defer close(q.ended)
	for {
		r, ok := q.next()
		if !ok {
			return
		}
		err := q.write(r)
		q.mu.Lock()
		q.bytes -= r.size()
		q.failing = err != nil
		switch {
		case err == nil:
		case r.lost > 0:
			q.lost += r.lost
		default:
			q.lost++
			q.dropped.Add(1)
		}
		q.mu.Unlock()
	}
}

// next waits for a record. There is none after close.
func (q *queue) next() (r record, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 {
		switch {
		case q.lost > 0 && !q.failing:
			q.add(q.tell())
		case q.closed:
			return r, false
		default:
			q.changed.Wait()
		}
	}
	r = q.waiting[0]
	q.waiting = q.waiting[1:]
	return r, true
}

// close ends the queue: what waits is written as far as that takes no longer
// than farewell, what comes from now on is dropped.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.changed.Signal()
	q.mu.Unlock()
	select {
	case <-q.ended:
	case <-time.After(farewell):
	}
}
