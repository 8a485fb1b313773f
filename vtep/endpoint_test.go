package vtep

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/work"
)

func TestMain(m *testing.M) {
	// Workers that wait hold a P: as in the program there are more than workers.
	runtime.GOMAXPROCS(12)
	goleak.VerifyTestMain(m)
}

const testVNI = 0x123456

var (
	macA = packet.MAC{0x02, 0, 0, 0, 0x0a, 0x01} // the device of host A
	macB = packet.MAC{0x02, 0, 0, 0, 0x0b, 0x02} // behind host B

	broadcast = packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// testTunnel is an L2 tunnel with the defaults of the command line.
func testTunnel(name string, remotes ...string) Tunnel {
	cfg := Tunnel{
		VNI:     testVNI,
		Device:  netio.DeviceOptions{Name: name, LLAddr: macA},
		DstPort: 6081, SrcPortMin: 49152, SrcPortMax: 65535, SrcPorts: 64,
		TTL: DefaultTTL, UDPCsum: true,
		Learning: true, Ageing: 300 * time.Second, MaxAddress: 4096,
	}
	for _, r := range remotes {
		cfg.Peers = append(cfg.Peers, Peer{Remote: addr(r)})
	}
	return cfg
}

// host is one endpoint on a memory wire.
type host struct {
	*Endpoint
	t        *testing.T
	devices  *memDevices
	underlay *memUnderlay
}

func newHost(t *testing.T, wire *memWire, workers int, addrs ...string) *host {
	t.Helper()
	h := &host{t: t, devices: &memDevices{t: t}, underlay: newMemUnderlay(t, wire, addrs...)}
	var err error
	h.Endpoint, err = New(Config{Workers: workers, Devices: h.devices, Underlay: h.underlay})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func (h *host) add(cfg Tunnel) *memDevice {
	h.t.Helper()
	if err := h.Add(cfg); err != nil {
		h.t.Fatalf("Add(%s): %v", cfg.Device.Name, err)
	}
	return h.devices.opened[len(h.devices.opened)-1]
}

// step lets every worker go round until nothing is left to do.
func (h *host) step() { h.pool.Step() }

func frame(dst, src packet.MAC, etherType uint16, payload []byte) []byte {
	b := slices.Concat(dst[:], src[:], binary.BigEndian.AppendUint16(nil, etherType), payload)
	return b
}

// ipv4 is a UDP packet with a marker, its TOS octet and a right header sum.
func ipv4(tos uint8, src, dst string, sport, dport uint16, marker string) []byte {
	b := make([]byte, 28, 28+len(marker))
	b[0], b[1], b[8], b[9] = 0x45, tos, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(marker)))
	copy(b[12:], addr(src).AsSlice())
	copy(b[16:], addr(dst).AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^packet.Fold(packet.Sum(b[:20], 0)))
	binary.BigEndian.PutUint16(b[20:], sport)
	binary.BigEndian.PutUint16(b[22:], dport)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(marker)))
	return append(b, marker...)
}

func datagram(first, flags byte, protocol uint16, vni uint32, options, inner []byte) []byte {
	b := []byte{first, flags, byte(protocol >> 8), byte(protocol), byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
	return slices.Concat(b, options, inner)
}

func good(inner []byte) []byte { return datagram(0, 0, packet.EtherTypeEthernet, testVNI, nil, inner) }

// TestDatagrams sends one datagram each to an endpoint and looks at what
// reaches the device and which counter moved: the table of the bad packets.
func TestDatagrams(t *testing.T) {
	inner := frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.77", 7, 9, "GENEVE-CHECK-V01a."))
	ip6 := make([]byte, 40)
	ip6[0], ip6[6], ip6[7] = 0x60, 59, 64
	from, stranger := addr("192.0.2.2"), addr("192.0.2.66")
	none := count.DropShort + count.NumReasons
	swap := func(b []byte, at int, with ...byte) []byte {
		c := slices.Clone(b)
		copy(c[at:], with)
		return c
	}
	for _, tc := range []struct {
		name   string
		from   netip.Addr
		bytes  []byte
		want   []byte // delivered, nil if dropped
		reason count.Reason
		adjust func(*Tunnel)
	}{
		{name: "V01a minimal", bytes: good(inner), want: inner},
		{name: "V02a reserved bits", bytes: datagram(0, 0x3f, 0x6558, testVNI, nil, inner), want: inner},
		{name: "V02b reserved octet", bytes: swap(good(inner), 7, 0xff), want: inner},
		{name: "V03a version 1", bytes: datagram(0x40, 0, 0x6558, testVNI, nil, inner), reason: count.DropBadVersion},
		{name: "V03c version 3", bytes: datagram(0xc0, 0, 0x6558, testVNI, nil, inner), reason: count.DropBadVersion},
		{name: "V04a control", bytes: datagram(0, 0x80, 0x6558, testVNI, nil, inner), reason: count.DropControl},
		{name: "V05a option", bytes: datagram(2, 0, 0x6558, testVNI, []byte{0xff, 0, 1, 1, 0xde, 0xad, 0xbe, 0xef}, inner), want: inner},
		{name: "V06a critical", bytes: datagram(2, 0x40, 0x6558, testVNI, []byte{0xff, 0, 0x81, 1, 0xde, 0xad, 0xbe, 0xef}, inner), reason: count.DropCriticalOption},
		{name: "V07a critical without C", bytes: datagram(2, 0, 0x6558, testVNI, []byte{0xff, 0, 0x81, 1, 0xde, 0xad, 0xbe, 0xef}, inner), reason: count.DropCriticalOption},
		{name: "V07b C without options", bytes: datagram(0, 0x40, 0x6558, testVNI, nil, inner), want: inner},
		{name: "V09a Opt Len past the end", bytes: datagram(0x3f, 0, 0x6558, testVNI, nil, inner[:60-8]), reason: count.DropShort},
		{name: "V09c option and no payload", bytes: datagram(2, 0, 0x6558, testVNI, []byte{0xff, 0, 1, 1, 0, 0, 0, 0}, nil), reason: count.DropShortInner},
		{name: "V10a option over the area", bytes: datagram(1, 0, 0x6558, testVNI, []byte{0xff, 0, 1, 1}, inner), reason: count.DropBadOptions},
		{name: "V12a empty", bytes: nil, reason: count.DropShort},
		{name: "V12c seven bytes", bytes: good(nil)[:7], reason: count.DropShort},
		{name: "V12d header only", bytes: good(nil), reason: count.DropShortInner},
		{name: "V12e 13 bytes inside", bytes: good(inner[:13]), reason: count.DropShortInner},
		{name: "V12f 14 bytes inside", bytes: good(inner[:14]), want: inner[:14]},
		{name: "V13a protocol", bytes: datagram(0, 0, 0x88b5, testVNI, nil, inner), reason: count.DropBadProtocol},
		{name: "V14a IPv4 on L2", bytes: datagram(0, 0, 0x0800, testVNI, nil, inner[14:]), reason: count.DropBadProtocol},
		{name: "V14a IPv4 on L3", bytes: datagram(0, 0, 0x0800, testVNI, nil, inner[14:]), want: inner[14:], adjust: l3},
		{name: "V14b IPv6 on L3", bytes: datagram(0, 0, 0x86dd, testVNI, nil, ip6), want: ip6, adjust: l3},
		{name: "V14c IPv6 as IPv4 on L3", bytes: datagram(0, 0, 0x0800, testVNI, nil, ip6), reason: count.DropBadProtocol, adjust: l3},
		{name: "a source that is routed to its peer", bytes: datagram(0, 0, 0x0800, testVNI, nil, inner[14:]), want: inner[14:], adjust: func(c *Tunnel) {
			l3(c)
			c.Peers[0].Routes = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}
		}},
		{name: "a source that is not", bytes: datagram(0, 0, 0x0800, testVNI, nil, inner[14:]), reason: count.DropBadSource, adjust: func(c *Tunnel) {
			l3(c)
			c.Peers[0].Routes = []netip.Prefix{netip.MustParsePrefix("10.98.0.0/24")}
		}},
		{name: "Ethernet on L3", bytes: good(inner), reason: count.DropBadProtocol, adjust: l3},
		{name: "V15a other VNI", bytes: datagram(0, 0, 0x6558, testVNI+1, nil, inner), reason: count.DropUnknownVNI},
		{name: "V16a group source", bytes: good(swap(inner, 6, 0x03)), reason: count.DropBadSourceMAC},
		{name: "V16c zero source", bytes: good(swap(inner, 6, 0, 0, 0, 0, 0, 0)), reason: count.DropBadSourceMAC},
		{name: "V16d own source", bytes: good(swap(inner, 6, macA[:]...)), reason: count.DropBadSourceMAC},
		{name: "V17a tagged", bytes: good(frame(macA, macB, 0x8100, append([]byte{0, 100, 8, 0}, inner[14:]...))), want: frame(macA, macB, 0x8100, append([]byte{0, 100, 8, 0}, inner[14:]...))},
		{name: "V17a tagged, not wanted", bytes: good(frame(macA, macB, 0x8100, append([]byte{0, 100, 8, 0}, inner[14:]...))), reason: count.DropVLAN, adjust: func(c *Tunnel) { c.VLANDrop = true }},
		{name: "V18a BPDU", bytes: good(swap(inner, 0, 0x01, 0x80, 0xc2, 0, 0, 0)), reason: count.DropReservedAddress},
		{name: "V18a BPDU, passed", bytes: good(swap(inner, 0, 0x01, 0x80, 0xc2, 0, 0, 0)), want: swap(inner, 0, 0x01, 0x80, 0xc2, 0, 0, 0), adjust: func(c *Tunnel) { c.L2ControlPass = true }},
		{name: "V18c PAUSE, passed never", bytes: good(swap(inner, 0, 0x01, 0x80, 0xc2, 0, 0, 1)), reason: count.DropReservedAddress, adjust: func(c *Tunnel) { c.L2ControlPass = true }},
		{name: "V20c stranger", from: stranger, bytes: good(inner), reason: count.DropUnknownPeer},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t, new(memWire), 1, "192.0.2.1")
			cfg := testTunnel("gnv0", "192.0.2.2")
			if tc.adjust != nil {
				tc.adjust(&cfg)
			}
			dev := h.add(cfg)
			h.step()
			if tc.from == (netip.Addr{}) {
				tc.from = from
			}
			h.underlay.inject(tc.from, 6081, 0, 2, len(tc.bytes), tc.bytes)
			h.step()
			var got []byte
			if out := dev.queues[0].take(); len(out) == 1 {
				got = out[0].bytes
			} else if len(out) > 1 {
				t.Fatalf("%d frames on the device, want at most one", len(out))
			}
			if !bytes.Equal(got, tc.want) {
				t.Errorf("on the device: %x\nwant:          %x", got, tc.want)
			}
			state := h.State()
			drops := state.Drops
			for r := range count.NumReasons {
				drops.Rx[r] += state.Tunnels[0].Drops.Rx[r]
			}
			want := count.Drops{}
			if tc.want == nil {
				want.Rx[tc.reason] = 1
			}
			if diff := cmp.Diff(want, drops); diff != "" {
				t.Errorf("drop counters (-want +got), reason wanted %v of %v:\n%s", tc.reason, none, diff)
			}
			if learned := h.State().Tunnels[0].FDB.Learned; tc.want == nil && learned != 0 {
				t.Errorf("learned %d addresses from a dropped packet", learned)
			}
		})
	}
}

// TestECN is the matrix of RFC 6040 section 4.2, for IPv4, IPv6 and behind a
// VLAN tag.
func TestECN(t *testing.T) {
	const drop = -1
	// [inner][outer], in the order Not-ECT, ECT(1), ECT(0), CE.
	want := [4][4]int{{0, 0, 0, drop}, {1, 1, 1, 3}, {2, 1, 2, 3}, {3, 3, 3, 3}}
	odd := [4][4]uint64{{0, 1, 1, 0}, {0, 0, 1, 0}, {}, {0, 1, 0, 0}}
	inner := map[string]func(ecn uint8) ([]byte, func([]byte) uint8){
		"IPv4": func(ecn uint8) ([]byte, func([]byte) uint8) {
			return frame(macA, macB, 0x0800, ipv4(0xb8|ecn, "10.99.0.2", "10.99.0.77", 7, 9, "ecn")),
				func(b []byte) uint8 { return b[15] }
		},
		"VLAN": func(ecn uint8) ([]byte, func([]byte) uint8) {
			return frame(macA, macB, 0x8100, append([]byte{0, 5, 8, 0}, ipv4(0xb8|ecn, "10.99.0.2", "10.99.0.77", 7, 9, "ecn")...)),
				func(b []byte) uint8 { return b[19] }
		},
		"IPv6": func(ecn uint8) ([]byte, func([]byte) uint8) {
			p := make([]byte, 40)
			binary.BigEndian.PutUint16(p, 0x6000|uint16(0xb8|ecn)<<4)
			p[6], p[7] = 59, 64
			return frame(macA, macB, 0x86dd, p), func(b []byte) uint8 { return b[14]<<4 | b[15]>>4 }
		},
	}
	for kind, build := range inner {
		for in := range uint8(4) {
			for out := range uint8(4) {
				h := newHost(t, new(memWire), 1, "192.0.2.1")
				dev := h.add(testTunnel("gnv0", "192.0.2.2"))
				h.step()
				f, tos := build(in)
				h.underlay.inject(addr("192.0.2.2"), 6081, out, 2, len(f)+8, good(f))
				h.step()
				got := drop
				if frames := dev.queues[0].take(); len(frames) == 1 {
					b := frames[0].bytes
					got = int(tos(b) & 3)
					if tos(b)>>2 != 0xb8>>2 {
						t.Errorf("%s: DSCP became %#x", kind, tos(b)>>2)
					}
					if kind != "IPv6" {
						ip := b[len(b)-31:][:20]
						if sum := packet.Fold(packet.Sum(ip, 0)); sum != 0xffff {
							t.Errorf("%s inner %d outer %d: IPv4 header sum is wrong", kind, in, out)
						}
					}
				}
				if got != want[in][out] {
					t.Errorf("%s inner %d outer %d: delivered %d, want %d", kind, in, out, got, want[in][out])
				}
				if n := h.State().Tunnels[0].OddECN; n != odd[in][out] {
					t.Errorf("%s inner %d outer %d: %d mismatches, want %d", kind, in, out, n, odd[in][out])
				}
				h.Close()
			}
		}
	}
}

// TestTwoEndpoints lets two whole endpoints talk over a wire in memory.
func TestTwoEndpoints(t *testing.T) {
	for _, family := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"fd00::1", "fd00::2"}} {
		wire := new(memWire)
		a, b := newHost(t, wire, 2, family[0]), newHost(t, wire, 2, family[1])
		devA := a.add(testTunnel("gnv0", family[1]))
		cfg := testTunnel("gnv0", family[0])
		cfg.Device.LLAddr = macB
		devB := b.add(cfg)
		wantMTU := 1450
		if addr(family[0]).Is6() {
			wantMTU = 1430
		}
		if mtu, _ := devA.MTU(); mtu != wantMTU {
			t.Errorf("device MTU %d, want %d", mtu, wantMTU)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- a.Run(ctx) }()
		go func() { done <- b.Run(ctx) }()

		there := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "there"))
		devA.queues[1].feed(memFrame{bytes: there})
		arrives(t, devB, there)
		back := frame(macA, macB, 0x0800, ipv4(0, "10.99.0.2", "10.99.0.1", 2, 1, "back"))
		devB.queues[0].feed(memFrame{bytes: back})
		arrives(t, devA, back)

		entry := slices.IndexFunc(entriesOf(a.Endpoint), func(e FDBEntry) bool { return e.MAC == macB && e.Remote.Addr() == addr(family[1]) })
		if entry < 0 {
			t.Errorf("A did not learn %s at %s: %v", macB, family[1], entriesOf(a.Endpoint))
		}
		s := a.State().Tunnels[0]
		want := count.Stats{RxPackets: 1, RxBytes: uint64(len(back)), TxPackets: 1, TxBytes: uint64(len(there)), TxFlood: 1, TxFloodBytes: uint64(len(there))}
		if diff := cmp.Diff(want, s.Stats); diff != "" {
			t.Errorf("counters of A (-want +got):\n%s", diff)
		}
		if s.Peers[0].LastSeen.IsZero() {
			t.Error("the peer was never seen")
		}
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
		if !devA.closed || len(a.underlay.listeners) != 0 || a.underlay.released != a.underlay.sets {
			t.Errorf("left behind: device closed %v, %d listeners, %d of %d port sets released",
				devA.closed, len(a.underlay.listeners), a.underlay.released, a.underlay.sets)
		}
	}
}

// arrives waits until a device was given exactly one frame.
func arrives(t *testing.T, d *memDevice, want []byte) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		for _, q := range d.queues {
			for _, f := range q.take() {
				if !bytes.Equal(f.bytes, want) {
					t.Fatalf("on %s: %x\nwant:  %x", d.opts.Name, f.bytes, want)
				}
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("nothing arrived on %s, want %x", d.opts.Name, want)
}

// TestForwarding follows frames from the device through learning, moving,
// flooding and split horizon with two peers.
func TestForwarding(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	h.step()
	toB := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "x"))
	sentTo := func() (to []string) {
		h.step()
		for _, d := range h.underlay.sent {
			if d.to.Port() != 6081 {
				t.Errorf("sent to port %d, want 6081", d.to.Port())
			}
			to = append(to, d.to.Addr().String())
		}
		h.underlay.sent = nil
		return to
	}
	speak := func(from string, src packet.MAC) {
		f := frame(broadcast, src, 0x0806, make([]byte, 28))
		h.underlay.inject(addr(from), 6081, 0, 2, len(f)+8, good(f))
	}
	expect := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: sent to %v, want %v", what, got, want)
		}
	}
	all := []string{"192.0.2.2", "192.0.2.3"}

	dev.queues[0].feed(memFrame{bytes: toB})
	expect("unknown unicast", sentTo(), all...)
	speak("192.0.2.2", macB)
	expect("a broadcast received is not flooded back", sentTo())
	if n := len(dev.queues[0].take()); n != 1 {
		t.Errorf("the broadcast was delivered %d times, want once", n)
	}
	dev.queues[0].feed(memFrame{bytes: toB})
	expect("learned", sentTo(), "192.0.2.2")
	speak("192.0.2.3", macB)
	dev.queues[0].feed(memFrame{bytes: toB})
	h.step()
	dev.queues[0].feed(memFrame{bytes: toB})
	if got := sentTo(); len(got) == 0 || got[len(got)-1] != "192.0.2.3" {
		t.Errorf("moved: sent to %v, want the last to 192.0.2.3", got)
	}
	dev.queues[0].feed(memFrame{bytes: frame(broadcast, macA, 0x0806, make([]byte, 28))})
	expect("broadcast", sentTo(), all...)

	// An address that speaks on our side is ours: nothing goes out for it.
	dev.queues[0].feed(memFrame{bytes: frame(broadcast, macB, 0x0806, make([]byte, 28))})
	sentTo()
	dev.queues[0].feed(memFrame{bytes: toB})
	expect("local", sentTo())
	if got := h.State().Tunnels[0].Drops.Tx[count.DropLoop]; got != 1 {
		t.Errorf("tx loop drops %d, want 1", got)
	}
	dev.queues[0].feed(memFrame{bytes: frame(packet.MAC{0x01, 0x80, 0xc2}, macA, 0x0027, make([]byte, 46))})
	expect("BPDU", sentTo())
}

// tcpSuper is a TCP super-frame as a TAP yields it.
func tcpSuper(pieces, size int) (super []byte, hdr packet.VirtioHdr) {
	super = make([]byte, 14+20+20+pieces*size)
	copy(super, frame(macB, macA, 0x0800, nil))
	ip := super[14:]
	ip[0], ip[6], ip[8], ip[9] = 0x45, 0x40, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 99, 0, 1, 10, 99, 0, 2})
	binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(ip[:20], 0)))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, 1000)
	binary.BigEndian.PutUint16(tcp[2:], 2000)
	tcp[12], tcp[13] = 0x50, 0x10
	for i := range tcp[20:] {
		tcp[20+i] = byte(i * 7)
	}
	var h4 packet.Headers
	packet.Walk(super, false, &h4)
	binary.BigEndian.PutUint16(tcp[16:], packet.Fold(packet.PseudoSum(super, &h4, len(tcp))))
	hdr = packet.VirtioHdr{
		Flags: packet.VirtioNeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: uint16(size),
		CsumStart: 34, CsumOffset: 16, HdrLen: 54,
	}
	return super, hdr
}

// TestSuperFrame carries a TCP super-frame: cut on one side, joined on the
// other, and written piece by piece where the kernel refuses it joined.
func TestSuperFrame(t *testing.T) {
	const pieces, size = 10, 1000
	super, hdr := tcpSuper(pieces, size)
	for _, refused := range []bool{false, true} {
		wire := new(memWire)
		a, b := newHost(t, wire, 1, "192.0.2.1"), newHost(t, wire, 1, "192.0.2.2")
		b.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		devA := a.add(testTunnel("gnv0", "192.0.2.2"))
		cfg := testTunnel("gnv0", "192.0.2.1")
		cfg.Device.LLAddr = macB
		devB := b.add(cfg)
		if refused {
			devB.queues[0].refuse = unix.EINVAL
		}
		a.underlay.keep = true
		a.step()
		b.step()
		devA.queues[0].feed(memFrame{hdr: hdr, bytes: super})
		a.step()
		for _, d := range a.underlay.sent {
			if len(d.bytes) != 8+54+size {
				t.Errorf("a datagram of %d bytes, want %d", len(d.bytes), 8+54+size)
			}
		}
		b.step()
		out := devB.queues[0].take()
		if refused {
			if len(out) != pieces {
				t.Fatalf("refused: %d frames on the device, want %d", len(out), pieces)
			}
			if got := b.State().Tunnels[0].Offload; got.Has(packet.OffloadTSO4) {
				t.Error("TSO4 was refused and is still used")
			}
			continue
		}
		if len(out) != 1 || out[0].hdr.GSOType != packet.GSOTCPv4 || out[0].hdr.GSOSize != size {
			t.Fatalf("joined: %d frames on the device, want one TCP super-frame", len(out))
		}
		if !bytes.Equal(out[0].bytes[54:], super[54:]) {
			t.Error("payload differs after cut and join")
		}
		if s := b.State().Tunnels[0].Stats; s.RxPackets != pieces {
			t.Errorf("counted %d packets, want %d", s.RxPackets, pieces)
		}
	}
}

// TestSuperDropped: a super-frame that is not sent counts as the pieces that it stands
// for, whatever the reason.
func TestSuperDropped(t *testing.T) {
	const pieces, size = 10, 1400
	super, hdr := tcpSuper(pieces, size)
	for _, tc := range []struct {
		reason count.Reason
		mtu    int // of the path
		cfg    func(*Tunnel)
	}{
		{count.DropTooBig, 20 + 8 + 8 + 54 + size - 1, nil},
		{count.DropNoRoute, 0, nil},
		{count.DropFloodOff, 1500, func(c *Tunnel) { c.NoFlood = true }},
		{count.NumReasons, 20 + 8 + 8 + 54 + size, nil},
	} {
		h := newHost(t, new(memWire), 1, "192.0.2.1")
		h.underlay.keep, h.underlay.mtu = true, tc.mtu
		h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
		cfg := testTunnel("gnv0", "192.0.2.2")
		if tc.cfg != nil {
			tc.cfg(&cfg)
		}
		dev := h.add(cfg)
		h.step()
		dev.queues[0].feed(memFrame{hdr: hdr, bytes: super})
		h.step()
		s := h.State().Tunnels[0]
		want, sent := count.Drops{}, pieces
		if tc.reason != count.NumReasons {
			want.Tx[tc.reason], sent = pieces, 0
		}
		if s.Drops != want || s.Stats.TxPackets != uint64(sent) || len(h.underlay.sent) != sent {
			t.Errorf("path of %d bytes: %d sent, %d counted, drops %v; want %d, %d, %v",
				tc.mtu, len(h.underlay.sent), s.Stats.TxPackets, s.Drops.Tx, sent, sent, want.Tx)
		}
	}
}

// TestSendFailed: what the kernel refuses to send is counted by its reason, for the
// peer that it was for, and what is sent afterwards goes.
func TestSendFailed(t *testing.T) {
	for _, tc := range []struct {
		err     error
		reason  count.Reason
		recheck bool
	}{
		{unix.EMSGSIZE, count.DropTooBig, true},
		{unix.ENOBUFS, count.DropSocketFull, false},
		{unix.EAGAIN, count.DropSocketFull, false},
		{unix.ENOMEM, count.DropSocketFull, false},
		{unix.EPERM, count.DropRefused, false},
		{unix.EACCES, count.DropNoRoute, false},
		{unix.ENETUNREACH, count.DropNoRoute, false},
		{unix.EHOSTUNREACH, count.DropNoRoute, false},
		{unix.EINVAL, count.DropNoRoute, false},
		{unix.ECONNREFUSED, count.DropNoRoute, false},
	} {
		l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
		l.host.underlay.failTo = addr("192.0.2.3")
		l.host.underlay.fail = tc.err
		packetTo := memFrame{bytes: frame(macB, macA, 0x0800, make([]byte, 100))} // to nobody yet: both get it
		l.dev.queues[0].feed(packetTo, packetTo)
		l.step()
		s := l.State().Tunnels[0]
		want := count.Drops{}
		want.Tx[tc.reason] = 2
		if s.Drops != want || len(l.underlay.sent) != 2 {
			t.Errorf("%v: drops %v, %d sent; want %v, 2 to the other peer", tc.err, s.Drops.Tx, len(l.underlay.sent), want.Tx)
		}
		if got := [2]uint64{s.Peers[0].Stats.TxPackets, s.Peers[1].Stats.TxPackets}; got != [2]uint64{2, 0} {
			t.Errorf("%v: %v packets to the peers, want 2 and 0", tc.err, got)
		}
		if recheck := len(l.recheck) > 0; recheck != tc.recheck {
			t.Errorf("%v: paths are looked up again: %v, want %v", tc.err, recheck, tc.recheck)
		}
		l.host.underlay.fail = nil
		l.dev.queues[0].feed(packetTo)
		l.step()
		if s := l.State().Tunnels[0]; s.Drops != want || len(l.underlay.sent) != 4 || s.Peers[1].Stats.TxPackets != 1 {
			t.Errorf("%v: afterwards drops %v, %d sent, %d to the peer; want %v, 4, 1", tc.err, s.Drops.Tx, len(l.underlay.sent), s.Peers[1].Stats.TxPackets, want.Tx)
		}
	}
}

// TestRunsRefused: that the kernel takes no runs to a peer is told once, shows in the
// state, and is tried again.
func TestRunsRefused(t *testing.T) {
	l := newLab(t, testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	p := l.tunnels["gnv0"].peers[1]
	minute := int64(time.Minute)
	p.Path.NoGSO.Store(true)
	if s := l.State().Tunnels[0]; s.Peers[0].NoGSO || !s.Peers[1].NoGSO {
		t.Errorf("NoGSO %v and %v, want it for the second peer", s.Peers[0].NoGSO, s.Peers[1].NoGSO)
	}
	for i, step := range []struct {
		now           int64
		refuse        bool // again, before
		tell, refused bool // after
	}{
		{minute, false, true, true},
		{2 * minute, false, false, true},
		{11 * minute, false, false, true},
		{12 * minute, false, false, false},
		{13 * minute, false, false, false},
		{14 * minute, true, false, true},
		{23 * minute, false, false, true},
		{25 * minute, false, false, false},
	} {
		if step.refuse {
			p.Path.NoGSO.Store(true)
		}
		if tell, refused := p.checkRuns(step.now), p.runsRefused(); tell != step.tell || refused != step.refused {
			t.Errorf("step %d: told %v, refused %v; want %v, %v", i, tell, refused, step.tell, step.refused)
		}
	}
}

// TestTurnRoom: behind the most that frames of a turn leave in its buffer there is room
// for the largest super-frame.
func TestTurnRoom(t *testing.T) {
	const pieces, size = 65, 1000
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	for range work.TurnReads - 1 { // with its header each takes one byte of its last 64
		dev.queues[0].feed(memFrame{bytes: make([]byte, work.TurnBytes/(work.TurnReads-1)&^63+1-packet.VirtioHdrLen)})
	}
	super, hdr := tcpSuper(pieces, size)
	dev.queues[0].feed(memFrame{hdr: hdr, bytes: super})
	h.step()
	if got := len(h.underlay.sent); got != pieces {
		t.Errorf("%d pieces of the super-frame were sent, want %d; drops %v", got, pieces, h.State().Tunnels[0].Drops.Tx)
	}
}

// TestTrainOrSingle: what becomes of datagrams does not depend on whether they come as one
// train, in which most go the short way of extends, or each by itself.
func TestTrainOrSingle(t *testing.T) {
	const pieces, size = 20, 1000
	super, hdr := tcpSuper(pieces, size)
	l := newLab(t, testTunnel("gnv0", "192.0.2.2"))
	l.dev.queues[0].feed(memFrame{hdr: hdr, bytes: super})
	l.step()
	var sent [][]byte
	for _, d := range l.underlay.sent {
		sent = append(sent, d.bytes)
	}
	const tos = 8 + 14 + 1 // of the inner packet
	ect := func(b []byte, ecn byte) {
		b[tos] = ecn
		b[tos+9], b[tos+10] = 0, 0
		binary.BigEndian.PutUint16(b[tos+9:], ^packet.Fold(packet.Sum(b[tos-1:tos+19], 0)))
	}
	for _, tc := range []struct {
		name   string
		outer  uint8             // TOS
		change func(int, []byte) // of the i-th datagram
		insert func([]byte)      // of a copy of the eleventh, in front of it
		cfg    func(*Tunnel)
		frames int
	}{
		{name: "as it is", frames: 1},
		{name: "another tunnel in between", change: func(i int, b []byte) {
			if i == 10 {
				b[6]++
			}
		}, frames: 3},
		{name: "no tunnel", change: func(i int, b []byte) {
			if i == 10 {
				b[6] += 2
			}
		}, frames: 2},
		{name: "another version", change: func(i int, b []byte) {
			if i >= 10 && i < 15 {
				b[0] |= 0x40
			}
		}, frames: 2},
		{name: "another version in between", insert: func(b []byte) { b[0] |= 0x40 }, frames: 1},
		{name: "no tunnel in between", insert: func(b []byte) { b[6] += 2 }, frames: 1},
		{name: "another tunnel's copy in between", insert: func(b []byte) { b[6]++ }, frames: 3},
		{name: "bad source", change: func(i int, b []byte) {
			if i == 10 {
				b[14] |= 1
			}
		}, frames: 2},
		{name: "another source", change: func(i int, b []byte) {
			if i == 10 {
				b[19]++
			}
		}, frames: 3},
		{name: "reserved bits", change: func(i int, b []byte) { b[7] = byte(i / 5) }, frames: 4},
		{name: "broken payload", change: func(i int, b []byte) {
			if i == 10 {
				b[500] ^= 4
			}
		}, frames: 3},
		{name: "congestion", outer: 3, change: func(i int, b []byte) { ect(b, 2) }, frames: 1},
		{name: "some had met it before", outer: 3, change: func(i int, b []byte) { ect(b, 2+byte(i)/10) }, frames: 1},
		{name: "congestion that was not to be marked", outer: 3, change: func(i int, b []byte) { ect(b, 2*min(byte(i)%10, 1)) }, frames: 2},
		{name: "limit of what is flooded", cfg: func(c *Tunnel) { c.Peers[0].BUMLimit = 10 }, change: func(i int, b []byte) { b[8] |= 1 }},
	} {
		run := func(train bool) ([]memFrame, TunnelState, []count.Reason) {
			h := newHost(t, new(memWire), 1, "192.0.2.2")
			h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
			cfg := testTunnel("gnv0", "192.0.2.1")
			cfg.Device.LLAddr = macB
			if tc.cfg != nil {
				tc.cfg(&cfg)
			}
			dev := h.add(cfg)
			other := cfg
			other.Device.Name, other.VNI = "gnv1", testVNI+1
			second := h.add(other)
			h.step()
			var all []byte
			datagrams := slices.Clone(sent)
			if tc.insert != nil {
				d := slices.Clone(sent[10])
				tc.insert(d)
				datagrams = slices.Insert(datagrams, 10, d)
			}
			for i, d := range datagrams {
				d = slices.Clone(d)
				if tc.change != nil {
					tc.change(i, d)
				}
				if all = append(all, d...); !train {
					h.underlay.inject(addr("192.0.2.1"), 6081, tc.outer, 2, len(d), d)
				}
			}
			if train {
				h.underlay.inject(addr("192.0.2.1"), 6081, tc.outer, 2, len(sent[0]), all)
			}
			h.step()
			state := h.State().Tunnels[0]
			state.Peers[0].LastSeen = time.Time{}
			var drops []count.Reason
			for r := range count.NumReasons {
				if h.State().Drops.Rx[r] > 0 {
					drops = append(drops, r)
				}
			}
			return append(dev.queues[0].take(), second.queues[0].take()...), state, drops
		}
		got, state, drops := run(true)
		want, wantState, wantDrops := run(false)
		if tc.frames > 0 && len(want) != tc.frames {
			t.Errorf("%s: %d frames, want %d", tc.name, len(want), tc.frames)
		}
		if !reflect.DeepEqual(got, want) || !slices.Equal(drops, wantDrops) {
			t.Errorf("%s: a train was written as %d frames, drops %v; single datagrams as %d, drops %v", tc.name, len(got), drops, len(want), wantDrops)
		}
		if state.Stats != wantState.Stats || state.Drops != wantState.Drops {
			t.Errorf("%s: a train counted as\n%+v %+v\nsingle datagrams as\n%+v %+v", tc.name, state.Stats, state.Drops, wantState.Stats, wantState.Drops)
		}
	}

	// Pieces of two peers, or behind options, are joined when all that stands in front of
	// them is the same.
	options := func(data ...byte) func([]byte) []byte {
		return func(d []byte) []byte {
			head := slices.Concat([]byte{d[0] | byte(len(data)/4)}, d[1:8], data)
			return append(head, d[8:]...)
		}
	}
	asIs := slices.Clone[[]byte]
	short, other, long := options(0xff, 0xfe, 0, 1, 1, 2, 3, 4), options(0xff, 0xfe, 0, 1, 1, 2, 3, 5), options(0xff, 0xfe, 0, 2, 1, 2, 3, 4, 0, 0, 0, 0)
	for _, tc := range []struct {
		name    string
		peers   [4]int // of each five pieces
		options [4]func([]byte) []byte
		frames  int
	}{
		{"one peer", [4]int{1, 1, 1, 1}, [4]func([]byte) []byte{asIs, asIs, asIs, asIs}, 1},
		{"two peers", [4]int{1, 3, 3, 1}, [4]func([]byte) []byte{asIs, asIs, asIs, asIs}, 3},
		{"the same options", [4]int{1, 1, 1, 1}, [4]func([]byte) []byte{short, short, short, short}, 1},
		{"options of two peers", [4]int{1, 1, 3, 3}, [4]func([]byte) []byte{short, short, short, short}, 2},
		{"other options", [4]int{1, 1, 1, 1}, [4]func([]byte) []byte{short, other, short, short}, 3},
		{"options that grow and go", [4]int{1, 1, 1, 1}, [4]func([]byte) []byte{short, long, asIs, asIs}, 3},
	} {
		for _, train := range []bool{true, false} {
			h := newHost(t, new(memWire), 1, "192.0.2.2")
			h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
			cfg := testTunnel("gnv0", "192.0.2.1", "192.0.2.3")
			cfg.Device.LLAddr, cfg.NoMoveDamping = macB, true
			dev := h.add(cfg)
			h.step()
			for part := range 4 {
				from := netip.AddrFrom4([4]byte{192, 0, 2, byte(tc.peers[part])})
				var all []byte
				n := 0
				for _, d := range sent[5*part : 5*part+5] {
					d = tc.options[part](d)
					if n = len(d); !train {
						h.underlay.inject(from, 6081, 0, 2, n, d)
					}
					all = append(all, d...)
				}
				if train {
					h.underlay.inject(from, 6081, 0, 2, n, all)
				}
			}
			h.step()
			got := dev.queues[0].take()
			bytes := 0
			for _, f := range got {
				bytes += len(f.bytes) - 54
			}
			if len(got) != tc.frames || bytes != pieces*size {
				t.Errorf("%s, trains %v: %d frames of %d bytes, want %d of %d; drops %v", tc.name, train, len(got), bytes, tc.frames, pieces*size, h.State().Dropped.Rx)
			}
		}
	}

	// The flow goes on in another train, whose sender is a stranger.
	h := newHost(t, new(memWire), 1, "192.0.2.2")
	h.devices.offload = packet.OffloadCsum | packet.OffloadTSO4
	cfg := testTunnel("gnv0", "192.0.2.1")
	cfg.Device.LLAddr = macB
	dev := h.add(cfg)
	h.step()
	n := len(sent[0])
	h.underlay.inject(addr("192.0.2.1"), 6081, 0, 2, n, slices.Concat(sent[:10]...))
	h.underlay.inject(addr("192.0.2.66"), 6081, 0, 2, n, slices.Concat(sent[10:]...))
	h.step()
	got := dev.queues[0].take()
	if len(got) != 1 || len(got[0].bytes) != 54+10*size || h.State().Drops.Rx[count.DropUnknownPeer] != pieces-10 {
		t.Errorf("a stranger went on: %d frames, drops %v; want one of 10 pieces, and %d dropped", len(got), h.State().Drops.Rx, pieces-10)
	}
}

// TestPaths lets the route watcher see a smaller path, a loop and no route.
func TestPaths(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	defer func() { cancel(); <-done }()

	until := func(what string, ok func(TunnelState) bool) {
		t.Helper()
		for range 500 {
			if ok(h.State().Tunnels[0]) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s did not happen: %+v", what, h.State().Tunnels[0])
	}
	h.underlay.reroute(2, 1400)
	until("path MTU 1400", func(s TunnelState) bool { return s.Peers[0].PathMTU == 1400 && s.MTU == 1350 })
	dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, make([]byte, 1351))})
	until("too_big", func(s TunnelState) bool { return s.Drops.Tx[count.DropTooBig] == 1 })
	dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, make([]byte, 1350))})
	until("1350 bytes pass", func(s TunnelState) bool { return s.Stats.TxPackets == 1 })

	h.underlay.reroute(dev.index, 1500)
	until("loop", func(s TunnelState) bool { return s.Peers[0].Error != "" })
	dev.queues[0].feed(memFrame{bytes: frame(macB, macA, 0x0800, make([]byte, 100))})
	until("loop drop", func(s TunnelState) bool { return s.Drops.Tx[count.DropLoop] == 1 })
	h.underlay.reroute(2, 0)
	until("no route", func(s TunnelState) bool { return s.Peers[0].Error == "no route" })
	h.underlay.reroute(2, 1500)
	until("recovery", func(s TunnelState) bool { return s.Peers[0].Error == "" && s.MTU == 1450 })
}

// TestOwnFlow: one of our own datagrams, routed into the tunnel, is not
// wrapped again; a tenant's GENEVE packet is ordinary payload.
func TestOwnFlow(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.underlay.keep = true
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	dev.queues[0].feed(
		memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "192.0.2.1", "192.0.2.2", 50001, 6081, "ours"))},
		memFrame{bytes: frame(macB, macA, 0x0800, ipv4(0, "10.0.0.1", "10.99.0.77", 50001, 6081, "tenant's"))},
	)
	h.step()
	if n := len(h.underlay.sent); n != 1 {
		t.Errorf("%d datagrams sent, want only the tenant's", n)
	}
	if got := h.State().Tunnels[0].Drops.Tx[count.DropLoop]; got != 1 {
		t.Errorf("tx loop drops %d, want 1", got)
	}
}

// TestReinjected: what comes in through a device of ours is not for us.
func TestReinjected(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	f := frame(macA, macB, 0x0806, make([]byte, 28))
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, int32(dev.index), len(f)+8, good(f))
	h.step()
	if n := len(dev.queues[0].take()); n != 0 {
		t.Errorf("%d frames delivered, want none", n)
	}
	if got := h.State().Drops.Rx[count.DropReinjected]; got != 1 {
		t.Errorf("reinjected drops %d, want 1", got)
	}
}

// TestTrain: one bad datagram in a train costs only itself.
func TestTrain(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	dev := h.add(testTunnel("gnv0", "192.0.2.2"))
	h.step()
	one := func(i byte, flags byte, vni uint32) []byte {
		return datagram(0, flags, 0x6558, vni, nil, frame(macA, macB, 0x88b5, []byte{i, 0, 0, 0}))
	}
	train := slices.Concat(one(0, 0, testVNI), one(1, 0x80, testVNI), one(2, 0, testVNI+1), one(3, 0, testVNI), one(4, 0, testVNI)[:24])
	h.underlay.inject(addr("192.0.2.2"), 6081, 0, 2, len(one(0, 0, testVNI)), train)
	h.step()
	var got []byte
	for _, f := range dev.queues[0].take() {
		got = append(got, f.bytes[14])
	}
	if want := []byte{0, 3, 4}; !bytes.Equal(got, want) {
		t.Errorf("delivered %v, want %v", got, want)
	}
}

// TestCountsStayApart: datagrams of several peers and bad ones between them are
// each counted where they belong.
func TestCountsStayApart(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	h.step()
	ok := good(frame(macA, macB, 0x88b5, make([]byte, 10)))
	bad := slices.Clone(ok)
	bad[1] = 0x80 // a control packet
	other := slices.Clone(ok)
	other[6]++ // another VNI
	train := slices.Concat(ok, ok, bad, other)
	for _, from := range []string{"192.0.2.2", "192.0.2.3", "192.0.2.3"} {
		h.underlay.inject(addr(from), 6081, 0, 2, len(ok), train)
	}
	h.step()
	s := h.State()
	a, b := s.Tunnels[0].Peers[0].Stats.RxPackets, s.Tunnels[0].Peers[1].Stats.RxPackets
	if a != 2 || b != 4 || s.Drops.Rx[count.DropControl] != 3 || s.Drops.Rx[count.DropUnknownVNI] != 3 {
		t.Errorf("packets of the peers %d and %d, control %d, unknown_vni %d; want 2, 4, 3, 3",
			a, b, s.Drops.Rx[count.DropControl], s.Drops.Rx[count.DropUnknownVNI])
	}
}

// TestAddRefuses: what cannot work is refused and leaves nothing.
func TestAddRefuses(t *testing.T) {
	failing := errors.New("no device today")
	for _, tc := range []struct {
		name   string
		adjust func(*Tunnel, *host)
		want   error
	}{
		{"group without dev", func(c *Tunnel, _ *host) { c.Group = addr("239.1.1.1") }, unix.EINVAL},
		{"own address", func(c *Tunnel, _ *host) { c.Peers[0].Remote = addr("192.0.2.1") }, unix.EINVAL},
		{"unspecified", func(c *Tunnel, _ *host) { c.Peers[0].Remote = addr("0.0.0.0") }, unix.EINVAL},
		{"families", func(c *Tunnel, _ *host) { c.Local = addr("fd00::1") }, unix.EINVAL},
		{"same twice", func(c *Tunnel, h *host) { h.add(testTunnel("other", "192.0.2.2")) }, unix.EEXIST},
		{"name taken", func(c *Tunnel, h *host) { h.add(testTunnel("gnv0", "192.0.2.9")) }, unix.EEXIST},
		{"no device", func(_ *Tunnel, h *host) { h.devices.fail = failing }, failing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t, new(memWire), 1, "192.0.2.1")
			cfg := testTunnel("gnv0", "192.0.2.2")
			tc.adjust(&cfg, h)
			before := fmt.Sprint(len(h.State().Tunnels), len(h.underlay.listeners), h.underlay.sets-h.underlay.released)
			if err := h.Add(cfg); !errors.Is(err, tc.want) {
				t.Errorf("Add: %v, want %v", err, tc.want)
			}
			if after := fmt.Sprint(len(h.State().Tunnels), len(h.underlay.listeners), h.underlay.sets-h.underlay.released); after != before {
				t.Errorf("tunnels, listeners, port sets: %s before, %s after", before, after)
			}
		})
	}
}

// TestLiveChange adds and removes tunnels while another carries traffic.
func TestLiveChange(t *testing.T) {
	wire := new(memWire)
	a, b := newHost(t, wire, 2, "192.0.2.1"), newHost(t, wire, 2, "192.0.2.2")
	devA := a.add(testTunnel("gnv0", "192.0.2.2"))
	cfg := testTunnel("gnv0", "192.0.2.1")
	cfg.Device.LLAddr = macB
	devB := b.add(cfg)
	for _, q := range devB.queues {
		q.discard = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- a.Run(ctx) }()
	go func() { done <- b.Run(ctx) }()
	const frames = 2000
	go func() {
		f := frame(macB, macA, 0x0800, ipv4(0, "10.99.0.1", "10.99.0.2", 1, 2, "x"))
		for i := range frames {
			devA.queues[i%2].feed(memFrame{bytes: f})
			time.Sleep(20 * time.Microsecond)
		}
	}()
	for i := range 50 {
		other := testTunnel(fmt.Sprintf("t%d", i), "192.0.2.2")
		other.VNI = packet.VNI(i)
		if err := a.Add(other); err != nil {
			t.Fatal(err)
		}
		if err := a.Remove(other.Device.Name); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for b.State().Tunnels[0].Stats.RxPackets < frames && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := b.State().Tunnels[0].Stats.RxPackets; got != frames {
		t.Errorf("%d of %d frames arrived while other tunnels came and went", got, frames)
	}
	cancel()
	<-done
	<-done
}

// l3 makes a tunnel one for IP packets.
func l3(c *Tunnel) { c.Device.L3, c.Device.LLAddr = true, packet.MAC{} }
