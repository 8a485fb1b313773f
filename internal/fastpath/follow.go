package fastpath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"gvtep/internal/netio"
)

// follow attaches to the devices that are needed and not attached to, and then detaches
// from those that are not needed: a route that moves finds the program there. It reports
// whether tunnels are to be carried otherwise than before. Only the goroutine calls it,
// without p.mu while it waits for the kernel.
func (p *Path) follow() (otherwise bool) {
	taps, under, cautious, look := p.wanted()
	if !look {
		return false
	}
	rules := ""
	if cautious {
		rules = bypassed()
	}
	p.followKind(taps, p.taps, func(i int, d *device) { d.attach(i, p.kernel.attachTap) })
	otherwise = p.followKind(under, p.under, p.lookUnder)
	p.mu.Lock()
	defer p.mu.Unlock()
	otherwise = otherwise || !p.applied || rules != p.rules
	p.rules, p.applied = rules, true
	return otherwise
}

// followKind follows what is wanted of one kind of devices. have is written by the
// goroutine alone, and a device in it does not change. It reports whether some can cut in
// tunnels now that could not before, or no longer.
func (p *Path) followKind(wanted map[int]bool, have map[int]*device, look func(int, *device)) (otherwise bool) {
	for i := range wanted {
		var d device
		if before := have[i]; before != nil {
			d = *before
		}
		bulk := d.bulk
		look(i, &d)
		otherwise = otherwise || d.bulk != bulk
		p.mu.Lock()
		have[i] = &d
		p.mu.Unlock()
	}
	for i, d := range have {
		if !wanted[i] {
			p.mu.Lock()
			delete(have, i)
			p.mu.Unlock()
			d.detach()
		}
	}
	return otherwise
}

// wanted are the devices that are needed, by ifindex, and whether some tunnel is cautious;
// look is false if nothing was set since it was asked.
func (p *Path) wanted() (taps, under map[int]bool, cautious, look bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.changed {
		return nil, nil, false, false
	}
	p.changed = false
	taps, under = make(map[int]bool), make(map[int]bool)
	for _, t := range p.tunnels {
		cautious = cautious || t.Cautious
		taps[t.Ifindex] = true
		for i := range t.Peers {
			under[t.Peers[i].Ifindex] = true
		}
	}
	return taps, under, cautious, true
}

// attach attaches to a device unless that was done. A link whose device has gone is closed.
func (d *device) attach(ifindex int, with func(int) (link.Link, error)) {
	if d.link != nil {
		info, err := d.link.Info()
		if err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == ifindex {
			return
		}
		d.detach()
	}
	d.link, d.err = with(ifindex)
}

// lookUnder attaches to an underlay device and asks what it can.
func (p *Path) lookUnder(ifindex int, d *device) {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		d.detach()
		d.err = err
		return
	}
	d.name = l.Attrs().Name
	if l.Attrs().EncapType != "ether" {
		d.err = errors.New("it is no Ethernet device")
		return
	}
	d.attach(ifindex, p.kernel.attachUnder)
	d.bulk = cutsInTunnels(d.name)
}

// State implements netio.FastPath.
func (p *Path) State(port uint32) (s netio.FastState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tunnels[port]
	switch {
	case t == nil:
		return netio.FastState{Reason: "off"}
	case p.refused != "":
		return netio.FastState{Reason: p.refused}
	case t.Cautious && p.rules != "":
		return netio.FastState{Reason: "auto: " + p.rules}
	}
	tap := p.taps[t.Ifindex]
	if p.kernel == nil || tap == nil {
		return netio.FastState{Reason: "starting"}
	}
	if tap.link == nil {
		return netio.FastState{Reason: fmt.Sprintf("%s: %v", t.Name, tap.err)}
	}
	if p.fault != nil {
		s.Reason = fmt.Sprintf("the kernel refused a change of a map: %v", p.fault)
	} else if len(t.Peers) == 0 {
		s.Reason = "no peer that can be reached"
	}
	seen := make(map[int]bool)
	for i := range t.Peers {
		at := t.Peers[i].Ifindex
		if seen[at] {
			continue
		}
		seen[at] = true
		switch d := p.under[at]; {
		case d == nil:
			s.Reason = "starting"
		case d.link == nil:
			s.Reason = fmt.Sprintf("%s: %v", d.name, d.err)
		default:
			s.Devices = append(s.Devices, netio.FastDevice{Name: d.name, Bulk: d.bulk})
		}
	}
	return s
}
