// Package tap opens TAP and TUN devices: several queues through
// songgao/water, with virtio-net headers and segmentation offloads, brought
// by netlink to the state that is asked for. It keeps the kernel's secrets
// about these devices.
//
// Opening a device takes these steps:
//
//  1. Look for the name. Nothing there: the device is made. A persistent
//     device with no queue attached: it is adopted. All else is refused.
//  2. An anchor, our own descriptor, attaches with IFF_VNET_HDR, which water
//     cannot ask for; the kernel takes the flags of a multi-queue device from
//     the first queue only (tun_set_iff in drivers/net/tun.c). The anchor's own
//     queue is detached at once, so that it never gets a share of the packets.
//  3. Water opens the queues to read from. Each descriptor is duplicated out
//     of Go's poller. Beside each goes a detached one like the anchor, to write
//     to; the anchor is the first of them.
//  4. What the device really is, is read back: without the
//     flag it is used in plain mode, one frame a read, with no header.
//  5. The device moves to its namespace and is configured there.
package tap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// Options is what is wanted of a device.
type Options = netio.DeviceOptions

const (
	// kernelQueues is MAX_TAP_QUEUES of drivers/net/tun.c. Detached ones count.
	kernelQueues = 256
	// maxQueues leaves one for the anchor.
	maxQueues = kernelQueues - 1
)

// check refuses what the kernel would cut, misread or refuse less clearly.
func check(o *Options) error {
	bad := func(format string, args ...any) error { return refuse(unix.EINVAL, format, args...) }
	switch {
	case len(o.Name) < 1 || len(o.Name) > unix.IFNAMSIZ-1:
		return bad("device name %q: must be 1 to %d bytes long", o.Name, unix.IFNAMSIZ-1)
	case o.Name == "." || o.Name == ".." || o.Name == "all" || o.Name == "default":
		return bad("device name %q: the kernel reserves this name", o.Name)
	// '%' would make the kernel choose a number, 0xa0 counts as space there.
	case strings.ContainsFunc(o.Name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("/:%", r) }),
		strings.IndexByte(o.Name, 0xa0) >= 0:
		return bad("device name %q: no spaces, control characters, '/', ':' or '%%'", o.Name)
	case o.Queues < 1 || o.Queues > maxQueues:
		return bad("%s: %d queues: must be 1 to %d", o.Name, o.Queues, maxQueues)
	case o.TxQueue < 0:
		return bad("%s: txqueuelen %d is negative", o.Name, o.TxQueue)
	case o.L3 && !o.LLAddr.IsZero():
		return bad("%s: a TUN has no link-layer address to set", o.Name)
	case o.L3 && o.Master != "":
		return bad("%s: a TUN carries no Ethernet and cannot join %s", o.Name, o.Master)
	case o.L3 && o.Isolated:
		return bad("%s: a TUN is in no bridge to be isolated in", o.Name)
	case o.LLAddr.IsGroup():
		return bad("%s: %s is a group address, no device can have it", o.Name, o.LLAddr)
	}
	if o.MTU != 0 {
		if err := checkMTU(o.Name, o.L3, o.MTU); err != nil {
			return err
		}
	}
	for _, p := range o.Addresses {
		if a := p.Addr(); !p.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
			return bad("%s: %v is no address that a device can have", o.Name, p)
		}
	}
	return nil
}

// Open makes or adopts the device and brings it to the state that o asks
// for. It starts in the network namespace of the calling thread. On error
// nothing is left behind: a device that it made is gone, an adopted one is as
// it was, as far as the kernel allows.
//
// An adopted device stays persistent whatever o.Persist says. A new one for
// another namespace is made here and moved, so that the end of that namespace
// ends the device and not our descriptors keep the namespace alive; its name
// must be free here too.
//
// Without o.Offload the device is in plain mode: no virtio-net headers at all.
func Open(o Options) (d *Device, err error) {
	err = look(&o, func(p *site) error {
		d = newDevice(o, !p.target.IsOpen(), p.old != nil || o.Persist)
		s := &setup{o: &o, d: d, adopted: p.old != nil}
		if p.from.ns.IsOpen() {
			err = within(p.from.ns, s.attach)
		} else {
			err = s.attach()
		}
		if err == nil {
			err = s.configure(p.from, p.there, p.here)
		}
		if err != nil {
			s.rollback()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Try says why Open would fail, as far as that can be known without making a device.
func Try(o Options) error {
	return look(&o, func(p *site) error {
		_, err := p.there.master(&o)
		return err
	})
}

// site is where a device is, or is to be made.
type site struct {
	here, target netns.NsHandle  // target is none for the namespace of the thread
	there, from  *conn           // in target, and where the device is before it moves there
	old          *netlink.Tuntap // to be adopted; nil: the name is free
}

// look finds the site of a device, and calls then on the thread whose namespace it began in.
func look(o *Options, then func(*site) error) error {
	if err := check(o); err != nil {
		return err
	}
	runtime.LockOSThread() // the namespace is a property of the thread
	defer runtime.UnlockOSThread()

	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("network namespace of this process: %w", err)
	}
	defer here.Close()
	p := &site{here: here, target: netns.None()} // none is the thread's own: no need to enter it
	if o.Netns != "" {
		ns, err := openNetns(o.Netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		if !ns.Equal(here) {
			p.target = ns
		}
	}

	if p.there, err = dial(p.target); err != nil {
		return err
	}
	defer p.there.Close()
	p.from = p.there
	p.old, err = p.there.find(o)
	if err == nil && p.old == nil && p.target.IsOpen() {
		if p.from, err = dial(netns.None()); err != nil {
			return err
		}
		defer p.from.Close()
		p.old, err = p.from.find(o)
	}
	if err != nil {
		return err
	}
	return then(p)
}

// setup is an Open under way.
type setup struct {
	o       *Options
	d       *Device
	adopted bool
	undo    []func() error // what an adopted device needs to be as before
}

// rollback undoes all, in reverse order.
func (s *setup) rollback() {
	s.revert()
	if !s.adopted && s.o.Persist && len(s.d.queues) > 0 {
		unix.IoctlSetInt(s.d.queues[0].fd, unix.TUNSETPERSIST, 0)
	}
	s.d.Close()
}

// revert takes back the steps that were taken.
func (s *setup) revert() {
	for i := len(s.undo) - 1; i >= 0; i-- {
		s.undo[i]() // nobody to tell: the first error is the one that counts
	}
}

// attach opens the queues, in the namespace of the calling thread.
func (s *setup) attach() error {
	o, d := s.o, s.d
	writer, err := s.detached(true)
	if err != nil {
		return err
	}
	config := water.Config{
		DeviceType: water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{
			Name: o.Name,
			// Also for one queue: a single-queue attach would clear IFF_VNET_HDR.
			MultiQueue: true,
			// Water sets or clears the flag with every queue.
			Persist: d.persist,
		},
	}
	if o.L3 {
		config.DeviceType = water.TUN
	}
	if err := s.openQueues(config, writer); err != nil {
		return err
	}
	return s.negotiate(d.queues[0].fd)
}

// openQueues opens the queues that miss. writer is a detached one for the
// first of them, -1: there is none yet.
//
// A queue's number is that of the queues attached before it, and a detached
// one keeps its: writer and reader i both are queue i to the rest of the kernel
// (skb_record_rx_queue). Of more than half of what the kernel allows, the last
// have no writer of their own and write where they read.
func (s *setup) openQueues(config water.Config, writer int) (err error) {
	for i := len(s.d.queues); i < s.o.Queues; i++ {
		own := i < kernelQueues-s.o.Queues
		if own && writer < 0 {
			if writer, err = s.detached(false); err != nil {
				return err
			}
		}
		fd, err := openQueue(config)
		if err != nil {
			if own {
				unix.Close(writer)
			}
			return attachError(s.o, s.adopted, err)
		}
		q := newQueue(fd)
		if own {
			q.out, writer = writer, -1
		}
		s.d.queues = append(s.d.queues, q)
	}
	return nil
}

// detached attaches a queue of our own with the flags that water cannot set,
// and detaches it again. The first is the anchor: flags stay while any queue,
// even a detached one, is there.
//
// What is written to it reaches the host like what is written to any other
// queue, but the driver does not note for it which queue the flow came in
// from (tun_get_user). It would send the flow's packets of the other
// direction there from now on, past those that still wait in the queue before:
// with two queues, the first reply of a flow made its next packets overtake
// some forty others. So a flow stays on the queue that its hash chooses.
func (s *setup) detached(first bool) (fd int, err error) {
	fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, openError(err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	flags := uint16(unix.IFF_TAP)
	if s.o.L3 {
		flags = unix.IFF_TUN
	}
	flags |= unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE
	if first && !s.adopted {
		flags |= unix.IFF_TUN_EXCL // or a device that came just now would be shared
	}
	err = unix.EINVAL
	if s.o.Offload {
		err = setIff(fd, s.o.Name, flags|unix.IFF_VNET_HDR)
	}
	if err == unix.EINVAL {
		err = setIff(fd, s.o.Name, flags)
	}
	if err != nil {
		return fd, attachError(s.o, s.adopted, err)
	}
	ifr, _ := unix.NewIfreq("")
	ifr.SetUint16(unix.IFF_DETACH_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETQUEUE, ifr); err != nil {
		return fd, fmt.Errorf("%s: TUNSETQUEUE: %w", s.o.Name, err)
	}
	return fd, nil
}

func setIff(fd int, name string, flags uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

// getIff returns the name that the device has now, and its flags.
func getIff(fd int) (string, uint16, error) {
	ifr, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return "", 0, fmt.Errorf("TUNGETIFF: %w", err)
	}
	return ifr.Name(), ifr.Uint16(), nil
}

// openQueue lets water attach one queue and takes the descriptor over.
// Should TUNSETIFF fail in water, its descriptor is lost; the anchor has
// passed the same call just before, so that takes a kernel out of memory.
func openQueue(config water.Config) (int, error) {
	// Water opens without O_CLOEXEC: no fork until its descriptor is gone.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	w, err := water.New(config)
	if err != nil {
		return -1, err
	}
	defer w.Close()
	f, ok := w.ReadWriteCloser.(*os.File)
	if !ok {
		return -1, errors.New("water: the queue is not a file")
	}
	raw, err := f.SyscallConn() // Fd would make it blocking
	if err != nil {
		return -1, err
	}
	fd := -1
	ctlErr := raw.Control(func(p uintptr) {
		fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = ctlErr
	}
	return fd, err
}

// abilities are the offloads to try, best first: the kernel refuses a whole
// set for one bit that it does not know. USO needs Linux 6.2, both families at
// once; ECN needs a cutter that keeps CWR on the first piece only, as ours does.
var abilities = [...]struct {
	tun  uintptr
	ours packet.Offload
}{
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
		packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6 | packet.OffloadUSO},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
		packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6,
		packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6},
	{unix.TUN_F_CSUM | unix.TUN_F_TSO4, packet.OffloadCsum | packet.OffloadTSO4},
	{unix.TUN_F_CSUM, packet.OffloadCsum},
	{0, 0},
}

// negotiate reads back what the device became and settles header and
// offloads. They belong to the device and outlive their maker, so on an
// adopted one nothing may be taken for granted.
func (s *setup) negotiate(fd int) error {
	_, flags, err := getIff(fd)
	if err != nil {
		return fmt.Errorf("%s: %w", s.o.Name, err)
	}
	vnet := flags&unix.IFF_VNET_HDR != 0
	for _, q := range s.d.queues {
		q.vnet = vnet
	}
	if vnet {
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, packet.VirtioHdrLen); err != nil {
			return fmt.Errorf("%s: TUNSETVNETHDRSZ: %w", s.o.Name, err)
		}
		unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 0) // host order; kernels without it know no other
	}
	s.d.offload, err = offer(vnet && s.o.Offload, func(bits uintptr) error {
		return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, int(bits))
	})
	if err != nil {
		return fmt.Errorf("%s: TUNSETOFFLOAD: %w", s.o.Name, err)
	}
	return nil
}

// offer finds the most that the kernel takes.
func offer(wanted bool, try func(bits uintptr) error) (packet.Offload, error) {
	sets := abilities[:]
	if !wanted {
		sets = sets[len(sets)-1:]
	}
	var err error
	for _, a := range sets {
		if err = try(a.tun); err == nil {
			return a.ours, nil
		}
		if err != unix.EINVAL {
			break
		}
	}
	return 0, err
}

// find looks for the name and says what stands in the way of adopting what
// has it. Nil and no error: the name is free.
func (c *conn) find(o *Options) (*netlink.Tuntap, error) {
	link, err := c.LinkByName(o.Name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%s: netlink: %w", o.Name, err)
	}
	tun, ok := link.(*netlink.Tuntap)
	if !ok {
		return nil, refuse(unix.EEXIST, "%s exists and is a %s: choose another name", o.Name, describe(link))
	}
	if l3 := tun.Mode == netlink.TUNTAP_MODE_TUN; l3 != o.L3 {
		return nil, refuse(unix.EEXIST, "%s exists and is a %s, not a %s: choose another name or mode", o.Name, strings.ToUpper(kind(l3)), strings.ToUpper(kind(o.L3)))
	}
	// Queues are counted on multi-queue devices only; a volatile device is
	// always somebody's.
	if tun.Queues > 0 || tun.NonPersist {
		return nil, busy(o.Name)
	}
	if tun.Flags&netlink.TUNTAP_MULTI_QUEUE == 0 {
		if tun.OperState == netlink.OperUp || tun.RawFlags&unix.IFF_LOWER_UP != 0 {
			return nil, busy(o.Name)
		}
		return nil, refuse(unix.EINVAL, "%s was made for one queue: make it anew (ip tuntap del dev %s mode %s; ip tuntap add dev %s mode %s multi_queue)",
			o.Name, o.Name, kind(o.L3), o.Name, kind(o.L3))
	}
	return tun, nil
}

func busy(name string) error {
	return refuse(unix.EBUSY, "%s is in use by %s", name, holders(name))
}

// describe names a kind of link as ip-link(8) does.
func describe(link netlink.Link) string {
	if t := link.Type(); t != "device" && t != "" {
		return t + " device"
	}
	return "device of the host"
}
