package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// Kind says how a keyword is written.
type Kind int

// The kinds of keywords.
const (
	Value  Kind = iota // NAME VALUE
	Pair               // NAME VALUE VALUE, or NAME VALUE-VALUE
	List               // NAME VALUE, any number of times
	Switch             // NAME or noNAME, as a flag also --NAME=false
	Short              // NAME alone, standing for another keyword and its value
)

// Keyword is one word of the grammar: a flag, a bare word, and a key of a
// configuration file.
type Keyword struct {
	Name    string
	Aliases []string // on the command line only; a file has one name for a thing
	Former  []string // names of before, read in files and as bare words; they are no flags
	Kind    Kind
	Arg     string   // what the value is called in usage texts
	Values  []string // the words among its values
	// Number says that a value can be a number from Min to Max, of which Step
	// is a divisor if it is not 0.
	Number         bool
	Min, Max, Step int
	Text           bool // a value can be some other text
	Usage          string
	More           string // what the manual and docs/reference.md say besides
	Default        string // as text; "": none
	// Live says that a running daemon can take over another value, with no
	// loss to other tunnels.
	Live   bool
	want   string // what a wrong value is answered with; "": made from Values
	stands string // of a Short: "KEYWORD VALUE"
}

// Words returns all spellings of the keyword.
func (k *Keyword) Words() []string {
	w := append([]string{k.Name}, k.Aliases...)
	if k.Kind == Switch {
		w = append(w, "no"+k.Name)
	}
	return w
}

// Stands returns what a keyword of kind Short stands for, "KEYWORD VALUE"; of all
// others it is empty.
func (k *Keyword) Stands() string { return k.stands }

// Keywords returns what gvtep run takes as flags and bare words, in the order
// of usage texts.
func Keywords() []Keyword {
	var all []Keyword
	for _, e := range tunnelKeywords(nil) {
		all = append(all, e.Keyword)
	}
	for _, e := range socketKeywords() {
		if !fileOnly(e.Name) {
			all = append(all, e.Keyword)
		}
	}
	for _, e := range logKeywords() {
		e.Name = logPrefix + e.Name
		all = append(all, e.Keyword)
	}
	for _, e := range metricsWords() {
		all = append(all, e.Keyword)
	}
	return all
}

// logPrefix makes words of the command line of the keys of [log].
const logPrefix = "log-"

// fileOnly names the keys of [socket] that are defaults of several tunnels,
// and so of no use where there is one.
func fileOnly(name string) bool { return name == "port" || name == "ports" }

const wantPPS = "want 0 to 1000000000 frames a second"

// tunnelKeywords is the grammar of a tunnel. names are the options that have one; nil: whoever
// takes the words knows.
func tunnelKeywords(names *option.Registry) []entry[Tunnel] {
	all := []entry[Tunnel]{
		custom(Keyword{Name: "id", Aliases: []string{"vni"}, Arg: "VNI", Usage: "virtual network identifier, 0-16777215",
			Number: true, Min: 0, Max: 1<<24 - 1, want: wantVNI},
			setID,
			func(t *Tunnel) []string {
				if t.NoVNI {
					return nil
				}
				return []string{itoa(int(t.VNI))}
			}).copying(func(to, from *Tunnel) { to.VNI, to.NoVNI = from.VNI, from.NoVNI }),
		custom(Keyword{Name: "vlan", Kind: List, Arg: "VID[-VID]:VNI[-VNI]", Usage: "make the tunnel a trunk: each of these VLANs is a segment of its own",
			More: "Without id, frames without a tag have no segment."},
			setVLAN,
			func(t *Tunnel) []string {
				var all []string
				for _, v := range t.VLANs {
					all = append(all, v.String())
				}
				return all
			}),
		choice(Keyword{Name: "encap", Aliases: []string{"type"}, Arg: strings.Join(encapNames(), "|"), Values: encapNames(), Default: defaults().Encap.String(),
			Usage: "wire format: GENEVE (RFC 8926) or VXLAN (RFC 7348)",
			More:  "All tunnels on one port have the same."},
			func(t *Tunnel) *encap.Format { return &t.Encap }, encap.Formats()...),
		choice(Keyword{Name: "mode", Arg: "l2|l3", Values: []string{"l2", "l3"}, Default: "l2",
			Usage: "Ethernet frames in a TAP, or IP packets in a TUN"},
			func(t *Tunnel) *bool { return &t.Device.L3 }, false, true),
		{Keyword: Keyword{Name: "innerprotoinherit", Kind: Short, stands: "mode l3", Usage: "the same as mode l3"}},
		custom(Keyword{Name: "local", Arg: "ADDR",
			Usage: "outer source address, and the address to listen on (the route chooses)"},
			func(t *Tunnel, v string) (err error) {
				t.Local, err = address(v)
				return err
			},
			func(t *Tunnel) []string {
				if t.Local.IsUnspecified() || !t.Local.IsValid() {
					return nil
				}
				return []string{t.Local.String()}
			}).copying(func(to, from *Tunnel) { to.Local = from.Local }),
		custom(Keyword{Name: "remote", Kind: List, Arg: "ADDR|none",
			Usage: "address of a peer",
			More:  "Each peer is on the flood list. Without local, some peers may be IPv4 and others IPv6. With none, the tunnel starts without peers, and a controller adds them while it runs."},
			setRemote, getRemote),
		custom(Keyword{Name: "group", Arg: "ADDR", Usage: "multicast address to send flooded frames to, on the underlay device dev",
			More: "Remotes and hosts in accept may send to it. With neither, all hosts on the networks of dev may."},
			setGroup,
			func(t *Tunnel) []string {
				if !t.Group.IsValid() {
					return nil
				}
				return []string{t.Group.String()}
			}),
		custom(Keyword{Name: "accept", Kind: List, Arg: "PREFIX|any", Usage: "hosts in this prefix become peers when their first packet arrives",
			More: "They are removed when they have been silent for ageing. A tunnel needs remote, group or accept."},
			setAccept,
			getAccept),
		optionsKeyword(names, false, "GENEVE options that every packet carries, in the words of geneve_opts of ip route",
			"Some have names, such as ovn.ports:00010002. @vlan, @dscp, @src and @dst in the place of DATA stand for what each packet has. The automatic MTU leaves room for them.",
			func(t *Tunnel) option.Sent { return t.Options }, func(t *Tunnel, s option.Sent) { t.Options = s }),
		matchKeyword(names),
		sendKeyword(names),
		text(Keyword{Name: "dev", Arg: "DEVICE", Usage: "underlay device to bind to (any: the route decides)"},
			func(t *Tunnel) *string { return &t.Dev }, deviceName),
		number(Keyword{Name: "dstport", Arg: "PORT", Usage: "UDP port to listen on and to send to (6081, with encap vxlan 4789)",
			Min: 1, Max: 65535, want: wantPort},
			func(t *Tunnel) *uint16 { return &t.DstPort }),
		custom(Keyword{Name: "srcport", Kind: Pair, Arg: "MIN MAX", Default: "49152 65535", Usage: "range of UDP source ports",
			Number: true, Min: 1, Max: 65535},
			setSrcPort,
			func(t *Tunnel) []string { return []string{itoa(int(t.SrcPortMin)), itoa(int(t.SrcPortMax))} }),
		number(Keyword{Name: "ttl", Aliases: []string{"hoplimit"}, Arg: "auto|inherit|N", Values: []string{"auto", "inherit"}, Default: "auto",
			Usage: "outer TTL or hop limit, 1-255; auto is 64", Min: 1, Max: 255, want: "want auto, inherit or 1 to 255"},
			func(t *Tunnel) *int { return &t.TTL }, DefaultTTL, Inherit),
		custom(Keyword{Name: "tos", Aliases: []string{"dsfield"}, Arg: "N|inherit", Values: []string{"inherit"}, Default: "0",
			Usage: "outer TOS or traffic class, such as 0xb8, without the ECN bits",
			More:  "The two ECN bits always follow RFC 6040.", Number: true, Min: 0, Max: 252, Step: 4},
			setTOS,
			func(t *Tunnel) []string {
				if t.TOS == Inherit {
					return []string{"inherit"}
				}
				return []string{itoa(t.TOS)}
			}),
		choice(Keyword{Name: "df", Arg: "set|unset|inherit", Values: []string{"set", "unset", "inherit"}, Default: "set",
			Usage: "Don't Fragment bit of outer IPv4 packets; without it, inner packets that routers may cut and that exceed the path go in outer fragments, over IPv6, too"},
			func(t *Tunnel) *DF { return &t.DF }, DFSet, DFUnset, DFInherit),
		onoff(Keyword{Name: "udpcsum", Default: "true", Usage: "UDP checksums over IPv4"},
			func(t *Tunnel) *bool { return &t.UDPCsum }, true),
		onoff(Keyword{Name: "udp6zerocsumtx", Default: "false", Usage: "send UDP checksum 0 over IPv6"},
			func(t *Tunnel) *bool { return &t.ZeroCsum6 }, true),
		onoff(Keyword{Name: "udp6zerocsumrx", Default: "false", Usage: "accept UDP checksum 0 over IPv6"},
			func(t *Tunnel) *bool { return &t.AcceptZ6 }, true),
		number(Keyword{Name: "fwmark", Arg: "MARK", Default: "0", Usage: "firewall mark of outer packets",
			Min: 0, Max: 1<<32 - 1, want: "a mark is a number of 32 bits, such as 7 or 0x7"},
			func(t *Tunnel) *uint32 { return &t.Mark }),
		onoff(Keyword{Name: "learning", Default: "true", Usage: "learn which peer a MAC address is behind"},
			func(t *Tunnel) *bool { return &t.Learning }, true),
		custom(Keyword{Name: "ageing", Arg: "SECONDS", Default: "300", Usage: "lifetime of learned MAC addresses; 0 is for ever",
			Number: true, Min: 0, Max: 1e9, Text: true},
			setAgeing,
			func(t *Tunnel) []string { return []string{itoa(int(t.Ageing / time.Second))} }),
		number(Keyword{Name: "maxaddress", Aliases: []string{"maxaddr"}, Arg: "N", Default: "4096", Usage: "limit of learned MAC addresses, in each VLAN",
			Min: 1, Max: 1 << 24, want: "want 1 to 16777216"},
			func(t *Tunnel) *int { return &t.MaxAddress }),
		word(Keyword{Name: "flood", Default: "on", Usage: "flood frames to unknown MAC addresses"},
			func(t *Tunnel) *bool { return &t.NoFlood }, false),
		word(Keyword{Name: "mcast_flood", Default: "on", Usage: "flood multicast"},
			func(t *Tunnel) *bool { return &t.NoMcastFlood }, false),
		word(Keyword{Name: "bcast_flood", Default: "on", Usage: "flood broadcast"},
			func(t *Tunnel) *bool { return &t.NoBcastFlood }, false),
		custom(Keyword{Name: "bfd", Arg: wantsBFD, Values: []string{"off", "on"}, Default: "off",
			Usage: "find dead peers by BFD in GENEVE (RFC 9521): N intervals without a packet, such as 100msx3; on is 300msx3",
			More:  "A dead peer gets nothing, and its stations are unknown, until BFD is up again. A peer that never answers is taken to know no BFD, and is alive. It is for the peers that are configured, and a peer may have a bfd of its own. See bfd.md.", Text: true},
			func(t *Tunnel, v string) (err error) {
				t.BFD, err = parseBFD(v)
				return err
			},
			func(t *Tunnel) []string { return []string{t.BFD.String()} }),
		number(Keyword{Name: "bum_limit", Arg: "PPS", Default: "0", Usage: "limit of flooded frames a second, in each VLAN; 0 is no limit",
			More: "Frames above the limit are dropped.",
			Min:  0, Max: 1e9, want: wantPPS},
			func(t *Tunnel) *int { return &t.BUMLimit }),
		word(Keyword{Name: "isolated", Default: "off", Usage: "the bridge passes nothing between the device and other isolated ports",
			More: "The same as bridge link set ... isolated on."},
			func(t *Tunnel) *bool { return &t.Device.Isolated }, true),
		word(Keyword{Name: "locked", Default: "off", Usage: "only MAC addresses with a static entry may send"},
			func(t *Tunnel) *bool { return &t.Locked }, true),
		word(Keyword{Name: "move_damping", Default: "on", Usage: "keep a MAC address that flaps between peers at one of them for a while"},
			func(t *Tunnel) *bool { return &t.NoMoveDamping }, false),
		word(Keyword{Name: "neigh_suppress", Default: "off", Usage: "answer ARP and ND requests for addresses behind peers instead of flooding them",
			More: "It does not depend on the flood switches. A request for a station that has been silent for 5 s goes to that station only. If it does not answer within a second, requests are flooded until it sends again."},
			func(t *Tunnel) *bool { return &t.NeighSuppress }, true),
		custom(Keyword{Name: "neigh", Kind: List, Arg: "ADDR=LLADDR", Usage: "answer ARP or ND for this address by neigh_suppress, while the FDB has LLADDR behind a peer",
			More: "It is for requests without a VLAN tag. No packet from the address is needed first."},
			setNeighbour,
			func(t *Tunnel) (all []string) {
				for _, n := range t.Neighbours {
					all = append(all, n.String())
				}
				return all
			}),
		choice(Keyword{Name: "l2_control", Arg: "drop|pass", Values: []string{"drop", "pass"}, Default: "drop",
			Usage: "pass or drop frames to 01:80:c2:00:00:00-0f, such as spanning tree and LLDP; PAUSE is always dropped"},
			func(t *Tunnel) *bool { return &t.L2ControlPass }, false, true),
		choice(Keyword{Name: "vlan_tags", Arg: "pass|drop", Values: []string{"pass", "drop"}, Default: "pass",
			Usage: "pass or drop frames with a VLAN tag"},
			func(t *Tunnel) *bool { return &t.VLANDrop }, false, true),
		choice(Keyword{Name: "fastpath", Arg: "off|on|auto", Values: []string{"off", "on", "auto"}, Default: "off",
			Usage: "let the kernel carry known unicast by itself (eBPF), past its packet filter; auto: unless there are filter rules",
			More:  "What it does not carry, and all if the kernel cannot, goes the ordinary way; show says why. See fastpath.md."},
			func(t *Tunnel) *spec.FastPath { return &t.FastPath }, spec.FastOff, spec.FastOn, spec.FastAuto),
		number(Keyword{Name: "mtu", Arg: "auto|N", Values: []string{"auto"}, Default: "auto",
			Usage: "MTU of the device, 68-65535; auto is what the paths to the peers leave",
			Min:   68, Max: 65535, want: "want auto or 68 to 65535"},
			func(t *Tunnel) *int { return &t.Device.MTU }, 0),
		custom(Keyword{Name: "address", Kind: List, Arg: "PREFIX", Usage: "address of the device, such as 192.0.2.1/24"},
			setAddress,
			func(t *Tunnel) []string {
				var all []string
				for _, p := range t.Device.Addresses {
					all = append(all, p.String())
				}
				return all
			}).copying(func(to, from *Tunnel) { to.Device.Addresses = from.Device.Addresses }),
		custom(Keyword{Name: "lladdr", Arg: "LLADDR", Usage: "MAC address of the device (random)"},
			func(t *Tunnel, v string) (err error) {
				t.Device.LLAddr, err = lladdr(v)
				return err
			},
			func(t *Tunnel) []string {
				if t.Device.LLAddr.IsZero() {
					return nil
				}
				return []string{t.Device.LLAddr.String()}
			}).copying(func(to, from *Tunnel) { to.Device.LLAddr = from.Device.LLAddr }),
		text(Keyword{Name: "master", Arg: "DEVICE", Usage: "bridge to join"},
			func(t *Tunnel) *string { return &t.Device.Master }, deviceName),
		text(Keyword{Name: "device_netns", Former: []string{"netns"}, Arg: "NETNS", Usage: "network namespace of the device, by name or path; the sockets stay in that of the process (-n, --netns)"},
			func(t *Tunnel) *string { return &t.Device.Netns }, netnsName),
		number(Keyword{Name: "txqueuelen", Aliases: []string{"txqlen", "qlen"}, Arg: "N", Usage: "length of the device's queue, in packets (the kernel's)",
			Min: 1, Max: 1 << 20, want: "want 1 to 1048576 packets"},
			func(t *Tunnel) *int { return &t.Device.TxQueue }),
		number(Keyword{Name: "numqueues", Arg: "auto|N", Values: []string{"auto"}, Default: "auto",
			Usage: "queues of the device, 1-255; auto, which is also the most, is one for each worker. Each costs two descriptors, and one worker at a time reads from each", Min: 1, Max: 255, want: "want auto or 1 to 255"},
			func(t *Tunnel) *int { return &t.Device.Queues }, 0),
		word(Keyword{Name: "persist", Default: "off", Usage: "keep the device when the process ends"},
			func(t *Tunnel) *bool { return &t.Device.Persist }, true),
		onoff(Keyword{Name: "up", Default: "true", Usage: "bring the device up"},
			func(t *Tunnel) *bool { return &t.Device.Down }, false),
		valued(Keyword{Name: "offload", Arg: "auto|on|off", Values: []string{"auto", "on", "off"}, Default: "auto",
			Usage: "super-frames to and from the device, UDP GSO and GRO"},
			func(t *Tunnel) offload { return offload{t.Device.Offload, t.NeedOffload} },
			func(t *Tunnel, v offload) { t.Device.Offload, t.NeedOffload = v.wanted, v.needed },
			offload{wanted: true}, offload{wanted: true, needed: true}, offload{}),
	}
	for i := range all {
		k := &all[i].Keyword
		name, _, _ := strings.Cut(k.stands, " ")
		k.Live = spec.Live(cmp.Or(name, k.Name))
	}
	return all
}

// encapNames are the words of encap.
func encapNames() (all []string) {
	for _, f := range encap.Formats() {
		all = append(all, f.String())
	}
	return all
}

// wantsBFD is how the value of bfd is written.
const wantsBFD = "off|on|TIMExN"

// parseBFD reads a value of bfd.
func parseBFD(v string) (b spec.BFD, err error) {
	switch v {
	case "off", "false":
		return b, nil
	case "on", "true":
		return spec.BFD{Interval: 300 * time.Millisecond, Mult: 3}, nil
	}
	interval, times, ok := strings.Cut(v, "x")
	if !ok {
		times = "3"
	}
	n, err1 := parseNumber(times, 1, 255, "")
	b.Interval, err = time.ParseDuration(interval)
	b.Mult = uint8(n)
	if err1 != nil || err != nil || b.Interval < spec.MinBFD || b.Interval > spec.MaxBFD || b.Interval%time.Microsecond != 0 {
		return spec.BFD{}, wrong("want off, on, or an interval from 50ms to 60s and how many of them, such as 100msx3")
	}
	return b, nil
}

// offload is what the keyword of this name sets.
type offload struct{ wanted, needed bool }

// peerKeywords are the keys of [[tunnel.peer]] beside remote, which is the
// tunnel's keyword.
func peerKeywords(names *option.Registry) []entry[Peer] {
	return []entry[Peer]{
		text(Keyword{Name: "name", Arg: "TEXT", Live: true, Usage: "name of the peer, for people"},
			func(p *Peer) *string { return &p.Name }, label),
		number(Keyword{Name: "dstport", Aliases: []string{"port"}, Arg: "PORT", Live: true, Usage: "UDP port to send to, if it is not the tunnel's",
			Min: 1, Max: 65535, want: wantPort},
			func(p *Peer) *uint16 { return &p.Port }),
		onoff(Keyword{Name: "flood", Default: "true", Live: true, Usage: "send it a copy of broadcast, unknown unicast and multicast frames"},
			func(p *Peer) *bool { return &p.NoFlood }, false),
		custom(Keyword{Name: "routes", Aliases: []string{"allowed-ips"}, Kind: List, Arg: "PREFIX|any|none", Live: true, Usage: "networks behind a peer of a mode l3 tunnel: destinations to send to it, and sources to accept from it"},
			setRoutes,
			func(p *Peer) []string {
				if p.Routes != nil && len(p.Routes) == 0 {
					return []string{noRoutes}
				}
				return prefixTexts(p.Routes)
			}),
		optionsKeyword(names, true, "GENEVE options of packets to the peer, in the place of the tunnel's", "",
			func(p *Peer) option.Sent { return p.Options }, func(p *Peer, s option.Sent) { p.Options = s }),
		custom(Keyword{Name: "bfd", Arg: wantsBFD, Values: []string{"off", "on"}, Live: true, Usage: "find out by BFD whether the peer is dead (the tunnel's)", Text: true},
			func(p *Peer, v string) (err error) {
				p.BFD, err = parseBFD(v)
				p.BFD.Given = err == nil
				return err
			},
			func(p *Peer) []string {
				if !p.BFD.Given {
					return nil
				}
				return []string{p.BFD.String()}
			}),
		custom(Keyword{Name: "bum_limit", Arg: "PPS", Live: true, Usage: "limit of broadcast, unknown unicast and multicast frames a second from the peer; 0, the default, is no limit",
			Number: true, Min: 0, Max: 1e9},
			func(p *Peer, v string) (err error) {
				p.BUMLimit, err = parseNumber(v, 0, 1e9, wantPPS)
				return err
			},
			func(p *Peer) []string {
				if p.BUMLimit == 0 {
					return nil
				}
				return []string{itoa(p.BUMLimit)}
			}),
	}
}

// entryKeywords are the keys of [[tunnel.fdb]] beside lladdr.
func entryKeywords(names *option.Registry) []entry[Entry] {
	return []entry[Entry]{
		custom(Keyword{Name: "dst", Arg: "ADDR", Live: true, Usage: "address of the VTEP that the MAC address is behind"},
			func(e *Entry, v string) (err error) {
				e.Remote, err = remote(v)
				return err
			},
			func(e *Entry) []string {
				if !e.Remote.IsValid() {
					return nil
				}
				return []string{e.Remote.String()}
			}),
		choice(Keyword{Name: "state", Arg: "static|permanent", Values: []string{"static", "permanent"}, Default: "permanent", Live: true,
			Usage: "static or permanent; both never move or age, the difference is a label"},
			func(e *Entry) *fdb.State { return &e.State }, fdb.Static, fdb.Permanent),
		number(Keyword{Name: "port", Arg: "PORT", Live: true, Usage: "UDP port to send to, if it is not the tunnel's",
			Min: 1, Max: 65535, want: wantPort},
			func(e *Entry) *uint16 { return &e.Port }),
		custom(Keyword{Name: "vni", Arg: "VNI", Live: true, Usage: "VNI to send with, if it is not the tunnel's", Number: true, Min: 0, Max: 1<<24 - 1},
			func(e *Entry, v string) error {
				n, err := parseNumber(v, 0, 1<<24-1, wantVNI)
				e.VNI, e.HasVNI = packet.VNI(n), err == nil
				return err
			},
			func(e *Entry) []string {
				if !e.HasVNI {
					return nil
				}
				return []string{itoa(int(e.VNI))}
			}),
		number(Keyword{Name: "vlan", Arg: "VID", Live: true, Usage: "VLAN of a trunk that the MAC address is in", Min: 1, Max: 4094, want: wantVID},
			func(e *Entry) *uint16 { return &e.VLAN }),
		custom(Keyword{Name: "src_vni", Arg: "VNI", Live: true, Usage: "VNI of that VLAN, in place of vlan", Number: true, Min: 0, Max: 1<<24 - 1},
			func(e *Entry, v string) error {
				n, err := parseNumber(v, 0, 1<<24-1, wantVNI)
				e.SrcVNI, e.HasSrcVNI = packet.VNI(n), err == nil
				return err
			},
			func(e *Entry) []string {
				if !e.HasSrcVNI {
					return nil
				}
				return []string{itoa(int(e.SrcVNI))}
			}),
		text(Keyword{Name: "via", Arg: "DEVICE", Live: true, Usage: "underlay device to send through (the route decides)"},
			func(e *Entry) *string { return &e.Via }, deviceName),
		optionsKeyword(names, true, "GENEVE options of packets to the MAC address, in the place of those of tunnel and peer", "",
			func(e *Entry) option.Sent { return e.Options.Sent() }, func(e *Entry, s option.Sent) { e.Options = s.Share() }),
	}
}

// handKeywords are the words of entries that are made by hand, in a running
// process, beside those of a file.
func handKeywords() []entry[Entry] {
	return []entry[Entry]{
		{Keyword: Keyword{Name: "static", Kind: Short, stands: "state static", Usage: "the same as state static"}},
		{Keyword: Keyword{Name: "permanent", Kind: Short, stands: "state permanent", Usage: "the same as state permanent"}},
		custom(Keyword{Name: "dynamic", Kind: Switch, Default: "false", Usage: "moves and ages as if it were learned"},
			func(e *Entry, v string) error {
				on, err := parseSwitch(v)
				if on {
					e.State = fdb.Dynamic
				}
				return err
			},
			func(e *Entry) []string { return []string{onOff(e.State == fdb.Dynamic)} }),
		onoff(Keyword{Name: "local", Default: "false", Usage: "behind the tunnel's own device"},
			func(e *Entry) *bool { return &e.Local }, true),
		entryFlag(Keyword{Name: "sticky", Default: "false", Usage: "dynamic, and does not move"}, fdb.Sticky),
		entryFlag(Keyword{Name: "extern_learn", Default: "false", Usage: "dynamic, and does not age"}, fdb.ExternLearn),
	}
}

// entryFlag is a switch that is one bit of the flags of an entry.
func entryFlag(k Keyword, bit fdb.Flags) entry[Entry] {
	k.Kind = Switch
	return custom(k,
		func(e *Entry, v string) error {
			on, err := parseSwitch(v)
			if e.Flags &^= bit; on {
				e.Flags |= bit
			}
			return err
		},
		func(e *Entry) []string { return []string{onOff(e.Flags&bit != 0)} })
}

// socketKeywords are the keys of [socket]: what all tunnels share.
func socketKeywords() []entry[Socket] {
	return []entry[Socket]{
		number(Keyword{Name: "workers", Aliases: []string{"queues"}, Arg: "auto|N", Values: []string{"auto"}, Default: "auto",
			Usage: "threads, queues and receive sockets, 1-255; auto is one per CPU that the process may use, or that the CPU limit of its cgroup is worth", Min: 1, Max: 255, want: "want auto or 1 to 255"},
			func(s *Socket) *int { return &s.Workers }, 0),
		text(Keyword{Name: "cpus", Arg: "LIST", Usage: "CPUs that the threads run on, one each in turn, such as 2-5,8 (any)"},
			func(s *Socket) *string { return &s.CPUs }, cpuList),
		custom(Keyword{Name: "rcvbuf", Arg: "SIZE", Default: "8MiB", Usage: "receive buffer of a socket, such as 8MiB",
			Number: true, Min: 0, Max: 1 << 30, Text: true},
			func(s *Socket, v string) (err error) {
				s.Rcvbuf, err = parseSize(v)
				return err
			},
			func(s *Socket) []string { return []string{formatSize(s.Rcvbuf)} }).copying(func(to, from *Socket) { to.Rcvbuf = from.Rcvbuf }),
		custom(Keyword{Name: "busypoll", Arg: "TIME", Default: "0us", Live: true,
			Usage: "how long to poll after traffic before sleeping, such as 3ms: less delay for more CPU time", Text: true},
			func(s *Socket, v string) (err error) {
				s.BusyPoll, err = time.ParseDuration(v)
				if err != nil || s.BusyPoll < 0 || s.BusyPoll > MaxBusyPoll {
					return wrong("want a time up to 100ms, such as 50us or 3ms; 0us is off")
				}
				return nil
			},
			func(s *Socket) []string {
				if s.BusyPoll == 0 {
					return []string{"0us"}
				}
				return []string{s.BusyPoll.String()}
			}),
		number(Keyword{Name: "port", Arg: "PORT", Usage: "dstport of tunnels that have none of their own (that of their encap)",
			Min: 1, Max: 65535, want: wantPort},
			func(s *Socket) *uint16 { return &s.Port }),
		number(Keyword{Name: "ports", Arg: "N", Default: "64", Live: true, Usage: "number of UDP source ports, 1-1024",
			Min: 1, Max: 1024, want: "want 1 to 1024 source ports"},
			func(s *Socket) *int { return &s.Ports }),
	}
}

// logKeywords are the keys of [log].
func logKeywords() []entry[Log] {
	return []entry[Log]{
		choice(Keyword{Name: "level", Arg: "LEVEL", Values: []string{"debug", "info", "warn", "error"}, Default: "info", Live: true,
			Usage: "lowest level to log: debug, info, warn or error"},
			func(l *Log) *string { return &l.Level }, "debug", "info", "warn", "error"),
		choice(Keyword{Name: "format", Arg: "FORMAT", Values: []string{"auto", "console", "json", "journal"}, Default: "auto",
			Usage: "auto, console, json or journal; auto is journal under systemd, console on a terminal, else json"},
			func(l *Log) *string { return &l.Format }, "auto", "console", "json", "journal"),
	}
}

// metricsKeywords are the keys of [metrics].
func metricsKeywords() []entry[Metrics] {
	return []entry[Metrics]{
		text(Keyword{Name: "listen", Arg: "ADDR:PORT|unix:PATH",
			Usage: "address to serve metrics and health on, such as 9681 (on 127.0.0.1) or unix:/run/gvtep/metrics.sock (only on the control socket)"},
			func(m *Metrics) *string { return &m.Listen }, listenAddress),
		onoff(Keyword{Name: "page", Default: "false", Usage: "serve a read-only page for a browser there, at /page/"}, func(m *Metrics) *bool { return &m.Page }, true),
		number(Keyword{Name: "peers", Arg: "N", Default: "1000", Live: true, Usage: "limit of peers with series of their own",
			Min: 0, Max: 1e6, want: "want 0 to 1000000 peers"},
			func(m *Metrics) *int { return &m.Peers }),
	}
}

// metricsWords is the one key of [metrics] that the command line has, under
// the name of the section.
func metricsWords() []entry[Metrics] {
	listen := metricsKeywords()[:1]
	listen[0].Name = "metrics"
	return listen
}

// listenAddress reads where to listen. A port alone is one of this host only.
func listenAddress(v string) (string, error) {
	const want = "want a port, ADDR:PORT such as 127.0.0.1:9681 or [::1]:9681, or unix:/PATH"
	if path, ok := strings.CutPrefix(v, "unix:"); ok {
		if !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") || len(path) > 107 { // sun_path, unix(7)
			return "", wrong("want an absolute path of at most 107 bytes behind unix:")
		}
		return v, nil
	}
	if port, err := parseNumber(strings.TrimPrefix(v, ":"), 1, 65535, want); err == nil {
		return "127.0.0.1:" + itoa(port), nil
	}
	a, err := netip.ParseAddrPort(v)
	if err != nil || a.Port() == 0 {
		return "", wrong(want)
	}
	return a.String(), nil
}

// defaults are the values of a tunnel before any keyword.
func defaults() Tunnel {
	return Tunnel{
		NoVNI:      true, // until there is an id
		SrcPortMin: DefaultSrcPortMin, SrcPortMax: DefaultSrcPortMax,
		TTL: DefaultTTL, DF: DFSet, UDPCsum: true,
		Learning: true, Ageing: DefaultAgeing, MaxAddress: DefaultMaxAddress,
		Device: spec.Device{Offload: true},
	}
}

func defaultEntry() Entry { return Entry{State: fdb.Permanent} }

// defaultConfig is what an empty file says.
func defaultConfig() Config {
	return Config{Names: option.Default(), Log: defaultLog(), Socket: defaultSocket(), Metrics: defaultMetrics(), Hooks: defaultHooks()}
}

// DefaultSocket is [socket] where a file says nothing.
func DefaultSocket() Socket { return defaultSocket() }

func defaultSocket() Socket {
	return Socket{Rcvbuf: DefaultRcvbuf, Ports: DefaultSrcPorts}
}

func defaultMetrics() Metrics { return Metrics{Peers: 1000} }

func defaultLog() Log { return Log{Level: "info", Format: "auto"} }

func setID(t *Tunnel, v string) error {
	n, err := parseNumber(v, 0, 1<<24-1, wantVNI)
	if err == nil {
		t.VNI, t.NoVNI = packet.VNI(n), false
	}
	return err
}

func setSrcPort(t *Tunnel, v string) error {
	const want = "want two ports from 1 to 65535, the smaller first"
	ports := strings.FieldsFunc(v, func(r rune) bool { return r == '-' || r == ' ' })
	if len(ports) != 2 {
		return wrong(want)
	}
	from, err := parseNumber(ports[0], 1, 65535, want)
	if err != nil {
		return err
	}
	to, err := parseNumber(ports[1], from, 65535, want)
	if err != nil {
		return err
	}
	t.SrcPortMin, t.SrcPortMax = uint16(from), uint16(to)
	return nil
}

func setTOS(t *Tunnel, v string) error {
	if v == "inherit" {
		t.TOS = Inherit
		return nil
	}
	n, err := parseNumber(v, 0, 255, "want inherit or 0 to 0xff")
	if err == nil && n&3 != 0 {
		return wrong("the two low bits are ECN and not a setting (RFC 6040), try %#x", n&^3)
	}
	t.TOS = n
	return err
}

func setAgeing(t *Tunnel, v string) error {
	const want = "want seconds, or a time such as 5m; 0 is for ever"
	if d, err := time.ParseDuration(v); err == nil && d >= 0 && d <= 1e9*time.Second && d%time.Second == 0 {
		t.Ageing = d
		return nil
	}
	n, err := parseNumber(v, 0, 1e9, want)
	t.Ageing = time.Duration(n) * time.Second
	return err
}

func setGroup(t *Tunnel, v string) error {
	a, err := netip.ParseAddr(v)
	switch {
	case err != nil:
		return wrong("not an IP address (names are not looked up)")
	case a.Zone() != "":
		return wrong("write the address without zone, and dev %s", a.Zone())
	case !a.IsMulticast():
		return wrong("not a multicast address, that of one host is a remote")
	case a.IsInterfaceLocalMulticast():
		return wrong("it does not leave the host, want one of a larger scope")
	}
	t.Group = a
	return nil
}

// any4 and any6 are what accept any stands for.
var any4, any6 = netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)

func setAccept(t *Tunnel, v string) (err error) {
	all, err := addPrefixes(t.Accept, v, "192.0.2.0/24, or any")
	if err != nil {
		return err
	}
	if all[len(all)-1].Addr().IsMulticast() {
		return wrong("hosts never have a multicast address")
	}
	t.Accept = all
	return nil
}

func getAccept(t *Tunnel) []string { return prefixTexts(t.Accept) }

// setRemote adds a peer. An empty list that is not nil stands for none.
func setRemote(t *Tunnel, v string) error {
	empty := t.Peers != nil && len(t.Peers) == 0
	switch {
	case empty || v == noRemote && t.Peers != nil:
		return wrong("none stands alone")
	case v == noRemote:
		t.Peers = []Peer{}
		return nil
	}
	a, err := remote(v)
	if err == nil {
		t.Peers = append(t.Peers, Peer{Remote: a})
	}
	return err
}

func getRemote(t *Tunnel) []string {
	if t.Peers != nil && len(t.Peers) == 0 {
		return []string{noRemote}
	}
	var all []string
	for _, p := range t.Peers {
		all = append(all, p.Remote.String())
	}
	return all
}

// noRemote says of a tunnel that it has no peer yet.
const noRemote = "none"

// noRoutes says of a peer that nothing is behind it.
const noRoutes = "none"

// setRoutes also takes several prefixes with commas between, as wg(8) has them.
func setRoutes(p *Peer, v string) (err error) {
	routes := p.Routes
	if v == noRoutes && routes == nil {
		p.Routes = []netip.Prefix{}
		return nil
	}
	if routes != nil && len(routes) == 0 || v == noRoutes {
		return wrong("none stands alone")
	}
	for _, word := range strings.Split(v, ",") {
		if routes, err = addPrefixes(routes, word, "10.1.0.0/16, any or none"); err != nil {
			return err
		}
	}
	p.Routes = routes
	return nil
}

// addPrefixes adds a prefix, an address or any to a list.
func addPrefixes(to []netip.Prefix, v, example string) ([]netip.Prefix, error) {
	all := []netip.Prefix{any4, any6}
	if v != "any" {
		p, err := netip.ParsePrefix(v)
		if a, notPrefix := netip.ParseAddr(v); notPrefix == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil || p.Addr().Zone() != "":
			return to, wrong("want a prefix such as %s", example)
		case p.Addr().Is4In6():
			return to, wrong("an IPv4 address, write it as one")
		case p != p.Masked():
			return to, wrong("there are bits behind the prefix, try %s", p.Masked())
		}
		all = []netip.Prefix{p}
	}
	return append(to, all...), nil
}

// prefixTexts is what addPrefixes makes of words, as words.
func prefixTexts(prefixes []netip.Prefix) (all []string) {
	both := slices.Contains(prefixes, any4) && slices.Contains(prefixes, any6)
	for _, p := range prefixes {
		switch {
		case both && p == any4:
			all = append(all, "any")
		case both && p == any6:
		default:
			all = append(all, p.String())
		}
	}
	return all
}

func setNeighbour(t *Tunnel, v string) error {
	ip, station, both := strings.Cut(v, "=")
	a, err := netip.ParseAddr(ip)
	if !both || err != nil || a.Zone() != "" {
		return wrong("want an IP address and an Ethernet address, such as 192.0.2.9=02:00:00:00:0a:09")
	}
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return wrong("%s is not the address of one station", a)
	}
	mac, err := entryAddress(station)
	if err != nil || mac.IsGroup() {
		return wrong("want the Ethernet address of one station behind the =")
	}
	t.Neighbours = append(t.Neighbours, Neighbour{Addr: a, MAC: mac})
	return nil
}

func setAddress(t *Tunnel, v string) error {
	if isMAC(v) {
		return wrong("address is for IP addresses, the Ethernet address of the device is lladdr")
	}
	if a, err := netip.ParseAddr(v); err == nil {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		return wrong("no prefix length, write for example %s/%d", v, bits)
	}
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return wrong("want an address with prefix length, such as 192.0.2.1/24")
	}
	if a := p.Addr(); a.IsUnspecified() || a.IsMulticast() || a.Is4In6() {
		return wrong("%s cannot be the address of a device", a)
	}
	t.Device.Addresses = append(t.Device.Addresses, p)
	return nil
}
