package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestDeviceComesBack: the underlay device that a tunnel is bound to is deleted
// and made again, as when a driver is loaded anew. The tunnel works again, and
// with all its workers.
//
//	a  gnv0 192.0.2.1/24, --dev veth0, 4 workers     b  gnv0 192.0.2.2/24
//	   veth0 ============ goes and comes back ==========  veth0
func TestDeviceComesBack(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := newHost(t, "a"), newHost(t, "b")
			connect := func() {
				wire(a, b)
				a.address("veth0", "10.77.0.1/24", "fd77::1/64")
				b.address("veth0", "10.77.0.2/24", "fd77::2/64")
			}
			connect()
			g := a.tunnel("gnv0", "--id", "42", "--local", f.near, "--remote", f.far, "--dev", "veth0", "--address", "192.0.2.1/24", "--workers", "4")
			b.tunnel("gnv0", "--id", "42", "--local", f.far, "--remote", f.near, "--address", "192.0.2.2/24")
			works := func(when string) {
				t.Helper()
				within(t, 15*time.Second, "pings are answered "+when, func() bool {
					_, _, code := a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "1", "192.0.2.2")
					return code == 0
				})
				// What waits in which socket shows while nobody takes it.
				g.cmd.Process.Signal(syscall.SIGSTOP)
				defer g.cmd.Process.Signal(syscall.SIGCONT)
				out := b.capture("veth0", 10)
				for port := range uint16(200) {
					packet := ip{src: addr(f.far), dst: addr(f.near)}.udp(50000+port, 6081, join("0000 6558 00002a00", eth(broadcast, mac{2, 0, 0, 0, 0x0b, 9}, typeLabel, make([]byte, 46))), csumRight)
					out.send(eth(a.mac("veth0"), b.mac("veth0"), map[bool]uint16{true: typeIPv4, false: typeIPv6}[f.name == "IPv4"], packet))
				}
				if !soon(3*time.Second, func() bool { return a.waiting() == 4 }) {
					t.Errorf("%s: packets of 200 source ports wait in %d sockets, want all 4", when, a.waiting())
				}
			}
			works("at first")
			descriptors := g.descriptors()
			a.must("delete", a.nl.LinkDel(a.link("veth0")))
			within(t, 5*time.Second, "the other end is gone too", func() bool { return !b.has("veth0") })
			connect()
			works("after the device has come back")
			within(t, 2*time.Second, "no descriptor more than before", func() bool { return g.descriptors() <= descriptors })
			g.stop()
		})
	}
}

// TestGroupDeviceComesBack: the same with a group, whose datagrams leave by that device:
// it is another one for the kernel afterwards. Who may speak, the networks of the device,
// are there only when it has its addresses.
func TestGroupDeviceComesBack(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := newHost(t, "a"), newHost(t, "b")
			group := map[bool]string{true: "239.1.1.1", false: "ff08::db8:0:42"}[f.name == "IPv4"]
			addresses := func(n int) {
				a.address("veth0", fmt.Sprintf("10.77.%d.1/24", n), fmt.Sprintf("fd77:%d::1/64", n))
				b.address("veth0", fmt.Sprintf("10.77.%d.2/24", n), fmt.Sprintf("fd77:%d::2/64", n))
			}
			wire(a, b)
			var all []*gvtep
			for i, h := range []*host{a, b} {
				g := h.launch(built(t), newInstance(), "gnv0", "--id", "42", "--group", group, "--dev", "veth0", "--address", fmt.Sprintf("192.0.2.%d/24", i+1))
				// It is not ready without a way to the group.
				h.ok(15*time.Second, g.binary, "-i", g.instance, "wait", "gnv0", "--for", "up", "--timeout", "10s")
				all = append(all, g)
			}
			works := func(when string) {
				t.Helper()
				within(t, 15*time.Second, "pings are answered "+when, func() bool {
					// As if it were the first: nobody knows where the other is.
					for i, g := range all {
						g.call(g.binary, "fdb", "flush", "dev", "gnv0")
						[]*host{a, b}[i].forget("gnv0", fmt.Sprintf("192.0.2.%d", 2-i))
					}
					_, _, code := a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "1", "192.0.2.2")
					return code == 0
				})
			}
			addresses(0)
			works("when the device has addresses at last")
			for n := 1; n < 3; n++ { // into other networks
				a.must("delete", a.nl.LinkDel(a.link("veth0")))
				within(t, 5*time.Second, "the other end is gone too", func() bool { return !b.has("veth0") })
				a.must("takes an index", a.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("br", n)}}))
				wire(a, b)
				addresses(n)
				works("after the device has come back")
			}
		})
	}
}

// waiting counts the UDP sockets of port 6081 in which something waits to be read.
func (h *host) waiting() (n int) {
	h.t.Helper()
	h.do(func() error {
		for _, table := range []string{"udp", "udp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + table)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				// sl, local address, remote address, state, tx_queue:rx_queue
				words := strings.Fields(line)
				if len(words) > 4 && strings.HasSuffix(words[1], ":17C1") && !strings.HasSuffix(words[4], ":00000000") {
					n++
				}
			}
		}
		return nil
	})
	return n
}
