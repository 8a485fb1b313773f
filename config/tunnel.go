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
	"fmt"
	"net/netip"
	"slices"
	"time"

	"gvtep/vtep/option"
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
	Names    *option.Registry // of GENEVE options; nil: none is known
	Tunnels  []Tunnel         // at least one, in the order of the file
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // auto, console, json or journal
}

// Metrics says who may ask for metrics and health, beside the control socket.
type Metrics struct {
	Listen string // "": nowhere; ADDR:PORT, or unix:PATH with an absolute path
	Page   bool   // whether there is a page for a browser, too
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

// check completes a tunnel and finds what is wrong with it as a whole. given are the keywords
// that were set, be it in vain; ports is the number of source ports wished for.
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
	if _, first := spec.Far(t); !first.IsValid() && !given("remote") && !given("group") && !given("accept") {
		report("", 0, "no remote: add the address of the other end, remote ADDR")
	}
	complete(t, given("local"), ports)
	found = append(found, spec.Check(t)...)
	places, own := spec.PlacesOf(t), false
	for i := range t.Entries {
		if e := t.Entries[i]; e.HasSrcVNI {
			if err := places.Place(&e); err != nil {
				report("fdb", i, "fdb %s: %s", e.MAC, err)
				continue
			}
			if !own { // the entries of [defaults] are those of others, too
				t.Entries, own = slices.Clone(t.Entries), true
			}
			t.Entries[i] = e
		}
	}
	if t.NoVNI && len(t.VLANs) == 0 && !given("vlan") {
		return found // in which segment is not known
	}
	return append(found, spec.CheckEntries(t)...)
}

// complete fills in what follows from other keywords. local says that Local was given.
func complete(t *Tunnel, local bool, ports int) {
	if t.Device.L3 {
		dropL2(t, defaults())
	}
	if t.DstPort == 0 {
		t.DstPort = t.Encap.Port()
	}
	t.SrcPorts = min(ports, int(t.SrcPortMax)-int(t.SrcPortMin)+1)
	if _, first := spec.Far(t); first.IsValid() && (!local || !t.Local.IsValid()) {
		t.Local = anyOf(first)
		if spec.BothFamilies(t) {
			t.Local = netip.Addr{}
		}
	}
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

// Complete fills in what follows from other keywords in a tunnel that was changed by other
// means than keywords. Ports is Socket.Ports.
func Complete(t *Tunnel, ports int) {
	complete(t, t.Local.IsValid() && !t.Local.IsUnspecified(), ports)
}

// anyOf is the unspecified address of the family of a.
func anyOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
