package e2e

import (
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// trip is what gvtep -j ping says.
type trip struct {
	OK    bool
	Peer  string
	Steps []struct{ Step, Verdict, What, Try string }
}

func (r *trip) last() (step, verdict, what string) {
	if len(r.Steps) == 0 {
		return "", "", ""
	}
	s := r.Steps[len(r.Steps)-1]
	return s.Step, s.Verdict, s.What
}

func (r *trip) verdict(step string) string {
	for _, s := range r.Steps {
		if s.Step == step {
			return s.Verdict
		}
	}
	return ""
}

// pings follows a packet once.
func (g *gvtep) pings(args ...string) (r trip) {
	g.h.t.Helper()
	out, stderr, code := g.h.run(60*time.Second, g.binary, append([]string{"-i", g.instance, "--timeout", "30s", "-j", "ping"}, args...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		g.h.t.Fatalf("ping %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	if (code == 0) != r.OK {
		g.h.t.Errorf("ping %s: exit status %d\n%s", strings.Join(args, " "), code, out)
	}
	return r
}

// pingRow is a fault, where a ping breaks and what it says there.
type pingRow struct {
	fault         string
	a, b          string // as of faultRow
	before, after func(*faulty)
	args          []string
	step, says    string // "": all steps are fine
	verdicts      map[string]string
}

// unaware makes b's endpoint one that does not answer probes: the kernel's own, or, where there is none, a
// gvtep that has a let in but not in its configuration.
func unaware(f *faulty) {
	err := f.b.nl.LinkAdd(&netlink.Geneve{LinkAttrs: netlink.LinkAttrs{Name: "gnv0", MTU: 1450}, ID: 42, Remote: net.IPv4(10, 77, 0, 1), Dport: 6081})
	if errors.Is(err, unix.EOPNOTSUPP) {
		f.b.tunnel("gnv0", strings.Fields("id 42 local 10.77.0.2 remote none accept 10.77.0.1/32 address 192.0.2.2/24")...)
		return
	}
	f.b.must("geneve", err)
	f.b.address("gnv0", "192.0.2.2/24")
	f.b.up("gnv0")
}

// routed are the words of both ends where a router stands between them.
const (
	routedA = "id 42 local 10.77.0.1 remote 10.78.0.2 address 192.0.2.1/24"
	routedB = "id 42 local 10.78.0.2 remote 10.77.0.1 address 192.0.2.2/24"
)

var pings = []pingRow{
	{fault: "none", args: []string{"192.0.2.2", "--mtu", "--count", "3"}, verdicts: map[string]string{"table": "ok", "route": "ok", "host": "ok", "endpoint": "ok", "overlay": "ok", "mtu": "ok"}},
	{fault: "none, to the peer", args: []string{"10.77.0.2"}, verdicts: map[string]string{"endpoint": "ok", "overlay": "unknown", "mtu": "unknown"}},
	{fault: "no entry", args: []string{"02:00:00:00:00:77"}, step: "table", says: "there is no entry for 02:00:00:00:00:77"},
	{fault: "no route", args: []string{"10.77.0.2"}, after: func(f *faulty) { f.a.must("down", f.a.nl.LinkSetDown(f.a.link("veth0"))) }, step: "route", says: "there is no route to its peer 10.77.0.2"},
	{fault: "host down", a: strings.Replace(wordsA, "10.77.0.2", "10.77.0.9", 1), b: "-", args: []string{"192.0.2.2"}, step: "host", says: "nobody on the link has the address 10.77.0.9"},
	{fault: "process gone", b: "-", args: []string{"192.0.2.2"}, step: "endpoint", says: "nobody listens on UDP port 6081"},
	{fault: "other VNI", b: strings.Replace(wordsB, "42", "43", 1) + " noup", args: []string{"192.0.2.2"}, step: "endpoint", says: "has no tunnel with id 42 to us"},
	{fault: "a firewall here", before: func(f *faulty) { f.nft(f.a, "output", "udp dport 6081 drop") }, args: []string{"192.0.2.2"}, step: "endpoint", says: "a firewall of this host"},
	{fault: "a peer that does not know us", b: strings.Replace(wordsB, "10.77.0.1", "10.77.0.7", 1), args: []string{"10.77.0.2"}, step: "endpoint", says: "nothing says why"},
	{fault: "overlay down", b: wordsB + " noup", args: []string{"192.0.2.2"}, step: "overlay", says: "the device of the tunnel is down"},
	{fault: "no such station", args: []string{"192.0.2.77"}, step: "overlay", says: "nobody behind the tunnel answers for 192.0.2.77"},
	{fault: "black hole of the MTU", before: (*faulty).hole, a: routedA, b: routedB, args: []string{"192.0.2.2", "--mtu"}, step: "mtu", says: "packets of up to 1300 bytes arrive, those of 1500 vanish"},
	{fault: "narrow path that a router tells of", before: (*faulty).narrow, a: routedA, b: routedB, args: []string{"192.0.2.2", "--mtu"}, verdicts: map[string]string{"mtu": "ok"}},
	{fault: "none, another endpoint", b: "-", before: unaware, args: []string{"192.0.2.2", "--mtu"},
		verdicts: map[string]string{"table": "ok", "endpoint": "unknown", "overlay": "ok", "mtu": "ok"}},
	{fault: "another endpoint with a small MTU", b: "-", before: func(f *faulty) {
		unaware(f)
		f.b.must("mtu", f.b.nl.LinkSetMTU(f.b.link("gnv0"), 1400))
		f.nft(f.b, "output", "oifname gnv0 ip length > 1400 drop")
	}, args: []string{"192.0.2.2", "--mtu"}, step: "mtu", says: "pings of up to 1400 bytes pass"},
	{fault: "another endpoint, overlay down", b: "-", before: func(f *faulty) { unaware(f); f.b.must("down", f.b.nl.LinkSetDown(f.b.link("gnv0"))) },
		args: []string{"192.0.2.2"}, step: "endpoint"},
}

// TestPing: a ping says at which step a packet is lost, whoever is at the other end.
func TestPing(t *testing.T) {
	need(t, "nft")
	if built(t) == "" {
		return
	}
	for i := range pings {
		row := &pings[i]
		t.Run(row.fault, func(t *testing.T) {
			t.Parallel()
			f := &faulty{t: t}
			f.a, f.b = unresolved(t)
			if row.before != nil {
				row.before(f)
			}
			f.run(&faultRow{a: row.a, b: row.b})
			f.ga.cli("wait", "gnv0", "--for", "up")
			if row.after != nil {
				row.after(f)
			}
			var r trip
			// State that comes from elsewhere, such as ICMP, may come a moment later.
			soon(60*time.Second, func() bool {
				r = f.ga.pings(row.args...)
				step, _, what := r.last()
				return !row.missed(&r) && (row.step == "" && r.OK || row.step == step && !r.OK && strings.Contains(what, row.says))
			})
			step, verdict, what := r.last()
			if row.step != "" && (step != row.step || verdict != "fault" || !strings.Contains(what, row.says)) || row.step == "" && !r.OK || row.missed(&r) {
				t.Errorf("%+v, want the end at %q, %q in it, and %v", r, row.step, row.says, row.verdicts)
			}
		})
	}
}

// missed reports whether a step has another verdict than it should.
func (row *pingRow) missed(r *trip) bool {
	for step, want := range row.verdicts {
		if r.verdict(step) != want {
			return true
		}
	}
	return false
}

// unresolved is underlay where addresses on the wire are to be found.
func unresolved(t *testing.T) (a, b *host) {
	a, b = newHost(t, "a"), newHost(t, "b")
	wire(a, b)
	a.address("veth0", "10.77.0.1/24", "fd77::1/64")
	b.address("veth0", "10.77.0.2/24", "fd77::2/64")
	return a, b
}

// TestPingSilent: an endpoint that does not know probes drops them without a word, on the wire and to
// its tenants.
func TestPingSilent(t *testing.T) {
	need(t)
	if built(t) == "" {
		return
	}
	f := &faulty{t: t}
	f.a, f.b = unresolved(t)
	unaware(f)
	f.run(&faultRow{b: "-"})
	f.ga.cli("wait", "gnv0", "--for", "up")
	inside, outside := f.b.capture("gnv0", 10000), f.b.capture("veth0", 10000)
	f.ga.pings("10.77.0.2", "--count", "3")
	within(t, 20*time.Second, "probes on the wire", func() bool {
		return len(outside.kept(0, func(fr frame) bool { return !fr.out && isProbe(fr.data) })) > 0
	})
	for _, fr := range slices.Concat(inside.kept(0, nil), outside.kept(0, nil)) {
		if fr.out && isProbe(fr.data) {
			t.Errorf("an answer: %x", fr.data)
		}
	}
	for _, fr := range inside.kept(0, nil) {
		if strings.Contains(string(fr.data), "gvtp") {
			t.Errorf("a tenant sees %x", fr.data)
		}
	}
}

// isProbe reports whether a frame on the underlay is a probe: UDP to port 6081, O and C bit, 0xff67.
func isProbe(b []byte) bool {
	return len(b) > 52 && b[12] == 8 && b[13] == 0 && b[23] == 17 && b[36] == 0x17 && b[37] == 0xc1 && b[43]&0xc0 == 0xc0 && b[50] == 0xff && b[51] == 0x67
}
