package vtep

import (
	"context"
	"errors"
	"slices"
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

// TestProgress holds one of three workers fast inside a read of its device:
// it is named, nothing can be changed meanwhile, and afterwards all is well.
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
	eventually(t, "worker 1 is found", func() bool { return slices.Equal(h.Progress(ctx), []int{1}) })
	eventually(t, "not ready, and State says why", func() bool {
		s := h.State()
		return !s.Ready && slices.Equal(s.Stuck, []int{1})
	})
	short, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	if stuck := h.Progress(short); !slices.Contains(stuck, 1) {
		t.Errorf("with little time: %v, want worker 1 among them", stuck)
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
