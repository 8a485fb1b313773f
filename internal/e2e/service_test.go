package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What gvtep and the service manager of systemd_test.go make of each other.
//
//	a  a service                    b  pings
//	gnv0 192.0.2.1/24               gnv0 192.0.2.2/24

// plainWords are those of the tunnel on a.
var plainWords = []string{"gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24", "--lladdr", "02:00:00:00:0a:01"}

// serviceLab is a service on a, ready, and the other end on b.
func serviceLab(t *testing.T, m *manager, extra ...string) (a, b *host, g *gvtep) {
	t.Helper()
	need(t, "ping")
	a, b = underlay(t)
	g = m.service(a, nil, built(t), newInstance(), "gnv0", append(slices.Clone(plainWords), extra...)...)
	m.await(0, 10*time.Second, "READY=1")
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	b.ok(5*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.1")
	return a, b, g
}

// reaches pings a from b.
func reaches(t *testing.T, b *host) {
	t.Helper()
	b.ok(10*time.Second, "ping", "-q", "-n", "-c", "3", "-i", "0.05", "-W", "3", "192.0.2.1")
}

// client runs a gvtep command about the instance.
func (g *gvtep) client(args ...string) string {
	g.h.t.Helper()
	return g.h.ok(10*time.Second, g.binary, append([]string{"-i", g.instance}, args...)...)
}

// TestServiceKill: after SIGKILL the next process goes on with the device, the
// sockets and what the memory had.
func TestServiceKill(t *testing.T) {
	m := newManager(t)
	a, b, g := serviceLab(t, m)
	index, inodes := a.index("gnv0"), a.udpInodes(6081)
	const pings = 1500
	p := b.start(nil, "ping", "-q", "-n", "-i", "0.002", "-c", strconv.Itoa(pings), "-W", "10", "192.0.2.1")
	for range 2 {
		time.Sleep(500 * time.Millisecond)
		g.cmd.Process.Signal(syscall.SIGKILL)
		<-g.done
		mark := m.mark()
		g = m.service(a, nil, g.binary, g.instance, "gnv0", plainWords...)
		m.await(mark, 10*time.Second, "READY=1")
	}
	if _, err := p.wait(30 * time.Second); err != nil {
		t.Fatalf("ping: %v", err)
	}
	// What the process had just read dies with it.
	if lost := pings - received4(t, p.stdout.String()); lost > 5 {
		t.Errorf("%d of %d pings lost, want 5 at most", lost, pings)
	}
	if now := a.index("gnv0"); now != index {
		t.Errorf("ifindex %d, was %d", now, index)
	}
	if now := a.udpInodes(6081); !slices.Equal(now, inodes) {
		t.Errorf("inodes of the receive sockets %s, were %s", now, inodes)
	}
}

// TestServiceStore: the store follows what is open, and the number of workers.
func TestServiceStore(t *testing.T) {
	m := newManager(t)
	a, b, g := serviceLab(t, m, "--workers", "2")
	stores := func(want string) {
		t.Helper()
		if !soon(5*time.Second, func() bool { return strings.Join(m.names(), " ") == want }) {
			t.Fatalf("stored: %q, want %q", m.names(), want)
		}
	}
	stores("tap.gnv0.0 tap.gnv0.1 tapw.gnv0.0 tapw.gnv0.1 udp.0 udp.1")
	g.client("tunnel", "add", "gnv1", "id", "43", "remote", "10.77.0.2", "dstport", "6082", "persist", "on")
	stores("tap.gnv0.0 tap.gnv0.1 tap.gnv1.0 tap.gnv1.1 tapw.gnv0.0 tapw.gnv0.1 tapw.gnv1.0 tapw.gnv1.1 udp.0 udp.1 udp.2 udp.3")
	g.client("tunnel", "del", "gnv1")
	stores("tap.gnv0.0 tap.gnv0.1 tapw.gnv0.0 tapw.gnv0.1 udp.0 udp.1")
	if n := len(a.udpInodes(6082)); n != 0 {
		t.Errorf("%d sockets still hold port 6082", n)
	}
	a.ok(5*time.Second, "ip", "tuntap", "del", "dev", "gnv1", "mode", "tap", "multi_queue") // fails while somebody has a queue
	g.client("tunnel", "add", "gnv1", "id", "43", "remote", "10.77.0.2", "dstport", "6082")
	stores("tap.gnv0.0 tap.gnv0.1 tap.gnv1.0 tap.gnv1.1 tapw.gnv0.0 tapw.gnv0.1 tapw.gnv1.0 tapw.gnv1.1 udp.0 udp.1 udp.4 udp.5")

	// What was made by hand is not configured, so it goes with a restart.
	index, inodes := a.index("gnv0"), a.udpInodes(6081)
	g = m.restart(g, nil, g.binary, append(slices.Clone(plainWords), "--workers", "2")...)
	stores("tap.gnv0.0 tap.gnv0.1 tapw.gnv0.0 tapw.gnv0.1 udp.0 udp.1")
	if a.has("gnv1") {
		t.Error("gnv1 is still there")
	}
	for _, workers := range []int{1, 3, 2} {
		g = m.restart(g, nil, g.binary, append(slices.Clone(plainWords), "--workers", strconv.Itoa(workers))...)
		reaches(t, b)
		if now := a.index("gnv0"); now != index {
			t.Errorf("with %d workers: ifindex %d, was %d", workers, now, index)
		}
		sockets := a.udpInodes(6081)
		if len(sockets) != workers || !slices.ContainsFunc(sockets, func(inode string) bool { return slices.Contains(inodes, inode) }) {
			t.Errorf("with %d workers: receive sockets %s, want as many, and of %s that stay", workers, sockets, inodes)
		}
		inodes = sockets
		queues := a.ok(5*time.Second, "ip", "-d", "link", "show", "gnv0")
		if want := fmt.Sprintf("numqueues %d numdisabled %d ", workers, workers); !strings.Contains(queues, want) {
			t.Errorf("with %d workers: no %q in %s", workers, want, queues)
		}
		if n := len(m.names()); n != 3*workers {
			t.Errorf("with %d workers: stored are %s", workers, m.names())
		}
		udpStream(t, a, b, "192.0.2.2:7000", 4<<20) // in order, also with queues that were kept
	}
}

// TestServiceNoRoom: a store that is too small is named with the size it needs,
// and all goes on without it.
func TestServiceNoRoom(t *testing.T) {
	for _, room := range []int{0, 3} {
		t.Run(fmt.Sprint(room), func(t *testing.T) {
			m := newManager(t)
			m.max = room
			_, b, g := serviceLab(t, m, "--workers", "2")
			within(t, 5*time.Second, "a line that names FileDescriptorStoreMax= and 7", func() bool {
				return strings.Contains(g.stderr.String(), "FileDescriptorStoreMax= should be 7 or more")
			})
			m.restart(g, nil, g.binary, append(slices.Clone(plainWords), "--workers", "2")...)
			reaches(t, b)
		})
	}
}

// TestServiceChanged: what is configured otherwise at the next start, is so
// then, and what somebody else has set stays.
func TestServiceChanged(t *testing.T) {
	m := newManager(t)
	a, b, g := serviceLab(t, m)
	a.ok(5*time.Second, "ip", "link", "add", "br0", "type", "bridge")
	a.address("gnv0", "198.51.100.7/32", "192.0.2.77/24")
	index := a.index("gnv0")

	g = m.restart(g, nil, g.binary, "gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2",
		"--address", "192.0.2.9/24", "--lladdr", "02:00:00:00:0a:01", "--master", "br0")
	if a.hasAddress("gnv0", "192.0.2.1/24") || !a.hasAddress("gnv0", "192.0.2.9/24") || !a.hasAddress("gnv0", "198.51.100.7/32") || !a.hasAddress("gnv0", "192.0.2.77/24") {
		t.Error("addresses: want 192.0.2.9/24 instead of 192.0.2.1/24, and 198.51.100.7/32 and 192.0.2.77/24 as they were")
	}
	if l := a.link("gnv0").Attrs(); l.MasterIndex != a.index("br0") || l.Index != index {
		t.Errorf("master %d, ifindex %d; want %d, %d", l.MasterIndex, l.Index, a.index("br0"), index)
	}
	// Another way to be listened on, with the same port.
	g = m.restart(g, nil, g.binary, "gnv0", "--id", "42", "--remote", "10.77.0.2", "--address", "192.0.2.1/24")
	reaches(t, b)
	if l := a.link("gnv0").Attrs(); l.MasterIndex != 0 || l.Index != index {
		t.Errorf("master %d, ifindex %d; want none, %d", l.MasterIndex, l.Index, index)
	}
	// Another device under the same name.
	g = m.restart(g, nil, g.binary, "gnv0", "--id", "42", "--mode", "l3", "--remote", "10.77.0.2", "--address", "192.0.2.1/24")
	if now := a.index("gnv0"); now == index || !strings.Contains(g.stderr.String(), "not a tun") {
		t.Errorf("ifindex %d is that of the TAP, or nothing says why not:\n%s", now, g.stderr.String())
	}
	// A device that was deleted meanwhile.
	g.stop()
	a.ok(5*time.Second, "ip", "link", "del", "gnv0")
	mark := m.mark()
	g = m.service(a, nil, g.binary, g.instance, "gnv0", plainWords...)
	m.await(mark, 10*time.Second, "READY=1")
	reaches(t, b)
	// A start that fails leaves what was kept, for the one after it.
	index, names := a.index("gnv0"), m.names()
	g.stop()
	failed := m.service(a, nil, g.binary, g.instance, "gnv0", append(slices.Clone(plainWords), "--master", "lo")...)
	if code, err := failed.wait(5 * time.Second); err != nil || code != 2 {
		t.Errorf("a TAP in lo: exit status %d, %v; want 2", code, err)
	}
	if now := m.names(); !slices.Equal(now, names) {
		t.Errorf("after a failed start %s are stored, before it %s", now, names)
	}
	mark = m.mark()
	m.service(a, nil, g.binary, g.instance, "gnv0", plainWords...)
	m.await(mark, 10*time.Second, "READY=1")
	reaches(t, b)
	if now := a.index("gnv0"); now != index {
		t.Errorf("after a failed start: ifindex %d, was %d", now, index)
	}
}

// TestServiceWatchdog: fed while all workers make progress, and not while one
// of them is stopped and the rest of the process runs.
func TestServiceWatchdog(t *testing.T) {
	m := newManager(t)
	m.watchdog = 2 * time.Second
	_, _, g := serviceLab(t, m, "--workers", "2")
	feeds := func(within time.Duration) bool {
		mark := m.mark()
		return soon(within, func() bool { said, _ := m.heard(mark); return slices.Contains(said, "WATCHDOG=1") })
	}
	if !feeds(10 * time.Second) {
		t.Fatal("the watchdog is not fed")
	}
	var thread int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", g.cmd.Process.Pid))
	for _, task := range tasks {
		if name, _ := os.ReadFile(task + "/comm"); string(name) == "gvtep-w1\n" {
			thread, _ = strconv.Atoi(filepath.Base(task))
		}
	}
	if thread == 0 {
		t.Fatal("no thread is called gvtep-w1")
	}
	stopped, goOn, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // the tracer is a thread; its end is that of the tracing
		const seize, interrupt = 0x4206, 0x4207
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, seize, uintptr(thread), 0, 0, 0, 0)
		if errno == 0 {
			_, _, errno = unix.Syscall6(unix.SYS_PTRACE, interrupt, uintptr(thread), 0, 0, 0, 0)
		}
		if errno != 0 {
			stopped <- errno
			return
		}
		_, err := unix.Wait4(thread, nil, unix.WALL, nil)
		stopped <- err
		<-goOn
		unix.PtraceDetach(thread)
	}()
	if err := <-stopped; err != nil {
		t.Fatalf("ptrace: %v", err)
	}
	// One or two may be under way. A manager waits for 2 s.
	if !soon(20*time.Second, func() bool { return !feeds(5 * time.Second) }) {
		t.Error("the watchdog is fed while a worker is stopped")
	}
	g.client("version") // the rest of it runs
	var s statusAnswer
	if err := g.ask("/v1/status", &s); err != nil || s.Ready {
		t.Errorf("status while a worker is stopped: %v, ready %t", err, s.Ready)
	}
	close(goOn)
	<-ended
	if !feeds(10 * time.Second) {
		t.Error("the watchdog is not fed again after the worker continues")
	}
}

// TestServiceReload: a reload is announced, and its end, whether it works or not.
func TestServiceReload(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	m := newManager(t)
	path := filepath.Join(t.TempDir(), "gvtep.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const first = "[[tunnel]]\nname = \"gnv0\"\nid = 42\nremote = \"10.77.0.2\"\n"
	write(first)
	g := m.service(a, nil, built(t), newInstance(), "gnv0", "--config", path)
	m.await(0, 10*time.Second, "READY=1")
	reloaded := func(what func()) []string {
		t.Helper()
		mark := m.mark()
		what()
		m.await(mark, 5*time.Second, "READY=1")
		said, _ := m.heard(mark)
		at := slices.Index(said, "RELOADING=1")
		if at < 0 || at+1 >= len(said) || !strings.HasPrefix(said[at+1], "MONOTONIC_USEC=") || slices.Index(said, "READY=1") < at {
			t.Errorf("the service manager heard %q; want RELOADING=1, MONOTONIC_USEC=, READY=1", said)
		}
		return said
	}
	write(first + "[[tunnel]]\nname = \"gnv1\"\nid = 43\nremote = \"10.77.0.2\"\n")
	mark := m.mark()
	reloaded(func() { g.client("reload") })
	m.await(mark, 5*time.Second, "STATUS=2 tunnels up, 0 of 2 peers heard")
	write("nonsense")
	said := reloaded(func() { g.cmd.Process.Signal(syscall.SIGHUP) })
	if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "STATUS=not reloaded: ") }) {
		t.Errorf("the status does not say that the reload failed: %q", said)
	}
	write(first + "[[tunnel]]\nname = \"gnv1\"\nid = 43\nremote = \"10.77.0.2\"\n")
	mark = m.mark()
	reloaded(func() { g.client("reload") })
	m.await(mark, 5*time.Second, "STATUS=2 tunnels up, 0 of 2 peers heard") // no longer that of the failure
}

// TestServiceMemory: the table is there again with its ages after a restart,
// and what is broken or from elsewhere is passed over.
func TestServiceMemory(t *testing.T) {
	m := newManager(t)
	a, b, g := serviceLab(t, m)
	g.client("fdb", "add", "02:00:00:00:00:01", "dev", "gnv0", "dst", "10.77.0.2", "static")
	g.client("fdb", "add", "02:00:00:00:00:02", "dev", "gnv0", "dst", "10.77.0.9", "dynamic", "extern_learn")
	g.client("fdb", "add", "02:00:00:00:00:03", "dev", "gnv0", "dst", "10.77.0.2", "dynamic", "extern_learn")
	g.client("fdb", "add", "02:00:00:00:00:04", "dev", "gnv0", "local")
	there := b.mac("gnv0").String()
	// A neighbour that is not confirmed is asked after 5 s, and its answer is heard.
	a.neighbour("gnv0", "192.0.2.2", b.mac("gnv0"))
	b.neighbour("gnv0", "192.0.2.1", a.mac("gnv0"))
	type row struct {
		MAC, Dst, State string
		Flags           []string
		Updated         int
	}
	table := func() map[string]row {
		t.Helper()
		var rows []row
		if err := json.Unmarshal([]byte(g.client("-s", "-j", "fdb", "show", "dev", "gnv0")), &rows); err != nil {
			t.Fatal(err)
		}
		all := map[string]row{}
		for _, r := range rows {
			all[r.MAC] = r
		}
		return all
	}
	time.Sleep(3 * time.Second) // nothing speaks; ages are as fine as a second
	before := table()
	g = m.restart(g, nil, g.binary, plainWords...)
	after := table()
	for mac, was := range before {
		now, ok := after[mac]
		if !ok || now.Dst != was.Dst || now.State != was.State || !slices.Equal(now.Flags, was.Flags) {
			t.Errorf("%s: %+v after the restart (%t), before %+v", mac, now, ok, was)
		}
	}
	if len(after) != len(before) || len(before) != 5 {
		t.Errorf("%d entries after the restart, before %d: %+v, want 5", len(after), len(before), before)
	}
	if at := g.behind(mac{2, 0, 0, 0, 0, 4}); at != "local" {
		t.Errorf("the local entry is at %q after the restart", at)
	}
	if r := after[there]; r.Updated < 2 {
		t.Errorf("%s was updated %d s ago: its age is lost", there, r.Updated)
	}
	// Another VNI is another segment.
	g = m.restart(g, nil, g.binary, slices.Replace(slices.Clone(plainWords), 2, 3, "43")...)
	if _, ok := table()[there]; ok {
		t.Errorf("%s is known in another VNI", there)
	}
	for _, text := range []string{`{"Version":1,`, `{"Version":99}`, `{"Version":1,"Saved":9000000000000000000}`} {
		g.stop()
		if err := os.WriteFile(filepath.Join(runDir(g.instance), "memory.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		mark := m.mark()
		g = m.service(a, nil, g.binary, g.instance, "gnv0", plainWords...)
		m.await(mark, 10*time.Second, "READY=1")
		if n := strings.Count(g.stderr.String(), "forwarding tables begin empty"); n != 1 {
			t.Errorf("%s: %d lines say that it is not used, want 1:\n%s", text, n, g.stderr.String())
		}
		reaches(t, b)
	}
}

// TestServiceLateUnderlay: a local address and a device that come later are
// waited for.
func TestServiceLateUnderlay(t *testing.T) {
	need(t, "ping", "ip")
	a, b := underlay(t)
	m := newManager(t)
	b.address("veth0", "10.78.0.2/24")
	a.ok(5*time.Second, "ip", "address", "flush", "dev", "veth0", "scope", "global")
	words := []string{"gnv0", "--id", "42", "--local", "10.78.0.1", "--remote", "10.78.0.2", "--address", "192.0.2.1/24", "--master", "br9"}
	g := m.service(a, nil, built(t), newInstance(), "gnv0", words...)
	waits := func(about string) {
		t.Helper()
		within(t, 5*time.Second, "a status about "+about, func() bool {
			said, _ := m.heard(0)
			return slices.ContainsFunc(said, func(s string) bool {
				return strings.HasPrefix(s, "STATUS=waiting for the underlay: ") && strings.Contains(s, about)
			})
		})
	}
	waits("10.78.0.1")
	// Who asks meanwhile is told.
	if _, stderr, code := a.run(5*time.Second, g.binary, "-i", g.instance, "show"); code != 2 || !strings.Contains(stderr, "starting, waiting for the underlay: ") || !strings.Contains(stderr, "10.78.0.1") {
		t.Errorf("gvtep show while it waits: exit status %d, %q; want 2 and what it waits for", code, stderr)
	}
	ready := make(chan string, 1)
	go func() {
		_, stderr, code := a.run(20*time.Second, g.binary, "-i", g.instance, "wait", "gnv0", "--timeout", "15s")
		ready <- fmt.Sprint(code, stderr)
	}()
	a.address("veth0", "10.78.0.1/24")
	waits("br9")
	if said, _ := m.heard(0); slices.Contains(said, "READY=1") {
		t.Error("ready without its bridge")
	}
	a.ok(5*time.Second, "ip", "link", "add", "br9", "type", "bridge")
	a.ok(5*time.Second, "ip", "link", "set", "br9", "up")
	m.await(0, 10*time.Second, "READY=1")
	if said := <-ready; said != "0" {
		t.Errorf("gvtep wait, begun before there was an underlay: exit status %s, want 0", said)
	}
	if n := strings.Count(g.stderr.String(), "waiting for the underlay"); n != 2 {
		t.Errorf("%d lines about waiting, want 2, one for each reason", n)
	}
	// And what waits can be stopped.
	g.stop()
	a.ok(5*time.Second, "ip", "link", "del", "br9")
	mark := m.mark()
	g = m.service(a, nil, g.binary, g.instance, "gnv0", words...)
	within(t, 5*time.Second, "waiting", func() bool { _, n := m.heard(0); return n > mark && strings.Contains(g.stderr.String(), "waiting") })
	g.stop()
	// A stop ends the device too.
	m.forget()
	within(t, 5*time.Second, "the device gone", func() bool { return !a.has("gnv0") })
	// At the command line it is refused at once.
	if _, stderr, code := a.run(5*time.Second, g.binary, append([]string{"-i", g.instance, "run"}, words...)...); code != 2 || !strings.Contains(stderr, "br9") {
		t.Errorf("without a service manager: exit status %d, %q; want 2 and the bridge", code, stderr)
	}
}

// TestServiceKinds: all kinds of tunnels are gone on with.
//
//	a  gnvns (in c), gnvmc (multicast), gnvdev (bound to veth0), gnvacc (accept), gnvl3, gnv6
func TestServiceKinds(t *testing.T) {
	need(t)
	a, b := underlay(t)
	c := newHost(t, "c")
	thread := 0
	c.do(func() error { thread = unix.Gettid(); return nil })
	path := filepath.Join(t.TempDir(), "gvtep.toml")
	text := fmt.Sprintf(`
[socket]
workers = 2
[[tunnel]]
name = "gnvns"
id = 1001
remote = "10.77.0.2"
netns = "/proc/%d/task/%d/ns/net"
address = "192.0.2.1/24"
[[tunnel]]
name = "gnvmc"
id = 1002
group = "239.1.1.1"
dev = "veth0"
dstport = 6082
[[tunnel]]
name = "gnvdev"
id = 1003
remote = "10.77.0.2"
dev = "veth0"
dstport = 6083
[[tunnel]]
name = "gnvacc"
id = 1004
accept = "any"
dstport = 6084
address = "192.0.2.1/24"
[[tunnel]]
name = "gnvl3"
id = 1005
mode = "l3"
remote = "fd77::2"
dstport = 6085
udp6zerocsumrx = true
[[tunnel]]
name = "gnv6"
id = 1006
remote = "fd77::2"
local = "fd77::1"
dstport = 6086
persist = true
`, os.Getpid(), thread)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m := newManager(t)
	g := m.service(a, nil, built(t), newInstance(), "gnvacc", "--config", path)
	m.await(0, 10*time.Second, "READY=1")
	// Somebody is let in, and stays let in.
	b.tunnel("gnv0", "--id", "1004", "--remote", "10.77.0.1", "--dstport", "6084", "--address", "192.0.2.2/24")
	b.ok(5*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.1")
	look := func() (all []string) {
		t.Helper()
		for _, d := range []string{"gnvmc", "gnvdev", "gnvacc", "gnvl3", "gnv6"} {
			all = append(all, fmt.Sprintf("%s is %d", d, a.index(d)))
		}
		all = append(all, fmt.Sprintf("gnvns is %d", c.index("gnvns")))
		for port := range 6 {
			all = append(all, fmt.Sprintf("port %d: %s", 6081+port, a.udpInodes(6081+port)))
		}
		groups, err := a.nl.LinkByName("veth0")
		a.must("veth0", err)
		all = append(all, fmt.Sprintf("groups: %t", strings.Contains(a.ok(5*time.Second, "ip", "maddress", "show", "dev", groups.Attrs().Name), "239.1.1.1")))
		return append(all, m.names()...)
	}
	// The kernel's list of sockets is read in pieces: one that comes or goes meanwhile,
	// such as one that asks for a route, can hide another.
	var before []string
	within(t, 10*time.Second, "two looks see the same", func() bool {
		last := before
		before = look()
		return slices.Equal(before, last)
	})
	for range 2 {
		g.stop()
		mark := m.mark()
		g = m.service(a, nil, g.binary, g.instance, "gnvacc", "--config", path)
		m.await(mark, 10*time.Second, "READY=1")
		var after []string
		if !soon(5*time.Second, func() bool { after = look(); return slices.Equal(after, before) }) {
			t.Errorf("after a restart:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
		}
		within(t, 10*time.Second, "the status knows the peer that was let in", func() bool {
			said, _ := m.heard(mark)
			return slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "STATUS=6 tunnels up, 1 of ") })
		})
	}
	b.ok(5*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.1")
	// Not where it should be: made anew where it should.
	was := c.index("gnvns")
	if err := os.WriteFile(path, []byte(strings.Replace(text, "netns = ", "#", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	g = m.restart(g, nil, g.binary, "--config", path)
	if c.has("gnvns") || !a.has("gnvns") || !strings.Contains(g.stderr.String(), "another network namespace") {
		t.Errorf("gnvns (ifindex %d) is still in c: %t, and here: %t\n%s", was, c.has("gnvns"), a.has("gnvns"), g.stderr.String())
	}
}
