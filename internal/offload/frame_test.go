package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"gvtep/internal/packet"
)

// spec describes one whole frame. Everything here is done the dull way, byte
// by byte, and shares no code with what is tested.
type spec struct {
	l3      bool
	tags    int
	version int
	proto   int
	ext     []byte // IPv4 options, or an IPv6 extension header that starts with the right next header
	extType int    // IPv6 next header value of ext
	id      uint16
	frag    uint16 // IPv4 flags and offset
	tos     byte
	ttl     byte
	label   uint32 // IPv6 flow label
	src     byte   // last byte of the source address
	sport   uint16
	seq     uint32
	ack     uint32
	window  uint16
	urgent  uint16
	flags   byte
	options []byte // of TCP
	payload []byte
}

func base(version, proto int, payload int) spec {
	s := spec{version: version, proto: proto, id: 0xfffe, frag: 0x4000, tos: 0x02, ttl: 61, label: 0x12345,
		src: 1, sport: 40000, seq: 0xffffff00, ack: 77, window: 501, flags: tcpACK}
	if proto == 6 {
		s.options = []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	}
	s.payload = make([]byte, payload)
	for i := range s.payload {
		s.payload[i] = byte(i*7 + i>>8)
	}
	return s
}

func (s spec) String() string {
	mode := "tap"
	if s.l3 {
		mode = "tun"
	}
	return fmt.Sprintf("%s-tags%d-v%d-proto%d-ext%d", mode, s.tags, s.version, s.proto, len(s.ext))
}

func (s spec) offsets() (l3, l4, off int) {
	if !s.l3 {
		l3 = 14 + 4*s.tags
	}
	l4 = l3 + 20 + len(s.ext)
	if s.version == 6 {
		l4 += 20
	}
	off = l4 + 8
	if s.proto == 6 {
		off = l4 + 20 + len(s.options)
	}
	return
}

// dullSum is the plain 16-bit sum over parts of even length but for the last.
func dullSum(parts ...[]byte) uint16 {
	var sum uint64
	for _, p := range parts {
		for i, b := range p {
			if i%2 == 0 {
				sum += uint64(b) << 8
			} else {
				sum += uint64(b)
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// pseudoSum is the uncomplemented sum of the pseudo-header.
func (s spec) pseudoSum(frame []byte) uint16 {
	l3, l4, _ := s.offsets()
	n := len(frame) - l4
	addrs := frame[l3+12 : l3+20]
	if s.version == 6 {
		addrs = frame[l3+8 : l3+40]
	}
	return dullSum(addrs, []byte{0, byte(s.proto), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func (s spec) csumField() int {
	_, l4, _ := s.offsets()
	if s.proto == 6 {
		return l4 + 16
	}
	return l4 + 6
}

// raw is the frame with zero transport checksum.
func (s spec) raw() []byte {
	var f []byte
	be := binary.BigEndian
	etherType := uint16(0x0800)
	if s.version == 6 {
		etherType = 0x86dd
	}
	if !s.l3 {
		f = append(f, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1)
		for i := range s.tags {
			f = append(f, []byte{0x88, 0x81}[2-s.tags+i], []byte{0xa8, 0x00}[2-s.tags+i], 0, byte(10+i))
		}
		f = be.AppendUint16(f, etherType)
	}
	_, l4, off := s.offsets()
	length := off - l4 + len(s.payload)
	if s.version == 4 {
		ip := []byte{byte(0x45 + len(s.ext)/4), s.tos, 0, 0, 0, 0, 0, 0, s.ttl, byte(s.proto), 0, 0,
			10, 0, 0, s.src, 10, 0, 0, 200}
		ip = append(ip, s.ext...)
		be.PutUint16(ip[2:], uint16(len(ip)+length))
		be.PutUint16(ip[4:], s.id)
		be.PutUint16(ip[6:], s.frag)
		be.PutUint16(ip[10:], ^dullSum(ip))
		f = append(f, ip...)
	} else {
		next := byte(s.proto)
		if len(s.ext) > 0 {
			next = byte(s.extType)
		}
		ip := be.AppendUint32(nil, 6<<28|uint32(s.tos)<<20|s.label)
		ip = be.AppendUint16(ip, uint16(len(s.ext)+length))
		ip = append(ip, next, s.ttl)
		ip = append(ip, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, s.src)
		ip = append(ip, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200)
		f = append(append(f, ip...), s.ext...)
	}
	f = be.AppendUint16(f, s.sport)
	f = be.AppendUint16(f, 5001)
	if s.proto == 6 {
		f = be.AppendUint32(f, s.seq)
		f = be.AppendUint32(f, s.ack)
		f = append(f, byte(20+len(s.options))<<2, s.flags)
		f = be.AppendUint16(f, s.window)
		f = append(f, 0, 0)
		f = be.AppendUint16(f, s.urgent)
		f = append(f, s.options...)
	} else {
		f = be.AppendUint16(f, uint16(length))
		f = append(f, 0, 0)
	}
	return append(f, s.payload...)
}

// frame is the finished frame.
func (s spec) frame() []byte {
	f := s.raw()
	_, l4, _ := s.offsets()
	sum := dullSum(binary.BigEndian.AppendUint16(nil, s.pseudoSum(f)), f[l4:])
	if s.proto == 17 && sum == 0xffff {
		sum = 0
	}
	binary.BigEndian.PutUint16(f[s.csumField():], ^sum)
	return f
}

// super is the frame as a super-frame of pieces of size bytes.
func (s spec) super(size int) (packet.VirtioHdr, []byte) {
	f := s.raw()
	_, l4, off := s.offsets()
	binary.BigEndian.PutUint16(f[s.csumField():], s.pseudoSum(f))
	kind := map[[2]int]uint8{{4, 6}: 1, {6, 6}: 4, {4, 17}: 5, {6, 17}: 5}[[2]int{s.version, s.proto}]
	return packet.VirtioHdr{Flags: 1, GSOType: kind, HdrLen: uint16(off), GSOSize: uint16(size),
		CsumStart: uint16(l4), CsumOffset: uint16(s.csumField() - l4)}, f
}

// pieces are the specs that super(size) is cut into.
func (s spec) pieces(size int) []spec {
	var out []spec
	for at := 0; at < len(s.payload); at += size {
		p := s
		p.payload = s.payload[at:min(at+size, len(s.payload))]
		p.seq += uint32(at)
		p.id += uint16(at / size)
		if at > 0 {
			p.flags &^= tcpCWR
		}
		if at+size < len(s.payload) {
			p.flags &^= tcpPSH | tcpFIN
		}
		out = append(out, p)
	}
	return out
}

func walk(frame []byte, l3 bool) packet.Headers {
	var h packet.Headers
	packet.Walk(frame, l3, &h)
	return h
}

// shapes are all ways of headers in which a super-frame can come.
func shapes(payload int) []spec {
	var out []spec
	for _, version := range []int{4, 6} {
		for _, proto := range []int{6, 17} {
			for tags := -1; tags <= 2; tags++ {
				s := base(version, proto, payload)
				s.l3, s.tags = tags < 0, max(tags, 0)
				out = append(out, s)
			}
		}
	}
	return out
}

// valid checks one piece by itself: lengths and checksums.
func valid(frame []byte, l3 bool) error {
	h := walk(frame, l3)
	at, l4 := int(h.L3), int(h.L4)
	if h.Version == 0 || l4 == 0 {
		return fmt.Errorf("headers not found: %+v", h)
	}
	n := int(binary.BigEndian.Uint16(frame[at+2:]))
	addrs := frame[at+12 : at+20]
	if h.Version == 6 {
		n = 40 + int(binary.BigEndian.Uint16(frame[at+4:]))
		addrs = frame[at+8 : at+40]
	} else if sum := dullSum(frame[at : at+int(frame[at]&15)*4]); sum != 0xffff {
		return fmt.Errorf("IPv4 header sum %#x", sum)
	}
	if at+n != len(frame) {
		return fmt.Errorf("IP length %d, frame has %d", n, len(frame)-at)
	}
	n = len(frame) - l4
	if h.Proto == 17 {
		if got := int(binary.BigEndian.Uint16(frame[l4+4:])); got != n {
			return fmt.Errorf("UDP length %d, frame has %d", got, n)
		}
		if frame[l4+6]|frame[l4+7] == 0 {
			return fmt.Errorf("UDP checksum 0")
		}
	}
	if sum := dullSum(addrs, []byte{0, h.Proto, byte(n >> 8), byte(n)}, frame[l4:]); sum != 0xffff {
		return fmt.Errorf("transport sum %#x", sum)
	}
	return nil
}

func TestSpecIsValid(t *testing.T) {
	for _, s := range shapes(101) {
		if err := valid(s.frame(), s.l3); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s:\n got %x\nwant %x", what, got[:min(len(got), 120)], want[:min(len(want), 120)])
	}
}
