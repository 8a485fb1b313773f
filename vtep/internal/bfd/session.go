package bfd

import "time"

// Settings are what a session offers: how often it sends and wants to hear, and after how many
// packets that did not arrive the other side declares it down.
type Settings struct {
	Interval time.Duration
	Mult     uint8
}

// slowest is the least interval between packets while a session is not up (RFC 5880 section 6.8.3).
const slowest = time.Second

// Health is what a session says of the peer.
type Health uint32

// The values of Health. A peer that was never Up is Alive: it may not know BFD. So is one whose
// session is administratively down: that says nothing about the path (RFC 5880 section 6.8.16), but
// another peer that can do the same is better.
const (
	Alive Health = iota
	Leaving
	Dead
)

// Session is one session. Times are in nanoseconds of one monotonic clock.
type Session struct {
	want Settings
	my   uint32

	state, remote State
	diag          Diag
	health        Health
	heard         bool // something from the other end, in the detection time

	your             uint32
	theirTx, theirRx uint32 // desired and required by the other end, in µs
	theirMult        uint8
	theirDemand      bool
	poll, final      bool
	// What was offered before, in µs, holds until the poll has its answer, where the new would have
	// the other end taken for silent, or us; 0: nothing does (RFC 5880 section 6.8.3).
	heldTx, heldRx  uint32
	lastRx, lastTx  int64
	sent            bool  // something, ever
	interval        int64 // until the next packet, with its jitter
	urgent          bool  // something has changed that the other end should hear at once
	since           int64
	downs, received uint64
}

// New makes a session that is down. The discriminator must be unique among all sessions of the
// process, and not 0.
func New(want Settings, discriminator uint32, now int64) *Session {
	return &Session{want: want, my: discriminator, state: Down, remote: Down, theirRx: 1, urgent: true, since: now}
}

// Configure changes what is offered (RFC 5880 section 6.8.3).
func (s *Session) Configure(want Settings) {
	if want == s.want {
		return
	}
	if s.poll = s.state == Up; s.poll {
		s.heldTx, s.heldRx = uint32(s.Interval()/time.Microsecond), max(s.heldRx, s.required())
	}
	s.want, s.urgent = want, true
}

// AdminDown ends the session: packets say so from now on.
func (s *Session) AdminDown(now int64) {
	s.enter(AdminDown, DiagAdminDown, now)
	s.health = Alive
}

// desired is the interval that we want to send at, in µs.
func (s *Session) desired() uint32 {
	if s.state != Up {
		return uint32(max(s.want.Interval, slowest) / time.Microsecond)
	}
	return uint32(s.want.Interval / time.Microsecond)
}

func (s *Session) required() uint32 { return uint32(s.want.Interval / time.Microsecond) }

// Interval is the interval at which we send, without jitter.
func (s *Session) Interval() time.Duration {
	desired := s.desired()
	if s.heldTx != 0 {
		desired = min(desired, s.heldTx)
	}
	return time.Duration(max(desired, s.theirRx)) * time.Microsecond
}

// Detection is the time without a packet after which the session is down; 0: nothing was heard
// yet (RFC 5880 section 6.8.4).
func (s *Session) Detection() time.Duration {
	return time.Duration(s.theirMult) * time.Duration(max(s.required(), s.heldRx, s.theirTx)) * time.Microsecond
}

// Receive takes a packet of the other end that arrived at a time. It reports whether it was for
// this session (RFC 5880 section 6.8.6).
func (s *Session) Receive(p *Packet, at int64) bool {
	if p.Your != 0 && p.Your != s.my {
		return false
	}
	s.received++
	s.your, s.remote, s.theirDemand = p.My, p.State, p.Demand
	s.theirTx, s.theirMult = p.DesiredTx, p.Mult
	if s.theirRx != p.RequiredRx {
		s.theirRx = p.RequiredRx
		s.interval = min(s.interval, int64(s.Interval()))
	}
	if p.Final {
		s.poll, s.heldTx, s.heldRx = false, 0, 0
	}
	if p.Poll {
		s.final = true
	}
	s.lastRx, s.heard = max(s.lastRx, at), true
	switch {
	case s.state == AdminDown:
	case p.State == AdminDown:
		s.health = Leaving
		if s.state != Down {
			s.enter(Down, DiagNeighbour, at)
		}
	case s.state == Down && p.State == Down:
		s.enter(Init, s.diag, at)
	case s.state == Down && p.State == Init, s.state == Init && p.State >= Init:
		s.enter(Up, DiagNone, at)
	case s.state == Up && p.State == Down:
		s.fail(DiagNeighbour, at)
	}
	return true
}

// fail takes a session down that was up.
func (s *Session) fail(why Diag, now int64) {
	s.health = Dead
	s.downs++
	s.enter(Down, why, now)
}

func (s *Session) enter(state State, why Diag, now int64) {
	if s.state == state {
		return
	}
	s.state, s.diag, s.since, s.urgent = state, why, now, true
	s.heldTx, s.heldRx = 0, 0
	if s.poll = state == Up; s.poll {
		s.health = Alive
	}
}

// expire is the time at which the other end has been silent for too long.
func (s *Session) expire() int64 { return s.lastRx + int64(s.Detection()) }

// waits reports whether something is to happen when the other end is silent for too long.
func (s *Session) waits() bool { return s.heard && s.theirMult != 0 }

// periodic reports whether packets are sent without cause (RFC 5880 section 6.8.7).
func (s *Session) periodic() bool {
	demand := s.theirDemand && s.state == Up && s.remote == Up && !s.poll
	return s.theirRx != 0 && !demand && s.state != AdminDown
}

// Next is when Check is to be called again.
func (s *Session) Next() int64 {
	next := int64(1<<63 - 1)
	if s.urgent || s.final {
		next = s.lastTx + int64(pause)
		if !s.sent {
			return s.lastRx
		}
	}
	if s.periodic() {
		next = min(next, s.lastTx+s.interval)
	}
	if s.waits() {
		next = min(next, s.expire())
	}
	return next
}

// pause is the least time between two packets, whatever there is to be told: who answers each
// packet at once can be made to send as many as somebody likes.
const pause = time.Millisecond

// Check does what is due: it takes a session down whose other end has been silent for too long, and
// reports whether a packet is to be sent. Random is any number: by it the next interval is
// up to a quarter shorter (RFC 5880 section 6.8.7).
func (s *Session) Check(now int64, random uint32) (send bool) {
	if s.waits() && now >= s.expire() {
		s.heard, s.your, s.theirRx = false, 0, 1
		s.remote, s.theirDemand = Down, false
		switch s.state {
		case Up:
			s.fail(DiagExpired, now)
		case Init:
			s.enter(Down, DiagExpired, now)
		}
	}
	told := s.urgent || s.final
	if s.sent && now < s.lastTx+int64(pause) {
		return false
	}
	if !told && !(s.periodic() && now >= s.lastTx+s.interval) {
		return false
	}
	s.lastTx, s.sent, s.urgent = now, true, false
	whole := int64(s.Interval())
	least := whole * 3 / 4
	if s.want.Mult == 1 {
		whole = whole * 9 / 10
	}
	s.interval = least + int64(uint64(whole-least)*uint64(random)>>32)
	return true
}

// Packet is what is to be sent now that Check said so.
func (s *Session) Packet() Packet {
	p := Packet{
		Diag: s.diag, State: s.state, Poll: s.poll && !s.final, Final: s.final, Mult: s.want.Mult, My: s.my, Your: s.your,
		DesiredTx: s.desired(), RequiredRx: s.required(),
	}
	s.final = false
	return p
}

// Late moves the time of detection: this process itself was kept from what may have arrived.
func (s *Session) Late(by int64) { s.lastRx += by }

// Health is what the session says of the peer.
func (s *Session) Health() Health { return s.health }

// Status is how a session is.
type Status struct {
	Health        Health
	State, Remote State
	Diag          Diag
	Since         int64         // when State was entered
	Interval      time.Duration // between our packets, without jitter
	Detection     time.Duration // without a packet after which the session is down; 0: not known
	Downs         uint64        // how often it was up, and went down
	Received      uint64        // packets
}

// Status is how the session is now.
func (s *Session) Status() Status {
	return Status{s.health, s.state, s.remote, s.diag, s.since, s.Interval(), s.Detection(), s.downs, s.received}
}
