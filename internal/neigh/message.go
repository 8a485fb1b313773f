package neigh

import (
	"encoding/binary"
	"net/netip"

	"gvtep/internal/packet"
)

const (
	etherTypeARP = 0x0806

	// Offsets in an ARP packet for IPv4 over Ethernet (RFC 826).
	arpOp        = 6
	arpSender    = 8 // MAC, then IPv4 address
	arpSenderIP  = 14
	arpTarget    = 18 // the same
	arpTargetIP  = 24
	arpLen       = 28
	arpRequest   = 1
	arpReply     = 2
	arpHeadBytes = "\x00\x01\x08\x00\x06\x04" // Ethernet, IPv4, and how long their addresses are

	// Solicitations and advertisements (RFC 4861 sections 4.3 and 4.4).
	ipv6Len       = 40
	ndSolicit     = 135
	ndAdvertise   = 136
	ndFlags       = 4
	ndTarget      = 8
	ndLen         = 24 // options follow
	ndRouter      = 0x80
	ndSolicited   = 0x40
	ndOverride    = 0x20
	ndHopLimit    = 255
	optSource     = 1 // source link-layer address
	optTarget     = 2
	optLinkLayer  = 8 // how long these two are on Ethernet
	advertiseSize = ndLen + optLinkLayer
)

// MaxReply is the length of the longest reply: an advertisement behind two tags.
const MaxReply = 14 + 2*4 + ipv6Len + advertiseSize

// message is an ARP packet or a neighbour discovery message that is valid in
// form, inside its frame.
type message struct {
	l2   int    // length of the link header with its tags
	arp  []byte // arpLen bytes, if it is ARP
	ipv6 []byte // the IPv6 header, if not
	nd   []byte // its payload, with a valid checksum
}

// read finds the message in a frame. For others it returns quickly.
func read(frame []byte, h *packet.Headers, m *message) bool {
	m.l2 = 14 + 4*int(h.Tags)
	switch {
	case h.EtherType == etherTypeARP:
		if h.Tags > 2 || len(frame) < m.l2+arpLen {
			return false
		}
		m.arp = frame[m.l2:][:arpLen]
		return string(m.arp[:arpOp]) == arpHeadBytes && m.arp[arpOp] == 0
	case h.Version == 6 && h.Proto == packet.ProtoICMPv6:
		return readND(frame, h, m)
	}
	return false
}

// readND checks what RFC 4861 sections 7.1.1 and 7.1.2 have in common.
// Extension headers between IPv6 and ICMPv6 are allowed there but not here:
// nobody sends them, but for fragments, which RFC 6980 forbids.
func readND(frame []byte, h *packet.Headers, m *message) bool {
	l4, end := m.l2+ipv6Len, int(h.End)
	if h.Tags > 2 || int(h.L3) != m.l2 || end > len(frame) || end < l4+ndLen {
		return false
	}
	m.ipv6, m.nd = frame[m.l2:l4], frame[l4:end]
	if t := m.nd[0]; t != ndSolicit && t != ndAdvertise {
		return false
	}
	if m.ipv6[6] != packet.ProtoICMPv6 || int(binary.BigEndian.Uint16(m.ipv6[4:])) != len(m.nd) {
		return false
	}
	return h.TTL == ndHopLimit && m.nd[1] == 0 &&
		packet.Fold(packet.Sum(m.nd, packet.PseudoSum(frame, h, len(m.nd)))) == 0xffff
}

// linkLayer finds the option of that type, with the address of a station, and
// reports whether there are others, and whether all are valid.
func linkLayer(options []byte, typ byte) (mac packet.MAC, found, others, valid bool) {
	for len(options) > 0 {
		if len(options) < 8 {
			return mac, found, others, false
		}
		n := int(options[1]) * 8
		if n == 0 || n > len(options) {
			return mac, found, others, false
		}
		if options[0] == typ && n == optLinkLayer && !found {
			mac, found = packet.MAC(options[2:8]), true
		} else {
			others = true
		}
		options = options[n:]
	}
	return mac, found, others, true
}

// sight reads what a frame's sender says of itself.
func sight(frame []byte, h *packet.Headers, s *sighting) bool {
	var m message
	if !read(frame, h, &m) {
		return false
	}
	src := packet.MAC(frame[6:12])
	var addr netip.Addr
	if m.arp != nil {
		if op := m.arp[arpOp+1]; op != arpRequest && op != arpReply {
			return false
		}
		addr = netip.AddrFrom4([4]byte(m.arp[arpSenderIP:]))
		s.mac, s.flags = packet.MAC(m.arp[arpSender:arpSenderIP]), true
	} else {
		typ := byte(optSource)
		raw := m.ipv6[8:24]
		if m.nd[0] == ndAdvertise {
			typ, raw = optTarget, m.nd[ndTarget:ndLen]
			s.flags = true
			s.router, s.anycast = m.nd[ndFlags]&ndRouter != 0, m.nd[ndFlags]&ndOverride == 0
			if m.ipv6[24] == 0xff && m.nd[ndFlags]&ndSolicited != 0 {
				return false // section 7.1.2
			}
		}
		addr = netip.AddrFrom16([16]byte(raw))
		mac, found, _, valid := linkLayer(m.nd[ndLen:], typ)
		if !valid {
			return false
		}
		if s.mac = mac; !found {
			s.mac, s.unnamed = src, true
		}
	}
	if !packet.IsStation(addr) {
		return false
	}
	s.key = key{addr.As16(), vlans(frame, h)}
	s.doubtful = s.mac != src || !isStationMAC(s.mac)
	return true
}

// question is a request that may be answered.
type question struct {
	message
	key key
}

// ask reads a request that may be answered.
func ask(frame []byte, h *packet.Headers, q *question) bool {
	if len(frame) < 14 || frame[0]&1 == 0 || !read(frame, h, &q.message) {
		return false
	}
	src := packet.MAC(frame[6:12])
	var from, to netip.Addr
	var mac packet.MAC
	if a := q.arp; a != nil {
		if a[arpOp+1] != arpRequest {
			return false
		}
		from, to = netip.AddrFrom4([4]byte(a[arpSenderIP:])), netip.AddrFrom4([4]byte(a[arpTargetIP:]))
		mac = packet.MAC(a[arpSender:arpSenderIP])
	} else {
		if q.nd[0] != ndSolicit || q.ipv6[24] != 0xff {
			return false
		}
		from, to = netip.AddrFrom16([16]byte(q.ipv6[8:24])), netip.AddrFrom16([16]byte(q.nd[ndTarget:ndLen]))
		var found, others, valid bool
		if mac, found, others, valid = linkLayer(q.nd[ndLen:], optSource); !found || others || !valid {
			return false
		}
	}
	// A sender without an address probes, one that asks for its own announces it.
	if !packet.IsStation(from) || !packet.IsStation(to) || from == to || mac != src || !isStationMAC(mac) {
		return false
	}
	q.key = key{to.As16(), vlans(frame, h)}
	return true
}

// reply writes the reply to buf. Its source is the station's MAC, so that
// switches on the way learn where that is (RFC 9161 section 3.2).
func (q *question) reply(frame []byte, e *entry, buf []byte) []byte {
	b := append(buf[:0], frame[6:12]...)
	b = append(b, e.mac[:]...)
	b = append(b, frame[12:q.l2]...) // tags and EtherType
	if a := q.arp; a != nil {
		b = append(b, arpHeadBytes...)
		b = append(b, 0, arpReply)
		b = append(b, e.mac[:]...)
		b = append(b, a[arpTargetIP:arpLen]...)
		return append(b, a[arpSender:arpTarget]...)
	}
	b = append(b, 0x60, 0, 0, 0, 0, advertiseSize, packet.ProtoICMPv6, ndHopLimit)
	b = append(b, q.nd[ndTarget:ndLen]...)
	b = append(b, q.ipv6[8:24]...)
	flags := byte(ndSolicited)
	if e.router {
		flags |= ndRouter
	}
	if !e.anycast {
		flags |= ndOverride
	}
	b = append(b, ndAdvertise, 0, 0, 0, flags, 0, 0, 0)
	b = append(b, q.nd[ndTarget:ndLen]...)
	b = append(b, optTarget, optLinkLayer/8)
	b = append(b, e.mac[:]...)
	h := packet.Headers{Version: 6, Proto: packet.ProtoICMPv6, L3: uint16(q.l2)}
	nd := b[q.l2+ipv6Len:]
	binary.BigEndian.PutUint16(nd[2:], ^packet.Fold(packet.Sum(nd, packet.PseudoSum(b, &h, len(nd)))))
	return b
}

// vlans returns the VLAN IDs of a frame with a whole link header. A tag with
// VLAN ID 0 carries a priority only (IEEE 802.1Q table 9-2).
func vlans(frame []byte, h *packet.Headers) (ids [2]uint16) {
	for i := range min(int(h.Tags), 2) {
		ids[i] = binary.BigEndian.Uint16(frame[14+4*i:]) & 0xfff
	}
	return ids
}

func isStationMAC(m packet.MAC) bool { return !m.IsGroup() && !m.IsZero() }
