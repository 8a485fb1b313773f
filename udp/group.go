package udp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A multicast group has one receive socket, bound to the group's own address,
// because of what the kernel does with a datagram to a group: every socket that
// matches gets a copy, and SO_REUSEPORT spreads nothing (net/ipv4/udp.c
// __udp4_lib_mcast_deliver).
//
// Its bind meets the wildcard sockets of the port. Those of other programs must
// be in its way and ours must not, so it asks for SO_REUSEPORT, which ours have
// and theirs mostly have not. The reverse does not work: the first wildcard
// socket is bound without, and finds the group's in its way.

// checkListen refuses what cannot be listened on.
func checkListen(o ListenOptions) error {
	a := addrOf(o)
	switch {
	case !a.IsValid() || a.Is4In6():
		return fmt.Errorf("listen on %q: not a plain IPv4 or IPv6 address; use 0.0.0.0 or :: for any", a)
	case o.Port == 0:
		return fmt.Errorf("listen on %s: port 0 is not a port", a)
	case !o.Group.IsValid():
		return nil
	case !a.IsMulticast():
		return fmt.Errorf("listen on group %s: not a multicast address; take one of 239.0.0.0/8 or ff05::/16", a)
	case o.Local.IsValid() && o.Local.Is4() != a.Is4():
		return fmt.Errorf("listen on group %s: the local address %s is of the other family", a, o.Local)
	case o.Device == "":
		return fmt.Errorf("listen on group %s: name the device to join it on", a)
	case o.Group.Zone() != "" && o.Group.Zone() != o.Device:
		return fmt.Errorf("listen on group %s: its zone is not the device %s", o.Group, o.Device)
	}
	return nil
}

// addrOf is what the sockets are bound to.
func addrOf(o ListenOptions) netip.Addr {
	if o.Group.IsValid() {
		return o.Group.WithZone("")
	}
	return o.Local
}

// joinGroup makes a socket a member of the group on the device with this index. The
// kernel tells the network by IGMP or MLD, and that it has left when the
// socket is closed.
func joinGroup(fd int, group netip.Addr, index int) error {
	var err error
	if group.Is4() {
		err = unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	} else {
		err = unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", group, err)
	}
	return nil
}

// leaveGroup forgets what the socket has of the group, also of a device that is no
// longer there.
func leaveGroup(fd int, group netip.Addr, index int) {
	if group.Is4() {
		_ = unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_DROP_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	} else {
		_ = unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_LEAVE_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
	}
}

// Renew binds sockets of a device that has gone and come back under another
// index to the new one, and joins groups again that were lost with the old
// one or with its IP configuration. Call it when Watch has told of a change;
// where nothing is lost it changes nothing and costs one netlink request for
// each device that sockets are bound to. It returns how many sockets were
// renewed. A device that is not there is an error; call it again later. It
// needs CAP_NET_RAW.
//
// The sockets keep their descriptors and may be in use meanwhile. Receive sockets
// of an address are left alone: bound anew they would not be spread over the
// workers any more, see Listener.Stale. While such sockets are stale on a device, its
// groups are left alone too: the group's socket would be in the way of the new ones.
func (u *Underlay) Renew() (renewed int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	indexes := map[string]int{} // of devices; 0: not there
	renew := func(device string, group netip.Addr, fds ...int32) {
		index, asked := indexes[device]
		if !asked {
			if link, e := u.routes.LinkByName(device); e != nil {
				err = errors.Join(err, fmt.Errorf("device %s: %w", device, e))
			} else {
				index = link.Attrs().Index
			}
			indexes[device] = index
		}
		if index == 0 {
			return
		}
		for _, fd := range fds {
			changed, e := rebind(int(fd), device, index, group)
			if e != nil {
				err = errors.Join(err, fmt.Errorf("device %s: %w", device, e))
				return
			}
			if changed {
				renewed++
			}
		}
	}
	stale := u.staleDevices()
	for l := range u.listeners {
		for _, r := range l.receivers {
			if r != nil && l.options.Group.IsValid() && !stale[l.options.Device] {
				renew(l.options.Device, l.options.Group.WithZone(""), int32(r.fd))
			}
		}
	}
	for o, s := range u.sets {
		if o.Device != "" {
			renew(o.Device, netip.Addr{}, slices.Concat(s.set.FD...)...)
		}
	}
	return renewed, err
}

// staleDevices are those on which addresses must be listened on anew. Where that is done
// already, the old sockets may still be there, until no worker uses them any more. u.mu is
// held.
func (u *Underlay) staleDevices() map[string]bool {
	type where struct {
		device string
		local  netip.AddrPort
	}
	fresh, stale := make(map[where]bool), make(map[*Listener]where)
	for l := range u.listeners {
		if l.options.Device == "" || l.options.Group.IsValid() {
			continue
		}
		on := where{l.options.Device, netip.AddrPortFrom(l.options.Local, l.options.Port)}
		if l.Stale() {
			stale[l] = on
		} else {
			fresh[on] = true
		}
	}
	devices := make(map[string]bool)
	for l, on := range stale {
		if !fresh[on] {
			devices[l.options.Device] = true
		}
	}
	return devices
}

// rebind makes sure that a socket is bound to the device that has this index
// now, and is a member of the group there if one is given. It does nothing
// to a socket with which all is well: to leave and join again would tell the
// network both.
func rebind(fd int, device string, index int, group netip.Addr) (changed bool, err error) {
	bound, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	if err != nil {
		return false, os.NewSyscallError("getsockopt SO_BINDTOIFINDEX", err)
	}
	if bound == index && (!group.IsValid() || joined(index, group)) {
		return false, nil
	}
	// The socket may remember a membership that the device has not, and then
	// refuses to join twice.
	if group.IsValid() {
		leaveGroup(fd, group, bound)
	}
	if bound != index {
		if err := unix.BindToDevice(fd, device); err != nil {
			return false, fmt.Errorf("bind to device: %w", err)
		}
	}
	if group.IsValid() {
		if err := joinGroup(fd, group, index); err != nil {
			return false, err
		}
	}
	return true, nil
}

// joined reports whether a device has joined a group, for our socket or another. If that
// cannot be seen, it is assumed.
func joined(index int, group netip.Addr) bool {
	// thread-self: a thread may be in another namespace than the process.
	table, find := "/proc/thread-self/net/igmp", findGroup4
	if group.Is6() {
		table, find = "/proc/thread-self/net/igmp6", findGroup6
	}
	text, err := os.ReadFile(table)
	return err != nil || find(text, index, group)
}

// findGroup4 looks through the text of /proc/net/igmp: a line for each device
// that begins with its index, then one for each group, indented, with the address
// as a number in host byte order (net/ipv4/igmp.c igmp_mc_seq_show).
func findGroup4(table []byte, index int, group netip.Addr) bool {
	a := group.As4()
	want := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(a[:]))
	here := false
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		switch {
		case len(f) == 0:
		case line[0] != '\t':
			here = f[0] == strconv.Itoa(index)
		case here && f[0] == want:
			return true
		}
	}
	return false
}

// findGroup6 looks through the text of /proc/net/igmp6: index, device and
// address of one group a line (net/ipv6/mcast.c igmp6_mc_seq_show).
func findGroup6(table []byte, index int, group netip.Addr) bool {
	a := group.As16()
	want := hex.EncodeToString(a[:])
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) > 2 && f[0] == strconv.Itoa(index) && f[2] == want {
			return true
		}
	}
	return false
}
