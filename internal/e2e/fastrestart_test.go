package e2e

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Life without a process: under a service manager that keeps descriptors the kernel goes on
// carrying known unicast, and the next process takes over.
//
//	a  stopped, killed, started again       b  there all the time
//	gnv0 192.0.2.1/24                       gnv0 192.0.2.2/24

// bulkTCP is a TCP connection on which as much is sent as goes.
type bulkTCP struct {
	arrived atomic.Int64 // bytes
	sender  net.Conn
	ended   chan struct{}
}

// bulk begins one.
func bulk(t *testing.T, from, to *host, address string) *bulkTCP {
	t.Helper()
	l := to.listenTCP(address)
	s := &bulkTCP{ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		c, err := l.Accept()
		l.Close()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			s.arrived.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	s.sender = from.dialTCP(address)
	go io.Copy(s.sender, endless{})
	return s
}

// endless is zeros without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// stop ends it, and waits until all has arrived.
func (s *bulkTCP) stop(t *testing.T) {
	t.Helper()
	s.sender.Close()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the TCP connection does not end")
	}
}

// moves waits until another 16 MiB have arrived, which is more than a socket holds.
func (s *bulkTCP) moves(t *testing.T, what string) {
	t.Helper()
	before := s.arrived.Load()
	within(t, 30*time.Second, "TCP moves "+what, func() bool { return s.arrived.Load() > before+(16<<20) })
}

// lasting is a tunnel with the fast path whose end at a comes and goes.
type lasting struct {
	t        *testing.T
	a, b     *host
	dev      string // that has the addresses at a: the tunnel's, or a bridge with it
	m        *manager
	user     []string
	instance string
	ga, gb   *gvtep
}

// newLasting starts both ends. Bulk, too, goes the fast way.
func newLasting(t *testing.T, dev string) *lasting {
	t.Helper()
	need(t, "ping", "ip")
	l := &lasting{t: t, dev: dev, m: newManager(t), instance: newInstance()}
	l.a, l.b = underlay(t)
	for _, h := range []*host{l.a, l.b} {
		for command, value := range labs["veth"] {
			h.do(func() error { return ethtool("veth0", command, value) })
		}
	}
	if dev != "gnv0" {
		l.a.bridge(dev)
	}
	l.user = unprivileged(t, l.instance, "bpf", "perfmon") // as scripts/systemd/drop-in/fastpath.conf
	l.start("10.77.0.2", "on")
	l.gb = l.b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24", "--fastpath", "on")
	if dev != "gnv0" {
		l.a.address(dev, "192.0.2.1/24")
	}
	// Nobody answers ARP without a process.
	l.a.neighbour(dev, "192.0.2.2", l.b.mac("gnv0"))
	l.b.neighbour("gnv0", "192.0.2.1", l.a.mac(dev))
	l.carries()
	return l
}

// start starts a process at a, with a peer and a value of fastpath, and waits until it says that
// it is ready.
func (l *lasting) start(peer, fast string) {
	l.t.Helper()
	words := []string{"gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", peer, "--fastpath", fast}
	if l.dev == "gnv0" {
		words = append(words, "--address", "192.0.2.1/24")
	} else {
		words = append(words, "--master", l.dev)
	}
	mark := l.m.mark()
	l.ga = l.m.service(l.a, l.user, built(l.t), l.instance, "gnv0", words...)
	l.m.await(mark, 30*time.Second, "READY=1")
}

// carries waits until both ends have learned, and the fast path of a knows it.
func (l *lasting) carries() {
	l.t.Helper()
	l.ga.served()
	l.gb.served()
	within(l.t, 20*time.Second, "pings go the fast way", func() bool {
		before := l.ga.fast()
		pingsAll(l.t, l.b, "192.0.2.1", 3)
		now := l.ga.fast()
		return now.RX >= before.RX+3 && now.TX >= before.TX+3
	})
}

// hooked are the links by which programs are attached to the tunnel's and the underlay's device.
func (l *lasting) hooked() (ids []link.ID) {
	l.t.Helper()
	tunnel, under := l.a.index("gnv0"), l.a.index("veth0")
	l.a.do(func() error {
		for _, o := range []link.QueryOptions{{Target: tunnel, Attach: ebpf.AttachTCXEgress}, {Target: under, Attach: ebpf.AttachTCXIngress}} {
			found, err := link.QueryPrograms(o)
			if err != nil {
				return err
			}
			for _, p := range found.Programs {
				id, _ := p.LinkID()
				ids = append(ids, id)
			}
		}
		return nil
	})
	return ids
}

// TestFastPathRestart: while there is no process, after a stop and after kill -9, pings are
// answered and TCP moves. The next process takes over the links, and has counted what was carried
// meanwhile, to the packet.
func TestFastPathRestart(t *testing.T) {
	const pings = 20
	for _, dev := range []string{"gnv0", "br0"} {
		t.Run("addresses on "+dev, func(t *testing.T) {
			l := newLasting(t, dev)
			links := l.hooked()
			if len(links) != 2 {
				t.Fatalf("attached by %v, want by two links", links)
			}
			for way, sig := range map[string]syscall.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL} {
				end := func() {
					t.Helper()
					if _, err := l.ga.end(sig, 10*time.Second); err != nil {
						t.Fatal(err)
					}
				}
				tcp := bulk(t, l.b, l.a, "192.0.2.1:7000")
				tcp.moves(t, "before")
				end()
				tcp.moves(t, "when the process is "+way)
				l.start("10.77.0.2", "on")
				tcp.moves(t, "after")
				tcp.stop(t)
				l.carries()
				settledCounters(l.ga, l.gb) // what was carried until now was told
				end()
				pingsAll(t, l.b, "192.0.2.1", pings)
				l.start("10.77.0.2", "on")
				// It asks once a second.
				if !soon(10*time.Second, func() bool { f := l.ga.fast(); return f.RX == pings && f.TX == pings }) {
					t.Errorf("%s: %+v; want %d each way, as many as were carried without a process", way, *l.ga.fast(), pings)
				}
				if now := l.hooked(); !slices.Equal(now, links) {
					t.Errorf("%s: attached by links %v, want by those that there were, %v", way, now, links)
				}
				l.carries()
			}
		})
	}
}

// TestFastPathNotTakenOver: when the next process is ready nothing is carried that it does not
// have: a peer that it was not told of, or all with fastpath off. Nothing stays when the manager
// drops what it holds, as systemctl stop has it.
func TestFastPathNotTakenOver(t *testing.T) {
	l := newLasting(t, "gnv0")
	links := l.hooked()
	l.ga.stop()
	l.start("10.77.0.9", "on")
	ping := l.b.start(nil, "ping", "-q", "-c", "5", "-i", "0.1", "-W", "1", "192.0.2.1")
	if _, err := ping.wait(20 * time.Second); err != nil || !strings.Contains(ping.stdout.String(), " 0 received") {
		t.Errorf("from a peer that was removed while there was no process: %v, %s", err, ping.stdout.String())
	}
	if now := l.hooked(); !slices.Equal(now, links) {
		t.Errorf("attached by links %v, want %v", now, links)
	}
	l.ga.stop()
	l.start("10.77.0.2", "off")
	if now := l.hooked(); len(now) != 0 || len(l.m.all()) != len(l.m.names()) {
		t.Errorf("with fastpath off: attached by links %v, stored: %s", now, l.m.all())
	}
	l.ga.stop()
	l.start("10.77.0.2", "on")
	l.carries()
	l.ga.stop()
	if n := l.a.attached("veth0"); n != 1 {
		t.Errorf("%d programs are attached without a process, want 1", n)
	}
	l.m.forget()
	within(t, 10*time.Second, "nothing is attached when the manager has dropped what it held", func() bool { return l.a.attached("veth0") == 0 })
}
