package vtep

import (
	"golang.org/x/sys/unix"

	"gvtep/internal/offload"
	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
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
	vni    geneve.VNI
	peer   *fpeer
	seg    *segment
	source packet.MAC // learned from it in this train

	packets, bytes uint64 // not yet among the peer's
}

// end publishes what was counted: the next datagram is admitted anew.
func (a *admitted) end(worker int, now int64) {
	if a.packets > 0 {
		t := &a.peer.traffic[worker]
		t.rxPackets.Add(a.packets)
		t.rxBytes.Add(a.bytes)
		t.seen.Store(now)
		if a.seg.traffic != nil {
			t := &a.seg.traffic[worker]
			t.rxPackets.Add(a.packets)
			t.rxBytes.Add(a.bytes)
		}
	}
	*a = admitted{}
}

// joining is the frame that is being joined of the pieces of one flow.
type joining struct {
	joiner offload.Joiner
	peer   *fpeer // that all pieces are from; nil: there is no frame
	seg    *segment
	head   []byte        // the GENEVE header of the first piece
	train  *packet.Train // that the last piece came in, if the next one may just follow; nil: it may not
	copied [geneve.MaxHeaderLen]byte
}

// follows reports whether a datagram of t has, to the byte, the headers of the next
// piece, and joins it if so: what inbound has decided about the piece before it then holds
// for it, too. Nothing else was admitted since.
func (j *joining) follows(t *packet.Train, a *admitted, datagram []byte) bool {
	return t == j.train && j.peer == a.peer && j.seg == a.seg && len(datagram) >= geneve.HeaderLen &&
		string(datagram[:geneve.HeaderLen]) == string(j.head) && j.joiner.Extend(datagram[geneve.HeaderLen:])
}

// end writes the frame, if there is one, to the device.
func (j *joining) end(w *worker) {
	if j.peer == nil {
		return
	}
	p := j.peer.port
	j.peer, j.seg, j.head, j.train = nil, nil, nil, nil
	n := j.joiner.Count()
	w.batches.tapTransmit.Add(n)
	frame := j.joiner.Frame(&w.rest)
	err := p.queues[w.id].Write(&w.rest, frame)
	switch {
	case err == nil:
	case err == unix.EINVAL && n > 1:
		// This kernel does not take what was joined.
		p.refuse(w.rest.GSOType)
		w.rest = packet.VirtioHdr{}
		for _, piece := range j.joiner.Pieces() {
			if err := p.queues[w.id].Write(&w.rest, piece); err != nil {
				w.writeFailed(p, err, 1)
			}
		}
	default:
		w.writeFailed(p, err, n)
	}
}

// socketTurn serves one receive socket.
func (w *worker) socketTurn(s *fsocket, i int) (did outcome) {
	first := i == 0
	trains, more, err := s.receivers[i].Receive()
	if err != nil {
		w.pool.Owner.SocketFailed(s, err)
		return outcome{gone: true}
	}
	n := 0
	did.more = more
	for i := range trains {
		t := &trains[i]
		did.moved += len(t.Data)
		if t.Ifindex != 0 && w.snap.isOwn(t.Ifindex) {
			// A GENEVE packet that was carried inside the overlay: tenants
			// do not speak to us (RFC 8926 section 6.2).
			w.drops.rx[DropReinjected].Add(t.Count())
			n += int(t.Count())
			continue
		}
		if t.Broadcast {
			// A VTEP is spoken to by its address. All sockets have a copy.
			if first {
				w.drops.rx[DropBroadcast].Add(t.Count())
			}
			n += int(t.Count())
			continue
		}
		for data := t.Data; ; {
			size := min(t.Size, len(data))
			if datagram := data[:size:size]; w.joining.follows(t, &w.admitted, datagram) {
				w.admitted.packets++
				w.admitted.bytes += uint64(len(datagram) - geneve.HeaderLen)
			} else if reason := w.inbound(s, t, datagram); reason != delivered {
				w.countDrop(reason)
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
		s.received[w.id].Add(uint64(n))
	}
	return did
}

func (snap *snapshot) isOwn(ifindex int32) bool {
	for _, own := range snap.own {
		if own == ifindex {
			return true
		}
	}
	return false
}

// inbound takes one datagram. The order of the checks is that of the
// project's ruling A-10: header, sender, VNI, inner frame, policy, ECN, and
// only then learning and delivery: what is dropped teaches nothing. w.admitted
// is by what it was admitted, nothing if it was not.
func (w *worker) inbound(s *fsocket, t *packet.Train, datagram []byte) Reason {
	hdr, frame, err := geneve.Parse(datagram)
	if hdr.Options != nil {
		w.options.count(hdr.Options, err == geneve.ErrCritical)
	}
	if err != nil {
		w.admitted.end(w.id, w.now)
		return headerReason(err)
	}
	a := &w.admitted
	if a.train != t || a.vni != hdr.VNI {
		a.end(w.id, w.now)
		key := admission{vniKey{s.id, hdr.VNI}, t.From}
		from, seg := w.snap.admitted(key)
		if from == nil {
			if !isPayload(hdr.Protocol) {
				return DropBadProtocol
			}
			return w.unknownSender(key, t, datagram)
		}
		a.train, a.vni, a.peer, a.seg = t, hdr.VNI, from, seg
	}
	if reason := a.seg.fromPeer(a.peer, hdr.Protocol, frame, &w.headers, t.TOS, &a.source, w.now); reason != delivered {
		return reason
	}
	a.packets++
	a.bytes += uint64(len(frame))
	w.deliver(datagram, len(datagram)-len(frame))
	return delivered
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
	if w.admitted.peer != nil {
		w.admitted.peer.port.segment.drops[w.id].rx[reason].Add(1)
		return
	}
	w.drops.rx[reason].Add(1)
}

// deliver gives an accepted frame to the device, together with those before
// and after it that it can be joined with. Pieces are joined only when their
// GENEVE headers are the same to the byte (RFC 8926 section 4.6).
func (w *worker) deliver(datagram []byte, headLen int) {
	j, from, seg := &w.joining, w.admitted.peer, w.admitted.seg
	head, frame := datagram[:headLen], datagram[headLen:]
	same := j.peer == from && string(head) == string(j.head)
	switch {
	case same:
		head = j.head
	case seg.vid != 0:
		head = append(j.copied[:0], head...)
	}
	if seg.vid != 0 {
		// The tag takes the room of the last bytes of the GENEVE header, which has done its work.
		frame = tag(datagram[headLen-tagLen:], seg.vid)
		tagged(&w.headers)
	}
	if !same || !j.joiner.Add(frame, &w.headers) {
		j.end(w)
		j.peer, j.seg, j.head = from, seg, head
		j.joiner.Reset(packet.Offload(from.port.offload.Load()))
		j.joiner.Add(frame, &w.headers)
	}
	// The next datagram may follow without a look if inbound has nothing to do for each of
	// them: count its flood. With a tag or options each would only be refused.
	if seg.vid == 0 && len(head) == geneve.HeaderLen && from.bum.interval == 0 {
		j.train = w.admitted.train
	}
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
