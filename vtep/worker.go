package vtep

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/internal/neigh"
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

	// headArena holds the headers of the pieces of one turn. The worst
	// super-frame, 64 KiB in pieces of a few dozen bytes behind 252 bytes of
	// options, fits; an ordinary one needs 4 KiB.
	headArena = 768 << 10

	// spin is how long a worker waits inside a raw system call, which keeps
	// its P, before it waits in an ordinary one: 18 us against 77 us for an
	// echo. The garbage collector's signal ends it early.
	spin = 2 * time.Millisecond

	maxEvents = 64
)

// worker owns one queue of every device, one socket of every listener and
// one descriptor of every source port. It is one thread that carries frames
// both ways from end to end.
type worker struct {
	ep     *Endpoint
	id     int
	cpu    int // that it is bound to; -1: none
	epoll  int
	wake   int // eventfd; readable when there is a new snapshot
	sender Sender

	snap  *snapshot
	slots []slot
	free  []uint32

	now       int64 // endpoint clock, taken once per loop
	headers   packet.Headers
	virtio    packet.VirtioHdr
	rest      packet.VirtioHdr // of a joined frame being written
	read      []byte           // frames of the device's turn
	heads     []byte           // headers of the pieces made of them
	headLen   int              // used part of heads
	cutter    offload.Cutter
	pieces    int // of the frame being sent
	single    [1][]byte
	reply     [tagLen + neigh.MaxReply]byte // to an ARP or ND request, behind the room for a tag
	superHead [geneve.MaxHeaderLen]byte     // of a super-frame's pieces, where it is no template

	// The joiner and where its frame goes.
	joiner   offload.Joiner
	joinPeer *peer
	joinHead []byte                    // the GENEVE header of its first piece
	headCopy [geneve.MaxHeaderLen]byte // joinHead, where a tag stands in its place

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

// slot is a descriptor in the worker's epoll set. epoll reports its index
// and generation, never the descriptor, which the kernel reuses.
type slot struct {
	generation int32
	fd         int
	port       *port   // a device queue
	socket     *socket // or a receive socket
}

const wakeSlot = -1

func newWorker(ep *Endpoint, id int, sender Sender) (_ *worker, err error) {
	w := &worker{
		ep: ep, id: id, sender: sender, cpu: -1,
		epoll: -1, wake: -1,
		snap:  &snapshot{},
		read:  make([]byte, turnBytes+packet.VirtioHdrLen+packet.MaxFrame),
		heads: make([]byte, headArena),
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeSlot}
	if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, w.wake, &ev); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *worker) close() {
	for _, fd := range []int{w.epoll, w.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	w.epoll, w.wake = -1, -1
}

// poke makes the worker begin a new loop. It is the one method that other
// goroutines may call.
func (w *worker) poke() {
	one := uint64(1)
	unix.Write(w.wake, (*[8]byte)(unsafe.Pointer(&one))[:])
}

// run carries frames until a closing snapshot is published.
func (w *worker) run() {
	// A thread of its own, which its descriptors and caches favour. It is
	// never unlocked and so ends with the worker, whose name it has in ps -L, top -H and the like. The name of
	// the first thread is that of the process, and stays.
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		name, _ := unix.BytePtrFromString(fmt.Sprintf("gvtep-w%d", w.id))
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
	w.thread.Store(int32(unix.Gettid()))
	if w.cpu >= 0 {
		var set unix.CPUSet
		set.Set(w.cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			w.ep.log.Warn("the worker runs wherever there is room", zap.Int("worker", w.id), zap.Int("cpu", w.cpu), zapErr(err))
		}
	}
	for w.loop(true) {
	}
}

// loop is one round: take over a new snapshot if there is one, wait for ready
// descriptors, give each its turn. It reports false when it is time to stop.
func (w *worker) loop(block bool) bool {
	if snap := w.ep.snap.Load(); snap != w.snap {
		w.adopt(snap)
		w.passed.Store(snap.generation)
		w.ep.passed()
		if snap.closing {
			return false
		}
	}
	if len(w.parked) > 0 && w.ep.settled.Load() >= w.snap.generation {
		w.unpark()
	}
	w.loops.Add(1)
	n := w.wait(block)
	w.now = w.ep.clock()
	for i := range w.events[:n] {
		ev := &w.events[i]
		if ev.Fd == wakeSlot {
			var drain [8]byte
			unix.Read(w.wake, drain[:])
			continue
		}
		switch s := &w.slots[ev.Fd]; {
		case s.generation != ev.Pad: // left the set in this very round
		case s.port != nil:
			w.deviceTurn(uint32(ev.Fd))
		default:
			w.socketTurn(uint32(ev.Fd))
		}
	}
	return true
}

// wait returns how many of w.events are filled.
func (w *worker) wait(block bool) int {
	timeout := spin
	if !block {
		timeout = 0
	} else if busy := w.ep.busyPoll.Load(); busy > 0 {
		for w.ep.clock()-w.now < busy {
			if n, errno := w.poll(0); n > 0 && errno == 0 {
				return n
			}
			unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	n, errno := w.poll(timeout)
	if errno == unix.EINTR {
		// The runtime wants this thread to stop for a moment.
		runtime.Gosched()
		return 0
	}
	if errno == 0 && (n > 0 || !block) {
		return n
	}
	got, err := unix.EpollWait(w.epoll, w.events[:], -1)
	if err != nil {
		return 0
	}
	return got
}

// poll waits in a raw system call.
func (w *worker) poll(timeout time.Duration) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.epoll), uintptr(unsafe.Pointer(&w.events[0])),
		maxEvents, uintptr(timeout.Milliseconds()), 0, 0)
	return int(n), errno
}

// adopt moves from one snapshot to the next: descriptors that are gone leave
// the epoll set, new ones enter.
func (w *worker) adopt(snap *snapshot) {
	ports := make(map[uint32]*port, len(snap.ports))
	for _, p := range snap.ports {
		ports[p.id] = p
	}
	sockets := make(map[*socket]bool, len(snap.sockets))
	for _, s := range snap.sockets {
		sockets[s] = true
	}
	for i := range w.slots {
		switch s := &w.slots[i]; {
		case s.port != nil && ports[s.port.id] != nil: // the same queue, perhaps with other settings
			id := s.port.id
			s.port = ports[id]
			delete(ports, id)
		case s.socket != nil && sockets[s.socket]:
			delete(sockets, s.socket)
		case s.port != nil || s.socket != nil:
			w.drop(uint32(i))
		}
	}
	for _, p := range ports {
		if !p.failed.Load() {
			w.enter(slot{fd: p.queues[w.id].FD(), port: p})
		}
	}
	for s := range sockets {
		if s.receivers[w.id] == nil {
			continue // a group's, which another worker has
		}
		w.enter(slot{fd: s.receivers[w.id].FD(), socket: s})
	}
	w.snap = snap
}

func (w *worker) enter(s slot) {
	if len(w.free) == 0 {
		w.free = append(w.free, uint32(len(w.slots)))
		w.slots = append(w.slots, slot{})
	}
	i := w.free[len(w.free)-1]
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i), Pad: w.slots[i].generation}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, s.fd, &ev); err != nil {
		w.ep.log.Error("worker cannot wait for a descriptor", zapErr(err))
		return
	}
	w.free = w.free[:len(w.free)-1]
	s.generation = w.slots[i].generation
	w.slots[i] = s
}

// drop takes a descriptor out of the epoll set.
func (w *worker) drop(i uint32) {
	s := &w.slots[i]
	unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, s.fd, nil)
	*s = slot{generation: s.generation + 1}
	w.free = append(w.free, i)
}
