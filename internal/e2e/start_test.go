package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Hosts on which a daemon must start, or say in one line why it cannot.

// withoutIPv6 in the environment makes this binary a program that runs another
// one for which the kernel has no IPv6, as with ipv6.disable=1: sockets of that
// family fail with EAFNOSUPPORT.
const withoutIPv6 = "GVTEP_E2E_WITHOUT_IPV6"

func runWithoutIPv6(args []string) error {
	runtime.LockOSThread()
	raw, err := bpf.Assemble([]bpf.Instruction{ // of struct seccomp_data
		bpf.LoadAbsolute{Off: 0, Size: 4}, // nr
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 16, Size: 4}, // args[0]
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_INET6, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := seccomp(&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return unix.Exec(args[0], args, os.Environ())
}

// TestWithoutIPv6: a tunnel that takes whoever comes starts where the kernel has
// no IPv6. One that asks for it does not, and says so.
func TestWithoutIPv6(t *testing.T) {
	need(t, "ping")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a, b := underlay(t)
	run := func(words ...string) *gvtep {
		g := newClient(a, built(t), newInstance(), "gnv0")
		args := append([]string{g.binary, "-i", g.instance, "run", "gnv0", "--id", "42"}, words...)
		g.program = a.start(func(c *exec.Cmd) { c.Env = append(c.Env, withoutIPv6+"=1") }, self, args...)
		t.Cleanup(g.cleanup)
		return g
	}
	for _, words := range [][]string{{"--accept", "2001:db8::/32"}, {"--accept", "::/0"}, {"--remote", "fd77::2"}} {
		if code, err := run(words...).wait(10 * time.Second); code != 2 || err != nil {
			t.Errorf("run %s without IPv6: exit status %d, %v; want 2", strings.Join(words, " "), code, err)
		}
	}
	g := run("--accept", "any", "--address", "192.0.2.1/24")
	g.ready()
	b.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	b.ok(10*time.Second, "ping", "-q", "-c", "3", "-i", "0.2", "-W", "3", "192.0.2.1")
	g.client("tunnel", "set", "gnv0", "ttl", "9")
	g.stop()
	if n := strings.Count(g.stderr.String(), "the kernel has no IPv6"); n != 1 {
		t.Errorf("%d lines say that there is no IPv6, want 1:\n%s", n, g.stderr.String())
	}
}

// TestPrivilegedPort: without the capability the error names it, and the sysctl
// that makes do without.
func TestPrivilegedPort(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	instance := newInstance()
	user := unprivileged(t, instance)
	t.Cleanup(func() { os.RemoveAll(runDir(instance)) })
	run := func(words ...string) *program {
		args := append(user, built(t), "-i", instance, "run", "gnv0", "--id", "42", "--remote", "10.77.0.2")
		return a.start(nil, args[0], append(args[1:], words...)...)
	}
	for _, words := range [][]string{{"--dstport", "500"}, {"--srcport", "500 510"}} {
		p := run(words...)
		code, err := p.wait(10 * time.Second)
		if said := p.stderr.String(); code != 2 || err != nil || !strings.Contains(said, "CAP_NET_BIND_SERVICE") || !strings.Contains(said, "net.ipv4.ip_unprivileged_port_start=500") {
			t.Errorf("run %s: exit status %d, %v, %q; want 2, the capability and the sysctl", strings.Join(words, " "), code, err, said)
		}
	}
	a.sysctl("net/ipv4/ip_unprivileged_port_start", "500")
	p := run("--dstport", "500", "--srcport", "500 510")
	within(t, 10*time.Second, "ready with the sysctl", func() bool { return strings.Contains(p.stderr.String(), `"ready"`) })
	p.end(unix.SIGTERM, 10*time.Second)
}
