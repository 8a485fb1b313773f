package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Reloads under traffic.
//
//	a                                           b
//	gnv0 192.0.2.1/24 <-- numbered packets ---> gnv0 192.0.2.2/24, never touched
//	gnv100 ... gnv109: changed each time
//	gnv200 ... gnv209, gnv210 ... gnv219: come and go
//	veth0 10.77.0.1/24 ======================== veth0 10.77.0.2/24

// generation is the configuration of a for the n-th reload.
func generation(n int) string {
	comes := 200 + n%2*10
	return fmt.Sprintf(`
[defaults]
local  = "10.77.0.1"
remote = "10.77.0.2"
[socket]
workers = 2
[[tunnel]]
name    = "gnv0"
id      = 42
address = "192.0.2.1/24"
[[tunnel]]
name   = "gnv%%d"
id     = "100-109"
ttl    = %d
ageing = %d
[[tunnel]]
name = "gnv%%d"
id   = "%d-%d"
`, 10+n%100, 100+n, comes, comes+9)
}

// TestReload: reloads that change ten tunnels, add ten and remove ten cost the
// tunnel beside them not one packet; a faulty file changes nothing.
func TestReload(t *testing.T) {
	need(t)
	reloads, rate := 20, 2000
	if long() {
		reloads, rate = 100, 10_000
	}
	a, b := underlay(t)
	path := file(t, "live.toml", generation(0))
	g := a.configured("gnv0", path)
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--workers", "2")
	a.neighbour("gnv0", "192.0.2.2", b.mac("gnv0"))
	b.neighbour("gnv0", "192.0.2.1", a.mac("gnv0"))
	index, counted, descriptors := a.index("gnv0"), g.counters(), 0
	streams := []*stream{
		numbered(t, a, b, "192.0.2.1:0", "192.0.2.2:7000", rate, 200),
		numbered(t, b, a, "192.0.2.2:0", "192.0.2.1:7000", rate, 200),
	}
	for _, s := range streams {
		within(t, 5*time.Second, "traffic both ways", func() bool { return s.got.Load() > 100 })
	}
	var slowest, total time.Duration
	for n := 1; n <= reloads; n++ {
		replace(t, path, generation(n))
		start := time.Now()
		a.ok(20*time.Second, g.binary, "-i", g.instance, "reload")
		took := time.Since(start)
		slowest, total = max(slowest, took), total+took
		g.runs(t, n)
		// Descriptors are closed a moment later; whatever the number, it must not grow.
		if n == 2 {
			time.Sleep(20 * time.Millisecond)
			descriptors = g.descriptors()
		}
		if n%5 == 0 {
			g.refuses(t, path, n)
		}
	}
	if n := reloads; n%2 == 0 {
		within(t, 2*time.Second, fmt.Sprintf("%d descriptors as after the second reload, not %d", descriptors, g.descriptors()),
			func() bool { return g.descriptors() <= descriptors })
	}
	for i, s := range streams {
		sent, got := s.end()
		way := []string{"a to b", "b to a"}[i]
		t.Logf("%s: %d packets sent, %d arrived, %d not in order", way, sent, got, s.disorder.Load())
		if got != sent || s.disorder.Load() != 0 || s.damaged.Load() != 0 {
			t.Errorf("%s: of %d packets %d arrived, %d of them not in order, and %d damaged; want all, in order", way, sent, got, s.disorder.Load(), s.damaged.Load())
		}
	}
	t.Logf("%d reloads, each changed, added and removed 10 tunnels: mean %s, slowest %s", reloads,
		(total / time.Duration(reloads)).Round(time.Millisecond), slowest.Round(time.Millisecond))
	if a.index("gnv0") != index {
		t.Error("gnv0 is another device than before the reloads")
	}
	if c := g.counters().since(counted); c["rx.packets"] < int(streams[1].got.Load()) || c["tx.packets"] < int(streams[0].got.Load()) {
		t.Errorf("counters of gnv0 moved by %v, want at least %d received and %d sent: they started anew", c, streams[1].got.Load(), streams[0].got.Load())
	}
}

// replace puts a new file in the place of one, as editors do.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// runs checks that the n-th generation is what runs.
func (g *gvtep) runs(t *testing.T, n int) {
	t.Helper()
	var tunnels []struct {
		Ifname string `json:"ifname"`
		Gvtep  struct {
			TTL    string  `json:"ttl"`
			Ageing float64 `json:"ageing_seconds"`
		} `json:"gvtep"`
	}
	if err := g.ask("/v1/tunnels", &tunnels); err != nil {
		t.Fatal(err)
	}
	here := map[string]bool{}
	for _, tun := range tunnels {
		here[tun.Ifname] = true
		if strings.HasPrefix(tun.Ifname, "gnv10") && (tun.Gvtep.TTL != fmt.Sprint(10+n%100) || tun.Gvtep.Ageing != float64(100+n)) {
			t.Fatalf("after reload %d: %s has ttl %s, ageing %g; want %d, %d", n, tun.Ifname, tun.Gvtep.TTL, tun.Gvtep.Ageing, 10+n%100, 100+n)
		}
	}
	devices := " " + links(g.h) + " "
	for i := range 20 {
		name := fmt.Sprint("gnv", 200+i)
		want := i/10 == n%2
		if device := strings.Contains(devices, " "+name+" "); here[name] != want || device != want {
			t.Fatalf("after reload %d: %s runs: %t, its device is there: %t; want %t", n, name, here[name], device, want)
		}
	}
	if len(tunnels) != 21 {
		t.Fatalf("after reload %d: %d tunnels, want 21", n, len(tunnels))
	}
}

// refuses lets it reload a file that is wrong in one place, and one that takes
// a port of somebody else: nothing changes.
func (g *gvtep) refuses(t *testing.T, path string, n int) {
	t.Helper()
	faulty := strings.Replace(generation(n+1), "ageing =", "agein =", 1)
	line := 1 + strings.Count(faulty[:strings.Index(faulty, "agein =")], "\n")
	replace(t, path, faulty)
	stdout, stderr, code := g.h.run(10*time.Second, g.binary, "-i", g.instance, "reload")
	if want := fmt.Sprintf("%s:%d:1: ", filepath.Base(path), line); code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("reload of a faulty file: exit status %d, %q%q; want 1 and %q", code, stdout, stderr, want)
	}
	g.runs(t, n)
	other := g.h.listenUDP("10.77.0.1:7081")
	replace(t, path, strings.Replace(generation(n+1), "ageing =", "dstport = 7081\nageing =", 1)+"[[tunnel]]\nname = \"gnv300\"\nid = 300\ndstport = 7081\n")
	stdout, stderr, code = g.h.run(10*time.Second, g.binary, "-i", g.instance, "reload")
	if code != 2 || !strings.Contains(stderr, "7081") {
		t.Errorf("reload with a port that is taken: exit status %d, %q%q; want 2 and a line with the port", code, stdout, stderr)
	}
	g.runs(t, n)
	other.Close()
	replace(t, path, generation(n))
}

// stream is numbered UDP packets, zeros else, from one host to another.
type stream struct {
	got      atomic.Int64
	disorder atomic.Int64 // those with another number than expected
	damaged  atomic.Int64 // those that are not as they were sent
	stop     func() (sent int64)
}

// end stops the sender, waits for the last packet, and returns how many there were.
func (s *stream) end() (sent, got int64) {
	sent = s.stop()
	soon(2*time.Second, func() bool { return s.got.Load() >= sent })
	return sent, s.got.Load()
}

// receives is the receiving end of a stream.
func receives(to *host, dst string, size int) *stream {
	to.t.Helper()
	s := &stream{}
	in := to.listenUDP(dst)
	// Room for whatever comes while this process does not run.
	raw, err := in.SyscallConn()
	to.must("socket", err)
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	go func() {
		var next uint64
		buf := make([]byte, 2048)
		for {
			n, err := in.Read(buf)
			if err != nil {
				return
			}
			if n != size || slices.ContainsFunc(buf[8:n], func(b byte) bool { return b != 0 }) {
				s.damaged.Add(1)
				continue
			}
			if number := binary.BigEndian.Uint64(buf); number != next {
				s.disorder.Add(1)
				next = number
			}
			next++
			s.got.Add(1)
		}
	}()
	return s
}

func numbered(t *testing.T, from, to *host, src, dst string, rate, size int) *stream {
	t.Helper()
	s := receives(to, dst, size)
	out := from.listenUDP(src)
	to4, err := net.ResolveUDPAddr("udp", dst)
	from.must(dst, err)
	var ending atomic.Bool
	ended := make(chan int64, 1)
	go func() {
		var sent int64
		message := make([]byte, size)
		start := time.Now()
		for !ending.Load() {
			// As many as are due by now, but no more than fit in any queue.
			due := int64(time.Since(start).Seconds() * float64(rate))
			for end := min(due, sent+200); sent < end; sent++ {
				binary.BigEndian.PutUint64(message, uint64(sent))
				if _, err := out.WriteTo(message, to4); err != nil {
					break
				}
			}
			time.Sleep(time.Millisecond)
		}
		ended <- sent
	}()
	var sent int64
	stopped := false
	s.stop = func() int64 {
		if !stopped {
			stopped = true
			ending.Store(true)
			sent = <-ended
		}
		return sent
	}
	t.Cleanup(func() { s.stop() })
	return s
}

// TestReloadExchangesSockets: one reload takes the last tunnel off an address and
// puts the first on another that the kernel would not let be bound beside it. Each
// of the two configurations is valid.
func TestReloadExchangesSockets(t *testing.T) {
	need(t)
	a, b := underlay(t)
	tunnel := func(name, listens string) string {
		return fmt.Sprintf("[[tunnel]]\nname = %q\nid = 42\nremote = \"10.77.0.2\"\naddress = \"192.0.2.1/24\"\n%s\n", name, listens)
	}
	steps := []string{
		tunnel("gnv0", ""),
		tunnel("gnv1", `local = "10.77.0.1"`),
		tunnel("gnv2", ""),
		tunnel("gnv3", `dev = "veth0"`),
		tunnel("gnv4", "group = \"239.7.7.7\"\nlocal = \"10.77.0.1\"\ndev = \"veth0\""),
		tunnel("gnv5", "group = \"239.7.7.7\"\ndev = \"veth0\""),
		tunnel("gnv6", ""),
	}
	path := file(t, "sockets.toml", steps[0])
	g := a.configured("gnv0", path)
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	for i, text := range steps {
		replace(t, path, text)
		a.ok(20*time.Second, g.binary, "-i", g.instance, "reload")
		if strings.Contains(text, "group") {
			continue // b is not in the group
		}
		a.ok(10*time.Second, "ping", "-c", "1", "-w", "5", "192.0.2.2")
		t.Logf("step %d: %s", i, strings.ReplaceAll(text, "\n", " "))
	}
	// Another tunnel on an address beside one that stays is refused as ever.
	_, said, code := a.run(20*time.Second, g.binary, "-i", g.instance, "tunnel", "add", "gnv7", "id", "43", "remote", "10.77.0.2", "local", "10.77.0.1")
	if code == 0 || !strings.Contains(said, "held by this process") {
		t.Errorf("a tunnel on one address beside one on all: exit status %d, %s; want it refused", code, said)
	}
}
