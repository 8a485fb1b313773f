package evpn

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"time"

	"gvtep/internal/packet"
)

// Segment is one VNI of one tunnel.
type Segment struct {
	VNI     uint32
	Dev     string
	VLAN    uint16 // of a trunk; 0: the tunnel's own segment
	Local   netip.Addr
	Encap   Encap
	L3      bool
	Targets Targets
}

// Rules are what holds for all segments.
type Rules struct {
	AS       uint32
	RouterID netip.Addr
	Announce []Kind // what is announced besides Multicast; nil: all
	BareMAC  bool   // of stations the MAC addresses only
	// A station that moved Moves times within Window is a duplicate (RFC 7432 15.1).
	Moves  int
	Window time.Duration
	// Grace is how long a VTEP stays that vanished as a whole, but is still heard. Stale is how long
	// anything stays while there is no session at all.
	Grace, Stale time.Duration
	// MaxOfVTEP is how many routes of stations or networks of one VTEP a tunnel takes; 0: any number.
	MaxOfVTEP int
}

func (r *Rules) announces(k Kind) bool { return r.Announce == nil || slices.Contains(r.Announce, k) }

const (
	// settle is how long a withdrawal waits for others of the same VTEP, by which one sees that it
	// vanished as a whole.
	settle = 300 * time.Millisecond
	// hearing is how long ago a VTEP may have been heard that is alive.
	hearing = 3 * time.Second
)

// Reason is why a route is not installed.
type Reason string

// The reasons. Taken is none.
const (
	Taken       Reason = ""
	NoSegment   Reason = "vni"     // there is no segment with the VNI
	NotImported Reason = "target"  // none of its targets is the segment's
	WrongEncap  Reason = "encap"   // of another encapsulation than the tunnel's
	BadNextHop  Reason = "nexthop" // no address of a VTEP, or of another family than the tunnel's
	BadFlooding Reason = "pmsi"    // flooding by something else than a copy for each
	BadStation  Reason = "station" // no addresses of one station
	OtherMode   Reason = "mode"    // a prefix for a tunnel with frames, or the reverse
	HasGateway  Reason = "gateway" // a prefix behind a gateway, not interface-less
	Ours        Reason = "ours"    // our own, come back
	TooMany     Reason = "limit"   // its VTEP has as many as it may
)

// route is one that was received.
type route struct {
	Route
	seg     *segment // nil: it is not installed
	why     Reason
	leaving time.Time // when it was withdrawn; zero: it was not
	until   time.Time // it stays so long at least
}

// segment is a Segment and what is known of it.
type segment struct {
	Segment
	number   uint16 // in the RD
	stations map[packet.MAC]*station
	ips      map[netip.Addr][]*route // received, by the station's IP address
	nets     map[netip.Prefix][]*route
	bound    map[netip.Addr]packet.MAC // of local stations
	own      map[netip.Prefix]bool     // announced as Prefix
	there    map[netip.Addr]int        // how many routes of a VTEP say that it is there, and are not leaving
	dirtyMAC map[packet.MAC]bool
	dirtyIP  map[netip.Addr]bool
	dirtyNet map[netip.Prefix]bool
}

// device is a tunnel, with what is to be told of it.
type device struct {
	segments []*segment
	vteps    map[netip.Addr]*vtep
	dirty    map[netip.Addr]bool
}

// vtep counts the installed routes behind a VTEP.
type vtep struct {
	multicast, others int
	told              peering // what gvtep knows
}

// peering is what a VTEP is to a tunnel.
type peering uint8

const (
	stranger peering = iota
	quiet            // it is sent what is for its stations
	flooded          // and what is flooded
)

func (v *vtep) want() peering {
	switch {
	case v.multicast > 0:
		return flooded
	case v.others > 0:
		return quiet
	}
	return stranger
}

// Table is everything that is known. It is not safe for concurrent use.
type Table struct {
	rules    Rules
	segments map[uint32]*segment
	devices  map[string]*device
	routes   map[Key]*route
	leaving  map[Key]*route
	numbers  map[uint16]bool // that segments have in their RD
	out      Output
	moves    uint64
	swept    time.Time
	limited  bool // some route is not installed because of TooMany
	freed    bool // and since then some was removed
	// since is when the last session ended; zero: there is one, and it has told all.
	since time.Time
}

// Output is what the world is to be told.
type Output struct {
	Routes []Change // in this order: a route may be in it several times
	Forget []Forget
	Frozen []Duplicate
	// Wanted are all targets that routes for us have, in order, if they changed; nil: they did not.
	Wanted []Target
}

// Change is a route of ours that is to be announced, or withdrawn.
type Change struct {
	Route
	Withdraw bool
}

func (t *Table) announce(r Route) { t.out.Routes = append(t.out.Routes, Change{r, false}) }
func (t *Table) withdraw(r Route) { t.out.Routes = append(t.out.Routes, Change{r, true}) }

// Forget is a station that the bridge takes for a local one, while it is elsewhere.
type Forget struct {
	VNI  uint32
	MAC  packet.MAC
	Port int
}

// Duplicate is a station that two places claim.
type Duplicate struct {
	VNI   uint32
	MAC   packet.MAC
	Other netip.Addr // the VTEP of the other one; invalid: it is not known
}

// New returns an empty table. Until the first EndOfRIB nothing is removed from gvtep.
func New(r Rules, now time.Time) *Table {
	return &Table{
		rules: r, since: now, swept: now,
		segments: map[uint32]*segment{}, devices: map[string]*device{}, routes: map[Key]*route{}, leaving: map[Key]*route{}, numbers: map[uint16]bool{},
	}
}

// Take returns what came up since the last call.
func (t *Table) Take() Output {
	out := t.out
	t.out = Output{}
	return out
}

// SetSegments says which segments there are. What was known of those that stay as they are is kept.
func (t *Table) SetSegments(list []Segment, now time.Time) {
	want := map[uint32]Segment{}
	for _, s := range list {
		if _, twice := want[s.VNI]; !twice { // the first one has it
			want[s.VNI] = s
		}
	}
	gone := map[*segment]bool{}
	for vni, s := range t.segments {
		if w, ok := want[vni]; !ok || !same(w, s.Segment) {
			gone[s] = true
		}
	}
	t.removeSegments(gone)
	changed := len(gone) > 0
	for _, vni := range slices.Sorted(maps.Keys(want)) {
		if t.segments[vni] == nil {
			t.addSegment(want[vni])
			changed = true
		}
	}
	if !changed {
		return
	}
	t.out.Wanted = t.wanted()
	for _, r := range t.routes {
		if r.seg == nil {
			t.install(r)
		}
	}
}

func (t *Table) wanted() []Target {
	list := []Target{}
	for _, s := range t.segments {
		list = append(list, s.Targets.wanted(t.rules.AS, s.VNI)...)
	}
	slices.SortFunc(list, func(x, y Target) int { return bytes.Compare(x[:], y[:]) })
	return slices.Compact(list)
}

func same(a, b Segment) bool {
	return a.Dev == b.Dev && a.VLAN == b.VLAN && a.Local == b.Local && a.Encap == b.Encap && a.L3 == b.L3 &&
		a.Targets.Auto == b.Targets.Auto && a.Targets.Derive == b.Targets.Derive && slices.Equal(a.Targets.List, b.Targets.List)
}

func (t *Table) addSegment(s Segment) {
	g := &segment{
		Segment: s, stations: map[packet.MAC]*station{}, ips: map[netip.Addr][]*route{}, nets: map[netip.Prefix][]*route{},
		bound: map[netip.Addr]packet.MAC{}, own: map[netip.Prefix]bool{}, there: map[netip.Addr]int{},
		dirtyMAC: map[packet.MAC]bool{}, dirtyIP: map[netip.Addr]bool{}, dirtyNet: map[netip.Prefix]bool{},
	}
	g.number = t.freeNumber(s.VNI)
	t.segments[s.VNI] = g
	d := t.devices[s.Dev]
	if d == nil {
		d = &device{vteps: map[netip.Addr]*vtep{}, dirty: map[netip.Addr]bool{}}
		t.devices[s.Dev] = d
	}
	d.segments = append(d.segments, g)
	if !s.L3 {
		t.announce(t.multicast(g))
	}
}

// freeNumber is the VNI, if it fits into an RD, else one from above that no other segment has.
func (t *Table) freeNumber(vni uint32) uint16 {
	n := uint16(min(vni, 0xffff))
	for t.numbers[n] {
		n--
	}
	t.numbers[n] = true
	return n
}

func (t *Table) removeSegments(gone map[*segment]bool) {
	if len(gone) == 0 {
		return
	}
	for s := range gone {
		t.withdrawSegment(s)
	}
	for k, r := range t.routes {
		if !gone[r.seg] {
			continue
		}
		t.uninstall(r)
		r.why = NoSegment
		if !r.leaving.IsZero() { // nothing waits for it any more
			delete(t.leaving, k)
			delete(t.routes, k)
		}
	}
	for s := range gone {
		delete(t.segments, s.VNI)
		delete(t.numbers, s.number)
	}
	for name, d := range t.devices {
		if d.segments = slices.DeleteFunc(d.segments, func(s *segment) bool { return gone[s] }); len(d.segments) == 0 {
			delete(t.devices, name)
		}
	}
}

// withdrawSegment takes back all that was announced of a segment.
func (t *Table) withdrawSegment(s *segment) {
	for mac, st := range s.stations {
		if st.local != nil {
			t.withdrawStation(s, mac, st)
		}
	}
	for net := range s.own {
		t.withdraw(t.prefix(s, net))
	}
	if !s.L3 {
		t.withdraw(t.multicast(s))
	}
}

// ours is a route of a segment, without what it is about.
func (t *Table) ours(s *segment, k Key) Route {
	k.RD = RDOf(t.rules.RouterID, s.number)
	return Route{Key: k, VNI: s.VNI, NextHop: s.Local, Encap: s.Encap, Targets: s.Targets.export(t.rules.AS, s.VNI)}
}

func (t *Table) multicast(s *segment) Route {
	r := t.ours(s, Key{Kind: Multicast, IP: s.Local})
	r.Flooding = IngressReplication
	return r
}

func (t *Table) prefix(s *segment, net netip.Prefix) Route {
	return t.ours(s, Key{Kind: Prefix, Net: net})
}

// SetPrefixes says which networks a segment announces.
func (t *Table) SetPrefixes(vni uint32, nets []netip.Prefix) {
	s := t.segments[vni]
	if s == nil || !s.L3 || !t.rules.announces(Prefix) {
		return
	}
	for net := range s.own {
		if !slices.Contains(nets, net) {
			delete(s.own, net)
			t.withdraw(t.prefix(s, net))
		}
	}
	for _, net := range nets {
		if !s.own[net] {
			s.own[net] = true
			t.announce(t.prefix(s, net))
		}
	}
}

// Update is a route that was received, new or with another content.
func (t *Table) Update(r Route, now time.Time) {
	old := t.routes[r.Key]
	n := &route{Route: r}
	t.routes[r.Key] = n
	if old != nil && old.seg != nil {
		delete(t.leaving, r.Key)
		t.uninstall(old)
	}
	t.install(n)
	if n.seg != nil && n.Kind == MACIP {
		t.contest(n, now)
	}
}

// Withdraw is a route that was withdrawn. It goes with a Tick.
func (t *Table) Withdraw(k Key, now time.Time) {
	r := t.routes[k]
	switch {
	case r == nil || !r.leaving.IsZero():
	case r.seg == nil:
		delete(t.routes, k)
	default:
		r.leaving = now
		t.leaving[k] = r
		if r.presence() {
			r.seg.count(r.NextHop, -1)
		}
		switch r.Kind { // another's goes before it
		case MACIP:
			r.seg.dirtyMAC[r.MAC] = true
			r.seg.touchIP(r.IP)
		case Prefix:
			r.seg.dirtyNet[r.Net] = true
		}
	}
}

// presence reports whether a route says that its VTEP is there at all, and not where a station is.
func (r *route) presence() bool { return r.Kind == Multicast || r.Kind == Prefix }

func (s *segment) count(v netip.Addr, by int) {
	if s.there[v] += by; s.there[v] <= 0 {
		delete(s.there, v)
	}
}

func (s *segment) touchIP(ip netip.Addr) {
	if ip.IsValid() {
		s.dirtyIP[ip] = true
	}
}

// judge finds the segment of a route, or why there is none.
func (t *Table) judge(r *Route) (*segment, Reason) {
	s := t.segments[r.VNI]
	switch {
	case s == nil:
		return nil, NoSegment
	case !s.Targets.imports(s.VNI, r.Targets):
		return nil, NotImported
	case r.Encap != 0 && r.Encap&s.Encap == 0:
		return nil, WrongEncap
	case !packet.IsStation(r.NextHop) || r.NextHop.Zone() != "" || s.Local.IsValid() && r.NextHop.Is4() != s.Local.Is4():
		return nil, BadNextHop
	case r.NextHop == s.Local:
		return nil, Ours
	case s.L3 != (r.Kind == Prefix):
		return nil, OtherMode
	case r.Kind == Multicast && r.Flooding != IngressReplication:
		return nil, BadFlooding
	case r.Kind == MACIP && (r.MAC.IsZero() || r.MAC.IsGroup() || r.IP.IsValid() && !packet.IsStation(r.IP)):
		return nil, BadStation
	case r.Kind == Prefix && r.Gateway.IsValid():
		return nil, HasGateway
	case r.Kind != Multicast && t.full(s, r.NextHop):
		return nil, TooMany
	}
	return s, Taken
}

func (t *Table) full(s *segment, addr netip.Addr) bool {
	v := t.devices[s.Dev].vteps[addr]
	return t.rules.MaxOfVTEP > 0 && v != nil && v.others >= t.rules.MaxOfVTEP
}

func (t *Table) install(r *route) {
	if r.seg, r.why = t.judge(&r.Route); r.seg == nil {
		t.limited = t.limited || r.why == TooMany
		return
	}
	s := r.seg
	v := t.vtep(s.Dev, r.NextHop)
	if r.presence() {
		s.count(r.NextHop, 1)
	}
	switch r.Kind {
	case Multicast:
		v.multicast++
		return
	case MACIP:
		st := s.station(r.MAC)
		st.remote = append(st.remote, r)
		s.dirtyMAC[r.MAC] = true
		if r.IP.IsValid() {
			s.ips[r.IP] = append(s.ips[r.IP], r)
			s.dirtyIP[r.IP] = true
		}
	case Prefix:
		s.nets[r.Net] = append(s.nets[r.Net], r)
		s.dirtyNet[r.Net] = true
	}
	v.others++
}

func (t *Table) uninstall(r *route) {
	s := r.seg
	v := t.vtep(s.Dev, r.NextHop)
	if r.presence() && r.leaving.IsZero() {
		s.count(r.NextHop, -1)
	}
	switch r.Kind {
	case Multicast:
		v.multicast--
	case MACIP:
		v.others--
		st := s.station(r.MAC)
		st.remote = without(st.remote, r)
		s.dirtyMAC[r.MAC] = true
		if r.IP.IsValid() {
			drop(s.ips, r.IP, r)
			s.dirtyIP[r.IP] = true
		}
		s.tidy(r.MAC)
	case Prefix:
		v.others--
		drop(s.nets, r.Net, r)
		s.dirtyNet[r.Net] = true
	}
	r.seg = nil
	t.freed = true
}

// retry installs routes for which there was no room.
func (t *Table) retry(now time.Time) {
	if !t.limited || !t.freed {
		return
	}
	t.limited, t.freed = false, false
	for _, r := range t.routes {
		if r.why != TooMany {
			continue
		}
		if t.install(r); r.seg != nil && r.Kind == MACIP {
			t.contest(r, now)
		}
	}
}

// vtep returns that of a device, which is about to change.
func (t *Table) vtep(dev string, addr netip.Addr) *vtep {
	d := t.devices[dev]
	d.dirty[addr] = true
	v := d.vteps[addr]
	if v == nil {
		v = &vtep{}
		d.vteps[addr] = v
	}
	return v
}

func without(list []*route, r *route) []*route {
	return slices.DeleteFunc(list, func(o *route) bool { return o == r })
}

func drop[K comparable](m map[K][]*route, k K, r *route) {
	if m[k] = without(m[k], r); len(m[k]) == 0 {
		delete(m, k)
	}
}

// Sessions says whether any session is up that has told all it knows. While there is none, what
// was withdrawn stays: it is the control plane that is gone, not the VTEPs. When it is back, others
// have the time of grace to come back, too.
func (t *Table) Sessions(up bool, now time.Time) {
	switch {
	case !up && t.since.IsZero():
		t.since = now
	case up && !t.since.IsZero():
		t.since = time.Time{}
		for _, r := range t.leaving {
			r.until = now.Add(t.rules.Grace)
		}
	}
}

// Heard says how long ago a tunnel heard a VTEP; false: never.
type Heard func(dev string, addr netip.Addr) (time.Duration, bool)

// Waiting reports whether there is something for a Tick to do.
func (t *Table) Waiting() bool { return len(t.leaving) > 0 || t.limited && t.freed }

// Tick ends withdrawals that have waited for long enough, and installs routes that there is room for then.
func (t *Table) Tick(now time.Time, heard Heard) {
	t.sweep(now)
	alone := !t.since.IsZero() && now.Sub(t.since) < t.rules.Stale
	for k, r := range t.leaving {
		waited := now.Sub(r.leaving)
		if alone || waited < settle || now.Before(r.until) || waited < t.rules.Grace && t.vanished(r) && stillHeard(heard, r) {
			continue
		}
		delete(t.leaving, k)
		delete(t.routes, k)
		t.uninstall(r)
	}
	t.retry(now)
}

// vanished reports whether a VTEP went as a whole: it does not want what is flooded any more, and has no network.
func (t *Table) vanished(r *route) bool { return r.seg.there[r.NextHop] == 0 }

func stillHeard(heard Heard, r *route) bool {
	ago, ever := heard(r.seg.Dev, r.NextHop)
	return ever && ago < hearing
}
