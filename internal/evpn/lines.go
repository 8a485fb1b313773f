package evpn

import (
	"net/netip"
	"slices"

	"gvtep/internal/packet"
)

// Owner has what the agent writes into gvtep.
const Owner = "evpn"

// Line is one of a batch, as docs/controllers.md has it.
type Line struct {
	Peer     string   `json:"peer,omitempty"`
	Keywords []string `json:"keywords,omitempty"`
	FDB      string   `json:"fdb,omitempty"`
	Route    string   `json:"route,omitempty"`
	Dst      string   `json:"dst,omitempty"`
	Neigh    string   `json:"neigh,omitempty"`
	LLAddr   string   `json:"lladdr,omitempty"`
	VLAN     uint16   `json:"vlan,omitempty"`
	Seq      uint32   `json:"seq,omitempty"`
	Del      bool     `json:"del,omitempty"`
}

// Devices are the tunnels of which something is to be told.
func (t *Table) Devices() []string {
	var list []string
	for name, d := range t.devices {
		if len(d.dirty) > 0 || slices.ContainsFunc(d.segments, (*segment).dirty) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

func (s *segment) dirty() bool {
	return len(s.dirtyMAC) > 0 || len(s.dirtyIP) > 0 || len(s.dirtyNet) > 0
}

// Changes yields what has changed of a tunnel since the last call, and All what gvtep is to have in
// all. If the lines were not taken, All is next.
func (t *Table) Changes(dev string, yield func(Line)) {
	d := t.devices[dev]
	if d == nil {
		return
	}
	for addr := range d.dirty {
		d.peer(addr, yield)
	}
	clear(d.dirty)
	for _, s := range d.segments {
		for net := range s.dirtyNet {
			s.net(net, yield)
		}
		for ip := range s.dirtyIP {
			s.neigh(ip, yield)
		}
		for mac := range s.dirtyMAC {
			s.fdb(mac, yield)
		}
		clear(s.dirtyNet)
		clear(s.dirtyIP)
		clear(s.dirtyMAC)
	}
}

// All marks everything of a tunnel as changed and yields it, without removals: with sync nothing else stays.
func (t *Table) All(dev string, yield func(Line)) {
	d := t.devices[dev]
	if d == nil {
		return
	}
	for addr, v := range d.vteps {
		v.told = stranger
		d.dirty[addr] = true
	}
	for _, s := range d.segments {
		for net := range s.nets {
			s.dirtyNet[net] = true
		}
		for ip := range s.ips {
			s.dirtyIP[ip] = true
		}
		for mac, st := range s.stations {
			st.told = netip.Addr{}
			s.dirtyMAC[mac] = true
		}
	}
	t.Changes(dev, func(l Line) {
		if !l.Del {
			yield(l)
		}
	})
}

// peer is a line only where it says something new. Of an L3 peer it says nothing of its networks, which stay.
func (d *device) peer(addr netip.Addr, yield func(Line)) {
	v := d.vteps[addr]
	want := v.want()
	if want == v.told {
		if want == stranger {
			delete(d.vteps, addr)
		}
		return
	}
	v.told = want
	l := Line{Peer: addr.String()}
	switch {
	case want == stranger:
		delete(d.vteps, addr)
		l.Del = true
	case d.segments[0].L3:
		l.Keywords = []string{"routes", "none"}
	case want == quiet:
		l.Keywords = []string{"flood", "off"}
	default:
		l.Keywords = []string{"flood", "on"}
	}
	yield(l)
}

func (s *segment) net(net netip.Prefix, yield func(Line)) {
	l := Line{Route: net.String()}
	if b := best(s.nets[net]); b != nil {
		l.Dst = b.NextHop.String()
	} else {
		l.Del = true
	}
	yield(l)
}

func (s *segment) neigh(ip netip.Addr, yield func(Line)) {
	l := Line{Neigh: ip.String(), VLAN: s.VLAN}
	if b := best(s.ips[ip]); b != nil {
		l.LLAddr, l.Seq = b.MAC.String(), b.Seq
	} else {
		l.Del = true
	}
	yield(l)
}

func (s *segment) fdb(mac packet.MAC, yield func(Line)) {
	st := s.stations[mac]
	if st == nil {
		return
	}
	l := Line{FDB: mac.String(), VLAN: s.VLAN}
	if b := best(st.remote); b != nil && st.local == nil {
		l.Dst, l.Seq = b.NextHop.String(), b.Seq
		st.told = b.NextHop
	} else {
		if !st.told.IsValid() {
			return
		}
		l.Del = true
		st.told = netip.Addr{}
		s.tidy(mac)
	}
	yield(l)
}
