package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestIstio: the set-up of Istio ambient's first releases (cni/pkg/ambient),
// with gvtep in place of the four kernel devices. Two tunnels lead to the same
// peer on the same port and are told apart by the VNI alone; policy routing
// sends a pod's connections into one and those to a pod into the other, and
// TPROXY hands both to a proxy that sees the original destination.
//
//	pod 10.244.0.10 --+                         +-- outside 198.51.100.9
//	                  |                         |
//	       10.244.0.1 |         node            | 198.51.100.1
//	                  +-- istioin  192.168.126.1/30   VNI 1000
//	                      istioout 192.168.127.1/30   VNI 1001
//	                      veth0 10.77.0.1
//	                        |
//	                      veth0 10.77.0.2
//	                      pistioin  192.168.126.2/30  TPROXY to 15006, 15008
//	                      pistioout 192.168.127.2/30  TPROXY to 15001
//	                            ztunnel
func TestIstio(t *testing.T) {
	need(t, "ip", "nft")
	for _, v := range []struct {
		name, mode string
		port       int
		taken      bool // a tunnel device of the kernel has port 6081 on the node
	}{
		{"Ethernet inside", "l2", 6081, false},
		{"IP inside", "l3", 6081, false},
		{"beside a kernel device", "l2", 6082, true},
	} {
		t.Run(v.name, func(t *testing.T) {
			m := newMesh(t)
			if v.taken {
				kernelDevice(t, m.node)
				p := m.node.start(nil, built(t), "-i", newInstance(), "run", "istioin", "id", "1000", "remote", "10.77.0.2")
				if code, err := p.wait(5 * time.Second); err != nil || code != 2 || !strings.Contains(p.stderr.String(), "6081") {
					t.Errorf("with the port taken: exit status %d, %v, and %q; want 2 and the port named", code, err, p.stderr.String())
				}
			}
			m.daemons(t, v.mode, v.port)
			m.setUp(t, v.mode, v.port)
			once := m.state(t)
			m.setUp(t, v.mode, v.port)
			if twice := m.state(t); twice != once {
				t.Errorf("the set-up done twice is not what it was done once\nonce:\n%s\ntwice:\n%s", once, twice)
			}
			m.connections(t, v.port)
		})
	}
}

type mesh struct {
	node, zt, pod, outside *host
	gnode, gzt             *gvtep
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{pod: newHost(t, "pod"), outside: newHost(t, "outside")}
	m.node, m.zt = underlay(t)
	plug(m.pod, m.node, "veth-pod")
	plug(m.outside, m.node, "veth-out")
	m.pod.address("veth0", "10.244.0.10/24")
	m.node.address("veth-pod", "10.244.0.1/24")
	m.outside.address("veth0", "198.51.100.9/24")
	m.node.address("veth-out", "198.51.100.1/24")
	m.node.sysctl("net/ipv4/ip_forward", "1")
	for h, gateway := range map[*host]string{m.pod: "10.244.0.1", m.outside: "198.51.100.1", m.zt: "10.77.0.1"} {
		h.must("route", h.nl.RouteAdd(&netlink.Route{LinkIndex: h.index("veth0"), Gw: net.ParseIP(gateway)}))
	}
	return m
}

// daemons starts the endpoints, each one process for both tunnels.
func (m *mesh) daemons(t *testing.T, mode string, port int) {
	t.Helper()
	const text = `
[socket]
port = %d
[defaults]
mode   = %q
local  = "10.77.0.%d"
remote = "10.77.0.%d"
[[tunnel]]
name    = "%[5]sistioin"
id      = 1000
address = "192.168.126.%[3]d/30"
[[tunnel]]
name    = "%[5]sistioout"
id      = 1001
address = "192.168.127.%[3]d/30"
`
	m.gnode = m.node.configured("istioin", file(t, "node.toml", fmt.Sprintf(text, port, mode, 1, 2, "")))
	m.gzt = m.zt.configured("pistioin", file(t, "zt.toml", fmt.Sprintf(text, port, mode, 2, 1, "p")))
}

// setUp is what Istio's node agent does. It may be done any number of times.
func (m *mesh) setUp(t *testing.T, mode string, port int) {
	t.Helper()
	for part, h := range map[string]*host{"node": m.node, "ztunnel": m.zt} {
		h.ok(20*time.Second, "env", "BIN="+bin(t), "GVTEP_INSTANCE="+m.gnode.instance, "MODE="+mode, fmt.Sprint("PORT=", port), istioScript, part)
	}
}

const istioScript = "../../scripts/lab/istio.sh"

// bin is a directory with the built program under its own name.
func bin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(built(t), filepath.Join(dir, "gvtep")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestIstioScript: the same lab for people, from its beginning to its end,
// under a name of its own: somebody may have one up.
func TestIstioScript(t *testing.T) {
	need(t, "ip", "nft", "socat", "curl")
	out := newHost(t, "lab").ok(60*time.Second, "env", "BIN="+bin(t), fmt.Sprint("LAB=istio-", os.Getpid()), istioScript, "demo")
	if !strings.HasSuffix(out, "istio, l2: ok\n") {
		t.Error(out)
	}
}

// state is what the set-up has made, without what differs each time.
func (m *mesh) state(t *testing.T) (all string) {
	t.Helper()
	for _, h := range []*host{m.node, m.zt} {
		all += h.ok(10*time.Second, "sh", "-ec", `ip -br -4 addr | grep istio | sed 's/@.*//'; ip rule; ip route show table all | grep -v '^local\|^broadcast'; nft -s list ruleset | grep -v packets`)
	}
	return all
}

// connections makes all kinds of connections of the mesh.
func (m *mesh) connections(t *testing.T, port int) {
	t.Helper()
	const size = 1 << 20
	pods := m.pod.serve("10.244.0.10:80", 0)
	for _, back := range []struct {
		how     string
		in, out int // marks of the proxy's sockets
	}{
		{"replies by the veth", 0, 0}, // Istio's way: the node's connection marks bring the rest there, too
		{"replies by the tunnels", 0x402, 0x401},
	} {
		t.Run(back.how, func(t *testing.T) {
			for at, mark := range map[string]int{"15001": back.out, "15006": back.in, "15008": back.in} {
				s := m.zt.serve("127.0.0.1:"+at, mark)
				defer s.Close()
			}
			for _, c := range []struct {
				from     *host
				to, port string // the port of the proxy, "" if it is none of its business
			}{
				{m.pod, "198.51.100.9:80", "15001"},
				{m.pod, "203.0.113.7:8080", "15001"}, // nobody has it but the proxy
				{m.outside, "10.244.0.10:80", "15006"},
				{m.outside, "10.244.0.10:15008", "15008"},
				{m.node, "10.244.0.10:80", ""}, // a probe of the node's own goes past the mesh
			} {
				inner, body := m.tunnelled(t), bytes.Repeat([]byte("istio"), size/5)
				server, local, got, err := c.from.post(c.to, body)
				want := c.port
				if want == "" {
					want = "80"
				}
				if err != nil || !strings.HasSuffix(server, ":"+want) || local != c.to || got != len(body) {
					t.Errorf("%s to %s: port %s answered, as %s, to %d bytes: %v; want port %s as %s to %d bytes",
						c.from.name, c.to, server, local, got, err, want, c.to, len(body))
				}
				passed := m.tunnelled(t) - inner
				// Where nothing should pass there may be ARP.
				if c.port == "" && passed > 9 || c.port != "" && passed == 0 || back.in != 0 && c.port != "" && passed < size/5/1500 {
					t.Errorf("%s to %s: %d packets through the tunnels", c.from.name, c.to, passed)
				}
			}
		})
	}
	pods.Close()
	counter := func(name string) (packets int) {
		t.Helper()
		out := m.node.ok(5*time.Second, "nft", "list", "counter", "ip", "ztunnel", name)
		if _, rest, ok := strings.Cut(out, "packets "); !ok {
			t.Fatalf("nft: %s", out)
		} else if _, err := fmt.Sscan(rest, &packets); err != nil {
			t.Fatal(err)
		}
		return packets
	}
	if n := counter("outer"); n == 0 {
		t.Errorf("the rule for UDP port %d has seen no outer packet", port)
	}
	// A mark on outer packets, which the rule above gave them, stays outside.
	if n := counter("marked"); n != 0 {
		t.Errorf("%d packets came out of a tunnel with a mark", n)
	}
	for _, g := range []*gvtep{m.gnode, m.gzt} {
		for name, n := range g.counters() {
			if !strings.HasSuffix(name, ".packets") && !strings.HasSuffix(name, "_full") {
				t.Errorf("%s: %d dropped as %s", g.h.name, n, name)
			}
		}
	}
}

// tunnelled is how many packets the node has exchanged by both tunnels.
func (m *mesh) tunnelled(t *testing.T) (n int) {
	t.Helper()
	for _, name := range []string{"istioin", "istioout"} {
		var tun tunnelAnswer
		if err := m.gnode.ask("/v1/tunnels/"+name, &tun); err != nil {
			t.Fatal(err)
		}
		n += tun.Stats.RX.Packets + tun.Stats.TX.Packets
	}
	return n
}

// serve starts an HTTP server that tells where it listens and, which with a
// transparent socket is something else, what address it was asked at.
func (h *host) serve(address string, mark int) *http.Server {
	h.t.Helper()
	var l net.Listener
	h.do(func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			control := c.Control(func(fd uintptr) {
				if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1); err == nil && mark != 0 {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
				}
			})
			if err == nil {
				err = control
			}
			return err
		}}
		l, err = lc.Listen(context.Background(), "tcp4", address)
		return err
	})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %d\n", address, r.Context().Value(http.LocalAddrContextKey), n)
		w.Write(make([]byte, n)) // as much back
	})}
	go s.Serve(l)
	h.t.Cleanup(func() { s.Close() })
	return s
}

// post sends body to an address and returns who answered, under what address,
// and how many bytes it got.
func (h *host) post(to string, body []byte) (server, local string, got int, err error) {
	h.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = h.try(func() (err error) {
				var d net.Dialer
				c, err = d.DialContext(ctx, "tcp4", address)
				return err
			})
			return c, err
		},
	}}
	resp, err := client.Post("http://"+to+"/", "text/plain", bytes.NewReader(body))
	if err != nil {
		return "", "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if _, e := fmt.Sscan(string(text), &server, &local, &got); e != nil {
		return "", "", 0, fmt.Errorf("%.100q: %w", text, e)
	}
	return server, local, got, err
}
