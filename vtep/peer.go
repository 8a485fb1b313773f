package vtep

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// destination is where datagrams go, as far as it differs within a tunnel.
type destination struct {
	remote netip.AddrPort
	vni    geneve.VNI
	via    string // underlay device; "": as the route says
}

// destination completes a remote of t: port 0 is the tunnel's.
func (t *tunnel) destination(remote netip.Addr, port uint16) destination {
	if port == 0 {
		port = t.config.DstPort
	}
	return destination{netip.AddrPortFrom(remote, port), t.config.VNI, t.config.Dev}
}

// wanted lists the peers that a tunnel needs, without anything opened for
// them: those configured, those who were let in, the group, and where entries
// of the table point that is none of these.
func (t *tunnel) wanted() (all []*peer) {
	cfg := &t.config
	for _, pc := range cfg.Peers {
		all = append(all, &peer{
			config: pc, dest: t.destination(pc.Remote, pc.Port),
			speaks: true, floods: !pc.NoFlood && !cfg.Group.IsValid() && !cfg.Device.L3,
		})
	}
	for _, a := range t.dynamic {
		all = append(all, &peer{
			config: Peer{Remote: a}, dest: t.destination(a, 0),
			speaks: true, floods: !cfg.Group.IsValid(), dynamic: true,
		})
	}
	if cfg.Group.IsValid() {
		all = append(all, &peer{config: Peer{Remote: cfg.Group}, dest: t.destination(cfg.Group, 0), floods: true})
	}
	for _, list := range t.entries {
		for _, entry := range list {
			d := t.entryDestination(entry)
			if !entry.Local && !slices.ContainsFunc(all, func(p *peer) bool { return p.dest == d }) {
				all = append(all, &peer{config: Peer{Remote: d.remote.Addr()}, dest: d})
			}
		}
	}
	return all
}

// openPeers opens sockets and source ports for all peers of t. Those that were
// there before keep counters, nexthop and what is known of their route.
func (e *Endpoint) openPeers(t *tunnel, before []*peer) error {
	for _, prefix := range t.accept {
		if _, err := e.listen(t, prefix.Addr(), netip.Addr{}); err != nil {
			return err
		}
	}
	for _, p := range t.wanted() {
		if err := e.openPeer(t, p, before); err != nil {
			return fmt.Errorf("remote %s: %w", p.config.Remote, err)
		}
		t.peers = append(t.peers, p)
	}
	return nil
}

func (e *Endpoint) openPeer(t *tunnel, p *peer, before []*peer) (err error) {
	cfg, remote := &t.config, p.dest.remote.Addr()
	p.remoteBytes, p.remotePort = string(remote.AsSlice()), p.dest.remote.Port()
	if p.headers, err = headers(cfg.Device.L3, p.dest.vni); err != nil {
		return err
	}
	p.outer = ipUDPLen(remote) + len(p.headers[0])
	known := slices.IndexFunc(before, func(q *peer) bool { return q.dest == p.dest })
	if known >= 0 {
		q := before[known]
		p.peerState, p.nexthop, p.id, p.route = q.peerState, q.nexthop, q.id, q.route
	} else {
		if err := e.findRoute(t, p); err != nil {
			return err
		}
		p.peerState = &peerState{traffic: make([]traffic, len(e.workers))}
		t.lastNexthop++
		p.nexthop = t.lastNexthop
		e.lastID++
		p.id = int32(e.lastID)
		p.setRoute(p.route)
	}
	s, err := e.listen(t, remote, netip.Addr{})
	if err != nil {
		return err
	}
	if p.speaks {
		p.admissions = append(p.admissions, admission{vniKey{s.id, cfg.VNI}, remote.WithZone("")})
	}
	if cfg.Group.IsValid() {
		if s, err = e.listen(t, remote, cfg.Group); err != nil {
			return err
		}
		if p.speaks {
			p.admissions = append(p.admissions, admission{vniKey{s.id, cfg.VNI}, remote.WithZone("")})
		}
	}
	for _, a := range p.admissions {
		if other := e.admit[a]; other != nil && other.port.id != t.id {
			return fmt.Errorf("tunnel %s has VNI %d with it on the same socket: %w", other.port.name, cfg.VNI, unix.EEXIST)
		}
		if slices.ContainsFunc(t.peers, func(q *peer) bool { return slices.Contains(q.admissions, a) }) {
			return fmt.Errorf("it is given twice: %w", unix.EEXIST)
		}
	}
	return e.openPaths(t, p)
}

// findRoute looks up the way to a new peer. That there is none is no error:
// the underlay may come later, and the watcher goes on asking.
func (e *Endpoint) findRoute(t *tunnel, p *peer) error {
	p.route, _ = e.underlay.Route(p.dest.remote.Addr(), t.config.Local, p.dest.via, t.config.Mark)
	switch {
	case p.route.Local:
		return fmt.Errorf("it is an address of this host; give the other host's: %w", unix.EINVAL)
	case p.route.Broadcast:
		return fmt.Errorf("it is a broadcast address; give the other host's: %w", unix.EINVAL)
	}
	return nil
}

// assemble makes what workers see of a tunnel from its configuration and its
// peers.
func (e *Endpoint) assemble(t *tunnel) {
	cfg := &t.config
	seg := &segment{
		vni: cfg.VNI, fdb: t.fdb, drops: t.drops, neighbours: t.neighbours,
		nexthops: make([][]*peer, t.lastNexthop+1),
		learning: cfg.Learning, ttl: cfg.TTL, tos: cfg.TOS, df: cfg.DF,
		l2ControlPass: cfg.L2ControlPass, vlanDrop: cfg.VLANDrop, locked: cfg.Locked,
		noFlood: cfg.NoFlood, noMcastFlood: cfg.NoMcastFlood, noBcastFlood: cfg.NoBcastFlood,
		bum:    newBUMLimit(cfg.BUMLimit, t.bumDue),
		accept: t.accept,
	}
	t.port = &port{
		id: t.id, name: cfg.Device.Name, l3: cfg.Device.L3, down: cfg.Device.Down, mac: t.device.LLAddr(),
		device: t.device, segment: seg, portState: t.state,
	}
	for i := range e.workers {
		t.port.queues = append(t.port.queues, t.device.Queue(i))
	}
	for _, p := range t.peers {
		p.port = t.port
		seg.nexthops[p.nexthop] = []*peer{p}
		if p.floods {
			seg.flood = append(seg.flood, p)
		}
	}
	if cfg.Device.L3 {
		seg.prefixes, seg.single = newPrefixes(t.peers), t.peers
	}
	for mac, list := range t.entries {
		seg.groups = seg.groups || mac.IsGroup()
		if nh := t.sets[mac]; nh != 0 {
			for _, entry := range list {
				seg.nexthops[nh] = append(seg.nexthops[nh], t.peerOf(entry))
			}
		}
	}
}

// peerOf returns the peer that an entry of the table points to.
func (t *tunnel) peerOf(entry Entry) *peer {
	d := t.entryDestination(entry)
	return t.peers[slices.IndexFunc(t.peers, func(p *peer) bool { return p.dest == d })]
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
	opts := ListenOptions{
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
		l, err := e.underlay.Listen(opts)
		if err != nil {
			return nil, err
		}
		e.lastID++
		s = &socket{id: e.lastID, options: opts, listener: l, received: make([]packet.Counter, len(e.workers))}
		for i := range e.workers {
			s.receivers = append(s.receivers, l.Receiver(i))
		}
		e.sockets[opts] = s
	}
	if !slices.Contains(t.sockets, s) {
		s.users++
		t.sockets = append(t.sockets, s)
	}
	return s, nil
}

// openPaths opens the source ports that the tunnel's DF policy needs.
func (e *Endpoint) openPaths(t *tunnel, p *peer) error {
	cfg, remote := &t.config, p.dest.remote.Addr()
	opts := PortOptions{
		Family: 4, Device: p.dest.via, Mark: cfg.Mark,
		Min: cfg.SrcPortMin, Max: cfg.SrcPortMax, Count: cfg.SrcPorts,
		ZeroCsum: !cfg.UDPCsum,
	}
	if remote.Is6() {
		opts.Family, opts.ZeroCsum = 6, cfg.ZeroCsum6
	}
	if cfg.Local.IsValid() && !cfg.Local.IsUnspecified() {
		opts.Local = cfg.Local
	}
	path := packet.Path{Remote: p.dest.remote, Peer: p.id}
	if remote.IsMulticast() {
		path.Ifindex = int32(p.route.Ifindex)
	}
	for _, way := range []struct {
		wanted bool
		df     bool
		path   **packet.Path
	}{
		{cfg.DF != DFUnset, true, &p.path},
		{cfg.DF != DFSet, false, &p.pathFrag},
	} {
		if !way.wanted {
			continue
		}
		opts.DF = way.df
		set, err := e.underlay.Ports(opts)
		if err != nil {
			return err
		}
		t.ports = append(t.ports, set)
		path.Set = set
		made := path
		*way.path = &made
	}
	return nil
}

// learnedFrom reports whether a frame from a peer may carry a source address
// that is pinned to nh: one host can be several destinations.
func (s *segment) learnedFrom(nh fdb.Nexthop, from *peer) bool {
	return slices.ContainsFunc(s.nexthopPeers(nh), func(p *peer) bool { return p.config.Remote == from.config.Remote })
}
