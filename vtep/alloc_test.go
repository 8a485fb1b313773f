package vtep

import (
	"slices"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// TestNoAllocations: a worker's round allocates nothing, whichever way the
// packets go, alone, in trains and as super-frames.
func TestNoAllocations(t *testing.T) {
	for _, f := range encap.Formats() {
		t.Run(f.String(), func(t *testing.T) { noAllocations(t, f, false, nil) })
		t.Run(f.String()+" captured", func(t *testing.T) { noAllocations(t, f, true, nil) })
	}
	t.Run("match", func(t *testing.T) {
		noAllocations(t, encap.Geneve, false, readMatch(t, "count any", "drop ff01:01", "vlan 7 any"))
		noAllocations(t, encap.Geneve, false, readMatch(t, "drop ff01:01", "vni 0x123456 any"))
	})
	t.Run("send", func(t *testing.T) {
		noAllocations(t, encap.Geneve, false, nil, readSend(t, "src 10.0.0.0/24 then vni 3", "dst 10.99.0.0/16 proto udp then options ff01:01:@dscp,ff01:02:@src dscp 1", "proto tcp then options ff01:03:@dst")...)
	})
}

func noAllocations(t *testing.T, f encap.Format, captured bool, match []option.Rule, send ...option.SendRule) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.Encap, cfg.OptionRules, cfg.SendRules = f, match, send
	dev := h.add(cfg)
	q := dev.queues[0]
	q.discard = true
	h.underlay.forget = true
	r := h.underlay.listeners[0].receivers[0]
	out := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "out"))
	head, _ := f.AppendHeader(nil, testVNI, packet.EtherTypeEthernet)
	in := append(head, frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 2, 1, "in"))...)
	super, hdr := tcpSuper(10, 1000)
	train := packet.Train{From: addr("192.0.2.2"), Ifindex: 2}
	for range 10 {
		train.Data = append(train.Data, in...)
	}
	train.Size = len(in)
	wire := slices.Clone(train.Data) // a VLAN tag is written over it
	frames := []memFrame{{bytes: out}, {bytes: super, hdr: hdr}}
	// Unknown to any tunnel, so that drops are captured, too.
	strange, _ := f.AppendHeader(nil, testVNI+1, packet.EtherTypeEthernet)
	refused := packet.Train{From: addr("192.0.2.2"), Ifindex: 2, Data: append(strange, in[len(head):]...), Size: len(in)}
	read := func() {}
	copies := 0
	if captured {
		words, err := capture.ParseFilter([]string{"host", "10.99.0.0/24", "not", "mac", "02:ff:ff:ff:ff:ff"})
		if err != nil {
			t.Fatal(err)
		}
		tap, stop, err := h.Capture(capture.Options{Points: 1<<capture.NumPoints - 1, Dev: "gnv0", Filter: words, Snaplen: 128, Buffer: capture.MinBuffer})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		each := func(*capture.Record) bool { copies++; return true }
		read = func() { tap.Read(each) }
	}
	rounds := 0
	allocs := testing.AllocsPerRun(1000, func() {
		q.feed(frames...)
		copy(train.Data, wire)
		r.mu.Lock()
		r.queued = append(r.queued, train, refused)
		r.wakeup.ring()
		r.mu.Unlock()
		h.step()
		read()
		rounds++
	})
	if allocs != 0 {
		t.Errorf("%v allocations per round, want 0", allocs)
	}
	if want := rounds * 11; h.underlay.added != want {
		t.Errorf("%d datagrams sent in %d rounds, want %d", h.underlay.added, rounds, want)
	}
	// Two frames out, of eleven datagrams; ten datagrams in, of frames that are not joined; a drop.
	if want := rounds * (2 + 11 + 11 + 10 + 1); captured && copies != want {
		t.Errorf("%d copies in %d rounds, want %d", copies, rounds, want)
	}
	if s := h.State().Tunnels[0].Stats; s.RxPackets != uint64(rounds)*10 {
		t.Errorf("%d packets received in %d rounds, want %d", s.RxPackets, rounds, rounds*10)
	}
}

// TestNoAllocationsL3: neither do lookups of the longest prefix, both ways.
func TestNoAllocationsL3(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	dev := h.add(l3Tunnel([]string{"10.0.0.0/8", "fd00::/16"}, []string{"10.1.0.0/16", "fd00:1::/32"}))
	q := dev.queues[0]
	q.discard = true
	h.underlay.forget = true
	r := h.underlay.listeners[0].receivers[0]
	near, far := addr("10.9.0.1"), addr("10.1.0.2")
	frames := []memFrame{{bytes: innerIP(near, far)}, {bytes: innerIP(addr("fd00:9::1"), addr("fd00:1::2"))}, {bytes: innerIP(near, addr("11.0.0.1"))}}
	in := datagram(0, 0, 0x0800, testVNI, nil, innerIP(far, near))
	train := packet.Train{From: addr("192.0.2.3"), Ifindex: 2, Data: in, Size: len(in)}
	rounds := uint64(0)
	allocs := testing.AllocsPerRun(1000, func() {
		q.feed(frames...)
		r.mu.Lock()
		r.queued = append(r.queued, train)
		r.wakeup.ring()
		r.mu.Unlock()
		h.step()
		rounds++
	})
	s := h.State().Tunnels[0]
	if allocs != 0 || s.Stats.TxPackets != 2*rounds || s.Stats.RxPackets != rounds || s.Drops.Tx[count.DropNoPeer] != rounds {
		t.Errorf("%v allocations per round, want 0; in %d rounds %+v", allocs, rounds, s.Stats)
	}
}
