// Package config turns what people write into checked values. One table of
// keywords (keyword.go) is the grammar of a tunnel for command line flags
// (--ttl 64), bare words (ttl 64) and keys of configuration files (ttl = 64).
//
// Everything that can be checked without the kernel is checked here, so that
// a Config is either right or does not exist. An error about words is one line
// that says what was wrong and what to try; errors in files come all at once,
// each with its place (Errors).
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/spec"
)

// Inherit as TTL or TOS takes the value of the inner packet.
const Inherit = spec.Inherit

// Defaults of the keywords.
const (
	DefaultTTL        = spec.DefaultTTL
	DefaultSrcPortMin = 49152 // the dynamic ports of RFC 6335
	DefaultSrcPortMax = 65535
	DefaultSrcPorts   = 64
	DefaultAgeing     = 300 * time.Second // as vxlan and bridges have it
	DefaultMaxAddress = 4096
	DefaultRcvbuf     = 8 << 20
	MaxBusyPoll       = 100 * time.Millisecond // more would be a core that never rests, whatever it is called
)

// DF is the policy for the outer Don't Fragment bit.
type DF = spec.DF

// The policies of DF.
const (
	DFSet     = spec.DFSet
	DFUnset   = spec.DFUnset
	DFInherit = spec.DFInherit
)

// Config is a checked configuration: what one process is to do.
type Config struct {
	Instance string // "": not said
	Log      Log
	Socket   Socket
	Metrics  Metrics
	Hooks    Hooks
	Tunnels  []Tunnel // at least one, in the order of the file
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // auto, console, json or journal
}

// Metrics says who may ask for metrics and health, beside the control socket.
type Metrics struct {
	Listen string // "": nowhere; ADDR:PORT, or unix:PATH with an absolute path
	Peers  int    // peers that have series of their own at most
}

// Socket is what all tunnels share.
type Socket struct {
	Workers int    // 1-255; 0: auto
	CPUs    string // that the workers run on, such as 2-5,8; "": any
	Rcvbuf  int    // of a receive socket, in bytes
	Port    uint16 // the DstPort of tunnels that do not say otherwise; 0: that of their encap
	Ports   int    // size of the set of source ports

	// BusyPoll is how long a worker looks for more after traffic before it
	// sleeps, 0 to MaxBusyPoll.
	BusyPoll time.Duration
}

// Peer is one remote VTEP of a tunnel.
type Peer = spec.Peer

// Entry is an entry of a tunnel's forwarding table.
type Entry = spec.Entry

// Tunnel is the configuration of one tunnel.
type Tunnel = spec.Tunnel

// VLAN maps VLANs of a trunk to as many segments.
type VLAN = spec.VLAN

// Neighbour is a station and its address, for which ARP and ND are answered.
type Neighbour = spec.Neighbour

// Warnings are remarks on a tunnel that is valid but perhaps not meant so.
func Warnings(t *Tunnel) []string {
	var w []string
	if t.VNI == 1 {
		w = append(w, "id 1 is the recommended management VNI (RFC 9772 section 2.2): better not used for a tenant")
	}
	if t.Device.Isolated && t.Device.Master == "" {
		w = append(w, "isolated without master: it is for the bridge that the device is in when it is set")
	}
	return w
}

// check is for what concerns several keywords at once, and fills in what
// follows from others. given are the keywords that were set, be it in vain;
// ports is the number of source ports wished for.
func check(t *Tunnel, given func(key string) bool, ports int) (found []spec.Problem) {
	report := func(key string, nth int, format string, args ...any) {
		found = append(found, spec.Problem{Key: key, Nth: nth, Text: fmt.Sprintf(format, args...)})
	}
	if err := CheckDevice(t.Device.Name); err != nil {
		report("name", 0, "%s", err)
	}
	if !given("id") && !given("vlan") {
		report("", 0, "no id: add the VNI of the tunnel, id 0 to 16777215")
	}
	if t.Device.L3 {
		dropL2(t, defaults())
	}
	if t.DstPort == 0 {
		t.DstPort = t.Encap.Port()
	}
	t.SrcPorts = min(ports, int(t.SrcPortMax)-int(t.SrcPortMin)+1)
	if t.Device.L3 && !t.Encap.CarriesIP() {
		report("mode", 0, "mode l3: encap %s carries Ethernet frames only, encap %s also IP packets", t.Encap, encap.Geneve)
	}
	if t.Device.L3 && len(t.VLANs) > 0 {
		report("vlan", 0, "vlan %s: a mode l3 device has no VLANs", t.VLANs[0])
	}
	for vid, vni := range segmentsOf(t) {
		if vid != 0 && vni == t.VNI && !t.NoVNI {
			report("vlan", 0, "vlan %d: id %d is the tunnel's own, for frames without a tag", vid, vni)
		}
	}
	for i, p := range t.Peers {
		if t.Device.L3 && p.BUMLimit != 0 {
			report("remote", i, "remote %s: bum_limit is for Ethernet, nothing is flooded in mode l3", p.Remote)
		}
	}
	checkOptions(t, report)
	if t.Device.L3 && !t.Device.LLAddr.IsZero() {
		report("lladdr", 0, "lladdr %s: a mode l3 device has no Ethernet address", t.Device.LLAddr)
	}
	if t.Device.L3 && t.Device.Master != "" {
		report("master", 0, "master %s: a mode l3 device cannot join a bridge", t.Device.Master)
	}
	if t.Dev == t.Device.Name && t.Dev != "" {
		report("dev", 0, "dev %s is the tunnel itself: dev is the underlay device", t.Dev)
	}
	if t.Device.L3 && t.Group.IsValid() {
		report("group", 0, "group %s: a mode l3 tunnel does not flood, it goes to remotes", t.Group)
	}
	if t.Device.L3 && len(t.Accept) > 0 {
		report("accept", 0, "accept %s: a mode l3 tunnel takes packets from its remotes only", t.Accept[0])
	}
	if t.Device.L3 && len(t.Entries) > 0 {
		report("fdb", 0, "fdb %s: a mode l3 tunnel has no forwarding table", t.Entries[0].MAC)
	}
	if len(t.Neighbours) > 0 && t.NoVNI && len(t.VLANs) > 0 {
		report("neigh", 0, "neigh %s: it is for frames without a tag, which have no segment here: give the trunk an id", t.Neighbours[0])
	} else if len(t.Neighbours) > 0 && !t.NeighSuppress {
		report("neigh", 0, "neigh %s: it is neigh_suppress that answers for it, set neigh_suppress on", t.Neighbours[0])
	}
	if t.Group.IsValid() && t.Dev == "" {
		report("group", 0, "group %s: name the underlay device, dev DEVICE", t.Group)
	}
	word, first := farOf(t)
	if !first.IsValid() {
		if !given("remote") && !given("group") && !given("accept") {
			report("", 0, "no remote: add the address of the other end, remote ADDR")
		}
		return found
	}
	if !given("local") || !t.Local.IsValid() {
		t.Local = anyOf(first)
		if word == "accept" && slices.ContainsFunc(t.Accept, func(p netip.Prefix) bool { return p.Addr().Is4() != first.Is4() }) ||
			word == "remote" && !t.Group.IsValid() && slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Remote.Is4() != first.Is4() }) {
			t.Local = netip.Addr{}
		}
	}
	fits := func(a netip.Addr) bool { return !t.Local.IsValid() || a.Is4() == first.Is4() }
	seen := map[netip.Addr]bool{}
	for i := range t.Peers {
		r := t.Peers[i].Remote
		switch {
		case seen[r]:
			report("remote", i, "remote %s is given twice", r)
		case !fits(r) && t.Group.IsValid():
			report("remote", i, "remote %s and group %s are of different families", r, t.Group)
		case !fits(r) && fits(t.Local):
			report("remote", i, "remote %s and local %s are of different families: without local, remotes may be of both", r, t.Local)
		case linkLocal(r) && t.Dev == "":
			report("remote", i, "remote %s is link-local: name the underlay device, dev DEVICE", r)
		case r == t.Local:
			report("remote", i, "local and remote are both %s: remote is the address of the other host", r)
		}
		seen[r] = true
	}
	if t.Group.IsValid() && !fits(t.Group) {
		report("group", 0, "group %s and %s %s are of different families", t.Group, word, first)
	}
	for i, p := range t.Accept {
		if p.Bits() > 0 && !fits(p.Addr()) {
			report("accept", i, "accept %s and %s %s are of different families", p, word, first)
		}
	}
	if !fits(t.Local) {
		report("local", 0, "local %s and %s %s are of different families", t.Local, word, first)
	} else if linkLocal(t.Local) && t.Dev == "" {
		report("local", 0, "local %s is link-local: name the underlay device, dev DEVICE", t.Local)
	}
	found = append(found, spec.CheckRoutes(t)...)
	checkLists(t, report)
	entries, own := makeSet[entryID](len(t.Entries)), false
	segments := placementOf(t)
	for i, e := range t.Entries {
		before := e
		if err := segments.place(&e); err != nil && (!t.NoVNI || len(t.VLANs) > 0) {
			report("fdb", i, "fdb %s: %s", e.MAC, err)
			continue
		}
		if e != before {
			if !own {
				t.Entries, own = slices.Clone(t.Entries), true
			}
			t.Entries[i] = e
		}
		switch {
		case !entries.add(idOf(&e)):
			report("fdb", i, "fdb %s is given twice", e.MAC)
		case !fits(e.Remote):
			report("fdb", i, "dst %s and %s %s are of different families", e.Remote, word, first)
		case linkLocal(e.Remote) && t.Dev == "" && e.Via == "":
			report("fdb", i, "dst %s is link-local: name the underlay device, via DEVICE", e.Remote)
		case e.Via == t.Device.Name && e.Via != "":
			report("fdb", i, "via %s is the tunnel itself: via is the underlay device", e.Via)
		}
	}
	return found
}

// entryID is what an entry of a table is known by: group addresses have several
// destinations, and each VLAN its own.
type entryID struct {
	mac  packet.MAC
	vlan uint16
	dst  netip.Addr // of a group
}

func idOf(e *Entry) entryID {
	id := entryID{mac: e.MAC, vlan: e.VLAN}
	if e.MAC.IsGroup() {
		id.dst = e.Remote
	}
	return id
}

// String is the key of an entry in words.
func (id entryID) String() string {
	s := id.mac.String()
	if id.vlan != 0 {
		s += " vlan " + itoa(int(id.vlan))
	}
	if id.dst.IsValid() {
		s += " dst " + id.dst.String()
	}
	return s
}

// set finds what is there twice.
type set[T comparable] map[T]struct{}

func makeSet[T comparable](n int) set[T] { return make(set[T], n) }

// add reports whether v is new.
func (s set[T]) add(v T) bool {
	before := len(s)
	s[v] = struct{}{}
	return len(s) > before
}

// checkLists finds what a keyword was given twice.
func checkLists(t *Tunnel, report func(key string, nth int, format string, args ...any)) {
	accepted, neighbours, addresses := set[netip.Prefix]{}, set[netip.Addr]{}, set[netip.Prefix]{}
	for i, p := range t.Accept {
		if !accepted.add(p) {
			report("accept", i, "accept %s: given twice", p)
		}
	}
	for i, n := range t.Neighbours {
		if !neighbours.add(n.Addr) {
			report("neigh", i, "neigh %s: %s is given twice", n, n.Addr)
		}
	}
	for i, p := range t.Device.Addresses {
		if !addresses.add(p) {
			report("address", i, "address %s: given twice", p)
		}
	}
}

// l2Keys are the keywords that mean nothing where IP packets are inside.
func l2Keys() []string {
	return []string{"learning", "ageing", "maxaddress", "flood", "mcast_flood", "bcast_flood", "bum_limit",
		"locked", "move_damping", "neigh_suppress", "neigh", "l2_control", "vlan_tags", "isolated"}
}

// dropL2 gives the l2Keys of a mode l3 tunnel, which come from [defaults], the
// values of base.
func dropL2(t *Tunnel, base Tunnel) {
	t.Learning, t.Ageing, t.MaxAddress = base.Learning, base.Ageing, base.MaxAddress
	t.NoFlood, t.NoMcastFlood, t.NoBcastFlood, t.BUMLimit = base.NoFlood, base.NoMcastFlood, base.NoBcastFlood, base.BUMLimit
	t.Locked, t.NoMoveDamping, t.NeighSuppress, t.Neighbours = base.Locked, base.NoMoveDamping, base.NeighSuppress, base.Neighbours
	t.L2ControlPass, t.VLANDrop, t.Device.Isolated = base.L2ControlPass, base.VLANDrop, base.Device.Isolated
}

// misplaced finds keywords that a mode l3 tunnel would ignore. own are those
// that were given to this very tunnel: what all tunnels have may not fit one.
func misplaced(t *Tunnel, own func(key string) bool) (found []spec.Problem) {
	for _, key := range l2Keys() {
		if t.Device.L3 && own(key) {
			found = append(found, spec.Problem{Key: key, Text: key + " is for mode l2: a mode l3 tunnel has no Ethernet frames"})
		}
	}
	return found
}

// Check completes a tunnel that was changed by other means than keywords and
// finds what is wrong with it. Ports is Socket.Ports.
func Check(t *Tunnel, ports int) error {
	local := t.Local.IsValid() && !t.Local.IsUnspecified()
	if found := check(t, func(key string) bool { return key != "local" || local }, ports); len(found) > 0 {
		return errors.New(found[0].Text)
	}
	return nil
}

// farOf is what tells the address family of a tunnel: the keyword and its first
// address.
func farOf(t *Tunnel) (word string, first netip.Addr) {
	switch {
	case len(t.Peers) > 0:
		return "remote", t.Peers[0].Remote
	case t.Group.IsValid():
		return "group", t.Group
	case t.Local.IsValid() && !t.Local.IsUnspecified() && len(t.Accept) > 0:
		return "local", t.Local
	case len(t.Accept) > 0:
		return "accept", t.Accept[0].Addr()
	}
	return "", netip.Addr{}
}

// anyOf is the unspecified address of the family of a.
func anyOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// linkLocal reports whether a is of use only together with a device.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
