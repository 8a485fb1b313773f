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

// deviceTurn serves one queue of a port.
func (w *worker) deviceTurn(p *port, n int) (did outcome) {
	q := p.queues[n]
	used := 0
	did.more = true
	for range turnReads {
		bytes, err := q.Read(w.read[used:], &w.virtio)
		if err != nil {
			if did.more, did.gone = false, deviceGone(err); did.gone {
				w.pool.Owner.DeviceFailed(p, err)
			}
			break
		}
		w.batches.tapReceive.Add(w.outbound(p, &w.virtio, bytes))
		room := (packet.VirtioHdrLen + len(bytes) + 63) &^ 63
		if did.moved += room; did.moved >= turnBytes {
			break
		}
		// A frame that is sent as it is stays where it is until the flush; the
		// next goes behind, on a cache line of its own.
		if w.virtio.GSOType == packet.GSONone {
			used += room
		}
	}
	w.flushOut()
	return did
}

// deviceGone tells the errors after which a queue is of no more use. While a
// device is down, reads say EAGAIN and writes EIO.
func deviceGone(err error) bool {
	return err == unix.EBADFD || err == unix.EBADF || err == unix.ENODEV
}

// outgoing is a frame or super-frame on its way out. Its headers are w.headers.
type outgoing struct {
	port   *port
	seg    *segment // of a trunk: that of its VLAN
	hdr    *packet.VirtioHdr
	bytes  []byte
	pieces int
	hash   uint32
	flood  bool // it goes to each peer as a copy
	fits   int  // the widest limit of the paths that it is too big for; 0: of none
	found  bool // there was a path that it was not too big for
}

// outbound sends one frame or super-frame read from p, and returns how many pieces it is.
func (w *worker) outbound(p *port, hdr *packet.VirtioHdr, bytes []byte) (pieces int) {
	f := outgoing{port: p, seg: p.segment, hdr: hdr, bytes: bytes}
	var reason Reason
	if p.trunk != nil {
		f.seg, f.bytes, reason = p.trunk.untag(hdr, bytes)
	}
	packet.Walk(f.bytes, p.l3, &w.headers)
	f.pieces = offload.Pieces(hdr, f.bytes, &w.headers)
	if f.seg == nil {
		f.seg = p.segment
		w.lose(&f, reason)
		return f.pieces
	}
	if reason, ok := f.seg.takes(p, f.bytes, &w.headers, w.now); !ok {
		w.lose(&f, reason)
		return f.pieces
	}
	// Before anything is decided about a flood: what is answered needs none.
	if f.seg.neighbours != nil && neigh.Concerns(&w.headers) && w.answer(&f) {
		return f.pieces
	}
	peers, flood, reason := f.seg.forward(p, f.bytes, &w.headers, f.pieces, w.now)
	if len(peers) == 0 {
		w.lose(&f, reason)
		return f.pieces
	}
	f.flood = flood
	f.hash = packet.Hash(f.bytes, &w.headers, p.l3, w.pool.Seed)
	if hdr.GSOType != packet.GSONone {
		for _, to := range peers {
			w.sendSuper(&f, to)
		}
	} else if hdr.Flags&packet.VirtioNeedsCsum != 0 && offload.FinishChecksum(hdr, f.bytes) != nil {
		w.lose(&f, DropBadOffload)
	} else {
		for _, to := range peers {
			w.sendFrame(&f, to)
		}
	}
	if f.fits > 0 && !f.found {
		w.tellTooBig(&f)
	}
	return f.pieces
}

// sendFrame sends a single frame to one peer.
func (w *worker) sendFrame(f *outgoing, to *fpeer) {
	path := w.way(f, to, len(f.bytes))
	if path == nil {
		return
	}
	tos, ttl := f.seg.outer(&w.headers)
	w.sender.Add(path, f.hash, tos, ttl, w.header(f.seg, to), f.bytes)
	w.countOut(f, to, 1, len(f.bytes))
}

// sendSuper cuts a super-frame for one peer.
func (w *worker) sendSuper(f *outgoing, to *fpeer) {
	header := to.header(w.headers.Version)
	if f.seg.changes(to) {
		header = append(w.superHead[:0], header...) // of which each piece has a copy
		geneve.PutVNI(header, f.seg.vni)
	}
	pieces, err := w.cutter.Start(f.hdr, f.bytes, &w.headers, header)
	if err != nil {
		w.lose(f, DropBadOffload)
		return
	}
	inner := w.cutter.HeadLen() - len(header) // headers of each piece
	path := w.way(f, to, min(inner+int(f.hdr.GSOSize), len(f.bytes)))
	if path == nil {
		return
	}
	need := len(f.bytes) + pieces*w.cutter.HeadLen()
	if !w.room(need) {
		w.lose(f, DropBadOffload)
		return
	}
	tos, ttl := f.seg.outer(&w.headers)
	run := w.cutter.Cut(w.out.free())
	w.out.used += len(run)
	w.sender.AddRun(path, f.hash, tos, ttl, run, w.cutter.HeadLen()+int(f.hdr.GSOSize))
	w.countOut(f, to, pieces, len(f.bytes)+(pieces-1)*inner)
}

// arena is memory that is lent to the sender until the flush.
type arena struct {
	buf  []byte
	used int
}

func (a *arena) free() []byte { return a.buf[a.used:] }

// room makes room for n bytes in w.out, and reports whether there is as much at all.
func (w *worker) room(n int) bool {
	if n > len(w.out.free()) {
		w.flushOut()
	}
	return n <= len(w.out.buf)
}

// changes reports whether the header of datagrams to a peer has to get the
// segment's VNI: the peers of a trunk are those of all its segments.
func (s *segment) changes(to *fpeer) bool { return s.vid != 0 && !to.dest.hasVNI }

// header returns the header of one datagram to a peer, lent until the flush.
func (w *worker) header(seg *segment, to *fpeer) []byte {
	template := to.header(w.headers.Version)
	if !seg.changes(to) {
		return template
	}
	w.room(len(template))
	free := w.out.free()
	header := free[:copy(free, template)]
	w.out.used += len(header)
	geneve.PutVNI(header, seg.vni)
	return header
}

// way returns the path to a peer for a frame, or for pieces of a super-frame, of size
// bytes, or counts the drop and returns nil.
func (w *worker) way(f *outgoing, to *fpeer, size int) *packet.Path {
	seg, frame := f.seg, f.bytes
	limit, reason := int(to.limit.Load()), DropTooBig
	switch {
	case to.blocked.Load() || to.ownFlow(frame, &w.headers):
		reason = DropLoop
	case limit == 0:
		reason = DropNoRoute
	case size <= limit && to.path != nil && (!seg.inheritDF || dontFragment(frame, &w.headers)):
		f.found = true
		return to.path
	case to.pathFrag != nil && seg.mayCut(frame, &w.headers, size) && size <= maxDatagram-to.outer:
		f.found = true
		return to.pathFrag
	}
	if reason == DropTooBig {
		f.fits = max(f.fits, limit)
	}
	w.lose(f, reason)
	return nil
}

// mayCut reports whether outer fragments may carry a frame: if the DF policy says so, and
// if there is no other way for what everybody may send.
func (s *segment) mayCut(frame []byte, h *packet.Headers, size int) bool {
	return s.unsetDF || s.inheritDF && !dontFragment(frame, h) || size-int(h.L3) <= minIPv6
}

// tellTooBig tells the sender of a frame that was too big for every path how long its
// packets may be, in the name of their destination. Of several paths the widest counts:
// the destination of a flooded frame is behind one of them, and one narrow path is no
// reason for all flows to be slow.
func (w *worker) tellTooBig(f *outgoing) {
	fits := f.fits - int(w.headers.L3)
	switch w.headers.Version {
	case 0:
		return
	case 6:
		fits = max(fits, minIPv6) // which go in fragments
	}
	answer, ok := icmp.TooBig(f.bytes, &w.headers, fits, w.reply[tagLen:])
	if ok && f.port.tooBig.allow(w.now, 1) {
		w.giveBack(f, answer)
		f.port.toldTooBig.Add(1)
	}
}

// giveBack writes the answer to a frame, which stands tagLen bytes into w.reply, to
// the device that the frame came from.
func (w *worker) giveBack(f *outgoing, answer []byte) {
	w.rest = packet.VirtioHdr{}
	if f.seg.vid != 0 {
		answer = tag(w.reply[:tagLen+len(answer)], f.seg.vid)
	}
	if err := f.port.queues[w.id].Write(&w.rest, answer); err != nil {
		w.writeFailed(f.port, err, 1)
	}
}

// lose counts the pieces of a frame that is not sent.
func (w *worker) lose(f *outgoing, reason Reason) {
	f.seg.drops[w.id].tx[reason].Add(uint64(f.pieces))
}

// answer answers an ARP or ND request instead of its target, if that is known and behind
// a peer, and reports whether it did. A request that only the target can answer is made one
// for the target alone, which RFC 6085 allows for ND, too.
func (w *worker) answer(f *outgoing) bool {
	known := f.seg.neighbours
	known.Observe(f.bytes, &w.headers, true, w.now)
	owner, reply := known.Answer(f.bytes, &w.headers, w.now, w.reply[tagLen:])
	if owner.IsZero() {
		return false
	}
	// The target may have come over to our side without a word.
	if nh, ok := f.seg.fdb.Lookup(owner, w.now); !ok || nh == fdb.Local || f.seg.nexthopPeers(nh) == nil {
		return false
	}
	if reply == nil {
		copy(f.bytes, owner[:])
		return false
	}
	w.giveBack(f, reply)
	f.port.answered.Add(1)
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
func (s *segment) forward(p *port, frame []byte, h *packet.Headers, pieces int, now int64) (peers []*fpeer, flood bool, reason Reason) {
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
func (s *segment) floodGroup(dst packet.MAC, pieces int, now int64) (peers []*fpeer, flood bool, reason Reason) {
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
func (s *segment) floodAll(pieces int, now int64) (peers []*fpeer, flood bool, reason Reason) {
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
	tos, ttl = s.tos, s.ttl
	if s.inheritTOS {
		tos = h.TOS & 0xfc
	}
	if s.inheritTTL && h.Version != 0 && h.TTL != 0 {
		ttl = h.TTL
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
func (to *fpeer) ownFlow(frame []byte, h *packet.Headers) bool {
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

func (w *worker) countOut(f *outgoing, to *fpeer, packets, bytes int) {
	t := &to.traffic[w.id]
	if f.flood {
		t.floodPackets.Add(uint64(packets))
		t.floodBytes.Add(uint64(bytes))
	} else {
		t.txPackets.Add(uint64(packets))
		t.txBytes.Add(uint64(bytes))
	}
	if f.seg.traffic != nil {
		t := &f.seg.traffic[w.id]
		t.txPackets.Add(uint64(packets))
		t.txBytes.Add(uint64(bytes))
	}
}

// flushOut sends what the turn has gathered and counts what could not be sent.
func (w *worker) flushOut() {
	for _, f := range w.sender.Flush() {
		w.pool.sendFailed(w, f)
	}
	w.out.used = 0
}
