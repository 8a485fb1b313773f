package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A peer that lies about who is behind it.
//
//	a  gnv0 192.0.2.1/24    b  gnv0 192.0.2.2/24    c  speaks by hand, as 10.77.0.3
//	   10.77.0.1               10.77.0.2
//	         |                       |                       |
//	  =======+================== a bridge ===================+=======

// established is a segment of a and b with a stream each way.
type established struct {
	hosts   [3]*host
	g       *gvtep // on a
	streams []*stream
}

// establish makes one; words are for both tunnels.
func establish(t *testing.T, rate int, words ...string) *established {
	t.Helper()
	f := &established{hosts: lan(t)}
	a, b := f.hosts[0], f.hosts[1]
	f.g = a.tunnel("gnv0", append([]string{"--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--remote", "10.77.0.3", "--address", "192.0.2.1/24"}, words...)...)
	b.tunnel("gnv0", append([]string{"--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24"}, words...)...)
	a.pings("192.0.2.2")
	f.streams = []*stream{
		numbered(t, a, b, "192.0.2.1:0", "192.0.2.2:7000", rate, 200),
		numbered(t, b, a, "192.0.2.2:0", "192.0.2.1:7000", rate, 200),
	}
	for _, s := range f.streams {
		within(t, 5*time.Second, "traffic both ways", func() bool { return s.got.Load() > 100 })
	}
	return f
}

// whole ends the streams, of which nothing may be lost. Order is not promised:
// the TUN driver remembers 4,096 flows a device (drivers/net/tun.c MAX_TAP_FLOWS), and
// one that is crowded out may go on in another queue.
func (f *established) whole(t *testing.T) {
	t.Helper()
	for i, s := range f.streams {
		sent, got := s.end()
		way := []string{"a to b", "b to a"}[i]
		t.Logf("%s: %d packets sent, %d arrived, %d not in order", way, sent, got, s.disorder.Load())
		if got != sent || s.damaged.Load() != 0 {
			t.Errorf("%s: of %d packets %d arrived, %d of them damaged; want all", way, sent, got, s.damaged.Load())
		}
	}
}

// forger sends GENEVE packets by hand, all of one size.
type forger struct {
	t  *testing.T
	fd int
}

// forger opens a socket of a host for packets to port 6081 of an address. The
// kernel cuts what send gives it into packets of size bytes.
func (h *host) forger(from, to string, size int) *forger {
	h.t.Helper()
	f := &forger{t: h.t}
	h.do(func() (err error) {
		if f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(f.fd, unix.SOL_UDP, unix.UDP_SEGMENT, size); err != nil {
			return err
		}
		if err = unix.Bind(f.fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(from).As4()}); err != nil {
			return err
		}
		return unix.Connect(f.fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4(), Port: 6081})
	})
	h.t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

func (f *forger) send(packets []byte) error {
	for {
		if _, err := unix.Write(f.fd, packets); err != unix.EINTR && err != unix.ENOBUFS {
			return err
		}
	}
}

// fromPeer is how many packets a gvtep has accepted from a peer.
func (g *gvtep) fromPeer(address string) (n int) {
	g.h.t.Helper()
	var peers []struct {
		Remote string `json:"remote"`
		RX     struct{ Packets int }
	}
	if err := g.ask("/v1/tunnels/"+g.dev+"/peers", &peers); err != nil {
		g.h.t.Fatal(err)
	}
	for _, p := range peers {
		if p.Remote == address {
			return p.RX.Packets
		}
	}
	g.h.t.Fatalf("no peer %s", address)
	return 0
}

// TestSpoofedAddresses: a million source addresses that nobody has. The table
// stays at its limit, memory where it was, and who was there loses nothing.
func TestSpoofedAddresses(t *testing.T) {
	need(t, "ping")
	const (
		addresses = 1_000_000
		limit     = 4096 // maxaddress, if nobody says otherwise
		window    = 4096 // packets on the way: half of what a receive buffer holds
		run       = 64   // packets in one send
		growth    = 32   // MiB: the table is 128 KiB, the rest is the collector's
	)
	f := establish(t, 2000)
	there := f.hosts[1].mac("gnv0")
	packet := join("0000 6558 00002a00", eth(mac{2, 0, 0, 0, 0x0d, 1}, mac{}, typeLabel, make([]byte, 46)))
	c := f.hosts[2].forger("10.77.0.3", "10.77.0.1", len(packet))
	packets := make([]byte, 0, run*len(packet))
	rss := func() int { return memory(t, fmt.Sprintf("/proc/%d/status", f.g.cmd.Process.Pid), "VmRSS:") }
	var before, most int
	start := time.Now()
	for sent := 0; sent < addresses; {
		packets = packets[:0]
		for range run {
			copy(packet[14:], []byte{6, 0}) // source address, behind 8 bytes of header and 6 of destination
			binary.BigEndian.PutUint32(packet[16:], uint32(sent))
			packets = append(packets, packet...)
			sent++
		}
		if err := c.send(packets); err != nil {
			t.Fatal(err)
		}
		if sent%window == 0 || sent >= addresses {
			if !soon(10*time.Second, func() bool { return f.g.fromPeer("10.77.0.3") >= sent }) {
				t.Fatalf("of %d packets %d were accepted: this test shows nothing", sent, f.g.fromPeer("10.77.0.3"))
			}
			if now := rss(); before == 0 {
				before = now // all buffers are in use by now
			} else {
				most = max(most, now)
			}
		}
	}
	t.Logf("%d addresses in %s; RSS %d MiB after the first %d, %d MiB at most", addresses, time.Since(start).Round(time.Millisecond), before, window, most)
	f.whole(t)
	learned := 0
	for _, e := range f.g.fdb() {
		if e.MAC != "00:00:00:00:00:00" {
			learned++
		}
	}
	if learned != limit {
		t.Errorf("%d addresses in the table, want %d", learned, limit)
	}
	if got := f.g.behind(there); got != "10.77.0.2" {
		t.Errorf("b's own address is behind %q, want 10.77.0.2", got)
	}
	if most > before+growth {
		t.Errorf("RSS grew from %d to %d MiB, want at most %d more", before, most, growth)
	}
}

// TestLearnedAddresses: addresses as fast as they can be sent, all of which
// are learned: the table grows and grows, and who was there loses nothing.
func TestLearnedAddresses(t *testing.T) {
	need(t, "ping")
	const (
		window = 4096 // packets on the way: half of what a receive buffer holds
		run    = 64   // packets in one send
		slack  = 2048 // packets between two looks at how many are on the way
		passes = 4    // of all addresses
	)
	addresses := 300 * 1024
	if long() {
		addresses = 900 * 1024
	}
	// The queue holds what a stream sends at once that had to wait for a processor.
	f := establish(t, 2000, "--maxaddress", "1000000", "--txqueuelen", "10000")
	packet := join("0000 6558 00002a00", eth(mac{2, 0, 0, 0, 0x0d, 1}, mac{}, typeLabel, make([]byte, 46)))
	c := f.hosts[2].forger("10.77.0.3", "10.77.0.1", len(packet))
	address := func(i int) mac { return mac{6, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)} }
	// learned is how many learned addresses are in the table.
	learned := func() int {
		t.Helper()
		var s struct {
			Gvtep struct {
				FDB struct{ Learned int } `json:"fdb"`
			} `json:"gvtep"`
		}
		if err := f.g.ask("/v1/tunnels/gnv0", &s); err != nil {
			t.Fatal(err)
		}
		return s.Gvtep.FDB.Learned
	}
	before, sent := learned(), 0
	packets := make([]byte, 0, run*len(packet))
	accepted := func(n int) {
		t.Helper()
		if !soon(10*time.Second, func() bool { return f.g.fromPeer("10.77.0.3") >= n }) {
			t.Fatalf("of %d packets %d were accepted: this test shows nothing", sent, f.g.fromPeer("10.77.0.3"))
		}
	}
	// While the table is replaced by a larger one an address may have to come
	// once more.
	for pass := 1; pass <= passes && learned() < before+addresses; pass++ {
		start := time.Now()
		for i := 0; i < addresses; {
			packets = packets[:0]
			for range run {
				m := address(i)
				copy(packet[14:], m[:]) // behind 8 bytes of header and 6 of destination
				packets = append(packets, packet...)
				i++
			}
			if err := c.send(packets); err != nil {
				t.Fatal(err)
			}
			if sent += run; i%slack == 0 {
				accepted(sent - window + slack)
			}
		}
		accepted(sent)
		took := time.Since(start)
		t.Logf("pass %d: %d addresses in %s, %.0f/s; %d learned", pass, addresses, took.Round(time.Millisecond), float64(addresses)/took.Seconds(), learned()-before)
	}
	f.whole(t)
	if t.Failed() {
		_, text := f.g.get("/metrics")
		t.Logf("lost in the queue of a's device %d, of b's %d, in a's sockets %d; counters of a: %v",
			f.hosts[0].link("gnv0").Attrs().Statistics.TxDropped, f.hosts[1].link("gnv0").Attrs().Statistics.TxDropped,
			sample(text, `gvtep_udp_receive_queue_overflows_total{socket="10.77.0.1:6081"}`), f.g.counters())
	}
	if n := learned() - before; n != addresses {
		t.Errorf("%d addresses learned, want %d", n, addresses)
	}
	// A list of all would be long.
	for m, want := range map[mac]string{address(0): "10.77.0.3", address(4711): "10.77.0.3", address(addresses - 1): "10.77.0.3", f.hosts[1].mac("gnv0"): "10.77.0.2"} {
		text, _, code := f.hosts[0].run(10*time.Second, f.g.binary, "-i", f.g.instance, "fdb", "get", m.String(), "dev", "gnv0")
		if code != 0 || !strings.Contains(text, " dst "+want+" ") {
			t.Errorf("fdb get %s: exit status %d, %q; want dst %s", m, code, text, want)
		}
	}
}

// TestFlappingAddress: two peers claim one address in turn, ten thousand times
// a second. Nobody else notices, and the log has a line a second.
func TestFlappingAddress(t *testing.T) {
	need(t, "ping")
	const rate = 10_000
	takes := map[bool]time.Duration{false: 3 * time.Second, true: 20 * time.Second}[long()]
	m := mac{2, 0, 0, 0, 0x0c, 1}
	packet := join("0000 6558 00002a00", eth(mac{2, 0, 0, 0, 0x0d, 1}, m, typeLabel, make([]byte, 46)))
	for _, damping := range []string{"on", "off"} {
		t.Run("move_damping "+damping, func(t *testing.T) {
			f := establish(t, 2000)
			g := f.g
			g.h.ok(10*time.Second, g.binary, "-i", g.instance, "tunnel", "set", "gnv0", "move_damping", damping)
			peers := []*forger{f.hosts[1].forger("10.77.0.2", "10.77.0.1", len(packet)), f.hosts[2].forger("10.77.0.3", "10.77.0.1", len(packet))}
			start, sent := time.Now(), 0
			for time.Since(start) < takes {
				for due := int(time.Since(start).Seconds() * rate); sent < due; sent++ {
					if err := peers[sent%2].send(packet); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Millisecond)
			}
			seconds := time.Since(start).Seconds()
			named := g.flapping(t)
			var s struct {
				Gvtep struct {
					FDB struct{ Moved, Damped int } `json:"fdb"`
				} `json:"gvtep"`
			}
			if err := g.ask("/v1/tunnels/gnv0", &s); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d claims in %.1f s: moved %d, damped %d, %d lines", sent, seconds, s.Gvtep.FDB.Moved, s.Gvtep.FDB.Damped, len(named))
			f.whole(t)
			if len(named) < 1 || len(named) > int(seconds)+2 {
				t.Errorf("%d lines of alarm in %.1f s, want one a second", len(named), seconds)
			}
			for _, who := range named {
				if !slices.Equal(who, []string{m.String() + " on gnv0"}) {
					t.Errorf("the alarm names %v, want %s", who, m)
				}
			}
			if damping == "on" {
				if s.Gvtep.FDB.Moved != 5 || s.Gvtep.FDB.Damped < sent/3 {
					t.Errorf("moved %d times and damped %d times, want 5 and most of %d", s.Gvtep.FDB.Moved, s.Gvtep.FDB.Damped, sent)
				}
				return
			}
			// What a worker takes of one peer at once, up to 32 packets and more in trains, counts once.
			if s.Gvtep.FDB.Moved < sent/100 {
				t.Errorf("moved %d times, want at least a hundredth of %d", s.Gvtep.FDB.Moved, sent)
			}
			for i, want := range []string{"10.77.0.2", "10.77.0.3", "10.77.0.2"} {
				peers[i%2].send(packet)
				if !soon(2*time.Second, func() bool { return g.behind(m) == want }) {
					t.Errorf("behind %q, want who spoke last, %s", g.behind(m), want)
				}
			}
		})
	}
}
