package vtep

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gvtep/internal/packet"
)

// TestHeld: a change that hangs is a fault; one that goes on step by step is
// none, however long it takes.
func TestHeld(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(testTunnel("gnv0", "192.0.2.2"))
	if held := h.Held(); held != 0 {
		t.Errorf("held for %s with no change under way", held)
	}
	h.mu.Lock()
	long := time.Now().Add(-heldTooLong - time.Second)
	h.mu.since.Store(&long)
	health := h.Health() // without waiting
	if health.Ready || len(health.Faults) != 1 || !strings.HasPrefix(health.Faults[0], "a change has hung for 11 s") {
		t.Errorf("while a change hangs: %+v", health)
	}
	if h.mu.TryLock() {
		t.Error("locked twice")
	}
	h.mu.progress()
	if health := h.Health(); len(health.Faults) > 0 {
		t.Errorf("while a change goes on: %+v", health)
	}
	h.mu.Unlock()
	if held := h.Held(); held != 0 || !h.mu.TryLock() {
		t.Errorf("held for %s afterwards", held)
	}
	h.mu.Unlock()

	// Apply makes progress with each tunnel.
	var marks []time.Time
	h.devices.onOpen = func() { marks = append(marks, *h.mu.since.Load()) }
	first, second := testTunnel("gnv1", "192.0.2.3"), testTunnel("gnv2", "192.0.2.4")
	first.VNI, second.VNI = 7, 8
	if err := h.Add(first, second); err != nil {
		t.Fatal(err)
	}
	if len(marks) != 2 || !marks[1].After(marks[0]) {
		t.Errorf("progress at %v, want another time for each tunnel", marks)
	}
}

// TestChanging: who does not hold the lock learns how far a change is, and that it is over.
func TestChanging(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	var seen [][2]int
	look := func() {
		done, of := h.Changing()
		seen = append(seen, [2]int{done, of})
	}
	look()
	h.devices.onOpen = look
	var all []Tunnel
	for i := range 3 {
		all = append(all, testTunnel(fmt.Sprint("gnv", i), fmt.Sprint("192.0.2.", i+2)))
		all[i].VNI = packet.VNI(i + 1)
	}
	if err := h.Add(all...); err != nil {
		t.Fatal(err)
	}
	h.devices.onOpen = nil
	look()
	for i := range all {
		all[i].TTL = 9
	}
	if err := h.Apply(Change{Set: all}); err != nil {
		t.Fatal(err)
	}
	look()
	if want := [][2]int{{0, 0}, {1, 3}, {2, 3}, {3, 3}, {0, 0}, {0, 0}}; !slices.Equal(seen, want) {
		t.Errorf("seen %v, want %v", seen, want)
	}
}
