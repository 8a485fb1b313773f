package fastpath

import (
	"context"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// recheck is how often devices and rules are looked at when nothing was said to have changed.
const recheck = 5 * time.Second

// Path is a fast path. Make it with New. Until the first tunnel is set it has nothing open.
type Path struct {
	wake    chan struct{}
	stop    context.CancelFunc // nil: the goroutine was not started
	done    chan struct{}
	store   Store
	before  map[string]int // what an earlier process has left, by name; the goroutine's
	settled chan struct{}  // closed when it was taken over

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

	waiting, settling bool                 // there is something in before; Settle was called
	leaving           bool                 // another process may go on with what is kept
	told              *ebpf.Map            // what was told of counters; nil: nothing is kept
	said              map[int32]bpfTraffic // what is in it
	base              map[int32]bpfTraffic // what was carried without us, by our peers
	earlier           *earlier             // nil: all was told

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
	name  string
	link  link.Link // nil: not attached
	bulk  bool      // it cuts super-frames in tunnels
	unfit bool      // it cannot be attached to
	err   error     // why it is not attached to
}

// New makes a fast path. With a store, which may be nil, it goes on with what an earlier process
// has left, from when Settle is called. Close ends it.
func New(s Store) *Path {
	if s == nil {
		s = nothing{}
	}
	p := &Path{
		wake: make(chan struct{}, 1), done: make(chan struct{}), store: s, before: s.Kept(), settled: make(chan struct{}),
		tunnels: make(map[uint32]*tunnel), taps: make(map[int]*device), under: make(map[int]*device),
		said: make(map[int32]bpfTraffic), base: make(map[int32]bpfTraffic), pending: make(map[bpfStation]int32),
	}
	p.waiting = len(p.before) > 0
	return p
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

// Close detaches everything, and packets go to queues and sockets from then on; or, after Leave,
// leaves to the next process what is kept.
func (p *Path) Close() error {
	p.mu.Lock()
	p.closed = true
	stop := p.stop
	p.mu.Unlock()
	if stop != nil {
		stop()
		<-p.done
	} else {
		p.release()
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
		if ctx.Err() != nil {
			return
		}
		if p.load() {
			p.follow()
		}
		p.settle()
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
	names := p.leave()
	if p.kernel != nil {
		p.kernel.Close()
		p.kernel = nil
	}
	p.told.Close() // nil has nothing to close
	if p.earlier != nil {
		p.earlier.stations.Close()
	}
	p.told, p.earlier = nil, nil
	p.mu.Unlock()
	p.store.Drop(names...)
}
