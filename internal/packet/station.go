package packet

import "net/netip"

// IsStation reports whether one station can have that address: none of "this
// network", loopback, multicast, IPv4 written as IPv6, or those not assigned (RFC 6890).
func IsStation(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() {
		return false
	}
	if a.Is4() {
		b := a.As4()
		return b[0] != 0 && b[0] < 240
	}
	return true
}
