package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
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

// TestSendRules: what is in a packet decides what it carries, and the other end decides by that.
// Two stations of a have labels, as Mizar's pods do, by their address; b lets only one of them in.
func TestSendRules(t *testing.T) {
	need(t, "ping", "tshark")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			a, b := underlay(t)
			config := func(text string) string {
				path := filepath.Join(t.TempDir(), "send.toml")
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return path
			}
			const names = `
[[option]]
name = "my.flow"
id = "ff01:81"
length = 4
format = "uint"
known = true
`
			p := pair{a: a, b: b}
			p.ga = a.configured("gnv0", config(names+fmt.Sprintf(`
[[tunnel]]
name = "gnv0"
id = 42
local = %q
remote = %q
address = ["192.0.2.1/24", "192.0.2.9/24"]
options = "ff01:07:00000000"
send = ["proto tcp dport 7000 then options my.flow:77,ff01:02:@src dscp 10",
  "src 192.0.2.1 proto icmp then options mizar.pod_label:0000004d,mizar.namespace_label:00000001,my.flow:5,ff01:03:@dscp dscp 46",
  "src 192.0.2.9 then options mizar.pod_label:0000004e"]
`, f.near, f.far)))
			p.gb = b.configured("gnv0", config(names+fmt.Sprintf(`
[[tunnel]]
name = "gnv0"
id = 42
local = %q
remote = %q
address = "192.0.2.2/24"
match = ["count mizar.pod_label:0000004d", "drop mizar.pod_label:0000004e", "count my.flow:77"]
`, f.far, f.near)))
			const longest = 8 + 8 + 8 + 8
			if a, b := p.a.mtu("gnv0"), p.b.mtu("gnv0"); a != f.mtu-longest || b != f.mtu {
				t.Errorf("MTU %d and %d, want %d and %d: the longest set takes its room", a, b, f.mtu-longest, f.mtu)
			}
			wire := p.b.capture("veth0", 100_000)
			pings := func(words ...string) bool {
				_, _, code := p.a.run(10*time.Second, "ping", append(words, "-q", "-c", "1", "-W", "2", "192.0.2.2")...)
				return code == 0
			}
			within(t, 20*time.Second, "a ping of the station that is let in", func() bool { return pings("-I", "192.0.2.1", "-Q", "0x20") })
			p.a.ok(20*time.Second, "ping", "-q", "-c", "1", "-W", "10", "-I", "192.0.2.1", "-M", "do", "-s", fmt.Sprint(f.mtu-longest-28), "192.0.2.2")
			transfer(t, p.a, p.b, "192.0.2.2:7000", 4<<20)
			before := p.gb.counters()
			if pings("-I", "192.0.2.9") {
				t.Error("a ping of the station that is not let in is answered")
			}
			within(t, 5*time.Second, "a drop by its label", func() bool { return p.gb.counters()["rx.option_rule"] > before["rx.option_rule"] })

			for i, rule := range []string{"proto tcp dport 7000 then", "src 192.0.2.1/32 proto icmp then", "src 192.0.2.9/32 then"} {
				name := fmt.Sprintf(`gvtep_send_rule_packets_total{device="gnv0",place="%d",rule="%s`, i+1, rule)
				if n := p.ga.metrics(name); n < 1 {
					t.Errorf("%s: %v packets", name, n)
				}
			}

			// tshark reads the same of what was on the wire.
			path, _ := wire.write(func(fr frame) bool {
				d, udp := readUDP(fr.data)
				return udp && !fr.out && d.dst.Port() == 6081
			})
			m := p.a.mac("gnv0")
			icmp := "46,0x00002a,0x1101 0x1101 0xff01 0xff01,0000004d 00000001 00000005 0000000"
			tcp := fmt.Sprintf("10,0x00002a,0xff01 0xff01,0000004d %x0000", m[:])
			seen, others := map[string]int{}, map[string]int{}
			dscp := map[string]string{"IPv4": "ip.dsfield.dscp", "IPv6": "ipv6.tclass.dscp"}[f.name]
			for line := range strings.Lines(wireshark(t, "-r", path, "-T", "fields", "-E", "separator=,", "-E", "aggregator=/s",
				"-e", dscp, "-e", "geneve.vni", "-e", "geneve.option.class", "-e", "geneve.option.unknown.data")) {
				// The inner DSCP comes behind the outer one.
				outer, rest, _ := strings.Cut(strings.TrimSpace(line), ",")
				outer, _, _ = strings.Cut(outer, " ")
				switch line = outer + "," + strings.ReplaceAll(rest, ":", ""); {
				case strings.HasPrefix(line, icmp):
					seen["icmp"]++
				case line == tcp:
					seen["tcp"]++
				default:
					others[line]++
				}
			}
			if seen["icmp"] < 2 || seen["tcp"] < 100 {
				t.Errorf("tshark sees %v by rules, want 2 of ICMP and many of TCP; others: %.2000v", seen, others)
			}
			for _, text := range []string{`match "count mizar.pod_label:0000004d"  `, `match "drop mizar.pod_label:0000004e"  `, `match "count my.flow:77"  `} {
				if shown := p.gb.cli("show", "-d", "gnv0"); !strings.Contains(shown, text) || strings.Contains(shown, text+"0 packets") {
					t.Errorf("b does not count by %s:\n%s", text, shown)
				}
			}
			for _, text := range []string{`send "proto tcp dport 7000 then options my.flow:77,ff01:02:@src dscp 10"  `, `send "src 192.0.2.9/32 then options mizar.pod_label:0000004e"  `} {
				if shown := p.ga.cli("show", "-d", "gnv0"); !strings.Contains(shown, text) || strings.Contains(shown, text+"0 packets") {
					t.Errorf("a does not count by %s:\n%s", text, shown)
				}
			}
			// Without rules the tunnel's options hold, and there is more room.
			p.ga.cli("tunnel", "set", "gnv0", "send", "dst 198.51.100.0/24 then options none")
			within(t, 10*time.Second, "an MTU for shorter options", func() bool { return p.a.mtu("gnv0") == f.mtu-8 })
			within(t, 20*time.Second, "a ping of the other station without its label", func() bool { return pings("-I", "192.0.2.9") })
		})
	}
}

// TestMizar: a packet as Mizar sends it is delivered, and its label found: the class is not
// swapped, and the empty placeholder for a scaled endpoint is followed by its zero bytes, which
// are as many empty options.
func TestMizar(t *testing.T) {
	need(t)
	a, b := underlay(t)
	f := families[0]
	gb := b.tunnel("gnv0", "--id", "42", "--local", f.far, "--remote", f.near, "--match", "drop mizar.pod_label:0000004e", "--match", "count mizar.namespace_label")
	device := b.capture("gnv0", 1000)
	c := a.listenUDP(net.JoinHostPort(f.near, "0"))
	send := func(label, text string) {
		options := unhex("1101 48 03 0a4d0001 020000000a010000" + "1101 49 00" + strings.Repeat("00", 20) + "1101 50 01 000000" + label + "1101 51 01 00000001")
		inner := eth(broadcast, mac{2, 0, 0, 0, 0xb, 1}, 0x88b5, append([]byte(text), make([]byte, 46)...))
		header := append([]byte{byte(len(options) / 4), 0, 0x65, 0x58, 0, 0, 42, 0}, options...)
		c.WriteToUDPAddrPort(append(header, inner...), netip.AddrPortFrom(addr(f.far), 6081))
	}
	before := gb.counters()
	send("4e", "MIZAR-DENIED")
	within(t, 10*time.Second, "a drop by the label", func() bool { return gb.counters()["rx.option_rule"] == before["rx.option_rule"]+1 })
	send("4d", "MIZAR-PASSES")
	out := func(text string) func(frame) bool {
		return func(f frame) bool { return bytes.Contains(f.data, []byte(text)) }
	}
	if n := len(device.await(10*time.Second, 1, 0, out("MIZAR-PASSES"))); n != 1 {
		t.Errorf("%d packets of the label that passes were delivered, want 1; counters moved by %v", n, gb.moved(before, "rx.option_rule"))
	}
	if n := len(device.kept(0, out("MIZAR-DENIED"))); n != 0 {
		t.Errorf("%d packets of the other label were delivered, want none", n)
	}
	if shown := gb.cli("show", "-d", "gnv0"); !strings.Contains(shown, `match "count mizar.namespace_label"  1 packets`) {
		t.Errorf("the namespace label is not counted:\n%s", shown)
	}
}

// TestMatchSegments: what an option says takes a packet to another tunnel of the host, which learns
// from it, or gives it a VLAN tag. a sends all in VNI 42:
//
//	a  gnv0, VNI 42                                    b
//	   from 192.0.2.1     . . no option . . . . . . .  gnv0
//	   from 203.0.113.1   . . ff01:01:00000002  . . .  gnv0, VLAN 7
//	   from 198.51.100.1  . . ff01:01:00000001  . . .  gnv1, VNI 43
func TestMatchSegments(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	f := families[0]
	config := func(text string) string {
		path := filepath.Join(t.TempDir(), "match.toml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ga := a.configured("gnv0", config(fmt.Sprintf(`
[[tunnel]]
name = "gnv0"
id = 42
local = %q
remote = %q
address = ["192.0.2.1/24", "198.51.100.1/24", "203.0.113.1/24"]
send = ["src 198.51.100.0/24 then options ff01:01:00000001", "src 203.0.113.0/24 then options ff01:01:00000002"]
`, f.near, f.far)))
	gb := b.configured("gnv0", config(fmt.Sprintf(`
[[tunnel]]
name = "gnv0"
id = 42
local = %[1]q
remote = %[2]q
address = "192.0.2.2/24"
match = ["vni 43 ff01:01:00000001", "vlan 7 ff01:01:00000002"]
[[tunnel]]
name = "gnv1"
id = 43
local = %[1]q
remote = %[2]q
address = "198.51.100.2/24"
send = "any then vni 42"
`, f.far, f.near)))
	within(t, 10*time.Second, "both devices of b", func() bool { return b.has("gnv0") && b.has("gnv1") })
	a.neighbour("gnv0", "198.51.100.2", b.mac("gnv1"))
	a.neighbour("gnv0", "203.0.113.2", b.mac("gnv0"))
	b.neighbour("gnv1", "198.51.100.1", a.mac("gnv0"))
	device := b.capture("gnv0", 10_000)
	pings := func(target string) bool {
		_, _, code := a.run(10*time.Second, "ping", "-q", "-c", "1", "-W", "2", target)
		return code == 0
	}
	within(t, 20*time.Second, "a ping without an option", func() bool { return pings("192.0.2.2") })
	within(t, 20*time.Second, "a ping to the other tunnel", func() bool { return pings("198.51.100.2") })
	transfer(t, a, b, "198.51.100.2:7000", 4<<20)
	g1 := *gb
	g1.dev = "gnv1"
	if got := g1.behind(a.mac("gnv0")); got != f.near {
		t.Errorf("on gnv1 %s is behind %q, want %s", a.mac("gnv0"), got, f.near)
	}
	if got := ga.behind(b.mac("gnv1")); got != f.far {
		t.Errorf("%s is behind %q, want %s", b.mac("gnv1"), got, f.far)
	}
	pings("203.0.113.2")
	m := b.mac("gnv0")
	tagged := func(f frame) bool {
		return !f.out && len(f.data) > 34 && bytes.Equal(f.data[:6], m[:]) && bytes.Equal(f.data[12:18], unhex("8100 0007 0800")) && bytes.Equal(f.data[34:38], unhex("cb007102"))
	}
	if n := len(device.await(10*time.Second, 1, 0, tagged)); n != 1 {
		t.Errorf("%d packets in VLAN 7, want 1", n)
	}
	for _, rule := range []string{`match "vni 43 ff01:01:00000001"  `, `match "vlan 7 ff01:01:00000002"  `} {
		if shown := gb.cli("show", "-d", "gnv0"); !strings.Contains(shown, rule) || strings.Contains(shown, rule+"0 packets") {
			t.Errorf("b does not count by %s:\n%s", rule, shown)
		}
	}
	// Who is no peer of the other tunnel gets nothing there.
	before := gb.counters()
	gb.cli("peer", "del", f.near, "dev", "gnv1")
	within(t, 20*time.Second, "a drop of who is no peer there", func() bool {
		if pings("198.51.100.2") {
			t.Error("an answer by a tunnel that the sender is no peer of")
		}
		now := gb.counters()
		return now["rx.unknown_peer"]+now["rx.unknown_vni"] > before["rx.unknown_peer"]+before["rx.unknown_vni"]
	})
}
