package packet

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
