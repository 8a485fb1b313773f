package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

const (
	// maxIov is the kernel's UIO_MAXIOV: the most pieces of one writev.
	maxIov = 1024
	// firstIov suits a super-frame of MTU-sized segments. A queue grows its
	// array when it meets more; 16 KiB for each of thousands of idle queues
	// would be memory for nothing.
	firstIov = 64
)

// Queue is one queue of a device, with a non-blocking descriptor outside of
// Go's poller. One goroutine at a time may read and one, perhaps another, write; the
// device owns it.
//
// All errors are of type unix.Errno and come without allocation. EAGAIN says
// that there is nothing to read, or that the device is down; EIO on writing
// that it is down; EBADFD that it was deleted.
type Queue struct {
	fd   int
	out  int  // what is written to: a detached queue of the device, or fd itself
	vnet bool // a virtio-net header goes before each frame
	hdr  [packet.VirtioHdrLen]byte
	iov  []unix.Iovec
}

func newQueue(fd int) *Queue {
	return &Queue{fd: fd, out: fd, iov: make([]unix.Iovec, 0, firstIov)}
}

// FD is the descriptor, to poll on. It becomes -1 when the device is closed.
func (q *Queue) FD() int { return q.fd }

// Read reads one frame or super-frame into buf and returns it as a part of
// buf. buf should hold packet.VirtioHdrLen + packet.MaxFrame bytes: what does
// not fit is cut off by the kernel without a word. It never blocks.
func (q *Queue) Read(buf []byte, hdr *packet.VirtioHdr) ([]byte, error) {
	if len(buf) < packet.VirtioHdrLen {
		return nil, unix.EINVAL
	}
	for {
		// A raw call: it does not block, and telling the scheduler about
		// each of a million calls a second costs more than it gives.
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(q.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return nil, errno
		case !q.vnet:
			*hdr = packet.VirtioHdr{}
			return buf[:n], nil
		case n < packet.VirtioHdrLen:
			return nil, unix.EIO
		}
		hdr.Decode(buf)
		return buf[packet.VirtioHdrLen:n], nil
	}
}

// Write writes one frame or super-frame, gathered from parts; at most 1,023
// of them. With a zero hdr it is an ordinary frame; any other is EINVAL on a
// device without offloads. It never blocks. hdr and parts are only read.
func (q *Queue) Write(hdr *packet.VirtioHdr, parts [][]byte) error {
	if len(parts) >= maxIov || len(parts) == 0 {
		return unix.EINVAL
	}
	iov := q.iov[:0]
	if q.vnet {
		hdr.Encode(q.hdr[:])
		iov = append(iov, unix.Iovec{Base: &q.hdr[0], Len: packet.VirtioHdrLen})
	} else if *hdr != (packet.VirtioHdr{}) {
		return unix.EINVAL
	}
	for _, p := range parts {
		v := unix.Iovec{Base: unsafe.SliceData(p)}
		v.SetLen(len(p))
		iov = append(iov, v)
	}
	q.iov = iov // keep it if it grew
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(q.out), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

func (q *Queue) close() error {
	fd, out := q.fd, q.out
	q.fd, q.out = -1, -1
	if out != fd {
		unix.Close(out) // a second descriptor of the same device has no news
	}
	return unix.Close(fd)
}
