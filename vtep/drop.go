package vtep

// Reason says why a packet was dropped. Every reason has one counter per
// direction; a packet counts once.
type Reason uint8

// The reasons. Their names are part of the interface: counters, metrics and
// documents use the same words.
const (
	DropShort           Reason = iota // shorter than its headers say
	DropBadVersion                    // GENEVE version is not 0 (RFC 8926 section 3.4)
	DropControl                       // O bit: a control packet (section 3.4)
	DropBadOptions                    // an option runs over the option area (section 3.5)
	DropCriticalOption                // a critical option that we do not know (section 3.5)
	DropBadProtocol                   // the payload type does not fit the tunnel (section 3.4)
	DropUnknownVNI                    // no tunnel has this VNI on this socket
	DropUnknownPeer                   // the VNI is ours, the outer source is no peer of it
	DropShortInner                    // no whole Ethernet or IP header inside
	DropBadSourceMAC                  // source is a group, zero or our own address
	DropBadSource                     // the routes of an L3 tunnel have the inner source elsewhere
	DropReservedAddress               // 01:80:c2:00:00:0x, or PAUSE
	DropVLAN                          // a VLAN tag where the segment takes none
	DropUnknownVLAN                   // the trunk has no segment for this VLAN ID
	DropUntagged                      // no VLAN ID, and the trunk has no segment for that
	DropLocked                        // the source address is pinned elsewhere
	DropECN                           // outer CE over inner Not-ECT (RFC 6040 section 4.2)
	DropReinjected                    // came in through a device of ours (RFC 8926 section 6.2)
	DropLoop                          // would go back where it came from, or the route leads into the tunnel
	DropTooBig                        // larger than the path to the peer
	DropNoRoute                       // the kernel has no way to the peer, or refuses it
	DropNoFDBEntry                    // unknown destination and nobody to flood to
	DropNoPeer                        // no peer of an L3 tunnel has a route to the destination
	DropFloodOff                      // flooding of this kind is off
	DropBUMLimit                      // more flooded frames than bum_limit, the tunnel's out and the peer's in
	DropBadOffload                    // a super-frame header from the device that makes no sense
	DropDeviceFull                    // the device did not take the frame
	DropDeviceDown                    // the device is down
	DropSocketFull                    // the socket had no room
	numReasons
)

var reasonNames = [numReasons]string{
	"short", "bad_version", "control", "bad_options", "critical_option", "bad_protocol",
	"unknown_vni", "unknown_peer", "short_inner", "bad_source_mac", "bad_source", "reserved_address", "vlan", "unknown_vlan", "untagged",
	"locked", "ecn", "reinjected", "loop", "too_big", "no_route", "no_fdb_entry", "no_peer", "flood_off", "bum_limit", "bad_offload",
	"device_full", "device_down", "socket_full",
}

// String returns the reason's name, as in counters and metrics.
func (r Reason) String() string { return reasonNames[r] }

// Reasons returns all reasons in a fixed order.
func Reasons() []Reason {
	all := make([]Reason, numReasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// Drops counts dropped packets by reason: Rx those from the underlay, Tx
// those from the device.
type Drops struct {
	Rx, Tx [numReasons]uint64
}
