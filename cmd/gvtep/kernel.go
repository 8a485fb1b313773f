package main

import (
	"gvtep/internal/netio"
	"gvtep/tap"
)

// Packages tap and udp know nothing of the endpoint, and it nothing of them.
// Here they are put behind its two interfaces, with the store between (store.go).

type tapDevice struct{ *tap.Device }

func (d tapDevice) Queue(worker int) netio.Queue { return d.Device.Queue(worker) }

func (u underlay) Sender(worker int) netio.Sender { return u.Underlay.Sender(worker) }
