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
	"time"
)

// Inherit as TTL or TOS takes the value of the inner packet.
const Inherit = -1

// Defaults of the keywords.
const (
	DefaultDstPort    = 6081 // RFC 8926 section 3.3
	DefaultTTL        = 64
	DefaultSrcPortMin = 49152 // the dynamic ports of RFC 6335
	DefaultSrcPortMax = 65535
	DefaultSrcPorts   = 64
	DefaultAgeing     = 300 * time.Second // as vxlan and bridges have it
	DefaultMaxAddress = 4096
	DefaultRcvbuf     = 8 << 20
)

// DF is the policy for the outer Don't Fragment bit.
type DF string

// The policies of DF.
const (
	DFSet     DF = "set"
	DFUnset   DF = "unset"
	DFInherit DF = "inherit"
)

// Offload says whether the device is to use virtio-net headers.
type Offload string

// The values of Offload. Auto takes what the kernel has, on insists.
const (
	OffloadAuto Offload = "auto"
	OffloadOn   Offload = "on"
	OffloadOff  Offload = "off"
)

// Config is a checked configuration: what one process is to do.
type Config struct {
	Instance string // "": not said
	Log      Log
	Socket   Socket
	Tunnels  []Tunnel // at least one, in the order of the file
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // auto, console or json
}

// Socket is what all tunnels share.
type Socket struct {
	Workers int    // 1-255; 0: auto
	Rcvbuf  int    // of a receive socket, in bytes
	Port    uint16 // the DstPort of tunnels that do not say otherwise
	Ports   int    // size of the set of source ports
}

// Peer is one remote VTEP of a tunnel.
type Peer struct {
	Name    string // for people; may be empty
	Remote  netip.Addr
	Port    uint16 // sent to; 0: the tunnel's DstPort
	NoFlood bool   // no copies of broadcast, unknown unicast and multicast
}

// Tunnel is the checked configuration of one tunnel.
type Tunnel struct {
	Name string
	VNI  uint32 // 0-16777215
	L3   bool   // IP packets in a TUN instead of Ethernet frames in a TAP

	Local   netip.Addr // unspecified: any of the family of the peers
	Peers   []Peer     // at least one, all of one family
	Dev     string     // underlay device; "": the route decides
	DstPort uint16

	SrcPortMin, SrcPortMax uint16 // both ends included
	SrcPorts               int    // size of the set of source ports

	TTL       int // 1-255 or Inherit
	TOS       int // 0-252 without ECN bits, or Inherit
	DF        DF
	UDPCsum   bool   // outer UDP checksum over IPv4
	ZeroCsum6 bool   // send UDP checksum 0 over IPv6
	AcceptZ6  bool   // accept UDP checksum 0 over IPv6
	Mark      uint32 // SO_MARK of outer packets

	Learning      bool
	Ageing        time.Duration // 0: never
	MaxAddress    int
	L2ControlPass bool // carry 01:80:c2:00:00:00-0f
	VLANDrop      bool // drop frames with a VLAN tag

	MTU       int    // 68-65535; 0: auto
	LLAddr    string // canonical form; "": as the kernel chooses
	Addresses []netip.Prefix
	Netns     string // name or absolute path; "": stay
	Master    string
	TxQueue   int // 0: leave as it is
	Persist   bool
	Up        bool
	Offload   Offload
}

// Warnings are remarks on a tunnel that is valid but perhaps not meant so.
func (t Tunnel) Warnings() []string {
	var w []string
	if t.VNI == 1 {
		w = append(w, "id 1 is the recommended management VNI (RFC 9772 section 2.2): better not used for a tenant")
	}
	return w
}

// problem is something wrong with a tunnel as a whole.
type problem struct {
	key  string // the keyword it is best shown at; "": the tunnel
	peer int    // which of several remotes
	text string
}

// check is for what concerns several keywords at once, and fills in what
// follows from others. given are the keywords that were set, be it in vain;
// ports is the number of source ports wished for.
func (t *Tunnel) check(given func(key string) bool, ports int) (found []problem) {
	report := func(key string, peer int, format string, args ...any) {
		found = append(found, problem{key, peer, fmt.Sprintf(format, args...)})
	}
	if err := CheckDevice(t.Name); err != nil {
		report("name", 0, "%s", err)
	}
	if !given("id") {
		report("", 0, "no id: add the VNI of the tunnel, id 0 to 16777215")
	}
	t.SrcPorts = min(ports, int(t.SrcPortMax)-int(t.SrcPortMin)+1)
	if t.L3 && t.LLAddr != "" {
		report("lladdr", 0, "lladdr %s: a mode l3 device has no Ethernet address", t.LLAddr)
	}
	if t.L3 && t.Master != "" {
		report("master", 0, "master %s: a mode l3 device cannot join a bridge", t.Master)
	}
	if t.Dev == t.Name && t.Dev != "" {
		report("dev", 0, "dev %s is the tunnel itself: dev is the underlay device", t.Dev)
	}
	if len(t.Peers) == 0 {
		if !given("remote") {
			report("", 0, "no remote: add the address of the other end, remote ADDR")
		}
		return found
	}
	first := t.Peers[0].Remote
	if !given("local") || !t.Local.IsValid() {
		t.Local = netip.IPv4Unspecified()
		if first.Is6() {
			t.Local = netip.IPv6Unspecified()
		}
	}
	seen := map[netip.Addr]bool{}
	for i := range t.Peers {
		r := t.Peers[i].Remote
		switch {
		case seen[r]:
			report("remote", i, "remote %s is given twice", r)
		case r.Is4() != first.Is4():
			report("remote", i, "remote %s and remote %s are of different families: use one tunnel for each", first, r)
		case linkLocal(r) && t.Dev == "":
			report("remote", i, "remote %s is link-local: name the underlay device, dev DEVICE", r)
		case r == t.Local:
			report("remote", i, "local and remote are both %s: remote is the address of the other host", r)
		}
		seen[r] = true
	}
	if t.Local.Is4() != first.Is4() {
		report("local", 0, "local %s and remote %s are of different families", t.Local, first)
	} else if linkLocal(t.Local) && t.Dev == "" {
		report("local", 0, "local %s is link-local: name the underlay device, dev DEVICE", t.Local)
	}
	if t.L3 && len(t.Peers) > 1 {
		report("remote", 1, "a mode l3 tunnel goes to one remote, %d are given", len(t.Peers))
	}
	return found
}

// linkLocal reports whether a is of use only together with a device.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
