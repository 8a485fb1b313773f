package vtep

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// In-memory doubles of package netio. A wire joins underlays; a device is
// fed and drained by the test. Nothing here allocates per packet in a steady
// state, so that allocations seen in a test are the worker's.

// wakeup is a descriptor that polls readable while it is rung.
type wakeup struct {
	fd   int
	once []byte // what a ring writes
	seen []byte // what clear reads
}

func newBell(t testing.TB) wakeup {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return wakeup{fd, binary.NativeEndian.AppendUint64(nil, 1), make([]byte, 8)}
}

func (b wakeup) ring() { unix.Write(b.fd, b.once) }

func (b wakeup) clear() { unix.Read(b.fd, b.seen) }

// memFrame is a frame on its way into or out of a memory device.
type memFrame struct {
	hdr   packet.VirtioHdr
	bytes []byte
}

// memDevice is a device in memory.
type memDevice struct {
	opts    netio.DeviceOptions
	index   int
	mac     packet.MAC
	offload packet.Offload
	queues  []*memQueue

	mu      sync.Mutex
	mtu     int
	down    bool // set by hand
	up      bool
	alone   bool // isolated
	bridged bool
	refuse  error // of SetUp, SetIsolated and Restore
	faults  []string
	noIPv6  bool
	closed  bool
	touched int // calls that ask the kernel or change something
}

func (d *memDevice) Name() string { return d.opts.Name }

func (d *memDevice) State() netio.DeviceState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return netio.DeviceState{
		Ifindex: d.index, Here: d.opts.Netns == "", LLAddr: d.mac, MTU: d.mtu, Up: d.up && !d.down && !d.closed,
		Bridged: d.bridged, Deleted: d.closed, Faults: d.faults,
	}
}

func (d *memDevice) Offload() packet.Offload { return d.offload }

func (d *memDevice) Queue(i int) netio.Queue { return d.queues[i] }

func (d *memDevice) Writer(worker int) netio.Writer { return d.queues[worker%len(d.queues)] }

func (d *memDevice) MTU() (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touched++
	return d.mtu, nil
}

func (d *memDevice) Bridged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touched++
	return d.bridged
}

func (d *memDevice) IPv6() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touched++
	return !d.noIPv6
}

func (d *memDevice) SetMTU(mtu int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touched++
	d.mtu = mtu
	return nil
}

func (d *memDevice) SetUp(on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.touched++
	if d.refuse == nil {
		d.up = on
	}
	return d.refuse
}

func (d *memDevice) SetIsolated(on bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse == nil {
		d.alone = on
	}
	return d.refuse
}

func (d *memDevice) TryIsolated() error { return d.refuse }

func (d *memDevice) Restore() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse == nil {
		d.faults, d.down = nil, false
	}
	return d.refuse
}

func (d *memDevice) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.New("closed twice")
	}
	d.closed = true
	return nil
}

// memQueue is one queue of a memory device.
type memQueue struct {
	wakeup wakeup
	mu     sync.Mutex
	in     []memFrame // to be read by the endpoint
	out    []memFrame // written by it
	// reads counts calls of Read.
	reads atomic.Int32
	// discard forgets what is written but counts it.
	discard bool
	written int
	// refuse makes writes of super-frames fail, as an older kernel would.
	refuse error
	fd     int // 0: the wakeup's
	// looked counts calls of FD.
	looked atomic.Int32
}

func (q *memQueue) FD() int {
	q.looked.Add(1)
	return cmp.Or(q.fd, q.wakeup.fd)
}

func (q *memQueue) Read(buf []byte, hdr *packet.VirtioHdr) ([]byte, error) {
	q.reads.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.in) == 0 {
		q.wakeup.clear()
		return nil, unix.EAGAIN
	}
	f := q.in[0]
	copy(q.in, q.in[1:])
	q.in = q.in[:len(q.in)-1]
	*hdr = f.hdr
	n := copy(buf[packet.VirtioHdrLen:], f.bytes)
	return buf[packet.VirtioHdrLen:][:n], nil
}

func (q *memQueue) Write(hdr *packet.VirtioHdr, frame []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refuse != nil && hdr.GSOType != packet.GSONone {
		return q.refuse
	}
	q.written++
	if !q.discard {
		q.out = append(q.out, memFrame{*hdr, slices.Clone(frame)})
	}
	return nil
}

// feed gives the endpoint frames to read.
func (q *memQueue) feed(frames ...memFrame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.in = append(q.in, frames...)
	q.wakeup.ring()
}

// take returns and forgets what was written.
func (q *memQueue) take() []memFrame {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.out
	q.out = nil
	return out
}

// memDevices opens memory devices.
type memDevices struct {
	t       testing.TB
	offload packet.Offload
	fail    error // of the next Open
	opened  []*memDevice
	fd      int    // that queues say they have; 0: their own
	onOpen  func() // called by Open; nil: nothing is

	mu      sync.Mutex
	changed func() // while it is watched
}

func (ds *memDevices) Watch(ctx context.Context, changed func()) {
	ds.mu.Lock()
	ds.changed = changed
	ds.mu.Unlock()
	<-ctx.Done()
}

// touch tells the endpoint that something about a device has changed.
func (ds *memDevices) touch() bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.changed == nil {
		return false
	}
	ds.changed()
	return true
}

func (ds *memDevices) Open(opts netio.DeviceOptions) (netio.Device, error) {
	if ds.fail != nil {
		return nil, ds.fail
	}
	if ds.onOpen != nil {
		ds.onOpen()
	}
	d := &memDevice{opts: opts, index: 100 + len(ds.opened), mtu: opts.MTU, offload: ds.offload, mac: opts.LLAddr, up: !opts.Down, alone: opts.Isolated}
	if d.mac.IsZero() {
		d.mac = packet.MAC{0x02, 0, 0, 0, 0xee, byte(len(ds.opened))}
	}
	for range opts.Queues {
		d.queues = append(d.queues, &memQueue{wakeup: newBell(ds.t), fd: ds.fd})
	}
	ds.opened = append(ds.opened, d)
	return d, nil
}

func (ds *memDevices) Try(netio.DeviceOptions) error { return ds.fail }

func (ds *memDevices) CloseAll(all []netio.Device) (err error) {
	for _, d := range all {
		err = errors.Join(err, d.Close())
	}
	return err
}

// memWire carries datagrams between memory underlays by address.
type memWire struct {
	mu    sync.Mutex
	hosts map[netip.Addr]*memUnderlay
}

// memUnderlay is the underlay of one host on a wire.
type memUnderlay struct {
	// runs counts the runs that senders are given by where these stand; nil: they are not counted.
	runs map[*byte]int
	// forget makes senders count what they are given, and nothing else.
	forget bool
	added  int
	opened int // sockets so far

	t    testing.TB
	wire *memWire
	addr []netip.Addr

	mu        sync.Mutex
	mtu       int
	routeVia  int                        // ifindex of every route
	routes    map[netip.Addr]netio.Route // of some other ones; guarded by mu
	asking    func(netip.AddrPort)       // called with every question
	asked     int                        // questions; guarded by mu
	uppers    []netio.Upper              // what is above our devices; guarded by mu, as all up to hopPort
	locals    []netip.Prefix
	hop       packet.MAC
	hopPort   int
	carries   int // if not 0, longer datagrams are refused; guarded by mu
	listeners []*memListener
	shared    map[netio.PortOptions]*packet.PortSet
	sets      int   // asked for
	cut       []int // IDs of sets without DF; guarded by mu
	released  int
	fail      error      // of every send
	failTo    netip.Addr // if valid, of those to it only
	changed   chan netio.Changes
	icmp      chan netio.ICMP
	renewed   int           // calls of Renew; guarded by mu
	sent      []memDatagram // if keep
	keep      bool
	listenErr error          // what Listen says; guarded by mu
	cards     []int          // guarded by mu
	networks  []netip.Prefix // of all devices, if not nil; guarded by mu
}

type memDatagram struct {
	from     netip.Addr
	to       netip.AddrPort
	hash     uint32
	tos, ttl uint8
	bytes    []byte
}

func newMemUnderlay(t testing.TB, wire *memWire, addrs ...string) *memUnderlay {
	u := &memUnderlay{t: t, wire: wire, mtu: 1500, routeVia: 2, changed: make(chan netio.Changes, 1), icmp: make(chan netio.ICMP)}
	for _, s := range addrs {
		a := netip.MustParseAddr(s)
		u.addr = append(u.addr, a)
		if wire.hosts == nil {
			wire.hosts = make(map[netip.Addr]*memUnderlay)
		}
		wire.hosts[a] = u
	}
	return u
}

func (u *memUnderlay) Listen(opts netio.ListenOptions) (netio.Listener, error) {
	l := &memListener{opts: opts, u: u}
	for range 8 {
		l.receivers = append(l.receivers, &memReceiver{wakeup: newBell(u.t)})
	}
	if err := u.TryListen(opts); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.opened++
	u.listeners = append(u.listeners, l)
	return l, nil
}

func (u *memUnderlay) TryListen(opts netio.ListenOptions) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.listenErr != nil {
		return u.listenErr
	}
	for _, other := range u.listeners {
		if overlap(other.opts, opts) && !opts.Group.IsValid() && !opts.Beside && !other.stale {
			return unix.EADDRINUSE
		}
	}
	return nil
}

func (u *memUnderlay) Ports(o netio.PortOptions) (*packet.PortSet, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sets++
	if set := u.shared[o]; set != nil {
		return set, nil
	}
	set := &packet.PortSet{ID: len(u.shared), Ports: []uint16{50000, 50001}}
	if u.shared == nil {
		u.shared = make(map[netio.PortOptions]*packet.PortSet)
	}
	u.shared[o] = set
	if !o.DF {
		u.cut = append(u.cut, set.ID)
	}
	return set, nil
}

// refuses reports whether a datagram of so many bytes is too long for the way, and may
// not be cut.
func (u *memUnderlay) refuses(set *packet.PortSet, size int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.carries > 0 && size > u.carries && !slices.Contains(u.cut, set.ID)
}

func (u *memUnderlay) Release(*packet.PortSet) { u.released++ }

func (u *memUnderlay) Sender(int) netio.Sender { return &memSender{u: u} }

func (u *memUnderlay) Route(remote netip.AddrPort, _ netio.PortOptions) (netio.Route, error) {
	if u.asking != nil {
		u.asking(remote)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	if slices.Contains(u.addr, remote.Addr()) {
		return netio.Route{Ifindex: 1, MTU: 65536, Link: 65536, Local: true}, nil
	}
	if u.mtu == 0 {
		return netio.Route{}, unix.ENETUNREACH
	}
	if r, ok := u.routes[remote.Addr()]; ok {
		return r, nil
	}
	return netio.Route{Ifindex: u.routeVia, MTU: u.mtu, Link: u.mtu}, nil
}

func (u *memUnderlay) Prefixes(string) ([]netip.Prefix, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.networks != nil {
		return u.networks, nil
	}
	return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, nil
}

func (u *memUnderlay) Sent() []packet.Sent { return nil }

func (u *memUnderlay) Renew() (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.renewed++
	return 0, nil
}

func (u *memUnderlay) Cards() ([]int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cards, nil
}

func (u *memUnderlay) Stacked([]int) ([]netio.Upper, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.uppers, nil
}

func (u *memUnderlay) Locals() ([]netip.Prefix, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.locals, nil
}

func (u *memUnderlay) NextHop(hop netip.Addr, _ netio.Upper) (mac packet.MAC, port int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.hop, u.hopPort
}

func (u *memUnderlay) Errors(ctx context.Context, tell func(netio.ICMP)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-u.icmp:
			tell(m)
		}
	}
}

func (u *memUnderlay) Watch(context.Context) (<-chan netio.Changes, error) { return u.changed, nil }

// reroute changes all routes and tells the endpoint.
func (u *memUnderlay) reroute(ifindex, mtu int) {
	u.mu.Lock()
	u.routeVia, u.mtu = ifindex, mtu
	u.mu.Unlock()
	u.changed <- netio.Changes{All: true}
}

// inject delivers one train as if it had come from the wire.
func (u *memUnderlay) inject(from netip.Addr, port uint16, tos uint8, ifindex int32, size int, data []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.listeners {
		if l.opts.Port == port && l.opts.Local.Is4() == from.Is4() {
			l.receivers[0].push(packet.Train{Data: data, Size: size, From: from, TOS: tos, Ifindex: ifindex})
			return
		}
	}
}

type memListener struct {
	opts      netio.ListenOptions
	u         *memUnderlay
	receivers []*memReceiver
	stale     bool // guarded by u.mu
}

func (l *memListener) Receiver(i int) netio.Receiver {
	if l.opts.Group.IsValid() && i > 0 {
		return nil
	}
	return l.receivers[i]
}

func (l *memListener) Rcvbuf() int { return 1 << 20 }

func (l *memListener) GRO() bool { return false }

func (l *memListener) Stale() bool {
	l.u.mu.Lock()
	defer l.u.mu.Unlock()
	return l.stale
}

func (l *memListener) Close() error {
	l.u.mu.Lock()
	defer l.u.mu.Unlock()
	l.u.listeners = slices.DeleteFunc(l.u.listeners, func(o *memListener) bool { return o == l })
	return nil
}

type memReceiver struct {
	wakeup wakeup
	mu     sync.Mutex
	queued []packet.Train
	lent   []packet.Train
}

func (r *memReceiver) FD() int { return r.wakeup.fd }

func (r *memReceiver) Overflows() uint64 { return 0 }

func (r *memReceiver) push(t packet.Train) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Data = slices.Clone(t.Data)
	r.queued = append(r.queued, t)
	r.wakeup.ring()
}

func (r *memReceiver) Receive([]byte) ([]packet.Train, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeup.clear()
	r.lent, r.queued = r.queued, r.lent[:0]
	return r.lent, false, nil
}

type memSender struct {
	u        *memUnderlay
	pending  []memDatagram
	paths    []*packet.Path
	failures []packet.Failure
	batches  packet.Batches
}

func (s *memSender) Batches() *packet.Batches { return &s.batches }

func (s *memSender) Add(path *packet.Path, hash uint32, tos, ttl uint8, head, tail []byte) {
	if s.u.forget {
		s.u.added++
		return
	}
	s.paths = append(s.paths, path)
	s.pending = append(s.pending, memDatagram{
		from: s.u.addr[0], to: path.Remote, hash: hash, tos: tos, ttl: ttl, bytes: slices.Concat(head, tail),
	})
}

func (s *memSender) AddRun(path *packet.Path, hash uint32, tos, ttl uint8, run []byte, size int) {
	if s.u.runs != nil {
		s.u.runs[&run[0]]++
	}
	if s.u.forget {
		s.u.added += (len(run) + size - 1) / size
		return
	}
	for datagram := range slices.Chunk(run, size) {
		s.Add(path, hash, tos, ttl, datagram, nil)
	}
}

func (s *memSender) Flush() []packet.Failure {
	s.failures = s.failures[:0]
	if len(s.pending) > 0 {
		s.batches.Add(len(s.pending))
	}
	for i, d := range s.pending {
		if s.u.fail != nil && (!s.u.failTo.IsValid() || s.u.failTo == d.to.Addr()) {
			s.failures = append(s.failures, packet.Failure{Path: s.paths[i], Count: 1, Size: len(d.bytes), Err: s.u.fail})
			continue
		}
		if s.u.refuses(s.paths[i].Set, len(d.bytes)) {
			s.failures = append(s.failures, packet.Failure{Path: s.paths[i], Count: 1, Size: len(d.bytes), Err: unix.EMSGSIZE})
			continue
		}
		if s.u.keep {
			s.u.mu.Lock()
			s.u.sent = append(s.u.sent, d)
			s.u.mu.Unlock()
		}
		s.u.wire.mu.Lock()
		to := s.u.wire.hosts[d.to.Addr()]
		s.u.wire.mu.Unlock()
		if to != nil {
			from := s.u.addr[slices.IndexFunc(s.u.addr, func(a netip.Addr) bool { return a.Is4() == d.to.Addr().Is4() })]
			to.inject(from, d.to.Port(), d.tos, 2, len(d.bytes), d.bytes)
		}
	}
	s.pending, s.paths = s.pending[:0], s.paths[:0]
	return s.failures
}
