package tap

import (
	"net/netip"
	"time"
)

// The addresses that a device was opened with are a state to be held. The kernel
// removes IPv6 addresses as a side effect of other changes; those come back. An
// address that an administrator deletes stays away. Netlink tells of both with
// the same message, so what comes with it decides.

// grace is how far apart the deletion of an address and its cause are seen at
// most. The kernel sends both under one hold of the RTNL lock, microseconds
// apart, in an order that depends on its version (net/ipv6/addrconf.c).
const grace = 100 * time.Millisecond

// loss is why an address is not there, or why IPv6 is off on a device.
type loss uint8

const (
	none      loss = iota // it is there
	undecided             // it went a moment ago
	tooSmall              // the MTU is less than IPv6 needs
	down
	disabled // by the sysctl disable_ipv6
	unseen   // it went while no watcher was running
	byHand
	moved   // it went when the device was moved to another namespace
	refused // it could not be set
)

// restorable reports whether the address is to come back.
func (l loss) restorable() bool { return l == tooSmall || l == down || l == disabled || l == unseen }

func (l loss) String() string {
	return map[loss]string{
		undecided: "it went a moment ago",
		tooSmall:  "IPv6 needs an MTU of 1280 or more",
		down:      "the kernel removed it when the device went down",
		disabled:  "IPv6 is switched off on the device (sysctl disable_ipv6)",
		unseen:    "it was removed",
		byHand:    "it was deleted by hand",
		moved:     "it went when the device was moved to another network namespace",
		refused:   "it could not be set",
	}[l]
}

// held is one address and what became of it.
type held struct {
	prefix netip.Prefix
	lost   loss
	at     time.Time // when it went, while undecided, or when it came
}

// hold follows the addresses of one device.
type hold struct {
	addresses []held
	off       loss // what keeps IPv6 off the device now; none: nothing does
	// What last began to keep it off, and when.
	lastOff loss
	offAt   time.Time
}

func newHold(prefixes []netip.Prefix) (h hold) {
	for _, p := range prefixes {
		h.addresses = append(h.addresses, held{prefix: p})
	}
	return h
}

// link takes over what keeps IPv6 off the device.
func (h *hold) link(off loss, now time.Time) {
	if off != none && off != h.off {
		h.lastOff, h.offAt = off, now
	}
	if h.off = off; off != none {
		h.decide(off)
	}
}

// decide settles why those IPv6 addresses went of which that is not known.
func (h *hold) decide(why loss) {
	for i := range h.addresses {
		if a := &h.addresses[i]; a.lost == undecided && a.prefix.Addr().Is6() {
			a.lost = why
		}
	}
}

// added notes that an address is there.
func (h *hold) added(p netip.Prefix, now time.Time) {
	if a := h.find(p); a != nil && a.lost != none {
		a.lost, a.at = none, now
	}
}

// removed notes that the kernel told of a deletion.
func (h *hold) removed(p netip.Prefix, now time.Time) {
	a := h.find(p)
	switch {
	case a == nil || a.lost != none:
	// No side effect takes an IPv4 address. One that goes with the first address of
	// its network goes by the same hand.
	case p.Addr().Is6() && h.lastOff != none && now.Sub(h.offAt) < grace && !a.at.After(h.offAt):
		a.lost = h.lastOff
	default:
		a.lost, a.at = undecided, now
	}
}

// revived notes that the kernel has just begun with IPv6 on the device: what went a
// moment ago went because IPv6 was switched off in between.
func (h *hold) revived() { h.decide(disabled) }

// relocated notes that the device was moved to another namespace, which takes all
// addresses away. The one who moved it decides which addresses it has there.
func (h *hold) relocated() {
	for i := range h.addresses {
		h.addresses[i].lost = moved
	}
}

// settle decides about deletions that no cause was seen for.
func (h *hold) settle(now time.Time) {
	for i := range h.addresses {
		if a := &h.addresses[i]; a.lost == undecided && now.Sub(a.at) >= grace {
			a.lost = byHand
		}
	}
}

// due is when settle has something to decide; zero: never.
func (h *hold) due() (at time.Time) {
	for _, a := range h.addresses {
		if a.lost == undecided && (at.IsZero() || a.at.Add(grace).Before(at)) {
			at = a.at.Add(grace)
		}
	}
	return at
}

// compare takes over which addresses are there, when it is not known what has
// happened. What was not seen to be deleted by hand is to come back: that is what
// the configuration says.
func (h *hold) compare(there map[netip.Prefix]bool) {
	for i := range h.addresses {
		a := &h.addresses[i]
		switch {
		case there[a.prefix]:
			a.lost = none
		case a.lost == none || a.lost == undecided:
			a.lost = unseen
			if h.off != none && a.prefix.Addr().Is6() {
				a.lost = h.off
			}
		}
	}
}

// missing lists the addresses that can be set now.
func (h *hold) missing() (list []netip.Prefix) {
	for _, a := range h.addresses {
		if a.lost.restorable() && (h.off == none || a.prefix.Addr().Is4()) {
			list = append(list, a.prefix)
		}
	}
	return list
}

// refused notes that an address may not be set.
func (h *hold) refused(p netip.Prefix) {
	if a := h.find(p); a != nil {
		a.lost = refused
	}
}

func (h *hold) find(p netip.Prefix) *held {
	for i := range h.addresses {
		if h.addresses[i].prefix == p {
			return &h.addresses[i]
		}
	}
	return nil
}
