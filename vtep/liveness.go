package vtep

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/bfd"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/spec"
)

// BFD between this endpoint and its peers (package bfd). One goroutine has all sessions, with a
// sender of its own: what workers are busy with does not keep a packet from leaving. Workers hand
// over what arrives, with the time at which it did, and never wait. What a session says of its peer
// is one atomic number that they look at for each frame, so that a dead peer is passed over at
// once, without a change of the snapshot.

const (
	// controlRate is how many control packets a second one peer may send: five times as many as
	// the shortest interval has, jitter, changes of state and polls included.
	controlRate = 100
	// arrivals is how many of them may wait for the goroutine: those of all sessions at once.
	arrivals = spec.BFDSessions
	// haste is what an interval is shorter on the wire than configured, in percent: Mult intervals
	// after the last packet is Mult intervals after the fault then, with what the system takes to
	// wake us.
	haste = 10
	// tolerated is how late the goroutine may be without what may have arrived in the meantime being
	// waited for, and goodbyes how often an end of a session is told.
	tolerated = 20 * time.Millisecond
	goodbyes  = 3
)

// liveness is the BFD sessions of an endpoint.
type liveness struct {
	arrived chan hello
	wanted  chan struct{} // the sessions are others
	moved   chan struct{} // what some session says is another, for the fast path

	mu       sync.Mutex
	sender   netio.Sender
	sessions map[int32]*watched // by peer
	due      dueSessions
	round    uint64
	planned  int64     // when the goroutine meant to be awake, 0: at no time
	told     []verdict // not yet said, and room for them
	taken    map[uint32]bool
}

// hello is a control packet of a peer, where inside it is from, and when it came.
type hello struct {
	peer   int32
	packet bfd.Packet
	far    bfd.Address
	at     int64
}

// watched is the session of one peer.
type watched struct {
	*bfd.Session
	number   uint32 // our discriminator
	to       *forward.Peer
	header   []byte
	own, far bfd.Address
	frame    [bfd.FrameLen]byte // lent to the sender
	round    uint64
	next     int64
	at       int // in due
	health   bfd.Health
	state    bfd.State
}

// verdict is a change of a session that somebody should hear of.
type verdict struct {
	to     *forward.Peer
	status bfd.Status
	health bool // that of the peer is another
	event  bool // so is whether it carries
}

func newLiveness(sender netio.Sender) liveness {
	return liveness{
		arrived: make(chan hello, arrivals), wanted: make(chan struct{}, 1), moved: make(chan struct{}, 1),
		sender: sender, sessions: make(map[int32]*watched), taken: make(map[uint32]bool),
	}
}

// arrive takes a packet from a worker. It reports false if there is no room.
func (l *liveness) arrive(a hello) bool {
	select {
	case l.arrived <- a:
		return true
	default:
		return false
	}
}

// tooWatchful refuses more sessions than there may be.
func (e *Endpoint) tooWatchful() error {
	n := 0
	for _, t := range e.tunnels {
		n += len(t.watched)
	}
	if n > spec.BFDSessions {
		return spec.Wrong("bfd: %d sessions in all tunnels, and %d are the most: give it to the peers that matter", n, spec.BFDSessions)
	}
	return nil
}

// watchPeers makes the sessions those that the tunnels want. What goes says so while its descriptors
// are there: the workers get the next snapshot afterwards. e.mu is held.
func (e *Endpoint) watchPeers() {
	l, now := &e.live, e.clock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.round++
	count := 0
	for _, t := range e.tunnels {
		for _, p := range t.watched {
			l.watch(t, p, now)
		}
		count += len(t.watched)
	}
	if len(l.sessions) > count {
		for id, s := range l.sessions {
			if s.round != l.round {
				l.leave(s, now)
				s.to.Health.Store(uint32(bfd.Alive))
				heap.Remove(&l.due, s.at)
				delete(l.sessions, id)
				delete(l.taken, s.number)
			}
		}
	}
	poke(l.wanted)
}

// poke sends to a channel with room for one, if there is none yet.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watch makes the session of a peer, or brings it up to date.
func (l *liveness) watch(t *tunnel, p *peer, now int64) {
	s := l.sessions[p.ID]
	want := bfd.Settings{Interval: p.bfd.Interval * (100 - haste) / 100, Mult: p.bfd.Mult}
	if s == nil {
		s = &watched{number: l.number()}
		s.Session = bfd.New(want, s.number, now)
		s.state = bfd.Down
		l.sessions[p.ID] = s
		s.next = now
		heap.Push(&l.due, s)
	}
	s.Configure(want)
	s.round, s.to = l.round, p.Peer
	if own := (bfd.Address{MAC: t.port.MAC, IP: t.port.IP}); s.header == nil || s.own != own {
		s.own = own
		protocol := uint16(packet.EtherTypeEthernet)
		if t.port.L3 {
			protocol = packet.EtherTypeIPv4
		}
		s.header, _ = encap.AppendControl(nil, t.controlVNI(p), protocol) // a VNI that was checked
	}
	l.plan(s)
}

// controlVNI is the VNI of control packets to a peer: that of the tunnel, or of a trunk without one
// that of its first VLAN.
func (t *tunnel) controlVNI(p *peer) packet.VNI {
	if t.config.NoVNI && len(t.config.VLANs) > 0 {
		return t.config.VLANs[0].VNI
	}
	return t.headerVNI(p)
}

// number is a discriminator that no session has.
func (l *liveness) number() uint32 {
	for {
		if n := rand.Uint32(); n != 0 && !l.taken[n] {
			l.taken[n] = true
			return n
		}
	}
}

// firstIPv4 is the first IPv4 address of a device; zero: it has none.
func firstIPv4(prefixes []netip.Prefix) netip.Addr {
	for _, p := range prefixes {
		if p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// leave tells the other end that the session ends. l.mu is held.
func (l *liveness) leave(s *watched, now int64) {
	s.AdminDown(now)
	for range goodbyes {
		l.send(s)
		l.sender.Flush()
	}
}

// send queues the packet that is due. l.mu is held until the sender is flushed.
func (l *liveness) send(s *watched) {
	path := s.to.Path
	if path == nil {
		path = s.to.PathFrag
	}
	p := s.Packet()
	if path == nil || s.to.Blocked.Load() {
		return
	}
	frame := bfd.AppendFrame(s.frame[:0], s.to.Port().L3, s.own, s.far, s.number, &p)
	l.sender.Add(path, s.number, 0xc0, 255, s.header, frame) // DSCP CS6: network control
}

// plan puts a session where its next turn is.
func (l *liveness) plan(s *watched) {
	s.next = s.Next()
	heap.Fix(&l.due, s.at)
}

// runLiveness gives sessions their turns until ctx ends.
func (e *Endpoint) runLiveness(ctx context.Context) {
	l := &e.live
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			l.end(e.clock())
			return
		case a := <-l.arrived:
			e.live.turn(&a, e.clock)
		case <-l.wanted:
			e.live.turn(nil, e.clock)
		case <-timer.C:
			e.live.turn(nil, e.clock)
		}
		e.tellHealth()
		timer.Reset(l.pause(e.clock()))
	}
}

// turn takes what has arrived, a first of all, and does what is due.
func (l *liveness) turn(a *hello, clock func() int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := clock()
	if late := now - l.planned; l.planned != 0 && late > int64(tolerated) {
		for _, s := range l.sessions {
			s.Late(late)
			l.plan(s)
		}
	}
	for a != nil {
		l.take(a)
		select {
		case more := <-l.arrived:
			*a = more
		default:
			a = nil
		}
	}
	for len(l.due) > 0 && l.due[0].next <= now {
		s := l.due[0]
		if s.Check(now, rand.Uint32()) {
			l.send(s)
		}
		l.judge(s)
		if l.plan(s); s.next <= now { // it waits for the least time between two packets
			s.next = now + int64(time.Millisecond)
			heap.Fix(&l.due, s.at)
		}
	}
	l.sender.Flush()
}

// take gives a packet to its session. l.mu is held.
func (l *liveness) take(a *hello) {
	s := l.sessions[a.peer]
	if s == nil || !s.Receive(&a.packet, a.at) {
		return
	}
	s.far = a.far
	l.judge(s)
	l.plan(s)
}

// judge has workers know what a session says of its peer.
func (l *liveness) judge(s *watched) {
	status := s.Status()
	if status.Health == s.health && status.State == s.state {
		return
	}
	dead := status.Health == bfd.Dead
	v := verdict{to: s.to, status: status, health: status.Health != s.health, event: dead != (s.health == bfd.Dead) || status.State == bfd.Up}
	s.to.Health.Store(uint32(status.Health))
	s.health, s.state = status.Health, status.State
	l.told = append(l.told, v)
}

// pause is how long there is nothing to do.
func (l *liveness) pause(now int64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.planned = 0
	if len(l.due) == 0 {
		return time.Hour
	}
	l.planned = max(l.due[0].next, now)
	return time.Duration(min(l.planned-now, int64(time.Hour)))
}

// end says on all sessions that they end: this process stops, and the other end is not to take
// that, and the next process's beginning, for a fault.
func (l *liveness) end(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		l.leave(s, now)
	}
}

// tellHealth logs what sessions have found, and tells subscribers.
func (e *Endpoint) tellHealth() {
	l := &e.live
	l.mu.Lock()
	all := l.told
	l.told = nil
	l.mu.Unlock()
	moved := false
	for i := range all {
		v := &all[i]
		name := v.to.Port().Name
		fields := []zap.Field{zap.String("device", name), zap.String("peer", v.to.Dest.Remote.String()), zap.String("state", v.status.State.String())}
		switch {
		case v.health && v.status.Health == bfd.Dead:
			e.log.Warn("the peer is dead: nothing goes to it until BFD says otherwise", append(fields, zap.String("why", v.status.Diag.String()))...)
		case v.health && v.status.Health == bfd.Leaving:
			e.log.Info("BFD ends at the peer, which is taken to be alive", fields...)
		case v.status.State == bfd.Up:
			e.log.Info("BFD is up", append(fields, zap.Duration("detection", v.status.Detection))...)
		}
		moved = moved || v.health
		if v.event && e.events.wanted() {
			e.events.send(Event{Object: "peer", Action: upDown(v.status.Health != bfd.Dead), Tunnel: name, Remote: v.to.Dest.Remote})
		}
	}
	if moved {
		poke(l.moved)
	}
}

func upDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

// followHealth has the fast path pass over peers that are dead.
func (e *Endpoint) followHealth() {
	if e.fast.path == nil {
		return
	}
	e.mu.Lock()
	for _, t := range e.tunnels {
		if len(t.watched) > 0 {
			e.doubtFast(t)
		}
	}
	e.mu.Unlock()
	e.followFast()
}

// BFDState is the session of a peer.
type BFDState struct {
	On            bool
	Up            bool
	Dead          bool // nothing is sent to the peer
	State, Remote string
	Diagnostic    string
	For           time.Duration // that State lasts
	Interval      time.Duration // between our packets
	Detection     time.Duration // without a packet after which it is down; 0: nothing was heard
	Downs         uint64        // how often it was up, and went down
	Received      uint64
}

// bfdState is the session of a peer.
func (e *Endpoint) bfdState(p *peer) BFDState {
	if p.bfd.Interval == 0 {
		return BFDState{}
	}
	l := &e.live
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[p.ID]
	if s == nil {
		return BFDState{}
	}
	st := s.Status()
	return BFDState{
		On: true, Up: st.State == bfd.Up, Dead: st.Health == bfd.Dead, State: st.State.String(), Remote: st.Remote.String(), Diagnostic: st.Diag.String(),
		For: time.Duration(e.clock() - st.Since), Interval: st.Interval, Detection: st.Detection, Downs: st.Downs, Received: st.Received,
	}
}

// dueSessions is a heap of sessions by their next turn.
type dueSessions []*watched

func (d dueSessions) Len() int           { return len(d) }
func (d dueSessions) Less(i, j int) bool { return d[i].next < d[j].next }
func (d dueSessions) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].at, d[j].at = i, j
}

func (d *dueSessions) Push(x any) {
	s := x.(*watched)
	s.at = len(*d)
	*d = append(*d, s)
}

func (d *dueSessions) Pop() any {
	old := *d
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return s
}
