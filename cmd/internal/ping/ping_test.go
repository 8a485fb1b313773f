package ping

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/doctor"
)

var (
	far   = netip.MustParseAddr("10.77.0.2")
	other = netip.MustParseAddr("10.77.0.3")
	there = netip.MustParseAddr("192.0.2.2")
)

const mac = "02:00:00:00:00:02"

// world is a daemon and a host about which there is nothing to say.
type world struct {
	tunnels  []control.Tunnel
	entries  map[string]string // MAC address -> peer
	stations map[netip.Addr]string
	echoes   map[netip.Addr]int // the longest that is answered
	answer   control.Probed
	carries  int // the longest probe that is answered
	told     int // the MTU that a router tells of
	neigh    map[netip.Addr]string
	mu       sync.Mutex // of Probe, which is asked from several goroutines
	asked    int
}

func fine() *world {
	id, now := uint32(42), 0.1
	return &world{
		tunnels: []control.Tunnel{{
			Ifname: "gnv0", MTU: 1450, LinkInfo: control.LinkInfo{Kind: "geneve", Data: control.InfoData{ID: &id, DF: "set"}},
			Gvtep: control.TunnelDetail{Mode: "l2", Learning: true, Flood: true, Ready: true, MTUAuto: true, Addresses: []string{"192.0.2.1/24"},
				Peers: []control.Peer{{Remote: far, Port: 6081, State: "heard", SeenAgo: &now, PathMTU: 1500}}},
		}},
		entries: map[string]string{mac: far.String()}, stations: map[netip.Addr]string{there: mac},
		echoes: map[netip.Addr]int{far: 1500, there: 1450}, carries: 1500, answer: control.Probed{Answered: true, Status: "ok", After: 0.0002, Size: 56},
		neigh: map[netip.Addr]string{},
	}
}

func (w *world) peer() *control.Peer { return &w.tunnels[0].Gvtep.Peers[0] }

// unaware makes the peer another than gvtep, and dumb one of which nothing comes.
func (w *world) unaware() { w.answer = control.Probed{} }
func (w *world) dumb() {
	w.unaware()
	w.peer().State, w.peer().SeenAgo = "silent", nil
	w.echoes, w.stations = nil, nil
}

func (w *world) Tunnels(context.Context) ([]control.Tunnel, error) { return w.tunnels, nil }

func (w *world) FDBGet(_ context.Context, dev, mac string) ([]control.FDBEntry, error) {
	if dst := w.entries[mac]; dst != "" {
		return []control.FDBEntry{{MAC: mac, Ifname: dev, Dst: dst, Gvtep: &control.FDBDetail{Local: dst == "local"}}}, nil
	}
	return nil, &control.RefusedError{Text: "No such file or directory"}
}

func (w *world) Probe(_ context.Context, _ string, r control.ProbeRequest) (control.Probed, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if r.Size > w.carries {
		if w.told > 0 {
			w.peer().PathMTU = w.told
		}
		return control.Probed{}, nil
	}
	return w.answer, nil
}

func (w *world) Echo(_ context.Context, to netip.Addr, _ string, sizes ...int) []time.Duration {
	out := make([]time.Duration, len(sizes))
	for i, size := range sizes {
		if size <= w.echoes[to] {
			out[i] = time.Millisecond
		}
	}
	return out
}

func (w *world) Station(_ string, addr netip.Addr) string { return w.stations[addr] }

func (w *world) Facts(context.Context, string) (*doctor.Facts, error) {
	return &doctor.Facts{
		Status: control.Status{ICMP: true, Ready: true}, Tunnels: w.tunnels,
		Host: doctor.Host{Routes: map[netip.Addr]doctor.Route{far: {Dev: "veth0"}}, Links: []doctor.Link{{Name: "veth0", Up: true, Carrier: true}}, Neigh: w.neigh},
	}, nil
}

// TestRun makes each fault, and expects where it ends and what is said.
func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name   string
		target string
		make   func(*world)
		ends   string // step and verdict
		says   string
	}{
		{"fine", "192.0.2.2", func(*world) {}, "mtu ok", "packets of 1500 bytes, 1450 inside, arrive whole"},
		{"a peer", "10.77.0.2", func(*world) {}, "mtu ok", "arrive whole"},
		{"a station", mac, func(*world) {}, "mtu ok", "arrive whole"},
		{"a small MTU of the device", "192.0.2.2", func(w *world) { w.tunnels[0].MTU = 1400 }, "mtu ok", "packets of 1450 bytes, 1400 inside"},
		{"no entry", "02:00:00:00:00:99", func(*world) {}, "table fault", "there is no entry"},
		{"an entry on our side", mac, func(w *world) { w.entries[mac] = "local" }, "table fault", "on our side"},
		{"an entry to nobody", mac, func(w *world) { w.entries[mac] = "10.77.0.9" }, "table fault", "no peer of gnv0"},
		{"our own address", "192.0.2.1", func(*world) {}, "table fault", "our own address"},
		{"nobody, and one peer", "192.0.2.9", func(*world) {}, "overlay fault", "nobody behind the tunnel answers for 192.0.2.9"},
		{"nobody, and two peers", "192.0.2.9", func(w *world) {
			w.tunnels[0].Gvtep.Peers = append(w.tunnels[0].Gvtep.Peers, control.Peer{Remote: other, State: "heard"})
		}, "table fault", "and 2 peers could have it"},
		{"no route to it, l3", "198.51.100.9", func(w *world) {
			w.tunnels[0].Gvtep.Mode = "l3"
			w.peer().Routes = []string{"192.0.2.0/24"}
		}, "table fault", "no peer of gnv0 has a route to 198.51.100.9"},
		{"device down", "192.0.2.2", func(w *world) {
			w.tunnels[0].Gvtep.Unready = []string{"device gnv0 is down"}
			w.dumb()
		}, "route fault", "somebody else set it down"},
		{"no route", "10.77.0.2", func(w *world) { w.dumb(); w.peer().State, w.peer().Error = "no route", "no route" }, "route fault", "there is no route"},
		{"host down", "192.0.2.2", func(w *world) { w.dumb(); w.neigh[far] = "veth0" }, "host fault", "nobody on the link has the address 10.77.0.2"},
		{"host down lately", "10.77.0.2", func(w *world) {
			w.dumb()
			w.peer().State, w.peer().SeenAgo = "heard", new(20.0)
			w.neigh[far] = "veth0"
		}, "host fault", "nobody on the link has the address 10.77.0.2"},
		{"process gone", "192.0.2.2", func(w *world) {
			w.dumb()
			w.peer().ICMP = &control.ICMP{What: "port unreachable", From: far, LastAgo: 0.1}
		}, "endpoint fault", "nobody listens"},
		{"other VNI", "192.0.2.2", func(w *world) { w.dumb(); w.answer = control.Probed{Answered: true, Status: "no_tunnel"} }, "endpoint fault", "has no tunnel with id 42"},
		{"not to be sent to", "10.77.0.2", func(w *world) { w.answer = control.Probed{Error: "invalid argument"} }, "endpoint fault", "invalid argument"},
		{"silent", "10.77.0.2", func(w *world) { w.dumb() }, "endpoint fault", "nothing says why"},
		{"overlay down", "192.0.2.2", func(w *world) { w.answer.Status = "down"; w.echoes[there] = 0 }, "overlay fault", "the device of the tunnel is down"},
		{"no pings there", "192.0.2.2", func(w *world) { w.echoes[there] = 0 }, "mtu ok", "arrive whole"},
		{"black hole", "192.0.2.2", func(w *world) { w.carries = 1300 }, "mtu fault", "packets of up to 1300 bytes arrive, those of 1500 vanish"},
		{"a router tells", "192.0.2.2", func(w *world) { w.carries, w.told = 1300, 1300 }, "mtu ok", "a router has just said"},
		{"df unset", "192.0.2.2", func(w *world) { w.tunnels[0].LinkInfo.Data.DF = "unset" }, "mtu ok", "routers may cut"},
		{"another endpoint", "192.0.2.2", func(w *world) { w.unaware() }, "mtu ok", "pings of 1450 bytes pass, 1500 outside"},
		{"another endpoint, black hole", "192.0.2.2", func(w *world) { w.unaware(); w.echoes[there] = 1250 }, "mtu fault", "pings of up to 1250 bytes pass"},
		{"another endpoint, a peer", "10.77.0.2", func(w *world) { w.unaware() }, "mtu unknown", "cannot be asked"},
		{"vxlan", "192.0.2.2", func(w *world) { w.tunnels[0].LinkInfo.Kind = "vxlan"; w.carries = -1 }, "mtu ok", "pings of 1450 bytes pass"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := fine()
			tc.make(w)
			r, err := Run(t.Context(), w, w, Options{Target: tc.target, MTU: true, Count: 3})
			if err != nil || len(r.Steps) == 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			last := r.Steps[len(r.Steps)-1]
			if got := last.Step + " " + last.Verdict; got != tc.ends || !strings.Contains(last.What, tc.says) || r.OK != (last.Verdict != Fault) {
				t.Errorf("it ends with %s, %q; want %s, %q\n%+v", got, last.What, tc.ends, tc.says, r)
			}
			if last.Verdict == Fault && last.Try == "" {
				t.Errorf("%+v has no remedy", last)
			}
			order := []string{Table, Route, Host, Endpoint, Overlay, MTU}
			for i, s := range r.Steps {
				if s.Step != order[i] {
					t.Errorf("step %d is %s, want %s", i, s.Step, order[i])
				}
			}
		})
	}
}

// TestRunWords: what cannot begin is told.
func TestRunWords(t *testing.T) {
	two := fine()
	second := two.tunnels[0]
	second.Ifname = "gnv1"
	two.tunnels = append(two.tunnels, second)
	for _, tc := range []struct {
		w        *world
		target   string
		dev, say string
	}{
		{fine(), "nobody", "", "want an IP address"},
		{fine(), "192.0.2.2", "gnv9", `no tunnel "gnv9", there is: gnv0`},
		{two, "192.0.2.2", "", "behind several tunnels: say which, dev gnv0, gnv1"},
		{two, "10.77.0.2", "", "a peer of several tunnels"},
		{two, mac, "", "in the tables of several tunnels"},
		{two, "198.51.100.1", "", "in no subnet"},
	} {
		if r, err := Run(t.Context(), tc.w, tc.w, Options{Target: tc.target, Dev: tc.dev}); err == nil || !strings.Contains(err.Error(), tc.say) {
			t.Errorf("%s: %+v, %v; want %q", tc.target, r, err, tc.say)
		}
	}
	if r, err := Run(t.Context(), two, two, Options{Target: "192.0.2.2", Dev: "gnv0"}); err != nil || !r.OK {
		t.Errorf("with dev: %+v, %v", r, err)
	}
}

func TestEcho(t *testing.T) {
	v4, v6 := echoSocket{addr: far, id: 7}, echoSocket{addr: netip.MustParseAddr("fd77::2"), id: 7}
	b := v4.request(3, 1450)
	if len(b) != 1430 || internetSum(b) != 0 || len(v6.request(3, 1450)) != 1410 {
		t.Errorf("%d bytes, sum %#x", len(b), internetSum(b))
	}
	ip := append([]byte{0x46}, make([]byte, 23)...)
	b[0] = echoReply4
	from := &unix.SockaddrInet4{Addr: far.As4()}
	if n, ok := v4.parse(slices.Concat(ip, b), from); !ok || n != 3 {
		t.Errorf("reply %d, %t", n, ok)
	}
	for n := range len(ip) + icmpHeader {
		if _, ok := v4.parse(slices.Concat(ip, b)[:n], from); ok {
			t.Errorf("%d bytes are a reply", n)
		}
	}
	if _, ok := v4.parse(slices.Concat(ip, b), &unix.SockaddrInet4{Addr: other.As4()}); ok {
		t.Error("a reply of another host")
	}
	b6 := v6.request(5, 100)
	b6[0] = echoReply6
	if n, ok := v6.parse(b6, &unix.SockaddrInet6{Addr: v6.addr.As16()}); !ok || n != 5 {
		t.Errorf("reply %d, %t", n, ok)
	}
}
