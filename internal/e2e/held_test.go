package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// healthAnswer is what status and diff say about devices.
type healthAnswer struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// status runs gvtep -j status, which ends with 2 while it is not ready.
func (g *gvtep) status() (s healthAnswer) {
	g.h.t.Helper()
	stdout, stderr, code := g.h.run(10*time.Second, g.binary, "-i", g.instance, "-j", "status")
	if err := json.Unmarshal([]byte(stdout), &s); err != nil || (code == 0) != s.Ready {
		g.h.t.Fatalf("gvtep status: exit status %d, %v: %s%s", code, err, stdout, stderr)
	}
	return s
}

// unready waits until the daemon is not ready and says why.
func (g *gvtep) unready(reason string) {
	g.h.t.Helper()
	last := healthAnswer{}
	if !soon(15*time.Second, func() bool { last = g.status(); return !last.Ready && strings.Contains(last.Reason, reason) }) {
		g.h.t.Fatalf("status says %+v, want not ready, and %q", last, reason)
	}
	if code, body := g.get("/readyz"); code != 503 || !strings.Contains(body, reason) {
		g.h.t.Errorf("/readyz: %d %q, want 503 and %q", code, body, reason)
	}
}

// TestAddressesHeld: what takes IPv6 from a device and gives it back: the addresses are
// back, the tunnel carries, one line says so. What is deleted by hand stays away, and shows.
//
//	a gnv0 192.0.2.1, 2001:db8::1 ==== gnv0 192.0.2.2, 2001:db8::2 b
func TestAddressesHeld(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	config := file(t, "held.toml", `
[[tunnel]]
name    = "gnv0"
id      = 42
local   = "10.77.0.1"
remote  = "10.77.0.2"
address = ["192.0.2.1/24", "2001:db8::1/64"]
`)
	g := a.configured("gnv0", config)
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--address", "2001:db8::2/64")
	diff := func() string { return a.ok(10*time.Second, g.binary, "-i", g.instance, "diff") }
	carries := func(when string) {
		t.Helper()
		within(t, 5*time.Second, when+": the address is back", func() bool { return a.hasAddress("gnv0", "2001:db8::1/64") })
		within(t, 10*time.Second, when+": it carries", func() bool {
			_, _, code := a.run(5*time.Second, "ping", "-6", "-q", "-c", "1", "-W", "1", "2001:db8::2")
			return code == 0
		})
		within(t, 5*time.Second, when+": ready", func() bool { return g.status().Ready })
		if d := diff(); d != "no change\n" {
			t.Errorf("%s: diff says %q", when, d)
		}
	}
	carries("at first")
	const back = "addresses that the kernel had removed are set again"
	disable := func(value string) func() {
		return func() { a.sysctl("net/ipv6/conf/gnv0/disable_ipv6", value) }
	}
	for i, c := range []struct {
		name     string
		do, undo func()
		reason   string
	}{
		{"MTU", func() { a.must("mtu", a.nl.LinkSetMTU(a.link("gnv0"), 1200)) }, func() { a.must("mtu", a.nl.LinkSetMTU(a.link("gnv0"), 1450)) },
			"device gnv0 lacks address 2001:db8::1/64: IPv6 needs an MTU of 1280 or more"},
		{"down", func() { a.must("down", a.nl.LinkSetDown(a.link("gnv0"))) }, func() { a.up("gnv0") }, "device gnv0 is down"},
		{"disable_ipv6", disable("1"), disable("0"), "device gnv0 lacks address 2001:db8::1/64: IPv6 is switched off on the device (sysctl disable_ipv6)"},
	} {
		c.do()
		g.unready(c.reason)
		if d := diff(); !strings.Contains(d, c.reason) {
			t.Errorf("%s: diff says %q, want %q", c.name, d, c.reason)
		}
		c.undo()
		carries(c.name)
		if n := strings.Count(g.stderr.String(), back); n != i+1 {
			t.Errorf("%s: %d lines that an address is back, want %d", c.name, n, i+1)
		}
	}

	for _, address := range []string{"2001:db8::1/64", "192.0.2.1/24"} {
		old, err := netlink.ParseAddr(address)
		a.must(address, err)
		a.must("delete "+address, a.nl.AddrDel(a.link("gnv0"), old))
	}
	reason := "device gnv0 lacks addresses 192.0.2.1/24, 2001:db8::1/64: it was deleted by hand"
	g.unready(reason)
	if d := diff(); !strings.Contains(d, reason) {
		t.Errorf("diff says %q, want %q", d, reason)
	}
	// The link goes down and comes up: they stay away.
	a.must("down", a.nl.LinkSetDown(a.link("gnv0")))
	a.up("gnv0")
	g.unready(reason)
	if a.hasAddress("gnv0", "2001:db8::1/64") || a.hasAddress("gnv0", "192.0.2.1/24") {
		t.Error("an address that was deleted by hand is back")
	}
	if code, body := g.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d %q, want 200: a new process is no cure for what was deleted by hand", code, body)
	}
	if d := a.ok(10*time.Second, g.binary, "-i", g.instance, "reload"); !strings.Contains(d, reason) {
		t.Errorf("reload says %q, want %q", d, reason)
	}
	carries("after a reload")
	if !a.hasAddress("gnv0", "192.0.2.1/24") {
		t.Error("no 192.0.2.1/24 after a reload")
	}
}

// TestAddressesHeldNetns: the same in another namespace, which the daemon has moved the
// device to.
func TestAddressesHeldNetns(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	inside := newHost(t, "inside")
	path := ""
	inside.do(func() error {
		path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		return nil
	})
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "2001:db8::1/64", "--device_netns", path)
	inside.must("mtu", inside.nl.LinkSetMTU(inside.link("gnv0"), 1200))
	g.unready("IPv6 needs an MTU of 1280 or more")
	inside.must("mtu", inside.nl.LinkSetMTU(inside.link("gnv0"), 1450))
	within(t, 5*time.Second, "the address is back", func() bool { return inside.hasAddress("gnv0", "2001:db8::1/64") })
	within(t, 5*time.Second, "ready", func() bool { return g.status().Ready })
}

// TestDeviceDrift: what others do to a device shows in status and diff, and reload mends it.
func TestDeviceDrift(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	a.must("bridge", a.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	a.up("br0")
	config := file(t, "drift.toml", `
[defaults]
local  = "10.77.0.1"
remote = "10.77.0.2"
[[tunnel]]
name = "gnv0"
id = 1
master = "br0"
mtu = 1400
[[tunnel]]
name = "gnv1"
id = 2
`)
	g := a.configured("gnv0", config)
	cli := func(command string) string { return a.ok(10*time.Second, g.binary, "-i", g.instance, command) }
	for _, c := range []struct {
		do     func() error
		reason string
	}{
		{func() error { return a.nl.LinkSetNoMaster(a.link("gnv0")) }, "device gnv0 is not in bridge br0"},
		{func() error { return a.nl.LinkSetMTU(a.link("gnv0"), 1300) }, "device gnv0 has the MTU 1300, not 1400"},
		{func() error { return a.nl.LinkSetDown(a.link("gnv0")) }, "device gnv0 is down"},
		{func() error { return a.nl.LinkDel(a.link("gnv1")) }, "device gnv1 was deleted"},
	} {
		a.must(c.reason, c.do())
		g.unready(c.reason)
		if d := cli("diff"); !strings.Contains(d, "~ "+c.reason+"\n") {
			t.Errorf("diff says %q, want %q", d, c.reason)
		}
	}
	if d := cli("diff"); !strings.Contains(d, "+ gnv1\n") {
		t.Errorf("diff says %q, want that gnv1 is made anew", d)
	}
	cli("reload")
	within(t, 5*time.Second, "ready", func() bool { return g.status().Ready })
	if d := cli("diff"); d != "no change\n" {
		t.Errorf("after the reload diff says %q", d)
	}
	if !a.has("gnv1") || a.mtu("gnv0") != 1400 || a.link("gnv0").Attrs().MasterIndex != a.index("br0") {
		t.Error("reload has not mended it")
	}

	// The device's own address is changed: it is known at once.
	a.must("address", a.nl.LinkSetHardwareAddr(a.link("gnv1"), net.HardwareAddr{2, 0, 0, 0, 0xff, 1}))
	within(t, 5*time.Second, "another address of our own", func() bool {
		return strings.Contains(g.stderr.String(), "the device has another address")
	})

	// No route to the only peer: not ready, and why.
	a.must("underlay down", a.nl.LinkSetDown(a.link("veth0")))
	g.unready("tunnel gnv1 reaches nobody: there is no route to its peer 10.77.0.2")
	a.up("veth0")
	within(t, 10*time.Second, "ready again", func() bool { return g.status().Ready })
}

// TestUnreadyStart: a tunnel whose peer has no route starts, and says that it is not ready.
func TestUnreadyStart(t *testing.T) {
	need(t)
	a := newHost(t, "a")
	g := a.launch(built(t), newInstance(), "gnv0", "--id", "42", "--remote", "10.77.0.2", "--address", "192.0.2.1/24")
	within(t, 10*time.Second, "started", func() bool { return strings.Contains(g.stderr.String(), "running, but not ready") })
	g.unready("tunnel gnv0 reaches nobody: there is no route to its peer 10.77.0.2")
	a.must("dummy bridge", a.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "under"}}))
	a.up("under")
	a.address("under", "10.77.0.1/24")
	within(t, 10*time.Second, "ready", func() bool { return g.status().Ready })
}
