package vtep

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// peer is a remote VTEP of a tunnel: what workers see of it, and what they do not.
type peer struct {
	*fpeer
	*known
	config Peer
	// speaks: what it sends is let in, by admissions. floods: it gets copies
	// of flooded frames. dynamic: it was let in when it first spoke.
	speaks, floods, dynamic bool
	admissions              []admission
	sources                 []source // of a trunk's peer: where it may speak for any VLAN
	question                question // about its route
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
	last       Stats // as last reported
}

// destination completes a remote of t: port 0 is the tunnel's.
func (t *tunnel) destination(remote netip.Addr, port uint16) destination {
	if port == 0 {
		port = t.config.DstPort
	}
	return destination{remote: netip.AddrPortFrom(remote, port), via: t.config.Dev}
}

// wanted lists the peers that a tunnel needs, without anything opened for
// them: those configured, those who were let in, the group, and where entries
// of the table point that is none of these.
func (t *tunnel) wanted() (all []*peer) {
	cfg := &t.config
	to := func(d destination) *fpeer { return &fpeer{dest: d} }
	for _, pc := range cfg.Peers {
		all = append(all, &peer{
			config: pc, fpeer: to(t.destination(pc.Remote, pc.Port)),
			speaks: true, floods: !pc.NoFlood && !cfg.Group.IsValid() && !cfg.Device.L3,
		})
	}
	for _, a := range t.dynamic {
		all = append(all, &peer{
			config: Peer{Remote: a}, fpeer: to(t.destination(a, 0)),
			speaks: true, floods: !cfg.Group.IsValid(), dynamic: true,
		})
	}
	if cfg.Group.IsValid() {
		all = append(all, &peer{config: Peer{Remote: cfg.Group}, fpeer: to(t.destination(cfg.Group, 0)), floods: true})
	}
	known := make(map[destination]bool, len(all))
	for _, p := range all {
		known[p.dest] = true
	}
	point := func(d destination) {
		if !known[d] {
			known[d] = true
			all = append(all, &peer{config: Peer{Remote: d.remote.Addr()}, fpeer: to(d)})
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
func (e *Endpoint) openPeers(t *tunnel, before map[destination]*peer) error {
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
	t.byDestination = make(map[destination]*peer, len(wanted))
	speakers := make(map[netip.Addr]bool, len(wanted))
	for _, p := range wanted {
		if p.speaks && speakers[p.config.Remote] {
			return fmt.Errorf("remote %s: it is given twice: %w", p.config.Remote, errExists)
		}
		if err := e.openPeer(t, p, before[p.dest]); err != nil {
			return fmt.Errorf("remote %s: %w", p.config.Remote, err)
		}
		speakers[p.config.Remote] = speakers[p.config.Remote] || p.speaks
		t.peers = append(t.peers, p)
		t.byDestination[p.dest] = p
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
	cfg, remote := &t.config, p.dest.remote.Addr()
	p.remoteBytes, p.remotePort = string(remote.AsSlice()), p.dest.remote.Port()
	if p.headers, err = headers(cfg.Device.L3, t.headerVNI(p)); err != nil {
		return err
	}
	p.outer = ipUDPLen(remote) + len(p.headers[0])
	if before != nil {
		p.peerState, p.known, p.nexthop, p.id = before.peerState, before.known, before.nexthop, before.id
	} else {
		p.peerState, p.known = &peerState{traffic: make([]traffic, e.workers)}, &known{since: e.clock()}
		p.nexthop = t.newNexthop()
		e.lastID++
		p.id = int32(e.lastID)
	}
	if p.question = cfg.question(p.dest); before == nil || before.question != p.question {
		if err := e.findRoute(p); err != nil {
			return err
		}
	}
	p.bum = newRateLimit(p.config.BUMLimit, &p.bumDue)
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
	if p.dest.hasVNI {
		return p.dest.vni
	}
	return t.config.VNI
}

// admit lets a peer that speaks do so on a socket.
func (t *tunnel) admit(p *peer, s *socket) {
	if !p.speaks {
		return
	}
	from := p.dest.remote.Addr().WithZone("")
	if !t.config.NoVNI {
		p.admissions = append(p.admissions, admission{vniKey{s.id, t.config.VNI}, from})
	}
	if t.config.isTrunk() {
		p.sources = append(p.sources, source{s.id, from})
	}
}

// findRoute takes over what was asked ahead about the way to a new peer. That there is
// none is no error: the underlay may come later, and the watcher goes on asking.
func (e *Endpoint) findRoute(p *peer) error {
	a, ok := e.answers.get(p.question)
	switch {
	case !ok:
		p.doubtful.Store(true)
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
	shared := &rules{
		drops:    t.drops,
		nexthops: make([][]*fpeer, t.lastNexthop+1),
		learning: cfg.Learning, ttl: uint8(cfg.TTL), tos: uint8(cfg.TOS) & 0xfc,
		inheritTTL: cfg.TTL == Inherit, inheritTOS: cfg.TOS == Inherit, inheritDF: cfg.DF == DFInherit, unsetDF: cfg.DF == DFUnset,
		l2ControlPass: cfg.L2ControlPass, locked: cfg.Locked,
		noFlood: cfg.NoFlood, noMcastFlood: cfg.NoMcastFlood, noBcastFlood: cfg.NoBcastFlood,
		accept: t.accept,
	}
	if shared.inheritTTL {
		shared.ttl = DefaultTTL
	}
	seg := t.segment(&t.domains[0], shared)
	fixedMTU := t.mtu
	if t.mtuAuto {
		fixedMTU = 0
	}
	t.port = &port{
		id: t.id, name: cfg.Device.Name, l3: cfg.Device.L3, down: cfg.Device.Down, mac: t.device.State().LLAddr,
		device: t.device, mtu: fixedMTU, segment: &seg, portState: t.state,
	}
	for _, d := range t.domains {
		d.fdb.SetOwn(t.port.mac)
	}
	if cfg.isTrunk() {
		t.port.trunk = t.newTrunk(&seg)
	}
	for i := range e.workers {
		t.port.queues = append(t.port.queues, t.device.Queue(i))
	}
	for _, p := range t.peers {
		p.port = t.port
		shared.nexthops[p.nexthop] = []*fpeer{p.fpeer}
		if (p.speaks || p.floods) && !p.dynamic {
			t.port.configured = append(t.port.configured, p.fpeer)
		}
		if p.floods {
			shared.flood = append(shared.flood, p.fpeer)
		}
		if cfg.Device.L3 {
			shared.single = append(shared.single, p.fpeer)
			shared.addRoutes(p.fpeer, p.config.Routes)
		}
	}
	for of, list := range t.entries.at {
		shared.groups = shared.groups || of.mac.IsGroup()
		if nh := t.sets[of]; nh != 0 {
			for _, entry := range list {
				if !entry.Local {
					shared.nexthops[nh] = append(shared.nexthops[nh], t.byDestination[t.entryDestination(entry)].fpeer)
				}
			}
		}
	}
}

// segment is a domain as workers see it.
func (t *tunnel) segment(d *domain, shared *rules) segment {
	return segment{
		vni: d.vni, vid: d.vid, vlanDrop: t.config.VLANDrop, fdb: d.fdb, neighbours: d.neighbours, traffic: d.traffic,
		bum:   newRateLimit(t.config.BUMLimit, d.bumDue),
		rules: shared,
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
	*fsocket
	options  netio.ListenOptions
	listener netio.Listener
	users    int // tunnels; guarded by Endpoint.mu
}

func newSocket(id uint32, o netio.ListenOptions, received []packet.Counter) *socket {
	name := fmt.Sprintf("%s port %d", o.Local, o.Port)
	return &socket{fsocket: &fsocket{id: id, name: name, received: received}, options: o}
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
		s.receivers = append(s.receivers, l.Receiver(i))
	}
	return nil
}

// portOptions are those of the source ports of datagrams to a destination.
func (cfg *Tunnel) portOptions(d destination, df bool) netio.PortOptions {
	opts := netio.PortOptions{
		Family: 4, Device: d.via, Mark: cfg.Mark, DF: df,
		Min: cfg.SrcPortMin, Max: cfg.SrcPortMax, Count: cfg.SrcPorts,
		ZeroCsum: !cfg.UDPCsum,
	}
	if d.remote.Addr().Is6() {
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
	cfg, remote := &t.config, p.dest.remote.Addr()
	var ifindex int32
	if remote.IsMulticast() && p.dest.via == "" { // else the sockets are bound to the device, and follow it
		ifindex = int32(p.route.Ifindex)
	}
	for _, way := range []struct {
		wanted bool
		df     bool
		path   **packet.Path
	}{
		{cfg.DF != DFUnset, true, &p.path},
		{cfg.DF != DFSet || p.needsFragments(), false, &p.pathFrag},
	} {
		if !way.wanted {
			continue
		}
		set, err := e.underlay.Ports(cfg.portOptions(p.dest, way.df))
		if err != nil {
			return err
		}
		t.ports = append(t.ports, set)
		*way.path = &packet.Path{Remote: p.dest.remote, Peer: p.id, Ifindex: ifindex, Set: set}
	}
	return nil
}
