package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// What is above tunnel devices, and where what is beside them ends: bridges join tunnel
// devices with others, the underlay's perhaps.

// Stacked returns the devices that packets out of those given may come up to, in ascending
// order and without them. The VLANs of bridges that filter count. A VRF is none: datagrams
// of its members arrive under the member's own index.
func (u *Underlay) Stacked(ifindexes []int) ([]netio.Upper, error) {
	links, err := u.routes.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var vlans map[int32][]*nl.BridgeVlanInfo
	if slices.ContainsFunc(links, filters) {
		if vlans, err = u.routes.BridgeVlanList(); err != nil {
			vlans = nil // then all of them are taken for ours
		}
	}
	return stacked(links, vlans, ifindexes), nil
}

// filters reports whether a device is a bridge that keeps VLANs apart.
func filters(l netlink.Link) bool {
	b, ok := l.(*netlink.Bridge)
	return ok && b.VlanFiltering != nil && *b.VlanFiltering
}

// links are the devices of a namespace.
type links struct {
	byIndex map[int]netlink.Link
	over    map[int][]netlink.Link // by the device below
	ports   map[int][]int          // by bridge or bond
	vlans   map[int32][]*nl.BridgeVlanInfo
}

func stacked(all []netlink.Link, vlans map[int32][]*nl.BridgeVlanInfo, ours []int) []netio.Upper {
	ls := &links{byIndex: map[int]netlink.Link{}, over: map[int][]netlink.Link{}, ports: map[int][]int{}, vlans: vlans}
	for _, l := range all {
		ls.byIndex[l.Attrs().Index] = l
	}
	for _, l := range all {
		a := l.Attrs()
		if master := ls.byIndex[a.MasterIndex]; master != nil && master.Type() != "vrf" {
			ls.over[a.Index] = append(ls.over[a.Index], master)
			ls.ports[a.MasterIndex] = append(ls.ports[a.MasterIndex], a.Index)
		}
		// IFLA_LINK is an index here only without IFLA_LINK_NETNSID; of a veth it is the
		// other end, which is beside it and not below.
		if a.ParentIndex != 0 && a.NetNsID < 0 && l.Type() != "veth" {
			ls.over[a.ParentIndex] = append(ls.over[a.ParentIndex], l)
		}
	}
	below := map[int][]int{} // of devices that are reached
	passed := map[int]bool{} // ports and bridges that frames of ours come by
	for _, tap := range ours {
		for index, t := range ls.rise(tap) {
			passed[index] = true
			if _, own := slices.BinarySearch(ours, index); index != tap && t.untagged && !own {
				below[index] = append(below[index], tap)
			}
		}
	}
	var found []netio.Upper
	for index, taps := range below {
		slices.Sort(taps)
		up := netio.Upper{Ifindex: index, Below: slices.Compact(taps)}
		ls.join(&up, index, passed, 0)
		found = append(found, up)
	}
	slices.SortFunc(found, func(a, b netio.Upper) int { return a.Ifindex - b.Ifindex })
	return found
}

// tags says which frames come up to a device: those without a tag, and those with the
// VLAN IDs in vids or, if that is nil, any.
type tags struct {
	untagged bool
	vids     map[uint16]bool
}

// add adds those of another, and reports if these are more then.
func (t *tags) add(o tags) (more bool) {
	if o.untagged && !t.untagged {
		t.untagged, more = true, true
	}
	switch {
	case t.vids == nil:
	case o.vids == nil:
		t.vids, more = nil, true
	default:
		for vid := range o.vids {
			if !t.vids[vid] {
				t.vids[vid], more = true, true
			}
		}
	}
	return more
}

// none is where no frame has come to so far.
func none() *tags { return &tags{vids: map[uint16]bool{}} }

// rise follows frames from a device of ours upwards.
func (ls *links) rise(tap int) map[int]*tags {
	seen := map[int]*tags{tap: {untagged: true}}
	for todo := []int{tap}; len(todo) > 0; todo = todo[1:] {
		from := todo[0]
		for _, l := range ls.over[from] {
			t, ok := ls.up(from, *seen[from], l)
			if !ok {
				continue
			}
			index := l.Attrs().Index
			if seen[index] == nil {
				seen[index] = none()
			}
			if seen[index].add(t) {
				todo = append(todo, index)
			}
		}
	}
	return seen
}

// up is what comes up to l of what has come to the device below, if anything.
func (ls *links) up(below int, t tags, l netlink.Link) (tags, bool) {
	anything := tags{untagged: true}
	if vlan, ok := l.(*netlink.Vlan); ok && ls.byIndex[below] != nil && l.Attrs().ParentIndex == below {
		switch {
		case t.vids == nil || t.vids[uint16(vlan.VlanId)]:
			return anything, true
		case t.untagged && !isQ(vlan):
			return anything, true // to a bridge of C-VLANs it is a frame like any other
		}
		return t, false
	}
	if !filters(l) || ls.byIndex[below] == nil || ls.byIndex[below].Attrs().MasterIndex != l.Attrs().Index || ls.vlans == nil {
		return t, true
	}
	// Through the port into its VLANs, and out of those that the bridge itself is in.
	out := tags{vids: map[uint16]bool{}}
	for _, own := range ls.vlans[int32(l.Attrs().Index)] {
		for _, v := range ls.vlans[int32(below)] {
			if v.Vid == own.Vid {
				out.vids[v.Vid] = true
				out.untagged = out.untagged || own.EngressUntag()
			}
		}
	}
	return out, true
}

// isQ reports whether the tags of a VLAN device are those of 802.1Q, which bridges filter
// unless they are told otherwise.
func isQ(l *netlink.Vlan) bool {
	return l.VlanProtocol == netlink.VLAN_PROTOCOL_8021Q || l.VlanProtocol == netlink.VLAN_PROTOCOL_UNKNOWN
}

// maxStack is more than anybody stacks.
const maxStack = 16

// join finds out what joins devices of ours, and what they have passed, with others
// below a device.
func (ls *links) join(up *netio.Upper, index int, passed map[int]bool, depth int) {
	l := ls.byIndex[index]
	if l == nil || depth > maxStack {
		return
	}
	ports := ls.ports[index]
	for _, p := range ports {
		if !passed[p] {
			up.Joint = l.Attrs().Name
			if l.Type() == "bridge" {
				up.Bridge = index
				up.VLAN = ls.nativeVLAN(l)
			}
			return
		}
	}
	parent := l.Attrs().ParentIndex
	if parent != 0 && passed[parent] {
		ports = []int{parent}
	}
	for _, p := range ports {
		if ls.join(up, p, passed, depth+1); up.Joint != "" {
			break
		}
	}
	if up.Joint == "" {
		return
	}
	switch l := l.(type) {
	case *netlink.Vlan:
		if parent == up.Bridge {
			switch {
			case !filters(ls.byIndex[parent]):
				up.VLAN = 0
			case isQ(l):
				up.VLAN = uint16(l.VlanId)
			}
		}
	case *netlink.Bridge, *netlink.Macvlan, *netlink.Macvtap, *netlink.IPVlan, *netlink.IPVtap:
	default:
		up.Bridge, up.VLAN = 0, 0 // what it does with packets is not known
	}
}

// nativeVLAN is the VLAN of a bridge's own untagged frames.
func (ls *links) nativeVLAN(bridge netlink.Link) uint16 {
	if filters(bridge) {
		for _, v := range ls.vlans[int32(bridge.Attrs().Index)] {
			if v.PortVID() {
				return v.Vid
			}
		}
	}
	return 0
}

// Locals returns what is local in the kernel's tables, in both families.
func (u *Underlay) Locals() ([]netip.Prefix, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	var locals []netip.Prefix
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := u.routes.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		if err != nil {
			return nil, fmt.Errorf("list local addresses: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			ip, ok := netip.AddrFromSlice(r.Dst.IP)
			if !ok {
				continue
			}
			bits, _ := r.Dst.Mask.Size()
			if family == netlink.FAMILY_V4 {
				ip = ip.Unmap()
			}
			locals = append(locals, netip.PrefixFrom(ip, bits).Masked())
		}
	}
	slices.SortFunc(locals, netip.Prefix.Compare)
	return slices.Compact(locals), nil
}

// NextHop asks for the neighbour on the device, and then the bridge for the port it was
// last heard on. Kernels before 5.0 answer neither question.
func (u *Underlay) NextHop(hop netip.Addr, by netio.Upper) (mac packet.MAC, port int) {
	entry, err := u.neighbour(familyOf(hop), by.Ifindex,
		nl.NewRtAttr(unix.NDA_DST, hop.AsSlice()))
	const resolved = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
	if err != nil || entry.State&resolved == 0 || len(entry.HardwareAddr) != len(mac) {
		return mac, 0
	}
	mac = packet.MAC(entry.HardwareAddr)
	question := []*nl.RtAttr{nl.NewRtAttr(unix.NDA_LLADDR, mac[:]), nl.NewRtAttr(unix.NDA_MASTER, nl.Uint32Attr(uint32(by.Bridge)))}
	if by.VLAN != 0 {
		question = append(question, nl.NewRtAttr(unix.NDA_VLAN, nl.Uint16Attr(by.VLAN)))
	}
	if entry, err = u.neighbour(unix.AF_BRIDGE, 0, question...); err != nil {
		return mac, 0
	}
	return mac, entry.LinkIndex
}

// neighbour asks for one entry of a table of neighbours. The netlink package only lists
// them all.
func (u *Underlay) neighbour(family, ifindex int, question ...*nl.RtAttr) (*netlink.Neigh, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, 0)
	req.AddRawData(ndmsg(family, ifindex))
	for _, q := range question {
		req.AddRawData(q.Serialize())
	}
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: u.tables}
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil {
		return nil, err
	}
	if len(replies) == 0 {
		return nil, unix.ENOENT
	}
	return netlink.NeighDeserialize(replies[0])
}

// ndmsg is struct ndmsg of linux/neighbour.h, of which the kernel wants all else to be zero.
func ndmsg(family, ifindex int) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = uint8(family)
	binary.NativeEndian.PutUint32(b[4:], uint32(ifindex))
	return b
}
