package offload

import (
	"encoding/binary"

	"gvtep/internal/packet"
)

// A kernel that encapsulates leaves the inner checksum to the network card (CHECKSUM_PARTIAL,
// include/linux/skbuff.h): the field holds the sum of the pseudo-header, not complemented.
// Between network cards the card finishes it. A veth and virtio hand it over as it is, and
// super-frames uncut, so a peer on the same machine sends us both.
//
// Nothing but the field tells such a frame. A frame with a finished checksum has the same
// number there in one of 65,536 cases. If that checksum is right, both readings agree: to
// finish the checksum gives the number that is there. If it is wrong, the receiver no
// longer sees that: of frames that were damaged behind the last look at a checksum, one of
// 65,536 passes, as many as the Internet checksum misses by itself. So whoever knows that
// a frame has crossed a wire does not ask. The outer checksum, where there is one, finds
// the damage first.

const (
	// leastMSS is the payload that every path carries (RFC 9293 section 3.7.1).
	leastMSS = 536
	// mostPiecesUDP is the most UDP_MAX_SEGMENTS of any kernel, which is that of the
	// sender's.
	mostPiecesUDP = 128
)

// Unfinished reports whether the checksum of a lone frame is still to be finished, with
// what Walk found in it, and fills hdr for it. Of a fragment, of a packet that is not as long as it
// says and of one whose addresses are not the last (source routes) it says no.
func Unfinished(hdr *packet.VirtioHdr, frame []byte, h *packet.Headers) bool {
	l4 := int(h.L4)
	if l4 == 0 || !whole(frame, h) {
		return false
	}
	offset := tcpCsumOffset
	switch h.Proto {
	case packet.ProtoTCP:
	case packet.ProtoUDP:
		if int(binary.BigEndian.Uint16(frame[l4+4:])) != len(frame)-l4 {
			return false
		}
		offset = udpCsumOffset
	default:
		return false
	}
	if binary.BigEndian.Uint16(frame[l4+offset:]) != packet.Fold(packet.PseudoSum(frame, h, len(frame)-l4)) {
		return false
	}
	*hdr = packet.VirtioHdr{Flags: packet.VirtioNeedsCsum, CsumStart: uint16(l4), CsumOffset: uint16(offset)}
	return true
}

// whole reports whether an IP packet is as long as it says, with nothing behind it.
func whole(frame []byte, h *packet.Headers) bool {
	ip := frame[h.L3:]
	if h.Version == 4 {
		return int(binary.BigEndian.Uint16(ip[2:])) == len(ip)
	}
	return 40+int(binary.BigEndian.Uint16(ip[4:])) == len(ip)
}

// Uncut makes hdr, which Unfinished has filled, that of a super-frame if frame is one, and
// reports whether it is. TCP is one if it is longer than longest, the frame that the path carries; its
// pieces get as long as that. Where UDP was to be cut only the kernel knows: size is the
// payload of its pieces, 0 if the kernel did not report it.
func Uncut(hdr *packet.VirtioHdr, frame []byte, h *packet.Headers, longest, size int) bool {
	off := int(h.L4) + 8
	kind := uint8(packet.GSOUDPL4)
	if h.Proto == packet.ProtoTCP {
		if len(frame) <= longest {
			return false
		}
		off = int(h.L4) + int(frame[h.L4+12]>>4)*4
		size = max(longest-off, leastMSS)
		if kind = packet.GSOTCPv4; h.Version == 6 {
			kind = packet.GSOTCPv6
		}
	}
	if size <= 0 || len(frame)-off <= size {
		return false
	}
	hdr.GSOType, hdr.GSOSize, hdr.HdrLen = kind, uint16(size), uint16(off)
	return true
}

// UncutRun reports whether the first frame of a train is no frame with others behind it, but a
// UDP super-frame that takes up all of the train. The kernel says of both alike how long
// the pieces are (UDP_GRO). all begins with that frame and h is what Walk found in it.
func UncutRun(all []byte, h *packet.Headers, size int) bool {
	var hdr packet.VirtioHdr
	return h.Proto == packet.ProtoUDP && Unfinished(&hdr, all, h) && Uncut(&hdr, all, h, 0, size) &&
		Pieces(&packet.VirtioHdr{GSOType: packet.GSOUDPL4, GSOSize: uint16(size)}, all, h) <= mostPiecesUDP
}

// Takes reports whether a device with some abilities takes a frame with the header.
func Takes(ability packet.Offload, hdr *packet.VirtioHdr, frame []byte, h *packet.Headers) bool {
	if !ability.Has(packet.OffloadCsum | packet.OffloadFor(hdr.GSOType)) {
		return false
	}
	return hdr.GSOType != packet.GSOUDPL4 || Pieces(hdr, frame, h) <= maxPiecesUDP
}
