package bfd

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"gvtep/internal/packet"
)

var (
	ours   = Address{packet.MAC{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1")}
	theirs = Address{packet.MAC{2, 0, 0, 0, 0, 2}, netip.Addr{}}
)

// A packet by hand (RFC 5880 section 4.1): version 1, diagnostic 3, Up, Poll, multiplier 3.
const sample = "23e003180000000100000002000186a0000186a000000000"

func TestPacket(t *testing.T) {
	want := Packet{Diag: 3, State: Up, Poll: true, Mult: 3, My: 1, Your: 2, DesiredTx: 100000, RequiredRx: 100000}
	raw, _ := hex.DecodeString(sample)
	if got, err := Parse(raw); got != want || err != nil {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got := want.Append(nil); !bytes.Equal(got, raw) {
		t.Errorf("%x, want %x", got, raw)
	}
	for name, change := range map[string]func([]byte) []byte{
		"short":                     func(b []byte) []byte { return b[:23] },
		"version 0":                 func(b []byte) []byte { b[0] &= 0x1f; return b },
		"version 2":                 func(b []byte) []byte { b[0] = 2 << 5; return b },
		"length less than a packet": func(b []byte) []byte { b[3] = 23; return b },
		"length beyond the payload": func(b []byte) []byte { b[3] = 25; return b },
		"authenticated":             func(b []byte) []byte { b[1] |= 0x04; return b },
		"multipoint":                func(b []byte) []byte { b[1] |= 0x01; return b },
		"multiplier 0":              func(b []byte) []byte { b[2] = 0; return b },
		"my discriminator 0":        func(b []byte) []byte { clear(b[4:8]); return b },
		"up, your discriminator 0":  func(b []byte) []byte { clear(b[8:12]); return b },
		"poll and final":            func(b []byte) []byte { b[1] |= 0x10; return b },
	} {
		if p, err := Parse(change(bytes.Clone(raw))); err == nil || p != (Packet{}) {
			t.Errorf("%s: %+v is taken", name, p)
		}
	}
}

// TestFrame: what one end sends the other takes, and takes nothing else.
func TestFrame(t *testing.T) {
	p := Packet{State: Down, Mult: 3, My: 7, DesiredTx: 1000000, RequiredRx: 100000}
	for _, l3 := range []bool{false, true} {
		protocol, at := uint16(packet.EtherTypeEthernet), ethernetLen
		if l3 {
			protocol, at = packet.EtherTypeIPv4, 0
		}
		frame := AppendFrame(nil, l3, ours, Address{}, 7, &p)
		got, from, err := ParseFrame(frame, protocol, theirs)
		if err != nil || got != p || from.IP != ours.IP || !l3 && from.MAC != ours.MAC {
			t.Fatalf("l3 %v: %+v from %+v, %v", l3, got, from, err)
		}
		if dst := netip.AddrFrom4([4]byte(frame[at+16:])); dst != netip.MustParseAddr("127.0.0.1") || frame[at+8] != 255 {
			t.Errorf("l3 %v: to %s with TTL %d (RFC 9521 section 4)", l3, dst, frame[at+8])
		}
		// Back to where it came from.
		back := AppendFrame(nil, l3, theirs, from, 8, &p)
		if _, from, err := ParseFrame(back, protocol, ours); err != nil || from.IP != netip.IPv4Unspecified() {
			t.Errorf("l3 %v: back from %+v: %v", l3, from, err)
		}
		if _, _, err := ParseFrame(back, protocol, Address{MAC: packet.MAC{2, 0, 0, 0, 0, 3}, IP: netip.MustParseAddr("10.0.0.3")}); err == nil {
			t.Errorf("l3 %v: one for somebody else is taken", l3)
		}
		for i := range frame {
			if !l3 && i < 12 || i == at+1 { // addresses, and DSCP
				continue
			}
			broken := bytes.Clone(frame)
			broken[i] ^= 0x10
			if _, _, err := ParseFrame(broken, protocol, theirs); err == nil {
				t.Errorf("l3 %v: a bit of byte %d is wrong, and it is taken", l3, i)
			}
			if _, _, err := ParseFrame(frame[:i], protocol, theirs); err == nil {
				t.Errorf("l3 %v: %d bytes of it are taken", l3, i)
			}
		}
		ttl := bytes.Clone(frame)
		ttl[at+8] = 254
		ttl[at+10], ttl[at+11] = 0, 0
		check := ^packet.Fold(packet.Sum(ttl[at:at+20], 0))
		ttl[at+10], ttl[at+11] = byte(check>>8), byte(check)
		if _, _, err := ParseFrame(ttl, protocol, theirs); err == nil {
			t.Errorf("l3 %v: TTL 254 is taken", l3)
		}
	}
	// What Open vSwitch 3.1 sends: to its own address, between link-local ones, without UDP checksum.
	ovs, _ := hex.DecodeString("002320000001" + "aa55aa550002" + "0800" + "4518003400000000ff1163fd" + "a9fe0100a9fe0101" + "c0010ec800200000" + "20400318000000090000000000" + "0f4240000f424000000000")
	ovs[ethernetLen+10], ovs[ethernetLen+11] = 0, 0
	check := ^packet.Fold(packet.Sum(ovs[ethernetLen:ethernetLen+20], 0))
	ovs[ethernetLen+10], ovs[ethernetLen+11] = byte(check>>8), byte(check)
	if got, _, err := ParseFrame(ovs, packet.EtherTypeEthernet, ours); err != nil || got.My != 9 || got.State != Down {
		t.Errorf("Open vSwitch: %+v, %v", got, err)
	}
	// IPv6 inside, to ::1, without a checksum.
	v6 := append([]byte{0x60, 0, 0, 0, 0, 32, 17, 255}, make([]byte, 32)...)
	v6[39] = 1
	v6 = append(v6, 0xc0, 0, 0x0e, 0xc8, 0, 32, 0, 0)
	if _, _, err := ParseFrame(p.Append(v6), packet.EtherTypeIPv6, Address{}); err != nil {
		t.Errorf("IPv6: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	p := Packet{State: Up, Mult: 3, My: 7, Your: 8, DesiredTx: 90000, RequiredRx: 90000}
	f.Add(AppendFrame(nil, false, theirs, ours, 1, &p), uint16(packet.EtherTypeEthernet))
	f.Add(AppendFrame(nil, true, theirs, ours, 1, &p), uint16(packet.EtherTypeIPv4))
	f.Fuzz(func(t *testing.T, frame []byte, protocol uint16) {
		got, from, err := ParseFrame(frame, protocol, ours)
		if err != nil {
			return
		}
		// What was taken means the same when it is sent on.
		l3 := protocol != packet.EtherTypeEthernet
		kind := uint16(packet.EtherTypeEthernet)
		if l3 {
			kind = packet.EtherTypeIPv4
		}
		if again, _, err := ParseFrame(AppendFrame(nil, l3, Address{MAC: theirs.MAC}, ours, 1, &got), kind, ours); err != nil || again != got {
			t.Errorf("%+v from %+v became %+v, %v", got, from, again, err)
		}
		// No packet brings a session out of its states.
		s := New(Settings{90 * time.Millisecond, 3}, 8, 0)
		s.Receive(&got, 1)
		if s.Check(int64(time.Hour), 0); s.Health() == Dead && s.Status().Downs == 0 || s.Next() < 0 {
			t.Errorf("%+v: %+v", got, s.Status())
		}
	})
}

// pair is two sessions on a link, with a clock of their own.
type pair struct {
	t        *testing.T
	ends     [2]*Session
	now      int64
	cut      bool
	sent     [2]int
	rand     *rand.Rand
	delay    int64
	underway []flight
}

type flight struct {
	at int64
	to int
	p  Packet
}

func newPair(t *testing.T, a, b Settings) *pair {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return &pair{t: t, ends: [2]*Session{New(a, 11, 0), New(b, 22, 0)}, rand: rand.New(rand.NewPCG(seed, 1)), delay: int64(100 * time.Microsecond)}
}

// run lets time pass until it is at, or until done.
func (p *pair) run(at time.Duration, done func() bool) bool {
	for {
		if done != nil && done() {
			return true
		}
		next, who := int64(at), -1
		for i, s := range p.ends {
			if s == nil {
				continue
			}
			if n := s.Next(); n < next {
				next, who = n, i
			}
		}
		if len(p.underway) > 0 && p.underway[0].at <= next {
			f := p.underway[0]
			p.underway = p.underway[1:]
			p.now = max(p.now, f.at)
			if s := p.ends[f.to]; s != nil && !p.cut {
				s.Receive(&f.p, p.now)
			}
			continue
		}
		p.now = max(p.now, next)
		if who < 0 {
			return done == nil
		}
		if s := p.ends[who]; s.Check(p.now, p.rand.Uint32()) {
			p.sent[who]++
			p.underway = append(p.underway, flight{p.now + p.delay, 1 - who, s.Packet()})
		}
	}
}

func (p *pair) both(state State) func() bool {
	return func() bool { return p.ends[0].state == state && p.ends[1].state == state }
}

var quick = Settings{90 * time.Millisecond, 3}

// TestSession: up at once, by intervals as agreed, and dead in time when the link is cut.
func TestSession(t *testing.T) {
	for range 20 {
		p := newPair(t, quick, quick)
		if !p.run(time.Second, p.both(Up)) || p.now > int64(20*time.Millisecond) {
			t.Fatalf("after %s: %+v and %+v", time.Duration(p.now), p.ends[0].Status(), p.ends[1].Status())
		}
		p.run(time.Second, nil)
		before := p.sent
		p.run(11*time.Second, nil)
		for i, s := range p.ends {
			if n := p.sent[i] - before[i]; n < 10*11 || n > 10*15 {
				t.Errorf("%d packets in 10 s: want one in 67 to 90 ms", n)
			}
			if st := s.Status(); st.Detection != 270*time.Millisecond || st.Interval != quick.Interval || st.Health != Alive {
				t.Errorf("%+v", st)
			}
			if s.poll || s.final {
				t.Error("the poll sequence does not end")
			}
		}
		p.run(11*time.Second+time.Duration(p.rand.IntN(90))*time.Millisecond, nil)
		p.cut = true
		died := p.now
		if !p.run(20*time.Second, func() bool { return p.ends[0].Health() == Dead }) {
			t.Fatal("never dead")
		}
		if took := time.Duration(p.now - died); took > 271*time.Millisecond || took < 170*time.Millisecond {
			t.Errorf("dead after %s", took)
		}
		p.run(time.Duration(p.now)+time.Second, p.both(Down))
		before = p.sent
		p.run(time.Duration(p.now)+10*time.Second, nil)
		if n := p.sent[0] - before[0]; n > 15 {
			t.Errorf("%d packets in 10 s while down: want one a second (RFC 5880 section 6.8.3)", n)
		}
		p.cut = false
		if !p.run(time.Duration(p.now)+2*time.Second, p.both(Up)) || p.ends[0].Health() != Alive || p.ends[0].Status().Downs != 1 {
			t.Errorf("the link is back: %+v", p.ends[0].Status())
		}
	}
}

// TestAgreement: each end sends as slowly as the other wants.
func TestAgreement(t *testing.T) {
	p := newPair(t, quick, Settings{450 * time.Millisecond, 5})
	p.run(2*time.Second, p.both(Up))
	p.run(3*time.Second, nil)
	a, b := p.ends[0].Status(), p.ends[1].Status()
	if a.Interval != 450*time.Millisecond || b.Interval != 450*time.Millisecond || a.Detection != 5*450*time.Millisecond || b.Detection != 3*450*time.Millisecond {
		t.Errorf("%+v and %+v", a, b)
	}
	p.ends[1].Configure(quick)
	p.run(5*time.Second, nil)
	if a, b := p.ends[0].Status(), p.ends[1].Status(); a.Interval != quick.Interval || b.Interval != quick.Interval || a.State != Up || a.Downs+b.Downs != 0 {
		t.Errorf("after a change: %+v and %+v", a, b)
	}
}

// TestAlone: who does not know BFD is not taken for dead.
func TestAlone(t *testing.T) {
	p := newPair(t, quick, quick)
	p.ends[1] = nil
	p.run(time.Minute, nil)
	if st := p.ends[0].Status(); st.Health != Alive || st.State != Down || p.sent[0] > 90 || p.sent[0] < 55 {
		t.Errorf("%d packets, %+v", p.sent[0], st)
	}
}

// TestAdminDown: whose BFD is switched off is alive, whatever was before, but leaves.
func TestAdminDown(t *testing.T) {
	p := newPair(t, quick, quick)
	p.run(time.Second, p.both(Up))
	p.ends[1].AdminDown(p.now)
	p.run(time.Duration(p.now)+10*time.Second, nil)
	if st := p.ends[0].Status(); st.Health != Leaving || st.State != Down || st.Downs != 0 {
		t.Errorf("%+v", st)
	}
	p.ends[1] = New(quick, 33, p.now)
	if !p.run(time.Duration(p.now)+3*time.Second, p.both(Up)) || p.ends[0].Health() != Alive {
		t.Errorf("on again: %+v", p.ends[0].Status())
	}
}

// TestRestart: a process that begins anew has its sessions back at once.
func TestRestart(t *testing.T) {
	p := newPair(t, quick, quick)
	p.run(time.Second, p.both(Up))
	p.ends[1] = New(quick, 33, p.now)
	began := p.now
	if p.run(time.Duration(p.now)+time.Millisecond/2, func() bool { return p.ends[0].state != Up }); p.ends[0].Health() != Dead {
		t.Errorf("the other is down: %+v", p.ends[0].Status())
	}
	if !p.run(time.Duration(p.now)+time.Second, p.both(Up)) || p.now-began > int64(20*time.Millisecond) {
		t.Errorf("after %s: %+v", time.Duration(p.now-began), p.ends[0].Status())
	}
}

// TestDemand: who asks for no periodic packets gets none (RFC 5880 section 6.8.7), nor does who
// requires 0, and a packet for another session changes nothing.
func TestDemand(t *testing.T) {
	s := New(quick, 1, 0)
	s.Check(0, 0)
	s.Receive(&Packet{State: Init, Mult: 3, My: 2, Your: 1, DesiredTx: 1e6, RequiredRx: 1000, Final: true}, 1)
	s.Check(2e6, 0)
	s.Packet()
	s.Receive(&Packet{State: Up, Mult: 3, My: 2, Your: 1, DesiredTx: 1e6, RequiredRx: 1000, Final: true, Demand: true}, 3e6)
	if s.state != Up || s.Check(5e8, 0) {
		t.Error("demand mode: a packet is sent")
	}
	s.Receive(&Packet{State: Up, Mult: 3, My: 2, Your: 1, DesiredTx: 1e6}, 4e6)
	if s.Check(6e8, 0) {
		t.Error("required 0: a packet is sent")
	}
	if s.Receive(&Packet{State: Down, Mult: 3, My: 2, Your: 99}, 5e6) || s.state != Up {
		t.Error("a packet for another session is taken")
	}
	s.Late(int64(time.Hour))
	if s.Check(int64(time.Hour), 0); s.state != Up {
		t.Error("what came late is taken for silence")
	}
}

// TestFlood: who sends thousands of polls gets bounded answers, and not one is allocated.
func TestFlood(t *testing.T) {
	s, sent := New(quick, 1, 0), 0
	var frame []byte
	now := int64(0)
	one := func() {
		now += int64(10 * time.Microsecond)
		s.Receive(&Packet{State: Down, Mult: 3, My: 2, DesiredTx: 1, RequiredRx: 1, Poll: true}, now)
		if s.Check(now, 0) {
			p := s.Packet()
			frame = AppendFrame(frame[:0], false, ours, theirs, 1, &p)
			sent++
		}
	}
	if n := testing.AllocsPerRun(10000, one); n >= 1 {
		t.Errorf("%g allocations a packet", n)
	}
	if sent > 110 {
		t.Errorf("%d answers in 100 ms", sent)
	}
}
