package geneve

import (
	"fmt"
	"strconv"
	"strings"
)

// VNI is a Virtual Network Identifier, 24 bits (RFC 8926 section 3.4). No
// value is reserved: 0 and MaxVNI are as good as any other.
type VNI uint32

// MaxVNI is the largest VNI.
const MaxVNI VNI = 1<<24 - 1

// Valid reports whether v fits the 24 bits of the header.
func (v VNI) Valid() bool { return v <= MaxVNI }

// String formats v in decimal, which ParseVNI reads back.
func (v VNI) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVNI reads a VNI from 0 to 16777215, in decimal or, after 0x, in
// hexadecimal. A leading zero is refused: some tools read such a number as
// octal, so two ends could come to disagree about one spelling.
func ParseVNI(s string) (VNI, error) {
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = hex, 16
	} else if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%q is not a VNI: write decimal without leading zeros, or hexadecimal after 0x", s)
	}
	n, err := strconv.ParseUint(digits, base, 24)
	if err != nil {
		return 0, fmt.Errorf("%q is not a VNI: want a number from 0 to %d", s, MaxVNI)
	}
	return VNI(n), nil
}

// PutVNI writes v into an encoded header, of which it needs the fixed part.
func PutVNI(header []byte, v VNI) {
	_ = header[HeaderLen-1]
	header[4], header[5], header[6] = byte(v>>16), byte(v>>8), byte(v)
}
