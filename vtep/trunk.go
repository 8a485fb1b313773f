package vtep

import (
	"slices"
	"sync/atomic"

	"gvtep/fdb"
	"gvtep/internal/neigh"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/spec"
)

// A trunk is a device with many ports: each of its VLANs is one, and meets a
// segment of its own there. Peers, paths and settings are the tunnel's, and
// shared by all of them. What a VLAN has for itself is its forwarding table, so
// that equal addresses in two VLANs never meet, and its limits.
//
// The tag stays on our side: it is taken off before a frame is looked at, and
// put on after all is decided, so that between the two a trunk's frame is like any other.

// isTrunk reports whether tags choose the segment. A trunk may be without
// VLANs for a while.
func isTrunk(cfg *Tunnel) bool { return cfg.NoVNI || len(cfg.VLANs) > 0 }

// vniOf returns the VNI of a VLAN, 0 standing for no tag.
func vniOf(cfg *Tunnel, vid uint16) (packet.VNI, bool) {
	if vid == 0 {
		return cfg.VNI, !cfg.NoVNI
	}
	for _, r := range cfg.VLANs {
		if r.First <= vid && vid <= r.Last {
			return r.VNI + packet.VNI(vid-r.First), true
		}
	}
	return 0, false
}

// keepsVLANs reports whether a configuration has all the VLANs of old, with the VNIs that they had:
// what is in them stays what it was.
func keepsVLANs(cfg, old *Tunnel) bool {
	if sameList(cfg.VLANs, old.VLANs) {
		return true
	}
	now := make(map[uint16]packet.VNI)
	for vid, vni := range spec.Segments(cfg) {
		now[vid] = vni
	}
	for vid, vni := range spec.Segments(old) {
		if have, ok := now[vid]; !ok || have != vni {
			return false
		}
	}
	return true
}

// vidsOf are all VLANs with a segment, 0 if there is one for no tag.
func vidsOf(cfg *Tunnel) map[uint16]struct{} {
	all := make(map[uint16]struct{})
	if !cfg.NoVNI {
		all[0] = struct{}{}
	}
	for _, r := range cfg.VLANs {
		for vid := r.First; vid <= r.Last; vid++ {
			all[vid] = struct{}{}
		}
	}
	return all
}

// domain is what lives on of a segment when the configuration changes.
type domain struct {
	vid        uint16 // 0: the tunnel's own segment
	vni        packet.VNI
	fdb        *fdb.Table
	bumDue     *atomic.Int64
	neighbours *neigh.Table    // what neigh_suppress answers from; nil: off
	traffic    []count.Traffic // of a VLAN, by worker
}

// domains makes the domains of a configuration: those of the VLANs in the
// order of their IDs, behind the tunnel's own. A VLAN that goes to another
// segment than before begins anew.
func (e *Endpoint) domains(t *tunnel, before []domain) []domain {
	cfg := &t.config
	n := 1
	for _, r := range cfg.VLANs {
		n += int(r.Last-r.First) + 1
	}
	all := make([]domain, 0, n)
	add := func(vid uint16, vni packet.VNI) {
		d := domain{vid: vid, vni: vni}
		if i, ok := slices.BinarySearchFunc(before, vid, domain.compare); ok && before[i].vni == vni {
			d = before[i]
		} else {
			d.bumDue = new(atomic.Int64)
			d.fdb = fdb.NewTable(fdb.Options{
				Limit: cfg.MaxAddress, Ageing: cfg.Ageing, NoDamping: cfg.NoMoveDamping,
				OnChange: func(c fdb.Event) { e.fdbChanged(cfg.Device.Name, vid, t.state, c) },
			})
			if vid != 0 {
				d.traffic = make([]count.Traffic, e.workers)
			}
		}
		switch {
		case !cfg.NeighSuppress:
			d.neighbours = nil
		case d.neighbours == nil:
			d.neighbours = neigh.NewTable(neighbourOptions(cfg))
		}
		all = append(all, d)
	}
	add(0, cfg.VNI)
	for _, r := range cfg.VLANs {
		for vid := r.First; vid <= r.Last; vid++ {
			add(vid, r.VNI+packet.VNI(vid-r.First))
		}
	}
	slices.SortFunc(all, func(a, b domain) int { return a.compare(b.vid) })
	return all
}

// neighbourOptions are those of the table that neigh_suppress answers from.
func neighbourOptions(cfg *Tunnel) neigh.Options {
	return neigh.Options{Limit: cfg.MaxAddress, Ageing: cfg.Ageing}
}

func (d domain) compare(vid uint16) int { return int(d.vid) - int(vid) }

// domainOf returns the table that an entry is for.
func (t *tunnel) domainOf(entry Entry) *fdb.Table { return t.domain(entry.VLAN).fdb }

// domain returns that of a VLAN, nil if there is none.
func (t *tunnel) domain(vid uint16) *domain {
	i, ok := slices.BinarySearchFunc(t.domains, vid, domain.compare)
	if !ok {
		return nil
	}
	return &t.domains[i]
}

// newTrunk makes the segments of all VLANs.
func (t *tunnel) newTrunk(own *forward.Segment) *forward.Trunk {
	tr := &forward.Trunk{ByVNI: make(map[packet.VNI]*forward.Segment, len(t.domains))}
	// Beside the VLANs a tag of a peer's would be a way into them. That holds
	// for all kinds of tags: the kernel takes off one without an ID and looks
	// at the next (net/core/dev.c, check_vlan_id).
	own.VLANDrop = true
	if !t.config.NoVNI {
		tr.ByVID[0] = own
	}
	tr.Vlans = make([]forward.Segment, len(t.domains)-1)
	for i := range tr.Vlans {
		seg := &tr.Vlans[i]
		*seg = t.segment(&t.domains[i+1], own.Rules)
		tr.ByVID[seg.VID], tr.ByVNI[seg.VNI] = seg, seg
	}
	return tr
}

// VLANState is one VLAN of a trunk at one moment.
type VLANState struct {
	VID   uint16
	VNI   packet.VNI
	Stats count.Stats // what the kernel refused to send is among what was sent
	FDB   FDBState
}

// VLANs returns the VLANs of a trunk in the order of their IDs; of a tunnel
// that is none there are none.
func (e *Endpoint) VLANs(name string) ([]VLANState, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, err := e.tunnel(name)
	if err != nil {
		return nil, err
	}
	all := make([]VLANState, 0, len(t.domains)-1)
	for i := range t.domains[1:] {
		d := &t.domains[i+1]
		s := VLANState{VID: d.vid, VNI: d.vni, FDB: d.state()}
		s.Stats, _ = count.SumTraffic(d.traffic)
		all = append(all, s)
	}
	return all, nil
}

// state sums up the domain's table.
func (d *domain) state() FDBState {
	counts, stats := d.fdb.Count(), d.fdb.Stats()
	return FDBState{
		Learned: counts.Dynamic, Static: counts.Static + counts.Permanent, Permanent: counts.Permanent, Limit: d.fdb.Limit(),
		Entered: stats.Learned, Full: stats.Full, Own: stats.Own,
		Moved: stats.Moved, Aged: stats.Aged, Evicted: stats.Evicted, Damped: stats.Damped, Frozen: stats.Frozen,
	}
}

func (s *FDBState) add(o FDBState) {
	s.Learned += o.Learned
	s.Static += o.Static
	s.Permanent += o.Permanent
	s.Entered += o.Entered
	s.Full += o.Full
	s.Own += o.Own
	s.Moved += o.Moved
	s.Aged += o.Aged
	s.Evicted += o.Evicted
	s.Damped += o.Damped
	s.Frozen += o.Frozen
}
