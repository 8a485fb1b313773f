package work

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/icmp"
	"gvtep/internal/netio"
	"gvtep/internal/offload"
	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
)

// outArena holds the pieces of super-frames, and headers made for single frames,
// until they are sent. The worst super-frame, 64 KiB in pieces of a few dozen
// bytes behind 252 bytes of options, fits; those of an ordinary turn need 280 KiB.
const outArena = 832 << 10

// worker is one thread that carries frames both ways from end to end. It takes
// turns at whatever queue or socket is ready (poll.go), writes to one queue of
// every device and sends from one descriptor of every source port.
type worker struct {
	pool   *Pool
	id     int
	cpu    int // that it is bound to; -1: none
	sender netio.Sender

	resting atomic.Bool // not on duty
	call    int         // eventfd that ends a rest
	duty    duty
	load    load
	stat    int // /proc/self/task/ID/schedstat; -1: not there

	snap   *view
	held   *slot // that it has kept, as there is more to do; nil: none
	served int64 // when there was something to do last
	now    int64 // endpoint clock, taken once per loop

	headers  packet.Headers
	virtio   packet.VirtioHdr
	rest     packet.VirtioHdr // of a frame being written to a device
	read     []byte           // frames of the device's turn
	received []byte           // of the socket's turn
	out      arena            // pieces made of them, and headers that are no template
	cutter   offload.Cutter
	reply    [forward.TagLen + icmp.MaxLen]byte // to a frame from the device, behind the room for a tag

	superHead [encap.MaxHeaderLen]byte // of a super-frame's pieces, where it is no template

	admitted admitted
	recent   recent
	moved    recent // as recent, of packets that a rule takes to another VNI
	joining  joining

	tap  *capture.Tap // of the turn; nil: nothing is captured
	seen packet.Headers

	pending  []pending // datagrams whose sender is being admitted
	retrying bool      // they are being taken up

	drops   count.DropCounters // of packets that belong to no tunnel
	options count.OptionCounters
	// evidence is what dropped packets from the underlay looked like.
	evidence count.Evidence
	batches  struct{ udpReceive, tapReceive, tapTransmit packet.Batches }

	events [maxEvents]unix.EpollEvent

	// passed is the newest generation at which the worker has begun a loop.
	passed atomic.Uint64
	// loops counts the loops, to see progress.
	loops  atomic.Uint64
	thread atomic.Int32 // its number, as in /proc/PID/task
}

func newWorker(p *Pool, id int, sender netio.Sender) (*worker, error) {
	call, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &worker{
		pool: p, id: id, sender: sender, cpu: -1, call: call, stat: -1,
		snap:     &view{Snapshot: new(forward.Snapshot)},
		read:     make([]byte, TurnBytes+packet.VirtioHdrLen+packet.MaxFrame),
		received: make([]byte, netio.ReceiveBuffer),
		out:      arena{buf: make([]byte, outArena)},
	}, nil
}

// run carries frames until a closing snapshot is published.
func (w *worker) run() {
	// A thread of its own, which its descriptors and caches favour. It is
	// never unlocked and so ends with the worker, whose name it has in ps -L,
	// top -H and the like. The name of the first thread is that of the process:
	// a worker that comes to it holds it until another thread has done the work.
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		var other sync.WaitGroup
		other.Go(w.run)
		other.Wait()
		runtime.UnlockOSThread()
		return
	}
	name, _ := unix.BytePtrFromString(fmt.Sprintf("gvtep-w%d", w.id))
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	w.thread.Store(int32(unix.Gettid()))
	w.schedule()
	if w.stat, _ = unix.Open("/proc/thread-self/schedstat", unix.O_RDONLY|unix.O_CLOEXEC, 0); w.stat >= 0 {
		defer unix.Close(w.stat)
	}
	if w.cpu >= 0 {
		var set unix.CPUSet
		set.Set(w.cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			w.pool.Owner.Unpinned(w.id, w.cpu, err)
		}
	}
	for w.adopt() {
		w.round(true)
	}
}

// adopt takes over a new snapshot if there is one. It reports false when it is
// time to stop.
func (w *worker) adopt() bool {
	if snap := w.pool.view.Load(); snap != w.snap {
		w.snap, w.recent, w.moved = snap, recent{}, recent{}
		if w.held != nil && snap.turn(w.held) == nil {
			w.held = nil
		}
		w.passed.Store(snap.generation)
		w.pool.hasPassed()
		if snap.closing {
			return false
		}
	}
	return true
}

// round waits for a ready queue or socket and gives it its turn. It reports
// whether there was one.
func (w *worker) round(block bool) bool {
	if len(w.pending) > 0 && w.pool.settled.Load() >= w.snap.generation {
		w.tap = w.pool.tap.Load()
		w.retry()
		w.tap = nil
	}
	if w.pool.probing.errand.Load() != nil {
		w.runErrand()
	}
	w.loops.Add(1)
	if w.resting.Load() {
		if block {
			w.takeRest()
		}
		return false
	}
	held := w.held
	n := w.gather(block)
	w.now = w.pool.Clock()
	served := false
	for i := range w.events[:n] {
		ev := &w.events[i]
		if ev.Fd == wakeupIndex {
			w.pool.hasPassed()
			yield() // others have to hear it, too
			continue
		}
		if t := w.snap.turnAt(ev.Fd, ev.Pad); t != nil {
			t.slot.claim()
			w.serve(t)
			served = true
		}
	}
	if held != nil && held == w.held {
		w.serve(w.snap.turn(held))
		served = true
	}
	if served {
		w.served = w.now
	}
	return served
}

// gather does what duty says until there is something to serve, and returns how many of
// w.events are filled: with slots that are ready and the worker's from here on.
func (w *worker) gather(block bool) (n int) {
	p := w.pool
	busyPoll := time.Duration(p.busyPoll.Load())
	s := seen{event: began, held: w.held != nil, mustNotWait: !block || w.held != nil, busyPoll: busyPoll, sinceServed: time.Duration(w.now - w.served)}
	for {
		s.onDuty = int(p.onDuty.Load())
		if busyPoll > 0 {
			s.spun, s.sinceBulk = time.Duration(p.Clock()-w.now), time.Duration(w.now-p.bulk.Load())
		}
		a := w.duty.next(s)
		if a.call {
			p.callUp()
		}
		switch a.do {
		case serve:
			return n
		case poll:
			if a.yield {
				yield()
			}
			if s.measured = a.measure && w.now-w.load.since >= int64(saturatedWindow); s.measured {
				s.busy, s.waited = w.load.look(w.now, w.stat)
			}
			n, _ = w.poll(0, a.take)
			s.event, s.woken = polled, false
		case sleep:
			n, s.woken = w.sleep(a)
			s.event = slept
		case rest:
			if p.standDown(w) {
				return 0
			}
			s.event = stayed
		}
		s.ready = n
		for i := range w.events[:n] {
			if w.events[i].Fd == wakeupIndex {
				s.ready, s.woken = n-1, true
			}
		}
		if s.event == slept && n == 0 {
			s.sinceCalled, s.stuck, s.pending = time.Duration(p.Clock()-p.calledUp.Load()), len(p.Stuck()) > 0, len(w.pending) > 0
		}
	}
}

// outcome is what a turn has done.
type outcome struct {
	moved      int  // bytes
	more, gone bool // there may be more to do; the descriptor is of no more use
}

// serve gives a queue or socket its turn. One that has more to do is kept for
// the next round, in which another goes first; if there is one such already,
// any worker may take that.
func (w *worker) serve(t *turn) {
	again := w.held == t.slot
	var did outcome
	w.tap = w.pool.tap.Load()
	if t.socket != nil {
		did = w.socketTurn(t.socket, t.n)
	} else {
		did = w.deviceTurn(t.port, t.n)
	}
	w.tap = nil
	p := w.pool
	a := w.duty.next(seen{event: turned, held: w.held != nil && !again, more: did.more, moved: did.moved})
	if a.bulk && w.now-p.bulk.Load() > int64(bulkFor)/4 {
		p.bulk.Store(w.now) // not in every turn: all workers read it
	}
	if a.call {
		p.callUp()
	}
	switch {
	case did.more:
		if w.held != nil && !again {
			p.poll.arm(w.held)
		}
		w.held = t.slot
	case again:
		w.held = nil
	}
	if !did.more && !did.gone { // one that is gone is never waited for again
		p.poll.arm(t.slot)
	}
	if a.nap {
		giveWay()
	}
}

// sleep waits until something is ready. It reports whether a signal ended it early.
func (w *worker) sleep(a action) (n int, woken bool) {
	if !a.raw {
		n, err := unix.EpollWait(w.pool.poll.epoll, w.events[:a.take], int(a.limit.Milliseconds()))
		return max(n, 0), err != nil
	}
	n, errno := w.poll(a.limit, a.take)
	if errno == unix.EINTR {
		// The runtime wants this thread to stop for a moment.
		runtime.Gosched()
	}
	return n, errno != 0
}

// poll waits for at most take descriptors in a raw system call.
func (w *worker) poll(limit time.Duration, take int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.pool.poll.epoll), uintptr(unsafe.Pointer(&w.events[0])),
		uintptr(take), uintptr(limit.Milliseconds()), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
