// Package graph joins what several hosts say of their tunnels into one picture: an edge for
// each pair of tunnel ends, with the state of both directions. What arrives is known only
// where it should arrive, so a fault of one direction takes the other host's view. Pure functions.
package graph

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gvtep/cmd/internal/control"
)

// Host is what one daemon says. It is what is saved and merged, so its keys stay.
type Host struct {
	Host      string       `json:"host"` // name of the machine
	Instance  string       `json:"instance"`
	Started   time.Time    `json:"started"` // of the daemon
	Taken     time.Time    `json:"taken"`   // when it was asked
	Ready     bool         `json:"ready"`
	Addresses []netip.Addr `json:"addresses"` // of the machine: a tunnel with local any has all of them
	Tunnels   []Tunnel     `json:"tunnels"`
	Refused   []Refused    `json:"refused"`
}

// Tunnel is an end of a tunnel.
type Tunnel struct {
	Ifname string     `json:"ifname"`
	Kind   string     `json:"kind"`            // "geneve" or "vxlan"
	IDs    [][2]int64 `json:"ids"`             // first and last VNI of each range; a trunk has several
	Local  netip.Addr `json:"local,omitzero"`  // left out: any
	Port   uint16     `json:"port"`            // that it listens on
	Group  string     `json:"group,omitempty"` // multicast group
	MTU    int        `json:"mtu"`
	Ready  bool       `json:"ready"`
	Peers  []Peer     `json:"peers"`
}

// Peer is what a tunnel knows of another end.
type Peer struct {
	Name    string         `json:"name,omitempty"`
	Remote  netip.AddrPort `json:"remote"`
	State   string         `json:"state,omitempty"`             // as of control.Peer
	SeenAgo *float64       `json:"last_seen_seconds,omitempty"` // before Host.Taken
	Note    string         `json:"note,omitempty"`              // why it is refused, or what sending to it met with
}

// Refused are packets that a host dropped, by their source and VNI.
type Refused struct {
	Reason  string     `json:"reason"`
	Source  netip.Addr `json:"source"`
	ID      uint32     `json:"id"`
	Packets uint64     `json:"packets"`
}

// Graph is hosts and what is between their tunnels.
type Graph struct {
	Hosts []Host `json:"hosts"`
	Edges []Edge `json:"edges"`
}

// Edge is two ends that send to each other, or should.
type Edge struct {
	A      End       `json:"a"`
	B      End       `json:"b"`
	AToB   Direction `json:"a_to_b"`
	BToA   Direction `json:"b_to_a"`
	OneWay bool      `json:"one_way"` // one direction is heard and the other known not to be
}

// End is a tunnel of a host, or an address where none of the hosts has one.
type End struct {
	Host     string `json:"host,omitempty"`
	Instance string `json:"instance,omitempty"`
	Ifname   string `json:"ifname,omitempty"`
	Address  string `json:"address,omitempty"`
	Note     string `json:"note,omitempty"` // what is known of an address
}

// Direction is whether what one end sends is heard at the other.
type Direction struct {
	// State is "heard", "refused", "silent" or "no route", as of a peer, "no peer" where one end does not have the
	// other as a peer, "unknown" where only a host that is not among these could say, or "" where nothing is expected.
	State string `json:"state"`
	Note  string `json:"note,omitempty"`
}

// bad reports whether it is known that nothing arrives.
func (d Direction) bad() bool { return d.State != "heard" && d.State != "unknown" && d.State != "" }

// Read makes a host of a daemon's answers.
func Read(name string, taken time.Time, addresses []netip.Addr, s control.Status, tunnels []control.Tunnel) Host {
	h := Host{Host: name, Instance: s.Instance, Started: s.Started, Taken: taken, Ready: s.Ready,
		Addresses: append([]netip.Addr{}, addresses...), Tunnels: []Tunnel{}, Refused: []Refused{}}
	for _, r := range s.Refused {
		h.Refused = append(h.Refused, Refused{r.Reason, r.Source, r.ID, r.Packets})
	}
	for _, t := range tunnels {
		h.Tunnels = append(h.Tunnels, tunnelOf(t))
	}
	return h
}

func tunnelOf(t control.Tunnel) Tunnel {
	d := t.LinkInfo.Data
	out := Tunnel{Ifname: t.Ifname, Kind: t.LinkInfo.Kind, IDs: [][2]int64{}, Port: d.Port, Group: t.Gvtep.Group, MTU: t.MTU, Ready: t.Gvtep.Ready, Peers: []Peer{}}
	out.Local, _ = netip.ParseAddr(cmp.Or(d.Local, d.Local6))
	if d.ID != nil {
		out.IDs = append(out.IDs, [2]int64{int64(*d.ID), int64(*d.ID)})
	}
	for _, v := range t.Gvtep.VLANs {
		out.IDs = append(out.IDs, [2]int64{int64(v.ID), int64(max(v.ID, v.LastID))})
	}
	for _, p := range t.Gvtep.Peers {
		out.Peers = append(out.Peers, Peer{p.Name, netip.AddrPortFrom(p.Remote, p.Port), p.State, p.SeenAgo, noteOf(p)})
	}
	return out
}

// noteOf says why a peer is refused, or else what the kernel or a router said of sending to it.
func noteOf(p control.Peer) string {
	switch {
	case p.State == "refused" && len(p.Refused) > 0:
		last := slices.MinFunc(p.Refused, func(x, y control.PeerRefused) int { return cmp.Compare(x.LastAgo, y.LastAgo) })
		return fmt.Sprintf("%s, id %d", last.Reason, last.ID)
	case p.SendError != nil && p.SendError.LastAgo < recent:
		return p.SendError.Errno
	case p.ICMP != nil && p.ICMP.LastAgo < recent:
		return fmt.Sprintf("%s from %s", p.ICMP.What, p.ICMP.From)
	}
	return ""
}

// recent is for how many seconds something heard counts: as long as for a peer's state.
const recent = 60

// Merge puts what was saved together: of a daemon that was asked several times the last answer
// counts. Two daemons that are called alike are an error: nobody could tell them apart.
func Merge(hosts []Host) ([]Host, error) {
	type name struct{ host, instance string }
	at := map[name]int{}
	merged := []Host{}
	for _, h := range hosts {
		n := name{h.Host, h.Instance}
		i, twice := at[n]
		switch {
		case !twice:
			at[n] = len(merged)
			merged = append(merged, h)
		case !merged[i].Started.Equal(h.Started):
			return nil, fmt.Errorf("two daemons are called %s: one was started at %s, one at %s; leave out the one that is gone, or give one another instance or host name",
				h.name(), merged[i].Started.Format(time.RFC3339), h.Started.Format(time.RFC3339))
		case h.Taken.After(merged[i].Taken):
			merged[i] = h
		}
	}
	return merged, nil
}

func (h *Host) name() string { return strings.TrimSuffix(h.Host+"/"+h.Instance, "/") }

// node is a tunnel and its host.
type node struct {
	host   *Host
	tunnel *Tunnel
	peers  map[netip.Addr][]*Peer
}

func (n *node) end() End {
	return End{Host: n.host.Host, Instance: n.host.Instance, Ifname: n.tunnel.Ifname}
}

// sources are the addresses that it may send from.
func (n *node) sources() []netip.Addr {
	if n.tunnel.Local.IsValid() {
		return []netip.Addr{n.tunnel.Local}
	}
	return n.host.Addresses
}

// at is the peer with one of these addresses, that with the port if there are several; nil: there is none.
func (n *node) at(addresses []netip.Addr, port uint16) (found *Peer) {
	for _, a := range addresses {
		for _, p := range n.peers[a] {
			if found == nil || p.Remote.Port() == port {
				found = p
			}
		}
	}
	return found
}

// meets reports whether both carry a segment with the same VNI.
func (n *node) meets(o *node) bool {
	if n.tunnel.Kind != o.tunnel.Kind {
		return false
	}
	for _, x := range n.tunnel.IDs {
		for _, y := range o.tunnel.IDs {
			if x[0] <= y[1] && y[0] <= x[1] {
				return true
			}
		}
	}
	return false
}

// refusals say whether a host dropped packets of a tunnel that belong to no peer.
func (h *Host) refusals(of *node) (Direction, bool) {
	for _, r := range h.Refused {
		ours := slices.ContainsFunc(of.tunnel.IDs, func(ids [2]int64) bool { return ids[0] <= int64(r.ID) && int64(r.ID) <= ids[1] })
		if ours && slices.Contains(of.sources(), r.Source) {
			return Direction{"refused", fmt.Sprintf("%s, id %d", r.Reason, r.ID)}, true
		}
	}
	return Direction{}, false
}

// index finds tunnels and hosts by address.
type index struct {
	nodes  []*node
	bound  map[netip.AddrPort][]*node // to one address
	owners map[netip.Addr][]*Host
}

func newIndex(hosts []Host) *index {
	x := &index{bound: map[netip.AddrPort][]*node{}, owners: map[netip.Addr][]*Host{}}
	for i := range hosts {
		h := &hosts[i]
		addresses := slices.Clone(h.Addresses)
		for j := range h.Tunnels {
			n := &node{h, &h.Tunnels[j], map[netip.Addr][]*Peer{}}
			for k := range n.tunnel.Peers {
				p := &n.tunnel.Peers[k]
				n.peers[p.Remote.Addr()] = append(n.peers[p.Remote.Addr()], p)
			}
			x.nodes = append(x.nodes, n)
			if n.tunnel.Local.IsValid() && !slices.Contains(addresses, n.tunnel.Local) {
				addresses = append(addresses, n.tunnel.Local)
			}
			for _, a := range n.sources() {
				at := netip.AddrPortFrom(a, n.tunnel.Port)
				x.bound[at] = append(x.bound[at], n)
			}
		}
		for _, a := range addresses {
			x.owners[a] = append(x.owners[a], h)
		}
	}
	return x
}

// other is the tunnel that a peer of n is, nil if none of the hosts has it; note says then what is known.
func (x *index) other(n *node, p *Peer) (found *node, note string) {
	for _, m := range x.bound[p.Remote] {
		switch {
		case m == n || !n.meets(m):
		case found == nil:
			found = m
		case found.host != m.host && (found.tunnel.Local == p.Remote.Addr()) == (m.tunnel.Local == p.Remote.Addr()):
			return nil, "several hosts have this address"
		case m.tunnel.Local == p.Remote.Addr() && found.host != m.host, m.at(n.sources(), n.tunnel.Port) != nil && found.at(n.sources(), n.tunnel.Port) == nil:
			found = m
		}
	}
	if found != nil {
		return found, ""
	}
	switch owners := x.owners[p.Remote.Addr()]; {
	case p.Remote.Addr().IsMulticast():
		return nil, "group"
	case len(owners) == 1:
		return nil, owners[0].name() + " has no such tunnel there"
	case len(owners) > 1:
		return nil, "several hosts have this address"
	}
	return nil, ""
}

// New draws the edges between hosts.
func New(hosts []Host) Graph {
	x := newIndex(hosts)
	g := Graph{Hosts: hosts, Edges: []Edge{}}
	drawn := map[[2]*node]bool{}
	for _, n := range x.nodes {
		for i := range n.tunnel.Peers {
			p := &n.tunnel.Peers[i]
			m, note := x.other(n, p)
			if m == nil {
				g.Edges = append(g.Edges, x.outside(n, p, note))
				continue
			}
			if drawn[[2]*node{n, m}] || drawn[[2]*node{m, n}] {
				continue
			}
			drawn[[2]*node{n, m}] = true
			g.Edges = append(g.Edges, finish(Edge{A: n.end(), B: m.end(), AToB: between(n, m), BToA: between(m, n)}))
		}
	}
	return g
}

func finish(e Edge) Edge {
	e.OneWay = e.AToB.State == "heard" && e.BToA.bad() || e.BToA.State == "heard" && e.AToB.bad()
	return e
}

// outside is the edge to a peer that is no tunnel of the hosts.
func (x *index) outside(n *node, p *Peer, note string) Edge {
	e := Edge{A: n.end(), B: End{Address: p.Remote.String(), Note: note}, AToB: Direction{"unknown", p.Note}, BToA: arrives(p)}
	switch p.State {
	case "no route":
		e.AToB.State = "no route"
	case "refused":
		e.AToB.Note = "" // it is about the other direction
	}
	if owners := x.owners[p.Remote.Addr()]; len(owners) == 1 && p.State != "no route" {
		if d, found := owners[0].refusals(n); found {
			e.AToB = d
		}
	}
	return finish(e)
}

// arrives is the direction from a peer, as the host says that has it.
func arrives(p *Peer) Direction {
	switch {
	case p.State == "refused":
		return Direction{p.State, p.Note}
	case p.State == "no route" && p.SeenAgo != nil && *p.SeenAgo < recent: // it can be heard all the same
		return Direction{State: "heard"}
	case p.State == "no route":
		return Direction{State: "silent"}
	}
	return Direction{State: p.State}
}

// between is the direction from one tunnel to another. What the receiver says counts first, then what the sender knows.
func between(from, to *node) Direction {
	sends := from.at(to.sources(), to.tunnel.Port)
	var d Direction
	if p := to.at(from.sources(), from.tunnel.Port); p != nil {
		d = arrives(p)
	} else if r, found := to.host.refusals(from); found {
		d = r
	} else {
		d = Direction{"no peer", to.host.name() + " does not have it as a peer"}
	}
	switch {
	case d.State == "heard" || d.State == "refused":
	case sends == nil:
		d = Direction{"no peer", from.host.name() + " does not send there"}
	case sends.State == "no route":
		d = Direction{State: "no route"}
	case d.State == "silent" && sends.State != "refused":
		d.Note = sends.Note
	}
	return d
}
