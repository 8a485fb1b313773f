package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestBroadcastDatagrams: the kernel gives a copy of what is sent to a broadcast address to
// every socket of the port. None of them goes to the device, and the datagram counts as one drop.
func TestBroadcastDatagrams(t *testing.T) {
	need(t)
	b := newBench(t, "--workers", "4")
	for i, to := range []string{"192.0.2.255", "255.255.255.255"} {
		id := fmt.Sprintf("broadcast-%d", i)
		before, from := b.g.counters(), len(b.tap.kept(0, nil))
		b.put(append(unhex(header), inner(id, b.stranger())...), outer{to: netip.MustParseAddr(to)})
		moved := b.g.moved(before, "rx.broadcast", "rx.packets")
		time.Sleep(100 * time.Millisecond)
		if got := b.tap.kept(from, received(id)); len(got) != 0 {
			t.Errorf("to %s: %d copies on the device, want none", to, len(got))
		}
		if len(moved) != 1 || moved["rx.broadcast"] != 1 {
			t.Errorf("to %s: counters moved by %v, want rx.broadcast by 1 and no other", to, moved)
		}
	}
	b.good(outer{})
}
