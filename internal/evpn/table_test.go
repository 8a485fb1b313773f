package evpn

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"gvtep/internal/packet"
)

var (
	us, a, b = netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("10.88.0.3")
	m1, m2   = packet.MAC{2, 0, 0, 0, 1, 16}, packet.MAC{2, 0, 0, 0, 2, 16}
	station1 = netip.MustParseAddr("10.1.0.16")
	start    = time.Unix(1e9, 0)
)

// lab is a table with the segment 100 of gnv0 and the time.
type lab struct {
	*testing.T
	*Table
	now   time.Time
	heard map[netip.Addr]bool
}

func newLab(t *testing.T, segments ...Segment) *lab {
	if segments == nil {
		segments = []Segment{{VNI: 100, Dev: "gnv0", Local: us, Encap: Geneve, Targets: Targets{Auto: true}}}
	}
	l := &lab{t, New(Rules{AS: 65000, RouterID: us, Moves: 5, Window: 180 * time.Second, Grace: 10 * time.Second, Stale: time.Hour}, start), start, map[netip.Addr]bool{}}
	l.SetSegments(segments, l.now)
	l.Sessions(true, l.now)
	l.Take()
	return l
}

// after lets time pass in steps of an agent.
func (l *lab) after(d time.Duration) {
	for end := l.now.Add(d); l.now.Before(end); {
		l.now = l.now.Add(100 * time.Millisecond)
		l.Tick(l.now, func(_ string, v netip.Addr) (time.Duration, bool) { return time.Second, l.heard[v] })
	}
}

func from(v netip.Addr, k Key) Route {
	k.RD = RDOf(netip.AddrFrom4(v.As4()), 100)
	r := Route{Key: k, VNI: 100, NextHop: v, Encap: Geneve, Targets: []Target{TargetOf(65000, 100)}}
	if k.Kind == Multicast {
		r.IP, r.Flooding = v, IngressReplication
	}
	return r
}
func imet(v netip.Addr) Route { return from(v, Key{Kind: Multicast}) }
func mac(v netip.Addr, m packet.MAC, ip netip.Addr, seq uint32) Route {
	r := from(v, Key{Kind: MACIP, MAC: m, IP: ip})
	r.Seq = seq
	return r
}

// told wants these lines of a batch, in any order.
func (l *lab) told(want ...string) {
	l.Helper()
	var have []string
	l.Changes("gnv0", func(line Line) {
		text, _ := json.Marshal(line)
		have = append(have, string(text))
	})
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		l.Errorf("told\n  %s\nwant\n  %s", strings.Join(have, "\n  "), strings.Join(want, "\n  "))
	}
}

func (l *lab) says(want string) {
	l.Helper()
	o := l.Take()
	var have []string
	for _, c := range o.Routes {
		have = append(have, map[bool]string{false: "+", true: "-"}[c.Withdraw]+describe(c.Route))
	}
	for _, f := range o.Forget {
		have = append(have, "forget "+f.MAC.String())
	}
	for _, f := range o.Frozen {
		have = append(have, "frozen "+f.MAC.String())
	}
	if got := strings.Join(have, "; "); got != want {
		l.Errorf("says %q, want %q", got, want)
	}
}

func describe(r Route) string {
	s := r.Kind.String()
	switch r.Kind {
	case MACIP:
		s += " " + r.MAC.String()
		if r.IP.IsValid() {
			s += " " + r.IP.String()
		}
		if r.Seq > 0 {
			s += " seq " + string(rune('0'+r.Seq))
		}
	case Prefix:
		s += " " + r.Net.String()
	}
	return s
}

func TestMulticast(t *testing.T) {
	l := newLab(t)
	l.Update(imet(a), l.now)
	l.told(`{"peer":"10.88.0.1","keywords":["flood","on"]}`)
	l.Update(imet(a), l.now)
	l.told()
	l.Withdraw(imet(a).Key, l.now)
	l.told()
	l.after(time.Second)
	l.told(`{"peer":"10.88.0.1","del":true}`)
	if len(l.routes)+len(l.devices["gnv0"].vteps) != 0 {
		t.Error("something is left")
	}
}

// TestRefused: what is not installed, and why.
func TestRefused(t *testing.T) {
	change := func(f func(*Route)) Route {
		r := mac(a, m1, station1, 0)
		f(&r)
		return r
	}
	for _, x := range []struct {
		route Route
		want  Reason
	}{
		{change(func(r *Route) {}), Taken},
		{change(func(r *Route) { r.Encap = 0 }), Taken}, // the tunnel's is meant (RFC 8365 5.1.3)
		{change(func(r *Route) { r.Encap = VXLAN | Geneve }), Taken},
		{change(func(r *Route) { r.Encap = VXLAN }), WrongEncap},
		{change(func(r *Route) { r.Encap = Other }), WrongEncap},
		{change(func(r *Route) { r.VNI = 101 }), NoSegment},
		{change(func(r *Route) { r.Targets = []Target{TargetOf(65001, 100)} }), Taken},
		{change(func(r *Route) { r.Targets = []Target{TargetOf(65000, 1<<28|100)} }), Taken},
		{change(func(r *Route) { r.Targets = []Target{TargetOf(65000, 101)} }), NotImported},
		{change(func(r *Route) { r.Targets = nil }), NotImported},
		{change(func(r *Route) { r.NextHop = us }), Ours},
		{change(func(r *Route) { r.NextHop = netip.MustParseAddr("fd00::1") }), BadNextHop},
		{change(func(r *Route) { r.NextHop = netip.MustParseAddr("239.0.0.1") }), BadNextHop},
		{change(func(r *Route) { r.NextHop = netip.Addr{} }), BadNextHop},
		{change(func(r *Route) { r.MAC = packet.MAC{1} }), BadStation},
		{change(func(r *Route) { r.IP = netip.MustParseAddr("255.255.255.255") }), BadStation},
		{change(func(r *Route) { r.Kind, r.Net = Prefix, netip.MustParsePrefix("10.0.0.0/8") }), OtherMode},
		{change(func(r *Route) { r.Kind, r.Flooding = Multicast, 1 }), BadFlooding},
	} {
		l := newLab(t)
		l.Update(x.route, l.now)
		if r := l.routes[x.route.Key]; r.why != x.want || (r.seg == nil) != (x.want != Taken) {
			t.Errorf("%+v: %q, want %q", x.route, r.why, x.want)
		}
		count := 0
		l.Changes("gnv0", func(Line) { count++ })
		if (count > 0) != (x.want == Taken) {
			t.Errorf("%q: %d lines", x.want, count)
		}
	}
}

func TestStation(t *testing.T) {
	l := newLab(t)
	l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
	l.Update(mac(a, m1, station1, 0), l.now)
	l.told(`{"peer":"10.88.0.1","keywords":["flood","off"]}`, `{"fdb":"02:00:00:00:01:10","dst":"10.88.0.1"}`,
		`{"neigh":"10.1.0.16","lladdr":"02:00:00:00:01:10"}`)
	l.Update(imet(a), l.now)
	l.told(`{"peer":"10.88.0.1","keywords":["flood","on"]}`)
	// It moves from a to b: one line, and nothing when the old routes go.
	l.Update(mac(b, m1, station1, 1), l.now)
	l.told(`{"peer":"10.88.0.3","keywords":["flood","off"]}`, `{"fdb":"02:00:00:00:01:10","dst":"10.88.0.3","seq":1}`,
		`{"neigh":"10.1.0.16","lladdr":"02:00:00:00:01:10","seq":1}`)
	l.Withdraw(mac(a, m1, netip.Addr{}, 0).Key, l.now)
	l.Withdraw(mac(a, m1, station1, 0).Key, l.now)
	l.after(time.Second)
	l.told(`{"fdb":"02:00:00:00:01:10","dst":"10.88.0.3","seq":1}`, `{"neigh":"10.1.0.16","lladdr":"02:00:00:00:01:10","seq":1}`)
	l.Withdraw(mac(b, m1, station1, 1).Key, l.now)
	l.after(time.Second)
	l.told(`{"peer":"10.88.0.3","del":true}`, `{"fdb":"02:00:00:00:01:10","del":true}`, `{"neigh":"10.1.0.16","del":true}`)
	if len(l.segments[100].stations)+len(l.segments[100].ips) != 0 {
		t.Error("something is left")
	}
}

// TestLocal: our stations, their addresses, and that what ages is withdrawn.
func TestLocal(t *testing.T) {
	l := newLab(t)
	l.Bind(100, station1, m1)
	l.Learn(100, m1, 3, false, l.now)
	l.says("+mac 02:00:00:00:01:10; +mac 02:00:00:00:01:10 10.1.0.16")
	l.Learn(100, m2, 3, true, l.now)
	l.Bind(100, station1, m2) // the address moves to another station of ours
	l.says("+mac 02:00:00:00:02:10; -mac 02:00:00:00:01:10 10.1.0.16; +mac 02:00:00:00:02:10 10.1.0.16")
	l.told()
	l.Unlearn(100, m1)
	l.Unlearn(100, m2)
	l.says("-mac 02:00:00:00:01:10; -mac 02:00:00:00:02:10; -mac 02:00:00:00:02:10 10.1.0.16")
	l.after(181 * time.Second)
	if s := l.segments[100]; len(s.stations)+len(s.bound) != 0 {
		t.Error("something is left")
	}
}

func TestMobility(t *testing.T) {
	l := newLab(t)
	l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
	l.told(`{"peer":"10.88.0.1","keywords":["flood","off"]}`, `{"fdb":"02:00:00:00:01:10","dst":"10.88.0.1"}`)
	// One that was in the bridge when we came proves nothing.
	l.Learn(100, m1, 3, false, l.now)
	l.says("forget 02:00:00:00:01:10")
	l.Learn(100, m1, 3, true, l.now)
	l.says("+mac 02:00:00:00:01:10 seq 1")
	l.told(`{"fdb":"02:00:00:00:01:10","del":true}`)
	l.Update(mac(a, m1, netip.Addr{}, 2), l.now)
	l.says("-mac 02:00:00:00:01:10 seq 1; forget 02:00:00:00:01:10")
	l.told(`{"fdb":"02:00:00:00:01:10","dst":"10.88.0.1","seq":2}`)
	// Of two at a time the lower address has it: a has one below ours, b above.
	l.Learn(100, m2, 3, true, l.now)
	l.Update(mac(b, m2, netip.Addr{}, 0), l.now)
	l.says("+mac 02:00:00:00:02:10")
	l.Update(mac(a, m2, netip.Addr{}, 0), l.now)
	l.says("-mac 02:00:00:00:02:10; forget 02:00:00:00:02:10")
}

// TestDuplicate: the fifth move in 180 s is not made, and an operator lets it move again.
func TestDuplicate(t *testing.T) {
	l := newLab(t)
	l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
	for seq := uint32(1); seq < 5; seq += 2 {
		l.Learn(100, m1, 3, true, l.now)
		l.Update(mac(a, m1, netip.Addr{}, seq+1), l.now)
		l.after(time.Second)
	}
	l.Take()
	l.Learn(100, m1, 3, true, l.now)
	l.says("frozen 02:00:00:00:01:10")
	l.Update(mac(a, m1, netip.Addr{}, 9), l.now)
	l.says("")
	if l.Clear(100, m2) || !l.Clear(100, m1) || l.Clear(100, m1) {
		t.Error("Clear does not know what was frozen")
	}
	l.says("+mac 02:00:00:00:01:10 seq 5")
	// It counts, too, if it is seen behind the tunnel before the route comes.
	l = newLab(t)
	l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
	for seq := uint32(1); seq < 5; seq += 2 {
		l.Learn(100, m1, 3, true, l.now)
		l.Unlearn(100, m1)
		l.Update(mac(a, m1, netip.Addr{}, seq+1), l.now)
	}
	l.Learn(100, m1, 3, true, l.now)
	if !l.segments[100].stations[m1].frozen {
		t.Error("five moves, and not frozen")
	}
	// Slowly it may move as often as it likes.
	l = newLab(t)
	l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
	for seq := uint32(1); seq < 20; seq += 2 {
		l.Learn(100, m1, 3, true, l.now)
		l.Update(mac(a, m1, netip.Addr{}, seq+1), l.now)
		l.now = l.now.Add(100 * time.Second)
	}
	if l.segments[100].stations[m1].frozen {
		t.Error("frozen for moves that are minutes apart")
	}
}

// TestGrace: a VTEP that vanishes as a whole stays while it is heard, for as long as the rule says;
// one that is not heard goes, and so does a single station.
func TestGrace(t *testing.T) {
	gone := `{"fdb":"02:00:00:00:01:10","del":true}`
	for _, x := range []struct {
		name         string
		heard, whole bool
		wait         time.Duration
		want         bool // still there
	}{
		{"heard", true, true, 9 * time.Second, true},
		{"heard for too long", true, true, 11 * time.Second, false},
		{"not heard", false, true, time.Second, false},
		{"one station", true, false, time.Second, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			l := newLab(t)
			l.heard[a] = x.heard
			l.Update(imet(a), l.now)
			l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
			l.Changes("gnv0", func(Line) {})
			l.Withdraw(mac(a, m1, netip.Addr{}, 0).Key, l.now)
			if x.whole {
				l.Withdraw(imet(a).Key, l.now)
			}
			l.after(x.wait)
			var last []string
			l.Changes("gnv0", func(line Line) {
				if line.FDB != "" {
					text, _ := json.Marshal(line)
					last = append(last, string(text))
				}
			})
			if still := !slices.Contains(last, gone); still != x.want {
				t.Errorf("after %s there: %v, told %v", x.wait, still, last)
			}
			// Announced again it is as it was, and nothing waits.
			l.Update(imet(a), l.now)
			l.Update(mac(a, m1, netip.Addr{}, 0), l.now)
			if l.Waiting() && x.want {
				t.Error("it still leaves")
			}
		})
	}
}

// TestNoControlPlane: without any session nothing goes, until it has been so for too long.
func TestNoControlPlane(t *testing.T) {
	l := newLab(t)
	l.Update(imet(a), l.now)
	l.Changes("gnv0", func(Line) {})
	l.Sessions(false, l.now)
	l.Withdraw(imet(a).Key, l.now)
	l.after(time.Minute)
	l.told()
	l.Sessions(true, l.now)
	l.after(9 * time.Second) // others come back after us
	l.told()
	l.after(2 * time.Second)
	l.told(`{"peer":"10.88.0.1","del":true}`)
	l.Update(imet(a), l.now)
	l.told(`{"peer":"10.88.0.1","keywords":["flood","on"]}`)
	l.Sessions(false, l.now)
	l.Withdraw(imet(a).Key, l.now)
	l.now = l.now.Add(59 * time.Minute)
	l.after(2 * time.Minute)
	l.told(`{"peer":"10.88.0.1","del":true}`)
}

// TestSegments: a segment that comes later has the routes that were there, one that goes takes its own along.
func TestSegments(t *testing.T) {
	two := Segment{VNI: 200, Dev: "gnv0", VLAN: 20, Local: us, Encap: Geneve, Targets: Targets{Auto: true}}
	l := newLab(t)
	r := mac(a, m1, station1, 0)
	r.VNI, r.Targets = 200, []Target{TargetOf(65000, 200)}
	l.Update(r, l.now)
	l.told()
	one := l.segments[100].Segment
	l.SetSegments([]Segment{one, two}, l.now)
	l.says("+imet")
	l.told(`{"peer":"10.88.0.1","keywords":["flood","off"]}`, `{"fdb":"02:00:00:00:01:10","dst":"10.88.0.1","vlan":20}`,
		`{"neigh":"10.1.0.16","lladdr":"02:00:00:00:01:10","vlan":20}`)
	l.Learn(200, m2, 4, true, l.now)
	l.says("+mac 02:00:00:00:02:10")
	l.SetSegments([]Segment{one}, l.now)
	l.says("-mac 02:00:00:00:02:10; -imet")
	if r := l.routes[r.Key]; r.why != NoSegment {
		t.Errorf("%q", r.why)
	}
}

func TestPrefix(t *testing.T) {
	net := netip.MustParsePrefix("172.20.1.0/24")
	l := newLab(t, Segment{VNI: 100, Dev: "gnv0", Local: us, Encap: Geneve, L3: true, Targets: Targets{Auto: true}})
	l.SetPrefixes(100, []netip.Prefix{net})
	l.says("+prefix 172.20.1.0/24")
	l.SetPrefixes(100, nil)
	l.says("-prefix 172.20.1.0/24")
	one, two := from(a, Key{Kind: Prefix, Net: net}), from(b, Key{Kind: Prefix, Net: net})
	l.Update(two, l.now)
	l.told(`{"peer":"10.88.0.3","keywords":["routes","none"]}`, `{"route":"172.20.1.0/24","dst":"10.88.0.3"}`)
	l.Update(one, l.now)
	l.told(`{"peer":"10.88.0.1","keywords":["routes","none"]}`, `{"route":"172.20.1.0/24","dst":"10.88.0.1"}`)
	l.Withdraw(one.Key, l.now)
	l.after(time.Second)
	l.told(`{"peer":"10.88.0.1","del":true}`, `{"route":"172.20.1.0/24","dst":"10.88.0.3"}`)
}

// TestPrefixGrace: a network that one VTEP of two withdraws is the other's at once. The VTEP itself vanishes with
// its last network: only then does it stay while it is heard.
func TestPrefixGrace(t *testing.T) {
	n1, n2 := netip.MustParsePrefix("172.20.1.0/24"), netip.MustParsePrefix("fd20:1::/64")
	l := newLab(t, Segment{VNI: 100, Dev: "gnv0", Local: us, Encap: Geneve, L3: true, Targets: Targets{Auto: true}})
	l.heard[a] = true
	of := func(v netip.Addr, n netip.Prefix) Route { return from(v, Key{Kind: Prefix, Net: n}) }
	for _, r := range []Route{of(a, n1), of(a, n2), of(b, n1)} {
		l.Update(r, l.now)
	}
	l.told(`{"peer":"10.88.0.1","keywords":["routes","none"]}`, `{"peer":"10.88.0.3","keywords":["routes","none"]}`,
		`{"route":"172.20.1.0/24","dst":"10.88.0.1"}`, `{"route":"fd20:1::/64","dst":"10.88.0.1"}`)
	l.Segments(func(s SegmentState) bool {
		if s.VTEPs != 2 || s.Networks != 2 {
			t.Errorf("%d VTEPs with %d networks, want 2 and 2", s.VTEPs, s.Networks)
		}
		return true
	})
	l.Withdraw(of(a, n1).Key, l.now)
	l.told(`{"route":"172.20.1.0/24","dst":"10.88.0.3"}`)
	l.after(time.Second)
	if n := len(l.leaving); n != 0 {
		t.Errorf("%d withdrawals wait after a second: the VTEP has another network", n)
	}
	l.Changes("gnv0", func(Line) {})
	l.Withdraw(of(a, n2).Key, l.now)
	l.after(9 * time.Second)
	if n := len(l.leaving); n != 1 {
		t.Errorf("%d networks of a VTEP that is heard wait, want 1", n)
	}
	l.Changes("gnv0", func(Line) {})
	l.Update(of(a, n2), l.now) // it is back
	l.after(20 * time.Second)
	l.told(`{"route":"fd20:1::/64","dst":"10.88.0.1"}`)
	l.Withdraw(of(a, n2).Key, l.now)
	l.after(11 * time.Second)
	l.told(`{"peer":"10.88.0.1","del":true}`, `{"route":"fd20:1::/64","del":true}`)
}

// TestAll: after a restart of gvtep everything once more, without removals.
func TestAll(t *testing.T) {
	l := newLab(t)
	l.Update(imet(a), l.now)
	l.Update(mac(a, m1, station1, 0), l.now)
	l.Changes("gnv0", func(Line) {})
	l.Withdraw(imet(a).Key, l.now)
	l.after(time.Second)
	n := 0
	l.All("gnv0", func(line Line) {
		n++
		if line.Del {
			t.Errorf("%+v", line)
		}
	})
	if n != 3 {
		t.Errorf("%d lines, want a peer, an entry and a neighbour", n)
	}
	l.told()
}

func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"65000:100": "65000:100", "4200000000:7": "4200000000:7", "192.0.2.1:9": "192.0.2.1:9",
		"65000": "", "4200000000:70000": "", "x:1": "", "65000:-1": "",
	} {
		have, err := ParseTarget(text)
		if (err != nil) != (want == "") || err == nil && have.String() != want {
			t.Errorf("%s: %s, %v", text, have, err)
		}
	}
	if have := (Targets{Auto: true, Derive: true}).export(65000, 100)[0].String(); have != "65000:268435556" {
		t.Errorf("derived: %s", have)
	}
}

// TestMaxOfVTEP: a VTEP has as many stations as it may. The others wait for room; news of those that it has are taken.
func TestMaxOfVTEP(t *testing.T) {
	l := newLab(t)
	l.rules.MaxOfVTEP = 2
	station := func(n byte) packet.MAC { return packet.MAC{2, 0, 0, 0, 9, n} }
	for n := range byte(3) {
		l.Update(mac(a, station(n), netip.Addr{}, 0), l.now)
	}
	l.Update(imet(a), l.now) // that it is there at all is none of them
	l.Update(mac(b, station(7), netip.Addr{}, 0), l.now)
	last := mac(a, station(2), netip.Addr{}, 0)
	if r := l.routes[last.Key]; r.why != TooMany {
		t.Errorf("%q of one too many", r.why)
	}
	l.told(`{"peer":"10.88.0.1","keywords":["flood","on"]}`, `{"peer":"10.88.0.3","keywords":["flood","off"]}`,
		`{"fdb":"02:00:00:00:09:00","dst":"10.88.0.1"}`, `{"fdb":"02:00:00:00:09:01","dst":"10.88.0.1"}`, `{"fdb":"02:00:00:00:09:07","dst":"10.88.0.3"}`)
	l.Update(mac(a, station(0), netip.Addr{}, 5), l.now)
	l.told(`{"fdb":"02:00:00:00:09:00","dst":"10.88.0.1","seq":5}`)
	l.Withdraw(mac(a, station(1), netip.Addr{}, 0).Key, l.now)
	l.after(time.Second)
	l.told(`{"fdb":"02:00:00:00:09:01","del":true}`, `{"fdb":"02:00:00:00:09:02","dst":"10.88.0.1"}`)
	if l.Waiting() {
		t.Error("there is room, and something waits")
	}
}

// TestLeavingSegment: a tunnel goes while withdrawals wait for it. What was withdrawn does not come back with the tunnel.
func TestLeavingSegment(t *testing.T) {
	l := newLab(t)
	segment := l.segments[100].Segment
	l.heard[a] = true
	l.Update(imet(a), l.now)
	l.Update(imet(b), l.now)
	l.Update(mac(a, m1, station1, 0), l.now)
	l.Withdraw(imet(a).Key, l.now)
	l.Withdraw(mac(a, m1, station1, 0).Key, l.now)
	l.SetSegments(nil, l.now)
	l.after(20 * time.Second)
	l.SetSegments([]Segment{segment}, l.now)
	l.told(`{"peer":"10.88.0.3","keywords":["flood","on"]}`)
	if len(l.leaving) != 0 || len(l.routes) != 1 {
		t.Errorf("%d leaving, %d routes", len(l.leaving), len(l.routes))
	}
}

// TestWanted: the targets of all segments, each once, whenever they change.
func TestWanted(t *testing.T) {
	segment := func(vni uint32, g Targets) Segment {
		return Segment{VNI: vni, Dev: "gnv0", Local: us, Encap: Geneve, Targets: g}
	}
	l := newLab(t)
	wants := func(want ...string) {
		t.Helper()
		out := l.Take()
		have := []string{}
		for _, x := range out.Wanted {
			have = append(have, x.String())
		}
		if (out.Wanted == nil) != (want == nil) || !slices.Equal(have, want) {
			t.Errorf("wanted %q, want %q", have, want)
		}
	}
	list := Targets{List: []Target{TargetOf(65000, 7), TargetOf(65001, 7)}}
	l.SetSegments([]Segment{segment(100, Targets{Auto: true}), segment(200, list), segment(300, list)}, l.now)
	wants("65000:7", "65000:100", "65000:268435556", "65001:7")
	l.SetSegments([]Segment{segment(100, Targets{Auto: true}), segment(200, list), segment(300, list)}, l.now)
	if out := l.Take(); out.Wanted != nil {
		t.Errorf("nothing changed, and %v is wanted", out.Wanted)
	}
	l.SetSegments(nil, l.now)
	wants([]string{}...)
}

func TestNumbers(t *testing.T) {
	segment := func(vni uint32) Segment { return Segment{VNI: vni, Dev: "gnv0", Local: us, Encap: Geneve} }
	l := newLab(t, segment(100), segment(70000), segment(70001))
	if x, y, z := l.segments[100].number, l.segments[70000].number, l.segments[70001].number; x != 100 || y == z {
		t.Errorf("%d %d %d", x, y, z)
	}
}
