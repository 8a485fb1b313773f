package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// Import turns what iproute2 says of the kernel's vxlan and geneve devices into
// the text of a configuration: the output of "ip -d -j link show" or "ip -d -j
// addr show" (the keys are those of iproute2's ip/iplink_vxlan.c and
// ip/iplink_packet.c), and of "bridge -j fdb show", in any number and order.
// What cannot be carried over stands there as a comment; a device that cannot
// at all is a comment only. It is an error if no tunnel is left; the text says
// why also then.
func Import(inputs ...io.Reader) (text string, err error) {
	im := importer{entries: map[string][]kernelEntry{}}
	for _, r := range inputs {
		if err := im.read(r); err != nil {
			return "", err
		}
	}
	if len(im.links) == 0 {
		return "", errors.New("no vxlan or geneve device in it: want the output of ip -d -j link show type vxlan (or geneve), -d included")
	}
	return im.text()
}

// kernelLink is an element of "ip -d -j link", as far as it is of use.
type kernelLink struct {
	Ifname   string   `json:"ifname"`
	Flags    []string `json:"flags"`
	MTU      int      `json:"mtu"`
	Master   string   `json:"master"`
	TxQLen   int      `json:"txqlen"`
	Address  string   `json:"address"`
	Alias    string   `json:"ifalias"`
	NetnsID  *int     `json:"link_netnsid"`
	AddrInfo []struct {
		Local     string `json:"local"`
		PrefixLen int    `json:"prefixlen"`
		Scope     string `json:"scope"`
	} `json:"addr_info"`
	LinkInfo struct {
		Kind  string         `json:"info_kind"`
		Data  map[string]any `json:"info_data"`
		Slave map[string]any `json:"info_slave_data"`
	} `json:"linkinfo"`
}

// kernelEntry is an element of "bridge -j fdb".
type kernelEntry struct {
	MAC    string   `json:"mac"`
	Ifname string   `json:"ifname"`
	Dst    string   `json:"dst"`
	Port   int      `json:"port"`
	VNI    *int     `json:"vni"`
	SrcVNI *int     `json:"src_vni"`
	Via    string   `json:"viaIf"`
	NHID   int      `json:"nhid"`
	Flags  []string `json:"flags"`
	State  string   `json:"state"`
}

type importer struct {
	links   []kernelLink
	entries map[string][]kernelEntry // by device; "": bridge was asked for one device and does not name it
}

// read takes arrays in, one after the other.
func (im *importer) read(r io.Reader) error {
	dec := json.NewDecoder(r)
	for n := 0; ; n++ {
		var items []json.RawMessage
		switch err := dec.Decode(&items); {
		case errors.Is(err, io.EOF) && n > 0:
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("empty: want the output of ip -d -j link show type vxlan (or geneve)")
		case err != nil:
			return fmt.Errorf("not the JSON of ip or bridge, want the output of ip -d -j link show type vxlan: %w", err)
		}
		for _, item := range items {
			var e kernelEntry
			var l kernelLink
			if err := json.Unmarshal(item, &e); err == nil && e.MAC != "" {
				im.entries[e.Ifname] = append(im.entries[e.Ifname], e)
				continue
			}
			// ip prints {} for each link of another type than was asked for.
			if err := json.Unmarshal(item, &l); err != nil {
				return fmt.Errorf("not the JSON of ip -d -j link: %w", err)
			}
			if l.LinkInfo.Kind == "vxlan" || l.LinkInfo.Kind == "geneve" {
				im.links = append(im.links, l)
			}
		}
	}
}

func (im *importer) text() (string, error) {
	if only := im.entries[""]; only != nil && len(im.links) == 1 {
		name := im.links[0].Ifname
		im.entries[name] = append(im.entries[name], only...)
		delete(im.entries, "")
	}
	var b strings.Builder
	b.WriteString(`# Made by gvtep config import. Before it can run, the kernel's devices of these
# names must go: ip link del NAME. The wire format stays, so the ends may change
# one after the other. Other than with the kernel's devices, only peers named
# here may speak, and with a group those on the networks of dev; see accept.
`)
	if n := len(im.entries[""]); n > 0 {
		fmt.Fprintf(&b, "# %d entries of bridge fdb do not name their device: ask it for all devices at once.\n", n)
	}
	var all []*translation
	words := newIndex(tunnelKeywords(option.Default())).entries
	for i := range im.links {
		link := &im.links[i]
		t := &translation{tunnel: defaults(), given: map[string]bool{}, link: link, words: words}
		t.translate(im.entries[link.Ifname])
		all = append(all, t)
	}
	settle(all)
	written := 0
	for _, t := range all {
		b.WriteString("\n")
		for _, note := range t.notes {
			fmt.Fprintf(&b, "# %s: %s\n", t.name(), note)
		}
		if t.refusal != "" {
			fmt.Fprintf(&b, "# %s: left out: %s\n", t.name(), t.refusal)
			continue
		}
		written++
		cfg := defaultConfig()
		cfg.Tunnels = []Tunnel{t.tunnel}
		b.WriteString(Print(cfg, false))
	}
	if written == 0 {
		return b.String(), errors.New("none of the devices can be carried over; the comments say why")
	}
	return b.String(), nil
}

// settle resolves conflicts between the tunnels, or leaves some out. A tunnel that is left
// out changes none of the others.
func settle(all []*translation) {
	alone := make([]translation, len(all))
	for i, t := range all {
		alone[i] = *t
		alone[i].notes = slices.Clip(t.notes)
	}
	for {
		shareSockets(all)
		if !refuseConflicts(all) {
			return
		}
		for i, t := range all {
			if t.refusal == "" {
				*t = alone[i]
			}
		}
	}
}

// shareSockets makes tunnels on one port fit beside each other. The kernel's
// devices of one port share one socket, whatever their local and dev are; a
// tunnel's sockets are bound to both. What a tunnel is given, or loses, is said.
func shareSockets(all []*translation) {
	all = slices.DeleteFunc(slices.Clone(all), func(t *translation) bool { return t.refusal != "" })
	locals := onlyLocals(all)
	for _, t := range all {
		if local := t.tunnel.Local; local.IsValid() && local.IsUnspecified() {
			if one := locals[t.listens(local)]; one != nil {
				t.try("local", one.Local.String(), "local = %s added: %s has it, and on port %d both have one or none; the other ends must know this host by it", one.Local, one.Device.Name, one.DstPort)
			}
		}
	}
	without := claimsOf(all, func(t *Tunnel) bool { return t.Dev == "" })
	for _, t := range all {
		if other := t.beside(without); t.tunnel.Dev != "" && other != "" {
			t.try("dev", "", "dev = %s left away: %s has none, and on one address and port both have one or none; the route decides, see ip route get", t.tunnel.Dev, other)
		}
	}
	with := claimsOf(all, func(t *Tunnel) bool { return t.AcceptZ6 })
	for _, t := range all {
		if other := t.beside(with); !t.tunnel.AcceptZ6 && !t.tunnel.Local.Is4() && other != "" {
			t.try("udp6zerocsumrx", "on", "udp6zerocsumrx = true added: %s has it, and they share a socket", other)
		}
	}
}

// listens is where the tunnel would listen on an address, on any device.
func (t *translation) listens(local netip.Addr) listening {
	return listening{local: anyOf(local), port: t.tunnel.DstPort}
}

// onlyLocals finds, by port and family, the local address of those that have
// one, where it is the same of all.
func onlyLocals(all []*translation) map[listening]*Tunnel {
	found := map[listening]*Tunnel{}
	for _, t := range all {
		local := t.tunnel.Local
		if !local.IsValid() || local.IsUnspecified() {
			continue
		}
		if one, ok := found[t.listens(local)]; !ok {
			found[t.listens(local)] = &t.tunnel
		} else if one != nil && one.Local != local {
			found[t.listens(local)] = nil // several
		}
	}
	return found
}

// claimsOf are the sockets of those that are wanted.
func claimsOf(all []*translation, wanted func(*Tunnel) bool) claims {
	c := newClaims()
	for _, t := range all {
		if wanted(&t.tunnel) {
			c.add(&t.tunnel, claimant{tunnel: t.tunnel.Device.Name})
		}
	}
	return c
}

// beside names a tunnel that has a socket on an address of t's, whatever their
// devices.
func (t *translation) beside(c claims) string {
	for _, s := range listensOf(&t.tunnel) {
		s.dev = ""
		if other, ok := c.overlapping(s); ok {
			return other.by.tunnel
		}
	}
	return ""
}

// try gives a keyword another value, "" for none, and says so. A tunnel that
// would not be right with it stays what it is.
func (t *translation) try(word, value, format string, args ...any) {
	if t.refusal != "" {
		return
	}
	before := *t
	t.given = maps.Clone(t.given)
	if value == "" {
		delete(t.given, word)
		t.tunnel.Dev = "" // the only one that is taken away
	} else {
		t.set(word, value)
	}
	if t.check(); t.refusal != "" || value != "" && !t.given[word] {
		*t = before
		return
	}
	t.note(format, args...)
}

// refuseConflicts leaves out what does not fit beside the others. A tunnel that
// listens on all addresses yields to those that have one.
func refuseConflicts(all []*translation) (some bool) {
	// Conflicts are found as in a file; of the places only the names matter.
	l := loader{seen: newClaims()}
	page := &file{name: "above"}
	withoutPlace := strings.NewReplacer(" (above:1)", "", ", in above:1", "")
	for _, specific := range []bool{true, false} {
		for _, t := range all {
			if local := t.tunnel.Local; t.refusal != "" || specific != (local.IsValid() && !local.IsUnspecified()) {
				continue
			}
			if l.claim(definition{page, span{}, nil}, &t.tunnel); len(l.faults) > 0 {
				t.refusal = withoutPlace.Replace(l.faults[0].text)
				l.faults, some = nil, true
			}
		}
	}
	return some
}

// translation is one device of the kernel on its way to a tunnel.
type translation struct {
	link    *kernelLink
	words   map[string]*entry[Tunnel]
	tunnel  Tunnel
	given   map[string]bool
	notes   []string // comments before the tunnel
	refusal string   // why there is no tunnel
}

func (t *translation) note(format string, args ...any) {
	// A comment is one line, whatever names others have given.
	t.notes = append(t.notes, strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " "))
}

// set gives a keyword its value, or notes why it cannot.
func (t *translation) set(word, value string) {
	e := t.words[word]
	if e == nil {
		t.note("not carried over: %s %s", word, value)
		return
	}
	before := t.tunnel
	if err := e.give(&t.tunnel, word, value); err != nil {
		t.tunnel = before
		t.note("not carried over: %s", err)
		return
	}
	t.given[word] = true
}

// unsupported are settings that gvtep has no word for, and what is to be said.
var unsupported = []struct{ key, why string }{
	{"proxy", "neigh_suppress = true answers ARP and ND from what it has seen"},
	{"rsc", "route short circuit"},
	{"l2miss", "gvtep monitor tells what happens"},
	{"l3miss", "gvtep monitor tells what happens"},
	{"gbp", "group policy: sent as 0, and ignored"},
	{"gpe", "another format, with a port of its own"},
	{"remcsum_tx", "remote checksum offload: switch it off at the other end, too"},
	{"remcsum_rx", "remote checksum offload: switch it off at the other end, too"},
	{"vnifilter", "each VNI has a tunnel of its own"},
	{"gro_hint", "an option of the kernel's own"},
	{"isolated", "isolation is between ports of the bridge: set it again with bridge link"},
}

// portKeys are settings of a port of a bridge that gvtep knows as keywords, and
// what they are from the start.
var portKeys = []struct {
	name    string
	initial bool
}{{"flood", true}, {"mcast_flood", true}, {"bcast_flood", true}, {"neigh_suppress", false}, {"locked", false}}

// Settings that have a keyword, which takes the value as it is.
type translated struct{ key, word string }

var valueKeys = []translated{
	{"id", "id"}, {"remote", "remote"}, {"remote6", "remote"}, {"group", "group"}, {"group6", "group"}, {"local", "local"}, {"local6", "local"},
	{"link", "dev"}, {"df", "df"}, {"label", "flowlabel"}, {"ageing", "ageing"}, {"limit", "maxaddress"},
}

var switchKeys = []translated{
	{"learning", "learning"}, {"udp_csum", "udpcsum"}, {"udp_zero_csum6_tx", "udp6zerocsumtx"}, {"udp_zero_csum6_rx", "udp6zerocsumrx"},
}

func (t *translation) translate(entries []kernelEntry) {
	l, kind, data := t.link, t.link.LinkInfo.Kind, t.link.LinkInfo.Data
	text := func(key string) string {
		if v, ok := data[key]; ok && v != nil {
			return plainValue(v)
		}
		return ""
	}
	t.tunnel.Device.Name = l.Ifname
	if data["external"] == true {
		t.refusal = "external: a TAP has no metadata per packet; make one tunnel for each VNI, or a trunk"
		return
	}
	if err := CheckDevice(l.Ifname); err != nil {
		t.refusal = err.Error()
		return
	}
	t.set("encap", kind)
	for _, k := range valueKeys {
		if v := text(k.key); v != "" && (k.key != "label" || strings.Trim(v, "0x") != "") {
			t.set(k.word, v)
		}
	}
	if text("df") == "" {
		t.set("df", "unset") // older ones of iproute2 do not print it
	}
	switch v := text("tos"); v {
	case "", "0x0", "0":
	case "1", "0x1":
		t.set("tos", "inherit")
	default:
		t.set("tos", v)
	}
	switch v := text("ttl"); v {
	case "":
		t.set("ttl", "inherit") // which has no number there
	case "0":
	default:
		t.set("ttl", v)
	}
	t.ports(text("port"), data["port_range"])
	_, far := spec.Far(&t.tunnel)
	for _, k := range switchKeys {
		// The kernel's devices have a checksum setting also for the family they are not of.
		other := far.Is4() && strings.HasPrefix(k.word, "udp6") || far.Is6() && k.word == "udpcsum"
		if on, ok := data[k.key].(bool); ok && !other {
			t.set(k.word, onOff(on))
		}
	}
	if data["inner_proto_inherit"] == true {
		t.set("mode", "l3")
	}
	if kind == "vxlan" && text("limit") == "" {
		t.note("the kernel's table has no limit; here it is maxaddress = %d", DefaultMaxAddress)
	}
	t.device(data["inner_proto_inherit"] == true)
	for _, p := range portKeys {
		if on, ok := l.LinkInfo.Slave[p.name].(bool); ok && on != p.initial {
			t.set(p.name, onOff(on))
		}
	}
	t.odd(data)
	t.unknown(data)
	t.odd(l.LinkInfo.Slave)
	t.table(entries)
	t.check()
}

// check completes the tunnel, or finds out why it cannot be one.
func (t *translation) check() {
	if found := check(&t.tunnel, func(key string) bool { return t.given[key] }, DefaultSrcPorts); len(found) > 0 {
		t.refusal = found[0].Text
	}
}

// name is what the device is called in a comment, which is one line.
func (t *translation) name() string { return plain(t.link.Ifname) }

// plainValue is a JSON value as a keyword has it.
func plainValue(v any) string {
	if n, ok := v.(float64); ok {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprint(v)
}

// ports carries UDP ports over.
func (t *translation) ports(port string, sources any) {
	if port != "" && port != itoa(int(t.tunnel.Encap.Port())) {
		t.set("dstport", port)
	}
	r, _ := sources.(map[string]any)
	low, high := plainValue(r["low"]), plainValue(r["high"])
	if r != nil && low != "0" && high != "0" {
		t.set("srcport", low+"-"+high)
	}
}

// device carries over what is set with ip link and ip addr.
func (t *translation) device(l3 bool) {
	l := t.link
	if l.Address != "" && !l3 {
		t.set("lladdr", l.Address)
	}
	for _, a := range l.AddrInfo {
		if a.Scope != "link" { // of which each device has its own
			t.set("address", fmt.Sprintf("%s/%d", a.Local, a.PrefixLen))
		}
	}
	if l.Master != "" {
		t.set("master", l.Master)
	}
	// Underlays of 1500 bytes make these; auto is the same and follows them.
	if l.MTU != 0 && l.MTU != 1450 && l.MTU != 1430 {
		t.set("mtu", itoa(l.MTU))
	}
	if l.TxQLen != 0 && l.TxQLen != 1000 {
		t.set("txqueuelen", itoa(l.TxQLen))
	}
	if !slices.Contains(l.Flags, "UP") {
		t.set("up", "off")
	}
	if l.NetnsID != nil {
		t.note("its sockets are in another namespace than the device: run gvtep there, with device_netns = the device's")
	}
	if l.Alias != "" {
		t.note("not carried over: alias %s", plain(l.Alias))
	}
}

// odd notes the settings that gvtep has no word for.
func (t *translation) odd(data map[string]any) {
	for _, u := range unsupported {
		if data[u.key] == true {
			t.note("not carried over: %s (%s)", u.key, u.why)
		}
	}
}

// unknown notes the settings of a device that are not known here: newer kernels
// have more than this program.
func (t *translation) unknown(data map[string]any) {
	known := map[string]bool{"external": true, "tos": true, "ttl": true, "port": true, "port_range": true, "inner_proto_inherit": true}
	for _, k := range slices.Concat(valueKeys, switchKeys) {
		known[k.key] = true
	}
	for _, u := range unsupported {
		known[u.key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		switch value := data[key]; {
		case known[key], value == nil, value == false, value == 0.0, value == "":
		case value == true:
			t.note("not carried over: %s", plain(key))
		default:
			t.note("not carried over: %s %s", plain(key), plain(plainValue(value)))
		}
	}
}

// table carries forwarding entries over. Those of the bridge that the device
// is a port of have no dst and stay there.
func (t *translation) table(entries []kernelEntry) {
	learned, behind := 0, []netip.Addr{}
	peers, there := map[netip.Addr]int{}, map[spec.EntryID]Entry{} // what there is: where among the peers, and by its ID
	for i, p := range t.tunnel.Peers {
		peers[p.Remote] = i
	}
	for _, e := range entries {
		name := "fdb " + plain(e.MAC)
		dst, err := remote(e.Dst)
		switch {
		case e.NHID != 0:
			t.note("not carried over: %s nhid %d (nexthop objects): write a peer", name, e.NHID)
			continue
		case e.Dst == "":
			continue
		case e.Dst == t.tunnel.Group.String() && e.MAC == zeroAddress:
			continue
		case err != nil:
			t.note("not carried over: %s dst %s: %s", name, plain(e.Dst), err)
			continue
		case slices.Contains(e.Flags, "extern_learn"):
			t.note("not carried over: %s dst %s extern_learn: who made it makes it again, gvtep fdb replace ... dynamic extern_learn", name, dst)
			continue
		case e.State == "":
			learned++
			continue
		}
		if e.SrcVNI != nil {
			t.note("not carried over: %s src_vni %d", name, *e.SrcVNI)
		}
		if e.MAC == zeroAddress {
			t.flooded(e, dst, peers)
			continue
		}
		entry, ok := t.entry(e, name, dst)
		if !ok {
			continue
		}
		if other, twice := there[entry.ID()]; twice {
			if other != entry {
				t.note("not carried over: %s dst %s, of which there is one already, dst %s", name, dst, other.Remote)
			}
			continue
		}
		there[entry.ID()] = entry
		t.tunnel.Entries = append(t.tunnel.Entries, entry)
		behind = append(behind, dst)
	}
	if learned > 0 {
		t.note("learned forwarding entries left out: %d (they will be learned again)", learned)
	}
	if t.given["group"] {
		if len(t.tunnel.Peers) > 0 {
			t.note("beside a group, only the peers named here are admitted; add the others, or accept = the networks they are in")
		}
		return
	}
	// The destination of an entry is admitted, even if it gets no flooded frames.
	for _, dst := range behind {
		if _, ok := peers[dst]; !ok {
			peers[dst] = len(t.tunnel.Peers)
			t.tunnel.Peers = append(t.tunnel.Peers, Peer{Remote: dst, NoFlood: true})
			t.given["remote"] = true
		}
	}
}

// entry is an entry of the kernel's as one of ours, if it can be. name is what notes call it.
func (t *translation) entry(e kernelEntry, name string, dst netip.Addr) (entry Entry, ok bool) {
	entry = defaultEntry()
	var err error
	if entry.MAC, err = entryAddress(e.MAC); err != nil {
		t.note("not carried over: %s: %s", name, err)
		return entry, false
	}
	entry.Remote = dst
	if e.Via != "" {
		if entry.Via, err = deviceName(e.Via); err != nil {
			t.note("not carried over: %s via %s: %s", name, plain(e.Via), err)
			return entry, false
		}
	}
	if e.State == "static" {
		entry.State = fdb.Static
	}
	if e.Port > 0 && e.Port < 1<<16 {
		entry.Port = uint16(e.Port)
	}
	if e.VNI != nil && *e.VNI >= 0 && *e.VNI < 1<<24 {
		entry.VNI, entry.HasVNI = packet.VNI(*e.VNI), true
	}
	return entry, true
}

// flooded makes a peer of an entry of the flood list. peers is where the peers
// are.
func (t *translation) flooded(e kernelEntry, dst netip.Addr, peers map[netip.Addr]int) {
	if e.VNI != nil || e.Via != "" && e.Via != t.tunnel.Dev {
		t.note("not carried over: vni and via of the flood list entry dst %s", dst)
	}
	t.given["remote"] = true
	p := Peer{Remote: dst}
	if e.Port > 0 && e.Port < 1<<16 {
		p.Port = uint16(e.Port)
	}
	if i, ok := peers[dst]; ok {
		t.tunnel.Peers[i] = p // remote, which the kernel also shows as an entry
		return
	}
	peers[dst] = len(t.tunnel.Peers)
	t.tunnel.Peers = append(t.tunnel.Peers, p)
}
