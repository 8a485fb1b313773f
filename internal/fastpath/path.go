package fastpath

import (
	"context"
	"sync"
	"time"

	"github.com/cilium/ebpf/link"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// recheck is how often devices and rules are looked at when nothing was said to have changed.
const recheck = 5 * time.Second

// Path is a fast path. Make it with New. Until the first tunnel is set it has nothing open.
type Path struct {
	wake chan struct{}
	stop context.CancelFunc // nil: the goroutine was not started
	done chan struct{}

	mu      sync.Mutex
	setting bpfSetting
	closed  bool
	kernel  *bpfObjects // nil: not loaded
	refused string      // why the kernel does not do it; "": it does, or was not asked
	rules   string      // what the kernel has that would be bypassed; "": nothing
	tunnels map[uint32]*tunnel
	taps    map[int]*device // by ifindex
	under   map[int]*device
	applied bool  // what is set is in the maps
	changed bool  // something was set or removed since the goroutine looked
	fault   error // the first that the kernel refused of a map

	queue   sync.Mutex           // apart: who tells of entries holds a lock of its own
	pending map[bpfStation]int32 // entries on the way to the map
}

// tunnel is one that was set, and what the maps have of it.
type tunnel struct {
	netio.FastTunnel
	tap    bool // it is in the map of devices
	mac    packet.MAC
	peers  map[int32]bpfPeer
	admits map[bpfAdmit]bpfAdmitted
}

// device is one that a program is, or should be, attached to.
type device struct {
	name string
	link link.Link // nil: not attached
	bulk bool      // it cuts super-frames in tunnels
	err  error
}

// New makes a fast path. Close ends it.
func New() *Path {
	return &Path{
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		tunnels: make(map[uint32]*tunnel), taps: make(map[int]*device), under: make(map[int]*device),
		pending: make(map[bpfStation]int32),
	}
}

// Start implements netio.FastPath.
func (p *Path) Start(seed uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setting.Seed = seed
}

// Listen implements netio.FastPath.
func (p *Path) Listen(ports []uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.setting.Listen[:])
	for i, port := range ports {
		p.setting.Listen[i] = raw(port)
	}
	if p.kernel != nil {
		p.must(p.kernel.Settings.Put(uint32(0), p.setting))
	}
}

// Close detaches everything. Packets go to queues and sockets from then on.
func (p *Path) Close() error {
	p.mu.Lock()
	p.closed = true
	stop := p.stop
	p.mu.Unlock()
	if stop != nil {
		stop()
		<-p.done
	}
	return nil
}

// run follows what was set until ctx ends.
func (p *Path) run(ctx context.Context) {
	defer close(p.done)
	defer p.release()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-tick.C:
			p.mu.Lock()
			p.changed = true
			p.mu.Unlock()
		}
		if ctx.Err() == nil && p.load() {
			if p.follow() {
				p.apply()
			}
			p.flush()
		}
	}
}

// poke has the goroutine look; it is started when there is something to do for the first
// time. p.mu is held.
func (p *Path) poke() {
	if p.closed {
		return
	}
	if p.stop == nil {
		var ctx context.Context
		ctx, p.stop = context.WithCancel(context.Background())
		go p.run(ctx)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// release closes all there is open.
func (p *Path) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range []map[int]*device{p.taps, p.under} {
		for _, d := range all {
			d.detach()
		}
		clear(all)
	}
	if p.kernel != nil {
		p.kernel.Close()
		p.kernel = nil
	}
}

func (d *device) detach() {
	if d.link != nil {
		d.link.Close() // of no more use whatever it says
		d.link = nil
	}
}
