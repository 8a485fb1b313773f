package udp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route asks the kernel how a datagram to remote would leave now, from local
// if that is a specific address, by device dev if that is not "", with mark if
// that is not 0. A link-local remote needs a zone or dev, and so does a
// multicast group, else some device is taken. The error is the kernel's errno: unix.ENETUNREACH
// without a route, unix.EHOSTUNREACH, EACCES or EINVAL by an unreachable,
// prohibit or blackhole one.
//
// Two netlink requests; not for the path of a packet.
func (u *Underlay) Route(remote, local netip.Addr, dev string, mark uint32) (Route, error) {
	o := netlink.RouteGetOptions{Mark: mark}
	if local.IsValid() && !local.IsUnspecified() {
		o.SrcAddr = local.AsSlice()
	}
	if dev != "" {
		link, err := u.routes.LinkByName(dev)
		if err != nil {
			return Route{}, fmt.Errorf("route to %s: device %s: %w", remote, dev, err)
		}
		o.OifIndex = link.Attrs().Index
	} else if zone := remote.Zone(); zone != "" {
		index, err := u.zoneIndex(zone)
		if err != nil {
			return Route{}, err
		}
		o.OifIndex = index
	}
	r, err := u.lookup(remote, &o)
	if err != nil {
		return Route{}, err
	}
	link, err := u.routes.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Route{}, fmt.Errorf("route to %s: device %d: %w", remote, r.LinkIndex, err)
	}
	out := Route{
		Ifindex: r.LinkIndex, MTU: link.Attrs().MTU,
		Local: r.Type == unix.RTN_LOCAL, Broadcast: r.Type == unix.RTN_BROADCAST,
	}
	// A metric of the route, or what ICMP told about this remote. It may be
	// above what the device can do, but that does not help.
	if r.MTU > 0 && r.MTU < out.MTU {
		out.MTU = r.MTU
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		out.Source = src.Unmap()
	} else if o.SrcAddr != nil {
		out.Source = local
	}
	return out, nil
}

func (u *Underlay) lookup(remote netip.Addr, o *netlink.RouteGetOptions) (netlink.Route, error) {
	routes, err := u.routes.RouteGetWithOptions(remote.AsSlice(), o)
	if err != nil {
		return netlink.Route{}, fmt.Errorf("route to %s: %w", remote, err)
	}
	if len(routes) == 0 {
		return netlink.Route{}, fmt.Errorf("route to %s: %w", remote, unix.ENETUNREACH)
	}
	return routes[0], nil
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

// Uppers returns the devices that are stacked on those given, in ascending
// order and without them: their bridge or bond, VLAN and macvlan devices
// on top, and so on upwards. What arrives at one of these may have come
// through one of those. A VRF is none: datagrams of its members arrive
// under the member's own index.
func (u *Underlay) Uppers(ifindexes []int) ([]int, error) {
	links, err := u.routes.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return uppers(links, ifindexes), nil
}

func uppers(links []netlink.Link, below []int) []int {
	vrf := map[int]bool{}
	for _, l := range links {
		if l.Type() == "vrf" {
			vrf[l.Attrs().Index] = true
		}
	}
	seen := map[int]bool{}
	todo := slices.Clone(below)
	for _, i := range todo {
		seen[i] = true
	}
	var found []int
	visit := func(i int) {
		if i != 0 && !seen[i] && !vrf[i] {
			seen[i] = true
			found = append(found, i)
			todo = append(todo, i)
		}
	}
	for len(todo) > 0 {
		lower := todo[0]
		todo = todo[1:]
		for _, l := range links {
			a := l.Attrs()
			if a.Index == lower {
				visit(a.MasterIndex)
			}
			// IFLA_LINK is an index here only without IFLA_LINK_NETNSID; of
			// a veth it is the other end, which is beside it and not below.
			if a.ParentIndex == lower && a.NetNsID < 0 && l.Type() != "veth" {
				visit(a.Index)
			}
		}
	}
	slices.Sort(found)
	return found
}

// Watch tells on the channel that a device, an address, a route or a rule has
// changed since the last time, however many there were; then is the time to
// ask Route and Uppers again. The channel is closed after ctx is done.
func (u *Underlay) Watch(ctx context.Context) (<-chan struct{}, error) {
	file, err := watchSocket()
	if err != nil {
		return nil, err
	}
	return follow(ctx, file, watchSocket), nil
}

// watchSocket opens a netlink socket that hears of all that Watch tells of.
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
// another one, and tells of a change then: something may have been missed.
func follow(ctx context.Context, file io.ReadCloser, open func() (io.ReadCloser, error)) <-chan struct{} {
	changed := make(chan struct{}, 1)
	tell := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	listen := func() {
		defer file.Close()
		defer context.AfterFunc(ctx, func() { file.Close() })()
		buf := make([]byte, 32<<10)
		for ctx.Err() == nil {
			// What changed does not matter, nor does a message cut short.
			if _, err := file.Read(buf); err != nil && !isOverrun(err) {
				return
			}
			tell()
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
				tell()
				listen()
			}
		}
	}()
	return changed
}

// isOverrun tells that the kernel had more to say than the socket could
// hold, which is a change as well.
func isOverrun(err error) bool { return errors.Is(err, unix.ENOBUFS) }
