package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Listener is the receive sockets of one address, as many as workers. The kernel
// spreads flows over them by a hash of the outer addresses and ports. The
// Listener of a group has one socket only.
type Listener struct {
	u         *Underlay
	options   ListenOptions
	receivers []*Receiver // of a group's only the first
	rcvbuf    int
	gro       bool
}

// Listen opens the receive sockets of one address.
//
// If somebody else holds the port on an overlapping address the error is an
// unix.EADDRINUSE that says who; a Local that is not an address of this host
// gives unix.EADDRNOTAVAIL.
//
// With Group it joins that group on Device, which must be there; unix.ENODEV if
// it is not, and has one socket. Open the sockets of
// an unspecified address before groups on the same port, and ask once for
// each group, port and device: a second Listener gets copies of its own.
func (u *Underlay) Listen(o ListenOptions) (*Listener, error) {
	if err := checkListen(o); err != nil {
		return nil, err
	}
	l := &Listener{u: u, options: o, receivers: make([]*Receiver, u.cfg.Workers)}
	workers := l.receivers
	if o.Group.IsValid() {
		workers = workers[:1]
	}
	for i := range workers {
		fd, err := u.listenSocket(o, i == 0)
		if err != nil {
			l.closeSockets()
			return nil, listenError(o, err)
		}
		workers[i] = newReceiver(fd, u.cfg.Batch, addrOf(o).Is4(), o.Group.IsValid())
	}
	// The kernel reports twice what was asked for (socket(7)).
	if n, err := unix.GetsockoptInt(workers[0].fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil {
		l.rcvbuf = n / 2
	}
	if n, err := unix.GetsockoptInt(workers[0].fd, unix.SOL_UDP, unix.UDP_GRO); err == nil {
		l.gro = n != 0
	}
	u.mu.Lock()
	u.listeners[l] = struct{}{}
	u.mu.Unlock()
	return l, nil
}

// TryListen says why Listen would fail, and opens nothing that stays. The port is bound for a
// moment where nobody else has it. Beside sockets of ours, which would lose datagrams to it
// meanwhile, and for a group, it is only tried whether its address and device are there.
func (u *Underlay) TryListen(o ListenOptions) error {
	if err := checkListen(o); err != nil {
		return err
	}
	try := o
	if o.Beside || o.Group.IsValid() {
		try.Port, try.Group, try.Beside = 0, netip.Addr{}, false
		if o.Group.IsValid() {
			try.Local = unspecified(o.Group)
		}
	}
	fd, err := u.bound(try, true)
	if err != nil {
		return listenError(o, err)
	}
	return unix.Close(fd)
}

// listenSocket opens one receive socket. The first one is bound alone and only
// then opens its port to siblings: with SO_REUSEPORT set before, a second
// process of the same user would join unnoticed and take half the flows. A
// group's has it from the start: nothing can be taken from it. One that is bound
// Beside ours has it too: it is ours that hold the port.
func (u *Underlay) listenSocket(o ListenOptions, first bool) (int, error) {
	if fd := u.take(o); fd >= 0 {
		return fd, nil
	}
	return u.bound(o, first)
}

// bound makes and binds a receive socket.
func (u *Underlay) bound(o ListenOptions, first bool) (_ int, err error) {
	exclusive := first && !o.Group.IsValid() && !o.Beside
	fd, err := unix.Socket(familyOf(addrOf(o)), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if addrOf(o).Is6() { // cannot be set once the socket is bound
		if err := setOptions(fd, []option{{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"}}); err != nil {
			return -1, err
		}
	}
	if err := u.prepare(fd, o, !exclusive); err != nil {
		return -1, err
	}
	if o.Device != "" {
		if err := unix.BindToDevice(fd, o.Device); err != nil {
			return -1, fmt.Errorf("bind to device %s: %w", o.Device, err)
		}
	}
	sa, err := u.sockaddr(addrOf(o), o.Port, o.Device)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return -1, denied(o.Port, err)
	}
	if exclusive {
		err = setOptions(fd, []option{{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"}})
	}
	if o.Group.IsValid() {
		index, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		if err != nil {
			return -1, os.NewSyscallError("getsockopt SO_BINDTOIFINDEX (Linux 5.1)", err)
		}
		return fd, joinGroup(fd, addrOf(o), index)
	}
	return fd, err
}

// prepare sets the options of a receive socket, also of one that is bound.
func (u *Underlay) prepare(fd int, o ListenOptions, share bool) error {
	if err := setOptions(fd, listenOptions(o, share)); err != nil {
		return err
	}
	if err := setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, u.cfg.Rcvbuf); err != nil {
		return err
	}
	gro := 0
	if u.cfg.GRO {
		gro = 1
	}
	// Since Linux 5.0; without it every datagram is a train of one.
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, gro)
	return nil
}

func listenOptions(o ListenOptions, share bool) []option {
	opts := []option{{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1, "SO_RXQ_OVFL"}}
	if addrOf(o).Is4() {
		opts = append(opts,
			option{unix.SOL_IP, unix.IP_PKTINFO, 1, "IP_PKTINFO"},
			option{unix.SOL_IP, unix.IP_RECVTOS, 1, "IP_RECVTOS"},
			// Else a wildcard socket gets groups that others have joined.
			option{unix.SOL_IP, unix.IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL"})
	} else {
		opts = append(opts,
			option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"},
			option{unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"},
			option{unix.SOL_IPV6, unix.IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL"})
		if o.ZeroCsum6 {
			opts = append(opts, option{unix.SOL_UDP, unix.UDP_NO_CHECK6_RX, 1, "UDP_NO_CHECK6_RX"})
		}
	}
	if share {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1, "SO_REUSEPORT"})
	}
	return opts
}

// listenError makes one clear line of what bind said.
func listenError(o ListenOptions, err error) error {
	at := netip.AddrPortFrom(addrOf(o), o.Port)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		who, instead := holder(addrOf(o), o.Port), ""
		if strings.HasSuffix(who, "(gvtep)") && !strings.HasPrefix(who, thisProcess) {
			instead = ", or add the tunnel to it (gvtep tunnel add)"
		}
		return fmt.Errorf("listen on udp %s: %w: held by %s; stop it or take another port or local address%s", at, err, who, instead)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("listen on udp %s: %w: no device of this host has %s ready; add it first, or take %s for any", at, err, o.Local, unspecified(o.Local))
	default:
		return fmt.Errorf("listen on udp %s: %w", at, err)
	}
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// Receiver returns the i-th receive socket, 0 to Workers-1; nil for all but
// the first of a group.
func (l *Listener) Receiver(i int) *Receiver { return l.receivers[i] }

// Rcvbuf is the receive buffer each socket was granted, in bytes as asked for
// in Config. It is smaller than that if net.core.rmem_max limits us.
func (l *Listener) Rcvbuf() int { return l.rcvbuf }

// GRO reports whether trains are received.
func (l *Listener) GRO() bool { return l.gro }

// Stale reports whether the device that the sockets of an address are bound to
// has gone and come back as another one. They receive nothing any more then;
// Listen again with the same options and close this one. To bind them to the
// new device would not do: a socket that is bound anew leaves its SO_REUSEPORT
// group, and nothing takes it in again (net/ipv4/udp.c udp_lib_rehash), so that
// one worker would get everything. Sockets of a group are for Renew.
func (l *Listener) Stale() bool {
	if l.options.Device == "" || l.options.Group.IsValid() {
		return false
	}
	link, err := l.u.routes.LinkByName(l.options.Device)
	if err != nil {
		return false // not yet, or nobody can tell
	}
	bound, err := unix.GetsockoptInt(l.receivers[0].fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	return err == nil && bound != link.Attrs().Index
}

// Close closes all sockets. No worker may use a Receiver any more.
func (l *Listener) Close() error {
	l.u.mu.Lock()
	defer l.u.mu.Unlock()
	delete(l.u.listeners, l)
	l.closeSockets()
	return nil
}

func (l *Listener) closeSockets() {
	for _, r := range l.receivers {
		if r != nil && r.fd >= 0 {
			unix.Close(r.fd)
			r.fd = -1
		}
	}
}
