package vtep

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// run runs the host until the test ends.
func (h *host) run() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	eventually(h.t, "ready", func() bool { return h.State().Ready })
}

// numbered is the n-th frame of a flow.
func numbered(flow uint16, n uint32) memFrame {
	return memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", flow, 9, string(binary.BigEndian.AppendUint32(nil, n))))}
}

// room waits until a queue has less than some turns' worth of frames, if it ever has.
func (q *memQueue) room() {
	for end := time.Now().Add(20 * time.Second); q.backlog() > 5*turnReads && time.Now().Before(end); {
		time.Sleep(20 * time.Microsecond)
	}
}

func (q *memQueue) backlog() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.in)
}

// TestOrder: queues that are flooded go from worker to worker, and yet the
// frames of each leave in their order, each once.
func TestOrder(t *testing.T) {
	const each = 5000
	h := newHost(t, new(memWire), 5, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	var feeders sync.WaitGroup
	for i, q := range dev.queues {
		feeders.Go(func() {
			for n := uint32(0); n < each; {
				var burst []memFrame
				for range 1 + n%200 {
					if n < each {
						burst = append(burst, numbered(uint16(i), n))
						n++
					}
				}
				q.room()
				q.feed(burst...)
			}
		})
	}
	feeders.Wait()
	eventually(t, "all is sent", func() bool {
		h.underlay.mu.Lock()
		defer h.underlay.mu.Unlock()
		return len(h.underlay.sent) == each*len(dev.queues)
	})
	h.underlay.mu.Lock()
	defer h.underlay.mu.Unlock()
	next := make([]uint32, len(dev.queues))
	for _, d := range h.underlay.sent {
		flow := binary.BigEndian.Uint16(d.bytes[8+14+20:])
		if n := binary.BigEndian.Uint32(d.bytes[8+14+28:]); n != next[flow] {
			t.Fatalf("queue %d: frame %d left when it was the turn of %d", flow, n, next[flow])
		}
		next[flow]++
	}
	if want := slices.Repeat([]uint32{each}, len(next)); !slices.Equal(next, want) {
		t.Errorf("frames sent %d, want %d", next, want)
	}
}

// TestCallUp: one worker is on duty as long as it is enough, another one comes
// when a queue cannot be emptied, and goes again.
func TestCallUp(t *testing.T) {
	h := newHost(t, new(memWire), 3, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	for n := range uint32(20) {
		dev.queues[n%3].feed(numbered(0, n))
		eventually(t, "the frame is sent", func() bool { return h.State().Tunnels[0].Stats.TxPackets == uint64(n)+1 })
	}
	if n := h.onDuty.Load(); n != 1 {
		t.Errorf("%d workers on duty for one frame at a time, want 1", n)
	}
	stop := make(chan struct{})
	var feeder sync.WaitGroup
	feeder.Go(func() {
		burst := slices.Repeat([]memFrame{numbered(0, 0)}, 3*turnReads)
		for {
			select {
			case <-stop:
				return
			default:
				dev.queues[1].room()
				dev.queues[1].feed(burst...)
			}
		}
	})
	eventually(t, "another is called up", func() bool { return h.onDuty.Load() > 1 })
	close(stop)
	feeder.Wait()
	eventually(t, "one is enough again", func() bool { return h.onDuty.Load() == 1 })
}

// TestSaturated: a worker that a flow of full turns keeps on a processor gets help,
// although nothing else is ready beside that flow.
func TestSaturated(t *testing.T) {
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	large := memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 9, strings.Repeat("x", 2*turnBytes/turnReads)))}
	burst := slices.Repeat([]memFrame{large}, 10_000) // takes it longer than a window
	eventually(t, "another is called up", func() bool {
		if dev.queues[0].backlog() < 3*len(burst) {
			dev.queues[0].feed(burst...)
		}
		return h.onDuty.Load() > 1
	})
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
	eventually(t, "one that sleeps does not wait", func() bool {
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
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.run()
	w := h.workers[0]
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
	eventually(t, "the worker has its slice", func() bool {
		got, err = unix.SchedGetAttr(int(w.thread.Load()), 0)
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

// TestSlots: tunnels come and go while frames flow. No slot of one is ever taken
// for that of another, and none is lost: at the end each queue still works.
func TestSlots(t *testing.T) {
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	stays := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	stop := make(chan struct{})
	var feeder sync.WaitGroup
	feeder.Go(func() {
		for n := uint32(0); ; n++ {
			select {
			case <-stop:
				return
			default:
				stays.queues[n%2].room()
				stays.queues[n%2].feed(slices.Repeat([]memFrame{numbered(0, n)}, 1+int(n%100))...)
				time.Sleep(20 * time.Microsecond)
			}
		}
	})
	for i := range 50 {
		cfg := testTunnel(fmt.Sprintf("gnv%d", 1+i%3), "192.0.2.2")
		cfg.VNI = 1000
		dev := h.add(cfg)
		for q := range dev.queues {
			dev.queues[q].feed(numbered(uint16(q), 0))
		}
		eventually(t, "the new tunnel's frames are sent", func() bool {
			for _, s := range h.State().Tunnels {
				if s.Config.VNI == 1000 {
					return s.Stats.TxPackets == 2
				}
			}
			return false
		})
		for q := range dev.queues { // more than a turn, so that it may be in hand when it goes
			dev.queues[q].feed(slices.Repeat([]memFrame{numbered(uint16(q), 1)}, 10*turnReads)...)
		}
		if err := h.Remove(cfg.Device.Name); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	feeder.Wait()
	eventually(t, "both queues are empty", func() bool {
		return !slices.ContainsFunc(stays.queues, func(q *memQueue) bool { return q.backlog() > 0 })
	})
	// The queues, the socket's two receivers, nothing else.
	if n := len(h.poll.slots) - len(h.poll.free); n != 4 {
		t.Errorf("%d slots in use, want 4", n)
	}
}

// TestCallUpStuck: a worker that is stuck is not called, and the last one on duty stays.
func TestCallUpStuck(t *testing.T) {
	h := newHost(t, new(memWire), 3, "192.0.2.1")
	h.stuck.Store(&[]int{1})
	h.callUp()
	if h.workers[0].resting.Load() || !h.workers[1].resting.Load() || h.workers[2].resting.Load() {
		t.Error("called: want worker 2, as 0 is on duty and 1 stuck")
	}
	if !h.standDown(h.workers[2]) || h.standDown(h.workers[0]) {
		t.Errorf("want worker 2 to rest and worker 0, the last one, to stay; %d on duty", h.onDuty.Load())
	}
}

// TestIdle: a worker that has nothing to do for longer than attention sleeps, and is
// not woken by Go's scheduler, which it was a hundred times a second until then.
func TestIdle(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	w := h.workers[0]
	dev.queues[0].feed(numbered(1, 0))
	eventually(t, "sent", func() bool {
		h.underlay.mu.Lock()
		defer h.underlay.mu.Unlock()
		return len(h.underlay.sent) == 1
	})
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
