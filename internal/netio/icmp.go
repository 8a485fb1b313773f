package netio

import (
	"fmt"
	"net/netip"
)

// ICMP is what a router or host has said about a datagram that was sent from a source port of
// Ports. It is a hint: anybody on the way can say it, and others that know the ports.
type ICMP struct {
	IPv6       bool
	Type, Code uint8
	From       netip.Addr     // who says so
	To         netip.AddrPort // where the datagram went
	MTU        int            // of the next link, with "too big"; else 0
}

// String is the message in the words of RFC 792, 1812 and 4443.
func (m ICMP) String() string {
	words := map[[2]uint8]string{
		{3, 0}: "network unreachable", {3, 1}: "host unreachable", {3, 2}: "protocol unreachable", {3, 3}: "port unreachable",
		{3, 4}: "packet too big", {3, 6}: "network unknown", {3, 7}: "host unknown", {3, 9}: "network prohibited",
		{3, 10}: "host prohibited", {3, 13}: "communication prohibited", {11, 0}: "hop limit exceeded",
	}
	if m.IPv6 {
		words = map[[2]uint8]string{
			{1, 0}: "no route", {1, 1}: "communication prohibited", {1, 3}: "address unreachable", {1, 4}: "port unreachable",
			{1, 5}: "source address refused", {1, 6}: "route rejected", {2, 0}: "packet too big", {3, 0}: "hop limit exceeded",
		}
	}
	word := words[[2]uint8{m.Type, m.Code}]
	if word == "" {
		word = fmt.Sprintf("ICMP type %d code %d", m.Type, m.Code)
	}
	if m.MTU > 0 {
		word += fmt.Sprintf(", MTU %d", m.MTU)
	}
	return word
}
