// Package control is the local control socket of a gvtep instance: HTTP/1.1
// and JSON over a unix socket, so that curl, any language and gvtep's own
// commands can ask what the endpoint is doing.
//
// The paths, who may ask for them and what they take stand in one table, routes
// (routes.go). GET /v1/events has an Event on each line until the daemon ends;
// what changes something takes the type of its name, TunnelWrite and so on, as
// JSON, or parameters of the URL (query.go) where there is no such type.
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
	"fmt"
	"net/netip"
	"strconv"
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
	Peers    PeerCount `json:"peers"`
	// Refused are dropped packets from the underlay by what they looked like, the most frequent
	// first. It is bounded: of a flood of many kinds it has the last ones.
	Refused []Refused `json:"refused"`
	// Punts are the packets that the fast path has left to the ordinary way, by reason, the most
	// frequent first; left out where there are none.
	Punts []Punt `json:"fastpath_punts,omitempty"`
	// ICMP says whether ICMP errors about what is sent are seen; without CAP_NET_RAW they are not.
	ICMP bool `json:"icmp_seen"`
	// Config is the file or directory that a reload reads, if there is one.
	Config string `json:"config,omitempty"`
	// Trial is the reload that is to be kept or taken back.
	Trial *Trial   `json:"reload_trial,omitempty"`
	Go    *Runtime `json:"go,omitempty"`
}

// Punt is how many packets the fast path has left to the ordinary way for a reason.
type Punt struct {
	Direction string `json:"direction"` // "in": from the underlay, or "out"
	Reason    string `json:"reason"`    // gvtep explain has more
	Packets   uint64 `json:"packets"`
}

// PeerCount is how many peers, those configured and those let in, are in which state.
type PeerCount struct {
	Total   int `json:"total"`
	Heard   int `json:"heard"`
	Refused int `json:"refused"`
	Silent  int `json:"silent"`
	NoRoute int `json:"no_route"`
}

// Refused is what is remembered of packets that looked alike and were dropped.
type Refused struct {
	Reason  string     `json:"reason"` // as in drops; gvtep explain has more
	Source  netip.Addr `json:"source"` // of the outer packet
	ID      uint32     `json:"id"`     // VNI, as the header says
	Payload string     `json:"payload"`
	Port    uint16     `json:"port,omitempty"` // that they were sent to
	Packets uint64     `json:"packets"`
	First   time.Time  `json:"first"`
	Last    time.Time  `json:"last"`
	LastAgo float64    `json:"last_seconds"` // ago
	Head    string     `json:"head"`         // the first bytes of the first one, in hexadecimal, from the GENEVE header on
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

// TrialRequest says what to load, and for how long.
type TrialRequest struct {
	Config string  `json:"config,omitempty"` // as in ReloadRequest
	After  float64 `json:"revert_after_seconds"`
}

// MinTrial and MaxTrial are the shortest and the longest time of a trial.
const (
	MinTrial = time.Second
	MaxTrial = 24 * time.Hour
)

// Trial is a reload that is taken back after a time, unless it is kept.
type Trial struct {
	Config   string    `json:"config"` // that was loaded
	Deadline time.Time `json:"deadline"`
	Left     float64   `json:"left_seconds"`
	// Error is why it could not be taken back; that is tried again.
	Error string `json:"error,omitempty"`
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
	// Faults are what is other than configured about devices that stay.
	Faults []DeviceFault `json:"faults"`
	// Restart says that some changes take a restart. They are not applied.
	Restart bool `json:"restart"`
	// Reverts is after how many seconds it is taken back unless it is kept; left out if it is not.
	Reverts float64 `json:"reverts_seconds,omitempty"`
}

// DeviceFault is something about a device that is other than configured.
type DeviceFault struct {
	Ifname string `json:"ifname"`
	Fault  string `json:"fault"` // one sentence
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
	// Rcvbuf is the receive buffer of each worker's socket in bytes, and Wanted what [socket] asks for.
	Rcvbuf int `json:"rcvbuf"`
	Wanted int `json:"rcvbuf_wanted"`
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
	Kind string   `json:"info_kind"` // "geneve" or "vxlan"
	Data InfoData `json:"info_data"`
}

// InfoData are the settings that the kernel's geneve device also has, under
// its names. Remote is the first peer; all are in the tunnel's details.
type InfoData struct {
	ID        *uint32 `json:"id,omitempty"` // a trunk may have none
	Remote    string  `json:"remote,omitempty"`
	Remote6   string  `json:"remote6,omitempty"`
	Local     string  `json:"local,omitempty"`
	Local6    string  `json:"local6,omitempty"`
	TTL       int     `json:"ttl,omitempty"` // left out for inherit
	TOS       string  `json:"tos,omitempty"` // as 0xb8; 0x1 for inherit, left out for 0
	DF        string  `json:"df"`
	Port      uint16  `json:"port"`
	UDPCsum   bool    `json:"udp_csum"`
	ZeroCsumT bool    `json:"udp_zero_csum6_tx"`
	ZeroCsumR bool    `json:"udp_zero_csum6_rx"`
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
	BUMLimit   int       `json:"bum_limit"`     // frames a second, of each segment; 0: none
	BFD        string    `json:"bfd,omitempty"` // of peers that have none of their own, as 300msx3; left out for off
	Isolated   bool      `json:"isolated"`
	Locked     bool      `json:"locked"`
	Damping    bool      `json:"move_damping"`
	Suppress   bool      `json:"neigh_suppress"`
	Neigh      []string  `json:"neigh,omitempty"`   // ADDR=LLADDR
	Answered   uint64    `json:"neigh_answered"`    // ARP and ND requests answered here
	TooBig     uint64    `json:"icmp_too_big"`      // senders told that a packet is too big for the path
	Options    []string  `json:"options,omitempty"` // that every packet carries, CLASS:TYPE:DATA or NAME:DATA
	Match      []Match   `json:"match,omitempty"`
	Send       []Match   `json:"send,omitempty"` // rules for packets from the device, in their order
	TxFlood    uint64    `json:"tx_flood_packets"`
	Drops      Drops     `json:"drops"`
	VLANs      []VLAN    `json:"vlans,omitempty"` // of a trunk
	Peers      []Peer    `json:"peers"`
	Ready      bool      `json:"ready"`             // packets can flow
	Unready    []string  `json:"unready,omitempty"` // why not, one sentence each
	FDB        FDBCount  `json:"fdb"`
	FastPath   *FastPath `json:"fastpath,omitempty"` // left out where it is off
}

// FastPath is how the fast path carries a tunnel.
type FastPath struct {
	Wanted  string       `json:"wanted"`           // "on" or "auto"
	Devices []FastDevice `json:"devices"`          // of the underlay, that it serves
	Reason  string       `json:"reason,omitempty"` // why it does not serve the tunnel, or some device
	RX      uint64       `json:"rx_packets"`       // of stats64, those that it carried
	TX      uint64       `json:"tx_packets"`
}

// FastDevice is an underlay device of a fast path.
type FastDevice struct {
	Name string `json:"ifname"`
	Bulk bool   `json:"bulk"` // super-frames go that way, too
}

// Match is a rule of match, for the options of packets that arrive, or one of send, for packets
// from the device.
type Match struct {
	Rule    string `json:"rule"`
	Packets uint64 `json:"packets"` // that it matched
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
	PathMTU  int        `json:"path_mtu"`              // bytes of outer IP packet; 0: no route
	BUMLimit int        `json:"bum_limit,omitempty"`   // flooded frames a second let in; 0: all
	Flooded  uint64     `json:"bum_dropped,omitempty"` // frames above it
	Options  []string   `json:"options,omitempty"`     // of packets to it, if they are not the tunnel's
	Error    string     `json:"error,omitempty"`
	BFD      *PeerBFD   `json:"bfd,omitempty"` // its session
	// State is "heard" (in the last minute), "refused" (its packets arrive and are dropped), "silent"
	// or "no route"; "" of a group, and where only entries point.
	State     string        `json:"state,omitempty"`
	Refused   []PeerRefused `json:"refused,omitempty"`
	SendError *SendError    `json:"send_error,omitempty"`
	ICMP      *ICMP         `json:"icmp,omitempty"`
}

// PeerBFD is the BFD session with a peer.
type PeerBFD struct {
	State      string  `json:"state"`        // "up", "init", "down" or "admin_down"
	Remote     string  `json:"remote_state"` // that of the other end, as it said last
	Dead       bool    `json:"dead"`         // nothing is sent to the peer
	Diagnostic string  `json:"diagnostic"`
	For        float64 `json:"state_seconds"` // that state lasts
	Interval   float64 `json:"interval_ms"`   // between our packets
	Detection  float64 `json:"detection_ms"`  // without a packet after which the session is down; 0: nothing was heard
	Downs      uint64  `json:"downs"`         // how often it was up, and went down
	Received   uint64  `json:"received"`      // packets
}

// PeerRefused is how many packets of a peer were dropped for a reason, as far as is remembered.
type PeerRefused struct {
	Reason  string    `json:"reason"`
	ID      uint32    `json:"id"` // VNI, as the header says
	Packets uint64    `json:"packets"`
	Last    time.Time `json:"last"`
	LastAgo float64   `json:"last_seconds"` // ago
}

// SendError is the last error that the kernel made of a send to a peer.
type SendError struct {
	Errno   string    `json:"errno"` // as EPERM
	Text    string    `json:"text"`
	Last    time.Time `json:"last"`
	LastAgo float64   `json:"last_seconds"` // ago
}

// ICMP is the last ICMP error about what was sent to a peer. It is a hint: others can make it up.
type ICMP struct {
	Type    uint8      `json:"type"`
	Code    uint8      `json:"code"`
	What    string     `json:"what"` // as "port unreachable"
	From    netip.Addr `json:"from"`
	MTU     int        `json:"mtu,omitempty"`
	Last    time.Time  `json:"last"`
	LastAgo float64    `json:"last_seconds"` // ago
}

// ProbeRequest is a question to a peer: does what is sent to it arrive?
type ProbeRequest struct {
	Remote  netip.Addr `json:"remote"`
	ID      *uint32    `json:"id,omitempty"`   // asked about; null: the tunnel's
	Size    int        `json:"size,omitempty"` // bytes of outer IP packet; 0: the least
	Timeout float64    `json:"timeout_seconds"`
}

// Probed is what came of it.
type Probed struct {
	Answered bool    `json:"answered"`
	After    float64 `json:"answer_seconds,omitempty"`
	// Status is "ok", "no_tunnel" (it knows us, but not with this id) or "down" (its device).
	Status string `json:"status,omitempty"`
	Size   int    `json:"size,omitempty"`  // bytes of outer IP packet, as it arrived
	Error  string `json:"error,omitempty"` // why it could not be sent
}

// VLAN is VLANs of a trunk and as many segments, in the form of an element of
// "tunnels" of "bridge -j vlan tunnelshow".
type VLAN struct {
	First  uint16      `json:"vlan"`
	Last   uint16      `json:"vlanEnd,omitempty"` // if there are several, as the next but one
	ID     uint32      `json:"tunid"`
	LastID uint32      `json:"tunidEnd,omitempty"`
	Gvtep  *VLANDetail `json:"gvtep,omitempty"`
}

// VLANDetail are the counters of one VLAN.
type VLANDetail struct {
	RX  Traffic  `json:"rx"`
	TX  Traffic  `json:"tx"` // what the kernel refused to send is among it
	FDB FDBCount `json:"fdb"`
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
	VLAN    uint16     `json:"vlan,omitempty"` // of a trunk, as src_vni, which is the segment's
	Port    uint16     `json:"port,omitempty"` // if it is not the tunnel's, as vni and viaIf
	VNI     *uint32    `json:"vni,omitempty"`
	SrcVNI  *uint32    `json:"src_vni,omitempty"`
	Via     string     `json:"viaIf,omitempty"`
	Used    *int       `json:"used,omitempty"` // seconds ago; learned entries only
	Updated *int       `json:"updated,omitempty"`
	Flags   []string   `json:"flags"`
	State   string     `json:"state"` // "permanent", "static", or "" of a learned one
	Gvtep   *FDBDetail `json:"gvtep,omitempty"`
}

// FDBDetail is what bridge has no key for.
type FDBDetail struct {
	ID     *uint32 `json:"id,omitempty"` // of the segment; the flood list of a trunk is of all
	Local  bool    `json:"local"`        // behind our own device
	Origin string  `json:"origin"`       // "learned" or "config"
	// Owner is that of the batch that wrote it. Seq is as the owner gave it.
	Owner string `json:"owner,omitempty"`
	Seq   uint32 `json:"seq,omitempty"`
	// Options are its own, as "CLASS:TYPE:DATA" or "NAME:DATA".
	Options []string `json:"options,omitempty"`
}

// TunnelWrite is a tunnel to be added, or changed.
type TunnelWrite struct {
	Name     string   `json:"name"`
	Keywords []string `json:"keywords"` // in the words of gvtep run, such as "id", "5"
}

// PeerWrite is a peer to be added, or changed.
type PeerWrite struct {
	Remote   string   `json:"remote"`
	Keywords []string `json:"keywords"` // name TEXT, dstport PORT, flood on|off, bfd off|on|TIMExN, bum_limit PPS, routes PREFIX
}

// VLANWrite is VLANs to be mapped, or no longer.
type VLANWrite struct {
	VID string `json:"vid"` // VID[-VID]
	ID  string `json:"id"`  // VNI[-VNI]; may be "" of those to be removed
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
	VNI  *uint32 // that frames are sent with
	Port uint16
	// VLAN and SrcVNI choose a segment of a trunk; 0 and nil: all.
	VLAN   uint16
	SrcVNI *uint32
	Owner  string // who wrote them; "": anybody
	// Is has of "permanent", "static", "dynamic", "sticky" and "extern_learn"
	// what an entry must be, or must not.
	Is map[string]bool
}

// FlushWords are the keys of FDBFlush.Is.
var FlushWords = [...]string{"permanent", "static", "dynamic", "sticky", "extern_learn"}

// Would is what a change would do that was only checked.
type Would struct {
	Added   []string       `json:"added"` // tunnels
	Removed []string       `json:"removed"`
	Changed []TunnelChange `json:"changed"`
	Flushed int            `json:"flushed,omitempty"` // entries
}

// Flushed says how many entries were removed.
type Flushed struct {
	Flushed int `json:"flushed"`
}

// Progress says of how many tunnels of a change under way how many are done. Of is 0 if there
// is no change, or one of a single tunnel or peer.
type Progress struct {
	Done int `json:"done"`
	Of   int `json:"of"`
}

// String says "400 of 1,000".
func (p Progress) String() string { return grouped(p.Done) + " of " + grouped(p.Of) }

// grouped is a number with commas between thousands.
func grouped(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return grouped(n/1000) + fmt.Sprintf(",%03d", n%1000)
}

// BatchOptions are whose a batch is, and whether what the owner had and the batch does not name
// is to go.
type BatchOptions struct {
	Owner string // "": DefaultOwner
	Sync  bool
}

// DefaultOwner has what batches write that name no owner.
const DefaultOwner = "api"

// BatchResult counts what became of the lines of a batch.
type BatchResult struct {
	Lines   int `json:"lines"`
	Set     int `json:"set"`     // new, or other than before
	Same    int `json:"same"`    // there already
	Removed int `json:"removed"` // by a line or by sync
	Skipped int `json:"skipped"` // it is not the owner's
}

// Event is one change, or that some were lost.
type Event struct {
	// Seq counts up, also from one process to the next. Those of a snapshot have that of the
	// event before them.
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Object string    `json:"object"` // "tunnel", "peer", "fdb", "drop", "snapshot" or "lost"
	// Action of what is there when a snapshot is read is "snapshot", and "end" of the object
	// snapshot behind them. That of lost is "gap" if events between are not known any more: read a
	// snapshot again. Else it is "new", "changed" or
	// "deleted"; of a tunnel also "up", "down" and "gone", which its device is; of a peer also
	// "heard", "refused", "silent", "route_lost" and "route_back"; of fdb also "moved",
	// "replaced", "aged", "flushed", "frozen", "thawed" and "evicted". That of drop is "in",
	// from the underlay, or "out".
	Action string `json:"action,omitempty"`
	Ifname string `json:"ifname,omitempty"`
	MAC    string `json:"mac,omitempty"`
	VLAN   uint16 `json:"vlan,omitempty"` // of a trunk
	// Dst is the peer, and where the address is; From is where it was.
	Dst   string   `json:"dst,omitempty"`
	Port  uint16   `json:"port,omitempty"`
	From  string   `json:"from,omitempty"`
	Local bool     `json:"local,omitempty"` // behind our own device
	Flags []string `json:"flags,omitempty"`
	State string   `json:"state,omitempty"` // "permanent" or "static"
	Lost  uint64   `json:"lost,omitempty"`  // events before this one that the reader was too slow for
	// By is who asked for the change of a tunnel; left out if nobody did who is known. Keys are what
	// it changed; of very many some, and MoreKeys is how many there are beside these.
	By       *Caller     `json:"by,omitempty"`
	Keys     []KeyChange `json:"keys,omitempty"`
	MoreKeys int         `json:"more_keys,omitempty"`
	// Of a drop, and of a peer that is refused: why, and how many packets. Those of a drop are since
	// the event before it; Source, ID and Payload are those of Refused, where they are known.
	Reason  string     `json:"reason,omitempty"`
	Packets uint64     `json:"packets,omitempty"`
	Source  netip.Addr `json:"source,omitzero"`
	ID      *uint32    `json:"id,omitempty"`
	Payload string     `json:"payload,omitempty"`
}

// Caller is a process that asked for a change. Its PID is as this host's daemon sees it, 0 of one
// in another PID namespace, and of a signal, which Command then names.
type Caller struct {
	PID     int    `json:"pid"`
	UID     int    `json:"uid"`
	Command string `json:"command,omitempty"` // its command line, if it is to be seen
}

// String is "pid 4711 uid 0 (gvtep tunnel down gnv0)".
func (c Caller) String() string {
	if c.PID == 0 && c.Command != "" {
		return c.Command
	}
	text := fmt.Sprintf("pid %d uid %d", c.PID, c.UID)
	if c.Command != "" {
		text += " (" + c.Command + ")"
	}
	return text
}

// String is "ttl 64 -> 9".
func (k KeyChange) String() string { return k.Key + " " + orNone(k.Old) + " -> " + orNone(k.New) }

func orNone(value string) string {
	if value == "" {
		return "none"
	}
	return value
}

// Health is whether packets can flow.
type Health struct {
	Ready  bool     // the configured state is true
	Faults []string // what keeps the process from carrying packets
	Unmet  []string // what else is other than configured
}

// OptionKind is a kind of GENEVE options that has a name.
type OptionKind struct {
	Name     string `json:"name"`
	ID       string `json:"id"`               // CLASS:TYPE, in hexadecimal
	Length   *int   `json:"length,omitempty"` // of the data, in bytes, if it is fixed
	Format   string `json:"format"`           // "hex", "uint", "mac", "ipv4" or "label"
	Critical bool   `json:"critical"`
	Known    bool   `json:"known,omitempty"` // let in though it is critical
	Own      bool   `json:"own,omitempty"`   // of the configuration, not built in
}

// LogLevel is from which level on messages are logged.
type LogLevel struct {
	Level string `json:"level"` // "debug", "info", "warn" or "error"
	// Until and Then are when another level comes back, and which.
	Until *time.Time `json:"until,omitempty"`
	Then  string     `json:"then,omitempty"`
}

// LogLevelWrite is the level to log from now on.
type LogLevelWrite struct {
	Level string  `json:"level"`
	For   float64 `json:"for_seconds"` // 0: until it is changed again
}

// FDBFilter chooses entries; its zero value takes all.
type FDBFilter struct {
	Dev  string
	VNI  *uint32 // of the segment
	VLAN uint16  // of a trunk; 0: all
	Dst  netip.Addr
}
