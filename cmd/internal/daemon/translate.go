package daemon

import (
	"gvtep/config"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
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
		VNI: t.VNI, NoVNI: t.NoVNI, VLANs: t.VLANs,
		Device: netio.DeviceOptions{
			Name: t.Name, L3: t.L3, MTU: t.MTU, Addresses: t.Addresses, Netns: t.Netns, Master: t.Master,
			Persist: t.Persist, TxQueue: t.TxQueue, Offload: t.Offload != config.OffloadOff, Down: !t.Up, Isolated: t.Isolated,
		},
		Local: t.Local, Dev: t.Dev, DstPort: t.DstPort,
		SrcPortMin: t.SrcPortMin, SrcPortMax: t.SrcPortMax, SrcPorts: t.SrcPorts,
		TTL: t.TTL, TOS: t.TOS, DF: t.DF,
		UDPCsum: t.UDPCsum, ZeroCsum6: t.ZeroCsum6, AcceptZ6: t.AcceptZ6, Mark: t.Mark,
		Learning: t.Learning, Ageing: t.Ageing, MaxAddress: t.MaxAddress,
		Group:   t.Group,
		NoFlood: t.NoFlood, NoMcastFlood: t.NoMcastFlood, NoBcastFlood: t.NoBcastFlood, BUMLimit: t.BUMLimit,
		Locked: t.Locked, NoMoveDamping: t.NoMoveDamping, NeighSuppress: t.NeighSuppress,
		L2ControlPass: t.L2ControlPass, VLANDrop: t.VLANDrop,
		Peers: t.Peers, Accept: t.Accept, Neighbours: t.Neighbours, Entries: t.Entries,
	}
	if t.LLAddr != "" {
		v.Device.LLAddr, _ = packet.ParseMAC(t.LLAddr) // checked by config
	}
	return v
}
