package forward

import (
	"sync/atomic"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/option"
)

// Delivered is the answer for a frame that is not dropped.
const Delivered = count.NumReasons

// FromPeer says why an inner frame from a peer is dropped, or delivered. It restores ECN
// and only then learns: what is dropped teaches nothing. known is the source that
// has just been learned from the peer, the zero address at first; h becomes the headers of the frame,
// and tos is that of the outer packet.
func (s *Segment) FromPeer(from *Peer, protocol uint16, frame []byte, h *packet.Headers, tos uint8, known *packet.MAC, now int64) count.Reason {
	p := from.Port()
	switch protocol {
	case packet.EtherTypeEthernet:
		if p.L3 {
			return count.DropBadProtocol
		}
		if len(frame) < EthernetLen {
			return count.DropShortInner
		}
		packet.Walk(frame, false, h)
		if reason := s.badEthernet(p, frame, h); reason != Delivered {
			return reason
		}
	case packet.EtherTypeIPv4, packet.EtherTypeIPv6:
		if !p.L3 {
			return count.DropBadProtocol
		}
		packet.Walk(frame, true, h)
		if h.Version == 0 {
			return count.DropShortInner
		}
		if (h.Version == 4) != (protocol == packet.EtherTypeIPv4) {
			return count.DropBadProtocol
		}
		if !s.RoutedBack(frame, h, from) {
			return count.DropBadSource
		}
		if h.TTL == 0 {
			return count.DropInnerTTL
		}
	default:
		return count.DropBadProtocol
	}
	if h.Version != 0 {
		ecn := ecnDecap[h.TOS&3][tos&3]
		if ecn == ecnDrop {
			return count.DropECN
		}
		if ecnOdd[h.TOS&3][tos&3] {
			p.OddECN.Add(1)
		}
		if ecn != h.TOS&3 {
			packet.SetECN(frame, h, ecn)
		}
	}
	if !p.L3 {
		if from.BUM.Interval != 0 && s.floods(p, packet.MAC(frame[0:6]), now) && !from.BUM.Allow(now, 1) {
			from.Flooded.Add(1)
			return count.DropBUMLimit
		}
		if src := packet.MAC(frame[6:12]); src != *known && (s.Learning || s.Locked) {
			if !s.learn(src, from, now) {
				return count.DropLocked
			}
			*known = src
		}
	}
	if s.Neighbours != nil && neigh.Concerns(h) {
		s.Neighbours.Observe(frame, h, false, now)
	}
	return Delivered
}

// ByOptions says why n packets from a peer are dropped because of their options, or delivered, and
// counts them for rules. names are the kinds that are known. by is the rule that let it in, nil: none did.
func (s *Segment) ByOptions(worker int, names *option.Registry, area []byte, n uint64) (reason count.Reason, by *option.Rule) {
	var hits []atomic.Uint64
	if s.Options != nil {
		hits = s.OptionHits[worker]
	}
	verdict, by := s.Options.Decide(names, area, hits, n)
	switch verdict {
	case option.Drop:
		return count.DropOptionRule, nil
	case option.Unknown:
		return count.DropCriticalOption, nil
	case option.Malformed:
		return count.DropBadOptions, nil
	}
	return Delivered, by
}

// badEthernet says what is wrong with the Ethernet header of a frame from a peer; delivered if
// nothing is.
func (s *Segment) badEthernet(p *Port, frame []byte, h *packet.Headers) count.Reason {
	dst, src := packet.MAC(frame[0:6]), packet.MAC(frame[6:12])
	switch {
	case src.IsGroup() || src.IsZero() || src == p.MAC:
		return count.DropBadSourceMAC
	case h.Tags > 0 && s.VLANDrop:
		return count.DropVLAN
	case dst.IsGroup() && s.reserved(dst, h):
		return count.DropReservedAddress
	}
	return Delivered
}

// floods reports whether our side has to flood a frame for dst: a group's, or
// of a station that is not known to be here. Without learning none ever is, and
// only the groups count.
func (s *Segment) floods(p *Port, dst packet.MAC, now int64) bool {
	if dst.IsGroup() {
		return true
	}
	if dst == p.MAC || !s.Learning {
		return false
	}
	nh, ok := s.FDB.Lookup(dst, now)
	return !ok || nh != fdb.Local
}

// learn notes where a source address is, and reports whether it may be there.
func (s *Segment) learn(src packet.MAC, from *Peer, now int64) bool {
	if s.Locked {
		nh, ok := s.FDB.Lookup(src, now)
		return ok && s.learnedFrom(nh, from)
	}
	if s.FDB.Learn(src, from.Nexthop, now) != fdb.Pinned {
		return true
	}
	nh, ok := s.FDB.Lookup(src, now)
	return ok && s.learnedFrom(nh, from)
}
