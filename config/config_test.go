package config

import (
	"fmt"
	"gvtep/vtep/option"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/spec"
)

// parseWords reads "NAME WORDS" as gvtep run does.
func parseWords(line string) (Tunnel, error) {
	words := strings.Fields(line)
	d := NewDraft()
	d.SetName(words[0])
	if err := d.Words(words[1:]); err != nil {
		return Tunnel{}, err
	}
	cfg, err := d.Config()
	if err != nil {
		return Tunnel{}, err
	}
	return cfg.Tunnels[0], nil
}

// with returns the shortest valid tunnel with something changed.
func with(change func(*Tunnel)) Tunnel {
	t := Tunnel{
		VNI: 100, Device: spec.Device{Name: "gnv0", Offload: true},
		Local: netip.MustParseAddr("0.0.0.0"), Peers: peers("203.0.113.1"),
		DstPort: 6081, SrcPortMin: 49152, SrcPortMax: 65535, SrcPorts: 64,
		TTL: 64, DF: DFSet, UDPCsum: true,
		Learning: true, Ageing: 300 * time.Second, MaxAddress: 4096,
	}
	change(&t)
	return t
}

func peers(remotes ...string) (all []Peer) {
	for _, r := range remotes {
		all = append(all, Peer{Remote: netip.MustParseAddr(r)})
	}
	return all
}

func TestWords(t *testing.T) {
	addr := netip.MustParseAddr
	const short = "gnv0 id 100 remote 203.0.113.1 "
	for _, tt := range []struct {
		line string
		want func(*Tunnel)
	}{
		{short, func(*Tunnel) {}},
		{"gnv0 type geneve id 100 remote 203.0.113.1", func(*Tunnel) {}},
		{"gnv0 vni 0x64 remote 203.0.113.1", func(*Tunnel) {}},
		{"gnv0 id 0 remote 203.0.113.1", func(t *Tunnel) { t.VNI = 0 }},
		{"gnv0 id 16777215 remote 203.0.113.1", func(t *Tunnel) { t.VNI = 1<<24 - 1 }},
		{short + "remote 203.0.113.2", func(t *Tunnel) { t.Peers = peers("203.0.113.1", "203.0.113.2") }},
		{short + "local 198.51.100.1", func(t *Tunnel) { t.Local = addr("198.51.100.1") }},
		{"gnv0 id 100 remote 2001:db8::2", func(t *Tunnel) { t.Peers, t.Local = peers("2001:db8::2"), addr("::") }},
		{"gnv0 id 100 remote fe80::2 dev eth0", func(t *Tunnel) {
			t.Peers, t.Local, t.Dev = peers("fe80::2"), addr("::"), "eth0"
		}},
		{short + "dstport 1", func(t *Tunnel) { t.DstPort = 1 }},
		{short + "srcport 50000 50009", func(t *Tunnel) { t.SrcPortMin, t.SrcPortMax, t.SrcPorts = 50000, 50009, 10 }},
		{short + "srcport 50000-50000 ttl 9", func(t *Tunnel) { t.SrcPortMin, t.SrcPortMax, t.SrcPorts, t.TTL = 50000, 50000, 1, 9 }},
		{short + "ttl auto", func(*Tunnel) {}},
		{short + "ttl inherit", func(t *Tunnel) { t.TTL = Inherit }},
		{short + "hoplimit 255", func(t *Tunnel) { t.TTL = 255 }},
		{short + "tos 0xb8", func(t *Tunnel) { t.TOS = 184 }},
		{short + "tos inherit", func(t *Tunnel) { t.TOS = Inherit }},
		{short + "df unset", func(t *Tunnel) { t.DF = DFUnset }},
		{short + "df inherit", func(t *Tunnel) { t.DF = DFInherit }},
		{short + "noudpcsum udp6zerocsumtx udp6zerocsumrx", func(t *Tunnel) { t.UDPCsum, t.ZeroCsum6, t.AcceptZ6 = false, true, true }},
		{short + "udpcsum noudp6zerocsumtx noudp6zerocsumrx learning up", func(*Tunnel) {}},
		{short + "nolearning noup", func(t *Tunnel) { t.Learning, t.Device.Down = false, true }},
		{short + "ageing 0", func(t *Tunnel) { t.Ageing = 0 }},
		{short + "ageing 60", func(t *Tunnel) { t.Ageing = time.Minute }},
		{short + "ageing 1h", func(t *Tunnel) { t.Ageing = time.Hour }},
		{short + "maxaddr 1", func(t *Tunnel) { t.MaxAddress = 1 }},
		{short + "fwmark 0xffffffff", func(t *Tunnel) { t.Mark = 1<<32 - 1 }},
		{short + "l2_control pass vlan_tags drop", func(t *Tunnel) { t.L2ControlPass, t.VLANDrop = true, true }},
		{"gnv0 id 100 group 239.1.1.1 dev eth0", func(t *Tunnel) { t.Peers, t.Group, t.Dev = nil, addr("239.1.1.1"), "eth0" }},
		{short + "group 239.1.1.1 dev eth0", func(t *Tunnel) { t.Group, t.Dev = addr("239.1.1.1"), "eth0" }},
		{"gnv0 id 100 group ff08::1 dev eth0", func(t *Tunnel) { t.Peers, t.Group, t.Dev, t.Local = nil, addr("ff08::1"), "eth0", addr("::") }},
		{"gnv0 id 100 accept 203.0.113.0/24 accept 198.51.100.7", func(t *Tunnel) {
			t.Peers, t.Accept = nil, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.7/32")}
		}},
		{"gnv0 id 100 remote none", func(t *Tunnel) { t.Peers, t.Local = []Peer{}, netip.Addr{} }},
		{"gnv0 id 100 remote none local 192.0.2.1", func(t *Tunnel) { t.Peers, t.Local = []Peer{}, netip.MustParseAddr("192.0.2.1") }},
		{"gnv0 id 100 accept any", func(t *Tunnel) { t.Peers, t.Accept, t.Local = nil, []netip.Prefix{any4, any6}, netip.Addr{} }},
		{short + "accept any", func(t *Tunnel) { t.Accept = []netip.Prefix{any4, any6} }},
		{short + "flood off mcast_flood off bcast_flood off", func(t *Tunnel) { t.NoFlood, t.NoMcastFlood, t.NoBcastFlood = true, true, true }},
		{short + "flood on mcast_flood on bcast_flood on locked off move_damping on neigh_suppress off bum_limit 0", func(*Tunnel) {}},
		{short + "bfd on", func(t *Tunnel) { t.BFD = spec.BFD{Interval: 300 * time.Millisecond, Mult: 3} }},
		{short + "bfd 100msx5", func(t *Tunnel) { t.BFD = spec.BFD{Interval: 100 * time.Millisecond, Mult: 5} }},
		{short + "bfd 1s", func(t *Tunnel) { t.BFD = spec.BFD{Interval: time.Second, Mult: 3} }},
		{short + "bfd off", func(*Tunnel) {}},
		{short + "bum_limit 500 locked on move_damping off neigh_suppress on", func(t *Tunnel) {
			t.BUMLimit, t.Locked, t.NoMoveDamping, t.NeighSuppress = 500, true, true, true
		}},
		{short + "neigh_suppress on neigh 192.0.2.9=02:00:00:00:0A:09 neigh 2001:db8::9=02:00:00:00:0a:09", func(t *Tunnel) {
			t.NeighSuppress, t.Neighbours = true, []Neighbour{{Addr: addr("192.0.2.9"), MAC: packet.MAC{2, 0, 0, 0, 0x0a, 9}}, {Addr: addr("2001:db8::9"), MAC: packet.MAC{2, 0, 0, 0, 0x0a, 9}}}
		}},
		{short + "mtu 68", func(t *Tunnel) { t.Device.MTU = 68 }},
		{short + "mtu auto", func(*Tunnel) {}},
		{short + "address 192.0.2.1/24 address fd00::1/64", func(t *Tunnel) {
			t.Device.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fd00::1/64")}
		}},
		{short + "lladdr 02:00:00:00:0A:01", func(t *Tunnel) { t.Device.LLAddr = packet.MAC{2, 0, 0, 0, 0x0a, 1} }},
		{short + "master br0 netns blue txqueuelen 500 persist on", func(t *Tunnel) {
			t.Device.Master, t.Device.Netns, t.Device.TxQueue, t.Device.Persist = "br0", "blue", 500, true
		}},
		{"gnv0 mtu 1400 address 02:00:00:00:0a:01 txqlen 500 type geneve id 100 remote 203.0.113.1 address 192.0.2.1/24", func(t *Tunnel) {
			t.Device.MTU, t.Device.LLAddr, t.Device.TxQueue, t.Device.Addresses = 1400, packet.MAC{2, 0, 0, 0, 0x0a, 1}, 500, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
		}},
		{short + "netns /run/netns/blue", func(t *Tunnel) { t.Device.Netns = "/run/netns/blue" }},
		{short + "queues auto offload off log-level debug rcvbuf 1M", func(t *Tunnel) { t.Device.Offload = false }},
		{short + "offload on noup", func(t *Tunnel) { t.NeedOffload, t.Device.Down = true, true }},
		{short + "innerprotoinherit", func(t *Tunnel) { t.Device.L3 = true }},
		{short + "mode l3", func(t *Tunnel) { t.Device.L3 = true }},
	} {
		got, err := parseWords(tt.line)
		if err != nil {
			t.Errorf("%s: %v", tt.line, err)
			continue
		}
		opt := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}
		if d := cmp.Diff(with(tt.want), got, opt); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.line, d)
		}
	}
}

func TestErrors(t *testing.T) {
	const short = "gnv0 id 100 remote 203.0.113.1 "
	for _, tt := range []struct{ line, want string }{
		{"gnv0", "no id: add the VNI of the tunnel, id 0 to 16777215"},
		{"gnv0 id 5", "no remote: add the address of the other end, remote ADDR"},
		{"gnv0 id 16777216", "id 16777216: a VNI is 0 to 16777215"},
		{"gnv0 vni -1", "vni -1: a VNI is 0 to 16777215"},
		{"gnv0 id 1_0", "id 1_0: a VNI is 0 to 16777215"},
		{"gnv0 id", "id needs a value: id VNI"},
		{"gnv0 id 1 vni 1", "id is given twice"},
		{"gnv0 remot 1.2.3.4", `unknown keyword "remot": did you mean remote?`},
		{"gnv0 noupdcsum", `unknown keyword "noupdcsum": did you mean noudpcsum?`},
		{"gnv0 frobnicate", `unknown keyword "frobnicate": gvtep run --help lists them`},
		{"gnv0 external", "external: a TAP has no metadata per packet, use one tunnel for each VNI, or vlan"},
		{"gnv0 type vxlan id 1 proxy", "proxy: use neigh_suppress on, which answers ARP and ND"},
		{"gnv0 type vxlan id 1 novnifilter", "novnifilter: a TAP has no metadata per packet, use one tunnel for each VNI, or vlan"},
		{"gnv0 type vxlan id 1 nol3miss", "nol3miss: leave it out; gvtep monitor tells what happens"},
		{"gnv0 type vxlan id 1 gbp", "gbp: leave it out, gvtep has none of this"},
		{"gnv0 type gre", "type gre: want geneve or vxlan"},
		{"gnv0 remote 0.0.0.0", "remote 0.0.0.0: no host, want the address of the other end"},
		{"gnv0 remote ::", "remote ::: no host, want the address of the other end"},
		{"gnv0 remote 255.255.255.255", "remote 255.255.255.255: the broadcast address, want that of one host"},
		{"gnv0 remote 239.1.1.1", "remote 239.1.1.1: a multicast address, want that of one host"},
		{"gnv0 remote ff02::1", "remote ff02::1: a multicast address, want that of one host"},
		{"gnv0 learning on nolearning", "learning is given twice"},
		{"gnv0 remote 203.0.113.1:6082", "remote 203.0.113.1:6082: an address and a port: write 203.0.113.1 alone, and dstport 6082"},
		{"gnv0 local 203.0.113.1/24", "local 203.0.113.1/24: a prefix: write 203.0.113.1 alone"},
		{"gnv0 remote [2001:db8::1]:6081", "remote [2001:db8::1]:6081: an address and a port: write 2001:db8::1 alone, and dstport 6081"},
		{"gnv0 device_netns ../x", "device_netns ../x: want a name as ip netns has it, or an absolute path"},
		{"gnv0 remote hostb", "remote hostb: not an IP address (names are not looked up)"},
		{"gnv0 remote fe80::1%eth0", "remote fe80::1%eth0: write the address without zone, and dev eth0"},
		{"gnv0 remote ::ffff:192.0.2.1", "remote ::ffff:192.0.2.1: an IPv4 address, write 192.0.2.1"},
		{"gnv0 id 1 remote fe80::1", "remote fe80::1 is link-local: name the underlay device, dev DEVICE"},
		{short + "remote 203.0.113.1", "remote 203.0.113.1 is given twice"},
		{short + "local 192.0.2.1 remote 2001:db8::1", "remote 2001:db8::1 and local 192.0.2.1 are of different families: without local, remotes may be of both"},
		{short + "group 239.1.1.1 dev eth0 remote 2001:db8::1", "remote 2001:db8::1 and group 239.1.1.1 are of different families"},
		{short + "local 2001:db8::1", "local 2001:db8::1 and remote 203.0.113.1 are of different families"},
		{short + "local 203.0.113.1", "local and remote are both 203.0.113.1: remote is the address of the other host"},
		{short + "local 224.0.0.1", "local 224.0.0.1: a multicast address, want that of one host"},
		{short + "dev gnv0", "dev gnv0 is the tunnel itself: dev is the underlay device"},
		{short + "dev eth/0", `dev eth/0: device name "eth/0" contains '/'`},
		{short + "dstport 0", "dstport 0: a UDP port is 1 to 65535"},
		{short + "dstport 65536", "dstport 65536: a UDP port is 1 to 65535"},
		{short + "srcport 0 10", "srcport 0-10: want two ports from 1 to 65535, the smaller first"},
		{short + "srcport 20 10", "srcport 20-10: want two ports from 1 to 65535, the smaller first"},
		{short + "srcport 20", "srcport needs a value: srcport MIN MAX"},
		{short + "srcport 20 ttl", "srcport 20-ttl: want two ports from 1 to 65535, the smaller first"},
		{short + "ttl 0", "ttl 0: want auto, inherit or 1 to 255"},
		{short + "ttl 256", "ttl 256: want auto, inherit or 1 to 255"},
		{short + "tos 256", "tos 256: want inherit or 0 to 0xff"},
		{short + "tos 0xb9", "tos 0xb9: the two low bits are ECN and not a setting (RFC 6040), try 0xb8"},
		{short + "df yes", "df yes: want set, unset or inherit"},
		{short + "udpcsum noudpcsum", "udpcsum is given twice"},
		{short + "ageing -1", "ageing -1: want seconds, or a time such as 5m; 0 is for ever"},
		{short + "ageing 1.5s", "ageing 1.5s: want seconds, or a time such as 5m; 0 is for ever"},
		{short + "maxaddress 0", "maxaddress 0: want 1 to 16777216"},
		{short + "fwmark 4294967296", "fwmark 4294967296: a mark is a number of 32 bits, such as 7 or 0x7"},
		{short + "l2_control on", "l2_control on: want drop or pass"},
		{short + "group 203.0.113.9", "group 203.0.113.9: not a multicast address, that of one host is a remote"},
		{short + "group 239.1.1.1", "group 239.1.1.1: name the underlay device, dev DEVICE"},
		{short + "group ff08::1 dev eth0", "group ff08::1 and remote 203.0.113.1 are of different families"},
		{short + "group ff01::1", "group ff01::1: it does not leave the host, want one of a larger scope"},
		{short + "mode l3 group 239.1.1.1 dev eth0", "group 239.1.1.1: a mode l3 tunnel does not flood, it goes to remotes"},
		{short + "remote none", "remote none: none stands alone"},
		{"gnv0 id 100 remote none remote 203.0.113.1", "remote 203.0.113.1: none stands alone"},
		{short + "accept all", "accept all: want a prefix such as 192.0.2.0/24, or any"},
		{short + "accept 10.0.0.1/8", "accept 10.0.0.1/8: there are bits behind the prefix, try 10.0.0.0/8"},
		{short + "accept 10.0.0.0/8 accept 10.0.0.0/8", "accept 10.0.0.0/8: given twice"},
		{short + "accept 2001:db8::/32", "accept 2001:db8::/32 and remote 203.0.113.1 are of different families"},
		{short + "mode l3 accept any", "accept 0.0.0.0/0: a mode l3 tunnel takes packets from its remotes only"},
		{"gnv0 id 1 local ::1 accept 10.0.0.0/8", "accept 10.0.0.0/8 and local ::1 are of different families"},
		{short + "neigh 192.0.2.9=02:00:00:00:0a:09", "neigh 192.0.2.9=02:00:00:00:0a:09: it is neigh_suppress that answers for it, set neigh_suppress on"},
		{short + "neigh_suppress on neigh 192.0.2.9", "neigh 192.0.2.9: want an IP address and an Ethernet address, such as 192.0.2.9=02:00:00:00:0a:09"},
		{short + "neigh_suppress on neigh 239.1.1.1=02:00:00:00:0a:09", "neigh 239.1.1.1=02:00:00:00:0a:09: 239.1.1.1 is not the address of one station"},
		{short + "neigh_suppress on neigh 192.0.2.9=01:00:5e:00:00:01", "neigh 192.0.2.9=01:00:5e:00:00:01: want the Ethernet address of one station behind the ="},
		{short + "neigh_suppress on neigh 192.0.2.9=02:00:00:00:0a:09 neigh 192.0.2.9=02:00:00:00:0a:08", "neigh 192.0.2.9=02:00:00:00:0a:08: 192.0.2.9 is given twice"},
		{short + "mode l3 neigh 192.0.2.9=02:00:00:00:0a:09", "neigh is for mode l2: a mode l3 tunnel has no Ethernet frames"},
		{"gnv0 vlan 5:7 remote 203.0.113.1 neigh_suppress on neigh 192.0.2.9=02:00:00:00:0a:09", "neigh 192.0.2.9=02:00:00:00:0a:09: it is for frames without a tag, which have no segment here: give the trunk an id"},
		{short + "flood yes", "flood yes: want on or off"},
		{short + "bfd 49msx3", "bfd 49msx3: want off, on, or an interval from 50ms to 60s and how many of them, such as 100msx3"},
		{short + "bfd 100msx0", "bfd 100msx0: want off, on, or an interval from 50ms to 60s and how many of them, such as 100msx3"},
		{short + "encap vxlan bfd on", "bfd: encap vxlan has no control packets, encap geneve has"},
		{short + "bum_limit -1", "bum_limit -1: want 0 to 1000000000 frames a second"},
		{short + "mtu 67", "mtu 67: want auto or 68 to 65535"},
		{short + "mtu 65536", "mtu 65536: want auto or 68 to 65535"},
		{short + "address 192.0.2.1", "address 192.0.2.1: no prefix length, write for example 192.0.2.1/24"},
		{short + "address 192.0.2.1/33", "address 192.0.2.1/33: want an address with prefix length, such as 192.0.2.1/24"},
		{short + "address 02:00:00:00:0a:01 lladdr 02:00:00:00:0a:02", "lladdr is given twice"},
		{short + "address 192.0.2.1/24 address 192.0.2.1/24", "address 192.0.2.1/24: given twice"},
		{short + "lladdr 01:00:5e:00:00:01", "lladdr 01:00:5e:00:00:01: a group address, the first byte must be even"},
		{short + "lladdr 00:00:00:00:00:00", "lladdr 00:00:00:00:00:00: not the address of a device"},
		{short + "lladdr 02", "lladdr 02: want an Ethernet address, such as 02:00:00:00:0a:01"},
		{short + "netns ../x", "netns ../x: want a name as ip netns has it, or an absolute path"},
		{short + "txqueuelen 0", "txqueuelen 0: want 1 to 1048576 packets"},
		{short + "persist yes", "persist yes: want on or off"},
		{short + "workers 0", "workers 0: want auto or 1 to 255"},
		{short + "workers 256", "workers 256: want auto or 1 to 255"},
		{short + "mode l2 innerprotoinherit", "mode is given twice"},
		{short + "mode l3 lladdr 02:00:00:00:00:01", "lladdr 02:00:00:00:00:01: a mode l3 device has no Ethernet address"},
		{short + "mode l3 learning", "learning is for mode l2: a mode l3 tunnel has no Ethernet frames"},
		{short + "mode l3 bum_limit 9", "bum_limit is for mode l2: a mode l3 tunnel has no Ethernet frames"},
		{short + "mode l3 remote 203.0.113.2", "remote 203.0.113.1: a mode l3 tunnel with several remotes needs routes for each: networks such as 10.1.0.0/16, or any, or none"},
		{short + "mode l3 master br0", "master br0: a mode l3 device cannot join a bridge"},
		{short + "mode l3 encap vxlan", "mode l3: encap vxlan carries Ethernet frames only, encap geneve also IP packets"},
		{short + "encap vxlan options ff01:01:", "options: encap vxlan has none, encap geneve has"},
		{short + "type vxlan encap geneve", "encap is given twice"},
		{"abcdefghijklmnop id 1 remote 192.0.2.1", `device name "abcdefghijklmnop" has 16 bytes, at most 15 are possible`},
		{"gnv%d id 1 remote 192.0.2.1", `device name "gnv%d" contains '%'`},
		{"all id 1 remote 192.0.2.1", `device name "all" is reserved (/proc/sys/net has directories of this name)`},
	} {
		_, err := parseWords(tt.line)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s\n got  %v\n want %s", tt.line, err, tt.want)
		}
	}
}

// The flag form of switches carries a value.
func TestSetSwitch(t *testing.T) {
	for _, tt := range []struct {
		word, value string
		want        bool
	}{
		{"udpcsum", "true", true}, {"udpcsum", "false", false},
		{"noudpcsum", "true", false}, {"noudpcsum", "false", true},
	} {
		d := NewDraft()
		if err := d.Set(tt.word, tt.value); err != nil {
			t.Errorf("%s=%s: %v", tt.word, tt.value, err)
		}
		if got := d.tunnel.UDPCsum; got != tt.want {
			t.Errorf("%s=%s: UDPCsum is %v, want %v", tt.word, tt.value, got, tt.want)
		}
	}
	for _, word := range []string{"udpcsum", "innerprotoinherit"} {
		if err := NewDraft().Set(word, "maybe"); err == nil {
			t.Errorf("%s=maybe: no error", word)
		}
	}
}

func TestWarnings(t *testing.T) {
	for line, want := range map[string]int{
		"gnv0 id 1 remote 192.0.2.1": 1, "gnv0 id 2 remote 192.0.2.1": 0,
	} {
		tun, err := parseWords(line)
		if got := len(Warnings(&tun)); err != nil || got != want {
			t.Errorf("%s: %d warnings, error %v, want %d", line, got, err, want)
		}
	}
}

// Every keyword has all that the help, the flags and the parser need, and its
// default, given by hand, changes nothing.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Keywords() {
		for _, w := range k.Words() {
			if seen[w] {
				t.Errorf("%s: two meanings", w)
			}
			seen[w] = true
		}
	}
	testTable(t, tunnelKeywords(option.Default()), defaults())
	testTable(t, peerKeywords(option.Default()), Peer{})
	testTable(t, append(entryKeywords(option.Default()), handKeywords()...), defaultEntry())
	testTable(t, socketKeywords(), defaultSocket())
	testTable(t, logKeywords(), defaultLog())
}

func testTable[T any](t *testing.T, table []entry[T], initial T) {
	for _, e := range table {
		if e.Usage == "" || (e.Kind <= List) != (e.Arg != "") || (e.set == nil || e.get == nil) != (e.Kind == Short) {
			t.Errorf("%s: incomplete entry %+v", e.Name, e.Keyword)
		}
		if e.Default == "" {
			if e.get != nil && e.Name != "id" && e.get(&initial) != nil {
				t.Errorf("%s: no default, but %q without being set", e.Name, e.get(&initial))
			}
			continue
		}
		got := initial
		if err := e.give(&got, e.Name, strings.ReplaceAll(e.Default, " ", "-")); err != nil {
			t.Errorf("default of %s: %v", e.Name, err)
		}
		if diff := cmp.Diff(initial, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s %s is not the default:\n%s", e.Name, e.Default, diff)
		}
		// What get says is what set takes.
		if err := e.give(&got, e.Name, strings.Join(e.get(&initial), "-")); err != nil {
			t.Errorf("%s: get: %v", e.Name, err)
		}
	}
}

// The words of peers and entries are those of their tables.
func TestParse(t *testing.T) {
	addr := netip.MustParseAddr
	same := cmpopts.EquateComparable(netip.Addr{})
	for line, want := range map[string]Peer{
		"192.0.2.2":                             {Remote: addr("192.0.2.2")},
		"192.0.2.2 name leaf2 port 7 noflood":   {Remote: addr("192.0.2.2"), Name: "leaf2", Port: 7, NoFlood: true},
		"2001:db8::2 dstport 7 flood name leaf": {Remote: addr("2001:db8::2"), Name: "leaf", Port: 7},
		"192.0.2.2 routes 10.1.0.0/16,fd01::/48 routes 10.2.0.1": {Remote: addr("192.0.2.2"), Routes: []netip.Prefix{
			netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd01::/48"), netip.MustParsePrefix("10.2.0.1/32")}},
		"192.0.2.2 routes any":  {Remote: addr("192.0.2.2"), Routes: []netip.Prefix{any4, any6}},
		"192.0.2.2 routes none": {Remote: addr("192.0.2.2"), Routes: []netip.Prefix{}},
	} {
		words := strings.Fields(line)
		if got, err := ParsePeer(Peer{}, words[0], words[1:], option.Default()); err != nil || !got.Equal(want) {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	had := Peer{Remote: addr("192.0.2.2"), Name: "x", Routes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}
	for line, want := range map[string]string{
		"name y":             "[10.9.0.0/16]",
		"routes 10.1.0.0/16": "[10.1.0.0/16]", // instead of what there was
		"routes none":        "[]",
	} {
		got, err := ParsePeer(had, "192.0.2.2", strings.Fields(line), option.Default())
		if err != nil || fmt.Sprint(got.Routes) != want {
			t.Errorf("%s over 10.9.0.0/16: %v, %v, want %s", line, got.Routes, err, want)
		}
	}
	for line, want := range map[string]string{
		"routes 10.1.0.1/16":            "routes 10.1.0.1/16: there are bits behind the prefix, try 10.1.0.0/16",
		"routes 10.1.0.0/33":            "routes 10.1.0.0/33: want a prefix such as 10.1.0.0/16, any or none",
		"routes ::ffff:10.1.0.0/112":    "routes ::ffff:10.1.0.0/112: an IPv4 address, write it as one",
		"routes any,10.0.0.0/8,any":     "routes 0.0.0.0/0: given twice",
		"routes 10.0.0.0/8 routes none": "routes none: none stands alone",
		"routes none routes 10.0.0.0/8": "routes 10.0.0.0/8: none stands alone",
		"routes":                        "routes needs a value: routes PREFIX|any|none",
		"allowed-ips 10.1.0.0":          "",
		"routes 10.1.0.0/16 port 0":     "port 0: a UDP port is 1 to 65535",
	} {
		if _, err := ParsePeer(had, "192.0.2.2", strings.Fields(line), option.Default()); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	const mac = "02:00:00:00:00:01"
	mac1 := packet.MAC{2, 0, 0, 0, 0, 1}
	for line, want := range map[string]Entry{
		mac + " dst 192.0.2.2 self permanent":               {MAC: mac1, Remote: addr("192.0.2.2"), State: fdb.Permanent},
		mac + " static dst 192.0.2.2 port 7 vni 0 via eth0": {MAC: mac1, Remote: addr("192.0.2.2"), State: fdb.Static, Port: 7, HasVNI: true, Via: "eth0"},
		mac + " dynamic sticky extern_learn dst 192.0.2.2":  {MAC: mac1, Remote: addr("192.0.2.2"), State: fdb.Dynamic, Flags: fdb.Sticky | fdb.ExternLearn},
		mac + " static dst 192.0.2.2 options ff01:01:0000004d options ff01:02:@vlan": {MAC: mac1, Remote: addr("192.0.2.2"), State: fdb.Static,
			Options: sentOf(t, "ff01:01:0000004d,ff01:02:@vlan").Share()},
		mac + " local":                    {MAC: mac1, State: fdb.Permanent, Local: true},
		"00:00:00:00:00:00 dst 192.0.2.2": {Remote: addr("192.0.2.2"), State: fdb.Permanent},
	} {
		words := strings.Fields(line)
		got, err := ParseEntry(words[0], words[1:], option.Default())
		if d := cmp.Diff(want, got, same); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", line, err, d)
		}
	}
	for line, want := range map[string]string{
		"02:00":                             "02:00: want an Ethernet address, such as 02:00:00:00:0a:01",
		mac + " dts 192.0.2.2":              `unknown keyword "dts": did you mean dst?`,
		mac + " static dynamic":             "dynamic and static exclude each other",
		mac + " static permanent":           "state is given twice",
		mac + " sticky dst 192.0.2.2":       "sticky and extern_learn are for dynamic entries: add dynamic",
		mac + " local dst 192.0.2.2":        "local and dst exclude each other",
		mac + " dst 239.1.1.1":              "dst 239.1.1.1: a multicast address, want that of one host",
		mac + " dst 192.0.2.2 port 0":       "port 0: a UDP port is 1 to 65535",
		mac + " dst 192.0.2.2 options ff01": `options ff01: option "ff01": want CLASS:TYPE:DATA, such as 0102:80:00010002, or NAME:DATA`,
		mac + " dst 192.0.2.2 frobnics":     `unknown keyword "frobnics": gvtep fdb --help lists them`,
	} {
		words := strings.Fields(line)
		if _, err := ParseEntry(words[0], words[1:], option.Default()); err == nil || err.Error() != want {
			t.Errorf("%s\n got  %v\n want %s", line, err, want)
		}
	}
}

// A tunnel that is amended keeps what is not named.
func TestAmendTunnel(t *testing.T) {
	before := with(func(t *Tunnel) { t.Peers, t.TTL = peers("203.0.113.1", "203.0.113.2"), 9; t.Peers[1].Name = "two" })
	got, err := AmendTunnel(before, strings.Fields("tos 4 remote 203.0.113.2 remote 203.0.113.3"), option.Default(), "help")
	if err == nil {
		err = completed(&got)
	}
	want := with(func(t *Tunnel) {
		t.Peers, t.TTL, t.TOS = peers("203.0.113.2", "203.0.113.3"), 9, 4
		t.Peers[0].Name = "two"
	})
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); err != nil || d != "" {
		t.Errorf("%v (-want +got)\n%s", err, d)
	}
	if got, err = AmendTunnel(before, strings.Fields("remote 2001:db8::1"), option.Default(), "help"); err != nil || completed(&got) != nil || got.Local != netip.IPv6Unspecified() {
		t.Errorf("another family: %+v, %v", got, err)
	}
}

func TestClosest(t *testing.T) {
	words := []string{"id", "remote", "local", "tos", "ttl"}
	for word, want := range map[string]string{
		"remote": "remote", "remoet": "remote", "rmt": "", "ttk": "ttl", "di": "id", "locall": "local", "x": "", "": "",
	} {
		if got := Closest(word, words); got != want {
			t.Errorf("Closest(%q) = %q, want %q", word, got, want)
		}
	}
}

// Whatever the words, there is no panic, errors are one line, and what is
// accepted keeps its promises.
func FuzzWords(f *testing.F) {
	f.Add("gnv0 id 100 remote 203.0.113.1")
	f.Add("gnv0 type geneve id 0x10 remote fe80::1 dev eth0 srcport 1 2 noudpcsum ttl inherit tos 0xb8")
	f.Add("gnv0 srcport 1-2-3 address ::1/128 lladdr 02-00-00-00-00-01 ageing 9999999h")
	f.Fuzz(func(t *testing.T, line string) {
		if strings.TrimSpace(line) == "" {
			return
		}
		tun, err := parseWords(line)
		if err != nil {
			return
		}
		checkTunnel(t, line, tun)
	})
}

// checkTunnel: what is accepted keeps its promises.
func checkTunnel(t *testing.T, text string, tun Tunnel) {
	if tun.VNI > 1<<24-1 || len(tun.Peers) == 0 && !tun.Group.IsValid() && len(tun.Accept) == 0 || tun.SrcPortMin == 0 || tun.SrcPortMin > tun.SrcPortMax ||
		tun.SrcPorts < 1 || tun.TTL == 0 || tun.TTL > 255 || tun.TOS > 252 || tun.TOS > 0 && tun.TOS&3 != 0 || tun.DstPort == 0 || tun.Ageing < 0 ||
		CheckDevice(tun.Device.Name) != nil {
		t.Errorf("%q accepted as %+v", text, tun)
	}
	for _, p := range tun.Peers {
		r := p.Remote
		if r.IsUnspecified() || r.IsMulticast() || tun.Local.IsValid() && r.Is4() != tun.Local.Is4() || r == tun.Local || r.Zone() != "" {
			t.Errorf("%q accepted with remote %s", text, r)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int{
		"0": 0, "4096": 4096, "8MiB": 8 << 20, "8M": 8 << 20, "8m": 8 << 20, "64KiB": 64 << 10, "1G": 1 << 30,
		"": -1, "-1": -1, "8MB": -1, "8 MiB": -1, "2G": -1, "MiB": -1,
	} {
		got, err := parseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
		if again, err := parseSize(formatSize(max(0, got))); err != nil || again != max(0, got) {
			t.Errorf("parseSize(formatSize(%d)) = %d, %v", got, again, err)
		}
	}
}

func TestCheckInstance(t *testing.T) {
	for name, ok := range map[string]bool{
		"p1": true, "gnv0.5-x_y@z": true, strings.Repeat("x", 64): true,
		"": false, ".": false, "..": false, "a/b": false, "a b": false, "a\n": false, strings.Repeat("x", 65): false,
	} {
		if err := CheckInstance(name); (err == nil) != ok {
			t.Errorf("CheckInstance(%q) = %v", name, err)
		}
	}
}

// completed completes a tunnel and returns the first thing that is wrong with it.
func completed(t *Tunnel) error {
	Complete(t, 64)
	for _, p := range append(spec.Check(t), spec.CheckEntries(t)...) {
		return p.Err()
	}
	return nil
}

// sentOf reads options.
func sentOf(t *testing.T, text string) option.Sent {
	t.Helper()
	s, err := option.Default().Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
