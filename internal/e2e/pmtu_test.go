package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestPMTU is row K-9, with the names of the kernel's selftest (net/pmtu.sh): a router on
// the way has a link with less room than the endpoint's own. Whoever sends through the
// tunnel is told how much passes, the host itself and a container behind a bridge, and
// TCP flows.
//
//	c  192.0.2.3  fd92::3
//	|
//	br0 (or not)                    b  gnv0 192.0.2.2, fd92::2
//	gnv0 192.0.2.1, fd92::1  a         veth0
//	veth0 ======== MTU 1500 ====== r ==== MTU 1400
func TestPMTU(t *testing.T) {
	need(t, "ip", "ping")
	type way struct{ near, nearRouter, far, farRouter string }
	outer := map[int]way{
		4: {"10.77.1.1", "10.77.1.2", "10.77.2.1", "10.77.2.2"},
		6: {"fd77:1::1", "fd77:1::2", "fd77:2::1", "fd77:2::2"},
	}
	overhead := map[int]int{4: 50, 6: 70}
	for _, c := range []struct {
		name         string
		inner, outer int
		bridged      bool
		mtu          string // of a's device
	}{
		{"pmtu_ipv4_geneve4_exception", 4, 4, false, "1450"},
		{"pmtu_ipv6_geneve4_exception", 6, 4, false, "1450"},
		{"pmtu_ipv4_geneve6_exception", 4, 6, false, "1430"},
		{"pmtu_ipv6_geneve6_exception", 6, 6, false, "1430"},
		{"pmtu_ipv4_br_geneve4_exception", 4, 4, true, "auto"},
		{"pmtu_ipv6_br_geneve4_exception", 6, 4, true, "auto"},
		{"pmtu_ipv4_br_geneve6_exception", 4, 6, true, "auto"},
		{"pmtu_ipv6_br_geneve6_exception", 6, 6, true, "auto"},
		// What no path carries is told as well, if the bridge lets it come so far.
		{"a bridge of 1500 bytes", 4, 4, true, "1500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, r, b := newHost(t, "a"), newHost(t, "r"), newHost(t, "b")
			cable(a, "veth0", r, "left")
			cable(b, "veth0", r, "right")
			b.must("mtu", b.nl.LinkSetMTU(b.link("veth0"), 1400))
			r.must("mtu", r.nl.LinkSetMTU(r.link("right"), 1400))
			r.sysctl("net/ipv4/ip_forward", "1")
			r.sysctl("net/ipv6/conf/all/forwarding", "1")
			for _, w := range outer {
				bits := map[bool]string{true: "/64", false: "/24"}[strings.Contains(w.near, ":")]
				for _, x := range []struct {
					h        *host
					dev, has string
				}{{a, "veth0", w.near}, {r, "left", w.nearRouter}, {b, "veth0", w.far}, {r, "right", w.farRouter}} {
					x.h.address(x.dev, x.has+bits)
				}
				for h, gateway := range map[*host]string{a: w.nearRouter, b: w.farRouter} {
					h.must("route", h.nl.RouteAdd(&netlink.Route{LinkIndex: h.index("veth0"), Gw: addr(gateway).AsSlice()}))
				}
			}
			w := outer[c.outer]
			words := []string{"--id", "42", "--local", w.near, "--remote", w.far}
			sender := a
			if c.bridged {
				a.bridge("br0")
				sender = a.container("c", "br0", mac{2, 0, 0, 0, 0, 0xcc}, "192.0.2.3/24")
				sender.address("veth0", "fd92::3/64")
				words = append(words, "--master", "br0")
			} else {
				words = append(words, "--address", "192.0.2.1/24", "--address", "fd92::1/64")
			}
			if c.outer == 6 {
				words = append(words, "--df", "unset") // as there: the kernel's default
			}
			if c.mtu != "auto" {
				words = append(words, "--mtu", c.mtu)
			}
			g := a.tunnel("gnv0", words...)
			b.tunnel("gnv0", "--id", "42", "--local", w.far, "--remote", w.near, "--address", "192.0.2.2/24", "--address", "fd92::2/64")
			before := a.mtu("gnv0")

			to, size := "192.0.2.2", before-28
			if c.inner == 6 {
				to, size = "fd92::2", before-48
			}
			pmtu := 1400 - overhead[c.outer]
			sender.pings(to) // b is known from here on, and so is its address
			told := fmt.Sprintf(" mtu %d", pmtu)
			within(t, 10*time.Second, "the route of "+sender.name+" knows the MTU"+told, func() bool {
				sender.run(5*time.Second, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "0.2", "-M", "want", "-s", fmt.Sprint(size), to)
				return strings.Contains(sender.ok(5*time.Second, "ip", "route", "get", to), told)
			})
			// What now is cut by the sender comes whole, and so does what fits.
			sender.pings(to, "-M", "dont", "-s", fmt.Sprint(size))
			sender.pings(to, "-M", "do", "-s", fmt.Sprint(size-before+pmtu))
			if after := a.mtu("gnv0"); after != before {
				t.Errorf("the MTU of gnv0 went from %d to %d", before, after)
			}
			var s struct {
				Gvtep struct {
					TooBig int `json:"icmp_too_big"`
				}
			}
			if err := g.ask("/v1/tunnels/gnv0", &s); err != nil || s.Gvtep.TooBig == 0 {
				t.Errorf("%d senders were told, %v; want some", s.Gvtep.TooBig, err)
			}

			listener := b.listenTCP(addrPort(to, "7"))
			defer listener.Close()
			sent := strings.Repeat("pmtu", 1<<18)
			got := make(chan string, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					got <- err.Error()
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				all, err := io.ReadAll(conn)
				if err != nil {
					all = []byte(err.Error())
				}
				got <- string(all)
			}()
			conn := sender.dialTCP(addrPort(to, "7"))
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, err := io.WriteString(conn, sent)
			conn.Close()
			if text := <-got; err != nil || text != sent {
				t.Errorf("TCP: %v, %d bytes of %d arrived: %.80s", err, len(text), len(sent), text)
			}
		})
	}
}

func addrPort(address, port string) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return address + ":" + port
}
