// Package icmp tells the sender of a packet that is longer than the tunnel carries how
// long it may be: "fragmentation needed" (RFC 792, RFC 1191) and "packet too big" (RFC
// 4443), as a router would that had the tunnel as its next link. An endpoint has no
// address of its own in the network that it carries, so the message comes from the
// packet's destination, as those of the kernel's tunnels do for bridged packets
// (net/ipv4/ip_tunnel_core.c, iptunnel_pmtud_build_icmp).
package icmp

import (
	"encoding/binary"
	"net/netip"

	"gvtep/internal/packet"
)

const (
	linkLen = 14
	ipv4Len = 20
	ipv6Len = 40
	icmpLen = 8 // of both messages, before the packet that they quote

	// How long a message may be with what it quotes: RFC 1812 section 4.3.2.3, and RFC
	// 4443 section 2.4(c).
	maxIPv4 = 576
	maxIPv6 = 1280

	// MTUs below these are none (RFC 791; RFC 8200 section 5).
	minIPv4 = 68
	minIPv6 = 1280

	typeUnreachable  = 3
	codeFragNeeded   = 4
	typeTooBig       = 2
	typeRedirect6    = 137
	internetControl  = 0xc0 // precedence of errors (RFC 1812 section 4.3.2.5)
	ttl              = 64
	dontFragment     = 0x40
	protoICMP        = 1
	fragmentOffset   = 0x1fff
	destinationIPv4  = 16
	destinationIPv6  = 24
	firstInformative = 128 // ICMPv6 types below are errors
)

// MaxLen is the length of the longest answer, in bytes: behind two VLAN tags.
const MaxLen = linkLen + 2*4 + maxIPv6

// TooBig writes the answer to a packet in a frame, Walk's findings in h, that is longer
// than mtu, in bytes of IP packet. It goes back the way the frame came from, behind the
// same VLAN tags. buf needs room for MaxLen bytes; the answer is a part of it.
//
// There is no answer (RFC 1122 section 3.2.2, RFC 4443 section 2.4(e)) to what is not IP,
// to ICMP errors, to other fragments than the first, to packets from or to more than one
// station, and none that would tell of an MTU which the protocol does not know. An IPv4
// packet that may be fragmented is answered too: nobody on the way does it, and its
// sender does it right as soon as it knows.
func TooBig(frame []byte, h *packet.Headers, mtu int, buf []byte) (answer []byte, ok bool) {
	link := int(h.L3)
	if link > 0 && frame[0]&1 != 0 || len(buf) < MaxLen {
		return nil, false
	}
	b := buf[:0]
	if link > 0 {
		b = append(b, frame[6:12]...)
		b = append(b, frame[0:6]...)
		b = append(b, frame[12:link]...)
	}
	whole := frame[link:h.End]
	switch {
	case h.Version == 4 && mtu >= minIPv4 && answerableIPv4(whole):
		return appendIPv4(b, whole, mtu), true
	case h.Version == 6 && mtu >= minIPv6 && answerableIPv6(whole, h.Proto):
		return appendIPv6(b, whole, mtu), true
	}
	return nil, false
}

// answerableIPv4 takes a packet with a whole header.
func answerableIPv4(p []byte) bool {
	if binary.BigEndian.Uint16(p[6:])&fragmentOffset != 0 {
		return false
	}
	if p[9] == protoICMP {
		payload := p[int(p[0]&15)*4:]
		if len(payload) == 0 {
			return false
		}
		switch payload[0] {
		case 3, 4, 5, 11, 12: // unreachable, source quench, redirect, time exceeded, parameter problem
			return false
		}
	}
	return packet.IsStation(netip.AddrFrom4([4]byte(p[12:]))) && packet.IsStation(netip.AddrFrom4([4]byte(p[destinationIPv4:])))
}

// answerableIPv6 takes a packet with a whole header; proto is what follows its extension
// headers.
func answerableIPv6(p []byte, proto uint8) bool {
	if proto == packet.ProtoICMPv6 {
		// Behind extension headers it may be an error as well.
		if p[6] != proto || len(p) == ipv6Len || p[ipv6Len] < firstInformative || p[ipv6Len] == typeRedirect6 {
			return false
		}
	}
	return packet.IsStation(netip.AddrFrom16([16]byte(p[8:]))) && packet.IsStation(netip.AddrFrom16([16]byte(p[destinationIPv6:])))
}

// appendIPv4 appends the message about p to b.
func appendIPv4(b, p []byte, mtu int) []byte {
	l3 := len(b)
	quote := p[:min(len(p), maxIPv4-ipv4Len-icmpLen)]
	b = append(b, 0x45, internetControl, 0, 0, 0, 0, dontFragment, 0, ttl, protoICMP, 0, 0)
	b = append(b, p[destinationIPv4:ipv4Len]...)
	b = append(b, p[12:destinationIPv4]...)
	b = append(b, typeUnreachable, codeFragNeeded, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(min(mtu, 0xffff)))
	b = append(b, quote...)
	ip := b[l3:]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(ip[:ipv4Len], 0)))
	binary.BigEndian.PutUint16(ip[ipv4Len+2:], ^packet.Fold(packet.Sum(ip[ipv4Len:], 0)))
	return b
}

// appendIPv6 appends the message about p to b.
func appendIPv6(b, p []byte, mtu int) []byte {
	l3 := len(b)
	quote := p[:min(len(p), maxIPv6-ipv6Len-icmpLen)]
	b = append(b, 0x60, 0, 0, 0, 0, 0, packet.ProtoICMPv6, ttl)
	b = append(b, p[destinationIPv6:ipv6Len]...)
	b = append(b, p[8:destinationIPv6]...)
	b = append(b, typeTooBig, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(mtu))
	b = append(b, quote...)
	ip := b[l3:]
	message := ip[ipv6Len:]
	binary.BigEndian.PutUint16(ip[4:], uint16(len(message)))
	h := packet.Headers{Version: 6, Proto: packet.ProtoICMPv6}
	binary.BigEndian.PutUint16(message[2:], ^packet.Fold(packet.Sum(message, packet.PseudoSum(ip, &h, len(message)))))
	return b
}
