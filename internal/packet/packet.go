// Package packet holds the plain values that pass between the device side
// (package tap), the endpoint (package vtep) and the underlay side (package
// udp), and the arithmetic on packet bytes that all of them need: the walk
// over Ethernet, IP and transport headers, the flow hash and the Internet
// checksum.
//
// Words, from small to large, used alike in all packages:
//
//	piece        one wire-sized frame
//	super-frame  what one read of a TAP with virtio-net headers can yield: up to
//	             64 KiB of one TCP or UDP flow, to be cut into pieces
//	datagram     one GENEVE packet, the payload of one UDP packet
//	run          consecutive datagrams of one size to one peer from one source
//	             port: one send with UDP_SEGMENT
//	train        what one receive with UDP_GRO yields: datagrams of one size from
//	             one source, back to back
package packet

import (
	"net/netip"
	"sync/atomic"
)

// MaxFrame is the most that one read of a device can return: the largest
// GSO super-frame the kernel makes (65,535 bytes of IP packet and its link
// headers), rounded up.
const MaxFrame = 65536 + 128

// Train is what one receive yields: one or more datagrams back to back.
type Train struct {
	// Data holds the datagrams. It is lent until the receiver's next Receive
	// and may be written to by the borrower.
	Data []byte
	// Size is the length of each datagram; only the last may be shorter.
	// It is len(Data), possibly 0, for a single datagram.
	Size int
	// From is the outer source address, without zone. The source port is
	// entropy (RFC 8926 section 3.3) and is not kept.
	From netip.Addr
	// TOS is the outer TOS or traffic class octet.
	TOS uint8
	// Broadcast says that it was sent to a broadcast or multicast address, and came to a
	// socket that is not that group's.
	Broadcast bool
	// Pieces is the payload of each piece of an inner UDP super-frame, which is then the
	// one datagram there is; 0: nothing is known of one.
	Pieces int
	// Ifindex is the device on which the train came in, 0 if unknown.
	Ifindex int32
}

// Count is the number of datagrams in the train. An empty datagram counts.
func (t *Train) Count() uint64 {
	if t.Size <= 0 || len(t.Data) <= t.Size {
		return 1
	}
	return uint64((len(t.Data) + t.Size - 1) / t.Size)
}

// PortSet is a set of UDP source ports and the descriptors that send from
// them: one per worker and port, so that no two threads share one. It is made
// by package udp, which also owns the descriptors; all others only carry it.
type PortSet struct {
	// ID tells sets apart; small and dense. It is free for another set once no sender has
	// anything queued for this one and it is closed.
	ID int
	// Ports are the source ports.
	Ports []uint16
	// FD is indexed by worker, then by port.
	FD [][]int32
	// NoGSO says that UDP_SEGMENT cannot work here (zero outer checksum).
	NoGSO bool
	// Sent counts the datagrams handed to the kernel, by worker.
	Sent []Counter
}

// Index is the place of the source port that a hash picks. The upper bits of the product spread the
// hash evenly without division.
func (s *PortSet) Index(hash uint32) int { return int(uint64(hash) * uint64(len(s.Ports)) >> 32) }

// Path is the way to one peer: all that is needed to send it a datagram and
// that does not change from datagram to datagram. All but NoGSO is immutable.
type Path struct {
	// Remote is the peer's address and UDP port. IPv4 is never 4-in-6 mapped.
	Remote netip.AddrPort
	// Local is the outer source address; the zero Addr lets the kernel choose
	// by route, per packet.
	Local netip.Addr
	// Ifindex pins the outgoing device (multicast groups, link-local
	// remotes); 0 lets the route decide.
	Ifindex int32
	// Set is where the source port comes from.
	Set *PortSet
	// Peer is the sender's caller's own mark, returned in a Failure.
	Peer int32
	// NoGSO is set by a sender once the kernel has refused UDP_SEGMENT on this
	// way, and cleared by whoever wants it to be tried again.
	NoGSO atomic.Bool
}

// Failure reports that datagrams were not sent.
type Failure struct {
	Path  *Path
	Count int   // datagrams lost
	Size  int   // of the smallest of them
	Err   error // a syscall.Errno
}

// Offload is a set of abilities of a device: what it may hand us and what
// we may hand it. Linux TUN_F_* bits are package tap's business.
type Offload uint8

// The abilities of a device with virtio-net headers.
const (
	OffloadCsum Offload = 1 << iota // partial checksums both ways
	OffloadTSO4                     // TCP over IPv4 super-frames
	OffloadTSO6                     // TCP over IPv6 super-frames
	OffloadUSO                      // UDP super-frames, both families
)

// Has reports whether all abilities of x are in o.
func (o Offload) Has(x Offload) bool { return o&x == x }
