package fastpath

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"

	"gvtep/internal/netio"
)

// follow looks at the devices that are needed, brings the maps up to date, and attaches where
// that was not done: a link of an earlier process gets a program that knows all. Then it
// detaches from what is not needed: a route that moves finds the program there. Only the
// goroutine calls it, without p.mu while it waits for the kernel.
func (p *Path) follow() {
	taps, under, cautious, look := p.wanted()
	if look {
		p.look(under, cautious)
	}
	p.flush()
	if look && p.attaches() {
		p.attach(p.kernel.leaving(), taps, p.taps)
		p.attach(p.kernel.coming(), under, p.under)
	}
}

// look asks what underlay devices can and, for a cautious tunnel, what rules there are. Tunnels
// are brought into the maps anew if they are to be carried otherwise than before.
func (p *Path) look(under map[int]bool, cautious bool) {
	rules := ""
	if cautious {
		rules = bypassed()
	}
	otherwise := false
	for i := range under {
		d, bulk := p.device(p.under, i)
		d.look(i)
		otherwise = otherwise || d.bulk != bulk
		p.put(p.under, i, d)
	}
	p.mu.Lock()
	otherwise = otherwise || !p.applied || rules != p.rules
	p.rules, p.applied = rules, true
	p.mu.Unlock()
	if otherwise {
		p.apply()
	}
}

// attach attaches to what is wanted of one kind of devices, and detaches from the others. have is
// written by the goroutine alone, and a device in it does not change.
func (p *Path) attach(h *hook, wanted map[int]bool, have map[int]*device) {
	for i := range wanted {
		d, _ := p.device(have, i)
		p.attachTo(h, i, &d)
		p.put(have, i, d)
	}
	var names []string
	for i, d := range have {
		if wanted[i] {
			continue
		}
		p.mu.Lock()
		delete(have, i)
		p.mu.Unlock()
		if d.link != nil {
			detach(d.link)
			names = append(names, linkName(h.name, i))
		}
	}
	p.store.Drop(names...)
}

// attachTo attaches to a device unless that was done or cannot be. A link whose device has gone
// is closed.
func (p *Path) attachTo(h *hook, ifindex int, d *device) {
	name := linkName(h.name, ifindex)
	if d.link != nil && (d.unfit || !attachedTo(d.link, ifindex)) {
		detach(d.link)
		p.store.Drop(name)
		d.link = nil
	}
	if d.link != nil || d.unfit {
		return
	}
	if d.link, d.err = p.adopt(h, ifindex), nil; d.link == nil {
		d.link, d.err = h.attach(ifindex)
	}
	if d.link != nil {
		p.store.Keep(name, descriptor(d.link))
	}
}

// device is a copy of one, and whether it could cut in tunnels.
func (p *Path) device(have map[int]*device, i int) (d device, bulk bool) {
	if before := have[i]; before != nil {
		d = *before
	}
	return d, d.bulk
}

// put makes a device known.
func (p *Path) put(have map[int]*device, i int, d device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have[i] = &d
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

// look asks what an underlay device is and can.
func (d *device) look(ifindex int) {
	l, err := netlink.LinkByIndex(ifindex)
	if err == nil {
		d.name = l.Attrs().Name
		if l.Attrs().EncapType != "ether" {
			err = errors.New("it is no Ethernet device")
		}
	}
	d.unfit = err != nil
	if d.unfit {
		d.err = err
		return
	}
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
		case d == nil || d.link == nil && d.err == nil:
			s.Reason = "starting"
		case d.link == nil:
			s.Reason = fmt.Sprintf("%s: %v", d.name, d.err)
		default:
			s.Devices = append(s.Devices, netio.FastDevice{Name: d.name, Bulk: d.bulk})
		}
	}
	return s
}
