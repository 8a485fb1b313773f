package option

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gvtep/internal/packet"
)

// SendRule gives packets from the device, which it matches by what is in them, options, a DSCP or
// a VNI of their own. It can be compared.
type SendRule struct {
	Src, Dst         netip.Prefix // of the inner IP packet; the zero Prefix: any
	VLAN             uint16       // ID; 0: any, and none
	DSCP             Range        // of the inner IP packet
	Proto            int          // transport protocol; -1: any
	SrcPort, DstPort Range        // of TCP, UDP, SCTP and DCCP; no fragment has one

	HasOptions bool
	Options    Sent // in the place of those of tunnel and peer
	OuterDSCP  int  // 0 to 63; -1: as without the rule
	HasVNI     bool
	VNI        packet.VNI
}

// Range is numbers from First to Last, if Set; else any will do.
type Range struct {
	Set         bool
	First, Last uint16
}

func (r Range) has(n uint16) bool { return r.First <= n && n <= r.Last }

func (r Range) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Matches reports whether a frame with the headers h is one that the rule is for. vid is the VLAN
// of its segment, 0 if that is of none. It does not allocate.
func (u *SendRule) Matches(frame []byte, h *packet.Headers, vid uint16) bool {
	if u.VLAN != 0 && u.VLAN != vlanOf(frame, h, vid) {
		return false
	}
	if u.DSCP.Set && (h.Version == 0 || !u.DSCP.has(uint16(h.TOS>>2))) {
		return false
	}
	if u.Proto >= 0 && (h.Version == 0 || u.Proto != int(h.Proto)) {
		return false
	}
	if u.SrcPort.Set || u.DstPort.Set {
		if h.L4 == 0 {
			return false
		}
		ports := frame[h.L4:]
		if u.SrcPort.Set && !u.SrcPort.has(binary.BigEndian.Uint16(ports)) || u.DstPort.Set && !u.DstPort.has(binary.BigEndian.Uint16(ports[2:])) {
			return false
		}
	}
	if !u.Src.IsValid() && !u.Dst.IsValid() {
		return true
	}
	var src, dst netip.Addr
	switch h.Version {
	case 4:
		ip := frame[h.L3:]
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	case 6:
		ip := frame[h.L3:]
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	default:
		return false
	}
	return (!u.Src.IsValid() || u.Src.Contains(src)) && (!u.Dst.IsValid() || u.Dst.Contains(dst))
}

// vlanOf is the VLAN ID of a frame: vid, or that of its outer tag, or 0.
func vlanOf(frame []byte, h *packet.Headers, vid uint16) uint16 {
	if vid == 0 && h.Tags > 0 {
		return binary.BigEndian.Uint16(frame[14:]) & 0xfff
	}
	return vid
}

// Longest is how many bytes of options the longest of several rules adds; at least 0.
func Longest(rules []SendRule) (n int) {
	for i := range rules {
		n = max(n, len(rules[i].Options.Set))
	}
	return n
}

// protocols are the words for transport protocols.
var protocols = []struct {
	word   string
	number int
}{{"tcp", 6}, {"udp", 17}, {"icmp", 1}, {"icmpv6", 58}, {"sctp", 132}}

// SendWords are the words of a rule: of what a packet has to be, and of what it gets.
func SendWords() (when, then []string) {
	return []string{"src", "dst", "vlan", "dscp", "proto", "sport", "dport"}, []string{"options", "dscp", "vni"}
}

// ParseSendRule reads a rule: "any then WHAT..." or "WHEN... then WHAT...". WHEN is one of src
// PREFIX, dst PREFIX, vlan VID, dscp N[-N], proto NAME, sport N[-N] and dport N[-N], all of which
// must hold; WHAT is one of options CLASS:TYPE:DATA[,...] (or none), dscp N and vni VNI.
func (r *Registry) ParseSendRule(text string) (SendRule, error) {
	u := SendRule{Proto: -1, OuterDSCP: -1}
	words := strings.Fields(text)
	at := slices.Index(words, "then")
	if at <= 0 || at == len(words)-1 {
		return u, errors.New("want WHEN... then WHAT..., such as dst 10.1.0.0/16 then options ff01:01:0000004d; any stands for all")
	}
	conditions, results := words[:at], words[at+1:]
	if len(conditions) == 1 && conditions[0] == "any" {
		conditions = nil
	}
	when, then := SendWords()
	if err := pairs(conditions, when, u.condition); err != nil {
		return u, err
	}
	err := pairs(results, then, func(word, value string) error { return u.result(r, word, value) })
	if err == nil && (u.SrcPort.Set || u.DstPort.Set) && u.Proto >= 0 && !hasPorts(u.Proto) {
		err = fmt.Errorf("proto %s has no ports", protocolWord(u.Proto))
	}
	return u, err
}

func hasPorts(protocol int) bool {
	switch protocol {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP, packet.ProtoDCCP:
		return true
	}
	return false
}

// pairs reads words and their values, each word once.
func pairs(words, known []string, take func(word, value string) error) error {
	seen := map[string]bool{}
	for i := 0; i < len(words); i += 2 {
		word := words[i]
		switch {
		case !slices.Contains(known, word):
			return fmt.Errorf("%q: want %s", word, strings.Join(known, ", "))
		case seen[word]:
			return fmt.Errorf("%s is given twice", word)
		case i+1 == len(words):
			return fmt.Errorf("%s needs a value", word)
		}
		seen[word] = true
		if err := take(word, words[i+1]); err != nil {
			return fmt.Errorf("%s %s: %w", word, words[i+1], err)
		}
	}
	return nil
}

func (u *SendRule) condition(word, value string) (err error) {
	switch word {
	case "src":
		u.Src, err = prefix(value)
	case "dst":
		u.Dst, err = prefix(value)
	case "vlan":
		var r Range
		if r, err = numbers(value, 1, 4094); err == nil && r.First != r.Last {
			err = fmt.Errorf("want one VLAN ID, 1 to 4094")
		}
		u.VLAN = r.First
	case "dscp":
		u.DSCP, err = numbers(value, 0, 63)
	case "sport":
		u.SrcPort, err = numbers(value, 0, 65535)
	case "dport":
		u.DstPort, err = numbers(value, 0, 65535)
	case "proto":
		u.Proto, err = protocol(value)
	}
	return err
}

func (u *SendRule) result(names *Registry, word, value string) (err error) {
	switch word {
	case "options":
		u.HasOptions = true
		if value != "none" {
			u.Options, err = names.Parse(value)
		}
	case "dscp":
		var r Range
		if r, err = numbers(value, 0, 63); err == nil && r.First != r.Last {
			err = fmt.Errorf("want one DSCP, 0 to 63")
		}
		u.OuterDSCP = int(r.First)
	case "vni":
		n, wrong := strconv.ParseUint(value, 0, 24)
		if wrong != nil {
			return fmt.Errorf("a VNI is 0 to 16777215")
		}
		u.HasVNI, u.VNI = true, packet.VNI(n)
	}
	return err
}

func prefix(value string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if a, wrong := netip.ParseAddr(value); wrong == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Zone() != "" || p.Addr().Is4In6():
		return p, fmt.Errorf("want a prefix such as 10.1.0.0/16")
	case p != p.Masked():
		return p, fmt.Errorf("there are bits behind the prefix, try %s", p.Masked())
	}
	return p, nil
}

// numbers reads N or N-N.
func numbers(value string, least, most uint16) (Range, error) {
	a, b, both := strings.Cut(value, "-")
	if !both {
		b = a
	}
	first, err1 := strconv.ParseUint(a, 0, 16)
	last, err2 := strconv.ParseUint(b, 0, 16)
	if err1 != nil || err2 != nil || first > last || first < uint64(least) || last > uint64(most) {
		return Range{}, fmt.Errorf("want a number from %d to %d, or two with - between, the smaller first", least, most)
	}
	return Range{true, uint16(first), uint16(last)}, nil
}

func protocol(value string) (int, error) {
	for _, p := range protocols {
		if p.word == value {
			return p.number, nil
		}
	}
	n, err := strconv.ParseUint(value, 0, 8)
	if err != nil {
		return -1, fmt.Errorf("want tcp, udp, icmp, icmpv6, sctp or a number up to 255")
	}
	return int(n), nil
}

func protocolWord(number int) string {
	for _, p := range protocols {
		if p.number == number {
			return p.word
		}
	}
	return strconv.Itoa(number)
}

// SendText writes a rule as ParseSendRule reads it.
func (r *Registry) SendText(u SendRule) string {
	var words []string
	put := func(wanted bool, word string, value any) {
		if wanted {
			words = append(words, word, fmt.Sprint(value))
		}
	}
	put(u.Src.IsValid(), "src", u.Src)
	put(u.Dst.IsValid(), "dst", u.Dst)
	put(u.VLAN != 0, "vlan", u.VLAN)
	put(u.DSCP.Set, "dscp", u.DSCP)
	put(u.Proto >= 0, "proto", protocolWord(u.Proto))
	put(u.SrcPort.Set, "sport", u.SrcPort)
	put(u.DstPort.Set, "dport", u.DstPort)
	if words == nil {
		words = []string{"any"}
	}
	words = append(words, "then")
	options := "none"
	if !u.Options.IsZero() {
		options = strings.Join(r.Words(u.Options), ",")
	}
	put(u.HasOptions, "options", options)
	put(u.OuterDSCP >= 0, "dscp", u.OuterDSCP)
	put(u.HasVNI, "vni", u.VNI)
	return strings.Join(words, " ")
}
