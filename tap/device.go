package tap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// Device is an open TAP or TUN. Its methods may be called from any
// goroutine; those of its queues may not.
type Device struct {
	name    string
	l3      bool
	persist bool
	offload packet.Offload
	queues  []*Queue
	refused []error
	state   atomic.Pointer[netio.DeviceState]

	mu     sync.Mutex // guards what follows, and the descriptors against Close
	wanted Options    // as asked for, with what was changed since
	home   bool       // it was to be in the namespace of the thread that opened it
	here   bool       // it is
	link   link       // as last read
	bridge string     // name of the device that it is a port of
	gone   bool       // it was deleted
	hold   hold
	closed bool

	told     string             // the last error that the watcher has told
	reported *netio.DeviceState // of which it has told the change
}

// equal reports whether two states are the same.
func equal(a, b *netio.DeviceState) bool { return reflect.DeepEqual(a, b) }

// Name is the name under which the device was opened.
func (d *Device) Name() string { return d.name }

// State is what the device is like. It asks the kernel nothing: a Watcher keeps it
// up to date, and so do the methods that change the device.
func (d *Device) State() netio.DeviceState { return *d.state.Load() }

// Ifindex is its index in the namespace that it is in.
func (d *Device) Ifindex() int { return d.state.Load().Ifindex }

// Here reports whether that is the namespace of the thread that called Open.
func (d *Device) Here() bool { return d.state.Load().Here }

// LLAddr is the link-layer address, zero for a TUN. Of a device that is gone it is the
// last one known.
func (d *Device) LLAddr() packet.MAC { return d.state.Load().LLAddr }

// Bridged reports whether the device is a port of a bridge.
func (d *Device) Bridged() bool { return d.state.Load().Bridged }

// Offload returns which super-frames and partial checksums may be written and
// will be read. Zero in plain mode.
func (d *Device) Offload() packet.Offload { return d.offload }

// Queue is the i-th queue, 0 to Options.Queues-1.
func (d *Device) Queue(i int) *Queue { return d.queues[i] }

// Refused returns which settings of an adopted device this process lacks the
// capability to make. The device works, as its maker left it.
func (d *Device) Refused() []error { return d.refused }

// MTU is what the kernel has now: users change it too.
func (d *Device) MTU() (mtu int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.kernel(func(_ *conn, link netlink.Link) error {
		mtu = link.Attrs().MTU
		return nil
	})
	return mtu, err
}

// SetMTU changes the MTU, 68 to 65,521 bytes on a TAP, to 65,535 on a TUN.
func (d *Device) SetMTU(mtu int) error {
	if err := checkMTU(d.name, d.l3, mtu); err != nil {
		return err
	}
	return d.change(func(c *conn, link netlink.Link) error {
		if err := c.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("%s: MTU %d: %w", d.name, mtu, err)
		}
		return nil
	})
}

// SetUp brings the device up or down. The kernel takes IPv6 addresses from a
// device that goes down: they come back before it is up, so that nothing leaves
// with another source.
func (d *Device) SetUp(on bool) error {
	return d.change(func(c *conn, link netlink.Link) error {
		if !on {
			if err := c.LinkSetDown(link); err != nil {
				return err
			}
			d.wanted.Down = true
			return d.compare(c, link.Attrs().Index)
		}
		for _, a := range d.hold.addresses {
			if !a.lost.restorable() {
				continue
			}
			if err := c.addAddress(link, a.prefix, link.Attrs().MTU); err != nil && err != errPresent {
				return fmt.Errorf("%s: address %s: %w", d.name, a.prefix, err)
			}
		}
		if err := c.LinkSetUp(link); err != nil {
			return err
		}
		d.wanted.Down = false
		return d.compare(c, link.Attrs().Index)
	})
}

// SetIsolated sets or clears the flag of the bridge port that the device is:
// between two ports that have it the bridge passes nothing. Out of a bridge
// there is nothing to clear.
func (d *Device) SetIsolated(on bool) error {
	return d.change(func(c *conn, link netlink.Link) error {
		if err := c.isolate(link, on); err != nil {
			return err
		}
		d.wanted.Isolated = on
		return nil
	})
}

// TryIsolated says why SetIsolated(true) would fail.
func (d *Device) TryIsolated() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kernel(func(_ *conn, link netlink.Link) error { return canIsolate(link) })
}

// change changes the device and reads what it is like then.
func (d *Device) change(f func(*conn, netlink.Link) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kernel(func(c *conn, link netlink.Link) error {
		err := f(c, link)
		d.look(c, link.Attrs().Index)
		return err
	})
}

// kernel calls f with the device as it is now, wherever others may have
// moved it and whatever they call it: the descriptor knows. Nothing is kept
// open meanwhile that would keep a namespace alive. d.mu is held.
func (d *Device) kernel(f func(*conn, netlink.Link) error) error {
	if d.closed {
		return refuse(unix.EBADF, "%s: the device is closed", d.name)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name, ns, err := locate(d.queues[0].fd)
	if err != nil && (name == "" || !d.here) {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	defer ns.Close()
	d.here = !ns.IsOpen()
	c, err := dial(ns)
	if err != nil {
		return err
	}
	defer c.Close()
	link, err := c.device(name)
	if err != nil {
		return err
	}
	return f(c, link)
}

// locate returns the name of a queue's device now, and its namespace: none if
// it is that of the thread, else the caller closes it. The namespace takes
// Linux 5.2 and CAP_NET_ADMIN; failing there it still returns the name.
func locate(fd int) (name string, ns netns.NsHandle, err error) {
	ns = netns.None()
	if name, _, err = getIff(fd); err != nil {
		return "", ns, err
	}
	there, err := unix.IoctlRetInt(fd, unix.TUNGETDEVNETNS) // with O_CLOEXEC
	if err != nil {
		return name, ns, fmt.Errorf("TUNGETDEVNETNS: %w", err)
	}
	ns = netns.NsHandle(there)
	here, err := netns.Get()
	if err != nil {
		return name, ns, nil
	}
	defer here.Close()
	if here.Equal(ns) { // entering even the own one takes CAP_SYS_ADMIN
		ns.Close()
	}
	return name, ns, nil
}

// Close closes all descriptors; unless the device persists it is gone then,
// which takes the kernel some 20 ms. No worker may use a queue any more. Only
// the first Close does anything.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	var first error
	for _, q := range d.queues {
		if err := q.close(); err != nil && first == nil {
			first = fmt.Errorf("%s: close: %w", d.name, err)
		}
	}
	return first
}

// CloseAll closes many devices much faster than one by one: the kernel
// deletes those that do not persist together, by link group.
//
// They join the group only now, and its number is drawn at random from 2^31.
// So the users have the groups to themselves while the devices live, and no
// other process can lose its devices with ours, not even one with the same
// pid in another container that shares the network namespace.
func CloseAll(devices []*Device) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	group := 1<<31 | rand.Uint32()
	spaces := map[string]*conn{}
	for _, d := range devices {
		// Should any of this fail, closing does the same, only slower.
		d.enlist(group, spaces)
	}
	for _, c := range spaces {
		c.deleteGroup(group)
		c.Close()
		c.ns.Close()
	}
	var errs []error
	for _, d := range devices {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// enlist puts a device that goes with its last descriptor into the group.
func (d *Device) enlist(group uint32, spaces map[string]*conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.persist {
		return
	}
	name, ns, err := locate(d.queues[0].fd)
	if err != nil {
		return
	}
	c := spaces[ns.UniqueId()]
	if c != nil {
		ns.Close()
	} else if c, err = dial(ns); err == nil {
		spaces[ns.UniqueId()] = c
	} else {
		ns.Close()
		return
	}
	if link, err := c.device(name); err == nil {
		c.LinkSetGroup(link, int(group))
	}
}
