package main

import (
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/tap"
	"gvtep/udp"
	"gvtep/vtep"
)

// Packages tap and udp know nothing of the endpoint, and it nothing of them.
// Here they are put behind its two interfaces.

// tapDevices is package tap as vtep.Devices.
type tapDevices struct{}

func (tapDevices) Open(o vtep.DeviceOptions) (vtep.Device, error) {
	d, err := tap.Open(tap.Options(o))
	if err != nil {
		return nil, err
	}
	return tapDevice{d}, nil
}

func (tapDevices) CloseAll(devices []vtep.Device) error {
	taps := make([]*tap.Device, len(devices))
	for i, d := range devices {
		taps[i] = d.(tapDevice).Device
	}
	return tap.CloseAll(taps)
}

type tapDevice struct{ *tap.Device }

func (d tapDevice) Queue(worker int) vtep.Queue { return d.Device.Queue(worker) }

// underlay is package udp as vtep.Underlay.
type underlay struct{ *udp.Underlay }

func (u underlay) Listen(o vtep.ListenOptions) (vtep.Listener, error) {
	l, err := u.Underlay.Listen(udp.ListenOptions(o))
	if err != nil {
		return nil, err
	}
	return listener{l}, nil
}

func (u underlay) Ports(o vtep.PortOptions) (*packet.PortSet, error) {
	return u.Underlay.Ports(udp.PortOptions(o))
}

func (u underlay) Sender(worker int) vtep.Sender { return u.Underlay.Sender(worker) }

func (u underlay) Route(remote, local netip.Addr, dev string, mark uint32) (vtep.Route, error) {
	r, err := u.Underlay.Route(remote, local, dev, mark)
	return vtep.Route(r), err
}

type listener struct{ *udp.Listener }

// Receiver turns the nil of a worker without a socket into a nil interface.
func (l listener) Receiver(worker int) vtep.Receiver {
	if r := l.Listener.Receiver(worker); r != nil {
		return r
	}
	return nil
}
