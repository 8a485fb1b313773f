package vtep

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/geneve"
	"gvtep/vtep/internal/forward"
)

// peer is a remote VTEP of a tunnel: what workers see of it, and what they do not.
type peer struct {
	*forward.Peer
	*known
	config Peer
	// speaks: what it sends is let in, by admissions. floods: it gets copies
	// of flooded frames. dynamic: it was let in when it first spoke.
	speaks, floods, dynamic bool
	admissions              []forward.Admission
	sources                 []forward.Source // of a trunk's peer: where it may speak for any VLAN
	question                question         // about its route
}

// known is what lives on of a peer when the configuration changes, and workers do not
// need; guarded by Endpoint.mu.
type known struct {
	// route is what was last said of the way, at routeAt, and link the MTU of the link as long as
	// there was one: without what IPsec takes of it, overhead, as it was when nothing had been
	// learned. loweredSince is when the ceiling was first seen to be below what the route
	// allows, toldLowered that the log says so.
	route          netio.Route
	routeAt        int64
	link, overhead int
	loweredSince   int64
	toldLowered    bool
	// noRoute is what the log last said of the route.
	noRoute bool
	// refusedSince is when it was first seen that the kernel takes no runs to it, 0 if
	// it does, and toldRefused that the log says so.
	refusedSince int64
	toldRefused  bool
	// since is when it became a peer, by the endpoint's clock.
	since int64
	// seenBefore is when another process last heard it; zero: not known.
	seenBefore time.Time
	last       count.Stats // as last reported
}

// destination completes a remote of t: port 0 is the tunnel's, and so is the underlay device.
func (t *tunnel) destination(remote netip.Addr, port uint16) forward.Destination {
	return t.destinationVia(remote, port, t.config.Dev)
}

// destinationVia is destination by another underlay device. A link-local address means
// something only together with it (RFC 4007 section 6).
func (t *tunnel) destinationVia(remote netip.Addr, port uint16, via string) forward.Destination {
	if remote.Is6() && remote.IsLinkLocalUnicast() {
		remote = remote.WithZone(via)
	}
	return forward.Destination{Remote: netip.AddrPortFrom(remote, cmp.Or(port, t.config.DstPort)), Via: via}
}

// wanted lists the peers that a tunnel needs, without anything opened for
// them: those configured, those who were let in, the group, and where entries
// of the table point that is none of these.
func (t *tunnel) wanted() (all []*peer) {
	cfg := &t.config
	to := func(d forward.Destination) *forward.Peer { return &forward.Peer{Dest: d} }
	for _, pc := range cfg.Peers {
		all = append(all, &peer{
			config: pc, Peer: to(t.destination(pc.Remote, pc.Port)),
			speaks: true, floods: !pc.NoFlood && !cfg.Group.IsValid() && !cfg.Device.L3,
		})
	}
	for _, a := range t.dynamic {
		all = append(all, &peer{
			config: Peer{Remote: a}, Peer: to(t.destination(a, 0)),
			speaks: true, floods: !cfg.Group.IsValid(), dynamic: true,
		})
	}
	if cfg.Group.IsValid() {
		all = append(all, &peer{config: Peer{Remote: cfg.Group}, Peer: to(t.destination(cfg.Group, 0)), floods: true})
	}
	known := make(map[forward.Destination]bool, len(all))
	for _, p := range all {
		known[p.Dest] = true
	}
	point := func(d forward.Destination) {
		if !known[d] {
			known[d] = true
			all = append(all, &peer{config: Peer{Remote: d.Remote.Addr()}, Peer: to(d)})
		}
	}
	for d := range t.entries.to {
		point(d)
	}
	for _, entry := range t.initial {
		if !entry.Local {
			point(t.entryDestination(entry))
		}
	}
	for _, d := range t.pointed {
		point(d)
	}
	return all
}

// openPeers opens sockets and source ports for all peers of t. Those that were
// there before keep counters, nexthop and what is known of their route.
func (e *Endpoint) openPeers(t *tunnel, before map[forward.Destination]*peer) error {
	for _, prefix := range t.accept {
		_, err := e.listen(t, prefix.Addr(), netip.Addr{})
		if errors.Is(err, unix.EAFNOSUPPORT) && t.takesAny(prefix) {
			e.sayMissing(prefix.Addr())
			continue
		}
		if err != nil {
			return err
		}
	}
	wanted := t.wanted()
	t.byDestination = make(map[forward.Destination]*peer, len(wanted))
	speakers := make(map[netip.Addr]bool, len(wanted))
	for _, p := range wanted {
		if p.speaks && speakers[p.config.Remote] {
			return fmt.Errorf("remote %s: it is given twice: %w", p.config.Remote, errExists)
		}
		if err := e.openPeer(t, p, before[p.Dest]); err != nil {
			return fmt.Errorf("remote %s: %w", p.config.Remote, err)
		}
		speakers[p.config.Remote] = speakers[p.config.Remote] || p.speaks
		t.peers = append(t.peers, p)
		t.byDestination[p.Dest] = p
		if p.implicit() {
			t.implicit = append(t.implicit, p)
		}
	}
	return nil
}

// takesAny reports whether a prefix of accept is one of both halves of "any":
// nobody asked for this very family.
func (t *tunnel) takesAny(prefix netip.Prefix) bool {
	return prefix.Bits() == 0 && slices.ContainsFunc(t.accept, func(p netip.Prefix) bool {
		return p.Bits() == 0 && p.Addr().Is4() != prefix.Addr().Is4()
	})
}

// sayMissing logs once that the kernel has no sockets of a family, such as IPv6
// with ipv6.disable=1. e.mu is held.
func (e *Endpoint) sayMissing(a netip.Addr) {
	if e.missing {
		return
	}
	e.missing = true
	family := "IPv6"
	if a.Is4() {
		family = "IPv4"
	}
	e.log.Info("the kernel has no " + family + ": accept any takes what comes over the other family only")
}

func (e *Endpoint) openPeer(t *tunnel, p, before *peer) (err error) {
	cfg, remote := &t.config, p.Dest.Remote.Addr()
	p.RemoteBytes, p.RemotePort = string(remote.AsSlice()), p.Dest.Remote.Port()
	if p.Headers, err = headers(cfg.Device.L3, t.headerVNI(p)); err != nil {
		return err
	}
	p.Outer = ipUDPLen(remote) + len(p.Headers[0])
	if before != nil {
		p.PeerState, p.known, p.Nexthop, p.ID = before.PeerState, before.known, before.Nexthop, before.ID
	} else {
		p.PeerState, p.known = &forward.PeerState{Traffic: make([]count.Traffic, e.workers)}, &known{since: e.clock()}
		p.Nexthop = t.newNexthop()
		e.lastID++
		p.ID = int32(e.lastID)
	}
	if p.question = questionOf(cfg, p.Dest); before == nil || before.question != p.question {
		if err := e.findRoute(p); err != nil {
			return err
		}
	}
	p.BUM = forward.NewRateLimit(p.config.BUMLimit, &p.BUMDue)
	s, err := e.listen(t, remote, netip.Addr{})
	if err != nil {
		return err
	}
	t.admit(p, s)
	if cfg.Group.IsValid() {
		if s, err = e.listen(t, remote, cfg.Group); err != nil {
			return err
		}
		t.admit(p, s)
	}
	if err := e.conflict(t, p); err != nil {
		return err
	}
	return e.openPaths(t, p)
}

// headerVNI is the VNI in the headers of datagrams to p: where the segment of
// the frame has another one, it is put over it.
func (t *tunnel) headerVNI(p *peer) geneve.VNI {
	if p.Dest.HasVNI {
		return p.Dest.VNI
	}
	return t.config.VNI
}

// admit lets a peer that speaks do so on a socket.
func (t *tunnel) admit(p *peer, s *socket) {
	if !p.speaks {
		return
	}
	from := p.Dest.Remote.Addr().WithZone("")
	if !t.config.NoVNI {
		p.admissions = append(p.admissions, s.Admission(t.config.VNI, from))
	}
	if isTrunk(&t.config) {
		p.sources = append(p.sources, s.Source(from))
	}
}

// findRoute takes over what was asked ahead about the way to a new peer. That there is
// none is no error: the underlay may come later, and the watcher goes on asking.
func (e *Endpoint) findRoute(p *peer) error {
	a, ok := e.answers.get(p.question)
	switch {
	case !ok:
		p.Doubtful.Store(true)
		e.recheckPaths()
		return nil
	case a.route.Local:
		return fmt.Errorf("it is an address of this host; give the other host's: %w", unix.EINVAL)
	case a.route.Broadcast:
		return fmt.Errorf("it is a broadcast address; give the other host's: %w", unix.EINVAL)
	}
	p.routeAt = a.at
	p.setRoute(a.route, e.clock())
	return nil
}

// assemble makes what workers see of a tunnel from its configuration and its
// peers.
func (e *Endpoint) assemble(t *tunnel) {
	cfg := &t.config
	shared := &forward.Rules{
		Drops:    t.drops,
		Nexthops: make([][]*forward.Peer, t.lastNexthop+1),
		Learning: cfg.Learning, TTL: uint8(cfg.TTL), TOS: uint8(cfg.TOS) & 0xfc,
		InheritTTL: cfg.TTL == Inherit, InheritTOS: cfg.TOS == Inherit, InheritDF: cfg.DF == DFInherit, UnsetDF: cfg.DF == DFUnset,
		L2ControlPass: cfg.L2ControlPass, Locked: cfg.Locked,
		NoFlood: cfg.NoFlood, NoMcastFlood: cfg.NoMcastFlood, NoBcastFlood: cfg.NoBcastFlood,
		Accept: t.accept,
	}
	if shared.InheritTTL {
		shared.TTL = DefaultTTL
	}
	seg := t.segment(&t.domains[0], shared)
	fixedMTU := t.mtu
	if t.mtuAuto {
		fixedMTU = 0
	}
	t.port = &forward.Port{
		ID: t.id, Name: cfg.Device.Name, L3: cfg.Device.L3, Down: cfg.Device.Down, MAC: t.device.State().LLAddr,
		Device: t.device, Mtu: fixedMTU, Segment: &seg, PortState: t.state,
	}
	for _, d := range t.domains {
		d.fdb.SetOwn(t.port.MAC)
	}
	if isTrunk(cfg) {
		t.port.Trunk = t.newTrunk(&seg)
	}
	for i := range e.workers {
		t.port.Queues = append(t.port.Queues, t.device.Queue(i))
	}
	for _, p := range t.peers {
		p.Port = t.port
		shared.Nexthops[p.Nexthop] = []*forward.Peer{p.Peer}
		if (p.speaks || p.floods) && !p.dynamic {
			t.port.Configured = append(t.port.Configured, p.Peer)
		}
		if p.floods {
			shared.Flood = append(shared.Flood, p.Peer)
		}
		if cfg.Device.L3 {
			shared.Single = append(shared.Single, p.Peer)
			shared.AddRoutes(p.Peer, p.config.Routes)
		}
	}
	for of, list := range t.entries.at {
		shared.Groups = shared.Groups || of.mac.IsGroup()
		if nh := t.sets[of]; nh != 0 {
			for _, entry := range list {
				if !entry.Local {
					shared.Nexthops[nh] = append(shared.Nexthops[nh], t.byDestination[t.entryDestination(entry)].Peer)
				}
			}
		}
	}
}

// segment is a domain as workers see it.
func (t *tunnel) segment(d *domain, shared *forward.Rules) forward.Segment {
	return forward.Segment{
		VNI: d.vni, VID: d.vid, VLANDrop: t.config.VLANDrop, FDB: d.fdb, Neighbours: d.neighbours, Traffic: d.traffic,
		BUM:   forward.NewRateLimit(t.config.BUMLimit, d.bumDue),
		Rules: shared,
	}
}

// headers makes the GENEVE headers of datagrams: on an L2 tunnel both are the
// same, on an L3 tunnel the second is for IPv6.
func headers(l3 bool, vni geneve.VNI) (h [2][]byte, err error) {
	protocols := [2]uint16{geneve.ProtoEthernet, geneve.ProtoEthernet}
	if l3 {
		protocols = [2]uint16{geneve.ProtoIPv4, geneve.ProtoIPv6}
	}
	for i, protocol := range protocols {
		if h[i], err = geneve.AppendHeader(nil, geneve.Header{VNI: vni, Protocol: protocol}); err != nil {
			return h, err
		}
	}
	return h, nil
}

// ipUDPLen is the length of the outer IP and UDP headers.
func ipUDPLen(remote netip.Addr) int {
	if remote.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// listen finds or opens the receive sockets on which a remote is heard, or
// those of a group.
func (e *Endpoint) listen(t *tunnel, remote, group netip.Addr) (*socket, error) {
	opts := netio.ListenOptions{
		Local: t.config.Local, Port: t.config.DstPort, Device: t.config.Dev,
		ZeroCsum6: t.config.AcceptZ6 && remote.Is6(), Group: group,
	}
	// A group's socket is bound to the group, whatever the tunnel's address.
	if !opts.Local.IsValid() || group.IsValid() {
		opts.Local = netip.IPv4Unspecified()
		if remote.Is6() {
			opts.Local = netip.IPv6Unspecified()
		}
	}
	s := e.sockets[opts]
	if s == nil {
		e.lastID++
		s = newSocket(e.lastID, opts, make([]packet.Counter, e.workers))
		if err := e.openSocket(s, e.departing.beside(e.sockets, s)); err != nil {
			return nil, err
		}
		e.sockets[opts] = s
	}
	if !slices.Contains(t.sockets, s) {
		s.users++
		t.sockets = append(t.sockets, s)
	}
	return s, nil
}

// socket is the receive sockets of one address.
type socket struct {
	*forward.Socket
	options  netio.ListenOptions
	listener netio.Listener
	users    int // tunnels; guarded by Endpoint.mu
}

func newSocket(id uint32, o netio.ListenOptions, received []packet.Counter) *socket {
	name := fmt.Sprintf("%s port %d", o.Local, o.Port)
	return &socket{Socket: &forward.Socket{ID: id, Name: name, Received: received}, options: o}
}

// openSocket opens the receive sockets of s, one for each worker. Beside is
// that of ListenOptions.
func (e *Endpoint) openSocket(s *socket, beside bool) error {
	opts := s.options
	opts.Beside = beside
	l, err := e.underlay.Listen(opts)
	if err != nil {
		return err
	}
	s.listener = l
	for i := range e.workers {
		s.Receivers = append(s.Receivers, l.Receiver(i))
	}
	return nil
}

// portOptions are those of the source ports of datagrams to a destination.
func portOptions(cfg *Tunnel, d forward.Destination, df bool) netio.PortOptions {
	opts := netio.PortOptions{
		Family: 4, Device: d.Via, Mark: cfg.Mark, DF: df,
		Min: cfg.SrcPortMin, Max: cfg.SrcPortMax, Count: cfg.SrcPorts,
		ZeroCsum: !cfg.UDPCsum,
	}
	if d.Remote.Addr().Is6() {
		opts.Family, opts.ZeroCsum = 6, cfg.ZeroCsum6
	}
	if cfg.Local.IsValid() && !cfg.Local.IsUnspecified() {
		opts.Local = cfg.Local
	}
	return opts
}

// openPaths opens the source ports that the tunnel's DF policy needs, and those for
// fragments where the path does not carry what it must.
func (e *Endpoint) openPaths(t *tunnel, p *peer) error {
	cfg, remote := &t.config, p.Dest.Remote.Addr()
	var ifindex int32
	if remote.IsMulticast() && p.Dest.Via == "" { // else the sockets are bound to the device, and follow it
		ifindex = int32(p.route.Ifindex)
	}
	for _, way := range []struct {
		wanted bool
		df     bool
		path   **packet.Path
	}{
		{cfg.DF != DFUnset, true, &p.Path},
		{cfg.DF != DFSet || p.needsFragments(), false, &p.PathFrag},
	} {
		if !way.wanted {
			continue
		}
		set, err := e.underlay.Ports(portOptions(cfg, p.Dest, way.df))
		if err != nil {
			return err
		}
		t.ports = append(t.ports, set)
		*way.path = &packet.Path{Remote: p.Dest.Remote, Peer: p.ID, Ifindex: ifindex, Set: set}
	}
	return nil
}

// told returns the counters of a peer as they are told: a failed send is known
// only after it was counted, and nobody may see a counter go back. e.mu is held.
func (p *peer) told() (s count.Stats, seen int64) {
	s, seen = count.SumTraffic(p.Traffic)
	unicast := max(s.TxPackets-s.TxFlood, p.last.TxPackets-p.last.TxFlood)
	s.TxFlood = max(s.TxFlood, p.last.TxFlood)
	s.TxPackets = unicast + s.TxFlood
	p.last = s
	if p.Dest.Remote.Addr().IsMulticast() {
		s.TxGroup, s.TxGroupBytes = s.TxFlood, s.TxFloodBytes
	}
	return s, seen
}
