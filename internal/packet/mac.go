package packet

import (
	"fmt"
	"net"
)

// MAC is an Ethernet address. The zero MAC is no station's address; in
// forwarding tables it stands for "all that is not known".
type MAC [6]byte

// ParseMAC reads an address like 02:00:00:00:0a:01.
func ParseMAC(s string) (MAC, error) {
	if m, ok := parseColons(s); ok { // almost all, without an allocation
		return m, nil
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q is not an Ethernet address like 02:00:00:00:0a:01", s)
	}
	return MAC(hw), nil
}

// parseColons reads an address of six pairs of digits with colons between them.
func parseColons(s string) (m MAC, ok bool) {
	if len(s) != 3*len(m)-1 {
		return m, false
	}
	for i := range m {
		high, ok1 := hexDigit(s[3*i])
		low, ok2 := hexDigit(s[3*i+1])
		if !ok1 || !ok2 || i > 0 && s[3*i-1] != ':' {
			return MAC{}, false
		}
		m[i] = high<<4 | low
	}
	return m, true
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// IsGroup reports whether m is a multicast or the broadcast address.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// IsZero reports whether m is 00:00:00:00:00:00.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsReserved reports whether m is one of 01:80:c2:00:00:00 to :0f, which a
// bridge must not relay (IEEE 802.1Q table 8-1).
func (m MAC) IsReserved() bool {
	return m[0] == 0x01 && m[1] == 0x80 && m[2] == 0xc2 && m[3] == 0 && m[4] == 0 && m[5]&0xf0 == 0
}

// String formats m in lower case with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText makes a MAC a string in JSON.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}
