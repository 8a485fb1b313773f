// Package keep holds device queues and sockets over a restart, with the service
// manager's descriptor store, and is the one place where packages tap and udp
// meet.
package keep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/service"
	"gvtep/internal/netio"
	"gvtep/tap"
	"gvtep/udp"
)

// store keeps device queues and receive sockets in the service manager's descriptor store, so
// that they outlive a restart. It stands between the endpoint and the kernel: each descriptor
// is given to the manager when it is opened and taken back when it is closed, and those that
// the manager kept from an earlier process are used again. Source port sockets are not kept:
// no packet ever waits in them.
//
// A device's queues are called tap.NAME.WORKER where they are read from and
// tapw.NAME.WORKER where they are written to; receive sockets udp.N and
// udp6.N, in the order in which they were opened. What a fast path has kept is
// called fast. and what follows (programs.go).
type store struct {
	manager *service.Manager
	log     *zap.Logger
	before  map[string]netio.DeviceOptions // what an earlier process asked of its devices

	mu       sync.Mutex
	held     map[string]bool // names of all that the manager holds
	grown    bool            // it was given more since it was last asked
	nextUDP  int
	leaving  bool           // this process ends, and another may go on
	programs map[string]int // what an earlier fast path has left and nobody has asked for, by its own names (programs.go)

	// Until the start has succeeded: what the manager kept from the beginning,
	// by name, with descriptors of our own, so that a start can be tried again.
	starting bool
	kept     map[string]int
	queues   map[string][]string // names of kept queues to read from, by device and in order
	writers  map[string][]string // and of those to write to
	adopted  map[string]bool     // devices in use again
	sockets  map[int]string      // names of kept receive sockets not in use again, by the descriptor that Inherit got
}

const (
	tapPrefix  = "tap."
	tapwPrefix = "tapw."
	udpPrefix  = "udp."
	udp6Prefix = "udp6."
)

// newStore sorts the descriptors that the manager kept. Those with a name that is not ours
// are dropped.
func newStore(m *service.Manager, log *zap.Logger) *store {
	s := &store{
		manager: m, log: log, starting: true, held: map[string]bool{},
		programs: map[string]int{}, kept: map[string]int{}, queues: map[string][]string{}, writers: map[string][]string{}, adopted: map[string]bool{}, sockets: map[int]string{},
	}
	var foreign []string
	for _, d := range m.Inherited() {
		if s.program(d.Name, d.FD) {
			continue
		}
		device, number, ok := parseName(d.Name)
		switch {
		case !ok || s.held[d.Name]:
			foreign = append(foreign, d.Name)
			unix.Close(d.FD)
			continue
		case strings.HasPrefix(d.Name, tapwPrefix):
			s.writers[device] = append(s.writers[device], d.Name)
		case device != "":
			s.queues[device] = append(s.queues[device], d.Name)
		default:
			s.nextUDP = max(s.nextUDP, number+1)
		}
		s.held[d.Name], s.kept[d.Name] = true, d.FD
	}
	for _, kept := range []map[string][]string{s.queues, s.writers} {
		for _, names := range kept {
			slices.SortFunc(names, byNumber)
		}
	}
	s.remove(foreign...)
	return s
}

// parseName takes a name apart: tap.gnv0.1 is queue 1 of gnv0, udp.4 is socket 4.
func parseName(name string) (device string, number int, ok bool) {
	rest, isTap := strings.CutPrefix(name, tapPrefix)
	if !isTap {
		rest, isTap = strings.CutPrefix(name, tapwPrefix)
	}
	if isTap {
		dot := strings.LastIndexByte(rest, '.') // names of devices may have dots
		if dot < 1 {
			return "", 0, false
		}
		device, rest = rest[:dot], rest[dot+1:]
	} else if rest, ok = strings.CutPrefix(name, udpPrefix); !ok {
		if rest, ok = strings.CutPrefix(name, udp6Prefix); !ok {
			return "", 0, false
		}
	}
	number, err := strconv.Atoi(rest)
	return device, number, err == nil && number >= 0
}

func byNumber(a, b string) int {
	_, i, _ := parseName(a)
	_, j, _ := parseName(b)
	return cmp.Compare(i, j)
}

// keep gives the manager a descriptor, unless it holds it. s.mu is held.
func (s *store) keep(name string, fd int) {
	if s.held[name] || !s.manager.Present() {
		return
	}
	if err := s.manager.Store(service.Descriptor{Name: name, FD: fd}); err != nil {
		s.log.Error("a restart will interrupt the tunnel: a descriptor could not be stored", zap.String("name", name), zap.NamedError("err", err))
		return
	}
	s.held[name], s.grown = true, true
}

// remove takes back what the manager holds under these names. s.mu is held.
func (s *store) remove(names ...string) {
	if err := s.manager.Remove(names...); err != nil {
		s.log.Error("the service manager still holds descriptors", zap.Strings("names", names), zap.NamedError("err", err))
	}
	for _, name := range names {
		if fd, ok := s.kept[name]; ok {
			unix.Close(fd)
			delete(s.kept, name)
		}
		delete(s.held, name)
	}
}

// settle drops what the manager kept and nothing has asked for.
func (s *store) settle(u *udp.Underlay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, kept := range []map[string][]string{s.queues, s.writers} {
		for device, queues := range kept {
			if !s.adopted[device] {
				names = append(names, queues...)
			}
		}
	}
	names = append(names, s.disown(u)...)
	s.remove(names...)
	if len(s.kept)+len(names) > 0 {
		s.log.Info("took over what the service manager kept", zap.Int("devices", len(s.adopted)),
			zap.Int("descriptors", len(s.kept)), zap.Int("dropped", len(names)))
	}
	for _, fd := range s.kept {
		unix.Close(fd)
	}
	s.starting, s.kept, s.queues, s.writers, s.adopted = false, nil, nil, nil, nil
}

// disown closes the kept sockets that are not in use and returns their names.
// s.mu is held.
func (s *store) disown(u *udp.Underlay) []string {
	u.Disown()
	names := slices.Collect(maps.Values(s.sockets))
	clear(s.sockets)
	return names
}

// CheckRoom logs an error if the manager has dropped a descriptor for lack of room. It is
// called after changes.
func (s *store) CheckRoom() {
	s.mu.Lock()
	grown := s.grown
	s.grown = false
	s.mu.Unlock()
	if !grown {
		return
	}
	room, err := s.manager.Room() // changes need not wait for its answer
	if err != nil {
		s.log.Error("cannot tell whether descriptors are kept over a restart", zap.NamedError("err", err))
		return
	}
	if room {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Error(fmt.Sprintf("a restart will interrupt tunnels: the service manager has no room for their descriptors; in the unit, FileDescriptorStoreMax= should be %d or more", len(s.held)+1),
		zap.Int("descriptors", len(s.held)))
}

// Leave is called before all is closed: what the manager holds is not touched.
func (s *store) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
}

// stays reports whether descriptors that are closed now are to live on with the manager, in
// which case a device must not be deleted. s.mu is held.
func (s *store) stays(name string) bool {
	_, kept := s.kept[name]
	return s.held[name] && (s.leaving || kept)
}

// tapDevices is package tap as netio.Devices.
type tapDevices struct {
	*store
	watcher *tap.Watcher
}

// Watch follows the devices, and logs what it has repaired.
func (t tapDevices) Watch(ctx context.Context, changed func()) {
	t.watcher.Run(ctx, changed, func(n tap.Note) {
		fields := []zap.Field{zap.String("device", n.Device)}
		if n.Device == "" {
			fields = nil
		}
		if n.Err != nil {
			t.log.Warn(n.Text, append(fields, zap.NamedError("err", n.Err))...)
			return
		}
		t.log.Info(n.Text, append(fields, zap.Stringers("addresses", n.Addresses), zap.String("why", n.Why))...)
	})
}

func (t tapDevices) Open(o netio.DeviceOptions) (netio.Device, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, err := t.adopt(o)
	if err == nil && d == nil {
		d, err = tap.Open(o)
	}
	if err != nil {
		return nil, err
	}
	readers, writers := d.Queues()
	for i, fd := range readers {
		t.keep(queueName(tapPrefix, o.Name, i), fd)
	}
	for i, fd := range writers {
		t.keep(queueName(tapwPrefix, o.Name, i), fd)
	}
	t.watcher.Add(d)
	return tapDevice{d}, nil
}

func (tapDevices) Try(o netio.DeviceOptions) error { return tap.Try(o) }

func queueName(prefix, device string, worker int) string {
	return prefix + device + "." + strconv.Itoa(worker)
}

// adopt takes over a device that the manager kept, or returns nil if there is none that can be
// used. t.mu is held.
func (t tapDevices) adopt(o netio.DeviceOptions) (*tap.Device, error) {
	if len(t.queues[o.Name]) == 0 {
		return nil, nil
	}
	usable := func(kept map[string][]string, prefix string, most int) []string {
		names := kept[o.Name]
		for i, name := range names {
			// Behind a gap they would have to change their names.
			if i >= most || name != queueName(prefix, o.Name, i) {
				// The manager's copies would go on taking a share of the device's packets.
				t.remove(names[i:]...)
				names = names[:i]
				break
			}
		}
		kept[o.Name] = names
		return names
	}
	names := usable(t.queues, tapPrefix, o.Queues)
	writers := usable(t.writers, tapwPrefix, len(names))
	if len(names) == 0 {
		return nil, nil
	}
	var fds []int
	for _, name := range slices.Concat(names, writers) {
		fd, err := unix.FcntlInt(uintptr(t.kept[name]), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("%s: %w", o.Name, err)
		}
		fds = append(fds, fd)
	}
	var before *tap.Options
	if b, ok := t.before[o.Name]; ok {
		before = &b
	}
	d, err := tap.Adopt(o, before, fds[:len(names)], fds[len(names):])
	var other *tap.MismatchError
	if errors.As(err, &other) {
		t.log.Warn("a kept device could not be used again and is made anew", zap.String("device", o.Name), zap.NamedError("err", err))
		t.remove(slices.Concat(names, writers)...)
		delete(t.queues, o.Name)
		delete(t.writers, o.Name)
		return nil, nil
	}
	if err == nil {
		t.adopted[o.Name] = true
	}
	return d, err
}

func (t tapDevices) CloseAll(devices []netio.Device) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var gone []*tap.Device
	var names []string
	var errs []error
	for _, v := range devices {
		d := v.(tapDevice).Device
		t.watcher.Remove(d)
		stays := t.stays(queueName(tapPrefix, d.Name(), 0))
		readers, _ := d.Queues()
		for i := range readers {
			for _, prefix := range []string{tapPrefix, tapwPrefix} {
				if name := queueName(prefix, d.Name(), i); t.held[name] && !t.stays(name) {
					names = append(names, name)
				}
			}
		}
		if stays {
			delete(t.adopted, d.Name())
			errs = append(errs, d.Close())
		} else {
			gone = append(gone, d)
		}
	}
	// First: what the manager holds of one that persists would keep others from
	// using it.
	t.remove(names...)
	return errors.Join(append(errs, tap.CloseAll(gone))...)
}

// underlay is package udp as netio.Underlay.
type underlay struct {
	*udp.Underlay
	*store
}

// newUnderlay hands u the sockets that the manager kept.
func newUnderlay(u *udp.Underlay, s *store) underlay {
	both := underlay{u, s}
	names := slices.DeleteFunc(slices.Collect(maps.Keys(s.kept)), func(name string) bool {
		return strings.HasPrefix(name, tapPrefix) || strings.HasPrefix(name, tapwPrefix)
	})
	both.hand(slices.SortedFunc(slices.Values(names), byNumber))
	return both
}

// hand gives the underlay kept sockets to use again. u.mu is held.
func (u underlay) hand(names []string) {
	for _, name := range names {
		fd, err := unix.FcntlInt(uintptr(u.kept[name]), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			u.log.Error("a kept socket is lost", zap.String("name", name), zap.NamedError("err", err))
			continue
		}
		u.sockets[fd] = name
		u.Inherit([]int{fd})
	}
}

func (u underlay) Listen(o netio.ListenOptions) (netio.Listener, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l, err := u.Underlay.Listen(o)
	if err != nil && len(u.sockets) > 0 {
		names := slices.SortedFunc(slices.Values(u.disown(u.Underlay)), byNumber)
		if errors.Is(err, unix.EADDRINUSE) {
			// What was kept for another configuration may be what is in the way.
			u.remove(names...)
			l, err = u.Underlay.Listen(o)
		} else {
			u.hand(names) // those that it had taken are closed
		}
	}
	if err != nil {
		return nil, err
	}
	made := listener{Listener: l, underlay: u}
	for _, fd := range l.Sockets() {
		name, kept := u.sockets[fd]
		if delete(u.sockets, fd); !kept {
			prefix := udpPrefix
			if o.Local.Is6() {
				prefix = udp6Prefix
			}
			name = prefix + strconv.Itoa(u.nextUDP)
			u.nextUDP++
			u.keep(name, fd)
		}
		made.names = append(made.names, name)
	}
	return made, nil
}

type listener struct {
	*udp.Listener
	underlay
	names []string // of its sockets, with the manager
}

// Receiver turns the nil of a worker without a socket into a nil interface.
func (l listener) Receiver(worker int) netio.Receiver {
	if r := l.Listener.Receiver(worker); r != nil {
		return r
	}
	return nil
}

func (l listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.Listener.Close()
	var again, gone []string
	for _, name := range l.names {
		_, kept := l.kept[name]
		switch {
		case !l.held[name] || l.leaving:
		case kept:
			again = append(again, name)
		default:
			gone = append(gone, name)
		}
	}
	l.underlay.hand(again)
	l.remove(gone...)
	return err
}
