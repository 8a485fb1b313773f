package config

import (
	"net/netip"
	"slices"
	"strings"
	"time"
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

// Keyword is one word of the grammar of a tunnel.
type Keyword struct {
	Name    string
	Aliases []string
	Kind    Kind
	Arg     string   // what the value is called in usage texts
	Values  []string // the words among its values, for completion
	Usage   string
	Default string // as text; "": none
	stands  string // of a Short: "KEYWORD VALUE"
	set     func(t *Tunnel, value string) error
}

// keywords is the grammar, in the order of usage texts.
func keywords() []Keyword {
	return []Keyword{
		{Name: "id", Aliases: []string{"vni"}, Arg: "VNI", Usage: "virtual network identifier, 0-16777215",
			set: func(t *Tunnel, v string) error {
				n, err := number(v, 0, 1<<24-1, "a VNI is 0 to 16777215")
				t.VNI = uint32(n)
				return err
			}},
		{Name: "mode", Arg: "l2|l3", Values: []string{"l2", "l3"}, Default: "l2",
			Usage: "Ethernet frames in a TAP, or IP packets in a TUN",
			set:   choice(func(t *Tunnel, v string) { t.L3 = v == "l3" }, "l2", "l3")},
		{Name: "innerprotoinherit", Kind: Short, stands: "mode l3", Usage: "the same as mode l3"},
		{Name: "local", Arg: "ADDR", Usage: "outer source address, and the one listened on (chosen by route)",
			set: func(t *Tunnel, v string) (err error) {
				t.Local, err = address(v)
				return err
			}},
		{Name: "remote", Kind: List, Arg: "ADDR", Usage: "address of the other end; several are peers of one segment",
			set: func(t *Tunnel, v string) error {
				a, err := remote(v)
				if err == nil {
					t.Remotes = append(t.Remotes, a)
				}
				return err
			}},
		{Name: "dev", Arg: "DEVICE", Usage: "underlay device to bind to (any: the route decides)",
			set: func(t *Tunnel, v string) error { t.Dev = v; return CheckDevice(v) }},
		{Name: "dstport", Arg: "PORT", Default: "6081", Usage: "UDP port listened on and sent to",
			set: func(t *Tunnel, v string) error {
				n, err := number(v, 1, 65535, "a UDP port is 1 to 65535")
				t.DstPort = uint16(n)
				return err
			}},
		{Name: "srcport", Kind: Pair, Arg: "MIN MAX", Default: "49152 65535", Usage: "range of UDP source ports",
			set: setSrcPort},
		{Name: "ttl", Aliases: []string{"hoplimit"}, Arg: "auto|inherit|N", Values: []string{"auto", "inherit"}, Default: "auto",
			Usage: "outer TTL or hop limit, 1-255; auto is 64",
			set: func(t *Tunnel, v string) (err error) {
				switch v {
				case "auto":
					t.TTL = DefaultTTL
				case "inherit":
					t.TTL = Inherit
				default:
					t.TTL, err = number(v, 1, 255, "want auto, inherit or 1 to 255")
				}
				return err
			}},
		{Name: "tos", Aliases: []string{"dsfield"}, Arg: "N|inherit", Values: []string{"inherit"}, Default: "0",
			Usage: "outer TOS or traffic class, such as 0xb8; ECN is always by RFC 6040", set: setTOS},
		{Name: "df", Arg: "set|unset|inherit", Values: []string{"set", "unset", "inherit"}, Default: "set",
			Usage: "Don't Fragment bit of outer IPv4 packets",
			set:   choice(func(t *Tunnel, v string) { t.DF = DF(v) }, "set", "unset", "inherit")},
		{Name: "udpcsum", Kind: Switch, Default: "true", Usage: "UDP checksums over IPv4",
			set: onoff(func(t *Tunnel, on bool) { t.UDPCsum = on })},
		{Name: "udp6zerocsumtx", Kind: Switch, Default: "false", Usage: "send UDP checksum 0 over IPv6",
			set: onoff(func(t *Tunnel, on bool) { t.ZeroCsum6 = on })},
		{Name: "udp6zerocsumrx", Kind: Switch, Default: "false", Usage: "accept UDP checksum 0 over IPv6",
			set: onoff(func(t *Tunnel, on bool) { t.AcceptZ6 = on })},
		{Name: "fwmark", Arg: "MARK", Default: "0", Usage: "firewall mark of outer packets",
			set: func(t *Tunnel, v string) error {
				n, err := number(v, 0, 1<<32-1, "a mark is a number of 32 bits, such as 7 or 0x7")
				t.Mark = uint32(n)
				return err
			}},
		{Name: "learning", Kind: Switch, Default: "true", Usage: "learn which peer an Ethernet address is behind",
			set: onoff(func(t *Tunnel, on bool) { t.Learning = on })},
		{Name: "ageing", Arg: "SECONDS", Default: "300", Usage: "lifetime of learned addresses; 0 is for ever", set: setAgeing},
		{Name: "maxaddress", Aliases: []string{"maxaddr"}, Arg: "N", Default: "4096", Usage: "learned addresses at most",
			set: func(t *Tunnel, v string) (err error) {
				t.MaxAddress, err = number(v, 1, 1<<24, "want 1 to 16777216")
				return err
			}},
		{Name: "l2_control", Arg: "drop|pass", Values: []string{"drop", "pass"}, Default: "drop",
			Usage: "frames to 01:80:c2:00:00:00-0f, such as spanning tree; PAUSE is always dropped",
			set:   choice(func(t *Tunnel, v string) { t.L2ControlPass = v == "pass" }, "drop", "pass")},
		{Name: "vlan_tags", Arg: "pass|drop", Values: []string{"pass", "drop"}, Default: "pass", Usage: "frames with a VLAN tag",
			set: choice(func(t *Tunnel, v string) { t.VLANDrop = v == "drop" }, "pass", "drop")},
		{Name: "mtu", Arg: "auto|N", Values: []string{"auto"}, Default: "auto",
			Usage: "MTU of the device, 68-65535; auto is what the path to the remote leaves",
			set: func(t *Tunnel, v string) (err error) {
				t.MTU = 0
				if v != "auto" {
					t.MTU, err = number(v, 68, 65535, "want auto or 68 to 65535")
				}
				return err
			}},
		{Name: "address", Kind: List, Arg: "PREFIX", Usage: "address of the device, such as 192.0.2.1/24", set: setAddress},
		{Name: "lladdr", Arg: "LLADDR", Usage: "Ethernet address of the device (random)", set: setLLAddr},
		{Name: "master", Arg: "DEVICE", Usage: "bridge to join",
			set: func(t *Tunnel, v string) error { t.Master = v; return CheckDevice(v) }},
		{Name: "netns", Arg: "NETNS", Usage: "network namespace of the device, by name or path; the sockets stay", set: setNetns},
		{Name: "txqueuelen", Arg: "N", Usage: "length of the device's queue, in packets (as the kernel has it)",
			set: func(t *Tunnel, v string) (err error) {
				t.TxQueue, err = number(v, 1, 1<<20, "want 1 to 1048576 packets")
				return err
			}},
		{Name: "persist", Arg: "on|off", Values: []string{"on", "off"}, Default: "off", Usage: "the device outlives the process",
			set: choice(func(t *Tunnel, v string) { t.Persist = v == "on" }, "on", "off")},
		{Name: "up", Kind: Switch, Default: "true", Usage: "bring the device up",
			set: onoff(func(t *Tunnel, on bool) { t.Up = on })},
		{Name: "workers", Aliases: []string{"queues"}, Arg: "auto|N", Values: []string{"auto"}, Default: "auto",
			Usage: "threads, queues and receive sockets, 1-255; auto is one per CPU",
			set: func(t *Tunnel, v string) (err error) {
				t.Workers = 0
				if v != "auto" {
					t.Workers, err = number(v, 1, 255, "want auto or 1 to 255")
				}
				return err
			}},
		{Name: "offload", Arg: "auto|on|off", Values: []string{"auto", "on", "off"}, Default: "auto",
			Usage: "super-frames to and from the device, UDP GSO and GRO",
			set:   choice(func(t *Tunnel, v string) { t.Offload = Offload(v) }, "auto", "on", "off")},
	}
}

// Keywords returns the grammar of a tunnel, in the order of usage texts.
func Keywords() []Keyword { return keywords() }

// find resolves a name, an alias or the no-form of a switch.
func find(table []Keyword, word string) (k Keyword, negated, ok bool) {
	for _, k := range table {
		if word == k.Name || slices.Contains(k.Aliases, word) {
			return k, false, true
		}
		if k.Kind == Switch && word == "no"+k.Name {
			return k, true, true
		}
	}
	return Keyword{}, false, false
}

// Words returns all spellings of the keyword.
func (k Keyword) Words() []string {
	w := append([]string{k.Name}, k.Aliases...)
	if k.Kind == Switch {
		w = append(w, "no"+k.Name)
	}
	return w
}

// defaults are the values of a tunnel before any keyword.
func defaults(name string) Tunnel {
	return Tunnel{
		Name: name, DstPort: DefaultDstPort,
		SrcPortMin: DefaultSrcPortMin, SrcPortMax: DefaultSrcPortMax,
		TTL: DefaultTTL, DF: DFSet, UDPCsum: true,
		Learning: true, Ageing: DefaultAgeing, MaxAddress: DefaultMaxAddress,
		Up: true, Offload: OffloadAuto,
	}
}

func setSrcPort(t *Tunnel, v string) error {
	const want = "want two ports from 1 to 65535, the smaller first"
	ports := strings.FieldsFunc(v, func(r rune) bool { return r == '-' || r == ' ' })
	if len(ports) != 2 {
		return wrong(want)
	}
	from, err := number(ports[0], 1, 65535, want)
	if err != nil {
		return err
	}
	to, err := number(ports[1], from, 65535, want)
	t.SrcPortMin, t.SrcPortMax = uint16(from), uint16(to)
	return err
}

func setTOS(t *Tunnel, v string) error {
	if v == "inherit" {
		t.TOS = Inherit
		return nil
	}
	n, err := number(v, 0, 255, "want inherit or 0 to 0xff")
	if err == nil && n&3 != 0 {
		return wrong("the two low bits are ECN and not a setting (RFC 6040), try %#x", n&^3)
	}
	t.TOS = n
	return err
}

func setAgeing(t *Tunnel, v string) error {
	const want = "want seconds, or a time such as 5m; 0 is for ever"
	if d, err := time.ParseDuration(v); err == nil && d >= 0 && d%time.Second == 0 {
		t.Ageing = d
		return nil
	}
	n, err := number(v, 0, 1e9, want)
	t.Ageing = time.Duration(n) * time.Second
	return err
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
	if slices.Contains(t.Addresses, p) {
		return wrong("given twice")
	}
	t.Addresses = append(t.Addresses, p)
	return nil
}

func setNetns(t *Tunnel, v string) error {
	if v == "" || v == "." || v == ".." || strings.Contains(v, "/") && v[0] != '/' {
		return wrong("want a name as ip netns has it, or an absolute path")
	}
	t.Netns = v
	return nil
}
