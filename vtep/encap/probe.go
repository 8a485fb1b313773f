package encap

import (
	"encoding/binary"
	"math"

	"gvtep/internal/packet"
)

// Probe asks another gvtep whether what is sent to it arrives, or is its answer. Both are GENEVE
// control packets (O bit, RFC 8926 section 3.4) with one critical option of an experimental class
// (section 3.5), before a payload of zeros whose EtherType is for local experiments. Endpoints that
// do not know the option drop it silently: by the O bit, by the critical option, or by the
// protocol type.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	|0 0|  Opt 5    |1|1|     0     |           0x88b5              |
//	|                     VNI                       |       0       |
//	|      class 0xff67             | 0x81 or 0x82  |0 0 0|    4    |
//	|                     0x67767470 ("gvtp")                       |
//	|  version 1    |    status     |            size               |
//	|                            nonce                              |
//	|                                                               |
type Probe struct {
	Answer bool // else a question
	VNI    packet.VNI
	Status ProbeStatus // of an answer; 0 in a question
	// Size is of the UDP payload that the question was in, in bytes: as sent, and in the answer as
	// it arrived.
	Size  int
	Nonce uint64 // of the question, which nobody can guess; the answer repeats it
}

// ProbeStatus is what the endpoint that answers says of itself.
type ProbeStatus uint8

// What an endpoint says of itself.
const (
	ProbeFine     ProbeStatus = iota // it takes what the sender sends with this VNI
	ProbeNoTunnel                    // it knows the sender as a peer, but not with this VNI
	ProbeDown                        // the device of the tunnel is down
)

// Sizes of a probe, as UDP payload, in bytes. An answer has the least: it is never longer than its
// question.
const (
	MinProbe = HeaderLen + 4 + probeData
	MaxProbe = math.MaxUint16
)

const (
	probeClass     = 0xff67 // for experiments
	probeQuestion  = 0x81   // types; the top bit is the critical bit
	probeAnswer    = 0x82
	probeData      = 16
	probeMagic     = 0x67767470 // others may use the class, too
	probeVersion   = 1
	probeEtherType = 0x88b5 // IEEE 802: local experimental
	probeFirst     = (4 + probeData) / 4
	probeFlags     = 0xc0 // O and C
)

// ParseProbe reads a probe. It reports false for all that is none.
func ParseProbe(b []byte) (p Probe, ok bool) {
	if len(b) < MinProbe || len(b) > MaxProbe || b[0] != probeFirst || b[1]&probeFlags != probeFlags ||
		binary.BigEndian.Uint16(b[2:]) != probeEtherType || binary.BigEndian.Uint16(b[8:]) != probeClass ||
		b[11]&0x1f != probeData/4 || binary.BigEndian.Uint32(b[12:]) != probeMagic || b[16] != probeVersion {
		return Probe{}, false
	}
	switch b[10] {
	case probeQuestion:
	case probeAnswer:
		p.Answer = true
	default:
		return Probe{}, false
	}
	p.VNI = packet.VNI(binary.BigEndian.Uint32(b[4:]) >> 8)
	p.Status, p.Size, p.Nonce = ProbeStatus(b[17]), int(binary.BigEndian.Uint16(b[18:])), binary.BigEndian.Uint64(b[20:])
	return p, true
}

// Put writes p into the first MinProbe bytes of b. What stands behind is padding.
func (p Probe) Put(b []byte) {
	_ = b[MinProbe-1]
	b[0], b[1], b[10], b[11] = probeFirst, probeFlags, probeQuestion, probeData/4
	if p.Answer {
		b[10] = probeAnswer
	}
	binary.BigEndian.PutUint16(b[2:], probeEtherType)
	binary.BigEndian.PutUint32(b[4:], uint32(p.VNI)<<8)
	binary.BigEndian.PutUint16(b[8:], probeClass)
	binary.BigEndian.PutUint32(b[12:], probeMagic)
	b[16], b[17] = probeVersion, byte(p.Status)
	binary.BigEndian.PutUint16(b[18:], uint16(p.Size))
	binary.BigEndian.PutUint64(b[20:], p.Nonce)
}
