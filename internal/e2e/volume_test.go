package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Much traffic.
//
//	a                                          b
//	gnv0 192.0.2.1/24 . . . . . . . . . . . .  gnv0 192.0.2.2/24
//	     fd92::1/64                                 fd92::2/64
//	veth0 10.77.0.1/24 ======================  veth0 10.77.0.2/24

// labs are what the veth between the hosts does with packets larger than the
// MTU: plug's is a network card's (wire), which the receiving side joins
// again; as the kernel makes it, they pass uncut (veth).
var labs = map[string]map[uint32]uint32{
	"wire": {unix.ETHTOOL_SGRO: 1},
	"veth": {unix.ETHTOOL_STXCSUM: 1, unix.ETHTOOL_SGSO: 1, unix.ETHTOOL_STSO: 1},
}

// inners are the families of what is in the tunnel, with the addresses of a and b.
var inners = []struct{ name, near, far string }{
	{"IPv4", "192.0.2.1", "192.0.2.2"},
	{"IPv6", "fd92::1", "fd92::2"},
}

// TestTransfer: a TCP stream and a UDP stream in each direction arrive as
// they were sent and in order: in both labs, over both families and of both,
// with the device's offloads and without. With them super-frames are read and
// written, without never, and no stack ever sees a wrong checksum.
func TestTransfer(t *testing.T) {
	need(t)
	tcp, udp := int64(50<<20), int64(10<<20) // of each inner family
	if long() {
		tcp, udp = 2.5e9, 250e6 // 10 GB and 1 GB, both families and ways together
	}
	for lab, features := range labs {
		for _, f := range families {
			for _, offload := range []string{"auto", "off"} {
				t.Run(lab+" "+f.name+" offload "+offload, func(t *testing.T) {
					p := newPair(t, f, "--offload", offload)
					for i, h := range []*host{p.a, p.b} {
						h.address("gnv0", fmt.Sprint("fd92::", i+1, "/64"))
						for command, value := range features {
							h.do(func() error { return ethtool("veth0", command, value) })
						}
					}
					uso := p.a.hasUSO()
					if !uso && offload == "auto" {
						t.Log("this kernel's TUN driver has no USO: whether UDP is cut and joined is not looked at")
					}
					for _, way := range []struct {
						name     string
						from, to *gvtep
					}{{"a to b", p.ga, p.gb}, {"b to a", p.gb, p.ga}} {
						for _, inner := range inners {
							address := map[*gvtep]string{p.ga: inner.near, p.gb: inner.far}[way.to]
							to := net.JoinHostPort(address, "7000")
							before := superFrames(way.from, way.to)
							start := time.Now()
							sum := tcpStream(t, way.from.h, way.to.h, to, tcp)
							tcpTook, between := time.Since(start), superFrames(way.from, way.to)
							datagrams := udpStream(t, way.from.h, way.to.h, to, udp)
							udpTook, after := time.Since(start)-tcpTook, superFrames(way.from, way.to)
							byTCP, byUDP := between.since(before), after.since(between)
							t.Logf("%s, inner %s: TCP %d bytes in %.1f s, SHA-256 %.16s, %s; UDP %d bytes as %d datagrams in %.1f s, %s", way.name, inner.name,
								tcp, tcpTook.Seconds(), sum, byTCP, udp, datagrams, udpTook.Seconds(), byUDP)
							what := fmt.Sprintf("%s, inner %s, offload %s: ", way.name, inner.name, offload)
							byTCP.check(t, what+"TCP", offload == "auto", 4)
							if uso || offload == "off" {
								// Every third send is one datagram.
								byUDP.check(t, what+"UDP", offload == "auto", 2)
							}
						}
					}
					for _, g := range []*gvtep{p.ga, p.gb} {
						for name, n := range g.counters() {
							if !strings.HasSuffix(name, ".packets") && name != "tx.socket_full" && n != 0 { // TCP may fill a socket
								t.Errorf("%s: %d dropped as %s, want none", g.h.name, n, name)
							}
						}
						if bad := g.h.sumFaults(); len(bad) != 0 {
							t.Errorf("%s: the stack counts wrong checksums: %v, want none", g.h.name, bad)
						}
					}
				})
			}
		}
	}
}

// supers are packets of the wire's size and the reads and writes of devices
// that carried them: one who sends reads, one who receives writes.
type supers struct{ read, reads, written, writes int }

func superFrames(from, to *gvtep) (s supers) {
	from.h.t.Helper()
	for _, v := range []struct {
		g              *gvtep
		path           string
		packets, calls *int
	}{{from, "tap_receive", &s.read, &s.reads}, {to, "tap_transmit", &s.written, &s.writes}} {
		code, text := v.g.get("/metrics")
		*v.packets = sample(text, `gvtep_io_batch_packets_sum{path="`+v.path+`"}`)
		*v.calls = sample(text, `gvtep_io_batch_packets_count{path="`+v.path+`"}`)
		if *v.packets < 0 || *v.calls < 0 {
			v.g.h.t.Fatalf("%s: /metrics: status %d, want gvtep_io_batch_packets of %s", v.g.h.name, code, v.path)
		}
	}
	return s
}

func (s supers) since(old supers) supers {
	return supers{s.read - old.read, s.reads - old.reads, s.written - old.written, s.writes - old.writes}
}

func (s supers) String() string {
	return fmt.Sprintf("%d packets of %d reads, %d in %d writes", s.read, s.reads, s.written, s.writes)
}

// check checks that there were super-frames both out and in, of least packets
// on average, or not a single one.
func (s supers) check(t *testing.T, what string, want bool, least int) {
	t.Helper()
	switch {
	case want && fastpath(): // the kernel cuts and joins
	case want && (s.read < least*s.reads || s.written < least*s.writes || s.reads == 0 || s.writes == 0):
		t.Errorf("%s: %s, want at least %d packets a read and a write: super-frames cut and joined", what, s, least)
	// A packet may come while the counters are read one after the other.
	case !want && (max(s.read-s.reads, s.reads-s.read) > 2 || max(s.written-s.writes, s.writes-s.written) > 2):
		t.Errorf("%s: %s, want each packet alone", what, s)
	}
}

// hasUSO asks the TUN driver for UDP super-frames, on a device that goes at once.
func (h *host) hasUSO() (has bool) {
	h.t.Helper()
	h.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("probe")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		const uso4, uso6 = 0x20, 0x40 // TUN_F_USO4 and 6, of linux/if_tun.h since 6.2
		has = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6|uso4|uso6) == nil
		return nil
	})
	return has
}

// sumFaults are all counters of wrong checksums of the host's stack that are
// not zero: of TCP (IPv4 and 6 in one), UDP over each, ICMP, and IP's own.
func (h *host) sumFaults() map[string]int {
	h.t.Helper()
	faults := map[string]int{}
	add := func(name, value string) {
		n, err := strconv.Atoi(value)
		if strings.HasSuffix(name, "CsumErrors") && (n != 0 || err != nil) {
			faults[name] = n
		}
	}
	h.do(func() error {
		for _, file := range []string{"snmp", "netstat"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			lines := strings.Split(string(text), "\n")
			for i := 0; i+1 < len(lines); i += 2 { // names, then values
				names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
				for k := range min(len(names), len(values)) {
					add(names[0]+names[k], values[k])
				}
			}
		}
		text, err := os.ReadFile("/proc/thread-self/net/snmp6")
		words := strings.Fields(string(text))
		for i := 0; i+1 < len(words); i += 2 {
			add(words[i], words[i+1])
		}
		return err
	})
	return faults
}

// tcpStream sends random bytes over TCP. It returns the SHA-256 of both ends.
func tcpStream(t *testing.T, from, at *host, to string, size int64) string {
	t.Helper()
	l := at.listenTCP(to)
	type result struct {
		sum hash.Hash
		n   int64
		err error
	}
	deadline := time.Now().Add(time.Minute + time.Duration(size/20e6)*time.Second) // 20 MB/s on the slowest machine
	got := make(chan result, 1)
	go func() {
		r := result{sum: sha256.New()}
		c, err := l.Accept()
		if r.err = err; err == nil {
			c.SetDeadline(deadline)
			r.n, r.err = io.CopyBuffer(struct{ io.Writer }{r.sum}, struct{ io.Reader }{c}, make([]byte, 1<<20))
			c.Close()
		}
		got <- r
	}()
	c := from.dialTCP(to)
	c.SetDeadline(deadline)
	sent := sha256.New()
	// Random bytes: one that is out of place changes the sum.
	source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(c, sent)}, source, make([]byte, 256<<10))
	c.Close()
	r := <-got
	l.Close()
	if err != nil || r.err != nil || r.n != size {
		t.Fatalf("TCP to %s: %d bytes of %d arrived, sender %v, receiver %v", to, r.n, size, err, r.err)
	}
	s, g := hex.EncodeToString(sent.Sum(nil)), hex.EncodeToString(r.sum.Sum(nil))
	if s != g {
		t.Fatalf("TCP to %s: SHA-256 %s arrived, want %s", to, g, s)
	}
	return g
}

// udpStream sends size bytes over UDP: runs of datagrams of one size by
// UDP_SEGMENT, and single ones between them. Each begins with its number. The
// receiver takes nothing but the next one, of the right size, and tells how
// far it got: the sender is never more than a window ahead, so a datagram
// that is missing was lost, or overtaken, on the way. At the end both sides
// have the same SHA-256. It returns how many datagrams there were.
func udpStream(t *testing.T, from, at *host, to string, size int64) int {
	t.Helper()
	const (
		window = 128     // datagrams: far below what the buffers of sockets and devices hold
		answer = 32      // datagrams of the receiver between two answers
		most   = 1372    // bytes: MTU 1430 less IPv6, UDP and some
		run    = 16      // datagrams of one send at most
		random = 1 << 20 // bytes that the contents are cut from
	)
	pool := make([]byte, random+most)
	rand.NewChaCha8([32]byte{2}).Read(pool)
	// Both sides derive sizes and contents from the number of the run.
	shape := func(n uint64) (count, size int, offset uint64) {
		r := rand.NewPCG(n, 3)
		count, size = 1, 8+int(r.Uint64()%(most-8))
		if n%3 != 0 {
			count = 2 + int(r.Uint64()%(run-1))
		}
		return count, size, r.Uint64() % random
	}
	sink := at.listenUDP(to)
	defer sink.Close()
	sink.SetReadBuffer(4 << 20)
	source := from.dialUDP(to)
	defer source.Close()

	type result struct {
		sum hash.Hash
		err error
	}
	got := make(chan result, 1)
	go func() {
		r := result{sum: sha256.New()}
		defer func() { got <- r }()
		want, buf := make([]byte, most), make([]byte, 2*most)
		var seq uint64
		for n, left := uint64(0), size; left > 0; n++ {
			count, length, offset := shape(n)
			for range count {
				sink.SetReadDeadline(time.Now().Add(5 * time.Second))
				m, back, err := sink.ReadFromUDPAddrPort(buf)
				if err != nil {
					r.err = fmt.Errorf("datagram %d: %w", seq, err)
					return
				}
				copy(want, pool[offset:][:length])
				binary.BigEndian.PutUint64(want, seq)
				if !bytes.Equal(buf[:m], want[:length]) {
					r.err = fmt.Errorf("%d bytes beginning with %x arrived, want datagram %d of %d bytes, %x", m, buf[:min(m, 16)], seq, length, want[:min(length, 16)])
					// Lost, or only overtaken?
					for after := 1; ; after++ {
						sink.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
						if m, _, err = sink.ReadFromUDPAddrPort(buf); err != nil {
							r.err = fmt.Errorf("%w; it is not among the %d that followed", r.err, after-1)
							return
						}
						if bytes.Equal(buf[:m], want[:length]) {
							r.err = fmt.Errorf("%w; it came as number %d after that", r.err, after)
							return
						}
					}
				}
				r.sum.Write(buf[:m])
				left -= int64(m)
				if seq++; seq%answer == 0 || left <= 0 {
					sink.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, seq), back)
				}
			}
		}
	}()

	sent, fault := sha256.New(), error(nil)
	var seq, acked uint64
	buf, reply := make([]byte, 0, run*most), make([]byte, 16)
	for n, left := uint64(0), size; left > 0 && fault == nil; n++ {
		count, length, offset := shape(n)
		buf = buf[:0]
		for range count {
			at := len(buf)
			buf = append(buf, pool[offset:][:length]...)
			binary.BigEndian.PutUint64(buf[at:], seq)
			seq++
		}
		left -= int64(len(buf))
		for seq > acked+window && fault == nil {
			source.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, fault = source.Read(reply); fault == nil {
				acked = max(acked, binary.BigEndian.Uint64(reply))
			}
		}
		if fault != nil {
			fault = fmt.Errorf("no answer at datagram %d, %d confirmed: %w", seq, acked, fault)
			break
		}
		sent.Write(buf)
		_, _, fault = source.WriteMsgUDP(buf, segmentSize(length), nil)
	}
	var r result
	if fault != nil {
		// The receiver's own complaint, if it has one, says more.
		sink.SetReadDeadline(time.Now())
	}
	if r = <-got; r.err != nil {
		t.Fatalf("UDP to %s: %v (sender: %v)", to, r.err, fault)
	}
	if s, g := hex.EncodeToString(sent.Sum(nil)), hex.EncodeToString(r.sum.Sum(nil)); s != g {
		t.Fatalf("UDP to %s: SHA-256 %s arrived, want %s", to, g, s)
	}
	return int(seq)
}

// segmentSize is the control message that has the kernel cut what is sent
// into datagrams of a size (udp(7), UDP_SEGMENT).
func segmentSize(size int) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b
}

// TestHeap: a running gvtep makes no objects per packet. The number of heap
// objects, read after a collection, is the same before and after a million
// packets in each direction.
func TestHeap(t *testing.T) {
	need(t)
	packets := 200_000
	if long() {
		packets = 1_000_000
	}
	p := newPair(t, families[0])
	objects := func() int64 {
		t.Helper()
		var s statusAnswer
		if err := p.ga.ask("/v1/status?details", &s); err != nil {
			t.Fatal(err)
		}
		if s.Go.HeapObjects == nil {
			t.Fatal("gvtep -j status has no .go.heap_objects (live heap objects after a collection)")
		}
		return *s.Go.HeapObjects
	}
	// Everything that is made once is made: routes, entries, buffers.
	blast(t, p.a, p.b, 10_000)
	blast(t, p.b, p.a, 10_000)
	objects()
	start, before := p.ga.counters(), objects()
	for _, way := range []struct {
		from, to *host
		counter  string
	}{{p.a, p.b, "tx.packets"}, {p.b, p.a, "rx.packets"}} {
		for end := time.Now().Add(100 * time.Second); p.ga.counters().since(start)[way.counter] < packets; {
			if time.Now().After(end) {
				t.Fatalf("only %d of %d packets (%s)", p.ga.counters().since(start)[way.counter], packets, way.counter)
			}
			blast(t, way.from, way.to, packets/4)
		}
	}
	after := objects()
	t.Logf("%v; heap objects before %d, after %d", p.ga.counters().since(start), before, after)
	if d := after - before; d >= 1000 || d <= -1000 {
		t.Errorf("%d heap objects before and %d after, want a difference under 1000", before, after)
	}
}

// blast sends n small UDP packets of 16 flows from one host to the other, as
// fast as it can.
func blast(t *testing.T, from, to *host, n int) {
	t.Helper()
	address := map[string]string{"a": "192.0.2.1", "b": "192.0.2.2"}
	sink := to.listenUDP(address[to.name] + ":9")
	defer sink.Close()
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	from.do(func() error {
		for range 16 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			dst := netip.MustParseAddr(address[to.name])
			if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: dst.As4(), Port: 9}); err != nil {
				return err
			}
		}
		return nil
	})
	message := make([]byte, 64)
	for i := range n {
		if _, err := unix.Write(fds[i%len(fds)], message); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}
