package tap

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// Queue is one queue of a device, with a non-blocking descriptor outside of
// Go's poller. One goroutine at a time may read; the device owns it.
//
// All errors, of Writer as well, are of type unix.Errno and come without allocation. EAGAIN
// says that there is nothing to read, or that the device is down; EIO on writing
// that it is down; EBADFD that it was deleted.
type Queue struct {
	fd   int
	out  int  // what is written to: a detached queue of the device, or fd itself
	vnet bool // a virtio-net header goes before each frame
}

// Writer writes to a queue. One goroutine at a time may use it; there may be several of a queue.
type Writer struct {
	q   *Queue
	hdr [packet.VirtioHdrLen]byte
	iov [2]unix.Iovec
	_   [128]byte // what others read, or write, is on no cache line of its
}

// Writer returns a writer to the device, to the same queue as those of workers by the number of
// queues further.
func (d *Device) Writer(worker int) *Writer { return &Writer{q: d.queues[worker%len(d.queues)]} }

func newQueue(fd int) *Queue {
	return &Queue{fd: fd, out: fd}
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

// Write writes one frame or super-frame. With a zero hdr it is an ordinary frame;
// any other is EINVAL on a device without offloads. It never blocks. hdr and frame
// are only read.
func (w *Writer) Write(hdr *packet.VirtioHdr, frame []byte) error {
	n := 0
	if w.q.vnet {
		hdr.Encode(w.hdr[:])
		w.iov[0] = unix.Iovec{Base: &w.hdr[0], Len: packet.VirtioHdrLen}
		n = 1
	} else if *hdr != (packet.VirtioHdr{}) {
		return unix.EINVAL
	}
	w.iov[n].Base = unsafe.SliceData(frame)
	w.iov[n].SetLen(len(frame))
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(w.q.out), uintptr(unsafe.Pointer(&w.iov[0])), uintptr(n+1))
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
