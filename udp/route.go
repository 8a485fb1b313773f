package udp

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
)

// Route asks the kernel how datagrams to remote leave now from the source ports
// that Ports made for o; before there are any, from some port. A multicast group
// and a link-local remote need a device or a zone. The error is the kernel's errno:
// unix.ENETUNREACH without a route, unix.EHOSTUNREACH, EACCES or EINVAL by an
// unreachable, prohibit or blackhole one.
//
// Two questions are asked. A socket that is connected, and so has a route, but sends
// nothing knows the MTU: all that the kernel looks at for a datagram counts, policy
// rules by port or user and IPsec included. Only rtnetlink knows what kind of route it
// is, by which device, and what of the MTU was learned.
//
// Not for the path of a packet: it takes about 15 system calls.
func (u *Underlay) Route(remote netip.AddrPort, o PortOptions) (Route, error) {
	ports := u.portsOf(o)
	route, multipath, err := u.routeFrom(remote, o, ports[0])
	if err != nil || !multipath {
		return route, err
	}
	for _, port := range ports[1:] {
		other, _, err := u.routeFrom(remote, o, port)
		if err != nil {
			continue // of many ways some may be down for a moment
		}
		route.MTU, route.Link = min(route.MTU, other.MTU), min(route.Link, other.Link)
		route.Learned = route.Learned || other.Learned
	}
	return route, nil
}

// portsOf returns the source ports of the set that is open for o, 0 if there is none.
func (u *Underlay) portsOf(o PortOptions) []uint16 {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, df := range []bool{o.DF, !o.DF} {
		o.DF = df
		if s := u.sets[o]; s != nil {
			return s.set.Ports
		}
	}
	return []uint16{0}
}

// routeFrom is Route for one source port. It tells as well whether other ports may take
// other ways.
func (u *Underlay) routeFrom(remote netip.AddrPort, o PortOptions, port uint16) (r Route, multipath bool, err error) {
	q := fibQuestion{remote: remote, local: o.Local, mark: o.Mark, port: port}
	if q.oif, err = u.oif(remote.Addr(), o.Device); err != nil {
		return Route{}, false, fmt.Errorf("route to %s: %w", remote.Addr(), err)
	}
	found, fibErr := u.fib(q)
	if fibErr == nil {
		r = Route{
			Ifindex: found.ifindex, Source: found.source, Gateway: found.gateway, Learned: found.learned,
			Local: found.kind == unix.RTN_LOCAL, Broadcast: found.kind == unix.RTN_BROADCAST,
		}
		if r.Local || r.Broadcast {
			r.MTU = deviceMTU(found.ifindex)
			r.Link = r.MTU
			return r, false, nil
		}
	}
	mtu, source, err := u.connect(remote, o, port)
	if err != nil {
		return Route{}, false, fmt.Errorf("route to %s: %w", remote.Addr(), err)
	}
	// Of IPv6 the tables tell the source that the kernel would choose itself.
	r.MTU, r.Link, r.Source = mtu, mtu, source
	if fibErr != nil { // an old kernel, which does not look for ports
		return r, false, nil
	}
	if !found.learned && mtu < cmp.Or(found.mtu, deviceMTU(found.ifindex)) {
		// IPsec takes room, or something was learned between the two questions.
		if again, err := u.fib(q); err == nil {
			found = again
			r.Learned = found.learned
		}
	}
	r.BySocket = !u.sameWithoutSocket(q, found)
	spread := hashesPorts(remote.Addr())
	if found.learned || spread {
		// What an administrator wrote, without what was learned.
		q.match = true
		if written, err := u.fib(q); err == nil {
			found.mtu, multipath = written.mtu, spread && written.multipath
		}
	}
	r.Link = deviceMTU(found.ifindex)
	if found.mtu > 0 && (found.mtu < r.Link || r.Link == 0) {
		r.Link = found.mtu
	}
	// Neither may be above what the device can do, whatever a route says.
	r.MTU = min(r.MTU, cmp.Or(r.Link, r.MTU))
	r.Link = cmp.Or(r.Link, r.MTU)
	return r, multipath, nil
}

// sameWithoutSocket reports whether a packet that belongs to no socket takes the same way by
// the device: all is the same but for ports, which nobody looks at, and the user, who is root.
func (u *Underlay) sameWithoutSocket(q fibQuestion, found fibRoute) bool {
	q.oif, q.port, q.alone = found.ifindex, 0, true
	other, err := u.fib(q)
	return err == nil && other.kind == found.kind && other.ifindex == found.ifindex && other.gateway == found.gateway
}

// oif is the device by which a datagram has to leave, 0 if the route decides.
func (u *Underlay) oif(remote netip.Addr, device string) (int, error) {
	switch zone := remote.Zone(); {
	case device != "":
		link, err := u.routes.LinkByName(device)
		if err != nil {
			return 0, fmt.Errorf("device %s: %w", device, err)
		}
		return link.Attrs().Index, nil
	case zone != "":
		return u.zoneIndex(zone)
	}
	return 0, nil
}

// connect opens a socket with all that counts of those that send, connects it, and
// returns the MTU of the path and the source address that the kernel has chosen.
func (u *Underlay) connect(remote netip.AddrPort, o PortOptions, port uint16) (mtu int, source netip.Addr, err error) {
	local, err := u.sockaddr(senderOf(o).local, port, o.Device)
	if err != nil {
		return 0, source, err
	}
	fd, err := unix.Socket(familyOf(remote.Addr()), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, source, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	opts := []option{{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"}}
	if o.Mark != 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_MARK, int(o.Mark), "SO_MARK (needs CAP_NET_ADMIN)"})
	}
	if err := setOptions(fd, opts); err != nil {
		return 0, source, err
	}
	if o.Device != "" {
		if err := unix.BindToDevice(fd, o.Device); err != nil {
			return 0, source, fmt.Errorf("bind to device %s: %w", o.Device, err)
		}
	}
	if err := unix.Bind(fd, local); err != nil {
		return 0, source, os.NewSyscallError("bind", err)
	}
	to, err := u.sockaddr(remote.Addr(), remote.Port(), o.Device)
	if err != nil {
		return 0, source, err
	}
	if err := unix.Connect(fd, to); err != nil {
		return 0, source, os.NewSyscallError("connect", err)
	}
	level, name := unix.SOL_IP, unix.IP_MTU
	if remote.Addr().Is6() {
		level, name = unix.SOL_IPV6, unix.IPV6_MTU
	}
	if mtu, err = unix.GetsockoptInt(fd, level, name); err != nil {
		return 0, source, os.NewSyscallError("getsockopt IP_MTU", err)
	}
	switch sa, _ := unix.Getsockname(fd); sa := sa.(type) {
	case *unix.SockaddrInet4:
		source = netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		source = netip.AddrFrom16(sa.Addr)
	}
	return mtu, source, nil
}

// fibQuestion is what the kernel's tables are asked.
type fibQuestion struct {
	remote netip.AddrPort
	local  netip.Addr // if specific
	oif    int        // 0: the route decides
	mark   uint32
	port   uint16 // source port; 0: any
	match  bool   // the route as it was written, without what was learned about remote
	alone  bool   // for a packet of no socket: without ports, for user 0
}

// fibRoute is their answer.
type fibRoute struct {
	kind      uint8 // unix.RTN_UNICAST and so on
	ifindex   int
	source    netip.Addr
	gateway   netip.Addr
	mtu       int // 0: that of the device
	learned   bool
	multipath bool
}

// fib sends RTM_GETROUTE. The netlink package's RouteGet knows neither protocol nor ports.
func (u *Underlay) fib(q fibQuestion) (fibRoute, error) {
	remote := q.remote.Addr()
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, 0)
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(familyOf(remote)), Dst_len: uint8(remote.BitLen())}}
	if q.match {
		msg.Flags = unix.RTM_F_FIB_MATCH
	}
	req.AddData(msg)
	add := func(kind int, data []byte) { req.AddData(nl.NewRtAttr(kind, data)) }
	add(unix.RTA_DST, remote.AsSlice())
	if q.local.IsValid() && !q.local.IsUnspecified() {
		msg.Src_len = msg.Dst_len
		add(unix.RTA_SRC, q.local.AsSlice())
	}
	if q.oif != 0 {
		add(unix.RTA_OIF, nl.Uint32Attr(uint32(q.oif)))
	}
	if q.mark != 0 {
		add(unix.RTA_MARK, nl.Uint32Attr(q.mark))
	}
	add(unix.RTA_IP_PROTO, []byte{unix.IPPROTO_UDP})
	if q.port != 0 {
		add(unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, q.port))
	}
	if q.alone {
		add(unix.RTA_UID, nl.Uint32Attr(0))
	} else {
		add(unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, q.remote.Port()))
	}
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: u.tables}
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return fibRoute{}, err
	}
	if len(replies) == 0 {
		return fibRoute{}, unix.ENETUNREACH
	}
	return parseFIB(replies[0])
}

// parseFIB reads struct rtmsg and the attributes behind it.
func parseFIB(reply []byte) (r fibRoute, err error) {
	if len(reply) < unix.SizeofRtMsg {
		return r, unix.EBADMSG
	}
	msg := nl.DeserializeRtMsg(reply)
	attrs, err := nl.ParseRouteAttr(reply[unix.SizeofRtMsg:])
	if err != nil {
		return r, err
	}
	r.kind = msg.Type
	nexthop := false
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) >= 4:
			r.ifindex = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.RTA_PREFSRC:
			if ip, ok := netip.AddrFromSlice(a.Value); ok {
				r.source = ip
			}
		case a.Attr.Type == unix.RTA_GATEWAY:
			if ip, ok := netip.AddrFromSlice(a.Value); ok {
				r.gateway = ip
			}
		case a.Attr.Type == unix.RTA_VIA && len(a.Value) > 2:
			// struct rtvia: a family, then a gateway that is of another one than the route.
			if ip, ok := netip.AddrFromSlice(a.Value[2:]); ok {
				r.gateway = ip
			}
		case a.Attr.Type == unix.RTA_METRICS:
			metrics, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return r, err
			}
			for _, m := range metrics {
				if m.Attr.Type == unix.RTAX_MTU && len(m.Value) >= 4 {
					r.mtu = int(binary.NativeEndian.Uint32(m.Value))
				}
			}
		case a.Attr.Type == unix.RTA_MULTIPATH:
			r.multipath = true
		case a.Attr.Type == rtaNexthopID:
			nexthop = true
		case a.Attr.Type == unix.RTA_CACHEINFO && len(a.Value) >= sizeofCacheinfo && msg.Family == unix.AF_INET:
			// struct rta_cacheinfo, rta_expires: IPv4 routes expire if they are
			// exceptions only (net/ipv4/route.c, rt_fill_info).
			r.learned = binary.NativeEndian.Uint32(a.Value[8:]) != 0
		}
	}
	// Of IPv6 the default route from a router expires as well, but only exceptions are
	// clones of what is in the tables (net/ipv6/route.c, rt6_fill_node).
	if msg.Family == unix.AF_INET6 {
		r.learned = msg.Flags&unix.RTM_F_CLONED != 0
	}
	// With net.ipv4.nexthop_compat_mode 0 the next hops of a group are not listed.
	r.multipath = r.multipath || nexthop && r.ifindex == 0
	return r, nil
}

// From linux/rtnetlink.h: the size of struct rta_cacheinfo, and RTA_NH_ID.
const (
	sizeofCacheinfo = 32
	rtaNexthopID    = 30
)

// hashesPorts reports whether the kernel lets ports decide between the ways of a multipath
// route. Otherwise addresses decide, and all ports of a set take the same.
func hashesPorts(remote netip.Addr) bool {
	version := "ipv4"
	if remote.Is6() {
		version = "ipv6"
	}
	// Of the thread's own network namespace. 1 is the 5-tuple, 3 what an administrator
	// chose (ip-sysctl.rst, fib_multipath_hash_policy).
	fd, err := unix.Open("/proc/sys/net/"+version+"/fib_multipath_hash_policy", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var policy [1]byte
	n, _ := unix.Read(fd, policy[:])
	return n == 1 && (policy[0] == '1' || policy[0] == '3')
}

// deviceMTU is the MTU of a device, 0 if that is not known.
func deviceMTU(index int) int {
	if index == 0 {
		return 0
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return 0
	}
	ifr.SetUint32(uint32(index))
	for _, request := range []uint{unix.SIOCGIFNAME, unix.SIOCGIFMTU} {
		if unix.IoctlIfreq(fd, request, ifr) != nil {
			return 0
		}
	}
	return int(ifr.Uint32())
}

// Prefixes returns the networks that a device is on by its addresses, IPv4 and
// IPv6 with the link-local one, in ascending order.
func (u *Underlay) Prefixes(dev string) ([]netip.Prefix, error) {
	link, err := u.routes.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", dev, err)
	}
	addrs, err := u.routes.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses of device %s: %w", dev, err)
	}
	var prefixes []netip.Prefix
	for _, a := range addrs {
		network := a.IPNet
		if a.Peer != nil {
			network = a.Peer // point to point: what is behind the link
		}
		ip, ok := netip.AddrFromSlice(network.IP)
		if !ok {
			continue
		}
		bits, _ := network.Mask.Size()
		prefixes = append(prefixes, netip.PrefixFrom(ip.Unmap(), bits).Masked())
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes), nil
}

// Cards returns the network cards, and VLAN devices and bonds that have no other devices
// below them. Devices of virtual machines that may hand over what never was on a wire do
// not count, nor does a kernel before 5.14 say what is a card.
func (u *Underlay) Cards() ([]int, error) {
	links, err := u.routes.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return cards(links, func(bus, dev string) string {
		path, _ := os.Readlink(filepath.Join("/sys/bus", bus, "devices", dev, "driver"))
		return filepath.Base(path)
	}), nil
}

// cards finds the cards among links; driver names the driver of a device on a bus.
func cards(links []netlink.Link, driver func(bus, dev string) string) (found []int) {
	card := map[int]bool{}
	for _, l := range links {
		a := l.Attrs()
		switch a.ParentDevBus { // virtio, Xen and Hyper-V have buses of their own
		case "pci", "usb", "platform":
			name := driver(a.ParentDevBus, a.ParentDev)
			card[a.Index] = name != "." && name != "vmxnet3"
		}
	}
	above := func(l netlink.Link) (is bool) {
		a := l.Attrs()
		switch l.Type() {
		case "vlan":
			return a.NetNsID < 0 && card[a.ParentIndex]
		case "bond":
			for _, port := range links {
				if port.Attrs().MasterIndex == a.Index {
					if is = card[port.Attrs().Index]; !is {
						return false
					}
				}
			}
		}
		return is
	}
	for range 3 { // a VLAN device on a bond, with one more tag
		for _, l := range links {
			if above(l) {
				card[l.Attrs().Index] = true
			}
		}
	}
	for index, is := range card {
		if is {
			found = append(found, index)
		}
	}
	slices.Sort(found)
	return found
}

// Watch tells on the channel what has changed of devices, addresses, routes and rules
// since the last time, however many there were; then is the time to
// ask Route and Stacked again. The channel is closed after ctx is done.
func (u *Underlay) Watch(ctx context.Context) (<-chan netio.Changes, error) {
	file, err := watchSocket()
	if err != nil {
		return nil, err
	}
	return follow(ctx, file, watchSocket), nil
}

// watchSocket opens a netlink socket that receives all changes that Watch reports.
func watchSocket() (io.ReadCloser, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket netlink", err)
	}
	const groups = unix.RTMGRP_LINK |
		unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE |
		1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind netlink", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// watchRetry is the pause before a socket that failed is opened again.
const watchRetry = time.Second

// follow tells of each message from a socket until ctx ends. If the socket fails it opens
// another one, and tells that all has changed then: something may have been missed.
func follow(ctx context.Context, file io.ReadCloser, open func() (io.ReadCloser, error)) <-chan netio.Changes {
	changed := make(chan netio.Changes, 1)
	tell := func(c netio.Changes) {
		select {
		case before := <-changed: // nobody has looked yet
			c.Join(&before)
		default:
		}
		changed <- c // has room: nobody else writes
	}
	listen := func() {
		defer file.Close()
		defer context.AfterFunc(ctx, func() { file.Close() })()
		buf := make([]byte, 32<<10)
		for ctx.Err() == nil {
			n, err := file.Read(buf)
			switch {
			case err == nil:
				if c := changesOf(buf[:n]); !c.None() {
					tell(c)
				}
			case isOverrun(err):
				tell(netio.Changes{All: true})
			default:
				return
			}
		}
	}
	go func() {
		defer close(changed)
		listen()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(watchRetry):
			}
			var err error
			if file, err = open(); err == nil {
				tell(netio.Changes{All: true})
				listen()
			}
		}
	}()
	return changed
}

// changesOf reads netlink messages: of routes which, of all else that there was some.
func changesOf(data []byte) (c netio.Changes) {
	for len(data) >= unix.SizeofNlMsghdr {
		length, kind := binary.NativeEndian.Uint32(data), binary.NativeEndian.Uint16(data[4:])
		if length < unix.SizeofNlMsghdr || int64(length) > int64(len(data)) {
			return netio.Changes{All: true} // cut short
		}
		message := data[unix.SizeofNlMsghdr:length]
		data = data[min(len(data), int(length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		if kind != unix.RTM_NEWROUTE && kind != unix.RTM_DELROUTE {
			c = netio.Changes{All: true}
			continue
		}
		p, err := routePrefix(message)
		if err != nil {
			return netio.Changes{All: true}
		}
		if p.IsValid() {
			c.Route(p)
		}
	}
	return c
}

// routePrefix reads where a route leads to from struct rtmsg and the attributes behind it. It is
// not valid for a route of no IP.
func routePrefix(message []byte) (p netip.Prefix, err error) {
	if len(message) < unix.SizeofRtMsg {
		return p, unix.EBADMSG
	}
	msg := nl.DeserializeRtMsg(message)
	to := netip.IPv4Unspecified()
	switch msg.Family {
	case unix.AF_INET:
	case unix.AF_INET6:
		to = netip.IPv6Unspecified()
	default:
		return p, nil
	}
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofRtMsg:])
	if err != nil {
		return p, err
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.RTA_DST {
			to, _ = netip.AddrFromSlice(a.Value)
		}
	}
	if p = netip.PrefixFrom(to, int(msg.Dst_len)); !p.IsValid() {
		return p, unix.EBADMSG
	}
	return p, nil
}

// isOverrun reports whether messages were lost because the socket was full, which counts as a
// change as well.
func isOverrun(err error) bool { return errors.Is(err, unix.ENOBUFS) }
