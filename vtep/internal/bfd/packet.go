// Package bfd is Bidirectional Forwarding Detection (RFC 5880) between VTEPs, in the form that RFC
// 9521 gives it inside GENEVE: bytes to control packets and back (packet.go), to the inner frames
// that carry them and back (frame.go), and the state machine of one session (session.go). It is
// pure: no sockets, no clocks, no randomness of its own. Whoever calls it says what time it is.
package bfd

import (
	"encoding/binary"
	"errors"
)

// State is that of a session (RFC 5880 section 4.1).
type State uint8

// The states, as they stand in a packet.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

// String is the state in the words of Open vSwitch and FRR.
func (s State) String() string { return [...]string{"admin_down", "down", "init", "up"}[s&3] }

// Diag says why a session left the state Up (RFC 5880 section 4.1).
type Diag uint8

// The diagnostics that a session of ours gives.
const (
	DiagNone      Diag = 0
	DiagExpired   Diag = 1
	DiagNeighbour Diag = 3
	DiagAdminDown Diag = 7
)

// String is the diagnostic in the words of the RFC.
func (d Diag) String() string {
	names := [...]string{
		"no diagnostic", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down",
	}
	if int(d) < len(names) {
		return names[d]
	}
	return "unknown diagnostic"
}

// Packet is a control packet without its authentication section, which sessions of ours have not.
type Packet struct {
	Diag        Diag
	State       State
	Poll, Final bool
	Demand      bool
	Mult        uint8
	My, Your    uint32 // discriminators
	// DesiredTx and RequiredRx are intervals in microseconds.
	DesiredTx, RequiredRx uint32
}

// PacketLen is the length of a control packet, in bytes.
const PacketLen = 24

const (
	version      = 1
	flagPoll     = 0x20
	flagFinal    = 0x10
	flagAuth     = 0x04
	flagDemand   = 0x02
	flagMultiple = 0x01
)

// ErrPacket is what is not a control packet for a session of ours.
var ErrPacket = errors.New("bfd: not a valid control packet")

// Parse reads a control packet. It makes the checks of RFC 5880 section 6.8.6 that need no session.
// Bytes behind the packet are ignored. It does not allocate.
func Parse(b []byte) (p Packet, err error) {
	if len(b) < PacketLen {
		return p, ErrPacket
	}
	length, flags := int(b[3]), b[1]
	p = Packet{
		Diag: Diag(b[0] & 0x1f), State: State(flags >> 6),
		Poll: flags&flagPoll != 0, Final: flags&flagFinal != 0, Demand: flags&flagDemand != 0,
		Mult: b[2], My: binary.BigEndian.Uint32(b[4:]), Your: binary.BigEndian.Uint32(b[8:]),
		DesiredTx: binary.BigEndian.Uint32(b[12:]), RequiredRx: binary.BigEndian.Uint32(b[16:]),
	}
	switch {
	case b[0]>>5 != version, length < PacketLen, length > len(b), flags&(flagAuth|flagMultiple) != 0, p.Mult == 0, p.My == 0,
		p.Poll && p.Final, p.Your == 0 && p.State > Down:
		return Packet{}, ErrPacket
	}
	return p, nil
}

// Append appends a control packet to dst.
func (p *Packet) Append(dst []byte) []byte {
	flags := byte(p.State) << 6
	for _, f := range [...]struct {
		set bool
		bit byte
	}{{p.Poll, flagPoll}, {p.Final, flagFinal}, {p.Demand, flagDemand}} {
		if f.set {
			flags |= f.bit
		}
	}
	dst = append(dst, version<<5|byte(p.Diag), flags, p.Mult, PacketLen)
	for _, word := range [...]uint32{p.My, p.Your, p.DesiredTx, p.RequiredRx, 0} {
		dst = binary.BigEndian.AppendUint32(dst, word)
	}
	return dst
}
