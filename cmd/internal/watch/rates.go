// Package watch is the live view of gvtep watch: what goes through the tunnels of an instance,
// and what is dropped of whom. It is a client of the control socket and nothing more.
//
// Samples become a Report (rates.go: pure), a Report becomes a screen (screen.go: pure), and a
// program shows screens and reads keys (program.go).
package watch

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"gvtep/cmd/internal/control"
)

// Sample is what an instance says at one moment.
type Sample struct {
	Time    time.Time
	Status  control.Status
	Tunnels []control.Tunnel
}

// Report is what two samples say of the time between them. Its JSON keys are stable.
type Report struct {
	Time     time.Time `json:"time"`
	Seconds  float64   `json:"seconds"` // between the samples
	Instance string    `json:"instance"`
	Ready    bool      `json:"ready"`
	Reason   string    `json:"reason,omitempty"` // why it is not ready
	Uptime   float64   `json:"uptime_seconds"`
	Tunnels  int       `json:"tunnels"`
	Heard    int       `json:"peers_heard"`
	Of       int       `json:"peers_total"` // those whose packets are let in
	RX       Rate      `json:"rx"`          // of all tunnels, inner packets
	TX       Rate      `json:"tx"`
	Dropped  float64   `json:"drops_per_second"`
	Peers    []Peer    `json:"peers"` // most bits a second first
	Drops    []Drop    `json:"drops"` // most packets a second first, then the latest
}

// Rate is one direction.
type Rate struct {
	Packets float64 `json:"packets_per_second"`
	Bits    float64 `json:"bits_per_second"`
}

// Peer is a peer of a tunnel.
type Peer struct {
	Ifname  string     `json:"ifname"`
	Name    string     `json:"name,omitempty"`
	Remote  netip.Addr `json:"remote"`
	Port    uint16     `json:"port"`
	State   string     `json:"state,omitempty"` // as in show
	SeenAgo *float64   `json:"last_seen_seconds"`
	RX      Rate       `json:"rx"`
	TX      Rate       `json:"tx"`
	// Trouble is why it is not heard or cannot be sent to, as far as is known.
	Trouble string `json:"trouble,omitempty"`

	usual bool      // Port is that of the tunnel
	past  []float64 // bits a second of both directions, the latest last
}

// Drop is packets dropped for one reason.
type Drop struct {
	Ifname    string  `json:"ifname,omitempty"` // "": they belong to no tunnel
	Direction string  `json:"direction"`        // "in" is from the underlay
	Reason    string  `json:"reason"`
	Packets   uint64  `json:"packets"` // since the tunnel began
	Rate      float64 `json:"per_second"`
	// From is whose packets these were, the latest first, as far as is remembered.
	From []Source `json:"from,omitempty"`
}

// Source is who sent what was dropped.
type Source struct {
	Source  netip.Addr `json:"source"`
	ID      uint32     `json:"id"` // VNI
	Packets uint64     `json:"packets"`
	LastAgo float64    `json:"last_seconds"` // ago
}

// pastLength is how many rates of a peer are remembered: a minute, with the usual interval.
const pastLength = 60

// History makes a Report of each sample and the one before. Its zero value has none yet.
type History struct {
	last Sample
	past map[peerKey][]float64
}

type peerKey struct {
	dev    string
	remote netip.AddrPort
}

func keyOf(dev string, p *control.Peer) peerKey {
	return peerKey{dev, netip.AddrPortFrom(p.Remote, p.Port)}
}

// Add takes a sample. Of the first there are no rates: it reports false.
func (h *History) Add(s Sample) (r Report, ok bool) {
	last := h.last
	h.last = s
	seconds := s.Time.Sub(last.Time).Seconds()
	if last.Time.IsZero() || seconds <= 0 || s.Status.Started != last.Status.Started {
		return Report{}, false
	}
	r = Report{
		Time: s.Time, Seconds: seconds, Instance: s.Status.Instance, Ready: s.Status.Ready, Reason: s.Status.Reason, Uptime: s.Status.Uptime,
		Tunnels: len(s.Tunnels), Peers: []Peer{}, Drops: []Drop{},
	}
	before := make(map[string]*control.Tunnel, len(last.Tunnels))
	peers := map[peerKey]*control.Peer{}
	for i := range last.Tunnels {
		t := &last.Tunnels[i]
		before[t.Ifname] = t
		for j := range t.Gvtep.Peers {
			peers[keyOf(t.Ifname, &t.Gvtep.Peers[j])] = &t.Gvtep.Peers[j]
		}
	}
	past := make(map[peerKey][]float64, len(peers))
	for i := range s.Tunnels {
		t := &s.Tunnels[i]
		was := before[t.Ifname]
		if was == nil {
			was = t // it is new: what it has counted is of an unknown time
		}
		r.RX = r.RX.plus(rate(t.Stats.RX.Packets, t.Stats.RX.Bytes, was.Stats.RX.Packets, was.Stats.RX.Bytes, seconds))
		r.TX = r.TX.plus(rate(t.Stats.TX.Packets, t.Stats.TX.Bytes, was.Stats.TX.Packets, was.Stats.TX.Bytes, seconds))
		for j := range t.Gvtep.Peers {
			p := &t.Gvtep.Peers[j]
			key := keyOf(t.Ifname, p)
			now := peerOf(t, p, cmp.Or(peers[key], p), seconds)
			now.past = append(slices.Clip(h.past[key]), now.RX.Bits+now.TX.Bits)
			now.past = now.past[max(0, len(now.past)-pastLength):]
			past[key] = now.past
			r.Peers = append(r.Peers, now)
			if p.State != "" {
				r.Of++
			}
			if p.State == "heard" {
				r.Heard++
			}
		}
		r.addDrops(t.Ifname, t.Gvtep.Drops, was.Gvtep.Drops)
	}
	h.past = past
	r.addDrops("", s.Status.Drops, last.Status.Drops)
	r.name(s)
	r.sort()
	return r, true
}

func peerOf(t *control.Tunnel, p, was *control.Peer, seconds float64) Peer {
	out := Peer{
		Ifname: t.Ifname, Name: p.Name, Remote: p.Remote, Port: p.Port, State: p.State, SeenAgo: p.SeenAgo, usual: p.Port == t.LinkInfo.Data.Port,
		RX: rate(p.RX.Packets, p.RX.Bytes, was.RX.Packets, was.RX.Bytes, seconds),
		TX: rate(p.TX.Packets, p.TX.Bytes, was.TX.Packets, was.TX.Bytes, seconds),
	}
	if p.State == "" {
		out.State = p.Origin
	}
	switch e, m := p.SendError, p.ICMP; {
	case p.Error != "":
		out.Trouble = p.Error
	case e != nil && e.LastAgo < troubleFor:
		out.Trouble = "sending fails: " + e.Text
	case p.State != "heard" && m != nil && m.LastAgo < troubleFor:
		out.Trouble = "ICMP from " + m.From.String() + ": " + m.What
	}
	return out
}

// troubleFor is for how long, in seconds, a trouble that does not come again is told, as in show.
const troubleFor = 60

// rate is what came between two counts. A count that has become less was begun anew.
func rate(packets, bytes, packetsBefore, bytesBefore uint64, seconds float64) Rate {
	return Rate{Packets: perSecond(packets, packetsBefore, seconds), Bits: 8 * perSecond(bytes, bytesBefore, seconds)}
}

func perSecond(now, before uint64, seconds float64) float64 {
	if now < before {
		before = 0
	}
	return float64(now-before) / seconds
}

func (r Rate) plus(o Rate) Rate { return Rate{r.Packets + o.Packets, r.Bits + o.Bits} }

// addDrops adds what is dropped of a tunnel, or of none.
func (r *Report) addDrops(dev string, now, before control.Drops) {
	for _, of := range []struct {
		direction   string
		now, before map[string]uint64
	}{{"in", now.RX, before.RX}, {"out", now.TX, before.TX}} {
		for reason, n := range of.now {
			d := Drop{Ifname: dev, Direction: of.direction, Reason: reason, Packets: n, Rate: perSecond(n, of.before[reason], r.Seconds)}
			r.Dropped += d.Rate
			r.Drops = append(r.Drops, d)
		}
	}
}

// name says whose packets were dropped. What is remembered of them has no tunnel: those of a
// tunnel have one of its VNIs.
func (r *Report) name(s Sample) {
	ids := map[string][]control.VLAN{}
	for _, t := range s.Tunnels {
		of := t.Gvtep.VLANs
		if id := t.LinkInfo.Data.ID; id != nil {
			of = append(slices.Clip(of), control.VLAN{ID: *id})
		}
		ids[t.Ifname] = of
	}
	byReason := map[string][]control.Refused{}
	for _, f := range s.Status.Refused {
		byReason[f.Reason] = append(byReason[f.Reason], f)
	}
	for i := range r.Drops {
		d := &r.Drops[i]
		if d.Direction != "in" {
			continue
		}
		for _, f := range byReason[d.Reason] {
			if d.Ifname != "" && !slices.ContainsFunc(ids[d.Ifname], func(v control.VLAN) bool { return v.ID <= f.ID && f.ID <= max(v.ID, v.LastID) }) {
				continue
			}
			d.From = append(d.From, Source{f.Source, f.ID, f.Packets, f.LastAgo})
		}
		slices.SortFunc(d.From, func(x, y Source) int {
			return cmp.Or(cmp.Compare(x.LastAgo, y.LastAgo), cmp.Compare(y.Packets, x.Packets), x.Source.Compare(y.Source), cmp.Compare(x.ID, y.ID))
		})
	}
}

func (r *Report) sort() {
	slices.SortFunc(r.Peers, func(x, y Peer) int {
		return cmp.Or(cmp.Compare(y.RX.Bits+y.TX.Bits, x.RX.Bits+x.TX.Bits), byName(&x, &y))
	})
	lastAgo := func(d *Drop) float64 {
		if len(d.From) == 0 {
			return 1e9
		}
		return d.From[0].LastAgo
	}
	slices.SortFunc(r.Drops, func(x, y Drop) int {
		return cmp.Or(cmp.Compare(y.Rate, x.Rate), cmp.Compare(lastAgo(&x), lastAgo(&y)), cmp.Compare(y.Packets, x.Packets),
			cmp.Compare(x.Ifname, y.Ifname), cmp.Compare(x.Direction, y.Direction), cmp.Compare(x.Reason, y.Reason))
	})
}

// byName is the order of peers by device and address.
func byName(x, y *Peer) int {
	return cmp.Or(cmp.Compare(x.Ifname, y.Ifname), x.Remote.Compare(y.Remote), cmp.Compare(x.Port, y.Port))
}
