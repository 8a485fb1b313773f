package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The underlay's address is on the very bridge that the tunnel device is a port of.
//
//	a  br0 10.77.0.1, 192.0.2.1        b  veth0 10.77.0.2       c  veth0 10.77.0.3
//	   ports veth0, gnv0                  gnv0  192.0.2.2          gnv0  192.0.2.3
//	         |                                |                        |
//	  =======+=========================== a bridge ====================+======

// onBridge moves the underlay of a host of lan to a bridge of its own, br0.
func (h *host) onBridge(n int) {
	h.t.Helper()
	h.bridge("br0", "mcast_snooping", "0")
	h.enslave("veth0", "br0")
	h.ok(5*time.Second, "ip", "addr", "flush", "dev", "veth0")
	h.address("br0", fmt.Sprintf("10.77.0.%d/24", n), fmt.Sprintf("fd77::%d/64", n), fmt.Sprintf("192.0.2.%d/24", n))
}

func etherType(f family) uint16 {
	if f.name == "IPv4" {
		return typeIPv4
	}
	return typeIPv6
}

// pieces cuts an IP packet without options into fragments with at most size bytes of payload.
func pieces(packet []byte, size int) (all [][]byte) {
	size &^= 7
	head := 20
	if packet[0]>>4 == 6 {
		head = 40
	}
	if len(packet)-head <= size {
		return [][]byte{packet}
	}
	for at := head; at < len(packet); at += size {
		part, more := packet[at:min(at+size, len(packet))], uint16(0)
		if at+size < len(packet) {
			more = 1
		}
		f := bytes.Clone(packet[:head])
		if head == 20 {
			binary.BigEndian.PutUint16(f[2:], uint16(head+len(part)))
			binary.BigEndian.PutUint16(f[4:], 4711)
			binary.BigEndian.PutUint16(f[6:], uint16(at-head)/8|more<<13)
			binary.BigEndian.PutUint16(f[10:], 0)
			binary.BigEndian.PutUint16(f[10:], ^sum16(0, f))
		} else {
			binary.BigEndian.PutUint16(f[4:], uint16(8+len(part)))
			f[6] = 44
			f = append(f, packet[6], 0)
			f = binary.BigEndian.AppendUint16(f, uint16(at-head)|more)
			f = binary.BigEndian.AppendUint32(f, 4711)
		}
		all = append(all, append(f, part...))
	}
	return all
}

// shareBridge makes the three hosts, with the daemons of a, b and c.
func shareBridge(t *testing.T, f family) (hosts [3]*host, daemons [3]*gvtep) {
	t.Helper()
	hosts = lan(t)
	hosts[0].onBridge(1)
	net := strings.TrimSuffix(f.near, "1")
	for i, h := range hosts {
		words := []string{"--id", "42", "--local", net + fmt.Sprint(i+1)}
		for j := range hosts {
			if j != i {
				words = append(words, "--remote", net+fmt.Sprint(j+1))
			}
		}
		if i == 0 {
			words = append(words, "--master", "br0")
		} else {
			words = append(words, "--address", fmt.Sprintf("192.0.2.%d/24", i+1))
		}
		daemons[i] = h.tunnel("gnv0", words...)
	}
	return hosts, daemons
}

// TestSharedBridge: what comes through the tunnel is told from what does not.
func TestSharedBridge(t *testing.T) {
	need(t, "ip", "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			hosts, daemons := shareBridge(t, f)
			a, b, g := hosts[0], hosts[1], daemons[0]
			a.pings("192.0.2.2", "-c", "3", "-i", "0.2")
			b.pings("192.0.2.1", "-c", "3", "-i", "0.2")
			if s := g.status(); !s.Ready {
				t.Errorf("a is not ready: %+v", s)
			}
			c := g.counters()
			if c["rx.reinjected"] != 0 {
				t.Errorf("%d datagrams of the underlay count as reinjected", c["rx.reinjected"])
			}

			// Somebody in the overlay speaks to a's tunnel in the name of b: b itself, through
			// its device. Whole, and in fragments.
			inner := join("0000 6558 00002a00", eth(a.mac("gnv0"), mac{2, 0, 0, 0, 0x66, 6}, typeLabel, make([]byte, 46)))
			out := b.capture("gnv0", 1)
			for _, length := range []int{len(inner), 3000} {
				before := g.counters()
				payload := append(bytes.Clone(inner), make([]byte, length-len(inner))...)
				for _, packet := range pieces(ip{src: addr(f.far), dst: addr(f.near)}.udp(50000, 6081, payload, csumRight), 1300) {
					out.send(eth(a.mac("br0"), b.mac("gnv0"), etherType(f), packet))
				}
				got := g.moved(before, "rx.reinjected")
				if got["rx.reinjected"] == 0 {
					t.Errorf("a GENEVE packet of %d bytes out of the tunnel: counters %v, want rx.reinjected", length, got)
				}
				if where := g.behind(mac{2, 0, 0, 0, 0x66, 6}); where != "" {
					t.Errorf("a GENEVE packet of %d bytes out of the tunnel was interpreted: its source is behind %q", length, where)
				}
			}
			// GENEVE between others is payload.
			before := g.counters()
			out.send(eth(a.mac("br0"), b.mac("gnv0"), typeIPv4, ip{src: addr("198.51.100.2"), dst: addr("198.51.100.1")}.udp(50000, 6081, inner, csumRight)))
			if got := g.moved(before, "rx.packets"); got["rx.reinjected"] != 0 || got["rx.packets"] == 0 {
				t.Errorf("GENEVE for others: counters %v, want it carried", got)
			}

			// A bridge that has forgotten where the peers are sends to all its ports.
			wire := a.capture("veth0", 20_000)
			a.ok(5*time.Second, "ip", "link", "set", "veth0", "type", "bridge_slave", "learning", "off")
			a.ok(5*time.Second, "ip", "link", "set", "veth0", "type", "bridge_slave", "fdb_flush")
			from := wire.count()
			a.pings("192.0.2.2")
			if n := wire.count() - from; n > 60 {
				t.Errorf("one ping is %d frames on the wire while the bridge floods", n)
			}
			before = g.counters()
			a.pings("192.0.2.2")
			if !soon(5*time.Second, func() bool { return g.counters().since(before)["tx.loop"] > 0 }) {
				t.Error("nothing of ours came back through the device: does this test flood?")
			}
		})
	}
}

// TestSharedBridgeBehindTunnel: the bridge has seen the peer behind the tunnel device, and
// then no longer.
func TestSharedBridgeBehindTunnel(t *testing.T) {
	need(t, "ip", "ping", "bridge")
	hosts, daemons := shareBridge(t, families[0])
	a, g := hosts[0], daemons[0]
	a.pings("192.0.2.2")
	peers := []string{hosts[1].mac("veth0").String(), hosts[2].mac("veth0").String()}
	for _, m := range peers {
		// Sticky: what the peer sends by veth0 meanwhile does not take the entry there.
		a.ok(5*time.Second, "bridge", "fdb", "replace", m, "dev", "gnv0", "master", "static", "sticky")
	}
	a.ok(5*time.Second, "ip", "link", "set", "veth0", "mtu", "1499") // have it looked at
	g.unready("share the bridge br0")
	for _, m := range peers {
		a.ok(5*time.Second, "bridge", "fdb", "del", m, "dev", "gnv0", "master")
	}
	within(t, 15*time.Second, "ready again", func() bool { return g.status().Ready })
	a.pings("192.0.2.2")
}

// TestSharedBridgeTwice: both hosts have the tunnel in the bridge of their underlay. That
// is a loop: a broadcast goes round through the tunnel and back by the wire. It ends, and
// status says why.
func TestSharedBridgeTwice(t *testing.T) {
	need(t, "ip", "ping")
	hosts := lan(t)
	var daemons [2]*gvtep
	for i := range daemons {
		hosts[i].onBridge(i + 1)
		daemons[i] = hosts[i].tunnel("gnv0", "--id", "42", "--local", fmt.Sprintf("10.77.0.%d", i+1), "--remote", fmt.Sprintf("10.77.0.%d", 2-i), "--master", "br0")
	}
	wire := hosts[2].capture("veth0", 1)
	hosts[0].run(5*time.Second, "ping", "-q", "-c", "2", "-W", "1", "192.0.2.2")
	hosts[1].run(5*time.Second, "ping", "-q", "-c", "2", "-W", "1", "192.0.2.1")
	// Who sees it first drops what the other would have to see. A broadcast that goes round may
	// get lost before the next hops are known: there is always another.
	within(t, 10*time.Second, "one of both is not ready, and says why", func() bool {
		for i, g := range daemons {
			hosts[i].run(5*time.Second, "ping", "-q", "-c", "1", "-W", "1", "10.77.0.99")
			if s := g.status(); !s.Ready && strings.Contains(s.Reason, "gnv0 and the underlay share the bridge br0") {
				return true
			}
		}
		return false
	})
	quiet := func() bool {
		before := wire.count()
		time.Sleep(500 * time.Millisecond)
		return wire.count()-before < 50
	}
	if !soon(10*time.Second, quiet) {
		t.Error("the broadcast still goes round")
	}
	t.Logf("%d frames on the wire", wire.count())
}
