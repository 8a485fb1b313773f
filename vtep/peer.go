package vtep

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// peer is a remote VTEP of a tunnel: what workers see of it, and what they do not.
type peer struct {
	*forward.Peer
	*known
	config Peer
	// speaks: its packets are admitted, by admissions. floods: it gets copies of flooded
	// frames. dynamic: it is an automatic peer, made when its first packet arrived.
	speaks, floods, dynamic bool
	admissions              []forward.Admission
	sources                 []forward.Source // of a trunk's peer: where it may speak for any VLAN
	question                question         // about its route
	bfd                     spec.BFD         // of its session; off: it has none
	version                 uint64           // of the newest tunnel that has it
}

// known is what lives on of a peer when the configuration changes, and workers do not
// need; guarded by Endpoint.mu.
type known struct {
	// route is what was last said of the way, at routeAt, and link the MTU of the link as long as
	// there was one: without what IPsec takes of it, overhead, as it was when nothing had been
	// learned. loweredSince is when the ceiling was first seen to be below what the route
	// allows, reportedLowered that the log says so.
	route           netio.Route
	routeAt         int64
	link, overhead  int
	loweredSince    int64
	reportedLowered bool
	// hopless says that it is not known where on a shared bridge its next hop is, which was
	// asked for in vain so often.
	hopless   bool
	hopsTried int
	// into is the device of ours that the route leads into, 0: into none.
	into int
	// noRoute is what the log last said of the route.
	noRoute bool
	// refusedSince is when it was first seen that the kernel takes no runs to it, 0 if
	// it does, and reportedRefused that the log says so.
	refusedSince    int64
	reportedRefused bool
	// since is when it became a peer, by the endpoint's clock.
	since int64
	// seenBefore is when an earlier process last heard it; zero: not known.
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

// wish is a peer that a tunnel needs, without anything opened for it.
type wish struct {
	config                  Peer
	dest                    forward.Destination
	speaks, floods, dynamic bool
}

// wanted yields the peers that a tunnel needs: those configured, automatic peers, the
// group, and where entries of the table point that is none of these. What it has yielded must
// be among the peers, kept of old or new, before the next.
func (t *tunnel) wanted(old *tunnel) iter.Seq[wish] {
	return func(yield func(wish) bool) {
		cfg := &t.config
		flooded := !cfg.Group.IsValid()
		for _, pc := range cfg.Peers {
			if !yield(wish{pc, t.destination(pc.Remote, pc.Port), true, !pc.NoFlood && flooded && !cfg.Device.L3, false}) {
				return
			}
		}
		for _, a := range t.dynamic {
			if !yield(wish{Peer{Remote: a}, t.destination(a, 0), true, flooded, true}) {
				return
			}
		}
		if cfg.Group.IsValid() && !yield(wish{Peer{Remote: cfg.Group}, t.destination(cfg.Group, 0), false, true, false}) {
			return
		}
		point := func(d forward.Destination) bool {
			kept := old.byDestination[d]
			return kept != nil && kept.version == t.version || t.byDestination[d] != nil ||
				yield(wish{config: Peer{Remote: d.Remote.Addr(), Options: d.Options.Sent()}, dest: d})
		}
		for d := range t.entries.to {
			if !point(d) {
				return
			}
		}
		for _, entry := range t.initial {
			if !entry.Local && !point(t.entryDestination(entry)) {
				return
			}
		}
		for _, d := range t.pointed {
			if !point(d) {
				return
			}
		}
	}
}

// openPeers opens sockets and source ports for all peers of t. Those that were there before
// keep counters, nexthop and what is known of their route; those that nothing about t and
// them has changed are the same.
func (e *Endpoint) openPeers(t, old *tunnel) error {
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
	e.lastVersion++
	t.version = e.lastVersion
	var (
		same = reachesAlike(&t.config, &old.config)
		use  = usage{ports: make(map[*packet.PortSet]bool)}
		at   = 0 // in old.peers, which mostly has the next one there
	)
	t.peers = make([]*peer, 0, max(len(t.config.Peers), len(old.peers))+1)
	t.byDestination = make(map[forward.Destination]*peer) // those that are fresh, until all are there
	for w := range t.wanted(old) {
		var p, before *peer
		if at < len(old.peers) && old.peers[at].Dest == w.dest {
			before = old.peers[at]
			at++
		} else {
			before = old.byDestination[w.dest]
		}
		if before != nil && before.version == t.version || t.byDestination[w.dest] != nil {
			return twice(w.config.Remote)
		}
		var err error
		if same && before != nil && before.fits(&w, &t.config) {
			p, err = before, e.hold(t, before, &use)
		} else {
			p = &peer{config: w.config, Peer: &forward.Peer{Dest: w.dest, Configured: w.speaks && !w.dynamic}, speaks: w.speaks, floods: w.floods, dynamic: w.dynamic, bfd: w.bfd(&t.config)}
			t.fresh = append(t.fresh, p)
			t.byDestination[w.dest] = p
			err = e.openPeer(t, p, before, &use)
		}
		if err != nil {
			return fmt.Errorf("remote %s: %w", w.config.Remote, err)
		}
		p.version = t.version
		t.peers = append(t.peers, p)
		if p.implicit() {
			t.implicit = append(t.implicit, p)
		}
	}
	if len(t.peers)-len(t.fresh) < len(old.peers) {
		for _, p := range old.peers {
			if p.version != t.version {
				t.left = append(t.left, p)
			}
		}
	}
	switch {
	case len(t.fresh)+len(t.left) == 0:
		t.byDestination = old.byDestination
	case len(t.fresh) < len(t.peers):
		t.byDestination = maps.Clone(old.byDestination)
		for _, p := range t.left {
			delete(t.byDestination, p.Dest)
		}
		for _, p := range t.fresh {
			t.byDestination[p.Dest] = p
		}
	}
	return t.checkSources()
}

// checkSources refuses two peers that send from one address. Those that were there before
// do not.
func (t *tunnel) checkSources() error {
	if len(t.fresh) == 0 {
		return nil
	}
	seen := make(map[netip.Addr]bool, len(t.fresh))
	for _, p := range t.fresh {
		seen[p.config.Remote] = false
	}
	for _, p := range t.peers {
		if !p.speaks {
			continue
		}
		switch again, fresh := seen[p.config.Remote]; {
		case again:
			return twice(p.config.Remote)
		case fresh:
			seen[p.config.Remote] = true
		}
	}
	return nil
}

func twice(remote netip.Addr) error {
	return fmt.Errorf("remote %s: it is given twice: %w", remote, errExists)
}

// reachesAlike reports whether what two versions of a tunnel have for all their peers is the
// same: sockets, source ports, and whom they admit for what.
func reachesAlike(cfg, old *Tunnel) bool {
	return asksAlike(cfg, old) && cfg.DF == old.DF && cfg.AcceptZ6 == old.AcceptZ6 && cfg.Group == old.Group && cfg.Options == old.Options &&
		option.Longest(cfg.SendRules) == option.Longest(old.SendRules) && isTrunk(cfg) == isTrunk(old)
}

// asksAlike reports whether questions about the same destination are the same.
func asksAlike(cfg, old *Tunnel) bool {
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		d := forward.Destination{Remote: netip.AddrPortFrom(family, 0)}
		if portOptions(cfg, d, true) != portOptions(old, d, true) {
			return false
		}
	}
	return cfg.Local == old.Local && cfg.Dev == old.Dev && cfg.DstPort == old.DstPort
}

// fits reports whether a peer is what is wanted, as it is.
func (p *peer) fits(w *wish, cfg *Tunnel) bool {
	return p.speaks == w.speaks && p.bfd == w.bfd(cfg) && p.floods == w.floods && p.dynamic == w.dynamic && p.config.Equal(w.config) &&
		(p.PathFrag != nil) == (cfg.DF != DFSet || p.needsFragments()) && !w.dest.Remote.Addr().IsMulticast()
}

// bfd is what the session of a peer should be like. Only those that were configured have one.
func (w *wish) bfd(cfg *Tunnel) spec.BFD {
	if !w.speaks || w.dynamic {
		return spec.BFD{}
	}
	return spec.BFDOf(cfg, &w.config)
}

// usage is what peers of one version of a tunnel were found to use already.
type usage struct {
	listens [2]struct{ own, group *socket } // by family
	ports   map[*packet.PortSet]bool
}

// heard opens the sockets on which a remote is heard, unless another of its family has.
func (e *Endpoint) heard(t *tunnel, remote netip.Addr, use *usage) (own, group *socket, err error) {
	s := &use.listens[0]
	if remote.Is6() {
		s = &use.listens[1]
	}
	if s.own == nil {
		if s.own, err = e.listen(t, remote, netip.Addr{}); err != nil {
			return nil, nil, err
		}
	}
	if t.config.Group.IsValid() && s.group == nil {
		if s.group, err = e.listen(t, remote, t.config.Group); err != nil {
			return nil, nil, err
		}
	}
	return s.own, s.group, nil
}

// hold keeps open what an unchanged peer of the version before uses.
func (e *Endpoint) hold(t *tunnel, p *peer, use *usage) error {
	if _, _, err := e.heard(t, p.Dest.Remote.Addr(), use); err != nil {
		return err
	}
	for _, way := range []struct {
		path *packet.Path
		df   bool
	}{{p.Path, true}, {p.PathFrag, false}} {
		if way.path == nil || use.ports[way.path.Set] {
			continue
		}
		if _, err := e.portSet(t, p.Dest, way.df, use); err != nil {
			return err
		}
	}
	return nil
}

// portSet returns the source ports for datagrams to a destination; each version of a tunnel
// has asked for them once.
func (e *Endpoint) portSet(t *tunnel, d forward.Destination, df bool, use *usage) (*packet.PortSet, error) {
	set, err := e.underlay.Ports(portOptions(&t.config, d, df))
	switch {
	case err != nil:
		return nil, err
	case use.ports[set]:
		e.underlay.Release(set)
	default:
		use.ports[set] = true
		t.ports = append(t.ports, set)
	}
	return set, nil
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
	e.log.Info("the kernel has no " + family + ": accept any is limited to the other family")
}

func (e *Endpoint) openPeer(t *tunnel, p, before *peer, use *usage) (err error) {
	cfg, remote := &t.config, p.Dest.Remote.Addr()
	p.Tunnel, p.Alone = t.state, []*forward.Peer{p.Peer}
	p.RemoteBytes, p.RemotePort = string(remote.AsSlice()), p.Dest.Remote.Port()
	sent := sentTo(cfg, &p.config)
	if p.Headers, err = headers(cfg, t.headerVNI(p), sent); err != nil {
		return err
	}
	p.Slots = slots(sent)
	// RFC 8926 section 4.4.1: the longest options that may be sent count.
	p.Outer = ipUDPLen(remote) + max(len(p.Headers[0]), encap.HeaderLen+option.Longest(cfg.SendRules))
	if before != nil && !e.rehearsing {
		p.PeerState, p.known, p.Nexthop, p.ID = before.PeerState, before.known, before.Nexthop, before.ID
	} else {
		p.PeerState, p.known = &forward.PeerState{Traffic: make([]count.Traffic, e.carriers())}, &known{since: e.clock()}
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
	if p.bfd.Interval != 0 {
		p.Control = forward.NewRateLimit(controlRate, &p.ControlDue)
	}
	own, group, err := e.heard(t, remote, use)
	if err != nil {
		return err
	}
	t.admit(p, own)
	if group != nil {
		t.admit(p, group)
	}
	return e.openPaths(t, p, use)
}

// headerVNI is the VNI in the header template of p. The VNI of another segment is written
// over it for each frame.
func (t *tunnel) headerVNI(p *peer) packet.VNI {
	if p.Dest.HasVNI {
		return p.Dest.VNI
	}
	return t.config.VNI
}

// admit adds the admissions of a peer on a socket.
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
	if !ok {
		p.Doubtful.Store(true)
		e.recheckPaths()
		return nil
	}
	if err := unusable(a.route); err != nil {
		return err
	}
	p.routeAt = a.at
	p.setRoute(a.route, e.clock())
	return nil
}

// unusable says why what is there is no other host.
func unusable(r netio.Route) error {
	switch {
	case r.Local:
		return fmt.Errorf("it is an address of this host; give the other host's: %w", unix.EINVAL)
	case r.Broadcast:
		return fmt.Errorf("it is a broadcast address; give the other host's: %w", unix.EINVAL)
	}
	return nil
}

// watchful finds the peers that are to have a BFD session.
func (t *tunnel) watchful() {
	t.watched = nil
	for _, p := range t.peers {
		if p.bfd.Interval != 0 {
			t.watched = append(t.watched, p)
		}
	}
}

// assemble makes what workers see of a tunnel from its configuration and its
// peers.
func (e *Endpoint) assemble(t, old *tunnel) {
	cfg := &t.config
	shared := &forward.Rules{
		Drops:    t.drops,
		Nexthops: make([][]*forward.Peer, t.lastNexthop+1),
		Learning: cfg.Learning, TTL: uint8(cfg.TTL), TOS: uint8(cfg.TOS) & 0xfc,
		InheritTTL: cfg.TTL == Inherit, InheritTOS: cfg.TOS == Inherit, Fragments: cfg.DF != DFSet,
		L2ControlPass: cfg.L2ControlPass, Locked: cfg.Locked,
		NoFlood: cfg.NoFlood, NoMcastFlood: cfg.NoMcastFlood, NoBcastFlood: cfg.NoBcastFlood,
		Accept: t.accept, Options: option.NewPolicy(cfg.OptionRules),
	}
	if old != nil && slices.Equal(old.config.OptionRules, cfg.OptionRules) {
		shared.OptionHits = old.port.Segment.OptionHits
	} else if shared.Options != nil {
		shared.OptionHits = newHits(e.workers, len(cfg.OptionRules))
	}
	switch {
	case len(cfg.SendRules) == 0:
	case old != nil && slices.Equal(old.config.SendRules, cfg.SendRules):
		shared.Send, shared.SendHits = old.port.Segment.Send, old.port.Segment.SendHits
	default:
		shared.Send, shared.SendHits = sendRules(cfg), newHits(e.workers, len(cfg.SendRules))
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
		Name: cfg.Device.Name, L3: cfg.Device.L3, Down: cfg.Device.Down, MAC: t.device.State().LLAddr,
		Device: t.device, IP: firstIPv4(cfg.Device.Addresses), Mtu: fixedMTU, Segment: &seg, PortState: t.state,
	}
	for _, d := range t.domains {
		d.fdb.SetOwn(t.port.MAC)
	}
	if isTrunk(cfg) {
		t.port.Trunk = t.newTrunk(&seg)
	}
	t.openQueues(e.workers, e.queues(cfg), old)
	samePeers := old != nil && len(t.fresh)+len(t.left) == 0
	if samePeers {
		shared.SameRoutes(old.port.Segment.Rules)
	}
	t.watchful()
	for _, p := range t.peers {
		shared.Nexthops[p.Nexthop] = p.Alone
		if (p.speaks || p.floods) && !p.dynamic {
			t.port.Configured = append(t.port.Configured, p.Peer)
		}
		if p.floods {
			shared.Flood = append(shared.Flood, p.Peer)
		}
		if p.BUM.Interval != 0 {
			shared.Limited = append(shared.Limited, p.Peer)
		}
		if cfg.Device.L3 {
			shared.Single = append(shared.Single, p.Peer)
			if !samePeers {
				shared.AddRoutes(p.Peer, p.config.Routes)
			}
		}
	}
	shared.Groups = len(t.entries.groups) > 0
	for of, nh := range t.sets {
		for _, entry := range t.entries.at[of] {
			if !entry.Local {
				shared.Nexthops[nh] = append(shared.Nexthops[nh], t.byDestination[t.entryDestination(entry)].Peer)
			}
		}
	}
}

// newHits counts for rules, by worker and rule.
func newHits(workers, rules int) [][]atomic.Uint64 {
	hits := make([][]atomic.Uint64, workers)
	for i := range hits {
		hits[i] = make([]atomic.Uint64, rules)
	}
	return hits
}

// sendRules are the rules for what a tunnel sends as workers see them. That their headers can be
// made was checked when they were read.
func sendRules(cfg *Tunnel) []forward.SendRule {
	all := make([]forward.SendRule, len(cfg.SendRules))
	for i, u := range cfg.SendRules {
		all[i] = forward.SendRule{SendRule: u, Slots: slots(u.Options)}
		if u.HasOptions {
			all[i].Headers, _ = headers(cfg, 0, u.Options)
		}
	}
	return all
}

// segment is a domain as workers see it.
func (t *tunnel) segment(d *domain, shared *forward.Rules) forward.Segment {
	return forward.Segment{
		VNI: d.vni, VID: d.vid, VLANDrop: t.config.VLANDrop, FDB: d.fdb, Neighbours: d.neighbours, Traffic: d.traffic,
		BUM:   forward.NewRateLimit(t.config.BUMLimit, d.bumDue),
		Rules: shared,
	}
}

// headers makes the headers of datagrams: on an L2 tunnel both are the same, on an L3
// tunnel the second is for IPv6.
func headers(cfg *Tunnel, vni packet.VNI, sent option.Sent) (h [2][]byte, err error) {
	protocols := [2]uint16{packet.EtherTypeEthernet, packet.EtherTypeEthernet}
	if cfg.Device.L3 {
		protocols = [2]uint16{packet.EtherTypeIPv4, packet.EtherTypeIPv6}
	}
	for i, protocol := range protocols {
		if h[i], err = cfg.Encap.AppendHeader(nil, vni, protocol); err != nil {
			return h, err
		}
		if h[i], err = cfg.Encap.WithOptions(h[i], string(sent.Set)); err != nil {
			return h, err
		}
	}
	return h, nil
}

// sentTo are the options of packets to a peer.
func sentTo(cfg *Tunnel, p *Peer) option.Sent {
	if p.Options.IsZero() {
		return cfg.Options
	}
	return p.Options
}

// slots are where in the headers of datagrams something of the packet goes.
func slots(sent option.Sent) []option.Slot {
	all := sent.Slots()
	for i := range all {
		all[i].At += encap.HeaderLen
	}
	return all
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
	key := listening{opts, t.config.Encap}
	s := e.sockets[key]
	if s == nil {
		if err := e.checkPort(key); err != nil {
			return nil, err
		}
		e.lastID++
		s = newSocket(e.lastID, key, make([]packet.Counter, e.workers))
		if err := e.openSocket(s, e.departing.beside(e.sockets, s)); err != nil {
			return nil, err
		}
		e.sockets[key] = s
		e.spoken[spoken{key.Port, key.encap}]++
	}
	if !slices.Contains(t.sockets, s) {
		s.users++
		t.sockets = append(t.sockets, s)
	}
	return s, nil
}

// checkPort refuses a port on which sockets that stay are for another encap: what arrives
// does not say what it is.
func (e *Endpoint) checkPort(l listening) error {
	for _, f := range encap.Formats() {
		if f != l.encap && e.spoken[spoken{l.Port, f}] > e.departing.leaving(l.Port, f) {
			return fmt.Errorf("dstport %d: another tunnel has encap %s there, and one port is for one encap: %w", l.Port, f, unix.EADDRINUSE)
		}
	}
	return nil
}

// listening names receive sockets: their options, and the encapsulation expected there.
type listening struct {
	netio.ListenOptions
	encap encap.Format
}

// spoken is what several sockets of one port have in common.
type spoken struct {
	port  uint16
	encap encap.Format
}

// socket is the receive sockets of one address.
type socket struct {
	*forward.Socket
	options  listening
	listener netio.Listener
	users    int // tunnels; guarded by Endpoint.mu
}

func newSocket(id uint32, l listening, received []packet.Counter) *socket {
	name := fmt.Sprintf("%s port %d", l.Local, l.Port)
	return &socket{Socket: &forward.Socket{ID: id, Name: name, Local: l.Local, Port: l.Port, Encap: l.encap, Parse: l.encap.Parser(), Received: received}, options: l}
}

// openSocket opens the receive sockets of s, one for each worker. Beside is
// that of ListenOptions.
func (e *Endpoint) openSocket(s *socket, beside bool) error {
	opts := s.options.ListenOptions
	opts.Beside = beside
	if e.rehearsing {
		return e.underlay.TryListen(opts)
	}
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
// fragments where the path does not carry what it must. Over IPv6, where routers never
// cut, `df unset` needs both: only a socket that must not cut hears of a narrow path.
func (e *Endpoint) openPaths(t *tunnel, p *peer, use *usage) error {
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
		{cfg.DF != DFUnset || remote.Is6(), true, &p.Path},
		{cfg.DF != DFSet || p.needsFragments(), false, &p.PathFrag},
	} {
		if !way.wanted {
			continue
		}
		set, err := e.portSet(t, p.Dest, way.df, use)
		if err != nil {
			return err
		}
		*way.path = &packet.Path{Remote: p.Dest.Remote, Peer: p.ID, Ifindex: ifindex, Set: set}
	}
	return nil
}

// counters returns the counters of a peer as they are shown: a failed send is known only after
// it was counted, and a counter must never be seen to decrease. e.mu is held.
func (p *peer) counters() (s count.Stats, seen int64) {
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
