// Package offload does in software what a network card's segmentation and
// receive offloads do: it cuts a super-frame into wire-sized pieces (Cutter),
// joins consecutive pieces of a flow into a super-frame (Joiner), and finishes
// a checksum that the stack left open (FinishChecksum). Cutting what was joined
// gives back the joined pieces byte for byte.
//
// Nothing here allocates in a steady state, keeps a payload or knows a tunnel.
package offload

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"gvtep/internal/packet"
)

// Flags of the TCP header, its byte 13.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

// Where the checksum is in a transport header.
const (
	tcpCsumOffset = 16
	udpCsumOffset = 6
)

// What is wrong with a frame that the device handed out as unfinished. The
// frame is to be dropped and counted.
var (
	errGSOType   = errors.New("super-frame of a type that was not offered: neither TCPv4, TCPv6 nor UDP_L4")
	errGSOSize   = errors.New("super-frame with a segment size of 0")
	errGSOCsum   = errors.New("super-frame without NEEDS_CSUM")
	errGSOProto  = errors.New("super-frame whose type does not fit its IP version and protocol")
	errGSOOffset = errors.New("super-frame whose checksum offsets are not those of its transport header")
	errGSOLength = errors.New("super-frame whose IP or UDP length is not that of the frame")
	errGSOEmpty  = errors.New("super-frame without payload")
	errCsumGSO   = errors.New("super-frame to be cut, not to be finished")
	errCsumRange = errors.New("checksum to be finished outside the frame")
)

// Cutter cuts one super-frame after the other into pieces: Start, then Cut. The
// zero value is ready.
//
// The cut is that of the kernel (tcp_offload.c, udp_offload.c): like it, the
// checksum of a piece starts from the partial one in the super-frame's
// transport header and not from its addresses, which for a packet under way by
// source route would be the wrong ones. A wrong partial sum so gives wrong pieces,
// which the receiver drops, and never hides what came in broken.
type Cutter struct {
	frame, encap []byte

	l3, l4, off int // IP header, transport header, payload
	size        int // payload of a piece
	ipv4, tcp   bool

	id     uint16 // of the first piece
	seq    uint32 // of the first piece
	flags  uint8  // TCP flags of the pieces in the middle, and CWR, which only the first has
	last   uint8  // TCP flags that only the last piece has
	offset uint8  // byte 12 of the TCP header, which shares a word with the flags
	ipSum  uint64 // IPv4 header without length, ID and checksum
	l4Sum  uint64 // pseudo-header and transport header without all that differs
}

// Start takes up a super-frame as it was read: hdr as the device gave it, h as
// Walk found it in frame. encap goes in front of every piece. frame and encap are
// lent until the end of Cut, and not written to. It returns the number of pieces,
// at least 1.
//
// What the super-frame says of itself has to be right in every point, HdrLen
// excepted, which is not looked at; else err says what is not, there are no
// pieces, and the frame can only be dropped.
func (c *Cutter) Start(hdr *packet.VirtioHdr, frame []byte, h *packet.Headers, encap []byte) (pieces int, err error) {
	c.frame = nil
	l3, l4 := int(h.L3), int(h.L4)
	var version, proto uint8
	var csumOffset uint16
	switch hdr.GSOType {
	case packet.GSOTCPv4, packet.GSOTCPv4 | packet.GSOECN:
		version, proto, csumOffset = 4, packet.ProtoTCP, tcpCsumOffset
	case packet.GSOTCPv6, packet.GSOTCPv6 | packet.GSOECN:
		version, proto, csumOffset = 6, packet.ProtoTCP, tcpCsumOffset
	case packet.GSOUDPL4:
		version, proto, csumOffset = h.Version, packet.ProtoUDP, udpCsumOffset
	default:
		return 0, errGSOType
	}
	switch {
	case hdr.GSOSize == 0:
		return 0, errGSOSize
	case hdr.Flags&packet.VirtioNeedsCsum == 0:
		return 0, errGSOCsum // virtio 1.2 section 5.1.6.2 demands it for every type
	case h.Version != version || h.Proto != proto || l4 == 0:
		return 0, errGSOProto
	case hdr.CsumStart != h.L4 || hdr.CsumOffset != csumOffset:
		return 0, errGSOOffset
	}
	ip, th := frame[l3:], frame[l4:]
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if version == 6 {
		total = 40 + int(binary.BigEndian.Uint16(ip[4:]))
	}
	if l3+total != len(frame) {
		return 0, errGSOLength
	}
	length := len(frame) - l4 // as in the pseudo-header
	off := l4 + 8
	if proto == packet.ProtoTCP {
		off = l4 + int(th[12]>>4)*4 // Walk found all of it inside the frame
	} else if int(binary.BigEndian.Uint16(th[4:])) != length {
		return 0, errGSOLength
	}
	if off >= len(frame) {
		return 0, errGSOEmpty
	}

	c.frame, c.encap = frame, encap
	c.l3, c.l4, c.off = l3, l4, off
	c.size = int(hdr.GSOSize)
	c.ipv4, c.tcp = version == 4, proto == packet.ProtoTCP

	// The field holds the sum of the pseudo-header, so the sum over the header
	// is that of both. Adding the complement takes a word out again.
	sum := small(packet.Sum(th[:off-l4], 0)) + packet.SumWord(^uint16(length))
	if c.tcp {
		c.seq = binary.BigEndian.Uint32(th[4:])
		c.offset, c.flags = th[12], th[13]
		sum += sumLong(^c.seq) + packet.SumWord(^binary.BigEndian.Uint16(th[12:]))
		c.last = c.flags & (tcpFIN | tcpPSH)
		c.flags &^= c.last
	} else {
		sum += packet.SumWord(^uint16(length)) // UDP has the length a second time
	}
	c.l4Sum = sum
	if c.ipv4 {
		c.id = binary.BigEndian.Uint16(ip[4:])
		c.ipSum = small(packet.Sum(ip[:l4-l3], 0)) + packet.SumWord(^uint16(total)) +
			packet.SumWord(^c.id) + packet.SumWord(^binary.BigEndian.Uint16(ip[10:]))
	}
	return (len(frame) - off + c.size - 1) / c.size, nil
}

// Pieces is how many pieces a frame stands for, with hdr as the device gave it and h as
// Walk found it: the result of Start for a super-frame that it takes, and 1 for any other
// frame. Dropped frames are counted by it.
func Pieces(hdr *packet.VirtioHdr, frame []byte, h *packet.Headers) int {
	if hdr.GSOType == packet.GSONone || hdr.GSOSize == 0 || h.L4 == 0 {
		return 1
	}
	off := int(h.L4) + 8
	if h.Proto == packet.ProtoTCP {
		off = int(h.L4) + int(frame[h.L4+12]>>4)*4
	}
	return max(1, (len(frame)-off+int(hdr.GSOSize)-1)/int(hdr.GSOSize))
}

// HeadLen is the length of what is in front of the payload of each piece.
func (c *Cutter) HeadLen() int { return len(c.encap) + c.off }

// Cut writes the pieces to dst, one right behind the other, and returns them as a part
// of dst, which must have room for all and not overlap the frame. Each is
// encap, the link, network and transport headers of the piece, and its payload, HeadLen
// and the segment size together; the last may be shorter. Without a super-frame
// that Start took there are none.
//
// The payload is copied because the checksum has to read all of it anyway. The
// kernel then copies a run of pieces as one and not as two parts for each, which
// takes it half as long again.
func (c *Cutter) Cut(dst []byte) []byte {
	if c.frame == nil {
		return nil
	}
	l3, l4, off := len(c.encap)+c.l3, len(c.encap)+c.l4, len(c.encap)+c.off
	id, seq, flags := c.id, c.seq, c.flags
	at := 0
	for rest := c.frame[c.off:]; len(rest) > 0; {
		payload := rest[:min(c.size, len(rest))]
		rest = rest[len(payload):]
		piece := dst[at : at+off+len(payload)]
		if at == 0 {
			copy(piece[copy(piece, c.encap):], c.frame[:c.off])
		} else {
			copy(piece, dst[:off])
		}
		at += len(piece)
		if len(rest) == 0 {
			flags |= c.last
		}

		ip, length := piece[l3:], uint16(len(piece)-l4)
		if c.ipv4 {
			total := uint16(len(ip))
			binary.BigEndian.PutUint16(ip[2:], total)
			binary.BigEndian.PutUint16(ip[4:], id)
			sum := c.ipSum + packet.SumWord(total) + packet.SumWord(id)
			binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(sum))
			id++
		} else {
			binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-40))
		}

		th := piece[l4:]
		sum := c.l4Sum + packet.SumWord(length)
		if c.tcp {
			binary.BigEndian.PutUint32(th[4:], seq)
			th[13] = flags
			sum += sumLong(seq) + packet.SumWord(uint16(c.offset)<<8|uint16(flags))
			binary.BigEndian.PutUint16(th[tcpCsumOffset:], ^packet.Fold(packet.SumCopy(piece[off:], payload, sum)))
			seq += uint32(len(payload))
			flags &^= tcpCWR // RFC 3168 section 6.1.2: once per reduction
			continue
		}
		binary.BigEndian.PutUint16(th[4:], length)
		sum += packet.SumWord(length)
		binary.BigEndian.PutUint16(th[udpCsumOffset:], udpChecksum(packet.SumCopy(piece[off:], payload, sum)))
	}
	c.frame = nil
	return dst[:at]
}

// FinishChecksum completes in place the checksum of a frame, not a super-frame,
// that was read with NEEDS_CSUM; without that flag there is nothing to do.
func FinishChecksum(hdr *packet.VirtioHdr, frame []byte) error {
	if hdr.GSOType != packet.GSONone {
		return errCsumGSO
	}
	if hdr.Flags&packet.VirtioNeedsCsum == 0 {
		return nil
	}
	start := int(hdr.CsumStart)
	field := start + int(hdr.CsumOffset)
	if field+2 > len(frame) {
		return errCsumRange
	}
	sum := packet.Sum(frame[start:], 0) // with the pseudo-header, which is in the field
	check := ^packet.Fold(sum)
	if hdr.CsumOffset == udpCsumOffset {
		check = udpChecksum(sum)
	}
	binary.BigEndian.PutUint16(frame[field:], check)
	return nil
}

// udpChecksum is the checksum field for a sum. In UDP 0 means that there is
// none; the same number in ones-complement stands for it (RFC 768).
func udpChecksum(sum uint64) uint16 {
	if check := ^packet.Fold(sum); check != 0 {
		return check
	}
	return 0xffff
}

// small is a running sum that leaves room to add to it with +.
func small(sum uint64) uint64 { return packet.SumWord(packet.Fold(sum)) }

// sumLong is a 32-bit number as a part of a running sum.
func sumLong(v uint32) uint64 { return uint64(bits.ReverseBytes32(v)) }
