package udp

import (
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// mmsghdr is struct mmsghdr (recvmmsg(2)): one message of a batch.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

const (
	// rxBufLen is one receive buffer: the longest UDP payload, which is also
	// the longest train (65,535 bytes of IP packet).
	rxBufLen = 1 << 16
	rxStride = netio.ReceiveStride
)

// Receiver is one receive socket. One worker at a time uses it, apart from
// Overflows and Truncated, which anybody may read.
type Receiver struct {
	fd     int
	v4     bool
	group  bool // it is a multicast group's
	hdrs   []mmsghdr
	iovs   []unix.Iovec
	names  []unix.RawSockaddrInet6 // large enough for both families
	ctrl   [][ctrlLen]byte
	base   *byte // where the buffers of entries are: with the worker that came last
	based  int   // of how many entries
	trains []packet.Train
	used   int // entries the kernel wrote to last time

	// overflows is the kernel's counter, whose 32 bits wrap, in 64.
	overflows atomic.Uint64
	truncated atomic.Uint64
}

func newReceiver(fd, batch int, v4, group bool) *Receiver {
	r := &Receiver{
		fd:     fd,
		v4:     v4,
		group:  group,
		hdrs:   make([]mmsghdr, batch),
		iovs:   make([]unix.Iovec, batch),
		names:  make([]unix.RawSockaddrInet6, batch),
		ctrl:   make([][ctrlLen]byte, batch),
		trains: make([]packet.Train, 0, batch),
		used:   batch,
	}
	for i := range r.hdrs {
		r.iovs[i].SetLen(rxBufLen)
		h := &r.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = &r.ctrl[i][0]
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
	}
	return r
}

// FD is the descriptor to wait on; -1 after Close.
func (r *Receiver) FD() int { return r.fd }

// Overflows is how many datagrams the kernel dropped at this socket since it was
// opened: for want of room, mostly, and those with a wrong checksum. The
// worker gets the count with the next datagram that does arrive (SO_RXQ_OVFL);
// newer drops, such as those of a socket that is stuck, are asked for here. It must not be
// called while the socket is being closed.
func (r *Receiver) Overflows() uint64 {
	seen := r.overflows.Load()
	// SK_MEMINFO_VARS numbers, the last of them SK_MEMINFO_DROPS (linux/sock_diag.h).
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(r.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno == 0 && size == uint32(unsafe.Sizeof(info)) {
		seen += uint64(info[8] - uint32(seen))
	}
	return seen
}

// Truncated is how many datagrams were longer than a receive buffer, which no
// UDP datagram can be; they were dropped.
func (r *Receiver) Truncated() uint64 { return r.truncated.Load() }

// Receive takes one batch of what is there, as far as it has room in buf, and returns nothing
// if there is nothing. The buffer is the worker's: there are many sockets, and each of their
// batches would take 2 MiB. The trains are lent until the next Receive. An error
// is returned only when the descriptor is of no more use; whatever passes by
// itself (an interrupted call, want of memory, a device gone down) is no
// error and yields nothing. With more the batch was full: there is probably another.
func (r *Receiver) Receive(buf []byte) (trains []packet.Train, more bool, err error) {
	batch := min(len(r.hdrs), len(buf)/rxStride)
	if batch == 0 {
		return nil, false, unix.EFAULT
	}
	if r.base != &buf[0] || r.based < batch {
		r.base, r.based = &buf[0], batch
		for i := range batch {
			r.iovs[i].Base = &buf[i*rxStride]
		}
	}
	// The kernel overwrites these lengths in the entries that it fills.
	for i := range r.hdrs[:r.used] {
		h := &r.hdrs[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(ctrlLen)
	}
	r.used = 0
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(r.fd),
		uintptr(unsafe.Pointer(&r.hdrs[0])), uintptr(batch), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		// An entry may have been touched before the error was found.
		r.used = len(r.hdrs)
		if receiveFatal(errno) {
			return nil, false, errno
		}
		return nil, false, nil
	}
	r.used = int(n)
	return r.collect(buf, int(n)), r.used == batch, nil
}

// receiveFatal reports whether an error means that every later call fails, too.
func receiveFatal(e unix.Errno) bool {
	switch e {
	case unix.EBADF, unix.EBADFD, unix.ENOTSOCK, unix.EFAULT, unix.ENOSYS:
		return true
	}
	return false
}

// collect turns the first n entries into trains.
func (r *Receiver) collect(buf []byte, n int) []packet.Train {
	trains := r.trains[:0]
	for i := range n {
		m := &r.hdrs[i]
		if m.hdr.Flags&unix.MSG_TRUNC != 0 || m.len > rxBufLen {
			r.truncated.Add(1)
			continue
		}
		c := parseCmsgs(r.ctrl[i][:min(int(m.hdr.Controllen), ctrlLen)])
		if c.hasDrops {
			if seen := r.overflows.Load(); uint32(seen) != c.drops {
				r.overflows.Add(uint64(c.drops - uint32(seen)))
			}
		}
		start, length := i*rxStride, int(m.len)
		size := length
		if c.groSize > 0 && c.groSize < length {
			size = c.groSize
		}
		trains = append(trains, packet.Train{
			Data:    buf[start : start+length : start+length],
			Size:    size,
			From:    r.from(i),
			TOS:     c.tos,
			Ifindex: c.ifindex,

			Broadcast: c.broadcast && !r.group,
		})
	}
	return trains
}

// from is the source address of entry i. Making a netip.Addr without zone
// from bytes takes a nanosecond, so nothing is remembered from the last one.
func (r *Receiver) from(i int) netip.Addr {
	if r.v4 {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&r.names[i])).Addr)
	}
	return netip.AddrFrom16(r.names[i].Addr)
}
