package tap

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

func is(err error, errno unix.Errno) bool { return errors.Is(err, errno) }

const (
	multi = netlink.TUNTAP_MULTI_QUEUE | netlink.TUNTAP_NO_PI
	isTAP = netlink.TUNTAP_MODE_TAP
	isTUN = netlink.TUNTAP_MODE_TUN
)

func TestNewTAP(t *testing.T) {
	private(t)
	mac := packet.MAC{2, 0, 0, 0, 0x0a, 1}
	d := open(t, Options{
		Name: "gnv0", MTU: 1450, LLAddr: mac, Queues: 2, TxQueue: 777, Offload: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
	})
	link := device(t, "gnv0")
	got := fmt.Sprintln(link.Mode == isTAP, link.MTU, link.HardwareAddr, link.TxQLen, link.RawFlags&unix.IFF_UP != 0,
		link.Queues, link.DisabledQueues, link.NonPersist, qdiscs(t, "gnv0"))
	want := "true 1450 02:00:00:00:0a:01 777 true 2 2 true [noqueue]\n" // two to read, two detached to write
	if got != want {
		t.Errorf("device is\n%s, want\n%s", got, want)
	}
	if d.Name() != "gnv0" || d.Ifindex() != link.Index || !d.Here() || d.LLAddr() != mac {
		t.Errorf("Name %s Ifindex %d Here %v LLAddr %v, want gnv0 %d true %v", d.Name(), d.Ifindex(), d.Here(), d.LLAddr(), link.Index, mac)
	}
	if want := packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6; !d.Offload().Has(want) {
		t.Errorf("Offload %b, want at least %b", d.Offload(), want)
	}
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		must(t, err)
		found := false
		for _, x := range addrs {
			if x.IPNet.String() == a {
				found = true
				if x.Flags&unix.IFA_F_TENTATIVE != 0 {
					t.Errorf("%s is tentative, want no duplicate address detection", a)
				}
			}
		}
		if !found {
			t.Errorf("addresses %v, want %s among them", addrs, a)
		}
	}
	must(t, d.SetMTU(1400))
	if got := device(t, "gnv0").MTU; got != 1400 {
		t.Errorf("MTU after SetMTU %d, want 1400", got)
	}
	if got, err := d.MTU(); got != 1400 || err != nil {
		t.Errorf("MTU() %d %v, want 1400", got, err)
	}
	wants(t, d.SetMTU(65522), unix.EINVAL, "gnv0", "68 to 65521")
	must(t, d.Close())
	must(t, d.Close())
	if exists("gnv0") {
		t.Error("gnv0 is still there after Close")
	}
	if got := d.LLAddr(); got != mac {
		t.Errorf("LLAddr after Close %v, want the last, %v", got, mac)
	}
	wants(t, d.SetMTU(1400), unix.EBADF, "closed")
	if fd := d.Queue(0).FD(); fd != -1 {
		t.Errorf("FD after Close %d, want -1", fd)
	}
}

func TestNewTUN(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "tun9", L3: true, Queues: 1, MTU: 65535, Offload: true})
	link := device(t, "tun9")
	if link.Mode != isTUN || link.MTU != 65535 || link.Queues != 1 || qdiscs(t, "tun9") != "[noqueue]" {
		t.Errorf("mode %v MTU %d queues %d qdisc %s, want tun, 65535, 1, noqueue", link.Mode, link.MTU, link.Queues, qdiscs(t, "tun9"))
	}
	if !d.LLAddr().IsZero() {
		t.Errorf("LLAddr %v, want none", d.LLAddr())
	}
}

func TestDown(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "gnv0", Queues: 1, Down: true})
	if device(t, "gnv0").RawFlags&unix.IFF_UP != 0 {
		t.Error("device is up")
	}
	var hdr packet.VirtioHdr
	if err := d.Writer(0).Write(&hdr, make([]byte, 60)); err != unix.EIO {
		t.Errorf("Write while down: %v, want EIO", err)
	}
	if _, err := d.Queue(0).Read(make([]byte, 2000), &hdr); err != unix.EAGAIN {
		t.Errorf("Read while down: %v, want EAGAIN", err)
	}
}

func TestCheck(t *testing.T) {
	ok := Options{Name: "gnv0", Queues: 1}
	must(t, check(&ok))
	for _, c := range []struct {
		change func(*Options)
		word   string
	}{
		{func(o *Options) { o.Name = "" }, "1 to 15"},
		{func(o *Options) { o.Name = "sixteen-bytes-ab" }, "1 to 15"},
		{func(o *Options) { o.Name = "a/b" }, "'/'"},
		{func(o *Options) { o.Name = "a b" }, "spaces"},
		{func(o *Options) { o.Name = "a\nb" }, "control"},
		{func(o *Options) { o.Name = "a\xa0b" }, "spaces"},
		{func(o *Options) { o.Name = "gnv%d" }, "'%'"},
		{func(o *Options) { o.Name = "a:b" }, "':'"},
		{func(o *Options) { o.Name = ".." }, "reserves"},
		{func(o *Options) { o.Name = "all" }, "reserves"},
		{func(o *Options) { o.Queues = 0 }, "1 to 255"},
		{func(o *Options) { o.Queues = 256 }, "1 to 255"},
		{func(o *Options) { o.TxQueue = -1 }, "negative"},
		{func(o *Options) { o.MTU = 67 }, "68 to 65521"},
		{func(o *Options) { o.MTU = 65522 }, "68 to 65521"},
		{func(o *Options) { o.L3, o.MTU = true, 65536 }, "68 to 65535"},
		{func(o *Options) { o.L3, o.LLAddr = true, packet.MAC{2} }, "TUN"},
		{func(o *Options) { o.L3, o.Master = true, "br0" }, "TUN"},
		{func(o *Options) { o.LLAddr = packet.MAC{1} }, "group"},
		{func(o *Options) { o.Addresses = []netip.Prefix{{}} }, "address"},
		{func(o *Options) { o.Addresses = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")} }, "address"},
		{func(o *Options) { o.Addresses = []netip.Prefix{netip.MustParsePrefix("224.0.0.1/4")} }, "address"},
	} {
		o := ok
		c.change(&o)
		wants(t, check(&o), unix.EINVAL, c.word)
		if _, err := Open(o); err == nil {
			t.Errorf("Open(%+v) succeeded", o)
		}
	}
}

func TestPersist(t *testing.T) {
	private(t)
	o := Options{Name: "gnv0", Queues: 2, Offload: true, Persist: true, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
	d := open(t, o)
	mac, index := d.LLAddr(), d.Ifindex()
	must(t, d.Close())
	if link := device(t, "gnv0"); link.NonPersist || link.Queues != 0 {
		t.Fatalf("after Close: volatile %v, %d queues; want persistent without queues", link.NonPersist, link.Queues)
	}
	// Again, and without asking: what is persistent stays so.
	o.Persist, o.Queues = false, 1
	d = open(t, o)
	if d.LLAddr() != mac || d.Ifindex() != index {
		t.Errorf("adopted with MAC %v index %d, want %v %d", d.LLAddr(), d.Ifindex(), mac, index)
	}
	if d.Offload() == 0 || !d.Queue(0).vnet {
		t.Error("adopted without virtio-net headers")
	}
	must(t, d.Close())
	if device(t, "gnv0").NonPersist {
		t.Error("adoption made it volatile")
	}
}

func TestAdopt(t *testing.T) {
	private(t)
	made := persistent(t, "gnv0", isTAP, multi)
	must(t, netlink.LinkSetUp(made)) // so it has mq and its children
	if got := qdiscs(t, "gnv0"); !strings.Contains(got, "mq") {
		t.Fatalf("qdiscs before %s, want mq: the test proves nothing", got)
	}
	d := open(t, Options{Name: "gnv0", Queues: 2, Offload: true})
	if got := qdiscs(t, "gnv0"); got != "[noqueue]" {
		t.Errorf("qdiscs %s, want [noqueue]", got)
	}
	if got := d.LLAddr().String(); got != made.HardwareAddr.String() {
		t.Errorf("MAC %s, want %s", got, made.HardwareAddr)
	}
	if len(d.Refused()) != 0 {
		t.Errorf("Refused %v, want nothing", d.Refused())
	}
	must(t, d.Close())
	if device(t, "gnv0").NonPersist {
		t.Error("adoption made it volatile")
	}

	// A qdisc that somebody chose is not ours to replace.
	must(t, netlink.QdiscReplace(&netlink.GenericQdisc{QdiscType: "pfifo",
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: made.Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}}))
	open(t, Options{Name: "gnv0", Queues: 2}).Close()
	if got := qdiscs(t, "gnv0"); got != "[pfifo]" {
		t.Errorf("qdiscs %s, want the chosen [pfifo]", got)
	}
}

// An error late in Open leaves an adopted device as it was and a new one
// nowhere.
func TestRollback(t *testing.T) {
	private(t)
	made := persistent(t, "gnv0", isTAP, multi)
	must(t, netlink.AddrAdd(made, address(netip.MustParsePrefix("192.0.2.9/24"))))
	state := func() string {
		link := device(t, "gnv0")
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		must(t, err)
		return fmt.Sprint(link.MTU, link.HardwareAddr, link.TxQLen, link.RawFlags&unix.IFF_UP, link.MasterIndex, addrs, link.Queues, link.NonPersist)
	}
	before, fds := state(), openFDs(t)
	o := Options{
		Name: "gnv0", Queues: 2, MTU: 1000, LLAddr: packet.MAC{2, 1}, TxQueue: 5, Persist: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
	}
	_, err := Open(o)
	wants(t, err, unix.EINVAL, "gnv0", "2001:db8::1/64", "1280")
	if after := state(); after != before {
		t.Errorf("adopted device is\n%s, was\n%s", after, before)
	}
	o.Name = "gnv1"
	_, err = Open(o)
	wants(t, err, unix.EINVAL, "gnv1", "1280")
	if exists("gnv1") {
		t.Error("the new device is still there")
	}
	o.Name, o.Master, o.Addresses = "gnv2", "br7", nil
	_, err = Open(o)
	wants(t, err, unix.ENODEV, "br7")
	if exists("gnv2") {
		t.Error("the new device is still there")
	}
	if now := openFDs(t); !maps.Equal(fds, now) {
		t.Errorf("descriptors %v, before %v", now, fds)
	}
}

func TestNameTaken(t *testing.T) {
	private(t)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "gnv0"}, PeerName: "gnv1"}))
	persistent(t, "gnv2", isTUN, multi)
	persistent(t, "gnv3", isTAP, netlink.TUNTAP_NO_PI)
	for _, c := range []struct {
		name, text string
		want       unix.Errno
	}{
		{"gnv0", "veth", unix.EEXIST}, {"lo", "", unix.EEXIST}, {"gnv2", "TUN, not a TAP", unix.EEXIST}, {"gnv3", "multi_queue", unix.EINVAL},
	} {
		_, err := Open(Options{Name: c.name, Queues: 1})
		wants(t, err, c.want, c.name, c.text)
		wants(t, Try(Options{Name: c.name, Queues: 1}), c.want, c.name, c.text)
	}
}

// TestTry: it says what stands in the way, and makes no device.
func TestTry(t *testing.T) {
	private(t)
	persistent(t, "gnv1", isTAP, multi)
	fds := openFDs(t)
	must(t, Try(Options{Name: "gnv0", Queues: 1, MTU: 1400}))
	must(t, Try(Options{Name: "gnv1", Queues: 1, MTU: 1400}))
	wants(t, Try(Options{Name: "gnv0", Queues: 1, Master: "br7"}), unix.ENODEV, "gnv0", "br7")
	wants(t, Try(Options{Name: "gnv0", Queues: 1, Netns: "nosuch"}), unix.ENOENT, "nosuch")
	wants(t, Try(Options{Name: "gnv0"}), unix.EINVAL, "gnv0", "queues")
	if exists("gnv0") || device(t, "gnv1").MTU == 1400 || !maps.Equal(fds, openFDs(t)) {
		t.Error("it has made or changed a device, or left a descriptor")
	}
}

// TestHold is the other process of TestBusy.
func TestHold(t *testing.T) {
	if os.Getenv("TAP_TEST_HOLD") == "" {
		t.Skip("runs as a child of TestBusy")
	}
	d, err := Open(Options{Name: os.Getenv("TAP_TEST_HOLD"), Queues: 1})
	must(t, err)
	defer d.Close()
	fmt.Println("held")
	os.Stdin.Read(make([]byte, 1)) // until the parent closes it
}

func TestBusy(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "mine", Queues: 1})
	_, err := Open(Options{Name: "mine", Queues: 1})
	wants(t, err, unix.EBUSY, "mine", "this process")
	d.Close()

	persistent(t, "gnv0", isTAP, multi)
	child := exec.Command(os.Args[0], "-test.run=^TestHold$", "-test.v")
	child.Env = append(os.Environ(), "TAP_TEST_HOLD=gnv0")
	in, err := child.StdinPipe()
	must(t, err)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start()) // forked from this thread, so in its namespace
	defer func() { in.Close(); child.Wait() }()
	var seen strings.Builder
	for buf := make([]byte, 200); !strings.Contains(seen.String(), "held"); {
		n, err := out.Read(buf)
		must(t, err)
		seen.Write(buf[:n])
	}
	_, err = Open(Options{Name: "gnv0", Queues: 1})
	wants(t, err, unix.EBUSY, "gnv0", fmt.Sprintf("process %d (", child.Process.Pid))
}

func TestMaster(t *testing.T) {
	private(t)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	must(t, netlink.LinkAdd(br))
	open(t, Options{Name: "gnv0", Queues: 1, Master: "br0"})
	if got := device(t, "gnv0").MasterIndex; got != br.Index {
		t.Errorf("master %d, want %d", got, br.Index)
	}
}

func TestNetns(t *testing.T) {
	private(t)
	blue := namespace(t, "blue")
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	o := Options{Name: "gnv0", Queues: 2, Netns: "blue", MTU: 1450, LLAddr: packet.MAC{2, 7}, Offload: true, Persist: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}

	fds := openFDs(t)
	check := func(d *Device) {
		t.Helper()
		if exists("gnv0") {
			t.Error("gnv0 is here")
		}
		must(t, netns.Set(blue))
		link, qdisc := device(t, "gnv0"), qdiscs(t, "gnv0")
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		must(t, err)
		must(t, netns.Set(here))
		if d.Here() || d.Ifindex() != link.Index || d.LLAddr() != o.LLAddr || link.MTU != 1450 || len(addrs) != 1 ||
			link.RawFlags&unix.IFF_UP == 0 || qdisc != "[noqueue]" || link.Queues != 2 {
			t.Errorf("Here %v Ifindex %d LLAddr %v addresses %v qdisc %s link %+v", d.Here(), d.Ifindex(), d.LLAddr(), addrs, qdisc, link)
		}
		must(t, d.SetMTU(1400))
		must(t, netns.Set(blue))
		if got := device(t, "gnv0").MTU; got != 1400 {
			t.Errorf("MTU after SetMTU %d, want 1400", got)
		}
		must(t, netns.Set(here))
		must(t, d.Close())
	}
	check(open(t, o)) // made here, moved
	check(open(t, o)) // adopted there
	must(t, netns.Set(blue))
	must(t, netlink.LinkDel(device(t, "gnv0")))
	must(t, netns.Set(here))
	persistent(t, "gnv0", isTAP, multi)
	check(open(t, o)) // adopted here, moved
	if now := openFDs(t); !maps.Equal(fds, now) {
		t.Errorf("descriptors %v, before %v", now, fds)
	}

	// Failing there brings an adopted one back.
	persistent(t, "gnv5", isTAP, multi)
	_, err = Open(Options{Name: "gnv5", Queues: 1, Netns: "blue", Master: "br7"})
	wants(t, err, unix.ENODEV, "br7")
	if !exists("gnv5") {
		t.Error("the adopted device did not come back")
	}

	// By path; the own namespace is no move.
	d := open(t, Options{Name: "gnv1", Queues: 1, Netns: fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())})
	if !d.Here() || !exists("gnv1") {
		t.Error("a path to the own namespace moved the device")
	}
	_, err = Open(Options{Name: "gnv2", Queues: 1, Netns: "red"})
	wants(t, err, unix.ENOENT, `"red"`, "blue")
	_, err = Open(Options{Name: "gnv2", Queues: 1, Netns: "/etc/passwd"})
	wants(t, err, unix.EINVAL, "/etc/passwd", "not a network namespace")
	if exists("gnv2") {
		t.Error("gnv2 is left behind")
	}
}

// The end of the namespace must end the device, not wait for us.
func TestNetnsEnds(t *testing.T) {
	private(t)
	blue := namespace(t, "blue")
	d := open(t, Options{Name: "gnv0", Queues: 1, Netns: "blue", Offload: true})
	must(t, netns.DeleteNamed("blue"))
	blue.Close()
	var hdr packet.VirtioHdr
	buf := make([]byte, packet.VirtioHdrLen+packet.MaxFrame)
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := d.Queue(0).Read(buf, &hdr)
		if err == unix.EBADFD {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Read: %v, want EBADFD: the device keeps its namespace alive", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	must(t, d.Close())
}

// Others may rename and move a device; the descriptor still finds it.
func TestMovedByOthers(t *testing.T) {
	private(t)
	blue := namespace(t, "blue")
	d := open(t, Options{Name: "gnv0", Queues: 1})
	link := device(t, "gnv0")
	must(t, netlink.LinkSetDown(link))
	must(t, netlink.LinkSetName(link, "other"))
	must(t, d.SetMTU(1300))
	must(t, netlink.LinkSetNsFd(link, int(blue)))
	must(t, d.SetMTU(1200))
	if got, err := d.MTU(); got != 1200 || err != nil {
		t.Errorf("MTU() %d %v, want 1200", got, err)
	}
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	must(t, netns.Set(blue))
	defer netns.Set(here)
	if got := device(t, "other").MTU; got != 1200 {
		t.Errorf("MTU %d, want 1200", got)
	}
}

func TestNoDescriptorLeaks(t *testing.T) {
	private(t)
	open(t, Options{Name: "warm", Queues: 1}).Close()
	before := openFDs(t)
	for i := range 50 {
		d, err := Open(Options{Name: "gnv0", Queues: 1 + i%3, Offload: i%2 == 0})
		must(t, err)
		if i%5 == 0 {
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { d.Close(); d.LLAddr() })
			}
			wg.Wait()
		}
		must(t, d.Close())
		Open(Options{Name: "lo", Queues: 1})
	}
	if after := openFDs(t); !maps.Equal(before, after) {
		t.Errorf("descriptors %v, before %v", after, before)
	}
}

func TestCloseOnExec(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "gnv0", Queues: 3})
	for i := range 3 {
		fd := d.Queue(i).FD()
		if f, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || f&unix.FD_CLOEXEC == 0 {
			t.Errorf("queue %d: F_GETFD %d %v, want FD_CLOEXEC", i, f, err)
		}
		if f, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || f&unix.O_NONBLOCK == 0 {
			t.Errorf("queue %d: F_GETFL %x %v, want O_NONBLOCK", i, f, err)
		}
	}
}

func TestCloseAll(t *testing.T) {
	private(t)
	namespace(t, "blue")
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	foreign := open(t, Options{Name: "foreign", Queues: 1})
	before := openFDs(t)
	var all []*Device
	for i := range 40 {
		o := Options{Name: fmt.Sprintf("gnv%d", i), Queues: 2, Offload: true}
		if i%4 == 0 {
			o.Netns = "blue"
		}
		o.Persist = i == 1
		all = append(all, open(t, o))
	}
	must(t, all[2].Close()) // one that is closed already
	start := time.Now()
	must(t, CloseAll(all))
	t.Logf("40 devices in %v", time.Since(start))
	links, err := netlink.LinkList()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	if want := []string{"lo", "br0", "foreign", "gnv1"}; !reflect.DeepEqual(names, want) {
		t.Errorf("left: %v, want %v", names, want)
	}
	if after := openFDs(t); !maps.Equal(before, after) {
		t.Errorf("descriptors %v, before %v", after, before)
	}
	must(t, foreign.Close())
	must(t, CloseAll(all))
}

// The probe drops one ability after the other, and nothing else.
func TestOffer(t *testing.T) {
	for _, c := range []struct {
		known uintptr // what the kernel knows
		want  packet.Offload
	}{
		{0x7f, packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6 | packet.OffloadUSO},
		{0x1f, packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6},
		{0x07, packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6},
		{0x03, packet.OffloadCsum | packet.OffloadTSO4},
		{0x01, packet.OffloadCsum},
		{0x00, 0},
	} {
		got, err := offer(true, func(bits uintptr) error {
			if bits&^c.known != 0 {
				return unix.EINVAL
			}
			return nil
		})
		if got != c.want || err != nil {
			t.Errorf("kernel knows %#x: offload %b %v, want %b", c.known, got, err, c.want)
		}
	}
	if got, err := offer(false, func(uintptr) error { return nil }); got != 0 || err != nil {
		t.Errorf("not wanted: offload %b %v, want none", got, err)
	}
	if _, err := offer(true, func(uintptr) error { return unix.EBADFD }); err != unix.EBADFD {
		t.Errorf("error %v, want EBADFD", err)
	}
}

func TestErrorTexts(t *testing.T) {
	o := &Options{Name: "gnv0"}
	wants(t, openError(unix.ENOENT), unix.ENOENT, "/dev/net/tun", "modprobe tun")
	wants(t, openError(unix.EPERM), unix.EPERM, "/dev/net/tun", "may not")
	wants(t, attachError(o, false, unix.EPERM), unix.EPERM, "gnv0", "CAP_NET_ADMIN")
	wants(t, attachError(o, true, unix.EPERM), unix.EPERM, "gnv0", "ip tuntap add dev gnv0 mode tap")
	wants(t, attachError(o, false, unix.EBUSY), unix.EBUSY, "gnv0")
	if holds("pos:\t0\niff:\tgnv01\n", "gnv0") || !holds("pos:\t0\niff:\tgnv0\n", "gnv0") || holds("pos:\t0\n", "gnv0") {
		t.Error("holds misreads fdinfo")
	}
}

// A process without any capability can use a device made for its user, but
// not change it.
func TestNoCapability(t *testing.T) {
	private(t)
	made := persistent(t, "gnv0", isTAP, multi)
	must(t, dropCapabilities())
	d, err := Open(Options{Name: "gnv0", Queues: 1, MTU: 1400, Offload: true, LLAddr: packet.MAC{2, 3}})
	if is(err, unix.EPERM) {
		wants(t, err, unix.EPERM, "ip tuntap add") // kernels that want an owner
		return
	}
	must(t, err)
	defer d.Close()
	if len(d.Refused()) < 3 {
		t.Errorf("Refused %v, want at least qdisc, MTU and link-layer address", d.Refused())
	}
	for _, err := range d.Refused() {
		wants(t, err, unix.EPERM, "gnv0")
	}
	if got := d.LLAddr(); got.String() != made.HardwareAddr.String() {
		t.Errorf("LLAddr %v, want %v", got, made.HardwareAddr)
	}
	_, err = Open(Options{Name: "gnv1", Queues: 1})
	wants(t, err, unix.EPERM, "gnv1", "CAP_NET_ADMIN")
}

// dropCapabilities drops those of this thread.
func dropCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capset(&hdr, &data[0])
}

func BenchmarkOpenClose(b *testing.B) {
	private(b)
	o := Options{Name: "gnv0", MTU: 1450, LLAddr: packet.MAC{2, 1}, Queues: 2, TxQueue: 1000, Offload: true,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}}
	var opening, closing []time.Duration
	for b.Loop() {
		start := time.Now()
		d, err := Open(o)
		open := time.Now()
		must(b, err)
		d.Close()
		opening = append(opening, open.Sub(start))
		closing = append(closing, time.Since(open))
	}
	slices.Sort(opening)
	slices.Sort(closing)
	b.ReportMetric(float64(opening[0].Microseconds()), "µs-open-min")
	b.ReportMetric(float64(opening[len(opening)/2].Microseconds()), "µs-open-median")
	b.ReportMetric(float64(closing[len(closing)/2].Microseconds()), "µs-close-median")
}
