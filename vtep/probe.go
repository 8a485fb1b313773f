package vtep

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/spec"
)

// maxAsked is how many probes may wait for their answers at a time.
const maxAsked = 256

// ErrAsking says that too many probes are under way.
var ErrAsking = errors.New("too many probes are under way: try again in a second")

// Ping is a question to a peer.
type Ping struct {
	Tunnel string
	Remote netip.Addr
	// VNI that is asked about; nil: the tunnel's, or that of a trunk's first VLAN.
	VNI *packet.VNI
	// Size is that of the outer IP packet, in bytes; 0: the least there is.
	Size int
}

// Pong is what came of it.
type Pong struct {
	Answered bool
	After    time.Duration
	Status   encap.ProbeStatus
	Size     int   // of the outer IP packet as it arrived there
	Failed   error // to send; nil: it was sent
}

// asked are the probes that wait for their answer.
type asked struct {
	count   atomic.Int32 // of waiting, so that a worker need not lock for answers that nobody waits for
	mu      sync.Mutex
	waiting map[uint64]waiter
}

// waiter is one of them.
type waiter struct {
	remote netip.Addr
	answer chan encap.Probe // has room
}

// tell hands on an answer, if somebody waits for it. It never waits.
func (a *asked) tell(from netip.Addr, answer encap.Probe) {
	if a.count.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	q, ok := a.waiting[answer.Nonce]
	if !ok || q.remote != from {
		return
	}
	select {
	case q.answer <- answer:
	default: // a second one
	}
}

// begin waits for an answer from a peer.
func (a *asked) begin(remote netip.Addr) (nonce uint64, answer chan encap.Probe, end func(), err error) {
	var b [8]byte
	rand.Read(b[:])
	nonce, answer = binary.BigEndian.Uint64(b[:]), make(chan encap.Probe, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) >= maxAsked {
		return 0, nil, nil, ErrAsking
	}
	if a.waiting == nil {
		a.waiting = make(map[uint64]waiter)
	}
	a.waiting[nonce] = waiter{remote.WithZone(""), answer}
	a.count.Store(int32(len(a.waiting)))
	return nonce, answer, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, nonce)
		a.count.Store(int32(len(a.waiting)))
	}, nil
}

// Ping asks a peer whether what is sent to it arrives, and waits for the answer until ctx ends.
// Only gvtep answers, and only to peers of its configuration. An error means that it cannot be
// asked: there is no such tunnel or peer, or its format has no control packets.
func (e *Endpoint) Ping(ctx context.Context, p Ping) (Pong, error) {
	to, err := e.asks(&p)
	if err != nil {
		return Pong{}, err
	}
	nonce, answer, end, err := e.asked.begin(p.Remote)
	if err != nil {
		return Pong{}, err
	}
	defer end()
	sent := time.Now()
	err = e.pool.SendProbe(to.peer, encap.Probe{VNI: to.vni, Size: to.size, Nonce: nonce})
	if err != nil {
		return Pong{Failed: err}, nil
	}
	select {
	case a := <-answer:
		return Pong{Answered: true, After: time.Since(sent), Status: a.Status, Size: a.Size + to.outer}, nil
	case <-ctx.Done():
		return Pong{}, nil
	}
}

// asking is a peer to ask.
type asking struct {
	peer        int32
	vni         packet.VNI
	size, outer int // of the UDP payload, and what stands before that
}

func (e *Endpoint) asks(p *Ping) (to asking, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(p.Tunnel)
	if err != nil {
		return asking{}, err
	}
	if !t.config.Encap.HasOptions() {
		return asking{}, spec.Wrong("%s has no control packets: its peers cannot be asked", t.config.Encap)
	}
	i := slices.IndexFunc(t.peers, func(q *peer) bool { return q.config.Remote == p.Remote && q.speaks })
	if i < 0 {
		return asking{}, spec.NotFound(fmt.Sprintf("%s is no peer of %s", p.Remote, p.Tunnel))
	}
	q := t.peers[i]
	to = asking{peer: q.ID, vni: t.config.VNI, outer: q.Outer - len(q.Headers[0])}
	switch {
	case p.VNI != nil:
		to.vni = *p.VNI
	case q.Dest.HasVNI:
		to.vni = q.Dest.VNI
	case t.config.NoVNI && len(t.config.VLANs) > 0:
		to.vni = t.config.VLANs[0].VNI
	}
	to.size = encap.MinProbe
	if p.Size != 0 {
		to.size = p.Size - to.outer
	}
	if to.size < encap.MinProbe || p.Size > encap.MaxProbe {
		return asking{}, &spec.Error{Text: fmt.Sprintf("size %d: want %d to %d", p.Size, encap.MinProbe+to.outer, encap.MaxProbe)}
	}
	return to, nil
}
