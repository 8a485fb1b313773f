package udp

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// Sending is three steps, each a function of its own: plan lays the datagrams
// of one source port out into messages, encode writes the messages in the
// kernel's form, deliver sends them and deals with what the kernel says.

const (
	// queueLen is how many single datagrams and runs a Sender gathers: more than the
	// budget of one turn (64 frames), so that a queue is almost never full before
	// its Flush, and small enough for the cache (36 KiB).
	queueLen = 512
	// chunkLen is how many messages one sendmmsg carries at most.
	chunkLen = 64
	// maxRun is the most datagrams in a run on any kernel. Two parts of each are well
	// below UIO_MAXIOV, 1024 (include/uapi/linux/uio.h).
	maxRun = 128
	// maxDivided is how many paths the datagrams of one port are told apart by, as
	// each takes a look at all of them.
	maxDivided = 16
)

// Sender gathers datagrams and sends them as runs. Only its worker uses it.
type Sender struct {
	worker  int
	maxSegs int
	send    sendFunc

	queue   []piece
	n       int
	lists   [][]portList // by PortSet.ID, then by port
	touched []touch

	msgs    []message
	singles []message // a run taken apart
	whole   encoder
	single  encoder

	batches packet.Batches

	failures []packet.Failure
	handed   bool // failures were returned by Flush and may be forgotten
}

// portList is the datagrams waiting for one port: index + 1 of the first and
// the last, 0 if there is none.
type portList struct {
	first, last int32
	mixed       bool // not all go to one path
}

// touch is a port that has datagrams waiting.
type touch struct {
	set  *packet.PortSet
	port int
}

// sendFunc sends the first messages of msgs, at least one, and returns how
// many, or 0 and the error of the first one.
type sendFunc func(fd int32, msgs []mmsghdr) (int, unix.Errno)

func newSender(worker, maxSegs int, send sendFunc) *Sender {
	s := &Sender{
		worker:   worker,
		maxSegs:  min(maxSegs, maxRun),
		send:     send,
		queue:    make([]piece, queueLen),
		touched:  make([]touch, 0, queueLen),
		msgs:     make([]message, 0, queueLen),
		singles:  make([]message, 0, maxRun),
		failures: make([]packet.Failure, 0, 64),
	}
	s.whole.init(2*queueLen + chunkLen) // a run may be parts of several messages
	s.single.init(2 * maxRun)
	return s
}

// Add queues one datagram, head and tail together, to go to path from the
// source port that hash picks. head and tail are lent until Flush returns.
// Datagrams with the same path and hash leave in the order they were added in. tos is
// the whole octet, ECN included; ttl 0 leaves the system's default. A full queue
// is sent at once.
func (s *Sender) Add(path *packet.Path, hash uint32, tos, ttl uint8, head, tail []byte) {
	p := s.enqueue(path, hash)
	p.path, p.head, p.tail, p.next, p.tos, p.ttl = path, head, tail, 0, tos, ttl
	p.count, p.size = 1, int32(len(head)+len(tail))
}

// AddRun queues the datagrams of size bytes that stand in run, one right behind the
// other, the last of them perhaps shorter, as Add would one by one. There is at least
// one byte.
func (s *Sender) AddRun(path *packet.Path, hash uint32, tos, ttl uint8, run []byte, size int) {
	p := s.enqueue(path, hash)
	p.path, p.head, p.tail, p.next, p.tos, p.ttl = path, run, nil, 0, tos, ttl
	p.count, p.size = int32((len(run)+size-1)/size), int32(min(size, len(run)))
}

// enqueue appends a place to the list of the source port that hash picks.
func (s *Sender) enqueue(path *packet.Path, hash uint32) *piece {
	if s.n == len(s.queue) {
		s.flush()
	}
	set := path.Set
	if set.ID >= len(s.lists) || len(s.lists[set.ID]) < len(set.Ports) {
		s.admit(set)
	}
	port := set.Index(hash)
	at := int32(s.n)
	s.n++
	l := &s.lists[set.ID][port]
	if l.first == 0 {
		l.first = at + 1
		s.touched = append(s.touched, touch{set, port})
	} else {
		last := &s.queue[l.last-1]
		last.next = at + 1
		l.mixed = l.mixed || last.path != path
	}
	l.last = at + 1
	return &s.queue[at]
}

// admit makes room for the first datagram of a set, perhaps where one with fewer ports was.
func (s *Sender) admit(set *packet.PortSet) {
	for set.ID >= len(s.lists) {
		s.lists = append(s.lists, nil)
	}
	s.lists[set.ID] = make([]portList, len(set.Ports))
}

// Flush sends all that is queued and returns what could not be sent since the
// last Flush. The result is valid until the next Add. Every datagram was
// either handed to the kernel once or is counted in one Failure.
func (s *Sender) Flush() []packet.Failure {
	s.flush()
	s.handed = true
	return s.failures
}

func (s *Sender) flush() {
	if s.handed {
		s.handed = false
		s.failures = s.failures[:0]
	}
	for _, t := range s.touched {
		l := &s.lists[t.set.ID][t.port]
		segs := s.maxSegs
		if t.set.NoGSO {
			segs = 1
		}
		s.msgs = s.msgs[:0]
		first := l.first
		for n := 0; l.mixed && first != 0 && n < maxDivided; n++ {
			others := divide(s.queue, first-1)
			s.msgs = plan(s.queue, first-1, segs, s.msgs)
			first = others
		}
		if first != 0 {
			s.msgs = plan(s.queue, first-1, segs, s.msgs)
		}
		s.deliver(t.set, t.set.FD[s.worker][t.port], &s.whole, s.msgs)
		*l = portList{}
	}
	s.touched = s.touched[:0]
	s.n = 0
}

// deliver sends messages of one descriptor in order. It returns false once the
// descriptor is found to be of no use; what was left then has failed.
func (s *Sender) deliver(set *packet.PortSet, fd int32, e *encoder, msgs []message) bool {
	for len(msgs) > 0 {
		n := min(len(msgs), chunkLen)
		e.encode(s.queue, msgs[:n])
		again := false
		for i := 0; i < n; {
			sent, errno := s.send(fd, e.hdrs[i:n])
			if sent > 0 {
				s.count(set, msgs[i:i+sent])
				i += sent
				again = false
				continue
			}
			m := msgs[i]
			switch decide(errno, m.count > 1, again) {
			case sendAgain:
				again = true
				continue
			case stopGSO:
				s.queue[m.first].path.NoGSO.Store(true)
				fallthrough
			case sendSingly:
				s.singles = split(s.queue, m, s.singles[:0])
				if !s.deliver(set, fd, &s.single, s.singles) {
					s.failAll(msgs[i+1:], unix.EBADF)
					return false
				}
			case lose:
				s.fail(m, errno)
			case giveUp:
				s.failAll(msgs[i:], errno)
				return false
			}
			i++
			again = false
		}
		msgs = msgs[n:]
	}
	return true
}

// count counts what one system call took.
func (s *Sender) count(set *packet.PortSet, msgs []message) {
	n := 0
	for i := range msgs {
		n += int(msgs[i].count)
	}
	s.batches.Add(n)
	set.Sent[s.worker].Add(uint64(n))
}

// verdict is what to do about a message that was refused.
type verdict int

const (
	lose       verdict = iota // report it and go on with the next
	sendAgain                 // the same once more
	sendSingly                // its datagrams, each by itself
	stopGSO                   // sendSingly, and no runs to this path any more
	giveUp                    // the descriptor is of no more use
)

// decide says what to do about a message that was refused with errno: a run or a
// single datagram, tried again before or not. Whatever the answers of the
// kernel, a message is sent at most twice as a whole and twice singly.
func decide(errno unix.Errno, run, tried bool) verdict {
	switch errno {
	case unix.EBADF, unix.EBADFD, unix.ENOTSOCK:
		return giveUp
	case unix.EIO:
		// The way cannot take segments: a device that cannot finish their checksums
		// (before Linux 6.11), or IPsec (net/ipv4/udp.c, udp_send_skb).
		if run {
			return stopGSO
		}
	case unix.EMSGSIZE:
		// Some datagrams of the run may be small enough by themselves, or be
		// fragmented where that is allowed.
		if run {
			return sendSingly
		}
	case unix.EINVAL:
		// Too many segments, a zero-checksum socket, a segment beyond the path
		// on older kernels, or a blackhole route: it proves nothing.
		if run {
			return sendSingly
		}
	case unix.ECONNREFUSED, unix.ENOBUFS, unix.EAGAIN, unix.ENOMEM, unix.EINTR, 0:
		// Belongs to an earlier datagram, or may have passed already.
		if !tried {
			return sendAgain
		}
	}
	return lose
}

func (s *Sender) failAll(msgs []message, errno unix.Errno) {
	for _, m := range msgs {
		s.fail(m, errno)
	}
}

// fail reports a message as lost. Neighbours with one cause are one Failure,
// so a burst to an unreachable peer does not grow the list.
func (s *Sender) fail(m message, errno unix.Errno) {
	first := &s.queue[m.first]
	path, size := first.path, first.sizeOf(m.skip)
	if n := len(s.failures); n > 0 {
		if last := &s.failures[n-1]; last.Path == path && last.Err == error(errno) {
			last.Count += int(m.count)
			last.Size = min(last.Size, size)
			return
		}
	}
	s.failures = append(s.failures, packet.Failure{Path: path, Count: int(m.count), Size: size, Err: errno})
}

// encoder holds the kernel's form of up to chunkLen messages.
type encoder struct {
	hdrs  []mmsghdr
	names []unix.RawSockaddrInet6 // large enough for both families
	ctrl  [][ctrlLen]byte
	iovs  []unix.Iovec
	last  []byte // what the last iovec holds; nil: none of this message
}

func (e *encoder) init(iovecs int) {
	e.hdrs = make([]mmsghdr, chunkLen)
	e.names = make([]unix.RawSockaddrInet6, chunkLen)
	e.ctrl = make([][ctrlLen]byte, chunkLen)
	e.iovs = make([]unix.Iovec, iovecs)
}

// encode writes msgs, at most chunkLen, to e.hdrs. Neighbours to the same path
// share one address, and one set of control messages if those are equal.
func (e *encoder) encode(queue []piece, msgs []message) {
	var (
		prev    *piece
		segment int
		iov     int
	)
	for i, m := range msgs {
		p := &queue[m.first]
		h := &e.hdrs[i].hdr
		gso := 0
		if m.count > 1 {
			gso = int(m.size)
		}
		switch {
		case prev == nil || prev.path != p.path:
			putName(&e.names[i], p.path)
			h.Name = (*byte)(unsafe.Pointer(&e.names[i]))
			h.Namelen = unix.SizeofSockaddrInet6
			if p.path.Remote.Addr().Is4() {
				h.Namelen = unix.SizeofSockaddrInet4
			}
			e.putControl(i, p, gso)
		case prev.tos != p.tos || prev.ttl != p.ttl || segment != gso:
			h.Name, h.Namelen = e.hdrs[i-1].hdr.Name, e.hdrs[i-1].hdr.Namelen
			e.putControl(i, p, gso)
		default:
			before := &e.hdrs[i-1].hdr
			h.Name, h.Namelen = before.Name, before.Namelen
			h.Control, h.Controllen = before.Control, before.Controllen
		}
		prev, segment = p, gso

		start := iov
		e.last = nil
		at, skip := m.first, m.skip
		for rest := m.count; rest > 0; {
			q := &queue[at]
			head := q.head
			n := min(rest, q.count-skip)
			if q.count > 1 {
				head = head[skip*q.size : min(int((skip+n)*q.size), len(head))]
			}
			iov = e.putPart(iov, head)
			iov = e.putPart(iov, q.tail)
			rest -= n
			at, skip = q.next-1, 0
		}
		h.Iov = nil
		if iov > start {
			h.Iov = &e.iovs[start]
		}
		h.SetIovlen(iov - start)
	}
}

// putPart appends part to the message being written, to its last iovec if it lies
// right behind that in one buffer: the kernel copies one long part faster than many.
func (e *encoder) putPart(at int, part []byte) int {
	if len(part) == 0 {
		return at
	}
	if n := len(e.last); n > 0 && cap(e.last)-n >= len(part) && &e.last[:n+1][n] == &part[0] {
		e.last = e.last[:n+len(part)]
		e.iovs[at-1].SetLen(len(e.last))
		return at
	}
	e.last = part
	e.iovs[at].Base = &part[0]
	e.iovs[at].SetLen(len(part))
	return at + 1
}

// putName writes the remote as a socket address.
func putName(name *unix.RawSockaddrInet6, path *packet.Path) {
	addr := path.Remote.Addr()
	if addr.Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		putPort(&sa.Port, path.Remote.Port())
		return
	}
	*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.As16()}
	if addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast() {
		name.Scope_id = uint32(path.Ifindex)
	}
	putPort(&name.Port, path.Remote.Port())
}

// putPort stores a port in network byte order.
func putPort(field *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(field))[:], port)
}

// putControl writes the control messages of message i. What is the socket's
// default already is left out. IP_TTL and IPV6_HOPLIMIT given like this
// hold for multicast groups too (net/ipv4/ip_output.c __ip_make_skb).
func (e *encoder) putControl(i int, p *piece, gso int) {
	b := e.ctrl[i][:]
	n := 0
	if gso > 0 {
		var data []byte
		data, n = putCmsg(b, n, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(data, uint16(gso))
	}
	path := p.path
	if path.Remote.Addr().Is4() {
		if p.tos != 0 {
			n = putCmsgInt(b, n, unix.SOL_IP, unix.IP_TOS, uint32(p.tos))
		}
		if p.ttl != 0 {
			n = putCmsgInt(b, n, unix.SOL_IP, unix.IP_TTL, uint32(p.ttl))
		}
		if path.Local.Is4() || path.Ifindex != 0 {
			var data []byte
			data, n = putCmsg(b, n, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
			binary.NativeEndian.PutUint32(data, uint32(path.Ifindex))
			if path.Local.Is4() {
				local := path.Local.As4()
				copy(data[4:], local[:])
			}
		}
	} else {
		if p.tos != 0 {
			n = putCmsgInt(b, n, unix.SOL_IPV6, unix.IPV6_TCLASS, uint32(p.tos))
		}
		if p.ttl != 0 {
			n = putCmsgInt(b, n, unix.SOL_IPV6, unix.IPV6_HOPLIMIT, uint32(p.ttl))
		}
		if path.Local.Is6() || path.Ifindex != 0 {
			var data []byte
			data, n = putCmsg(b, n, unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
			if path.Local.Is6() {
				local := path.Local.As16()
				copy(data, local[:])
			}
			binary.NativeEndian.PutUint32(data[16:], uint32(path.Ifindex))
		}
	}
	h := &e.hdrs[i].hdr
	h.Control = nil
	if n > 0 {
		h.Control = &b[0]
	}
	h.SetControllen(n)
}

// sendmsgs is the kernel's sendFunc. The raw calls do not tell Go's scheduler:
// the sockets never block, and the hand-over would cost more than the call.
func sendmsgs(fd int32, msgs []mmsghdr) (int, unix.Errno) {
	if len(msgs) == 1 {
		_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&msgs[0].hdr)), unix.MSG_DONTWAIT)
		if errno != 0 {
			return 0, errno
		}
		return 1, 0
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
