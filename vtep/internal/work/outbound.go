package work

import (
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/icmp"
	"gvtep/internal/neigh"
	"gvtep/internal/offload"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
)

// The way out, from the device to the underlay:
//
//	deviceTurn  reads frames and super-frames until the budget is spent
//	outbound    walks the inner headers once, asks segment.forward where to
//	send        checks the size against the path, cuts, hands to the sender
//	flushOut    sends all runs of the turn

// deviceTurn serves one queue of a port.
func (w *worker) deviceTurn(p *forward.Port, n int) (did outcome) {
	q := p.Queues[n]
	used := 0
	did.more = true
	for range TurnReads {
		bytes, err := q.Read(w.read[used:], &w.virtio)
		if err != nil {
			if did.more, did.gone = false, deviceGone(err); did.gone {
				w.pool.Owner.DeviceFailed(p, err)
			}
			break
		}
		w.batches.tapReceive.Add(w.outbound(p, &w.virtio, bytes))
		room := (packet.VirtioHdrLen + len(bytes) + 63) &^ 63
		if did.moved += room; did.moved >= TurnBytes {
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

// deviceGone reports whether an error means that a queue is of no more use. While a
// device is down, reads say EAGAIN and writes EIO.
func deviceGone(err error) bool {
	return err == unix.EBADFD || err == unix.EBADF || err == unix.ENODEV
}

// outgoing is a frame or super-frame on its way out. Its headers are w.headers.
type outgoing struct {
	port   *forward.Port
	seg    *forward.Segment // of a trunk: that of its VLAN
	hdr    *packet.VirtioHdr
	bytes  []byte
	pieces int
	hash   uint32
	flood  bool              // it goes to each peer as a copy
	rule   *forward.SendRule // for what is sent; nil: none
	fits   int               // the widest limit of the paths that it is too big for; 0: of none
	found  bool              // there was a path that it was not too big for
	cut    cut               // what was made of a super-frame for the last peer
}

// outbound sends one frame or super-frame read from p, and returns how many pieces it is.
func (w *worker) outbound(p *forward.Port, hdr *packet.VirtioHdr, bytes []byte) (pieces int) {
	f := outgoing{port: p, seg: p.Segment, hdr: hdr, bytes: bytes}
	if w.tap != nil {
		w.seeRead(p, bytes)
	}
	var reason count.Reason
	if p.Trunk != nil {
		f.seg, f.bytes, reason = p.Trunk.Untag(hdr, bytes)
	}
	packet.Walk(f.bytes, p.L3, &w.headers)
	f.pieces = offload.Pieces(hdr, f.bytes, &w.headers)
	if f.seg == nil {
		f.seg = p.Segment
		w.lose(&f, reason)
		return f.pieces
	}
	if g := w.snap.Guard; g != nil && g.Ours(f.bytes, &w.headers) {
		w.lose(&f, count.DropLoop)
		return f.pieces
	}
	if reason, ok := f.seg.Takes(p, f.bytes, &w.headers, w.now); !ok {
		w.lose(&f, reason)
		return f.pieces
	}
	// Before anything is decided about a flood: what is answered needs none.
	if f.seg.Neighbours != nil && neigh.Concerns(&w.headers) && w.answer(&f) {
		return f.pieces
	}
	peers, flood, reason := f.seg.Forward(p, f.bytes, &w.headers, f.pieces, w.now)
	if len(peers) == 0 {
		w.lose(&f, reason)
		return f.pieces
	}
	f.flood = flood
	if f.seg.Send != nil {
		f.rule = f.seg.SendRule(w.id, f.bytes, &w.headers, f.pieces)
	}
	f.hash = packet.Hash(f.bytes, &w.headers, p.L3, w.pool.Seed)
	if flood && allDead(peers) {
		w.lose(&f, count.DropPeerDown)
		return f.pieces
	}
	if hdr.GSOType != packet.GSONone {
		for _, to := range peers {
			if !to.Dead() {
				w.sendSuper(&f, to)
			}
		}
	} else if hdr.Flags&packet.VirtioNeedsCsum != 0 && offload.FinishChecksum(hdr, f.bytes) != nil {
		w.lose(&f, count.DropBadOffload)
	} else {
		for _, to := range peers {
			if !to.Dead() {
				w.sendFrame(&f, to)
			}
		}
	}
	if f.fits > 0 && !f.found {
		w.tellTooBig(&f)
	}
	return f.pieces
}

// allDead reports whether nobody is left on a flood list.
func allDead(peers []*forward.Peer) bool {
	for _, p := range peers {
		if !p.Dead() {
			return false
		}
	}
	return true
}

// sendFrame sends a single frame to one peer.
func (w *worker) sendFrame(f *outgoing, to *forward.Peer) {
	path := w.way(f, to, len(f.bytes))
	if path == nil {
		return
	}
	tos, ttl := f.seg.Outer(&w.headers, f.rule)
	header := w.header(f, to)
	w.sender.Add(path, f.hash, tos, ttl, header, f.bytes)
	if w.tap != nil {
		w.seeSentFrame(f, to, path, header)
	}
	w.countOut(f, to, 1, len(f.bytes))
}

// cut are the pieces of a super-frame behind the header of one peer. To cut them is to copy the payload and to
// sum it up. Other peers of a flood whose header is the same to the byte get the same pieces, which are lent to the
// sender once more.
type cut struct {
	run    []byte // nil: nothing is cut yet
	header int    // length of what is before the inner frame in each piece
	inner  int    // length of the inner headers of each piece
	pieces int
	size   int // of a whole piece
}

// with reports whether the pieces are behind a header.
func (c *cut) with(header []byte) bool {
	return c.run != nil && len(header) == c.header && string(header) == string(c.run[:c.header])
}

// sendSuper sends a super-frame to one peer, in pieces.
func (w *worker) sendSuper(f *outgoing, to *forward.Peer) {
	header, slots, vni, put := f.seg.Header(to, f.rule, w.headers.Version)
	if put || slots != nil {
		header = append(w.superHead[:0], header...) // of which each piece has a copy
		w.fill(header, f, slots, vni, put)
	}
	c := f.cut
	same := c.with(header)
	if !same {
		pieces, err := w.cutter.Start(f.hdr, f.bytes, &w.headers, header)
		if err != nil {
			w.lose(f, count.DropBadOffload)
			return
		}
		c = cut{header: len(header), inner: w.cutter.HeadLen() - len(header), pieces: pieces, size: w.cutter.HeadLen() + int(f.hdr.GSOSize)}
	}
	path := w.way(f, to, min(c.inner+int(f.hdr.GSOSize), len(f.bytes)))
	if path == nil {
		return
	}
	if !same {
		if !w.room(len(f.bytes) + c.pieces*w.cutter.HeadLen()) {
			w.lose(f, count.DropBadOffload)
			return
		}
		c.run = w.cutter.Cut(w.out.free())
		w.out.used += len(c.run)
		f.cut = c
	}
	tos, ttl := f.seg.Outer(&w.headers, f.rule)
	w.sender.AddRun(path, f.hash, tos, ttl, c.run, c.size)
	if w.tap != nil {
		w.seeSent(f, to, path, &c)
	}
	w.countOut(f, to, c.pieces, len(f.bytes)+(c.pieces-1)*c.inner)
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

// header returns the header of one datagram to a peer, lent until the flush.
func (w *worker) header(f *outgoing, to *forward.Peer) []byte {
	template, slots, vni, put := f.seg.Header(to, f.rule, w.headers.Version)
	if !put && slots == nil {
		return template
	}
	w.room(len(template))
	free := w.out.free()
	header := free[:copy(free, template)]
	w.out.used += len(header)
	w.fill(header, f, slots, vni, put)
	return header
}

// fill writes into the copy of a template what is not the same for all frames to a peer.
func (w *worker) fill(header []byte, f *outgoing, slots []option.Slot, vni packet.VNI, put bool) {
	if put {
		encap.PutVNI(header, vni)
	}
	if slots != nil {
		option.Fill(header, slots, f.bytes, &w.headers, f.seg.VID)
	}
}

// way returns the path to a peer for a frame, or for pieces of a super-frame, of size
// bytes, or counts the drop and returns nil.
func (w *worker) way(f *outgoing, to *forward.Peer, size int) *packet.Path {
	seg, frame := f.seg, f.bytes
	limit, reason := int(to.Limit.Load()), count.DropTooBig
	switch {
	case to.Blocked.Load() || to.OwnFlow(frame, &w.headers):
		reason = count.DropLoop
	case limit == 0:
		reason = count.DropNoRoute
	case size <= limit && to.Path != nil && (!seg.Fragments || forward.DontFragment(frame, &w.headers)):
		f.found = true
		return to.Path
	case to.PathFrag != nil && (size <= limit || seg.MayCut(frame, &w.headers, size)) && size <= maxDatagram-to.Outer:
		f.found = true
		return to.PathFrag
	}
	if reason == count.DropTooBig {
		f.fits = max(f.fits, limit)
	}
	w.lose(f, reason)
	return nil
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
		fits = max(fits, forward.MinIPv6) // which go in fragments
	}
	answer, ok := icmp.TooBig(f.bytes, &w.headers, fits, w.reply[forward.TagLen:])
	if ok && f.port.TooBig.Allow(w.now, 1) {
		w.giveBack(f, answer)
		f.port.TooBigSent.Add(1)
	}
}

// giveBack writes the answer to a frame, which stands tagLen bytes into w.reply, to
// the device that the frame came from.
func (w *worker) giveBack(f *outgoing, answer []byte) {
	w.rest = packet.VirtioHdr{}
	if f.seg.VID != 0 {
		answer = forward.Tag(w.reply[:forward.TagLen+len(answer)], f.seg.VID)
	}
	if err := f.port.Writers[w.id].Write(&w.rest, answer); err != nil {
		w.unwritten(f.port, err, answer)
	}
}

// lose counts the pieces of a frame that is not sent.
func (w *worker) lose(f *outgoing, reason count.Reason) {
	f.seg.Drops[w.id].Tx[reason].Add(uint64(f.pieces))
	if w.tap != nil {
		w.seeLost(f, reason)
	}
}

// answer answers an ARP or ND request instead of its target, if that is known and behind
// a peer, and reports whether it did. A request that only the target can answer is made one
// for the target alone, which RFC 6085 allows for ND, too.
func (w *worker) answer(f *outgoing) bool {
	known := f.seg.Neighbours
	known.Observe(f.bytes, &w.headers, true, w.now)
	owner, reply := known.Answer(f.bytes, &w.headers, w.now, w.reply[forward.TagLen:])
	if owner.IsZero() {
		return false
	}
	// The target may have come over to our side without a word.
	if nh, ok := f.seg.FDB.Lookup(owner, w.now); !ok || nh == fdb.Local || allDead(f.seg.NexthopPeers(nh)) {
		return false
	}
	if reply == nil {
		copy(f.bytes, owner[:])
		return false
	}
	w.giveBack(f, reply)
	f.port.Answered.Add(1)
	return true
}

// maxDatagram is the longest IPv4 packet, and safe for IPv6.
const maxDatagram = 65535

func (w *worker) countOut(f *outgoing, to *forward.Peer, packets, bytes int) {
	t := &to.Traffic[w.id]
	if f.flood {
		t.FloodPackets.Add(uint64(packets))
		t.FloodBytes.Add(uint64(bytes))
	} else {
		t.TxPackets.Add(uint64(packets))
		t.TxBytes.Add(uint64(bytes))
	}
	if f.seg.Traffic != nil {
		t := &f.seg.Traffic[w.id]
		t.TxPackets.Add(uint64(packets))
		t.TxBytes.Add(uint64(bytes))
	}
}

// flushOut sends what the turn has gathered and counts what could not be sent.
func (w *worker) flushOut() {
	for _, f := range w.sender.Flush() {
		w.pool.sendFailed(w, f)
	}
	w.out.used = 0
}
