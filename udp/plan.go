package udp

import "gvtep/internal/packet"

// Limits of one send.
const (
	// The longest UDP payload of one IPv4 or IPv6 packet without extension
	// headers. A run as a whole obeys it too: it is one packet until it is cut.
	maxPayload4 = 65535 - 20 - 8
	maxPayload6 = 65535 - 40 - 8
)

// piece is one queued datagram, or several one right behind the other.
type piece struct {
	path       *packet.Path
	head, tail []byte // of several all is in head
	next       int32  // index + 1 of the next one for the same port; 0: none
	count      int32  // datagrams
	size       int32  // of each; the last may be shorter
	tos, ttl   uint8
}

// sizeOf is the size of the i-th datagram.
func (p *piece) sizeOf(i int32) int {
	if i < p.count-1 {
		return int(p.size)
	}
	return len(p.head) + len(p.tail) - int(i*p.size)
}

// message is one entry of a send: a single datagram, or a run.
type message struct {
	first int32 // index of its first piece; the others follow by next
	skip  int32 // datagrams of that which are not its
	count int32 // datagrams
	size  int32 // of each but the last, which may be shorter
}

// plan lays the pieces that start at queue[first] out into messages: runs of
// up to maxSegs datagrams of one path, size, TOS and TTL, of which only the last may be
// shorter. The datagrams appear in the messages in their order, each once.
// With maxSegs 1, or to a path that takes no runs, every datagram is a message of
// its own.
func plan(queue []piece, first int32, maxSegs int, msgs []message) []message {
	var (
		m      message
		head   *piece
		limit  int
		bytes  int
		closed bool
	)
	for i := first + 1; i != 0; i = queue[i-1].next {
		p := &queue[i-1]
		for at := int32(0); at < p.count; {
			size := p.sizeOf(at)
			joins := head != nil && !closed &&
				p.path == head.path && p.tos == head.tos && p.ttl == head.ttl &&
				size > 0 && size <= int(m.size) && int(m.count) < limit &&
				bytes+size <= maxPayload(p.path)
			if !joins {
				if head != nil {
					msgs = append(msgs, m)
				}
				head, m = p, message{first: i - 1, skip: at, count: 1, size: int32(size)}
				bytes, closed = size, false
				if limit = maxSegs; p.path.NoGSO.Load() {
					limit = 1
				}
				at++
				continue
			}
			// As many of its full ones as there is room for, at once.
			n := int32(1)
			if size == int(m.size) {
				n = max(1, min(p.count-1-at, int32(limit)-m.count, int32((maxPayload(p.path)-bytes)/size)))
			}
			m.count += n
			bytes += int(n) * size
			closed = size < int(m.size)
			at += n
		}
	}
	if head != nil {
		msgs = append(msgs, m)
	}
	return msgs
}

// divide leaves those pieces linked to queue[first] that go to the same path, in
// their order, and links the others to each other, in theirs. It returns index + 1 of
// the first of these, 0 if there is none. A flood goes to each peer in turn: without
// it no two datagrams that follow each other would have the same path.
func divide(queue []piece, first int32) (others int32) {
	path := queue[first].path
	same, other := &queue[first].next, &others
	for i := *same; i != 0; {
		p := &queue[i-1]
		if p.path == path {
			*same, same = i, &p.next
		} else {
			*other, other = i, &p.next
		}
		i = p.next
	}
	*same, *other = 0, 0
	return others
}

func maxPayload(p *packet.Path) int {
	if p.Remote.Addr().Is4() {
		return maxPayload4
	}
	return maxPayload6
}

// split makes every datagram of a message a message of its own.
func split(queue []piece, m message, msgs []message) []message {
	i, at := m.first, m.skip
	for range m.count {
		p := &queue[i]
		msgs = append(msgs, message{first: i, skip: at, count: 1, size: int32(p.sizeOf(at))})
		if at++; at == p.count {
			i, at = p.next-1, 0
		}
	}
	return msgs
}
