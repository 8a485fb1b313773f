package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a service manager as far as gvtep can tell: it has a
// NOTIFY_SOCKET and a descriptor store, as systemd does (sd_notify(3),
// sd_pid_notify_with_fds(3), sd_listen_fds(3)).
type manager struct {
	t        *testing.T
	path     string
	max      int // FileDescriptorStoreMax=
	watchdog time.Duration

	mu    sync.Mutex
	store []stored
	said  []string // every assignment, in order
}

type stored struct {
	name string
	fd   int
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp(suite.dir, "manager-")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	m := &manager{t: t, path: filepath.Join(dir, "notify"), max: 512}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(m.path, 0o777)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		text, control := make([]byte, 1<<16), make([]byte, 4096)
		for {
			n, oob, _, _, err := c.ReadMsgUnix(text, control)
			if err != nil {
				return
			}
			m.hear(string(text[:n]), rights(control[:oob]))
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
		m.forget()
	})
	return m
}

// rights are the descriptors in a control message.
func rights(control []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

// hear does what one message asks for.
func (m *manager) hear(text string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	m.said = append(m.said, lines...)
	name := ""
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, "FDNAME="); ok {
			name = v
		}
	}
	switch {
	case slices.Contains(lines, "FDSTORE=1"):
		for _, fd := range fds {
			if len(m.store) >= m.max {
				unix.Close(fd)
				continue
			}
			unix.CloseOnExec(fd)
			m.store = append(m.store, stored{name, fd})
		}
		return
	case slices.Contains(lines, "FDSTOREREMOVE=1"):
		m.store = slices.DeleteFunc(m.store, func(s stored) bool {
			if s.name == name {
				unix.Close(s.fd)
			}
			return s.name == name
		})
	}
	for _, fd := range fds { // a barrier's, too
		unix.Close(fd)
	}
}

// forget drops all that is stored, as systemd does when a service is stopped.
func (m *manager) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.store {
		unix.Close(s.fd)
	}
	m.store = nil
}

// names are those of all queues and sockets that are stored, sorted.
func (m *manager) names() []string {
	return slices.DeleteFunc(m.all(), func(name string) bool { return strings.HasPrefix(name, fastPrefix) })
}

// fastPrefix begins the names of what a fast path has stored.
const fastPrefix = "fast."

// all are the names of all that is stored, sorted.
func (m *manager) all() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.store {
		names = append(names, s.name)
	}
	slices.Sort(names)
	return names
}

// heard returns what was said since a mark, and a mark for the next time.
func (m *manager) heard(since int) ([]string, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.said[since:]), len(m.said)
}

// mark is where the next message will be.
func (m *manager) mark() int {
	_, n := m.heard(0)
	return n
}

// await waits until something is said after a mark.
func (m *manager) await(since int, timeout time.Duration, what string) {
	m.t.Helper()
	if !soon(timeout, func() bool { said, _ := m.heard(since); return slices.Contains(said, what) }) {
		said, _ := m.heard(since)
		m.t.Fatalf("after %s the service manager has not heard %s, only %q", timeout, what, said)
	}
}

// service runs gvtep as the main process of a service, by the words of prefix.
func (m *manager) service(h *host, prefix []string, binary, instance, dev string, words ...string) *gvtep {
	h.t.Helper()
	g := newClient(h, binary, instance, dev)
	m.mu.Lock()
	// The last first, as systemd does: nothing may depend on the order.
	var names []string
	var files []*os.File
	for _, s := range slices.Backward(m.store) {
		fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			m.t.Fatal(err)
		}
		names = append(names, s.name)
		files = append(files, os.NewFile(uintptr(fd), s.name))
	}
	watchdog := m.watchdog
	m.mu.Unlock()
	g.program = h.start(func(c *exec.Cmd) {
		c.ExtraFiles = files
		c.Env = append(c.Env, "NOTIFY_SOCKET="+m.path)
		if watchdog > 0 {
			c.Env = append(c.Env, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
		}
		if len(files) > 0 {
			c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
		}
	}, "sh", slices.Concat([]string{"-c", `LISTEN_PID=$$; export LISTEN_PID; exec "$@"`, "sh"}, prefix,
		[]string{binary, "-i", instance, "run"}, words)...)
	for _, f := range files {
		f.Close()
	}
	h.t.Cleanup(g.cleanup)
	return g
}

// restart ends a service and starts it again, as systemctl restart does.
func (m *manager) restart(g *gvtep, prefix []string, binary string, words ...string) *gvtep {
	g.h.t.Helper()
	g.stop()
	mark := m.mark()
	next := m.service(g.h, prefix, binary, g.instance, g.dev, words...)
	m.await(mark, 10*time.Second, "READY=1")
	return next
}

// udpInodes are the inodes of the bound UDP sockets on a port, sorted.
func (h *host) udpInodes(port int) (inodes []string) {
	h.t.Helper()
	h.do(func() error {
		for _, file := range []string{"udp", "udp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				if f := strings.Fields(line); strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
					inodes = append(inodes, f[9])
				}
			}
		}
		return nil
	})
	slices.Sort(inodes)
	return inodes
}

// unprivileged is what runs a service as a user with one capability, as the
// unit does, and those that a drop-in adds. The device node of this machine may be root's own, so it sees
// another one.
func unprivileged(t *testing.T, instance string, more ...string) (prefix []string) {
	t.Helper()
	need(t, "unshare", "setpriv", "mount")
	const nobody = 65534
	if err := errors.Join(os.MkdirAll(runDir(""), 0o755), os.Mkdir(runDir(instance), 0o750), os.Chown(runDir(instance), nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(t.TempDir(), "tun")
	if err := errors.Join(unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), os.Chmod(node, 0o666)); err != nil {
		t.Fatal(err)
	}
	caps := "-all,+" + strings.Join(append([]string{"net_admin"}, more...), ",+")
	return []string{"unshare", "-m", "sh", "-c", "mount --bind " + node + ` /dev/net/tun && exec "$@"`, "sh",
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs",
		"--bounding-set=" + caps, "--inh-caps=" + caps, "--ambient-caps=" + caps}
}

// TestServiceRestart: a restart, also to another binary, loses nothing.
//
//	a  restarted, not privileged            b  pings all the time
//	gnv0 192.0.2.1/24                       gnv0 192.0.2.2/24
func TestServiceRestart(t *testing.T) {
	need(t, "ping")
	pings := 1500
	if long() {
		pings = 5000
	}
	upgraded, err := build("gvtep-upgraded", "-ldflags=-B=0x0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		name  string
		f     family
		words []string
	}{
		{"IPv4", families[0], nil},
		{"IPv6", families[1], nil},
		{"offload off", families[0], []string{"--offload", "off"}},
		{"mode l3", families[0], []string{"--mode", "l3"}},
		{"fast path", families[0], []string{"--fastpath", "on"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			a, b := underlay(t)
			m := newManager(t)
			words := append([]string{"gnv0", "--id", "42", "--local", v.f.near, "--remote", v.f.far, "--address", "192.0.2.1/24", "--workers", "2"}, v.words...)
			instance := newInstance()
			fast := slices.Contains(v.words, "--fastpath")
			var more []string
			if fast {
				more = []string{"bpf", "perfmon"} // as scripts/systemd/drop-in/fastpath.conf
			}
			user := unprivileged(t, instance, more...)
			g := m.service(a, user, built(t), instance, "gnv0", words...)
			m.await(0, 10*time.Second, "READY=1")
			if got, want := strings.Join(m.names(), " "), "tap.gnv0.0 tap.gnv0.1 tapw.gnv0.0 tapw.gnv0.1 "; !strings.HasPrefix(got, want) || len(m.names()) != 6 {
				t.Fatalf("stored: %s; want %sand two receive sockets", got, want)
			}
			b.tunnel("gnv0", append([]string{"--id", "42", "--local", v.f.far, "--remote", v.f.near, "--address", "192.0.2.2/24"}, v.words...)...)
			a.address("gnv0", "198.51.100.7/32") // somebody else's
			b.ok(5*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.1")
			lladdr := func() string { return a.link("gnv0").Attrs().HardwareAddr.String() } // a TUN has none
			index, station, inodes := a.index("gnv0"), lladdr(), a.udpInodes(6081)
			if len(inodes) != 2 {
				t.Fatalf("%d receive sockets, want 2", len(inodes))
			}
			if fast {
				g.served()
			}
			p := b.start(nil, "ping", "-q", "-n", "-i", "0.002", "-c", fmt.Sprint(pings), "-W", "10", "192.0.2.1")
			for i := range 4 {
				time.Sleep(300 * time.Millisecond)
				binary := g.binary
				if i == 2 {
					binary = upgraded
				}
				start := time.Now()
				g = m.restart(g, user, binary, words...)
				t.Logf("restart %d took %s", i, time.Since(start).Round(time.Millisecond))
			}
			if _, err := p.wait(30 * time.Second); err != nil {
				t.Fatalf("ping: %v", err)
			}
			if lost := pings - received4(t, p.stdout.String()); lost != 0 || strings.Contains(p.stdout.String(), "duplicates") {
				t.Errorf("%d of %d pings lost in 4 restarts, want 0 and no duplicates\n%s", lost, pings, p.stdout.String())
			}
			if fast {
				g.served()
			}
			if now := a.index("gnv0"); now != index {
				t.Errorf("ifindex %d, was %d", now, index)
			}
			if now := lladdr(); now != station {
				t.Errorf("lladdr %s, was %s", now, station)
			}
			if now := a.udpInodes(6081); !slices.Equal(now, inodes) {
				t.Errorf("inodes of the receive sockets %s, were %s", now, inodes)
			}
			if !a.hasAddress("gnv0", "192.0.2.1/24") || !a.hasAddress("gnv0", "198.51.100.7/32") {
				t.Error("the device has lost addresses")
			}
			if n := len(m.names()); n != 6 {
				t.Errorf("%d descriptors are stored, want 6: %s", n, m.names())
			}
			said, _ := m.heard(0)
			if !slices.Contains(said, "STOPPING=1") || !slices.ContainsFunc(said, func(s string) bool { return s == "STATUS=1 tunnel up, 1 of 1 peer heard" }) {
				t.Errorf("the service manager heard no STOPPING=1, or no status with a peer: %q", said)
			}
		})
	}
}
