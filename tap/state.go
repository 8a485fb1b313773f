package tap

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
)

func newDevice(o Options, here, persist bool) *Device {
	d := &Device{name: o.Name, l3: o.L3, persist: persist, wanted: o, home: here, here: here, hold: newHold(o.Addresses)}
	d.state.Store(&netio.DeviceState{Here: here, LLAddr: o.LLAddr})
	return d
}

// Refresh asks the kernel what the device is like, addresses included.
func (d *Device) Refresh() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.kernel(func(c *conn, link netlink.Link) error { return d.compare(c, link.Attrs().Index) })
	d.lost(err)
	return err
}

// lost takes over that the device was deleted, if that is what an error says.
// d.mu is held.
func (d *Device) lost(err error) {
	if !d.closed && errors.Is(err, unix.EBADFD) {
		d.gone = true
		d.publish()
	}
}

// compare reads what the device is like, and which addresses it has. d.mu is held.
func (d *Device) compare(c *conn, index int) error {
	there, err := c.addresses(index)
	if err != nil {
		return fmt.Errorf("%s: addresses: %w", d.name, err)
	}
	if err := d.look(c, index); err != nil {
		return err
	}
	d.hold.compare(there)
	if len(d.refused) > 0 { // without the capability it is no use to try again
		for _, p := range d.hold.missing() {
			d.hold.refused(p)
		}
	}
	d.publish()
	return nil
}

// look reads what the device is like, but for its addresses. d.mu is held.
func (d *Device) look(c *conn, index int) error {
	l, err := c.link(index)
	if err != nil {
		return fmt.Errorf("%s: netlink: %w", d.name, err)
	}
	switch {
	case l.master == 0:
		d.bridge = ""
	case l.master != d.link.master || d.bridge != d.wanted.Master:
		d.bridge = ""
		if master, err := c.LinkByIndex(l.master); err == nil {
			d.bridge = master.Attrs().Name
		}
	}
	d.link, d.gone = l, false
	d.hold.link(l.off(), time.Now())
	d.publish()
	return nil
}

// publish makes what is known the state, and reports whether it is another than
// before. d.mu is held.
func (d *Device) publish() (changed bool) {
	s := netio.DeviceState{
		Ifindex: d.link.index, Here: d.here, LLAddr: d.link.lladdr, MTU: d.link.mtu, Up: d.link.up && !d.gone,
		Bridged: d.link.bridged, Deleted: d.gone, Faults: d.faults(),
	}
	if changed = !equal(&s, d.state.Load()); changed {
		d.state.Store(&s)
	}
	return changed
}

// faults lists what is other than was asked for. d.mu is held.
func (d *Device) faults() (list []string) {
	if d.gone {
		return nil // which says enough
	}
	fault := func(format string, args ...any) {
		list = append(list, fmt.Sprintf("device "+d.name+" "+format, args...))
	}
	o, l := &d.wanted, &d.link
	if d.here != d.home {
		fault("was moved to another network namespace")
	}
	if l.name != d.name {
		fault("is called %s now", l.name)
	}
	if !o.LLAddr.IsZero() && o.LLAddr != l.lladdr {
		fault("has the MAC address %s, not %s", l.lladdr, o.LLAddr)
	}
	switch {
	case o.Master == "":
	case d.bridge == "":
		fault("is not in bridge %s", o.Master)
	case d.bridge != o.Master:
		fault("is in bridge %s, not in %s", d.bridge, o.Master)
	case o.Isolated && l.bridged && !l.isolated:
		fault("is not isolated in bridge %s", o.Master)
	}
	for why := undecided + 1; why <= refused; why++ {
		var missing []string
		for _, a := range d.hold.addresses {
			if a.lost == why && !(why == down && !l.up) { // that it is down says enough
				missing = append(missing, a.prefix.String())
			}
		}
		switch len(missing) {
		case 0:
		case 1:
			fault("lacks address %s: %s", missing[0], why)
		default:
			fault("lacks addresses %s: %s", strings.Join(missing, ", "), why)
		}
	}
	return list
}

// restore sets the addresses again that the kernel has removed, as far as they can
// be set. d.mu is held.
func (d *Device) restore(c *conn, link netlink.Link) (back []netip.Prefix, err error) {
	for _, p := range d.hold.missing() {
		switch e := c.addAddress(link, p, link.Attrs().MTU); {
		case e == nil:
			back = append(back, p)
			d.hold.added(p, time.Now())
		case e == errPresent:
			d.hold.added(p, time.Now())
		case errors.Is(e, unix.EPERM):
			d.hold.refused(p)
			err = fmt.Errorf("address %s: %w", p, e)
		default: // tried again with the next change
			err = fmt.Errorf("address %s: %w", p, e)
		}
	}
	d.publish()
	return back, err
}

// Restore gives the device again what it was opened with, addresses that were
// deleted by hand included. On error it is as it was, as far as the kernel allows.
func (d *Device) Restore() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kernel(func(c *conn, link netlink.Link) error {
		if link.Attrs().Name != d.name {
			return refuse(unix.EBUSY, "%s is called %s now: rename it back", d.name, link.Attrs().Name)
		}
		o := d.wanted
		o.MTU = 0 // that is the endpoint's, or the user's
		s := &setup{o: &o, d: d, adopted: true}
		if err := s.configure(c, c, -1); err != nil {
			s.revert()
			return err
		}
		return nil
	})
}
