package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The UDP load is our own: iperf3 makes three system calls for each datagram
// and is slower than what it should overload. Both sides below are this
// program once more, started in a namespace with one of these words.
const (
	wordSend = "udp-send" // ADDRESS SIZE RATE SECONDS; prints packets and seconds
	wordSink = "udp-sink" // SIZE; prints packets when SIGTERM ends it
)

const (
	udpPort    = 5202
	udpBatch   = 64     // datagrams of one sendmmsg or recvmmsg
	paceEvery  = 200e-6 // seconds between two bursts of a paced sender
	sinkIdle   = 100 * time.Millisecond
	udpPorts   = 45000 // source port: fixed, as those of TCP
	sockBuffer = 1 << 20
)

// loadMain is the other life of this program.
func loadMain(args []string) error {
	runtime.LockOSThread()
	var numbers []float64
	for _, a := range args[1:] {
		if v, err := strconv.ParseFloat(a, 64); err == nil {
			numbers = append(numbers, v)
		}
	}
	switch {
	case args[0] == wordSend && len(args) == 5 && len(numbers) == 3:
		addr, err := netip.ParseAddr(args[1])
		if err != nil {
			return err
		}
		packets, seconds, err := udpSend(addr, int(numbers[0]), numbers[1], numbers[2])
		if err != nil {
			return err
		}
		fmt.Println(packets, seconds)
		return nil
	case args[0] == wordSink && len(args) == 2 && len(numbers) == 1:
		packets, err := udpSink(int(numbers[0]))
		if err != nil {
			return err
		}
		fmt.Println(packets)
		return nil
	}
	return fmt.Errorf("%q: not understood", args)
}

// mmsghdr is struct mmsghdr of the kernel: the padding of Go's struct is the
// same as that of C's.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// messages are udpBatch buffers of a size. Those of a sender may all be one.
func messages(size int) []mmsghdr {
	m := make([]mmsghdr, udpBatch)
	for i := range m {
		buf := make([]byte, size)
		iov := &unix.Iovec{Base: &buf[0]}
		iov.SetLen(size)
		m[i].hdr.Iov = iov
		m[i].hdr.SetIovlen(1)
	}
	return m
}

// mmsg is sendmmsg or recvmmsg.
func mmsg(call uintptr, fd int, m []mmsghdr, flags uintptr) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// udpSocket is bound to a port, with buffers as large as the kernel gives but
// not larger than sockBuffer. The default, 208 KiB, holds 277 small packets:
// a no-drop rate would be that of the receiver's wake-ups.
func udpSocket(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sockBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sockBuffer),
		unix.Bind(fd, &unix.SockaddrInet4{Port: port}))
}

// udpSend sends datagrams for some seconds: rate packets per second, 0 as fast
// as it goes.
func udpSend(to netip.Addr, size int, rate, seconds float64) (packets int, took float64, err error) {
	fd, err := udpSocket(udpPorts)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4(), Port: udpPort}); err != nil {
		return 0, 0, err
	}
	m := messages(size)
	start := time.Now()
	for took < seconds {
		due := udpBatch
		if rate > 0 {
			due = min(int(took*rate)-packets, udpBatch)
		}
		if due <= 0 {
			// The next burst is all of what is due then.
			pause := unix.NsecToTimespec(int64(paceEvery * 1e9))
			unix.Nanosleep(&pause, nil)
		} else {
			n, err := mmsg(unix.SYS_SENDMMSG, fd, m[:due], 0)
			switch err {
			case nil, unix.EINTR, unix.ENOBUFS, unix.ECONNREFUSED: // of an earlier packet
			default:
				return packets, took, fmt.Errorf("sendmmsg: %w", err)
			}
			packets += n
		}
		took = time.Since(start).Seconds()
	}
	return packets, took, nil
}

// udpSink counts datagrams of a size until SIGTERM.
func udpSink(size int) (packets int, err error) {
	var end atomic.Bool
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	go func() {
		<-c
		end.Store(true)
	}()
	fd, err := udpSocket(udpPort)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	idle := unix.NsecToTimeval(int64(sinkIdle))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &idle); err != nil {
		return 0, err
	}
	m := messages(size + 1) // a larger one shows
	for !end.Load() {
		n, err := mmsg(unix.SYS_RECVMMSG, fd, m, unix.MSG_WAITFORONE)
		switch err {
		case nil, unix.EINTR, unix.EAGAIN:
		default:
			return packets, fmt.Errorf("recvmmsg: %w", err)
		}
		for i := range n {
			if m[i].len == uint32(size) {
				packets++
			}
		}
	}
	return packets, nil
}
