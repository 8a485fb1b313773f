package evpn

import (
	"net/netip"
	"slices"
	"time"

	"gvtep/internal/packet"
)

// station is an Ethernet address in a segment, here, elsewhere, or both for a moment.
type station struct {
	remote []*route
	local  *local
	ips    []netip.Addr // that it uses, as far as it was seen here
	told   netip.Addr   // where gvtep has it; invalid: nowhere
	last   *uint32      // the sequence number that we had, of one that went
	moves  []time.Time  // to us and from us, the last ones
	frozen bool         // a duplicate: what we say of it stays as it is
}

// local is a station of ours.
type local struct {
	port      int
	seq       uint32
	announced bool
}

func (s *segment) station(mac packet.MAC) *station {
	st := s.stations[mac]
	if st == nil {
		st = &station{}
		s.stations[mac] = st
	}
	return st
}

// tidy forgets a station of which nothing is left.
func (s *segment) tidy(mac packet.MAC) {
	if st := s.stations[mac]; st != nil && st.empty() && st.last == nil && len(st.moves) == 0 {
		delete(s.stations, mac)
	}
}

func (st *station) empty() bool {
	return st.local == nil && len(st.remote) == 0 && len(st.ips) == 0 && !st.told.IsValid() && !st.frozen
}

// sweep forgets, once in a while, moves that count no more and what is left of stations that went.
func (t *Table) sweep(now time.Time) {
	if now.Sub(t.swept) < t.rules.Window {
		return
	}
	t.swept = now
	for _, s := range t.segments {
		for mac, st := range s.stations {
			if n := len(st.moves); n > 0 && now.Sub(st.moves[n-1]) > t.rules.Window {
				st.moves = nil
			}
			if st.empty() && len(st.moves) == 0 {
				delete(s.stations, mac)
			}
		}
	}
}

// best is the route by which a station is reached: the latest move, and of equals the lower
// address (RFC 7432 15). One that is leaving only counts if there is no other.
func best(list []*route) *route {
	var b *route
	for _, r := range list {
		if b == nil || better(r, b) {
			b = r
		}
	}
	return b
}

func better(a, b *route) bool {
	switch {
	case a.leaving.IsZero() != b.leaving.IsZero():
		return a.leaving.IsZero()
	case a.Sticky != b.Sticky:
		return a.Sticky
	case a.Seq != b.Seq:
		return a.Seq > b.Seq
	}
	return a.NextHop.Less(b.NextHop)
}

// Learn is a station that was seen behind a port of ours. Fresh is false of one that was there
// when we came: who knows since when. If another VTEP has it then, it is for the station to speak.
func (t *Table) Learn(vni uint32, mac packet.MAC, port int, fresh bool, now time.Time) {
	s := t.segments[vni]
	if s == nil || s.L3 || mac.IsZero() || mac.IsGroup() {
		return
	}
	st := s.station(mac)
	if st.local != nil {
		st.local.port = port
		return
	}
	l := &local{port: port}
	if b := best(st.remote); b != nil && b.leaving.IsZero() {
		if !fresh || b.Sticky {
			t.out.Forget = append(t.out.Forget, Forget{vni, mac, port})
			return
		}
		l.seq = b.Seq + 1
		t.move(s, mac, st, b.NextHop, now)
	}
	st.local = l
	s.dirtyMAC[mac] = true
	t.announceStation(s, mac, st)
}

// Unlearn is a station that is not behind a port of ours any more. Its routes go, and with them
// its IP addresses.
func (t *Table) Unlearn(vni uint32, mac packet.MAC) {
	s := t.segments[vni]
	if s == nil {
		return
	}
	st := s.stations[mac]
	if st == nil || st.local == nil {
		return
	}
	t.withdrawStation(s, mac, st)
	for _, ip := range st.ips {
		delete(s.bound, ip)
	}
	st.last = &st.local.seq
	st.local, st.ips = nil, nil
	s.dirtyMAC[mac] = true
	s.tidy(mac)
}

// maxBound is how many addresses of stations that are not known are remembered.
const maxBound = 1 << 16

// Bind is an IP address that a station of ours uses. It moves from the one that had it.
func (t *Table) Bind(vni uint32, ip netip.Addr, mac packet.MAC) {
	s := t.segments[vni]
	if s == nil || s.L3 || !packet.IsStation(ip) || ip.Zone() != "" || ip.IsLinkLocalUnicast() && ip.Is4() {
		return
	}
	old, had := s.bound[ip]
	if had && old == mac || !had && len(s.bound) >= maxBound {
		return
	}
	if had {
		t.unbind(s, old, ip)
	}
	s.bound[ip] = mac
	st := s.station(mac)
	st.ips = append(st.ips, ip)
	if st.local != nil && st.local.announced && t.says(true) {
		t.announce(t.ofStation(s, mac, st, ip))
	}
}

func (t *Table) unbind(s *segment, mac packet.MAC, ip netip.Addr) {
	st := s.stations[mac]
	st.ips = slices.DeleteFunc(st.ips, func(have netip.Addr) bool { return have == ip })
	if st.local != nil && st.local.announced && t.says(true) {
		t.withdraw(t.ofStation(s, mac, st, ip))
	}
	s.tidy(mac)
}

// says reports whether stations are announced, with their IP addresses or without.
func (t *Table) says(ip bool) bool {
	if ip && t.rules.BareMAC {
		return false
	}
	return t.rules.announces(MACIP)
}

// ofStation is the route of a station of ours; an invalid ip: of its MAC address alone.
func (t *Table) ofStation(s *segment, mac packet.MAC, st *station, ip netip.Addr) Route {
	r := t.ours(s, Key{Kind: MACIP, MAC: mac, IP: ip})
	r.Seq = st.local.seq
	return r
}

func (t *Table) announceStation(s *segment, mac packet.MAC, st *station) {
	if st.frozen || !t.says(false) {
		return
	}
	st.local.announced = true
	t.announce(t.ofStation(s, mac, st, netip.Addr{}))
	if !t.says(true) {
		return
	}
	for _, ip := range st.ips {
		t.announce(t.ofStation(s, mac, st, ip))
	}
}

func (t *Table) withdrawStation(s *segment, mac packet.MAC, st *station) {
	if !st.local.announced {
		return
	}
	st.local.announced = false
	t.withdraw(t.ofStation(s, mac, st, netip.Addr{}))
	if !t.says(true) {
		return
	}
	for _, ip := range st.ips {
		t.withdraw(t.ofStation(s, mac, st, ip))
	}
}

// contest is a route for a station that we have, too: who has the later move keeps it.
func (t *Table) contest(r *route, now time.Time) {
	s := r.seg
	st := s.stations[r.MAC]
	l := st.local
	if st.frozen {
		return
	}
	if l == nil { // it was seen behind the tunnel before the route came
		if st.last != nil && r.Seq > *st.last {
			st.last = nil
			t.move(s, r.MAC, st, r.NextHop, now)
		}
		return
	}
	if !r.Sticky && (r.Seq < l.seq || r.Seq == l.seq && s.Local.Less(r.NextHop)) {
		return
	}
	t.out.Forget = append(t.out.Forget, Forget{s.VNI, r.MAC, l.port})
	t.Unlearn(s.VNI, r.MAC)
	st.last = nil
	t.move(s, r.MAC, st, r.NextHop, now)
}

// move counts one. With too many the station is a duplicate, until an operator clears it: what we
// said of it stays, and what others say of it is not taken (RFC 7432 15.1).
func (t *Table) move(s *segment, mac packet.MAC, st *station, other netip.Addr, now time.Time) {
	t.moves++
	first := 0
	for first < len(st.moves) && now.Sub(st.moves[first]) > t.rules.Window {
		first++
	}
	st.moves = append(st.moves[first:], now)
	if t.rules.Moves > 0 && len(st.moves) >= t.rules.Moves && !st.frozen {
		st.frozen = true
		t.out.Frozen = append(t.out.Frozen, Duplicate{s.VNI, mac, other})
	}
}

// Clear lets a station move again that was a duplicate. It reports whether it was one.
func (t *Table) Clear(vni uint32, mac packet.MAC) bool {
	s := t.segments[vni]
	if s == nil || s.stations[mac] == nil || !s.stations[mac].frozen {
		return false
	}
	st := s.stations[mac]
	st.frozen, st.moves = false, nil
	s.dirtyMAC[mac] = true
	if st.local != nil && !st.local.announced {
		t.announceStation(s, mac, st)
	}
	s.tidy(mac)
	return true
}
