package vtep

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// tunnel is a tunnel of a running endpoint: its configuration, what it holds
// open, and what workers see of it.
type tunnel struct {
	config  Tunnel
	device  Device
	sockets []*socket
	ports   []*packet.PortSet
	mtuAuto bool
	mtu     int // of the device, as last set by us

	// What lives on when the configuration changes.
	id          uint32
	since       time.Time
	fdb         *fdb.Table
	drops       []dropCounters // by worker
	state       *portState
	lastNexthop fdb.Nexthop

	// Made anew by assemble for every configuration.
	port  *port
	peers []*peer
}

// Add opens tunnels, all of them or none; see Apply.
func (e *Endpoint) Add(tunnels ...Tunnel) error { return e.Apply(Change{Add: tunnels}) }

// Remove closes a tunnel; see Apply.
func (e *Endpoint) Remove(name string) error { return e.Apply(Change{Remove: []string{name}}) }

// open acquires all that a new tunnel needs, the device last: nothing of it
// shows on the host while anything can still fail.
func (e *Endpoint) open(cfg Tunnel) (_ *tunnel, err error) {
	e.lastID++
	t := &tunnel{
		config: cfg, mtuAuto: cfg.Device.MTU == 0,
		id: e.lastID, since: time.Now(),
		fdb:   fdb.NewTable(fdb.Options{Limit: cfg.MaxAddress, Ageing: cfg.Ageing}),
		drops: make([]dropCounters, len(e.workers)),
		state: new(portState),
	}
	defer func() {
		if err != nil {
			e.releaseUnderlay(t)
		}
	}()
	if err := e.openPeers(t, nil); err != nil {
		return nil, err
	}
	opts := cfg.Device
	opts.Queues = len(e.workers)
	if t.mtuAuto {
		opts.MTU = t.autoMTU()
	}
	t.mtu = opts.MTU
	if t.device, err = e.devices.Open(opts); err != nil {
		return nil, err
	}
	t.fdb.SetOwn(t.device.LLAddr())
	t.state.offload.Store(uint32(t.device.Offload()))
	e.assemble(t)
	return t, nil
}

// change opens what a tunnel needs for another configuration. Device, table
// and counters stay, and so does the state of peers that stay.
func (e *Endpoint) change(old *tunnel, cfg Tunnel) (_ *tunnel, err error) {
	if fixed := old.config.fixed(&cfg); fixed != "" {
		return nil, fmt.Errorf("%s cannot be changed while the tunnel is there: remove it and add it again: %w", fixed, unix.EBUSY)
	}
	t := new(tunnel)
	*t = *old
	t.config, t.mtuAuto = cfg, cfg.Device.MTU == 0
	t.sockets, t.ports, t.peers = nil, nil, nil
	if err := e.openPeers(t, old.peers); err != nil {
		e.releaseUnderlay(t)
		return nil, err
	}
	mtu := cfg.Device.MTU
	if t.mtuAuto {
		mtu = t.autoMTU()
	}
	if mtu != old.mtu {
		if err := t.device.SetMTU(mtu); err != nil {
			e.releaseUnderlay(t)
			return nil, fmt.Errorf("mtu %d: %w", mtu, err)
		}
		t.mtu = mtu
	}
	e.assemble(t)
	return t, nil
}

// fixed names the first setting that differs between two configurations and
// cannot change under a running tunnel, "" if there is none.
func (cfg *Tunnel) fixed(to *Tunnel) string {
	a, b := cfg.Device, to.Device
	a.MTU, b.MTU = 0, 0
	switch {
	case cfg.VNI != to.VNI:
		return "id"
	case a.L3 != b.L3:
		return "mode"
	case cfg.DstPort != to.DstPort:
		return "dstport"
	case !reflect.DeepEqual(a, b):
		return "a setting of the device (address, lladdr, master, netns, persist, txqueuelen, offload, up)"
	}
	return ""
}

// openPeers opens sockets and source ports for all configured peers. Those
// that were there before keep counters and nexthop.
func (e *Endpoint) openPeers(t *tunnel, before []*peer) error {
	for _, pc := range t.config.Peers {
		p, err := e.openPeer(t, pc)
		if err != nil {
			return fmt.Errorf("remote %s: %w", pc.Remote, err)
		}
		for _, q := range before {
			if q.config.Remote == pc.Remote && q.remotePort == p.remotePort {
				p.peerState, p.nexthop, p.id = q.peerState, q.nexthop, q.id
			}
		}
		if p.peerState == nil {
			p.peerState = &peerState{traffic: make([]traffic, len(e.workers))}
			t.lastNexthop++
			p.nexthop = t.lastNexthop
			e.lastID++
			p.id = int32(e.lastID)
		}
		if err := e.openPaths(t, p); err != nil {
			return fmt.Errorf("remote %s: %w", pc.Remote, err)
		}
		p.setRoute(p.route)
		t.peers = append(t.peers, p)
	}
	return nil
}

// openPeer opens what is needed to hear a peer, and looks up the way to it.
func (e *Endpoint) openPeer(t *tunnel, pc Peer) (*peer, error) {
	cfg := &t.config
	route, err := e.underlay.Route(pc.Remote, cfg.Local, cfg.Mark)
	switch {
	case route.Local:
		return nil, fmt.Errorf("it is an address of this host; give the other host's: %w", unix.EINVAL)
	case route.Broadcast:
		return nil, fmt.Errorf("it is a broadcast address; give the other host's: %w", unix.EINVAL)
	}
	if err != nil {
		// The underlay may come later. The watcher goes on asking.
		e.log.Warn("no route to the peer yet", zap.String("device", cfg.Device.Name),
			zap.Stringer("remote", pc.Remote), zap.NamedError("err", err))
	}
	s, err := e.listen(t, pc.Remote)
	if err != nil {
		return nil, err
	}
	p := &peer{
		config: pc, route: route,
		admission:   admission{vniKey{s.id, cfg.VNI}, pc.Remote.WithZone("")},
		remoteBytes: string(pc.Remote.AsSlice()),
		remotePort:  pc.Port,
	}
	if p.remotePort == 0 {
		p.remotePort = cfg.DstPort
	}
	if other := e.admit[p.admission]; other != nil && other.port.id != t.id {
		return nil, fmt.Errorf("tunnel %s has VNI %d with it on the same socket: %w", other.port.name, cfg.VNI, unix.EEXIST)
	}
	if slices.ContainsFunc(t.peers, func(q *peer) bool { return q.admission == p.admission }) {
		return nil, fmt.Errorf("it is given twice: %w", unix.EEXIST)
	}
	if p.headers, err = headers(cfg); err != nil {
		return nil, err
	}
	p.outer = ipUDPLen(pc.Remote) + len(p.headers[0])
	return p, nil
}

// assemble makes what workers see of a tunnel from its configuration and its
// peers.
func (e *Endpoint) assemble(t *tunnel) {
	cfg := &t.config
	seg := &segment{
		vni: cfg.VNI, fdb: t.fdb, drops: t.drops,
		nexthops: make([][]*peer, t.lastNexthop+1),
		learning: cfg.Learning, ttl: cfg.TTL, tos: cfg.TOS, df: cfg.DF,
		l2ControlPass: cfg.L2ControlPass, vlanDrop: cfg.VLANDrop,
	}
	t.port = &port{
		id: t.id, name: cfg.Device.Name, l3: cfg.Device.L3, mac: t.device.LLAddr(),
		device: t.device, segment: seg, portState: t.state,
	}
	for i := range e.workers {
		t.port.queues = append(t.port.queues, t.device.Queue(i))
	}
	for _, p := range t.peers {
		p.port = t.port
		seg.nexthops[p.nexthop] = []*peer{p}
		if !p.config.NoFlood {
			seg.flood = append(seg.flood, p)
		}
	}
}

// headers makes the GENEVE headers of a tunnel's datagrams: on an L2 tunnel
// both are the same, on an L3 tunnel the second is for IPv6.
func headers(cfg *Tunnel) (h [2][]byte, err error) {
	protocols := [2]uint16{geneve.ProtoEthernet, geneve.ProtoEthernet}
	if cfg.Device.L3 {
		protocols = [2]uint16{geneve.ProtoIPv4, geneve.ProtoIPv6}
	}
	for i, protocol := range protocols {
		if h[i], err = geneve.AppendHeader(nil, geneve.Header{VNI: cfg.VNI, Protocol: protocol}); err != nil {
			return h, err
		}
	}
	return h, nil
}

func ipUDPLen(remote netip.Addr) int {
	if remote.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// listen finds or opens the receive sockets on which a peer is heard.
func (e *Endpoint) listen(t *tunnel, remote netip.Addr) (*socket, error) {
	opts := ListenOptions{
		Local: t.config.Local, Port: t.config.DstPort, Device: t.config.Dev,
		ZeroCsum6: t.config.AcceptZ6 && remote.Is6(),
	}
	if !opts.Local.IsValid() {
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
		s = &socket{id: e.lastID, options: opts, listener: l}
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
	cfg, remote := &t.config, p.config.Remote
	opts := PortOptions{
		Family: 4, Device: cfg.Dev, Mark: cfg.Mark,
		Min: cfg.SrcPortMin, Max: cfg.SrcPortMax, Count: cfg.SrcPorts,
		ZeroCsum: !cfg.UDPCsum,
	}
	if remote.Is6() {
		opts.Family, opts.ZeroCsum = 6, cfg.ZeroCsum6
	}
	if cfg.Local.IsValid() && !cfg.Local.IsUnspecified() {
		opts.Local = cfg.Local
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
		*way.path = &packet.Path{Remote: netip.AddrPortFrom(remote, p.remotePort), Set: set, Peer: p.id}
	}
	return nil
}

// releaseUnderlay gives back what a tunnel has on the underlay. No worker uses
// it any more.
func (e *Endpoint) releaseUnderlay(t *tunnel) {
	for _, set := range t.ports {
		e.underlay.Release(set)
	}
	for _, s := range t.sockets {
		if s.users--; s.users == 0 {
			delete(e.sockets, s.options)
			s.listener.Close()
		}
	}
	t.ports, t.sockets = nil, nil
}

// check refuses what cannot work, whoever asks for it.
func (cfg *Tunnel) check() error {
	switch {
	case !cfg.VNI.Valid():
		return fmt.Errorf("id %d: a VNI has 24 bits, 0 to %d: %w", cfg.VNI, geneve.MaxVNI, unix.EINVAL)
	case len(cfg.Peers) == 0:
		return fmt.Errorf("no remote given: %w", unix.EINVAL)
	case cfg.Device.L3 && len(cfg.Peers) > 1:
		return fmt.Errorf("an L3 tunnel goes to one remote, %d are given: %w", len(cfg.Peers), unix.EINVAL)
	case cfg.SrcPortMin == 0 || cfg.SrcPortMin > cfg.SrcPortMax || cfg.SrcPorts < 1:
		return fmt.Errorf("srcport %d %d: want a range within 1-65535: %w", cfg.SrcPortMin, cfg.SrcPortMax, unix.EINVAL)
	case cfg.DstPort == 0:
		return fmt.Errorf("dstport 0: want 1-65535: %w", unix.EINVAL)
	}
	for _, p := range cfg.Peers {
		switch r := p.Remote; {
		case !r.IsValid() || r.IsUnspecified() || r.IsMulticast() || r.Is4In6() || r == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			return fmt.Errorf("remote %s: want the unicast address of another host: %w", r, unix.EINVAL)
		case cfg.Local.IsValid() && cfg.Local.Is4() != r.Is4():
			return fmt.Errorf("local %s and remote %s are of different families: %w", cfg.Local, r, unix.EINVAL)
		case cfg.Local == r:
			return fmt.Errorf("remote %s is the local address: %w", r, unix.EINVAL)
		}
	}
	return nil
}
