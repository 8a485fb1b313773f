package vtep

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/option"
)

// TestFloodCutOnce: a flooded super-frame is cut once for all peers with the same header, and once more
// where that changes. Each gets what it would get alone, and those with a path that is too narrow get nothing.
func TestFloodCutOnce(t *testing.T) {
	const set = "\x01\x23\x05\x00"
	for _, tc := range []struct {
		name   string
		edit   func(*Tunnel)
		narrow []int // peers with a narrow path
		cuts   int
	}{
		{"all alike", func(*Tunnel) {}, nil, 1},
		{"one with an option", func(cfg *Tunnel) { cfg.Peers[5].Options = option.Sent{Set: set} }, nil, 2},
		{"all with one", func(cfg *Tunnel) { cfg.Options = option.Sent{Set: set} }, nil, 1},
		{"the first path is narrow", func(*Tunnel) {}, []int{0}, 1},
		{"some paths are narrow", func(cfg *Tunnel) { cfg.Peers[3].Options = option.Sent{Set: set} }, []int{3, 4}, 1},
		{"all but one", func(*Tunnel) {}, []int{0, 1, 2, 3, 4}, 1},
		{"over a trunk", func(cfg *Tunnel) {
			cfg.NoVNI, cfg.VLANs = true, []VLANRange{{First: 7, Last: 7, VNI: testVNI}}
		}, nil, 1},
	} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		h.underlay.keep, h.underlay.runs = true, make(map[*byte]int)
		cfg := testTunnel("gnv0")
		for i := range 6 {
			cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
		}
		tc.edit(&cfg)
		dev := h.add(cfg)
		for _, i := range tc.narrow {
			h.underlay.to(scalePeer(i).String(), netio.Route{MTU: 1400, Link: 1500, Learned: true})
		}
		h.checkPaths(anyPeer)
		super, hdr := tcpSuper(10, 1380)
		if cfg.NoVNI {
			super = append(append(super[:12:12], 0x81, 0, 0, 7), super[12:]...)
			hdr.CsumStart += 4
		}
		dev.queues[0].feed(memFrame{bytes: super, hdr: hdr})
		h.step()
		runs := 0
		for _, n := range h.underlay.runs {
			runs += n
		}
		if wide := 6 - len(tc.narrow); len(h.underlay.runs) != tc.cuts || runs != wide {
			t.Errorf("%s: %d runs, cut %d times; want %d, and %d", tc.name, runs, len(h.underlay.runs), wide, tc.cuts)
		}
		got := make(map[netip.Addr][][]byte)
		for _, d := range h.underlay.sent {
			got[d.to.Addr()] = append(got[d.to.Addr()], d.bytes)
		}
		for i := range 6 {
			checkPieces(t, fmt.Sprintf("%s: peer %d", tc.name, i), got[scalePeer(i)], &cfg.Peers[i], &cfg, len(got[scalePeer(i)]) > 0)
		}
		if len(got) != 6-len(tc.narrow) {
			t.Errorf("%s: %d peers got pieces", tc.name, len(got))
		}
		if drops := h.State().Dropped.Tx[count.DropTooBig]; drops != uint64(10*len(tc.narrow)) {
			t.Errorf("%s: %d pieces too big, want %d", tc.name, drops, 10*len(tc.narrow))
		}
	}
}

// checkPieces checks the pieces of tcpSuper(10, 1380) that a peer got.
func checkPieces(t *testing.T, name string, pieces [][]byte, p *Peer, cfg *Tunnel, any bool) {
	t.Helper()
	if !any {
		return
	}
	super, _ := tcpSuper(10, 1380)
	head, err := cfg.Encap.AppendHeader(nil, testVNI, packet.EtherTypeEthernet)
	if err == nil {
		head, err = cfg.Encap.WithOptions(head, string(sentTo(cfg, p).Set))
	}
	if err != nil || len(pieces) != 10 {
		t.Fatalf("%s: %d pieces, want 10 (%v)", name, len(pieces), err)
	}
	var payload []byte
	for _, piece := range pieces {
		if !bytes.HasPrefix(piece, head) {
			t.Fatalf("%s: a piece begins % x, want % x", name, piece[:len(head)], head)
		}
		payload = append(payload, piece[len(head)+54:]...)
	}
	if !bytes.Equal(payload, super[54:]) {
		t.Errorf("%s: other bytes than were flooded", name)
	}
}

// floodHost is a host that floods to peers.
func floodHost(tb testing.TB, peers int) (*Endpoint, *memQueue, *memUnderlay) {
	devices, underlay := &memDevices{t: tb, offload: packet.OffloadCsum | packet.OffloadTSO4}, newMemUnderlay(tb, new(memWire), "192.0.2.1")
	e, err := New(Config{Workers: 1, Devices: devices, Underlay: underlay})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { e.Close() })
	cfg := testTunnel("gnv0")
	for i := range peers {
		cfg.Peers = append(cfg.Peers, Peer{Remote: scalePeer(i)})
	}
	if err := e.Add(cfg); err != nil {
		tb.Fatal(err)
	}
	underlay.forget = true
	return e, devices.opened[0].queues[0], underlay
}

// TestFloodNoAllocations: neither does a flooded super-frame allocate anything.
func TestFloodNoAllocations(t *testing.T) {
	const peers = 20
	e, q, underlay := floodHost(t, peers)
	super, hdr := tcpSuper(45, 1400)
	rounds := 0
	allocs := testing.AllocsPerRun(200, func() {
		q.feed(memFrame{bytes: super, hdr: hdr})
		e.pool.Step()
		rounds++
	})
	if allocs != 0 || underlay.added != 45*peers*rounds {
		t.Errorf("%v allocations per round, want 0; %d datagrams in %d rounds", allocs, underlay.added, rounds)
	}
}

// BenchmarkFlood is a super-frame of 63,000 bytes that is flooded to peers.
func BenchmarkFlood(b *testing.B) {
	for _, peers := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			e, q, _ := floodHost(b, peers)
			super, hdr := tcpSuper(45, 1400)
			b.SetBytes(int64(len(super) * peers))
			b.ReportAllocs()
			for b.Loop() {
				q.feed(memFrame{bytes: super, hdr: hdr})
				e.pool.Step()
			}
		})
	}
}
