package daemon

import (
	"context"
	"iter"
	"net/http"
	"runtime"
	runtimemetrics "runtime/metrics"
	"slices"
	"sync"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/metrics"
	"gvtep/cmd/internal/view"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/spec"
)

// source answers the control socket's questions about the endpoint. Changes are the
// reloader's.
type source struct {
	changer
	metrics http.Handler
	runtime *lookout
}

// By is the source for the changes of one caller.
func (s *source) By(who control.Caller) control.Source {
	mine := *s
	mine.by = vtep.Caller(who)
	return &mine
}

// Rehearse is the source for changes that are only checked.
func (s *source) Rehearse(would *control.Would) control.Source {
	mine := *s
	mine.would = would
	return &mine
}

func newSource(r *reloader) *source {
	s := &source{changer: changer{reloader: r}, runtime: new(lookout)}
	b := r.daemon.Build
	s.metrics = metrics.Handler(metrics.New(
		metrics.Build{Version: b.Version, Revision: b.Revision, GoVersion: b.GoVersion},
		func() metrics.Snapshot {
			snap := metrics.Snapshot{State: s.endpoint.State()}
			snap.Logged, snap.LogDropped = r.daemon.Logging.Counts()
			snap.Reloaded, snap.ReloadedAt, snap.MaxPeers = r.outcome()
			return snap
		}))
	return s
}

func (s *source) Metrics() http.Handler { return s.metrics }

func (s *source) Health() control.Health { return control.Health(s.endpoint.Health()) }

func (s *source) Progress() control.Progress {
	done, of := s.endpoint.Changing()
	return control.Progress{Done: done, Of: of}
}

func (s *source) Options() []control.OptionKind { return view.Options(s.endpoint.Names()) }

func (s *source) LogLevel() control.LogLevel { return view.LogLevel(s.daemon.Logging.Level()) }

func (s *source) SetLogLevel(w control.LogLevelWrite) error {
	return usage(s.daemon.Logging.SetLevel(w.Level, w.For))
}

func (s *source) Status(details bool) control.Status {
	st := view.Status(s.endpoint.State(), s.daemon.Instance, s.daemon.Build.Version, time.Now())
	wanted := s.socket().Rcvbuf
	for i := range st.Sockets {
		st.Sockets[i].Wanted = wanted
	}
	st.Config, st.Trial = s.config(), s.trialState(time.Now())
	if details {
		st.Go = s.runtime.look()
	}
	return st
}

func (s *source) Tunnels() []control.Tunnel {
	state, now := s.endpoint.State(), time.Now()
	tunnels := make([]control.Tunnel, len(state.Tunnels))
	for i := range state.Tunnels {
		tunnels[i] = view.Tunnel(&state.Tunnels[i], now)
	}
	return tunnels
}

func (s *source) Tunnel(name string) (control.Tunnel, error) {
	state, err := s.endpoint.Tunnel(name)
	if err != nil {
		return control.Tunnel{}, s.noTunnel(name)
	}
	return view.Tunnel(&state, time.Now()), nil
}

// noTunnel says which names there are instead.
func (s *source) noTunnel(name string) error {
	return control.NoTunnel(name, s.names())
}

func (r *reloader) names() (names []string) {
	for _, t := range r.endpoint.Configs() {
		names = append(names, t.Device.Name)
	}
	return names
}

func (s *source) FDB(f control.FDBFilter) (iter.Seq[control.FDBEntry], error) {
	var names []string
	if f.Dev != "" {
		if _, err := s.endpoint.Config(f.Dev); err != nil {
			return nil, s.noTunnel(f.Dev)
		}
		names = []string{f.Dev}
	}
	options := s.endpoint.Names()
	return func(yield func(control.FDBEntry) bool) {
		for t, e := range s.endpoint.FDB(names...) {
			if f.VNI != nil && !concerns(&e, t, *f.VNI) || f.VLAN != 0 && f.VLAN != e.VLAN || f.Dst.IsValid() && f.Dst != e.Remote.Addr().WithZone("") {
				continue
			}
			if !yield(view.Entry(&e, t, options)) {
				return
			}
		}
	}, nil
}

// concerns reports whether an entry is one of a segment: the flood list is one
// of all segments of a tunnel.
func concerns(e *vtep.FDBEntry, t *vtep.Tunnel, vni uint32) bool {
	if !e.Flood {
		return uint32(e.ID) == vni
	}
	return !t.NoVNI && uint32(t.VNI) == vni || slices.ContainsFunc(t.VLANs, func(r vtep.VLANRange) bool {
		return uint32(r.VNI) <= vni && vni <= uint32(r.VNI)+uint32(r.Last-r.First)
	})
}

// FDBGet returns what is known of one address.
func (s *source) FDBGet(dev, mac string) ([]control.FDBEntry, error) {
	a, err := packet.ParseMAC(mac)
	if err != nil {
		return nil, usage(err)
	}
	t, err := s.endpoint.Config(dev)
	if err != nil {
		return nil, s.noTunnel(dev)
	}
	found, err := s.endpoint.Entry(dev, a)
	if err != nil || len(found) == 0 {
		return nil, spec.NotFound("")
	}
	entries := make([]control.FDBEntry, len(found))
	for i := range found {
		entries[i] = view.Entry(&found[i], &t, s.endpoint.Names())
	}
	return entries, nil
}

// VLANs returns the VLANs of a trunk: ranges, or each with its counters.
func (s *source) VLANs(dev string, stats bool) ([]control.VLAN, error) {
	if !stats {
		t, err := s.endpoint.Config(dev)
		if err != nil {
			return nil, s.noTunnel(dev)
		}
		return append([]control.VLAN{}, view.VLANs(t.VLANs)...), nil
	}
	found, err := s.endpoint.VLANs(dev)
	if err != nil {
		return nil, s.noTunnel(dev)
	}
	all := make([]control.VLAN, len(found))
	for i, v := range found {
		all[i] = control.VLAN{First: v.VID, ID: uint32(v.VNI), Gvtep: &control.VLANDetail{
			RX:  control.Traffic{Bytes: v.Stats.RxBytes, Packets: v.Stats.RxPackets},
			TX:  control.Traffic{Bytes: v.Stats.TxBytes, Packets: v.Stats.TxPackets},
			FDB: view.Count(&v.FDB),
		}}
	}
	return all, nil
}

// Events returns what is there, if a snapshot is asked for, and what happens from now on, or after
// an event that was seen before.
func (s *source) Events(ctx context.Context, from control.EventsFrom) iter.Seq[control.Event] {
	if from.Drops {
		return s.drops(ctx)
	}
	var sub *vtep.Subscription
	whole := true
	if from.After != 0 {
		sub, whole = s.endpoint.SubscribeAfter(from.After)
	}
	if sub == nil {
		sub = s.endpoint.Subscribe()
	}
	return func(yield func(control.Event) bool) {
		defer sub.Close()
		if !whole && !yield(control.Event{Seq: sub.Seq, Time: time.Now(), Object: "lost", Action: "gap"}) {
			return
		}
		if from.Snapshot && !s.snapshot(sub.Seq, yield) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-sub.C:
				if n := sub.Lost(); n > 0 && !yield(control.Event{Seq: e.Seq, Time: e.Time, Object: "lost", Lost: n}) {
					return
				}
				if !yield(view.Event(e)) {
					return
				}
			}
		}
	}
}

// dropPeriod is how often it is looked for what was dropped.
const dropPeriod = time.Second

// drops tells what is dropped, until ctx ends.
func (s *source) drops(ctx context.Context) iter.Seq[control.Event] {
	before := s.endpoint.State()
	return func(yield func(control.Event) bool) {
		tick := time.NewTicker(dropPeriod)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := s.endpoint.State()
			for _, e := range view.Dropped(&before, &now, time.Now()) {
				if !yield(e) {
					return
				}
			}
			before = now
		}
	}
}

// snapshot yields what is there as events. What changes meanwhile may be among it already, and
// comes as an event behind it.
func (s *source) snapshot(seq uint64, yield func(control.Event) bool) bool {
	now := time.Now()
	one := func(e vtep.Event) bool {
		e.Seq, e.Time, e.Action = seq, now, "snapshot"
		return yield(view.Event(e))
	}
	for _, t := range s.endpoint.Brief() {
		if !one(vtep.Event{Object: "tunnel", Tunnel: t.Name}) {
			return false
		}
		for _, p := range t.Peers {
			if !one(vtep.Event{Object: "peer", Tunnel: t.Name, Remote: p.Remote}) {
				return false
			}
		}
	}
	for _, e := range s.endpoint.FDB() {
		if !e.Flood && !one(vtep.Event{Object: "fdb", Tunnel: e.Tunnel, MAC: e.MAC, VLAN: e.VLAN, State: e.State, Flags: e.Flags, Local: e.Local, Remote: e.Remote}) {
			return false
		}
	}
	return yield(control.Event{Seq: seq, Time: now, Object: "snapshot", Action: "end"})
}

// lookout reads the state of the Go runtime. It collects garbage first, so that only live
// objects are counted, but at most once a second: otherwise frequent questions could keep a
// processor busy.
type lookout struct {
	mu   sync.Mutex
	at   time.Time
	last control.Runtime
}

func (l *lookout) look() *control.Runtime {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) > time.Second {
		runtime.GC()
		objects := []runtimemetrics.Sample{{Name: "/gc/heap/objects:objects"}}
		runtimemetrics.Read(objects)
		l.last = control.Runtime{HeapObjects: objects[0].Value.Uint64(), Goroutines: runtime.NumGoroutine()}
		l.at = time.Now()
	}
	last := l.last
	return &last
}

var _ control.Source = (*source)(nil)
