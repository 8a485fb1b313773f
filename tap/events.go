package tap

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// Messages of rtnetlink that the netlink package does not take apart as far as
// we need it.

// From linux/ipv6.h: the index of disable_ipv6 in IFLA_INET6_CONF.
const devconfDisableIPv6 = 26

// link is what an RTM_NEWLINK says about a device.
type link struct {
	family   uint8 // AF_UNSPEC: of the device; AF_BRIDGE, AF_INET6: of that part
	index    int
	name     string
	mtu      int
	up       bool // administratively
	lladdr   packet.MAC
	master   int  // index of the device that it is a port of
	bridged  bool // that is a bridge, the kernel's own or one of Open vSwitch
	isolated bool
	disabled bool // net.ipv6.conf.*.disable_ipv6
}

// off is what keeps IPv6 off the device.
func (l *link) off() loss {
	switch {
	case l.mtu < minMTUIPv6:
		return tooSmall
	case l.disabled:
		return disabled
	case !l.up:
		return down
	}
	return none
}

// parseLink reads RTM_NEWLINK or RTM_DELLINK.
func parseLink(data []byte) (l link, ok bool) {
	if len(data) < unix.SizeofIfInfomsg {
		return l, false
	}
	msg := nl.DeserializeIfInfomsg(data)
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, false
	}
	l.family, l.index, l.up = msg.Family, int(msg.Index), msg.Flags&unix.IFF_UP != 0
	for _, a := range attrs {
		switch v := a.Value; a.Attr.Type &^ unix.NLA_F_NESTED {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_MTU:
			l.mtu = int(number(v))
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.lladdr) {
				copy(l.lladdr[:], v)
			}
		case unix.IFLA_MASTER:
			l.master = int(number(v))
		case unix.IFLA_LINKINFO:
			kind := unix.ByteSliceToString(attribute(v, unix.IFLA_INFO_SLAVE_KIND))
			l.bridged = kind == "bridge" || kind == "openvswitch"
			if kind == "bridge" {
				flag := attribute(attribute(v, unix.IFLA_INFO_SLAVE_DATA), unix.IFLA_BRPORT_ISOLATED)
				l.isolated = len(flag) == 1 && flag[0] != 0
			}
		case unix.IFLA_AF_SPEC:
			l.disabled = ipv6Disabled(attribute(v, unix.AF_INET6))
		case unix.IFLA_PROTINFO:
			if l.family == unix.AF_INET6 {
				l.disabled = ipv6Disabled(v)
			}
		}
	}
	return l, true
}

// ipv6Disabled looks into the attributes that IPv6 has of a device.
func ipv6Disabled(inet6 []byte) bool {
	conf := attribute(inet6, unix.IFLA_INET6_CONF)
	return len(conf) >= 4*(devconfDisableIPv6+1) && number(conf[4*devconfDisableIPv6:]) != 0
}

// attribute finds one of nested attributes, nil if it is not there.
func attribute(nested []byte, kind uint16) []byte {
	attrs, err := nl.ParseRouteAttr(nested)
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED == kind {
			return a.Value
		}
	}
	return nil
}

func number(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// parseAddress reads RTM_NEWADDR or RTM_DELADDR.
func parseAddress(data []byte) (index int, p netip.Prefix, ok bool) {
	if len(data) < unix.SizeofIfAddrmsg {
		return 0, p, false
	}
	msg := nl.DeserializeIfAddrmsg(data)
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return 0, p, false
	}
	var value []byte
	for _, a := range attrs {
		// With both, IFA_ADDRESS is the other end of a point-to-point link.
		if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && value == nil {
			value = a.Value
		}
	}
	addr, ok := netip.AddrFromSlice(value)
	return int(msg.Index), netip.PrefixFrom(addr, int(msg.Prefixlen)), ok
}

// parseNSID reads RTM_DELNSID.
func parseNSID(data []byte) (nsid int, ok bool) {
	const header = 4 // struct rtgenmsg, padded
	if len(data) < header {
		return 0, false
	}
	v := attribute(data[header:], unix.NETNSA_NSID)
	return int(int32(number(v))), len(v) == 4
}

// link asks for a device by its index.
func (c *conn) link(index int) (link, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	replies, err := c.execute(req, unix.RTM_NEWLINK)
	if err != nil {
		return link{}, err
	}
	for _, r := range replies {
		if l, ok := parseLink(r); ok {
			return l, nil
		}
	}
	return link{}, unix.ENODEV
}

// addresses asks for the addresses of a device.
func (c *conn) addresses(index int) (map[netip.Prefix]bool, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msg.Index = uint32(index)
	req.AddData(msg)
	replies, err := c.execute(req, unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	there := make(map[netip.Prefix]bool)
	for _, r := range replies {
		if i, p, ok := parseAddress(r); ok && i == index {
			there[p] = true
		}
	}
	return there, nil
}

// messages takes a datagram of netlink apart. One that was cut short ends the list.
func messages(b []byte) []syscall.NetlinkMessage {
	list, _ := syscall.ParseNetlinkMessage(b)
	return list
}
