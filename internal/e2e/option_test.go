package e2e

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// GENEVE options that are sent, and matched where they arrive.

// TestOptions: every packet of a carries the options, in order, with what is taken from the
// frame; b lets the critical one in because a rule names it, and counts.
func TestOptions(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			prefix := strings.TrimSuffix(f.near, "1")
			p := pair{a: a, b: b}
			p.ga = a.tunnel("gnv0", "--id", "42", "--local", f.near, "--remote", f.far, "--address", "192.0.2.1/24",
				"--options", "ovn.ports:00010002,ff01:01:@dscp", "--options", "ff01:02:@src")
			p.gb = b.tunnel("gnv0", "--id", "42", "--local", prefix+"2", "--remote", f.near, "--address", "192.0.2.2/24",
				"--match", "accept 0102:80:00010002/ffff0000", "--match", "drop any")
			const options = 8 + 8 + 12
			if a, b := p.a.mtu("gnv0"), p.b.mtu("gnv0"); a != f.mtu-options || b != f.mtu {
				t.Errorf("MTU %d and %d, want %d and %d: options take their room", a, b, f.mtu-options, f.mtu)
			}
			wire := p.b.capture("veth0", 100_000)
			// What comes back has no options, and a has no rules.
			p.a.ok(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "2", "-Q", "0xb8", "192.0.2.2")
			transfer(t, p.a, p.b, "192.0.2.2:7000", 4<<20)
			mac := p.a.mac("gnv0")
			want := append(unhex("0102 80 01 00010002 ff01 01 01 0000002e ff01 02 02"), append(mac[:], 0, 0)...)
			dscp := bytes.Clone(want)
			dscp[15] = 0
			seen, pinged := 0, 0
			for _, fr := range wire.kept(0, func(fr frame) bool { return !fr.out }) {
				d, ok := readUDP(fr.data)
				if !ok || d.dst.Port() != 6081 || d.fragment {
					continue
				}
				head := d.payload[:min(len(d.payload), 8+options)]
				if bytes.Equal(head, append(unhex("0740 6558 00002a 00"), want...)) {
					pinged++
				} else if !bytes.Equal(head, append(unhex("0740 6558 00002a 00"), dscp...)) {
					t.Fatalf("a datagram of %d bytes begins with % x", len(d.payload), head)
				}
				seen++
			}
			if seen < 100 || pinged != 3 {
				t.Errorf("%d datagrams with options, of which %d have the DSCP of ping; want many, and 3", seen, pinged)
			}
			if text := p.gb.cli("show", "-d", "gnv0"); !strings.Contains(text, `match "accept ovn.ports:00010002/ffff0000"`) || strings.Contains(text, `ffff0000"  0 packets`) {
				t.Errorf("show -d does not have the rule with a count:\n%s", text)
			}
			for _, rule := range []string{`place="1",rule="accept ovn.ports:00010002/ffff0000",vni="42"} `, `place="2",rule="drop any",vni="42"} 0`} {
				if text := p.gb.cli("metrics"); !strings.Contains(text, `gvtep_option_rule_packets_total{device="gnv0",`+rule) {
					t.Errorf("metrics have no %s", rule)
				}
			}
			if text := p.ga.cli("show", "-d", "gnv0"); !strings.Contains(text, "options ovn.ports:00010002,ff01:01:@dscp,ff01:02:@src") {
				t.Errorf("show -d does not have the options:\n%s", text)
			}

			pings := func() bool {
				_, _, code := p.a.run(5*time.Second, "ping", "-q", "-c", "1", "-W", "1", "192.0.2.2")
				return code == 0
			}
			// One rule after the other, while it runs.
			for _, c := range []struct {
				words   []string
				through bool
				counter string
			}{
				{[]string{"match", "drop ff01:01", "match", "accept ovn.ports"}, false, "rx.option_rule"},
				{[]string{"match", "accept ff01:01"}, false, "rx.critical_option"},
				{[]string{"match", "accept ovn.ports:00010003", "match", "drop any"}, false, "rx.option_rule"},
				{[]string{"match", "count any", "match", "accept ovn.ports", "match", "drop any"}, true, ""},
			} {
				p.gb.cli(append([]string{"tunnel", "set", "gnv0"}, c.words...)...)
				before := p.gb.counters()
				if got := c.through && soon(5*time.Second, pings) || !c.through && pings(); got != c.through {
					t.Errorf("%q: a ping is answered %v, want %v", c.words, got, c.through)
				}
				if c.counter != "" && p.gb.counters()[c.counter] == before[c.counter] {
					t.Errorf("%q: counters moved by %v, want %s", c.words, p.gb.moved(before, c.counter), c.counter)
				}
			}
			// The tunnel's own change while it runs.
			p.ga.cli("tunnel", "set", "gnv0", "options", "ff01:01:00000001")
			p.gb.cli("tunnel", "set", "gnv0", "match", "accept ff01:01:00000001", "match", "drop any")
			within(t, 5*time.Second, "a ping with other options", pings)
			// A peer's own take the place of the tunnel's; without any nothing is in the way.
			p.gb.cli("tunnel", "set", "gnv0", "match", "accept ff03:00", "match", "drop any")
			if pings() {
				t.Error("an answer to a ping whose options no rule accepts")
			}
			p.ga.cli("peer", "set", f.far, "dev", "gnv0", "options", "ff03:00:01020304")
			within(t, 5*time.Second, "a ping with the peer's options", pings)
			within(t, 5*time.Second, "an MTU for shorter options", func() bool { return p.a.mtu("gnv0") == f.mtu-8 })

			// A kind of a fixed length that has another is malformed, whatever the rules say.
			p.gb.cli("tunnel", "set", "gnv0", "match", "accept ovn.ports", "match", "accept any")
			before := p.gb.counters()
			c := p.a.listenUDP(net.JoinHostPort(f.near, "0"))
			c.WriteToUDPAddrPort(append(unhex("0340 6558 00002a 00 0102 80 02 0001000200000000"), eth(broadcast, nearMAC, 0x88b5, make([]byte, 46))...), netip.AddrPortFrom(addr(f.far), 6081))
			if !soon(2*time.Second, func() bool { return p.gb.counters()["rx.bad_options"] == before["rx.bad_options"]+1 }) {
				t.Errorf("a long ovn.ports: counters moved by %v, want rx.bad_options", p.gb.moved(before, "rx.bad_options"))
			}
		})
	}
}
