package fastpath

import (
	"fmt"
	"hash/fnv"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// Links that are kept carry on without us: with the programs that they have, and the maps of
// these. The next process makes programs and maps of its own, and when it knows all that is
// configured it gives each link its own program, in one step. What it does not need it detaches.
//
// Of the maps those are kept, beside, that tell what was carried meanwhile. Their numbers of
// tunnels and peers are the earlier process's: devices and addresses tell which of ours they are.

// Store keeps descriptors over a restart. Its methods may wait for the service manager.
type Store interface {
	// Kept returns what an earlier process has left, by name, once. The descriptors are the
	// caller's.
	Kept() map[string]int
	// Keep has a descriptor kept under a name, unless there is one of that name.
	Keep(name string, fd int)
	// Drop has what is kept under these names closed.
	Drop(names ...string)
}

// nothing is the store of a process without one.
type nothing struct{}

func (nothing) Kept() map[string]int { return nil }
func (nothing) Keep(string, int)     {}
func (nothing) Drop(...string)       {}

// linkPrefix begins the names of links: link.tap.5 is at the tunnel's device with index 5.
const linkPrefix = "link."

func linkName(hook string, ifindex int) string { return fmt.Sprint(linkPrefix, hook, ".", ifindex) }

// mapName is that of a map that is kept. A process whose types are others does not know it.
func mapName(name string) string { return "map." + name + "." + layout() }

// layout is a number of what the kept maps have in them.
func layout() string {
	sum := fnv.New32a()
	for _, v := range []any{bpfTraffic{}, bpfStation{}, bpfPlace{}, bpfPeer{}, bpfTap{}} {
		t := reflect.TypeOf(v)
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintln(sum, t.Name(), f.Name, f.Offset, f.Type)
		}
	}
	return fmt.Sprintf("%08x", sum.Sum32())
}

// keptMaps are the maps that are kept, by name.
func (p *Path) keptMaps() map[string]*ebpf.Map {
	k := p.kernel
	return map[string]*ebpf.Map{
		mapName("counts"): k.Counts, mapName("told"): p.told, mapName("fdb"): k.Fdb, mapName("peers"): k.Peers, mapName("taps"): k.Taps,
	}
}

// keepMaps has them kept. Only the goroutine calls it.
func (p *Path) keepMaps() {
	if p.told == nil {
		return
	}
	for name, m := range p.keptMaps() {
		p.store.Keep(name, m.FD())
	}
}

// newTold makes the map of what was told of counters: what the next process finds beyond that
// was carried while there was none.
func newTold(counts *ebpf.Map) (*ebpf.Map, error) {
	return ebpf.NewMap(&ebpf.MapSpec{
		Name: "told", Type: ebpf.Hash, KeySize: 4, ValueSize: uint32(reflect.TypeFor[bpfTraffic]().Size()), MaxEntries: counts.MaxEntries(), Flags: unix.BPF_F_NO_PREALLOC,
	})
}

// Settle is called when all that is configured was set and its devices are known. What an
// earlier process has left is ours when it returns, or no longer there.
func (p *Path) Settle() {
	p.mu.Lock()
	if !p.waiting || p.closed {
		p.mu.Unlock()
		return
	}
	if p.stop == nil { // nothing is to be carried
		before := p.before
		p.before, p.waiting = nil, false
		p.mu.Unlock()
		p.discard(before, slices.Collect(maps.Keys(before)))
		return
	}
	p.settling, p.changed = true, true
	p.poke()
	p.mu.Unlock()
	select {
	case <-p.settled:
	case <-p.done:
	}
}

// Leave says that this process ends and another one may go on: what is kept is left as it is.
func (p *Path) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving = p.store != nothing{}
}

// attaches reports whether links may be made: those of an earlier process are taken over only
// when all is known.
func (p *Path) attaches() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.waiting || p.settling
}

// adopt takes over the link of an earlier process to a device; nil: there is none that can be
// used. Only the goroutine calls it.
func (p *Path) adopt(h *hook, ifindex int) link.Link {
	name := linkName(h.name, ifindex)
	fd, ok := p.before[name]
	if !ok {
		return nil
	}
	delete(p.before, name)
	l, err := link.NewFromFD(fd)
	if err == nil && attachedTo(l, ifindex) && l.Update(h.options.Program) == nil {
		return l
	}
	if err == nil {
		detach(l)
	}
	p.store.Drop(name)
	return nil
}

// settle, if Settle was called, takes over what was counted and heard without us, and closes
// what is left of the earlier process. Links were taken over before.
func (p *Path) settle() {
	p.mu.Lock()
	due := p.waiting && p.settling
	p.mu.Unlock()
	if !due {
		return
	}
	names := slices.Collect(maps.Keys(p.before))
	if p.kernel != nil {
		p.inherit()
	}
	p.discard(p.before, names)
	p.before = nil
	if p.kernel != nil {
		p.keepMaps()
	}
	p.mu.Lock()
	p.waiting = false
	p.mu.Unlock()
	close(p.settled)
}

// discard ends what an earlier process has left, and has nothing kept under the names.
func (p *Path) discard(left map[string]int, names []string) {
	for name, fd := range left {
		if !strings.HasPrefix(name, linkPrefix) {
			unix.Close(fd)
		} else if l, err := link.NewFromFD(fd); err == nil {
			detach(l)
		}
	}
	p.store.Drop(names...)
}

// inherit reads the maps of the earlier process, if they are as ours are. No program of it runs
// any more: the counters are final.
func (p *Path) inherit() {
	old := make(map[string]*ebpf.Map)
	for name := range p.keptMaps() {
		fd, ok := p.before[name]
		if !ok {
			continue
		}
		delete(p.before, name)
		if m, err := ebpf.NewMapFromFD(fd); err == nil {
			old[name] = m
		}
	}
	stations := old[mapName("fdb")]
	if len(old) != len(p.keptMaps()) || quiesce() != nil {
		for _, m := range old {
			m.Close()
		}
		return
	}
	told := make(map[int32]bpfTraffic)
	each(old[mapName("told")], func(id int32, t *bpfTraffic) { told[id] = *t })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.earlier = &earlier{stations: stations, peers: make(map[int32]int32), tunnels: make(map[uint32]uint32)}
	p.recognise(old[mapName("peers")], old[mapName("taps")])
	eachTraffic(old[mapName("counts")], func(id int32, t bpfTraffic) {
		if ours, ok := p.earlier.peers[id]; ok {
			p.base[ours] = t.without(told[id])
		}
	})
	for _, m := range old {
		if m != stations {
			m.Close()
		}
	}
}

// recognise notes which peers and tunnels of the earlier process are ours. p.mu is held.
func (p *Path) recognise(peers, taps *ebpf.Map) {
	ours, at := make(map[bpfPeer]int32), make(map[uint32]uint32)
	for _, t := range p.tunnels {
		at[uint32(t.Ifindex)] = t.Port
		for id, peer := range t.peers {
			ours[identity(&peer)] = id
		}
	}
	each(peers, func(id int32, peer *bpfPeer) {
		if is, ok := ours[identity(peer)]; ok {
			p.earlier.peers[id] = is
		}
	})
	each(taps, func(ifindex uint32, tap *bpfTap) {
		if is, ok := at[ifindex]; ok {
			p.earlier.tunnels[tap.Port] = is
		}
	})
}

// identity is what of a peer tells it from others: its addresses, its port and its VNI.
func identity(p *bpfPeer) bpfPeer {
	return bpfPeer{Src: p.Src, Dst: p.Dst, Header: p.Header, Dport: p.Dport, Flags: p.Flags & peerIPv6}
}

// earlier is what there is still to tell of what an earlier process has left.
type earlier struct {
	stations *ebpf.Map         // as fdb
	peers    map[int32]int32   // ours, by its numbers
	tunnels  map[uint32]uint32 // ours, by its numbers
}

// heard yields its entries as Heard does.
func (e *earlier) heard(yield func(port uint32, mac packet.MAC, peer int32, heard, used time.Duration)) {
	at := now()
	each(e.stations, func(key bpfStation, v *bpfPlace) {
		port, here := e.tunnels[key.Port]
		peer, known := e.peers[v.Peer]
		if here && (known || v.Peer == 0) && (v.Heard != 0 || v.Used != 0) {
			yield(port, key.Mac, peer, since(v.Heard, at), since(v.Used, at))
		}
	})
}

// each reads a map.
func each[K comparable, V any](m *ebpf.Map, yield func(K, *V)) {
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			yield(keys[i], &values[i])
		}
		if err != nil { // the end
			return
		}
	}
}

// quiesce returns when no program runs any more that did when it was called. Programs that use
// a map in a map may go on with it until then, so the kernel waits for them when one is changed
// (maybe_wait_bpf_programs in kernel/bpf/syscall.c).
func quiesce() error {
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return err
	}
	defer outer.Close()
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return err
	}
	defer m.Close()
	return outer.Put(uint32(0), m)
}

// detach ends a link, whoever else has a descriptor of it.
func detach(l link.Link) {
	if d, ok := l.(interface{ Detach() error }); ok {
		_ = d.Detach() // its device may have gone
	}
	l.Close() // of no more use whatever it says
}

// descriptor is that of a link.
func descriptor(l link.Link) int { return l.(interface{ FD() int }).FD() }

// attachedTo reports whether a link is at a device, and that is still there.
func attachedTo(l link.Link, ifindex int) bool {
	info, err := l.Info()
	return err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == ifindex
}

// leave closes what the process has open of what is kept, or ends it. It returns the names under
// which nothing is to be kept. p.mu is held.
func (p *Path) leave() (names []string) {
	for hook, devices := range map[string]map[int]*device{tapHook: p.taps, underHook: p.under} {
		for i, d := range devices {
			switch {
			case d.link == nil:
			case p.leaving:
				d.link.Close()
			default:
				detach(d.link)
				names = append(names, linkName(hook, i))
			}
		}
		clear(devices)
	}
	if p.kernel != nil && !p.leaving && !p.waiting {
		names = slices.AppendSeq(names, maps.Keys(p.keptMaps()))
	}
	for _, fd := range p.before { // the next process finds it as we did
		unix.Close(fd)
	}
	p.before = nil
	return names
}
