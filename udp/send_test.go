package udp

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

func testSet(id, ports int) *packet.PortSet {
	s := &packet.PortSet{ID: id, FD: make([][]int32, 1), Sent: make([]packet.Counter, 1)}
	for i := range ports {
		s.Ports = append(s.Ports, uint16(50000+i))
		s.FD[0] = append(s.FD[0], int32(1000*id+i))
	}
	return s
}

func testPath(remote string, set *packet.PortSet) *packet.Path {
	return &packet.Path{Remote: netip.MustParseAddrPort(remote), Set: set}
}

// sent is one message as the scripted kernel got it.
type sent struct {
	fd      int32
	payload string
	segment int
}

// datagrams is what goes out on the wire for a message.
func (m sent) datagrams() (out []string) {
	if m.segment == 0 {
		return []string{m.payload}
	}
	for part := range slices.Chunk([]byte(m.payload), m.segment) {
		out = append(out, string(part))
	}
	return out
}

// kernel is a scripted sendFunc: errnos are the answers to the first message of
// each call in turn, 0 for success of up to limit messages.
type kernel struct {
	script []unix.Errno
	limit  int
	calls  int
	got    []sent
	answer func(sent) unix.Errno // instead of the script
}

func (k *kernel) send(fd int32, msgs []mmsghdr) (int, unix.Errno) {
	k.calls++
	if k.calls > 100000 {
		panic("endless loop")
	}
	if k.answer == nil {
		var e unix.Errno
		if len(k.script) > 0 {
			e, k.script = k.script[0], k.script[1:]
		}
		if e != 0 {
			return 0, e
		}
	}
	n := 0
	for i := range msgs {
		if k.limit > 0 && n == k.limit {
			break
		}
		m := decodeMessage(fd, &msgs[i].hdr)
		if k.answer != nil {
			if e := k.answer(m); e != 0 {
				if n == 0 {
					return 0, e
				}
				break
			}
		}
		k.got = append(k.got, m)
		n++
	}
	return n, 0
}

func decodeMessage(fd int32, h *unix.Msghdr) sent {
	m := sent{fd: fd}
	for _, v := range unsafe.Slice(h.Iov, int(h.Iovlen)) {
		m.payload += string(unsafe.Slice(v.Base, int(v.Len)))
	}
	if h.Controllen > 0 {
		msgs, err := unix.ParseSocketControlMessage(unsafe.Slice(h.Control, int(h.Controllen)))
		if err != nil {
			panic(err)
		}
		for _, c := range msgs {
			if c.Header.Level == unix.SOL_UDP && c.Header.Type == unix.UDP_SEGMENT {
				m.segment = int(c.Data[0]) | int(c.Data[1])<<8
			}
		}
	}
	return m
}

// TestOnePart: datagrams that lie one behind the other in a buffer are given to the
// kernel as one part, others as parts of their own.
func TestOnePart(t *testing.T) {
	set := testSet(0, 1)
	path := testPath("192.0.2.2:6081", set)
	buf := make([]byte, 1000)
	for i := range buf {
		buf[i] = byte(i)
	}
	for _, tc := range []struct {
		name  string
		parts [][2][]byte // head and tail of each datagram
		want  int
	}{
		{"pieces of one buffer", [][2][]byte{{buf[:100], nil}, {buf[100:200], nil}, {buf[200:250], nil}}, 1},
		{"a header in front", [][2][]byte{{buf[:8], buf[8:100]}, {buf[100:108], buf[108:200]}}, 1},
		{"a gap", [][2][]byte{{buf[:100], nil}, {buf[101:201], nil}}, 2},
		{"out of order", [][2][]byte{{buf[100:200], nil}, {buf[:100], nil}}, 2},
		{"the end of a buffer", [][2][]byte{{buf[:100:100], nil}, {buf[100:200], nil}}, 2},
	} {
		parts, payload, want := 0, "", ""
		s := newSender(0, 64, func(fd int32, msgs []mmsghdr) (int, unix.Errno) {
			for i := range msgs {
				parts += int(msgs[i].hdr.Iovlen)
				payload += decodeMessage(fd, &msgs[i].hdr).payload
			}
			return len(msgs), 0
		})
		for _, p := range tc.parts {
			s.Add(path, 0, 0, 0, p[0], p[1])
			want += string(p[0]) + string(p[1])
		}
		s.Flush()
		if parts != tc.want || payload != want {
			t.Errorf("%s: %d parts of %x, want %d of %x", tc.name, parts, payload, tc.want, want)
		}
	}
}

func (k *kernel) wire() (out []string) {
	for _, m := range k.got {
		out = append(out, m.datagrams()...)
	}
	return out
}

func describe(fs []packet.Failure) string {
	var s []string
	for _, f := range fs {
		s = append(s, fmt.Sprintf("%d to %v: %s", f.Count, f.Path.Remote.Addr(), unix.ErrnoName(f.Err.(unix.Errno))))
	}
	return strings.Join(s, "; ")
}

// TestErrorRules plays every rule of "Errors of sendmsg": six datagrams to one
// peer, four of them one run, then a single one to another.
func TestErrorRules(t *testing.T) {
	all := []string{"aaaa1", "aaaa2", "aaaa3", "aaaa4", "bbbbbb", "c"}
	for _, c := range []struct {
		name   string
		limit  int
		script []unix.Errno
		want   []string // on the wire
		fail   string
		calls  int
		noGSO  bool
	}{
		{"all well", 0, nil, all, "", 1, false},
		{"one at a time", 1, nil, all, "", 3, false},
		{"EIO turns GSO off", 0, []unix.Errno{unix.EIO}, all, "", 3, true},
		{"EIO and a single one fails too", 0, []unix.Errno{unix.EIO, unix.EIO}, all[1:], "1 to 10.0.0.1: EIO", 4, true},
		{"EMSGSIZE, then singly", 0, []unix.Errno{unix.EMSGSIZE}, all, "", 3, false},
		{"EMSGSIZE, all too big", 0, []unix.Errno{unix.EMSGSIZE, unix.EMSGSIZE, unix.EMSGSIZE, unix.EMSGSIZE, unix.EMSGSIZE},
			all[4:], "4 to 10.0.0.1: EMSGSIZE", 6, false},
		{"EINVAL, then singly", 0, []unix.Errno{unix.EINVAL}, all, "", 3, false},
		{"EINVAL singly is final", 0, []unix.Errno{unix.EINVAL, unix.EINVAL}, all[1:], "1 to 10.0.0.1: EINVAL", 4, false},
		{"ECONNREFUSED belongs to another", 0, []unix.Errno{unix.ECONNREFUSED}, all, "", 2, false},
		{"ECONNREFUSED twice", 0, []unix.Errno{unix.ECONNREFUSED, unix.ECONNREFUSED}, all[4:], "4 to 10.0.0.1: ECONNREFUSED", 3, false},
		{"ENOBUFS once", 0, []unix.Errno{unix.ENOBUFS}, all, "", 2, false},
		{"EAGAIN twice", 0, []unix.Errno{unix.EAGAIN, unix.EAGAIN}, all[4:], "4 to 10.0.0.1: EAGAIN", 3, false},
		{"again, then too big", 0, []unix.Errno{unix.ENOBUFS, unix.EMSGSIZE}, all, "", 4, false},
		{"EPERM costs one message", 0, []unix.Errno{unix.EPERM}, all[4:], "4 to 10.0.0.1: EPERM", 2, false},
		{"ENETUNREACH in the middle", 1, []unix.Errno{0, unix.ENETUNREACH}, append(slices.Clone(all[:4]), "c"), "1 to 10.0.0.1: ENETUNREACH", 3, false},
		{"EACCES at the end", 1, []unix.Errno{0, 0, unix.EACCES}, all[:5], "1 to 10.0.0.2: EACCES", 3, false},
		{"EHOSTUNREACH everywhere", 0, []unix.Errno{unix.EHOSTUNREACH, unix.EHOSTUNREACH, unix.EHOSTUNREACH}, nil,
			"5 to 10.0.0.1: EHOSTUNREACH; 1 to 10.0.0.2: EHOSTUNREACH", 3, false},
		{"EBADF ends it", 1, []unix.Errno{0, unix.EBADF}, all[:4], "1 to 10.0.0.1: EBADF; 1 to 10.0.0.2: EBADF", 2, false},
		{"EBADF while singly", 0, []unix.Errno{unix.EINVAL, unix.EBADF}, nil, "5 to 10.0.0.1: EBADF; 1 to 10.0.0.2: EBADF", 2, false},
		{"unheard of", 0, []unix.Errno{unix.EXDEV}, all[4:], "4 to 10.0.0.1: EXDEV", 2, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := &kernel{script: c.script, limit: c.limit}
			s := newSender(0, 128, k.send)
			set := testSet(0, 1)
			near, far := testPath("10.0.0.1:6081", set), testPath("10.0.0.2:6081", set)
			for _, d := range all {
				path := near
				if d == "c" {
					path = far
				}
				s.Add(path, 0, 0, 64, []byte(d[:1]), []byte(d[1:]))
			}
			fail := describe(s.Flush())
			if got := k.wire(); !slices.Equal(got, c.want) {
				t.Errorf("on the wire %q, want %q", got, c.want)
			}
			if fail != c.fail {
				t.Errorf("failures %q, want %q", fail, c.fail)
			}
			if k.calls != c.calls {
				t.Errorf("%d calls, want %d", k.calls, c.calls)
			}
			if near.NoGSO.Load() != c.noGSO || far.NoGSO.Load() {
				t.Errorf("NoGSO %v, to the other peer %v, want %v, false", near.NoGSO.Load(), far.NoGSO.Load(), c.noGSO)
			}
			if fs := s.Flush(); len(fs) != 0 {
				t.Errorf("next Flush reports again: %v", describe(fs))
			}
		})
	}
}

// TestNumberTakenAgain: a set gets the number of one that is closed, and a sender has room for
// it also if it has more ports.
func TestNumberTakenAgain(t *testing.T) {
	k := &kernel{limit: 64}
	k.answer = func(sent) unix.Errno { return 0 }
	s := newSender(0, 64, k.send)
	for _, ports := range []int{2, 5, 3} {
		path := testPath("10.0.0.1:6081", testSet(0, ports))
		for i := range uint32(100) {
			s.Add(path, i<<25, 0, 0, []byte("x"), nil)
		}
		if failed := s.Flush(); len(failed) != 0 {
			t.Errorf("%d ports: %v", ports, failed)
		}
		if len(s.lists) != 1 || len(s.lists[0]) < ports {
			t.Errorf("%d ports: %d lists", ports, len(s.lists))
		}
	}
}

// TestExactlyOnce lets the kernel answer at random and holds the promise of
// Flush: each datagram is on the wire once or in one failure, in order by port and
// path.
func TestExactlyOnce(t *testing.T) {
	errnos := []unix.Errno{0, 0, 0, unix.EIO, unix.EMSGSIZE, unix.EINVAL, unix.EAGAIN, unix.ENOBUFS, unix.EPERM, unix.ENETUNREACH}
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		k := &kernel{limit: 1 + rnd.IntN(5)}
		k.answer = func(sent) unix.Errno { return errnos[rnd.IntN(len(errnos))] }
		s := newSender(0, 64, k.send)
		sets := []*packet.PortSet{testSet(0, 4), testSet(1, 1)}
		paths := []*packet.Path{
			testPath("10.0.0.1:6081", sets[0]), testPath("[fd00::1]:6081", sets[0]), testPath("10.0.0.3:6081", sets[1])}
		total, failed := 1+rnd.IntN(1500), 0 // more than the queue holds
		type flow struct {
			fd   int32
			path int
		}
		pathOf, lastOf := map[int]int{}, map[flow]int{}
		for i := 0; i < total; i++ {
			if n := min(rnd.IntN(100), total-i); n > 0 && rnd.IntN(10) == 0 {
				var run []byte
				for range n {
					run = append(fmt.Appendf(run, "%08d", i), make([]byte, 30)...)
					i++
				}
				i--
				to := rnd.IntN(3)
				for k := range n {
					pathOf[i-k] = to
				}
				s.AddRun(paths[to], rnd.Uint32(), 0, 0, run[:len(run)-rnd.IntN(30)], 38)
				continue
			}
			body := fmt.Appendf(nil, "%08d", i)
			body = append(body, make([]byte, rnd.IntN(2)*rnd.IntN(30))...)
			cut := rnd.IntN(len(body) + 1)
			to := rnd.IntN(3)
			pathOf[i] = to
			s.Add(paths[to], rnd.Uint32(), 0, 0, body[:cut], body[cut:])
		}
		for _, f := range s.Flush() {
			failed += f.Count
		}
		seen := map[int]bool{}
		for _, m := range k.got {
			for _, d := range m.datagrams() {
				var i int
				fmt.Sscanf(d[:8], "%d", &i)
				if seen[i] {
					t.Fatalf("seed %d: datagram %d sent twice", seed, i)
				}
				of := flow{m.fd, pathOf[i]}
				if last, ok := lastOf[of]; ok && last > i {
					t.Fatalf("seed %d: datagram %d after %d on descriptor %d to path %d", seed, i, last, of.fd, of.path)
				}
				seen[i], lastOf[of] = true, i
			}
		}
		if len(seen)+failed != total {
			t.Fatalf("seed %d: %d sent and %d failed of %d", seed, len(seen), failed, total)
		}
	}
}

// TestFlood: frames that go to each of several peers, one after the other, leave in
// one run for each, but for those beyond maxDivided; to a peer that takes no runs
// they go one by one.
func TestFlood(t *testing.T) {
	for _, peers := range []int{1, 2, maxDivided, maxDivided + 2} {
		k := &kernel{}
		s := newSender(0, 64, k.send)
		set := testSet(0, 1)
		const frames = 10
		var paths []*packet.Path
		want := map[string]int{}
		for p := range peers {
			paths = append(paths, testPath(fmt.Sprintf("10.0.0.%d:6081", p), set))
			paths[p].NoGSO.Store(p == 1)
		}
		for n := range frames {
			for p, path := range paths {
				s.Add(path, 7, 0, 0, fmt.Appendf(nil, "%02d", p), fmt.Appendf(nil, "-%d", n))
			}
		}
		for p := range peers {
			run := ""
			for n := range frames {
				one := fmt.Sprintf("%02d-%d", p, n)
				if run += one; p == 1 || p >= maxDivided {
					want[one]++
				}
			}
			if p != 1 && p < maxDivided {
				want[run]++
			}
		}
		if failed := s.Flush(); len(failed) > 0 {
			t.Errorf("%d peers: %s", peers, describe(failed))
		}
		got := map[string]int{}
		for _, m := range k.got {
			got[m.payload]++
		}
		if !maps.Equal(got, want) {
			t.Errorf("%d peers: messages %v, want %v", peers, got, want)
		}
	}
}

// TestPlan holds the planner to its limits on random queues.
func TestPlan(t *testing.T) {
	set := testSet(0, 1)
	paths := []*packet.Path{testPath("10.0.0.1:6081", set), testPath("[fd00::1]:6081", set)}
	sizes := []int{0, 1, 100, 1400, 1450, 9000, 65487, 65507}
	type datagram struct {
		path *packet.Path
		tos  uint8
		size int
	}
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		maxSegs := []int{1, 2, 64, 128}[rnd.IntN(4)]
		queue := make([]piece, 1+rnd.IntN(queueLen))
		buf := make([]byte, 1<<20)
		size, path := sizes[rnd.IntN(len(sizes))], paths[0]
		var tos uint8
		var all []datagram // one by one, and where each stands
		var where []message
		for i := range queue {
			if rnd.IntN(20) == 0 {
				size, path, tos = sizes[rnd.IntN(len(sizes))], paths[rnd.IntN(2)], uint8(rnd.IntN(2))
			}
			head := min(size, rnd.IntN(60))
			p := piece{path: path, head: buf[:head], tail: buf[head:size], tos: tos, count: 1, size: int32(size)}
			if size > 0 && rnd.IntN(3) == 0 {
				p.count = int32(2 + rnd.IntN(min(300, len(buf)/size)-1))
				last := size
				if rnd.IntN(2) == 0 {
					last = 1 + rnd.IntN(size)
				}
				p.head, p.tail = buf[:int(p.count-1)*size+last], nil
			}
			for k := range p.count {
				n := size
				if p.count > 1 && k == p.count-1 {
					n = len(p.head) - int(k)*size
				}
				all = append(all, datagram{path, tos, n})
				where = append(where, message{first: int32(i), skip: k})
			}
			if queue[i] = p; i > 0 {
				queue[i-1].next = int32(i + 1)
			}
		}
		msgs := plan(queue, 0, maxSegs, nil)
		at := 0
		for k, m := range msgs {
			if m.count < 1 || at+int(m.count) > len(all) || m.first != where[at].first || m.skip != where[at].skip {
				t.Fatalf("seed %d: message %d is %+v, want it to begin at %+v", seed, k, m, where[at])
			}
			bytes := 0
			of := all[at : at+int(m.count)]
			for i, d := range of {
				bytes += d.size
				last := i == len(of)-1
				switch {
				case d.path != of[0].path || d.tos != of[0].tos:
					t.Fatalf("seed %d: message %d mixes paths or TOS", seed, k)
				case d.size > int(m.size), !last && d.size != int(m.size), m.count > 1 && d.size == 0:
					t.Fatalf("seed %d: message %d of size %d has a datagram of %d (last: %v)", seed, k, m.size, d.size, last)
				}
			}
			if len(of) > maxSegs || m.count > 1 && bytes > maxPayload(of[0].path) {
				t.Fatalf("seed %d: message %d: %d datagrams, %d bytes", seed, k, m.count, bytes)
			}
			if singles := split(queue, m, nil); len(singles) != len(of) {
				t.Fatalf("seed %d: message %d split into %d, want %d", seed, k, len(singles), len(of))
			} else {
				for i, one := range singles {
					if want := (message{where[at+i].first, where[at+i].skip, 1, int32(of[i].size)}); one != want {
						t.Fatalf("seed %d: message %d: datagram %d alone is %+v, want %+v", seed, k, i, one, want)
					}
				}
			}
			at += len(of)
			// A planner that never joins would pass all of the above.
			if at < len(all) && len(of) < maxSegs {
				p, q := all[at-1], all[at]
				if q.size > 0 && p.path == q.path && p.tos == q.tos && p.size == int(m.size) && q.size <= p.size && bytes+q.size <= maxPayload(p.path) {
					t.Fatalf("seed %d: message %d ends after %d for no reason", seed, k, m.count)
				}
			}
		}
		if at != len(all) {
			t.Fatalf("seed %d: %d of %d planned", seed, at, len(all))
		}
	}
}

func TestSenderManySets(t *testing.T) {
	k := &kernel{}
	s := newSender(0, 128, k.send)
	for id := 20; id >= 0; id-- {
		set := testSet(id, 3)
		s.Add(testPath("10.0.0.1:6081", set), 0xffffffff, 0, 0, []byte("x"), nil)
		s.Add(testPath("10.0.0.1:6081", set), 0, 0, 0, []byte("y"), nil)
	}
	if fs := s.Flush(); len(fs) != 0 {
		t.Fatal(describe(fs))
	}
	var fds []int32
	for _, m := range k.got {
		fds = append(fds, m.fd)
	}
	slices.Sort(fds)
	var want []int32
	for id := range int32(21) {
		want = append(want, 1000*id, 1000*id+2)
	}
	if !slices.Equal(fds, want) {
		t.Errorf("descriptors %v, want %v", fds, want)
	}
}

func TestSegmentsOf(t *testing.T) {
	for release, want := range map[string]int{
		"6.18.44": 128, "6.9-rc1": 128, "6.9.0": 128, "6.8.12": 64, "6.1.0-18-amd64": 64, "5.15.0": 64, "7.0": 128, "": 64, "odd": 64, "10.2.1": 128,
	} {
		if got := segmentsOf(release); got != want {
			t.Errorf("segmentsOf(%q) = %d, want %d", release, got, want)
		}
	}
}

func nullSend(_ int32, msgs []mmsghdr) (int, unix.Errno) { return len(msgs), 0 }

func TestSendAllocs(t *testing.T) {
	for _, c := range []struct {
		name string
		send sendFunc
	}{
		{"sent", nullSend},
		{"refused", func(int32, []mmsghdr) (int, unix.Errno) { return 0, unix.ENETUNREACH }},
		{"refused as a run", func(int32, []mmsghdr) (int, unix.Errno) { return 0, unix.EMSGSIZE }},
	} {
		s := newSender(0, 128, c.send)
		path := testPath("10.0.0.1:6081", testSet(0, 64))
		head, tail := make([]byte, 50), make([]byte, 1400)
		step := func() {
			for i := range uint32(700) {
				s.Add(path, i%7<<29, 2, 64, head, tail)
			}
			s.Flush()
		}
		step()
		if n := testing.AllocsPerRun(50, step); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
	}
}

// TestEncode compares the control messages with what package unix makes of them.
func TestEncode(t *testing.T) {
	set := testSet(0, 1)
	p4, p6 := testPath("10.0.0.1:6081", set), testPath("[fe80::1]:6081", set)
	p4.Local, p4.Ifindex = netip.MustParseAddr("10.0.0.9"), 3
	p6.Local, p6.Ifindex = netip.MustParseAddr("fe80::9"), 4
	for _, c := range []struct {
		name string
		p    piece
		gso  int
		want map[[2]int32][]byte
	}{
		{"plain", piece{path: testPath("10.0.0.1:6081", set)}, 0, map[[2]int32][]byte{}},
		{"all IPv4", piece{path: p4, tos: 0xba, ttl: 7}, 1400, map[[2]int32][]byte{
			{unix.SOL_UDP, unix.UDP_SEGMENT}: {0x78, 5},
			{unix.SOL_IP, unix.IP_TOS}:       native32(0xba),
			{unix.SOL_IP, unix.IP_TTL}:       native32(7),
			{unix.SOL_IP, unix.IP_PKTINFO}:   {3, 0, 0, 0, 10, 0, 0, 9, 0, 0, 0, 0},
		}},
		{"all IPv6", piece{path: p6, tos: 0xba, ttl: 7}, 1400, map[[2]int32][]byte{
			{unix.SOL_UDP, unix.UDP_SEGMENT}:    {0x78, 5},
			{unix.SOL_IPV6, unix.IPV6_TCLASS}:   native32(0xba),
			{unix.SOL_IPV6, unix.IPV6_HOPLIMIT}: native32(7),
			{unix.SOL_IPV6, unix.IPV6_PKTINFO}:  {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 4, 0, 0, 0},
		}},
	} {
		var e encoder
		e.init(4)
		e.putControl(0, &c.p, c.gso)
		h := &e.hdrs[0].hdr
		var msgs []unix.SocketControlMessage
		if h.Controllen > 0 {
			var err error
			msgs, err = unix.ParseSocketControlMessage(unsafe.Slice(h.Control, int(h.Controllen)))
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		for _, m := range msgs {
			key := [2]int32{m.Header.Level, m.Header.Type}
			if !bytes.Equal(m.Data, c.want[key]) {
				t.Errorf("%s: message %v is %x, want %x", c.name, key, m.Data, c.want[key])
			}
		}
		if len(msgs) != len(c.want) {
			t.Errorf("%s: %d messages, want %d", c.name, len(msgs), len(c.want))
		}
	}
}

func BenchmarkAddFlush(b *testing.B) {
	head, tail := make([]byte, 50), make([]byte, 1400)
	for _, c := range []struct {
		name         string
		ports, flows int
	}{{"run", 64, 1}, {"64flows", 64, 64}} {
		b.Run(c.name, func(b *testing.B) {
			s := newSender(0, 128, nullSend)
			path := testPath("10.0.0.1:6081", testSet(0, c.ports))
			b.ReportAllocs()
			for i := 0; i < b.N; i += 45 {
				for j := range uint32(45) {
					s.Add(path, j%uint32(c.flows)<<26, 0, 64, head, tail)
				}
				s.Flush()
			}
		})
	}
}
