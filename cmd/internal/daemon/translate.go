package daemon

import (
	"gvtep/config"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/geneve"
)

func vtepTunnels(tunnels []config.Tunnel) []vtep.Tunnel {
	all := make([]vtep.Tunnel, len(tunnels))
	for i := range tunnels {
		all[i] = vtepTunnel(&tunnels[i])
	}
	return all
}

// vtepTunnel says what config says in the words of the endpoint.
func vtepTunnel(t *config.Tunnel) vtep.Tunnel {
	v := vtep.Tunnel{
		VNI: geneve.VNI(t.VNI), NoVNI: t.NoVNI,
		Device: netio.DeviceOptions{
			Name: t.Name, L3: t.L3, MTU: t.MTU, Addresses: t.Addresses, Netns: t.Netns, Master: t.Master,
			Persist: t.Persist, TxQueue: t.TxQueue, Offload: t.Offload != config.OffloadOff, Down: !t.Up, Isolated: t.Isolated,
		},
		Local: t.Local, Dev: t.Dev, DstPort: t.DstPort,
		SrcPortMin: t.SrcPortMin, SrcPortMax: t.SrcPortMax, SrcPorts: t.SrcPorts,
		TTL: t.TTL, TOS: t.TOS, DF: map[config.DF]vtep.DF{
			config.DFSet: vtep.DFSet, config.DFUnset: vtep.DFUnset, config.DFInherit: vtep.DFInherit,
		}[t.DF],
		UDPCsum: t.UDPCsum, ZeroCsum6: t.ZeroCsum6, AcceptZ6: t.AcceptZ6, Mark: t.Mark,
		Learning: t.Learning, Ageing: t.Ageing, MaxAddress: t.MaxAddress,
		Group:   t.Group,
		NoFlood: t.NoFlood, NoMcastFlood: t.NoMcastFlood, NoBcastFlood: t.NoBcastFlood, BUMLimit: t.BUMLimit,
		Locked: t.Locked, NoMoveDamping: t.NoMoveDamping, NeighSuppress: t.NeighSuppress,
		L2ControlPass: t.L2ControlPass, VLANDrop: t.VLANDrop,
	}
	for _, r := range t.VLANs {
		v.VLANs = append(v.VLANs, vtep.VLANRange{First: r.First, Last: r.Last, VNI: geneve.VNI(r.VNI)})
	}
	for _, p := range t.Accept {
		// Of "any" what the tunnel's own family has.
		if !t.Local.IsValid() || p.Addr().Is4() == t.Local.Is4() {
			v.Accept = append(v.Accept, p)
		}
	}
	for _, n := range t.Neighbours {
		mac, _ := packet.ParseMAC(n.LLAddr) // checked by config
		v.Neighbours = append(v.Neighbours, vtep.Neighbour{Addr: n.Addr, MAC: mac})
	}
	for _, e := range t.Entries {
		v.Entries = append(v.Entries, vtepEntry(t, e))
	}
	if t.TTL == config.Inherit {
		v.TTL = vtep.Inherit
	}
	if t.TOS == config.Inherit {
		v.TOS = vtep.Inherit
	}
	if t.LLAddr != "" {
		v.Device.LLAddr, _ = packet.ParseMAC(t.LLAddr) // checked by config
	}
	for _, p := range t.Peers {
		if p.Remote.Is6() && p.Remote.IsLinkLocalUnicast() {
			p.Remote = p.Remote.WithZone(t.Dev)
		}
		v.Peers = append(v.Peers, p)
	}
	return v
}
