package work

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
)

// until waits for what workers do by themselves.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// noOwner is an owner that nobody is expected to call.
type noOwner struct{ Owner }

func (noOwner) Unsliced(int, error) {} // before Linux 6.12

// noSender is a sender that has nothing to send.
type noSender struct{ batches packet.Batches }

func (*noSender) Add(*packet.Path, uint32, uint8, uint8, []byte, []byte) {}

func (*noSender) AddRun(*packet.Path, uint32, uint8, uint8, []byte, int) {}

func (*noSender) Flush() []packet.Failure { return nil }

func (s *noSender) Batches() *packet.Batches { return &s.batches }

func newTestPool(t *testing.T, workers int) *Pool {
	t.Helper()
	start := time.Now()
	p, err := New(Config{
		Workers: workers, Sender: func(int) netio.Sender { return new(noSender) },
		Clock: func() int64 { return int64(time.Since(start)) }, Owner: noOwner{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		p.Close()
	})
	return p
}

// testQueue is a queue from which nothing can be read, however often it is ready.
type testQueue struct {
	fd    int
	reads atomic.Int32
}

func newTestQueue(t *testing.T) *testQueue {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &testQueue{fd: fd}
}

func (q *testQueue) ring() { unix.Write(q.fd, []byte{0, 0, 0, 0, 0, 0, 0, 1}) }

func (q *testQueue) FD() int { return q.fd }

func (q *testQueue) Read([]byte, *packet.VirtioHdr) ([]byte, error) {
	var all [8]byte
	unix.Read(q.fd, all[:])
	q.reads.Add(1)
	return nil, unix.EAGAIN
}

func (q *testQueue) Write(*packet.VirtioHdr, []byte) error { return nil }

var lastPort uint32

func testPort(q *testQueue) *forward.Port {
	lastPort++
	return &forward.Port{Queues: []netio.Queue{q}, Writers: []netio.Writer{q}, PortState: &forward.PortState{ID: lastPort}}
}

// TestFinish: a change that a worker does not follow is not ended: nothing is closed, and what is
// new is not waited for. When the worker continues both are done.
func TestFinish(t *testing.T) {
	t.Parallel() // it waits for seconds
	p := newTestPool(t, 1)
	before, after := testPort(newTestQueue(t)), testPort(newTestQueue(t))
	if err := p.Publish(&forward.Snapshot{Ports: []*forward.Port{before}}); err != nil {
		t.Fatal(err)
	}
	p.Step()
	p.running = true // with nobody who would take over a snapshot
	closed := false
	p.Afterwards(func() { closed = true })
	if err := p.Publish(&forward.Snapshot{Ports: []*forward.Port{after}}); err == nil {
		t.Error("a worker is behind: want an error")
	}
	if err := p.finish(); err == nil {
		t.Error("finish with a worker behind: want an error")
	}
	if n := p.Polled(); closed || n != 0 || !p.Unfinished() {
		t.Errorf("with a worker behind: closed %t, %d descriptors waited for; want neither", closed, n)
	}
	p.Step() // it goes on
	if err := p.CatchUp(); err != nil {
		t.Error(err)
	}
	if n := p.Polled(); !closed || n != 1 || p.Unfinished() {
		t.Errorf("afterwards: closed %t, %d descriptors waited for; want both", closed, n)
	}
	p.running = false
}

// TestLoad: what a look says of a thread that has to share its processor, and of one
// that mostly sleeps.
func TestLoad(t *testing.T) {
	start := time.Now()
	one := func(f func()) { // on a thread of its own, which ends with it, on one processor
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			var all, first unix.CPUSet
			err := unix.SchedGetaffinity(0, &all)
			for cpu := 0; first.Count() == 0; cpu++ {
				if all.IsSet(cpu) {
					first.Set(cpu)
				}
			}
			if err = errors.Join(err, unix.SchedSetaffinity(0, &first)); err == nil {
				f()
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	spin := func(d time.Duration) {
		for start := time.Now(); time.Since(start) < d; {
		}
	}
	measure := func(f func()) (busy, waiting int64) {
		one(func() {
			stat, err := unix.Open("/proc/thread-self/schedstat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return // this kernel does not tell
			}
			defer unix.Close(stat)
			var l load
			l.look(int64(time.Since(start)), stat)
			f()
			busy, waiting = l.look(int64(time.Since(start)), stat)
		})
		return busy, waiting
	}

	var stop atomic.Bool
	var rival sync.WaitGroup
	rival.Go(func() {
		one(func() {
			for !stop.Load() {
				spin(time.Millisecond)
			}
		})
	})
	busy, waiting := measure(func() { spin(100 * time.Millisecond) })
	stop.Store(true)
	rival.Wait()
	if waiting <= contended || busy >= saturated {
		t.Errorf("a thread with a rival ran for %d %% of the time and waited for %d %%; want about half", busy, waiting)
	}
	until(t, "one that sleeps does not wait", func() bool {
		busy, waiting = measure(func() {
			ts := unix.NsecToTimespec(int64(300 * time.Millisecond)) // one wake-up, however busy the machine is
			unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
		})
		return busy < saturated && waiting <= contended
	})
	var l load
	if _, waiting = l.look(1, -1); waiting != 0 {
		t.Errorf("without a schedstat it waited for %d %%, want 0", waiting)
	}
}

// TestSchedule: workers ask for short slices of the processor, keep a nice value,
// and sleep when they give way.
func TestSchedule(t *testing.T) {
	p := newTestPool(t, 1)
	p.Start()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	want := uint64(0) // Linux 6.12: sched/eevdf: Allow tasks to be given a slice
	if major > 6 || major == 6 && minor >= 12 {
		want = uint64(slice)
	}
	nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got *unix.SchedAttr
	until(t, "the worker has its slice", func() bool {
		got, err = unix.SchedGetAttr(int(p.Thread(0)), 0)
		return err == nil && got.Runtime == want
	})
	if int(got.Nice) != 20-nice { // the system call returns 20 less the value
		t.Errorf("nice %d, want %d", got.Nice, 20-nice)
	}

	start := time.Now()
	giveWay()
	if took := time.Since(start); took < nap {
		t.Errorf("between turns of a flood it slept for %v, want %v at least", took, nap)
	}
}

// TestCallUpStuck: a worker that is stuck is not called, and the last one on duty stays.
func TestCallUpStuck(t *testing.T) {
	p := newTestPool(t, 3)
	p.stuck.Store(&[]int{1})
	p.callUp()
	if p.workers[0].resting.Load() || !p.workers[1].resting.Load() || p.workers[2].resting.Load() {
		t.Error("called: want worker 2, as 0 is on duty and 1 stuck")
	}
	if !p.standDown(p.workers[2]) || p.standDown(p.workers[0]) {
		t.Errorf("want worker 2 to rest and worker 0, the last one, to stay; %d on duty", p.onDuty.Load())
	}
}

// TestIdle: a worker that has nothing to do for longer than attention sleeps, and is
// not woken by Go's scheduler, which it was a hundred times a second until then.
func TestIdle(t *testing.T) {
	p := newTestPool(t, 1)
	p.Start()
	q := newTestQueue(t)
	if err := p.Publish(&forward.Snapshot{Ports: []*forward.Port{testPort(q)}}); err != nil {
		t.Fatal(err)
	}
	w := p.workers[0]
	q.ring()
	until(t, "read", func() bool { return q.reads.Load() > 0 })
	loops := func() uint64 {
		before := w.loops.Load()
		time.Sleep(300 * time.Millisecond)
		return w.loops.Load() - before
	}
	quiet := ^uint64(0)
	for range 20 { // a check of health may fall into it
		if quiet = min(quiet, loops()); quiet <= 2 {
			return
		}
	}
	t.Errorf("a worker with nothing to do went round %d times in 300 ms, want 2 at most", quiet)
}
