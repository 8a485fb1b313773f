package e2e

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Three hosts in one segment, rows L-10 and L-10s: with a multicast group and
// with a list of peers.
//
//	a  gnv0 192.0.2.1/24    b  gnv0 192.0.2.2/24    c  gnv0 192.0.2.3/24
//	   veth0 10.77.0.1/24      veth0 10.77.0.2/24      veth0 10.77.0.3/24
//	         fd77::1/64              fd77::2/64              fd77::3/64
//	         |                       |                       |
//	  =======+================== a bridge ===================+=======

// lan is three hosts at one bridge.
func lan(t *testing.T) (hosts [3]*host) {
	t.Helper()
	hub := newHost(t, "hub")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	snooping := false // all hosts see all multicast
	hub.must("bridge", hub.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}))
	hub.up("br0")
	for i, name := range []string{"a", "b", "c"} {
		h := newHost(t, name)
		plug(h, hub, "port-"+name)
		hub.must("port", hub.nl.LinkSetMaster(hub.link("port-"+name), hub.link("br0")))
		h.address("veth0", fmt.Sprintf("10.77.0.%d/24", i+1), fmt.Sprintf("fd77::%d/64", i+1))
		hosts[i] = h
	}
	return hosts
}

// segment is lan with a tunnel endpoint on each host, and captures.
type segment struct {
	hosts     [3]*host
	daemons   [3]*gvtep
	addresses [3]netip.Addr
	wire      [3]*capture // veth0
	inner     [3]*capture // gnv0
}

// newSegment starts the endpoints, each with its own words or, if these are
// --config PATH, with nothing else.
func newSegment(t *testing.T, f family, words func(i int) []string) *segment {
	t.Helper()
	s := &segment{hosts: lan(t)}
	for i, h := range s.hosts {
		s.addresses[i] = addr(strings.TrimSuffix(f.near, "1") + fmt.Sprint(i+1))
		s.wire[i] = h.capture("veth0", 2000)
		if w := words(i); w[0] == "--config" {
			s.daemons[i] = h.configured("gnv0", w[1])
		} else {
			s.daemons[i] = h.tunnel("gnv0", append([]string{"--id", "42", "--local", s.addresses[i].String(),
				"--address", fmt.Sprintf("192.0.2.%d/24", i+1), "--lladdr", s.mac(i).String()}, w...)...)
		}
		s.inner[i] = h.capture("gnv0", 2000)
	}
	return s
}

func (s *segment) mac(i int) mac { return mac{2, 0, 0, 0, 0x0a, byte(i + 1)} }

// datagrams returns the GENEVE packets that host i has sent or received, from
// a frame of its wire on.
func (s *segment) datagrams(i, from int, out bool) (all []datagram) {
	for _, f := range s.wire[i].kept(from, func(f frame) bool { return f.out == out }) {
		if d, ok := readUDP(f.data); ok && d.dst.Port() == 6081 {
			all = append(all, d)
		}
	}
	return all
}

// goes sends a frame from one host, and checks where the copies go on the wire
// and how many come out of each device. It looks at what all three hosts send:
// a frame that is sent on or back shows, too.
func (s *segment) goes(t *testing.T, from int, dst mac, text string, want []string, wantArrived [3]int) {
	t.Helper()
	var start, arrived [3]int
	for i := range s.wire {
		start[i] = s.wire[i].count()
	}
	s.inner[from].send(eth(dst, s.mac(from), typeLabel, fmt.Appendf(nil, "%-46s", text)))
	count := func() [3]int {
		for i := range s.inner {
			arrived[i] = len(s.inner[i].kept(0, received(text)))
		}
		return arrived
	}
	sent := func() (to []string) {
		for i := range s.hosts {
			for _, d := range s.datagrams(i, start[i], true) {
				if bytes.Contains(d.payload, []byte(text)) {
					to = append(to, fmt.Sprintf("%s>%s", s.hosts[i].name, d.dst.Addr()))
				}
			}
		}
		return to
	}
	soon(5*time.Second, func() bool { return count() == wantArrived && len(sent()) >= len(want) })
	time.Sleep(60 * time.Millisecond) // for those that should not come
	count()
	to := sent()
	if fmt.Sprint(to) != fmt.Sprint(want) || arrived != wantArrived {
		t.Errorf("%s: a frame from %s to %s: on the wire %v, want %v; copies on the devices of a, b and c %v, want %v",
			text, s.hosts[from].name, dst, to, want, arrived, wantArrived)
	}
}

// floods returns the destinations of flooded frames in the table of host i.
func (s *segment) floods(i int) (to []string) {
	for _, e := range s.daemons[i].fdb() {
		if e.MAC == "00:00:00:00:00:00" {
			to = append(to, e.Dst)
		}
	}
	return to
}

// TestPeerList: what is flooded goes once to each peer, and nowhere else.
func TestPeerList(t *testing.T) {
	need(t)
	for _, f := range families {
		for _, learning := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s learning %t", f.name, learning), func(t *testing.T) {
				base := strings.TrimSuffix(f.near, "1")
				s := newSegment(t, f, func(i int) (words []string) {
					for p := range 3 {
						if p != i {
							words = append(words, "--remote", base+fmt.Sprint(p+1))
						}
					}
					if !learning {
						words = append(words, "--nolearning")
					}
					return words
				})
				A, B, C := s.addresses[0].String(), s.addresses[1].String(), s.addresses[2].String()
				if got := s.floods(0); fmt.Sprint(got) != fmt.Sprint([]string{B, C}) {
					t.Errorf("flood entries of a: %v, want %s and %s", got, B, C)
				}
				s.goes(t, 0, broadcast, "BROADCAST-A", []string{"a>" + B, "a>" + C}, [3]int{0, 1, 1})
				s.goes(t, 1, broadcast, "BROADCAST-B", []string{"b>" + A, "b>" + C}, [3]int{1, 0, 1})
				s.goes(t, 2, mac{1, 0, 0x5e, 0, 0, 9}, "MULTICAST-C", []string{"c>" + A, "c>" + B}, [3]int{1, 1, 0})
				s.goes(t, 0, mac{2, 0, 0, 0, 0x0c, 1}, "UNKNOWN", []string{"a>" + B, "a>" + C}, [3]int{0, 1, 1})
				for i, d := range s.daemons {
					for p := range 3 {
						if p == i {
							continue
						}
						want := map[bool]string{true: s.addresses[p].String()}[learning]
						if got := d.behind(s.mac(p)); got != want {
							t.Errorf("%s has %s behind %q, want %q", d.h.name, s.mac(p), got, want)
						}
					}
				}
				if learning {
					s.goes(t, 0, s.mac(1), "LEARNED-B", []string{"a>" + B}, [3]int{0, 1, 0})
					s.goes(t, 2, s.mac(1), "LEARNED-C", []string{"c>" + B}, [3]int{0, 1, 0})
				} else {
					s.goes(t, 0, s.mac(1), "NOT-LEARNED", []string{"a>" + B, "a>" + C}, [3]int{0, 1, 1})
				}
			})
		}
	}
}

// TestTwoHosts is row L-9: one remote, bound to the device.
//
//	a  gnv0 192.168.60.4/24                b  gnv0 192.168.60.5/24
//	   veth0 192.168.50.4/24 ============= veth0 192.168.50.5/24
func TestTwoHosts(t *testing.T) {
	need(t, "ip", "ping")
	hosts := []*host{newHost(t, "a"), newHost(t, "b")}
	wire(hosts[0], hosts[1])
	var instances []string
	for i, h := range hosts {
		h.address("veth0", fmt.Sprintf("192.168.50.%d/24", 4+i))
		instances = append(instances, newInstance())
	}
	// Twice: the device goes and comes back with nothing left of the first time.
	for round := range 2 {
		var daemons []*gvtep
		for i, h := range hosts {
			g := h.launch(built(t), instances[i], "gnv0", "id", "100", "remote", fmt.Sprint("192.168.50.", 5-i), "dev", "veth0",
				"address", fmt.Sprintf("192.168.60.%d/24", 4+i))
			g.ready()
			daemons = append(daemons, g)
		}
		a, g := hosts[0], daemons[0]
		zero := fdbAnswer{MAC: "00:00:00:00:00:00", Dst: "192.168.50.5", State: "permanent"}
		if got := g.fdb(); !slices.Equal(got, []fdbAnswer{zero}) {
			t.Errorf("round %d: before the ping the table is %+v, want the flood entry alone", round, got)
		}
		a.pings("192.168.60.5", "-c", "3", "-i", "0.05")
		there := fdbAnswer{MAC: hosts[1].mac("gnv0").String(), Dst: "192.168.50.5"}
		// What a sends comes from its own device: that address is never learned.
		if got := g.fdb(); !slices.Equal(got, []fdbAnswer{zero, there}) {
			t.Errorf("round %d: after the ping the table is %+v, want %+v and %+v", round, got, zero, there)
		}
		want := fmt.Sprintf("00:00:00:00:00:00 dst 192.168.50.5 self permanent\n%s dst 192.168.50.5 self\n", there.MAC)
		if got := a.ok(5*time.Second, g.binary, "-i", g.instance, "fdb", "show", "dev", "gnv0"); got != want {
			t.Errorf("round %d: gvtep fdb show dev gnv0 prints\n%swant\n%s", round, got, want)
		}
		for _, g := range daemons {
			g.stop()
		}
		if a.has("gnv0") {
			t.Fatalf("round %d: gnv0 is still there", round)
		}
	}
}

// TestStaticEntry: without learning, what goes to an address with a static
// entry goes to its peer alone.
func TestStaticEntry(t *testing.T) {
	need(t)
	s := newSegment(t, families[0], func(i int) []string {
		if i != 0 {
			return []string{"--remote", "10.77.0.1"}
		}
		return []string{"--config", file(t, "static.toml", `
[[tunnel]]
name     = "gnv0"
id       = 42
local    = "10.77.0.1"
remote   = ["10.77.0.2", "10.77.0.3"]
lladdr   = "02:00:00:00:0a:01"
learning = false
  [[tunnel.fdb]]
  lladdr = "02:00:00:00:0a:03"
  dst    = "10.77.0.3"
  state  = "static"
`)}
	})
	s.goes(t, 1, broadcast, "BROADCAST-B", []string{"b>10.77.0.1"}, [3]int{1, 0, 0})
	s.goes(t, 0, s.mac(2), "STATIC-C", []string{"a>10.77.0.3"}, [3]int{0, 0, 1})
	s.goes(t, 0, s.mac(1), "UNKNOWN-B", []string{"a>10.77.0.2", "a>10.77.0.3"}, [3]int{0, 1, 1})
	if got := s.daemons[0].behind(s.mac(2)); got != "10.77.0.3" {
		t.Errorf("a has c behind %q, want 10.77.0.3", got)
	}
}

// TestEntriesByHand is row L-10s as it is typed: peers appended one by one, and
// the nolearning variant with static addresses.
func TestEntriesByHand(t *testing.T) {
	need(t)
	s := newSegment(t, families[0], func(i int) []string {
		return []string{"--remote", fmt.Sprint("10.77.0.", 1+(i+1)%3), "--nolearning"}
	})
	type entry = fdbAnswer
	flood := func(dst string) entry { return entry{MAC: "00:00:00:00:00:00", Dst: dst, State: "permanent"} }
	a, B, C := s.daemons[0], "10.77.0.2", "10.77.0.3"
	fdb := func(g *gvtep, words ...string) {
		t.Helper()
		g.h.ok(10*time.Second, g.binary, append([]string{"-i", g.instance, "fdb"}, words...)...)
	}
	for i, g := range s.daemons {
		fdb(g, "append", "00:00:00:00:00:00", "dev", "gnv0", "dst", fmt.Sprint("10.77.0.", 1+(i+2)%3))
	}
	if got, want := a.fdb(), []entry{flood(B), flood(C)}; !slices.Equal(got, want) {
		t.Errorf("the table of a is %+v, want %+v", got, want)
	}
	s.goes(t, 0, broadcast, "BROADCAST-A", []string{"a>" + B, "a>" + C}, [3]int{0, 1, 1})
	s.goes(t, 2, broadcast, "BROADCAST-C", []string{"c>10.77.0.1", "c>" + B}, [3]int{1, 1, 0})
	s.goes(t, 0, s.mac(2), "NOT-LEARNED", []string{"a>" + B, "a>" + C}, [3]int{0, 1, 1})
	fdb(a, "add", s.mac(2).String(), "dev", "gnv0", "dst", C, "static")
	s.goes(t, 0, s.mac(2), "STATIC", []string{"a>" + C}, [3]int{0, 0, 1})
	s.goes(t, 0, s.mac(1), "UNKNOWN", []string{"a>" + B, "a>" + C}, [3]int{0, 1, 1})
	fdb(a, "replace", s.mac(2).String(), "dev", "gnv0", "dst", B, "static")
	s.goes(t, 0, s.mac(2), "REPLACED", []string{"a>" + B}, [3]int{0, 1, 0})
	fdb(a, "del", s.mac(2).String(), "dev", "gnv0")
	fdb(a, "del", "00:00:00:00:00:00", "dev", "gnv0", "dst", C)
	if got, want := a.fdb(), []entry{flood(B)}; !slices.Equal(got, want) {
		t.Errorf("the table of a is %+v, want %+v", got, want)
	}
	s.goes(t, 0, s.mac(2), "DELETED", []string{"a>" + B}, [3]int{0, 1, 0})
}

// TestCopies: one broadcast is one datagram for each remote, or one to the
// group, and one frame on each device, whichever of four workers has it.
func TestCopies(t *testing.T) {
	need(t)
	// Five of the seven remotes of a do not exist: copies for them go out all the same.
	const frames, nobody = 400, 5
	for _, f := range families {
		for _, group := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s group %t", f.name, group), func(t *testing.T) {
				base := strings.TrimSuffix(f.near, "1")
				to := []netip.Addr{addr(base + "2"), addr(base + "3")}
				if group {
					to = []netip.Addr{map[bool]netip.Addr{true: addr("239.255.0.1"), false: addr("ff08::db8:0:42")}[f.name == "IPv4"]}
				}
				s := newSegment(t, f, func(i int) (words []string) {
					words = []string{"--workers", "4"}
					if group {
						return append(words, "--group", to[0].String(), "--dev", "veth0")
					}
					for p := range 3 {
						if p != i {
							words = append(words, "--remote", base+fmt.Sprint(p+1))
						}
					}
					for n := range nobody {
						words = append(words, "--remote", base+fmt.Sprint(10+n))
					}
					return words
				})
				for n := range nobody {
					a := addr(base + fmt.Sprint(10+n))
					if !group {
						to = append(to, a)
					}
					s.hosts[0].neighbour("veth0", a.String(), mac{2, 0, 0, 0, 0x0e, byte(n)})
				}
				for i, c := range []*capture{s.inner[0], s.inner[1], s.inner[2], s.wire[0], s.wire[1], s.wire[2]} {
					c.grow([]int{10_000, 20_000}[i/3])
				}
				// Many flows: the kernel picks the queues, and the sockets.
				text := func(n int) string { return fmt.Sprintf("COPY-%d.", n) }
				for n := range frames {
					packet := ip{src: addr("192.0.2.1"), dst: addr("192.0.2.255")}.udp(uint16(2000+n), 9, []byte(text(n)), csumRight)
					s.inner[0].send(eth(broadcast, s.mac(0), typeIPv4, packet))
					// No queue is longer than this: of a sender that a group does not know yet a
					// receiver keeps 64 datagrams while it makes a peer of it. On a busy machine
					// that takes one receiver longer than the other.
					if n%50 == 49 {
						for i := 1; i < 3; i++ {
							s.inner[i].await(5*time.Second, n+1, 0, received("COPY-"))
						}
					}
				}
				s.wire[0].await(5*time.Second, frames*len(to), 0, func(f frame) bool { return f.out && bytes.Contains(f.data, []byte("COPY-")) })
				time.Sleep(100 * time.Millisecond) // for those that should not come
				tally := func(c *capture, pass func(frame) bool, key func([]byte) string) map[string]int {
					found := map[string]int{}
					for _, f := range c.kept(0, pass) {
						if _, rest, ok := bytes.Cut(f.data, []byte("COPY-")); ok {
							number, _, _ := bytes.Cut(rest, []byte("."))
							found[key(f.data)+string(number)]++
						}
					}
					return found
				}
				for i, h := range s.hosts {
					want := map[string]int{}
					if i == 0 {
						for n := range frames {
							for _, a := range to {
								want[fmt.Sprint(a, " ", n)] = 1
							}
						}
					}
					sent := tally(s.wire[i], func(f frame) bool { return f.out }, func(data []byte) string {
						d, _ := readUDP(data)
						return d.dst.Addr().String() + " "
					})
					if !maps.Equal(sent, want) {
						t.Errorf("%s sends %d different copies, %s; want %d, each once", h.name, len(sent), differs(sent, want), len(want))
					}
					want = map[string]int{}
					for n := range frames {
						if i != 0 {
							want[fmt.Sprint(n)] = 1
						}
					}
					got := tally(s.inner[i], func(f frame) bool { return !f.out }, func([]byte) string { return "" })
					if !maps.Equal(got, want) {
						t.Errorf("on the device of %s arrive %d different frames, %s; want %d, each once", h.name, len(got), differs(got, want), len(want))
					}
				}
			})
		}
	}
}

// differs names one difference between two counts.
func differs(got, want map[string]int) string {
	for key := range want {
		if got[key] != want[key] {
			return fmt.Sprintf("%q %d times", key, got[key])
		}
	}
	for key := range got {
		if got[key] != want[key] {
			return fmt.Sprintf("%q %d times", key, got[key])
		}
	}
	return "all as wanted"
}

// TestGroup: what is flooded goes once to the group.
func TestGroup(t *testing.T) {
	need(t, "ip", "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			group, groupMAC := addr("239.255.0.1"), mac{1, 0, 0x5e, 0x7f, 0, 1}
			if f.name == "IPv6" {
				group, groupMAC = addr("ff08::db8:0:42"), mac{0x33, 0x33, 0, 0, 0, 0x42}
			}
			s := newSegment(t, f, func(int) []string {
				return []string{"--group", group.String(), "--dev", "veth0", "--ttl", "5"}
			})
			a, b := s.hosts[0], s.hosts[1]
			A, B, G := s.addresses[0].String(), s.addresses[1].String(), group.String()
			for i, h := range s.hosts {
				if !h.member("veth0", group) {
					t.Errorf("%s is no member of %s", h.name, group)
				}
				if text := h.ok(5*time.Second, "ip", "maddr", "show", "dev", "veth0"); !strings.Contains(text, " "+group.String()+"\n") {
					t.Errorf("ip maddr on %s does not list %s:\n%s", h.name, group, text)
				}
				if all := s.wire[i].await(2*time.Second, 1, 0, reports(h.mac("veth0"), group, changeToExclude)); len(all) == 0 {
					t.Errorf("no message says that %s joins", h.name)
				}
				if got := s.floods(i); fmt.Sprint(got) != fmt.Sprint([]string{G}) {
					t.Errorf("flood entries of %s: %v, want %s", h.name, got, G)
				}
			}

			// The first packet is a's ARP request, and the only one that is flooded.
			out := a.ok(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.05", "-W", "2", "192.0.2.2")
			if n := received4(t, out); n != 3 || strings.Contains(out, "duplicates") {
				t.Errorf("%d pings of 3 answered: %s", n, out)
			}
			soon(5*time.Second, func() bool {
				return len(s.datagrams(0, 0, true)) >= 4 && len(s.datagrams(1, 0, true)) >= 4 && len(s.datagrams(2, 0, false)) >= 1
			})
			time.Sleep(60 * time.Millisecond) // for those that should not come
			for i, want := range [][]string{{G, B, B, B}, {A, A, A, A}, nil} {
				var to []string
				for _, d := range s.datagrams(i, 0, true) {
					to = append(to, d.dst.Addr().String())
					if d.ttl != 5 {
						t.Errorf("%s sent a packet with TTL %d, want 5", s.hosts[i].name, d.ttl)
					}
				}
				if fmt.Sprint(to) != fmt.Sprint(want) {
					t.Errorf("%s sent packets to %v, want %v", s.hosts[i].name, to, want)
				}
			}
			seen := s.datagrams(2, 0, false)
			if len(seen) != 1 || seen[0].dst.Addr() != group {
				t.Errorf("c received %d packets, want one, to %s", len(seen), G)
			}
			for _, fr := range s.wire[2].kept(0, func(f frame) bool { d, ok := readUDP(f.data); return ok && d.dst.Addr() == group }) {
				if got := mac(fr.data[:6]); got != groupMAC {
					t.Errorf("a packet to %s went to %s, want %s", G, got, groupMAC)
				}
			}
			s.goes(t, 2, broadcast, "BROADCAST-C", []string{"c>" + G}, [3]int{1, 1, 0})
			s.goes(t, 0, broadcast, "BROADCAST-A", []string{"a>" + G}, [3]int{0, 1, 1})
			s.goes(t, 1, broadcast, "BROADCAST-B", []string{"b>" + G}, [3]int{1, 0, 1})
			s.goes(t, 1, s.mac(0), "LEARNED-A", []string{"b>" + A}, [3]int{1, 0, 0})
			for i := range s.hosts {
				for p := range s.hosts {
					want := map[bool]string{true: s.addresses[p].String()}[p != i]
					if got := s.daemons[i].behind(s.mac(p)); p != i && got != want {
						t.Errorf("%s has %s behind %q, want %q", s.hosts[i].name, s.mac(p), got, want)
					}
				}
			}

			// Forgotten, b is flooded to again.
			s.daemons[0].cli("tunnel", "set", "gnv0", "ageing", "2")
			within(t, 20*time.Second, "b is forgotten", func() bool { return s.daemons[0].behind(s.mac(1)) == "" })
			s.goes(t, 0, s.mac(1), "FORGOTTEN-B", []string{"a>" + G}, [3]int{0, 1, 1})

			// The kernel leaves the group for whoever is killed.
			from := s.wire[2].count()
			s.daemons[1].end(syscall.SIGKILL, 5*time.Second)
			within(t, 2*time.Second, "b is out of the group", func() bool { return !b.member("veth0", group) })
			if all := s.wire[2].await(2*time.Second, 1, from, reports(b.mac("veth0"), group, changeToInclude)); len(all) == 0 {
				t.Error("no message says that b leaves")
			}
			s.goes(t, 0, broadcast, "WITHOUT-B", []string{"a>" + G}, [3]int{0, 0, 1})
			s.daemons[0].stop()
			if a.member("veth0", group) {
				t.Error("a is still a member after its end")
			}
		})
	}
}

// Record types of group membership reports, IGMPv3 (RFC 3376 section 4.2.12)
// and MLDv2 (RFC 3810 section 5.2.12): of no source, they say that a host
// leaves a group or joins it.
const (
	changeToInclude = 3
	changeToExclude = 4
)

// reports passes membership reports of a host that have a record of this type,
// without sources, for the group.
func reports(from mac, group netip.Addr, kind byte) func(frame) bool {
	record := append([]byte{kind, 0, 0, 0}, group.AsSlice()...)
	return func(f frame) bool {
		// Behind Ethernet: IPv4 with the router alert option, or IPv6 with a
		// hop-by-hop header of 8 bytes. Then type, checksum, number of records.
		at, typ := 14+24, byte(0x22)
		if group.Is6() {
			at, typ = 14+40+8, 143
		}
		return len(f.data) >= at+8+len(record) && mac(f.data[6:12]) == from && chatter(f.data) && f.data[at] == typ && bytes.Contains(f.data[at+8:], record)
	}
}

// member reports whether a host is a member of a multicast group on a device.
func (h *host) member(dev string, group netip.Addr) (yes bool) {
	h.t.Helper()
	h.do(func() error {
		if group.Is6() {
			text, err := os.ReadFile("/proc/thread-self/net/igmp6")
			for line := range strings.Lines(string(text)) {
				words := strings.Fields(line)
				yes = yes || len(words) > 2 && words[1] == dev && words[2] == hex.EncodeToString(group.AsSlice())
			}
			return err
		}
		text, err := os.ReadFile("/proc/thread-self/net/igmp")
		b := group.As4()
		want, here := strings.ToUpper(hex.EncodeToString([]byte{b[3], b[2], b[1], b[0]})), false
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if line[0] != '\t' { // "2	veth0     :     2      V3", then its groups
				here = len(words) > 1 && words[1] == dev
			} else if here && words[0] == want {
				yes = true
			}
		}
		return err
	})
	return yes
}
