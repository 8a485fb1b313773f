package spec

import (
	"net/netip"
	"slices"
)

// setting is what a keyword stands for: whether two tunnels have the same of it.
type setting struct {
	keyword string
	same    func(a, b *Tunnel) bool
}

// fixed are the settings that cannot change while the tunnel is there: what names it on
// the wire, the sockets it listens on, and what a device has from when it is made.
func fixed() []setting {
	return []setting{
		{"encap", func(a, b *Tunnel) bool { return a.Encap == b.Encap }},
		{"id", func(a, b *Tunnel) bool { return a.VNI == b.VNI && a.NoVNI == b.NoVNI }},
		{"mode", func(a, b *Tunnel) bool { return a.Device.L3 == b.Device.L3 }},
		{"local", func(a, b *Tunnel) bool { return given(a.Local) == given(b.Local) }},
		{"dev", func(a, b *Tunnel) bool { return a.Dev == b.Dev }},
		{"dstport", func(a, b *Tunnel) bool { return a.DstPort == b.DstPort }},
		{"udp6zerocsumrx", func(a, b *Tunnel) bool { return a.AcceptZ6 == b.AcceptZ6 }},
		{"address", func(a, b *Tunnel) bool { return slices.Equal(a.Device.Addresses, b.Device.Addresses) }},
		{"lladdr", func(a, b *Tunnel) bool { return a.Device.LLAddr == b.Device.LLAddr }},
		{"master", func(a, b *Tunnel) bool { return a.Device.Master == b.Device.Master }},
		{"device_netns", func(a, b *Tunnel) bool { return a.Device.Netns == b.Device.Netns }},
		{"numqueues", func(a, b *Tunnel) bool { return a.Device.Queues == b.Device.Queues }},
		{"txqueuelen", func(a, b *Tunnel) bool { return a.Device.TxQueue == b.Device.TxQueue }},
		{"persist", func(a, b *Tunnel) bool { return a.Device.Persist == b.Device.Persist }},
		{"offload", func(a, b *Tunnel) bool { return a.Device.Offload == b.Device.Offload && a.NeedOffload == b.NeedOffload }},
	}
}

// given is an address that somebody chose: an unspecified one follows from the peers,
// which may come and go.
func given(local netip.Addr) netip.Addr {
	if local.IsUnspecified() {
		return netip.Addr{}
	}
	return local
}

// Live reports whether what a keyword of a tunnel stands for can change while packets
// flow.
func Live(keyword string) bool {
	return !slices.ContainsFunc(fixed(), func(s setting) bool { return s.keyword == keyword })
}

// Fixed returns the keyword of the first setting that cannot change while the tunnel is
// there and differs between two tunnels, "" if there is none.
func Fixed(a, b *Tunnel) string {
	for _, s := range fixed() {
		if !s.same(a, b) {
			return s.keyword
		}
	}
	return ""
}
