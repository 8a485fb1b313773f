package vtep

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
)

// ping asks while hosts are stepped, and returns what came of it after at most patience.
func (h *host) ping(t *testing.T, p Ping, patience time.Duration, others ...*host) (Pong, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var pong Pong
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		pong, err = h.Ping(ctx, p)
	}()
	for {
		select {
		case <-done:
			return pong, err
		default:
			h.step()
			for _, o := range others {
				o.step()
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// talking are two hosts with a tunnel of the same VNI, each the other's peer.
func talking(t *testing.T) (a, b *host) {
	wire := new(memWire)
	a, b = newHost(t, wire, 2, "192.0.2.1"), newHost(t, wire, 2, "192.0.2.2")
	a.add(testTunnel("gnv0", "192.0.2.2"))
	b.add(testTunnel("gnv0", "192.0.2.1"))
	return a, b
}

const patient, impatient = 20 * time.Second, 50 * time.Millisecond

// TestPing: a configured peer answers, and says what it has for us and how much has arrived.
func TestPing(t *testing.T) {
	a, b := talking(t)
	to := Ping{Tunnel: "gnv0", Remote: addr("192.0.2.2")}
	for _, size := range []int{0, 56, 57, 1500} {
		to.Size = size
		pong, err := a.ping(t, to, patient, b)
		if want := max(size, 20+8+encap.MinProbe); err != nil || !pong.Answered || pong.Status != encap.ProbeFine || pong.Size != want {
			t.Errorf("size %d: %+v, %v; want an answer to %d bytes", size, pong, err, want)
		}
	}
	to.Size = 0
	b.devices.opened[0].SetUp(false)
	if pong, err := a.ping(t, to, patient, b); err != nil || !pong.Answered || pong.Status != encap.ProbeDown {
		t.Errorf("with the device down: %+v, %v", pong, err)
	}
	other := packet.VNI(testVNI + 5)
	to.VNI = &other
	if pong, err := a.ping(t, to, patient, b); err != nil || !pong.Answered || pong.Status != encap.ProbeNoTunnel {
		t.Errorf("of a VNI that is not there: %+v, %v", pong, err)
	}
	for _, h := range []*host{a, b} {
		if n := len(h.devices.opened[0].queues[0].take()); n != 0 {
			t.Errorf("tenants saw %d frames", n)
		}
		if s := h.State(); s.Drops.Rx != (count.Drops{}).Rx || s.Tunnels[0].Stats.RxPackets != 0 {
			t.Errorf("probes are counted: %+v, %+v", s.Drops, s.Tunnels[0].Stats)
		}
	}
}

// TestPingRefused: who cannot be asked, and what cannot be sent, is told at once.
func TestPingRefused(t *testing.T) {
	a, b := talking(t)
	vxlan := testTunnel("gnv1", "192.0.2.2")
	vxlan.Encap, vxlan.DstPort = encap.VXLAN, 4789
	a.add(vxlan)
	for _, p := range []Ping{
		{Tunnel: "gnv9", Remote: addr("192.0.2.2")},
		{Tunnel: "gnv0", Remote: addr("192.0.2.9")},
		{Tunnel: "gnv1", Remote: addr("192.0.2.2")},
		{Tunnel: "gnv0", Remote: addr("192.0.2.2"), Size: 55},
		{Tunnel: "gnv0", Remote: addr("192.0.2.2"), Size: 65536},
	} {
		if pong, err := a.Ping(t.Context(), p); err == nil {
			t.Errorf("%+v: %+v", p, pong)
		}
	}
	a.underlay.fail = unix.EPERM
	if pong, err := a.ping(t, Ping{Tunnel: "gnv0", Remote: addr("192.0.2.2")}, patient, b); err != nil || pong.Failed != unix.EPERM {
		t.Errorf("behind an output firewall: %+v, %v", pong, err)
	}
}

// TestPingStrangers: only configured peers are answered, tenants never, and nobody without end.
func TestPingStrangers(t *testing.T) {
	a, b := talking(t)
	open := testTunnel("gnv2", "192.0.2.1")
	open.VNI, open.Accept = testVNI+1, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	open.Device.LLAddr = packet.MAC{2, 0, 0, 0, 0x0b, 9}
	b.add(open)
	b.underlay.keep = true
	ask := func(from string, ifindex int32, vni packet.VNI) int {
		d := make([]byte, encap.MinProbe)
		encap.Probe{VNI: vni, Size: len(d), Nonce: 7}.Put(d)
		before := len(b.underlay.sent)
		b.underlay.inject(addr(from), 6081, 0, ifindex, len(d), d)
		b.step()
		return len(b.underlay.sent) - before
	}
	if n := ask("192.0.2.1", 2, testVNI); n != 1 {
		t.Errorf("a peer got %d answers", n)
	}
	if to := b.underlay.sent[0].to; to.String() != "192.0.2.1:6081" {
		t.Errorf("the answer went to %s", to)
	}
	b.admitSenders(sender{b.tunnels["gnv2"].port, addr("192.0.2.8")})
	if len(b.tunnels["gnv2"].dynamic) != 1 {
		t.Fatal("192.0.2.8 was not let in")
	}
	for name, n := range map[string]int{
		"a peer that was let in":             ask("192.0.2.8", 2, testVNI+1),
		"a stranger":                         ask("192.0.2.7", 2, testVNI),
		"a stranger to a tunnel with accept": ask("192.0.2.7", 2, testVNI+1),
		"a tenant":                           ask("192.0.2.1", int32(b.devices.opened[0].index), testVNI),
	} {
		if n != 0 {
			t.Errorf("%s got %d answers", name, n)
		}
	}
	if n := b.State().Drops.Rx[count.DropControl]; n == 0 {
		t.Error("what was not answered is not counted")
	}
	// The clock is real: whatever it does meanwhile, a flood is answered by the limit only.
	began, answers, flood := time.Now(), 0, 3000
	for range flood {
		answers += ask("192.0.2.1", 2, testVNI)
	}
	if most := 110 + int(time.Since(began).Milliseconds()) + 1; answers > most || answers < 50 {
		t.Errorf("%d of %d were answered, want at most %d", answers, flood, most)
	}
	_ = a
}

// TestPingForged: an answer that nobody waits for, or from another than the peer, does nothing.
func TestPingForged(t *testing.T) {
	a, _ := talking(t)
	nonce, answer, end, err := a.asked.begin(addr("192.0.2.2"))
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	say := func(from string, nonce uint64) {
		d := make([]byte, encap.MinProbe)
		encap.Probe{Answer: true, VNI: testVNI, Nonce: nonce}.Put(d)
		a.underlay.inject(addr(from), 6081, 0, 2, len(d), d)
		a.step()
	}
	say("192.0.2.3", nonce)
	say("192.0.2.2", nonce+1)
	if len(answer) != 0 {
		t.Error("a forged answer was taken")
	}
	say("192.0.2.2", nonce)
	say("192.0.2.2", nonce)
	if len(answer) != 1 {
		t.Error("the answer was not taken")
	}
}

// TestPingBounds: as many as may wait do, and no more.
func TestPingBounds(t *testing.T) {
	var a asked
	var ends []func()
	for range maxAsked {
		_, _, end, err := a.begin(addr("192.0.2.2"))
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if _, _, _, err := a.begin(addr("192.0.2.2")); err != ErrAsking {
		t.Errorf("one more: %v", err)
	}
	for _, end := range ends {
		end()
	}
	if len(a.waiting) != 0 || a.count.Load() != 0 {
		t.Errorf("%d left, counted %d", len(a.waiting), a.count.Load())
	}
}

// TestProbeNoAllocations: answering allocates nothing, and neither does refusing.
func TestProbeNoAllocations(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(testTunnel("gnv0", "192.0.2.2"))
	h.underlay.forget = true
	r := h.underlay.listeners[0].receivers[0]
	d := make([]byte, encap.MinProbe)
	encap.Probe{VNI: testVNI, Size: len(d), Nonce: 7}.Put(d)
	answer := bytes.Clone(d)
	encap.Probe{Answer: true, VNI: testVNI, Size: len(d), Nonce: 7}.Put(answer)
	var trains []packet.Train
	for _, b := range [][]byte{d, answer} {
		for _, from := range []string{"192.0.2.2", "192.0.2.3"} {
			trains = append(trains, packet.Train{From: addr(from), Ifindex: 2, Data: b, Size: len(b)})
		}
	}
	allocs := testing.AllocsPerRun(1000, func() {
		r.mu.Lock()
		r.queued = append(r.queued, slices.Clip(trains)...)
		r.wakeup.ring()
		r.mu.Unlock()
		h.step()
	})
	if allocs != 0 || h.underlay.added == 0 {
		t.Errorf("%v allocations per round, want 0; %d answers", allocs, h.underlay.added)
	}
}
