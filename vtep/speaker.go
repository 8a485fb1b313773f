package vtep

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/internal/packet"
)

// A tunnel with accept lets in whoever speaks from one of its prefixes. The
// first datagram of a new speaker waits in its worker while the endpoint makes
// a peer of its sender: it must be learned from, for the answer to be unicast.

const (
	// maxSpeakers bounds the peers of one tunnel that nobody configured.
	maxSpeakers = 1024
	// speakerQueue is how many may wait to be let in at a time.
	speakerQueue = 64
	// maxParked bounds the datagrams that wait in a worker.
	maxParked = 64
	// parkedFor is how long they wait at most.
	parkedFor = int64(time.Second)
	// speakerTidy is how often speakers that fell silent are looked for.
	speakerTidy = 10 * time.Second
	// speakerSilence is how long one may be silent before it is forgotten,
	// if learned addresses never age.
	speakerSilence = 300 * time.Second
)

// speaker is a source that wants to be let in.
type speaker struct {
	port   *port
	source netip.Addr
}

// parked is a datagram that waits for its sender to become a peer.
type parked struct {
	key    admission
	socket *socket
	train  packet.Train // one datagram, in memory of its own
	since  int64
}

// openToGroup decides who may speak in a group without peers if the
// configuration does not say: whoever is on the underlay device's own networks.
func (e *Endpoint) openToGroup(t *tunnel) (err error) {
	cfg, before := &t.config, t.accept
	t.accept = cfg.Accept
	if !cfg.Group.IsValid() || len(cfg.Peers) > 0 || len(cfg.Accept) > 0 {
		return nil
	}
	if t.accept, err = e.underlay.Prefixes(cfg.Dev); err != nil {
		return err
	}
	if slices.Equal(t.accept, before) {
		return nil // said already
	}
	e.log.Warn("anybody on the networks of the underlay device may speak in the group; peers or accept would restrict it",
		zap.String("device", cfg.Device.Name), zap.Stringer("group", cfg.Group), zap.Stringers("accept", t.accept))
	return nil
}

// stranger says what to do about a datagram that nobody admits.
func (w *worker) stranger(key admission, t *packet.Train, datagram []byte) Reason {
	known, p := w.snap.listening(key.vniKey)
	if !known {
		return DropUnknownVNI
	}
	if p == nil || !slices.ContainsFunc(p.segment.accept, func(a netip.Prefix) bool { return a.Contains(t.From) }) {
		return DropUnknownPeer
	}
	if len(w.parked) == maxParked {
		w.parked = slices.DeleteFunc(w.parked, func(d parked) bool { return w.now-d.since > parkedFor })
	}
	if w.unpacking || len(w.parked) == maxParked {
		return DropUnknownPeer
	}
	select {
	case w.ep.speakers <- speaker{p, t.From}:
	default:
		return DropUnknownPeer
	}
	s := w.snap.socketByID(key.socket)
	w.parked = append(w.parked, parked{key, s, packet.Train{
		Data: slices.Clone(datagram), Size: len(datagram), From: t.From, TOS: t.TOS, Ifindex: t.Ifindex,
	}, w.now})
	return delivered
}

func (snap *snapshot) socketByID(id uint32) *socket {
	return snap.sockets[slices.IndexFunc(snap.sockets, func(s *socket) bool { return s.id == id })]
}

// unpark takes up the datagrams that waited. All workers know the peer by now:
// the answer may be read by another one.
func (w *worker) unpark() {
	waiting := w.parked
	w.parked = nil
	for i := range waiting {
		d := &waiting[i]
		if p, _ := w.snap.admitted(d.key); p == nil && w.now-d.since < parkedFor && slices.Contains(w.snap.sockets, d.socket) {
			w.parked = append(w.parked, *d)
			continue
		}
		w.unpacking = true
		if reason := w.inbound(d.socket, &d.train, d.train.Data); reason != delivered {
			w.countDrop(reason)
		}
		w.unpacking = false
		w.flushIn()
		w.leavePeer()
	}
}

// letIn makes a peer of a speaker.
func (e *Endpoint) letIn(s speaker) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, ok := e.tunnels[s.port.name]
	if !ok || e.closed || t.id != s.port.id || len(t.dynamic) >= maxSpeakers ||
		slices.ContainsFunc(t.peers, func(p *peer) bool { return p.speaks && p.config.Remote == s.source }) {
		return
	}
	err := e.rewire(t, func(n *tunnel) { n.dynamic = append(slices.Clone(n.dynamic), s.source) })
	if err != nil {
		e.log.Debug("a speaker was not let in", zap.String("device", s.port.name), zap.Stringer("remote", s.source), zap.NamedError("err", err))
		return
	}
	e.Progress(context.Background()) // whoever has datagrams of it takes them up now
}

// forgetSpeakers removes those who have been silent for longer than what was
// learned of them lives.
func (e *Endpoint) forgetSpeakers() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	for _, t := range e.sorted() {
		silence := t.config.Ageing
		if silence == 0 {
			silence = speakerSilence
		}
		var gone []netip.Addr
		for _, p := range t.peers {
			if _, seen := sumTraffic(p.traffic); p.dynamic && now-seen > int64(silence) {
				gone = append(gone, p.config.Remote)
			}
		}
		if len(gone) == 0 {
			continue
		}
		err := e.rewire(t, func(n *tunnel) {
			n.dynamic = slices.DeleteFunc(slices.Clone(n.dynamic), func(a netip.Addr) bool { return slices.Contains(gone, a) })
		})
		if err != nil {
			e.log.Error("silent speakers could not be removed", zap.String("device", t.port.name), zap.NamedError("err", err))
		}
	}
}
