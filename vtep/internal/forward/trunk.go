package forward

import (
	"encoding/binary"
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

const (
	TagLen  = 4      // of an 802.1Q tag
	vidMask = 0x0fff // of its second half; the rest is priority and DEI
)

// Trunk finds the segments of a trunk's VLANs.
type Trunk struct {
	Vlans []Segment
	ByVID [vidMask + 1]*Segment // the first is that of frames without a tag, if there is one
	ByVNI map[packet.VNI]*Segment
}

// Of is the segment of a VLAN with a VNI, nil: none. A tunnel whose last VLAN has gone is a trunk
// no more, which workers with an older snapshot may see.
func (tr *Trunk) Of(vni packet.VNI) *Segment {
	if tr == nil {
		return nil
	}
	return tr.ByVNI[vni]
}

// SegmentOf is the segment of a frame as the device gives it, nil: none.
func (tr *Trunk) SegmentOf(frame []byte) *Segment {
	if len(frame) < EthernetLen+TagLen || binary.BigEndian.Uint16(frame[12:]) != packet.EtherTypeVLAN {
		return tr.ByVID[0]
	}
	return tr.ByVID[binary.BigEndian.Uint16(frame[14:])&vidMask]
}

// Untag finds the segment of a frame from the device and takes off the tag
// that says so. Without a segment, reason says why.
//
// A tag without an ID is only a priority (802.1Q section 6.9.1 has such frames
// treated like those without a tag). A service tag is none of ours.
func (tr *Trunk) Untag(hdr *packet.VirtioHdr, frame []byte) (seg *Segment, rest []byte, reason count.Reason) {
	if len(frame) < EthernetLen {
		return nil, frame, count.DropShortInner
	}
	if binary.BigEndian.Uint16(frame[12:]) != packet.EtherTypeVLAN {
		return tr.ByVID[0], frame, count.DropUntagged
	}
	if len(frame) < EthernetLen+TagLen {
		return nil, frame, count.DropShortInner
	}
	vid := binary.BigEndian.Uint16(frame[14:]) & vidMask
	copy(frame[TagLen:], frame[:12])
	if hdr.Flags&packet.VirtioNeedsCsum != 0 {
		hdr.CsumStart -= TagLen
	}
	reason = count.DropUnknownVLAN
	if vid == 0 {
		reason = count.DropUntagged
	}
	return tr.ByVID[vid], frame[TagLen:], reason
}

// Tag puts a tag into a frame that begins tagLen bytes into b, and returns it.
// Its priority is the least, 0.
func Tag(b []byte, vid uint16) []byte {
	copy(b[:12], b[TagLen:])
	binary.BigEndian.PutUint16(b[12:], packet.EtherTypeVLAN)
	binary.BigEndian.PutUint16(b[14:], vid)
	return b
}

// Tagged is what tag does to what Walk found in a frame.
func Tagged(h *packet.Headers) {
	h.Tags++
	if h.Version != 0 {
		h.L3 += TagLen
		h.End = uint16(min(int(h.End)+TagLen, 65535))
	}
	if h.L4 != 0 {
		h.L4 += TagLen
	}
}

// Source is where a datagram came from: a trunk admits it for any of its VNIs.
type Source struct {
	Socket uint32 // socket.id
	Addr   netip.Addr
}
