package work

import (
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pollSet is what all workers wait on: one epoll with every queue of every
// device and every receive socket. What is ready goes to one worker, the one
// that went to sleep last if several sleep, and is that worker's until it is
// armed again (EPOLLONESHOT). So one flow's packets are handed on in their order,
// and what is ready does not wait for a busy worker while another has nothing to
// do. With a set for each worker a ping beside a flooded tunnel took 4 to 8 ms
// (p99), with this one 1 to 4: a thread that never sleeps shares its processor
// in slices of milliseconds.
type pollSet struct {
	epoll int

	// The wakeup is an eventfd in the set that is readable while somebody wants
	// every worker to begin a round.
	wakeup  int
	mu      sync.Mutex
	ringing int // how many want it

	// Guarded by those who change the pool.
	slots []*slot // by index
	free  []int32
}

const wakeupIndex = -1

func newPollSet() (_ *pollSet, err error) {
	s := &pollSet{epoll: -1, wakeup: -1}
	defer func() {
		if err != nil {
			s.close(nil)
		}
	}()
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if s.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeupIndex}
	return s, unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, s.wakeup, &ev)
}

// close closes the set's descriptors and those that workers are called up by.
func (s *pollSet) close(workers []*worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fds := []*int{&s.epoll, &s.wakeup}
	for _, w := range workers {
		fds = append(fds, &w.call)
	}
	for _, fd := range fds {
		if *fd >= 0 {
			unix.Close(*fd)
		}
		*fd = -1
	}
}

// claim notes that the calling worker has the slot.
func (l *slot) claim() { l.owned.Swap(true) }

// arm returns a descriptor to the set, and a free worker takes it when it is ready. If it was
// removed meanwhile, epoll_ctl fails, which is harmless.
func (s *pollSet) arm(l *slot) {
	l.owned.Store(false)
	ev := l.event()
	unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(s.epoll), unix.EPOLL_CTL_MOD, uintptr(l.fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
}

func (l *slot) event() unix.EpollEvent {
	return unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: l.index, Pad: l.generation}
}

// ring makes every worker begin rounds, those that rest one, until silence is
// called as often.
func (p *Pool) ring() {
	s := p.poll
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ringing++; s.wakeup < 0 {
		return
	}
	if s.ringing == 1 {
		one := uint64(1)
		unix.Write(s.wakeup, (*[8]byte)(unsafe.Pointer(&one))[:])
	}
	for _, w := range p.workers {
		w.wake()
	}
}

func (s *pollSet) silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ringing--; s.ringing == 0 && s.wakeup >= 0 {
		var drain [8]byte
		unix.Read(s.wakeup, drain[:])
	}
}

// takeRest waits until the worker is called up or the wakeup rings.
func (w *worker) takeRest() {
	var calls [8]byte
	unix.Read(w.call, calls[:])
}

// wake ends a rest.
func (w *worker) wake() {
	one := uint64(1)
	unix.Write(w.call, (*[8]byte)(unsafe.Pointer(&one))[:])
}

const (
	// The wakeup is rung for a moment at a time: workers that have answered hear it
	// as long as it rings and cannot sleep. But one that has slept must get a
	// processor meanwhile to hear it, so it rings longer each time.
	ringFor    = 2 * time.Millisecond
	ringAtMost = 128 * time.Millisecond
	ringPause  = 18 * time.Millisecond
)

// summon makes workers begin rounds until done says that it is enough, for bound at
// most. It reports whether done did.
func (p *Pool) summon(bound time.Duration, done func() bool) bool {
	end := time.Now().Add(bound)
	for ring := ringFor; ; ring = min(2*ring, ringAtMost) {
		p.ring()
		ok := p.await(ring, done)
		p.poll.silence()
		if ok || p.await(ringPause, done) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// await looks at done whenever a worker has begun a round, for at most d.
func (p *Pool) await(d time.Duration, done func() bool) bool {
	end := time.Now().Add(d)
	for pause := 50 * time.Microsecond; !done(); pause = min(2*pause, 2*time.Millisecond) {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		select {
		case <-p.passing:
		case <-time.After(min(pause, left)): // somebody else may have been told of it
		}
	}
	return true
}
