package bfd

import (
	"encoding/binary"
	"net/netip"

	"gvtep/internal/packet"
)

// The inner packet of a control packet (RFC 9521 sections 4 and 5): UDP to port 3784 with TTL 255,
// from one virtual access point (VAP) to the other. The VAP is the tunnel's device: its Ethernet
// address, and its IP address if it has one.

// Port is the UDP port of single-hop BFD (RFC 5881 section 4).
const Port = 3784

// minSourcePort is the first of the source ports that RFC 5881 section 4 allows.
const minSourcePort = 49152

const (
	ttl         = 255
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	udpLen      = 8
	// FrameLen is the length of the inner frame of a packet that is sent, in bytes.
	FrameLen = ethernetLen + ipv4Len + udpLen + PacketLen
)

// Address is one end of a session: Ethernet and IP address. A zero IP address stands for none.
type Address struct {
	MAC packet.MAC
	IP  netip.Addr
}

// anybody is where packets go until the other end has said what its Ethernet address is: the
// address that IANA has set aside for BFD over VXLAN (RFC 8971 section 4), for RFC 9521 has none.
var anybody = packet.MAC{0x00, 0x00, 0x5e, 0x00, 0x52, 0x02}

// openVSwitch is where Open vSwitch sends its packets unless it was told another address
// (bfd:bfd_remote_dst_mac).
var openVSwitch = packet.MAC{0x00, 0x23, 0x20, 0x00, 0x00, 0x01}

// AppendFrame appends the inner packet that carries p from one end to the other: an Ethernet frame,
// or with l3 an IP packet. A zero address of to is one that is not known yet. Without an IP address
// of their own the ends are 0.0.0.0 and 127.0.0.1, as the RFC says. source tells sessions apart.
func AppendFrame(dst []byte, l3 bool, from, to Address, source uint32, p *Packet) []byte {
	if !l3 {
		if to.MAC.IsZero() {
			to.MAC = anybody
		}
		dst = append(append(dst, to.MAC[:]...), from.MAC[:]...)
		dst = binary.BigEndian.AppendUint16(dst, packet.EtherTypeIPv4)
	}
	src, far := [4]byte{}, [4]byte{127, 0, 0, 1}
	if from.IP.Is4() {
		src = from.IP.As4()
	}
	if to.IP.Is4() && !to.IP.IsUnspecified() {
		far = to.IP.As4()
	}
	ip := len(dst)
	dst = append(dst, 0x45, 0xc0, 0, ipv4Len+udpLen+PacketLen, 0, 0, 0, 0, ttl, packet.ProtoUDP, 0, 0) // DSCP CS6: network control
	dst = append(append(dst, src[:]...), far[:]...)
	binary.BigEndian.PutUint16(dst[ip+10:], ^packet.Fold(packet.Sum(dst[ip:], 0)))
	udp := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, uint16(minSourcePort+source%(1<<16-minSourcePort)))
	dst = binary.BigEndian.AppendUint16(dst, Port)
	dst = append(dst, 0, udpLen+PacketLen, 0, 0)
	dst = p.Append(dst)
	check := ^udpSum(dst[ip+12:ip+20], dst[udp:])
	if check == 0 {
		check = 0xffff // 0 is none (RFC 768)
	}
	binary.BigEndian.PutUint16(dst[udp+6:], check)
	return dst
}

// udpSum is the checksum over a datagram and the addresses of its IP header.
func udpSum(addresses, datagram []byte) uint16 {
	return packet.Fold(packet.Sum(datagram, packet.Sum(addresses, packet.SumWord(packet.ProtoUDP)+packet.SumWord(uint16(len(datagram))))))
}

// ParseFrame reads the control packet in an inner packet that came with an EtherType, and who sent
// it. own is our end: what is for anybody else is refused (RFC 9521 sections 4.1 and 5.1). It
// does not allocate.
func ParseFrame(frame []byte, protocol uint16, own Address) (p Packet, from Address, err error) {
	if protocol == packet.EtherTypeEthernet {
		if len(frame) < ethernetLen {
			return p, from, ErrPacket
		}
		dst := packet.MAC(frame[:6])
		from.MAC = packet.MAC(frame[6:12])
		if dst != own.MAC && dst != anybody && dst != openVSwitch || from.MAC.IsGroup() || from.MAC.IsZero() {
			return p, from, ErrPacket
		}
		protocol = binary.BigEndian.Uint16(frame[12:])
		frame = frame[ethernetLen:]
	}
	var dst netip.Addr
	var addresses []byte
	switch {
	case protocol == packet.EtherTypeIPv4 && len(frame) >= ipv4Len:
		head, length := int(frame[0]&0xf)*4, int(binary.BigEndian.Uint16(frame[2:]))
		if frame[0]>>4 != 4 || head < ipv4Len || length < head || length > len(frame) ||
			binary.BigEndian.Uint16(frame[6:])&0x3fff != 0 || frame[8] != ttl || frame[9] != packet.ProtoUDP || packet.Fold(packet.Sum(frame[:head], 0)) != 0xffff {
			return p, from, ErrPacket
		}
		from.IP, dst = netip.AddrFrom4([4]byte(frame[12:16])), netip.AddrFrom4([4]byte(frame[16:20]))
		addresses, frame = frame[12:20], frame[head:length]
	case protocol == packet.EtherTypeIPv6 && len(frame) >= ipv6Len:
		length := ipv6Len + int(binary.BigEndian.Uint16(frame[4:]))
		if frame[0]>>4 != 6 || length > len(frame) || frame[6] != packet.ProtoUDP || frame[7] != ttl {
			return p, from, ErrPacket
		}
		from.IP, dst = netip.AddrFrom16([16]byte(frame[8:24])), netip.AddrFrom16([16]byte(frame[24:40]))
		addresses, frame = frame[8:40], frame[ipv6Len:length]
	default:
		return p, from, ErrPacket
	}
	// Open vSwitch has link-local addresses, 169.254.1.0 and 169.254.1.1.
	if dst != own.IP && !dst.IsLoopback() && !dst.IsLinkLocalUnicast() {
		return p, from, ErrPacket
	}
	if len(frame) < udpLen || binary.BigEndian.Uint16(frame[2:]) != Port {
		return p, from, ErrPacket
	}
	length := int(binary.BigEndian.Uint16(frame[4:]))
	if length < udpLen || length > len(frame) || binary.BigEndian.Uint16(frame[6:]) != 0 && udpSum(addresses, frame[:length]) != 0xffff {
		return p, from, ErrPacket
	}
	p, err = Parse(frame[udpLen:length])
	return p, from, err
}
