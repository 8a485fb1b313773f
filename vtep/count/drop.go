// Package count has the counters of an endpoint: packets dropped, by reason, and carried. They
// are kept per worker, so that no two threads write one cache line, and added up by whoever
// looks at them.
package count

// Reason says why a packet was dropped. Every reason has one counter per
// direction; a packet counts once.
type Reason uint8

// The reasons. Their names are part of the interface: counters, metrics and
// documents use the same words.
const (
	DropShort           Reason = iota // shorter than its headers say
	DropBadVersion                    // GENEVE version is not 0 (RFC 8926 section 3.4)
	DropNoVNI                         // VXLAN without its I flag (RFC 7348 section 5)
	DropControl                       // O bit: a control packet (section 3.4)
	DropBadBFD                        // BFD that RFC 5880 or RFC 9521 refuses, or too much of it
	DropBadOptions                    // an option runs over the option area (section 3.5)
	DropCriticalOption                // a critical option that we do not know (section 3.5)
	DropVXLAN                         // VXLAN (RFC 7348) sent to a GENEVE port
	DropBadProtocol                   // the payload type does not fit the tunnel (section 3.4)
	DropUnknownVNI                    // no tunnel has this VNI on this socket
	DropUnknownPeer                   // the VNI is ours, the outer source is no peer of it
	DropShortInner                    // no whole Ethernet or IP header inside
	DropBadSourceMAC                  // source is a group, zero or our own address
	DropBadSource                     // the routes of an L3 tunnel have the inner source elsewhere
	DropInnerTTL                      // an L3 tunnel's packet has TTL or hop limit 0 (RFC 2003 section 3.1)
	DropReservedAddress               // 01:80:c2:00:00:0x, or PAUSE
	DropVLAN                          // a VLAN tag where the segment takes none
	DropUnknownVLAN                   // the trunk has no segment for this VLAN ID
	DropUntagged                      // no VLAN ID, and the trunk has no segment for that
	DropOptionRule                    // a rule for options says so
	DropLocked                        // the source address is pinned elsewhere
	DropECN                           // outer CE over inner Not-ECT (RFC 6040 section 4.2)
	DropBroadcast                     // sent to a broadcast or multicast address, to a socket of none
	DropReinjected                    // came in through a device of ours (RFC 8926 section 6.2)
	DropLoop                          // would go back where it came from, or the route leads into the tunnel
	DropTooBig                        // larger than the path to the peer
	DropNoRoute                       // the kernel has no way to the peer
	DropPeerDown                      // BFD says that the peers it could go to are dead
	DropRefused                       // a firewall of this host does not let it out (EPERM)
	DropNoFDBEntry                    // unknown destination and nobody to flood to
	DropNoPeer                        // no peer of an L3 tunnel has a route to the destination
	DropFloodOff                      // flooding of this kind is off
	DropBUMLimit                      // more flooded frames than bum_limit, the tunnel's out and the peer's in
	DropBadOffload                    // a super-frame header from the device that makes no sense
	DropDeviceFull                    // the device did not take the frame
	DropDeviceDown                    // the device is down
	DropSocketFull                    // the socket had no room
	NumReasons
)

// Explanation tells a person what a reason means. It is the one source of the
// documents and of gvtep explain.
type Explanation struct {
	Name    string // as in counters and metrics
	In, Out bool   // counted for packets from the underlay, from the device
	What    string // happened
	Cause   string // most likely
	Remedy  string
}

var explanations = [NumReasons]Explanation{
	DropShort: {"short", true, false,
		"shorter than its headers say",
		"cut off on the way, or something else than GENEVE on the port",
		"find the sender with `tshark`"},
	DropBadVersion: {"bad_version", true, false,
		"the GENEVE version is not 0",
		"something else on the port, or a later GENEVE",
		"compare `encap` and port at both ends"},
	DropNoVNI: {"no_vni", true, false,
		"a VXLAN header whose I flag is not set, so that its VNI is not valid",
		"something else on the port, such as GENEVE",
		"compare `encap` and port at both ends"},
	DropControl: {"control", true, false,
		"a control packet (O bit)",
		"the other end sends control packets that are neither probes of a configured peer nor BFD, or BFD to a tunnel that has not `bfd`",
		"`bfd on`, or switch it off there"},
	DropBadBFD: {"bad_bfd", true, false,
		"a BFD packet that is not valid, not for us, or one of more than a session may send",
		"the other end has BFD with authentication, or its inner addresses are not those of RFC 9521; or somebody is trying",
		"compare with `gvtep capture`"},
	DropBadOptions: {"bad_options", true, false,
		"an option runs over the end of the options",
		"the other end builds options wrongly, or a bit error with checksums off",
		"send a capture to its maker; switch `udpcsum` on"},
	DropCriticalOption: {"critical_option", true, false,
		"a critical option that gvtep does not know",
		"the other end insists on an option; OVN does so in every packet (docs/migration.md)",
		"`match \"accept CLASS:TYPE\"` if it is harmless to you; else switch it off there"},
	DropVXLAN: {"vxlan", true, false,
		"VXLAN, where the tunnel speaks GENEVE",
		"the other end is a VXLAN device that sends to our port",
		"`encap vxlan` here, or a device of `type geneve` at the other end"},
	DropBadProtocol: {"bad_protocol", true, false,
		"the payload type does not fit the tunnel",
		"Ethernet sent to a tunnel for IP, or the reverse",
		"use the same `mode` at both ends (`innerprotoinherit` of the kernel)"},
	DropUnknownVNI: {"unknown_vni", true, false,
		"no tunnel has this VNI on this socket",
		"a wrong `id` at one end; a tunnel that was removed here and not there",
		"compare `id`, address and port at both ends"},
	DropUnknownPeer: {"unknown_peer", true, false,
		"the VNI is ours, but the outer source is no peer of it",
		"the sender is no `remote` of the tunnel, or has another source address than you think; or somebody is trying",
		"`gvtep peer add`, or `accept`; check the source address at the sender"},
	DropShortInner: {"short_inner", true, true,
		"no whole Ethernet or IP header inside",
		"a fault of the other end, or a broken program on the device",
		"capture it there"},
	DropBadSourceMAC: {"bad_source_mac", true, true,
		"the source MAC address is a group address, zero or our own",
		"our own, coming in: a loop, or a cloned machine",
		"look for a loop; give each machine a MAC address of its own"},
	DropBadSource: {"bad_source", true, false,
		"`mode l3`: the inner source is not in the routes of the peer that sent it",
		"`routes` of that peer are incomplete; or somebody is forging",
		"complete the `routes` of that peer"},
	DropInnerTTL: {"inner_ttl", true, true,
		"`mode l3`: an IP packet whose TTL or hop limit is 0, which no router would have passed on",
		"a broken or raw sender behind the tunnel",
		"capture it there"},
	DropReservedAddress: {"reserved_address", true, true,
		"sent to 01:80:c2:00:00:00 to -0f, or PAUSE",
		"spanning tree, LLDP and the like",
		"normal; `l2_control pass` if they are wanted"},
	DropVLAN: {"vlan", true, true,
		"a VLAN tag where the segment takes none",
		"`vlan_tags drop`; or a tag that a peer sent into the untagged segment of a trunk",
		"`vlan_tags pass`, or leave it; check the mapping at the sender"},
	DropUnknownVLAN: {"unknown_vlan", false, true,
		"the trunk has no segment for this VLAN ID",
		"the bridge sends a VLAN that is not mapped",
		"`gvtep vlan add`, or take the VLAN off the bridge port"},
	DropUntagged: {"untagged", false, true,
		"no VLAN ID, and the trunk has no `id` of its own",
		"the bridge port is untagged where it should be tagged",
		"give the trunk an `id`, or make the port tagged"},
	DropOptionRule: {"option_rule", true, false,
		"a rule of the keyword `match` drops packets with such options",
		"the other end sends options that the rules refuse",
		"`gvtep show` has the rules with their counts"},
	DropLocked: {"locked", true, true,
		"the source MAC address is not allowed to send from there",
		"`locked on` and no static entry; or a static entry says that it is elsewhere",
		"`gvtep fdb add ... static`, or normal"},
	DropECN: {"ecn", true, false,
		"outer CE over an inner packet without ECN (RFC 6040)",
		"a router marked congestion, and the inner sender does not know ECN",
		"find the congestion of the underlay"},
	DropBroadcast: {"broadcast", true, false,
		"sent to a broadcast or multicast address on the underlay, and not to one of ours",
		"a misconfigured VTEP, or somebody is trying",
		"give the sender our address as its remote, or use `group`"},
	DropReinjected: {"reinjected", true, false,
		"a tunnel packet to us from inside the overlay, or a frame that came back by a bridge that the underlay shares",
		"a host inside the overlay sends to our UDP port; or both ends have the tunnel in the bridge of the underlay",
		"normal if somebody is trying; else give the underlay a bridge, or a VLAN, of its own"},
	DropLoop: {"loop", false, true,
		"the frame would go back where it came from, or the route to the peer leads into the tunnel",
		"ERROR in `gvtep show` names the second; else unknown unicast between two peers, or a bridge shared with the underlay that floods: harmless",
		"mend the route"},
	DropTooBig: {"too_big", false, true,
		"larger than the path to the peer; the sender is told by ICMP",
		"a smaller path than the MTU inside",
		"`mtu auto`; docs/troubleshooting.md, part \"Ping works, large transfers hang\""},
	DropNoRoute: {"no_route", false, true,
		"the kernel has no way to the peer",
		"no route, or one that prohibits; a next hop that does not answer",
		"`ip route get PEER`"},
	DropPeerDown: {"peer_down", false, true,
		"BFD has found every peer that it could go to dead",
		"the path to the peer, or the peer, is down",
		"`gvtep peer show`; give the address or prefix a backup"},
	DropRefused: {"refused", false, true,
		"a firewall of this host does not let it out (EPERM)",
		"a rule of an output chain drops or rejects UDP to the peer",
		"`nft list ruleset`, the chains with `hook output`; let UDP to the peer's port out"},
	DropNoFDBEntry: {"no_fdb_entry", false, true,
		"unknown destination, and nobody to flood to",
		"no peer has flooding on",
		"add peers, switch `flood` on, or add an entry"},
	DropNoPeer: {"no_peer", false, true,
		"`mode l3`: no peer has a route to the destination",
		"`routes` are incomplete",
		"complete them; ask why the kernel sends it here"},
	DropFloodOff: {"flood_off", false, true,
		"flooding of this kind is off",
		"`flood`, `mcast_flood` or `bcast_flood` is off",
		"normal, if meant"},
	DropBUMLimit: {"bum_limit", true, true,
		"more flooded frames than `bum_limit`: of the peer in, of the segment out",
		"a loop or a scan; the log says whose, one line a second",
		"mend the loop, or raise it"},
	DropBadOffload: {"bad_offload", false, true,
		"the device handed over a super-frame that makes no sense",
		"a fault of the kernel",
		"`offload off`, and report it"},
	DropDeviceFull: {"device_full", true, false,
		"the device did not take the frame",
		"the host behind it is overloaded, or its MTU is smaller than at the other end",
		"compare the MTUs"},
	DropDeviceDown: {"device_down", true, false,
		"the device is down",
		"somebody set it down",
		"`ip link set NAME up`"},
	DropSocketFull: {"socket_full", false, true,
		"the socket had no room",
		"the network card is slower than what comes",
		"normal under overload; inner TCP adapts"},
}

// String returns the reason's name, as in counters and metrics.
func (r Reason) String() string { return explanations[r].Name }

// Explain returns what the reason means.
func (r Reason) Explain() Explanation { return explanations[r] }

// OfFrame reports whether the reason is a decision about one frame, and says nothing about others
// of the same sender.
func (r Reason) OfFrame() bool {
	switch r {
	case DropInnerTTL, DropReservedAddress, DropVLAN, DropLocked, DropECN, DropBroadcast, DropReinjected, DropBUMLimit, DropDeviceFull:
		return true
	}
	return false
}

// Reasons returns all reasons in a fixed order.
func Reasons() []Reason {
	all := make([]Reason, NumReasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// Drops counts dropped packets by reason: Rx those from the underlay, Tx
// those from the device.
type Drops struct {
	Rx, Tx [NumReasons]uint64
}
