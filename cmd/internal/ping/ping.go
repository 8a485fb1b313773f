// Package ping follows a packet from the table to its target, step by step, and stops where it breaks.
// What is wrong with a step is what package doctor knows of it.
package ping

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/doctor"
	"gvtep/cmd/internal/probe"
)

// Steps, in their order.
const (
	Table    = "table"    // where the target is, as our tables have it
	Route    = "route"    // the way of outer packets to that peer
	Host     = "host"     // is there anybody
	Endpoint = "endpoint" // does a tunnel endpoint take what we send
	Overlay  = "overlay"  // does the target answer
	MTU      = "mtu"      // do the longest packets arrive
)

// Verdicts of a step.
const (
	OK      = "ok"
	Fault   = "fault"
	Unknown = "unknown" // it cannot be asked
)

// Step is one step, with what was found.
type Step struct {
	Step    string  `json:"step"`
	Verdict string  `json:"verdict"`
	What    string  `json:"what"`
	Try     string  `json:"try,omitempty"`
	After   float64 `json:"answer_seconds,omitempty"` // how long an answer took
}

// Result is how far a packet comes.
type Result struct {
	Target string `json:"target"`
	Ifname string `json:"ifname,omitempty"` // the tunnel's
	Peer   string `json:"peer,omitempty"`
	OK     bool   `json:"ok"` // no step has a fault
	Steps  []Step `json:"steps"`
}

// Daemon is what is asked of it.
type Daemon interface {
	probe.Asker
	Tunnels(ctx context.Context) ([]control.Tunnel, error)
	FDBGet(ctx context.Context, dev, mac string) ([]control.FDBEntry, error)
}

// Network is what this host can do in the network namespace of the daemon.
type Network interface {
	// Echo sends ICMP echo requests, IP packets of so many bytes that must not be cut, out of a device
	// if one is given, and returns how long each answer took; 0: there was none.
	Echo(ctx context.Context, to netip.Addr, dev string, sizes ...int) []time.Duration
	// Station is the MAC address behind an IP address on a device, as the host has found it; "": none.
	Station(dev string, addr netip.Addr) string
	// Facts are those of a tunnel.
	Facts(ctx context.Context, tunnel string) (*doctor.Facts, error)
}

// Options say what to do.
type Options struct {
	Target string // address or MAC address in the overlay, or a peer
	Dev    string // the tunnel; "": the one that has the target
	MTU    bool   // try how long packets may be
	Count  int    // how often a peer is asked, at least once
}

// echoed is the size of an ordinary ping.
const echoed = 84

// trip is a packet on its way.
type trip struct {
	Options
	daemon  Daemon
	network Network
	result  Result

	tunnel *control.Tunnel
	peer   *control.Peer
	id     *uint32        // of the target's segment, on a trunk
	addr   netip.Addr     // the target in the overlay; invalid: it is a station or the peer
	echo   time.Duration  // of it; 0: no answer
	answer control.Probed // of the peer
	facts  *doctor.Facts
}

// Run follows a packet. An error means that it could not begin: the words are wrong, or the daemon does
// not answer.
func Run(ctx context.Context, d Daemon, n Network, o Options) (Result, error) {
	t := &trip{Options: o, daemon: d, network: n, result: Result{Target: o.Target, OK: true, Steps: []Step{}}}
	for _, step := range []func(context.Context) (Step, error){t.table, t.route, t.host, t.endpoint, t.overlay, t.mtu} {
		s, err := step(ctx)
		if err != nil {
			return t.result, err
		}
		t.result.Steps = append(t.result.Steps, s)
		if s.Verdict == Fault {
			t.result.OK = false
			break
		}
		if t.facts == nil {
			if err := t.ask(ctx); err != nil {
				return t.result, err
			}
		}
	}
	return t.result, nil
}

// ask puts the question to the peer, and gathers what is known of it then.
func (t *trip) ask(ctx context.Context) (err error) {
	for i := range max(t.Count, 1) {
		var a control.Probed
		if t.tunnel.LinkInfo.Kind == "vxlan" {
			break // it has no control packets
		}
		a, err = probe.Ask(ctx, t.daemon, t.tunnel.Ifname, control.ProbeRequest{Remote: t.peer.Remote, ID: t.id})
		if err != nil {
			return err
		}
		if i == 0 || a.Answered && (!t.answer.Answered || a.After < t.answer.After) {
			t.answer = a
		}
		if !a.Answered {
			break
		}
	}
	if t.facts, err = t.network.Facts(ctx, t.tunnel.Ifname); err != nil {
		return err
	}
	t.facts.Probes = map[doctor.Ask]doctor.Probe{{Dev: t.tunnel.Ifname, Remote: t.peer.Remote}: {Probed: t.answer}}
	for i := range t.facts.Tunnels {
		for j := range t.facts.Tunnels[i].Gvtep.Peers {
			if p := &t.facts.Tunnels[i].Gvtep.Peers[j]; p.Remote == t.peer.Remote && p.State != "" {
				t.tunnel, t.peer = &t.facts.Tunnels[i], p
			}
		}
	}
	// What was heard before we asked says nothing about now.
	if p := t.peer; !t.answer.Answered && t.echo == 0 && p.State == "heard" && p.SeenAgo != nil && *p.SeenAgo > freshFor {
		p.State = "silent"
	}
	t.peer.TX.Packets++ // the probe
	return nil
}

// freshFor is how long ago a peer may have been heard to count as there, in seconds.
const freshFor = 5

// stepOf says which step a finding of doctor's is about.
var stepOf = map[string]string{
	"not_carrying": Route, "device_deleted": Route, "device_down": Route, "set_down": Route,
	"route_loop": Route, "no_route": Route, "underlay_down": Route,
	"no_neighbour": Host, "unreachable": Host,
	"output_firewall": Endpoint, "prohibited": Endpoint, "port_unreachable": Endpoint, "wrong_vni": Endpoint, "unknown_sender": Endpoint,
	"no_tunnel": Endpoint, "vxlan": Endpoint, "other_mode": Endpoint, "same_mac": Endpoint, "refused": Endpoint, "silent": Endpoint,
	"peer_down": Overlay,
}

// found is what doctor finds about a step, of the tunnel or this peer.
func (t *trip) found(step string) (Step, bool) {
	for _, f := range doctor.Examine(t.facts) {
		if stepOf[f.Fault] == step && (f.Peer == "" || f.Peer == t.peer.Remote.String()) && (f.Device == "" || f.Device == t.tunnel.Ifname) {
			return Step{Step: step, Verdict: Fault, What: f.What, Try: f.Try}, true
		}
	}
	return Step{}, false
}

func (t *trip) route(context.Context) (Step, error) {
	if s, ok := t.found(Route); ok {
		return s, nil
	}
	r := t.facts.Host.Routes[t.peer.Remote]
	what := fmt.Sprintf("there is one to %s, of %d bytes", t.peer.Remote, t.peer.PathMTU)
	if r.Dev != "" {
		what = fmt.Sprintf("to %s by %s, of %d bytes", t.peer.Remote, r.Dev, t.peer.PathMTU)
	}
	if r.Via.IsValid() {
		what += " via " + r.Via.String()
	}
	return Step{Step: Route, Verdict: OK, What: what}, nil
}

func (t *trip) host(ctx context.Context) (Step, error) {
	if s, ok := t.found(Host); ok {
		return s, nil
	}
	if after := t.network.Echo(ctx, t.peer.Remote, "", echoed)[0]; after > 0 {
		return Step{Step: Host, Verdict: OK, What: fmt.Sprintf("%s answers a ping in %s", t.peer.Remote, brief(after)), After: after.Seconds()}, nil
	}
	if t.answer.Answered {
		return Step{Step: Host, Verdict: OK, What: fmt.Sprintf("%s is there: gvtep answers, pings it does not", t.peer.Remote)}, nil
	}
	return Step{Step: Host, Verdict: Unknown, What: fmt.Sprintf("%s does not answer pings, as many hosts do not", t.peer.Remote)}, nil
}

func (t *trip) endpoint(context.Context) (Step, error) {
	after := time.Duration(t.answer.After * float64(time.Second))
	if t.answer.Status == "ok" || t.answer.Status == "down" {
		return Step{Step: Endpoint, Verdict: OK, What: fmt.Sprintf("gvtep answers in %s, and takes what we send", brief(after)), After: t.answer.After}, nil
	}
	if s, ok := t.found(Endpoint); ok && (t.echo == 0 || t.answer.Answered) {
		return s, nil
	}
	s := Step{Step: Endpoint, Verdict: Unknown, What: "it cannot be asked: only gvtep answers, to peers of its configuration"}
	switch {
	case t.answer.Error != "":
		s = Step{Step: Endpoint, Verdict: Fault, What: "the kernel does not send to it: " + t.answer.Error, Try: "gvtep doctor " + t.tunnel.Ifname}
	case t.peer.SeenAgo != nil && t.peer.State == "heard":
		s.What += fmt.Sprintf("; its packets arrive, the last %.1f s ago", *t.peer.SeenAgo)
	}
	return s, nil
}

func (t *trip) overlay(ctx context.Context) (Step, error) {
	if s, ok := t.found(Overlay); ok {
		return s, nil
	}
	if !t.addr.IsValid() {
		return Step{Step: Overlay, Verdict: Unknown, What: "only an IP address behind the tunnel can be asked"}, nil
	}
	if t.echo == 0 { // what was in the way a moment ago may be gone
		t.echo = t.network.Echo(ctx, t.addr, t.tunnel.Ifname, echoed)[0]
	}
	switch mac := t.network.Station(t.tunnel.Ifname, t.addr); {
	case t.echo > 0:
		return Step{Step: Overlay, Verdict: OK, What: fmt.Sprintf("%s answers a ping in %s", t.addr, brief(t.echo)), After: t.echo.Seconds()}, nil
	case mac != "":
		return Step{Step: Overlay, Verdict: Unknown, What: fmt.Sprintf("%s has told its MAC address, %s, and does not answer pings", t.addr, mac)}, nil
	}
	return Step{Step: Overlay, Verdict: Fault, What: fmt.Sprintf("nobody behind the tunnel answers for %s", t.addr),
		Try: "does it exist, in the same subnet, with its device up? At the other end: gvtep doctor, and ip addr"}, nil
}

// inner is how long an IP packet in the overlay is, of which one of outer bytes is made.
func (t *trip) inner(outer int) int {
	n := outer - (20 + 8 + 8)
	if t.peer.Remote.Is6() {
		n -= 20
	}
	if t.tunnel.Gvtep.Mode != "l3" {
		n -= 14
	}
	return n
}

// brief is a time in milliseconds, to three figures or so.
func brief(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}

// names are those of tunnels, in words.
func names(all []*control.Tunnel) string {
	var out []string
	for _, t := range all {
		out = append(out, t.Ifname)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
