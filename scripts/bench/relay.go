package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The relay is a tunnel reduced to its system calls: what a TAP yields goes through
// a UDP socket to the other side's TAP as it is, in segments of a datagram's size
// but without a header, a checksum, a table or a second tunnel. Whatever carries
// frames from a TAP through UDP in a process of its own costs at least that much.
// It is this program once more, started in a namespace with this word.
const wordRelay = "relay" // DEVICE LOCAL REMOTE PORT

const (
	relayPort    = 7081
	relaySegment = 1472    // bytes of a datagram in the lab: MTU 1500
	relayTurn    = 4       // super-frames before it looks at the other side
	relayBuffer  = 8 << 20 // of the socket
)

var relay = contender{name: "relay", bridgable: true, uncut: true, up: func(ctx context.Context, dir string, s *site) error {
	for i, e := range s.ends {
		e.device = "rly0"
		var err error
		if e.daemon, err = startRelay(ctx, s, i, e.device, relayPort); err != nil {
			return err
		}
	}
	return nil
}, second: func(ctx context.Context, dir string, s *site) (string, error) {
	const device = "rly1"
	for i := range s.ends {
		p, err := startRelay(ctx, s, i, device, relayPort+1)
		if err != nil {
			return "", err
		}
		s.after = append(s.after, p.stop)
	}
	return device, nil
}}

// startRelay starts one end of a relay and waits for its socket, which it opens last.
func startRelay(ctx context.Context, s *site, end int, device string, port int) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	e, far := s.ends[end], s.ends[1-end]
	p, err := start(e.host, self, wordRelay, device, e.underlay.String(), far.underlay.String(), fmt.Sprint(port))
	if err != nil {
		return nil, err
	}
	err = p.until(ctx, "relaying", func() bool { return listens(p.pid(), "udp", port) })
	if err == nil {
		err = s.ip(ctx, e.host, "link", "set", device, "mtu", "1450")
	}
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// relayMain relays until a signal ends it.
func relayMain(args []string) error {
	runtime.LockOSThread()
	if len(args) != 5 {
		return fmt.Errorf("%q: not understood", args)
	}
	local, err := netip.ParseAddr(args[2])
	remote, err2 := netip.ParseAddr(args[3])
	port, err3 := strconv.Atoi(args[4])
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	tap, err := relayTAP(args[1])
	if err != nil {
		return err
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_UDP, unix.UDP_GRO, 1),
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, relayBuffer),
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, relayBuffer),
		unix.Bind(socket, &unix.SockaddrInet4{Addr: local.As4(), Port: port}),
		unix.Connect(socket, &unix.SockaddrInet4{Addr: remote.As4(), Port: port}))
	for _, fd := range []int{tap, socket} {
		err = errors.Join(err, unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	}
	if err != nil {
		return err
	}
	relayFrames(epoll, tap, socket)
	return nil
}

// relayTAP opens a TAP with virtio-net headers, so that it yields super-frames.
func relayTAP(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return -1, fmt.Errorf("TUNSETIFF: %w", err)
	}
	return fd, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
}

// relayFrames never returns. Raw system calls: there is nobody else to run.
func relayFrames(epoll, tap, socket int) {
	buf := make([]byte, 70000)
	iov := unix.Iovec{Base: &buf[0]}
	control := make([]byte, unix.CmsgSpace(2))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	header.Level, header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	header.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&control[unix.CmsgLen(0)])) = relaySegment
	var message unix.Msghdr
	message.Iov = &iov
	message.SetIovlen(1)
	var event [1]unix.EpollEvent
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&event)), 1, uintptr(time.Hour.Milliseconds()), 0, 0)
		if errno != 0 || n == 0 {
			continue
		}
		from := uintptr(event[0].Fd)
		for range relayTurn {
			n, _, errno := unix.RawSyscall(unix.SYS_READ, from, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
			if errno != 0 {
				break
			}
			if from != uintptr(tap) {
				unix.RawSyscall(unix.SYS_WRITE, uintptr(tap), uintptr(unsafe.Pointer(&buf[0])), n)
				continue
			}
			iov.SetLen(int(n))
			message.Control = nil
			message.SetControllen(0)
			if n > relaySegment {
				message.Control = &control[0]
				message.SetControllen(len(control))
			}
			unix.RawSyscall(unix.SYS_SENDMSG, uintptr(socket), uintptr(unsafe.Pointer(&message)), 0)
		}
	}
}
