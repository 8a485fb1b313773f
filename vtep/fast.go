package vtep

import (
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// The fast path, if there is one, is told of peers, admissions and entries, and tells of
// what it has counted and heard. It has no policy of its own: what an entry in its maps
// cannot say stays with the workers.

// fastAgeing is the shortest ageing that a fast path can serve: what it has heard is read
// once a second.
const fastAgeing = 4 * time.Second

// fastHeader is how the headers begin that the programs know: GENEVE without options, with
// Ethernet inside.
const fastHeader = "\x00\x00\x65\x58"

// fast is what the endpoint has told a fast path.
type fast struct {
	path    netio.FastPath // nil: there is none
	ports   []uint16       // that are listened on, as told
	mu      sync.Mutex     // for those that read counters without Endpoint.mu
	tunnels map[uint32]*fastTunnel
}

// fastTunnel is a tunnel that a fast path was told of.
type fastTunnel struct {
	port  *forward.Port // the version of it
	stale bool          // some route has changed since
	fdb   *fdb.Table
	peers map[int32]fastPeer
	// told is what the log last said of it.
	told string
}

// fastPeer is where a peer is counted, and what its entries point to.
type fastPeer struct {
	traffic *count.Traffic
	nexthop fdb.Nexthop
	last    *netio.FastCounts // that were added to traffic
}

// carriers is how many count for themselves what they carry of a peer: the workers, and a
// fast path behind them.
func (e *Endpoint) carriers() int {
	if e.fast.path == nil {
		return e.workers
	}
	return e.workers + 1
}

// publishFast tells the fast path of all tunnels that it is to carry and that it was not
// told of as they are. It does so before the workers get the snapshot: what a removed peer
// sends is let in by nobody when the change is made, and its counters are complete when it
// is settled. What comes is carried from when the tables know it. e.mu is held.
func (e *Endpoint) publishFast(snap *forward.Snapshot) {
	f := &e.fast
	if f.path == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	shared := e.sharesWithFast(snap)
	if ports := e.listening(); !slices.Equal(ports, f.ports) && len(ports) <= netio.FastListen {
		f.path.Listen(ports)
		f.ports = ports
	}
	wanted := make(map[uint32]bool, len(f.tunnels))
	for _, t := range e.tunnels {
		if t.slow = slowReason(t, shared); t.slow != "" {
			continue
		}
		wanted[t.id] = true
		ft := f.tunnels[t.id]
		if ft != nil && ft.port == t.port && !ft.stale {
			continue
		}
		fresh := ft == nil
		if fresh {
			ft = &fastTunnel{fdb: t.domains[0].fdb}
			f.tunnels[t.id] = ft
		}
		ft.port, ft.stale = t.port, false
		f.set(ft, t, snap)
		if fresh {
			f.fill(t, e.clock())
		}
	}
	for id, ft := range f.tunnels {
		if !wanted[id] {
			ft.port.Fast.Store(false)
			ft.keep(f.path.Remove(id))
			delete(f.tunnels, id)
		}
	}
}

// followFast has the fast path carry tunnels or not as their devices are now.
func (e *Endpoint) followFast() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publishFast(e.pool.Snapshot())
}

// listening are the ports of all sockets, in ascending order. e.mu is held.
func (e *Endpoint) listening() (ports []uint16) {
	for opts := range e.sockets {
		ports = append(ports, opts.Port)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// sharesWithFast reports whether what a fast path sends or delivers may have to be told from
// what it must not: because the way to some peer leads by a device that is stacked on ours, or
// because that is not known. Where our devices are in bridges that have nothing to do with
// those ways, our own packets to peers do not come out of them; and what comes in for one of our
// sockets is not for the fast path. e.mu is held.
func (e *Endpoint) sharesWithFast(snap *forward.Snapshot) bool {
	if snap.Guard == nil {
		return false
	}
	if e.unseenDevice() || len(e.listening()) > netio.FastListen {
		return true
	}
	for _, t := range e.tunnels {
		for _, p := range t.peers {
			if _, over := e.above.upper(p.route.Ifindex); over {
				return true
			}
		}
	}
	return false
}

// leaveFast ends what the fast path carries. e.mu is held.
func (e *Endpoint) leaveFast() {
	e.fast.mu.Lock()
	defer e.fast.mu.Unlock()
	for id, ft := range e.fast.tunnels {
		ft.port.Fast.Store(false)
		ft.keep(e.fast.path.Remove(id))
		delete(e.fast.tunnels, id)
	}
}

// slowReason is why a tunnel is not for the fast path, "": it is. shared says that a bridge
// or bond joins tunnel devices with the underlay.
func slowReason(t *tunnel, shared bool) string {
	cfg := &t.config
	switch {
	case cfg.FastPath == spec.FastOff:
		return "off"
	case cfg.Device.L3:
		return "it is not for mode l3"
	case isTrunk(cfg):
		return "it is not for trunks"
	case cfg.Encap != encap.Geneve:
		return "it is not for encap " + cfg.Encap.String()
	case cfg.Options != (option.Sent{}) || len(cfg.OptionRules)+len(cfg.SendRules) > 0:
		return "it is not for options, match and send" // a rule may be about packets without options
	case cfg.DF == DFInherit:
		return "it is not for df inherit"
	case cfg.SrcPorts > netio.FastPorts:
		return "it is for 64 source ports at most: set ports in [socket]"
	case cfg.Ageing != 0 && cfg.Ageing < fastAgeing:
		return "ageing is less than 4 seconds"
	case !t.device.State().Here:
		return "the device is in another network namespace"
	case t.config.Device.Down || !t.device.State().Up:
		return "the device is down" // what comes for it is counted as that
	case shared:
		return "a tunnel device shares a bridge or bond with the underlay, or may do so"
	}
	return ""
}

// set tells of a tunnel.
func (f *fast) set(ft *fastTunnel, t *tunnel, snap *forward.Snapshot) {
	said := netio.FastTunnel{
		Port: t.id, Ifindex: t.device.State().Ifindex, Name: t.port.Name, MAC: t.port.MAC, Cautious: t.config.FastPath == spec.FastAuto,
	}
	peers := make(map[int32]fastPeer, len(t.peers))
	for _, p := range t.peers {
		if fp, ok := t.fastPeer(p, snap); ok {
			said.Peers = append(said.Peers, fp)
			before, ok := ft.peers[p.ID]
			if !ok {
				before.last = new(netio.FastCounts)
			}
			peers[p.ID] = fastPeer{&p.Traffic[len(p.Traffic)-1], p.Nexthop, before.last}
		}
	}
	last := f.path.Set(said)
	ft.keep(last)
	ft.peers = peers
}

// keep takes over the last counters of peers.
func (ft *fastTunnel) keep(last map[int32]netio.FastCounts) {
	for id, c := range last {
		if p, ok := ft.peers[id]; ok {
			p.add(c)
		}
	}
}

// add takes over what the fast path has counted of a peer since it was last asked.
func (p fastPeer) add(c netio.FastCounts) {
	p.traffic.RxPackets.Add(c.RxPackets - p.last.RxPackets)
	p.traffic.RxBytes.Add(c.RxBytes - p.last.RxBytes)
	p.traffic.TxPackets.Add(c.TxPackets - p.last.TxPackets)
	p.traffic.TxBytes.Add(c.TxBytes - p.last.TxBytes)
	*p.last = c
}

// fastPeer is a peer as the fast path has it; not ok: it is for the workers.
func (t *tunnel) fastPeer(p *peer, snap *forward.Snapshot) (fp netio.FastPeer, ok bool) {
	path, rules, r := p.Path, t.port.Segment.Rules, &p.route
	if path == nil {
		path = p.PathFrag
	}
	limit, header := int(p.Limit.Load()), p.Headers[0]
	switch {
	case limit == 0 || p.Dead() || p.Blocked.Load() || p.Loop.Load() != nil || p.Dest.Remote.Addr().IsMulticast():
		return fp, false
	case r.Ifindex == 0 || !r.Source.IsValid() || path == nil || len(path.Set.Ports) > netio.FastPorts:
		return fp, false
	case snap.IsOwn(int32(r.Ifindex)): // it is carried by another tunnel
		return fp, false
	case p.overhead != 0: // IPsec, which is not to be passed by
		return fp, false
	case len(header) != encap.HeaderLen || string(header[:4]) != fastHeader:
		return fp, false
	}
	fp = netio.FastPeer{
		ID: p.ID, Ifindex: r.Ifindex, Source: r.Source.WithZone(""), Remote: p.Dest.Remote, Header: [8]byte(header),
		Ports: path.Set.Ports, Mark: t.config.Mark, TTL: rules.TTL, TOS: rules.TOS,
		InheritTTL: rules.InheritTTL, InheritTOS: rules.InheritTOS,
		NoChecksum: !t.config.UDPCsum, MayCut: path == p.PathFrag, Limit: limit, FloodLimited: p.BUM.Interval != 0,
	}
	if p.Dest.Remote.Addr().Is6() {
		fp.NoChecksum = t.config.ZeroCsum6
	}
	if r.BySocket {
		fp.NextHop = r.Gateway
		if !r.Gateway.IsValid() {
			fp.NextHop = p.Dest.Remote.Addr()
		}
		fp.NextHop = fp.NextHop.WithZone("")
	}
	for _, a := range p.admissions {
		i := slices.IndexFunc(t.sockets, func(s *socket) bool { return s.ID == a.Socket })
		if i < 0 || t.sockets[i].options.Group.IsValid() {
			continue
		}
		local := t.sockets[i].options.Local
		if local.IsUnspecified() {
			local = fp.Source
		}
		fp.Admit = append(fp.Admit, netio.FastAdmission{VNI: uint32(a.VNI), Local: local.WithZone(""), Port: t.sockets[i].options.Port})
	}
	return fp, true
}

// fill tells of all entries of a tunnel's table. From before it reads them, changes are told
// of as well.
func (f *fast) fill(t *tunnel, now int64) {
	t.state.Fast.Store(true)
	for entry := range t.domains[0].fdb.All(now) {
		f.path.Entry(t.id, entry.MAC, fastPlace(t.port, entry.Nexthop))
	}
}

// fastPlace is where a nexthop is in the words of the fast path.
func fastPlace(port *forward.Port, nh fdb.Nexthop) int32 {
	if nh == fdb.Local {
		return 0
	}
	if peers := port.Segment.NexthopPeers(nh); len(peers) == 1 && peers[0].Nexthop == nh {
		return peers[0].ID
	}
	return netio.FastNowhere
}

// fastEntry tells of a change of a table. The table is locked.
func (f *fast) fastEntry(port *forward.Port, c fdb.Event) {
	place := int32(netio.FastNowhere)
	switch c.Kind {
	case fdb.EventNew, fdb.EventMoved, fdb.EventReplaced:
		place = fastPlace(port, c.Nexthop)
	case fdb.EventFrozen, fdb.EventThawed:
		return
	}
	f.path.Entry(port.ID, c.MAC, place)
}

// doubtFast has the routes of a tunnel told to the fast path with the next publishFast.
// e.mu is held.
func (e *Endpoint) doubtFast(t *tunnel) {
	e.fast.mu.Lock()
	defer e.fast.mu.Unlock()
	if ft := e.fast.tunnels[t.id]; ft != nil {
		ft.stale = true
	}
}

// pullCounts reads what the fast path has counted.
func (e *Endpoint) pullCounts() {
	f := &e.fast
	if f.path == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.tunnels) == 0 {
		return
	}
	all := make(map[int32]fastPeer)
	for _, ft := range f.tunnels {
		for id, p := range ft.peers {
			all[id] = p
		}
	}
	now := e.clock()
	f.path.Counts(func(id int32, c netio.FastCounts) {
		if p, ok := all[id]; ok {
			p.add(c)
			if c.Seen >= 0 {
				p.traffic.Seen.Store(now - int64(c.Seen))
			}
		}
	})
}

// pullHeard keeps entries alive that the fast path has heard or used, and reads counters.
// It is called once a second, before the tables are swept.
func (e *Endpoint) pullHeard() {
	e.pullCounts()
	f := &e.fast
	if f.path == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.tunnels) == 0 {
		return
	}
	now := e.clock()
	f.path.Heard(func(port uint32, mac packet.MAC, peer int32, heard, used time.Duration) {
		ft := f.tunnels[port]
		if ft == nil {
			return
		}
		via, ok := fdb.Local, peer == 0
		if !ok {
			var p fastPeer
			if p, ok = ft.peers[peer]; ok {
				via = p.nexthop
			}
		}
		if !ok {
			return
		}
		if heard >= 0 {
			ft.fdb.Heard(mac, via, now-int64(heard))
		}
		if used >= 0 {
			ft.fdb.Used(mac, via, now-int64(used))
		}
	})
	e.sayFast()
}

// sayFast logs how tunnels are carried when that has changed. fast.mu is held.
func (e *Endpoint) sayFast() {
	for id, ft := range e.fast.tunnels {
		s := e.fast.path.State(id)
		var on []string
		for _, d := range s.Devices {
			on = append(on, d.Name)
		}
		slices.Sort(on)
		told := strings.Join(on, ",") + "|" + s.Reason
		if told == ft.told {
			continue
		}
		ft.told = told
		device := zap.String("device", ft.port.Name)
		switch {
		case s.Reason != "":
			e.log.Warn("the fast path does not carry all that was asked for; what it does not carry goes the ordinary way", device, zap.Strings("on", on), zap.String("why", s.Reason))
		default:
			e.log.Info("the fast path carries known unicast", device, zap.Strings("on", on))
		}
	}
}

// FastState is how a tunnel with a fast path is carried.
type FastState struct {
	netio.FastState
	Wanted               spec.FastPath
	RxPackets, TxPackets uint64 // of all, those that it carried
}

// fastState is that of a tunnel. e.mu is held.
func (e *Endpoint) fastState(t *tunnel) FastState {
	s := FastState{Wanted: t.config.FastPath}
	for _, p := range t.peers {
		if len(p.Traffic) > e.workers {
			s.RxPackets += p.Traffic[e.workers].RxPackets.Load()
			s.TxPackets += p.Traffic[e.workers].TxPackets.Load()
		}
	}
	switch {
	case e.fast.path == nil:
		s.Reason = "there is none here"
	case t.slow != "":
		s.Reason = t.slow
	default:
		s.FastState = e.fast.path.State(t.id)
	}
	return s
}
