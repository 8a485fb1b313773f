package main

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
	"gvtep/internal/evpn"
	"gvtep/internal/evpn/speaker"
	"gvtep/internal/netwatch"
	"gvtep/internal/packet"
)

// agent joins what it knows: routes from the speaker, stations from the kernel, tunnels from gvtep.
type agent struct {
	cfg     *evpn.Config
	log     *zap.Logger
	gvtep   *control.Client
	started time.Time
	events  *feed
	anew    chan struct{} // asks for all stations once more
	kick    chan struct{} // something is to be told
	again   chan struct{} // links changed

	mu       sync.Mutex
	table    *evpn.Table
	speaker  *speaker.Speaker // nil until gvtep has answered once
	tunnels  map[string]*tunnel
	ribs     map[netip.Addr]bool // neighbours that have told all they know
	up       map[netip.Addr]bool
	firstRIB time.Time       // when the first of them had
	complete bool            // all have, or it took too long: what was not named may go
	whole    map[string]bool // tunnels of which gvtep is to be told everything
	seen     map[where]bool  // while all stations are being told
	stats    stats
	gvtepUp  bool
}

// stats are counters of the process.
type stats struct {
	malformed, batches, failed uint64
	lines                      uint64
}

// where is a station in a segment.
type where struct {
	vni uint32
	mac packet.MAC
}

type seenKey struct {
	dev  string
	addr netip.Addr
}

func newAgent(cfg *evpn.Config, log *zap.Logger, gvtep *control.Client) *agent {
	now := time.Now()
	return &agent{
		cfg: cfg, log: log, gvtep: gvtep, started: now, table: evpn.New(cfg.Rules, now), events: newFeed(),
		anew: make(chan struct{}, 1), kick: make(chan struct{}, 1), again: make(chan struct{}, 1),
		tunnels: map[string]*tunnel{}, ribs: map[netip.Addr]bool{}, up: map[netip.Addr]bool{}, whole: map[string]bool{},
	}
}

// poke makes a reader of c do its work once more.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run works until ctx ends. It calls ready when the sessions have begun.
func (a *agent) run(ctx context.Context, ready func()) {
	var all sync.WaitGroup
	for _, part := range []func(context.Context){a.watchLinks, a.watchStations, a.followGvtep} {
		all.Go(func() { part(ctx) })
	}
	a.tell(ctx, ready)
	all.Wait()
}

// Routes implements speaker.Sink.
func (a *agent) Routes(update []evpn.Route, withdraw []evpn.Key) {
	now := time.Now()
	a.mu.Lock()
	for _, r := range update {
		a.table.Update(r, now)
	}
	for _, k := range withdraw {
		a.table.Withdraw(k, now)
	}
	a.mu.Unlock()
	for _, r := range update {
		a.events.route("update", &r)
	}
	for _, k := range withdraw {
		a.events.route("withdraw", &evpn.Route{Key: k})
	}
	poke(a.kick)
}

// Malformed implements speaker.Sink.
func (a *agent) Malformed(n int) {
	a.mu.Lock()
	a.stats.malformed += uint64(n)
	a.mu.Unlock()
}

// Session implements speaker.Sink.
func (a *agent) Session(neighbor netip.Addr, up bool, why string) {
	a.mu.Lock()
	changed := a.up[neighbor] != up
	a.up[neighbor] = up
	if !up {
		delete(a.ribs, neighbor)
		a.table.Sessions(len(a.ribs) > 0, time.Now())
	}
	a.mu.Unlock()
	if !changed {
		return
	}
	if up {
		a.log.Info("session is up", zap.Stringer("neighbor", neighbor))
		a.events.session("up", neighbor)
	} else {
		a.log.Warn("session is down", zap.Stringer("neighbor", neighbor), zap.String("reason", why))
		a.events.session("down", neighbor)
	}
	poke(a.kick)
}

// EndOfRIB implements speaker.Sink.
func (a *agent) EndOfRIB(neighbor netip.Addr) {
	a.mu.Lock()
	a.ribs[neighbor] = true
	if a.firstRIB.IsZero() {
		a.firstRIB = time.Now()
	}
	a.table.Sessions(true, time.Now())
	a.mu.Unlock()
	a.log.Info("neighbour has told all its routes", zap.Stringer("neighbor", neighbor))
	poke(a.kick)
}

// others is how long the neighbours that are not there are waited for after one has told all it knows.
const others = 10 * time.Second

// completed notes once that what nobody named is not there any more. a.mu is held.
func (a *agent) completed(now time.Time) {
	if a.complete || a.speaker == nil {
		return
	}
	// What we ask for by its targets comes behind an End-of-RIB that came before we had asked.
	all := len(a.ribs) == len(a.cfg.Neighbors) && !a.cfg.Constraint
	late := !a.firstRIB.IsZero() && now.Sub(a.firstRIB) > others && !slices.ContainsFunc(a.cfg.Neighbors, func(n evpn.Neighbor) bool {
		return a.up[n.Addr] && !a.ribs[n.Addr]
	})
	if a.complete = all || late || now.Sub(a.started) > a.cfg.Restart; !a.complete {
		return
	}
	for dev := range a.tunnels {
		a.whole[dev] = true
	}
	if len(a.ribs) == 0 { // a neighbour without graceful restart says no End-of-RIB
		a.table.Sessions(slices.ContainsFunc(a.cfg.Neighbors, func(n evpn.Neighbor) bool { return a.up[n.Addr] }), now)
	}
}

// Begin, End, Station and Bound implement netwatch.Sink.
func (a *agent) Begin() {
	a.mu.Lock()
	a.seen = map[where]bool{}
	a.mu.Unlock()
}

// End removes what was not named since Begin.
func (a *agent) End() {
	a.mu.Lock()
	for vni, own := range a.own() {
		var gone []packet.MAC
		a.table.Locals(vni, func(mac packet.MAC, _ int) bool {
			if mac != own && !a.seen[where{vni, mac}] {
				gone = append(gone, mac)
			}
			return true
		})
		for _, mac := range gone {
			a.table.Unlearn(vni, mac)
		}
	}
	a.seen = nil
	a.mu.Unlock()
	poke(a.kick)
}

// own are the stations that the host itself is in the segments. a.mu is held.
func (a *agent) own() map[uint32]packet.MAC {
	own := map[uint32]packet.MAC{}
	for _, t := range a.tunnels {
		for _, s := range t.segments {
			own[s.VNI] = t.self.MAC
		}
	}
	return own
}

// Station is one that a bridge has learned or forgotten.
func (a *agent) Station(s netwatch.Station, gone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.tunnels {
		if t.bridge.Index != s.Bridge {
			continue
		}
		for _, g := range t.segments {
			if !t.carries(&g, s.VLAN) || s.MAC == t.self.MAC {
				continue
			}
			if gone || s.Port == t.dev.Index { // it is behind the tunnel now
				a.table.Unlearn(g.VNI, s.MAC)
				continue
			}
			fresh := a.seen == nil
			if !fresh {
				a.seen[where{g.VNI, s.MAC}] = true
			}
			a.table.Learn(g.VNI, s.MAC, s.Port, fresh, time.Now())
		}
	}
	poke(a.kick)
}

// Bound is an IP address that somebody uses on a bridge, or behind a tunnel's device.
func (a *agent) Bound(b netwatch.Binding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range a.tunnels {
		if b.Link != t.dev.Index && (b.Link != t.bridge.Index || t.bridge.Index == 0) {
			continue
		}
		for _, g := range t.segments {
			// On a trunk nobody says which VLAN it was in: the one that has the station.
			if g.VLAN == 0 || a.table.Has(g.VNI, b.MAC) {
				a.table.Bind(g.VNI, b.IP, b.MAC)
			}
		}
	}
	poke(a.kick)
}

func (a *agent) watchStations(ctx context.Context) {
	for ctx.Err() == nil {
		if err := netwatch.Watch(ctx, a, a.anew); err != nil {
			a.log.Error("stations cannot be watched", zap.Error(err))
			pause(ctx, time.Second)
		}
	}
}

func (a *agent) watchLinks(ctx context.Context) {
	for ctx.Err() == nil {
		if err := netwatch.Links(ctx, func() { poke(a.again) }); err != nil {
			a.log.Error("links cannot be watched", zap.Error(err))
		}
		pause(ctx, time.Second)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
