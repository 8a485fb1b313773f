package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Frames made and read byte by byte. None of the project's own packet code is
// used, so that a fault in it cannot hide itself.

type mac [6]byte

func (m mac) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

// sum16 is the Internet checksum's sum, not complemented.
func sum16(initial uint32, parts ...[]byte) uint16 {
	sum := initial
	for _, b := range parts {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
	}
	return uint16(sum)
}

func eth(dst, src mac, etherType uint16, payload []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(b, etherType), payload...)
}

// tag puts a VLAN tag behind the addresses.
func tag(frame []byte, tpid, tci uint16) []byte {
	b := append([]byte{}, frame[:12]...)
	b = binary.BigEndian.AppendUint16(b, tpid)
	return append(binary.BigEndian.AppendUint16(b, tci), frame[12:]...)
}

// ip is the header fields of a packet; the family is that of the addresses.
type ip struct {
	src, dst netip.Addr
	proto    uint8
	tos, ttl uint8 // ttl 0 stands for 64
	df       bool
}

func (h ip) packet(payload []byte) []byte {
	if h.ttl == 0 {
		h.ttl = 64
	}
	if h.src.Is6() {
		b := []byte{0x60 | h.tos>>4, h.tos << 4, 0, 0, byte(len(payload) >> 8), byte(len(payload)), h.proto, h.ttl}
		return append(append(append(b, h.src.AsSlice()...), h.dst.AsSlice()...), payload...)
	}
	n := 20 + len(payload)
	b := []byte{0x45, h.tos, byte(n >> 8), byte(n), 0, 0, 0, 0, h.ttl, h.proto, 0, 0}
	if h.df {
		b[6] = 0x40
	}
	b = append(append(b, h.src.AsSlice()...), h.dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], ^sum16(0, b))
	return append(b, payload...)
}

// What becomes of a UDP checksum.
type csum int

const (
	csumRight csum = iota
	csumZero
	csumWrong
)

func (h ip) udp(sport, dport uint16, payload []byte, c csum) []byte {
	n := uint16(8 + len(payload))
	u := binary.BigEndian.AppendUint16(nil, sport)
	u = binary.BigEndian.AppendUint16(u, dport)
	u = binary.BigEndian.AppendUint16(u, n)
	u = append(append(u, 0, 0), payload...)
	check := ^sum16(uint32(n)+17, h.src.AsSlice(), h.dst.AsSlice(), u)
	switch {
	case c == csumZero:
		check = 0
	case c == csumWrong:
		check ^= 0x5555
		fallthrough
	case check == 0:
		check |= map[bool]uint16{true: 0xffff, false: 0}[check == 0]
	}
	binary.BigEndian.PutUint16(u[6:], check)
	h.proto = 17
	return h.packet(u)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// unhex reads bytes written as groups of hex digits.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// datagram is a UDP packet as read from a frame.
type datagram struct {
	src, dst     netip.AddrPort
	tos, ttl     uint8
	df, fragment bool
	length       int  // of the IP packet
	csum         csum // as found
	payload      []byte
}

// readUDP reads a frame with an IPv4 or IPv6 packet that holds UDP.
func readUDP(frame []byte) (d datagram, ok bool) {
	if len(frame) < 14 {
		return d, false
	}
	p := frame[14:]
	var src, dst netip.Addr
	var u []byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeIPv4:
		if len(p) < 28 || p[0] != 0x45 || p[9] != 17 {
			return d, false
		}
		d.length = int(binary.BigEndian.Uint16(p[2:]))
		if d.length > len(p) || d.length < 28 {
			return d, false
		}
		d.tos, d.ttl, d.df = p[1], p[8], p[6]&0x40 != 0
		d.fragment = p[6]&0x3f != 0 || p[7] != 0
		src, dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		u = p[20:d.length]
	case typeIPv6:
		if len(p) < 48 || p[6] != 17 {
			return d, false
		}
		d.length = 40 + int(binary.BigEndian.Uint16(p[4:]))
		if d.length > len(p) || d.length < 48 {
			return d, false
		}
		d.tos, d.ttl, d.df = p[0]<<4|p[1]>>4, p[7], true
		src, dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		u = p[40:d.length]
	default:
		return d, false
	}
	d.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(u))
	d.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(u[2:]))
	n := binary.BigEndian.Uint16(u[4:])
	switch {
	case binary.BigEndian.Uint16(u[6:]) == 0:
		d.csum = csumZero
	case int(n) != len(u) || sum16(uint32(n)+17, src.AsSlice(), dst.AsSlice(), u) != 0xffff:
		d.csum = csumWrong
	}
	d.payload = u[8:]
	return d, true
}

// flow names the inner flow of a frame: addresses, protocol and ports of TCP
// or UDP over IPv4. Other frames have none.
func flow(frame []byte) string {
	if len(frame) < 14+24 || binary.BigEndian.Uint16(frame[12:]) != typeIPv4 || frame[14] != 0x45 {
		return ""
	}
	p := frame[14:]
	if p[9] != 6 && p[9] != 17 {
		return ""
	}
	return fmt.Sprintf("%d %s:%d > %s:%d", p[9],
		netip.AddrFrom4([4]byte(p[12:16])), binary.BigEndian.Uint16(p[20:]),
		netip.AddrFrom4([4]byte(p[16:20])), binary.BigEndian.Uint16(p[22:]))
}

// chatter tells the frames with which a host's own stack manages a link: ARP,
// IGMP, multicast listener and neighbour discovery.
func chatter(frame []byte) bool {
	if len(frame) < 14 {
		return false
	}
	p := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		return true
	case typeIPv4:
		return len(p) > 20 && p[9] == 2
	case typeIPv6:
		// Multicast listener reports have a hop-by-hop header of 8 bytes.
		if len(p) > 48 && p[6] == 0 && p[40] == 58 {
			p = p[8:]
		} else if len(p) <= 40 || p[6] != 58 {
			return false
		}
		return p[40] >= 130 && p[40] <= 143
	}
	return false
}
