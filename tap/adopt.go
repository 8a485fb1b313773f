package tap

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/songgao/water"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A MismatchError says that kept descriptors are not those of the device that
// is wanted. Opening it anew is what remains.
type MismatchError struct{ Text string }

func (e *MismatchError) Error() string { return e.Text }

func mismatch(format string, args ...any) error { return &MismatchError{fmt.Sprintf(format, args...)} }

// Adopt goes on with a device whose queues somebody kept open since an earlier
// process had it, and brings it to the state that o asks for. Index, link-layer
// address, addresses and what waits in the queues stay. Before is what the
// earlier process had asked for, nil if that is not known: what of it is no
// longer asked for is undone. Nobody else's addresses are touched.
//
// fds are the first of o.Queues queues, at most that many and at least one, in
// the order of the workers, and writers what was written to beside them, as many
// or fewer; those that miss are opened. They belong to Adopt
// from the call on, also if it fails. An error of type *MismatchError says that
// they are of no use; with others the device is as it was, as far as the kernel
// allows.
func Adopt(o Options, before *Options, fds, writers []int) (_ *Device, err error) {
	d := newDevice(o, false, true)
	for i, fd := range fds {
		q := newQueue(fd)
		if i < len(writers) {
			q.out = writers[i]
		}
		d.queues = append(d.queues, q)
	}
	for _, fd := range writers[min(len(fds), len(writers)):] {
		unix.Close(fd)
	}
	s := &setup{o: &o, d: d, adopted: true}
	defer func() {
		if err != nil {
			s.rollback()
		}
	}()
	if err := check(&o); err != nil {
		return nil, err
	}
	if len(fds) < 1 || len(fds) > o.Queues {
		return nil, mismatch("%s: %d queues kept, wanted 1 to %d", o.Name, len(fds), o.Queues)
	}
	runtime.LockOSThread() // the namespace is a property of the thread
	defer runtime.UnlockOSThread()

	flags, err := s.recognise(before)
	if err != nil {
		return nil, err
	}
	_, ns, err := locate(fds[0])
	if err != nil && !errors.Is(err, unix.EPERM) { // without CAP_NET_ADMIN it is looked for here
		return nil, mismatch("%s: %v", o.Name, err)
	}
	defer ns.Close()
	here, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("network namespace of this process: %w", err)
	}
	defer here.Close()
	target := netns.None()
	if o.Netns != "" {
		if target, err = openNetns(o.Netns); err != nil {
			return nil, err
		}
		defer target.Close()
		if target.Equal(here) {
			target.Close()
			target = netns.None()
		}
	}
	if ns.IsOpen() != target.IsOpen() || ns.IsOpen() && !ns.Equal(target) {
		return nil, mismatch("%s: the kept device is in another network namespace than it should be", o.Name)
	}
	d.here = !ns.IsOpen()
	d.home = d.here

	wasPersistent := flags&unix.IFF_PERSIST != 0
	d.persist = wasPersistent
	if err := s.more(ns, wasPersistent); err != nil {
		return nil, err
	}
	if err := s.negotiate(d.queues[0].fd); err != nil {
		return nil, err
	}
	there, err := dial(ns)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if before == nil {
		before = &Options{Down: o.Down, Persist: wasPersistent && o.Persist}
	}
	if err := s.forget(there, before); err != nil {
		return nil, err
	}
	return d, s.configure(there, there, here)
}

// recognise makes sure that every descriptor is a queue of the device, and
// returns the device's flags.
func (s *setup) recognise(before *Options) (flags uint16, err error) {
	o := s.o
	for _, fd := range s.d.descriptors() {
		var name string
		if name, flags, err = getIff(fd); err != nil {
			return 0, mismatch("%s: the kept descriptor is of no device any more (%v)", o.Name, err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return 0, fmt.Errorf("%s: %w", o.Name, err)
		}
		want := uint16(unix.IFF_TAP)
		if o.L3 {
			want = unix.IFF_TUN
		}
		switch {
		case name != o.Name:
			return 0, mismatch("%s: the kept descriptor is of %s", o.Name, name)
		case flags&(unix.IFF_TUN|unix.IFF_TAP) != want:
			return 0, mismatch("%s: the kept device is not a %s", o.Name, kind(o.L3))
		case flags&unix.IFF_MULTI_QUEUE == 0 || flags&unix.IFF_NO_PI == 0:
			return 0, mismatch("%s: the kept device was not made by us", o.Name)
		}
	}
	if o.Offload && flags&unix.IFF_VNET_HDR == 0 && before != nil && !before.Offload {
		return 0, mismatch("%s: the kept device was made without offloads, which are wanted now", o.Name)
	}
	return flags, nil
}

// more opens the queues that miss: there are more workers than before. The
// device is found by its name, so this must happen where it is.
func (s *setup) more(ns netns.NsHandle, persist bool) error {
	if len(s.d.queues) == s.o.Queues {
		return nil
	}
	config := water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: s.o.Name, MultiQueue: true, Persist: persist},
	}
	if s.o.L3 {
		config.DeviceType = water.TUN
	}
	open := func() error {
		return s.openQueues(config, -1)
	}
	if ns.IsOpen() {
		return within(ns, open)
	}
	return open()
}

// forget takes away what was asked for before and is no longer. It comes first:
// with an address the kernel takes away those of its network that came after it.
func (s *setup) forget(c *conn, before *Options) error {
	o, d := s.o, s.d
	link, err := c.device(o.Name)
	if err != nil {
		return err
	}
	for _, p := range before.Addresses {
		if slices.Contains(o.Addresses, p) {
			continue
		}
		err := s.do("remove address "+p.String(), func() error { return c.dropAddress(link, address(p)) },
			func() error { return c.AddrAdd(link, address(p)) })
		if err != nil {
			return err
		}
	}
	if before.Master != "" && o.Master == "" && link.MasterIndex != 0 {
		if master, err := c.LinkByIndex(link.MasterIndex); err == nil && master.Attrs().Name == before.Master {
			err := s.do("leave "+before.Master, func() error { return c.LinkSetNoMaster(link) },
				func() error { return c.LinkSetMaster(link, master) })
			if err != nil {
				return err
			}
		}
	}
	if !before.Down && o.Down && link.RawFlags&unix.IFF_UP != 0 {
		err := s.do("down", func() error { return c.LinkSetDown(link) }, func() error { return c.LinkSetUp(link) })
		if err != nil {
			return err
		}
	}
	if before.Persist == o.Persist {
		return nil
	}
	persist := func(on bool) error {
		return unix.IoctlSetInt(d.queues[0].fd, unix.TUNSETPERSIST, map[bool]int{true: 1}[on])
	}
	err = s.do("persist", func() error { return persist(o.Persist) }, func() error { return persist(before.Persist) })
	if err == nil {
		d.persist = o.Persist
	}
	return err
}

// dropAddress removes one address, and puts back those of others that the kernel
// removes with it (net/ipv4/devinet.c __inet_del_ifa, unless promote_secondaries).
func (c *conn) dropAddress(link netlink.Link, a *netlink.Addr) error {
	before, err := c.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	if err := c.AddrDel(link, a); errors.Is(err, unix.EADDRNOTAVAIL) {
		return errPresent // somebody was quicker
	} else if err != nil {
		return err
	}
	for _, other := range before {
		if other.Equal(*a) {
			continue
		}
		other.Flags &^= unix.IFA_F_SECONDARY
		if err := c.AddrAdd(link, &other); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("put back %s: %w", other.IPNet, err)
		}
	}
	return nil
}

// Queues returns the descriptors of the device, in the order of its queues:
// those that are read from, and those that are written to where they are
// others. They stay the device's.
func (d *Device) Queues() (readers, writers []int) {
	for _, q := range d.queues {
		readers = append(readers, q.fd)
		if q.out != q.fd {
			writers = append(writers, q.out)
		}
	}
	return readers, writers
}

func (d *Device) descriptors() []int { return slices.Concat(d.Queues()) }
