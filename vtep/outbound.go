package vtep

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/icmp"
	"gvtep/internal/neigh"
	"gvtep/internal/offload"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// The way out, from the device to the underlay:
//
//	deviceTurn  reads frames and super-frames until the budget is spent
//	outbound    walks the inner headers once, asks segment.forward where to
//	send        checks the size against the path, cuts, hands to the sender
//	flushOut    sends all runs of the turn

// deviceTurn serves one queue of a port, and reports whether there may be more to
// read or the device is gone.
func (w *worker) deviceTurn(p *port, n int) (more, gone bool) {
	q := p.queues[n]
	used := 0
	w.moved, more = 0, true
	for range turnReads {
		frame, err := q.Read(w.read[used:], &w.virtio)
		if err != nil {
			if more, gone = false, deviceGone(err); gone {
				w.ep.deviceFailed(p, err)
			}
			break
		}
		w.outbound(p, &w.virtio, frame)
		w.batches.tapReceive.Add(w.pieces)
		room := (packet.VirtioHdrLen + len(frame) + 63) &^ 63
		if w.moved += room; w.moved >= turnBytes {
			break
		}
		// A frame that is sent as it is stays where it is until the flush; the
		// next goes behind, on a cache line of its own.
		if w.virtio.GSOType == packet.GSONone {
			used += room
		}
	}
	w.flushOut()
	return more, gone
}

// deviceGone tells the errors after which a queue is of no more use. While a
// device is down, reads say EAGAIN and writes EIO.
func deviceGone(err error) bool {
	return err == unix.EBADFD || err == unix.EBADF || err == unix.ENODEV
}

// outbound sends one frame or super-frame read from p.
func (w *worker) outbound(p *port, hdr *packet.VirtioHdr, frame []byte) {
	seg := p.segment
	if p.trunk != nil {
		var reason Reason
		if seg, frame, reason = p.trunk.untag(hdr, frame); seg == nil {
			w.look(p, hdr, frame)
			w.lose(p.segment, reason)
			return
		}
	}
	w.look(p, hdr, frame)
	if reason, ok := seg.takes(p, frame, &w.headers, w.now); !ok {
		w.lose(seg, reason)
		return
	}
	// Before anything is decided about a flood: what is answered needs none.
	if seg.neighbours != nil && neigh.Concerns(&w.headers) && w.answer(p, seg, frame) {
		return
	}
	peers, flood, reason := seg.forward(p, frame, &w.headers, w.pieces, w.now)
	if len(peers) == 0 {
		w.lose(seg, reason)
		return
	}
	hash := packet.Hash(frame, &w.headers, p.l3, w.ep.seed)
	w.narrowest = 0
	if hdr.GSOType == packet.GSONone {
		if hdr.Flags&packet.VirtioNeedsCsum != 0 && offload.FinishChecksum(hdr, frame) != nil {
			w.lose(seg, DropBadOffload)
			return
		}
		for _, to := range peers {
			if path := w.way(seg, to, frame, len(frame)); path != nil {
				tos, ttl := seg.outer(&w.headers)
				w.sender.Add(path, hash, tos, ttl, w.header(seg, to), frame)
				w.countOut(seg, to, 1, len(frame), flood)
			}
		}
	} else {
		for _, to := range peers {
			w.sendSuper(seg, to, hdr, frame, hash, flood)
		}
	}
	if w.narrowest > 0 {
		w.tellTooBig(p, seg, frame)
	}
}

// sendSuper cuts a super-frame for one peer.
func (w *worker) sendSuper(seg *segment, to *peer, hdr *packet.VirtioHdr, frame []byte, hash uint32, flood bool) {
	header := to.header(w.headers.Version)
	if seg.changes(to) {
		header = append(w.superHead[:0], header...) // of which each piece has a copy
		geneve.PutVNI(header, seg.vni)
	}
	pieces, err := w.cutter.Start(hdr, frame, &w.headers, header)
	if err != nil {
		w.lose(seg, DropBadOffload)
		return
	}
	inner := w.cutter.HeadLen() - len(header) // headers of each piece
	path := w.way(seg, to, frame, min(inner+int(hdr.GSOSize), len(frame)))
	if path == nil {
		return
	}
	if need := len(frame) + pieces*w.cutter.HeadLen(); need > len(w.out)-w.outLen {
		w.flushOut()
		if need > len(w.out) {
			w.lose(seg, DropBadOffload)
			return
		}
	}
	tos, ttl := seg.outer(&w.headers)
	run := w.cutter.Cut(w.out[w.outLen:])
	w.outLen += len(run)
	w.sender.AddRun(path, hash, tos, ttl, run, w.cutter.HeadLen()+int(hdr.GSOSize))
	w.countOut(seg, to, pieces, len(frame)+(pieces-1)*inner, flood)
}

// changes reports whether the header of datagrams to a peer has to get the
// segment's VNI: the peers of a trunk are those of all its segments.
func (s *segment) changes(to *peer) bool { return s.vid != 0 && !to.dest.hasVNI }

// header returns the header of one datagram to a peer, lent until the flush.
func (w *worker) header(seg *segment, to *peer) []byte {
	template := to.header(w.headers.Version)
	if !seg.changes(to) {
		return template
	}
	if len(template) > len(w.out)-w.outLen {
		w.flushOut()
	}
	header := w.out[w.outLen:][:copy(w.out[w.outLen:], template)]
	w.outLen += len(header)
	geneve.PutVNI(header, seg.vni)
	return header
}

// way returns the path to a peer for a frame, or for pieces of a super-frame, of size
// bytes, or counts the drop and returns nil.
func (w *worker) way(seg *segment, to *peer, frame []byte, size int) *packet.Path {
	limit, reason := int(to.limit.Load()), DropTooBig
	switch {
	case to.blocked.Load() || to.ownFlow(frame, &w.headers):
		reason = DropLoop
	case limit == 0:
		reason = DropNoRoute
	case size <= limit && to.path != nil && (seg.df != DFInherit || dontFragment(frame, &w.headers)):
		return to.path
	case to.pathFrag != nil && (seg.df != DFInherit || !dontFragment(frame, &w.headers)) && size <= maxDatagram-to.outer:
		return to.pathFrag
	}
	if reason == DropTooBig && (w.narrowest == 0 || limit < w.narrowest) {
		w.narrowest = limit
	}
	w.lose(seg, reason)
	return nil
}

// tellTooBig tells the sender of a frame that was too big for a path how long its
// packets may be, in the name of their destination.
func (w *worker) tellTooBig(p *port, seg *segment, frame []byte) {
	if w.headers.Version == 0 {
		return
	}
	answer, ok := icmp.TooBig(frame, &w.headers, w.narrowest-int(w.headers.L3), w.reply[tagLen:])
	if ok && p.tooBig.allow(w.now, 1) {
		w.giveBack(p, seg, answer)
		p.toldTooBig.Add(1)
	}
}

// giveBack writes a frame that stands tagLen bytes into w.reply to the device.
func (w *worker) giveBack(p *port, seg *segment, frame []byte) {
	w.rest = packet.VirtioHdr{}
	if seg.vid != 0 {
		frame = tag(w.reply[:tagLen+len(frame)], seg.vid)
	}
	if err := p.queues[w.id].Write(&w.rest, frame); err != nil {
		w.writeFailed(p, err, 1)
	}
}

// look finds the headers of a frame from the device, and how many pieces it is.
func (w *worker) look(p *port, hdr *packet.VirtioHdr, frame []byte) {
	packet.Walk(frame, p.l3, &w.headers)
	w.pieces = offload.Pieces(hdr, frame, &w.headers)
}

// lose counts the pieces of a frame that is not sent.
func (w *worker) lose(seg *segment, reason Reason) {
	seg.drops[w.id].tx[reason].Add(uint64(w.pieces))
}

// answer answers an ARP or ND request instead of its target, if that is known and behind
// a peer, and reports whether it did. A request that only the target can answer is made one
// for the target alone, which RFC 6085 allows for ND, too.
func (w *worker) answer(p *port, seg *segment, frame []byte) bool {
	seg.neighbours.Observe(frame, &w.headers, true, w.now)
	owner, reply := seg.neighbours.Answer(frame, &w.headers, w.now, w.reply[tagLen:])
	if owner.IsZero() {
		return false
	}
	// The target may have come over to our side without a word.
	if nh, ok := seg.fdb.Lookup(owner, w.now); !ok || nh == fdb.Local || seg.nexthopPeers(nh) == nil {
		return false
	}
	if reply == nil {
		copy(frame, owner[:])
		return false
	}
	w.giveBack(p, seg, reply)
	p.answered.Add(1)
	return true
}

// maxDatagram is the longest IPv4 packet, and safe for IPv6.
const maxDatagram = 65535

// takes reports whether a frame from the device is one that may go anywhere, and learns
// where its sender is. If it is not, reason says why.
func (s *segment) takes(p *port, frame []byte, h *packet.Headers, now int64) (reason Reason, ok bool) {
	if p.l3 {
		return DropShortInner, h.Version != 0
	}
	if len(frame) < ethernetLen {
		return DropShortInner, false
	}
	if h.Tags > 0 && s.vlanDrop {
		return DropVLAN, false
	}
	dst, src := packet.MAC(frame[0:6]), packet.MAC(frame[6:12])
	if src.IsGroup() || src.IsZero() {
		return DropBadSourceMAC, false
	}
	// An address that speaks on our side is no longer behind a peer. Our own
	// is never learned.
	if s.learning && src != p.mac && s.fdb.Learn(src, fdb.Local, now) == fdb.Pinned {
		return DropLocked, false
	}
	if dst.IsGroup() && s.reserved(dst, h) {
		return DropReservedAddress, false
	}
	return 0, true
}

// forward decides where a frame of so many pieces from the device goes: to the peers returned,
// as copies of a flooded frame or not. With no peers, reason says why.
func (s *segment) forward(p *port, frame []byte, h *packet.Headers, pieces int, now int64) (peers []*peer, flood bool, reason Reason) {
	if p.l3 {
		return s.route(frame, h), false, DropNoPeer
	}
	dst := packet.MAC(frame[0:6])
	if dst.IsGroup() {
		return s.floodGroup(dst, pieces, now)
	}
	if nh, ok := s.fdb.Lookup(dst, now); ok {
		if nh == fdb.Local {
			return nil, false, DropLoop
		}
		if peers := s.nexthopPeers(nh); peers != nil {
			return peers, false, 0
		}
	}
	if s.noFlood {
		return nil, false, DropFloodOff
	}
	return s.floodAll(pieces, now)
}

// floodGroup decides about a frame to a group address.
func (s *segment) floodGroup(dst packet.MAC, pieces int, now int64) (peers []*peer, flood bool, reason Reason) {
	if s.groups {
		if nh, ok := s.fdb.Lookup(dst, now); ok {
			return s.nexthopPeers(nh), true, DropLoop
		}
	}
	if broadcast := dst == (packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); broadcast && s.noBcastFlood || !broadcast && s.noMcastFlood {
		return nil, false, DropFloodOff
	}
	return s.floodAll(pieces, now)
}

// floodAll sends to the flood list, as long as the limit allows it.
func (s *segment) floodAll(pieces int, now int64) (peers []*peer, flood bool, reason Reason) {
	if !s.bum.allow(now, pieces) {
		return nil, false, DropBUMLimit
	}
	return s.flood, true, DropNoFDBEntry
}

const (
	ethernetLen = 14
	flowControl = 0x8808 // EtherType of PAUSE (IEEE 802.3 annex 31B)
)

// reserved reports whether a frame to a group address must not be carried:
// 802.1Q table 8-1 unless the tunnel passes them, and PAUSE always, which
// would stop a link that it never was on.
func (s *segment) reserved(dst packet.MAC, h *packet.Headers) bool {
	return dst.IsReserved() && (!s.l2ControlPass || dst[5] == 1 || h.EtherType == flowControl)
}

// outer returns the outer TOS and TTL for a frame: DSCP and TTL by policy,
// ECN always the inner packet's (RFC 6040 section 4.1), 0 without one (RFC
// 9601 section 4).
func (s *segment) outer(h *packet.Headers) (tos, ttl uint8) {
	tos, ttl = uint8(s.tos)&0xfc, uint8(s.ttl)
	if s.tos == Inherit {
		tos = h.TOS & 0xfc
	}
	if s.ttl == Inherit {
		ttl = DefaultTTL
		if h.Version != 0 && h.TTL != 0 {
			ttl = h.TTL
		}
	}
	return tos | h.TOS&3, ttl
}

// dontFragment is what `df inherit` looks at. Inner IPv6 counts as set.
func dontFragment(frame []byte, h *packet.Headers) bool {
	return h.Version == 6 || h.Version == 4 && frame[h.L3+6]&0x40 != 0
}

// ownFlow reports whether an inner packet is one of our own datagrams to this
// peer that was routed into the tunnel. Sending it would wrap it for ever;
// the route watcher finds such a route too, but a moment later.
func (to *peer) ownFlow(frame []byte, h *packet.Headers) bool {
	if h.Proto != unix.IPPROTO_UDP || h.L4 == 0 {
		return false
	}
	ports := frame[h.L4:]
	if binary.BigEndian.Uint16(ports[2:]) != to.remotePort {
		return false
	}
	ip := frame[h.L3:]
	if h.Version == 4 && string(ip[16:20]) != to.remoteBytes || h.Version == 6 && string(ip[24:40]) != to.remoteBytes {
		return false
	}
	source := binary.BigEndian.Uint16(ports)
	for _, path := range []*packet.Path{to.path, to.pathFrag} {
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

func (w *worker) countOut(seg *segment, to *peer, packets, bytes int, flood bool) {
	t := &to.traffic[w.id]
	if flood {
		t.floodPackets.Add(uint64(packets))
		t.floodBytes.Add(uint64(bytes))
	} else {
		t.txPackets.Add(uint64(packets))
		t.txBytes.Add(uint64(bytes))
	}
	if seg.traffic != nil {
		t := &seg.traffic[w.id]
		t.txPackets.Add(uint64(packets))
		t.txBytes.Add(uint64(bytes))
	}
}

// flushOut sends what the turn has gathered and counts what could not be sent.
func (w *worker) flushOut() {
	for _, f := range w.sender.Flush() {
		w.ep.sendFailed(w, f)
	}
	w.outLen = 0
}
