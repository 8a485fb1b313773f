package e2e

import (
	"fmt"
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
		return strings.Contains(m.stdout.String(), " tunnel gnv0 changed\n")
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

func isTime(s string) bool {
	_, err := time.Parse(time.RFC3339, s)
	return err == nil
}
