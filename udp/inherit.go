package udp

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Inherit hands over receive sockets that an earlier process opened and
// somebody has kept open since, in the order in which they were opened. Listen
// takes those that fit instead of new ones: what waits in them is received,
// and the kernel goes on spreading flows over them as before.
func (u *Underlay) Inherit(fds []int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.inherited = append(u.inherited, fds...)
}

// Disown closes the inherited sockets that no Listen has taken. They may be in
// the way of new ones on their port.
func (u *Underlay) Disown() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, fd := range u.inherited {
		unix.Close(fd)
	}
	u.inherited = nil
}

// take returns an inherited socket that fits, brought to the state of a new
// one, or -1 if there is none.
func (u *Underlay) take(o ListenOptions) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, fd := range u.inherited {
		if u.fits(fd, o) && u.refit(fd, o) == nil {
			u.inherited = slices.Delete(u.inherited, i, i+1)
			return fd
		}
	}
	return -1
}

// fits reports whether a socket is what Listen would open: all that cannot be
// changed any more.
func (u *Underlay) fits(fd int, o ListenOptions) bool {
	at, zone := boundTo(fd)
	if at != netip.AddrPortFrom(addrOf(o).WithZone(""), o.Port) || !inThisNamespace(fd) {
		return false
	}
	sa, err := u.sockaddr(addrOf(o), o.Port, o.Device)
	if six, ok := sa.(*unix.SockaddrInet6); err != nil || ok && six.ZoneId != zone {
		return false
	}
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_UDP {
		return false
	}
	if device, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil || device != o.Device {
		return false
	}
	if addrOf(o).Is6() {
		zero, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_NO_CHECK6_RX)
		return err == nil && (zero != 0) == o.ZeroCsum6
	}
	return true
}

// refit sets what can be changed, and joins a group again if its device was
// made anew meanwhile.
func (u *Underlay) refit(fd int, o ListenOptions) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := u.prepare(fd, o, true); err != nil {
		return err
	}
	if o.Device == "" {
		return nil
	}
	index, err := u.zoneIndex(o.Device)
	if err != nil {
		return err
	}
	_, err = rebind(fd, o.Device, index, o.Group.WithZone(""))
	return err
}

// boundTo is the address of a socket, and its scope if it is an IPv6 one.
func boundTo(fd int) (at netip.AddrPort, zone uint32) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return at, 0
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), 0
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), sa.ZoneId
	}
	return at, 0
}

// inThisNamespace reports whether a socket is in the network namespace of the
// calling thread. A kernel that cannot tell (before Linux 5.14) is believed.
func inThisNamespace(fd int) bool {
	theirs, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return true
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(s)
	ours, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err == nil && ours == theirs
}

// Sockets returns the descriptors of the listener, in the order of the workers.
// They stay the listener's.
func (l *Listener) Sockets() (fds []int) {
	for _, r := range l.receivers {
		if r != nil {
			fds = append(fds, r.fd)
		}
	}
	return fds
}
