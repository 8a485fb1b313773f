package vtep

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/packet"
)

// TestDeviceEvents: another address of a device is followed when the device tells; no poll
// looks for it. And faults are told once, and so is that they are over.
func TestDeviceEvents(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	core, logged := observer.New(zap.InfoLevel)
	h.Endpoint.log = zap.New(core)
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()
	own := func(mac packet.MAC) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.tunnels["gnv0"].domains[0].fdb.Learn(mac, 1, h.clock()) == fdb.Own
	}
	other := packet.MAC{2, 0, 0, 0, 0xff, 1}
	dev.mu.Lock()
	dev.mac = other
	dev.mu.Unlock()
	eventually(t, "watched", h.devices.touch)
	eventually(t, "the new address is our own", func() bool { return own(other) })
	fault := "device gnv0 lacks address 2001:db8::1/64: it was deleted by hand"
	set := func(f ...string) {
		dev.mu.Lock()
		dev.faults = f
		dev.mu.Unlock()
		h.devices.touch()
	}
	count := func(text string) int { return logged.FilterMessage(text).Len() }
	set(fault)
	eventually(t, "a line about the fault", func() bool { return count(fault) == 1 })
	if s, health := h.State(), h.Health(); s.Ready || !s.Running || !slices.Contains(s.Faults, fault) ||
		health.Ready || len(health.Faults) != 0 || !slices.Equal(health.Unmet, []string{fault}) {
		t.Errorf("ready %t %q, health %+v; want not ready, and %q", s.Ready, s.Faults, health, fault)
	}
	set(fault)
	set()
	eventually(t, "a line about the end", func() bool { return count("the device is as configured again") == 1 })
	if n := count(fault); n != 1 {
		t.Errorf("%d lines about the fault, want 1", n)
	}
	if s := h.State(); !s.Ready {
		t.Errorf("not ready: %q", s.Faults)
	}
}

// TestUnmet: what is other than configured keeps the endpoint from being ready, one
// sentence each.
func TestUnmet(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.Device.MTU = 1400
	dev := h.add(cfg)
	peers := h.tunnels["gnv0"].peers
	mtu := func(n int) { dev.SetMTU(n) }
	for _, c := range []struct {
		what string
		do   func()
		want string
	}{
		{"nothing", func() {}, ""},
		{"another MTU", func() { mtu(1300) }, "device gnv0 has the MTU 1300, not 1400"},
		{"one peer without a route", func() { mtu(1400); peers[0].Limit.Store(0) }, ""},
		{"both", func() { peers[1].Limit.Store(0) }, "tunnel gnv0 reaches nobody: there is no route to any of its 2 peers"},
		{"one of them with a loop", func() { peers[1].Limit.Store(1450); peers[1].Blocked.Store(true) },
			"tunnel gnv0 reaches nobody: to 1 of its 2 peers there is no route, the others' lead into a tunnel"},
		{"loops", func() { peers[0].Blocked.Store(true) }, "tunnel gnv0 reaches nobody: the routes to all 2 peers lead into a tunnel"},
		{"mended", func() {
			for _, p := range peers {
				p.Blocked.Store(false)
				p.Limit.Store(1450)
			}
		}, ""},
	} {
		c.do()
		var want []string
		if c.want != "" {
			want = []string{c.want}
		}
		if s, health := h.State(), h.Health(); !slices.Equal(s.Faults, want) || !slices.Equal(health.Unmet, want) || len(health.Faults) != 0 {
			t.Errorf("%s: faults %q, health %+v; want %q", c.what, s.Faults, health, want)
		}
	}

	// Restore brings back what the device and the endpoint know.
	dev.faults = []string{"device gnv0 lacks address 192.0.2.1/24: it was deleted by hand"}
	mtu(1300)
	if err := h.Restore("gnv9"); err != nil || len(h.State().Faults) != 2 {
		t.Errorf("restoring another tunnel: %v, faults %q", err, h.State().Faults)
	}
	if err := h.Restore("gnv0"); err != nil || len(h.State().Faults) != 0 {
		t.Errorf("restored: %v, faults %q", err, h.State().Faults)
	}
	dev.refuse = unix.EPERM
	if err := h.Restore("gnv0"); !errors.Is(err, unix.EPERM) {
		t.Errorf("refused: %v, want EPERM", err)
	}
}
