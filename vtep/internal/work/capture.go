package work

import (
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
)

// Where packets are copied for a capture. While none runs, w.tap is nil, and a look at it is all
// that it costs. The tap is taken anew for each turn, and not kept behind it: of a capture that has
// ended nothing stays.

// SetTap begins a capture, or ends it with nil. It reports false if another one runs.
func (p *Pool) SetTap(t *capture.Tap) bool {
	if t == nil {
		p.tap.Store(nil)
		return true
	}
	return p.tap.CompareAndSwap(nil, t)
}

// seeReceived shows a datagram from the underlay, before anything is changed in it.
func (w *worker) seeReceived(s *forward.Socket, t *packet.Train, datagram []byte) {
	if !w.tap.Points.Has(capture.OuterIn) {
		return
	}
	r := capture.Record{Time: w.now, Point: capture.OuterIn, TOS: t.TOS}
	if frame, ok := w.describe(&r, s, t.From, datagram); ok {
		w.tap.Add(w.id, &r, datagram, nil, frame, &w.seen)
	}
}

// describe says what a datagram from the underlay is and about which tunnel, and returns its
// frame; false: it is not wanted.
func (w *worker) describe(r *capture.Record, s *forward.Socket, from netip.Addr, datagram []byte) (frame []byte, ok bool) {
	r.Source, r.Dest = netip.AddrPortFrom(from, 0), netip.AddrPortFrom(s.Local, s.Port)
	r.VNI, _ = s.Encap.Peek(datagram)
	_, protocol, length, err := s.Parse(datagram)
	if err == nil {
		frame, r.IP = datagram[length:], protocol != packet.EtherTypeEthernet
	}
	key := s.Admission(r.VNI, from)
	if peer, seg := w.snap.Admitted(&key); peer != nil {
		r.Dev, r.VLAN = peer.Port().Name, seg.VID
		return frame, w.tap.About(r.Dev)
	}
	return frame, w.tap.Concerns(r.VNI, from)
}

// seeWritten shows a frame from a peer as the device gets it.
func (w *worker) seeWritten(from *forward.Peer, seg *forward.Segment, frame []byte) {
	w.seeInner(&capture.Record{Point: capture.InnerIn, VNI: seg.VNI, VLAN: seg.VID, Source: from.Dest.Remote}, from.Port(), frame)
}

// seeRead shows a frame as the device gave it.
func (w *worker) seeRead(p *forward.Port, frame []byte) {
	r := capture.Record{Point: capture.InnerOut, Out: true, VNI: p.Segment.VNI}
	if p.Trunk != nil {
		if seg := p.Trunk.SegmentOf(frame); seg != nil {
			r.VNI, r.VLAN = seg.VNI, seg.VID
		}
	}
	w.seeInner(&r, p, frame)
}

func (w *worker) seeInner(r *capture.Record, p *forward.Port, frame []byte) {
	if !w.tap.Points.Has(r.Point) || !w.tap.About(p.Name) {
		return
	}
	r.Time, r.Frame, r.IP, r.Dev = w.now, true, p.L3, p.Name
	w.tap.Add(w.id, r, frame, nil, frame, &w.seen)
}

// seeSent shows the datagrams that a super-frame became, on their way to a peer.
func (w *worker) seeSent(f *outgoing, to *forward.Peer, path *packet.Path, c *cut) {
	r, ok := w.sent(f, to, path)
	for run := c.run; ok && len(run) > 0; {
		piece := run[:min(c.size, len(run))]
		run = run[len(piece):]
		w.tap.Add(w.id, &r, piece, nil, piece[c.header:], &w.seen)
	}
}

// seeSentFrame shows one whose header and frame stand apart.
func (w *worker) seeSentFrame(f *outgoing, to *forward.Peer, path *packet.Path, header []byte) {
	if r, ok := w.sent(f, to, path); ok {
		w.tap.Add(w.id, &r, header, f.bytes, f.bytes, &w.seen)
	}
}

// sent describes what is sent to a peer; false: it is not wanted.
func (w *worker) sent(f *outgoing, to *forward.Peer, path *packet.Path) (r capture.Record, ok bool) {
	if !w.tap.Points.Has(capture.OuterOut) || !w.tap.About(f.port.Name) {
		return r, false
	}
	r = capture.Record{
		Time: w.now, Point: capture.OuterOut, Out: true, IP: f.port.L3, Dev: f.port.Name, VNI: f.seg.VNI, VLAN: f.seg.VID,
		Source: netip.AddrPortFrom(path.Local, path.Set.Ports[path.Set.Index(f.hash)]), Dest: path.Remote,
	}
	if to.Dest.HasVNI {
		r.VNI = to.Dest.VNI
	}
	if f.rule != nil && f.rule.HasVNI {
		r.VNI = f.rule.VNI
	}
	r.TOS, r.TTL = f.seg.Outer(&w.headers, f.rule)
	return r, true
}

// seeRefused shows a datagram from the underlay that is dropped.
func (w *worker) seeRefused(s *forward.Socket, from netip.Addr, datagram []byte, reason count.Reason, n uint64) {
	if !w.tap.Points.Has(capture.Drops) {
		return
	}
	r := capture.Record{Time: w.now, Point: capture.Drops, Reason: reason, Count: uint32(n)}
	if frame, ok := w.describe(&r, s, from, datagram); ok {
		w.tap.Add(w.id, &r, datagram, nil, frame, &w.seen)
	}
}

// seeLost shows a frame that is dropped on its way out.
func (w *worker) seeLost(f *outgoing, reason count.Reason) {
	w.seeInner(&capture.Record{
		Point: capture.Drops, Reason: reason, Out: true, Count: uint32(f.pieces), VNI: f.seg.VNI, VLAN: f.seg.VID,
	}, f.port, f.bytes)
}

// seeUnwritten shows a frame that a device did not take; from is the peer that it came from, if known.
func (w *worker) seeUnwritten(p *forward.Port, seg *forward.Segment, from netip.AddrPort, frame []byte, reason count.Reason, n int) {
	w.seeInner(&capture.Record{
		Point: capture.Drops, Reason: reason, Count: uint32(n), VNI: seg.VNI, VLAN: seg.VID, Source: from,
	}, p, frame)
}

// seeUnsent shows that the kernel refused datagrams. Their bytes are no longer known.
func (w *worker) seeUnsent(to *forward.Peer, f *packet.Failure, reason count.Reason) {
	p := to.Port()
	if !w.tap.Points.Has(capture.Drops) || !w.tap.About(p.Name) {
		return
	}
	r := capture.Record{
		Time: w.now, Point: capture.Drops, Reason: reason, Out: true, Dev: p.Name, VNI: p.Segment.VNI, Count: uint32(f.Count),
		Source: netip.AddrPortFrom(f.Path.Local, 0), Dest: f.Path.Remote, Length: f.Size,
	}
	w.tap.Add(w.id, &r, nil, nil, nil, &w.seen)
}
