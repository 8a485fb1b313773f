package vtep

import (
	"net/netip"
	"slices"
	"sync"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/packet"
)

// ConfigOwner is the owner of all that files, the command line and single changes wrote. No
// batch is its, and no batch changes what it has.
const ConfigOwner = "config"

// stamp says who wrote something, and when: batch is that of the last batch of the owner that
// named it, and seq a number of the owner's own, such as that of a MAC mobility community.
type stamp struct {
	owner uint16 // index of owned.names
	seq   uint32
	batch uint64
}

// owned is what batches wrote in one tunnel. Versions of a tunnel share it; guarded by
// Endpoint.mu. A stamp can outlive what it is of: who reads one looks whether that is there.
type owned struct {
	// mu guards names and entries, too, for those who read tables without the endpoint's lock.
	mu         sync.RWMutex
	names      []string
	batches    uint64
	entries    map[station]stamp
	peers      map[netip.Addr]stamp
	routes     map[netip.Prefix]stamp
	neighbours map[neighbour]ownedNeighbour
}

// neighbour is an address in one of a tunnel's segments.
type neighbour struct {
	vid  uint16
	addr netip.Addr
}

type ownedNeighbour struct {
	stamp
	mac packet.MAC
}

func newOwned() *owned {
	return &owned{
		entries: make(map[station]stamp), peers: make(map[netip.Addr]stamp),
		routes: make(map[netip.Prefix]stamp), neighbours: make(map[neighbour]ownedNeighbour),
	}
}

// number returns that of an owner.
func (o *owned) number(name string) uint16 {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.names, name)
	if i < 0 {
		i = len(o.names)
		o.names = append(o.names, name)
	}
	return uint16(i)
}

// entryOf is the stamp of an entry of a table, if it is still the one that the owner wrote: one
// that has moved is not. It needs no lock of the endpoint's.
func (o *owned) entryOf(of station, have fdb.Entry) (stamp, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	s, ok := o.entries[of]
	return s, ok && (have.State != fdb.Dynamic || have.Flags&fdb.ExternLearn != 0)
}

// sign says whose an entry is.
func (o *owned) sign(of station, s stamp) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.entries[of] = s
}

// forget is sign for one that somebody else wrote, or removed.
func (o *owned) forget(of station) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.entries, of)
}

// ownerOf returns who wrote an entry, and its number; "": it was learned.
func (o *owned) ownerOf(of station, have fdb.Entry) (string, uint32) {
	s, ok := o.entryOf(of, have)
	switch {
	case ok:
		o.mu.RLock()
		defer o.mu.RUnlock()
		return o.names[s.owner], s.seq
	case have.State == fdb.Dynamic:
		return "", 0
	}
	return ConfigOwner, 0
}

// keep forgets the stamps of peers and routes that a configuration no longer has.
func (o *owned) keep(cfg *Tunnel) {
	if len(o.peers)+len(o.routes) == 0 {
		return
	}
	peers, routes := make(map[netip.Addr]stamp, len(o.peers)), make(map[netip.Prefix]stamp, len(o.routes))
	for i := range cfg.Peers {
		if s, ok := o.peers[cfg.Peers[i].Remote]; ok {
			peers[cfg.Peers[i].Remote] = s
		}
		for _, r := range cfg.Peers[i].Routes {
			if s, ok := o.routes[r]; ok {
				routes[r] = s
			}
		}
	}
	o.peers, o.routes = peers, routes
}

// WithOwned returns cfg, what files say of a tunnel, with the peers and routes that owners have
// in the one that runs. What the files name is theirs.
func (e *Endpoint) WithOwned(cfg Tunnel) Tunnel {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tunnels[cfg.Device.Name]
	if t == nil || len(t.owned.peers)+len(t.owned.routes) == 0 {
		return cfg
	}
	at, routed := make(map[netip.Addr]int, len(cfg.Peers)), make(map[netip.Prefix]bool)
	for i := range cfg.Peers {
		at[cfg.Peers[i].Remote] = i
		for _, r := range cfg.Peers[i].Routes {
			routed[r] = true
		}
	}
	peers := slices.Clone(cfg.Peers)
	for _, p := range t.config.Peers {
		i, named := at[p.Remote]
		_, mine := t.owned.peers[p.Remote]
		if !named && !mine {
			continue
		}
		if !named {
			i = len(peers)
			peers = append(peers, p)
			peers[i].Routes = nil
			if p.Routes != nil {
				peers[i].Routes = []netip.Prefix{}
			}
		}
		for _, r := range p.Routes {
			if _, mine := t.owned.routes[r]; mine && !routed[r] || !named && !routed[r] {
				peers[i].Routes = append(slices.Clip(peers[i].Routes), r)
			}
		}
	}
	cfg.Peers = peers
	return cfg
}

// WithoutOwned returns the configuration of a tunnel that runs without the peers and routes that
// owners have.
func (e *Endpoint) WithoutOwned(cfg Tunnel) Tunnel {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tunnels[cfg.Device.Name]
	if t == nil || len(t.owned.peers)+len(t.owned.routes) == 0 {
		return cfg
	}
	owned := func(r netip.Prefix) bool { _, is := t.owned.routes[r]; return is }
	peers := make([]Peer, 0, len(cfg.Peers))
	for _, p := range cfg.Peers {
		if _, is := t.owned.peers[p.Remote]; is {
			continue
		}
		if slices.ContainsFunc(p.Routes, owned) {
			p.Routes = slices.DeleteFunc(slices.Clone(p.Routes), owned)
		}
		peers = append(peers, p)
	}
	cfg.Peers = peers
	return cfg
}

// settleOwned gives the tables that neigh_suppress answers from what owners have written, where
// a table, or what the configuration says, is another than before.
func (t *tunnel) settleOwned(old *tunnel, now int64) {
	if len(t.owned.neighbours) == 0 {
		return
	}
	same := slices.EqualFunc(t.domains, old.domains, func(a, b domain) bool { return a.vid == b.vid && a.neighbours == b.neighbours })
	if same && sameList(t.config.Neighbours, old.config.Neighbours) {
		return
	}
	named := t.namedNeighbours()
	for of, n := range t.owned.neighbours {
		if of.vid != 0 || !named[of.addr] {
			t.setNeighbour(of, n.mac, now)
		}
	}
}

// namedNeighbours are the addresses that the configuration has.
func (t *tunnel) namedNeighbours() map[netip.Addr]bool {
	all := make(map[netip.Addr]bool, len(t.config.Neighbours))
	for _, n := range t.config.Neighbours {
		all[n.Addr] = true
	}
	return all
}

// setNeighbour writes one into its table, if there is one. It was checked before.
func (t *tunnel) setNeighbour(of neighbour, mac packet.MAC, now int64) {
	if d := t.domain(of.vid); d != nil && d.neighbours != nil {
		_ = d.neighbours.Set(neigh.Entry{Addr: of.addr, MAC: mac, Static: true}, now)
	}
}

func (t *tunnel) deleteNeighbour(of neighbour, now int64) {
	if d := t.domain(of.vid); d != nil && d.neighbours != nil {
		_ = d.neighbours.Delete(of.addr, [2]uint16{}, now) // not there: a table that is new
	}
}

// OwnedNeighbour is a neighbour that an owner wrote.
type OwnedNeighbour struct {
	VLAN  uint16
	Addr  netip.Addr
	MAC   packet.MAC
	Owner string
	Seq   uint32
}

// Neighbours returns the neighbours of a tunnel that files or owners wrote, in order.
func (e *Endpoint) Neighbours(name string) ([]OwnedNeighbour, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return nil, err
	}
	var all []OwnedNeighbour
	for _, n := range t.config.Neighbours {
		all = append(all, OwnedNeighbour{Addr: n.Addr, MAC: n.MAC, Owner: ConfigOwner})
	}
	named := t.namedNeighbours()
	for of, n := range t.owned.neighbours {
		if of.vid != 0 || !named[of.addr] {
			all = append(all, OwnedNeighbour{of.vid, of.addr, n.mac, t.owned.names[n.owner], n.seq})
		}
	}
	slices.SortFunc(all, func(a, b OwnedNeighbour) int {
		if a.VLAN != b.VLAN {
			return int(a.VLAN) - int(b.VLAN)
		}
		return a.Addr.Compare(b.Addr)
	})
	return all, nil
}
