package doctor

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"gvtep/cmd/internal/control"
)

var far = netip.MustParseAddr("10.77.0.2")

// healthy is a daemon with one tunnel about which there is nothing to say.
func healthy() *Facts {
	id, now := uint32(42), 0.1
	return &Facts{
		Status: control.Status{ICMP: true, Workers: 2, Ready: true, Sockets: []control.Socket{{Local: netip.IPv4Unspecified(), Port: 6081}}},
		Tunnels: []control.Tunnel{{
			Ifname: "gnv0", MTU: 1450, Address: "02:00:00:00:00:01", Flags: []string{"UP"}, LinkInfo: control.LinkInfo{Data: control.InfoData{ID: &id}},
			Gvtep: control.TunnelDetail{
				Mode: "l2", Learning: true, Flood: true, Ready: true, MTUAuto: true, Addresses: []string{"192.0.2.1/24"},
				Peers: []control.Peer{{Remote: far, Port: 6081, Flood: true, State: "heard", SeenAgo: &now, PathMTU: 1500, TX: control.Traffic{Packets: 10}}},
			},
		}},
		Host: Host{
			Netns: "host", Links: []Link{{Name: "lo"}, {Name: "veth0", Kind: "veth", Up: true, Carrier: true}},
			Routes:    map[netip.Addr]Route{far: {Dev: "veth0"}},
			Addresses: map[string][]netip.Addr{"gnv0": {netip.MustParseAddr("192.0.2.1")}},
			Claims:    map[string][]Claim{"gnv0": {{netip.MustParseAddr("192.0.2.2"), "02:00:00:00:00:02", netip.MustParseAddr("192.0.2.1")}}},
			Neigh:     map[netip.Addr]string{}, RPFilter: map[string]int{"veth0": 0}, RmemMax: 212992,
		},
	}
}

// unheard makes the peer say something else than heard.
func (f *Facts) unheard(state string) *control.Peer {
	p := &f.Tunnels[0].Gvtep.Peers[0]
	p.State, p.SeenAgo = state, nil
	f.Status.Peers.Silent = 1
	return p
}

func (f *Facts) refuse(reason string, id uint32) {
	p := f.unheard("refused")
	p.Refused = []control.PeerRefused{{Reason: reason, ID: id, Packets: 3, LastAgo: 1}}
}

func (f *Facts) icmp(what string) {
	f.unheard("silent").ICMP = &control.ICMP{What: what, From: netip.MustParseAddr("10.77.0.254"), LastAgo: 2}
}

// answered makes the peer answer a probe.
func (f *Facts) answered(p Probe, status string) {
	p.Probed = control.Probed{Answered: true, Status: status}
	f.Probes = map[Ask]Probe{{"gnv0", far}: p}
}

func (f *Facts) unready(why string) {
	g := &f.Tunnels[0].Gvtep
	g.Ready, g.Unready = false, []string{why}
}

// TestExamine makes the facts of each fault, and expects that finding alone.
func TestExamine(t *testing.T) {
	if all := Examine(healthy()); len(all) != 0 {
		t.Errorf("of a healthy endpoint: %+v", all)
	}
	covered := map[string]bool{}
	for _, tc := range []struct {
		fault string
		make  func(*Facts)
		says  string
	}{
		{"not_carrying", func(f *Facts) { f.Status.Stuck, f.Status.Reason = []int{1}, "worker 1 is stuck" }, "worker 1 is stuck"},
		{"device_deleted", func(f *Facts) { f.unready("device gnv0 was deleted") }, "deleted"},
		{"device_down", func(f *Facts) { f.unready("device gnv0 is down") }, "somebody else"},
		{"set_down", func(f *Facts) { f.unready("device gnv0 is down, as configured: gvtep tunnel up gnv0") }, "as gvtep was told"},
		{"address_missing", func(f *Facts) { f.unready("device gnv0 lacks address 192.0.2.1/24: it was deleted by hand") }, "not on the device"},
		{"not_as_configured", func(f *Facts) { f.unready("device gnv0 has the MTU 1300, not 1400") }, "MTU 1300"},
		{"route_loop", func(f *Facts) { f.unheard("no route").Error = "the route to it leads into gnv0" }, "into the tunnel again"},
		{"no_route", func(f *Facts) { f.unheard("no route").Error = "no route" }, "no route to its peer 10.77.0.2"},
		{"output_firewall", func(f *Facts) { f.unheard("silent").SendError = &control.SendError{Errno: "EPERM", LastAgo: 1} }, "does not let packets"},
		{"underlay_down", func(f *Facts) { f.unheard("silent"); f.Host.Links[1].Carrier = false }, "has no carrier"},
		{"underlay_down", func(f *Facts) { f.unheard("silent"); f.Host.Links[1].Up = false }, "is down"},
		{"no_neighbour", func(f *Facts) { f.unheard("silent"); f.Host.Neigh[far] = "veth0" }, "nobody on the link has the address 10.77.0.2"},
		{"no_neighbour", func(f *Facts) {
			f.unheard("silent")
			hop := netip.MustParseAddr("10.77.0.254")
			f.Host.Routes[far], f.Host.Neigh[hop] = Route{"veth0", hop}, "veth0"
		}, "nobody on the link has the address 10.77.0.254"},
		{"wrong_vni", func(f *Facts) { f.refuse("unknown_vni", 43) }, "sends with id 43, and here the id is 42"},
		{"unknown_sender", func(f *Facts) {
			f.unheard("silent")
			f.Status.Refused = []control.Refused{{Reason: "unknown_peer", Source: netip.MustParseAddr("10.77.0.7"), ID: 42, Packets: 2}}
		}, "10.77.0.7 sends to it with the right id, 42"},
		{"vxlan", func(f *Facts) { f.refuse("vxlan", 42) }, "sends VXLAN"},
		{"other_mode", func(f *Facts) { f.refuse("bad_protocol", 42) }, "sends IP (mode l3), and here it is Ethernet"},
		{"same_mac", func(f *Facts) { f.refuse("bad_source_mac", 42) }, "02:00:00:00:00:01"},
		{"refused", func(f *Facts) { f.refuse("bad_version", 42) }, "version is not 0"},
		{"port_unreachable", func(f *Facts) { f.icmp("port unreachable") }, "nobody listens on UDP port 6081"},
		{"prohibited", func(f *Facts) { f.icmp("communication prohibited") }, "a firewall refuses"},
		{"unreachable", func(f *Facts) { f.icmp("hop limit exceeded") }, "a router cannot reach"},
		{"small_path", func(f *Facts) {
			p := &f.Tunnels[0].Gvtep.Peers[0]
			p.PathMTU, p.ICMP = 1300, &control.ICMP{What: "packet too big, MTU 1300", MTU: 1300, From: netip.MustParseAddr("10.77.0.254")}
		}, "inner packets of 1250 bytes"},
		{"no_tunnel", func(f *Facts) { f.unheard("silent"); f.answered(Probe{}, "no_tunnel") }, "has no tunnel with id 42 to us"},
		{"peer_down", func(f *Facts) { f.answered(Probe{}, "down") }, "at its peer 10.77.0.2 the device of the tunnel is down"},
		{"black_hole", func(f *Facts) { f.answered(Probe{Lost: 1500, Carries: 1300}, "ok") }, "long packets to its peer 10.77.0.2 vanish"},
		{"mtu_above_path", func(f *Facts) { f.Tunnels[0].Gvtep.MTUAuto, f.Tunnels[0].MTU = false, 1500 }, "1500, was set above what the path to 10.77.0.2 carries, 1450"},
		{"silent", func(f *Facts) { f.unheard("silent") }, "the fault is at the other end"},
		{"same_address", func(f *Facts) {
			f.Host.Claims["gnv0"] = []Claim{{netip.MustParseAddr("192.0.2.1"), "02:00:00:00:00:02", netip.IPv4Unspecified()}}
		}, "used by another station"},
		{"other_subnet", func(f *Facts) {
			f.Host.Claims["gnv0"] = []Claim{{netip.MustParseAddr("198.51.100.2"), "02:00:00:00:00:02", netip.MustParseAddr("198.51.100.1")}}
		}, "in no subnet of ours"},
		{"no_way_out", func(f *Facts) { f.Tunnels[0].Gvtep.Learning, f.Tunnels[0].Gvtep.Flood = false, false }, "goes nowhere"},
		{"learning_off", func(f *Facts) { f.Tunnels[0].Gvtep.Learning = false }, "goes to all peers"},
		{"fast_path_off", func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "on", Reason: "it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: CAP_BPF is missing"}
		}, "does not carry it: it needs CAP_BPF"},
		{"fast_path_off", func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "on", Devices: []control.FastDevice{{Name: "eth0"}}, Reason: "wg0: it is no Ethernet device"}
		}, "does not carry all of it: wg0"},
		{"fast_path_punts", func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "on", TX: 20_000}
			f.Status.Punts = []control.Punt{{Direction: "out", Reason: "bulk", Packets: 1e6}, {Direction: "out", Reason: "fragment", Packets: 15_000}, {Direction: "in", Reason: "geneve", Packets: 9_000}, {Direction: "out", Reason: "headers", Packets: 6_000}}
		}, "leaves most of what goes out"},
		{"small_rcvbuf", func(f *Facts) { f.Status.Sockets[0].Rcvbuf, f.Status.Sockets[0].Wanted = 4096, 8192 }, "0.0.0.0:6081 has a smaller receive buffer"},
		{"overflows", func(f *Facts) { f.Status.Sockets[0].Overflows = 7 }, "0.0.0.0:6081 has lost datagrams"},
		{"kernel_tunnel", func(f *Facts) { f.Host.Links = append(f.Host.Links, Link{Name: "g1", Kind: "geneve", Port: 6081}) }, "g1 (geneve)"},
		{"kernel_tunnel", func(f *Facts) {
			f.Host.Links = append(f.Host.Links, Link{Name: "genev_sys_6081", Kind: "geneve", Port: 6081})
		}, "Open vSwitch's device genev_sys_6081"},
		{"rp_filter", func(f *Facts) {
			f.unheard("silent")
			f.Host.Links = append(f.Host.Links, Link{Name: "veth1", Up: true, Carrier: true})
			f.Host.RPFilter["veth1"], f.Host.Reversed = 1, 7
		}, "what comes in by veth1 must not, as the way back leaves by veth0"},
		{"short_ageing", func(f *Facts) { f.Tunnels[0].Gvtep.Ageing = 5 }, "live for 5 s only"},
		{"bridge_fdb", func(f *Facts) { f.Host.ByHand = map[string][]string{"gnv0": {"02:00:00:00:00:77"}} }, "bridge fdb add has written entries"},
		{"offload_off", func(f *Facts) { f.Host.Off = map[string][]string{"gnv0": {"tso4"}} }, "switched off by hand: tso4"},
		{"qdisc_mq", func(f *Facts) { f.Host.Qdisc = map[string]string{"gnv0": "mq"} }, "the qdisc mq"},
		{"descriptors", func(f *Facts) { f.Host.Files, f.Host.FilesMax = 900, 1024 }, "900 descriptors open and may have 1024"},
		{"icmp_unseen", func(f *Facts) { f.unheard("silent").TX.Packets, f.Status.ICMP = 0, false }, "are not seen"},
	} {
		f := healthy()
		tc.make(f)
		all := Examine(f)
		if len(all) != 1 || all[0].Fault != tc.fault || !strings.Contains(all[0].What, tc.says) {
			t.Errorf("%s: %+v, want one finding that says %q", tc.fault, all, tc.says)
			continue
		}
		if lines := all[0].Lines(); len(lines) > 3 || all[0].Try == "" {
			t.Errorf("%s: %q", tc.fault, lines)
		}
		covered[tc.fault] = true
	}
	for _, fault := range Faults() {
		if !covered[fault] {
			t.Errorf("%s has no test", fault)
		}
	}
}

// TestOver: what is long over, or was heard since, is no finding.
func TestOver(t *testing.T) {
	for name, make := range map[string]func(*Facts){
		"a packet refused an hour ago": func(f *Facts) {
			f.Tunnels[0].Gvtep.Peers[0].Refused = []control.PeerRefused{{Reason: "vxlan", LastAgo: 3600}}
		},
		"port unreachable before the peer was heard": func(f *Facts) {
			f.Tunnels[0].Gvtep.Peers[0].ICMP = &control.ICMP{What: "port unreachable", LastAgo: 30}
		},
		"a send refused an hour ago": func(f *Facts) {
			f.Tunnels[0].Gvtep.Peers[0].SendError = &control.SendError{Errno: "EPERM", LastAgo: 3600}
		},
		"rp_filter that has dropped nothing":  func(f *Facts) { f.Host.RPFilter["veth1"] = 1 },
		"an ageing of five minutes, and none": func(f *Facts) { f.Tunnels[0].Gvtep.Ageing = 300 },
		"descriptors enough":                  func(f *Facts) { f.Host.Files, f.Host.FilesMax = 100, 1024 },
		"a silent peer that answers":          func(f *Facts) { f.unheard("silent"); f.answered(Probe{}, "ok") },
		"a narrow path that a router told of": func(f *Facts) {
			f.answered(Probe{Lost: 1500, Carries: 1300}, "ok")
			f.Tunnels[0].Gvtep.Peers[0].PathMTU = 1300
		},
		"a peer that nothing was sent to": func(f *Facts) { f.unheard("silent").TX.Packets = 0 },
		"a group":                         func(f *Facts) { f.unheard("") },
		"a fast path that starts": func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "on", Reason: "starting"}
		},
		"auto that steps back": func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "auto", Reason: "auto: iptables has rules"}
		},
		"bulk, which is to go the ordinary way": func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "on"}
			f.Status.Punts = []control.Punt{{Direction: "out", Reason: "bulk", Packets: 1e6}}
		},
		"fewer punts than packets carried": func(f *Facts) {
			f.Tunnels[0].Gvtep.FastPath = &control.FastPath{Wanted: "on", RX: 50_000}
			f.Status.Punts = []control.Punt{{Direction: "in", Reason: "geneve", Packets: 49_000}}
		},
	} {
		f := healthy()
		make(f)
		if all := Examine(f); len(all) != 0 {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

func TestParseChains(t *testing.T) {
	const text = `table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
	}
	chain output {
		type filter hook output priority filter; policy accept;
	}
	chain jump {
	}
}
table ip nat {
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
	}
}
`
	if got := parseChains(text); !slices.Equal(got, []string{"inet filter input"}) {
		t.Errorf("%q", got)
	}
}

func TestARP(t *testing.T) {
	mac := []byte{2, 0, 0, 0, 0, 9}
	b := arpProbe(mac, netip.MustParseAddr("192.0.2.1"))
	c, ok := parseARP(b)
	if !ok || c != (Claim{netip.IPv4Unspecified(), "02:00:00:00:00:09", netip.MustParseAddr("192.0.2.1")}) {
		t.Errorf("%+v, %t", c, ok)
	}
	for n := range b {
		if _, ok := parseARP(b[:n]); ok {
			t.Errorf("%d of %d bytes are a packet", n, len(b))
		}
	}
}

func TestParseHost(t *testing.T) {
	const limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax processes             100                  100                  processes \nMax open files            1024                 524288               files     \n"
	if n := parseFiles(limits); n != 1024 {
		t.Errorf("%d files, want the soft limit", n)
	}
	if n := parseFiles("Max open files            unlimited            unlimited            files"); n != 0 {
		t.Errorf("%d files, want none", n)
	}
	const netstat = "TcpExt: SyncookiesSent IPReversePathFilter TW\nTcpExt: 1 27 3\nIpExt: InNoRoutes\nIpExt: 9\n"
	if a, b, c := parseNetstat(netstat, "IPReversePathFilter"), parseNetstat(netstat, "InNoRoutes"), parseNetstat(netstat, "None"); a != 27 || b != 9 || c != 0 {
		t.Errorf("%d, %d, %d", a, b, c)
	}
}

// TestByHand: entries of groups, of the device itself and of the bridge are none that somebody wrote.
func TestByHand(t *testing.T) {
	own := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	entry := func(last byte, flags, state int) netlink.Neigh {
		return netlink.Neigh{HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, last}, Flags: flags, State: state}
	}
	all := []netlink.Neigh{
		entry(1, netlink.NTF_SELF, netlink.NUD_PERMANENT), entry(7, netlink.NTF_SELF, netlink.NUD_PERMANENT), entry(8, netlink.NTF_MASTER, netlink.NUD_PERMANENT),
		entry(9, netlink.NTF_SELF, netlink.NUD_REACHABLE), {HardwareAddr: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT},
	}
	if got := byHand(all, own); !slices.Equal(got, []string{"02:00:00:00:00:07"}) {
		t.Errorf("%q", got)
	}
}
