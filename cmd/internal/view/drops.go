package view

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/count"
)

// look is what packets that are dropped look alike in.
type look struct {
	reason   count.Reason
	source   netip.Addr
	vni      packet.VNI
	protocol uint16
	port     uint16
}

// Dropped is what was dropped between two looks, as events: packets from the underlay by what they
// looked like, as far as that is remembered, the others by tunnel and reason.
func Dropped(before, now *vtep.State, at time.Time) (all []control.Event) {
	known := map[look]uint64{}
	for i := range before.Refused {
		known[lookOf(&before.Refused[i])] += before.Refused[i].Count
	}
	var named count.Drops // of those that something is remembered of
	for i := range now.Refused {
		r := &now.Refused[i]
		was := known[lookOf(r)]
		if r.Count < was {
			was = 0 // it was forgotten, and remembered anew
		}
		if r.Count == was {
			continue
		}
		named.Rx[r.Reason] += r.Count - was
		all = append(all, control.Event{
			Time: at, Object: "drop", Action: "in", Reason: r.Reason.String(), Packets: r.Count - was,
			Source: r.Source, ID: new(uint32(r.VNI)), Payload: payload(r.Protocol), Port: r.Port,
		})
	}
	rest := func(dev, action string, reason count.Reason, n uint64, named *uint64) {
		if *named >= n {
			*named -= n
			return
		}
		n, *named = n-*named, 0
		all = append(all, control.Event{Time: at, Object: "drop", Action: action, Ifname: dev, Reason: reason.String(), Packets: n})
	}
	drops := func(dev string, now, was *count.Drops) {
		for _, reason := range count.Reasons() {
			rest(dev, "in", reason, growth(now.Rx[reason], was.Rx[reason]), &named.Rx[reason])
			rest(dev, "out", reason, growth(now.Tx[reason], was.Tx[reason]), new(uint64))
		}
	}
	drops("", &now.Drops, &before.Drops)
	was := map[string]*count.Drops{}
	for i := range before.Tunnels {
		was[before.Tunnels[i].Config.Device.Name] = &before.Tunnels[i].Drops
	}
	for i := range now.Tunnels {
		t := &now.Tunnels[i]
		name := t.Config.Device.Name
		drops(name, &t.Drops, cmp.Or(was[name], new(count.Drops)))
	}
	slices.SortStableFunc(all, func(x, y control.Event) int { return cmp.Compare(y.Packets, x.Packets) })
	return all
}

func lookOf(r *vtep.Refused) look { return look{r.Reason, r.Source, r.VNI, r.Protocol, r.Port} }

// growth is by how much a counter has grown. One that is less was begun anew.
func growth(now, was uint64) uint64 {
	if now < was {
		return now
	}
	return now - was
}
