package forward

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// Rules are what the segments of one tunnel share.
type Rules struct {
	// Nexthops is indexed by fdb.Nexthop; fdb.Local has none.
	Nexthops [][]*Peer
	Flood    []*Peer
	// Limited are the peers with a BUM limit of their own.
	Limited []*Peer
	// Of an L3 tunnel: who has which routes or, without routes, the one peer.
	prefixes *prefixes
	Single   []*Peer

	Learning bool
	// Of outer headers. What is inherited is the inner packet's; ttl is then for those
	// that are not IP.
	TTL, TOS               uint8
	InheritTTL, InheritTOS bool
	Fragments              bool // of packets that routers may cut, by the DF policy
	L2ControlPass          bool
	Locked                 bool
	Groups                 bool // the table has entries for group addresses
	Accept                 []netip.Prefix

	NoFlood, NoMcastFlood, NoBcastFlood bool

	// Options decides about packets from peers by their options; nil: all go on that have
	// no critical ones. OptionHits are by worker and rule.
	Options    *option.Policy
	OptionHits [][]atomic.Uint64
	// Send are rules for packets from the device; nil: there are none. SendHits count as OptionHits.
	Send     []SendRule
	SendHits [][]atomic.Uint64

	Drops []count.DropCounters // by worker
}

// Remote returns the address of the first peer behind nh.
func (s *Segment) Remote(nh fdb.Nexthop) netip.AddrPort {
	for _, p := range s.NexthopPeers(nh) {
		return p.Dest.Remote
	}
	return netip.AddrPort{}
}

// Changes reports whether the header of datagrams to a peer has to get the
// segment's VNI: the peers of a trunk are those of all its segments.
func (s *Segment) Changes(to *Peer) bool { return s.VID != 0 && !to.Dest.HasVNI }

// MayCut reports whether outer fragments may carry a frame that exceeds the path: if there is
// no other way for what everybody may send, and if the DF policy allows it for a frame that
// routers may cut, too. The sender of any other is told, as by a router: the kernel's device
// does the same, whatever its outer DF bit (skb_tunnel_check_pmtu).
func (s *Segment) MayCut(frame []byte, h *packet.Headers, size int) bool {
	return size-int(h.L3) <= MinIPv6 || s.Fragments && !DontFragment(frame, h)
}

// Takes reports whether a frame from the device is one that may go anywhere, and learns
// where its sender is. If it is not, reason says why.
func (s *Segment) Takes(p *Port, frame []byte, h *packet.Headers, now int64) (reason count.Reason, ok bool) {
	if p.L3 {
		if h.Version != 0 && h.TTL == 0 {
			return count.DropInnerTTL, false
		}
		return count.DropShortInner, h.Version != 0
	}
	if len(frame) < EthernetLen {
		return count.DropShortInner, false
	}
	if h.Tags > 0 && s.VLANDrop {
		return count.DropVLAN, false
	}
	dst, src := packet.MAC(frame[0:6]), packet.MAC(frame[6:12])
	if src.IsGroup() || src.IsZero() {
		return count.DropBadSourceMAC, false
	}
	// An address that speaks on our side is no longer behind a peer. Our own
	// is never learned.
	if s.Learning && src != p.MAC && s.FDB.Learn(src, fdb.Local, now) == fdb.Pinned {
		return count.DropLocked, false
	}
	if dst.IsGroup() && s.reserved(dst, h) {
		return count.DropReservedAddress, false
	}
	return 0, true
}

// Forward decides where a frame of so many pieces from the device goes: to the peers returned,
// as copies of a flooded frame or not. With no peers, reason says why.
func (s *Segment) Forward(p *Port, frame []byte, h *packet.Headers, pieces int, now int64) (peers []*Peer, flood bool, reason count.Reason) {
	if p.L3 {
		peers = s.route(frame, h)
		if len(peers) > 0 && peers[0].Dead() {
			return nil, false, count.DropPeerDown
		}
		return peers, false, count.DropNoPeer
	}
	dst := packet.MAC(frame[0:6])
	if dst.IsGroup() {
		return s.floodGroup(dst, pieces, now)
	}
	if nh, ok := s.FDB.Lookup(dst, now); ok {
		if nh == fdb.Local {
			return nil, false, count.DropLoop
		}
		// A station behind a dead peer is looked for as one that nobody has heard of.
		if peers := s.NexthopPeers(nh); peers != nil && !peers[0].Dead() {
			return peers, false, 0
		}
	}
	if s.NoFlood {
		return nil, false, count.DropFloodOff
	}
	return s.floodAll(pieces, now)
}

// floodGroup decides about a frame to a group address.
func (s *Segment) floodGroup(dst packet.MAC, pieces int, now int64) (peers []*Peer, flood bool, reason count.Reason) {
	if s.Groups {
		if nh, ok := s.FDB.Lookup(dst, now); ok {
			return s.NexthopPeers(nh), true, count.DropLoop
		}
	}
	if broadcast := dst == (packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); broadcast && s.NoBcastFlood || !broadcast && s.NoMcastFlood {
		return nil, false, count.DropFloodOff
	}
	return s.floodAll(pieces, now)
}

// floodAll sends to the flood list, as long as the limit allows it.
func (s *Segment) floodAll(pieces int, now int64) (peers []*Peer, flood bool, reason count.Reason) {
	if !s.BUM.Allow(now, pieces) {
		return nil, false, count.DropBUMLimit
	}
	return s.Flood, true, count.DropNoFDBEntry
}

const (
	EthernetLen = 14
	flowControl = 0x8808 // EtherType of PAUSE (IEEE 802.3 annex 31B)
)

// reserved reports whether a frame to a group address must not be carried:
// 802.1Q table 8-1 unless the tunnel passes them, and PAUSE always, which
// would stop a link that it never was on.
func (s *Segment) reserved(dst packet.MAC, h *packet.Headers) bool {
	return dst.IsReserved() && (!s.L2ControlPass || dst[5] == 1 || h.EtherType == flowControl)
}

// Outer returns the outer TOS and TTL for a frame: DSCP and TTL by policy,
// ECN always the inner packet's (RFC 6040 section 4.1), 0 without one (RFC
// 9601 section 4). A rule for what is sent, nil: none, comes before the policy.
func (s *Segment) Outer(h *packet.Headers, u *SendRule) (tos, ttl uint8) {
	tos, ttl = s.TOS, s.TTL
	if s.InheritTOS {
		tos = h.TOS & 0xfc
	}
	if u != nil && u.OuterDSCP >= 0 {
		tos = uint8(u.OuterDSCP) << 2
	}
	if s.InheritTTL && h.Version != 0 && h.TTL != 0 {
		ttl = h.TTL
	}
	return tos | h.TOS&3, ttl
}

// SendRule is a rule for what is sent, and what follows from it.
type SendRule struct {
	option.SendRule
	// Headers are as Peer.Headers, with VNI 0; only of a rule with options. Slots are where in
	// them something of each packet goes.
	Headers [2][]byte
	Slots   []option.Slot
}

// SendRule returns the first rule that a frame from the device matches; nil: none. The frame is
// of that many pieces, which count.
func (s *Segment) SendRule(worker int, frame []byte, h *packet.Headers, pieces int) *SendRule {
	for i := range s.Send {
		if u := &s.Send[i]; u.Matches(frame, h, s.VID) {
			s.SendHits[worker][i].Add(uint64(pieces))
			return u
		}
	}
	return nil
}

// Header returns the header of datagrams to a peer that a rule, or nil, gives for an inner packet
// of an IP version, and where in it something of each packet goes. vni is what is to be written
// into it; put: it is not there yet.
func (s *Segment) Header(to *Peer, u *SendRule, version uint8) (header []byte, slots []option.Slot, vni packet.VNI, put bool) {
	header, slots = to.Header(version), to.Slots
	if s.Changes(to) {
		vni, put = s.VNI, true
	}
	if u == nil {
		return header, slots, vni, put
	}
	if u.HasOptions {
		if !put {
			vni, put = encap.VNI(header), true
		}
		header, slots = u.Headers[0], u.Slots
		if version == 6 {
			header = u.Headers[1]
		}
	}
	if u.HasVNI {
		vni, put = u.VNI, true
	}
	return header, slots, vni, put
}

// DontFragment reports whether routers must not cut an inner packet. Of IPv6 none may be.
func DontFragment(frame []byte, h *packet.Headers) bool {
	return h.Version == 6 || h.Version == 4 && frame[h.L3+6]&0x40 != 0
}

// OwnFlow reports whether an inner packet is one of our own datagrams to this
// peer that was routed into the tunnel. Sending it would wrap it for ever;
// the route watcher finds such a route too, but a moment later.
func (to *Peer) OwnFlow(frame []byte, h *packet.Headers) bool {
	if h.Proto != packet.ProtoUDP || h.L4 == 0 {
		return false
	}
	ports := frame[h.L4:]
	if binary.BigEndian.Uint16(ports[2:]) != to.RemotePort {
		return false
	}
	ip := frame[h.L3:]
	if h.Version == 4 && string(ip[16:20]) != to.RemoteBytes || h.Version == 6 && string(ip[24:40]) != to.RemoteBytes {
		return false
	}
	source := binary.BigEndian.Uint16(ports)
	for _, path := range []*packet.Path{to.Path, to.PathFrag} {
		if path == nil {
			continue
		}
		for _, port := range path.Set.Ports {
			if port == source {
				return true
			}
		}
	}
	return false
}

func (s *Segment) Sweep(now int64) {
	s.FDB.Sweep(now)
	if s.Neighbours != nil {
		s.Neighbours.Sweep(now)
	}
}
