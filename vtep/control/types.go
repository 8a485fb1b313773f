// Package control is the local control socket of a gvtep instance: HTTP/1.1
// and JSON over a unix socket, so that curl, any language and gvtep's own
// commands can ask what the endpoint is doing.
//
//	GET /v1/status                    Status; ?details adds Status.Go
//	GET /v1/tunnels                   []Tunnel
//	GET /v1/tunnels/NAME              Tunnel
//	GET /v1/tunnels/NAME/peers        []Peer
//	GET /v1/tunnels/NAME/fdb          []FDBEntry
//	GET /v1/fdb?dev=&vni=&dst=        []FDBEntry
//	GET /v1/tunnels/NAME/fdb/LLADDR   []FDBEntry
//	GET /v1/events?object=            Event, one a line, until the daemon ends
//	POST /v1/reload?config=&dry_run=  Reload
//	POST /v1/tunnels                  TunnelWrite; PATCH and DELETE /v1/tunnels/NAME
//	POST /v1/tunnels/NAME/peers       PeerWrite; PATCH; DELETE /v1/tunnels/NAME/peers/ADDR
//	POST /v1/tunnels/NAME/fdb         FDBWrite
//	DELETE /v1/tunnels/NAME/fdb/LLADDR?keyword=  the keywords of FDBWrite
//	DELETE /v1/tunnels/NAME/fdb?dst=&port=&vni=&permanent=&static=&dynamic=&sticky=&extern_learn=  Flushed
//	GET /healthz, /readyz             200, or 503 and the reason
//
// Errors are {"error": "..."} with a fitting status: 422 for a configuration
// that is wrong, 400 for words that are, 409 for what cannot be done now, 403
// for changes by others than root and the daemon's own user. Changes of
// tunnels, peers and entries last until the daemon ends.
//
// The types here are plain data. Their JSON keys are stable: those of
// "ip -j link" and "bridge -j fdb" where these have one, our own under
// "gvtep". Numbers are in the unit that the key names, times are RFC 3339.
//
// Who may connect is decided by file permissions: the directory is 0750 and
// the socket 0660, so root and the group of the daemon.
package control

import (
	"net/netip"
	"time"
)

// Status is the daemon as a whole.
type Status struct {
	Instance string    `json:"instance"`
	PID      int       `json:"pid"`
	Version  string    `json:"version"`
	Ready    bool      `json:"ready"`
	Reason   string    `json:"reason,omitempty"` // why it is not ready
	Started  time.Time `json:"started"`
	Uptime   float64   `json:"uptime_seconds"`
	Workers  int       `json:"workers"`
	Stuck    []int     `json:"stuck_workers"` // by number; not ready while there is one
	Tunnels  int       `json:"tunnels"`
	Sockets  []Socket  `json:"sockets"`
	Drops    Drops     `json:"drops"` // of packets that belong to no tunnel
	// Config is the file or directory that a reload reads, if there is one.
	Config string   `json:"config,omitempty"`
	Go     *Runtime `json:"go,omitempty"`
}

// Runtime is about the Go runtime of the daemon. It is told only to those who
// ask, since it takes a garbage collection.
type Runtime struct {
	HeapObjects uint64 `json:"heap_objects"` // live objects
	Goroutines  int    `json:"goroutines"`
}

// ReloadRequest says what to load.
type ReloadRequest struct {
	// Config is an absolute path; "": the one that the daemon has. Another one
	// becomes the daemon's.
	Config string
	DryRun bool // only tell what would change
}

// Reload is what a reload changed, or would change.
type Reload struct {
	Config  string         `json:"config"`
	Applied bool           `json:"applied"` // false of a dry run
	Tunnels int            `json:"tunnels"` // in all, afterwards
	Added   []string       `json:"added"`
	Removed []string       `json:"removed"`
	Changed []TunnelChange `json:"changed"`
	Process []KeyChange    `json:"process"` // of [log] and [socket]
	// Restart says that some changes take a restart. They are not applied.
	Restart bool `json:"restart"`
}

// TunnelChange is what changed of a tunnel.
type TunnelChange struct {
	Ifname string      `json:"ifname"`
	Keys   []KeyChange `json:"keys"`
}

// KeyChange is a keyword that has another value.
type KeyChange struct {
	Key  string `json:"key"`
	Old  string `json:"old"` // as in a file; "": not set
	New  string `json:"new"`
	Live bool   `json:"live"` // false: it takes a restart
}

// Socket is one address that is listened on.
type Socket struct {
	Local     netip.Addr `json:"local"`
	Port      uint16     `json:"port"`
	Dev       string     `json:"dev,omitempty"`
	Overflows uint64     `json:"overflows"` // datagrams the kernel dropped for want of room
}

// Drops are dropped packets by reason, without those that are zero: RX from
// the underlay, TX from the device.
type Drops struct {
	RX map[string]uint64 `json:"rx"`
	TX map[string]uint64 `json:"tx"`
}

// Total is the number of packets dropped.
func (d Drops) Total() uint64 {
	var n uint64
	for _, m := range []map[string]uint64{d.RX, d.TX} {
		for _, c := range m {
			n += c
		}
	}
	return n
}

// Tunnel is one tunnel, in the form of an element of "ip -d -s -j link".
type Tunnel struct {
	Ifindex  int          `json:"ifindex"`
	Ifname   string       `json:"ifname"`
	Flags    []string     `json:"flags"`
	MTU      int          `json:"mtu"`
	Master   string       `json:"master,omitempty"`
	LinkType string       `json:"link_type"` // "ether" or "none"
	Address  string       `json:"address,omitempty"`
	LinkInfo LinkInfo     `json:"linkinfo"`
	Stats    Stats64      `json:"stats64"`
	Gvtep    TunnelDetail `json:"gvtep"`
}

// LinkInfo has iproute2's nesting.
type LinkInfo struct {
	Kind string   `json:"info_kind"` // "geneve"
	Data InfoData `json:"info_data"`
}

// InfoData are the settings that the kernel's geneve device also has, under
// its names. Remote is the first peer; all are in the tunnel's details.
type InfoData struct {
	ID        uint32 `json:"id"`
	Remote    string `json:"remote,omitempty"`
	Remote6   string `json:"remote6,omitempty"`
	Local     string `json:"local,omitempty"`
	Local6    string `json:"local6,omitempty"`
	TTL       int    `json:"ttl,omitempty"` // left out for inherit
	TOS       string `json:"tos,omitempty"` // as 0xb8; 0x1 for inherit, left out for 0
	DF        string `json:"df"`
	Port      uint16 `json:"port"`
	UDPCsum   bool   `json:"udp_csum"`
	ZeroCsumT bool   `json:"udp_zero_csum6_tx"`
	ZeroCsumR bool   `json:"udp_zero_csum6_rx"`
}

// Stats64 are the counters of inner frames. As on any device, rx is what the
// tunnel received from the underlay.
type Stats64 struct {
	RX Counters `json:"rx"`
	TX Counters `json:"tx"`
}

// Counters are one direction of Stats64.
type Counters struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	Dropped uint64 `json:"dropped"`
}

// Traffic is one direction of what a peer and we exchanged.
type Traffic struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
}

// TunnelDetail is what iproute2 has no key for.
type TunnelDetail struct {
	Mode       string    `json:"mode"` // "l2" or "l3"
	TTL        string    `json:"ttl"`  // "64" or "inherit"
	TOS        string    `json:"tos"`  // "0xb8" or "inherit"
	Local      string    `json:"local"`
	Dev        string    `json:"dev,omitempty"`
	Group      string    `json:"group,omitempty"`
	Accept     []string  `json:"accept,omitempty"` // prefixes from where anybody may speak
	Netns      string    `json:"netns,omitempty"`
	SrcPortMin uint16    `json:"srcport_min"`
	SrcPortMax uint16    `json:"srcport_max"`
	Mark       uint32    `json:"fwmark"`
	MTUAuto    bool      `json:"mtu_auto"`
	Addresses  []string  `json:"addresses"`
	Persist    bool      `json:"persist"`
	Queues     int       `json:"queues"`
	Offload    []string  `json:"offload"` // of vnet_hdr, csum, tso4, tso6, uso
	Since      time.Time `json:"since"`
	Uptime     float64   `json:"uptime_seconds"`
	Learning   bool      `json:"learning"`
	Ageing     float64   `json:"ageing_seconds"`
	L2Control  string    `json:"l2_control"` // "drop" or "pass"
	VLANTags   string    `json:"vlan_tags"`  // "pass" or "drop"
	Flood      bool      `json:"flood"`
	McastFlood bool      `json:"mcast_flood"`
	BcastFlood bool      `json:"bcast_flood"`
	BUMLimit   int       `json:"bum_limit"` // frames a second; 0: none
	Locked     bool      `json:"locked"`
	Damping    bool      `json:"move_damping"`
	Suppress   bool      `json:"neigh_suppress"`
	Answered   uint64    `json:"neigh_answered"` // ARP and ND requests answered here
	TxFlood    uint64    `json:"tx_flood_packets"`
	Drops      Drops     `json:"drops"`
	Peers      []Peer    `json:"peers"`
	FDB        FDBCount  `json:"fdb"`
}

// Peer is one remote VTEP of a tunnel.
type Peer struct {
	Name     string     `json:"name,omitempty"`
	Remote   netip.Addr `json:"remote"`
	Port     uint16     `json:"port"`
	Flood    bool       `json:"flood"`
	Routes   []string   `json:"routes,omitempty"`  // of a peer of a mode l3 tunnel; none: all
	Origin   string     `json:"origin"`            // "config", "accept" (it spoke and was let in), "group", "fdb" (only entries point there)
	LastSeen *time.Time `json:"last_seen"`         // null: never
	SeenAgo  *float64   `json:"last_seen_seconds"` // ago; null: never
	RX       Traffic    `json:"rx"`
	TX       Traffic    `json:"tx"`
	PathMTU  int        `json:"path_mtu"` // bytes of outer IP packet; 0: no route
	Error    string     `json:"error,omitempty"`
}

// FDBCount sums up a forwarding table.
type FDBCount struct {
	Learned int    `json:"learned"`
	Static  int    `json:"static"`
	Limit   int    `json:"limit"`
	Moved   uint64 `json:"moved"`
	Aged    uint64 `json:"aged"`
	Damped  uint64 `json:"damped"` // moves that were not made of addresses that flap
	Frozen  uint64 `json:"frozen"` // how often one was held for it
}

// FDBEntry is one forwarding entry, in the form of an element of
// "bridge -s -j fdb". Flood list entries have the all-zero address.
type FDBEntry struct {
	MAC     string     `json:"mac"`
	Ifname  string     `json:"ifname"`
	Dst     string     `json:"dst,omitempty"`
	Port    uint16     `json:"port,omitempty"` // if it is not the tunnel's, as the next two
	VNI     *uint32    `json:"vni,omitempty"`
	Via     string     `json:"viaIf,omitempty"`
	Used    *int       `json:"used,omitempty"` // seconds ago; learned entries only
	Updated *int       `json:"updated,omitempty"`
	Flags   []string   `json:"flags"`
	State   string     `json:"state"` // "permanent", "static", or "" of a learned one
	Gvtep   *FDBDetail `json:"gvtep,omitempty"`
}

// FDBDetail is what bridge has no key for.
type FDBDetail struct {
	ID     uint32 `json:"id"`
	Local  bool   `json:"local"`  // behind our own device
	Origin string `json:"origin"` // "learned" or "config"
}

// TunnelWrite is a tunnel to be added, or changed.
type TunnelWrite struct {
	Name     string   `json:"name"`
	Keywords []string `json:"keywords"` // in the words of gvtep run, such as "id", "5"
}

// PeerWrite is a peer to be added, or changed.
type PeerWrite struct {
	Remote   string   `json:"remote"`
	Keywords []string `json:"keywords"` // name TEXT, port PORT, flood or noflood, routes PREFIX
}

// FDBWrite is an entry to be made.
type FDBWrite struct {
	Verb     string   `json:"verb"` // "add", "append" or "replace"
	MAC      string   `json:"mac"`
	Keywords []string `json:"keywords"` // in the words of bridge(8), such as "dst", "192.0.2.2"
}

// FDBFlush chooses entries to be removed; its zero value takes all but the
// flood list.
type FDBFlush struct {
	Dst  netip.Addr
	VNI  *uint32
	Port uint16
	// Is has of "permanent", "static", "dynamic", "sticky" and "extern_learn"
	// what an entry must be, or must not.
	Is map[string]bool
}

// FlushWords are the keys of FDBFlush.Is.
var FlushWords = [...]string{"permanent", "static", "dynamic", "sticky", "extern_learn"}

// Flushed says how many entries were removed.
type Flushed struct {
	Flushed int `json:"flushed"`
}

// Event is one change, or that some were lost.
type Event struct {
	Time   time.Time `json:"time"`
	Object string    `json:"object"` // "tunnel", "peer", "fdb" or "lost"
	// Action is "new", "changed" or "deleted"; of fdb also "moved",
	// "replaced", "aged", "flushed", "frozen" and "thawed".
	Action string `json:"action,omitempty"`
	Ifname string `json:"ifname,omitempty"`
	MAC    string `json:"mac,omitempty"`
	// Dst is the peer, and where the address is; From is where it was.
	Dst   string   `json:"dst,omitempty"`
	Port  uint16   `json:"port,omitempty"`
	From  string   `json:"from,omitempty"`
	Local bool     `json:"local,omitempty"` // behind our own device
	Flags []string `json:"flags,omitempty"`
	State string   `json:"state,omitempty"` // "permanent" or "static"
	Lost  uint64   `json:"lost,omitempty"`  // events before this one that the reader was too slow for
}

// FDBFilter chooses entries; its zero value takes all.
type FDBFilter struct {
	Dev string
	VNI *uint32
	Dst netip.Addr
}
