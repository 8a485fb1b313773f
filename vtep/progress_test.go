package vtep

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// eventually waits for what workers or the endpoint do by themselves.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// TestProgress holds one of three workers fast inside a read of a device: it
// is named, nothing can be changed meanwhile, the others carry what goes
// elsewhere, and afterwards all is well.
func TestProgress(t *testing.T) {
	h := newHost(t, new(memWire), 3, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	if stuck := h.Progress(context.Background()); stuck != nil {
		t.Errorf("before Run: %v, want none: there are no workers", stuck)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	eventually(t, "ready", func() bool { return h.State().Ready })
	if stuck := h.Progress(ctx); len(stuck) > 0 {
		t.Errorf("idle workers: %v are stuck, want none", stuck)
	}

	q := dev.queues[1]
	q.mu.Lock() // the worker's next read waits for it
	q.wakeup.ring()
	var held []int
	eventually(t, "one worker is found", func() bool { held = h.Progress(ctx); return len(held) == 1 })
	eventually(t, "not ready, and State says why", func() bool {
		s := h.State()
		return !s.Ready && slices.Equal(s.Stuck, held)
	})
	for n := range uint32(10) {
		before := time.Now()
		dev.queues[0].feed(numbered(1, n))
		eventually(t, "another worker carries a frame", func() bool { return h.State().Tunnels[0].Stats.TxPackets == uint64(n)+1 })
		if took := time.Since(before); took > time.Second {
			t.Errorf("frame %d was carried after %v, want at once: one worker is stuck, not the others", n, took)
		}
		time.Sleep(200 * time.Millisecond) // others could go back to rest now
	}
	short, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	if stuck := h.Progress(short); !slices.Contains(stuck, held[0]) {
		t.Errorf("with little time: %v, want worker %d among them", stuck, held[0])
	}
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.TTL = 9
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a change while a worker is stuck: %v, want EBUSY", err)
	}
	if ttl := h.State().Tunnels[0].Config.TTL; ttl != DefaultTTL {
		t.Errorf("TTL %d after a change that was refused, want %d", ttl, DefaultTTL)
	}

	q.mu.Unlock()
	eventually(t, "ready again", func() bool { s := h.State(); return s.Ready && len(s.Stuck) == 0 })
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Errorf("a change afterwards: %v", err)
	}

	// Those who ask while it ends are not told of workers that are gone, and
	// no descriptor is written to after it was closed.
	var asking sync.WaitGroup
	var ended atomic.Bool
	for range 4 {
		asking.Go(func() {
			for !ended.Load() {
				if stuck := h.Progress(context.Background()); len(stuck) > 0 {
					t.Errorf("while stopping: %v, want none", stuck)
				}
			}
			h.Progress(context.Background())
		})
	}
	time.Sleep(5 * time.Millisecond)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	ended.Store(true)
	asking.Wait()
}

// TestDeviceFaults: a device that is down or deleted shows, unless it was
// meant to be down.
func TestDeviceFaults(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	first := h.add(testTunnel("gnv0", "192.0.2.2"))
	second := testTunnel("gnv1", "192.0.2.2")
	second.VNI, second.Device.Down = 7, true
	h.add(second).down = true
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()
	eventually(t, "ready", func() bool { return h.Health().Ready })
	set := func(down, closed bool) {
		first.mu.Lock()
		defer first.mu.Unlock()
		first.down, first.closed = down, closed
	}
	defer set(false, false) // else closing it again is an error
	for _, c := range []struct {
		down, closed bool
		want         []string
	}{
		{true, false, []string{"device gnv0 is down"}},
		{false, false, nil},
		{false, true, []string{"device gnv0 was deleted"}},
	} {
		set(c.down, c.closed)
		health, s := h.Health(), h.State()
		if !slices.Equal(health.Faults, c.want) || !slices.Equal(s.Faults, c.want) || health.Ready != (c.want == nil) || s.Ready != health.Ready {
			t.Errorf("Health %+v, State ready %t %q; want %q", health, s.Ready, s.Faults, c.want)
		}
		if one, two := s.Tunnels[0], s.Tunnels[1]; one.Ready != (c.want == nil) || !slices.Equal(one.Unready, c.want) || two.Ready ||
			!slices.Equal(two.Unready, []string{"device gnv1 is down, as configured: gvtep tunnel up gnv1"}) {
			t.Errorf("%q: the first %t, %q, the second %t, %q", c.want, one.Ready, one.Unready, two.Ready, two.Unready)
		}
		if s.Tunnels[0].Up != (c.want == nil) || s.Tunnels[1].Up {
			t.Errorf("%q: up %t and %t, want %t and false", c.want, s.Tunnels[0].Up, s.Tunnels[1].Up, c.want == nil)
		}
	}
	// One of two may be meant to be down, but both carry nothing.
	set(false, false)
	both := testTunnel("gnv0", "192.0.2.2")
	both.Device.Down = true
	if err := h.Apply(Change{Set: []Tunnel{both}}); err != nil {
		t.Fatal(err)
	}
	if health, s := h.Health(), h.State(); health.Ready || len(health.Faults) > 0 || len(health.Unmet) != 2 || s.Ready || !slices.Equal(s.Faults, health.Unmet) {
		t.Errorf("with both down: Health %+v, State ready %t, %q", health, s.Ready, s.Faults)
	}
}

// hold keeps the worker that reads a queue next from going on until it is let go.
func (q *memQueue) hold(t *testing.T) (letGo func()) {
	q.mu.Lock()
	before := q.reads.Load()
	q.wakeup.ring()
	eventually(t, "a worker reads", func() bool { return q.reads.Load() != before })
	return q.mu.Unlock
}

// TestCatchUp: a change that a stuck worker held up is ended once it goes on: what is new
// is waited for then, and what has gone is closed, without another change.
func TestCatchUp(t *testing.T) {
	t.Parallel() // it waits for seconds
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	old := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	letGo := old.queues[0].hold(t)
	other := testTunnel("gnv1", "192.0.2.2")
	if err := h.Apply(Change{Remove: []string{"gnv0"}, Add: []Tunnel{other}}); err != nil {
		t.Errorf("an error though the change is made: %v", err)
	}
	dev := h.devices.opened[1]
	dev.queues[0].feed(numbered(1, 1))
	if n := h.State().Tunnels[0].Stats.TxPackets; n != 0 || old.closed {
		t.Errorf("while the worker is stuck: %d frames sent, old device closed %t; want neither", n, old.closed)
	}
	letGo()
	eventually(t, "the new tunnel's frame is sent", func() bool { return h.State().Tunnels[0].Stats.TxPackets == 1 })
	h.mu.Lock()
	defer h.mu.Unlock()
	if !old.closed || len(h.sockets) != 1 {
		t.Errorf("when it goes on: device closed %t, %d sockets; want it closed, and 1", old.closed, len(h.sockets))
	}
}

// TestAfterwards: a socket that was left, and is not closed because a worker is stuck, is
// waited for again if it is wanted again.
func TestAfterwards(t *testing.T) {
	t.Parallel() // it waits for seconds
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	old := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.run()
	letGo := old.queues[0].hold(t)
	if err := h.Remove("gnv0"); err != nil {
		t.Errorf("an error though the change is made: %v", err)
	}
	letGo()
	eventually(t, "another tunnel can be added", func() bool { return h.Add(testTunnel("gnv1", "192.0.2.2")) == nil })
	dev := h.devices.opened[1]
	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(hello)+8, good(hello))
	dev.queues[0].feed(numbered(1, 1))
	eventually(t, "the new tunnel receives and sends", func() bool {
		s := h.State().Tunnels[0].Stats
		return s.RxPackets == 1 && s.TxPackets == 1
	})
}

// TestUnpolled: a queue that the kernel lets nobody wait for shows, and is tried again.
func TestUnpolled(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	const number = 900 // of no open descriptor yet
	h.devices.fd = number
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	const want = "1 queues or sockets cannot be waited for"
	for _, faults := range [][]string{h.State().Faults, h.Health().Faults} {
		if len(faults) != 1 || !strings.HasPrefix(faults[0], want) {
			t.Errorf("faults %q, want one that begins with %q", faults, want)
		}
	}
	if err := unix.Dup3(dev.queues[0].wakeup.fd, number, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(number)
	h.catchUp()
	if faults := h.State().Faults; len(faults) != 0 {
		t.Errorf("faults %q afterwards, want none", faults)
	}
	dev.queues[0].feed(numbered(1, 1))
	h.step()
	if n := h.State().Tunnels[0].Stats.TxPackets; n != 1 {
		t.Errorf("%d frames sent afterwards, want 1", n)
	}
}
