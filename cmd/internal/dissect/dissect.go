// Package dissect says what the bytes of a packet mean: of a tunnel's datagram from the outer
// headers to the inner ones, or of a frame. It is pure, and takes any bytes.
package dissect

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// Link is what a packet begins with.
type Link uint8

// The links.
const (
	Ethernet Link = iota
	IP            // an IP header
	Tunnel        // a GENEVE or VXLAN header
)

// Field is some bytes of a packet and what they mean.
type Field struct {
	Offset int    `json:"offset"`
	Length int    `json:"length"` // in bytes
	Layer  string `json:"layer"`
	Name   string `json:"name"`
	Value  string `json:"value"`
	Fault  string `json:"fault,omitempty"` // what is wrong with it, and the section that says so
}

// Packet is what a packet means.
type Packet struct {
	Fields  []Field
	Summary string // on one line
}

// Dissect says what data means, the first bytes of a packet of length bytes. names are the GENEVE
// options that have one.
func Dissect(data []byte, length int, link Link, names *option.Registry) Packet {
	d := &dissector{names: names, data: data, length: max(length, len(data)), end: max(length, len(data))}
	switch link {
	case Ethernet:
		d.ethernet()
	case IP:
		d.ip()
	case Tunnel:
		d.tunnel(0)
	}
	return Packet{d.fields, strings.Join(d.summary, " ")}
}

// dissector walks over a packet.
type dissector struct {
	names   *option.Registry
	data    []byte
	length  int // of the packet, of which data may be the beginning
	end     int // of what is looked at, by the length fields so far
	off     int
	inner   bool // behind a tunnel header
	fields  []Field
	summary []string
}

// layer is the name of a header here.
func (d *dissector) layer(name string) string {
	if d.inner {
		return "inner " + name
	}
	return name
}

func (d *dissector) say(format string, args ...any) {
	d.summary = append(d.summary, fmt.Sprintf(format, args...))
}

// header returns the n bytes that a header takes, nil if they are not there, which it says.
func (d *dissector) header(name string, n int, source string) []byte {
	left := d.data[min(d.off, len(d.data)):]
	if len(left) >= n && d.off+n <= d.end {
		return left[:n]
	}
	f := Field{d.off, len(left), d.layer(name), "header", fmt.Sprintf("%d bytes", len(left)), ""}
	if d.off+n <= d.end {
		f.Value += ", the rest was not captured"
	} else {
		f.Fault = fmt.Sprintf("the header takes %d bytes (%s)", n, source)
		d.say("[%s too short]", f.Layer)
	}
	d.fields = append(d.fields, f)
	d.off = len(d.data)
	return nil
}

// field notes a field of the header at hand, at bytes behind its beginning.
func (d *dissector) field(layer string, at, n int, name, value, fault string) {
	if fault != "" {
		d.say("[%s %s: %s]", layer, name, fault)
	}
	d.fields = append(d.fields, Field{d.off + at, n, layer, name, value, fault})
}

func when(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

func number[T ~uint8 | ~uint16 | ~uint32 | ~int](n T) string { return fmt.Sprint(uint64(n)) }

// ethernet walks over an Ethernet header with its VLAN tags.
func (d *dissector) ethernet() {
	h := d.header("Ethernet", 14, "IEEE 802.3 section 3.1")
	if h == nil {
		return
	}
	layer := d.layer("Ethernet")
	to, from := packet.MAC(h[:6]), packet.MAC(h[6:12])
	d.say("%s > %s", net.HardwareAddr(from[:]), net.HardwareAddr(to[:]))
	d.field(layer, 0, 6, "destination", net.HardwareAddr(to[:]).String(),
		when(to[0] == 1 && to[1] == 0x80 && to[2] == 0xc2 && to[3] == 0 && to[4] == 0 && to[5] < 16, "reserved for links, no bridge forwards it (IEEE 802.1Q table 8-1)"))
	d.field(layer, 6, 6, "source", net.HardwareAddr(from[:]).String(), when(from[0]&1 != 0, "a group address is no source (IEEE 802.3 section 3.2.3)"))
	ethertype := binary.BigEndian.Uint16(h[12:])
	d.field(layer, 12, 2, "type", typeName(ethertype), "")
	d.off += 14
	for ethertype == packet.EtherTypeVLAN || ethertype == packet.EtherTypeQinQ {
		tag := d.header("VLAN tag", 4, "IEEE 802.1Q section 9.6")
		if tag == nil {
			return
		}
		vid := binary.BigEndian.Uint16(tag) & 0xfff
		d.say("vlan %d", vid)
		d.field(d.layer("VLAN"), 0, 2, "ID", fmt.Sprintf("%d, priority %d", vid, tag[0]>>5), when(vid == 0xfff, "4095 is reserved (IEEE 802.1Q table 9-2)"))
		ethertype = binary.BigEndian.Uint16(tag[2:])
		d.field(d.layer("VLAN"), 2, 2, "type", typeName(ethertype), "")
		d.off += 4
	}
	switch ethertype {
	case packet.EtherTypeIPv4, packet.EtherTypeIPv6:
		d.ip()
	case etherTypeARP:
		d.arp()
	default:
		d.rest(typeName(ethertype))
	}
}

const etherTypeARP = 0x0806

func typeName(t uint16) string {
	names := map[uint16]string{
		packet.EtherTypeIPv4: "IPv4", packet.EtherTypeIPv6: "IPv6", etherTypeARP: "ARP", packet.EtherTypeEthernet: "Ethernet",
		packet.EtherTypeVLAN: "VLAN", packet.EtherTypeQinQ: "service VLAN", 0x88cc: "LLDP", 0x8847: "MPLS",
	}
	if name := names[t]; name != "" {
		return fmt.Sprintf("0x%04x %s", t, name)
	}
	return fmt.Sprintf("0x%04x", t)
}

func (d *dissector) arp() {
	h := d.header("ARP", 28, "RFC 826")
	if h == nil {
		return
	}
	layer, op := d.layer("ARP"), binary.BigEndian.Uint16(h[6:])
	from, to := netip.AddrFrom4([4]byte(h[14:18])), netip.AddrFrom4([4]byte(h[24:28]))
	word := fmt.Sprintf("operation %d", op)
	switch op {
	case 1:
		word = "request"
		d.say("ARP who has %s tell %s", to, from)
	case 2:
		word = "reply"
		d.say("ARP %s is at %s", from, net.HardwareAddr(h[8:14]))
	}
	d.field(layer, 6, 2, "operation", word, "")
	d.field(layer, 8, 6, "sender", net.HardwareAddr(h[8:14]).String(), "")
	d.field(layer, 14, 4, "sender address", from.String(), "")
	d.field(layer, 18, 6, "target", net.HardwareAddr(h[18:24]).String(), "")
	d.field(layer, 24, 4, "target address", to.String(), "")
	d.off += 28
	d.rest("padding")
}

// rest notes what is not looked into.
func (d *dissector) rest(name string) {
	end := min(d.end, len(d.data))
	if n := end - d.off; n > 0 {
		d.fields = append(d.fields, Field{d.off, n, d.layer("payload"), name, fmt.Sprintf("%d bytes", n), ""})
	}
	d.off = len(d.data)
}

// ip walks over an IP header of either version.
func (d *dissector) ip() {
	h := d.header("IP", 1, "RFC 791 section 3.1")
	if h == nil {
		return
	}
	switch h[0] >> 4 {
	case 4:
		d.ipv4()
	case 6:
		d.ipv6()
	default:
		d.field(d.layer("IP"), 0, 1, "version", number(h[0]>>4), "the version is 4 or 6 (RFC 791 section 3.1, RFC 8200 section 3)")
		d.rest("bytes")
	}
}

func (d *dissector) ipv4() {
	h := d.header("IPv4", 20, "RFC 791 section 3.1")
	if h == nil {
		return
	}
	layer, words := d.layer("IPv4"), int(h[0]&15)
	if words < 5 {
		d.field(layer, 0, 1, "header length", number(words*4), "at least 20 bytes (RFC 791 section 3.1)")
		d.rest("bytes")
		return
	}
	if h = d.header("IPv4", words*4, "RFC 791 section 3.1"); h == nil {
		return
	}
	total := int(binary.BigEndian.Uint16(h[2:]))
	d.field(layer, 0, 1, "version, header length", fmt.Sprintf("4, %d bytes", words*4), "")
	d.field(layer, 1, 1, "DSCP, ECN", dscp(h[1]), "")
	d.field(layer, 2, 2, "total length", number(total), d.lengthFault(total, words*4, "RFC 791 section 3.1"))
	flags := binary.BigEndian.Uint16(h[6:])
	d.field(layer, 4, 2, "identification", fmt.Sprintf("0x%04x", binary.BigEndian.Uint16(h[4:])), "")
	d.field(layer, 6, 2, "flags, offset", fmt.Sprintf("DF %d, MF %d, %d bytes", flags>>14&1, flags>>13&1, flags&0x1fff*8), when(flags>>15 != 0, "the first flag is 0 (RFC 791 section 3.1)"))
	d.field(layer, 8, 1, "TTL", number(h[8]), "")
	d.field(layer, 9, 1, "protocol", protoName(h[9]), "")
	d.field(layer, 10, 2, "checksum", fmt.Sprintf("0x%04x", binary.BigEndian.Uint16(h[10:])), when(checksum(h) != 0, "it does not fit the header (RFC 791 section 3.1)"))
	from, to := netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	d.field(layer, 12, 4, "source", from.String(), "")
	d.field(layer, 16, 4, "destination", to.String(), "")
	if words > 5 {
		d.field(layer, 20, words*4-20, "options", fmt.Sprintf("%d bytes", words*4-20), "")
	}
	if total >= words*4 {
		d.end = min(d.end, d.off+total)
	}
	d.off += words * 4
	if flags&0x1fff != 0 {
		d.say("%s > %s %s fragment", from, to, protoName(h[9]))
		d.rest("fragment")
		return
	}
	d.transport(h[9], from, to)
}

func (d *dissector) ipv6() {
	h := d.header("IPv6", 40, "RFC 8200 section 3")
	if h == nil {
		return
	}
	layer, payload := d.layer("IPv6"), int(binary.BigEndian.Uint16(h[4:]))
	from, to := netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
	d.field(layer, 0, 4, "version, DSCP, ECN, flow label", fmt.Sprintf("6, %s, 0x%05x", dscp(h[0]<<4|h[1]>>4), binary.BigEndian.Uint32(h)&0xfffff), "")
	d.field(layer, 4, 2, "payload length", number(payload), d.lengthFault(payload+40, 40, "RFC 8200 section 3"))
	d.field(layer, 6, 1, "next header", protoName(h[6]), "")
	d.field(layer, 7, 1, "hop limit", number(h[7]), "")
	d.field(layer, 8, 16, "source", from.String(), when(from.IsMulticast(), "a multicast address is no source (RFC 4291 section 2.7)"))
	d.field(layer, 24, 16, "destination", to.String(), "")
	if payload > 0 {
		d.end = min(d.end, d.off+40+payload)
	}
	d.off += 40
	d.transport(h[6], from, to)
}

// lengthFault says what is wrong with the length of a packet whose header begins here.
func (d *dissector) lengthFault(length, header int, source string) string {
	switch {
	case length < header && d.end-d.off <= 65535: // a super-frame may be longer than the field says
		return fmt.Sprintf("shorter than its header (%s)", source)
	case length > d.end-d.off:
		return fmt.Sprintf("only %d bytes are there (%s)", d.end-d.off, source)
	}
	return ""
}

func dscp(tos byte) string {
	return fmt.Sprintf("DSCP %d, ECN %s", tos>>2, [...]string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"}[tos&3])
}

func protoName(p uint8) string {
	names := map[uint8]string{1: "ICMP", packet.ProtoTCP: "TCP", packet.ProtoUDP: "UDP", packet.ProtoICMPv6: "ICMPv6", packet.ProtoSCTP: "SCTP", 2: "IGMP", 47: "GRE", 50: "ESP", 89: "OSPF"}
	if name := names[p]; name != "" {
		return name
	}
	return fmt.Sprintf("protocol %d", p)
}

func (d *dissector) transport(proto uint8, from, to netip.Addr) {
	switch proto {
	case packet.ProtoUDP:
		d.udp(from, to)
	case packet.ProtoTCP:
		d.tcp(from, to)
	case 1, packet.ProtoICMPv6:
		d.icmp(proto, from, to)
	default:
		d.say("%s > %s %s", from, to, protoName(proto))
		d.rest(protoName(proto))
	}
}

func (d *dissector) udp(from, to netip.Addr) {
	h := d.header("UDP", 8, "RFC 768")
	if h == nil {
		return
	}
	layer := d.layer("UDP")
	source, dest, length := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:]), int(binary.BigEndian.Uint16(h[4:]))
	d.say("%s > %s UDP", netip.AddrPortFrom(from, source), netip.AddrPortFrom(to, dest))
	d.field(layer, 0, 2, "source port", number(source), "")
	d.field(layer, 2, 2, "destination port", number(dest), "")
	d.field(layer, 4, 2, "length", number(length), d.lengthFault(length, 8, "RFC 768"))
	check := binary.BigEndian.Uint16(h[6:])
	d.field(layer, 6, 2, "checksum", fmt.Sprintf("0x%04x%s", check, when(check == 0, " (none)")), "")
	d.off += 8
	if !d.inner && d.isTunnel(dest) {
		d.tunnel(dest)
		return
	}
	d.say("length %d", max(length-8, 0))
	d.rest("data")
}

// isTunnel reports whether what stands behind a UDP header is a tunnel's: by its port, or, as
// ports can be chosen, because it has a payload type that a tunnel has.
func (d *dissector) isTunnel(port uint16) bool {
	b := d.data[min(d.off, len(d.data)):]
	if port == encap.Geneve.Port() || port == encap.VXLAN.Port() {
		return true
	}
	if len(b) < encap.HeaderLen {
		return false
	}
	_, protocol := encap.Geneve.Peek(b)
	return encap.LooksLikeVXLAN(b) || b[0]>>6 == 0 && b[7] == 0 &&
		(protocol == packet.EtherTypeEthernet || protocol == packet.EtherTypeIPv4 || protocol == packet.EtherTypeIPv6)
}

func (d *dissector) tcp(from, to netip.Addr) {
	h := d.header("TCP", 20, "RFC 9293 section 3.1")
	if h == nil {
		return
	}
	layer, words := d.layer("TCP"), int(h[12]>>4)
	source, dest := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
	d.say("%s > %s TCP", netip.AddrPortFrom(from, source), netip.AddrPortFrom(to, dest))
	var flags []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if h[13]>>i&1 != 0 {
			flags = append(flags, name)
		}
	}
	d.field(layer, 0, 2, "source port", number(source), "")
	d.field(layer, 2, 2, "destination port", number(dest), "")
	d.field(layer, 4, 4, "sequence", number(binary.BigEndian.Uint32(h[4:])), "")
	d.field(layer, 8, 4, "acknowledgement", number(binary.BigEndian.Uint32(h[8:])), "")
	d.field(layer, 12, 1, "header length", number(words*4), when(words < 5 || d.off+words*4 > d.end, "at least 20 bytes, and inside the packet (RFC 9293 section 3.1)"))
	d.field(layer, 13, 1, "flags", strings.Join(flags, " "), "")
	d.field(layer, 14, 2, "window", number(binary.BigEndian.Uint16(h[14:])), "")
	d.field(layer, 16, 2, "checksum", fmt.Sprintf("0x%04x", binary.BigEndian.Uint16(h[16:])), "")
	d.say("%s length %d", strings.Join(flags, " "), max(d.end-d.off-words*4, 0))
	d.off += 20
	if more := min(words*4-20, len(d.data)-d.off, d.end-d.off); more > 0 {
		d.field(layer, 0, more, "options", fmt.Sprintf("%d bytes", more), "")
		d.off += more
	}
	d.rest("data")
}

func (d *dissector) icmp(proto uint8, from, to netip.Addr) {
	h := d.header(protoName(proto), 4, "RFC 792, RFC 4443 section 2.1")
	if h == nil {
		return
	}
	layer, name := d.layer(protoName(proto)), icmpName(proto, h[0])
	d.say("%s > %s %s %s", from, to, protoName(proto), name)
	d.field(layer, 0, 1, "type", name, "")
	d.field(layer, 1, 1, "code", number(h[1]), "")
	d.field(layer, 2, 2, "checksum", fmt.Sprintf("0x%04x", binary.BigEndian.Uint16(h[2:])), "")
	d.off += 4
	d.rest("message")
}

func icmpName(proto, kind uint8) string {
	names := map[uint8]string{0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}
	if proto == packet.ProtoICMPv6 {
		names = map[uint8]string{1: "unreachable", 2: "packet too big", 3: "time exceeded", 128: "echo request", 129: "echo reply", 133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation", 136: "neighbour advertisement", 143: "listener report"}
	}
	if name := names[kind]; name != "" {
		return name
	}
	return fmt.Sprintf("type %d", kind)
}

func checksum(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
