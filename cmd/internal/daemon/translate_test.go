package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gvtep/config"
	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
)

func TestVtepTunnel(t *testing.T) {
	addr := netip.MustParseAddr
	in := config.Tunnel{
		Name: "gnv0", VNI: 5, L3: true, Local: addr("::"), Peers: []config.Peer{{Remote: addr("fe80::2"), Name: "x", Port: 9, NoFlood: true, Routes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}, {Remote: addr("2001:db8::2")}}, Dev: "eth0",
		DstPort: 1, SrcPortMin: 2, SrcPortMax: 3, SrcPorts: 2, TTL: config.Inherit, TOS: config.Inherit, DF: config.DFInherit,
		UDPCsum: true, ZeroCsum6: true, AcceptZ6: true, Mark: 7, Learning: true, Ageing: time.Minute, MaxAddress: 9, L2ControlPass: true, VLANDrop: true,
		MTU: 1300, LLAddr: "02:00:00:00:00:01", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}, Netns: "blue", Master: "br0",
		TxQueue: 11, Persist: true, Offload: config.OffloadAuto,
		Group: addr("ff08::1"), Accept: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		NoFlood: true, NoMcastFlood: true, NoBcastFlood: true, BUMLimit: 5, Locked: true, NoMoveDamping: true, NeighSuppress: true,
		Entries: []config.Entry{{MAC: packet.MAC{2, 0, 0, 0, 0, 2}, State: fdb.Static, Remote: addr("fe80::3"), Port: 4, HasVNI: true, Via: "eth1"}},
	}
	want := vtep.Tunnel{
		VNI: 5, Device: netio.DeviceOptions{
			Name: "gnv0", L3: true, MTU: 1300, LLAddr: packet.MAC{2, 0, 0, 0, 0, 1}, Addresses: in.Addresses, Netns: "blue", Master: "br0",
			Persist: true, TxQueue: 11, Offload: true, Down: true,
		},
		Local: addr("::"), Dev: "eth0", DstPort: 1, Peers: []vtep.Peer{{Remote: addr("fe80::2"), Name: "x", Port: 9, NoFlood: true, Routes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}, {Remote: addr("2001:db8::2")}},
		SrcPortMin: 2, SrcPortMax: 3, SrcPorts: 2, TTL: vtep.Inherit, TOS: vtep.Inherit, DF: vtep.DFInherit, UDPCsum: true, ZeroCsum6: true, AcceptZ6: true,
		Mark: 7, Learning: true, Ageing: time.Minute, MaxAddress: 9, L2ControlPass: true, VLANDrop: true,
		Group: addr("ff08::1"), Accept: in.Accept, NoFlood: true, NoMcastFlood: true, NoBcastFlood: true,
		BUMLimit: 5, Locked: true, NoMoveDamping: true, NeighSuppress: true,
		Entries: []vtep.Entry{{MAC: packet.MAC{2, 0, 0, 0, 0, 2}, State: fdb.Static, Remote: addr("fe80::3"), Port: 4, HasVNI: true, Via: "eth1"}},
	}
	if d := cmp.Diff(want, vtepTunnel(&in), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
