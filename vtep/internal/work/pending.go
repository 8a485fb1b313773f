package work

import (
	"slices"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
)

// Datagrams of unknown senders that may be let in: they wait in the worker while the owner makes
// a peer of their sender, which must be learned from for the answer to be unicast.

const (
	// MaxPending bounds the datagrams that wait in a worker.
	MaxPending = 256
	// MaxPendingOfOne bounds those of one sender, which would take the places of others:
	// a burst fits, such as the first window of a TCP connection, or what a host says when
	// it comes up.
	MaxPendingOfOne = 64
	// pendingFor is how long they wait at most. To let somebody in takes a millisecond, or
	// as long as a busy machine needs to run all workers once.
	pendingFor = int64(2 * time.Second)
)

// pending is a datagram that waits for its sender to become a peer.
type pending struct {
	key    forward.Admission
	socket *forward.Socket
	train  packet.Train // one datagram, in memory of its own
	since  int64
}

// unknownSender says what to do about a datagram that nobody admits.
func (w *worker) unknownSender(key forward.Admission, t *packet.Train, datagram []byte) count.Reason {
	known, p := w.snap.Listening(key.VNIKey)
	if !known {
		return count.DropUnknownVNI
	}
	if w.retrying || p == nil || !forward.Accepted(p.Segment.Accept, t.From) {
		return count.DropUnknownPeer
	}
	if len(w.pending) == MaxPending {
		w.pending = slices.DeleteFunc(w.pending, func(d pending) bool { return w.now-d.since > pendingFor })
	}
	before := 0
	for i := range w.pending {
		if w.pending[i].key == key {
			before++
		}
	}
	if before == MaxPendingOfOne || len(w.pending) == MaxPending {
		return count.DropUnknownPeer
	}
	if before == 0 && !w.pool.Owner.Knock(p, t.From) {
		return count.DropUnknownPeer
	}
	s := w.snap.SocketByID(key.Socket)
	w.pending = append(w.pending, pending{key, s, packet.Train{
		Data: slices.Clone(datagram), Size: len(datagram), From: t.From, TOS: t.TOS, Pieces: t.Pieces, Ifindex: t.Ifindex,
	}, w.now})
	return forward.Delivered
}

// retry takes up the datagrams that waited. All workers know the peer by now:
// the answer may be read by another one.
func (w *worker) retry() {
	left := w.pending[:0]
	for i := range w.pending {
		d := &w.pending[i]
		if p, _ := w.snap.Admitted(&d.key); p == nil && w.now-d.since < pendingFor && slices.Contains(w.snap.Sockets, d.socket) {
			left = append(left, *d)
			continue
		}
		w.retrying = true
		if reason := w.inbound(d.socket, &d.train, d.train.Data); reason != forward.Delivered {
			w.refuse(d.socket, d.train.From, d.train.Data, reason)
		}
		w.retrying = false
		w.joining.end(w)
		w.admitted.end(w.id, w.now)
	}
	clear(w.pending[len(left):])
	w.pending = left
}
