package speaker

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"gvtep/internal/evpn"
)

// deferral is how long after the start we wait for the neighbours' End-of-RIB before we announce,
// at most (RFC 4724 4.1).
const deferral = 5

// Sink takes what is received. It is called by one goroutine.
type Sink interface {
	Routes(update []evpn.Route, withdraw []evpn.Key)
	EndOfRIB(neighbor netip.Addr)
	Session(neighbor netip.Addr, up bool, why string)
	Malformed(n int) // routes that are not for us, or cannot be read
}

// Speaker is GoBGP's server. It listens nowhere: sessions are to the neighbours of the configuration only.
type Speaker struct {
	server *server.BgpServer
	stop   context.CancelFunc

	as     uint32
	mu     sync.Mutex
	wanted map[evpn.Target]bool
	last   map[netip.Addr]string // why the session ended
}

// Start starts the engine and the sessions. Events go to sink until Stop.
func Start(c *evpn.Config, sink Sink) (*Speaker, error) {
	ctx, stop := context.WithCancel(context.Background())
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	s := &Speaker{server: server.NewBgpServer(server.LoggerOption(quiet, new(slog.LevelVar))), stop: stop, as: c.AS, last: map[netip.Addr]string{}}
	go s.server.Serve()
	err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: c.AS, RouterId: c.RouterID.String(), ListenPort: -1}})
	if err != nil {
		stop()
		return nil, fmt.Errorf("bgp: %w", err)
	}
	if err := s.watch(ctx, sink); err != nil {
		s.Stop(false)
		return nil, fmt.Errorf("bgp: %w", err)
	}
	return s, nil
}

// Connect begins the sessions. What was announced before is then sent as one, with an End-of-RIB behind it.
func (s *Speaker) Connect(c *evpn.Config) error {
	for _, n := range c.Neighbors {
		if err := s.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: peerOf(c, n)}); err != nil {
			return fmt.Errorf("bgp.neighbor %s: %w", n.Addr, err)
		}
	}
	return nil
}

func peerOf(c *evpn.Config, n evpn.Neighbor) *api.Peer {
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: n.Addr.String(), PeerAsn: n.AS, AuthPassword: c.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: 2, IdleHoldTimeAfterReset: 1,
			HoldTime: uint64(c.Hold.Seconds()), KeepaliveInterval: uint64(max(1, c.Hold.Seconds()/3)),
		}},
		Transport: &api.Transport{RemotePort: uint32(n.Port)},
		// gvtep has gone on while we were away, so what we say of forwarding is true.
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(c.Restart.Seconds()), DeferralTime: deferral, NotificationEnabled: true, LocalRestarting: true,
		},
		AfiSafis: []*api.AfiSafi{{
			Config:            &api.AfiSafiConfig{Family: evpnFamily(), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}},
	}
	if c.LongLived > 0 {
		p.GracefulRestart.LonglivedEnabled = true
		p.AfiSafis[0].LongLivedGracefulRestart = &api.LongLivedGracefulRestart{Config: &api.LongLivedGracefulRestartConfig{Enabled: true, RestartTime: uint32(c.LongLived.Seconds())}}
	}
	if c.Constraint {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: constraintFamily(), Enabled: true}})
	}
	if c.MaxRoutes > 0 {
		p.AfiSafis[0].PrefixLimits = &api.PrefixLimit{Family: evpnFamily(), MaxPrefixes: c.MaxRoutes}
	}
	if c.TTLSecurity {
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255}
	} else if n.AS != c.AS {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: 64}
	}
	return p
}

func (s *Speaker) watch(ctx context.Context, sink Sink) error {
	return s.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath: func(paths []*apiutil.Path, _ time.Time) { s.routes(paths, sink) },
		OnPathEor: func(p *apiutil.Path, _ time.Time) {
			if p.Family == bgp.RF_EVPN {
				sink.EndOfRIB(p.PeerAddress)
			}
		},
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
			if e.Type != apiutil.PEER_EVENT_STATE {
				return
			}
			st := e.Peer.State
			up := st.SessionState == bgp.BGP_FSM_ESTABLISHED
			why := reasonOf(st.DisconnectMessage, st.AdminState)
			s.mu.Lock()
			if up {
				delete(s.last, st.NeighborAddress)
			} else if why != "" {
				s.last[st.NeighborAddress] = why
			}
			s.mu.Unlock()
			sink.Session(st.NeighborAddress, up, why)
		},
	}, server.WatchBestPath(true), server.WatchEor(true), server.WatchPeer())
}

// reasonOf is why a session ended. With graceful restart the engine says that alone of a neighbour that it has cut off.
func reasonOf(said string, state api.PeerState_AdminState) string {
	if state == api.PeerState_ADMIN_STATE_PFX_CT {
		return "it sent more routes than bgp.max-routes: it stays cut off until the agent is started anew"
	}
	return said
}

// routes hands over a run of changes, in their order: of a route that is in it twice the last counts.
func (s *Speaker) routes(paths []*apiutil.Path, sink Sink) {
	var update []evpn.Route
	var withdraw []evpn.Key
	malformed := 0
	flush := func() {
		if len(update)+len(withdraw) > 0 {
			sink.Routes(update, withdraw)
			update, withdraw = nil, nil
		}
	}
	for _, p := range paths {
		if p.Family != bgp.RF_EVPN || !p.Withdrawal && !p.PeerAddress.IsValid() {
			continue // our own
		}
		r, ok := decode(p)
		switch {
		case !ok:
			malformed++
		case p.Withdrawal:
			if len(update) > 0 {
				flush()
			}
			withdraw = append(withdraw, r.Key)
		default:
			if len(withdraw) > 0 {
				flush()
			}
			update = append(update, r)
		}
	}
	flush()
	if malformed > 0 {
		sink.Malformed(malformed)
	}
}

// Announce implements evpn.Speaker.
func (s *Speaker) Announce(r evpn.Route) error {
	p, err := encode(&r)
	if err != nil {
		return err
	}
	_, err = s.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{p}})
	return err
}

// Withdraw implements evpn.Speaker.
func (s *Speaker) Withdraw(r evpn.Route) error {
	p, err := encode(&r)
	if err != nil {
		return err
	}
	return s.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}})
}

// Want asks neighbours that know RFC 4684 for routes with one of these targets, and no others.
func (s *Speaker) Want(targets []evpn.Target) error {
	now := make(map[evpn.Target]bool, len(targets))
	for _, t := range targets {
		now[t] = true
	}
	s.mu.Lock()
	was := s.wanted
	s.wanted = now
	s.mu.Unlock()
	add, err := s.memberships(now, was)
	if err == nil && len(add) > 0 {
		_, err = s.server.AddPath(apiutil.AddPathRequest{Paths: add})
	}
	if err != nil {
		return err
	}
	del, err := s.memberships(was, now)
	if err == nil && len(del) > 0 {
		err = s.server.DeletePath(apiutil.DeletePathRequest{Paths: del})
	}
	return err
}

// memberships are the routes of those targets of which others has none.
func (s *Speaker) memberships(of, others map[evpn.Target]bool) (list []*apiutil.Path, err error) {
	for t := range of {
		if others[t] {
			continue
		}
		p, err := membership(s.as, t)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// State is that of a session.
type State struct {
	Neighbor         netip.Addr
	AS               uint32
	State            string // as in RFC 4271, such as "established"
	Uptime           time.Duration
	Received, Sent   uint64 // routes
	Flaps            uint32
	GracefulNeighbor bool   // it keeps our routes while we restart
	Error            string // that ended the last one
}

// States are the sessions.
func (s *Speaker) States() (list []State, err error) {
	err = s.server.ListPeer(context.Background(), &api.ListPeerRequest{EnableAdvertised: true}, func(p *api.Peer) {
		a, _ := netip.ParseAddr(p.State.GetNeighborAddress())
		st := State{Neighbor: a, AS: p.Conf.GetPeerAsn(), State: stateName(p.State.GetSessionState()), Flaps: p.State.GetFlops()}
		if up := p.Timers.GetState().GetUptime(); up != nil && st.State == "established" {
			st.Uptime = time.Since(up.AsTime())
		}
		for _, f := range p.AfiSafis {
			st.Received += f.GetState().GetReceived()
			st.Sent += f.GetState().GetAdvertised()
			st.GracefulNeighbor = st.GracefulNeighbor || f.GetMpGracefulRestart().GetState().GetReceived()
		}
		s.mu.Lock()
		st.Error = s.last[a]
		s.mu.Unlock()
		list = append(list, st)
	})
	return list, err
}

func stateName(s api.PeerState_SessionState) string {
	switch s {
	case api.PeerState_SESSION_STATE_ESTABLISHED:
		return "established"
	case api.PeerState_SESSION_STATE_OPENCONFIRM:
		return "openconfirm"
	case api.PeerState_SESSION_STATE_OPENSENT:
		return "opensent"
	case api.PeerState_SESSION_STATE_CONNECT:
		return "connect"
	case api.PeerState_SESSION_STATE_ACTIVE:
		return "active"
	}
	return "idle"
}

// Stop ends the sessions. If we come back, nothing is said, and a neighbour that knows graceful
// restart keeps our routes; else a NOTIFICATION is sent, and they go at once.
func (s *Speaker) Stop(back bool) {
	s.server.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: back})
	s.stop()
}

func constraintFamily() *api.Family {
	return &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_ROUTE_TARGET_CONSTRAINTS}
}

func evpnFamily() *api.Family {
	return &api.Family{Afi: api.Family_AFI_L2VPN, Safi: api.Family_SAFI_EVPN}
}
