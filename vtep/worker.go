package vtep

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/internal/icmp"
	"gvtep/internal/offload"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

const (
	// A ready device has this budget per turn. With 1,000 devices and one
	// flooded, draining until EAGAIN delayed the others by 292 ms (p50), a
	// budget of 64 reads by 0.12 ms.
	turnReads = 64
	turnBytes = 256 << 10

	// outArena holds the pieces of super-frames, and headers made for single frames,
	// until they are sent. The worst super-frame, 64 KiB in pieces of a few dozen
	// bytes behind 252 bytes of options, fits; those of an ordinary turn need 280 KiB.
	outArena = 832 << 10

	// For attention after the last packet a worker waits in a raw system call, which
	// keeps its P, then in an ordinary one, from which it takes longer to return:
	// 335 against 255 us for a ping there and back each 10 ms. Go's scheduler sends a
	// signal to a thread that keeps its P for 10 ms, which ends the call. On two
	// nested virtual processors that cost 1 % of one, so it is not for ever.
	attention = 100 * time.Millisecond

	// spare is how long a worker waits that is not the only one on duty before it
	// may find that it is not needed.
	spare = 2 * time.Millisecond

	// maxEvents is how many slots a worker takes at a time that is alone on duty.
	maxEvents = 16

	// A worker looks every sampleEach rounds whether it has to wait at all, which
	// costs a system call. If it had not to so many times in a row, a tenth of a
	// second or more, it needs help. While it keeps a slot in hand it never waits;
	// then it needs help if two others were ready each time. One alone may be the
	// acknowledgements of what is in hand.
	sampleEach = 32
	samples    = 16

	// A worker with a slot in hand needs help as well if it ran for as much of the
	// last hundredth of a second or longer: it is what limits a flow of super-frames,
	// and another processor can take the acknowledgements. One TCP stream gained 4 %
	// in lab wire; at 70 instead of 80 % it lost 5 % in lab veth, where a worker
	// that waits for a processor as often as it runs limits nothing.
	saturated       = 80 // percent
	saturatedWindow = 10 * time.Millisecond

	// contended is for how much of the time a worker waits for its processor, in
	// percent, if it has to share it. Who has one for himself waits for 1 % or less.
	contended = 5

	// slice is the share of a processor that a worker asks for at a time, the least
	// the kernel grants (kernel/sched/syscalls.c), and nap for how long it sleeps
	// between turns of a flood if it has to share its processor. A thread that has
	// slept and asks for little comes before one that computes; one that is made
	// to stop, or yields, waits for a tick, up to 4 ms. The p99 of a ping beside a
	// flood was 2.7 to 3.2 ms with the kernel's slice and sched_yield, 1.5 with the
	// slice, 0.9 to 1.0 with both. Naps of 50 us: 0.7 to 1.4, and a fifth
	// less of the flood arrived; of 1 us: 2.5 to 5.3.
	slice = 100 * time.Microsecond
	nap   = 20 * time.Microsecond

	// A turn of bulkTurn bytes or more is bulk: for bulkFor after it nobody polls
	// busily, which would take the processor from those who make and take it.
	// One TCP stream lost a fifth of its rate to it on two processors.
	bulkTurn = 32 << 10
	bulkFor  = 5 * time.Millisecond
)

// worker is one thread that carries frames both ways from end to end. It takes
// turns at whatever queue or socket is ready (poll.go), writes to one queue of
// every device and sends from one descriptor of every source port.
type worker struct {
	ep     *Endpoint
	id     int
	cpu    int // that it is bound to; -1: none
	sender Sender

	resting atomic.Bool // not on duty; see poll.go
	call    int         // eventfd that ends a rest

	snap   *snapshot
	held   *slot // that it has kept, as there is more to do; nil: none
	moved  int   // bytes of the last turn
	served int64 // when there was something to do last
	rounds uint32
	ready  int // samples in a row that found something ready
	load   load
	shares bool // its processor with others that have much to do
	stat   int  // /proc/self/task/ID/schedstat; -1: not there

	now       int64 // endpoint clock, taken once per loop
	headers   packet.Headers
	virtio    packet.VirtioHdr
	rest      packet.VirtioHdr // of a joined frame being written
	read      []byte           // frames of the device's turn
	out       []byte           // pieces made of them, and headers that are no template
	outLen    int              // used part of out
	cutter    offload.Cutter
	pieces    int                        // of the frame being sent
	narrowest int                        // of the paths that it is too big for, the least limit; 0: of none
	reply     [tagLen + icmp.MaxLen]byte // to a frame from the device, behind the room for a tag
	superHead [geneve.MaxHeaderLen]byte  // of a super-frame's pieces, where it is no template

	// The joiner and where its frame goes.
	joiner   offload.Joiner
	joinPeer *peer
	joinHead []byte // the GENEVE header of its first piece
	// What its last piece came in, if the next one may just follow: nothing that was
	// delivered or admitted otherwise came since. Else nil.
	joinTrain *packet.Train
	headCopy  [geneve.MaxHeaderLen]byte // joinHead, where a tag stands in its place

	// What the last datagram was admitted by: trains repeat it.
	lastTrain  *packet.Train
	lastVNI    geneve.VNI
	lastPeer   *peer
	lastSeg    *segment
	lastSource packet.MAC // learned from it in this train
	// Counted for lastPeer, not yet published.
	rxPackets, rxBytes uint64

	parked    []parked // datagrams whose sender is being let in
	unpacking bool     // they are being taken up

	drops   dropCounters // of packets that belong to no tunnel
	options optionCounters
	batches struct{ udpReceive, tapReceive, tapTransmit packet.Batches }

	events [maxEvents]unix.EpollEvent

	// passed is the newest generation at which the worker has begun a loop.
	passed atomic.Uint64
	// loops counts the loops, for whoever wants to see progress.
	loops  atomic.Uint64
	thread atomic.Int32 // its number, as in /proc/PID/task
}

func newWorker(ep *Endpoint, id int, sender Sender) (*worker, error) {
	call, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &worker{
		ep: ep, id: id, sender: sender, cpu: -1, call: call, stat: -1,
		snap: &snapshot{},
		read: make([]byte, turnBytes+packet.VirtioHdrLen+packet.MaxFrame),
		out:  make([]byte, outArena),
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
			w.ep.log.Warn("the worker runs wherever there is room", zap.Int("worker", w.id), zap.Int("cpu", w.cpu), zapErr(err))
		}
	}
	for w.adopt() {
		w.round(true)
	}
}

// adopt takes over a new snapshot if there is one. It reports false when it is
// time to stop.
func (w *worker) adopt() bool {
	if snap := w.ep.snap.Load(); snap != w.snap {
		w.snap = snap
		if w.held != nil && snap.turn(w.held) == nil {
			w.held = nil
		}
		w.passed.Store(snap.generation)
		w.ep.passed()
		if snap.closing {
			return false
		}
	}
	return true
}

// round waits for a ready queue or socket and gives it its turn. It reports
// whether there was one.
func (w *worker) round(block bool) bool {
	if len(w.parked) > 0 && w.ep.settled.Load() >= w.snap.generation {
		w.unpark()
	}
	w.loops.Add(1)
	if w.resting.Load() {
		if block {
			w.takeRest()
		}
		return false
	}
	held := w.held
	n := w.wait(block && held == nil)
	w.now = w.ep.clock()
	served := false
	for i := range w.events[:n] {
		ev := &w.events[i]
		if ev.Fd == bellIndex {
			w.ep.passed()
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

// serve gives a queue or socket its turn. One that has more to do is kept for
// the next round, in which another goes first; if there is one such already,
// any worker may take that.
func (w *worker) serve(t *turn) {
	again := w.held == t.slot
	var more, gone bool
	if t.socket != nil {
		more, gone = w.socketTurn(t.socket, t.n)
	} else {
		more, gone = w.deviceTurn(t.port, t.n)
	}
	if e := w.ep; w.moved >= bulkTurn && w.now-e.bulk.Load() > int64(bulkFor)/4 {
		e.bulk.Store(w.now) // not in every turn: all workers read it
	}
	if more {
		// A flood of small packets, unless the turn was full of bytes. Nothing
		// else may wait behind it, neither for this worker nor for its processor,
		// which the scheduler leaves to it for 4 ms at a time. With super-frames
		// both cost more than they give: a fifth of TCP's rate on two processors.
		flood := w.moved < turnBytes
		if flood || w.held != nil && !again {
			w.ep.callUp()
		}
		if w.held != nil && !again {
			w.ep.poll.arm(w.held)
		}
		w.held = t.slot
		if flood {
			w.giveWay()
		}
		return
	}
	if again {
		w.held = nil
	}
	if !gone { // else it is never waited for again
		w.ep.poll.arm(t.slot)
	}
}

// wait returns how many of w.events are filled, with slots that are ready and
// the worker's from here on.
func (w *worker) wait(block bool) int {
	e := w.ep
	if w.rounds++; w.rounds%sampleEach == 0 || !block {
		n, _ := w.poll(0)
		if w.rounds%sampleEach == 0 {
			w.sample(n)
		}
		if n > 0 || !block {
			return n
		}
	}
	if busy := e.busyPoll.Load(); busy > 0 && w.now-e.bulk.Load() > int64(bulkFor) {
		for e.clock()-w.now < busy {
			if n, _ := w.poll(0); n > 0 {
				return n
			}
			yield()
		}
	}
	limit := forever
	if e.onDuty.Load() > 1 {
		if n, early := w.sleep(spare); n > 0 || early || e.standDown(w) {
			return n
		}
		limit = linger // to stand down then
	}
	n, _ := w.sleep(limit)
	return n
}

// forever is no limit, as epoll has it.
const forever = -time.Millisecond

// sleep waits until something is ready, for at most limit. It says if it was woken
// early for another reason.
func (w *worker) sleep(limit time.Duration) (n int, early bool) {
	left := attention - time.Duration(w.now-w.served)
	if left <= 0 {
		n, err := unix.EpollWait(w.ep.poll.epoll, w.events[:w.share()], int(limit.Milliseconds()))
		return max(n, 0), err != nil
	}
	if limit == forever || limit > left {
		limit = left + time.Millisecond // which epoll counts in
	}
	n, errno := w.poll(limit)
	if errno == unix.EINTR {
		// The runtime wants this thread to stop for a moment.
		runtime.Gosched()
	}
	return n, errno != 0
}

// schedule asks the kernel for short slices and for sleeps that end in time; see
// slice. Kernels before 6.12 grant none. Who runs gvtep at a real-time priority has
// chosen otherwise, and a nice value stays.
func (w *worker) schedule() {
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // ns; the default is 50 us
	attr, err := unix.SchedGetAttr(0, 0)
	if err == nil && attr.Policy == unix.SCHED_NORMAL {
		attr.Runtime = uint64(slice)
		err = unix.SchedSetAttr(0, attr, 0)
	}
	if err != nil {
		w.ep.log.Debug("the worker has the kernel's time slices", zap.Int("worker", w.id), zapErr(err))
	}
}

// giveWay lets others run on the worker's processor between two turns of a flood.
func (w *worker) giveWay() {
	if !w.shares {
		return
	}
	ts := unix.NsecToTimespec(int64(nap))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// sample notes that n slots were ready without waiting.
func (w *worker) sample(n int) {
	need := 1
	if w.held != nil {
		need = 2
	}
	for _, ev := range w.events[:n] {
		if ev.Fd == bellIndex {
			n--
		}
	}
	if n < need {
		w.ready = 0
	} else if w.ready++; w.ready >= samples {
		w.ep.callUp()
	}
	if w.now-w.load.since >= int64(saturatedWindow) {
		busy, waited := w.load.look(w.now, w.stat)
		if busy >= saturated && w.held != nil {
			w.ep.callUp()
		}
		w.shares = waited > contended
	}
}

// load tells how a thread spends its time. All are ns.
type load struct {
	since  int64 // endpoint clock of the last look
	ran    int64 // CPU time of the thread then
	waited int64 // how long it had waited for a processor
}

// look says of the time since the last look, in percent, for how much of it the thread ran,
// and for how much it waited for a processor.
// Sleep is neither, however late it ends. stat is the thread's schedstat, -1 if there is
// none (CONFIG_SCHED_INFO).
func (l *load) look(now int64, stat int) (busy, waiting int64) {
	last := *l
	var ts unix.Timespec
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&ts)), 0)
	*l = load{since: now, ran: ts.Nano(), waited: runDelay(stat)}
	past := max(now-last.since, 1)
	return (l.ran - last.ran) * 100 / past, (l.waited - last.waited) * 100 / past
}

// runDelay reads how long a thread has been ready to run and was not running: the second
// number of its schedstat (Documentation/scheduler/sched-stats.rst).
func runDelay(stat int) (ns int64) {
	var text [64]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(stat), uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	field := 0
	for _, c := range text[:n] {
		switch {
		case c == ' ':
			field++
		case field == 1:
			ns = ns*10 + int64(c-'0')
		}
	}
	return ns
}

// share is how many slots the worker takes at a time: one, if another could
// take the second.
func (w *worker) share() int {
	if w.ep.onDuty.Load() > 1 {
		return 1
	}
	return maxEvents
}

// poll waits in a raw system call.
func (w *worker) poll(timeout time.Duration) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.ep.poll.epoll), uintptr(unsafe.Pointer(&w.events[0])),
		uintptr(w.share()), uintptr(timeout.Milliseconds()), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
