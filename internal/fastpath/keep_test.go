package fastpath

import (
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// memStore is a service manager's.
type memStore struct {
	t    *testing.T
	fds  map[string]int
	hung bool // it drops nothing
}

func newMemStore(t *testing.T) *memStore {
	s := &memStore{t: t, fds: make(map[string]int)}
	t.Cleanup(func() {
		s.hung = false
		s.Drop(s.names()...)
	})
	return s
}

func (s *memStore) names() []string { return slices.Sorted(maps.Keys(s.fds)) }

func (s *memStore) dup(fd int) int {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		s.t.Fatal(err)
	}
	return fd
}

func (s *memStore) Kept() map[string]int {
	all := make(map[string]int)
	for name, fd := range s.fds {
		all[name] = s.dup(fd)
	}
	return all
}

func (s *memStore) Keep(name string, fd int) {
	if _, there := s.fds[name]; !there {
		s.fds[name] = s.dup(fd)
	}
}

func (s *memStore) Drop(names ...string) {
	for _, name := range names {
		if fd, there := s.fds[name]; there && !s.hung {
			unix.Close(fd)
			delete(s.fds, name)
		}
	}
}

// numbering is what a process calls its tunnel and peers.
type numbering struct {
	port            uint32
	remote, limited int32
}

// world is a network namespace with an underlay device, whose index it returns. Its tunnel's
// device is lo.
func world(t *testing.T) (under int) {
	t.Helper()
	need(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "under0"}, PeerName: "far0"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	return veth.Attrs().Index
}

// process is a path whose work this goroutine does, as it is on the thread of the namespace.
func process(s Store) *Path {
	p := New(s)
	p.closed = true // no other goroutine is started
	p.Start(seed)
	p.Listen([]uint16{6081})
	return p
}

// carry has a path carry a tunnel.
func (p *Path) carry(t *testing.T, n numbering, under int, edit func(*netio.FastTunnel)) {
	t.Helper()
	tunnel := tunnelOf(4, func(fp *netio.FastPeer) {
		fp.ID, fp.Ifindex = map[int32]int32{remote: n.remote, limited: n.limited}[fp.ID], under
	})
	tunnel.Port = n.port
	if edit != nil {
		edit(&tunnel)
	}
	p.Set(tunnel)
	for mac, peer := range map[packet.MAC]int32{local: 0, theirs: n.remote, others: n.limited} {
		p.Entry(n.port, mac, peer)
	}
	p.turn(t)
}

// turn is what the goroutine does when it is woken.
func (p *Path) turn(t *testing.T) {
	t.Helper()
	if !p.load() {
		t.Fatal(p.refused)
	}
	p.follow()
	p.settle()
}

// settleAll is Settle.
func (p *Path) settleAll(t *testing.T) {
	p.mu.Lock()
	p.settling, p.changed = true, true
	p.mu.Unlock()
	p.turn(t)
}

// at is the program at a device, and the link by which it is there; 0: none.
func at(t *testing.T, ifindex int, where ebpf.AttachType) (program ebpf.ProgramID, by link.ID) {
	t.Helper()
	found, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: where})
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Programs) == 0 {
		return 0, 0
	}
	by, _ = found.Programs[0].LinkID()
	return found.Programs[0].ID, by
}

func idOf(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

func (p *Path) counted() map[int32]netio.FastCounts {
	all := make(map[int32]netio.FastCounts)
	p.Counts(func(id int32, c netio.FastCounts) { all[id] = c })
	return all
}

const atTap, atUnder = ebpf.AttachTCXEgress, ebpf.AttachTCXIngress

// TestRestart: programs stay attached when a process leaves, with all that they know. The next
// one gives their links its own programs when it knows all; what they have counted and heard
// without a process is counted once, for the peers as the next one calls them; peers that it does
// not have are sent nothing from then on. When it is closed for good nothing stays.
func TestRestart(t *testing.T) {
	under := world(t)
	store := newMemStore(t)
	first := process(store)
	first.carry(t, numbering{port, remote, limited}, under, nil)
	send := func(p *Path, prog *ebpf.Program, to packet.MAC, want int) {
		t.Helper()
		f := plain()
		f.dst = to
		if r := p.test(t, prog, f.bytes(), 0); r.action != want {
			t.Fatalf("to %s: action %d, punts %v", to, r.action, r.punts)
		}
	}
	send(first, first.kernel.TapEgress, theirs, redirect)
	if c := first.counted(); c[remote].TxPackets != 1 {
		t.Fatalf("counted %+v", c)
	}
	send(first, first.kernel.TapEgress, theirs, redirect) // what nobody has asked for is told when it leaves
	program, by := at(t, loopback, atTap)
	underProgram, underBy := at(t, under, atUnder)
	if program != idOf(t, first.kernel.TapEgress) || underProgram != idOf(t, first.kernel.UnderlayIngress) || len(store.fds) != 7 {
		t.Fatalf("attached: %d and %d; kept: %s", program, underProgram, store.names())
	}
	old, err := first.kernel.TapEgress.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	first.Leave()
	if last := first.Remove(port); last[remote].TxPackets != 2 {
		t.Errorf("told at the end: %+v", last)
	}
	first.release()

	// Nobody is there.
	reader := process(nil) // test counts punts by a path
	for range 3 {
		send(reader, old, theirs, redirect)
	}
	send(reader, old, others, redirect)
	if now, _ := at(t, loopback, atTap); now != program {
		t.Fatalf("program %d at the tunnel's device, was %d", now, program)
	}

	next := process(store)
	second := numbering{70, 30, 40}
	next.carry(t, second, under, func(f *netio.FastTunnel) { f.Peers = f.Peers[:1] })
	if now, _ := at(t, loopback, atTap); now != program {
		t.Fatal("the program was replaced before all was known")
	}
	next.settleAll(t)
	for _, c := range []struct {
		ifindex int
		where   ebpf.AttachType
		program *ebpf.Program
		by      link.ID
	}{{loopback, atTap, next.kernel.TapEgress, by}, {under, atUnder, next.kernel.UnderlayIngress, underBy}} {
		if program, by := at(t, c.ifindex, c.where); program != idOf(t, c.program) || by != c.by {
			t.Errorf("at %d: program %d by link %d, want %d by %d, the link that there was", c.ifindex, program, by, idOf(t, c.program), c.by)
		}
	}
	send(next, next.kernel.TapEgress, theirs, redirect)
	send(next, next.kernel.TapEgress, others, -1)
	for range 2 { // no more with every look
		if c := next.counted(); len(c) != 1 || c[second.remote].TxPackets != 3+1 {
			t.Errorf("counted %+v, want 3 packets without a process and one since", c)
		}
	}
	for i, want := range []map[packet.MAC]int{{local: 2, theirs: 2}, {local: 1, theirs: 1}} { // before and now; now
		heard := map[packet.MAC]int{}
		next.Heard(func(port uint32, mac packet.MAC, peer int32, heardAgo, usedAgo time.Duration) {
			is := map[packet.MAC]int32{theirs: second.remote}[mac]
			if port != second.port || peer != is || (heardAgo < 0) != (mac == theirs) || (usedAgo < 0) != (mac == local) {
				t.Errorf("%s in %d behind %d, heard %v, used %v ago", mac, port, peer, heardAgo, usedAgo)
			}
			heard[mac]++
		})
		if !maps.Equal(heard, want) {
			t.Errorf("look %d: heard of %v, want of %v", i, heard, want)
		}
	}
	if len(store.fds) != 7 {
		t.Errorf("kept: %s", store.names())
	}
	next.release()
	if program, _ := at(t, loopback, atTap); program != 0 || len(store.fds) != 0 {
		t.Errorf("closed for good: program %d at the tunnel's device, kept %s", program, store.names())
	}
}

// TestNotTakenOver: what an earlier process has left ends where the next one has no use for it.
func TestNotTakenOver(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(s *memStore)
		next  func(t *testing.T, p *Path, under int)
		taken bool // the link of the tunnel's device
		count uint64
	}{
		"the fast path is off": {next: func(_ *testing.T, p *Path, _ int) { p.closed = false; p.Settle() }},
		"the kernel refuses": {next: func(_ *testing.T, p *Path, _ int) {
			p.refused, p.settling = "test", true
			p.settle()
		}},
		"other types in the maps": {taken: true, spoil: func(s *memStore) {
			for _, name := range s.names() {
				if strings.HasPrefix(name, "map.") {
					s.fds[name+"0"] = s.fds[name]
					delete(s.fds, name)
				}
			}
		}},
		"no map of what was told": {taken: true, spoil: func(s *memStore) { s.Drop(mapName("told")) }},
		"all is as it was":        {taken: true, count: 1},
	} {
		t.Run(name, func(t *testing.T) {
			under := world(t)
			store := newMemStore(t)
			first := process(store)
			first.carry(t, numbering{port, remote, limited}, under, nil)
			if r := first.test(t, first.kernel.TapEgress, plain().bytes(), 0); r.action != redirect {
				t.Fatal(r)
			}
			program, by := at(t, loopback, atTap)
			first.Leave()
			first.release() // killed: nothing was told
			if c.spoil != nil {
				c.spoil(store)
			}
			p := process(store)
			defer p.release()
			n := numbering{70, 30, 40}
			if c.next != nil {
				c.next(t, p, under)
			} else {
				p.carry(t, n, under, nil)
				p.settleAll(t)
			}
			now, nowBy := at(t, loopback, atTap)
			if !c.taken {
				if now != 0 || len(store.fds) != 0 {
					t.Errorf("program %d is at the tunnel's device, kept: %s", now, store.names())
				}
				return
			}
			if now == program || nowBy != by || len(store.fds) != 7 {
				t.Errorf("program %d, was %d; by link %d, was %d; kept: %s", now, program, nowBy, by, store.names())
			}
			if got := p.counted()[n.remote].TxPackets; got != c.count {
				t.Errorf("%d packets of the time without a process, want %d", got, c.count)
			}
		})
	}
}

// TestFailedStart: what an earlier process has left is still there when one that did not get so
// far as to settle ends.
func TestFailedStart(t *testing.T) {
	under := world(t)
	store := newMemStore(t)
	first := process(store)
	first.carry(t, numbering{port, remote, limited}, under, nil)
	program, _ := at(t, loopback, atTap)
	first.Leave()
	first.release()
	kept := store.names()
	p := process(store)
	p.carry(t, numbering{70, 30, 40}, under, nil)
	p.Remove(70)
	p.release()
	if now, _ := at(t, loopback, atTap); now != program || !slices.Equal(store.names(), kept) {
		t.Errorf("program %d at the tunnel's device, was %d; kept %s, were %s", now, program, store.names(), kept)
	}
}

// TestDetached: without a tunnel its device has no program, although the manager had the link, and
// even if it does not answer.
func TestDetached(t *testing.T) {
	for name, hung := range map[string]bool{"a manager that answers": false, "a manager that hangs": true} {
		t.Run(name, func(t *testing.T) {
			under := world(t)
			store := newMemStore(t)
			p := process(store)
			defer p.release()
			p.carry(t, numbering{port, remote, limited}, under, nil)
			store.hung = hung
			p.Remove(port)
			p.turn(t)
			for ifindex, where := range map[int]ebpf.AttachType{loopback: atTap, under: atUnder} {
				if program, _ := at(t, ifindex, where); program != 0 {
					t.Errorf("program %d is at device %d", program, ifindex)
				}
			}
			if len(store.fds) != 5 && !hung {
				t.Errorf("kept: %s, want only maps", store.names())
			}
		})
	}
}
