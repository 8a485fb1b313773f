package tap

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// own stands for the namespace of the watcher where others have an ID.
	own = -1
	// blindPoll is how often devices are asked for in namespaces that cannot be
	// listened to.
	blindPoll = 10 * time.Second
	// retry is the pause before something that failed is tried again.
	retry = time.Second
	// watchBuffer is the receive buffer of the watcher's socket: some 10,000 messages.
	watchBuffer = 8 << 20
)

// Watcher follows what others do with devices. It keeps their State, and sets
// addresses again that the kernel has removed.
//
// One socket in the namespace of the process receives messages of all namespaces
// (NETLINK_LISTEN_ALL_NSID): a socket in another namespace would keep that namespace alive.
type Watcher struct {
	mu      sync.Mutex
	devices map[*Device]place
	at      map[place]*Device
	running bool
	foreign bool // other namespaces are heard
}

// place is where a device is: the ID of its namespace as ours calls it, and its index.
type place struct{ nsid, index int }

// Note is something about a device that people want to know.
type Note struct {
	Device    string // "": it is about the watcher
	Text      string
	Why       string // the addresses went
	Addresses []netip.Prefix
	Err       error
}

// NewWatcher makes a watcher. Run is what watches.
func NewWatcher() *Watcher {
	return &Watcher{devices: make(map[*Device]place), at: make(map[place]*Device)}
}

// Add has an open device watched, until it is closed or removed.
func (w *Watcher) Add(d *Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put(d)
	if w.running { // what has happened since it was opened
		d.Refresh()
	}
}

// Remove ends that.
func (w *Watcher) Remove(d *Device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take(d)
}

// put finds where a device is now. w.mu is held.
func (w *Watcher) put(d *Device) error {
	w.take(d)
	at, err := d.place()
	if err != nil {
		at = place{own, 0} // nothing is told of that one
	}
	w.devices[d] = at
	w.at[at] = d
	return err
}

func (w *Watcher) take(d *Device) {
	if at, ok := w.devices[d]; ok {
		delete(w.devices, d)
		if w.at[at] == d {
			delete(w.at, at)
		}
	}
}

// place finds where the device is now.
func (d *Device) place() (at place, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at.nsid = own
	err = d.kernel(func(c *conn, link netlink.Link) error {
		at.index = link.Attrs().Index
		if !c.ns.IsOpen() {
			return nil
		}
		at.nsid, err = nsid(int(c.ns))
		return err
	})
	d.lost(err)
	return at, err
}

// nsid is what the namespace of the calling thread calls another one. The kernel
// gives it a number when a device moves there, so there mostly is one.
func nsid(fd int) (int, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	id, err := h.GetNetNsIdByFd(fd)
	if err == nil && id < 0 {
		if err = h.SetNetNsIdByFd(fd, -1); err == nil { // any
			id, err = h.GetNetNsIdByFd(fd)
		}
	}
	if err == nil && id < 0 {
		err = unix.ENOENT
	}
	return id, err
}

// Run watches until ctx ends. It calls changed when the State of some device has become
// another, and note for what is worth a line in a log; both must return soon.
func (w *Watcher) Run(ctx context.Context, changed func(), note func(Note)) {
	for ctx.Err() == nil {
		err := w.watch(ctx, changed, note)
		if ctx.Err() != nil {
			return
		}
		note(Note{Text: "changes of devices are not seen for a moment: the netlink socket is opened again", Err: err})
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// watch is Run with one socket.
func (w *Watcher) watch(ctx context.Context, changed func(), note func(Note)) error {
	file, foreign, err := listen()
	if err != nil {
		return err
	}
	defer file.Close()
	defer context.AfterFunc(ctx, func() { file.Close() })()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.running, w.foreign = true, foreign
	w.mu.Unlock()
	r := round{Watcher: w, changed: changed, note: note, touched: map[*Device]bool{}}
	r.resync(func(place) bool { return true })
	buf, oob := make([]byte, 32<<10), make([]byte, 256)
	for {
		if err := file.SetReadDeadline(r.next()); err != nil {
			return err
		}
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			for first := true; ; first = false {
				n, oobn, _, _, err := unix.Recvmsg(int(fd), buf, oob, unix.MSG_DONTWAIT)
				switch {
				case err == unix.EINTR:
					continue
				case err == unix.EAGAIN:
					return !first // all is read, or there was nothing yet
				case err == unix.ENOBUFS:
					r.missed = true // the kernel had more to say than there was room for
				case err != nil:
					failed = err
					return true
				default:
					r.hear(namespaceOf(oob[:oobn]), buf[:n])
				}
			}
		})
		switch {
		case failed != nil:
			return os.NewSyscallError("recvmsg netlink", failed)
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
		r.look()
	}
}

// listen opens the socket. Foreign tells whether it hears other namespaces, which takes
// CAP_NET_BROADCAST.
func listen() (file *os.File, foreign bool, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, false, os.NewSyscallError("socket netlink", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer) // as far as it goes
	}
	foreign = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1) == nil
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR |
		1<<(unix.RTNLGRP_IPV6_IFINFO-1) | 1<<(unix.RTNLGRP_NSID-1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, false, os.NewSyscallError("bind netlink", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), foreign, nil
}

// namespaceOf reads which namespace a message is of.
func namespaceOf(oob []byte) int {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return own
	}
	for _, m := range list {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID {
			return int(int32(number(m.Data)))
		}
	}
	return own
}

// round is what watch knows between two looks at the devices.
type round struct {
	*Watcher
	changed func()
	note    func(Note)
	touched map[*Device]bool // something happened to them; true: they may be elsewhere
	missed  bool             // messages were lost
	tried   time.Time        // when blind devices were last asked for
	again   time.Time        // when to look again; zero: when something happens
}

// hear takes a datagram of messages. Nothing is asked meanwhile: what the messages say
// counts in their order.
func (r *round) hear(nsid int, datagram []byte) {
	now := time.Now()
	for _, m := range messages(datagram) {
		switch m.Header.Type {
		case unix.RTM_NEWLINK:
			if l, ok := parseLink(m.Data); ok {
				r.tell(place{nsid, l.index}, func(d *Device) bool { d.heardLink(&l, now); return false })
			}
		case unix.RTM_DELLINK:
			// Of another family it is a part of the device that ends, such as a bridge port.
			if l, ok := parseLink(m.Data); ok {
				r.tell(place{nsid, l.index}, func(*Device) bool { return l.family == unix.AF_UNSPEC })
			}
		case unix.RTM_NEWADDR:
			if index, p, ok := parseAddress(m.Data); ok {
				r.tell(place{nsid, index}, func(d *Device) bool { d.heard(func() { d.hold.added(p, now) }); return false })
			}
		case unix.RTM_DELADDR:
			if index, p, ok := parseAddress(m.Data); ok {
				r.tell(place{nsid, index}, func(d *Device) bool { d.heard(func() { d.hold.removed(p, now) }); return false })
			}
		case unix.RTM_DELNSID:
			// The namespace ends, and says no more.
			if id, ok := parseNSID(m.Data); ok && nsid == own {
				r.mu.Lock()
				for d, at := range r.devices {
					if at.nsid == id {
						r.touched[d] = true
					}
				}
				r.mu.Unlock()
			}
		}
	}
}

// tell finds the device that a message is about.
func (r *round) tell(at place, f func(*Device) (elsewhere bool)) {
	r.mu.Lock()
	d := r.at[at]
	r.mu.Unlock()
	if d != nil {
		elsewhere := f(d)
		r.touched[d] = r.touched[d] || elsewhere
	}
}

func (d *Device) heard(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// heardLink takes from a message what says why addresses go. What the device is like is
// read when all messages are.
func (d *Device) heardLink(l *link, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch l.family {
	case unix.AF_UNSPEC:
		d.hold.link(l.off(), now)
	case unix.AF_INET6:
		if !l.disabled {
			d.hold.revived()
		}
	}
}

// next is when to look also if nothing happens; zero: never.
func (r *round) next() time.Time {
	at := r.again
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.devices {
		if p.nsid != own && !r.foreign {
			earlier(r.tried.Add(blindPoll))
		}
	}
	return at
}

// resync asks for all devices in certain places, addresses included.
func (r *round) resync(where func(place) bool) {
	r.mu.Lock()
	devices := maps.Clone(r.devices)
	r.mu.Unlock()
	for d, at := range devices {
		if where(at) {
			d.Refresh()
			r.touched[d] = true
		}
	}
}

// look finds out what the devices are like that something has happened to.
func (r *round) look() {
	now := time.Now()
	if r.missed {
		r.missed = false
		r.resync(func(place) bool { return true })
	} else if !r.foreign && now.Sub(r.tried) >= blindPoll {
		r.tried = now
		r.resync(func(at place) bool { return at.nsid != own })
	}
	touched := r.touched
	r.touched, r.again = map[*Device]bool{}, time.Time{}
	changed := false
	for d, elsewhere := range touched {
		r.mu.Lock()
		_, ours := r.devices[d]
		if ours && elsewhere {
			elsewhere = r.put(d) != nil
		}
		r.mu.Unlock()
		if !ours {
			continue
		}
		other, later, notes := d.attend(now)
		for _, n := range notes {
			r.note(n)
		}
		changed = changed || other
		if elsewhere && !d.State().Deleted {
			later = now.Add(retry)
		}
		if !later.IsZero() {
			r.touched[d] = elsewhere
			if r.again.IsZero() || later.Before(r.again) {
				r.again = later
			}
		}
	}
	if changed {
		r.changed()
	}
}

// attend reads what the device is like after something happened to it, and sets again
// what the kernel has removed. Changed tells that its State is another than when this
// was last called, later when it should be called again.
func (d *Device) attend(now time.Time) (changed bool, later time.Time, notes []Note) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false, later, nil
	}
	err := d.kernel(func(c *conn, link netlink.Link) error {
		if d.here != d.State().Here || link.Attrs().Index != d.link.index {
			d.hold.relocated()
		}
		if err := d.look(c, link.Attrs().Index); err != nil {
			return err
		}
		d.hold.settle(now)
		why := d.hold.reason()
		back, err := d.restore(c, link)
		if len(back) > 0 {
			notes = append(notes, Note{Device: d.name, Text: "addresses that the kernel had removed are set again", Why: why, Addresses: back})
		}
		return err
	})
	d.lost(err)
	later = d.hold.due()
	told := ""
	if err != nil && !d.gone {
		later, told = now.Add(retry), err.Error()
		if told != d.told {
			notes = append(notes, Note{Device: d.name, Text: "the device cannot be brought back to what is configured", Err: err})
		}
	}
	d.told = told
	state := d.state.Load()
	changed, d.reported = state != d.reported, state
	return changed, later, notes
}

// reason says why those went that can be set now.
func (h *hold) reason() string {
	why := none
	for _, p := range h.missing() {
		why = max(why, h.find(p).lost)
	}
	return why.String()
}
