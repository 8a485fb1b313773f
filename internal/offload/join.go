package offload

import (
	"bytes"
	"encoding/binary"

	"gvtep/internal/packet"
)

// What one super-frame may hold.
const (
	// maxPieces bounds the parts of one write, with room below IOV_MAX (1024).
	maxPieces = 500
	// maxPiecesUDP is the least UDP_MAX_SEGMENTS of any kernel (128 since 6.9).
	maxPiecesUDP = 64
	// maxTotal is the most that an IPv4 length field can say.
	maxTotal = 65535
	// maxHeaders is the longest IP and TCP header that is joined.
	maxHeaders = 40 + 60
)

// Joiner joins consecutive pieces of one TCP or UDP flow into a super-frame. Add
// pieces until it refuses one; write out what Frame returns; Reset; add the
// refused one again. The caller refuses by itself what is not equal outside the
// frame (peer, VNI, GENEVE options).
//
// Joined is only what Cutter would cut into the same bytes again: pieces that
// follow one another in sequence number and IPv4 ID, with the same headers
// otherwise, and equally long but for the last. It is a narrower rule than that of
// the kernel's GRO (net/ipv4/tcp_offload.c), which forgets differing windows.
//
// A super-frame is written with NEEDS_CSUM, which the kernel trusts. So every
// piece's checksums are verified before it is joined; a broken one is left alone
// for the receiver to judge. A piece that stays alone is never summed.
//
// The zero value joins nothing: Reset it first. It is used by one worker.
type Joiner struct {
	ability packet.Offload
	frames  [][]byte // what was added, lent until Reset
	out     [][]byte // what Frame returned
	h       packet.Headers
	first   shape // of frames[0], known once a second frame came
	closed  bool  // nothing more can follow
	flags   uint8 // TCP flags of the last
	bytes   int   // payload of all
	patched bool  // the headers of frames[0] are those of the super-frame
	saved   [maxHeaders]byte
}

// shape is what can be said of a piece that may be joined.
type shape struct {
	l3, l4, off int // IP header, transport header, payload
	size        int // payload
	tcp         bool
	flags       uint8 // of TCP
}

// Reset empties the Joiner, gives all frames back to their owner and sets what
// the device of the frames to come permits.
func (j *Joiner) Reset(ability packet.Offload) {
	j.ability = ability
	j.frames = j.frames[:0]
	j.closed, j.patched = false, false
}

// Count is the number of frames held.
func (j *Joiner) Count() int { return len(j.frames) }

// Add takes frame, with what Walk found in it, and reports whether it did. An
// empty Joiner takes any frame; another only the very next piece of the flow.
// What is taken is lent until Reset and may be written to by Frame.
func (j *Joiner) Add(frame []byte, h *packet.Headers) bool {
	if len(j.frames) == 0 {
		j.frames = append(j.frames, frame)
		j.h = *h
		return true
	}
	if j.closed {
		return false
	}
	if len(j.frames) == 1 && !j.begin() {
		j.closed = true
		return false
	}
	var s shape
	if !s.read(frame, h) || !j.follows(frame, h, &s) {
		return false
	}
	// Sums last, as they cost most, and the first one's only now.
	if len(j.frames) == 1 && !intact(j.frames[0], &j.h, &j.first) {
		j.closed = true
		return false
	}
	if !intact(frame, h, &s) {
		return false
	}
	j.frames = append(j.frames, frame)
	j.bytes += s.size
	j.flags = s.flags
	j.closed = s.size < j.first.size || s.tcp && s.flags != tcpACK
	return true
}

// begin reports whether anything can follow the first frame at all.
func (j *Joiner) begin() bool {
	s := &j.first
	if !s.read(j.frames[0], &j.h) || s.tcp && s.flags != tcpACK {
		return false
	}
	j.bytes = s.size
	need := packet.OffloadCsum | packet.OffloadUSO
	if s.tcp && j.h.Version == 4 {
		need = packet.OffloadCsum | packet.OffloadTSO4
	} else if s.tcp {
		need = packet.OffloadCsum | packet.OffloadTSO6
	}
	return j.ability.Has(need)
}

// read notes the shape of a piece, if it is one that may be joined to others
// like it: whole, nothing behind its end, a bare IP header, some payload and in
// TCP no flag but ACK and, at the end, PSH and FIN.
func (s *shape) read(frame []byte, h *packet.Headers) bool {
	l3, l4 := int(h.L3), int(h.L4)
	if l4 == 0 {
		return false // fragments too
	}
	ip := frame[l3:]
	switch {
	case h.Version == 4 && l4 == l3+20:
		if l3+int(binary.BigEndian.Uint16(ip[2:])) != len(frame) {
			return false
		}
		// Walk looked at the offset; the reserved bit may be anything yet.
		if ip[6]&0x80 != 0 {
			return false
		}
	case h.Version == 6 && l4 == l3+40:
		if l3+40+int(binary.BigEndian.Uint16(ip[4:])) != len(frame) {
			return false
		}
	default:
		return false
	}
	th := frame[l4:]
	switch h.Proto {
	case packet.ProtoTCP:
		if th[12]&0x0f != 0 || th[13]&^(tcpPSH|tcpFIN) != tcpACK {
			return false
		}
		s.tcp, s.flags = true, th[13]
		s.off = l4 + int(th[12]>>4)*4
	case packet.ProtoUDP:
		if int(binary.BigEndian.Uint16(th[4:])) != len(th) {
			return false
		}
		s.tcp, s.flags = false, 0
		s.off = l4 + 8
	default:
		return false
	}
	s.l3, s.l4 = l3, l4
	s.size = len(frame) - s.off
	return s.size > 0
}

// follows reports whether frame, of shape s, is the next piece, its
// checksums aside.
func (j *Joiner) follows(frame []byte, h *packet.Headers, s *shape) bool {
	first, f, n := j.frames[0], &j.first, len(j.frames)
	// The lengths of the headers stand for IP version and protocol, too.
	if s.l3 != f.l3 || s.l4 != f.l4 || s.off != f.off {
		return false
	}
	if s.size > f.size || f.off-f.l3+j.bytes+s.size > maxTotal || n >= maxPieces || !s.tcp && n >= maxPiecesUDP {
		return false
	}
	be := binary.BigEndian
	// Transport first: there another flow or a gap shows.
	a, b := first[f.l4:f.off], frame[f.l4:f.off]
	if be.Uint32(a) != be.Uint32(b) { // ports
		return false
	}
	if s.tcp {
		// Acknowledgment, window, urgent pointer and options, which are
		// everything but sequence number, flags (read knows them) and checksum.
		if be.Uint32(b[4:]) != be.Uint32(a[4:])+uint32(j.bytes) ||
			be.Uint32(a[8:]) != be.Uint32(b[8:]) ||
			be.Uint16(a[14:]) != be.Uint16(b[14:]) ||
			!bytes.Equal(a[18:], b[18:]) {
			return false
		}
	}
	a, b = first[f.l3:f.l4], frame[f.l3:f.l4]
	if h.Version == 4 {
		// All but length, ID and checksum: version, TOS; DF, TTL, protocol; addresses.
		if be.Uint16(b[4:]) != be.Uint16(a[4:])+uint16(n) ||
			be.Uint16(a) != be.Uint16(b) ||
			be.Uint32(a[6:]) != be.Uint32(b[6:]) ||
			be.Uint64(a[12:]) != be.Uint64(b[12:]) {
			return false
		}
	} else if be.Uint32(a) != be.Uint32(b) || // version, traffic class, flow label
		be.Uint16(a[6:]) != be.Uint16(b[6:]) || // next header, hop limit
		!bytes.Equal(a[8:], b[8:]) {
		return false
	}
	return bytes.Equal(first[:f.l3], frame[:f.l3]) // link header and tags
}

// intact verifies the checksums of a piece. Of the two ways to write zero in
// ones-complement only the one that Cutter writes will do: UDP never 0, which
// would mean no checksum, the others never 0xffff.
func intact(frame []byte, h *packet.Headers, s *shape) bool {
	if h.Version == 4 {
		ip := frame[s.l3:s.l4]
		if binary.BigEndian.Uint16(ip[10:]) == 0xffff || packet.Fold(packet.Sum(ip, 0)) != 0xffff {
			return false
		}
	}
	th := frame[s.l4:]
	if s.tcp && binary.BigEndian.Uint16(th[tcpCsumOffset:]) == 0xffff ||
		!s.tcp && binary.BigEndian.Uint16(th[udpCsumOffset:]) == 0 {
		return false
	}
	return packet.Fold(packet.Sum(th, packet.PseudoSum(frame, h, len(th)))) == 0xffff
}

// Frame returns what is held as one frame in parts, and fills hdr for it: a
// single frame as it came with a zero hdr, several as a super-frame, for which
// the headers of the first frame are changed in place. The parts are valid until
// Reset. An empty Joiner returns no parts.
func (j *Joiner) Frame(hdr *packet.VirtioHdr) [][]byte {
	*hdr = packet.VirtioHdr{}
	if len(j.frames) < 2 {
		return j.frames
	}
	s := &j.first
	j.patch()
	hdr.Flags = packet.VirtioNeedsCsum
	hdr.HdrLen = uint16(s.off)
	hdr.GSOSize = uint16(s.size)
	hdr.CsumStart = uint16(s.l4)
	switch {
	case !s.tcp:
		hdr.GSOType, hdr.CsumOffset = packet.GSOUDPL4, udpCsumOffset
	case j.h.Version == 4:
		hdr.GSOType, hdr.CsumOffset = packet.GSOTCPv4, tcpCsumOffset
	default:
		hdr.GSOType, hdr.CsumOffset = packet.GSOTCPv6, tcpCsumOffset
	}
	j.out = append(j.out[:0], j.frames[0])
	for _, f := range j.frames[1:] {
		j.out = append(j.out, f[s.off:])
	}
	return j.out
}

// Pieces returns the frames as they were added, byte for byte, also after
// Frame, for a device that refused the super-frame. They are valid until Reset.
func (j *Joiner) Pieces() [][]byte {
	if j.patched {
		copy(j.frames[0][j.first.l3:j.first.off], j.saved[:])
		j.patched = false
	}
	return j.frames
}

// patch makes the headers of the first frame those of the super-frame.
func (j *Joiner) patch() {
	if j.patched {
		return
	}
	j.patched = true
	s, frame := &j.first, j.frames[0]
	copy(j.saved[:], frame[s.l3:s.off])

	ip, th := frame[s.l3:s.l4], frame[s.l4:s.off]
	length := s.off - s.l4 + j.bytes
	if j.h.Version == 4 {
		total := uint16(s.l4 - s.l3 + length)
		old := binary.BigEndian.Uint16(ip[2:])
		check := binary.BigEndian.Uint16(ip[10:])
		binary.BigEndian.PutUint16(ip[2:], total)
		binary.BigEndian.PutUint16(ip[10:], packet.UpdateChecksum(check, old, total))
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(length))
	}
	partial := packet.Fold(packet.PseudoSum(frame, &j.h, length))
	if s.tcp {
		th[13] |= j.flags
		binary.BigEndian.PutUint16(th[tcpCsumOffset:], partial)
	} else {
		binary.BigEndian.PutUint16(th[4:], uint16(length))
		binary.BigEndian.PutUint16(th[udpCsumOffset:], partial)
	}
}
