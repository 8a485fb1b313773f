package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSuppress is row S49: ARP and neighbour solicitations for addresses behind
// a peer are answered where they are asked, with what was heard and with what
// was told, and none goes over the wire.
//
//	a  gnv0 192.0.2.1, fd10::1, neigh_suppress       b  gnv0 192.0.2.2, fd10::2
//	   veth0 10.77.0.1 ============================  veth0 10.77.0.2
func TestSuppress(t *testing.T) {
	need(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			told := mac{2, 0, 0, 0, 0x0a, 0x09}
			words := func(i int, near, far string) []string {
				return []string{"--id", "42", "--local", near, "--remote", far, "--address", fmt.Sprintf("192.0.2.%d/24", i), "--address", fmt.Sprintf("fd10::%d/64", i)}
			}
			g := a.tunnel("gnv0", append(words(1, f.near, f.far), "--neigh_suppress", "on", "--neigh", "192.0.2.9="+told.String())...)
			b.tunnel("gnv0", words(2, f.far, f.near)...)
			wire := a.capture("veth0", 5000)
			cli := func(args ...string) {
				t.Helper()
				a.ok(10*time.Second, g.binary, append([]string{"-i", g.instance}, args...)...)
			}
			// asked counts the requests for an address on the wire since a frame.
			asked := func(from int, address string) int {
				return len(wire.kept(from, func(f frame) bool {
					d, ok := readUDP(f.data)
					return ok && d.dst.Port() == 6081 && len(d.payload) > 8 && asks(d.payload[8:], address)
				}))
			}
			// resolve has a's kernel ask anew, waits until it has an answer or, if
			// none is expected, until the request is on the wire, and returns
			// what it believes then, and how many requests are on the wire.
			resolve := func(address string, answer bool) (lladdr mac, known bool, requests int) {
				t.Helper()
				a.forget("gnv0", address)
				from := wire.count()
				c := a.listenUDP(map[bool]string{true: "0.0.0.0:0", false: "[::]:0"}[addr(address).Is4()])
				c.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(address), 9)))
				c.Close()
				soon(5*time.Second, func() bool {
					lladdr, known = a.resolved("gnv0", address)
					return known && answer || !answer && asked(from, address) > 0
				})
				time.Sleep(60 * time.Millisecond) // for what should not come, and the capture
				lladdr, known = a.resolved("gnv0", address)
				return lladdr, known, asked(from, address)
			}
			flooded := func(when, address string) {
				t.Helper()
				if got, ok, n := resolve(address, false); ok || n == 0 {
					t.Errorf("%s, %s: the kernel has %s, %t, %d requests on the wire; want nothing, and more than none", address, when, got, ok, n)
				}
			}
			for _, v := range []struct{ known, told, nobody string }{{"192.0.2.2", "192.0.2.9", "192.0.2.77"}, {"fd10::2", "fd10::9", "fd10::77"}} {
				// The first time nobody knows, and it is flooded.
				there := b.mac("gnv0")
				if got, ok, n := resolve(v.known, true); !ok || got != there || n == 0 {
					t.Errorf("%s, not heard yet: %s, %t, %d requests on the wire; want %s, and more than none", v.known, got, ok, n, there)
				}
				for range 3 {
					before := g.answered()
					got, ok, n := resolve(v.known, true)
					if !ok || got != there || n != 0 || g.answered() == before {
						t.Errorf("%s, heard: %s, %t, %d requests on the wire, answered %d; want %s, none, and more than none", v.known, got, ok, n, g.answered()-before, there)
					}
				}
				// Told, but as long as nobody knows where the station is, flooded.
				if v.told != "192.0.2.9" { // that it was told at the start
					cli("tunnel", "set", "gnv0", "neigh", v.told+"="+told.String())
				}
				flooded("told, but its station is not in the table", v.told)
				cli("fdb", "add", told.String(), "dev", "gnv0", "dst", f.far, "static")
				if got, ok, n := resolve(v.told, true); !ok || got != told || n != 0 {
					t.Errorf("%s, told: %s, %t, %d requests on the wire; want %s, and none", v.told, got, ok, n, told)
				}
				// A station of our own side answers for itself.
				cli("fdb", "replace", told.String(), "dev", "gnv0", "local")
				flooded("its station is on our side", v.told)
				cli("fdb", "replace", told.String(), "dev", "gnv0", "dst", f.far, "static")
				cli("tunnel", "set", "gnv0", "neigh", "192.0.2.200="+told.String())
				flooded("no longer told", v.told)
				cli("fdb", "del", told.String(), "dev", "gnv0")
				flooded("nobody's", v.nobody)
			}
			// Without suppression what is known is asked for, too.
			p := b.mac("gnv0")
			cli("tunnel", "del", "gnv0")
			cli(append([]string{"tunnel", "add", "gnv0"}, bare(words(1, f.near, f.far))...)...)
			for _, address := range []string{"192.0.2.2", "fd10::2"} {
				resolve(address, true)
				if got, ok, n := resolve(address, true); !ok || got != p || n == 0 {
					t.Errorf("%s, without neigh_suppress: %s, %t, %d requests on the wire; want %s, and more than none", address, got, ok, n, p)
				}
			}
		})
	}
}

// TestSuppressLost: a station that was not heard of lately is asked itself, with nothing
// flooded, and one that has lost its address is no longer answered for.
func TestSuppressLost(t *testing.T) {
	need(t)
	a, b := underlay(t)
	a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--neigh_suppress", "on", "--ageing", "60",
		"--address", "192.0.2.1/24", "--address", "fd10::1/64")
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--address", "fd10::2/64")
	there := b.mac("gnv0")
	wire := a.capture("veth0", 5000)
	ask := func(address string) (known bool, flooded int) {
		t.Helper()
		a.forget("gnv0", address)
		from := wire.count()
		c := a.listenUDP(map[bool]string{true: "0.0.0.0:0", false: "[::]:0"}[addr(address).Is4()])
		c.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(address), 9)))
		c.Close()
		known = soon(2500*time.Millisecond, func() bool { // the kernel asks three times, a second apart
			lladdr, ok := a.resolved("gnv0", address)
			return ok && lladdr == there
		})
		time.Sleep(60 * time.Millisecond) // for the capture
		return known, len(wire.kept(from, func(f frame) bool {
			d, ok := readUDP(f.data)
			return ok && d.dst.Port() == 6081 && len(d.payload) > 8 && asks(d.payload[8:], address)
		}))
	}
	both := []string{"192.0.2.2", "fd10::2"}
	for _, address := range both {
		if known, _ := ask(address); !known {
			t.Fatalf("%s: no answer at first", address)
		}
	}
	time.Sleep(6 * time.Second)
	for _, address := range both {
		if known, flooded := ask(address); !known || flooded != 0 {
			t.Errorf("%s, heard 6 s ago: known %t, %d requests flooded; want its own answer, and none", address, known, flooded)
		}
	}
	b.ok(5*time.Second, "ip", "address", "del", "192.0.2.2/24", "dev", "gnv0")
	b.ok(5*time.Second, "ip", "address", "del", "fd10::2/64", "dev", "gnv0")
	time.Sleep(6 * time.Second)
	for _, address := range both {
		if known, flooded := ask(address); known || flooded == 0 {
			t.Errorf("%s, lost: known %t, %d requests flooded; want no answer, and some", address, known, flooded)
		}
	}
}

// bare turns flags into bare words.
func bare(flags []string) (words []string) {
	for _, w := range flags {
		if len(w) > 2 && w[:2] == "--" {
			w = w[2:]
		}
		words = append(words, w)
	}
	return words
}

// asks reports whether a frame asks everybody, by ARP or neighbour discovery,
// for an address.
func asks(frame []byte, address string) bool {
	if len(frame) < 42 || frame[0]&1 == 0 {
		return false
	}
	want := addr(address).AsSlice()
	switch p := frame[14:]; binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		return p[7] == 1 && slices.Equal(p[24:28], want)
	case typeIPv6: // neighbour solicitation, right behind the IPv6 header
		return len(p) >= 64 && p[6] == 58 && p[40] == 135 && slices.Equal(p[48:64], want)
	}
	return false
}

// answered is how many requests were answered instead of flooded.
func (g *gvtep) answered() int {
	g.h.t.Helper()
	var s struct {
		Gvtep struct {
			Answered int `json:"neigh_answered"`
		} `json:"gvtep"`
	}
	if err := g.ask("/v1/tunnels/"+g.dev, &s); err != nil {
		g.h.t.Fatal(err)
	}
	return s.Gvtep.Answered
}

// forget removes what the kernel knows of a neighbour.
func (h *host) forget(dev, address string) {
	h.t.Helper()
	all, err := h.nl.NeighList(h.index(dev), unix.AF_UNSPEC)
	h.must("neighbours", err)
	for _, n := range all {
		if n.IP.Equal(net.ParseIP(address)) {
			h.must("forget "+address, h.nl.NeighDel(&n))
		}
	}
}

// resolved is what the kernel knows of a neighbour.
func (h *host) resolved(dev, address string) (lladdr mac, ok bool) {
	h.t.Helper()
	all, err := h.nl.NeighList(h.index(dev), unix.AF_UNSPEC)
	h.must("neighbours", err)
	const valid = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	for _, n := range all {
		if n.IP.Equal(net.ParseIP(address)) && n.State&valid != 0 && len(n.HardwareAddr) == 6 {
			return mac(n.HardwareAddr), true
		}
	}
	return mac{}, false
}
