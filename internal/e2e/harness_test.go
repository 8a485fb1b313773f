// Package e2e tests the built program from outside: gvtep processes in network
// namespaces, real TAP devices, real sockets, crafted packets.
//
//	harness_test.go  the suite, hosts (namespaces) and links, programs
//	packet_test.go   bytes: frames made and read without the project's own code
//	capture_test.go  packet sockets: what is on a link, and frames put on it
//	gvtep_test.go    a gvtep process, its state and its counters
//	systemd_test.go  a service manager with a descriptor store
//
// The other files are the tests. Every figure of the issue is met by default,
// only repeated less often; GVTEP_E2E_LONG=1 repeats as often as it says.
// GVTEP_E2E_FASTPATH=1 gives every tunnel of the command line "fastpath on".
// GVTEP_E2E_RACE=1 builds every gvtep with the race detector.
// GVTEP_TEST_REQUIRE=1 turns every skip into a failure.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// suite is what all tests share. Programs are built by the first test that
// needs them.
var suite struct {
	dir         string // of the built programs, readable for everyone
	plain, race func() (string, error)
	instances   atomic.Int32 // started so far, for names that nobody else uses
}

func TestMain(m *testing.M) {
	if os.Getenv(withoutIPv6) != "" {
		fmt.Fprintln(os.Stderr, runWithoutIPv6(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gvtep-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755) // the test without privileges runs it, too
		suite.dir = dir
		suite.race = sync.OnceValues(func() (string, error) { return build("gvtep-race", "-race") })
		suite.plain = sync.OnceValues(func() (string, error) { return build("gvtep") })
		if os.Getenv("GVTEP_E2E_RACE") == "1" {
			suite.plain = suite.race
		}
		return m.Run()
	}())
}

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(suite.dir, name)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", path}, flags...), "gvtep/cmd/gvtep")...)
	cmd.Env = os.Environ()
	if len(flags) > 0 {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // the race detector's runtime is C
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
}

// long reports whether the full figures are asked for.
func long() bool { return os.Getenv("GVTEP_E2E_LONG") == "1" }

// fastpath reports whether all tunnels of the tests are to have the fast path on.
func fastpath() bool { return os.Getenv("GVTEP_E2E_FASTPATH") == "1" }

// skip is t.Skip, unless nothing may be skipped.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("GVTEP_TEST_REQUIRE") == "1" {
		t.Fatalf("GVTEP_TEST_REQUIRE=1 and "+format, args...)
	}
	t.Skipf(format, args...)
}

// need skips the test without root or without one of the programs.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getuid() != 0 {
		skip(t, "network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		skip(t, "no TUN driver here: %v", err)
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			skip(t, "%s is missing: scripts/tools/need.sh %s", p, p)
		}
	}
}

// host is a network namespace and a thread that lives in it. All of it goes
// when the test ends: the namespace has no name that could stay behind, and
// programs started by its thread die with it.
type host struct {
	t    *testing.T
	name string
	nl   *netlink.Handle
	jobs chan func()
}

func newHost(t *testing.T, name string) *host {
	t.Helper()
	h := &host{t: t, name: name, jobs: make(chan func())}
	started := make(chan error)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
		if started <- err; err != nil {
			return
		}
		for job := range h.jobs {
			job()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("host %s: %v", name, err)
	}
	t.Cleanup(func() {
		close(h.jobs)
		<-gone
		h.nl.Close()
	})
	h.do(func() error {
		// Nothing on the links that a test has not put there: no router
		// solicitation, no duplicate address detection.
		for key, value := range map[string]string{
			"net/ipv6/conf/default/accept_dad": "0", "net/ipv6/conf/default/dad_transmits": "0",
			"net/ipv6/conf/default/router_solicitations": "0", "net/ipv6/conf/default/addr_gen_mode": "1",
			"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
		} {
			if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	h.up("lo")
	return h
}

// do runs f on the host's thread and fails the test if it fails. f must not
// end the goroutine: no t.Fatal in it.
func (h *host) do(f func() error) {
	h.t.Helper()
	if err := h.try(f); err != nil {
		h.t.Fatalf("host %s: %v", h.name, err)
	}
}

func (h *host) try(f func() error) error {
	result := make(chan error, 1)
	h.jobs <- func() { result <- f() }
	return <-result
}

// sysctl sets a value below /proc/sys.
func (h *host) sysctl(key, value string) {
	h.t.Helper()
	h.do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) })
}

func (h *host) link(dev string) netlink.Link {
	h.t.Helper()
	l, err := h.nl.LinkByName(dev)
	if err != nil {
		h.t.Fatalf("host %s: device %s: %v", h.name, dev, err)
	}
	return l
}

func (h *host) has(dev string) bool {
	_, err := h.nl.LinkByName(dev)
	return err == nil
}

func (h *host) mac(dev string) mac   { h.t.Helper(); return mac(h.link(dev).Attrs().HardwareAddr) }
func (h *host) mtu(dev string) int   { h.t.Helper(); return h.link(dev).Attrs().MTU }
func (h *host) index(dev string) int { h.t.Helper(); return h.link(dev).Attrs().Index }

func (h *host) up(dev string) { h.t.Helper(); h.must("up", h.nl.LinkSetUp(h.link(dev))) }

func (h *host) must(what string, err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("host %s: %s: %v", h.name, what, err)
	}
}

// address adds addresses, without duplicate address detection.
func (h *host) address(dev string, prefixes ...string) {
	h.t.Helper()
	for _, p := range prefixes {
		a, err := netlink.ParseAddr(p)
		h.must(p, err)
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		h.must("address "+p, h.nl.AddrAdd(h.link(dev), a))
	}
}

// hasAddress reports whether dev has a, as 192.0.2.1/24.
func (h *host) hasAddress(dev, a string) bool {
	l, err := h.nl.LinkByName(dev)
	if err != nil {
		return false
	}
	all, err := h.nl.AddrList(l, netlink.FAMILY_ALL)
	for _, have := range all {
		if err == nil && have.IPNet.String() == a {
			return true
		}
	}
	return false
}

// neighbour makes a permanent neighbour entry, so that a test sees no
// address resolution.
func (h *host) neighbour(dev, address string, lladdr mac) {
	h.t.Helper()
	ip := net.ParseIP(address)
	h.must("neighbour "+address, h.nl.NeighSet(&netlink.Neigh{
		LinkIndex: h.index(dev), State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: lladdr[:],
		Family: map[bool]int{true: unix.AF_INET, false: unix.AF_INET6}[ip.To4() != nil],
	}))
}

// wire connects two hosts by a veth pair called veth0 on both sides.
func wire(a, b *host) { a.t.Helper(); plug(a, b, "veth0") }

// plug connects a host's veth0 with a device of another host.
func plug(a, b *host, peer string) { a.t.Helper(); cable(a, "veth0", b, peer) }

// cable connects a device of a host with one of another, both new. Like a
// network card's, the frames have their checksums and are no longer than the
// MTU: the stack's offloads are off.
func cable(a *host, dev string, b *host, peer string) {
	a.t.Helper()
	var there int
	b.do(func() error {
		ns, err := netns.Get()
		there = int(ns)
		return err
	})
	defer unix.Close(there)
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = dev, peer, netlink.NsFd(there)
	a.must("veth", a.nl.LinkAdd(veth))
	for i, h := range []*host{a, b} {
		dev := []string{dev, peer}[i]
		for _, command := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
			h.do(func() error { return ethtool(dev, command, 0) })
		}
		h.up(dev)
	}
}

// ethtool sets one value of a device (linux/ethtool.h, struct ethtool_value).
func ethtool(dev string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	arg := struct{ command, value uint32 }{command, value}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], dev)
	request.data = unsafe.Pointer(&arg)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("ethtool %s %#x: %w", dev, command, errno)
	}
	return nil
}

// underlay is two hosts and the wire between them.
//
//	a                                b
//	veth0 10.77.0.1/24  -----------  veth0 10.77.0.2/24
//	      fd77::1/64                       fd77::2/64
func underlay(t *testing.T) (a, b *host) {
	t.Helper()
	a, b = newHost(t, "a"), newHost(t, "b")
	wire(a, b)
	addressed(a, b)
	return a, b
}

// addressed gives both ends of an underlay their addresses.
func addressed(a, b *host) {
	a.t.Helper()
	a.address("veth0", "10.77.0.1/24", "fd77::1/64")
	b.address("veth0", "10.77.0.2/24", "fd77::2/64")
	// No address resolution on the wire either.
	for i, h := range []*host{a, b} {
		other := []*host{b, a}[i]
		h.neighbour("veth0", fmt.Sprint("10.77.0.", 2-i), other.mac("veth0"))
		h.neighbour("veth0", fmt.Sprint("fd77::", 2-i), other.mac("veth0"))
	}
}

// listenUDP and friends open sockets in the host's namespace. They are closed
// when the test ends.
func (h *host) listenUDP(address string) *net.UDPConn {
	h.t.Helper()
	var c *net.UDPConn
	h.do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *host) listenTCP(address string) net.Listener {
	h.t.Helper()
	var l net.Listener
	h.do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	h.t.Cleanup(func() { l.Close() })
	return l
}

func (h *host) dialTCP(address string) net.Conn {
	h.t.Helper()
	var c net.Conn
	h.do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *host) dialUDP(address string) *net.UDPConn {
	h.t.Helper()
	var c *net.UDPConn
	h.do(func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

// program is a running program.
type program struct {
	cmd    *exec.Cmd
	stdout output
	stderr output
	done   chan struct{} // closed once it has ended
	ended  time.Time
}

// output collects what a program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start starts a program on the host. change, if not nil, may alter the
// command before. The program is killed when the test ends, and its output
// shown if the test has failed.
func (h *host) start(change func(*exec.Cmd), name string, args ...string) *program {
	h.t.Helper()
	p := &program{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	// The race detector's runtime waits a second at the end by default, for
	// other threads' reports: not ours to count.
	p.cmd.Env = append(os.Environ(), "LC_ALL=C", "GORACE=atexit_sleep_ms=10")
	// Should the test binary be killed, nobody else would end them.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = 5 * time.Second
	if change != nil {
		change(p.cmd)
	}
	h.do(p.cmd.Start)
	go func() {
		p.cmd.Wait()
		p.ended = time.Now()
		close(p.done)
	}()
	h.t.Cleanup(func() {
		code, _ := p.end(syscall.SIGKILL, 10*time.Second)
		if h.t.Failed() && code != 0 { // those that ended well have nothing to say
			h.t.Logf("on %s: %s: %v\n%s%s", h.name, strings.Join(p.cmd.Args, " "), p.cmd.ProcessState, p.stdout.String(), p.stderr.String())
		}
	})
	return p
}

var errTimeout = errors.New("it did not end in time")

// wait waits for the end, and returns the exit status: -1 if by a signal.
func (p *program) wait(timeout time.Duration) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return -1, errTimeout
	}
}

// end sends a signal and waits for the end.
func (p *program) end(sig syscall.Signal, timeout time.Duration) (int, error) {
	select {
	case <-p.done: // its number may be another's by now
	default:
		p.cmd.Process.Signal(sig)
	}
	return p.wait(timeout)
}

// run runs a program to its end, which must come within timeout.
func (h *host) run(timeout time.Duration, name string, args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	p := h.start(nil, name, args...)
	code, err := p.wait(timeout)
	if err != nil {
		h.t.Fatalf("on %s: %s: not ended after %s", h.name, strings.Join(p.cmd.Args, " "), timeout)
	}
	return p.stdout.String(), p.stderr.String(), code
}

// ok runs a program that must succeed, and returns what it printed.
func (h *host) ok(timeout time.Duration, name string, args ...string) string {
	h.t.Helper()
	stdout, stderr, code := h.run(timeout, name, args...)
	if code != 0 {
		h.t.Fatalf("on %s: %s %s: exit status %d, want 0\n%s%s", h.name, name, strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// within waits until f is true, and fails the test after the time.
func within(t *testing.T, timeout time.Duration, what string, f func() bool) {
	t.Helper()
	if !soon(timeout, f) {
		t.Fatalf("after %s still not: %s", timeout, what)
	}
}

func soon(timeout time.Duration, f func() bool) bool {
	for end := time.Now().Add(timeout); ; time.Sleep(2 * time.Millisecond) {
		if f() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
