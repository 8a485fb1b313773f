package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestUpDown: a device that is taken down carries nothing, and all that it
// carried before once it is up again, IPv6 included: the kernel takes those
// addresses from a device that goes down.
//
//	a gnv0 192.0.2.1, 2001:db8::1 ==== VNI 42 ==== 192.0.2.2, 2001:db8::2 gnv0 b
func TestUpDown(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	ga := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24", "--address", "2001:db8::1/64")
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--address", "2001:db8::2/64")
	reach := func(want bool) {
		t.Helper()
		for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
			_, _, code := b.run(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.2", "-w", map[bool]string{true: "8", false: "2"}[want], to)
			if (code == 0) != want {
				t.Errorf("ping %s: exit status %d, want an answer: %t", to, code, want)
			}
		}
	}
	up := func() bool { return a.link("gnv0").Attrs().RawFlags&1 != 0 }
	reach(true)
	for _, words := range [][2][]string{{{"down", "gnv0"}, {"up", "gnv0"}}, {{"set", "gnv0", "noup"}, {"set", "gnv0", "up"}}} {
		before := ga.counters()
		ga.cli(append([]string{"tunnel"}, words[0]...)...)
		if up() {
			t.Errorf("the device is up after tunnel %s", strings.Join(words[0], " "))
		}
		reach(false)
		if moved := ga.counters().since(before); moved["rx.device_down"] == 0 {
			t.Errorf("while it was down: %v, want some device_down", moved)
		}
		ga.cli(append([]string{"tunnel"}, words[1]...)...)
		if !up() {
			t.Errorf("the device is down after tunnel %s", strings.Join(words[1], " "))
		}
		reach(true)
	}
}

// TestIsolated: between two isolated ports the bridge passes nothing; each
// reaches the others, and both reach one another again without it.
//
//	b gnv1 192.0.2.2 === VNI 1 === gnv1 -+
//	                                     br0 192.0.2.1  (a)
//	c gnv1 192.0.2.3 === VNI 2 === gnv2 -+
func TestIsolated(t *testing.T) {
	need(t, "ping")
	hosts := lan(t)
	a, b, c := hosts[0], hosts[1], hosts[2]
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	a.must("bridge", a.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	a.up("br0")
	a.address("br0", "192.0.2.1/24")
	g := a.configured("gnv2", file(t, "isolated.toml", `
[defaults]
local    = "10.77.0.1"
master   = "br0"
isolated = true
[[tunnel]]
name   = "gnv1"
id     = 1
remote = "10.77.0.2"
[[tunnel]]
name   = "gnv2"
id     = 2
remote = "10.77.0.3"
`))
	for i, h := range []*host{b, c} {
		h.tunnel("gnv1", "--id", fmt.Sprint(i+1), "--local", fmt.Sprint("10.77.0.", i+2), "--remote", "10.77.0.1", "--address", fmt.Sprintf("192.0.2.%d/24", i+2))
	}
	reach := func(when string, want bool) {
		t.Helper()
		for _, p := range []struct {
			from *host
			to   string
			want bool
		}{{b, "192.0.2.1", true}, {c, "192.0.2.1", true}, {b, "192.0.2.3", want}, {c, "192.0.2.2", want}} {
			_, _, code := p.from.run(10*time.Second, "ping", "-q", "-c", "2", "-i", "0.2", "-w", map[bool]string{true: "8", false: "2"}[p.want], p.to)
			if (code == 0) != p.want {
				t.Errorf("%s: ping %s from %s: exit status %d, want an answer: %t", when, p.to, p.from.name, code, p.want)
			}
		}
	}
	reach("both isolated", false)
	g.cli("tunnel", "set", "gnv1", "isolated", "off")
	reach("one isolated", true)
	g.cli("tunnel", "set", "gnv1", "isolated", "on")
	reach("both isolated again", false)
}

// TestPeerLimit: what one peer floods is limited, its unicast and what others
// flood is not. What is above is counted, and one line a second says so.
//
//	b, limited  ---+
//	               +--- a
//	c           ---+
func TestPeerLimit(t *testing.T) {
	need(t)
	const limit, storm, few = 50, 2000, 200
	hosts := lan(t)
	a, b, c := hosts[0], hosts[1], hosts[2]
	ga := a.configured("gnv0", file(t, "limit.toml", fmt.Sprintf(`
[[tunnel]]
name   = "gnv0"
id     = 42
local  = "10.77.0.1"
lladdr = "%s"
  [[tunnel.peer]]
  remote    = "10.77.0.2"
  bum_limit = %d
  [[tunnel.peer]]
  remote = "10.77.0.3"
`, nearMAC, limit)))
	var from [2]*capture
	for i, h := range []*host{b, c} {
		h.tunnel("gnv0", "--id", "42", "--local", fmt.Sprint("10.77.0.", i+2), "--remote", "10.77.0.1")
		from[i] = h.capture("gnv0", 0)
	}
	inner := a.capture("gnv0", 20_000)
	unknown, station := mac{2, 0, 0, 0, 0x0c, 9}, mac{2, 0, 0, 0, 0x0a, 7}
	inner.send(labelled(broadcast, station, 0, "here I am")) // a knows it as its own
	before, start := ga.counters(), time.Now()
	for n := range storm {
		dst := []mac{broadcast, {0x33, 0x33, 0, 0, 0, 1}, unknown}[n%3]
		from[0].send(labelled(dst, farMAC, 0, "storm"))
		if n%10 == 0 {
			from[0].send(labelled(nearMAC, farMAC, 0, "unicast to the host"))
			from[0].send(labelled(station, farMAC, 0, "unicast behind it"))
			from[1].send(labelled(broadcast, mac{2, 0, 0, 0, 0x0c, 3}, 0, "quiet"))
		}
	}
	count := func(text string) int { return len(inner.kept(0, received(text))) }
	soon(5*time.Second, func() bool { return ga.counters().since(before)["rx.bum_limit"]+count("storm") >= storm })
	took := time.Since(start)
	passed, dropped := count("storm"), ga.counters().since(before)["rx.bum_limit"]
	t.Logf("of %d flooded frames in %s %d passed and %d were dropped", storm, took.Round(time.Millisecond), passed, dropped)
	if passed+dropped != storm || dropped == 0 {
		t.Errorf("%d passed and %d were dropped, want %d in all and some dropped", passed, dropped, storm)
	}
	// What the limit is, and its burst of a tenth of a second.
	if most := int(took.Seconds()*limit) + limit/10 + 2; passed > most {
		t.Errorf("%d flooded frames passed in %s, want at most %d", passed, took, most)
	}
	for text, want := range map[string]int{"unicast to the host": few, "unicast behind it": few, "quiet": few} {
		soon(2*time.Second, func() bool { return count(text) >= want })
		if got := count(text); got != want {
			t.Errorf("%s: %d frames arrived, want %d", text, got, want)
		}
	}
	within(t, 3*time.Second, "a line about the flood", func() bool { return strings.Contains(ga.stderr.String(), "above bum_limit") })
	if lines := strings.Count(ga.stderr.String(), "above bum_limit"); lines > int(took.Seconds())+2 {
		t.Errorf("%d lines about the flood in %s, want one a second", lines, took)
	}
	if !strings.Contains(ga.stderr.String(), "10.77.0.2 on gnv0: ") || strings.Contains(ga.stderr.String(), "10.77.0.3 on gnv0: ") {
		t.Error("the line does not name 10.77.0.2 alone")
	}
	var peers []struct {
		Remote  string `json:"remote"`
		Limit   int    `json:"bum_limit"`
		Dropped int    `json:"bum_dropped"`
	}
	if err := ga.ask("/v1/tunnels/gnv0/peers", &peers); err != nil {
		t.Fatal(err)
	}
	if len(peers) != 2 || peers[0].Limit != limit || peers[0].Dropped != dropped || peers[1].Limit != 0 || peers[1].Dropped != 0 {
		t.Errorf("peers %+v, want the limit %d and %d dropped of the first alone", peers, limit, dropped)
	}
	// Live: without the limit all passes.
	ga.cli("peer", "set", "10.77.0.2", "dev", "gnv0", "bum_limit", "0")
	for range few {
		from[0].send(labelled(broadcast, farMAC, 0, "free"))
	}
	if got := inner.await(2*time.Second, few, 0, received("free")); len(got) != few {
		t.Errorf("without a limit %d of %d arrived", len(got), few)
	}
	ga.stop()
}
