package evpn

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Target is a route target: an extended community as in a packet.
type Target [8]byte

const targetSubtype = 2

// vxlanSpace stands before the VNI in targets that RFC 8365 5.1.2.1 derives: A=0, type 1 (VXLAN,
// there is none for GENEVE), domain 0.
const vxlanSpace = 1 << 28

// TargetOf is AS:NUMBER. Of an AS of four bytes the lower half counts, as with FRR: there would be no room for a VNI.
func TargetOf(as, number uint32) (t Target) {
	t[1] = targetSubtype
	binary.BigEndian.PutUint16(t[2:], uint16(as))
	binary.BigEndian.PutUint32(t[4:], number)
	return t
}

// ParseTarget reads AS:NUMBER, with an AS of two or four bytes, or ADDRESS:NUMBER.
func ParseTarget(text string) (t Target, err error) {
	wrong := fmt.Errorf("route target %q: want AS:NUMBER or ADDRESS:NUMBER, such as 65000:100", text)
	before, after, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(after, 10, 32)
	if err != nil {
		return t, wrong
	}
	t[1] = targetSubtype
	if a, err := netip.ParseAddr(before); err == nil && a.Is4() && number <= 0xffff {
		t[0] = 1
		copy(t[2:], a.AsSlice())
		binary.BigEndian.PutUint16(t[6:], uint16(number))
		return t, nil
	}
	as, err := strconv.ParseUint(before, 10, 32)
	switch {
	case err != nil:
		return t, wrong
	case as <= 0xffff:
		return TargetOf(uint32(as), uint32(number)), nil
	case number > 0xffff:
		return t, fmt.Errorf("route target %q: with an AS of four bytes the number is at most 65535", text)
	}
	t[0] = 2
	binary.BigEndian.PutUint32(t[2:], uint32(as))
	binary.BigEndian.PutUint16(t[6:], uint16(number))
	return t, nil
}

func (t Target) String() string {
	switch t[0] &^ 0x40 {
	case 0:
		return fmt.Sprintf("%d:%d", binary.BigEndian.Uint16(t[2:]), binary.BigEndian.Uint32(t[4:]))
	case 1:
		return fmt.Sprintf("%s:%d", netip.AddrFrom4([4]byte(t[2:6])), binary.BigEndian.Uint16(t[6:]))
	case 2:
		return fmt.Sprintf("%d:%d", binary.BigEndian.Uint32(t[2:]), binary.BigEndian.Uint16(t[6:]))
	}
	return fmt.Sprintf("%x", t[:])
}

// derived reports whether somebody's AS made this of a VNI, by either rule. The AS does not count:
// between two of them each derives its own.
func (t Target) derived(vni uint32) bool {
	number := binary.BigEndian.Uint32(t[4:])
	return t[0] == 0 && t[1] == targetSubtype && (number == vni || number == vxlanSpace|vni)
}

// Targets are those of a segment.
type Targets struct {
	Auto   bool // AS:VNI
	Derive bool // as of RFC 8365 5.1.2.1; Auto is true, too
	List   []Target
}

// export are those that our routes have.
func (g Targets) export(as, vni uint32) []Target {
	switch {
	case g.Derive:
		return []Target{TargetOf(as, vxlanSpace|vni)}
	case g.Auto:
		return []Target{TargetOf(as, vni)}
	}
	return g.List
}

// wanted are those that routes are asked for with. Of the automatic ones of other systems nobody knows the AS.
func (g Targets) wanted(as, vni uint32) []Target {
	if g.Auto {
		return []Target{TargetOf(as, vni), TargetOf(as, vxlanSpace|vni)}
	}
	return g.List
}

// imports reports whether a route is for the segment.
func (g Targets) imports(vni uint32, have []Target) bool {
	for _, t := range have {
		if g.Auto && t.derived(vni) {
			return true
		}
		for _, want := range g.List {
			if t == want {
				return true
			}
		}
	}
	return false
}
