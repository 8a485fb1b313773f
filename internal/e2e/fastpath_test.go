package e2e

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The fast path, from outside: the same traffic whether it is on at both ends or one, and
// nothing of it left behind.

// fastState is what show says of it.
type fastState struct {
	Wanted  string `json:"wanted"`
	Devices []struct {
		Ifname string `json:"ifname"`
		Bulk   bool   `json:"bulk"`
	} `json:"devices"`
	Reason string `json:"reason"`
	RX     int    `json:"rx_packets"`
	TX     int    `json:"tx_packets"`
}

func (g *gvtep) fast() *fastState {
	g.h.t.Helper()
	var tunnel struct {
		Gvtep struct {
			FastPath *fastState `json:"fastpath"`
		} `json:"gvtep"`
	}
	if err := g.ask("/v1/tunnels/"+g.dev, &tunnel); err != nil {
		g.h.t.Fatal(err)
	}
	return tunnel.Gvtep.FastPath
}

// served waits until the fast path carries the tunnel on veth0.
func (g *gvtep) served() {
	g.h.t.Helper()
	var f *fastState
	if !soon(20*time.Second, func() bool {
		f = g.fast()
		return f != nil && f.Reason == "" && len(f.Devices) == 1 && f.Devices[0].Ifname == "veth0"
	}) {
		g.h.t.Fatalf("host %s: the fast path does not serve veth0: %+v", g.h.name, f)
	}
}

// carried waits until the fast path has told of n packets each way: it is asked once a second.
func (g *gvtep) carried(n int) {
	g.h.t.Helper()
	if !soon(10*time.Second, func() bool { s := g.fast(); return s.TX >= n && s.RX >= n }) {
		g.h.t.Errorf("%s: %+v: hardly anything goes the fast way\n%s", g.h.name, *g.fast(), g.metricsOf("gvtep_fastpath_punts"))
	}
}

// attached counts programs of tcx where frames leave by a device or come in.
func (h *host) attached(dev string) (n int) {
	h.t.Helper()
	index := h.index(dev)
	h.do(func() error {
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXEgress, ebpf.AttachTCXIngress} {
			found, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: at})
			if err != nil {
				return err
			}
			n += len(found.Programs)
		}
		return nil
	})
	return n
}

// pings sends n echo requests, all of which must be answered.
func pingsAll(t *testing.T, from *host, to string, n int) {
	t.Helper()
	out := from.ok(20*time.Second, "ping", "-q", "-c", strconv.Itoa(n), "-i", "0.005", "-W", "5", to)
	if !strings.Contains(out, fmt.Sprintf("%d received", n)) {
		t.Errorf("ping %s: %s", to, out)
	}
}

// TestFastPath: TCP, UDP and ping over both underlays, with the fast path on at both ends or
// one, over devices that cut super-frames in tunnels or do not: all arrives as it was sent,
// no checksum is wrong, and what can go the fast way does.
func TestFastPath(t *testing.T) {
	need(t, "ping")
	const size = 5 << 20
	for i, f := range families {
		for j, lab := range []string{"veth", "card"} {
			for _, ends := range []string{"both", []string{"a", "b"}[(i+j)%2]} {
				t.Run(strings.Join([]string{f.name, lab, ends}, " "), func(t *testing.T) {
					a, b := underlay(t)
					if lab == "veth" {
						for _, h := range []*host{a, b} {
							for command, value := range labs["veth"] {
								h.do(func() error { return ethtool("veth0", command, value) })
							}
						}
					}
					on := map[bool]string{true: "on", false: "off"}
					ga := a.tunnel("gnv0", "--id", "42", "--local", f.near, "--remote", f.far, "--address", "192.0.2.1/24", "--address", "fd92::1/64", "--fastpath", on[ends != "b"])
					gb := b.tunnel("gnv0", "--id", "42", "--local", f.far, "--remote", f.near, "--address", "192.0.2.2/24", "--address", "fd92::2/64", "--fastpath", on[ends != "a"])
					var fast []*gvtep
					for end, g := range map[string]*gvtep{"a": ga, "b": gb} {
						if ends == "both" || ends == end {
							g.served()
							fast = append(fast, g)
						} else if g.fast() != nil {
							t.Errorf("fastpath off is told as %+v", g.fast())
						}
					}
					for _, inner := range inners {
						pingsAll(t, a, inner.far, 3) // they learn
					}
					aBefore, bBefore := settledCounters(ga, gb)
					for _, inner := range inners {
						pingsAll(t, a, inner.far, 50)
						sendsTCP(t, a, b, net.JoinHostPort(inner.far, "7000"), size)
						sendsTCP(t, b, a, net.JoinHostPort(inner.near, "7000"), size)
						sendsRuns(t, a, b, net.JoinHostPort(inner.far, "7001"))
						sendsRuns(t, b, a, net.JoinHostPort(inner.near, "7001"))
					}
					for _, g := range fast {
						g.carried(40)
						for _, name := range []string{"gvtep_fastpath_active", "gvtep_fastpath_packets_total", "gvtep_fastpath_punts_total"} {
							if !strings.Contains(g.metricsOf(name), name+"{") {
								t.Errorf("%s: no metric %s", g.h.name, name)
							}
						}
					}
					for _, h := range []*host{a, b} {
						if bad := h.sumFaults(); len(bad) != 0 {
							t.Errorf("host %s: wrong checksums: %v", h.name, bad)
						}
					}
					for _, g := range []*gvtep{ga, gb} {
						for name, n := range g.counters() {
							if name != "rx.packets" && name != "tx.packets" && n != 0 {
								t.Errorf("%s: %d dropped as %s, want none", g.h.name, n, name)
							}
						}
					}
					// Without a card userspace gets super-frames uncut, and counts them as one.
					var at, bt counters
					if lab == "card" && !soon(10*time.Second, func() bool {
						at, bt = ga.counters().since(aBefore), gb.counters().since(bBefore)
						return at["tx.packets"] == bt["rx.packets"] && bt["tx.packets"] == at["rx.packets"]
					}) {
						t.Errorf("what one end has sent the other has not received: %v, %v", at, bt)
					}
				})
			}
		}
	}
}

// settledCounters are the counters of two ends at a moment when nothing passes: what comes
// between two looks counts at one end only, and hosts send multicast reports when they like.
func settledCounters(a, b *gvtep) (ca, cb counters) {
	a.h.t.Helper()
	within(a.h.t, 10*time.Second, "a moment when nothing passes", func() bool {
		ca, cb = a.counters(), b.counters()
		return maps.Equal(ca, a.counters()) && maps.Equal(cb, b.counters())
	})
	return ca, cb
}

// metricsOf are the metrics that begin so and are not 0.
func (g *gvtep) metricsOf(prefix string) string {
	g.h.t.Helper()
	var lines []string
	for line := range strings.Lines(g.h.ok(5*time.Second, g.binary, "-i", g.instance, "metrics")) {
		if strings.HasPrefix(line, prefix) && !strings.HasSuffix(line, " 0\n") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// TestFastPathPeerRemoved: what a removed peer sends is not delivered from when the command
// has returned; added again it is.
func TestFastPathPeerRemoved(t *testing.T) {
	need(t, "ping")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			p := newPair(t, f, "--fastpath", "on")
			p.ga.served()
			p.gb.served()
			pingsAll(t, p.a, "192.0.2.2", 20)
			in := p.b.listenUDP("192.0.2.2:7000")
			out := p.a.dialUDP("192.0.2.2:7000")
			stop := make(chan struct{})
			sent := make(chan struct{})
			var number atomic.Uint64 // of the last datagram
			go func() {
				defer close(sent)
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						out.Write(binary.BigEndian.AppendUint64(nil, number.Add(1)))
					}
				}
			}()
			defer func() { close(stop); <-sent }()
			// got counts what arrives in a time of the datagrams behind one.
			got := func(d time.Duration, after uint64) (n int) {
				buf := make([]byte, 10)
				in.SetReadDeadline(time.Now().Add(d))
				for {
					if _, err := in.Read(buf); err != nil {
						return n
					}
					if binary.BigEndian.Uint64(buf) > after {
						n++
					}
				}
			}
			within(t, 10*time.Second, "datagrams arrive to begin with", func() bool { return got(200*time.Millisecond, 0) >= 20 })
			within(t, 3*time.Second, "the fast path carries it", func() bool { return p.gb.fast().RX > 0 })
			cli := func(args ...string) {
				p.b.ok(5*time.Second, p.gb.binary, append([]string{"-i", p.gb.instance}, args...)...)
			}
			cli("peer", "del", f.near, "dev", "gnv0")
			// What was sent before may be in the stack and the socket.
			if n := got(300*time.Millisecond, number.Load()); n != 0 {
				t.Errorf("%d datagrams of a removed peer were delivered", n)
			}
			cli("peer", "add", f.near, "dev", "gnv0")
			within(t, 10*time.Second, "the peer is heard again", func() bool { return got(100*time.Millisecond, 0) > 10 })
			within(t, 5*time.Second, "the fast path carries it again", func() bool { return p.gb.fast().RX > 10 })
		})
	}
}

// TestFastPathKilled: after kill -9 nothing is attached any more and the device's end is as
// without a fast path; started again all is as it was.
func TestFastPathKilled(t *testing.T) {
	need(t, "ping")
	f := families[0]
	a, b := underlay(t)
	start := func() *gvtep {
		return b.tunnel("gnv0", "--id", "42", "--local", f.far, "--remote", f.near, "--address", "192.0.2.2/24", "--fastpath", "on",
			"--lladdr", "02:00:00:00:0b:01") // that the other end knows
	}
	p := pair{a, b, a.tunnel("gnv0", "--id", "42", "--local", f.near, "--remote", f.far, "--address", "192.0.2.1/24", "--fastpath", "on"), start()}
	for i := range 3 {
		p.ga.served()
		p.gb.served()
		pingsAll(t, p.a, "192.0.2.2", 20)
		if n := p.b.attached("veth0") + p.b.attached("gnv0"); n != 2 {
			t.Fatalf("%d programs attached, want 2", n)
		}
		p.gb.end(syscall.SIGKILL, 5*time.Second)
		within(t, 5*time.Second, "the programs are gone", func() bool { return p.b.attached("veth0") == 0 })
		if i == 2 {
			break
		}
		p.gb = start()
	}
	p.ga.stop()
	if n := p.a.attached("veth0"); n != 0 {
		t.Errorf("%d programs attached after a stop in good order", n)
	}
}

// TestFastPathSwitch: it is switched on and off while packets flow, and none is lost.
func TestFastPathSwitch(t *testing.T) {
	need(t, "ping")
	if fastpath() {
		t.Skip("it is about the default")
	}
	p := newPair(t, families[0])
	if p.ga.fast() != nil || p.a.attached("veth0") != 0 {
		t.Fatal("the fast path is not off by default")
	}
	ping := p.a.start(nil, "ping", "-q", "-c", "400", "-i", "0.005", "-W", "5", "192.0.2.2")
	set := func(value string) {
		p.a.ok(5*time.Second, p.ga.binary, "-i", p.ga.instance, "tunnel", "set", "gnv0", "fastpath", value)
	}
	for range 3 {
		set("on")
		p.ga.served()
		time.Sleep(100 * time.Millisecond)
		set("off")
		within(t, 5*time.Second, "nothing is attached", func() bool { return p.a.attached("veth0")+p.a.attached("gnv0") == 0 })
	}
	if code, err := ping.wait(20 * time.Second); err != nil || code != 0 || !strings.Contains(ping.stdout.String(), " 400 received") {
		t.Errorf("ping: %d, %v: %s", code, err, ping.stdout.String())
	}
}

// TestFastPathAgeing: what only the fast path hears does not age, and what is silent does.
func TestFastPathAgeing(t *testing.T) {
	need(t, "ping")
	p := newPair(t, families[0], "--fastpath", "on", "--ageing", "4")
	p.ga.served()
	p.gb.served()
	pingsAll(t, p.a, "192.0.2.2", 10)
	there := p.b.mac("gnv0")
	before := p.ga.metrics("gvtep_fdb_learned_total")
	p.a.neighbour("gnv0", "192.0.2.2", there)
	p.b.neighbour("gnv0", "192.0.2.1", p.a.mac("gnv0"))
	p.a.ok(20*time.Second, "ping", "-q", "-c", "55", "-i", "0.1", "-W", "5", "192.0.2.2")
	if after := p.ga.metrics("gvtep_fdb_learned_total"); after != before {
		t.Errorf("addresses learned: %v, then %v: an entry has aged while its station spoke", before, after)
	}
	if p.ga.behind(there) != "10.77.0.2" {
		t.Error("the entry of the station that spoke is gone")
	}
	within(t, 8*time.Second, "the silent station is forgotten", func() bool { return p.ga.behind(there) == "" })
}

// metrics is the value of one metric without regard to labels, added up.
func (g *gvtep) metrics(name string) (sum float64) {
	g.h.t.Helper()
	for line := range strings.Lines(g.metricsOf(name)) {
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			g.h.t.Fatalf("%s: %v", line, err)
		}
		sum += v
	}
	return sum
}

// TestFastPathRefused: without what it needs the reason is told, and userspace carries all.
func TestFastPathRefused(t *testing.T) {
	need(t, "ping")
	f := families[0]
	for _, c := range []struct {
		name, want string
		words      []string
		caps       bool // but for the capabilities
	}{
		{"mode l3", "mode l3", []string{"--mode", "l3"}, false},
		{"ageing", "ageing", []string{"--ageing", "3"}, false},
		{"df inherit", "df inherit", []string{"--df", "inherit"}, false},
		{"trunk", "trunks", []string{"--vlan", "10:1010"}, false},
		{"capabilities", "CAP_BPF", nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := underlay(t)
			words := append([]string{"--id", "42", "--fastpath", "on"}, c.words...)
			b.tunnel("gnv0", append(words, "--local", f.far, "--remote", f.near, "--address", "192.0.2.2/24")...)
			words = append(words, "--local", f.near, "--remote", f.far, "--address", "192.0.2.1/24")
			var g *gvtep
			if c.caps {
				need(t, "setpriv")
				instance := newInstance()
				g = newClient(a, built(t), instance, "gnv0")
				g.program = a.start(nil, "setpriv", append([]string{"--bounding-set", "-bpf,-perfmon,-sys_admin", "--inh-caps", "-bpf,-perfmon,-sys_admin",
					g.binary, "-i", instance, "run", "gnv0"}, words...)...)
				t.Cleanup(g.cleanup)
				within(t, 5*time.Second, "it answers", func() bool { return g.ask("/v1/status", new(any)) == nil })
				g.ready()
			} else {
				g = a.tunnel("gnv0", words...)
			}
			within(t, 5*time.Second, "the reason is told: "+c.want, func() bool {
				s := g.fast()
				return s != nil && len(s.Devices) == 0 && strings.Contains(s.Reason, c.want)
			})
			if text := a.ok(5*time.Second, g.binary, "-i", g.instance, "show"); !strings.Contains(text, "not carried: ") {
				t.Errorf("show does not tell why: %s", text)
			}
			pingsAll(t, a, "192.0.2.2", 3)
			if n := a.attached("veth0"); n != 0 {
				t.Errorf("%d programs attached", n)
			}
		})
	}
}

// TestFastPathAuto: auto steps back when there are rules that would be bypassed.
func TestFastPathAuto(t *testing.T) {
	need(t, "ping", "nft")
	p := newPair(t, families[0], "--fastpath", "auto")
	p.ga.served()
	pingsAll(t, p.a, "192.0.2.2", 10)
	p.a.ok(5*time.Second, "nft", "add table inet e2e; add chain inet e2e in { type filter hook input priority 0; }")
	within(t, 10*time.Second, "rules are told of", func() bool { return strings.Contains(p.ga.fast().Reason, "table e2e") })
	p.ga.counters() // takes over what the fast path has counted; else that is done once a second
	before := p.ga.fast()
	pingsAll(t, p.a, "192.0.2.2", 10)
	p.ga.counters()
	if after := p.ga.fast(); after.RX != before.RX || after.TX != before.TX {
		t.Errorf("with rules: %+v, then %+v", *before, *after)
	}
	p.a.ok(5*time.Second, "nft", "delete table inet e2e")
	p.ga.served()
}

// TestFastPathPolicyRoute: a way that a policy rule chooses by UDP port is taken, although
// without ports there is another one, which leads nowhere, or none.
func TestFastPathPolicyRoute(t *testing.T) {
	need(t, "ip", "ping")
	for _, f := range families {
		for _, other := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s other way %t", f.name, other), func(t *testing.T) {
				a, b := underlay(t)
				v, far := "-4", "10.88.0.2"
				if f.name == "IPv6" {
					v, far = "-6", "fd88::2"
				}
				b.up("lo")
				b.ip(v + " address add " + far + " dev lo")
				a.ip(v + " rule add ipproto udp dport 6081 lookup 100")
				a.ip(v + " route add " + far + " via " + f.far + " dev veth0 table 100")
				if other {
					a.ip(v + " route add " + far + " via " + f.alien + " dev veth0")
				}
				// Nobody answers for it on the wire: only the gateway leads there.
				b.sysctl("net/ipv4/conf/veth0/arp_ignore", "1")
				ga := a.tunnel("gnv0", "--id", "42", "--local", f.near, "--remote", far, "--address", "192.0.2.1/24", "--fastpath", "on")
				gb := b.tunnel("gnv0", "--id", "42", "--local", far, "--remote", f.near, "--address", "192.0.2.2/24", "--fastpath", "on")
				ga.served()
				gb.served()
				pingsAll(t, a, "192.0.2.2", 30)
				ga.carried(20)
			})
		}
	}
}

// TestFastPathPMTU: a router's word about a narrow path reaches the sender inside, and the
// bytes the receiver, although nothing of userspace has sent what was too long.
func TestFastPathPMTU(t *testing.T) {
	need(t)
	a, r, b := newHost(t, "a"), newHost(t, "r"), newHost(t, "b")
	cable(a, "veth0", r, "left")
	cable(b, "veth0", r, "right")
	a.address("veth0", "10.77.0.1/24")
	r.address("left", "10.77.0.254/24")
	r.address("right", "10.78.0.254/24")
	b.address("veth0", "10.78.0.2/24")
	r.sysctl("net/ipv4/ip_forward", "1")
	for _, h := range []*host{a, b} {
		gateway := map[*host]string{a: "10.77.0.254", b: "10.78.0.254"}[h]
		h.ok(5*time.Second, "ip", "route", "add", "default", "via", gateway)
	}
	ga := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.78.0.2", "--address", "192.0.2.1/24", "--fastpath", "on")
	gb := b.tunnel("gnv0", "--id", "42", "--local", "10.78.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--fastpath", "on")
	ga.served()
	gb.served()
	pingsAll(t, a, "192.0.2.2", 10)
	sendsTCP(t, a, b, "192.0.2.2:7000", 1<<20)
	r.must("MTU", r.nl.LinkSetMTU(r.link("right"), 1400))
	start := time.Now()
	sendsTCP(t, a, b, "192.0.2.2:7000", 1<<20)
	if took := time.Since(start); took > 15*time.Second { // not slow, but stuck
		t.Errorf("over the narrow path it took %v", took)
	}
	if n := ga.metrics(`gvtep_icmp_too_big_total`); n == 0 {
		t.Error("no sender was told")
	}
}

// TestFastPathBridged: containers behind bridges, with all offloads of a veth and verifying
// each checksum. One moves to the other side, and packets follow it.
func TestFastPathBridged(t *testing.T) {
	need(t, "ip", "ping")
	var daemons [2]*gvtep
	var stations [2]*host
	a, b := underlay(t)
	container := func(h *host, name string, station mac, n int) *host {
		c := h.container(name, "br0", station, fmt.Sprintf("192.0.2.%d/24", n))
		c.address("veth0", fmt.Sprint("fd92::", n, "/64"))
		c.must("MTU", c.nl.LinkSetMTU(c.link("veth0"), h.mtu("gnv0")))
		c.do(func() error { return ethtool("veth0", unix.ETHTOOL_SRXCSUM, 0) })
		for command, value := range labs["veth"] {
			c.do(func() error { return ethtool("veth0", command, value) })
		}
		return c
	}
	for i, h := range []*host{a, b} {
		for command, value := range labs["veth"] {
			h.do(func() error { return ethtool("veth0", command, value) })
		}
		h.bridge("br0")
		daemons[i] = h.tunnel("gnv0", "--id", "42", "--local", fmt.Sprint("10.77.0.", i+1), "--remote", fmt.Sprint("10.77.0.", 2-i), "--master", "br0", "--fastpath", "on")
		stations[i] = container(h, "st-"+h.name, mac{2, 0, 0, 0, 0x0c, byte(i + 1)}, i+1)
		daemons[i].served()
	}
	for _, inner := range inners {
		pingsAll(t, stations[0], inner.far, 20)
		sendsTCP(t, stations[0], stations[1], net.JoinHostPort(inner.far, "7000"), 10<<20)
		sendsTCP(t, stations[1], stations[0], net.JoinHostPort(inner.near, "7000"), 10<<20)
		sendsRuns(t, stations[0], stations[1], net.JoinHostPort(inner.far, "7001"))
	}
	for _, g := range daemons {
		g.carried(1000)
	}
	for _, h := range []*host{stations[0], stations[1], a, b} {
		if bad := h.sumFaults(); len(bad) != 0 {
			t.Errorf("%s: wrong checksums: %v", h.name, bad)
		}
	}
	// The station of b moves over to a, and speaks there.
	stations[1].must("down", stations[1].nl.LinkSetDown(stations[1].link("veth0")))
	moved := container(a, "st-m", mac{2, 0, 0, 0, 0x0c, 2}, 2)
	pingsAll(t, moved, "192.0.2.1", 5)
	other := container(b, "st-o", mac{2, 0, 0, 0, 0x0c, 3}, 3)
	pingsAll(t, other, "192.0.2.2", 20)
	if where := daemons[1].behind(mac{2, 0, 0, 0, 0x0c, 2}); where != "10.77.0.1" {
		t.Errorf("the station that has moved is %q, want behind 10.77.0.1", where)
	}
}

// TestFastPathOrder: runs of datagrams and single ones of the same flow go different ways, and
// all arrive in order: from and to devices with offloads and without.
func TestFastPathOrder(t *testing.T) {
	need(t, "ping")
	for i, f := range families {
		for lab, features := range labs {
			t.Run(f.name+" "+lab, func(t *testing.T) {
				offload := []string{"auto", "off"}
				p := newPair(t, f, "--fastpath", "on", "--offload", offload[(i+len(lab))%2])
				for i, h := range []*host{p.a, p.b} {
					h.address("gnv0", fmt.Sprint("fd92::", i+1, "/64"))
					for command, value := range features {
						h.do(func() error { return ethtool("veth0", command, value) })
					}
				}
				p.ga.served()
				p.gb.served()
				// Without it the kernel would cut what comes as a tunnel's super-frame.
				within(t, 10*time.Second, "it is seen whether the device cuts", func() bool { return p.ga.fast().Devices[0].Bulk == (lab == "veth") })
				for _, inner := range inners {
					pingsAll(t, p.a, inner.far, 20)
					udpStream(t, p.a, p.b, net.JoinHostPort(inner.far, "7000"), 5<<20)
					udpStream(t, p.b, p.a, net.JoinHostPort(inner.near, "7000"), 5<<20)
				}
				for _, g := range []*gvtep{p.ga, p.gb} {
					g.carried(20)
					for name, n := range g.counters() {
						if name != "rx.packets" && name != "tx.packets" && n != 0 {
							t.Errorf("%s: %d dropped as %s, want none", g.h.name, n, name)
						}
					}
				}
				for _, h := range []*host{p.a, p.b} {
					if bad := h.sumFaults(); len(bad) != 0 {
						t.Errorf("host %s: wrong checksums: %v", h.name, bad)
					}
				}
			})
		}
	}
}

// TestFastPathDown: what comes for a device that is down is counted as device_down and not as
// received, whoever set it down; when it is up again the fast path carries it again.
func TestFastPathDown(t *testing.T) {
	need(t, "ping")
	p := newPair(t, families[0], "--fastpath", "on")
	p.ga.served()
	p.gb.served()
	to, from := p.b.mac("gnv0"), p.a.mac("gnv0")
	p.a.neighbour("gnv0", "192.0.2.2", to)
	pingsAll(t, p.a, "192.0.2.2", 20)
	for _, way := range []struct {
		who      string
		down, up func()
	}{
		{"gvtep", func() { p.gb.cli("tunnel", "down", "gnv0") }, func() { p.gb.cli("tunnel", "up", "gnv0") }},
		{"ip link", func() { p.b.must("down", p.b.nl.LinkSetDown(p.b.link("gnv0"))) }, func() { p.b.up("gnv0") }},
	} {
		way.down()
		within(t, 5*time.Second, "it is told of", func() bool { return p.gb.fast().Reason == "the device is down" })
		before := p.gb.counters()
		p.a.run(20*time.Second, "ping", "-q", "-c", "20", "-i", "0.005", "-W", "1", "192.0.2.2")
		within(t, 5*time.Second, "drops are counted", func() bool { return p.gb.counters().since(before)["rx.device_down"] >= 20 })
		way.up()
		p.b.neighbour("gnv0", "192.0.2.1", from)
		p.gb.served()
		carried := p.gb.fast().RX
		within(t, 10*time.Second, "set down by "+way.who+", and up: it is carried again", func() bool {
			p.a.run(20*time.Second, "ping", "-q", "-c", "5", "-i", "0.005", "-W", "1", "192.0.2.2")
			return p.gb.fast().RX >= carried+5
		})
	}
}
