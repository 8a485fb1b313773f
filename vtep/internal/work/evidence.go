package work

import (
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
)

// What is written down where a packet from the underlay is dropped: a count, for the tunnel if one
// admitted it, and evidence of what it looked like.

// refuse counts a datagram that was not delivered.
func (w *worker) refuse(s *forward.Socket, from netip.Addr, datagram []byte, reason count.Reason) {
	if s.Encap == encap.Geneve && encap.LooksLikeVXLAN(datagram) {
		reason = count.DropVXLAN
	}
	drops := &w.drops
	if w.admitted.peer != nil {
		drops = &w.admitted.peer.Port().Segment.Drops[w.id]
	}
	drops.Rx[reason].Add(1)
	w.remember(s, from, datagram, reason, 1)
	if w.tap != nil {
		w.seeRefused(s, from, datagram, reason, 1)
	}
}

// refuseTrain counts datagrams that nobody looked at.
func (w *worker) refuseTrain(s *forward.Socket, t *packet.Train, reason count.Reason) {
	w.drops.Rx[reason].Add(t.Count())
	first := t.Data[:min(max(t.Size, 0), len(t.Data))]
	w.remember(s, t.From, first, reason, t.Count())
	if w.tap != nil {
		w.seeRefused(s, t.From, first, reason, t.Count())
	}
}

func (w *worker) remember(s *forward.Socket, from netip.Addr, datagram []byte, reason count.Reason, n uint64) {
	sight := count.Sight{Reason: reason, Source: from}
	sight.VNI, sight.Protocol = s.Encap.Peek(datagram)
	w.evidence.Add(sight, n, s.Port, w.now, datagram)
}

// undelivered counts frames of a peer that its device did not take.
func (w *worker) undelivered(from *forward.Peer, seg *forward.Segment, err error, frames int, frame []byte) {
	reason := w.writeFailed(from.Port(), err, frames)
	w.evidence.Add(count.Sight{Reason: reason, Source: from.Dest.Remote.Addr().WithZone(""), VNI: seg.VNI}, uint64(frames), 0, w.now, frame)
	if w.tap != nil {
		w.seeUnwritten(from.Port(), seg, from.Dest.Remote, frame, reason, frames)
	}
}
