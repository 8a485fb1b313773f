package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Many tunnels in one process.

// file writes a configuration.
func file(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFlooded: one tunnel at full rate keeps the other of the same two
// processes neither from delivering everything nor waiting for long. How long
// is printed; it depends on the machine, whose processors the load shares. The
// ping sleeps between two requests: with an interval below 10 ms that of iputils looks
// for the answer all the time, and is one more thread that wants a processor.
//
//	a                                            b
//	gnv0 192.0.2.1/24 <-- VNI 42, flooded -----> gnv0 192.0.2.2/24
//	gnv1 198.51.100.1/24 -- VNI 43, pings -----> gnv1 198.51.100.2/24
//	veth0 10.77.0.1/24 ========================= veth0 10.77.0.2/24
func TestFlooded(t *testing.T) {
	need(t, "ping")
	const stall = 1000 // ms, p99: not slow, but stuck
	pings := 300
	if long() {
		pings = 5000
	}
	a, b := underlay(t)
	for i, h := range []*host{a, b} {
		h.configured("gnv1", file(t, "two.toml", fmt.Sprintf(`
[defaults]
local  = "10.77.0.%d"
remote = "10.77.0.%d"
[[tunnel]]
name    = "gnv0"
id      = 42
address = "192.0.2.%[1]d/24"
[[tunnel]]
name    = "gnv1"
id      = 43
address = "198.51.100.%[1]d/24"
`, i+1, 2-i)))
	}
	a.ok(5*time.Second, "ping", "-q", "-c", "2", "-i", "0.1", "-W", "2", "198.51.100.2")
	measure := func(what string) []float64 {
		t.Helper()
		out := a.ok(time.Minute, "ping", "-n", "-i", "0.011", "-c", strconv.Itoa(pings), "-W", "5", "198.51.100.2")
		times := pingTimes(t, out)
		t.Logf("%-26s RTT p50 %.3f ms, p99 %.3f ms, max %.3f ms, %d of %d pings", what, quantile(times, .5), quantile(times, .99), quantile(times, 1), len(times), pings)
		if len(times) != pings {
			t.Errorf("%s: %d of %d pings answered, want all", what, len(times), pings)
		}
		if p99 := quantile(times, .99); p99 > stall {
			t.Errorf("%s: RTT p99 %.3f ms, want less than %d: it is stuck", what, p99, stall)
		}
		return times
	}
	quiet := measure("nothing else:")
	for _, way := range []struct {
		name     string
		from, to *host
		dst      string
	}{{"flooded with the requests:", a, b, "192.0.2.2"}, {"flooded against them:", b, a, "192.0.2.1"}} {
		sent := way.from.fullRate(t, way.to, way.dst)
		loaded := measure(way.name)
		n, took := sent()
		t.Logf("%-26s added p50 %.3f ms, p99 %.3f ms, by %.0f packets/s", "", quantile(loaded, .5)-quantile(quiet, .5),
			quantile(loaded, .99)-quantile(quiet, .99), float64(n)/took.Seconds())
		if n < 10*pings {
			t.Errorf("only %d packets of load", n)
		}
	}
}

// fullRate sends UDP packets of 64 bytes as fast as one thread can, until stop.
func (h *host) fullRate(t *testing.T, to *host, address string) (stop func() (sent int, took time.Duration)) {
	t.Helper()
	sink := to.listenUDP(address + ":9") // else there would be an answer to each
	var fd int
	h.do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(address).As4(), Port: 9})
	})
	var ending atomic.Bool
	start, ended := time.Now(), make(chan int, 1)
	go func() {
		n, message := 0, make([]byte, 64)
		for ; !ending.Load(); n++ {
			unix.Write(fd, message) // without room: full rate is what this is about
		}
		ended <- n
	}()
	stopped := false
	stop = func() (n int, took time.Duration) {
		stopped = true
		ending.Store(true)
		n = <-ended
		took = time.Since(start)
		unix.Close(fd)
		sink.Close()
		return n, took
	}
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
	})
	return stop
}

// pingTimes reads the round-trip times, in ms, in rising order.
func pingTimes(t *testing.T, text string) (times []float64) {
	t.Helper()
	for line := range strings.Lines(text) {
		_, rest, ok := strings.Cut(line, " time=")
		if !ok || strings.Contains(line, "DUP!") {
			continue
		}
		ms, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			t.Fatalf("ping says %q", line)
		}
		times = append(times, ms)
	}
	slices.Sort(times)
	return times
}

// quantile of sorted values; NaN of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[int(q*float64(len(sorted)-1)+.5)]
}

// TestManyTunnels: a thousand tunnels in one process: each carries frames both
// ways, flooded ones and ones to a station that it has learned, to the device
// of its own VNI and to no other. Memory and times are
// printed; only memory that the issue bounds is checked.
//
//	a  gnv10000 gnv10001 ...                    b  gnv10000 gnv10001 ...
//	gvtep                                       gvtep
//	veth0 10.77.0.1/24 ======================== veth0 10.77.0.2/24
func TestManyTunnels(t *testing.T) {
	need(t)
	const first, maxRSS = 10_000, 200 // MiB
	n := 200
	if long() {
		n = 1000
	}
	a, b := underlay(t)
	noDevices, noSockets := links(a), a.sockets()
	available := memory(t, "/proc/meminfo", "MemAvailable:")
	var daemons []*gvtep
	for i, h := range []*host{a, b} {
		start := time.Now()
		g := h.configured(fmt.Sprint("gnv", first+n-1), file(t, "many.toml", fmt.Sprintf(`
[socket]
workers = 2
[[tunnel]]
name   = "gnv%%d"
id     = "%d-%d"
local  = "10.77.0.%d"
remote = "10.77.0.%d"
`, first, first+n-1, i+1, 2-i)))
		took := time.Since(start)
		rss := memory(t, fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid), "VmRSS:")
		now := memory(t, "/proc/meminfo", "MemAvailable:")
		t.Logf("%s: %d tunnels, 2 workers: ready after %s, RSS %d MiB, MemAvailable less by %d MiB, %d descriptors",
			h.name, n, took.Round(time.Millisecond), rss, available-now, g.descriptors())
		if rss > maxRSS {
			t.Errorf("%s: RSS %d MiB, want at most %d", h.name, rss, maxRSS)
		}
		available = now
		daemons = append(daemons, g)
	}
	// Two rounds: to all, by which each tunnel learns the station of the other
	// side, and to that station.
	stations := map[*host]mac{a: {2, 0, 0, 0, 0x0a, 1}, b: {2, 0, 0, 0, 0x0b, 1}}
	for _, kind := range []string{"flood", "unicast"} {
		for i, way := range [][2]*host{{a, b}, {b, a}} {
			g, what := daemons[i], fmt.Sprintf("%s, %s to %s", kind, way[0].name, way[1].name)
			from, to := way[0].labels(t), way[1].labels(t)
			out := map[string]int{}
			for index, name := range from.names {
				out[name] = index
			}
			dst := broadcast
			if kind == "unicast" {
				dst = stations[way[1]]
			}
			_, before := g.get("/metrics")
			// In portions, so that no receive buffer overflows.
			for i := range n {
				name := fmt.Sprint("gnv", first+i)
				from.send(out[name], dst, stations[way[0]], name)
				if (i+1)%100 == 0 || i+1 == n {
					soon(5*time.Second, func() bool { return to.count() >= i+1 })
				}
			}
			time.Sleep(50 * time.Millisecond) // for those that should not come
			_, after := g.get("/metrics")
			wrong := 0
			fault := func(format string, args ...any) {
				t.Helper()
				if wrong++; wrong <= 5 {
					t.Errorf(what+": "+format, args...)
				}
			}
			for device, got := range to.all() {
				if !slices.Equal(got, []string{device}) {
					fault("on %s arrived what was sent on %v, want %s once", device, got, device)
				}
				// One peer gets what is flooded, too: only the counters tell. The
				// kernel's own packets on the device all go to groups.
				name := fmt.Sprintf(`gvtep_transmit_packets_total{device="%s",type="%s",vni="%s"}`, device, kind, strings.TrimPrefix(device, "gnv"))
				was, is := sample(before, name), sample(after, name)
				if moved := is - was; was < 0 || moved < 1 || kind == "unicast" && moved != 1 {
					fault("%s went from %d to %d, want 1 more", name, was, is)
				}
			}
			if wrong > 5 {
				t.Errorf("%s: %d faults in all", what, wrong)
			}
			if got := to.count(); got != n {
				t.Errorf("%s: %d frames arrived, want %d", what, got, n)
			}
		}
	}
	for _, g := range daemons {
		took := g.stop()
		t.Logf("%s: stopped after %s", g.h.name, took.Round(time.Millisecond))
		if now := links(g.h); now != noDevices {
			t.Errorf("%s: after the stop the devices are %.200s, want %s", g.h.name, now, noDevices)
		}
		if now := g.h.sockets(); now != noSockets {
			t.Errorf("%s: after the stop there are the UDP sockets\n%s", g.h.name, now)
		}
	}
}

// memory reads a value of /proc/meminfo or /proc/PID/status, in MiB.
func memory(t *testing.T, path, key string) (mib int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), key)
	if _, err := fmt.Sscan(rest, &mib); !ok || err != nil {
		t.Fatalf("%s: no %s", path, key)
	}
	return mib / 1024
}

// labels is one packet socket on all devices of a host, for frames of a type
// that nobody else uses and that say on which device they were sent.
type labels struct {
	t     *testing.T
	fd    int
	names map[int]string // tunnel devices by index

	mu    sync.Mutex
	got   map[string][]string // device: labels
	total int
}

const typeLabel = 0x88b5 // IEEE 802: for local experiments

func (h *host) labels(t *testing.T) *labels {
	t.Helper()
	l := &labels{t: t, names: map[int]string{}, got: map[string][]string{}}
	all, err := h.nl.LinkList()
	h.must("links", err)
	for _, link := range all {
		if name := link.Attrs().Name; strings.HasPrefix(name, "gnv") {
			l.names[link.Attrs().Index] = name
		}
	}
	h.do(func() (err error) {
		if l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swap16(typeLabel))); err != nil {
			return err
		}
		unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		return unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	})
	var ending atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		buf := make([]byte, 2048)
		for !ending.Load() {
			n, from, err := unix.Recvfrom(l.fd, buf, 0)
			if err != nil || n < 60 {
				continue // the receive timeout
			}
			device := l.names[from.(*unix.SockaddrLinklayer).Ifindex]
			label := string(buf[16 : 16+min(44, int(binary.BigEndian.Uint16(buf[14:])))])
			l.mu.Lock()
			l.got[device] = append(l.got[device], label)
			l.total++
			l.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ending.Store(true)
		<-stopped
		unix.Close(l.fd)
	})
	return l
}

// send puts a frame with the label on a device.
func (l *labels) send(index int, dst, src mac, label string) {
	l.t.Helper()
	payload := append(binary.BigEndian.AppendUint16(nil, uint16(len(label))), label...)
	data := eth(dst, src, typeLabel, append(payload, make([]byte, 60-len(payload))...))
	if err := unix.Sendto(l.fd, data, 0, &unix.SockaddrLinklayer{Protocol: swap16(typeLabel), Ifindex: index}); err != nil {
		l.t.Fatalf("send on %s: %v", l.names[index], err)
	}
}

func (l *labels) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// all returns for every device what has arrived on it.
func (l *labels) all() map[string][]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string][]string{}
	for _, name := range l.names {
		all[name] = nil
	}
	for name, got := range l.got {
		all[name] = slices.Clone(got)
	}
	return all
}

// TestFewQueues: with fewer queues than workers a tunnel has fewer descriptors, as many as the
// documentation says, and carries packets both ways as before.
func TestFewQueues(t *testing.T) {
	need(t, "ping")
	const tunnels, workers, ports = 10, 8, 64
	a, b := underlay(t)
	b.configured("gnv10000", file(t, "b.toml", `
[socket]
workers = 8
[[tunnel]]
name      = "gnv10000"
id        = 10000
local     = "10.77.0.2"
remote    = "10.77.0.1"
address   = "192.0.2.2/24"
numqueues = 2
`))
	for i, tc := range []struct {
		words  string
		queues int
	}{{"", workers}, {"numqueues = 1", 1}, {"numqueues = 3", 3}, {"numqueues = 200", workers}} {
		g := a.configured("gnv10009", file(t, "a.toml", fmt.Sprintf(`
[socket]
workers = %d
[[tunnel]]
name   = "gnv%%d"
id     = "10000-%d"
local  = "10.77.0.1"
remote = "10.77.0.2"
%s
`, workers, 10000+tunnels-1, tc.words)))
		// One set of source ports and one local address, as in docs/operations.md.
		want := workers*(ports+1+3) + 2*tc.queues*tunnels + 13
		// The run time's own are one or two more or less.
		if n := g.settled(); n < want-4 || n > want+4 {
			t.Errorf("%q: %d descriptors, want %d", tc.words, n, want)
		} else {
			t.Logf("%q: %d descriptors", tc.words, n)
		}
		a.ok(5*time.Second, "ip", "address", "add", "192.0.2.1/24", "dev", "gnv10000")
		a.ok(10*time.Second, "ping", "-q", "-n", "-c", "20", "-i", "0.02", "-W", "2", "192.0.2.2")
		streams := []*stream{
			numbered(t, a, b, "192.0.2.1:0", fmt.Sprint("192.0.2.2:", 7000+i), 2000, 200),
			numbered(t, b, a, "192.0.2.2:0", fmt.Sprint("192.0.2.1:", 7000+i), 2000, 200),
		}
		time.Sleep(200 * time.Millisecond)
		for _, s := range streams {
			if sent, got := s.end(); got != sent || s.damaged.Load() != 0 || s.disorder.Load() != 0 {
				t.Errorf("%q: of %d packets %d arrived, %d damaged, %d not in order", tc.words, sent, got, s.damaged.Load(), s.disorder.Load())
			}
		}
		g.stop()
	}
}
