package work

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"gvtep/internal/offload"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
)

// The way in, from the underlay to the device:
//
//	socketTurn  receives trains of datagrams
//	inbound     validates one datagram, admits its sender, restores ECN, learns
//	deliver     joins consecutive pieces of a flow
//	end         of joining writes the (super-)frame to the device

// admitted is what the last datagram was admitted by, which the next of its train
// repeats, and what has been counted for it since.
type admitted struct {
	train  *packet.Train // nil: none was
	vni    packet.VNI
	peer   *forward.Peer
	seg    *forward.Segment
	source packet.MAC // learned from it in this train
	// rule is the one that let the last datagram in by its options, nil: none did.
	rule *option.Rule

	packets, bytes uint64 // not yet among the peer's
}

// recent is what the last lookup of a sender has found, in the snapshot at hand: trains of
// one peer come together.
type recent struct {
	key  forward.Admission
	peer *forward.Peer // nil: nobody admits it
	seg  *forward.Segment
}

// find looks a sender up, unless it is that of the last lookup.
func (r *recent) find(snap *view, key *forward.Admission) (*forward.Peer, *forward.Segment) {
	if r.key != *key {
		r.key = *key
		r.peer, r.seg = snap.Admitted(key)
	}
	return r.peer, r.seg
}

// end publishes what was counted: the next datagram is admitted anew.
func (a *admitted) end(worker int, now int64) {
	if a.packets > 0 {
		t := &a.peer.Traffic[worker]
		t.RxPackets.Add(a.packets)
		t.RxBytes.Add(a.bytes)
		t.Seen.Store(now)
		if a.seg.Traffic != nil {
			t := &a.seg.Traffic[worker]
			t.RxPackets.Add(a.packets)
			t.RxBytes.Add(a.bytes)
		}
	}
	*a = admitted{}
}

// joining is the frame that is being joined of the pieces of one flow.
type joining struct {
	joiner offload.Joiner
	peer   *forward.Peer // that all pieces are from; nil: there is no frame
	seg    *forward.Segment
	head   []byte        // the GENEVE header of the first piece
	train  *packet.Train // that the last piece came in, if the next one may just follow; nil: it may not
	alike  uint64        // pieces with options that have just followed
	tagged bool          // the frame has got a VLAN tag
	pieces int           // of the train of the first piece
	device int32         // that the first piece came in by
	copied [encap.MaxHeaderLen]byte
}

// follows reports whether a datagram of t has, to the byte, the headers of the next
// piece, and joins it if so: what inbound has decided about the piece before it then holds
// for it, too. Nothing else was admitted since.
func (j *joining) follows(t *packet.Train, a *admitted, datagram []byte) bool {
	n := len(j.head)
	if t != j.train || j.peer != a.peer || j.seg != a.seg || len(datagram) < n || string(datagram[:n]) != string(j.head) || !j.joiner.Extend(datagram[n:]) {
		return false
	}
	if n > encap.HeaderLen {
		j.alike++
	}
	return true
}

// countAlike counts the options of pieces that have just followed, and the rules that they match:
// those of the first piece, to the byte.
func (j *joining) countAlike(w *worker) {
	area := encap.Options(j.head, len(j.head))
	w.options.Count(area, false, j.alike)
	if j.seg.Options != nil {
		j.seg.ByOptions(w.id, w.snap.Names, area, j.alike)
	}
	j.alike = 0
}

// end writes the frame, if there is one, to the device.
func (j *joining) end(w *worker) {
	if j.peer == nil {
		return
	}
	if j.alike > 0 {
		j.countAlike(w)
	}
	from, seg, p := j.peer, j.seg, j.peer.Port()
	j.peer, j.seg, j.head, j.train = nil, nil, nil, nil
	n := j.joiner.Count()
	w.batches.tapTransmit.Add(n)
	frame := j.joiner.Frame(&w.rest)
	if w.tap != nil {
		w.seeWritten(from, seg, frame)
	}
	switch {
	case n > 1 || w.rest.Flags&packet.VirtioNeedsCsum == 0:
	case w.snap.IsCard(j.device):
		w.rest = packet.VirtioHdr{} // it is finished: whoever takes it in has to see whether rightly
	default:
		offload.Uncut(&w.rest, frame, j.joiner.Headers(), longest(from, j.tagged), j.pieces)
		w.writeUnfinished(p, frame, j.joiner.Headers())
		return
	}
	err := p.Writers[w.id].Write(&w.rest, frame)
	switch {
	case err == nil:
	case err == unix.EINVAL && n > 1:
		// This kernel does not take what was joined.
		p.Refuse(w.rest.GSOType)
		w.rest = packet.VirtioHdr{}
		for _, piece := range j.joiner.Pieces() {
			if err := p.Writers[w.id].Write(&w.rest, piece); err != nil {
				w.undelivered(from, seg, err, 1, piece)
			}
		}
	default:
		w.undelivered(from, seg, err, n, frame)
	}
}

// socketTurn serves one receive socket.
func (w *worker) socketTurn(s *forward.Socket, i int) (did outcome) {
	first := i == 0
	trains, more, err := s.Receivers[i].Receive(w.received)
	if err != nil {
		w.pool.Owner.SocketFailed(s, err)
		return outcome{gone: true}
	}
	n := 0
	did.more = more
	for i := range trains {
		t := &trains[i]
		did.moved += len(t.Data)
		if t.Broadcast {
			// A VTEP is spoken to by its address. All sockets have a copy.
			if first {
				w.refuseTrain(s, t, count.DropBroadcast)
			}
			n += int(t.Count())
			continue
		}
		if t.Size < len(t.Data) && !w.snap.IsCard(t.Ifindex) && uncut(s, t, &w.headers) {
			t.Pieces, t.Size = t.Size, len(t.Data)
		}
		for data := t.Data; ; {
			size := min(t.Size, len(data))
			datagram := data[:size:size]
			if w.tap != nil {
				w.seeReceived(s, t, datagram)
			}
			if w.joining.follows(t, &w.admitted, datagram) {
				w.admitted.packets++
				w.admitted.bytes += uint64(len(datagram) - len(w.joining.head))
			} else if reason := w.inbound(s, t, datagram); reason != forward.Delivered {
				w.refuse(s, t.From, datagram, reason)
			}
			n++
			if data = data[size:]; len(data) == 0 {
				break
			}
		}
	}
	w.joining.end(w)
	w.admitted.end(w.id, w.now) // the trains are the receiver's again
	if n > 0 {
		w.batches.udpReceive.Add(n)
		s.Received[w.id].Add(uint64(n))
	}
	return did
}

// uncut reports whether a train is no train but one datagram, with a UDP super-frame in it.
func uncut(s *forward.Socket, t *packet.Train, h *packet.Headers) bool {
	_, protocol, length, err := s.Parse(t.Data)
	if err != nil || !isPayload(protocol) {
		return false
	}
	frame := t.Data[length:]
	packet.Walk(frame, protocol != packet.EtherTypeEthernet, h)
	return offload.UncutRun(frame, h, t.Size)
}

// inbound takes one datagram. The order of the checks is that of the
// project's ruling A-10: header, sender, VNI, inner frame, policy, ECN, and
// only then learning and delivery: what is dropped teaches nothing. w.admitted
// is by what it was admitted, nothing if it was not.
func (w *worker) inbound(s *forward.Socket, t *packet.Train, datagram []byte) count.Reason {
	vni, protocol, length, err := s.Parse(datagram)
	critical := err != nil && encap.Reason(err) == count.DropCriticalOption // which a tunnel may know
	if err != nil && !critical {
		w.admitted.end(w.id, w.now)
		reason := encap.Reason(err)
		switch {
		case reason != count.DropControl:
			return reason
		case w.probed(s, t, datagram):
			return forward.Delivered
		}
		return w.control(s, t, datagram, vni, protocol, length)
	}
	if length > encap.HeaderLen && !critical {
		w.options.Count(encap.Options(datagram, length), false, 1)
	}
	frame := datagram[length:]
	a := &w.admitted
	if a.train != t || a.vni != vni {
		a.end(w.id, w.now)
		key := s.Admission(vni, t.From)
		from, seg := w.recent.find(w.snap, &key)
		if w.snap.Reinjected(t.Ifindex, from) {
			return count.DropReinjected
		}
		if critical && from == nil {
			w.options.Count(encap.Options(datagram, length), true, 1)
			return count.DropCriticalOption
		}
		if from == nil {
			if !isPayload(protocol) {
				return count.DropBadProtocol
			}
			return w.unknownSender(key, t, datagram)
		}
		a.train, a.vni, a.peer, a.seg = t, vni, from, seg
	}
	a.rule = nil
	if critical || a.seg.Options.Concerns(w.snap.Names, length > encap.HeaderLen) {
		var reason count.Reason
		reason, a.rule = a.seg.ByOptions(w.id, w.snap.Names, encap.Options(datagram, length), 1)
		if critical {
			w.options.Count(encap.Options(datagram, length), reason == count.DropCriticalOption, 1)
		}
		if reason != forward.Delivered {
			return reason
		}
		if a.rule != nil && a.rule.Action == option.ActVNI {
			if reason, moved := w.move(s, t, protocol, datagram); !moved {
				return reason
			}
		}
	}
	if g := w.snap.Guard; g != nil && w.refuses(g, a.peer, frame) {
		return count.DropReinjected
	}
	if reason := a.seg.FromPeer(a.peer, protocol, frame, &w.headers, t.TOS, &a.source, w.now); reason != forward.Delivered {
		return reason
	}
	a.packets++
	a.bytes += uint64(len(frame))
	w.deliver(datagram, length)
	return forward.Delivered
}

// move takes a datagram over to the VNI that a rule says, as if it had come with that: its sender must
// be one that may speak there. If it is not, or not yet, reason is what inbound says.
func (w *worker) move(s *forward.Socket, t *packet.Train, protocol uint16, datagram []byte) (reason count.Reason, moved bool) {
	rule := w.admitted.rule
	key := s.Admission(packet.VNI(rule.To), t.From)
	from, seg := w.moved.find(w.snap, &key)
	switch {
	case from == nil && !isPayload(protocol):
		return count.DropBadProtocol, false
	case from == nil:
		return w.unknownSender(key, t, datagram), false
	case w.snap.Reinjected(t.Ifindex, from):
		return count.DropReinjected, false
	}
	w.admitted.end(w.id, w.now)
	w.admitted = admitted{train: t, vni: key.VNI, peer: from, seg: seg, rule: rule}
	return forward.Delivered, true
}

// refuses reports whether a frame from a peer must not be written to a device that shares
// a bridge with the underlay.
func (w *worker) refuses(g *forward.Guard, from *forward.Peer, frame []byte) bool {
	packet.Walk(frame, from.Port().L3, &w.headers)
	if g.ForUs(frame, &w.headers) {
		return true
	}
	if from.Port().L3 {
		return false
	}
	yes, fresh := from.Echoes(frame, w.now)
	if fresh {
		from.Doubtful.Store(true)
		w.pool.Owner.PathChanged()
	}
	return yes
}

func isPayload(protocol uint16) bool {
	return protocol == packet.EtherTypeEthernet || protocol == packet.EtherTypeIPv4 || protocol == packet.EtherTypeIPv6
}

// deliver gives an accepted frame to the device, together with those before
// and after it that it can be joined with. Pieces are joined only when their
// GENEVE headers are the same to the byte (RFC 8926 section 4.6).
func (w *worker) deliver(datagram []byte, headLen int) {
	j, from, seg, rule := &w.joining, w.admitted.peer, w.admitted.seg, w.admitted.rule
	head, frame := datagram[:headLen], datagram[headLen:]
	vid := seg.VID
	if rule != nil && rule.Action == option.ActVLAN {
		vid = uint16(rule.To)
	}
	same := j.peer == from && string(head) == string(j.head)
	switch {
	case same:
		head = j.head
	case vid != 0:
		head = append(j.copied[:0], head...)
	}
	if vid != 0 {
		// The tag takes the room of the last bytes of the GENEVE header, which has done its work.
		frame = forward.Tag(datagram[headLen-forward.TagLen:], vid)
		forward.Tagged(&w.headers)
	}
	if !same || !j.joiner.Add(frame, &w.headers) {
		j.end(w)
		j.peer, j.seg, j.head, j.tagged = from, seg, head, vid != 0
		j.pieces, j.device = w.admitted.train.Pieces, w.admitted.train.Ifindex
		j.joiner.Reset(packet.Offload(from.Tunnel.Offload.Load()))
		j.joiner.Add(frame, &w.headers)
	}
	// The next datagram may follow without a look if inbound has nothing to do for each of them but to
	// count: not its flood, and no rule that takes it elsewhere or is about packets without options. With
	// a tag each would only be refused.
	if vid == 0 && from.BUM.Interval == 0 && (rule == nil || rule.Action == option.ActAccept) &&
		(len(head) > encap.HeaderLen || !seg.Options.Concerns(w.snap.Names, false)) {
		j.train = w.admitted.train
	}
}

// longest is the longest frame on the device that the path to a peer carries, as long as
// the device lets it be, and with the tag that it may have.
func longest(p *forward.Peer, tagged bool) int {
	n, link := int(p.Limit.Load()), forward.EthernetLen
	if n == 0 {
		n = forward.AssumedMTU - p.Outer
	}
	if p.Port().L3 {
		link = 0
	}
	if p.Port().Mtu > 0 {
		n = min(n, p.Port().Mtu+link)
	}
	if tagged {
		n += forward.TagLen
	}
	return n
}

// writeUnfinished writes a frame whose checksum is still to be finished, with w.rest saying
// how, or a super-frame. What the device does not do is done here.
func (w *worker) writeUnfinished(p *forward.Port, frame []byte, h *packet.Headers) {
	q, hdr := p.Writers[w.id], &w.rest
	if offload.Takes(packet.Offload(p.Offload.Load()), hdr, frame, h) {
		err := q.Write(hdr, frame)
		if err == nil {
			return
		}
		if err != unix.EINVAL || hdr.GSOType == packet.GSONone {
			w.unwritten(p, err, frame)
			return
		}
		p.Refuse(hdr.GSOType)
	}
	run, size := frame, len(frame)
	if hdr.GSOType == packet.GSONone {
		offload.FinishChecksum(hdr, frame) // Unfinished found all of it inside the frame
	} else {
		pieces, err := w.cutter.Start(hdr, frame, h, nil)
		size = w.cutter.HeadLen() + int(hdr.GSOSize)
		if err != nil || !w.room(len(frame)+pieces*w.cutter.HeadLen()) {
			w.unwritten(p, unix.EINVAL, frame)
			return
		}
		run = w.cutter.Cut(w.out.free())
	}
	*hdr = packet.VirtioHdr{}
	for len(run) > 0 {
		piece := run[:min(size, len(run))]
		run = run[len(piece):]
		if err := q.Write(hdr, piece); err != nil {
			w.unwritten(p, err, piece)
		}
	}
}

// unwritten counts one frame that the device did not take.
func (w *worker) unwritten(p *forward.Port, err error, frame []byte) {
	reason := w.writeFailed(p, err, 1)
	if w.tap != nil {
		w.seeUnwritten(p, p.Segment, netip.AddrPort{}, frame, reason, 1)
	}
}

// writeFailed counts frames that the device did not take, and returns why.
func (w *worker) writeFailed(p *forward.Port, err error, frames int) count.Reason {
	reason := count.DropDeviceFull
	if err == unix.EIO || deviceGone(err) {
		reason = count.DropDeviceDown
	}
	p.Segment.Drops[w.id].Rx[reason].Add(uint64(frames))
	return reason
}
