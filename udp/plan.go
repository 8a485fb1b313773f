package udp

import "gvtep/internal/packet"

// Limits of one send.
const (
	// The longest UDP payload of one IPv4 or IPv6 packet without extension
	// headers. A run as a whole obeys it too: it is one packet until it is cut.
	maxPayload4 = 65535 - 20 - 8
	maxPayload6 = 65535 - 40 - 8
	// maxIovecs is UIO_MAXIOV (include/uapi/linux/uio.h).
	maxIovecs = 1024
)

// piece is one queued datagram.
type piece struct {
	path       *packet.Path
	head, tail []byte
	next       int32 // index + 1 of the next one for the same port; 0: none
	tos, ttl   uint8
}

func (p *piece) size() int { return len(p.head) + len(p.tail) }

// iovecs is how many non-empty parts p has.
func (p *piece) iovecs() int {
	n := 0
	if len(p.head) > 0 {
		n++
	}
	if len(p.tail) > 0 {
		n++
	}
	return n
}

// message is one entry of a send: a single datagram, or a run.
type message struct {
	first int32 // index of its first piece; the others follow by next
	count int32 // datagrams
	size  int32 // of each but the last, which may be shorter
}

// plan lays the pieces that start at queue[first] out into messages: runs of
// up to maxSegs datagrams of one path, size, TOS and TTL, of which only the last may be
// shorter. The pieces appear in the messages in their order, each once.
// With maxSegs 1 every datagram is a message of its own.
func plan(queue []piece, first int32, maxSegs int, msgs []message) []message {
	var (
		m      message
		head   *piece
		bytes  int
		iovecs int
		closed bool
	)
	for i := first + 1; i != 0; i = queue[i-1].next {
		p := &queue[i-1]
		size, iov := p.size(), p.iovecs()
		joins := head != nil && !closed &&
			p.path == head.path && p.tos == head.tos && p.ttl == head.ttl &&
			size > 0 && size <= int(m.size) && int(m.count) < maxSegs &&
			bytes+size <= maxPayload(p.path) && iovecs+iov <= maxIovecs
		if joins {
			m.count++
			bytes += size
			iovecs += iov
			closed = size < int(m.size)
			continue
		}
		if head != nil {
			msgs = append(msgs, m)
		}
		head, m = p, message{first: i - 1, count: 1, size: int32(size)}
		bytes, iovecs, closed = size, iov, false
	}
	if head != nil {
		msgs = append(msgs, m)
	}
	return msgs
}

func maxPayload(p *packet.Path) int {
	if p.Remote.Addr().Is4() {
		return maxPayload4
	}
	return maxPayload6
}

// split makes every datagram of a message a message of its own.
func split(queue []piece, m message, msgs []message) []message {
	for i, n := m.first, m.count; n > 0; n-- {
		msgs = append(msgs, message{first: i, count: 1, size: int32(queue[i].size())})
		i = queue[i].next - 1
	}
	return msgs
}
