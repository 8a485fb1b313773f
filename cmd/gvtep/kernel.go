package main

import (
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/tap"
	"gvtep/udp"
	"gvtep/vtep"
)

// Packages tap and udp know nothing of the endpoint, and it nothing of them.
// Here they are put behind its two interfaces, with the store between (store.go).

type tapDevice struct{ *tap.Device }

func (d tapDevice) Queue(worker int) vtep.Queue { return d.Device.Queue(worker) }

func (u underlay) Ports(o vtep.PortOptions) (*packet.PortSet, error) {
	return u.Underlay.Ports(udp.PortOptions(o))
}

func (u underlay) Sender(worker int) vtep.Sender { return u.Underlay.Sender(worker) }

func (u underlay) Route(remote, local netip.Addr, dev string, mark uint32) (vtep.Route, error) {
	r, err := u.Underlay.Route(remote, local, dev, mark)
	return vtep.Route(r), err
}
