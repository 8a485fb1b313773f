package vtep

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"gvtep/internal/offload"
	"gvtep/internal/packet"
)

// udpSuper is a UDP super-frame as the sender's kernel leaves it, and what to make of it.
func udpSuper(total, size int) (super []byte, hdr packet.VirtioHdr) {
	super = frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1000, 2000, string(make([]byte, total))))
	for i := range super[42:] {
		super[42+i] = byte(i * 7)
	}
	var h packet.Headers
	packet.Walk(super, false, &h)
	binary.BigEndian.PutUint16(super[40:], packet.Fold(packet.PseudoSum(super, &h, len(super)-34)))
	return super, packet.VirtioHdr{
		Flags: packet.VirtioNeedsCsum, GSOType: packet.GSOUDPL4, GSOSize: uint16(size),
		CsumStart: 34, CsumOffset: 6, HdrLen: 42,
	}
}

// finished is what a network card makes of frames that were written to a device.
func finished(t *testing.T, l3 bool, frames ...memFrame) (out [][]byte) {
	t.Helper()
	for _, f := range frames {
		b := slices.Clone(f.bytes)
		if f.hdr.GSOType == packet.GSONone {
			if err := offload.FinishChecksum(&f.hdr, b); err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
			continue
		}
		var h packet.Headers
		packet.Walk(b, l3, &h)
		var c offload.Cutter
		pieces, err := c.Start(&f.hdr, b, &h, nil)
		if err != nil {
			t.Fatal(err)
		}
		run := c.Cut(make([]byte, len(b)+pieces*c.HeadLen()))
		for piece := range slices.Chunk(run, c.HeadLen()+int(f.hdr.GSOSize)) {
			out = append(out, piece)
		}
	}
	return out
}

// TestUnfinished: what a kernel on the same machine sends without cutting it, and without finishing
// its checksum, is written so that the device does that, or is done here. What is finished
// goes as it is, right or wrong.
func TestUnfinished(t *testing.T) {
	const all = packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6 | packet.OffloadUSO
	const path, link = 1500 - 20 - 8 - 8, 14
	tcp, _ := tcpSuper(10, 1000)
	little, littleHdr := tcpSuper(1, 1000)
	tcpHdr := func(size int) packet.VirtioHdr {
		h := littleHdr
		h.GSOSize = uint16(size)
		return h
	}
	lone := packet.VirtioHdr{Flags: packet.VirtioNeedsCsum, CsumStart: 34, CsumOffset: 16}
	udp, udpHdr := udpSuper(12*1200+7, 1200)
	tiny, tinyHdr := udpSuper(100*20+1, 20) // more than kernels before 6.9 take
	long, _ := udpSuper(5000, 0)
	loneUDP := packet.VirtioHdr{Flags: packet.VirtioNeedsCsum, CsumStart: 34, CsumOffset: 6}
	right := finished(t, false, memFrame{lone, little})[0]
	wrong := slices.Clone(right)
	wrong[500] ^= 4
	for _, tc := range []struct {
		name    string
		inner   []byte
		size    int               // of the train's datagrams, as the kernel says; 0: a single one
		offload packet.Offload    // of the device
		cfg     func(*Tunnel)     // nil: nothing is changed
		want    packet.VirtioHdr  // of what is written, if it is one frame
		means   *packet.VirtioHdr // what it is to be cut by; nil: want
		refuse  bool              // the device does so with super-frames
	}{
		{name: "TCP", inner: little, offload: all, want: lone},
		{name: "TCP, no offload", inner: little, means: &lone},
		{name: "TCP super-frame", inner: tcp, offload: all, want: tcpHdr(path - 54)},
		{name: "TCP super-frame, MTU by hand", inner: tcp, offload: all, want: tcpHdr(1000 + link - 54), cfg: func(c *Tunnel) { c.Device.MTU = 1000 }},
		{name: "TCP super-frame, no offload", inner: tcp, means: ptr(tcpHdr(path - 54))},
		{name: "TCP super-frame, checksums only", inner: tcp, offload: packet.OffloadCsum | packet.OffloadUSO, means: ptr(tcpHdr(path - 54))},
		{name: "TCP super-frame, refused", inner: tcp, offload: all, refuse: true, means: ptr(tcpHdr(path - 54))},
		{name: "UDP super-frame", inner: udp, size: 1200, offload: all, want: udpHdr},
		{name: "UDP super-frame, no offload", inner: udp, size: 1200, means: &udpHdr},
		{name: "UDP super-frame, tiny pieces", inner: tiny, size: 20, offload: all, means: &tinyHdr},
		{name: "UDP super-frame, refused", inner: udp, size: 1200, offload: all, refuse: true, means: &udpHdr},
		{name: "UDP super-frame of a new sender", inner: udp, size: 1200, offload: all, want: udpHdr, cfg: func(c *Tunnel) {
			c.Peers, c.Accept = nil, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}},
		{name: "long UDP", inner: long, offload: all, want: loneUDP},
		{name: "finished", inner: right, offload: all},
		{name: "finished and wrong", inner: wrong, offload: all},
		{name: "finished and wrong, no offload", inner: wrong},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t, new(memWire), 1, "192.0.2.1")
			h.devices.offload = tc.offload
			cfg := testTunnel("gnv0", "192.0.2.2")
			cfg.Device.LLAddr = macB
			if tc.cfg != nil {
				tc.cfg(&cfg)
			}
			q := h.add(cfg).queues[0]
			if tc.refuse {
				q.refuse = unix.EINVAL
			}
			h.step()
			data := good(tc.inner)
			if tc.size == 0 {
				tc.size = len(data)
			}
			h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, tc.size, data)
			if cfg.Accept == nil {
				h.step()
			} else { // somebody has to let the sender in
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error)
				go func() { done <- h.Run(ctx) }()
				defer func() { cancel(); <-done }()
			}
			var out []memFrame
			eventually(t, "it is delivered", func() bool {
				out = append(out, q.take()...)
				return len(out) > 0
			})
			means := tc.want
			if tc.means != nil {
				means = *tc.means
			} else if len(out) != 1 || out[0].hdr != tc.want {
				t.Errorf("%d frames, the first with %+v; want one with %+v", len(out), out[0].hdr, tc.want)
			}
			want := finished(t, false, memFrame{means, tc.inner})
			if got := finished(t, false, out...); !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%d pieces, want %d; or they differ", len(got), len(want))
			}
			for _, f := range out {
				if tc.means != nil && f.hdr != (packet.VirtioHdr{}) {
					t.Errorf("written with %+v, want a finished frame", f.hdr)
				}
			}
			if s := h.State().Tunnels[0]; s.Stats.RxPackets != 1 || s.Drops.Rx != [len(s.Drops.Rx)]uint64{} {
				t.Errorf("%d packets counted, drops %v; want 1 and none", s.Stats.RxPackets, s.Drops.Rx)
			}
		})
	}
}

func ptr(h packet.VirtioHdr) *packet.VirtioHdr { return &h }

// TestUnfinishedElsewhere: the same where the frame gets a tag, and where it has no Ethernet header.
func TestUnfinishedElsewhere(t *testing.T) {
	super, hdr := tcpSuper(10, 1000)
	for _, l3 := range []bool{false, true} {
		t.Run(fmt.Sprint("l3 ", l3), func(t *testing.T) {
			h := newHost(t, new(memWire), 1, "192.0.2.1")
			h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
			cfg, data, want := testTrunk("gnv0", "192.0.2.2"), ofVNI(5010, super), withTag(super, 0x8100, 10)
			cfg.Device.LLAddr = macB
			hdr := hdr
			hdr.GSOSize = 1500 - 20 - 8 - 8 - 54
			link := 14 + 4
			if l3 {
				cfg, data, want = l3Tunnel([]string{"10.99.0.0/16"}), datagram(0, 0, 0x0800, testVNI, nil, super[14:]), super[14:]
				hdr.GSOSize += 14
				link = 0
			}
			hdr.CsumStart, hdr.HdrLen = uint16(link+20), uint16(link+40)
			q := h.add(cfg).queues[0]
			h.step()
			h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(data), data)
			h.step()
			out := q.take()
			if len(out) != 1 || out[0].hdr != hdr || !bytes.Equal(out[0].bytes, want) {
				t.Fatalf("%d frames, %+v; want one with %+v; drops %v", len(out), out, hdr, h.State().Tunnels[0].Drops.Rx)
			}
		})
	}
}

// TestFinishedByCards: what has crossed a wire is finished, whatever its checksum field
// says; a card can come at any time.
func TestFinishedByCards(t *testing.T) {
	const card, veth = 7, 2
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadUSO
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.Device.LLAddr = macB
	q := h.add(cfg).queues[0]
	h.step()
	long, _ := tcpSuper(10, 1000)
	lone, _ := tcpSuper(1, 1000)
	for _, known := range []bool{false, true} {
		if known {
			h.underlay.mu.Lock()
			h.underlay.cards = []int{card}
			h.underlay.mu.Unlock()
			h.lookAbove()
			h.step()
		}
		for _, inner := range [][]byte{long, lone} {
			for _, device := range []int32{card, veth} {
				data := good(inner)
				h.underlay.inject(addr("192.0.2.2"), 6081, 0, device, len(data), data)
				h.step()
				out := q.take()
				if len(out) != 1 || !bytes.Equal(out[0].bytes, inner) {
					t.Fatalf("device %d: %d frames, want one as it came", device, len(out))
				}
				if got, want := out[0].hdr.Flags == packet.VirtioNeedsCsum, !known || device == veth; got != want {
					t.Errorf("device %d, known to be a card %t: taken for unfinished %t, want %t", device, known && device == card, got, want)
				}
			}
		}
	}
	// Of one message of the kernel about several datagrams, a card's is a train.
	super, _ := udpSuper(3*1000, 1000)
	for _, device := range []int32{card, veth} {
		data := good(super)
		h.underlay.inject(addr("192.0.2.2"), 6081, 0, device, 1000, data)
		h.step()
		out := q.take()
		if whole := len(out) == 1 && bytes.Equal(out[0].bytes, super); whole != (device == veth) {
			t.Errorf("device %d, a card %t: a train taken for one frame %t", device, device == card, whole)
		}
	}
	// It outlives a change of the tunnels.
	other := testTunnel("gnv1", "192.0.2.3")
	other.VNI++
	h.add(other)
	if !h.pool.Snapshot().IsCard(card) {
		t.Error("another tunnel, and the card is forgotten")
	}
}

// TestUnfinishedAllocatesNothing, with offloads and without.
func TestUnfinishedAllocatesNothing(t *testing.T) {
	for _, ability := range []packet.Offload{0, packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadUSO} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.devices.offload = ability
		cfg := testTunnel("gnv0", "192.0.2.2")
		cfg.Device.LLAddr = macB
		q := h.add(cfg).queues[0]
		q.discard = true
		r := h.underlay.listeners[0].receivers[0]
		var trains []packet.Train
		for _, inner := range []func() ([]byte, packet.VirtioHdr){
			func() ([]byte, packet.VirtioHdr) { return tcpSuper(10, 1000) },
			func() ([]byte, packet.VirtioHdr) { return tcpSuper(1, 1000) },
			func() ([]byte, packet.VirtioHdr) { return udpSuper(5000, 1000) },
		} {
			f, hdr := inner()
			data := good(f)
			size := len(data)
			if hdr.GSOType == packet.GSOUDPL4 {
				size = int(hdr.GSOSize)
			}
			trains = append(trains, packet.Train{From: addr("192.0.2.2"), Ifindex: 2, Data: data, Size: size})
		}
		rounds := 0
		if allocs := testing.AllocsPerRun(1000, func() {
			r.mu.Lock()
			r.queued = append(r.queued, trains...)
			r.wakeup.ring()
			r.mu.Unlock()
			h.step()
			rounds++
		}); allocs != 0 {
			t.Errorf("abilities %b: %v allocations per round, want 0", ability, allocs)
		}
		if s := h.State().Tunnels[0].Stats; s.RxPackets != uint64(3*rounds) {
			t.Errorf("abilities %b: %d packets in %d rounds, want %d", ability, s.RxPackets, rounds, 3*rounds)
		}
	}
}
