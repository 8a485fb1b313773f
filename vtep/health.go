package vtep

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
)

// Health is whether packets can flow.
type Health struct {
	Ready  bool     // all is started and nothing is wrong
	Faults []string // what is wrong, as in State
}

// Health asks the kernel about the devices and the endpoint about its workers.
// It waits for no change that is under way, not even one that hangs.
func (e *Endpoint) Health() (h Health) {
	if stuck := e.pool.stuckWorkers(); len(stuck) > 0 {
		h.Faults = append(h.Faults, StuckText(stuck))
	}
	h.Faults = append(h.Faults, e.unpolledFault()...)
	h.Faults = append(h.Faults, e.heldFault()...)
	for _, p := range e.pool.snapshot().ports {
		_, up, deleted := linkOf(p.device)
		if deleted && e.pool.snapshot().port(p.id) == nil {
			continue // removed meanwhile
		}
		h.Faults = append(h.Faults, deviceFaults(p.name, deleted || p.failed.Load(), up || p.down)...)
	}
	h.Ready = e.ready.Load() && len(h.Faults) == 0
	return h
}

func (snap *snapshot) port(id uint32) *port {
	for _, p := range snap.ports {
		if p.id == id {
			return p
		}
	}
	return nil
}

// unpolledFault says what is wrong if workers cannot wait for all that they should.
func (e *Endpoint) unpolledFault() []string {
	if n := e.pool.countUnpolled(); n > 0 {
		return []string{fmt.Sprintf("%d queues or sockets cannot be waited for and carry nothing: raise fs.epoll.max_user_watches, or free memory", n)}
	}
	return nil
}

// linkOf asks for a device. Where the kernel does not answer, nothing bad is
// assumed.
func linkOf(d netio.Device) (mtu int, up, deleted bool) {
	mtu, up, err := d.Link()
	deleted = errors.Is(err, unix.EBADFD) || errors.Is(err, unix.EBADF) || errors.Is(err, unix.ENODEV)
	return mtu, up || err != nil && !deleted, deleted
}

// deviceFaults says what is wrong with a device, if anything is.
func deviceFaults(name string, deleted, up bool) []string {
	switch {
	case deleted:
		return []string{fmt.Sprintf("device %s was deleted", name)}
	case !up:
		return []string{fmt.Sprintf("device %s is down", name)}
	}
	return nil
}
