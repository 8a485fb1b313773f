package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// Wrong use: one clear line, the right exit code, and nothing left behind.
//
//	a  gvtep is refused here          b  is never spoken to
//	veth0 10.77.0.1/24 -------------  veth0 10.77.0.2/24
//	      fd77::1/64                        fd77::2/64

// attempt is a command line that must be refused.
type attempt struct {
	name   string
	before func(t *testing.T, a *host) // what is in its way
	change func(*exec.Cmd)             // how it is started
	args   []string                    // behind "run"
	code   int
	says   []string // all of them; "a|b" is either
}

func TestRefused(t *testing.T) {
	need(t)
	// What works, but for what the attempt changes.
	usual := "gnv0 --id 100 --local 10.77.0.1 --remote 10.77.0.2 --address 192.0.2.1/24 "
	words := func(s string) []string { return strings.Fields(s) }
	var other *gvtep
	second := func(args string) func(*testing.T, *host) {
		return func(t *testing.T, a *host) { other = a.tunnel("gnv7", words(args)...) }
	}
	for _, v := range []attempt{
		// The command line.
		{name: "no NAME", args: nil, code: 1, says: []string{"NAME"}},
		{name: "no id", args: words("gnv0 --remote 10.77.0.2"), code: 1, says: []string{"id"}},
		{name: "no remote", args: words("gnv0 --id 100"), code: 1, says: []string{"remote"}},
		{name: "VNI too large", args: words("gnv0 --id 16777216 --remote 10.77.0.2"), code: 1, says: []string{"16777216", "16777215"}},
		{name: "VNI negative", args: words("gnv0 --id -1 --remote 10.77.0.2"), code: 1, says: []string{"-1", "16777215"}},
		{name: "VNI no number", args: words("gnv0 id ten remote 10.77.0.2"), code: 1, says: []string{"ten", "16777215"}},
		{name: "remote 0.0.0.0", args: words("gnv0 --id 100 --remote 0.0.0.0"), code: 1, says: []string{"0.0.0.0"}},
		{name: "remote ::", args: words("gnv0 --id 100 --remote ::"), code: 1, says: []string{"::"}},
		{name: "remote multicast", args: words("gnv0 --id 100 --remote 239.1.1.1"), code: 1, says: []string{"239.1.1.1", "multicast"}},
		{name: "remote limited broadcast", args: words("gnv0 --id 100 --remote 255.255.255.255"), code: 1, says: []string{"broadcast"}},
		{name: "remote is local", args: words("gnv0 --id 100 --local 10.77.0.1 --remote 10.77.0.1"), code: 1, says: []string{"10.77.0.1"}},
		{name: "remote a name", args: words("gnv0 --id 100 --remote localhost"), code: 1, says: []string{"localhost"}},
		{name: "families differ", args: words("gnv0 --id 100 --local 10.77.0.1 --remote fd77::2"), code: 1, says: []string{"10.77.0.1", "fd77::2", "famil"}},
		{name: "a remote of another family than local", args: words("gnv0 --id 100 --local 10.77.0.1 --remote 10.77.0.2 --remote fd77::2"), code: 1, says: []string{"famil", "without local"}},
		{name: "two L3 remotes without routes", args: words("gnv0 --id 100 --mode l3 --remote 10.77.0.2 --remote 10.77.0.3"), code: 1, says: []string{"routes"}},
		{name: "unknown flag", args: words(usual + "--vlam 3"), code: 1, says: []string{"vlam"}},
		{name: "unknown flag, nearly right", args: words(usual + "--lern"), code: 1, says: []string{"lern"}},
		{name: "unknown word", args: words("gnv0 id 100 remote 10.77.0.2 vlam 3"), code: 1, says: []string{"vlam"}},
		{name: "value missing", args: words("gnv0 id 100 remote"), code: 1, says: []string{"remote"}},
		{name: "flag's value missing", args: words("gnv0 --id 100 --remote"), code: 1, says: []string{"remote"}},
		{name: "ttl 256", args: words(usual + "--ttl 256"), code: 1, says: []string{"ttl", "256"}},
		{name: "mtu 5", args: words(usual + "--mtu 5"), code: 1, says: []string{"mtu", "5"}},
		{name: "source ports backwards", args: words(usual + "--srcport 50063 50000"), code: 1, says: []string{"srcport"}},
		{name: "long NAME", args: words("gnv0123456789abc --id 100 --remote 10.77.0.2"), code: 1, says: []string{"gnv0123456789abc", "15"}},
		{name: "NAME with a slash", args: words("gnv/0 --id 100 --remote 10.77.0.2"), code: 1, says: []string{"gnv/0"}},

		// The kernel.
		{name: "remote our own address", args: words("gnv0 --id 100 --remote 10.77.0.1"), code: 2, says: []string{"10.77.0.1"}},
		{name: "remote our own IPv6 address", args: words("gnv0 --id 100 --remote fd77::1"), code: 2, says: []string{"fd77::1"}},
		{name: "remote loopback", args: words("gnv0 --id 100 --remote 127.0.0.1"), code: 2, says: []string{"127.0.0.1"}},
		{name: "remote a network's broadcast", args: words("gnv0 --id 100 --remote 10.77.0.255"), code: 2, says: []string{"10.77.0.255", "broadcast"}},
		{name: "local not ours", args: words("gnv0 --id 100 --local 10.77.0.99 --remote 10.77.0.2"), code: 2, says: []string{"10.77.0.99"}},
		{name: "dev not there", args: words(usual + "--dev eth9"), code: 2, says: []string{"eth9"}},
		{name: "netns not there", args: words(usual + "--device_netns e2e-nowhere"), code: 2, says: []string{"e2e-nowhere"}},
		{name: "bridge not there", args: words(usual + "--master br9"), code: 2, says: []string{"br9"}},
		{name: "name taken by a veth", args: words("veth0 --id 100 --remote 10.77.0.2"), code: 2, says: []string{"veth0"}},
		{name: "name taken by another gvtep", before: second("--id 7 --remote 10.77.0.2 --dstport 7081"),
			args: words("gnv7 --id 100 --remote 10.77.0.2"), code: 2, says: []string{"gnv7"}},
		{name: "port taken by another gvtep, same address", before: second("--id 7 --local 10.77.0.1 --remote 10.77.0.2"),
			args: words(usual), code: 2, says: []string{"6081", "{pid}"}},
		{name: "port taken by another gvtep, both any", before: second("--id 7 --remote 10.77.0.2"),
			args: words("gnv0 --id 100 --remote 10.77.0.2"), code: 2, says: []string{"6081", "{pid}"}},
		{name: "port taken by another gvtep, which has any", before: second("--id 7 --remote 10.77.0.2"),
			args: words(usual), code: 2, says: []string{"6081", "{pid}"}},
		{name: "port taken by another gvtep, we want any", before: second("--id 7 --local 10.77.0.1 --remote 10.77.0.2"),
			args: words("gnv0 --id 100 --remote 10.77.0.2"), code: 2, says: []string{"6081", "{pid}"}},
		{name: "port taken by another gvtep, IPv6", before: second("--id 7 --local fd77::1 --remote fd77::2"),
			args: words("gnv0 --id 100 --local fd77::1 --remote fd77::2"), code: 2, says: []string{"6081", "{pid}"}},
		{name: "port taken by another process", before: func(t *testing.T, a *host) { a.listenUDP("10.77.0.1:6081") },
			args: words(usual), code: 2, says: []string{"6081", "{test}"}},
		{name: "port taken by a kernel device", before: kernelDevice,
			args: words(usual), code: 2, says: []string{"6081", "kernel|vxlan|vx0"}},
		{name: "no /dev/net/tun", args: words(usual), change: func(c *exec.Cmd) {
			c.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
			behind(c, "mount -t tmpfs none /dev/net")
		}, code: 2, says: []string{"/dev/net/tun"}},
		{name: "/dev/net/tun is something else", args: words(usual), change: func(c *exec.Cmd) {
			c.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
			behind(c, "mount --bind /dev/null /dev/net/tun")
		}, code: 2, says: []string{"/dev/net/tun|gnv0"}},
		{name: "no permission for the control socket", args: words(usual), change: as(65534), code: 2, says: []string{"permi|denied"}},
		{name: "no permission for the device", args: words(usual + "--no-control"), change: as(65534), code: 2, says: []string{"permi|CAP_NET_ADMIN"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			a, _ := underlay(t)
			if v.before != nil {
				v.before(t, a)
			}
			devices, sockets := links(a), a.sockets()
			instance := newInstance()
			p := a.start(v.change, built(t), append([]string{"-i", instance, "run"}, v.args...)...)
			code, err := p.wait(15 * time.Second)
			stderr := p.stderr.String()
			if err != nil {
				t.Fatalf("still running after 15 s: %q", stderr)
			}
			if code != v.code {
				t.Errorf("exit status %d, want %d", code, v.code)
			}
			if !oneLine(stderr) || p.stdout.String() != "" {
				t.Errorf("stdout %q, stderr %q, want one line on stderr", p.stdout.String(), stderr)
			}
			for _, want := range v.says {
				if want == "{pid}" {
					want = fmt.Sprint(other.cmd.Process.Pid)
				}
				if want == "{test}" {
					want = fmt.Sprint(os.Getpid())
				}
				found := false
				for alternative := range strings.SplitSeq(want, "|") {
					found = found || strings.Contains(stderr, alternative)
				}
				if !found {
					t.Errorf("%q does not say %q", strings.TrimSpace(stderr), want)
				}
			}
			t.Log(strings.TrimSpace(stderr))
			if now := links(a); now != devices {
				t.Errorf("devices now %s, before %s", now, devices)
			}
			if now := a.sockets(); now != sockets {
				t.Errorf("UDP sockets now\n%s\nbefore\n%s", now, sockets)
			}
			if _, err := os.Stat(runDir(instance)); err == nil {
				t.Errorf("%s is left behind", runDir(instance))
				os.RemoveAll(runDir(instance))
			}
			if v.before != nil && other != nil && strings.Contains(v.name, "gvtep") {
				other.ready() // and the other one has not noticed
			}
		})
	}
}

// behind runs a shell command before the program, in its place.
func behind(c *exec.Cmd, command string) {
	c.Args = append([]string{"sh", "-c", command + ` && exec "$@"`, "sh"}, c.Args...)
	c.Path = "/bin/sh"
}

// kernelDevice makes a tunnel device of the kernel that has the port. It is
// VXLAN's, as not every kernel has GENEVE's.
func kernelDevice(t *testing.T, a *host) {
	l := netlink.NewLinkAttrs()
	l.Name = "vx0"
	if err := a.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: l, VxlanId: 5, Port: 6081, Learning: true}); err != nil {
		skip(t, "this kernel has no VXLAN device: %v", err)
	}
	a.up("vx0")
}

// TestSecondInstance: a second daemon of the same name says who the first is;
// a socket left by a dead one is taken over.
func TestSecondInstance(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	first := a.tunnel("gnv0", "--id", "100", "--remote", "10.77.0.2")
	p := a.start(nil, built(t), "-i", first.instance, "run", "gnv1", "--id", "101", "--remote", "10.77.0.2", "--dstport", "7081")
	code, err := p.wait(15 * time.Second)
	if err != nil || code != 2 || !oneLine(p.stderr.String()) || !strings.Contains(p.stderr.String(), fmt.Sprint(first.cmd.Process.Pid)) {
		t.Errorf("second daemon: exit status %d, %v, %q; want 2 and a line with pid %d", code, err, p.stderr.String(), first.cmd.Process.Pid)
	}
	first.ready()
	first.end(syscall.SIGKILL, 5*time.Second)
	if _, err := os.Stat(filepath.Join(runDir(first.instance), "control.sock")); err != nil {
		t.Fatalf("this test wants the socket of the dead one to be there: %v", err)
	}
	again := a.launch(first.binary, first.instance, "gnv0", "--id", "100", "--remote", "10.77.0.2")
	again.ready()
	again.stop()
	if _, err := os.Stat(runDir(first.instance)); err == nil {
		t.Errorf("%s is left behind", runDir(first.instance))
	}
}
