package udp

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

func TestStacked(t *testing.T) {
	n := newNetwork(t)
	u := newUnderlay(t, Config{})
	add := func(l netlink.Link) int {
		t.Helper()
		must(t, n.nl.LinkAdd(l))
		return n.link(n.nl, l.Attrs().Name).Attrs().Index
	}
	attrs := func(name string, parent, master int) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name, a.ParentIndex, a.MasterIndex = name, parent, master
		return a
	}
	v0 := n.link(n.nl, "v0").Attrs().Index
	bridge := add(&netlink.Bridge{LinkAttrs: attrs("br0", 0, 0)})
	tap := add(&netlink.Ifb{LinkAttrs: attrs("d0", 0, bridge)})
	macvlan := add(&netlink.Macvlan{LinkAttrs: attrs("mv0", bridge, 0), Mode: netlink.MACVLAN_MODE_BRIDGE})
	add(&netlink.Macvlan{LinkAttrs: attrs("mv1", v0, 0), Mode: netlink.MACVLAN_MODE_BRIDGE})
	is := func(joint string, of int) {
		t.Helper()
		got, err := u.Stacked([]int{tap})
		must(t, err)
		want := []netio.Upper{{Ifindex: bridge, Below: []int{tap}, Joint: joint, Bridge: of}, {Ifindex: macvlan, Below: []int{tap}, Joint: joint, Bridge: of}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	is("", 0)
	other := add(&netlink.Ifb{LinkAttrs: attrs("d1", 0, bridge)})
	is("br0", bridge)
	if got, err := u.Stacked(nil); err != nil || len(got) != 0 {
		t.Errorf("Stacked(nil) = %v, %v", got, err)
	}

	// Where a neighbour is, in steps.
	must(t, n.nl.LinkSetUp(n.link(n.nl, "br0")))
	up := netio.Upper{Ifindex: bridge, Bridge: bridge}
	for _, hop := range []netip.Addr{netip.MustParseAddr("10.5.0.1"), netip.MustParseAddr("fd05::1")} {
		lladdr := packet.MAC{2, 0, 0, 0, 5, hop.AsSlice()[0]}
		where := func(mac packet.MAC, port int) {
			t.Helper()
			if gotMAC, got := u.NextHop(hop, up); gotMAC != mac || got != port {
				t.Errorf("next hop %s: %v behind %d, want %v behind %d", hop, gotMAC, got, mac, port)
			}
		}
		where(packet.MAC{}, 0)
		must(t, n.nl.NeighSet(&netlink.Neigh{LinkIndex: bridge, IP: net.IP(hop.AsSlice()), HardwareAddr: lladdr[:], State: netlink.NUD_PERMANENT}))
		where(lladdr, 0)
		for _, port := range []int{tap, other} {
			must(t, n.nl.NeighSet(&netlink.Neigh{LinkIndex: port, Family: netlink.FAMILY_V4 + 5, Flags: netlink.NTF_MASTER, HardwareAddr: lladdr[:], State: netlink.NUD_PERMANENT}))
			where(lladdr, port)
		}
	}

	n.setUp(n.nl, "v0", "10.9.0.5/24")
	locals, err := u.Locals()
	must(t, err)
	for _, want := range []string{"127.0.0.0/8", "10.9.0.5/32", "::1/128"} {
		if !slices.Contains(locals, netip.MustParsePrefix(want)) {
			t.Errorf("local are %v, want %s among them", locals, want)
		}
	}
}

// TestStackedOfDump has the cases that not every kernel can build.
func TestStackedOfDump(t *testing.T) {
	attrs := func(name string, index, parent, master, nsid int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, Index: index, ParentIndex: parent, MasterIndex: master, NetNsID: nsid}
	}
	link := func(kind string, index, parent, master, nsid int) netlink.Link {
		return &netlink.GenericLink{LinkType: kind, LinkAttrs: attrs(kind, index, parent, master, nsid)}
	}
	bridge := func(name string, index int, filtering bool) netlink.Link {
		return &netlink.Bridge{LinkAttrs: attrs(name, index, 0, 0, -1), VlanFiltering: &filtering}
	}
	vlan := func(index, parent, id int, protocol netlink.VlanProtocol) netlink.Link {
		return &netlink.Vlan{LinkAttrs: attrs("vlan", index, parent, 0, -1), VlanId: id, VlanProtocol: protocol}
	}
	const q, ad = netlink.VLAN_PROTOCOL_8021Q, netlink.VLAN_PROTOCOL_8021AD
	untagged := func(vid uint16) *nl.BridgeVlanInfo {
		return &nl.BridgeVlanInfo{Vid: vid, Flags: nl.BRIDGE_VLAN_INFO_PVID | nl.BRIDGE_VLAN_INFO_UNTAGGED}
	}
	tagged := func(vid uint16) *nl.BridgeVlanInfo { return &nl.BridgeVlanInfo{Vid: vid} }
	type vlans = map[int32][]*nl.BridgeVlanInfo

	// A bridge 1 with our device 10 and the underlay's 20, and VLANs 10 and 20 of it.
	filtering := []netlink.Link{
		bridge("br0", 1, true),
		link("tun", 10, 0, 1, -1), link("veth", 20, 0, 1, -1),
		vlan(110, 1, 10, q), vlan(120, 1, 20, q), vlan(130, 1, 10, ad), vlan(140, 120, 10, q),
		&netlink.Macvlan{LinkAttrs: attrs("mv", 150, 1, 0, -1)},
	}
	open := slices.Clone(filtering)
	open[0] = bridge("br0", 1, false)

	up := func(ifindex int, joint string, bridge int, vlan uint16, below ...int) netio.Upper {
		return netio.Upper{Ifindex: ifindex, Below: below, Joint: joint, Bridge: bridge, VLAN: vlan}
	}
	for _, c := range []struct {
		name  string
		links []netlink.Link
		vlans vlans
		below []int
		want  []netio.Upper
	}{
		{"alone, to any height", []netlink.Link{
			link("tun", 10, 0, 11, -1),
			link("bond", 11, 0, 12, -1),
			bridge("br0", 12, false),
			&netlink.Vlan{LinkAttrs: attrs("v", 13, 12, 30, -1), VlanId: 4}, // member of a VRF
			&netlink.Macvlan{LinkAttrs: attrs("mv", 14, 13, 0, -1)},
			link("macvlan", 15, 10, 0, 0), // its parent is index 10 of another namespace
			link("veth", 16, 10, 0, -1),   // its other end, not below it
			vlan(17, 2, 1, q),
			link("vrf", 30, 0, 0, -1),
		}, nil, []int{10}, []netio.Upper{up(11, "", 0, 0, 10), up(12, "", 0, 0, 10), up(13, "", 0, 0, 10), up(14, "", 0, 0, 10)}},
		{"two of ours alone", []netlink.Link{link("tun", 10, 0, 12, -1), link("tun", 11, 0, 12, -1), bridge("br0", 12, false)},
			nil, []int{11, 10}, []netio.Upper{up(12, "", 0, 0, 10, 11)}},
		{"none there", []netlink.Link{link("tun", 10, 0, 0, -1)}, nil, []int{99}, nil},
		{"VLANs of a bridge that does not filter", open, nil, []int{10}, []netio.Upper{
			up(1, "br0", 1, 0, 10), up(110, "br0", 1, 0, 10), up(120, "br0", 1, 0, 10), up(130, "br0", 1, 0, 10), up(140, "br0", 1, 0, 10), up(150, "br0", 1, 0, 10)}},
		{"ours in VLAN 20 only", filtering, vlans{1: {untagged(1), tagged(10), tagged(20)}, 10: {untagged(20)}, 20: {untagged(1), tagged(10)}},
			[]int{10}, []netio.Upper{up(120, "br0", 1, 20, 10), up(140, "br0", 1, 20, 10)}},
		{"ours in VLAN 20, and in the bridge's own", filtering, vlans{1: {untagged(1), tagged(10), tagged(20)}, 10: {untagged(1), tagged(20)}, 20: {untagged(1), tagged(10)}},
			[]int{10}, []netio.Upper{up(1, "br0", 1, 1, 10), up(120, "br0", 1, 20, 10), up(130, "br0", 1, 1, 10), up(140, "br0", 1, 20, 10), up(150, "br0", 1, 1, 10)}},
		{"a VLAN that the bridge itself is not in", filtering, vlans{1: {untagged(1), tagged(10)}, 10: {untagged(20)}, 20: {untagged(1)}},
			[]int{10}, nil},
		{"VLANs that are not known", filtering, nil, []int{10}, []netio.Upper{
			up(1, "br0", 1, 0, 10), up(110, "br0", 1, 10, 10), up(120, "br0", 1, 20, 10), up(130, "br0", 1, 0, 10), up(140, "br0", 1, 20, 10), up(150, "br0", 1, 0, 10)}},
		{"a bond does not tell", []netlink.Link{link("tun", 10, 0, 5, -1), link("veth", 20, 0, 5, -1), link("bond", 5, 0, 0, -1), vlan(6, 5, 7, q)},
			nil, []int{10}, []netio.Upper{up(5, "bond", 0, 0, 10), up(6, "bond", 0, 0, 10)}},
		{"a bridge on a VLAN of a bridge", []netlink.Link{
			bridge("br0", 1, false), link("tun", 10, 0, 1, -1), link("veth", 20, 0, 1, -1),
			&netlink.Vlan{LinkAttrs: attrs("br0.4", 2, 1, 3, -1), VlanId: 4}, bridge("br1", 3, false)},
			nil, []int{10}, []netio.Upper{up(1, "br0", 1, 0, 10), up(2, "br0", 1, 0, 10), up(3, "br0", 1, 0, 10)}},
		{"what is above is not told", []netlink.Link{
			bridge("br0", 1, false), link("tun", 10, 0, 1, -1), link("veth", 20, 0, 1, -1), link("macsec", 2, 1, 0, -1)},
			nil, []int{10}, []netio.Upper{up(1, "br0", 1, 0, 10), up(2, "br0", 0, 0, 10)}},
	} {
		if diff := cmp.Diff(c.want, stacked(c.links, c.vlans, c.below)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
