package e2e

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bfdOf is the BFD session of the first peer of gnv0, with what show says of it for people.
func (g *gvtep) bfdOf() (session struct {
	State, Remote string
	Dead          bool
}) {
	var tunnel struct {
		Gvtep struct {
			Peers []struct {
				BFD *struct {
					State  string `json:"state"`
					Remote string `json:"remote_state"`
					Dead   bool   `json:"dead"`
				} `json:"bfd"`
			} `json:"peers"`
		} `json:"gvtep"`
	}
	if err := g.ask("/v1/tunnels/gnv0", &tunnel); err == nil && len(tunnel.Gvtep.Peers) > 0 && tunnel.Gvtep.Peers[0].BFD != nil {
		b := tunnel.Gvtep.Peers[0].BFD
		session.State, session.Remote, session.Dead = b.State, b.Remote, b.Dead
	}
	return session
}

// TestBFD: a peer is dead soon after its link died, and alive soon after it is back. A process that
// stops says so and is not dead, one that hangs is. Of 20 tries, with GVTEP_E2E_LONG=1, the slowest
// is within the time that was asked for; the few tries beside other tests only have to end.
func TestBFD(t *testing.T) {
	need(t)
	for _, c := range []struct {
		words string
		limit time.Duration
	}{{"100msx3", 300 * time.Millisecond}, {"300msx3", time.Second}} {
		t.Run(c.words, func(t *testing.T) {
			a, b := underlay(t)
			near := a.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.2", "--bfd", c.words)
			far := b.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.1", "--bfd", c.words)
			up := func() bool { return near.bfdOf().State == "up" && far.bfdOf().State == "up" }
			within(t, 30*time.Second, "up", up)
			downs := near.follow(t, "down")
			tries := 2
			if long() {
				tries = 20
			}
			var slowest time.Duration
			for i := range tries {
				time.Sleep(time.Duration(i) * c.limit / 30 / 2) // at another place between two packets
				died := time.Now()
				b.must("down", b.nl.LinkSetDown(b.link("veth0")))
				select {
				case at := <-downs:
					slowest = max(slowest, at.Sub(died))
				case <-time.After(30 * time.Second):
					t.Fatalf("nobody is dead: %+v", near.bfdOf())
				}
				if s := near.bfdOf(); !s.Dead {
					t.Errorf("after the event: %+v", s)
				}
				b.must("up", b.nl.LinkSetUp(b.link("veth0")))
				within(t, 30*time.Second, "up again", up)
			}
			t.Logf("%d tries: dead after %s at most", tries, slowest)
			if long() && slowest > c.limit {
				t.Errorf("dead after %s, want %s", slowest, c.limit)
			}
		})
	}
}

// TestBFDProcess: what BFD says of a process, and what people see of it.
func TestBFDProcess(t *testing.T) {
	need(t)
	a, b := underlay(t)
	near := a.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.2", "--bfd", "100msx3")
	show := func() string {
		return near.h.ok(10*time.Second, near.binary, "-i", near.instance, "peer", "show", "dev", "gnv0")
	}
	// Who knows no BFD is not dead, and counts what it is sent.
	plain := b.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.1")
	within(t, 30*time.Second, "control packets are counted there", func() bool { return plain.counters()["rx.control"] > 0 })
	if s := near.bfdOf(); s.State != "down" || s.Dead {
		t.Errorf("beside one without BFD: %+v", s)
	}
	plain.stop()
	far := b.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.1", "--bfd", "100msx3")
	within(t, 30*time.Second, "up", func() bool { return near.bfdOf().State == "up" })
	if out := show(); !strings.Contains(out, "bfd up") {
		t.Errorf("peer show: %s", out)
	}
	// It hangs.
	if err := far.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "dead", func() bool { return near.bfdOf().Dead })
	if out := show(); !strings.Contains(out, "dead for ") {
		t.Errorf("peer show: %s", out)
	}
	if out := near.h.ok(10*time.Second, near.binary, "-i", near.instance, "metrics"); !strings.Contains(out, "gvtep_peer_bfd_dead{") || !strings.Contains(out, "gvtep_peer_bfd_downs_total{") {
		t.Error("no metrics of it")
	}
	if err := far.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "up again", func() bool { return near.bfdOf().State == "up" })
	// It stops, and says so.
	far.stop()
	within(t, 30*time.Second, "told", func() bool { return near.bfdOf().Remote == "admin_down" })
	if s := near.bfdOf(); s.Dead {
		t.Errorf("whose process has stopped: %+v", s)
	}
	if log := near.stderr.String(); !strings.Contains(log, "the peer is dead") || !strings.Contains(log, "BFD is up") || !strings.Contains(log, "BFD ends at the peer") {
		t.Errorf("the log has not all of it: %s", log)
	}
}

// follow returns when peers of g had an action, as its events tell.
func (g *gvtep) follow(t *testing.T, action string) <-chan time.Time {
	req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://gvtep/v1/events", nil)
	client := g.http
	client.Timeout = 0 // it is read until the test ends
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	c := make(chan time.Time, 100)
	go func() {
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			var e struct {
				Time           time.Time
				Object, Action string
			}
			if json.Unmarshal(lines.Bytes(), &e) == nil && e.Object == "peer" && e.Action == action {
				c <- e.Time
			}
		}
	}()
	return c
}
