package vtep

import (
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// The way in, from the underlay to the device:
//
//	socketTurn  receives trains of datagrams
//	inbound     validates one datagram, admits its sender, restores ECN, learns
//	deliver     joins consecutive pieces of a flow
//	flushIn     writes the (super-)frame to the device

// socketTurn serves one receive socket, and reports whether there may be more to
// receive or the socket is of no more use.
func (w *worker) socketTurn(s *socket, n int) (more, gone bool) {
	trains, more, err := s.receivers[n].Receive()
	if err != nil {
		w.ep.socketFailed(s, err)
		return false, true
	}
	n, w.moved = 0, 0
	for i := range trains {
		t := &trains[i]
		w.moved += len(t.Data)
		if t.Ifindex != 0 && w.snap.isOwn(t.Ifindex) {
			// A GENEVE packet that was carried inside the overlay: tenants
			// do not speak to us (RFC 8926 section 6.2).
			w.drops.rx[DropReinjected].Add(t.Count())
			n += int(t.Count())
			continue
		}
		for data := t.Data; ; {
			size := min(t.Size, len(data))
			if datagram := data[:size:size]; !w.extends(t, datagram) {
				if reason := w.inbound(s, t, datagram); reason != delivered {
					w.countDrop(reason)
				}
			}
			n++
			if data = data[size:]; len(data) == 0 {
				break
			}
		}
	}
	w.flushIn()
	w.leavePeer() // the trains are the receiver's again
	if n > 0 {
		w.batches.udpReceive.Add(n)
		s.received[w.id].Add(uint64(n))
	}
	return more, false
}

// extends takes the datagram if its headers are, to the byte, those of the next piece
// of the frame that is being joined: what inbound decided about the piece before it
// then holds for it, too.
func (w *worker) extends(t *packet.Train, datagram []byte) bool {
	if t != w.joinTrain || len(datagram) < geneve.HeaderLen ||
		string(datagram[:geneve.HeaderLen]) != string(w.joinHead) || !w.joiner.Extend(datagram[geneve.HeaderLen:]) {
		return false
	}
	w.rxPackets++
	w.rxBytes += uint64(len(datagram) - geneve.HeaderLen)
	return true
}

func (snap *snapshot) isOwn(ifindex int32) bool {
	for _, own := range snap.own {
		if own == ifindex {
			return true
		}
	}
	return false
}

// delivered is inbound's answer for a datagram that was not dropped.
const delivered = numReasons

// inbound takes one datagram. The order of the checks is that of the
// project's ruling A-10: header, sender, VNI, inner frame, policy, ECN, and
// only then learning and delivery: what is dropped teaches nothing. w.lastPeer
// is the peer it was admitted for, nil if it was not.
func (w *worker) inbound(s *socket, t *packet.Train, datagram []byte) Reason {
	hdr, frame, err := geneve.Parse(datagram)
	if hdr.Options != nil {
		w.options.count(hdr.Options, err == geneve.ErrCritical)
	}
	if err != nil {
		w.leavePeer()
		return headerReason(err)
	}
	from := w.lastPeer
	if from == nil || w.lastTrain != t || w.lastVNI != hdr.VNI {
		w.leavePeer()
		key := admission{vniKey{s.id, hdr.VNI}, t.From}
		var seg *segment
		if from, seg = w.snap.admitted(key); from == nil {
			if !isPayload(hdr.Protocol) {
				return DropBadProtocol
			}
			return w.stranger(key, t, datagram)
		}
		w.lastPeer, w.lastSeg, w.lastTrain, w.lastVNI, w.lastSource = from, seg, t, hdr.VNI, packet.MAC{}
	}
	p, seg, h := from.port, w.lastSeg, &w.headers
	switch hdr.Protocol {
	case geneve.ProtoEthernet:
		if p.l3 {
			return DropBadProtocol
		}
		if len(frame) < ethernetLen {
			return DropShortInner
		}
		packet.Walk(frame, false, h)
	case geneve.ProtoIPv4, geneve.ProtoIPv6:
		if !p.l3 {
			return DropBadProtocol
		}
		packet.Walk(frame, true, h)
		if h.Version == 0 {
			return DropShortInner
		}
		if (h.Version == 4) != (hdr.Protocol == geneve.ProtoIPv4) {
			return DropBadProtocol
		}
		if !seg.routedBack(frame, h, from) {
			return DropBadSource
		}
	default:
		return DropBadProtocol
	}
	var src packet.MAC
	if !p.l3 {
		dst := packet.MAC(frame[0:6])
		src = packet.MAC(frame[6:12])
		switch {
		case src.IsGroup() || src.IsZero() || src == p.mac:
			return DropBadSourceMAC
		case h.Tags > 0 && seg.vlanDrop:
			return DropVLAN
		case dst.IsGroup() && seg.reserved(dst, h):
			return DropReservedAddress
		}
	}
	if h.Version != 0 {
		ecn := ecnDecap[h.TOS&3][t.TOS&3]
		if ecn == ecnDrop {
			return DropECN
		}
		if ecn != h.TOS&3 {
			packet.SetECN(frame, h, ecn)
		}
	}
	if from.bum.interval != 0 && !p.l3 && seg.floods(p, packet.MAC(frame[0:6]), w.now) && !from.bum.allow(w.now, 1) {
		from.flooded.Add(1)
		return DropBUMLimit
	}
	if !p.l3 && src != w.lastSource && (seg.learning || seg.locked) {
		if !seg.learn(src, from, w.now) {
			return DropLocked
		}
		w.lastSource = src
	}
	if seg.neighbours != nil && neigh.Concerns(h) {
		seg.neighbours.Observe(frame, h, false, w.now)
	}
	w.rxPackets++
	w.rxBytes += uint64(len(frame))
	w.deliver(from, seg, datagram, len(datagram)-len(frame))
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
func (s *segment) learn(src packet.MAC, from *peer, now int64) bool {
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

func isPayload(protocol uint16) bool {
	return protocol == geneve.ProtoEthernet || protocol == geneve.ProtoIPv4 || protocol == geneve.ProtoIPv6
}

// headerReason names the fault that the codec found.
func headerReason(err error) Reason {
	switch err {
	case geneve.ErrVersion:
		return DropBadVersion
	case geneve.ErrControl:
		return DropControl
	case geneve.ErrOptions:
		return DropBadOptions
	case geneve.ErrCritical:
		return DropCriticalOption
	}
	return DropShort
}

// countDrop counts a datagram that was not delivered, for the tunnel if one
// admitted it.
func (w *worker) countDrop(reason Reason) {
	if w.lastPeer != nil {
		w.lastPeer.port.segment.drops[w.id].rx[reason].Add(1)
		return
	}
	w.drops.rx[reason].Add(1)
}

// leavePeer ends a row of datagrams of one peer: what was counted for it is
// added to its counters.
func (w *worker) leavePeer() {
	if w.rxPackets > 0 {
		t := &w.lastPeer.traffic[w.id]
		t.rxPackets.Add(w.rxPackets)
		t.rxBytes.Add(w.rxBytes)
		t.seen.Store(w.now)
		if w.lastSeg.traffic != nil {
			t := &w.lastSeg.traffic[w.id]
			t.rxPackets.Add(w.rxPackets)
			t.rxBytes.Add(w.rxBytes)
		}
		w.rxPackets, w.rxBytes = 0, 0
	}
	w.lastPeer, w.lastSeg, w.lastTrain, w.joinTrain = nil, nil, nil, nil
}

// deliver gives an accepted frame to the device, together with those before
// and after it that it can be joined with. Pieces are joined only when their
// GENEVE headers are the same to the byte (RFC 8926 section 4.6).
func (w *worker) deliver(from *peer, seg *segment, datagram []byte, headLen int) {
	head, frame := datagram[:headLen], datagram[headLen:]
	same := w.joinPeer == from && string(head) == string(w.joinHead)
	switch {
	case same:
		head = w.joinHead
	case seg.vid != 0:
		head = append(w.headCopy[:0], head...)
	}
	if seg.vid != 0 {
		// The tag takes the room of the last bytes of the GENEVE header, which has done its work.
		frame = tag(datagram[headLen-tagLen:], seg.vid)
		tagged(&w.headers)
	}
	if !same || !w.joiner.Add(frame, &w.headers) {
		w.flushIn()
		w.joinPeer, w.joinHead = from, head
		w.joiner.Reset(packet.Offload(from.port.offload.Load()))
		w.joiner.Add(frame, &w.headers)
	}
	// The next datagram may extend it if inbound has nothing to do for each of them:
	// count its flood. With a tag or options each would only be refused.
	if seg.vid == 0 && len(head) == geneve.HeaderLen && from.bum.interval == 0 {
		w.joinTrain = w.lastTrain
	}
}

// flushIn writes the joiner's frame.
func (w *worker) flushIn() {
	if w.joinPeer == nil {
		return
	}
	p := w.joinPeer.port
	w.joinPeer, w.joinTrain = nil, nil
	n := w.joiner.Count()
	w.batches.tapTransmit.Add(n)
	frame := w.joiner.Frame(&w.rest)
	err := p.queues[w.id].Write(&w.rest, frame)
	if err == nil {
		return
	}
	if err == unix.EINVAL && n > 1 {
		// This kernel does not take what was joined.
		p.refuse(w.rest.GSOType)
		w.rest = packet.VirtioHdr{}
		for _, piece := range w.joiner.Pieces() {
			if err := p.queues[w.id].Write(&w.rest, piece); err != nil {
				w.writeFailed(p, err, 1)
			}
		}
		return
	}
	w.writeFailed(p, err, n)
}

// refuse takes back the ability to write super-frames of a GSO type.
func (p *port) refuse(gso uint8) {
	lost := packet.OffloadUSO
	switch gso {
	case packet.GSOTCPv4:
		lost = packet.OffloadTSO4
	case packet.GSOTCPv6:
		lost = packet.OffloadTSO6
	}
	p.offload.And(^uint32(lost))
}

// writeFailed counts frames that the device did not take.
func (w *worker) writeFailed(p *port, err error, frames int) {
	reason := DropDeviceFull
	if err == unix.EIO || deviceGone(err) {
		reason = DropDeviceDown
	}
	p.segment.drops[w.id].rx[reason].Add(uint64(frames))
}
