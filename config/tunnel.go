// Package config turns what people write into checked values. One table of
// keywords (see Keywords) is the grammar of a tunnel for command line flags
// (--ttl 64), bare words (ttl 64) and, key by key, configuration files.
//
// Everything that can be checked without the kernel is checked here, so that
// a Tunnel is either right or does not exist. Every error is one line that
// says what was wrong and what to try.
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

// Tunnel is the checked configuration of one tunnel.
type Tunnel struct {
	Name string
	VNI  uint32 // 0-16777215
	L3   bool   // IP packets in a TUN instead of Ethernet frames in a TAP

	Local   netip.Addr   // unspecified: any of the family of the remotes
	Remotes []netip.Addr // at least one, all of one family
	Dev     string       // underlay device; "": the route decides
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
	Workers   int // 0: auto
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

// check is for what concerns several keywords at once.
func (t *Tunnel) check(given map[string]bool) error {
	if err := CheckDevice(t.Name); err != nil {
		return err
	}
	if !given["id"] {
		return fmt.Errorf("no id: add the VNI of the tunnel, id 0 to 16777215")
	}
	if len(t.Remotes) == 0 {
		return fmt.Errorf("no remote: add the address of the other end, remote ADDR")
	}
	first := t.Remotes[0]
	seen := map[netip.Addr]bool{}
	for _, r := range t.Remotes {
		if seen[r] {
			return fmt.Errorf("remote %s is given twice", r)
		}
		seen[r] = true
		if r.Is4() != first.Is4() {
			return fmt.Errorf("remote %s and remote %s are of different families: use one tunnel for each", first, r)
		}
		if r.IsLinkLocalUnicast() && r.Is6() && t.Dev == "" {
			return fmt.Errorf("remote %s is link-local: name the underlay device, dev DEVICE", r)
		}
	}
	if !given["local"] {
		t.Local = netip.IPv4Unspecified()
		if first.Is6() {
			t.Local = netip.IPv6Unspecified()
		}
	}
	if t.Local.Is4() != first.Is4() {
		return fmt.Errorf("local %s and remote %s are of different families", t.Local, first)
	}
	if t.Local.IsLinkLocalUnicast() && t.Local.Is6() && t.Dev == "" {
		return fmt.Errorf("local %s is link-local: name the underlay device, dev DEVICE", t.Local)
	}
	if seen[t.Local] {
		return fmt.Errorf("local and remote are both %s: remote is the address of the other host", t.Local)
	}
	if t.Dev == t.Name {
		return fmt.Errorf("dev %s is the tunnel itself: dev is the underlay device", t.Dev)
	}
	if t.L3 && t.LLAddr != "" {
		return fmt.Errorf("lladdr %s: a mode l3 device has no Ethernet address", t.LLAddr)
	}
	if t.L3 && t.Master != "" {
		return fmt.Errorf("master %s: a mode l3 device cannot join a bridge", t.Master)
	}
	t.SrcPorts = min(DefaultSrcPorts, int(t.SrcPortMax)-int(t.SrcPortMin)+1)
	return nil
}
