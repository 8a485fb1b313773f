package vtep

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gvtep/vtep/internal/work"
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
	for end := time.Now().Add(20 * time.Second); q.backlog() > 5*work.TurnReads && time.Now().Before(end); {
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
	if n := h.pool.OnDuty(); n != 1 {
		t.Errorf("%d workers on duty for one frame at a time, want 1", n)
	}
	stop := make(chan struct{})
	var feeder sync.WaitGroup
	feeder.Go(func() {
		burst := slices.Repeat([]memFrame{numbered(0, 0)}, 3*work.TurnReads)
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
	eventually(t, "another is called up", func() bool { return h.pool.OnDuty() > 1 })
	close(stop)
	feeder.Wait()
	eventually(t, "one is enough again", func() bool { return h.pool.OnDuty() == 1 })
}

// TestSaturated: a worker that a flow of full turns keeps on a processor gets help,
// although nothing else is ready beside that flow.
func TestSaturated(t *testing.T) {
	h := newHost(t, new(memWire), 2, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	const full = 256 << 10 / work.TurnReads // of a turn of super-frames
	large := memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 9, strings.Repeat("x", 2*full)))}
	burst := slices.Repeat([]memFrame{large}, 10_000) // takes it longer than a window
	// The rule is about a worker that has its processor for four fifths of the time. TestDuty
	// has the rule; a machine on which others take that away for good says nothing here.
	path := fmt.Sprintf("/proc/self/task/%d/schedstat", h.pool.Thread(0))
	ran := func() (ns int64) {
		text, _ := os.ReadFile(path)
		fmt.Sscan(string(text), &ns)
		return ns
	}
	most, since, before := 0.0, time.Now(), ran()
	for end := since.Add(20 * time.Second); h.pool.OnDuty() < 2; time.Sleep(time.Millisecond) {
		if dev.queues[0].backlog() < 3*len(burst) {
			dev.queues[0].feed(burst...)
		}
		if d := time.Since(since); d > time.Second { // under the race detector rounds take long, and one in 32 is a sample
			now := ran()
			most, since, before = max(most, float64(now-before)/float64(d)), time.Now(), now
		}
		switch {
		case time.Now().Before(end):
		case most < 0.9:
			t.Logf("the worker had its processor for at most %.0f %% of the time: the machine is too busy to tell", 100*most)
			return
		default:
			t.Fatal("still not: another is called up")
		}
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
			dev.queues[q].feed(slices.Repeat([]memFrame{numbered(uint16(q), 1)}, 10*work.TurnReads)...)
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
	if n := h.pool.Polled(); n != 4 {
		t.Errorf("%d descriptors are waited for, want 4", n)
	}
}
