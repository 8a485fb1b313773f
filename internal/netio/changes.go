package netio

import "net/netip"

// maxPrefixes is how many prefixes of changed routes are kept apart. A host whose tables are
// in motion with more than that between two looks has everything looked at.
const maxPrefixes = 4096

// Changes are what the kernel has changed since the last look: All is that of links, addresses and
// rules, which can concern everything, or what was missed. Otherwise only routes have changed, and
// only what is in their prefixes is concerned. The zero value is nothing.
type Changes struct {
	All      bool
	prefixes map[netip.Prefix]struct{}
	lengths  [2][129]int // of IPv4 and IPv6: how many prefixes have that length
}

// None reports whether nothing has changed.
func (c *Changes) None() bool { return !c.All && len(c.prefixes) == 0 }

// Route adds the route to a prefix.
func (c *Changes) Route(p netip.Prefix) {
	p = p.Masked()
	if _, known := c.prefixes[p]; c.All || known {
		return
	}
	if len(c.prefixes) == maxPrefixes {
		*c = Changes{All: true}
		return
	}
	if c.prefixes == nil {
		c.prefixes = make(map[netip.Prefix]struct{})
	}
	c.prefixes[p] = struct{}{}
	c.lengths[family(p.Addr())][p.Bits()]++
}

// Join adds what another has.
func (c *Changes) Join(other *Changes) {
	if other.All {
		*c = Changes{All: true}
	}
	for p := range other.prefixes {
		c.Route(p)
	}
}

// Concern reports whether the way to an address may have become another.
func (c *Changes) Concern(a netip.Addr) bool {
	if c.All {
		return true
	}
	if len(c.prefixes) == 0 {
		return false
	}
	a = a.WithZone("").Unmap()
	for bits, n := range c.lengths[family(a)] {
		if n == 0 || bits > a.BitLen() {
			continue
		}
		p, _ := a.Prefix(bits)
		if _, ok := c.prefixes[p]; ok {
			return true
		}
	}
	return false
}

// family is an index: 0 is IPv4, 1 is IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
