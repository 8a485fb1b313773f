package vtep

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// TestSharedWithUnderlay: what a device above ours means for the way to a peer, by what is
// known of it, and for what arrives there.
func TestSharedWithUnderlay(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()

	const bridge, tap, other = 77, 0, 78
	mac := packet.MAC{2, 0, 0, 0, 7, 7}
	for _, c := range []struct {
		name    string
		up      netio.Upper
		port    int // the next hop is behind; tap: ours
		wrong   string
		arrives bool
	}{
		{"a bridge of ours alone", netio.Upper{}, other, "leads into a tunnel", false},
		{"the next hop is behind another port", netio.Upper{Joint: "br0", Bridge: bridge}, other, "", true},
		{"the next hop is behind ours", netio.Upper{Joint: "br0", Bridge: bridge}, tap, "gnv0 and the underlay share the bridge br0: give the underlay a bridge, or a VLAN, of its own", true},
		{"where it is is not known", netio.Upper{Joint: "br0", Bridge: bridge}, -1, "", true},
		{"a bond does not tell", netio.Upper{Joint: "bond0"}, other, "gnv0 and the underlay share the bond0", false},
	} {
		c.up.Ifindex, c.up.Below = bridge, []int{dev.index}
		h.underlay.mu.Lock()
		h.underlay.uppers = []netio.Upper{c.up}
		h.underlay.locals = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
		h.underlay.hop, h.underlay.hopPort = mac, c.port
		switch c.port {
		case tap:
			h.underlay.hopPort = dev.index
		case -1:
			h.underlay.hop, h.underlay.hopPort = packet.MAC{}, 0
		}
		h.underlay.mu.Unlock()
		h.underlay.reroute(bridge, 1500)
		eventually(t, c.name+": what the peer's state says", func() bool {
			wrong := h.State().Tunnels[0].Peers[0].Error
			return strings.Contains(wrong, c.wrong) && (wrong == "") == (c.wrong == "")
		})
		health := h.Health()
		if text := strings.Join(health.Unmet, "\n"); health.Ready != (c.wrong == "") || !strings.Contains(text, c.wrong) {
			t.Errorf("%s: ready %v, unmet %q; want %q", c.name, health.Ready, text, c.wrong)
		}
		eventually(t, c.name+": the workers know", func() bool { return h.pool.Snapshot().IsOwn(bridge) != c.arrives })

		before := h.State()
		f := frame(macA, macB, 0x0806, make([]byte, 28))
		h.underlay.inject(addr("192.0.2.2"), 6081, 0, bridge, len(f)+8, good(f))
		eventually(t, c.name+": the datagram is taken, or not", func() bool {
			now := h.State()
			return now.Tunnels[0].Stats.RxPackets-before.Tunnels[0].Stats.RxPackets+now.Drops.Rx[count.DropReinjected]-before.Drops.Rx[count.DropReinjected] == 1
		})
		if got := h.State().Tunnels[0].Stats.RxPackets != before.Tunnels[0].Stats.RxPackets; got != c.arrives {
			t.Errorf("%s: a datagram on it is taken: %v, want %v", c.name, got, c.arrives)
		}
	}
}

// TestNesting: which ways lead back to the tunnel that they start from.
func TestNesting(t *testing.T) {
	// 1 goes by 10, which is of 2; 2 goes by 20 and 30, which are of 3 and 4; 4 goes by 10 and by
	// the bridge 50, over the devices of 1 and 3.
	n := nesting{
		into:  map[uint32][]int{1: {10}, 2: {20, 30}, 4: {10, 50}},
		under: map[int][]uint32{5: {1}, 10: {2}, 20: {3}, 30: {4}, 50: {1, 3}},
	}
	for _, c := range []struct {
		tunnel uint32
		device int
		back   bool
	}{
		{1, 0, false}, {1, 5, true}, {1, 10, true}, {2, 20, false}, {2, 30, true}, {3, 50, true},
		{3, 10, true}, {3, 20, true}, {4, 10, true}, {4, 20, false}, {9, 10, false},
	} {
		if got := n.leadsBack(c.tunnel, c.device); got != c.back {
			t.Errorf("tunnel %d by device %d: leads back %v, want %v", c.tunnel, c.device, got, c.back)
		}
	}
}
