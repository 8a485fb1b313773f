package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMonitor: each event has its time, a peer that begins to speak is one, and --timeout ends it.
func TestMonitor(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	ga := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24")
	m := a.start(nil, ga.binary, "-i", ga.instance, "monitor")
	// What is done before it listens is not seen: so until something is.
	ttl := 1
	within(t, 30*time.Second, "an event", func() bool {
		ttl = ttl%200 + 1
		ga.cli("tunnel", "set", "gnv0", "ttl", fmt.Sprint(ttl))
		return strings.Contains(m.stdout.String(), " tunnel gnv0 changed ")
	})
	if at, _, _ := strings.Cut(m.stdout.String(), " "); !isTime(at) {
		t.Errorf("%q: want a line that begins with a time", m.stdout.String())
	}
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	a.ok(20*time.Second, "ping", "-q", "-c", "1", "-w", "15", "192.0.2.2")
	within(t, 30*time.Second, "the peer is heard", func() bool { return strings.Contains(m.stdout.String(), " peer 10.77.0.2 dev gnv0 heard\n") })
	ga.says(t, 1, "the peer is heard")

	if stdout, stderr, code := a.run(60*time.Second, ga.binary, "-i", ga.instance, "monitor", "fdb", "--timeout", "3s"); code != 0 || stderr != "" {
		t.Errorf("monitor --timeout 3s: exit status %d\n%s%s", code, stdout, stderr)
	}
}

// TestMonitorWho: what was changed, from which value to which and by whom; devices that go up and
// down, by gvtep and by others; peers that are refused; routes that go and come; and what is dropped.
// The log says the same.
func TestMonitorWho(t *testing.T) {
	need(t, "ip")
	a, b := underlay(t)
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2")
	m := a.start(nil, g.binary, "-i", g.instance, "monitor")
	drops := a.start(nil, g.binary, "-i", g.instance, "monitor", "drop")
	says := func(of *program, text string, again func()) {
		t.Helper()
		within(t, 60*time.Second, "monitor says "+text, func() bool {
			if again != nil {
				again()
			}
			return regexp.MustCompile(`(?m)^\S+ ` + text + `$`).MatchString(of.stdout.String())
		})
	}
	mark := 0
	says(m, `tunnel gnv0 changed .*`, func() { mark++; g.cli("tunnel", "set", "gnv0", "fwmark", fmt.Sprint(mark)) })

	by := `, by pid [0-9]+ uid 0 \(\S*gvtep\S* -i ` + g.instance + ` `
	g.cli("tunnel", "set", "gnv0", "ttl", "9")
	says(m, `tunnel gnv0 changed ttl "auto" -> 9`+by+`tunnel set gnv0 ttl 9\)`, nil)
	g.says(t, 1, `"keys":["ttl \"auto\" -> 9"]`)
	g.cli("tunnel", "down", "gnv0")
	says(m, `tunnel gnv0 device down`+by+`tunnel down gnv0\)`, nil)
	g.cli("tunnel", "up", "gnv0")
	says(m, `tunnel gnv0 device up`+by+`tunnel up gnv0\)`, nil)
	a.ok(10*time.Second, "ip", "link", "set", "gnv0", "down")
	says(m, `tunnel gnv0 device down, not by gvtep`, nil)
	a.ok(10*time.Second, "ip", "link", "set", "gnv0", "up")
	says(m, `tunnel gnv0 device up, not by gvtep`, nil)
	g.cli("tunnel", "add", "gnv1", "id", "43", "local", "10.77.0.1", "remote", "10.77.0.2")
	says(m, `tunnel gnv1`+by+`tunnel add gnv1 id 43 local 10\.77\.0\.1 remote 10\.77\.0\.2\)`, nil)
	g.cli("tunnel", "del", "gnv1")
	says(m, `Deleted tunnel gnv1`+by+`tunnel del gnv1\)`, nil)

	to := b.dialUDP("10.77.0.1:6081")
	strange := append([]byte{0, 0, 0x65, 0x58, 0, 0, 77, 0}, make([]byte, 60)...)
	says(drops, `drop in unknown_vni [0-9]+ from 10\.77\.0\.2 id 77 ethernet`, func() { to.Write(strange) })
	says(m, `peer 10\.77\.0\.2 dev gnv0 refused \(unknown_vni [0-9]+, id 77\)`, func() { to.Write(strange) })
	g.says(t, 1, "packets of the peer are dropped")

	a.ok(10*time.Second, "ip", "route", "add", "blackhole", "10.77.0.2/32")
	says(m, `peer 10\.77\.0\.2 dev gnv0 route lost`, nil)
	a.ok(10*time.Second, "ip", "route", "del", "blackhole", "10.77.0.2/32")
	says(m, `peer 10\.77\.0\.2 dev gnv0 route back`, nil)
	// Without any device the process ends, maybe before it has told.
	g.cli("tunnel", "add", "gnv2", "id", "44", "local", "10.77.0.1", "remote", "10.77.0.2")
	a.ok(10*time.Second, "ip", "link", "del", "gnv0")
	says(m, `tunnel gnv0 device deleted, not by gvtep`, nil)
}

func isTime(s string) bool {
	_, err := time.Parse(time.RFC3339, s)
	return err == nil
}
