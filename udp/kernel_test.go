package udp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

var (
	here4  = netip.MustParseAddr("10.9.0.1")
	there4 = netip.MustParseAddr("10.9.0.2")
	here6  = netip.MustParseAddr("fd09::1")
	there6 = netip.MustParseAddr("fd09::2")
	any4   = netip.IPv4Unspecified()
	any6   = netip.IPv6Unspecified()
)

// families runs a test for both, each with its own network.
func families(t *testing.T, f func(t *testing.T, n *network, family int, local, remote netip.Addr)) {
	t.Run("4", func(t *testing.T) { f(t, newNetwork(t), 4, here4, there4) })
	t.Run("6", func(t *testing.T) { f(t, newNetwork(t), 6, here6, there6) })
}

// listenThere opens a listener in the other namespace.
func (n *network) listenThere(cfg Config, o ListenOptions) (l *Listener) {
	n.t.Helper()
	n.inThere(func() {
		u := newUnderlay(n.t, cfg)
		var err error
		l, err = u.Listen(o)
		must(n.t, err)
	})
	return l
}

func TestListenIsExclusive(t *testing.T) {
	newNetwork(t)
	a, b := newUnderlay(t, Config{Workers: 2}), newUnderlay(t, Config{Workers: 2})
	for _, c := range []struct {
		first, second netip.Addr
		conflict      bool
	}{
		{any4, any4, true}, {here4, here4, true}, {any4, here4, true}, {here4, any4, true},
		{any6, any6, true}, {here6, here6, true}, {any6, here6, true}, {here6, any6, true},
		{any4, any6, false}, {any6, any4, false}, {here4, netip.MustParseAddr("127.0.0.1"), false},
	} {
		l, err := a.Listen(ListenOptions{Local: c.first, Port: 6081})
		must(t, err)
		would := b.TryListen(ListenOptions{Local: c.second, Port: 6081})
		m, err := b.Listen(ListenOptions{Local: c.second, Port: 6081})
		if fmt.Sprint(would) != fmt.Sprint(err) {
			t.Errorf("%v, then %v: tried %v, is %v", c.first, c.second, would, err)
		}
		switch {
		case err == nil && c.conflict:
			t.Errorf("%v, then %v: bound, want EADDRINUSE", c.first, c.second)
		case c.conflict && !errors.Is(err, unix.EADDRINUSE):
			t.Errorf("%v, then %v: %v, want EADDRINUSE", c.first, c.second, err)
		case c.conflict && !strings.Contains(err.Error(), fmt.Sprintf("pid %d (", os.Getpid())):
			t.Errorf("%v, then %v: %q does not name pid %d", c.first, c.second, err, os.Getpid())
		case err != nil && !c.conflict:
			t.Errorf("%v, then %v: %v", c.first, c.second, err)
		}
		if m != nil {
			m.Close()
		}
		l.Close()
	}
}

// TestTryListenBeside: what would take datagrams from a socket of ours is not bound to its port, not
// even for a moment; its address and device are tried all the same.
func TestTryListenBeside(t *testing.T) {
	newNetwork(t)
	a, b := newUnderlay(t, Config{Workers: 2}), newUnderlay(t, Config{})
	l, err := a.Listen(ListenOptions{Local: any4, Port: 6081})
	must(t, err)
	defer l.Close()
	group := netip.MustParseAddr("239.1.1.1")
	for _, c := range []struct {
		o    ListenOptions
		want error
	}{
		{ListenOptions{Local: here4, Port: 6081}, unix.EADDRINUSE}, // so that the next shows that the port is left alone
		{ListenOptions{Local: here4, Port: 6081, Beside: true}, nil},
		{ListenOptions{Local: there4, Port: 6081, Beside: true}, unix.EADDRNOTAVAIL},
		{ListenOptions{Local: here4, Port: 6081, Device: "nosuch", Beside: true}, unix.ENODEV},
		{ListenOptions{Port: 6081, Group: group, Device: "lo"}, nil},
		{ListenOptions{Port: 6081, Group: group, Device: "nosuch"}, unix.ENODEV},
	} {
		if err := b.TryListen(c.o); !errors.Is(err, c.want) {
			t.Errorf("TryListen(%+v): %v, want %v", c.o, err, c.want)
		}
	}
}

func TestListenErrors(t *testing.T) {
	n := newNetwork(t)
	u := newUnderlay(t, Config{})
	for _, c := range []struct {
		o    ListenOptions
		want error
		text string
	}{
		{ListenOptions{Local: there4, Port: 6081}, unix.EADDRNOTAVAIL, "take 0.0.0.0 for any"},
		{ListenOptions{Local: there6, Port: 6081}, unix.EADDRNOTAVAIL, "take :: for any"},
		{ListenOptions{Local: any4, Port: 6081, Device: "nosuch"}, unix.ENODEV, "nosuch"},
		{ListenOptions{Local: any4}, nil, "port 0"},
		{ListenOptions{Port: 6081}, nil, "not a plain"},
	} {
		_, err := u.Listen(c.o)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("Listen(%+v): %v, want %v and %q", c.o, err, c.want, c.text)
		}
		if would := u.TryListen(c.o); fmt.Sprint(would) != fmt.Sprint(err) {
			t.Errorf("TryListen(%+v): %v, want %v", c.o, would, err)
		}
	}
	// A tunnel device of the kernel holds the port without a process.
	vx := netlink.NewLinkAttrs()
	vx.Name = "vx0"
	if err := n.nl.LinkAdd(&netlink.Vxlan{LinkAttrs: vx, VxlanId: 1, Port: 6081}); err != nil {
		t.Logf("no kernel tunnel device here (%v): not tried", err)
	} else {
		must(t, n.nl.LinkSetUp(n.link(n.nl, "vx0")))
		_, err := u.Listen(ListenOptions{Local: any4, Port: 6081})
		if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "held by the kernel") {
			t.Errorf("Listen beside a vxlan device: %v, want EADDRINUSE held by the kernel", err)
		}
	}
}

func TestHolderNamesAnotherProcess(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{})
	cmd := exec.Command("python3", "-c", `import socket,sys
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(("0.0.0.0",6081)); print("ok",flush=True); sys.stdin.read()`)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		skip(t, "python3: ", err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := out.Read(make([]byte, 8)); err != nil {
		skip(t, "python3: ", err)
	}
	_, err = u.Listen(ListenOptions{Local: here4, Port: 6081})
	if want := fmt.Sprintf("pid %d (python", cmd.Process.Pid); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), want) {
		t.Errorf("Listen: %v, want %q in it", err, want)
	}
}

func TestFindSocket(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   77: 0100007F:17C1 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4711 2 0000000000000000 0
   78: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
`
	const table6 = "h\n 5: B80D0120000000000000000001000000:17C1 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 99 2 0 0\n"
	for _, c := range []struct {
		table, addr string
		port        uint16
		want        uint64
	}{
		{table, "127.0.0.1", 6081, 4711}, {table, "0.0.0.0", 6081, 4711}, {table, "10.0.0.1", 6081, 0},
		{table, "10.0.0.1", 53, 4712}, {table, "127.0.0.1", 6082, 0},
		{table6, "2001:db8::1", 6081, 99}, {table6, "2001:db8::2", 6081, 0}, {"", "::", 1, 0},
	} {
		got, _ := findSocket([]byte(c.table), netip.MustParseAddr(c.addr), c.port)
		if got != c.want {
			t.Errorf("findSocket %s:%d = %d, want %d", c.addr, c.port, got, c.want)
		}
	}
}

// TestRunArrivesAsTrain sends a run of 46 datagrams, of which the last is
// shorter, and an empty one with TOS and TTL of its own.
func TestRunArrivesAsTrain(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		l := n.listenThere(Config{GRO: true}, ListenOptions{Local: remote, Port: 6081})
		// Without GRO on the veth the receiving stack gets it whole.
		u := newUnderlay(t, Config{GSO: true})
		set, err := u.Ports(fixed(family, 4))
		must(t, err)
		s := u.Sender(0)
		calls := 0
		s.send = func(fd int32, m []mmsghdr) (int, unix.Errno) { calls++; return sendmsgs(fd, m) }
		path := &packet.Path{Remote: netip.AddrPortFrom(remote, 6081), Local: local, Set: set}
		var want [][]byte
		for i := range 46 {
			d := bytes.Repeat([]byte{byte(i)}, 1400)
			if i == 45 {
				d = d[:77]
			}
			want = append(want, d)
			s.Add(path, 1<<31, 0xba, 33, d[:50], d[50:])
		}
		want = append(want, nil)
		s.Add(path, 1<<31, 0x01, 0, nil, nil)
		if fs := s.Flush(); len(fs) != 0 {
			t.Fatal(describe(fs))
		}
		if calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
		trains := take(t, l, len(want))
		if len(trains) != 2 || trains[0].Size != 1400 || trains[1].Size != 0 {
			t.Errorf("%d trains, sizes %d.., want 2 of 1400 and 0", len(trains), trains[0].Size)
		}
		var got [][]byte
		v1 := n.link(n.nlThere, "v1").Attrs().Index
		for i, tr := range trains {
			got = append(got, datagramsOf(tr)...)
			if tos := []uint8{0xba, 0x01}[min(i, 1)]; tr.TOS != tos {
				t.Errorf("train %d: TOS %#x, want %#x", i, tr.TOS, tos)
			}
			if tr.From != local || int(tr.Ifindex) != v1 {
				t.Errorf("train %d: from %v on %d, want %v on %d", i, tr.From, tr.Ifindex, local, v1)
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("datagrams differ from what was sent")
		}
	})
}

// sniffer is a packet socket on the other end of the veth.
func (n *network) sniffer(family int) (fd int) {
	n.t.Helper()
	proto := uint16(unix.ETH_P_IP)
	if family == 6 {
		proto = unix.ETH_P_IPV6
	}
	proto = proto<<8 | proto>>8
	n.inThere(func() {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(proto))
		must(n.t, err)
		must(n.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: n.link(n.nlThere, "v1").Attrs().Index}))
		must(n.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	})
	n.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// wire is the outer header fields of a UDP packet.
type wire struct {
	src      netip.Addr
	tos, ttl uint8
	df       bool
	port     uint16
	noCsum   bool
}

// receive is recvfrom. With a time limit a signal of the Go runtime interrupts it (signal(7)).
func receive(fd int, b []byte) (int, error) {
	for {
		if k, _, err := unix.Recvfrom(fd, b, 0); err != unix.EINTR {
			return k, err
		}
	}
}

// sniff returns the next UDP packet to port 6081.
func sniff(t testing.TB, fd int) wire {
	t.Helper()
	b := make([]byte, 70000)
	for {
		k, err := receive(fd, b)
		if err != nil {
			t.Fatalf("no packet on the wire: %v", err)
		}
		p := b[:k]
		var w wire
		var udp []byte
		switch {
		case k >= 28 && p[0]>>4 == 4 && p[9] == 17:
			w = wire{netip.AddrFrom4([4]byte(p[12:])), p[1], p[8], p[6]&0x40 != 0, 0, false}
			udp = p[20:]
		case k >= 48 && p[0]>>4 == 6 && p[6] == 17:
			w = wire{netip.AddrFrom16([16]byte(p[8:])), p[0]<<4 | p[1]>>4, p[7], false, 0, false}
			udp = p[40:]
		default:
			continue
		}
		if binary.BigEndian.Uint16(udp[2:]) != 6081 {
			continue
		}
		w.port = binary.BigEndian.Uint16(udp)
		w.noCsum = udp[6] == 0 && udp[7] == 0
		return w
	}
}

func TestOuterHeader(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		second := netip.MustParsePrefix("10.9.0.77/24")
		group := netip.MustParseAddr("239.1.2.3")
		if family == 6 {
			second, group = netip.MustParsePrefix("fd07::77/64"), netip.MustParseAddr("ff05::123")
		}
		n.setUp(n.nl, "v0", second.String())
		fd := n.sniffer(family)
		u := newUnderlay(t, Config{GSO: true})
		v0 := n.link(n.nl, "v0").Attrs().Index
		for _, c := range []struct {
			name     string
			o        PortOptions
			path     *packet.Path
			tos, ttl uint8
			want     wire
		}{
			{"defaults", PortOptions{Min: 50001, Max: 50001}, &packet.Path{}, 0, 0, wire{src: local, ttl: 64, port: 50001}},
			{"DF", PortOptions{Min: 50001, Max: 50001, DF: true}, &packet.Path{}, 0, 0, wire{src: local, ttl: 64, port: 50001, df: family == 4}},
			{"TOS, TTL, source", PortOptions{Min: 50001, Max: 50001}, &packet.Path{Local: second.Addr()}, 0xb9, 7, wire{src: second.Addr(), tos: 0xb9, ttl: 7, port: 50001}},
			{"pinned source", PortOptions{Min: 50002, Max: 50002, Local: second.Addr()}, &packet.Path{}, 3, 255, wire{src: second.Addr(), tos: 3, ttl: 255, port: 50002}},
			{"device", PortOptions{Min: 50003, Max: 50003, Device: "v0"}, &packet.Path{}, 0, 1, wire{src: local, ttl: 1, port: 50003}},
			{"zero checksum", PortOptions{Min: 50001, Max: 50001, ZeroCsum: true, Mark: 5}, &packet.Path{}, 0, 0, wire{src: local, ttl: 64, port: 50001, noCsum: true}},
			{"group", PortOptions{Min: 50001, Max: 50001}, &packet.Path{Remote: netip.AddrPortFrom(group, 6081), Local: local, Ifindex: int32(v0)}, 0, 9, wire{src: local, ttl: 9, port: 50001}},
		} {
			c.o.Family, c.o.Count = family, 1
			set, err := u.Ports(c.o)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if !c.path.Remote.IsValid() {
				c.path.Remote = netip.AddrPortFrom(remote, 6081)
			}
			c.path.Set = set
			s := u.Sender(0)
			s.Add(c.path, 0, c.tos, c.ttl, []byte("hello"), nil)
			if fs := s.Flush(); len(fs) != 0 {
				t.Errorf("%s: %s", c.name, describe(fs))
				continue
			}
			if got := sniff(t, fd); got != c.want {
				t.Errorf("%s: %+v on the wire, want %+v", c.name, got, c.want)
			}
			if set.NoGSO != c.o.ZeroCsum {
				t.Errorf("%s: NoGSO %v, want %v", c.name, set.NoGSO, c.o.ZeroCsum)
			}
		}
	})
}

func TestPorts(t *testing.T) {
	newNetwork(t)
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", []byte("60000-60004,60007"), 0))
	u := newUnderlay(t, Config{Workers: 3})
	o := PortOptions{Family: 4, Min: 60000, Max: 60009, Count: 64}
	busy, err := u.Listen(ListenOptions{Local: here4, Port: 60009})
	must(t, err)
	defer busy.Close()
	set, err := u.Ports(o)
	must(t, err)
	ports := slices.Sorted(slices.Values(set.Ports))
	if want := []uint16{60005, 60006, 60008}; !slices.Equal(ports, want) {
		t.Errorf("ports %v, want %v", ports, want)
	}
	for w, fds := range set.FD {
		for i, fd := range fds {
			sa, err := unix.Getsockname(int(fd))
			must(t, err)
			if got := sa.(*unix.SockaddrInet4).Port; got != int(set.Ports[i]) {
				t.Errorf("worker %d, port %d: descriptor is bound to %d, want %d", w, i, got, set.Ports[i])
			}
		}
	}
	again, err := u.Ports(o)
	must(t, err)
	if again != set {
		t.Error("equal options gave another set")
	}
	u.Release(again)
	// Another set on the same numbers joins; another process could not.
	o.DF = true
	df, err := u.Ports(o)
	must(t, err)
	if got := slices.Sorted(slices.Values(df.Ports)); !slices.Equal(got, ports) || df.ID == set.ID {
		t.Errorf("set with DF: ports %v ID %d, want %v and not %d", got, df.ID, ports, set.ID)
	}
	// Sets that come and go need no more numbers than there are at a time.
	for range 10 {
		o.ZeroCsum = true
		third, err := u.Ports(o)
		must(t, err)
		if third.ID != df.ID+1 {
			t.Errorf("number %d for the third set that is open", third.ID)
		}
		u.Release(third)
	}
	o.ZeroCsum = false
	other := newUnderlay(t, Config{})
	if _, err := other.Ports(o); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("another underlay on the same range: %v, want EADDRINUSE", err)
	}
	u.Release(set)
	u.Release(df)
	if _, err := other.Ports(o); err != nil {
		t.Errorf("after release: %v", err)
	}
	one := PortOptions{Family: 4, Min: 60009, Max: 60009, Count: 1}
	if _, err := u.Ports(one); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "this process") {
		t.Errorf("fixed busy port: %v, want EADDRINUSE by this process", err)
	}
	for _, bad := range []PortOptions{
		{Family: 5, Min: 1, Max: 2, Count: 1}, {Family: 4, Min: 0, Max: 2, Count: 1}, {Family: 4, Min: 3, Max: 2, Count: 1},
		{Family: 4, Min: 1, Max: 2}, {Family: 4, Min: 1, Max: 2, Count: 1, Local: here6}, {Family: 4, Min: 60000, Max: 60004, Count: 1},
	} {
		if _, err := u.Ports(bad); err == nil {
			t.Errorf("Ports(%+v) succeeded", bad)
		}
	}
}

// TestPortsByHash: the hash alone picks the port, whatever the worker, and
// different hashes reach all ports.
func TestPortsByHash(t *testing.T) {
	n := newNetwork(t)
	fd := n.sniffer(4)
	u := newUnderlay(t, Config{Workers: 2})
	set, err := u.Ports(fixed(4, 64))
	must(t, err)
	if len(set.Ports) != 64 {
		t.Fatalf("%d ports, want 64", len(set.Ports))
	}
	path := &packet.Path{Remote: netip.AddrPortFrom(there4, 6081), Set: set}
	used := map[uint16]bool{}
	senders := []*Sender{u.Sender(0), u.Sender(1)}
	for i := range uint32(128) {
		hash := i * (1 << 25)
		var ports []uint16
		for _, s := range senders {
			s.Add(path, hash, 0, 0, []byte("x"), nil)
			if fs := s.Flush(); len(fs) != 0 {
				t.Fatal(describe(fs))
			}
			ports = append(ports, sniff(t, fd).port)
		}
		if ports[0] != ports[1] || ports[0] < 49152 {
			t.Errorf("hash %#x: ports %v", hash, ports)
		}
		used[ports[0]] = true
	}
	if len(used) != 64 {
		t.Errorf("%d ports used, want 64", len(used))
	}
}

func TestSourcePortsReceiveNothing(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		u := newUnderlay(t, Config{Workers: 2})
		set, err := u.Ports(fixed(family, 2))
		must(t, err)
		n.inThere(func() {
			fd, err := unix.Socket(familyOf(local), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(fd)
			for _, p := range set.Ports {
				sa, err := u.sockaddr(local, p, "")
				must(t, err)
				for range 20 {
					must(t, unix.Sendto(fd, []byte("unwanted"), 0, sa))
				}
			}
		})
		time.Sleep(20 * time.Millisecond)
		for _, fds := range set.FD {
			for _, fd := range fds {
				if n, _, err := unix.Recvfrom(int(fd), make([]byte, 64), unix.MSG_DONTWAIT); err != unix.EAGAIN {
					t.Errorf("a source port received %d bytes (%v), want EAGAIN", n, err)
				}
			}
		}
	})
}

// TestZeroChecksum6: only a listener that was told so takes them.
func TestZeroChecksum6(t *testing.T) {
	n := newNetwork(t)
	strict := n.listenThere(Config{}, ListenOptions{Local: any6, Port: 6081})
	lax := n.listenThere(Config{}, ListenOptions{Local: any6, Port: 6082, ZeroCsum6: true})
	u := newUnderlay(t, Config{})
	o := fixed(6, 1)
	o.ZeroCsum = true
	set, err := u.Ports(o)
	must(t, err)
	s := u.Sender(0)
	// The one to lax is sent last, so strict has had its own by then.
	for _, port := range []uint16{6081, 6082} {
		s.Add(&packet.Path{Remote: netip.AddrPortFrom(there6, port), Set: set}, 0, 0, 0, []byte("x"), nil)
	}
	if fs := s.Flush(); len(fs) != 0 {
		t.Fatal(describe(fs))
	}
	take(t, lax, 1)
	take(t, strict, 0)
	if trains, _, _ := strict.Receiver(0).Receive(room()); len(trains) != 0 {
		t.Error("a zero checksum was accepted")
	}
}

// join makes a socket that is a member of group on a device, and returns it.
func (n *network) join(group netip.Addr, ifindex int) int {
	n.t.Helper()
	fd, err := unix.Socket(familyOf(group), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(n.t, err)
	n.t.Cleanup(func() { unix.Close(fd) })
	must(n.t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)) // beside the listener
	if group.Is4() {
		must(n.t, unix.Bind(fd, &unix.SockaddrInet4{Port: 6081, Addr: group.As4()}))
		must(n.t, unix.SetsockoptIPMreqn(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(ifindex)}))
	} else {
		must(n.t, unix.Bind(fd, &unix.SockaddrInet6{Port: 6081, Addr: group.As16()}))
		must(n.t, unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(ifindex)}))
	}
	return fd
}

// TestMulticast: what is sent to a group reaches its members elsewhere, but not
// members on this host, and not a wildcard listener beside a member.
func TestMulticast(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		group, any := netip.MustParseAddr("239.1.2.3"), any4
		if family == 6 {
			group, any = netip.MustParseAddr("ff05::123"), any6
		}
		v0 := n.link(n.nl, "v0").Attrs().Index
		mine := n.join(group, v0)
		l := n.listenThere(Config{}, ListenOptions{Local: any, Port: 6081})
		var theirs int
		n.inThere(func() { theirs = n.join(group, n.link(n.nlThere, "v1").Attrs().Index) })
		u := newUnderlay(t, Config{})
		set, err := u.Ports(fixed(family, 1))
		must(t, err)
		s := u.Sender(0)
		for _, to := range []netip.Addr{group, remote} {
			path := &packet.Path{Remote: netip.AddrPortFrom(to, 6081), Local: local, Set: set}
			if to == group {
				path.Ifindex = int32(v0)
			}
			s.Add(path, 0, 0, 5, []byte(to.String()), nil)
		}
		if fs := s.Flush(); len(fs) != 0 {
			t.Fatal(describe(fs))
		}
		if tr := take(t, l, 1); string(tr[0].Data) != remote.String() {
			t.Errorf("the wildcard listener got %q, want only %q", tr[0].Data, remote)
		}
		b := make([]byte, 100)
		if k, err := receive(theirs, b); err != nil || string(b[:k]) != group.String() {
			t.Errorf("the member got %q, %v, want %q", b[:max(k, 0)], err, group)
		}
		if k, err := receive(mine, b); err != unix.EAGAIN {
			t.Errorf("looped back: %d bytes, %v, want EAGAIN", k, err)
		}
	})
}

func TestFlowsSpreadOverSiblings(t *testing.T) {
	n := newNetwork(t)
	l := n.listenThere(Config{Workers: 2}, ListenOptions{Local: any4, Port: 6081})
	u := newUnderlay(t, Config{})
	set, err := u.Ports(fixed(4, 64))
	must(t, err)
	s := u.Sender(0)
	path := &packet.Path{Remote: netip.AddrPortFrom(there4, 6081), Set: set}
	for i := range uint32(64) {
		s.Add(path, i<<26, 0, 0, []byte("x"), nil)
	}
	if fs := s.Flush(); len(fs) != 0 {
		t.Fatal(describe(fs))
	}
	time.Sleep(20 * time.Millisecond)
	total := 0
	for w := range 2 {
		n := 0
		for {
			trains, _, err := l.Receiver(w).Receive(room())
			must(t, err)
			if len(trains) == 0 {
				break
			}
			n += len(trains)
		}
		if n < 8 {
			t.Errorf("worker %d got %d of 64 flows", w, n)
		}
		total += n
	}
	if total != 64 {
		t.Errorf("%d datagrams, want 64", total)
	}
}

// TestPathErrors lets the kernel refuse for every reason it has.
func TestPathErrors(t *testing.T) {
	n := newNetwork(t)
	n.addRoute("10.1.0.0/16", unix.RTN_UNREACHABLE)
	n.addRoute("10.2.0.0/16", unix.RTN_PROHIBIT)
	n.addRoute("10.3.0.0/16", unix.RTN_BLACKHOLE)
	u := newUnderlay(t, Config{GSO: true})
	set, err := u.Ports(fixed(4, 1))
	must(t, err)
	l := n.listenThere(Config{GRO: true}, ListenOptions{Local: any4, Port: 6081})
	s := u.Sender(0)
	good := testPath("10.9.0.2:6081", set)
	for _, c := range []struct {
		remote string
		want   unix.Errno
	}{
		{"10.1.0.1:6081", unix.EHOSTUNREACH}, {"10.2.0.1:6081", unix.EACCES}, {"10.3.0.1:6081", unix.EINVAL}, {"10.4.0.1:6081", unix.ENETUNREACH},
	} {
		bad := testPath(c.remote, set)
		for range 3 {
			s.Add(bad, 0, 0, 0, []byte("lost"), nil)
		}
		s.Add(good, 0, 0, 0, []byte("kept"), nil)
		want := fmt.Sprintf("3 to %v: %s", bad.Remote.Addr(), unix.ErrnoName(c.want))
		if got := describe(s.Flush()); got != want {
			t.Errorf("%s: failures %q, want %q", c.remote, got, want)
		}
		take(t, l, 1)
		_, err := u.Route(bad.Remote, fixed(4, 1))
		if !errors.Is(err, c.want) {
			t.Errorf("Route %s: %v, want %v", c.remote, err, c.want)
		}
		if bad.NoGSO.Load() {
			t.Errorf("%s: its error turned GSO off", c.remote)
		}
	}
}

func TestPathMTU(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		l := n.listenThere(Config{GRO: true}, ListenOptions{Local: remote, Port: 6081})
		u := newUnderlay(t, Config{GSO: true})
		set, err := u.Ports(fixed(family, 1))
		must(t, err)
		s := u.Sender(0)
		path := &packet.Path{Remote: netip.AddrPortFrom(remote, 6081), Set: set}
		r, err := u.Route(path.Remote, fixed(family, 1))
		must(t, err)
		v0 := n.link(n.nl, "v0")
		if want := (Route{Ifindex: v0.Attrs().Index, Source: local, MTU: 1500, Link: 1500}); r != want {
			t.Errorf("Route = %+v, want %+v", r, want)
		}
		must(t, n.nl.LinkSetMTU(v0, 1400))
		if r, err = u.Route(path.Remote, fixed(family, 1)); err != nil || r.MTU != 1400 {
			t.Errorf("Route after change: MTU %d, %v, want 1400", r.MTU, err)
		}
		big, small := make([]byte, 1440), make([]byte, 1340)
		for range 5 {
			s.Add(path, 0, 0, 0, big, nil)
		}
		s.Add(path, 0, 0, 0, small, nil) // the end of the run of big ones
		if got, want := describe(s.Flush()), fmt.Sprintf("5 to %v: EMSGSIZE", remote); got != want {
			t.Errorf("failures %q, want %q", got, want)
		}
		take(t, l, 1)
		// Without DF the kernel fragments what the run could not carry.
		o := fixed(family, 1)
		o.DF = false
		if path.Set, err = u.Ports(o); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			s.Add(path, 0, 0, 0, big, nil)
		}
		if fs := s.Flush(); len(fs) != 0 {
			t.Errorf("without DF: %s", describe(fs))
		}
		take(t, l, 5)
	})
}

// TestLearntMTU: what a router says about a remote is what Route tells.
func TestLearntMTU(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		// The other namespace routes on to a device that carries less.
		far := netip.MustParsePrefix("10.8.0.1/24")
		forward := "/proc/sys/net/ipv4/ip_forward"
		if family == 6 {
			far, forward = netip.MustParsePrefix("fd08::1/64"), "/proc/sys/net/ipv6/conf/all/forwarding"
		}
		n.inThere(func() { must(t, os.WriteFile(forward, []byte("1"), 0)) })
		d := netlink.NewLinkAttrs()
		d.Name, d.MTU = "d0", 1300
		must(t, n.nlThere.LinkAdd(&netlink.Ifb{LinkAttrs: d}))
		n.setUp(n.nlThere, "d0", far.String())
		dst, err := netlink.ParseIPNet(far.Masked().String())
		must(t, err)
		must(t, n.nl.RouteAdd(&netlink.Route{Dst: dst, Gw: remote.AsSlice()}))
		u := newUnderlay(t, Config{GSO: true})
		set, err := u.Ports(fixed(family, 1))
		must(t, err)
		s := u.Sender(0)
		peer := far.Addr().Next()
		path := &packet.Path{Remote: netip.AddrPortFrom(peer, 6081), Set: set}
		mtu := 0
		// Longer than the second of a lost neighbour request.
		for range 400 {
			s.Add(path, 0, 0, 0, make([]byte, 1400), nil)
			if fs := s.Flush(); len(fs) != 0 && fs[0].Err != unix.EMSGSIZE {
				t.Fatal(describe(fs))
			}
			r, err := u.Route(path.Remote, fixed(family, 1))
			must(t, err)
			if mtu = r.MTU; mtu == 1300 {
				if !r.Learned || r.Link != 1500 {
					t.Errorf("Route to %v = %+v; want it learned, on a link of 1500", peer, r)
				}
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("Route to %v: MTU %d, want 1300", peer, mtu)
	})
}

// TestRouteType: a remote that is no other host is told from one that is.
func TestRouteType(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{})
	for addr, want := range map[string]Route{
		"10.9.0.1": {Local: true}, "fd09::1": {Local: true}, "127.1.2.3": {Local: true}, "::1": {Local: true},
		"10.9.0.2": {}, "fd09::2": {}, "10.9.0.255": {Broadcast: true},
	} {
		r, err := routeOf(u, netip.MustParseAddr(addr), netip.Addr{}, "")
		must(t, err)
		if r.Local != want.Local || r.Broadcast != want.Broadcast {
			t.Errorf("Route(%s): local %v, broadcast %v, want %v, %v", addr, r.Local, r.Broadcast, want.Local, want.Broadcast)
		}
	}
}

func TestCards(t *testing.T) {
	link := func(kind string, index, parent, master int, bus, dev string) netlink.Link {
		return &netlink.GenericLink{LinkType: kind, LinkAttrs: netlink.LinkAttrs{
			Index: index, ParentIndex: parent, MasterIndex: master, NetNsID: -1, ParentDevBus: bus, ParentDev: dev}}
	}
	links := []netlink.Link{
		link("", 1, 0, 0, "", ""),
		link("device", 2, 0, 0, "pci", "0000:01:00.0"),
		link("device", 3, 0, 0, "virtio", "virtio0"),
		link("device", 4, 0, 0, "pci", "0000:02:00.0"), // vmxnet3
		link("device", 5, 0, 0, "pci", "0000:03:00.0"), // no driver to be seen
		link("vlan", 6, 20, 0, "", ""),                 // on the bond of cards
		link("vlan", 7, 6, 0, "", ""),
		link("vlan", 8, 3, 0, "", ""),
		link("macvlan", 9, 2, 0, "", ""), // its siblings are on the same machine
		link("bridge", 10, 0, 0, "", ""),
		link("device", 11, 0, 10, "pci", "0000:01:00.1"),
		link("veth", 12, 2, 10, "", ""),
		link("bond", 20, 0, 0, "", ""),
		link("device", 21, 0, 20, "usb", "1-1:1.0"),
		link("device", 22, 0, 20, "platform", "eth"),
		link("bond", 30, 0, 0, "", ""), // of a card and another device
		link("device", 31, 0, 30, "pci", "0000:01:00.2"),
		link("veth", 32, 0, 30, "", ""),
		link("bond", 40, 0, 0, "", ""), // of nothing yet
	}
	got := cards(links, func(bus, dev string) string {
		switch dev {
		case "0000:02:00.0":
			return "vmxnet3"
		case "0000:03:00.0":
			return "."
		}
		return bus + "-driver"
	})
	if want := []int{2, 6, 7, 11, 20, 21, 22, 31}; !slices.Equal(got, want) {
		t.Errorf("cards %v, want %v", got, want)
	}
}

// TestCardsOfKernel: neither a veth nor any other device of a namespace made here is a card.
func TestCardsOfKernel(t *testing.T) {
	newNetwork(t)
	if got, err := newUnderlay(t, Config{}).Cards(); err != nil || len(got) != 0 {
		t.Errorf("Cards = %v, %v, want none", got, err)
	}
}

func TestWatch(t *testing.T) {
	n := newNetwork(t)
	u := newUnderlay(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed, err := u.Watch(ctx)
	must(t, err)
	wait := func(what string, all bool, concern, not string) {
		t.Helper()
		var c netio.Changes
		select {
		case c = <-changed:
		case <-time.After(2 * time.Second):
			t.Errorf("%s: not told", what)
		}
		// What trails behind the change.
		for more := true; more; {
			select {
			case next := <-changed:
				c.Join(&next)
			case <-time.After(50 * time.Millisecond):
				more = false
			}
		}
		if c.All != all || !c.Concern(netip.MustParseAddr(concern)) || not != "" && c.Concern(netip.MustParseAddr(not)) {
			t.Errorf("%s: all is %t, want %t; %s and not %s has to be concerned", what, c.All, all, concern, not)
		}
	}
	must(t, n.nl.LinkSetMTU(n.link(n.nl, "v0"), 1400))
	wait("MTU", true, "10.1.2.3", "")
	n.setUp(n.nl, "v0", "10.9.0.5/24")
	wait("address", true, "10.1.2.3", "")
	n.addRoute("10.1.0.0/16", unix.RTN_UNREACHABLE)
	wait("route", false, "10.1.2.3", "10.2.0.1")
	n.addRoute("2001:db8:1::/48", unix.RTN_UNREACHABLE)
	wait("IPv6 route", false, "2001:db8:1::5", "2001:db8:2::5")
	n.addRoute("0.0.0.0/0", unix.RTN_UNREACHABLE)
	wait("default route", false, "192.0.2.1", "2001:db8::1")
	rule := netlink.NewRule()
	rule.Priority, rule.Table = 77, 100
	must(t, n.nl.RuleAdd(rule))
	wait("rule", true, "10.1.2.3", "")
	cancel()
	select {
	case _, open := <-changed:
		if open {
			_, open = <-changed
		}
		if open {
			t.Error("channel still open")
		}
	case <-time.After(2 * time.Second):
		t.Error("channel not closed")
	}
}

func TestNoDescriptorLeaks(t *testing.T) {
	newNetwork(t)
	before := openFDs(t)
	for range 3 {
		u, err := New(Config{Workers: 2})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		changed, err := u.Watch(ctx)
		must(t, err)
		for _, local := range []netip.Addr{any4, any6} {
			_, err = u.Listen(ListenOptions{Local: local, Port: 6081})
			must(t, err)
		}
		for _, group := range []netip.Addr{groups4[0], groups6[0]} {
			_, err = u.Listen(ListenOptions{Group: group, Port: 6081, Device: "v0"})
			must(t, err)
			if _, err = u.Listen(ListenOptions{Group: group, Port: 6081, Device: "lo0"}); err == nil {
				t.Fatal("joined on a device that is not there")
			}
		}
		_, err = u.Renew()
		must(t, err)
		if _, err = u.Listen(ListenOptions{Local: any4, Port: 6081}); err == nil {
			t.Fatal("bound twice")
		}
		set, err := u.Ports(fixed(4, 8))
		must(t, err)
		_, err = u.Ports(fixed(6, 8))
		must(t, err)
		if _, err = u.Ports(PortOptions{Family: 4, Min: 6081, Max: 6081, Count: 1}); err == nil {
			t.Fatal("source port on the listening one")
		}
		if _, err = u.Ports(PortOptions{Family: 4, Min: 7000, Max: 7000, Count: 1, Local: there4}); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Fatalf("foreign source: %v", err)
		}
		u.Release(set)
		cancel()
		for range changed {
		}
		must(t, u.Close())
	}
	// The netlink library closes the socket of a watch from a goroutine of its own.
	after := openFDs(t)
	for end := time.Now().Add(2 * time.Second); after != before && time.Now().Before(end); after = openFDs(t) {
		time.Sleep(time.Millisecond)
	}
	if after != before {
		t.Errorf("%d descriptors open, want %d as before", after, before)
	}
}

func TestReceiveErrors(t *testing.T) {
	for e, want := range map[unix.Errno]bool{
		unix.EAGAIN: false, unix.EINTR: false, unix.ENOMEM: false, unix.ECONNREFUSED: false, unix.ENETDOWN: false, unix.ENOBUFS: false,
		unix.EBADF: true, unix.ENOTSOCK: true,
	} {
		if got := receiveFatal(e); got != want {
			t.Errorf("receiveFatal(%v) = %v, want %v", e, got, want)
		}
	}
	r := newReceiver(-1, 2, true, false)
	if _, _, err := r.Receive(room()); err != unix.EBADF {
		t.Errorf("Receive on a closed one: %v, want EBADF", err)
	}
}

// TestOverflow fills a small receive buffer.
func TestOverflow(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{Rcvbuf: 4096})
	l, err := u.Listen(ListenOptions{Local: here4, Port: 6081})
	must(t, err)
	set, err := u.Ports(fixed(4, 1))
	must(t, err)
	s := u.Sender(0)
	path := testPath("10.9.0.1:6081", set)
	const total = 200
	got := 0
	drain := func() {
		for {
			trains, _, err := l.Receiver(0).Receive(room())
			must(t, err)
			if len(trains) == 0 {
				return
			}
			got += len(trains)
		}
	}
	for range total {
		s.Add(path, 0, 0, 0, make([]byte, 100), nil)
	}
	s.Flush()
	if l.Receiver(0).Overflows() == 0 {
		t.Error("no overflows before anything is received: nobody asked the kernel")
	}
	drain()
	s.Add(path, 0, 0, 0, []byte("tells"), nil)
	s.Flush()
	drain()
	if o := l.Receiver(0).Overflows(); got == total+1 || int(o)+got != total+1 {
		t.Errorf("%d overflows and %d received, want %d together", o, got, total+1)
	}
}

func TestReceiveAllocs(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		u := newUnderlay(t, Config{GSO: true, GRO: true})
		l, err := u.Listen(ListenOptions{Local: local, Port: 6081})
		must(t, err)
		set, err := u.Ports(fixed(family, 8))
		must(t, err)
		s := u.Sender(0)
		path := &packet.Path{Remote: netip.AddrPortFrom(local, 6081), Set: set, Local: local}
		head, tail := make([]byte, 50), make([]byte, 1000)
		got := 0
		workers := [2][]byte{room(), room()} // the socket goes from one to the other
		step := func() {
			for i := range uint32(60) {
				s.Add(path, i<<28, 3, 64, head, tail)
			}
			if len(s.Flush()) != 0 {
				t.Fatal("not sent")
			}
			for {
				workers[0], workers[1] = workers[1], workers[0]
				trains, _, err := l.Receiver(0).Receive(workers[0])
				if err != nil {
					t.Fatal(err)
				}
				if len(trains) == 0 {
					return
				}
				for _, tr := range trains {
					if within := uintptr(unsafe.Pointer(&tr.Data[0])) - uintptr(unsafe.Pointer(&workers[0][0])); within >= netio.ReceiveBuffer {
						t.Fatal("a train is not in the buffer of who received it")
					}
					got += len(tr.Data) / tr.Size
				}
			}
		}
		step()
		if allocs := testing.AllocsPerRun(50, step); allocs != 0 {
			t.Errorf("%v allocations, want 0", allocs)
		}
		if got != 52*60 {
			t.Errorf("%d datagrams received, want %d", got, 52*60)
		}
	})
}

// TestReceiveMemory: a receive socket costs memory for what it holds of a batch, not for the
// batch's data, which goes to the buffer of the worker that receives.
func TestReceiveMemory(t *testing.T) {
	newNetwork(t)
	u := newUnderlay(t, Config{Rcvbuf: 4096})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const sockets = 100
	for i := range sockets {
		_, err := u.Listen(ListenOptions{Local: here4, Port: 7000 + uint16(i)})
		must(t, err)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / sockets; each > 64<<10 {
		t.Errorf("a receive socket costs %d bytes, want 64 KiB at most", each)
	}
}
