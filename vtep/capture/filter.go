package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// Filter says which packets are wanted. The zero value wants all.
type Filter struct {
	terms []term // ordered by word
	inner bool   // some look at headers of the frame
}

// word is what a term is about.
type word uint8

const (
	wordHost word = iota
	wordMAC
	wordPort
	wordProto
	wordReason
	wordVLAN
	wordVNI
)

// Words are those that a filter is made of, in the order of their documentation, and Usage what
// each means.
var (
	words = [...]string{wordHost: "host", wordMAC: "mac", wordPort: "port", wordProto: "proto", wordReason: "reason", wordVLAN: "vlan", wordVNI: "vni"}
	usage = [...]string{
		wordHost:   "ADDR or PREFIX: an outer or inner address is in it, one of an ARP packet, too",
		wordMAC:    "LLADDR: source or destination of the frame",
		wordPort:   "PORT: source or destination of inner TCP, UDP or SCTP",
		wordProto:  "NAME or NUMBER: ip, ip6, arp, tcp, udp, sctp, icmp, icmp6, or an IP protocol number",
		wordReason: "REASON: a drop for this reason (gvtep explain has them); nothing that was not dropped",
		wordVLAN:   "VID: the VLAN of the frame on the device; 0: no tag",
		wordVNI:    "VNI: of the tunnel header",
	}
)

// Words returns the words of a filter, and what stands behind each and what it means.
func Words() (names, meanings []string) { return words[:], usage[:] }

// term is one condition.
type term struct {
	word   word
	not    bool
	prefix netip.Prefix
	mac    packet.MAC
	number uint32
}

// etherTypes are values of proto that are EtherTypes, marked by a bit above those of IP protocols.
const etherType = 1 << 16

var protos = map[string]uint32{
	"ip": etherType | packet.EtherTypeIPv4, "ip6": etherType | packet.EtherTypeIPv6, "arp": etherType | etherTypeARP,
	"tcp": packet.ProtoTCP, "udp": packet.ProtoUDP, "sctp": packet.ProtoSCTP, "icmp": 1, "icmp6": packet.ProtoICMPv6,
}

const etherTypeARP = 0x0806

// ParseFilter reads "[not] WORD VALUE ...". Of several values of one word any does, of different
// words all must hold, and none of those behind not may.
func ParseFilter(args []string) (f Filter, err error) {
	for len(args) > 0 {
		var t term
		if t.not = args[0] == "not"; t.not {
			args = args[1:]
		}
		if len(args) == 0 {
			return f, errors.New("filter: nothing behind not")
		}
		i := slices.Index(words[:], args[0])
		switch {
		case i < 0:
			return f, fmt.Errorf("filter: unknown word %q: want %s, or not before one of them", args[0], strings.Join(words[:], ", "))
		case len(args) == 1:
			return f, fmt.Errorf("filter: nothing behind %s: want %s", args[0], usage[i])
		}
		t.word = word(i)
		if !t.parse(args[1]) {
			return f, fmt.Errorf("filter: %s %q: want %s", args[0], args[1], usage[i])
		}
		f.terms = append(f.terms, t)
		f.inner = f.inner || t.word != wordReason && t.word != wordVNI
		args = args[2:]
	}
	slices.SortStableFunc(f.terms, func(a, b term) int { return int(a.word) - int(b.word) })
	return f, nil
}

// parse reads the value of a term.
func (t *term) parse(s string) bool {
	limit, err := uint64(0), error(nil)
	switch t.word {
	case wordHost:
		if t.prefix, err = netip.ParsePrefix(s); err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(s); err == nil {
				a = a.Unmap().WithZone("")
				t.prefix = netip.PrefixFrom(a, a.BitLen())
			}
		}
		return err == nil
	case wordMAC:
		mac, err := net.ParseMAC(s)
		return err == nil && copy(t.mac[:], mac) == len(mac) && len(mac) == len(t.mac)
	case wordReason:
		i := slices.IndexFunc(count.Reasons(), func(r count.Reason) bool { return r.String() == s })
		t.number = uint32(max(i, 0))
		return i >= 0
	case wordProto:
		if n, known := protos[s]; known {
			t.number = n
			return true
		}
		limit = 255
	case wordPort:
		limit = 65535
	case wordVLAN:
		limit = 4094
	case wordVNI:
		limit = 1<<24 - 1
	}
	n, err := strconv.ParseUint(s, 10, 32)
	t.number = uint32(n)
	return err == nil && n <= limit
}

// Match reports whether a packet is wanted. frame is what stands behind the tunnel header, nil:
// not known. h is overwritten.
func (f *Filter) Match(r *Record, frame []byte, h *packet.Headers) bool {
	if len(f.terms) == 0 {
		return true
	}
	if f.inner {
		packet.Walk(frame, r.IP, h)
	}
	for i := 0; i < len(f.terms); {
		word, wanted, found := f.terms[i].word, false, false
		for ; i < len(f.terms) && f.terms[i].word == word; i++ {
			t := &f.terms[i]
			matches := t.match(r, frame, h)
			switch {
			case t.not && matches:
				return false
			case !t.not:
				wanted, found = true, found || matches
			}
		}
		if wanted && !found {
			return false
		}
	}
	return true
}

func (t *term) match(r *Record, frame []byte, h *packet.Headers) bool {
	switch t.word {
	case wordVNI:
		return uint32(r.VNI) == t.number
	case wordReason:
		return r.Point == Drops && uint32(r.Reason) == t.number
	case wordHost:
		return t.prefix.Contains(r.Source.Addr()) || t.prefix.Contains(r.Dest.Addr()) || t.ofInner(r, frame, h)
	case wordMAC:
		return !r.IP && len(frame) >= 12 && (packet.MAC(frame[:6]) == t.mac || packet.MAC(frame[6:12]) == t.mac)
	case wordVLAN:
		vlan := uint32(r.VLAN)
		if h.Tags > 0 && vlan == 0 {
			vlan = uint32(binary.BigEndian.Uint16(frame[14:])) & 0xfff
		}
		return frame != nil && vlan == t.number
	case wordProto:
		if t.number&etherType != 0 {
			return frame != nil && uint32(h.EtherType) == t.number&0xffff || r.IP && h.Version != 0 && (h.Version == 4) == (t.number&0xffff == packet.EtherTypeIPv4) && t.number&0xffff != etherTypeARP
		}
		return h.Version != 0 && uint32(h.Proto) == t.number
	case wordPort:
		return h.L4 != 0 && (h.Proto == packet.ProtoTCP || h.Proto == packet.ProtoUDP || h.Proto == packet.ProtoSCTP) &&
			(uint32(binary.BigEndian.Uint16(frame[h.L4:])) == t.number || uint32(binary.BigEndian.Uint16(frame[h.L4+2:])) == t.number)
	}
	return false
}

// ofInner reports whether an address of the frame is in the prefix.
func (t *term) ofInner(r *Record, frame []byte, h *packet.Headers) bool {
	switch {
	case h.Version == 4:
		ip := frame[h.L3:]
		return t.prefix.Contains(netip.AddrFrom4([4]byte(ip[12:16]))) || t.prefix.Contains(netip.AddrFrom4([4]byte(ip[16:20])))
	case h.Version == 6:
		ip := frame[h.L3:]
		return t.prefix.Contains(netip.AddrFrom16([16]byte(ip[8:24]))) || t.prefix.Contains(netip.AddrFrom16([16]byte(ip[24:40])))
	case h.EtherType == etherTypeARP && !r.IP:
		arp := 14 + 4*int(h.Tags)
		return len(frame) >= arp+28 && (t.prefix.Contains(netip.AddrFrom4([4]byte(frame[arp+14:arp+18]))) ||
			t.prefix.Contains(netip.AddrFrom4([4]byte(frame[arp+24:arp+28]))))
	}
	return false
}
