package config

import (
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
)

// claims are what a tunnel cannot share with others. Every check is a look-up: a
// configuration may have 65,536 tunnels.
type claims struct {
	names   map[string]place
	sockets map[listening]bool
	reaches map[reach]claimedSocket // the first socket of each
	order   int
	ports   map[uint16]claimedPort
	peers   map[admission]claimant        // of tunnels with their own id
	trunks  map[correspondence][]*vlanMap // that hear a remote on a socket
	plain   map[segmentOn]bool            // ids of tunnels, by the socket they are heard on
}

// claimant is the tunnel that has something, and where it stands.
type claimant struct {
	tunnel string
	place
}

// claimedPort is the encapsulation used on a port: a datagram does not say which one it has.
type claimedPort struct {
	encap encap.Format
	by    claimant
}

// listening names receive sockets.
type listening struct {
	local     netip.Addr
	port      uint16
	dev       string
	zeroCsum6 bool
}

type claimedSocket struct {
	listening
	by    claimant
	order int
}

// reach is a set of sockets of one port and family: those of a local and a dev,
// or of any.
type reach struct {
	is4              bool
	port             uint16
	local            netip.Addr
	dev              string
	anyLocal, anyDev bool
}

// segmentOn is a segment on a socket, correspondence a remote there, and
// admission both: by what a packet is known to be for a tunnel.
type segmentOn struct {
	listening
	vni packet.VNI
}

type correspondence struct {
	listening
	remote netip.Addr
}

type admission struct {
	correspondence
	vni packet.VNI
}

// vlanMap is the map of a trunk.
type vlanMap struct {
	by    claimant
	vlans []VLAN
}

func newClaims() claims {
	return claims{
		names: map[string]place{}, sockets: map[listening]bool{}, reaches: map[reach]claimedSocket{}, ports: map[uint16]claimedPort{},
		peers: map[admission]claimant{}, trunks: map[correspondence][]*vlanMap{}, plain: map[segmentOn]bool{},
	}
}

// claim finds the conflicts of a tunnel with those before it. A tunnel with conflicts claims
// nothing, so that later tunnels are not reported because of it.
func (l *loader) claim(d definition, t *Tunnel) {
	before := len(l.faults)
	name := d.place("name", 0)
	if other, ok := l.seen.names[t.Device.Name]; ok {
		l.fault(name.file, name.at, "name: there is a tunnel %s already, in %s", t.Device.Name, other.where())
		return
	}
	if other, ok := l.seen.ports[t.DstPort]; ok && other.encap != t.Encap {
		at := d.place("encap", 0)
		l.fault(at.file, at.at, "encap %s on port %d: tunnel %s (%s) has encap %s there, and one port is for one encap: give one of them another dstport",
			t.Encap, t.DstPort, other.by.tunnel, other.by.where(), other.encap)
		return
	}
	for _, s := range listensOf(t) {
		if other, ok := l.seen.excluded(s); ok {
			at := d.place("local", 0)
			l.fault(at.file, at.at, "local %s port %d cannot be bound beside local %s of tunnel %s (%s): give both the same local, dev and udp6zerocsumrx, or one another dstport",
				s.local, s.port, other.local, other.by.tunnel, other.by.where())
		}
	}
	for i, p := range t.Peers {
		if by, vni, ok := l.seen.heard(t, p.Remote); ok {
			at := d.place("remote", i)
			l.fault(at.file, at.at, "remote %s: tunnel %s (%s) has id %d with it on the same socket; one of id, remote, local and dstport must differ",
				p.Remote, by.tunnel, by.where(), vni)
		}
	}
	if len(l.faults) == before {
		l.seen.add(t, claimant{t.Device.Name, name})
	}
}

// add enters all that a tunnel has.
func (c *claims) add(t *Tunnel, by claimant) {
	c.names[t.Device.Name] = by.place
	if _, ok := c.ports[t.DstPort]; !ok {
		c.ports[t.DstPort] = claimedPort{t.Encap, by}
	}
	for _, s := range listensOf(t) {
		if c.sockets[s] {
			continue
		}
		c.sockets[s] = true
		c.order++
		for _, r := range s.partOf() {
			if _, ok := c.reaches[r]; !ok {
				c.reaches[r] = claimedSocket{s, by, c.order}
			}
		}
	}
	trunk := &vlanMap{by, t.VLANs}
	for _, p := range t.Peers {
		at := listeningOf(t, p.Remote)
		if !t.NoVNI {
			c.peers[admission{correspondence{at, p.Remote}, t.VNI}] = by
			c.plain[segmentOn{at, t.VNI}] = true
		}
		if len(t.VLANs) > 0 {
			from := correspondence{at, p.Remote}
			c.trunks[from] = append(c.trunks[from], trunk)
		}
	}
}

// excluded returns the first socket because of which the kernel refuses to
// bind s: the first socket of an address is bound without SO_REUSEPORT.
func (c *claims) excluded(s listening) (first claimedSocket, found bool) {
	if c.sockets[s] {
		return first, false // it is shared
	}
	return c.overlapping(s)
}

// overlapping returns the first socket that gets packets that s gets.
func (c *claims) overlapping(s listening) (first claimedSocket, found bool) {
	for _, r := range s.overlaps() {
		if other, ok := c.reaches[r]; ok && (!found || other.order < first.order) {
			first, found = other, true
		}
	}
	return first, found
}

// partOf are the sets that a socket is part of.
func (s listening) partOf() [4]reach {
	r := reach{is4: s.local.Is4(), port: s.port, local: s.local, dev: s.dev}
	anyLocal, anyDev, any := r, r, r
	anyLocal.local, anyLocal.anyLocal = netip.Addr{}, true
	anyDev.dev, anyDev.anyDev = "", true
	any.local, any.anyLocal, any.dev, any.anyDev = netip.Addr{}, true, "", true
	return [4]reach{r, anyLocal, anyDev, any}
}

// overlaps are the sets whose sockets get packets that s gets: an unspecified
// local and an empty dev stand for all.
func (s listening) overlaps() (all []reach) {
	r := reach{is4: s.local.Is4(), port: s.port}
	locals, devs := []netip.Addr{s.local, anyOf(s.local)}, []string{s.dev, ""}
	if r.anyLocal = s.local.IsUnspecified(); r.anyLocal {
		locals = []netip.Addr{{}}
	}
	if r.anyDev = s.dev == ""; r.anyDev {
		devs = devs[1:]
	}
	for _, r.local = range locals {
		for _, r.dev = range devs {
			all = append(all, r)
		}
	}
	return all
}

// heard finds a tunnel that has a segment of t with the same remote.
func (c *claims) heard(t *Tunnel, remote netip.Addr) (by claimant, vni packet.VNI, found bool) {
	at := listeningOf(t, remote)
	from := correspondence{at, remote}
	if !t.NoVNI {
		if by, ok := c.peers[admission{from, t.VNI}]; ok {
			return by, t.VNI, true
		}
	}
	for _, other := range c.trunks[from] {
		if vni, ok := sharedVNI(t, other.vlans); ok {
			return other.by, vni, true
		}
	}
	for _, v := range t.VLANs {
		for vni := v.VNI; vni <= v.LastVNI(); vni++ {
			// Few have one of these at all, so that not every remote is asked for.
			if !c.plain[segmentOn{at, vni}] {
				continue
			}
			if by, ok := c.peers[admission{from, vni}]; ok {
				return by, vni, true
			}
		}
	}
	return by, 0, false
}

// sharedVNI returns the first VNI of t that is among those of a map.
func sharedVNI(t *Tunnel, vlans []VLAN) (packet.VNI, bool) {
	for _, v := range vlans {
		if !t.NoVNI && v.VNI <= t.VNI && t.VNI <= v.LastVNI() {
			return t.VNI, true
		}
	}
	for _, own := range t.VLANs {
		for _, v := range vlans {
			if own.VNI <= v.LastVNI() && v.VNI <= own.LastVNI() {
				return max(own.VNI, v.VNI), true
			}
		}
	}
	return 0, false
}

// listening is where a tunnel hears a remote.
func listeningOf(t *Tunnel, remote netip.Addr) listening {
	local := t.Local
	if !local.IsValid() {
		local = anyOf(remote)
	}
	return listening{local, t.DstPort, t.Dev, t.AcceptZ6 && local.Is6()}
}

// listens is where a tunnel hears anybody: without local, two addresses.
func listensOf(t *Tunnel) []listening {
	if t.Local.IsValid() {
		return []listening{listeningOf(t, t.Local)}
	}
	return []listening{listeningOf(t, netip.IPv4Unspecified()), listeningOf(t, netip.IPv6Unspecified())}
}
