package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCapture: a capture of a tunnel under traffic has the packets of all points, those
// dropped with the reason, and costs the traffic nothing. One that is killed leaves nothing: the
// next begins.
//
//	a gnv0 192.0.2.1 ==== 192.0.2.2 gnv0 b
func TestCapture(t *testing.T) {
	need(t)
	f := families[0]
	p := newPair(t, f, "--fastpath", "off") // which carries what is not seen
	g := p.gb
	path := filepath.Join(t.TempDir(), "b.pcapng")
	begin := func() (c *program) {
		within(t, 10*time.Second, "the capture has begun", func() bool {
			os.Remove(path)
			c = p.b.start(nil, g.binary, "-i", g.instance, "capture", "-w", path)
			for {
				select {
				case <-c.done: // the daemon has not yet seen that the last reader is gone
					return false
				case <-time.After(20 * time.Millisecond):
				}
				if info, err := os.Stat(path); err == nil && info.Size() > 0 {
					return true
				}
			}
		})
		return c
	}
	killed := begin()
	killed.cmd.Process.Kill()
	<-killed.done

	c := begin() // there is one at a time
	out := p.a.capture("veth0", 1)
	strange := join("0000 6558 00777700", eth(p.b.mac("gnv0"), p.a.mac("gnv0"), typeLabel, make([]byte, 46)))
	before := g.counters()
	out.send(eth(p.b.mac("veth0"), p.a.mac("veth0"), etherType(f), ip{src: addr(f.near), dst: addr(f.far)}.udp(50000, 6081, strange, csumRight)))
	within(t, 5*time.Second, "the strange datagram is counted", func() bool { return g.counters().since(before)["rx.unknown_vni"] == 1 })
	l := p.b.listenTCP(net.JoinHostPort("192.0.2.2", "7000"))
	got := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- -1
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		n, buf := 0, make([]byte, 64<<10)
		for {
			k, err := c.Read(buf)
			if n += k; err != nil {
				got <- n
				return
			}
		}
	}()
	const size = 8 << 20
	conn := p.a.dialTCP("192.0.2.2:7000")
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Error(err)
	}
	conn.Close()
	if n := <-got; n != size {
		t.Errorf("%d bytes of %d arrived while packets were copied", n, size)
	}
	c.cmd.Process.Signal(unix.SIGINT)
	<-c.done
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the capture ended with %d: %s", code, c.stderr.String())
	}

	points := map[string]int{}
	reason := ""
	text := p.b.ok(30*time.Second, g.binary, "-j", "decode", path)
	for line := range strings.Lines(text) {
		var packet struct{ Point, Reason, Summary string }
		if err := json.Unmarshal([]byte(line), &packet); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		points[packet.Point]++
		if packet.Point == "drops" && strings.Contains(line, "unknown_vni") {
			reason = line
		}
	}
	t.Logf("packets %v; %s", points, c.stderr.String())
	for _, point := range []string{"outer-in", "outer-out", "inner-in", "inner-out"} {
		if points[point] < 3 { // of what there was room for
			t.Errorf("%d packets of %s, want those of a TCP connection", points[point], point)
		}
	}
	if !strings.Contains(reason, "10.77.0.1") {
		t.Errorf("no dropped packet with its reason and sender: %q", reason)
	}
}
