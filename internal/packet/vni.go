package packet

import "strconv"

// VNI is a virtual network identifier, 24 bits in GENEVE (RFC 8926 section 3.4) and VXLAN
// (RFC 7348 section 5). No value is reserved: 0 and MaxVNI are as good as any other.
type VNI uint32

// MaxVNI is the largest VNI.
const MaxVNI VNI = 1<<24 - 1

// Valid reports whether v fits the 24 bits of a header.
func (v VNI) Valid() bool { return v <= MaxVNI }

// String formats v in decimal.
func (v VNI) String() string { return strconv.FormatUint(uint64(v), 10) }
