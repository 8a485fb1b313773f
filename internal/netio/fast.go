package netio

import (
	"net/netip"
	"time"

	"gvtep/internal/packet"
)

// FastPath carries packets in the kernel that need no thought: unicast between stations
// and peers that are known. It learns and decides nothing. What it is not told of, and all
// that is unusual, goes to the queues and sockets as without it.
//
// Methods may be called from any goroutine. None waits for a device.
type FastPath interface {
	// Start tells the key of packet.Hash, by which both paths choose one source port for
	// a flow. It comes first.
	Start(seed uint64)
	// Listen tells the ports that are listened on, at most FastListen: a datagram inside a
	// tunnel to one of them is left to queues and sockets, which see whether it is for us.
	Listen(ports []uint16)
	// Set tells all there is to know of a tunnel, instead of what was told before. Packets
	// of peers that are no longer in it are not let in from the moment that it returns, and
	// it returns their counters for the last time.
	Set(FastTunnel) map[int32]FastCounts
	// Remove forgets a tunnel, as Set without peers.
	Remove(port uint32) map[int32]FastCounts
	// Entry tells where a station is: behind a peer, here (0), or not known, or to be
	// left to the queues and sockets (FastNowhere). It only takes note.
	Entry(port uint32, mac packet.MAC, peer int32)
	// Counts yields the counters of all peers.
	Counts(yield func(peer int32, c FastCounts))
	// Heard yields the entries that have sent or been sent to, with the time since then,
	// negative: never.
	Heard(yield func(port uint32, mac packet.MAC, peer int32, heard, used time.Duration))
	// State tells how a tunnel is carried.
	State(port uint32) FastState
	// Punts counts the packets that were left to queues and sockets, by reason.
	Punts() []FastPunt
}

// FastNowhere is the peer of a station that the fast path is not to know.
const FastNowhere = -1

// FastTunnel is what a fast path has to know of a tunnel. The numbers of tunnels and peers
// are never used again for others.
type FastTunnel struct {
	Port    uint32
	Ifindex int // of the device
	Name    string
	MAC     packet.MAC // of the device
	// Cautious is to be carried only while the kernel has no rules that it would bypass.
	Cautious bool
	Peers    []FastPeer
}

// FastPeer is how datagrams go to a peer, and which of its are let in.
type FastPeer struct {
	ID      int32 // above 0
	Ifindex int   // of the underlay device
	Source  netip.Addr
	Remote  netip.AddrPort
	NextHop netip.Addr // on the device; invalid: the kernel finds it, without ports
	Header  [8]byte    // GENEVE
	Ports   []uint16   // source ports, at most FastPorts, in the order of the hash
	Mark    uint32
	TTL     uint8
	TOS     uint8
	// InheritTTL and InheritTOS take those of the inner packet, where it has them.
	InheritTTL, InheritTOS bool
	NoChecksum             bool // outer UDP checksum 0
	MayCut                 bool // without Don't Fragment
	Limit                  int  // longest inner frame, in bytes
	FloodLimited           bool // it has a limit of what it may flood
	// Admit are the VNIs, local addresses and ports by which it is heard.
	Admit []FastAdmission
}

// FastPorts is how many source ports a peer of a fast path may have.
const FastPorts = 64

// FastListen is how many ports that are listened on a fast path can tell apart.
const FastListen = 8

// FastAdmission is what a datagram of a peer must match beside its source.
type FastAdmission struct {
	VNI   uint32
	Local netip.Addr
	Port  uint16
}

// FastCounts are frames and bytes as count.Stats has them.
type FastCounts struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	Seen                                   time.Duration // since the last packet received; negative: never
}

// FastState is how a tunnel is carried.
type FastState struct {
	// Devices are the underlay devices that are served.
	Devices []FastDevice
	// Reason is why the tunnel, or some underlay device, is not served; "": all are.
	Reason string
}

// FastDevice is an underlay device.
type FastDevice struct {
	Name string
	// Bulk says that super-frames go the fast way, too: the device cuts them in tunnels.
	Bulk bool
}

// FastPunt counts packets of one direction that were left to queues and sockets.
type FastPunt struct {
	Reason string
	In     bool // from the underlay
	Count  uint64
}
