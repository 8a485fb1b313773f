package udp

import (
	"cmp"
	"net/netip"
	"slices"

	"gvtep/internal/packet"
)

// sender is where datagrams leave from, as Sent tells it.
type sender struct {
	family int
	local  netip.Addr // unspecified if the route chooses it
	device string
}

func senderOf(o PortOptions) sender {
	local := o.Local
	if !local.IsValid() {
		local = netip.IPv4Unspecified()
		if o.Family == 6 {
			local = netip.IPv6Unspecified()
		}
	}
	return sender{o.Family, local, o.Device}
}

func datagrams(set *packet.PortSet) (n uint64) {
	for i := range set.Sent {
		n += set.Sent[i].Load()
	}
	return n
}

// Sent returns how many datagrams the kernel has taken from all source ports,
// those that are closed by now included: one element for each local address
// and device. GSO is true where all that is open sends runs with UDP_SEGMENT.
func (u *Underlay) Sent() []packet.Sent {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := make(map[sender]*packet.Sent)
	for s, n := range u.gone {
		all[s] = &packet.Sent{Family: s.family, Local: s.local, Device: s.device, Datagrams: n}
	}
	opened := make(map[sender]bool)
	for o, shared := range u.sets {
		s := senderOf(o)
		if all[s] == nil {
			all[s] = &packet.Sent{Family: s.family, Local: s.local, Device: s.device}
		}
		to := all[s]
		to.Datagrams += datagrams(shared.set)
		to.GSO = !shared.set.NoGSO && (to.GSO || !opened[s])
		opened[s] = true
	}
	out := make([]packet.Sent, 0, len(all))
	for _, s := range all {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b packet.Sent) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), a.Local.Compare(b.Local), cmp.Compare(a.Device, b.Device))
	})
	return out
}

// Batches is how many datagrams each system call of the sender carried.
func (s *Sender) Batches() *packet.Batches { return &s.batches }
