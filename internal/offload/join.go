package offload

import (
	"bytes"
	"encoding/binary"

	"gvtep/internal/packet"
)

// What one super-frame may hold.
const (
	// maxPieces bounds the work for one super-frame of tiny pieces.
	maxPieces = 500
	// maxPiecesUDP is the least UDP_MAX_SEGMENTS of any kernel (128 since 6.9).
	maxPiecesUDP = 64
	// maxTotal is the most that an IPv4 length field can say.
	maxTotal = 65535
	// maxLink is the longest link header: two tags, behind which Walk looks, and
	// that of a trunk in front of them.
	maxLink = 14 + 3*4
	// maxHeaders is the longest IP and TCP header that is joined: IPv6 and TCP with all
	// options, or with fewer and extension headers.
	maxHeaders = 40 + 60
)

// Joiner joins consecutive pieces of one TCP or UDP flow into a super-frame. Add
// pieces until it refuses one; write out what Frame returns; Reset; add the
// refused one again. The caller refuses by itself what is not equal outside the
// frame (peer, VNI, GENEVE options).
//
// Joined is only what Cutter would cut into the same bytes again, but for IPv4 IDs: pieces that
// follow one another in sequence number, with the same headers
// otherwise, and equally long but for the last. It is a narrower rule than that of
// the kernel's GRO (net/ipv4/tcp_offload.c), which forgets differing windows.
//
// IPv4 IDs count up, as those of the pieces of a cut do, or are all the same, as in all that
// unconnected UDP sockets send: 0 with Don't Fragment. Such IDs say nothing (RFC 6864 section 4.1),
// and what cuts the super-frame again may count them up. That is the kernel's rule, too
// (inet_gro_flush, since Linux 6.18).
//
// A super-frame is written with NEEDS_CSUM, which the kernel trusts. So every
// piece's checksums are verified before it is joined; a broken one is left alone
// for the receiver to judge, and so is one whose checksum is still to be finished
// (Unfinished). A piece that stays alone is never summed.
//
// Payloads are copied together, as their checksums read all of them anyway: a
// write in one part takes the kernel two thirds of the time of one in 45.
//
// The zero value joins nothing: Reset it first. It is used by one worker.
type Joiner struct {
	ability packet.Offload
	frames  [][]byte // what was added, lent until Reset
	super   []byte   // headers of frames[0] and the payloads, once there are two
	h       packet.Headers
	first   shape // of frames[0], known once a second frame came
	closed  bool  // nothing more can follow
	sameID  bool  // of IPv4: the IDs do not count up
	flags   uint8 // TCP flags of the last

	// Of the next full piece, if anything can follow: its headers, the checksum
	// of the transport header aside, and their running sum with the pseudo-header.
	next    [maxLink + maxHeaders]byte
	nextSum uint64
}

// shape is what can be said of a piece that may be joined.
type shape struct {
	l3, l4, off int // IP header, transport header, payload
	size        int // payload
	tcp         bool
	flags       uint8 // of TCP
}

// check is where the checksum of the transport header is.
func (s *shape) check() int {
	if s.tcp {
		return s.l4 + tcpCsumOffset
	}
	return s.l4 + udpCsumOffset
}

// gso is the type of super-frames of such pieces.
func (s *shape) gso(h *packet.Headers) uint8 {
	switch {
	case !s.tcp:
		return packet.GSOUDPL4
	case h.Version == 4:
		return packet.GSOTCPv4
	}
	return packet.GSOTCPv6
}

// Reset empties the Joiner, gives all frames back to their owner and sets what
// the device of the frames to come permits.
func (j *Joiner) Reset(ability packet.Offload) {
	if j.super == nil {
		j.super = make([]byte, 0, packet.MaxFrame)
	}
	j.ability = ability
	j.frames = j.frames[:0]
	j.super = j.super[:0]
	j.closed = false
}

// Count is the number of frames held.
func (j *Joiner) Count() int { return len(j.frames) }

// Add takes frame, with what Walk found in it, and reports whether it did. An
// empty Joiner takes any frame; another only the very next piece of the flow.
// What is taken is lent until Reset.
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
	if len(j.frames) == 1 {
		j.super = append(j.super[:0], j.frames[0][:j.first.off]...)
		if !j.take(j.frames[0], &j.h, &j.first) {
			j.closed = true
			return false
		}
	}
	if !j.take(frame, h, &s) {
		return false
	}
	if len(j.frames) == 1 {
		j.sameID = h.Version == 4 && string(frame[s.l3+4:s.l3+6]) == string(j.frames[0][s.l3+4:s.l3+6])
	}
	j.frames = append(j.frames, frame)
	j.flags = s.flags
	j.closed = s.size < j.first.size || s.tcp && s.flags != tcpACK
	if !j.closed {
		j.expect(frame, h)
	}
	return true
}

// Extend takes frame as Add does if its headers are those of the piece that is to
// come next, to the byte. It is quick, and false says nothing: Add may take the frame yet.
func (j *Joiner) Extend(frame []byte) bool {
	f, n := &j.first, len(j.frames)
	if n < 2 || j.closed || len(frame) != f.off+f.size || !j.room(f.size) {
		return false
	}
	at := f.check()
	head := j.next[:f.off]
	if string(frame[:at]) != string(head[:at]) || string(frame[at+2:f.off]) != string(head[at+2:]) {
		return false
	}
	check := binary.BigEndian.Uint16(frame[at:])
	if f.tcp && check == 0xffff || !f.tcp && check == 0 {
		return false
	}
	end := len(j.super)
	super := j.super[:end+f.size]
	if packet.Fold(packet.SumCopy(super[end:], frame[f.off:], j.nextSum+packet.SumWord(check))) != 0xffff {
		return false
	}
	j.super = super
	j.frames = append(j.frames, frame)
	j.advance()
	return true
}

// expect prepares for Extend behind frame, which was taken.
func (j *Joiner) expect(frame []byte, h *packet.Headers) {
	f := &j.first
	head := j.next[:f.off]
	copy(head, frame)
	head[f.check()], head[f.check()+1] = 0, 0
	j.nextSum = small(packet.Sum(head[f.l4:], packet.PseudoSum(frame, h, f.off-f.l4+f.size)))
	j.advance()
}

// advance makes what is expected next of what was last.
func (j *Joiner) advance() {
	f := &j.first
	if f.tcp {
		at := j.next[f.l4+4:]
		seq := binary.BigEndian.Uint32(at)
		j.nextSum = small(j.nextSum + sumLong(^seq) + sumLong(seq+uint32(f.size)))
		binary.BigEndian.PutUint32(at, seq+uint32(f.size))
	}
	if j.h.Version == 4 && !j.sameID {
		ip := j.next[f.l3:]
		id, check := binary.BigEndian.Uint16(ip[4:]), binary.BigEndian.Uint16(ip[10:])
		binary.BigEndian.PutUint16(ip[4:], id+1)
		binary.BigEndian.PutUint16(ip[10:], packet.UpdateChecksum(check, id, id+1))
	}
}

// begin reports whether anything can follow the first frame at all.
func (j *Joiner) begin() bool {
	s := &j.first
	if !s.read(j.frames[0], &j.h) || s.tcp && s.flags != tcpACK {
		return false
	}
	return j.ability.Has(packet.OffloadCsum | packet.OffloadFor(s.gso(&j.h)))
}

// read notes the shape of a piece, if it is one that may be joined to others
// like it: whole, nothing behind its end, no IPv4 options, some payload and in
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
	case h.Version == 6 && extensions(ip[6], ip[40:l4-l3]):
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
	return s.size > 0 && s.off <= maxLink+maxHeaders
}

// extensions reports whether IPv6 extension headers, the first of which is of a type, are
// none but those that the kernel joins: hop-by-hop and destination options, and routing headers with no
// way left to go.
func extensions(next uint8, headers []byte) bool {
	const hops, routing, destination = 0, 43, 60 // IANA protocol numbers
	for len(headers) >= 8 {
		if next != hops && next != destination && (next != routing || headers[3] != 0) {
			return false
		}
		next = headers[0]
		headers = headers[min(len(headers), 8*(1+int(headers[1]))):]
	}
	return len(headers) == 0
}

// follows reports whether frame, of shape s, is the next piece, its
// checksums aside.
func (j *Joiner) follows(frame []byte, h *packet.Headers, s *shape) bool {
	first, f, n := j.frames[0], &j.first, len(j.frames)
	done := n * f.size // payload so far
	// The lengths of the headers stand for IP version and protocol, too.
	if s.l3 != f.l3 || s.l4 != f.l4 || s.off != f.off {
		return false
	}
	if s.size > f.size || !j.room(s.size) {
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
		if be.Uint32(b[4:]) != be.Uint32(a[4:])+uint32(done) ||
			be.Uint32(a[8:]) != be.Uint32(b[8:]) ||
			be.Uint16(a[14:]) != be.Uint16(b[14:]) ||
			!bytes.Equal(a[18:], b[18:]) {
			return false
		}
	}
	a, b = first[f.l3:f.l4], frame[f.l3:f.l4]
	if h.Version == 4 {
		// All but length, ID and checksum: version, TOS; DF, TTL, protocol; addresses.
		since := int(be.Uint16(b[4:]) - be.Uint16(a[4:]))
		counts, same := since == n && (n == 1 || !j.sameID), since == 0 && (n == 1 || j.sameID)
		if !counts && !same ||
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

// room reports whether one more piece with so much payload is within the limits.
func (j *Joiner) room(size int) bool {
	f, n := &j.first, len(j.frames)
	return f.off-f.l3+n*f.size+size <= maxTotal && (f.tcp && n < maxPieces || n < maxPiecesUDP)
}

// take appends the payload of a piece, if its checksums are right. Of the two ways to
// write zero in ones-complement only the one that Cutter writes will do: UDP never
// 0, which would mean no checksum, the others never 0xffff.
func (j *Joiner) take(frame []byte, h *packet.Headers, s *shape) bool {
	if h.Version == 4 {
		ip := frame[s.l3:s.l4]
		if binary.BigEndian.Uint16(ip[10:]) == 0xffff || packet.Fold(packet.Sum(ip, 0)) != 0xffff {
			return false
		}
	}
	check := binary.BigEndian.Uint16(frame[s.check():])
	if s.tcp && check == 0xffff || !s.tcp && check == 0 {
		return false
	}
	head := packet.Sum(frame[s.l4:s.off], packet.PseudoSum(frame, h, len(frame)-s.l4))
	end := len(j.super)
	super := j.super[:end+s.size]
	if packet.Fold(packet.SumCopy(super[end:], frame[s.off:], head)) != 0xffff {
		return false
	}
	j.super = super
	return true
}

// Frame returns what is held as one frame, valid until Reset, and fills hdr for it: a
// single frame as it came with a zero hdr, or NEEDS_CSUM if it is Unfinished, and several as
// a super-frame. A Joiner that holds nothing returns nil.
func (j *Joiner) Frame(hdr *packet.VirtioHdr) []byte {
	*hdr = packet.VirtioHdr{}
	switch len(j.frames) {
	case 0:
		return nil
	case 1:
		Unfinished(hdr, j.frames[0], &j.h)
		return j.frames[0]
	}
	s := &j.first
	j.patch()
	hdr.Flags = packet.VirtioNeedsCsum
	hdr.HdrLen = uint16(s.off)
	hdr.GSOSize = uint16(s.size)
	hdr.GSOType = s.gso(&j.h)
	hdr.CsumStart, hdr.CsumOffset = uint16(s.l4), uint16(s.check()-s.l4)
	return j.super
}

// Headers is what Walk found in the first frame, valid until Reset.
func (j *Joiner) Headers() *packet.Headers { return &j.h }

// Pieces returns the frames as they were added, for a device that refused the
// super-frame. They are valid until Reset.
func (j *Joiner) Pieces() [][]byte { return j.frames }

// patch makes the headers of the super-frame, which are those of its first piece.
func (j *Joiner) patch() {
	s := &j.first
	copy(j.super, j.frames[0][:s.off])
	ip, th := j.super[s.l3:s.l4], j.super[s.l4:s.off]
	length := len(j.super) - s.l4
	if j.h.Version == 4 {
		total := uint16(s.l4 - s.l3 + length)
		old := binary.BigEndian.Uint16(ip[2:])
		check := binary.BigEndian.Uint16(ip[10:])
		binary.BigEndian.PutUint16(ip[2:], total)
		binary.BigEndian.PutUint16(ip[10:], packet.UpdateChecksum(check, old, total))
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(j.super)-s.l3-40))
	}
	partial := packet.Fold(packet.PseudoSum(j.super, &j.h, length))
	if s.tcp {
		th[13] |= j.flags
		binary.BigEndian.PutUint16(th[tcpCsumOffset:], partial)
	} else {
		binary.BigEndian.PutUint16(th[4:], uint16(length))
		binary.BigEndian.PutUint16(th[udpCsumOffset:], partial)
	}
}
