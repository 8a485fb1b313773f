package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// What those see who watch: metrics, health, and a control socket under siege.

// get returns status and body of one request to the control socket.
func (g *gvtep) get(path string) (int, string) {
	resp, err := g.http.Get("http://gvtep" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// flows sends n datagrams on each of the flows and returns how many of each
// arrived, by the number of the flow.
type flows struct {
	t    *testing.T
	send []*net.UDPConn
	mu   sync.Mutex
	seen []map[uint64]bool // numbers of datagrams, by flow
	next uint64
}

// newFlows makes flows from one host to an address of another. Every datagram
// says of which flow it is, and which one.
func newFlows(t *testing.T, from *host, source string, to *host, address string, n int) *flows {
	t.Helper()
	f := &flows{t: t, seen: make([]map[uint64]bool, n)}
	c := to.listenUDP(address)
	// The reader may be kept from its work for a while, too.
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	}
	to.must("receive buffer", err)
	go func() {
		var b [64]byte
		for {
			n, err := c.Read(b[:])
			if err != nil {
				return
			}
			if n == 16 {
				f.mu.Lock()
				f.seen[binary.BigEndian.Uint64(b[:])][binary.BigEndian.Uint64(b[8:])] = true
				f.mu.Unlock()
			}
		}
	}()
	for i := range n {
		f.seen[i] = map[uint64]bool{}
		from.do(func() error {
			conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(source)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
			if err == nil {
				f.send = append(f.send, conn)
			}
			return err
		})
	}
	t.Cleanup(func() {
		for _, c := range f.send {
			c.Close()
		}
	})
	return f
}

// round sends one datagram on each flow and returns its number.
func (f *flows) round() uint64 {
	f.next++
	for i, c := range f.send {
		b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(i)), f.next)
		if _, err := c.Write(b); err != nil {
			f.t.Errorf("flow %d: %v", i, err)
		}
	}
	return f.next
}

// arrived returns the flows of which the datagram with a number has arrived.
func (f *flows) arrived(number uint64) (which []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.seen {
		if f.seen[i][number] {
			which = append(which, i)
		}
	}
	return which
}

// stopped is a thread of another process that is kept from running.
type stopped struct {
	name    string
	release func()
}

// stopIdle stops a thread whose name begins with prefix while it waits for
// work without holding anything: in an epoll wait without a time limit. Then
// nothing but what the thread itself would do is affected.
func (g *gvtep) stopIdle(prefix string) stopped {
	g.h.t.Helper()
	found, done, released := make(chan string), make(chan struct{}), make(chan struct{})
	go func() {
		// ptrace is between threads.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(released)
		dir := fmt.Sprintf("/proc/%d/task", g.cmd.Process.Pid)
		tasks, _ := os.ReadDir(dir)
		for range 1000 {
			for _, task := range tasks {
				comm, _ := os.ReadFile(filepath.Join(dir, task.Name(), "comm"))
				if !strings.HasPrefix(string(comm), prefix) {
					continue
				}
				tid, _ := strconv.Atoi(task.Name())
				if unix.PtraceSeize(tid) != nil {
					continue
				}
				var ws unix.WaitStatus
				if unix.PtraceInterrupt(tid) == nil {
					if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err == nil && ws.Stopped() {
						// Number, then the arguments in hex; the fourth is the limit.
						call, _ := os.ReadFile(filepath.Join(dir, task.Name(), "syscall"))
						if words := strings.Fields(string(call)); len(words) > 4 && strings.HasSuffix(words[4], "ffffffff") {
							found <- strings.TrimSpace(string(comm))
							<-done
							unix.PtraceDetach(tid)
							return
						}
					}
				}
				unix.PtraceDetach(tid)
			}
			time.Sleep(5 * time.Millisecond)
		}
		close(found)
	}()
	name, ok := <-found
	if !ok {
		g.h.t.Fatalf("no idle thread %s* to stop", prefix)
	}
	release := sync.OnceFunc(func() { close(done); <-released })
	g.h.t.Cleanup(release)
	return stopped{name, release}
}

// TestStuckWorker stops the one of four worker threads that is on duty: it is named
// everywhere, the others carry everything, and all is well once it runs again.
func TestStuckWorker(t *testing.T) {
	need(t)
	a, b := underlay(t)
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24", "--workers", "4")
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	a.neighbour("gnv0", "192.0.2.2", b.mac("gnv0"))
	b.neighbour("gnv0", "192.0.2.1", a.mac("gnv0"))
	const n = 64
	f := newFlows(t, b, "192.0.2.2:0", a, "192.0.2.1:9000", n)
	within(t, 10*time.Second, "all flows arrive", func() bool {
		number := f.round()
		return soon(time.Second, func() bool { return len(f.arrived(number)) == n })
	})
	if code, body := g.get("/readyz"); code != 200 {
		t.Fatalf("readyz before: %d %s", code, body)
	}

	thread := g.stopIdle("gvtep-w")
	worker := strings.TrimPrefix(thread.name, "gvtep-w")
	fault := "worker " + worker + " is stuck\n"
	for _, path := range []string{"/readyz", "/healthz"} {
		within(t, 20*time.Second, path+" is 503", func() bool { code, _ := g.get(path); return code == 503 })
		if _, body := g.get(path); body != fault {
			t.Errorf("%s: %q, want %q", path, body, fault)
		}
	}
	stdout, stderr, code := a.run(10*time.Second, g.binary, "-i", g.instance, "status")
	if code != 2 || !strings.Contains(stdout, strings.TrimSpace(fault)) || !oneLine(stderr) {
		t.Errorf("gvtep status: exit status %d, want 2, and the worker named: %s%s", code, stdout, stderr)
	}
	_, text := g.get("/metrics")
	for _, want := range []string{"gvtep_ready 0\n", `gvtep_worker_stuck{worker="` + worker + `"} 1` + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics: no %s", want)
		}
	}
	if strings.Count(text, "gvtep_worker_stuck{") != 4 || strings.Count(text, "} 1\n") == 0 {
		t.Error("metrics: want a gvtep_worker_stuck for each of 4 workers")
	}
	// It had nothing in hand, and all that comes the others take.
	for range 20 {
		number := f.round()
		if !soon(2*time.Second, func() bool { return len(f.arrived(number)) == n }) {
			t.Fatalf("only flows %v of %d arrive", f.arrived(number), n)
		}
		time.Sleep(150 * time.Millisecond) // longer than a worker stays on duty that is not needed
	}
	_, stderr, code = a.run(10*time.Second, g.binary, "-i", g.instance, "tunnel", "set", "gnv0", "ttl", "9")
	if code != 2 || !strings.Contains(stderr, "is stuck") {
		t.Errorf("a change meanwhile: exit status %d, want 2: %s", code, stderr)
	}

	thread.release()
	within(t, 20*time.Second, "readyz is 200 again", func() bool { code, _ := g.get("/readyz"); return code == 200 })
	within(t, 10*time.Second, "all flows arrive again", func() bool {
		number := f.round()
		return soon(time.Second, func() bool { return len(f.arrived(number)) == n })
	})
	a.ok(10*time.Second, g.binary, "-i", g.instance, "tunnel", "set", "gnv0", "ttl", "9")
	a.ok(10*time.Second, g.binary, "-i", g.instance, "status")
}

// TestDeviceHealth: one of two devices is set down, up, and deleted.
func TestDeviceHealth(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	config := filepath.Join(t.TempDir(), "two.toml")
	port := a.freePort()
	err := os.WriteFile(config, []byte(fmt.Sprintf(`[metrics]
listen = "%d"
[defaults]
remote = "10.77.0.2"
[[tunnel]]
name = "gnv0"
id = 1
[[tunnel]]
name = "gnv1"
id = 2
[[tunnel]]
name = "gnv2"
id = 3
up = false
`, port)), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	g := a.configured("gnv0", config)
	// The listener is in the host's namespace.
	client := a.client()
	ask := func(path string) (int, string) {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	check := func(when string, code int, body string, up string) {
		t.Helper()
		for _, path := range []string{"/readyz", "/healthz"} {
			within(t, 10*time.Second, fmt.Sprintf("%s: %s %d %q", when, path, code, body), func() bool {
				c, b := ask(path)
				return c == code && b == body
			})
			if c, b := g.get(path); c != code || b != body {
				t.Errorf("%s: %s on the control socket: %d %q", when, path, c, b)
			}
		}
		if _, text := ask("/metrics"); !strings.Contains(text, `gvtep_tunnel_up{device="gnv0",vni="1"} `+up+"\n") {
			t.Errorf("%s: gvtep_tunnel_up is not %s", when, up)
		}
	}
	check("at first", 200, "ok\n", "1")
	a.must("down", a.nl.LinkSetDown(a.link("gnv0")))
	check("set down", 503, "device gnv0 is down\n", "0")
	a.up("gnv0")
	check("set up", 200, "ok\n", "1")
	a.must("delete", a.nl.LinkDel(a.link("gnv0")))
	check("deleted", 503, "device gnv0 was deleted\n", "0")
	if c, _ := ask("/v1/status"); c != http.StatusNotFound {
		t.Errorf("/v1/status on the metrics listener: %d, want 404", c)
	}
	// Another that wants the same address.
	_, stderr, code := a.run(10*time.Second, g.binary, "-i", newInstance(), "run", "gnv9", "--id", "9", "--remote", "10.77.0.2",
		"--dstport", "7000", "--metrics", fmt.Sprint(port))
	if code != 2 || !strings.Contains(stderr, "address already in use; take another port") || a.has("gnv9") {
		t.Errorf("a second one: exit status %d, %s", code, stderr)
	}
}

// freePort is a TCP port of the host's loopback that nobody has.
func (h *host) freePort() int {
	h.t.Helper()
	l := h.listenTCP("127.0.0.1:0")
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// client asks from within the host's namespace.
func (h *host) client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (c net.Conn, err error) {
		err = h.try(func() error {
			c, err = net.DialTimeout(network, address, 5*time.Second)
			return err
		})
		return c, err
	}}}
}

// series are the names of a scrape with the labels that each has.
type series map[string]map[string]bool

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)(?:\{(.*)\})? ([^ ]+)$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)
)

func parseSeries(t *testing.T, text string) series {
	t.Helper()
	all := series{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); strings.HasPrefix(line, "#") {
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("no sample: %q", line)
		}
		if all[m[1]] == nil {
			all[m[1]] = map[string]bool{}
		}
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			all[m[1]][l[1]] = true
		}
	}
	return all
}

// sample is the value of one series of a scrape, -1 if there is none.
func sample(text, name string) int {
	_, rest, ok := strings.Cut("\n"+text, "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if !ok || err != nil {
		return -1
	}
	return int(n)
}

// TestMetrics compares metrics with what was sent, and all that the alerts and
// the dashboard ask for with what there is.
func TestMetrics(t *testing.T) {
	need(t)
	a, b := underlay(t)
	socket := filepath.Join(t.TempDir(), "metrics.sock")
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24", "--metrics", "unix:"+socket, "--fastpath", "off", "--bfd", "on") // the ordinary way is what is counted here
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	a.neighbour("gnv0", "192.0.2.2", b.mac("gnv0"))
	b.neighbour("gnv0", "192.0.2.1", a.mac("gnv0"))
	over := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }}}
	scrape := func() string {
		t.Helper()
		resp, err := over.Get("http://gvtep/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 {
			t.Fatalf("/metrics: %s %s", resp.Status, body)
		}
		return string(body)
	}
	const tunnel, peer = `device="gnv0",vni="42"`, `device="gnv0",peer="",remote="10.77.0.2",vni="42"`
	in := newFlows(t, b, "192.0.2.2:0", a, "192.0.2.1:9000", 10)
	out := newFlows(t, a, "192.0.2.1:0", b, "192.0.2.2:9000", 10)
	// Of each address something is known by now.
	within(t, 10*time.Second, "packets pass both ways", func() bool {
		i, o := in.round(), out.round()
		return soon(time.Second, func() bool { return len(in.arrived(i)) == 10 && len(out.arrived(o)) == 10 })
	})
	before := scrape()
	for range 10 {
		i, o := in.round(), out.round()
		within(t, 10*time.Second, "packets pass", func() bool { return len(in.arrived(i)) == 10 && len(out.arrived(o)) == 10 })
	}
	// 16 bytes of payload behind UDP, IPv4 and Ethernet headers. Nothing else
	// speaks here, but the kernel may say something of its own.
	const packets, bytes = 100, 100 * (16 + 8 + 20 + 14)
	text := scrape()
	moved := func(name string, want, spare int) {
		t.Helper()
		was, is := sample(before, name), sample(text, name)
		if was < 0 || is-was < want || is-was > want+spare {
			t.Errorf("%s went from %d to %d, want %d more", name, was, is, want)
		}
	}
	moved(`gvtep_receive_packets_total{`+tunnel+`}`, packets, 10)
	moved(`gvtep_receive_bytes_total{`+tunnel+`}`, bytes, 2000)
	moved(`gvtep_transmit_packets_total{device="gnv0",type="unicast",vni="42"}`, packets, 10)
	moved(`gvtep_transmit_bytes_total{device="gnv0",type="unicast",vni="42"}`, bytes, 2000)
	moved(`gvtep_peer_receive_packets_total{`+peer+`}`, packets, 10)
	moved(`gvtep_peer_transmit_packets_total{`+peer+`}`, packets, 20)
	moved(`gvtep_udp_receive_datagrams_total{socket="10.77.0.1:6081"}`, packets, 10)
	moved(`gvtep_udp_transmit_datagrams_total{socket="10.77.0.1"}`, packets, 20)
	moved(`gvtep_io_batch_packets_sum{path="udp_receive"}`, packets, 10)
	moved(`gvtep_io_batch_packets_sum{path="udp_transmit"}`, packets, 20)
	moved(`gvtep_io_batch_packets_sum{path="tap_receive"}`, packets, 20)
	moved(`gvtep_io_batch_packets_sum{path="tap_transmit"}`, packets, 10)
	for name, want := range map[string]int{
		`gvtep_ready`: 1, `gvtep_tunnel_up{` + tunnel + `}`: 1, `gvtep_tunnel_mtu_bytes{` + tunnel + `}`: 1450,
		`gvtep_tunnel_info{device="gnv0",dstport="6081",encap="geneve",mode="l2",netns="",vni="42"}`: 1,
		`gvtep_peer_path_mtu_bytes{remote="10.77.0.2"}`:                                              1500,
		`gvtep_fdb_max_entries{` + tunnel + `}`:                                                      4096,
		`gvtep_udp_receive_buffer_bytes{socket="10.77.0.1:6081"}`:                                    8 << 20,
		`gvtep_udp_receive_queue_overflows_total{socket="10.77.0.1:6081"}`:                           0,
		`gvtep_offload_enabled{offload="tap_vnet_hdr"}`:                                              1,
		`gvtep_offload_enabled{offload="udp_gso"}`:                                                   1,
		`gvtep_config_last_reload_successful`:                                                        1,
	} {
		if got := sample(text, name); got != want {
			t.Errorf("%s %d, want %d", name, got, want)
		}
	}
	if last := sample(text, `gvtep_peer_last_receive_timestamp_seconds{`+peer+`}`); time.Since(time.Unix(int64(last), 0)) > time.Minute {
		t.Errorf("peer last heard at %d, want just now", last)
	}
	if n := sample(text, `gvtep_log_messages_total{level="info"}`); n < 1 {
		t.Errorf("%d messages at level info, want that it is ready", n)
	}

	if problems, err := promlint.New(strings.NewReader(text)).Lint(); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	// Nothing here has options or rules for them, of which TestOptions and TestSendRules have the
	// metrics, and of the fast path TestFastPath has them.
	golden, err := os.ReadFile("../../cmd/internal/metrics/testdata/output.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := parseSeries(t, text)
	for name, labels := range parseSeries(t, string(golden)) {
		if strings.HasPrefix(name, "gvtep_option_") || strings.HasPrefix(name, "gvtep_send_rule_") || strings.HasPrefix(name, "gvtep_fastpath_") {
			continue
		}
		for label := range labels {
			if !all[name][label] {
				t.Errorf("%s has no label %s in the real output", name, label)
			}
		}
		if all[name] == nil {
			t.Errorf("%s is not in the real output", name)
		}
	}
	if cli := a.ok(5*time.Second, g.binary, "-i", g.instance, "metrics"); len(parseSeries(t, cli)) != len(all) {
		t.Errorf("gvtep metrics: %d names, want %d", len(parseSeries(t, cli)), len(all))
	}
	checkFiles(t, all)
}

// What a query of PromQL names.
var (
	inQuotes    = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	metricName  = regexp.MustCompile(`\b(?:gvtep|process|go)_[a-z0-9_]+`)
	selector    = regexp.MustCompile(`([a-z0-9_]+)\{([^}]*)\}`)
	matcherName = regexp.MustCompile(`([a-zA-Z_]+) *(?:=~|!~|!=|=)`)
	grouping    = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right) *\(([^)]*)\)`)
	template    = regexp.MustCompile(`\$labels\.([a-z_]+)`)
)

// targetLabels are added by Prometheus.
var targetLabels = map[string]bool{"instance": true, "job": true}

// checkFiles holds alerts and dashboard to what a gvtep really tells.
func checkFiles(t *testing.T, all series) {
	t.Helper()
	check := func(where, query string, templates ...string) {
		t.Helper()
		bare := inQuotes.ReplaceAllString(query, `""`)
		for _, pair := range []string{"()", "{}", "[]"} {
			if strings.Count(bare, pair[:1]) != strings.Count(bare, pair[1:]) {
				t.Errorf("%s: %s do not fit: %s", where, pair, query)
			}
		}
		known, named := map[string]bool{}, metricName.FindAllString(bare, -1)
		if len(named) == 0 {
			t.Errorf("%s: no metric in %s", where, query)
		}
		for _, name := range named {
			if all[name] == nil {
				t.Errorf("%s: gvtep has no metric %s", where, name)
			}
			for label := range all[name] {
				known[label] = true
			}
		}
		for _, s := range selector.FindAllStringSubmatch(bare, -1) {
			for _, m := range matcherName.FindAllStringSubmatch(s[2], -1) {
				if !all[s[1]][m[1]] && !targetLabels[m[1]] {
					t.Errorf("%s: %s has no label %s", where, s[1], m[1])
				}
			}
		}
		var used []string
		for _, g := range grouping.FindAllStringSubmatch(bare, -1) {
			used = append(used, strings.FieldsFunc(g[1], func(r rune) bool { return r == ',' || r == ' ' })...)
		}
		for _, text := range templates {
			for _, m := range template.FindAllStringSubmatch(text, -1) {
				used = append(used, m[1])
			}
			for _, m := range regexp.MustCompile(`\{\{ *([a-z_]+) *\}\}`).FindAllStringSubmatch(text, -1) {
				used = append(used, m[1])
			}
		}
		for _, label := range used {
			if !known[label] && !targetLabels[label] {
				t.Errorf("%s: nothing in it has a label %s: %s", where, label, query)
			}
		}
	}

	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	text, err := os.ReadFile("../../scripts/monitoring/gvtep.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	dec.KnownFields(true)
	if err := dec.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	var alerts []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts = append(alerts, r.Alert)
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %q: want a name, a severity, a summary and a description", r.Alert)
			}
			if d, err := time.ParseDuration(r.For); r.For != "" && (err != nil || d <= 0) {
				t.Errorf("alert %s: for %s", r.Alert, r.For)
			}
			check(r.Alert, r.Expr, r.Annotations["summary"], r.Annotations["description"])
		}
	}
	for _, want := range []string{"NotReady", "WorkerStuck", "PeerSilent", "PeerRefused", "UnknownVNI", "UnknownPeer", "SendRefused", "TooBig", "ReceiveOverflows", "TableNearlyFull", "ReloadFailed"} {
		if !slices.Contains(alerts, "Gvtep"+want) {
			t.Errorf("no alert Gvtep%s among %v", want, alerts)
		}
	}

	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name  string
				Type  string
				Query any
			}
		}
	}
	if text, err = os.ReadFile("../../scripts/monitoring/dashboard.json"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if len(board.Panels) == 0 {
		t.Error("the dashboard has no panels")
	}
	for _, p := range board.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			check(p.Title, target.Expr, target.LegendFormat)
		}
	}
	for _, v := range board.Templating.List {
		if q, ok := v.Query.(map[string]any); ok {
			check("variable "+v.Name, fmt.Sprint(q["query"]))
		}
	}
}

// memory is a figure of /proc/PID/status in bytes, such as VmHWM.
func (g *gvtep) memory(name string) int {
	g.h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); words[0] == name+":" {
			n, _ := strconv.Atoi(words[1])
			return n << 10
		}
	}
	g.h.t.Fatalf("no %s in /proc/PID/status", name)
	return 0
}

// TestControlSiege: 1,000 clients at once ask for half of something, do not
// read what they asked for, or have names of 64 KiB. The tunnel loses nothing,
// the limits hold, and afterwards all is as before.
func TestControlSiege(t *testing.T) {
	need(t)
	a, b := underlay(t)
	var text strings.Builder
	text.WriteString("[[tunnel]]\nname = \"gnv0\"\nid = 42\nlocal = \"10.77.0.1\"\nremote = \"10.77.0.2\"\naddress = \"192.0.2.1/24\"\n")
	// So many that an answer does not fit into a socket's buffer.
	for i := range 5000 {
		fmt.Fprintf(&text, "[[tunnel.fdb]]\nlladdr = \"02:00:00:01:%02x:%02x\"\ndst = \"10.77.0.2\"\n", i>>8, i&0xff)
	}
	config := filepath.Join(t.TempDir(), "siege.toml")
	if err := os.WriteFile(config, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	g := a.configured("gnv0", config)
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	a.neighbour("gnv0", "192.0.2.2", b.mac("gnv0"))
	b.neighbour("gnv0", "192.0.2.1", a.mac("gnv0"))
	in := newFlows(t, b, "192.0.2.2:0", a, "192.0.2.1:9000", 2)
	out := newFlows(t, a, "192.0.2.1:0", b, "192.0.2.2:9000", 2)
	within(t, 10*time.Second, "packets pass both ways", func() bool {
		i, o := in.round(), out.round()
		return soon(time.Second, func() bool { return len(in.arrived(i)) == 2 && len(out.arrived(o)) == 2 })
	})
	first := in.next + 1
	firstOut := out.next + 1
	fds, rss := g.descriptors(), g.memory("VmRSS")

	const clients = 1000
	name := strings.Repeat("n", 64<<10)
	body := fmt.Sprintf(`{"name":"%s","keywords":["id","5","remote","%s"]}`, name, name)
	requests := []string{
		"GET /v1/status HTTP/1.1\r\nHost: gvtep\r\nX-Half: ", // never goes on
		"GET /v1/fdb HTTP/1.1\r\nHost: gvtep\r\n\r\n",        // never reads
		fmt.Sprintf("POST /v1/tunnels HTTP/1.1\r\nHost: gvtep\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		"GET /v1/tunnels/" + name + " HTTP/1.1\r\nHost: gvtep\r\n\r\n",
		"POST /v1/tunnels HTTP/1.1\r\nHost: gvtep\r\nContent-Length: 1000000\r\n\r\n{", // half a body
		"PUT /v1/log/level HTTP/1.1\r\nHost: gvtep\r\nContent-Length: 100\r\n\r\n",
	}
	socket := filepath.Join(runDir(g.instance), "control.sock")
	over := make(chan struct{})
	var besiegers, pacing sync.WaitGroup
	var codes sync.Map // status lines: how often
	for i := range clients {
		besiegers.Go(func() {
			for {
				conn, err := net.Dial("unix", socket)
				if err == nil {
					conn.SetDeadline(time.Now().Add(8 * time.Second))
					kind := i % len(requests)
					io.WriteString(conn, requests[kind])
					if kind == 1 {
						select {
						case <-over:
						case <-time.After(3 * time.Second):
						}
					} else {
						line := make([]byte, 12)
						n, _ := io.ReadFull(conn, line)
						codes.Store(string(line[:n]), kind)
					}
					conn.Close()
				}
				select {
				case <-over:
					return
				case <-time.After(500 * time.Millisecond):
				}
			}
		})
	}
	most := 0
	pacing.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for range 4000 { // 8 s: longer than any time-out for what is half
			<-tick.C
			in.round()
			out.round()
			if in.next%100 == 0 {
				most = max(most, g.descriptors())
			}
		}
	})
	pacing.Wait()
	close(over)
	besiegers.Wait()

	lost := func(f *flows, from uint64) (n int) {
		for number := from; number <= f.next; number++ {
			n += len(f.send) - len(f.arrived(number))
		}
		return n
	}
	soon(5*time.Second, func() bool { return lost(in, first)+lost(out, firstOut) == 0 })
	if i, o := lost(in, first), lost(out, firstOut); i+o > 0 {
		t.Errorf("lost %d of %d packets in, %d of %d out; want none", i, 2*(in.next-first+1), o, 2*(out.next-firstOut+1))
	}
	// 64 clients, and what opens a moment before it is turned away.
	if grown := most - fds; grown > 64+16 {
		t.Errorf("%d descriptors more than before, want at most 80", grown)
	}
	peak := g.memory("VmHWM")
	if grown := peak - rss; grown > 128<<20 {
		t.Errorf("memory grew by %d MiB, want at most 128", grown>>20)
	}
	if _, ok := codes.Load("HTTP/1.1 503"); !ok {
		t.Error("nobody was turned away: the limit was not reached")
	}
	within(t, 20*time.Second, "as many descriptors as before", func() bool { return g.descriptors() <= fds })
	a.ok(10*time.Second, g.binary, "-i", g.instance, "status")
	if text := a.ok(10*time.Second, g.binary, "-i", g.instance, "fdb", "show"); strings.Count(text, "\n") < 5000 {
		t.Errorf("%d entries shown afterwards, want 5000", strings.Count(text, "\n"))
	}
	if n := len(g.stderr.String()); n > 64<<10 {
		t.Errorf("%d bytes logged, want a few lines", n)
	}
	if code, body := g.get("/readyz"); code != 200 {
		t.Errorf("readyz afterwards: %d %s", code, body)
	}
	t.Logf("%d clients: %d packets each way, none lost; %d MiB at most, %d before; %d descriptors at most, %d before",
		clients, 2*(in.next-first+1), peak>>20, rss>>20, most, fds)
}
