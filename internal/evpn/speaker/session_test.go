//go:build !race

// GoBGP has variables that all its servers in a process share, and reads of paths that race with their ageing: not ours
// to mend, and each agent has one server.

package speaker

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"gvtep/internal/evpn"
)

var (
	loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	here     = netip.AddrPortFrom(loopback[0], 0)
)

func isUp(h *heard) bool { return h.up }

// TestSession: routes both ways, and the end of what is known.
func TestSession(t *testing.T) {
	t.Parallel()
	r := newReflector(t, here, loopback, nil)
	all := samples()
	r.says(all[1])
	_, h := speak(t, r.config(nil), all[0], all[5], all[6])
	soon(t, "its route and its end are here", h.is(func(h *heard) bool { return h.up && h.ends > 0 && len(h.routes) == 1 }))
	soon(t, "it has ours", func() bool { return len(r.has()) == 3 })
	for _, want := range []evpn.Route{all[0], all[5], all[6]} {
		if _, ok := r.has()[want.Key]; !ok {
			t.Errorf("the reflector does not have %+v", want)
		}
	}
}

// TestPassword: TCP MD5 (RFC 2385). With another password there is no session, and with none there is none, either.
func TestPassword(t *testing.T) {
	t.Parallel()
	for said, works := range map[string]bool{"secret": true, "other": false, "": false} {
		t.Run("with="+said, func(t *testing.T) {
			t.Parallel()
			r := newReflector(t, here, loopback, func(p *api.Peer) { p.Conf.AuthPassword = "secret" })
			_, h := speak(t, r.config(func(c *evpn.Config) { c.Password = said }))
			if works {
				soon(t, "a session with the password", h.is(isUp))
			} else {
				never(t, "a session without the password", h.is(isUp))
			}
		})
	}
}

// TestTTLSecurity: RFC 5082. What comes with another TTL than 255 is not heard: not by us, and ours is 255.
func TestTTLSecurity(t *testing.T) {
	t.Parallel()
	on := func(c *evpn.Config) { c.TTLSecurity = true }
	secure := func(p *api.Peer) { p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255} }
	t.Run("both", func(t *testing.T) {
		t.Parallel()
		r := newReflector(t, here, loopback, secure)
		speak(t, r.config(on))
		soon(t, "a session", r.established)
	})
	t.Run("they only", func(t *testing.T) {
		t.Parallel()
		r := newReflector(t, here, loopback, secure)
		speak(t, r.config(nil))
		never(t, "they hear us with a TTL of 64", r.established)
	})
	// GoBGP always sends with 255: this is another one, of which a connection is all there is.
	connects := func(t *testing.T, change func(*evpn.Config)) bool {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		r := &reflector{addr: netip.MustParseAddrPort(l.Addr().String())}
		speak(t, r.config(change))
		for range 4 { // its first try is after a second
			l.SetDeadline(time.Now().Add(time.Second))
			if c, err := l.Accept(); err == nil {
				c.Close()
				return true
			}
		}
		return false
	}
	t.Run("we only", func(t *testing.T) {
		t.Parallel()
		if connects(t, on) {
			t.Error("we hear them with a TTL of 64")
		}
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		soon(t, "a connection", func() bool { return connects(t, nil) })
	})
}

// TestMaxRoutes: a neighbour that sends more than it may is cut off, and status says so. What it sent until then is
// stale, as after any end of a session.
func TestMaxRoutes(t *testing.T) {
	t.Parallel()
	r := newReflector(t, here, loopback, nil)
	routes := make([]evpn.Route, 3000)
	for i := range routes {
		routes[i] = samples()[2]
		binary.BigEndian.PutUint16(routes[i].MAC[4:], uint16(i))
	}
	const most = 1000
	r.says(routes[:500]...)
	s, h := speak(t, r.config(func(c *evpn.Config) { c.MaxRoutes = most }))
	soon(t, "as many as it may", h.is(func(h *heard) bool { return len(h.routes) == 500 }))
	r.says(routes...)
	soon(t, "the session ends", h.is(func(h *heard) bool { return len(h.downs) > 0 && !h.up }))
	soon(t, "status says why", func() bool {
		all, err := s.States()
		return err == nil && len(all) == 1 && strings.Contains(all[0].Error, "bgp.max-routes")
	})
	if h.is(func(h *heard) bool { return !strings.Contains(h.downs[0], "bgp.max-routes") })() {
		t.Errorf("the log says %q", h.downs)
	}
}

// inVNI is a route of a station, one of several in a VNI.
func inVNI(vni uint32, n int) evpn.Route {
	r := samples()[2]
	r.VNI, r.RD, r.Targets = vni, evpn.RDOf(v4, uint16(vni)), []evpn.Target{evpn.TargetOf(65000, vni)}
	r.NextHop = netip.MustParseAddr("10.88.0.9")
	binary.BigEndian.PutUint16(r.MAC[4:], uint16(n))
	return r
}

// TestConstraint: a neighbour that knows RFC 4684 sends routes with targets that are wanted only, and what is wanted
// changes while the session is up.
func TestConstraint(t *testing.T) {
	t.Parallel()
	r := newReflector(t, here, loopback, func(p *api.Peer) {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{Config: &api.AfiSafiConfig{Family: constraintFamily(), Enabled: true}})
	})
	for vni := range uint32(100) {
		for n := range 10 {
			r.says(inVNI(1000+vni, n))
		}
	}
	has := func(h *heard, vnis ...uint32) func() bool {
		return h.is(func(h *heard) bool {
			for k := range h.routes {
				if !slices.Contains(vnis, h.routes[k].VNI) {
					return false
				}
			}
			return len(h.routes) == 10*len(vnis)
		})
	}
	targets := func(vnis ...uint32) (list []evpn.Target) {
		for _, vni := range vnis {
			list = append(list, evpn.TargetOf(65000, vni))
		}
		return list
	}
	c := r.config(func(c *evpn.Config) { c.Constraint = true })
	s, h := speakOf(t, c, func(s *Speaker) error { return s.Want(targets(1007)) })
	soon(t, "the routes of one VNI of 100", has(h, 1007))
	if h.is(func(h *heard) bool { return h.most > 10 })() {
		t.Errorf("%d routes came", h.most)
	}
	for _, vnis := range [][]uint32{{1007, 1008}, {1008}, {}, {1099}} {
		if err := s.Want(targets(vnis...)); err != nil {
			t.Fatal(err)
		}
		soon(t, fmt.Sprint("the routes of ", vnis), has(h, vnis...))
	}
	// One that does not know it sends everything.
	all := newReflector(t, here, loopback, nil)
	all.says(inVNI(1000, 0), inVNI(1001, 0))
	_, h = speakOf(t, all.config(func(c *evpn.Config) { c.Constraint = true }), func(s *Speaker) error { return s.Want(targets(1000)) })
	soon(t, "all routes", h.is(func(h *heard) bool { return len(h.routes) == 2 && h.ends == 1 }))
}

// TestLongLived: when we are away for longer than the restart time, a neighbour that knows RFC 9494 keeps our routes,
// as a last resort.
func TestLongLived(t *testing.T) {
	t.Parallel()
	for name, long := range map[string]time.Duration{"with": time.Hour, "without": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReflector(t, here, loopback, func(p *api.Peer) {
				p.GracefulRestart.LonglivedEnabled = true
				p.AfiSafis[0].LongLivedGracefulRestart = &api.LongLivedGracefulRestart{Config: &api.LongLivedGracefulRestartConfig{Enabled: true, RestartTime: 3600}}
			})
			ours := samples()[0]
			s, _ := speak(t, r.config(func(c *evpn.Config) { c.Restart, c.LongLived = time.Second, long }), ours)
			soon(t, "it has our route", func() bool { return len(r.has()) == 1 })
			s.Stop(true)
			if long == 0 {
				soon(t, "our route is gone", func() bool { return len(r.has()) == 0 })
				return
			}
			soon(t, "our route is stale", func() bool { return slices.Contains(r.has()[ours.Key], uint32(bgp.COMMUNITY_LLGR_STALE)) })
		})
	}
}
