// Package work carries packets: a pool of workers, one thread each, that read, decide by the
// snapshot (package forward) and write. A worker carries a frame from end to end, in both
// directions: outbound.go and inbound.go are the way of a frame, duty.go says who works
// and who rests, handover.go how a new snapshot takes the place of the old one.
package work

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/bfd"
	"gvtep/vtep/internal/forward"
)

// Owner is notified of what workers find and cannot repair. They call it, so it must not wait.
type Owner interface {
	// DeviceFailed says that a port's device is gone, perhaps more than once.
	DeviceFailed(*forward.Port, error)
	// SocketFailed says that a receive socket is of no more use.
	SocketFailed(*forward.Socket, error)
	// PathChanged says that a path may carry less than it did.
	PathChanged()
	// Knock asks to let in an unknown sender, whose datagram waits for it. It
	// reports whether that may come about.
	Knock(*forward.Port, netip.Addr) bool
	// Control hands over a BFD packet of a peer, where it is from inside, and when it came. It
	// reports false if there is no room for it.
	Control(from *forward.Peer, p bfd.Packet, far bfd.Address, at int64) bool
	// Answered hands over an answer to a probe.
	Answered(from netip.Addr, answer encap.Probe)
	// Unpinned says that a worker is not bound to the processor that it should be,
	// and Unsliced that it has the kernel's time slices.
	Unpinned(worker, cpu int, err error)
	Unsliced(worker int, err error)
	// Unpolled reports how many descriptors could not be added to epoll.
	Unpolled(descriptors int, err error)
}

// Config is what a pool is made of.
type Config struct {
	Workers int
	CPUs    []int // that the workers run on, one each in turn; nil: any
	Sender  func(worker int) netio.Sender
	Clock   func() int64 // monotonic, ns
	Seed    uint64       // of the flow hash; secret, so that nobody can aim at a source port
	Owner   Owner
}

// Pool is a set of workers, one thread each, that carry frames both ways between the
// devices and sockets of a snapshot. Methods that change something are for one caller at a
// time; all others may be called by any goroutine.
type Pool struct {
	Config
	workers  []*worker
	poll     *pollSet
	busyPoll atomic.Int64 // nanoseconds

	_        cacheLine    // what workers write under load does not slow down what they read each round
	onDuty   atomic.Int32 // how many workers wait for what is ready, or serve it; at least one
	calledUp atomic.Int64 // when one was last called, or would have been if there were more
	bulk     atomic.Int64 // when a turn of some worker was last bulk
	_        cacheLine

	view     atomic.Pointer[view]
	tap      atomic.Pointer[capture.Tap] // nil: nothing is captured
	settled  atomic.Uint64               // generation that all workers have passed
	passing  chan struct{}               // a worker has passed to another snapshot or heard the wakeup
	carrying atomic.Bool                 // the workers run
	unpolled atomic.Int32                // descriptors that could not be added to the poll set
	stuck    atomic.Pointer[[]int]       // workers that did not answer when last asked
	probing  probing

	// Of those who change something.
	running bool
	threads sync.WaitGroup
	todo    []func() // see afterwards
	slots   map[descriptor]*slot
}

// cacheLine keeps fields apart: processors fetch lines of 64 bytes in pairs.
type cacheLine [128]byte

// New makes a pool with nothing to carry. close or stop must be called for its
// descriptors to go.
func New(cfg Config) (*Pool, error) {
	p := &Pool{Config: cfg, passing: make(chan struct{}, 1), slots: make(map[descriptor]*slot)}
	p.view.Store(&view{Snapshot: new(forward.Snapshot)})
	p.onDuty.Store(1)
	p.probing.init()
	var err error
	if p.poll, err = newPollSet(); err != nil {
		return nil, fmt.Errorf("descriptors to wait for packets: %w", err)
	}
	for i := range cfg.Workers {
		w, err := newWorker(p, i, cfg.Sender(i))
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		w.resting.Store(i > 0)
		if n := len(cfg.CPUs); n > 0 {
			w.cpu = cfg.CPUs[i%n]
		}
		p.workers = append(p.workers, w)
	}
	return p, nil
}

// Start starts the workers.
func (p *Pool) Start() {
	for _, w := range p.workers {
		p.threads.Go(w.run)
	}
	p.running = true
	p.carrying.Store(true)
}

// Stop ends the workers, if they run, and does what was to be done afterwards.
func (p *Pool) Stop() error {
	p.carrying.Store(false)
	p.view.Store(&view{Snapshot: new(forward.Snapshot), generation: p.view.Load().generation + 1, closing: true})
	p.ring()
	p.threads.Wait()
	p.poll.silence()
	p.running = false
	return p.finish()
}

// Close closes the descriptors of a pool that has stopped.
func (p *Pool) Close() { p.poll.close(p.workers) }

// Snapshot is the newest one.
func (p *Pool) Snapshot() *forward.Snapshot { return p.view.Load().Snapshot }

// SetBusyPoll sets for how long a worker polls after traffic before it sleeps.
func (p *Pool) SetBusyPoll(d time.Duration) { p.busyPoll.Store(int64(d)) }

// Thread is the number of a worker's thread, as in /proc/PID/task.
func (p *Pool) Thread(worker int) int32 { return p.workers[worker].thread.Load() }

// Unpolled is how many descriptors could not be added to epoll.
func (p *Pool) Unpolled() int { return int(p.unpolled.Load()) }

// Polled is how many descriptors the workers wait for.
func (p *Pool) Polled() (n int) {
	for _, l := range p.poll.slots {
		if l.state == waited {
			n++
		}
	}
	return n
}

// Pending is how many datagrams wait for their sender to be let in. It is for a pool
// that does not run.
func (p *Pool) Pending() (n int) {
	for _, w := range p.workers {
		n += len(w.pending)
	}
	return n
}

// OnDuty is how many workers do not rest.
func (p *Pool) OnDuty() int { return int(p.onDuty.Load()) }

// Step lets the workers of a pool that does not run go round in the caller's goroutine,
// until nothing is left to do.
func (p *Pool) Step() {
	for range 4 {
		for _, w := range p.workers {
			for w.adopt() && w.round(false) {
			}
		}
	}
}

// Counts are what the workers have counted that belongs to no tunnel.
type Counts struct {
	Drops   count.Drops
	Options []count.OptionState // sorted by class
	Refused []count.Refused     // packets from the underlay, also those of tunnels; the most frequent first
	// Packets of each system call.
	UDPReceive, UDPTransmit, TAPReceive, TAPTransmit packet.BatchCounts
}

// Counts adds up what the workers have counted.
func (p *Pool) Counts() (c Counts) {
	options := make(map[int]*count.OptionState)
	for _, w := range p.workers {
		c.Drops.Add(&w.drops)
		w.batches.udpReceive.AddTo(&c.UDPReceive)
		w.batches.tapReceive.AddTo(&c.TAPReceive)
		w.batches.tapTransmit.AddTo(&c.TAPTransmit)
		w.sender.Batches().AddTo(&c.UDPTransmit)
		w.options.AddTo(options)
	}
	c.Refused = p.Refused()
	c.Options = count.SortedOptions(options)
	return c
}

// Refused is what dropped packets from the underlay looked like, the most frequent first.
func (p *Pool) Refused() []count.Refused {
	all := make(map[count.Sight]*count.Refused)
	for _, w := range p.workers {
		w.evidence.AddTo(all)
	}
	return count.SortedRefused(all)
}

// callUp brings one more worker to duty, if there is one.
func (p *Pool) callUp() {
	p.calledUp.Store(p.Clock())
	if int(p.onDuty.Load()) == len(p.workers) {
		return
	}
	stuck := p.Stuck()
	for _, w := range p.workers {
		if !slices.Contains(stuck, w.id) && w.resting.CompareAndSwap(true, false) {
			p.onDuty.Add(1)
			w.wake()
			return
		}
	}
}

// standDown ends a worker's duty, unless it is the last one. It reports whether it did.
func (p *Pool) standDown(w *worker) bool {
	for n := p.onDuty.Load(); n > 1; n = p.onDuty.Load() {
		if p.onDuty.CompareAndSwap(n, n-1) {
			w.resting.Store(true)
			return true
		}
	}
	return false
}

// sendFailed counts datagrams that the kernel refused.
func (p *Pool) sendFailed(w *worker, f packet.Failure) {
	to := w.snap.Peers.Get(forward.PeerID(f.Path.Peer))
	if to == nil {
		return
	}
	reason := count.DropNoRoute
	switch f.Err {
	case unix.EMSGSIZE:
		reason = count.DropTooBig
		if f.Path != to.PathFrag && to.Refuse(f.Size-len(to.Headers[0])) {
			p.Owner.PathChanged()
		}
	case unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM:
		reason = count.DropSocketFull
	case unix.EPERM:
		reason = count.DropRefused
	}
	if errno, ok := f.Err.(unix.Errno); ok {
		to.SendErrorAt.Store(w.now)
		to.SendError.Store(uint32(errno))
	}
	to.Port().Segment.Drops[w.id].Tx[reason].Add(uint64(f.Count))
	to.Traffic[w.id].TxFailed.Add(uint64(f.Count))
	if w.tap != nil {
		w.seeUnsent(to, &f, reason)
	}
}
