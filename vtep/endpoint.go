// Package vtep is the tunnel endpoint (GENEVE or VXLAN, package encap): it carries frames
// between tunnel devices and peers on the underlay.
//
// An Endpoint has tunnels. Each has a device, a segment (its VNI, forwarding
// table and flood list) and peers. It opens what they need, makes an immutable snapshot of
// them (package forward) and hands that to its workers (package work), which carry the
// frames. Those packages decide what happens to a frame; this one decides what exists.
//
// The package knows neither TAP devices nor sockets: it is given both behind
// the interfaces of package netio.
package vtep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/internal/work"
	"gvtep/vtep/option"
)

// Config is what an endpoint is made of.
type Config struct {
	// Workers is the number of threads, and of queues per device and sockets
	// per address. It is fixed for the life of the endpoint.
	Workers int
	// CPUs are those that the workers run on, one each in turn; nil: any.
	CPUs     []int
	Devices  netio.Devices
	Underlay netio.Underlay
	FastPath netio.FastPath // nil: none. It is closed by who made it, after the endpoint
	Log      *zap.Logger    // nil: none
	// Names are the kinds of GENEVE options that are known; nil: the built-in ones.
	Names *option.Registry
}

// Endpoint is a set of tunnels on one set of workers. All methods may be
// called from any goroutine.
type Endpoint struct {
	devices  netio.Devices
	underlay netio.Underlay
	log      *zap.Logger
	workers  int
	pool     *work.Pool
	started  time.Time

	recheck chan struct{} // there are doubtful peers
	unseen  chan struct{} // nobody has looked what is above some device
	polled  int           // the peer that the next poll begins with; the watcher's
	answers answers       // asked ahead of a change
	// devicesMoved says that others have changed something about devices.
	devicesMoved chan struct{}
	failures     chan error // a tunnel or socket has failed for good
	ready        atomic.Bool
	events       events
	senders      chan sender // unknown senders that may become peers
	told         told        // by ICMP
	names        atomic.Pointer[option.Registry]
	asked        asked // by probes
	// flapped is what the tables had counted when flapping addresses were
	// last looked for; only the watcher uses it.
	flapped map[*fdb.Table]fdb.Stats

	mu        lock // held by one change at a time
	running   bool
	closed    bool
	tunnels   map[string]*tunnel
	sockets   map[listening]*socket
	spoken    map[spoken]int                 // how many of them
	departing departures                     // nil but during a change
	owners    map[*forward.PortState]*tunnel // as tunnels, by what their peers know of them
	switched  map[*forward.PortState]*Cause  // of a change of "up" of which the kernel has not told yet
	admitted
	// rehearsing says that the change under way only makes its checks: see Rehearsal.
	rehearsing  bool
	lastID      uint32
	lastVersion uint64 // of a tunnel
	above       above
	nested      nesting
	missing     bool // it was logged that an address family is missing

	goneDrops count.Drops // of tunnels that are no longer there
	fast      fast
	live      liveness
}

// New makes an endpoint without tunnels. Close or Run must be called for its
// descriptors to go.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Workers < 1 {
		return nil, fmt.Errorf("%d workers: at least one is needed", cfg.Workers)
	}
	e := &Endpoint{
		devices: cfg.Devices, underlay: cfg.Underlay, log: cfg.Log,
		workers:      cfg.Workers,
		started:      time.Now(),
		recheck:      make(chan struct{}, 1),
		unseen:       make(chan struct{}, 1),
		devicesMoved: make(chan struct{}, 1),
		failures:     make(chan error, 1),
		senders:      make(chan sender, senderQueue),
		tunnels:      make(map[string]*tunnel),
		sockets:      make(map[listening]*socket),
		spoken:       make(map[spoken]int),
		owners:       make(map[*forward.PortState]*tunnel),
		switched:     make(map[*forward.PortState]*Cause),
		fast:         fast{path: cfg.FastPath, tunnels: make(map[uint32]*fastTunnel)},
		live:         newLiveness(cfg.Underlay.Sender(0)),
	}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	if cfg.Names == nil {
		cfg.Names = option.Default()
	}
	e.names.Store(cfg.Names)
	seed := rand.Uint64()
	var err error
	e.pool, err = work.New(work.Config{
		Workers: cfg.Workers, CPUs: cfg.CPUs, Sender: cfg.Underlay.Sender,
		Clock: e.clock, Seed: seed, Owner: listener{e},
	})
	if err != nil {
		return nil, err
	}
	if cfg.FastPath != nil {
		cfg.FastPath.Start(seed)
	}
	e.above.cards = e.askCards()
	return e, nil
}

// clock is the endpoint's time: monotonic nanoseconds since it was made.
func (e *Endpoint) clock() int64 { return int64(time.Since(e.started)) }

// SetBusyPoll sets how long a worker looks for more after traffic before it
// sleeps; 0, the default, is not at all. It takes effect at once.
//
// A packet that comes in that time is spared the wake-up of a sleeping thread
// on a sleeping processor, tens of microseconds on a virtual machine, for CPU
// time that would otherwise be idle: the worker yields to other threads that want
// to run.
func (e *Endpoint) SetBusyPoll(d time.Duration) { e.pool.SetBusyPoll(d) }

// SetNames sets the kinds of GENEVE options that are known. What they say of lengths and critical
// options holds for all packets that arrive once it has returned.
func (e *Endpoint) SetNames(names *option.Registry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	e.names.Store(names)
	return e.publish()
}

// Names are the kinds of GENEVE options that are known.
func (e *Endpoint) Names() *option.Registry { return e.names.Load() }

// errClosed is returned for changes to an endpoint that is stopping.
var errClosed = errors.New("the endpoint is shutting down")

// Run carries frames until ctx ends, then takes everything down: when it
// returns there is no thread, descriptor or device left that was not asked to
// persist. It returns nil if ctx ended it, else what broke every tunnel.
func (e *Endpoint) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	e.lookAbove()
	e.lookSoon() // the paths to peers were checked before this was known
	e.mu.Lock()
	if e.running || e.closed {
		e.mu.Unlock()
		return errClosed
	}
	e.running = true
	e.pool.Start()
	err := e.publish()
	e.mu.Unlock()

	var watcher sync.WaitGroup
	if err == nil {
		watcher.Go(func() { e.watch(ctx) })
		watcher.Go(func() { e.probe(ctx) })
		watcher.Go(func() { e.hearErrors(ctx) })
		watcher.Go(func() { e.runLiveness(ctx) })
		watcher.Go(func() { e.devices.Watch(ctx, e.devicesChanged) })
		e.ready.Store(true)
		select {
		case <-ctx.Done():
		case err = <-e.failures:
		}
		e.ready.Store(false)
	}
	cancel()
	watcher.Wait()
	return errors.Join(err, e.shutdown())
}

// Close takes down an endpoint that was never run.
func (e *Endpoint) Close() error { return e.shutdown() }

func (e *Endpoint) shutdown() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.leaveFast()
	err := errors.Join(e.pool.Stop(), e.closeTunnels(slices.Collect(maps.Values(e.tunnels))))
	e.pool.Close()
	return err
}

// publish makes a snapshot of the configuration and hands it to the workers. When it returns
// without an error, nobody uses what only older ones have. e.mu is held.
func (e *Endpoint) publish() error {
	snap := &forward.Snapshot{Names: e.names.Load()}
	listening := make(map[*socket]bool, len(e.sockets))
	for _, t := range e.sorted() {
		snap.Ports = append(snap.Ports, t.port)
		t.state.Current.Store(t.port)
		for _, s := range t.sockets {
			if !listening[s] {
				listening[s] = true
				snap.Sockets = append(snap.Sockets, s.Socket)
			}
		}
	}
	return e.hand(snap)
}

// republish is publish after a change that only made other versions of tunnels, with the sockets
// that they had. e.mu is held.
func (e *Endpoint) republish(changed []*tunnel) error {
	snap := *e.pool.Snapshot()
	snap.Ports = slices.Clone(snap.Ports)
	for _, t := range changed {
		i, _ := slices.BinarySearchFunc(snap.Ports, t.port.Name, func(p *forward.Port, name string) int { return strings.Compare(p.Name, name) })
		snap.Ports[i] = t.port
		t.state.Current.Store(t.port)
	}
	return e.hand(&snap)
}

// hand gives a snapshot to all who carry packets. Who is admitted where is in maps whose parts it
// shares with those before it, but for what has changed. e.mu is held.
func (e *Endpoint) hand(snap *forward.Snapshot) error {
	now := e.admitted.copy()
	snap.Admit, snap.Sources, snap.Peers = now.admit, now.sources, now.byID
	snap.VNIs, snap.Trunks, snap.Open = now.vnis, now.trunks, now.open
	e.guard(snap)
	e.watchPeers()
	e.publishFast(snap)
	err := e.pool.Publish(snap)
	e.renest()
	return err
}

// sorted returns all tunnels in the order of their names.
func (e *Endpoint) sorted() []*tunnel {
	return slices.SortedFunc(maps.Values(e.tunnels), func(a, b *tunnel) int {
		return strings.Compare(a.port.Name, b.port.Name)
	})
}

// zapErr names an error in the log.
func zapErr(err error) zap.Field { return zap.NamedError("err", err) }
