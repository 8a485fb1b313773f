package vtep

import (
	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// delivered is the answer for a frame that is not dropped.
const delivered = numReasons

// fromPeer says why an inner frame from a peer is dropped, or delivered. It restores ECN
// and only then learns: what is dropped teaches nothing. known is the source that
// has just been learned from the peer, the zero address at first; h becomes the headers of the frame,
// and tos is that of the outer packet.
func (s *segment) fromPeer(from *fpeer, protocol uint16, frame []byte, h *packet.Headers, tos uint8, known *packet.MAC, now int64) Reason {
	p := from.port
	switch protocol {
	case geneve.ProtoEthernet:
		if p.l3 {
			return DropBadProtocol
		}
		if len(frame) < ethernetLen {
			return DropShortInner
		}
		packet.Walk(frame, false, h)
		if reason := s.badEthernet(p, frame, h); reason != delivered {
			return reason
		}
	case geneve.ProtoIPv4, geneve.ProtoIPv6:
		if !p.l3 {
			return DropBadProtocol
		}
		packet.Walk(frame, true, h)
		if h.Version == 0 {
			return DropShortInner
		}
		if (h.Version == 4) != (protocol == geneve.ProtoIPv4) {
			return DropBadProtocol
		}
		if !s.routedBack(frame, h, from) {
			return DropBadSource
		}
	default:
		return DropBadProtocol
	}
	if h.Version != 0 {
		ecn := ecnDecap[h.TOS&3][tos&3]
		if ecn == ecnDrop {
			return DropECN
		}
		if ecn != h.TOS&3 {
			packet.SetECN(frame, h, ecn)
		}
	}
	if !p.l3 {
		if from.bum.interval != 0 && s.floods(p, packet.MAC(frame[0:6]), now) && !from.bum.allow(now, 1) {
			from.flooded.Add(1)
			return DropBUMLimit
		}
		if src := packet.MAC(frame[6:12]); src != *known && (s.learning || s.locked) {
			if !s.learn(src, from, now) {
				return DropLocked
			}
			*known = src
		}
	}
	if s.neighbours != nil && neigh.Concerns(h) {
		s.neighbours.Observe(frame, h, false, now)
	}
	return delivered
}

// badEthernet says what is wrong with the Ethernet header of a frame from a peer; delivered if
// nothing is.
func (s *segment) badEthernet(p *port, frame []byte, h *packet.Headers) Reason {
	dst, src := packet.MAC(frame[0:6]), packet.MAC(frame[6:12])
	switch {
	case src.IsGroup() || src.IsZero() || src == p.mac:
		return DropBadSourceMAC
	case h.Tags > 0 && s.vlanDrop:
		return DropVLAN
	case dst.IsGroup() && s.reserved(dst, h):
		return DropReservedAddress
	}
	return delivered
}

// floods reports whether our side has to flood a frame for dst: a group's, or
// of a station that is not known to be here. Without learning none ever is, and
// only the groups count.
func (s *segment) floods(p *port, dst packet.MAC, now int64) bool {
	if dst.IsGroup() {
		return true
	}
	if dst == p.mac || !s.learning {
		return false
	}
	nh, ok := s.fdb.Lookup(dst, now)
	return !ok || nh != fdb.Local
}

// learn notes where a source address is, and reports whether it may be there.
func (s *segment) learn(src packet.MAC, from *fpeer, now int64) bool {
	if s.locked {
		nh, ok := s.fdb.Lookup(src, now)
		return ok && s.learnedFrom(nh, from)
	}
	if s.fdb.Learn(src, from.nexthop, now) != fdb.Pinned {
		return true
	}
	nh, ok := s.fdb.Lookup(src, now)
	return ok && s.learnedFrom(nh, from)
}
