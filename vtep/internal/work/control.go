package work

import (
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/bfd"
	"gvtep/vtep/internal/forward"
)

// control takes a control packet (O bit): BFD of a peer that has a session. The payload of all
// others is never looked at, nor is any forwarded (RFC 8926 section 3.4).
func (w *worker) control(s *forward.Socket, t *packet.Train, datagram []byte, vni packet.VNI, protocol uint16, length int) count.Reason {
	key := s.Admission(vni, t.From)
	from, _ := w.snap.Admitted(&key)
	if from == nil || from.Control.Interval == 0 || w.snap.Reinjected(t.Ifindex, from) {
		return count.DropControl
	}
	if err := encap.Options(datagram, length).Check(nil); err != nil {
		return encap.Reason(err)
	}
	if !from.Control.Allow(w.now, 1) {
		return count.DropBadBFD
	}
	p := from.Port()
	got, far, err := bfd.ParseFrame(datagram[length:], protocol, bfd.Address{MAC: p.MAC, IP: p.IP})
	if err != nil || p.L3 != far.MAC.IsZero() || !w.pool.Owner.Control(from, got, far, w.now) {
		return count.DropBadBFD
	}
	from.Traffic[w.id].Seen.Store(w.now)
	return forward.Delivered
}
