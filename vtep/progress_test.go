package vtep

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
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
	q.bell.ring()
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
		time.Sleep(2 * linger) // others could go back to rest now
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
	for range 4 {
		asking.Go(func() {
			for h.carrying.Load() {
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
		if s.Tunnels[0].Up != (c.want == nil) || s.Tunnels[1].Up {
			t.Errorf("%q: up %t and %t, want %t and false", c.want, s.Tunnels[0].Up, s.Tunnels[1].Up, c.want == nil)
		}
	}
}

// TestCatchUp: a change that a stuck worker held up is ended once it goes on:
// what is new is waited for then, without another change.
func TestCatchUp(t *testing.T) {
	t.Parallel() // it waits for seconds
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.running = true // with nobody who would take over a snapshot
	if err := h.Add(testTunnel("gnv0", "192.0.2.2")); err == nil {
		t.Fatal("added while the worker was stuck")
	}
	h.running = false
	dev := h.devices.opened[0]
	dev.queues[0].feed(numbered(1, 1))
	h.step()
	if n := h.State().Tunnels[0].Stats.TxPackets; n != 0 {
		t.Fatalf("%d frames sent before the change was ended, want 0", n)
	}
	h.catchUp()
	h.step()
	if n := h.State().Tunnels[0].Stats.TxPackets; n != 1 {
		t.Errorf("%d frames sent afterwards, want 1", n)
	}
}

// TestAfterwards: what a stuck worker may still use is closed when it goes on, and not
// forgotten; and a socket that was left is waited for again if it is wanted again.
func TestAfterwards(t *testing.T) {
	t.Parallel() // it waits for seconds
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	gone := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	h.running = true // with nobody who would take over a snapshot
	if err := h.Remove("gnv0"); err == nil {
		t.Fatal("removed while the worker was stuck")
	}
	if err := h.finish(); err == nil || len(h.pending) != 1 {
		t.Errorf("finish with a worker behind: %v and %d things to be done, want an error and 1", err, len(h.pending))
	}
	h.running = false
	if gone.closed || len(h.sockets) != 1 {
		t.Errorf("while the worker was stuck: device closed %v, %d sockets; want it open, and 1", gone.closed, len(h.sockets))
	}
	h.step()
	h.catchUp()
	if !gone.closed || len(h.sockets) != 0 {
		t.Errorf("when it goes on: device closed %v, %d sockets; want it closed, and none", gone.closed, len(h.sockets))
	}

	// The same with a tunnel that comes while the old one's socket is still there.
	h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	h.running = true
	if err := h.Remove("gnv0"); err == nil {
		t.Fatal("removed while the worker was stuck")
	}
	h.running = false
	cfg := testTunnel("gnv1", "192.0.2.2")
	dev := h.add(cfg)
	h.step()
	hello := frame(broadcast, macC, 0x0806, make([]byte, 46))
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(hello)+8, good(hello))
	dev.queues[0].feed(numbered(1, 1))
	h.step()
	if s := h.State().Tunnels[0].Stats; s.RxPackets != 1 || s.TxPackets != 1 {
		t.Errorf("the new tunnel received %d and sent %d, want 1 and 1", s.RxPackets, s.TxPackets)
	}
	if len(h.tunnels) != 1 || len(h.pending) != 0 {
		t.Errorf("%d tunnels, %d things to be done; want 1, 0", len(h.tunnels), len(h.pending))
	}
}

// TestUnpolled: a queue that the kernel lets nobody wait for shows, and is tried again.
func TestUnpolled(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.badFD = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	const want = "1 queues or sockets cannot be waited for"
	for _, faults := range [][]string{h.State().Faults, h.Health().Faults} {
		if len(faults) != 1 || !strings.HasPrefix(faults[0], want) {
			t.Errorf("faults %q, want one that begins with %q", faults, want)
		}
	}
	slot := h.tunnels["gnv0"].state.slots[0]
	slot.fd = dev.queues[0].bell.fd
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
