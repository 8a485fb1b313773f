package vtep

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// tunnel is a tunnel of a running endpoint and all that it holds open.
type tunnel struct {
	config  Tunnel
	port    *port
	peers   []*peer
	sockets []*socket
	ports   []*packet.PortSet
	since   time.Time
	mtuAuto bool
	mtu     int // of the device, as last set by us
}

// Add opens tunnels, all of them or none: on error nothing is left of any.
// Errors of the kernel unwrap to their errno; a tunnel that is there already
// is unix.EEXIST.
func (e *Endpoint) Add(tunnels ...Tunnel) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	var added []*tunnel
	defer func() {
		if err != nil {
			err = errors.Join(err, e.closeTunnels(added))
		}
	}()
	for _, cfg := range tunnels {
		name := cfg.Device.Name
		if _, ok := e.tunnels[name]; ok {
			return fmt.Errorf("%s: a tunnel of this name is there already: %w", name, unix.EEXIST)
		}
		if err := cfg.check(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t, err := e.open(cfg)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		e.tunnels[name] = t
		added = append(added, t)
	}
	if err := e.publish(); err != nil {
		added = nil // a worker is stuck and may already use them
		return err
	}
	e.checkPaths(added)
	return nil
}

// closeTunnels takes down tunnels that no worker uses.
func (e *Endpoint) closeTunnels(tunnels []*tunnel) error {
	devices := make([]Device, len(tunnels))
	for i, t := range tunnels {
		devices[i] = t.port.device
	}
	err := e.devices.CloseAll(devices)
	for _, t := range tunnels {
		delete(e.tunnels, t.config.Device.Name)
		e.releaseUnderlay(t)
	}
	return err
}

// Remove closes a tunnel.
func (e *Endpoint) Remove(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, ok := e.tunnels[name]
	if !ok {
		return fmt.Errorf("no tunnel %s: %w", name, unix.ENOENT)
	}
	delete(e.tunnels, name)
	for _, p := range t.peers {
		delete(e.admit, p.admission)
	}
	if err := e.publish(); err != nil {
		return err // a worker is stuck and may still use the descriptors
	}
	return e.closeTunnels([]*tunnel{t})
}

// open acquires all that a tunnel needs, the device last: nothing of it shows
// on the host while anything can still fail.
func (e *Endpoint) open(cfg Tunnel) (_ *tunnel, err error) {
	t := &tunnel{config: cfg, since: time.Now(), mtuAuto: cfg.Device.MTU == 0}
	t.port = &port{name: cfg.Device.Name, l3: cfg.Device.L3}
	e.lastID++
	t.port.id = e.lastID
	defer func() {
		if err != nil {
			e.releaseUnderlay(t)
		}
	}()
	seg := &segment{
		vni:      cfg.VNI,
		fdb:      fdb.NewTable(fdb.Options{Limit: cfg.MaxAddress, Ageing: cfg.Ageing}),
		nexthops: make([][]*peer, 1), // fdb.Local
		learning: cfg.Learning, ttl: cfg.TTL, tos: cfg.TOS, df: cfg.DF,
		l2ControlPass: cfg.L2ControlPass, vlanDrop: cfg.VLANDrop,
		drops: make([]dropCounters, len(e.workers)),
	}
	t.port.segment = seg
	for _, pc := range cfg.Peers {
		if err := e.addPeer(t, pc); err != nil {
			return nil, fmt.Errorf("remote %s: %w", pc.Remote, err)
		}
	}
	opts := cfg.Device
	opts.Queues = len(e.workers)
	if t.mtuAuto {
		opts.MTU = t.autoMTU()
	}
	t.mtu = opts.MTU
	device, err := e.devices.Open(opts)
	if err != nil {
		return nil, err
	}
	t.port.device = device
	t.port.mac = device.LLAddr()
	seg.fdb.SetOwn(t.port.mac)
	t.port.offload.Store(uint32(device.Offload()))
	for i := range e.workers {
		t.port.queues = append(t.port.queues, device.Queue(i))
	}
	return t, nil
}

// addPeer opens what is needed to hear a peer and to speak to it.
func (e *Endpoint) addPeer(t *tunnel, pc Peer) error {
	cfg := &t.config
	route, err := e.underlay.Route(pc.Remote, cfg.Local, cfg.Mark)
	switch {
	case route.Local:
		return fmt.Errorf("it is an address of this host; give the other host's: %w", unix.EINVAL)
	case route.Broadcast:
		return fmt.Errorf("it is a broadcast address; give the other host's: %w", unix.EINVAL)
	}
	if err != nil {
		// The underlay may come later. The watcher goes on asking.
		e.log.Warn("no route to the peer yet", zap.String("device", cfg.Device.Name), zap.Stringer("remote", pc.Remote), zap.NamedError("err", err))
	}
	s, err := e.listen(t, pc.Remote)
	if err != nil {
		return err
	}
	e.lastID++
	p := &peer{
		config: pc, id: int32(e.lastID), port: t.port,
		nexthop:     fdb.Nexthop(len(t.port.segment.nexthops)),
		admission:   admission{vniKey{s.id, cfg.VNI}, pc.Remote.WithZone("")},
		remoteBytes: string(pc.Remote.AsSlice()),
		remotePort:  pc.Port,
		traffic:     make([]traffic, len(e.workers)),
	}
	if p.remotePort == 0 {
		p.remotePort = cfg.DstPort
	}
	if other := e.admit[p.admission]; other != nil {
		return fmt.Errorf("tunnel %s has VNI %d with it on the same socket: %w", other.port.name, cfg.VNI, unix.EEXIST)
	}
	if p.headers, err = headers(cfg); err != nil {
		return err
	}
	p.outer = ipUDPLen(pc.Remote) + len(p.headers[0])
	if err := e.openPaths(t, p); err != nil {
		return err
	}
	p.setRoute(route)
	e.admit[p.admission] = p
	t.peers = append(t.peers, p)
	seg := t.port.segment
	seg.nexthops = append(seg.nexthops, []*peer{p})
	if !pc.NoFlood {
		seg.flood = append(seg.flood, p)
	}
	return nil
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
	for _, p := range t.peers {
		delete(e.admit, p.admission)
	}
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
