//go:build !race

// GoBGP has variables that all its servers in a process share, and reads of paths that race with their ageing: not ours
// to mend, and each agent has one server.

package speaker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"gvtep/internal/evpn"
)

// reflector is another GoBGP, on a port of the loopback interface, that waits for us as its client.
type reflector struct {
	t      testing.TB
	server *server.BgpServer
	addr   netip.AddrPort
}

// newReflector listens at an address; if its port is 0, at one that nobody has. Its peers are those that change makes
// of a client, one for each of clients.
func newReflector(t testing.TB, at netip.AddrPort, clients []netip.Addr, change func(*api.Peer)) *reflector {
	t.Helper()
	const id = "10.88.0.254"
	r := &reflector{t: t}
	for try := 1; ; try++ { // another may be faster
		r.addr = at
		if at.Port() == 0 {
			r.addr = netip.AddrPortFrom(at.Addr(), free(t))
		}
		r.server = server.NewBgpServer(server.LoggerOption(slog.New(slog.NewTextHandler(io.Discard, nil)), new(slog.LevelVar)))
		go r.server.Serve()
		err := r.server.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
			Asn: 65000, RouterId: id, ListenPort: int32(r.addr.Port()), ListenAddresses: []string{r.addr.Addr().String()},
		}})
		if err == nil {
			break
		}
		if try == 10 {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { r.server.StopBgp(context.Background(), &api.StopBgpRequest{}) })
	for _, c := range clients {
		p := &api.Peer{
			Conf:            &api.PeerConf{NeighborAddress: c.String(), PeerAsn: 65000},
			Transport:       &api.Transport{PassiveMode: true},
			RouteReflector:  &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: id},
			GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 60},
			AfiSafis: []*api.AfiSafi{{
				Config:            &api.AfiSafiConfig{Family: evpnFamily(), Enabled: true},
				MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
			}},
		}
		if change != nil {
			change(p)
		}
		if err := r.server.AddPeer(t.Context(), &api.AddPeerRequest{Peer: p}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// free is a port of the loopback interface that nobody has.
func free(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// says has the reflector announce routes, as if it had them of others.
func (r *reflector) says(routes ...evpn.Route) {
	r.t.Helper()
	for len(routes) > 0 {
		var paths []*apiutil.Path
		for i := range routes[:min(len(routes), 1000)] {
			p, err := encode(&routes[i])
			if err != nil {
				r.t.Fatal(err)
			}
			paths = append(paths, p)
		}
		if _, err := r.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
			r.t.Fatal(err)
		}
		routes = routes[len(paths):]
	}
}

// established reports whether it has a session with a client.
func (r *reflector) established() (is bool) {
	err := r.server.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) {
		is = is || p.State.GetSessionState() == api.PeerState_SESSION_STATE_ESTABLISHED
	})
	return is && err == nil
}

// has are the routes that the reflector has of us, and the communities of each.
func (r *reflector) has() map[evpn.Key][]uint32 {
	r.t.Helper()
	got := map[evpn.Key][]uint32{}
	err := r.server.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: bgp.RF_EVPN}, func(_ bgp.NLRI, paths []*apiutil.Path) {
		for _, p := range paths {
			if x, ok := decode(p); ok && p.PeerAddress.IsValid() && !p.PeerAddress.IsUnspecified() {
				got[x.Key] = nil
				for _, a := range p.Attrs {
					if c, is := a.(*bgp.PathAttributeCommunities); is {
						got[x.Key] = c.Value
					}
				}
			}
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// heard is a Sink that remembers.
type heard struct {
	mu     sync.Mutex
	routes map[evpn.Key]evpn.Route
	most   int
	ends   int
	up     bool
	downs  []string
}

func (h *heard) Routes(update []evpn.Route, withdraw []evpn.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range update {
		h.routes[r.Key] = r
	}
	for _, k := range withdraw {
		delete(h.routes, k)
	}
	h.most = max(h.most, len(h.routes))
}

func (h *heard) EndOfRIB(netip.Addr) {
	h.mu.Lock()
	h.ends++
	h.mu.Unlock()
}

func (h *heard) Session(_ netip.Addr, up bool, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up && !up {
		h.downs = append(h.downs, why)
	}
	h.up = up
}

func (h *heard) Malformed(int) {}

func (h *heard) is(check func(*heard) bool) func() bool {
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return check(h)
	}
}

// config is that of an agent with the reflector as its neighbour, as change makes it.
func (r *reflector) config(change func(*evpn.Config)) *evpn.Config {
	c := &evpn.Config{
		Rules: evpn.Rules{AS: 65000, RouterID: v4}, Hold: 9 * time.Second, Restart: 60 * time.Second,
		Neighbors: []evpn.Neighbor{{Addr: r.addr.Addr(), AS: 65000, Port: r.addr.Port()}},
	}
	if change != nil {
		change(c)
	}
	return c
}

// speak starts a speaker of ours, with routes to announce.
func speak(t testing.TB, c *evpn.Config, ours ...evpn.Route) (*Speaker, *heard) {
	t.Helper()
	return speakOf(t, c, func(s *Speaker) (err error) {
		for _, r := range ours {
			err = errors.Join(err, s.Announce(r))
		}
		return err
	})
}

// speakOf has prepare done before the session begins.
func speakOf(t testing.TB, c *evpn.Config, prepare func(*Speaker) error) (*Speaker, *heard) {
	t.Helper()
	h := &heard{routes: map[evpn.Key]evpn.Route{}}
	s, err := Start(c, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(false) })
	if err := prepare(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Connect(c); err != nil {
		t.Fatal(err)
	}
	return s, h
}

// soon waits for what must become so, however long the machine takes.
func soon(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after a minute: %s", what)
		}
	}
}

// never watches for a while that something does not become so.
func never(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if is() {
			t.Fatal(what)
		}
	}
}
