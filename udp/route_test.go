package udp

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// ip runs ip(8) in the test's namespace.
func ip(t testing.TB, line string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
}

// TestRouteByPort: a policy rule may look at protocol and ports, and so must who asks.
func TestRouteByPort(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		v := map[int]string{4: "-4", 6: "-6"}[family]
		u := newUnderlay(t, Config{})
		o := fixed(family, 4)
		o.Max = 65534 // as far as rules go
		elsewhere := netip.MustParseAddr(map[int]string{4: "10.9.0.99", 6: "fd09::99"}[family])
		for _, rule := range []string{"dport 6081", "sport 49152-65534 dport 6081"} {
			ip(t, v+" rule add pref 100 ipproto udp "+rule+" lookup 100")
			ip(t, v+" route add "+remote.String()+" dev v0 mtu 1400 table 100")
			for _, opened := range []bool{false, true} {
				if !opened && strings.Contains(rule, "sport") {
					continue // before there are ports none is known
				}
				if opened {
					set, err := u.Ports(o)
					must(t, err)
					defer u.Release(set)
				}
				r, err := u.Route(netip.AddrPortFrom(remote, 6081), o)
				if err != nil || r.MTU != 1400 || r.Link != 1400 || r.Learned {
					t.Errorf("rule %s, ports open %v: %+v, %v; want an MTU of 1400 that was not learned", rule, opened, r, err)
				}
				if r, err := u.Route(netip.AddrPortFrom(remote, 6082), o); err != nil || r.MTU != 1500 || r.BySocket {
					t.Errorf("rule %s, another port: %+v, %v; want 1500, and the same way for all", rule, r, err)
				}
			}
			// Only the table has the way.
			far := netip.MustParseAddr(map[int]string{4: "10.44.0.1", 6: "fd44::1"}[family])
			ip(t, v+" route add "+far.String()+" via "+remote.String()+" dev v0 table 100")
			if r, err := u.Route(netip.AddrPortFrom(far, 6081), o); err != nil || r.MTU != 1500 || r.Ifindex == 0 || r.Source != local || r.Gateway != remote || !r.BySocket {
				t.Errorf("rule %s, a way in table 100 only: %+v, %v", rule, r, err)
			}
			// The main table knows another one.
			ip(t, v+" route add "+far.String()+" via "+elsewhere.String()+" dev v0")
			if r, err := u.Route(netip.AddrPortFrom(far, 6081), o); err != nil || r.Gateway != remote || !r.BySocket {
				t.Errorf("rule %s, another way in the main table: %+v, %v", rule, r, err)
			}
			if r, err := u.Route(netip.AddrPortFrom(far, 6082), o); err != nil || r.Gateway != elsewhere || r.BySocket {
				t.Errorf("rule %s, another way in the main table, another port: %+v, %v", rule, r, err)
			}
			ip(t, v+" route del "+far.String())
			if r, err := u.Route(netip.AddrPortFrom(far, 6082), o); err == nil {
				t.Errorf("rule %s, another port: %+v, want an error", rule, r)
			}
			ip(t, v+" route flush table 100")
			ip(t, v+" rule del pref 100")
		}
	})
}

// TestRouteByMark: the mark and the local address choose the table as well.
func TestRouteByMark(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{})
	ip(t, "rule add fwmark 7 lookup 100")
	ip(t, "route add 10.9.0.2 dev v0 mtu 1400 table 100")
	ip(t, "addr add 10.9.0.3/24 dev v0")
	ip(t, "rule add from 10.9.0.3 lookup 101")
	ip(t, "route add 10.9.0.2 dev v0 mtu 1300 table 101")
	for _, c := range []struct {
		local netip.Addr
		mark  uint32
		want  int
	}{{netip.Addr{}, 0, 1500}, {netip.Addr{}, 7, 1400}, {netip.MustParseAddr("10.9.0.3"), 0, 1300}, {here4, 0, 1500}} {
		o := fixed(4, 1)
		o.Local, o.Mark = c.local, c.mark
		r, err := u.Route(netip.AddrPortFrom(there4, 6081), o)
		if err != nil || r.MTU != c.want || r.Link != c.want || r.Learned {
			t.Errorf("local %v, mark %d: %+v, %v; want %d", c.local, c.mark, r, err, c.want)
		}
	}
}

// TestRouteSource: the source is the local address of the socket, and not the one that the
// kernel would choose itself.
func TestRouteSource(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		ip(t, "addr add 10.9.0.3/24 dev v0")
		ip(t, "addr add fd09::3/64 dev v0 nodad")
		u := newUnderlay(t, Config{})
		for _, want := range []netip.Addr{local, netip.MustParseAddr(map[int]string{4: "10.9.0.3", 6: "fd09::3"}[family])} {
			o := fixed(family, 1)
			o.Local = want
			if r, err := u.Route(netip.AddrPortFrom(remote, 6081), o); err != nil || r.Source != want {
				t.Errorf("local %s: %+v, %v", want, r, err)
			}
		}
	})
}

// TestRouteMultipath: where ports decide between ways of different MTU, the least counts.
func TestRouteMultipath(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		v, far, sysctl := "-4", "10.44.0.0/24", "ipv4"
		other := netip.MustParseAddr("10.10.0.2")
		if family == 6 {
			v, far, sysctl, other = "-6", "fd44::/64", "ipv6", netip.MustParseAddr("fd10::2")
		}
		ip(t, "link add d0 mtu 1400 type ifb")
		n.setUp(n.nl, "d0", "10.10.0.1/24", "fd10::1/64")
		ip(t, v+" route add "+far+" nexthop via "+remote.String()+" dev v0 nexthop via "+other.String()+" dev d0")
		u := newUnderlay(t, Config{})
		o := fixed(family, 16)
		set, err := u.Ports(o)
		must(t, err)
		policy := "/proc/sys/net/" + sysctl + "/fib_multipath_hash_policy"
		peer := netip.AddrPortFrom(netip.MustParsePrefix(far).Addr().Next(), 6081)
		for _, c := range []struct {
			policy string
			want   []int
		}{{"0", []int{1500, 1400}}, {"1", []int{1400}}} {
			must(t, os.WriteFile(policy, []byte(c.policy), 0))
			r, err := u.Route(peer, o)
			if err != nil || !slices.Contains(c.want, r.MTU) || r.Link != r.MTU || r.Learned {
				t.Errorf("hash policy %s: %+v, %v; want an MTU of %v", c.policy, r, err, c.want)
			}
		}
		u.Release(set)
	})
}

// TestLearnedAndWritten: what a router says, and anybody may claim to be one, is told from what
// an administrator wrote.
func TestLearnedAndWritten(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{})
	o := fixed(4, 1)
	peer := netip.AddrPortFrom(there4, 6081)
	ip(t, "route add 10.9.0.2 dev v0 mtu 1450")
	if r, err := u.Route(peer, o); err != nil || r.MTU != 1450 || r.Link != 1450 || r.Learned {
		t.Errorf("a route of 1450: %+v, %v", r, err)
	}
	set, err := u.Ports(o)
	must(t, err)
	s := u.Sender(0)
	s.Add(&packet.Path{Remote: peer, Set: set}, 0, 0, 0, make([]byte, 1400), nil)
	s.Flush()
	// Sent to ourselves, as from the wire, about that datagram.
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	must(t, err)
	defer unix.Close(raw)
	must(t, unix.Sendto(raw, fragNeeded(here4, there4, set.Ports[0], 1300), 0, &unix.SockaddrInet4{Addr: here4.As4()}))
	var r Route
	for range 200 {
		if r, err = u.Route(peer, o); err != nil || r.Learned {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil || r.MTU != 1300 || r.Link != 1450 || !r.Learned {
		t.Errorf("after ICMP: %+v, %v; want 1300 learned on a route of 1450", r, err)
	}
}

// fragNeeded is an IPv4 packet to dst, from a router, about a datagram from dst to peer.
func fragNeeded(dst, peer netip.Addr, port uint16, mtu int) []byte {
	ip := func(proto byte, src, dst netip.Addr, payload []byte) []byte {
		n := 20 + len(payload)
		p := append([]byte{0x45, 0, byte(n >> 8), byte(n), 0, 1, 0x40, 0, 64, proto, 0, 0}, src.AsSlice()...)
		p = append(p, dst.AsSlice()...)
		sum := ^packet.Fold(packet.Sum(p, 0))
		p[10], p[11] = byte(sum>>8), byte(sum)
		return append(p, payload...)
	}
	quoted := ip(unix.IPPROTO_UDP, dst, peer, []byte{byte(port >> 8), byte(port), 6081 >> 8, 6081 & 0xff, 5, 0x80, 0, 0})
	m := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted...)
	sum := ^packet.Fold(packet.Sum(m, 0))
	m[2], m[3] = byte(sum>>8), byte(sum)
	return ip(unix.IPPROTO_ICMP, peer, dst, m)
}

// TestTwinSets: a flow whose packets differ in DF keeps its source port, so the two sets
// of one tunnel have the same ports in the same order, whatever else is held.
func TestTwinSets(t *testing.T) {
	for _, first := range []bool{true, false} {
		newNetwork(t)
		u := newUnderlay(t, Config{})
		for _, mark := range []uint32{7, 8} { // others hold ports as well
			o := fixed(4, 16)
			o.Mark = mark
			_, err := u.Ports(o)
			must(t, err)
		}
		o := fixed(4, 64)
		o.DF = first
		a, err := u.Ports(o)
		must(t, err)
		o.DF = !first
		b, err := u.Ports(o)
		must(t, err)
		if !slices.Equal(a.Ports, b.Ports) {
			t.Errorf("DF %v first: ports %v, then %v", first, a.Ports, b.Ports)
		}
	}
}
