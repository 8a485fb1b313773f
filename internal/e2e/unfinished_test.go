package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A kernel's tunnel device that shares a machine with gvtep hands over what its stack has
// not finished: inner checksums of which only the pseudo-header is summed, and super-frames
// that nobody has cut. The development machines' kernel has no GENEVE device. Its VXLAN
// device stands in: the two headers are equally long and have the VNI in the same place, so
// a program at tc exchanges the first word.
//
//	a                                           b
//	vx0 192.0.2.1/24 . . . . . . . . . . . . .  gnv0 192.0.2.2/24
//	    fd92::1/64                                   fd92::2/64
//	kernel VXLAN                                gvtep
//	veth0 10.77.0.1/24 == VXLAN <-> GENEVE ==== veth0 10.77.0.2/24
//
// Only a's side of the veth has the stack's offloads: what b sends comes in single packets,
// of which the program sees each header.

// kernelPeer makes a VXLAN device on h that speaks GENEVE on veth0.
func (h *host) kernelPeer(dev string, id, mtu int, near, far string, addresses ...string) {
	h.t.Helper()
	const (
		vxlan   = 0x08000000 // flag I (RFC 7348 section 5)
		geneve  = 0x00006558 // version 0, no options, Ethernet
		payload = 14 + 20 + 8
	)
	h.vxlanPort(6081, dev, id, near, far, addresses...)
	h.must("mtu", h.nl.LinkSetMTU(h.link(dev), mtu))
	exchange := func(from, to uint32) []instruction {
		word := int32(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, to)))
		return []instruction{
			{code: movReg, dst: 6, src: 1},
			{code: packet8, imm: 14 + 9}, // IPv4's protocol
			{code: jumpUnless, off: 12, imm: unix.IPPROTO_UDP},
			{code: packet16, imm: 14 + 20 + 2}, // destination port
			{code: jumpUnless, off: 10, imm: 6081},
			{code: packet32, imm: payload},
			{code: jumpUnless, off: 8, imm: int32(from)},
			{code: store32, dst: 10, off: -4, imm: word},
			{code: movReg, dst: 1, src: 6},
			{code: mov, dst: 2, imm: payload},
			{code: movReg, dst: 3, src: 10},
			{code: add, dst: 3, imm: -4},
			{code: mov, dst: 4, imm: 4},
			{code: mov, dst: 5, imm: 0},
			{code: call, imm: storeBytes},
			{code: mov, dst: 0, imm: 0},
			{code: exit},
		}
	}
	h.filter("veth0", netlink.HANDLE_MIN_EGRESS, exchange(vxlan, geneve))
	h.filter("veth0", netlink.HANDLE_MIN_INGRESS, exchange(geneve, vxlan))
}

// TestUnfinished: TCP and UDP between the kernel's tunnel device and gvtep, in super-frames
// and in single packets, whether or not our device takes super-frames.
func TestUnfinished(t *testing.T) {
	need(t)
	const size = 20 << 20
	for _, uncut := range []bool{true, false} {
		for _, offload := range []string{"auto", "off"} {
			t.Run(fmt.Sprintf("uncut %t offload %s", uncut, offload), func(t *testing.T) {
				a, b := underlay(t)
				a.do(func() error { return ethtool("veth0", unix.ETHTOOL_STXCSUM, 1) })
				if uncut {
					for command, value := range labs["veth"] {
						a.do(func() error { return ethtool("veth0", command, value) })
					}
				}
				a.kernelPeer("vx0", 42, 1450, "10.77.0.1", "10.77.0.2", "192.0.2.1/24", "fd92::1/64")
				g := b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--noudpcsum",
					"--address", "192.0.2.2/24", "--address", "fd92::2/64", "--offload", offload)
				wire := b.capture("veth0", 200)
				for _, inner := range inners {
					sendsTCP(t, a, b, net.JoinHostPort(inner.far, "7000"), size)
					sendsTCP(t, b, a, net.JoinHostPort(inner.near, "7000"), size)
					sendsRuns(t, a, b, net.JoinHostPort(inner.far, "7001"))
				}
				longest := 0
				for _, f := range wire.kept(0, func(f frame) bool { return !f.out }) {
					longest = max(longest, len(f.data))
				}
				if got := longest > 2000; got != uncut {
					t.Errorf("the longest packet on the wire has %d bytes, want uncut %t: the test tests nothing", longest, uncut)
				}
				for _, h := range []*host{a, b} {
					if bad := h.sumFaults(); len(bad) != 0 {
						t.Errorf("host %s: wrong checksums: %v", h.name, bad)
					}
				}
				for name, n := range g.counters() {
					if name != "rx.packets" && name != "tx.packets" && n != 0 {
						t.Errorf("%d dropped as %s, want none", n, name)
					}
				}
			})
		}
	}
}

// sendsTCP sends size bytes over TCP, of which all must arrive as they were.
func sendsTCP(t *testing.T, from, to *host, address string, size int) {
	t.Helper()
	l := to.listenTCP(address)
	defer l.Close()
	type result struct {
		sum [sha256.Size]byte
		n   int64
		err error
	}
	got := make(chan result, 1)
	go func() {
		var r result
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			sum := sha256.New()
			r.n, err = io.Copy(sum, c)
			sum.Sum(r.sum[:0])
		}
		r.err = err
		got <- r
	}()
	c := from.dialTCP(address)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	sent := sha256.New()
	start := time.Now()
	_, err := io.Copy(io.MultiWriter(c, sent), io.LimitReader(rand.NewChaCha8([32]byte{3}), int64(size)))
	c.Close()
	r := <-got
	if err != nil || r.err != nil || r.n != int64(size) {
		t.Fatalf("%s to %s: %d bytes of %d arrived, sender %v, receiver %v", from.name, address, r.n, size, err, r.err)
	}
	if string(r.sum[:]) != string(sent.Sum(nil)) {
		t.Errorf("%s to %s: the SHA-256 sums differ", from.name, address)
	}
	t.Logf("%s to %s: %d bytes in %v", from.name, address, size, time.Since(start).Round(time.Millisecond))
}

// sendsRuns sends UDP in runs that the kernel would cut, some with tiny datagrams, some with
// a shorter last one, and single datagrams. All must arrive as they are cut.
func sendsRuns(t *testing.T, from, to *host, address string) {
	t.Helper()
	in := to.listenUDP(address)
	defer in.Close()
	out := from.dialUDP(address)
	defer out.Close()
	number := 0
	buf := make([]byte, 1<<16)
	for _, run := range []struct{ size, total int }{{1200, 1200}, {1200, 12 * 1200}, {1200, 12*1200 + 7}, {20, 30 * 20}, {100, 10*100 + 1}, {1, 1}} {
		var want [][]byte
		data := make([]byte, run.total)
		for at := 0; at < run.total; at += run.size {
			d := data[at:min(at+run.size, run.total)]
			for i := range d {
				d[i] = byte(number + i)
			}
			number++
			want = append(want, d)
		}
		if _, _, err := out.WriteMsgUDP(data, segmentSize(run.size), nil); err != nil {
			t.Fatal(err)
		}
		in.SetReadDeadline(time.Now().Add(2 * time.Second))
		for i, w := range want {
			n, err := in.Read(buf)
			if err != nil || string(buf[:n]) != string(w) {
				t.Fatalf("%s to %s: datagram %d of %d with %d bytes: %d bytes, %v: %x, want %x", from.name, address, i, len(want), run.size, n, err, buf[:n], w)
			}
		}
	}
}
