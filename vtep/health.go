package vtep

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/internal/packet"
	"gvtep/vtep/internal/forward"
)

// Health is whether packets can flow.
type Health struct {
	// Ready says that the configured state is true: all is started, and there is
	// nothing in Faults or Unmet.
	Ready  bool
	Faults []string // what keeps this process from carrying packets
	// Unmet is what else is other than configured, such as a missing address, or a
	// tunnel without a route to any of its peers. A new process would not mend it.
	Unmet []string
}

// Health tells how devices, peers and workers are. It asks the kernel nothing, and waits
// for no change that is under way, not even one that hangs.
func (e *Endpoint) Health() (h Health) {
	if stuck := e.pool.Stuck(); len(stuck) > 0 {
		h.Faults = append(h.Faults, StuckText(stuck))
	}
	h.Faults = append(h.Faults, e.unpolledFault()...)
	h.Faults = append(h.Faults, e.heldFault()...)
	for _, p := range e.pool.Snapshot().Ports {
		broken, unmet := faultsOf(p)
		h.Faults = append(h.Faults, broken...)
		h.Unmet = append(h.Unmet, unmet...)
	}
	h.Unmet = append(h.Unmet, idleFaults(e.pool.Snapshot().Ports)...)
	h.Ready = e.ready.Load() && len(h.Faults)+len(h.Unmet) == 0
	return h
}

// unpolledFault is the fault of descriptors that workers could not add to their epoll.
func (e *Endpoint) unpolledFault() []string {
	if n := e.pool.Unpolled(); n > 0 {
		return []string{fmt.Sprintf("%d queues or sockets cannot be waited for and carry nothing: raise fs.epoll.max_user_watches, or free memory", n)}
	}
	return nil
}

// faultsOf says what is wrong with a tunnel: what keeps its device from carrying packets,
// and what else is other than configured.
func faultsOf(p *forward.Port) (broken, unmet []string) {
	broken, unmet = deviceFaults(p)
	if path := pathFault(p); path != "" {
		unmet = append(unmet, path)
	}
	return broken, unmet
}

// idleFaults says so if every device is down because gvtep was told so: one of several may be meant
// to be, but what carries nothing at all is not ready.
func idleFaults(ports []*forward.Port) (faults []string) {
	for _, p := range ports {
		if !p.Down {
			return nil
		}
		faults = append(faults, setDown(p))
	}
	return faults
}

// unready says why packets of a tunnel cannot flow, or not as configured.
func (e *Endpoint) unready(t *tunnel) (all []string) {
	if stuck := e.pool.Stuck(); len(stuck) > 0 {
		all = append(all, StuckText(stuck))
	}
	all = append(all, e.unpolledFault()...)
	broken, unmet := faultsOf(t.port)
	all = slices.Concat(all, broken, unmet)
	if t.port.Down {
		all = append(all, setDown(t.port))
	}
	return all
}

func setDown(p *forward.Port) string {
	return fmt.Sprintf("device %s is down, as configured: gvtep tunnel up %s", p.Name, p.Name)
}

func deviceFaults(p *forward.Port) (broken, unmet []string) {
	state := p.Device.State()
	switch {
	case state.Deleted || p.Failed.Load():
		return []string{fmt.Sprintf("device %s was deleted", p.Name)}, nil
	case !state.Up && !p.Down:
		broken = []string{fmt.Sprintf("device %s is down", p.Name)}
	}
	unmet = slices.Clip(state.Faults)
	if p.Mtu != 0 && p.Mtu != state.MTU {
		unmet = append(unmet, fmt.Sprintf("device %s has the MTU %d, not %d", p.Name, state.MTU, p.Mtu))
	}
	return broken, unmet
}

// pathFault says that none of the peers that are configured can be sent to. One of
// several that cannot is a fault of that peer, and shows there, unless it is one of this
// host: a bridge that should be two.
func pathFault(p *forward.Port) string {
	for _, q := range p.Configured {
		if l := q.Loop.Load(); l != nil && l.Shared && !p.Down {
			return fmt.Sprintf("tunnel %s cannot send to its peer %s: %s", p.Name, q.Dest.Remote.Addr(), l.Why)
		}
	}
	var first *forward.Peer
	n, looped := 0, 0
	for _, q := range p.Configured {
		switch {
		case q.Blocked.Load():
			looped++
		case q.Limit.Load() != 0:
			return ""
		}
		if n++; first == nil {
			first = q
		}
	}
	switch {
	case n == 0 || p.Down:
		return ""
	case n == 1 && looped == 1:
		return fmt.Sprintf("tunnel %s reaches nobody: the route to its peer %s leads into a tunnel", p.Name, first.Dest.Remote.Addr())
	case n == 1:
		return fmt.Sprintf("tunnel %s reaches nobody: there is no route to its peer %s", p.Name, first.Dest.Remote.Addr())
	case looped == n:
		return fmt.Sprintf("tunnel %s reaches nobody: the routes to all %d peers lead into a tunnel", p.Name, n)
	case looped == 0:
		return fmt.Sprintf("tunnel %s reaches nobody: there is no route to any of its %d peers", p.Name, n)
	}
	return fmt.Sprintf("tunnel %s reaches nobody: to %d of its %d peers there is no route, the others' lead into a tunnel", p.Name, n-looped, n)
}

// devicesChanged makes the watcher check the devices.
func (e *Endpoint) devicesChanged() {
	select {
	case e.devicesMoved <- struct{}{}:
	default:
	}
}

// followDevices takes over and logs what others have changed about devices.
func (e *Endpoint) followDevices() {
	e.followFast()
	for _, p := range e.pool.Snapshot().Ports {
		broken, unmet := deviceFaults(p)
		tellFaults(p.PortState, e.log, append(broken, unmet...))
		e.tellSwitch(p)
		if mac := p.Device.State().LLAddr; mac != p.MAC {
			e.followLLAddr(p, mac)
		}
	}
}

// tellSwitch sends an event if the device of a port has gone up or down: by a change of ours with its
// cause, else without one. Only the watcher calls it.
func (e *Endpoint) tellSwitch(p *forward.Port) {
	state := p.Device.State()
	gone := state.Deleted || p.Failed.Load()
	down := gone || !state.Up
	if down == p.ReportedDown {
		return
	}
	p.ReportedDown = down
	event := Event{Object: "tunnel", Action: "up", Tunnel: p.Name}
	switch {
	case gone:
		event.Action = "gone"
	case down:
		event.Action = "down"
	}
	// A change that switches the device is over only when it gives the lock back.
	e.mu.Lock()
	if t := e.owners[p.PortState]; t != nil && !gone && t.config.Device.Down == down {
		event.Cause = e.switched[p.PortState]
	}
	delete(e.switched, p.PortState)
	e.mu.Unlock()
	e.Tell(event)
}

// tellFaults logs new differences from the configuration, and when all are gone. Only the
// watcher calls it.
func tellFaults(p *forward.PortState, log *zap.Logger, now []string) {
	for _, fault := range now {
		if !slices.Contains(p.ReportedFaults, fault) {
			log.Warn(fault)
		}
	}
	if len(now) == 0 && len(p.ReportedFaults) > 0 {
		log.Info("the device is as configured again", zap.String("device", p.Current.Load().Name))
	}
	p.ReportedFaults = now
}

// followLLAddr takes over the MAC address that others have given a device.
func (e *Endpoint) followLLAddr(p *forward.Port, mac packet.MAC) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tunnels[p.Name]
	if t == nil || t.id != p.ID || t.port.MAC == mac {
		return
	}
	about := []zap.Field{zap.String("device", p.Name), zap.Stringer("address", mac), zap.Stringer("was", t.port.MAC)}
	if err := e.rewire(t, func(*tunnel) {}); err != nil {
		e.log.Error("the device has another MAC address, but its forwarding table could not be updated", append(about, zap.NamedError("err", err))...)
		time.AfterFunc(devicesRetry, e.devicesChanged)
		return
	}
	e.log.Info("the device has another address", about...)
}

// devicesRetry is when to try again what a stuck worker has kept from being changed.
const devicesRetry = time.Second

// Restore gives devices again what is configured, also what was taken away by hand.
// It tries all, and returns the first error.
func (e *Endpoint) Restore(names ...string) (first error) {
	wanted := setOf(names)
	for _, p := range e.pool.Snapshot().Ports {
		if !wanted[p.Name] {
			continue
		}
		err := p.Device.Restore()
		if err == nil && p.Mtu != 0 && p.Mtu != p.Device.State().MTU {
			err = p.Device.SetMTU(p.Mtu)
		}
		if err != nil && first == nil {
			first = fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	e.devicesChanged()
	return first
}
