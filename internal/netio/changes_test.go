package netio

import (
	"net/netip"
	"testing"
)

// TestChanges: a route concerns who is in its prefix, and too many concern all.
func TestChanges(t *testing.T) {
	of := func(prefixes ...string) (c Changes) {
		for _, p := range prefixes {
			c.Route(netip.MustParsePrefix(p))
		}
		return c
	}
	joined := of("192.0.2.0/24")
	other := of("2001:db8::/32", "192.0.2.0/24")
	joined.Join(&other)
	everything := of("192.0.2.0/24")
	everything.Join(&Changes{All: true})
	var many Changes
	for i := range maxPrefixes + 1 {
		many.Route(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24))
	}
	for _, tc := range []struct {
		name    string
		c       Changes
		none    bool
		yes, no []string
	}{
		{"nothing", Changes{}, true, nil, []string{"192.0.2.1", "::1"}},
		{"all", Changes{All: true}, false, []string{"192.0.2.1", "fe80::1%eth0"}, nil},
		{"a prefix", of("192.0.2.128/25"), false, []string{"192.0.2.129", "::ffff:192.0.2.129"}, []string{"192.0.2.127", "2001:db8::1"}},
		{"a host", of("2001:db8::1/128"), false, []string{"2001:db8::1"}, []string{"2001:db8::2", "192.0.2.1"}},
		{"with host bits", of("192.0.2.77/24"), false, []string{"192.0.2.1"}, []string{"192.0.3.1"}},
		{"default", of("0.0.0.0/0"), false, []string{"192.0.2.1"}, []string{"2001:db8::1"}},
		{"a zone", of("fe80::/64"), false, []string{"fe80::1%eth0"}, nil},
		{"joined", joined, false, []string{"192.0.2.1", "2001:db8::9"}, []string{"192.0.3.1"}},
		{"joined with all", everything, false, []string{"203.0.113.1"}, nil},
		{"too many", many, false, []string{"203.0.113.1"}, nil},
	} {
		if got := tc.c.None(); got != tc.none {
			t.Errorf("%s: none is %t", tc.name, got)
		}
		for want, addrs := range map[bool][]string{true: tc.yes, false: tc.no} {
			for _, a := range addrs {
				if got := tc.c.Concern(netip.MustParseAddr(a)); got != want {
					t.Errorf("%s concerns %s: %t, want %t", tc.name, a, got, want)
				}
			}
		}
	}
}
