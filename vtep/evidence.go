package vtep

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// Refused is what is remembered of packets from the underlay that looked alike and were dropped.
type Refused struct {
	Reason      count.Reason
	Source      netip.Addr // of the outer packet
	VNI         packet.VNI
	Protocol    uint16 // of the payload, as the header says
	Port        uint16 // that they were sent to; 0: it is not known
	Count       uint64
	First, Last time.Time
	Head        []byte // the first bytes of the first of them, from the GENEVE header on
}

// PeerRefused is how many packets of a peer were dropped for a reason, as far as is remembered.
type PeerRefused struct {
	Reason count.Reason
	VNI    packet.VNI
	Count  uint64
	Last   time.Time
}

// SendError is the last error that the kernel made of a send.
type SendError struct {
	Err unix.Errno
	At  time.Time
}

// ICMPError is the last ICMP error about what was sent to a peer. It is a hint.
type ICMPError struct {
	netio.ICMP
	At time.Time
}

// Contact is what is heard of a peer.
type Contact uint8

const (
	Silent  Contact = iota // nothing has come from it lately
	Heard                  // packets come from it and are taken
	Rejects                // packets come from it and are dropped
	NoRoute                // nothing can be sent to it
)

// String is the word for it everywhere: in commands, JSON, metrics and the log.
func (c Contact) String() string { return [...]string{"silent", "heard", "refused", "no route"}[c] }

// Contacts returns all of them.
func Contacts() []Contact { return []Contact{Heard, Rejects, Silent, NoRoute} }

const (
	// HeardFor is how long after its last packet a peer is still heard.
	HeardFor = time.Minute
	// refusedAfter is how much longer ago than the last packet that was dropped the last one that
	// was taken has to be for a peer to be refused: one stray packet says nothing.
	refusedAfter = 10 * time.Second
)

// contact says what is heard of a peer.
func (p *PeerState) contact(now time.Time) Contact {
	var refused time.Time
	for _, r := range p.Refused {
		if !r.Reason.OfFrame() && r.Last.After(refused) {
			refused = r.Last
		}
	}
	switch {
	case p.Error != "":
		return NoRoute
	case !refused.IsZero() && refused.Sub(p.LastSeen) > refusedAfter:
		return Rejects
	case now.Sub(p.LastSeen) < HeardFor:
		return Heard
	}
	return Silent
}

// refusals tells the evidence that workers have gathered.
func (e *Endpoint) refusals(all []count.Refused) []Refused {
	out := make([]Refused, len(all))
	for i, r := range all {
		out[i] = Refused{
			Reason: r.Reason, Source: r.Source, VNI: r.VNI, Protocol: r.Protocol, Port: r.Port, Count: r.Count,
			First: e.started.Add(time.Duration(r.First)), Last: e.started.Add(time.Duration(r.Last)), Head: r.Head,
		}
	}
	return out
}

// clue is evidence that concerns peers.
type clue struct {
	Refused
	owned bool // by the tunnel with the VNI: it is about no other
}

// clues orders evidence by the address that it came from. What a tunnel has admitted is about
// that tunnel; what none has is about all that have a peer there.
func (e *Endpoint) clues(all []Refused) map[netip.Addr][]clue {
	clues, snap := make(map[netip.Addr][]clue), e.pool.Snapshot()
	for _, r := range all {
		owned := false
		if r.Reason != count.DropUnknownVNI && r.Reason != count.DropUnknownPeer {
			for _, s := range snap.Sockets {
				known, _ := snap.Listening(s.Key(r.VNI))
				owned = owned || known
			}
		}
		clues[r.Source] = append(clues[r.Source], clue{r, owned})
	}
	return clues
}

// refused is what of the evidence is about a peer of the tunnel.
func (t *tunnel) refused(p *peer, clues map[netip.Addr][]clue) (all []PeerRefused) {
	for _, c := range clues[p.Dest.Remote.Addr().WithZone("")] {
		if c.owned && !t.has(c.VNI) {
			continue
		}
		i := slices.IndexFunc(all, func(o PeerRefused) bool { return o.Reason == c.Reason && o.VNI == c.VNI })
		if i < 0 {
			all = append(all, PeerRefused{Reason: c.Reason, VNI: c.VNI})
			i = len(all) - 1
		}
		all[i].Count += c.Count
		if c.Last.After(all[i].Last) {
			all[i].Last = c.Last
		}
	}
	return all
}

// has reports whether a VNI is the tunnel's.
func (t *tunnel) has(vni packet.VNI) bool {
	return !t.config.NoVNI && t.config.VNI == vni || slices.ContainsFunc(t.config.VLANs, func(r VLANRange) bool {
		return r.VNI <= vni && vni <= r.VNI+packet.VNI(r.Last-r.First)
	})
}

// sendError is the peer's last error of a send, its Err 0 if there was none.
func (p *peer) sendError(e *Endpoint) (last SendError) {
	if last.Err = unix.Errno(p.SendError.Load()); last.Err != 0 {
		last.At = e.started.Add(time.Duration(p.SendErrorAt.Load()))
	}
	return last
}

// maxICMP bounds the destinations that ICMP errors are kept about.
const maxICMP = 1024

// told is what others have said by ICMP about destinations.
type told struct {
	mu   sync.Mutex
	last map[netip.AddrPort]ICMPError
	deaf bool // nothing is heard
}

// put keeps a message, in the place of the oldest if there are too many.
func (t *told) put(m netio.ICMP) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = make(map[netip.AddrPort]ICMPError)
	}
	if _, known := t.last[m.To]; !known && len(t.last) >= maxICMP {
		var oldest netip.AddrPort
		for to, o := range t.last {
			if first := !oldest.IsValid(); first || o.At.Before(t.last[oldest].At) {
				oldest = to
			}
		}
		delete(t.last, oldest)
	}
	t.last[m.To] = ICMPError{m, time.Now()}
}

// about returns what was last said about a destination, the zero value if nothing.
func (t *told) about(to netip.AddrPort) ICMPError {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[netip.AddrPortFrom(to.Addr().WithZone(""), to.Port())]
}

func (t *told) isDeaf() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.deaf
}

// hearErrors listens to ICMP errors until ctx ends.
func (e *Endpoint) hearErrors(ctx context.Context) {
	err := e.underlay.Errors(ctx, e.told.put)
	if err == nil {
		return
	}
	e.told.mu.Lock()
	e.told.deaf = true
	e.told.mu.Unlock()
	e.log.Debug("ICMP errors about what is sent are not seen: that takes CAP_NET_RAW", zap.NamedError("err", err))
}
