package packet

import "encoding/binary"

// Headers is what Walk found in a frame. Offsets count from the frame's
// first byte; an offset of 0 means "not there" for L4 always, and for L3 on
// a TAP (on a TUN the IP header is at 0: test Version instead).
type Headers struct {
	EtherType uint16 // behind the VLAN tags; 0 if the frame ends before it
	Tags      uint8  // VLAN tags passed (0-2); a third is not looked behind
	Version   uint8  // 4 or 6 if a whole, sane IP header was found, else 0
	Proto     uint8  // transport protocol, behind IPv6 extension headers
	TOS       uint8  // TOS or traffic class octet, if Version is not 0
	TTL       uint8  // TTL or hop limit, if Version is not 0
	Fragment  bool   // any fragment, the first too
	L3        uint16 // of the IP header, if Version is not 0
	L4        uint16 // of a whole TCP or UDP header (or first 4 bytes of SCTP/DCCP ports); 0 for fragments
	End       uint16 // where the IP packet ends by its own length field, never beyond the frame
}

// EtherTypes and IP protocol numbers that the walk knows (IANA).
const (
	EtherTypeIPv4     = 0x0800
	EtherTypeEthernet = 0x6558 // Transparent Ethernet Bridging: a frame
	EtherTypeVLAN     = 0x8100 // 802.1Q customer tag
	EtherTypeIPv6     = 0x86dd
	EtherTypeQinQ     = 0x88a8 // 802.1ad service tag

	etherTypeOldQinQ = 0x9100 // service tag of switches older than 802.1ad

	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoDCCP   = 33
	ProtoICMPv6 = 58
	ProtoSCTP   = 132

	protoHopByHop = 0
	protoRouting  = 43
	protoFragment = 44
	protoAH       = 51
	protoDestOpts = 60
)

// maxExtensions bounds the walk over IPv6 extension headers. RFC 8200 section
// 4.1 gives each of them a place once (destination options twice), which makes
// six; more is nobody's honest traffic.
const maxExtensions = 8

// Walk fills h with what is in frame: an Ethernet frame, or an IP packet if l3
// is set. No field of h keeps an older value. Nothing outside frame is read,
// whatever its length fields say, and everything that is found lies inside it.
//
// A packet that claims to be longer than the frame is walked as far as it
// goes (End is the end of the frame): whoever cuts or joins must compare the
// length field itself. End cannot say more than 65535; a 64 KiB super-frame
// with its link header may be a few bytes longer.
func Walk(frame []byte, l3 bool, h *Headers) {
	*h = Headers{}
	off := 0
	if l3 {
		if len(frame) == 0 {
			return
		}
		switch frame[0] >> 4 {
		case 4:
			h.EtherType = EtherTypeIPv4
		case 6:
			h.EtherType = EtherTypeIPv6
		}
	} else {
		if len(frame) < 14 {
			return
		}
		off = 14
		et := binary.BigEndian.Uint16(frame[12:])
		for h.Tags < 2 && (et == EtherTypeVLAN || et == EtherTypeQinQ || et == etherTypeOldQinQ) {
			h.Tags++
			off += 4
			if len(frame) < off {
				return
			}
			et = binary.BigEndian.Uint16(frame[off-2:])
		}
		h.EtherType = et
	}
	switch h.EtherType {
	case EtherTypeIPv4:
		h.walkIPv4(frame, off)
	case EtherTypeIPv6:
		h.walkIPv6(frame, off)
	}
}

func (h *Headers) walkIPv4(frame []byte, l3 int) {
	ip := frame[l3:]
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return
	}
	headLen := int(ip[0]&15) * 4
	total := int(binary.BigEndian.Uint16(ip[2:]))
	if headLen < 20 || headLen > len(ip) || total < headLen {
		return
	}
	end := min(l3+total, len(frame), 65535)
	h.Version, h.TOS, h.TTL, h.Proto = 4, ip[1], ip[8], ip[9]
	h.L3, h.End = uint16(l3), uint16(end)
	// RFC 791: more-fragments bit and the 13 bits of offset.
	if binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
		h.Fragment = true
		return
	}
	h.transport(frame, l3+headLen, end)
}

func (h *Headers) walkIPv6(frame []byte, l3 int) {
	ip := frame[l3:]
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return
	}
	end := min(l3+40+int(binary.BigEndian.Uint16(ip[4:])), len(frame), 65535)
	h.Version, h.TOS, h.TTL, h.Proto = 6, ip[0]<<4|ip[1]>>4, ip[7], ip[6]
	h.L3, h.End = uint16(l3), uint16(end)
	off := l3 + 40
	for range maxExtensions + 1 {
		var size int // of this extension header
		switch h.Proto {
		case protoHopByHop, protoRouting, protoDestOpts, protoAH:
			if end-off < 8 {
				return
			}
			if size = (int(frame[off+1]) + 1) * 8; h.Proto == protoAH {
				size = (int(frame[off+1]) + 2) * 4 // RFC 4302 section 2.2: in words, less two
			}
			if end-off < size {
				return
			}
		case protoFragment:
			// Its next header is the same in all fragments of one packet
			// (RFC 8200 section 4.5); what follows is only in the first.
			if end-off >= 8 {
				h.Proto = frame[off]
			}
			h.Fragment = true
			return
		default:
			h.transport(frame, off, end)
			return
		}
		h.Proto = frame[off]
		off += size
	}
}

// transport notes the transport header at off if it is whole.
func (h *Headers) transport(frame []byte, off, end int) {
	room := end - off
	switch h.Proto {
	case ProtoTCP:
		if room < 20 {
			return
		}
		if n := int(frame[off+12]>>4) * 4; n < 20 || n > room {
			return
		}
	case ProtoUDP:
		if room < 8 {
			return
		}
	case ProtoSCTP, ProtoDCCP:
		if room < 4 {
			return
		}
	default:
		return
	}
	h.L4 = uint16(off)
}
