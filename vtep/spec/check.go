package spec

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
)

// Problem is something wrong with a tunnel as a whole.
type Problem struct {
	Key  string // the keyword that it is best shown at; "": the tunnel
	Nth  int    // which of its several values
	Text string
}

// Err is the problem as an error.
func (p *Problem) Err() error { return &Error{Key: p.Key, Text: p.Text, Errno: unix.EINVAL} }

// Check finds all that is wrong with a tunnel, but for its entries and its name, and with how
// its parts fit together. It is the one check, of files, of commands and of the endpoint.
func Check(t *Tunnel) []Problem {
	c := checker{t: t}
	c.numbers()
	c.segments()
	c.l3()
	c.options()
	c.underlay()
	c.routes()
	c.lists()
	c.bfd()
	return c.found
}

// checker gathers problems.
type checker struct {
	t     *Tunnel
	found []Problem
}

func (c *checker) report(key string, nth int, format string, args ...any) {
	c.found = append(c.found, Problem{Key: key, Nth: nth, Text: fmt.Sprintf(format, args...)})
}

// numbers finds what no grammar lets pass: it is for those who make a Tunnel themselves.
func (c *checker) numbers() {
	t := c.t
	if !t.VNI.Valid() {
		c.report("id", 0, "id %d: a VNI has 24 bits, 0 to %d", t.VNI, packet.MaxVNI)
	}
	if t.SrcPortMin == 0 || t.SrcPortMin > t.SrcPortMax || t.SrcPorts < 1 {
		c.report("srcport", 0, "srcport %d %d: want a range within 1-65535", t.SrcPortMin, t.SrcPortMax)
	}
	if t.DstPort == 0 {
		c.report("dstport", 0, "dstport 0: want 1-65535")
	}
	if t.Group.IsValid() && !t.Group.IsMulticast() {
		c.report("group", 0, "group %s: want a multicast address", t.Group)
	}
	for i, p := range t.Peers {
		if r := p.Remote; !r.IsValid() || r.IsUnspecified() || r.IsMulticast() || r.Is4In6() || r == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			c.report("remote", i, "remote %s: want the unicast address of another host", r)
		}
	}
}

// segments finds VLANs and VNIs that are given twice.
func (c *checker) segments() {
	t := c.t
	vids, vnis := map[uint16]bool{}, map[packet.VNI]bool{}
	for i, v := range t.VLANs {
		if v.First < 1 || v.First > v.Last || v.Last > MaxVID || !v.LastVNI().Valid() {
			c.report("vlan", i, "vlan %s: want VLAN IDs from 1 to %d, and VNIs up to %d", v, MaxVID, packet.MaxVNI)
			return
		}
	}
	for vid, vni := range Segments(t) {
		switch {
		case vid == 0:
			continue
		case vni == t.VNI && !t.NoVNI:
			c.report("vlan", 0, "vlan %d: id %d is the tunnel's own, for frames without a tag", vid, vni)
		case vids[vid] || vnis[vni]:
			c.report("vlan", 0, "vlan %d with id %d: one of them is given twice", vid, vni)
		}
		vids[vid], vnis[vni] = true, true
	}
	if len(t.Neighbours) > 0 && t.NoVNI && len(t.VLANs) > 0 {
		c.report("neigh", 0, "neigh %s: it is for frames without a tag, which have no segment here: give the trunk an id", t.Neighbours[0])
	} else if len(t.Neighbours) > 0 && !t.NeighSuppress {
		c.report("neigh", 0, "neigh %s: it is neigh_suppress that answers for it, set neigh_suppress on", t.Neighbours[0])
	}
}

// l3 finds what a tunnel for IP packets does not have.
func (c *checker) l3() {
	t := c.t
	if !t.Device.L3 {
		return
	}
	if !t.Encap.CarriesIP() {
		c.report("mode", 0, "mode l3: encap %s carries Ethernet frames only, encap %s also IP packets", t.Encap, encap.Geneve)
	}
	if len(t.VLANs) > 0 {
		c.report("vlan", 0, "vlan %s: a mode l3 device has no VLANs", t.VLANs[0])
	}
	for i, p := range t.Peers {
		if p.BUMLimit != 0 {
			c.report("remote", i, "remote %s: bum_limit is for Ethernet, nothing is flooded in mode l3", p.Remote)
		}
	}
	if !t.Device.LLAddr.IsZero() {
		c.report("lladdr", 0, "lladdr %s: a mode l3 device has no Ethernet address", t.Device.LLAddr)
	}
	if t.Device.Master != "" {
		c.report("master", 0, "master %s: a mode l3 device cannot join a bridge", t.Device.Master)
	}
	if t.Group.IsValid() {
		c.report("group", 0, "group %s: a mode l3 tunnel does not flood, it goes to remotes", t.Group)
	}
	if len(t.Accept) > 0 {
		c.report("accept", 0, "accept %s: a mode l3 tunnel takes packets from its remotes only", t.Accept[0])
	}
	if len(t.Entries) > 0 {
		c.report("fdb", 0, "fdb %s: a mode l3 tunnel has no forwarding table", t.Entries[0].MAC)
	}
}

// underlay finds addresses and devices that do not fit together.
func (c *checker) underlay() {
	t := c.t
	if t.Dev == t.Device.Name && t.Dev != "" {
		c.report("dev", 0, "dev %s is the tunnel itself: dev is the underlay device", t.Dev)
	}
	if t.Group.IsValid() && t.Dev == "" {
		c.report("group", 0, "group %s: name the underlay device, dev DEVICE", t.Group)
	}
	word, first := Far(t)
	if !first.IsValid() {
		c.admits()
		return
	}
	fits := func(a netip.Addr) bool { return !t.Local.IsValid() || a.Is4() == first.Is4() }
	seen := map[netip.Addr]bool{}
	for i := range t.Peers {
		r := t.Peers[i].Remote
		switch {
		case seen[r]:
			c.report("remote", i, "remote %s is given twice", r)
		case !fits(r) && t.Group.IsValid():
			c.report("remote", i, "remote %s and group %s are of different families", r, t.Group)
		case !fits(r) && fits(t.Local):
			c.report("remote", i, "remote %s and local %s are of different families: without local, remotes may be of both", r, t.Local)
		case linkLocal(r) && t.Dev == "":
			c.report("remote", i, "remote %s is link-local: name the underlay device, dev DEVICE", r)
		case r == t.Local:
			c.report("remote", i, "local and remote are both %s: remote is the address of the other host", r)
		}
		seen[r] = true
	}
	if t.Group.IsValid() && !fits(t.Group) {
		c.report("group", 0, "group %s and %s %s are of different families", t.Group, word, first)
	}
	for i, p := range t.Accept {
		if p.Bits() > 0 && !fits(p.Addr()) {
			c.report("accept", i, "accept %s and %s %s are of different families", p, word, first)
		}
	}
	c.admits()
	if !fits(t.Local) {
		c.report("local", 0, "local %s and %s %s are of different families", t.Local, word, first)
	} else if linkLocal(t.Local) && t.Dev == "" {
		c.report("local", 0, "local %s is link-local: name the underlay device, dev DEVICE", t.Local)
	}
}

// admits finds an accept that lets in everybody of the family that the tunnel does not have.
func (c *checker) admits() {
	t := c.t
	if !slices.ContainsFunc(t.Accept, func(p netip.Prefix) bool {
		return p.Bits() > 0 || !t.Local.IsValid() || p.Addr().Is4() == t.Local.Is4()
	}) && len(t.Accept) > 0 {
		c.report("accept", 0, "accept %s and local %s are of different families: nobody would be admitted", t.Accept[0], t.Local)
	}
}

// routes finds what would leave open where a packet goes.
func (c *checker) routes() {
	t := c.t
	owner := make(map[netip.Prefix]netip.Addr)
	for i, p := range t.Peers {
		switch {
		case !t.Device.L3 && p.Routes != nil:
			c.report("remote", i, "remote %s: routes are for mode l3", p.Remote)
		case t.Device.L3 && p.NoFlood:
			c.report("remote", i, "remote %s: flood is for mode l2; a mode l3 peer gets what its routes say", p.Remote)
		case t.Device.L3 && p.Routes == nil && len(t.Peers) > 1:
			c.report("remote", i, "remote %s: a mode l3 tunnel with several remotes needs routes for each: networks such as 10.1.0.0/16, or any, or none", p.Remote)
		}
		for _, route := range p.Routes {
			switch other, ok := owner[route]; {
			case !route.IsValid() || route != route.Masked() || route.Addr().Is4In6():
				c.report("remote", i, "remote %s: route %s: want a prefix without bits behind it", p.Remote, route)
			case ok && other == p.Remote:
				c.report("remote", i, "routes %s: given twice", route)
			case ok:
				c.report("remote", i, "routes %s: remote %s has it already", route, other)
			}
			owner[route] = p.Remote
		}
	}
}

// bfd finds sessions that cannot be.
func (c *checker) bfd() {
	t, sessions := c.t, 0
	wrong := func(b BFD) bool {
		return b.Interval != 0 && (b.Interval < MinBFD || b.Interval > MaxBFD || b.Interval%time.Microsecond != 0 || b.Mult < 1)
	}
	if wrong(t.BFD) {
		c.report("bfd", 0, "bfd %s: want intervals from %s to %s, and 1 to 255 of them", t.BFD, MinBFD, MaxBFD)
	}
	for i := range t.Peers {
		if wrong(t.Peers[i].BFD) {
			c.report("remote", i, "bfd %s: want intervals from %s to %s, and 1 to 255 of them", t.Peers[i].BFD, MinBFD, MaxBFD)
		}
		if BFDOf(t, &t.Peers[i]).Interval != 0 {
			sessions++
		}
	}
	switch {
	case (sessions > 0 || t.BFD.Interval != 0) && !t.Encap.HasControl():
		c.report("bfd", 0, "bfd: encap %s has no control packets, encap %s has", t.Encap, encap.Geneve)
	case sessions > BFDSessions:
		c.report("bfd", 0, "bfd: %d sessions, and %d are the most: give it to the peers that matter", sessions, BFDSessions)
	}
}

// lists finds what a keyword was given twice.
func (c *checker) lists() {
	accepted, neighbours, addresses := map[netip.Prefix]bool{}, map[netip.Addr]bool{}, map[netip.Prefix]bool{}
	for i, p := range c.t.Accept {
		if accepted[p] {
			c.report("accept", i, "accept %s: given twice", p)
		}
		accepted[p] = true
	}
	for i, n := range c.t.Neighbours {
		if neighbours[n.Addr] {
			c.report("neigh", i, "neigh %s: %s is given twice", n, n.Addr)
		}
		neighbours[n.Addr] = true
	}
	for i, p := range c.t.Device.Addresses {
		if addresses[p] {
			c.report("address", i, "address %s: given twice", p)
		}
		addresses[p] = true
	}
}

// CheckEntries finds what is wrong with the entries of a tunnel. There can be a million, so
// it is for those that were not checked yet.
func CheckEntries(t *Tunnel) []Problem {
	c := checker{t: t}
	if len(t.Entries) == 0 {
		return nil
	}
	word, first := Far(t)
	places, there := PlacesOf(t), newEntrySet(len(t.Entries))
	for i := range t.Entries {
		e := &t.Entries[i]
		if err := places.check(e.VLAN); err != nil {
			c.report("fdb", i, "fdb %s: %s", e.MAC, err)
			continue
		}
		switch {
		case !there.add(e):
			c.report("fdb", i, "fdb %s is given twice", e.MAC)
		case e.Local:
		case !e.Options.IsZero() && !t.Encap.HasOptions():
			c.report("fdb", i, "options: encap %s has none, encap %s has", t.Encap, encap.Geneve)
		case first.IsValid() && t.Local.IsValid() && e.Remote.Is4() != first.Is4():
			c.report("fdb", i, "dst %s and %s %s are of different families", e.Remote, word, first)
		case linkLocal(e.Remote) && t.Dev == "" && e.Via == "":
			c.report("fdb", i, "dst %s is link-local: name the underlay device, via DEVICE", e.Remote)
		case e.Via == t.Device.Name && e.Via != "":
			c.report("fdb", i, "via %s is the tunnel itself: via is the underlay device", e.Via)
		}
	}
	return c.found
}

// entrySet finds entries that are there twice. Those of hosts, of which there can be a million,
// are numbers in it: that takes a quarter of the time and the memory of their IDs.
type entrySet struct {
	hosts  map[uint64]struct{} // VLAN and address
	groups map[EntryID]struct{}
}

func newEntrySet(n int) entrySet {
	return entrySet{make(map[uint64]struct{}, n), make(map[EntryID]struct{})}
}

// add reports whether an entry is new.
func (s *entrySet) add(e *Entry) bool {
	if e.MAC.IsGroup() {
		n := len(s.groups)
		s.groups[e.ID()] = struct{}{}
		return len(s.groups) > n
	}
	n := len(s.hosts)
	m := e.MAC
	s.hosts[uint64(e.VLAN)<<48|uint64(binary.BigEndian.Uint16(m[:]))<<32|uint64(binary.BigEndian.Uint32(m[2:]))] = struct{}{}
	return len(s.hosts) > n
}

// EntryID is what an entry of a table is known by: group addresses have several
// destinations, and each VLAN its own.
type EntryID struct {
	MAC  packet.MAC
	VLAN uint16
	Dst  netip.Addr // of a group
}

// ID is what e is known by.
func (e *Entry) ID() EntryID {
	id := EntryID{MAC: e.MAC, VLAN: e.VLAN}
	if e.MAC.IsGroup() {
		id.Dst = e.Remote
	}
	return id
}

// String is the key of an entry in words.
func (id EntryID) String() string {
	s := id.MAC.String()
	if id.VLAN != 0 {
		s += fmt.Sprintf(" vlan %d", id.VLAN)
	}
	if id.Dst.IsValid() {
		s += " dst " + id.Dst.String()
	}
	return s
}

// Far is what tells the address family of a tunnel: the keyword and its first address.
func Far(t *Tunnel) (word string, first netip.Addr) {
	switch {
	case len(t.Peers) > 0:
		return "remote", t.Peers[0].Remote
	case t.Group.IsValid():
		return "group", t.Group
	case t.Local.IsValid() && !t.Local.IsUnspecified() && len(t.Accept) > 0:
		return "local", t.Local
	}
	for _, p := range t.Accept {
		// Everybody of the other family is nobody, and does no harm.
		if p.Bits() > 0 || !t.Local.IsValid() || p.Addr().Is4() == t.Local.Is4() {
			return "accept", p.Addr()
		}
	}
	return "", netip.Addr{}
}

// BothFamilies reports whether the far ends of a tunnel are of both address families. Such a
// tunnel has no Local.
func BothFamilies(t *Tunnel) bool {
	word, first := Far(t)
	switch word {
	case "accept":
		return slices.ContainsFunc(t.Accept, func(p netip.Prefix) bool { return p.Addr().Is4() != first.Is4() })
	case "remote":
		return !t.Group.IsValid() && slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Remote.Is4() != first.Is4() })
	}
	return false
}

// linkLocal reports whether a is of use only together with a device.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
