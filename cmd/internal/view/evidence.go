package view

import (
	"encoding/hex"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/encap"
)

// maxRefused is how many kinds of dropped packets an answer has.
const maxRefused = 256

func refusals(all []vtep.Refused, now time.Time) []control.Refused {
	out := make([]control.Refused, min(len(all), maxRefused))
	for i := range out {
		r := &all[i]
		out[i] = control.Refused{
			Reason: r.Reason.String(), Source: r.Source, ID: uint32(r.VNI), Payload: payload(r.Protocol), Port: r.Port,
			Packets: r.Count, First: r.First, Last: r.Last, LastAgo: ago(r.Last, now), Head: hex.EncodeToString(r.Head),
		}
	}
	return out
}

// payload names a payload type.
func payload(protocol uint16) string {
	switch protocol {
	case packet.EtherTypeEthernet:
		return "ethernet"
	case packet.EtherTypeIPv4:
		return "ipv4"
	case packet.EtherTypeIPv6:
		return "ipv6"
	}
	return fmt.Sprintf("%#04x", protocol)
}

// countPeers counts those whose packets are let in.
func countPeers(tunnels []vtep.TunnelState) (n control.PeerCount) {
	for i := range tunnels {
		for j := range tunnels[i].Peers {
			p := &tunnels[i].Peers[j]
			if !p.Speaks {
				continue
			}
			n.Total++
			switch p.Contact {
			case vtep.Heard:
				n.Heard++
			case vtep.Rejects:
				n.Refused++
			case vtep.NoRoute:
				n.NoRoute++
			default:
				n.Silent++
			}
		}
	}
	return n
}

// addEvidence tells what is known of why a peer is not heard, or does not hear us.
func addEvidence(out *control.Peer, p *vtep.PeerState, now time.Time) {
	for _, r := range p.Refused {
		out.Refused = append(out.Refused, control.PeerRefused{
			Reason: r.Reason.String(), ID: uint32(r.VNI), Packets: r.Count, Last: r.Last, LastAgo: ago(r.Last, now),
		})
	}
	if e := p.SendErr; e.Err != 0 {
		out.SendError = &control.SendError{Errno: unix.ErrnoName(e.Err), Text: e.Err.Error(), Last: e.At, LastAgo: ago(e.At, now)}
	}
	if m := p.ICMP; !m.At.IsZero() {
		out.ICMP = &control.ICMP{Type: m.Type, Code: m.Code, What: m.String(), From: m.From, MTU: m.MTU, Last: m.At, LastAgo: ago(m.At, now)}
	}
}

func ago(at, now time.Time) float64 { return max(0, seconds(now.Sub(at))) }

// Probed is what came of a probe.
func Probed(p *vtep.Pong) (out control.Probed) {
	if p.Failed != nil {
		out.Error = p.Failed.Error()
	}
	if !p.Answered {
		return out
	}
	out.Answered, out.After, out.Size = true, p.After.Seconds(), p.Size
	switch p.Status {
	case encap.ProbeFine:
		out.Status = "ok"
	case encap.ProbeDown:
		out.Status = "down"
	case encap.ProbeNoTunnel:
		out.Status = "no_tunnel"
	default:
		out.Status = "unknown" // a later version's
	}
	return out
}
