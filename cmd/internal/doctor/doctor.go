// Package doctor says what is wrong with a running endpoint, on what evidence, and what to try. Gather
// collects the facts, from the control socket and this host; each check is a pure function of them.
package doctor

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gvtep/cmd/internal/control"
)

// Facts are what findings are made of.
type Facts struct {
	Status  control.Status
	Tunnels []control.Tunnel
	Host    Host
	Probes  map[Ask]Probe // what peers answered, as far as they were asked
}

// Ask is a peer of a tunnel that was asked.
type Ask struct {
	Dev    string
	Remote netip.Addr
}

// Probe is what a peer answered to gvtep's probes.
type Probe struct {
	control.Probed     // to the shortest
	Lost           int // the size of a probe that got lost while shorter ones were answered, in bytes of outer IP packet; 0: none
	Carries        int // the longest that was answered then
}

// Host is what this host says beside the daemon, in the network namespace of that.
type Host struct {
	Netns     string                  // of the daemon, for people
	Links     []Link                  // all
	RPFilter  map[string]int          // by device, the stricter of its own and all's; net.ipv4.conf
	RmemMax   int                     // net.core.rmem_max; 0: not known
	Neigh     map[netip.Addr]string   // next hops that do not resolve, and the device
	Routes    map[netip.Addr]Route    // to peers
	Firewall  []string                // chains of nftables that see what arrives
	Claims    map[string][]Claim      // by tunnel device: ARP of others heard on it
	Addresses map[string][]netip.Addr // by tunnel device
	Qdisc     map[string]string       // the root one, by tunnel device
	Off       map[string][]string     // offloads that somebody switched off, by tunnel device
	ByHand    map[string][]string     // stations written by "bridge fdb" to a tunnel device itself
	Files     int                     // descriptors that the daemon has open, and may have; 0: not known
	FilesMax  int
	Reversed  uint64 // packets that rp_filter has dropped
}

// Link is a network device.
type Link struct {
	Name    string
	Kind    string // "vxlan", "geneve" and so on
	Port    int    // UDP port, of these two
	Below   int    // ifindex of the device it stands on; 0: none
	Up      bool
	Carrier bool
}

// Route is the way to a peer as the kernel has it.
type Route struct {
	Dev string
	Via netip.Addr // the next hop
}

// Claim is an ARP packet of a station behind a tunnel.
type Claim struct {
	Addr netip.Addr // that the sender says is its own
	MAC  string
	Asks netip.Addr
}

// Finding is one thing that is wrong, in at most three lines.
type Finding struct {
	Fault    string `json:"fault"` // its name, which stays
	Device   string `json:"device,omitempty"`
	Peer     string `json:"peer,omitempty"`
	What     string `json:"what"`
	Evidence string `json:"evidence,omitempty"`
	Try      string `json:"try,omitempty"`
}

// check looks for one kind of fault.
type check struct {
	fault string
	find  func(*Facts) []Finding
}

// checks are all of them. What comes first explains what comes later.
var checks = []check{
	{"not_carrying", notCarrying},
	{"device_deleted", deviceDeleted},
	{"device_down", deviceDown},
	{"set_down", setDown},
	{"address_missing", addressMissing},
	{"not_as_configured", notAsConfigured},
	{"route_loop", routeLoop},
	{"no_route", noRoute},
	{"output_firewall", outputFirewall},
	{"underlay_down", underlayDown},
	{"wrong_vni", wrongVNI},
	{"unknown_sender", unknownSender},
	{"no_tunnel", noTunnel},
	{"peer_down", peerDown},
	{"no_neighbour", noNeighbour},
	{"vxlan", vxlan},
	{"other_mode", otherMode},
	{"same_mac", sameMAC},
	{"refused", otherRefusals},
	{"port_unreachable", portUnreachable},
	{"prohibited", prohibited},
	{"unreachable", unreachable},
	{"small_path", smallPath},
	{"black_hole", blackHole},
	{"mtu_above_path", mtuAbovePath},
	{"rp_filter", rpFilter},
	{"silent", silent},
	{"same_address", sameAddress},
	{"other_subnet", otherSubnet},
	{"no_way_out", noWayOut},
	{"learning_off", learningOff},
	{"fast_path_off", fastPathOff},
	{"fast_path_punts", fastPathPunts},
	{"short_ageing", shortAgeing},
	{"bridge_fdb", bridgeFDB},
	{"offload_off", offloadOff},
	{"qdisc_mq", qdiscMQ},
	{"overflows", overflows},
	{"small_rcvbuf", smallBuffer},
	{"descriptors", descriptors},
	{"kernel_tunnel", kernelTunnel},
	{"icmp_unseen", icmpUnseen},
}

// Faults are the names of all that is looked for.
func Faults() (all []string) {
	for _, c := range checks {
		all = append(all, c.fault)
	}
	return all
}

// Examine returns what is wrong. Of one peer the first finding is enough: the others follow from it.
func Examine(f *Facts) []Finding {
	all := []Finding{}
	explained := map[[2]string]bool{}
	for _, c := range checks {
		for _, found := range c.find(f) {
			of := [2]string{found.Device, found.Peer}
			if found.Peer != "" && explained[of] {
				continue
			}
			found.Fault = c.fault
			all = append(all, found)
			if found.Peer != "" {
				explained[of] = true
			}
		}
	}
	return all
}

// Lines is a finding for people.
func (f *Finding) Lines() []string {
	where := ""
	if f.Device != "" {
		where = f.Device + ": "
	}
	lines := []string{where + f.What}
	if f.Evidence != "" {
		lines = append(lines, "    seen: "+f.Evidence)
	}
	if f.Try != "" {
		lines = append(lines, "    try:  "+f.Try)
	}
	return lines
}

// eachPeer finds something about peers whose packets are let in.
func eachPeer(f *Facts, find func(*control.Tunnel, *control.Peer) (Finding, bool)) (all []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		for j := range t.Gvtep.Peers {
			p := &t.Gvtep.Peers[j]
			if p.State == "" {
				continue
			}
			if found, ok := find(t, p); ok {
				found.Device, found.Peer = t.Ifname, p.Remote.String()
				all = append(all, found)
			}
		}
	}
	return all
}

// eachTunnel finds something about tunnels.
func eachTunnel(f *Facts, find func(*control.Tunnel) (Finding, bool)) (all []Finding) {
	for i := range f.Tunnels {
		if found, ok := find(&f.Tunnels[i]); ok {
			found.Device = f.Tunnels[i].Ifname
			all = append(all, found)
		}
	}
	return all
}

// recent is for how long what is over counts as going on, in seconds.
const recent = 60

// refusal is the latest of a peer's refused packets with one of some reasons.
func refusal(p *control.Peer, reasons ...string) (control.PeerRefused, bool) {
	var all []control.PeerRefused
	for _, r := range p.Refused {
		if slices.Contains(reasons, r.Reason) && r.LastAgo < recent {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return control.PeerRefused{}, false
	}
	return slices.MinFunc(all, func(a, b control.PeerRefused) int { return cmp.Compare(a.LastAgo, b.LastAgo) }), true
}

// seen is what was refused, in words.
func seen(r control.PeerRefused, from netip.Addr) string {
	return fmt.Sprintf("%s from %s dropped as %s, the last %s ago", packets(r.Packets), from, r.Reason, span(r.LastAgo))
}

func packets(n uint64) string {
	if n == 1 {
		return "1 packet"
	}
	return fmt.Sprintf("%d packets", n)
}

// span is seconds in words.
func span(seconds float64) string {
	switch {
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 7200:
		return fmt.Sprintf("%.0f min", seconds/60)
	}
	return fmt.Sprintf("%.0f h", seconds/3600)
}

// idOf is a tunnel's VNI in words.
func idOf(t *control.Tunnel) string {
	switch {
	case t.LinkInfo.Data.ID != nil:
		return fmt.Sprint(*t.LinkInfo.Data.ID)
	case len(t.Gvtep.VLANs) > 0:
		return "those of its VLANs"
	}
	return "none"
}

// list is a few names in words.
func list(all []string) string { return strings.Join(all, ", ") }
