package tap

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

var (
	macA = packet.MAC{2, 0, 0, 0, 0, 0xa}
	macB = packet.MAC{2, 0, 0, 0, 0, 0xb}
)

// pair opens a device with 192.0.2.1 here and one with 192.0.2.2 in another
// namespace; persistent ones were open with offloads before. Both know the other's MAC, so nothing but the test's own
// traffic passes, IPv6 apart.
func pair(t testing.TB, o Options) (a, b *Device) {
	t.Helper()
	private(t)
	namespace(t, "blue")
	o.Queues, o.MTU = 2, 1450
	o.Name, o.LLAddr, o.Addresses = "a", macA, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	reopened := func() *Device {
		if before := o; o.Persist {
			before.Offload = true
			open(t, before).Close()
		}
		return open(t, o)
	}
	a = reopened()
	o.Name, o.LLAddr, o.Addresses, o.Netns = "b", macB, []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}, "blue"
	b = reopened()
	neighbour := func(c *conn, ifindex int, ip string, mac packet.MAC) {
		must(t, c.NeighSet(&netlink.Neigh{LinkIndex: ifindex, IP: net.ParseIP(ip), HardwareAddr: mac[:], State: netlink.NUD_PERMANENT}))
	}
	for _, d := range []*Device{a, b} {
		must(t, d.kernel(func(c *conn, link netlink.Link) error {
			if d == a {
				neighbour(c, d.Ifindex(), "192.0.2.2", macB)
			} else {
				neighbour(c, d.Ifindex(), "192.0.2.1", macA)
			}
			return nil
		}))
	}
	return a, b
}

// inBlue runs f on a thread in the namespace of pair's second device.
func inBlue(t testing.TB, f func() error) {
	t.Helper()
	ns, err := openNetns("blue")
	must(t, err)
	defer ns.Close()
	must(t, within(ns, f))
}

// pump carries frames between two devices until stop is closed, and hands
// every header and frame to see.
func pump(a, b *Device, stop chan struct{}, see func(hdr packet.VirtioHdr, frame []byte)) (done chan error) {
	done = make(chan error, 1)
	go func() {
		buf := make([]byte, packet.VirtioHdrLen+packet.MaxFrame)
		queues := []*Queue{a.Queue(0), a.Queue(1), b.Queue(0), b.Queue(1)}
		writers := []*Writer{a.Writer(0), a.Writer(1), b.Writer(0), b.Writer(1)}
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			polls := make([]unix.PollFd, len(queues))
			for i, q := range queues {
				polls[i] = unix.PollFd{Fd: int32(q.FD()), Events: unix.POLLIN}
			}
			unix.Poll(polls, 20)
			for i, q := range queues {
				for range 64 {
					var hdr packet.VirtioHdr
					frame, err := q.Read(buf, &hdr)
					if err == unix.EAGAIN {
						break
					} else if err != nil {
						done <- fmt.Errorf("Read: %w", err)
						return
					}
					see(hdr, frame)
					if err := writers[(i+2)%4].Write(&hdr, frame); err != nil { // to the other device
						done <- fmt.Errorf("Write %+v, %d bytes: %w", hdr, len(frame), err)
						return
					}
				}
			}
		}
	}()
	return done
}

// A TCP transfer between two stacks: what one device reads as super-frames,
// the other takes.
func TestTCP(t *testing.T) {
	for _, c := range []struct {
		name    string
		offload bool
	}{{"super-frames", true}, {"plain", false}} {
		t.Run(c.name, func(t *testing.T) { transfer(t, c.offload) })
	}
}

func transfer(t *testing.T, offload bool) {
	// The plain devices had offloads in an earlier life, which must not stick.
	a, b := pair(t, Options{Offload: offload, Persist: !offload})
	if offload && !a.Offload().Has(packet.OffloadTSO4) {
		skip(t, "no TSO on this kernel")
	}
	var supers, largest int
	stop := make(chan struct{})
	done := pump(a, b, stop, func(hdr packet.VirtioHdr, frame []byte) {
		if hdr.GSOType&^packet.GSOECN == packet.GSOTCPv4 {
			supers++
			if hdr.Flags&packet.VirtioNeedsCsum == 0 || hdr.CsumStart != 34 || hdr.CsumOffset != 16 || hdr.GSOSize < 1000 {
				t.Errorf("super-frame of %d bytes with header %+v, want a checksum to finish at 34+16", len(frame), hdr)
			}
		}
		if !offload && hdr != (packet.VirtioHdr{}) {
			t.Errorf("header %+v in plain mode, want none", hdr)
		}
		largest = max(largest, len(frame))
	})
	var l net.Listener
	inBlue(t, func() (err error) { l, err = net.Listen("tcp4", "192.0.2.2:5001"); return err })
	defer l.Close()
	sum := make(chan [32]byte, 1)
	go func() {
		defer close(sum)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		h := sha256.New()
		io.Copy(h, conn)
		sum <- [32]byte(h.Sum(nil))
	}()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp4", "192.0.2.2:5001")
	must(t, err)
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = conn.Write(data)
	must(t, err)
	must(t, conn.Close())
	select {
	case got := <-sum:
		if want := sha256.Sum256(data); got != want {
			t.Errorf("received %x, want %x", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("transfer did not end")
	}
	close(stop)
	must(t, <-done)
	t.Logf("%d super-frames, largest frame %d bytes", supers, largest)
	if offload && (supers == 0 || largest < 10000) {
		t.Errorf("%d super-frames, largest frame %d bytes; want many, large", supers, largest)
	}
	if !offload && largest > 1464 {
		t.Errorf("largest frame in plain mode %d bytes, want at most 1464", largest)
	}
}

// UDP with UDP_SEGMENT comes out as one super-frame and arrives cut.
func TestUSO(t *testing.T) {
	a, b := pair(t, Options{Offload: true})
	if !a.Offload().Has(packet.OffloadUSO) {
		skip(t, "no USO on this kernel")
	}
	var server net.PacketConn
	inBlue(t, func() (err error) { server, err = net.ListenPacket("udp4", "192.0.2.2:5001"); return err })
	defer server.Close()
	client, err := net.Dial("udp4", "192.0.2.2:5001")
	must(t, err)
	defer client.Close()
	raw, err := client.(syscall.Conn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1000) }))
	must(t, err)
	data := make([]byte, 4500)
	for i := range data {
		data[i] = byte(i >> 4)
	}
	_, err = client.Write(data)
	must(t, err)

	var hdr packet.VirtioHdr
	var frame []byte
	buf := make([]byte, packet.VirtioHdrLen+packet.MaxFrame)
	for len(frame) < 14 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP { // IPv6 says hello on its own
		q := readable(a.Queue(0), a.Queue(1))
		if q == nil {
			t.Fatal("nothing to read")
		}
		frame, err = q.Read(buf, &hdr)
		must(t, err)
	}
	want := packet.VirtioHdr{Flags: packet.VirtioNeedsCsum, GSOType: packet.GSOUDPL4, GSOSize: 1000, CsumStart: 34, CsumOffset: 6, HdrLen: hdr.HdrLen}
	if hdr != want || len(frame) != 14+20+8+4500 {
		t.Fatalf("read %d bytes with %+v, want 4542 with %+v", len(frame), hdr, want)
	}
	must(t, b.Writer(0).Write(&hdr, frame))
	for i := range 5 {
		got := make([]byte, 2000)
		server.SetDeadline(time.Now().Add(time.Second))
		n, from, err := server.ReadFrom(got)
		must(t, err)
		if want := data[i*1000 : min(i*1000+1000, 4500)]; !bytes.Equal(got[:n], want) {
			t.Errorf("datagram %d from %v: %d bytes %x..., want %d bytes %x...", i, from, n, got[:min(n, 8)], len(want), want[:8])
		}
	}
}

// All packets of many flows come out of the queues: the anchor has no share.
func TestAnchorTakesNothing(t *testing.T) {
	for _, adopt := range []bool{false, true} {
		t.Run(fmt.Sprintf("adopt=%v", adopt), func(t *testing.T) {
			private(t)
			if adopt {
				must(t, netlink.LinkSetUp(persistent(t, "gnv0", isTAP, multi)))
			}
			d := open(t, Options{Name: "gnv0", Queues: 2, Offload: true, TxQueue: 1000,
				Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
			must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: d.Ifindex(), IP: net.IPv4(192, 0, 2, 2), HardwareAddr: macB[:], State: netlink.NUD_PERMANENT}))
			client, err := net.ListenPacket("udp4", "192.0.2.1:0")
			must(t, err)
			defer client.Close()
			const flows = 256
			for i := range flows {
				_, err := client.WriteTo([]byte("flow"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1000 + i})
				must(t, err)
			}
			seen := [2]map[uint16]bool{{}, {}}
			buf := make([]byte, packet.VirtioHdrLen+packet.MaxFrame)
			for i := range seen {
				for {
					var hdr packet.VirtioHdr
					frame, err := d.Queue(i).Read(buf, &hdr)
					if err == unix.EAGAIN {
						break
					}
					must(t, err)
					if len(frame) == 46 && bytes.HasSuffix(frame, []byte("flow")) {
						seen[i][binary.BigEndian.Uint16(frame[36:])] = true
					}
				}
			}
			if len(seen[0])+len(seen[1]) != flows || len(seen[0]) == 0 || len(seen[1]) == 0 {
				t.Errorf("%d and %d flows on the two queues, want %d together and some on each", len(seen[0]), len(seen[1]), flows)
			}
		})
	}
}

// A flow stays on its queue, whichever queue the frames of its other
// direction are written to. Else a packet could overtake those before it.
func TestFlowKeepsQueue(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "gnv0", Queues: 2, Offload: true, LLAddr: macA, TxQueue: 1000,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: d.Ifindex(), IP: net.IPv4(192, 0, 2, 2), HardwareAddr: macB[:], State: netlink.NUD_PERMANENT}))
	client, err := net.ListenPacket("udp4", "192.0.2.1:5001")
	must(t, err)
	defer client.Close()
	buf := make([]byte, packet.VirtioHdrLen+packet.MaxFrame)
	// The far end of each flow has a port of its own, as in udpFrame.
	send := func(port int) (queue int) {
		t.Helper()
		_, err := client.WriteTo([]byte("flow"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: port})
		must(t, err)
		for i := range 2 {
			for {
				var hdr packet.VirtioHdr
				frame, err := d.Queue(i).Read(buf, &hdr)
				if err == unix.EAGAIN {
					break
				}
				must(t, err)
				if len(frame) == 46 && bytes.HasSuffix(frame, []byte("flow")) {
					return i
				}
			}
		}
		t.Fatalf("port %d: the packet is on no queue", port)
		return -1
	}
	for port := 2000; port < 2032; port++ {
		was := send(port)
		reply := udpFrame(4)
		binary.BigEndian.PutUint16(reply[34:], uint16(port))
		must(t, d.Writer(1-was).Write(&packet.VirtioHdr{}, reply))
		client.SetDeadline(time.Now().Add(time.Second))
		if _, _, err := client.ReadFrom(make([]byte, 100)); err != nil {
			t.Fatalf("port %d: the reply did not reach the socket: %v", port, err)
		}
		if is := send(port); is != was {
			t.Errorf("port %d: queue %d before a reply was written to queue %d, then queue %d", port, was, 1-was, is)
		}
	}
}

// udpFrame is a whole frame from 192.0.2.2 to 192.0.2.1, without checksums
// that matter: UDP's is 0.
func udpFrame(payload int) []byte {
	f := make([]byte, 42+payload)
	copy(f, macA[:])
	copy(f[6:], macB[:])
	copy(f[12:], []byte{8, 0, 0x45, 0})
	binary.BigEndian.PutUint16(f[16:], uint16(28+payload))
	copy(f[22:], []byte{64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1})
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	binary.BigEndian.PutUint16(f[24:], ^uint16(sum+sum>>16))
	copy(f[34:], []byte{0x13, 0x88, 0x13, 0x89})
	binary.BigEndian.PutUint16(f[38:], uint16(8+payload))
	return f
}

func TestReadWriteLimits(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "gnv0", Queues: 1, Offload: true, LLAddr: macA, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	plain := open(t, Options{Name: "gnv1", Queues: 1})
	server, err := net.ListenPacket("udp4", "192.0.2.1:5001")
	must(t, err)
	defer server.Close()
	var hdr packet.VirtioHdr
	q, w := d.Queue(0), d.Writer(0)

	frame := udpFrame(1000)
	must(t, w.Write(&hdr, frame))
	server.SetDeadline(time.Now().Add(time.Second))
	if n, _, err := server.ReadFrom(make([]byte, 2000)); n != len(frame)-42 || err != nil {
		t.Errorf("received %d bytes %v, want %d", n, err, len(frame)-42)
	}
	if err := w.Write(&hdr, nil); err != unix.EINVAL {
		t.Errorf("Write of nothing: %v, want EINVAL", err)
	}
	if err := w.Write(&hdr, make([]byte, 13)); err != unix.EINVAL {
		t.Errorf("Write of 13 bytes: %v, want EINVAL", err)
	}
	gso := packet.VirtioHdr{Flags: packet.VirtioNeedsCsum, GSOType: packet.GSOUDPL4, GSOSize: 100, CsumStart: 34, CsumOffset: 6}
	if err := plain.Writer(0).Write(&gso, frame); err != unix.EINVAL {
		t.Errorf("Write of a super-frame in plain mode: %v, want EINVAL", err)
	}
	must(t, plain.Writer(0).Write(&hdr, frame))
	if _, err := q.Read(make([]byte, packet.VirtioHdrLen-1), &hdr); err != unix.EINVAL {
		t.Errorf("Read into 11 bytes: %v, want EINVAL", err)
	}
	// Deleted under us.
	must(t, netlink.LinkDel(device(t, "gnv0")))
	if _, err := q.Read(make([]byte, 2000), &hdr); err != unix.EBADFD {
		t.Errorf("Read of a deleted device: %v, want EBADFD", err)
	}
	if err := w.Write(&hdr, frame); err != unix.EBADFD {
		t.Errorf("Write to a deleted device: %v, want EBADFD", err)
	}
}

func TestNoAllocs(t *testing.T) {
	private(t)
	for _, offload := range []bool{true, false} {
		d := open(t, Options{Name: fmt.Sprintf("gnv-%v", offload), Queues: 1, Offload: offload, LLAddr: macA,
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
		must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: d.Ifindex(), IP: net.IPv4(192, 0, 2, 2), HardwareAddr: macB[:], State: netlink.NUD_PERMANENT}))
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		must(t, err)
		must(t, unix.Connect(s, &unix.SockaddrInet4{Port: 5001, Addr: [4]byte{192, 0, 2, 2}}))
		q, w, buf, frame := d.Queue(0), d.Writer(0), make([]byte, packet.VirtioHdrLen+packet.MaxFrame), udpFrame(200)
		read, failed := 0, error(nil)
		var hdr packet.VirtioHdr
		step := func() {
			unix.Write(s, frame[:100])
			for {
				if _, err := q.Read(buf, &hdr); err == unix.EAGAIN {
					break // and this error without allocation
				} else if err != nil {
					failed = err
					return
				}
				read++
			}
			hdr = packet.VirtioHdr{}
			if err := w.Write(&hdr, frame); err != nil {
				failed = err
			}
		}
		if allocs := testing.AllocsPerRun(200, step); allocs != 0 || failed != nil || read < 200 {
			t.Errorf("offload %v: %v allocations, %d read, %v; want 0 and 200 or more", offload, allocs, read, failed)
		}
		unix.Close(s)
		d.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	private(b)
	d := open(b, Options{Name: "gnv0", Queues: 1, Offload: true, LLAddr: packet.MAC{2, 9}})
	frame := udpFrame(1400) // for another MAC: dropped early
	var hdr packet.VirtioHdr
	w := d.Writer(0)
	for b.Loop() {
		if err := w.Write(&hdr, frame); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWriters: workers may be more than queues. Those that share one write side by side, and each
// queue costs two descriptors.
func TestWriters(t *testing.T) {
	private(t)
	const workers, queues, each = 4, 2, 200
	before := tunDescriptors(t)
	d := open(t, Options{Name: "gnv0", Queues: queues, Offload: true, LLAddr: macA, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	if n := tunDescriptors(t) - before; n != 2*queues {
		t.Errorf("%d descriptors for %d queues, want %d", n, queues, 2*queues)
	}
	server, err := net.ListenPacket("udp4", "192.0.2.1:5001")
	must(t, err)
	defer server.Close()
	must(t, server.(*net.UDPConn).SetReadBuffer(4<<20))
	frame := udpFrame(100)
	var writing sync.WaitGroup
	for worker := range workers {
		w := d.Writer(worker)
		writing.Go(func() {
			for range each {
				var hdr packet.VirtioHdr
				if err := w.Write(&hdr, frame); err != nil {
					t.Errorf("worker %d: %v", worker, err)
					return
				}
			}
		})
	}
	writing.Wait()
	server.SetDeadline(time.Now().Add(2 * time.Second))
	for i := range workers * each {
		if _, _, err := server.ReadFrom(make([]byte, 2000)); err != nil {
			t.Fatalf("%d frames of %d: %v", i, workers*each, err)
		}
	}
	must(t, d.Close())
	if n := tunDescriptors(t); n != before {
		t.Errorf("%d descriptors are open after Close, want %d", n, before)
	}
}

// tunDescriptors counts the open descriptors of tunnel devices.
func tunDescriptors(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range all {
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to == "/dev/net/tun" {
			n++
		}
	}
	return n
}
