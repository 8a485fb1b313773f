package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"gvtep/cmd/internal/control"
	"gvtep/vtep/count"
)

// What is wrong between us and a peer.

func routeLoop(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		return Finding{
			What:     fmt.Sprintf("what is sent to its peer %s would go into the tunnel again", p.Remote),
			Evidence: p.Error,
			Try:      fmt.Sprintf("ip route add %s via the underlay's gateway; ip route get %s shows the way that it takes now", p.Remote, p.Remote),
		}, p.State == "no route" && p.Error != "no route"
	})
}

func noRoute(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		evidence := fmt.Sprintf("the kernel has none in the network namespace of the daemon (%s)", f.Host.Netns)
		if down := f.downLinks(); len(down) > 0 {
			evidence += "; down there: " + list(down)
		}
		return Finding{
			What:     fmt.Sprintf("there is no route to its peer %s", p.Remote),
			Evidence: evidence,
			Try:      fmt.Sprintf("ip route get %s; if that works elsewhere, the daemon runs in the wrong namespace: gvtep ls, and gvtep -n NETNS run", p.Remote),
		}, p.State == "no route"
	})
}

// downLinks are devices that are down or have no carrier, but for ours and loopback.
func (f *Facts) downLinks() (down []string) {
	ours := make(map[string]bool, len(f.Tunnels))
	for i := range f.Tunnels {
		ours[f.Tunnels[i].Ifname] = true
	}
	for _, l := range f.Host.Links {
		if l.Name != "lo" && !ours[l.Name] && (!l.Up || !l.Carrier) {
			down = append(down, l.Name)
		}
	}
	return down
}

func outputFirewall(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		e := p.SendError
		if e == nil || e.Errno != "EPERM" || e.LastAgo > recent {
			return Finding{}, false
		}
		return Finding{
			What:     fmt.Sprintf("a firewall of this host does not let packets to its peer %s out", p.Remote),
			Evidence: fmt.Sprintf("the kernel refused a send %s ago with EPERM; %s dropped as refused", span(e.LastAgo), packets(t.Gvtep.Drops.TX["refused"])),
			Try:      fmt.Sprintf("nft list ruleset (chains with hook output); let UDP to port %d out", p.Port),
		}, true
	})
}

func underlayDown(f *Facts) []Finding {
	links := make(map[string]Link, len(f.Host.Links))
	for _, l := range f.Host.Links {
		links[l.Name] = l
	}
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		r := f.Host.Routes[p.Remote] // without a device if there is none
		l, ok := links[r.Dev]
		if !ok || l.Up && l.Carrier {
			return Finding{}, false
		}
		what := "has no carrier: the cable, or the other end of the link"
		if !l.Up {
			what = "is down"
		}
		return Finding{
			What:     fmt.Sprintf("the underlay device to its peer %s, %s, %s", p.Remote, r.Dev, what),
			Evidence: fmt.Sprintf("the route to %s leaves by %s", p.Remote, r.Dev),
			Try:      fmt.Sprintf("ip link show %s, here and at the other end of the link", r.Dev),
		}, true
	})
}

func noNeighbour(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		hop := p.Remote
		if via := f.Host.Routes[p.Remote].Via; via.IsValid() {
			hop = via
		}
		dev, failed := f.Host.Neigh[hop]
		own := p.ICMP != nil && p.ICMP.LastAgo < recent && (p.ICMP.What == "host unreachable" || p.ICMP.What == "address unreachable") && p.ICMP.From != p.Remote
		if p.State == "heard" || !failed && !(own && f.Host.Routes[p.Remote].Dev != "" && !f.Host.Routes[p.Remote].Via.IsValid()) {
			return Finding{}, false
		}
		if dev == "" {
			dev = f.Host.Routes[p.Remote].Dev
		}
		return Finding{
			What:     fmt.Sprintf("nobody on the link has the address %s: the peer does not exist, or its link is down", hop),
			Evidence: fmt.Sprintf("ARP or ND for %s on %s gets no answer", hop, dev),
			Try:      fmt.Sprintf("compare remote %s with the address of the other host (ip addr there); is its link up?", p.Remote),
		}, true
	})
}

func wrongVNI(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		r, ok := refusal(p, "unknown_vni")
		return Finding{
			What:     fmt.Sprintf("its peer %s sends with id %d, and here the id is %s", p.Remote, r.ID, idOf(t)),
			Evidence: seen(r, p.Remote),
			Try:      fmt.Sprintf("the same id at both ends; here: gvtep tunnel del %s, and add it with id %d", t.Ifname, r.ID),
		}, ok && p.State != "heard"
	})
}

func unknownSender(f *Facts) (all []Finding) {
	for _, r := range f.Status.Refused {
		if r.Reason != "unknown_peer" || r.LastAgo > recent {
			continue
		}
		t := f.withID(r.ID)
		if t == nil {
			continue
		}
		found := Finding{
			Device:   t.Ifname,
			What:     fmt.Sprintf("%s sends to it with the right id, %d, and is none of its peers", r.Source, r.ID),
			Evidence: fmt.Sprintf("%s dropped as unknown_peer, the last %s ago", packets(r.Packets), span(r.LastAgo)),
			Try:      fmt.Sprintf("gvtep peer add %s dev %s if it is meant to be one", r.Source, t.Ifname),
		}
		for _, p := range t.Gvtep.Peers {
			if p.State != "" && p.State != "heard" && p.Remote.Is4() == r.Source.Is4() {
				found.Peer = p.Remote.String()
				found.What += fmt.Sprintf(", of which %s is %s", p.Remote, p.State)
				found.Try = fmt.Sprintf("if both are one host: gvtep peer add %s dev %s and peer del %s, or local %s at the other end", r.Source, t.Ifname, p.Remote, p.Remote)
				break
			}
		}
		all = append(all, found)
	}
	return all
}

// withID is the tunnel with a VNI.
func (f *Facts) withID(id uint32) *control.Tunnel {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		if t.LinkInfo.Data.ID != nil && *t.LinkInfo.Data.ID == id ||
			slices.ContainsFunc(t.Gvtep.VLANs, func(v control.VLAN) bool { return v.ID <= id && id <= max(v.LastID, v.ID) }) {
			return t
		}
	}
	return nil
}

func vxlan(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		r, ok := refusal(p, "vxlan")
		return Finding{
			What:     fmt.Sprintf("its peer %s sends VXLAN, and here GENEVE is spoken", p.Remote),
			Evidence: seen(r, p.Remote),
			Try:      fmt.Sprintf("encap vxlan here; or there a device of type geneve, with id %s", idOf(t)),
		}, ok
	})
}

func otherMode(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		r, ok := refusal(p, "bad_protocol")
		here, there := "Ethernet (mode l2)", "IP (mode l3)"
		if t.Gvtep.Mode == "l3" {
			here, there = there, here
		}
		return Finding{
			What:     fmt.Sprintf("its peer %s sends %s, and here it is %s", p.Remote, there, here),
			Evidence: seen(r, p.Remote),
			Try:      "the same mode at both ends (innerprotoinherit of a kernel device is l3)",
		}, ok
	})
}

func sameMAC(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		r, ok := refusal(p, "bad_source_mac")
		return Finding{
			What:     fmt.Sprintf("packets of its peer %s come from our own MAC address, %s, or from none", p.Remote, t.Address),
			Evidence: seen(r, p.Remote),
			Try:      "a cloned machine, or a loop: give one end another lladdr, or take the loop apart",
		}, ok
	})
}

// otherRefusals tells of reasons that have no finding of their own.
func otherRefusals(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		if p.State != "refused" {
			return Finding{}, false
		}
		for _, reason := range count.Reasons() {
			r, ok := refusal(p, reason.String())
			if ok && !reason.OfFrame() {
				e := reason.Explain()
				return Finding{What: fmt.Sprintf("packets of its peer %s are dropped: %s", p.Remote, e.What), Evidence: seen(r, p.Remote) + "; likely " + e.Cause, Try: e.Remedy}, true
			}
		}
		return Finding{}, false
	})
}

// icmp is what was last said about a peer, if it is one of some things and the peer was not heard since.
func icmp(p *control.Peer, whats ...string) (*control.ICMP, bool) {
	m := p.ICMP
	if m == nil || m.LastAgo > recent || !slices.ContainsFunc(whats, func(w string) bool { return w == m.What }) {
		return nil, false
	}
	return m, p.SeenAgo == nil || *p.SeenAgo >= m.LastAgo
}

func portUnreachable(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		m, ok := icmp(p, "port unreachable")
		if !ok {
			return Finding{}, false
		}
		return Finding{
			What:     fmt.Sprintf("at its peer %s nobody listens on UDP port %d", p.Remote, p.Port),
			Evidence: fmt.Sprintf("%s says port unreachable, %s ago", m.From, span(m.LastAgo)),
			Try:      fmt.Sprintf("is gvtep running there (gvtep ls), with local and dstport %d? A firewall that rejects says the same", p.Port),
		}, true
	})
}

func prohibited(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		m, ok := icmp(p, "communication prohibited", "host prohibited", "network prohibited", "source address refused", "route rejected")
		if !ok {
			return Finding{}, false
		}
		return Finding{
			What:     fmt.Sprintf("a firewall refuses what is sent to its peer %s", p.Remote),
			Evidence: fmt.Sprintf("%s says %s, %s ago", m.From, m.What, span(m.LastAgo)),
			Try:      fmt.Sprintf("let UDP to port %d pass at %s", p.Port, m.From),
		}, true
	})
}

func unreachable(f *Facts) []Finding {
	return eachPeer(f, func(_ *control.Tunnel, p *control.Peer) (Finding, bool) {
		m, ok := icmp(p, "host unreachable", "network unreachable", "address unreachable", "no route", "hop limit exceeded", "host unknown", "network unknown")
		if !ok {
			return Finding{}, false
		}
		return Finding{
			What:     fmt.Sprintf("a router cannot reach its peer %s", p.Remote),
			Evidence: fmt.Sprintf("%s says %s, %s ago", m.From, m.What, span(m.LastAgo)),
			Try:      fmt.Sprintf("is the remote right, and the other host up? Routes and neighbours at %s", m.From),
		}, true
	})
}

func smallPath(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		m := p.ICMP
		fits := p.PathMTU - overhead(t, p.Remote)
		if m == nil || m.MTU == 0 || p.PathMTU == 0 || t.MTU <= fits {
			return Finding{}, false
		}
		return Finding{
			What:     fmt.Sprintf("the path to its peer %s carries inner packets of %d bytes, and the MTU of the device is %d", p.Remote, fits, t.MTU),
			Evidence: fmt.Sprintf("%s says that a link carries %d bytes, %s ago; %s dropped as too_big, %d senders told", m.From, m.MTU, span(m.LastAgo), packets(t.Gvtep.Drops.TX["too_big"]), t.Gvtep.TooBig),
			Try:      fmt.Sprintf("gvtep tunnel set %s mtu %d, at both ends; or raise the MTU of the link", t.Ifname, fits),
		}, true
	})
}

// blackHole says where long packets vanish and no router says so (RFC 2923 section 2.1).
func blackHole(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		asked := f.Probes[Ask{t.Ifname, p.Remote}]
		if asked.Lost == 0 || p.PathMTU != 0 && p.PathMTU <= asked.Carries {
			return Finding{}, false
		}
		fits := asked.Carries - overhead(t, p.Remote)
		return Finding{
			What:     fmt.Sprintf("long packets to its peer %s vanish and short ones arrive: a link on the way is narrow, and the ICMP that says so is filtered", p.Remote),
			Evidence: fmt.Sprintf("probes of %d bytes with Don't Fragment were answered, those of %d not, and no ICMP came; the kernel takes the path for one of %d", asked.Carries, asked.Lost, p.PathMTU),
			Try:      fmt.Sprintf("gvtep tunnel set %s mtu %d, at both ends; or let ICMP type 3 code 4 (ICMPv6 type 2) pass on the way", t.Ifname, fits),
		}, true
	})
}

// noTunnel says that a peer knows us and has nothing for us.
func noTunnel(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		return Finding{
			What:     fmt.Sprintf("its peer %s runs gvtep and knows us, but has no tunnel with id %s to us", p.Remote, idOf(t)),
			Evidence: "it says so itself, in its answer to a probe",
			Try:      fmt.Sprintf("gvtep show at %s: the same id at both ends, and our address as the remote", p.Remote),
		}, f.Probes[Ask{t.Ifname, p.Remote}].Status == "no_tunnel"
	})
}

func peerDown(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		return Finding{
			What:     fmt.Sprintf("at its peer %s the device of the tunnel is down", p.Remote),
			Evidence: "it says so itself, in its answer to a probe",
			Try:      fmt.Sprintf("gvtep doctor at %s says who set it down; gvtep tunnel up, or ip link set up, there", p.Remote),
		}, f.Probes[Ask{t.Ifname, p.Remote}].Status == "down"
	})
}

// silent says about peers of which nothing comes, and nothing is known why, which end to look at.
func silent(f *Facts) []Finding {
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		if p.State != "silent" || p.TX.Packets == 0 || f.Probes[Ask{t.Ifname, p.Remote}].Answered { // one that answers has nothing to say
			return Finding{}, false
		}
		never := "has never been heard"
		if p.SeenAgo != nil {
			never = "has been silent for " + span(*p.SeenAgo)
		}
		found := Finding{
			What:     fmt.Sprintf("its peer %s %s, and nothing says why: the fault is at the other end, or on the way", p.Remote, never),
			Evidence: fmt.Sprintf("%s sent to %s, none came back, no ICMP error", packets(p.TX.Packets), netip.AddrPortFrom(p.Remote, p.Port)),
			Try: fmt.Sprintf("gvtep doctor at %s: is its remote our address, its id %s? A firewall on the way, or its input chains: UDP port %d",
				p.Remote, idOf(t), p.Port),
		}
		if chains := f.Host.Firewall; len(chains) > 0 {
			found.What = fmt.Sprintf("its peer %s %s, and this host filters what arrives: here, at the other end or on the way it is dropped", p.Remote, never)
			found.Try = fmt.Sprintf("here, let UDP to port %d in: %s; then gvtep doctor at %s (remote our address, id %s)", p.Port, list(chains), p.Remote, idOf(t))
		} else if r, ok := f.Host.Routes[p.Remote]; ok && f.Host.RPFilter[r.Dev] == 1 {
			found.Evidence += "; rp_filter is strict on " + r.Dev
		}
		return found, true
	})
}
