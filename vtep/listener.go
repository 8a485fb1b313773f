package vtep

import (
	"fmt"
	"net/netip"

	"go.uber.org/zap"

	"gvtep/vtep/encap"
	"gvtep/vtep/internal/bfd"
	"gvtep/vtep/internal/forward"
)

// listener is the endpoint as the owner of its workers: what they report is logged, or handled
// by Run and the watcher.
type listener struct{ e *Endpoint }

func (l listener) DeviceFailed(p *forward.Port, err error) {
	if p.Failed.Swap(true) {
		return
	}
	l.e.log.Error("the device is gone; its tunnel carries nothing until a reload",
		zap.String("device", p.Name), zapErr(err))
	for _, other := range l.e.pool.Snapshot().Ports {
		if !other.Failed.Load() {
			return
		}
	}
	l.fail(fmt.Errorf("%s: the device was deleted: %w", p.Name, err))
}

func (l listener) SocketFailed(s *forward.Socket, err error) {
	l.fail(fmt.Errorf("receive socket %s: %w", s.Name, err))
}

// fail ends Run.
func (l listener) fail(err error) {
	select {
	case l.e.failures <- err:
	default:
	}
}

func (l listener) PathChanged() { l.e.recheckPaths() }

func (l listener) Knock(p *forward.Port, source netip.Addr) bool {
	select {
	case l.e.senders <- sender{p, source}:
		return true
	default:
		return false
	}
}

func (l listener) Control(from *forward.Peer, p bfd.Packet, far bfd.Address, at int64) bool {
	return l.e.live.arrive(hello{from.ID, p, far, at})
}

func (l listener) Answered(from netip.Addr, answer encap.Probe) { l.e.asked.tell(from, answer) }

func (l listener) Unpinned(worker, cpu int, err error) {
	l.e.log.Warn("the worker could not be bound to its CPU and runs on any", zap.Int("worker", worker), zap.Int("cpu", cpu), zapErr(err))
}

func (l listener) Unsliced(worker int, err error) {
	l.e.log.Debug("the worker has the kernel's time slices", zap.Int("worker", worker), zapErr(err))
}

func (l listener) Unpolled(descriptors int, err error) {
	l.e.log.Error("workers cannot wait for a descriptor, and try again each second", zap.Int("descriptors", descriptors), zapErr(err))
}
