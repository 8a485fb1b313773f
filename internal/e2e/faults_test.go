package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write docs/faults.md, or docs/screens.md, anew")

const faultsFile = "../../docs/faults.md"

// faulty is two hosts with a tunnel that does not work.
//
//	a gnv0 192.0.2.1/24   10.77.0.1 ------ 10.77.0.2   gnv0 192.0.2.2/24 b
type faulty struct {
	t      *testing.T
	a, b   *host
	ga, gb *gvtep
}

// faultRow is a fault, and the one command on one host that names it.
type faultRow struct {
	fault   string
	a, b    string        // words of the tunnels; "": those that work, "-": there is none
	before  func(*faulty) // makes the fault
	after   func(*faulty) // with the tunnels running
	at      string        // where the command runs
	command string        // for people
	finding string        // that doctor must have
	try     func(*faulty) string
	says    string // what else says it; doctor is not asked
}

const (
	wordsA = "id 42 local 10.77.0.1 remote 10.77.0.2 address 192.0.2.1/24"
	wordsB = "id 42 local 10.77.0.2 remote 10.77.0.1 address 192.0.2.2/24"
)

func (f *faulty) nft(h *host, hook, rule string) {
	h.ok(5*time.Second, "nft", fmt.Sprintf("add table inet fault; add chain inet fault %s { type filter hook %s priority 0; }; add rule inet fault %s %s", hook, hook, hook, rule))
}

// start runs what must not start, and returns what it says.
func (f *faulty) start(h *host, change func(*exec.Cmd), args ...string) string {
	p := h.start(change, built(f.t), args...)
	if code, err := p.wait(15 * time.Second); err != nil || code == 0 {
		f.t.Errorf("%s: exit status %d, %v", strings.Join(args, " "), code, err)
	}
	return p.stderr.String()
}

// faults are the 29 of the project's list, but for those that no command names yet.
var faults = []faultRow{
	{fault: "wrong VNI at one end", b: strings.Replace(wordsB, "42", "43", 1), at: "a", finding: "wrong_vni"},
	{fault: "wrong remote at this end", a: strings.Replace(wordsA, "remote 10.77.0.2", "remote 10.77.0.7", 1), at: "a", finding: "unknown_sender"},
	{fault: "wrong remote at the other end, seen there", b: strings.Replace(wordsB, "remote 10.77.0.1", "remote 10.77.0.7", 1), at: "b", finding: "unknown_sender"},
	{fault: "wrong remote at the other end, seen here", b: strings.Replace(wordsB, "remote 10.77.0.1", "remote 10.77.0.7", 1), at: "a", finding: "silent"},
	{fault: "remote does not exist", a: strings.Replace(wordsA, "remote 10.77.0.2", "remote 10.77.0.9", 1), b: "-", at: "a", finding: "no_neighbour"},
	{fault: "input firewall", before: func(f *faulty) { f.nft(f.b, "input", "udp dport 6081 drop") }, at: "b", finding: "silent"},
	{fault: "input firewall that rejects", before: func(f *faulty) { f.nft(f.b, "input", "udp dport 6081 reject with icmpx admin-prohibited") }, at: "a", finding: "prohibited"},
	{fault: "output firewall", before: func(f *faulty) { f.nft(f.a, "output", "udp dport 6081 drop") }, at: "a", finding: "output_firewall"},
	{fault: "no process at the other end", b: "-", at: "a", finding: "port_unreachable"},
	{fault: "link down at the other end", after: func(f *faulty) { f.b.must("down", f.b.nl.LinkSetDown(f.b.link("veth0"))) }, at: "a", finding: "underlay_down"},
	{fault: "small MTU on the way, ICMP passes", before: (*faulty).narrow, at: "a", finding: "small_path", after: func(f *faulty) {
		f.a.start(nil, "ping", "-q", "-M", "want", "-s", "1400", "-i", "0.2", "-c", "60", "192.0.2.2")
	}, a: "id 42 local 10.77.0.1 remote 10.78.0.2 address 192.0.2.1/24", b: "id 42 local 10.78.0.2 remote 10.77.0.1 address 192.0.2.2/24"},
	{fault: "small MTU on the way, ICMP filtered", before: (*faulty).hole, at: "a", finding: "black_hole",
		a: "id 42 local 10.77.0.1 remote 10.78.0.2 address 192.0.2.1/24", b: "id 42 local 10.78.0.2 remote 10.77.0.1 address 192.0.2.2/24"},
	{fault: "same MAC at both ends", a: wordsA + " lladdr 02:00:00:00:00:99", b: wordsB + " lladdr 02:00:00:00:00:99", at: "a", finding: "same_mac", after: func(f *faulty) {
		f.b.start(nil, "ping", "-q", "-i", "0.2", "-c", "60", "192.0.2.1")
	}},
	{fault: "the daemon is in the wrong network namespace", before: func(f *faulty) { f.a = newHost(f.t, "elsewhere") }, a: "id 42 remote 10.77.0.2 address 192.0.2.1/24", at: "a", finding: "no_route"},
	{fault: "the network namespace does not exist", command: "gvtep -n lost run ...", says: "ip netns lists them", try: func(f *faulty) string {
		return f.start(f.a, nil, "-n", "gvtep-lost", "run", "gnv9", "id", "7", "remote", "10.77.0.2")
	}},
	{fault: "two daemons with one name", command: "gvtep run ...", says: "another name for this one, -i NAME", try: func(f *faulty) string {
		return f.start(f.a, nil, "-i", f.ga.instance, "run", "gnv9", "id", "7", "remote", "10.77.0.2", "dstport", "7000")
	}},
	{fault: "two daemons on one port", command: "gvtep run ...", says: "or add the tunnel to it (gvtep tunnel add)", try: func(f *faulty) string {
		return f.start(f.a, nil, "-i", newInstance(), "run", "gnv9", "id", "7", "remote", "10.77.0.2")
	}},
	{fault: "port held by another process", command: "gvtep run ...", says: "held by pid", try: func(f *faulty) string {
		f.a.listenUDP("0.0.0.0:7001")
		return f.start(f.a, nil, "-i", newInstance(), "run", "gnv9", "id", "7", "remote", "10.77.0.2", "dstport", "7001")
	}},
	{fault: "port held by the kernel's vxlan or geneve", command: "gvtep run ...", says: "held by the kernel", try: func(f *faulty) string {
		if err := f.a.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx0"}, VxlanId: 9, Port: 7002, Group: net.IPv4(10, 77, 0, 2)}); err != nil {
			return "" // this kernel has none
		}
		f.a.up("vx0")
		return f.start(f.a, nil, "-i", newInstance(), "run", "gnv9", "id", "7", "remote", "10.77.0.2", "dstport", "7002")
	}},
	{fault: "no permission to run", command: "gvtep run ...", says: "permi", try: func(f *faulty) string {
		return f.start(f.a, as(65534), "-i", newInstance(), "run", "gnv9", "id", "7", "remote", "10.77.0.2", "dstport", "7003")
	}},
	{fault: "no permission to ask", command: "gvtep show", says: "permission denied (ask as root)", try: func(f *faulty) string {
		return f.start(f.a, as(65534), "-i", f.ga.instance, "show")
	}},
	{fault: "different overlay subnets", b: strings.Replace(wordsB, "192.0.2.2/24", "198.51.100.2/24", 1), at: "a", finding: "other_subnet", after: func(f *faulty) {
		f.b.start(nil, "ping", "-q", "-i", "0.2", "-c", "60", "198.51.100.1")
	}},
	{fault: "same overlay address", b: strings.Replace(wordsB, "192.0.2.2/24", "192.0.2.1/24", 1), at: "a", finding: "same_address"},
	{fault: "asymmetric ports", b: wordsB + " dstport 7081", at: "a", finding: "port_unreachable"},
	{fault: "learning off at one side", a: wordsA + " nolearning", at: "a", finding: "learning_off"},
	{fault: "learning and flooding off", a: wordsA + " nolearning flood off", at: "a", finding: "no_way_out"},
	{fault: "the peer sends VXLAN", b: "-", at: "a", finding: "vxlan", after: func(f *faulty) {
		c := f.b.dialUDP("10.77.0.1:6081")
		c.Write(append([]byte{8, 0, 0, 0, 0, 0, 42, 0}, make([]byte, 60)...))
	}},
	{fault: "l2 against l3", b: wordsB + " mode l3", at: "a", finding: "other_mode", after: func(f *faulty) {
		f.b.start(nil, "ping", "-q", "-i", "0.2", "-c", "60", "192.0.2.1")
	}},
	{fault: "device set down by ip", after: func(f *faulty) { f.a.must("down", f.a.nl.LinkSetDown(f.a.link("gnv0"))) }, at: "a", finding: "device_down"},
	{fault: "device set down by gvtep", after: func(f *faulty) { f.ga.cli("tunnel", "down", "gnv0") }, at: "a", finding: "set_down"},
	{fault: "device deleted", after: func(f *faulty) {
		f.ga.ready()
		f.ga.cli("tunnel", "add", "gnv8", "id", "8", "local", "10.77.0.1", "remote", "10.77.0.2") // with no tunnel left the daemon ends
		f.a.must("delete", f.a.nl.LinkDel(f.a.link("gnv0")))
	}, at: "a", finding: "device_deleted"},
	{fault: "route to the remote through the tunnel", after: func(f *faulty) {
		f.a.must("route", f.a.nl.RouteAdd(&netlink.Route{LinkIndex: f.a.index("gnv0"), Dst: &net.IPNet{IP: net.IPv4(10, 77, 0, 2), Mask: net.CIDRMask(32, 32)}}))
	}, at: "a", finding: "route_loop"},
	{fault: "MTU set by hand above the path", a: wordsA + " mtu 9000", at: "a", finding: "mtu_above_path"},
	{fault: "offloads switched off by hand", after: func(f *faulty) {
		f.ga.ready()
		f.a.do(func() error { return ethtool("gnv0", unix.ETHTOOL_STSO, 0) })
	}, at: "a", finding: "offload_off"},
	{fault: "entries written by bridge fdb", after: func(f *faulty) {
		f.ga.ready()
		f.a.ok(15*time.Second, "bridge", "fdb", "add", "02:00:00:00:00:77", "dev", "gnv0", "self", "permanent")
	}, at: "a", finding: "bridge_fdb"},
	{fault: "the qdisc mq on its device", after: func(f *faulty) {
		f.ga.ready()
		f.a.ok(15*time.Second, "tc", "qdisc", "replace", "dev", "gnv0", "root", "mq")
	}, at: "a", finding: "qdisc_mq"},
	{fault: "a configured address was deleted", after: func(f *faulty) {
		address, err := netlink.ParseAddr("192.0.2.1/24")
		f.a.must("address", err)
		f.a.must("address", f.a.nl.AddrDel(f.a.link("gnv0"), address))
	}, at: "a", finding: "address_missing"},
}

// narrow puts a router between a and b whose far link carries 1300 bytes.
func (f *faulty) narrow() { f.router() }

// hole is narrow with a router that tells nobody.
func (f *faulty) hole() { f.nft(f.router(), "output", "meta l4proto icmp drop") }

func (f *faulty) router() *host {
	r := newHost(f.t, "r")
	f.a, f.b = newHost(f.t, "a"), newHost(f.t, "b")
	cable(f.a, "veth0", r, "left")
	cable(f.b, "veth0", r, "right")
	f.b.must("mtu", f.b.nl.LinkSetMTU(f.b.link("veth0"), 1300))
	r.must("mtu", r.nl.LinkSetMTU(r.link("right"), 1300))
	r.sysctl("net/ipv4/ip_forward", "1")
	f.a.address("veth0", "10.77.0.1/24")
	r.address("left", "10.77.0.254/24")
	f.b.address("veth0", "10.78.0.2/24")
	r.address("right", "10.78.0.254/24")
	for h, gateway := range map[*host]string{f.a: "10.77.0.254", f.b: "10.78.0.254"} {
		h.must("route", h.nl.RouteAdd(&netlink.Route{LinkIndex: h.index("veth0"), Gw: addr(gateway).AsSlice()}))
	}
	return r
}

// varying is what is other each time that a fault is made.
var varying = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`e2e-[0-9]+-[0-9]+`), "NAME"},
	{regexp.MustCompile(`(pid|process) [0-9]+( \([^)]*\))?`), "$1 N"},
}

// finding is one of doctor's.
type finding struct{ Fault, What, Evidence, Try string }

// doctor asks until a finding is there.
func (f *faulty) doctor(g *gvtep, fault string) (found finding, all []finding) {
	soon(10*time.Second, func() bool {
		out, _, _ := g.h.run(10*time.Second, g.binary, "-i", g.instance, "-j", "doctor")
		all = nil
		if json.Unmarshal([]byte(out), &all) != nil {
			return false
		}
		i := slices.IndexFunc(all, func(one finding) bool { return one.Fault == fault })
		if i >= 0 {
			found = all[i]
		}
		return i >= 0
	})
	return found, all
}

func (f *faulty) run(row *faultRow) {
	start := func(h *host, words, usual string) *gvtep {
		if words == "-" {
			return nil
		}
		if words == "" {
			words = usual
		}
		g := h.launch(built(f.t), newInstance(), "gnv0", strings.Fields(words)...)
		within(f.t, 10*time.Second, "an answer of the daemon", func() bool { var v any; return g.ask("/v1/status", &v) == nil })
		return g
	}
	f.ga, f.gb = start(f.a, row.a, wordsA), start(f.b, row.b, wordsB)
}

// TestFaults makes each fault and has one command on one host name it. What is said is docs/faults.md.
func TestFaults(t *testing.T) {
	need(t, "ping", "nft", "bridge", "tc")
	if built(t) == "" {
		return
	}
	said := make([]string, len(faults))
	t.Run("rows", func(t *testing.T) {
		for i := range faults {
			t.Run(faults[i].fault, func(t *testing.T) {
				t.Parallel()
				said[i] = tryFault(t, &faults[i])
			})
		}
	})
	if t.Failed() {
		return
	}
	var b strings.Builder
	b.WriteString("# Faults\n\nWhat can be wrong with an overlay, and what names it: one command on one host. Generated by `go test ./internal/e2e -run TestFaults -update`, which makes each\n" +
		"of these faults in network namespaces (10.77.0.1 is this host, 10.77.0.2 the other) and holds this page against what the program says. A finding of\n" +
		"`gvtep doctor` also says what was seen of the fault and what to try.\n\n| fault | command | sentence |\n| --- | --- | --- |\n")
	for i := range faults {
		if said[i] == "" {
			continue
		}
		command := faults[i].command
		if command == "" {
			command = "gvtep doctor"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s |\n", faults[i].fault, command, said[i])
	}
	if *update {
		if err := os.WriteFile(faultsFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(faultsFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(b.String(), "\n"); string(want) != b.String() {
		for i, line := range strings.Split(string(want), "\n") {
			if i >= len(got) || line != got[i] {
				t.Fatalf("docs/faults.md has %q, the program says %q; -update writes it", line, got[min(i, len(got)-1)])
			}
		}
	}
}

func tryFault(t *testing.T, row *faultRow) string {
	f := &faulty{t: t}
	f.a, f.b = underlay(t)
	if row.before != nil {
		row.before(f)
	}
	f.run(row)
	if row.try != nil {
		text := strings.TrimSpace(row.try(f))
		if text == "" {
			return ""
		}
		last := text[strings.LastIndexByte(text, '\n')+1:]
		if !strings.Contains(last, row.says) {
			t.Errorf("it says %q, want %q in it", text, row.says)
		}
		for _, varies := range varying {
			last = varies.what.ReplaceAllString(last, varies.with)
		}
		return last
	}
	// Somebody uses the tunnel, from both ends.
	for g, to := range map[*gvtep]string{f.ga: "192.0.2.2", f.gb: "192.0.2.1"} {
		if g != nil {
			g.h.start(nil, "ping", "-q", "-i", "0.2", "-c", "100", to)
		}
	}
	if row.after != nil {
		row.after(f)
	}
	g := map[string]*gvtep{"a": f.ga, "b": f.gb}[row.at]
	found, all := f.doctor(g, row.finding)
	if found.What == "" {
		out, _, _ := g.h.run(5*time.Second, g.binary, "-i", g.instance, "-j", "-p", "show")
		t.Fatalf("doctor has no finding %s: %+v\n%s", row.finding, all, out)
	}
	if len(all) > 2 {
		t.Errorf("%d findings, want the cause: %+v", len(all), all)
	}
	if found.Try == "" {
		t.Errorf("%+v has no remedy", found)
	}
	return found.What
}
