package ping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"gvtep/cmd/internal/control"
)

// The first step: what our tables say of a target, a peer, a station's MAC address, or an address behind
// the tunnel.

func (t *trip) table(ctx context.Context) (Step, error) {
	tunnels, err := t.tunnels(ctx)
	if err != nil {
		return Step{}, err
	}
	var s Step
	if mac, err := net.ParseMAC(t.Target); err == nil && len(mac) == 6 {
		s, err = t.tableOfMAC(ctx, tunnels, mac.String())
		if err != nil {
			return Step{}, err
		}
	} else if addr, err := netip.ParseAddr(t.Target); err == nil {
		s, err = t.tableOfAddr(ctx, tunnels, addr)
		if err != nil {
			return Step{}, err
		}
	} else {
		return Step{}, fmt.Errorf("%s: want an IP address, of a peer or behind a tunnel, or a MAC address", t.Target)
	}
	s.Step = Table
	if t.tunnel != nil {
		t.result.Ifname = t.tunnel.Ifname
	}
	if t.peer != nil {
		t.result.Peer = t.peer.Remote.String()
	}
	return s, nil
}

func (t *trip) tunnels(ctx context.Context) ([]*control.Tunnel, error) {
	all, err := t.daemon.Tunnels(ctx)
	if err != nil {
		return nil, err
	}
	var mine []*control.Tunnel
	var there []string
	for i := range all {
		there = append(there, all[i].Ifname)
		if t.Dev == "" || all[i].Ifname == t.Dev {
			mine = append(mine, &all[i])
		}
	}
	if len(mine) == 0 {
		return nil, control.NoTunnel(t.Dev, there)
	}
	return mine, nil
}

// with chooses a tunnel, of several the one that is named.
func (t *trip) with(found []*control.Tunnel, what string) error {
	if len(found) > 1 {
		return fmt.Errorf("%s is %s several tunnels: say which, dev %s", t.Target, what, names(found))
	}
	t.tunnel = found[0]
	return nil
}

// setPeer finds the peer with an address.
func (t *trip) setPeer(remote netip.Addr) bool {
	i := slices.IndexFunc(t.tunnel.Gvtep.Peers, func(p control.Peer) bool { return p.Remote == remote && p.State != "" })
	if i >= 0 {
		t.peer = &t.tunnel.Gvtep.Peers[i]
	}
	return i >= 0
}

func (t *trip) tableOfMAC(ctx context.Context, tunnels []*control.Tunnel, mac string) (Step, error) {
	entries := map[string]control.FDBEntry{}
	var found []*control.Tunnel
	for _, one := range tunnels {
		if one.Gvtep.Mode == "l3" {
			continue
		}
		all, err := t.daemon.FDBGet(ctx, one.Ifname, mac)
		if no := new(control.RefusedError); errors.As(err, &no) || err == nil && len(all) == 0 {
			continue
		} else if err != nil {
			return Step{}, err
		}
		entries[one.Ifname], found = all[0], append(found, one)
	}
	if len(found) == 0 {
		return Step{Verdict: Fault, What: fmt.Sprintf("there is no entry for %s: nothing has come from it lately, and what is sent to it goes to all peers", mac),
			Try: "gvtep ping an IP address, or a peer: that asks. gvtep fdb show has the entries"}, nil
	}
	if err := t.with(found, "in the tables of"); err != nil {
		return Step{}, err
	}
	return t.byEntry(entries[t.tunnel.Ifname]), nil
}

// byEntry is the step by the entry of a station.
func (t *trip) byEntry(e control.FDBEntry) Step {
	if e.Gvtep != nil {
		t.id = e.Gvtep.ID
	}
	if e.Gvtep != nil && e.Gvtep.Local {
		return Step{Verdict: Fault, What: fmt.Sprintf("%s is on our side of %s: no packet to it takes the tunnel", e.MAC, e.Ifname), Try: "ip neigh, and bridge fdb, for the host itself"}
	}
	dst, err := netip.ParseAddr(e.Dst)
	if err != nil || !t.setPeer(dst) {
		return Step{Verdict: Fault, What: fmt.Sprintf("the entry for %s points to %s, which is no peer of %s: nothing comes back from there", e.MAC, e.Dst, e.Ifname),
			Try: fmt.Sprintf("gvtep peer add %s dev %s", e.Dst, e.Ifname)}
	}
	return Step{Verdict: OK, What: fmt.Sprintf("%s is behind %s, by %s", e.MAC, dst, e.Ifname)}
}

func (t *trip) tableOfAddr(ctx context.Context, tunnels []*control.Tunnel, addr netip.Addr) (Step, error) {
	having := func(has func(*control.Tunnel) bool) (all []*control.Tunnel) {
		for _, one := range tunnels {
			if has(one) {
				all = append(all, one)
			}
		}
		return all
	}
	if found := having(func(one *control.Tunnel) bool {
		return slices.ContainsFunc(one.Gvtep.Peers, func(p control.Peer) bool { return p.Remote == addr && p.State != "" })
	}); len(found) > 0 {
		if err := t.with(found, "a peer of"); err != nil {
			return Step{}, err
		}
		t.setPeer(addr)
		return Step{Verdict: OK, What: fmt.Sprintf("%s is a peer of %s", addr, t.tunnel.Ifname)}, nil
	}
	found := having(func(one *control.Tunnel) bool { return behind(one, addr) })
	if len(found) == 0 && len(tunnels) == 1 {
		found = tunnels
	}
	if len(found) == 0 {
		return Step{}, fmt.Errorf("%s is no peer, and in no subnet of a tunnel's device: say which, dev %s", addr, names(tunnels))
	}
	if err := t.with(found, "behind"); err != nil {
		return Step{}, err
	}
	t.addr = addr
	if slices.ContainsFunc(t.tunnel.Gvtep.Addresses, func(s string) bool { p, err := netip.ParsePrefix(s); return err == nil && p.Addr() == addr }) {
		return Step{Verdict: Fault, What: fmt.Sprintf("%s is our own address, on %s", addr, t.tunnel.Ifname), Try: "ping the address of another station"}, nil
	}
	t.echo = t.network.Echo(ctx, addr, t.tunnel.Ifname, echoed)[0]
	if t.tunnel.Gvtep.Mode == "l3" {
		return t.byRoute(addr), nil
	}
	return t.byNeighbour(ctx, addr)
}

// behind reports whether an address is in a subnet of the device, or a route of a peer.
func behind(one *control.Tunnel, addr netip.Addr) bool {
	has := func(s string) bool {
		p, err := netip.ParsePrefix(s)
		return err == nil && p.Contains(addr)
	}
	return slices.ContainsFunc(one.Gvtep.Addresses, has) ||
		slices.ContainsFunc(one.Gvtep.Peers, func(p control.Peer) bool { return slices.ContainsFunc(p.Routes, has) })
}

// byRoute is the step where the peers have routes, the longest prefix first; none are all.
func (t *trip) byRoute(addr netip.Addr) Step {
	longest := -1
	for i := range t.tunnel.Gvtep.Peers {
		p := &t.tunnel.Gvtep.Peers[i]
		routes := p.Routes
		if len(routes) == 0 {
			routes = []string{"0.0.0.0/0", "::/0"}
		}
		for _, s := range routes {
			if r, err := netip.ParsePrefix(s); err == nil && p.State != "" && r.Contains(addr) && r.Bits() > longest {
				longest, t.peer = r.Bits(), p
			}
		}
	}
	if t.peer == nil {
		return Step{Verdict: Fault, What: fmt.Sprintf("no peer of %s has a route to %s", t.tunnel.Ifname, addr), Try: fmt.Sprintf("gvtep peer set PEER dev %s routes PREFIX", t.tunnel.Ifname)}
	}
	return Step{Verdict: OK, What: fmt.Sprintf("%s is routed to %s, by %s", addr, t.peer.Remote, t.tunnel.Ifname)}
}

// byNeighbour is the step where the host must find the MAC address first.
func (t *trip) byNeighbour(ctx context.Context, addr netip.Addr) (Step, error) {
	mac := t.network.Station(t.tunnel.Ifname, addr)
	if mac != "" {
		all, err := t.daemon.FDBGet(ctx, t.tunnel.Ifname, mac)
		if no := new(control.RefusedError); err != nil && !errors.As(err, &no) {
			return Step{}, err
		}
		if len(all) > 0 {
			s := t.byEntry(all[0])
			if s.Verdict == OK {
				s.What = fmt.Sprintf("%s is %s, behind %s, by %s", addr, mac, t.peer.Remote, t.tunnel.Ifname)
			}
			return s, nil
		}
	}
	nobody := fmt.Sprintf("nobody answers for %s", addr)
	if mac != "" {
		nobody = fmt.Sprintf("%s is %s, of which there is no entry", addr, mac)
	}
	var peers []*control.Peer
	for i := range t.tunnel.Gvtep.Peers {
		if p := &t.tunnel.Gvtep.Peers[i]; p.State != "" {
			peers = append(peers, p)
		}
	}
	if len(peers) != 1 {
		return Step{Verdict: Fault, What: fmt.Sprintf("%s, and %d peers could have it", nobody, len(peers)), Try: "gvtep ping each of these peers; gvtep show names them"}, nil
	}
	t.peer = peers[0]
	return Step{Verdict: Unknown, What: fmt.Sprintf("%s; %s, the only peer of %s, would have it", nobody, t.peer.Remote, t.tunnel.Ifname)}, nil
}
