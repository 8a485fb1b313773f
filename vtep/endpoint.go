// Package vtep is the GENEVE tunnel endpoint (RFC 8926): it carries frames
// between tunnel devices and peers on the underlay.
//
// An Endpoint has tunnels. Each has a device, a segment (its VNI, forwarding
// table and flood list) and peers. Workers, one thread each, carry frames in
// both directions from end to end. They share what is ready (poll.go); what they
// read is one immutable snapshot (snapshot.go). outbound.go and inbound.go are
// the way of a frame.
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
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
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
	Log      *zap.Logger // nil: none
}

// Endpoint is a set of tunnels on one set of workers. All methods may be
// called from any goroutine.
type Endpoint struct {
	devices  netio.Devices
	underlay netio.Underlay
	log      *zap.Logger
	seed     uint64 // of the flow hash; secret, so that nobody can aim at a source port
	started  time.Time
	workers  []*worker
	poll     *pollSet
	onDuty   atomic.Int32 // how many workers wait for what is ready, or serve it; at least one
	calledUp atomic.Int64 // when one was last called up, or would have been if there were more
	bulk     atomic.Int64 // when a turn of some worker was last bulk

	snap     atomic.Pointer[snapshot]
	settled  atomic.Uint64 // generation that all workers have passed
	passing  chan struct{} // a worker has passed to another snapshot or heard the bell
	recheck  chan struct{} // a path may have changed
	failures chan error    // a tunnel or socket is of no more use
	ready    atomic.Bool
	busyPoll atomic.Int64 // nanoseconds
	events   events
	speakers chan speaker // want to be let in
	// flapped is what the tables had counted when flapping addresses were
	// last looked for; only the watcher uses it.
	flapped map[*fdb.Table]fdb.Stats

	carrying atomic.Bool           // the workers run
	unpolled atomic.Int32          // queues and sockets that could not be added to the poll set
	stuck    atomic.Pointer[[]int] // workers that did not answer when last asked

	mu      sync.Mutex // held by one change at a time
	pending []func()   // see afterwards
	running bool
	closed  bool
	tunnels map[string]*tunnel
	sockets map[netio.ListenOptions]*socket
	admit   map[admission]*peer // of all tunnels
	sources map[source][]*peer  // of all trunks
	lastID  uint32

	goneDrops Drops // of tunnels that are no longer there
}

// New makes an endpoint without tunnels. Close or Run must be called for its
// descriptors to go.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Workers < 1 {
		return nil, fmt.Errorf("%d workers: at least one is needed", cfg.Workers)
	}
	e := &Endpoint{
		devices: cfg.Devices, underlay: cfg.Underlay, log: cfg.Log,
		seed:     rand.Uint64(),
		started:  time.Now(),
		passing:  make(chan struct{}, 1),
		recheck:  make(chan struct{}, 1),
		failures: make(chan error, 1),
		speakers: make(chan speaker, speakerQueue),
		tunnels:  make(map[string]*tunnel),
		sockets:  make(map[netio.ListenOptions]*socket),
		admit:    make(map[admission]*peer),
		sources:  make(map[source][]*peer),
	}
	if e.log == nil {
		e.log = zap.NewNop()
	}
	e.snap.Store(&snapshot{})
	e.onDuty.Store(1)
	var err error
	if e.poll, err = newPollSet(); err != nil {
		return nil, fmt.Errorf("descriptors to wait for packets: %w", err)
	}
	for i := range cfg.Workers {
		w, err := newWorker(e, i, e.underlay.Sender(i))
		if err != nil {
			e.closeDescriptors()
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		w.resting.Store(i > 0)
		if n := len(cfg.CPUs); n > 0 {
			w.cpu = cfg.CPUs[i%n]
		}
		e.workers = append(e.workers, w)
	}
	return e, nil
}

// clock is the endpoint's time: monotonic nanoseconds since it was made.
func (e *Endpoint) clock() int64 { return int64(time.Since(e.started)) }

// SetBusyPoll sets how long a worker looks for more after traffic before it
// sleeps; 0, the default, is not at all. It takes effect at once.
//
// A packet that comes in that time is spared the wake-up of a sleeping thread
// on a sleeping processor, tens of microseconds on a virtual machine, for CPU
// time that would otherwise be idle: the worker gives way to whoever else wants
// to run.
func (e *Endpoint) SetBusyPoll(d time.Duration) { e.busyPoll.Store(int64(d)) }

// errClosed is returned for changes to an endpoint that is stopping.
var errClosed = errors.New("the endpoint is shutting down")

// Run carries frames until ctx ends, then takes everything down: when it
// returns there is no thread, descriptor or device left that was not asked to
// persist. It returns nil if ctx ended it, else what broke every tunnel.
func (e *Endpoint) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	e.mu.Lock()
	if e.running || e.closed {
		e.mu.Unlock()
		return errClosed
	}
	var threads sync.WaitGroup
	for _, w := range e.workers {
		threads.Go(w.run)
	}
	e.running = true
	e.carrying.Store(true)
	err := e.publish()
	e.mu.Unlock()

	var watcher sync.WaitGroup
	if err == nil {
		watcher.Go(func() { e.watch(ctx) })
		watcher.Go(func() { e.probe(ctx) })
		e.ready.Store(true)
		select {
		case <-ctx.Done():
		case err = <-e.failures:
		}
		e.ready.Store(false)
	}
	cancel()
	watcher.Wait()
	return errors.Join(err, e.shutdown(&threads))
}

// Close takes down an endpoint that was never run.
func (e *Endpoint) Close() error { return e.shutdown(new(sync.WaitGroup)) }

func (e *Endpoint) shutdown(threads *sync.WaitGroup) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	e.carrying.Store(false)
	e.snap.Store(&snapshot{generation: e.snap.Load().generation + 1, closing: true})
	e.ring()
	threads.Wait()
	e.poll.silence()
	e.running = false
	err := errors.Join(e.finish(), e.closeTunnels(slices.Collect(maps.Values(e.tunnels))))
	e.closeDescriptors()
	return err
}

func (e *Endpoint) closeDescriptors() { e.poll.close(e.workers) }

// sorted returns all tunnels in the order of their names.
func (e *Endpoint) sorted() []*tunnel {
	return slices.SortedFunc(maps.Values(e.tunnels), func(a, b *tunnel) int {
		return strings.Compare(a.port.name, b.port.name)
	})
}

// deviceFailed is called by a worker whose device is gone.
func (e *Endpoint) deviceFailed(p *port, err error) {
	if p.failed.Swap(true) {
		return
	}
	e.log.Error("the device is gone; its tunnel carries nothing any more",
		zap.String("device", p.name), zap.NamedError("err", err))
	for _, other := range e.snap.Load().ports {
		if !other.failed.Load() {
			return
		}
	}
	e.fail(fmt.Errorf("%s: the device was deleted: %w", p.name, err))
}

// socketFailed is called by a worker whose receive socket is of no more use.
func (e *Endpoint) socketFailed(s *socket, err error) {
	e.fail(fmt.Errorf("receive socket %s port %d: %w", s.options.Local, s.options.Port, err))
}

func (e *Endpoint) fail(err error) {
	select {
	case e.failures <- err:
	default:
	}
}

// sendFailed counts datagrams that the kernel refused.
func (e *Endpoint) sendFailed(w *worker, f packet.Failure) {
	to := w.snap.peers[f.Path.Peer]
	if to == nil {
		return
	}
	reason := DropNoRoute
	switch f.Err {
	case unix.EMSGSIZE:
		reason = DropTooBig
		e.recheckPaths()
	case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
		reason = DropSocketFull
	}
	to.port.segment.drops[w.id].tx[reason].Add(uint64(f.Count))
	to.traffic[w.id].txFailed.Add(uint64(f.Count))
}

// zapErr keeps workers free of the logger's vocabulary.
func zapErr(err error) zap.Field { return zap.NamedError("err", err) }
