package work

import (
	"errors"
	"sync/atomic"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
)

// Probes (encap.Probe): a worker answers those of configured peers, and sends those that somebody
// here has asked for. Both are rare, and away from the way of packets: a datagram is looked at here
// after it was refused as a control packet, an errand at the start of a round.

const (
	// probesOfPeer and probesOfAll bound the answers, a second; a tenth of them may come at once.
	probesOfPeer = 1000
	probesOfAll  = 5000
	// probesSought bounds how often a second a sender without a tunnel here is looked for among all
	// peers.
	probesSought = 20
	// errandWait is how long a worker may take to begin: one comes by at once unless all hang.
	errandWait = 2 * time.Second
)

// probing is what the workers share about probes.
type probing struct {
	errand            atomic.Pointer[errand] // that waits for a worker; nil: none does
	answered, sought  forward.RateLimit
	answerDue, gotDue atomic.Int64
}

func (p *probing) init() {
	p.answered, p.sought = forward.NewRateLimit(probesOfAll, &p.answerDue), forward.NewRateLimit(probesSought, &p.gotDue)
}

// errand is a probe to be sent.
type errand struct {
	peer  forward.PeerID
	probe encap.Probe
	done  chan error // one; has room
}

// Errors of SendProbe.
var (
	ErrNoWay  = errors.New("there is no way to the peer")
	ErrHanged = errors.New("no worker takes it up: all hang")
)

// SendProbe sends a question to a peer, padded to its Size, which is from encap.MinProbe to
// encap.MaxProbe. Without room for another one it waits. The answer comes to Owner.Answered.
func (p *Pool) SendProbe(peer int32, probe encap.Probe) error {
	e := &errand{forward.PeerID(peer), probe, make(chan error, 1)}
	mine := p.probing.errand.CompareAndSwap(nil, e)
	p.summon(errandWait, func() bool {
		mine = mine || p.probing.errand.CompareAndSwap(nil, e)
		return len(e.done) > 0
	})
	if mine {
		p.probing.errand.CompareAndSwap(e, nil) // nobody may take it up later
	}
	select {
	case err := <-e.done:
		return err
	default:
		return ErrHanged
	}
}

// runErrand sends the probe that waits to be sent, if no other worker has taken it.
func (w *worker) runErrand() {
	e := w.pool.probing.errand.Swap(nil)
	if e == nil {
		return
	}
	to := w.snap.Peers.Get(e.peer)
	if to == nil {
		e.done <- ErrNoWay
		return
	}
	w.now = w.pool.Clock()
	e.done <- w.sendProbe(to, e.probe, e.probe.Size)
}

// sendProbe sends a probe of size bytes to a peer, by the way of whole packets if there is one.
func (w *worker) sendProbe(to *forward.Peer, p encap.Probe, size int) error {
	path := to.Path
	if path == nil {
		path = to.PathFrag
	}
	if path == nil || to.Blocked.Load() || to.Limit.Load() == 0 || !w.room(size) {
		return ErrNoWay
	}
	seg, b := to.Port().Segment, w.out.free()[:size]
	clear(b)
	p.Put(b)
	w.out.used += size
	w.sender.Add(path, uint32(p.Nonce), seg.TOS, seg.TTL, b, nil)
	var failed error
	for _, f := range w.sender.Flush() {
		w.pool.sendFailed(w, f)
		if f.Path == path {
			failed = f.Err
		}
	}
	w.out.used = 0
	return failed
}

// probed takes a datagram that was refused as a control packet if it is a probe of a configured
// peer, and reports whether it was.
func (w *worker) probed(s *forward.Socket, t *packet.Train, datagram []byte) bool {
	p, ok := encap.ParseProbe(datagram)
	if !ok {
		return false
	}
	key := s.Admission(p.VNI, t.From)
	from, _ := w.snap.Admitted(&key)
	if w.snap.Reinjected(t.Ifindex, from) {
		return false // a tenant's
	}
	if p.Answer { // whoever knows the nonce has seen the question
		w.pool.Owner.Answered(t.From.WithZone(""), p)
		return true
	}
	status, pool := encap.ProbeFine, w.pool
	switch {
	case from != nil && !from.Port().Device.State().Up:
		status = encap.ProbeDown
	case from == nil && pool.probing.sought.Allow(w.now, 1):
		status, from = encap.ProbeNoTunnel, w.snap.ConfiguredAt(t.From)
	}
	if from == nil || !from.Configured {
		return false
	}
	limit := forward.NewRateLimit(probesOfPeer, &from.ProbeDue)
	if !limit.Allow(w.now, 1) || !pool.probing.answered.Allow(w.now, 1) {
		return false
	}
	answer := encap.Probe{Answer: true, VNI: p.VNI, Status: status, Size: len(datagram), Nonce: p.Nonce}
	w.sendProbe(from, answer, encap.MinProbe) // what fails is counted, as of any packet
	return true
}
