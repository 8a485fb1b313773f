package main

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gvtep/cmd/internal/build"
	"gvtep/internal/evpn"
	"gvtep/internal/evpn/speaker"
	"gvtep/internal/packet"
)

// runDir is where instances have their control sockets.
const runDir = "/run/gvtep-evpn"

// status is the agent as a whole.
type status struct {
	Instance  string         `json:"instance"`
	Version   string         `json:"version"`
	ASN       uint32         `json:"asn"`
	RouterID  netip.Addr     `json:"router_id"`
	Uptime    float64        `json:"uptime_seconds"`
	Gvtep     bool           `json:"gvtep"`    // it answers
	Complete  bool           `json:"complete"` // the neighbours have told all; what was left of another agent is gone
	Neighbors []neighbor     `json:"neighbors"`
	Segments  []segmentView  `json:"segments"`
	Routes    map[string]int `json:"routes"`    // received, by type
	Installed int            `json:"installed"` // of them
	Refused   map[string]int `json:"refused"`   // the others, by reason
	Leaving   int            `json:"leaving"`   // withdrawn, and kept for a while
	Moves     uint64         `json:"moves"`
	Malformed uint64         `json:"malformed"`
	Batches   uint64         `json:"batches"`
	Failed    uint64         `json:"failed_batches"`
	Lines     uint64         `json:"batch_lines"`
}

// neighbor is a BGP session.
type neighbor struct {
	Addr     netip.Addr `json:"neighbor"`
	ASN      uint32     `json:"remote_as"`
	State    string     `json:"state"`
	Uptime   float64    `json:"uptime_seconds"`
	Received uint64     `json:"received"`
	Sent     uint64     `json:"sent"`
	Flaps    uint32     `json:"flaps"`
	Graceful bool       `json:"graceful_restart"` // it keeps our routes while we restart
	RIB      bool       `json:"end_of_rib"`
	Error    string     `json:"error,omitempty"`
}

// segmentView is a VNI of a tunnel.
type segmentView struct {
	VNI      uint32     `json:"vni"`
	Ifname   string     `json:"ifname"`
	VLAN     uint16     `json:"vlan,omitempty"`
	Encap    string     `json:"encap"`
	Mode     string     `json:"mode"`
	Local    netip.Addr `json:"local"`
	RD       string     `json:"rd"`
	VTEPs    int        `json:"vteps"`
	LocalMAC int        `json:"local_macs"`
	Remote   int        `json:"remote_macs"`
	Networks int        `json:"networks"`
	Frozen   int        `json:"duplicates"`
}

// routeView is a route that was received.
type routeView struct {
	Type    string   `json:"type"`
	RD      string   `json:"rd"`
	VNI     uint32   `json:"vni"`
	MAC     string   `json:"mac,omitempty"`
	IP      string   `json:"ip,omitempty"`
	Prefix  string   `json:"prefix,omitempty"`
	NextHop string   `json:"nexthop"`
	Encap   string   `json:"encap"`
	Targets []string `json:"rt"`
	Seq     uint32   `json:"seq,omitempty"`
	Ifname  string   `json:"ifname,omitempty"`
	Refused string   `json:"refused,omitempty"` // why it is not installed
	Leaving bool     `json:"leaving,omitempty"`
}

// macView has the keys of FRR's "show evpn mac vni N json", and ours behind them.
type macView struct {
	VNI       uint32   `json:"vni"`
	MAC       string   `json:"mac"`
	Type      string   `json:"type"` // "local" or "remote"
	Intf      string   `json:"intf,omitempty"`
	VTEP      string   `json:"remoteVtep,omitempty"`
	LocalSeq  uint32   `json:"localSequence"`
	RemoteSeq uint32   `json:"remoteSequence"`
	Duplicate bool     `json:"isDuplicate,omitempty"`
	Neighbors []string `json:"neighbors,omitempty"`
}

func (a *agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answer(w, a.status()) })
	mux.HandleFunc("GET /v1/routes", func(w http.ResponseWriter, r *http.Request) { answer(w, a.routes()) })
	mux.HandleFunc("GET /v1/mac", func(w http.ResponseWriter, r *http.Request) { answer(w, a.macs()) })
	mux.HandleFunc("GET /v1/peers", func(w http.ResponseWriter, r *http.Request) { answer(w, a.neighbors()) })
	mux.HandleFunc("GET /v1/events", a.stream)
	mux.HandleFunc("DELETE /v1/mac/{mac}/duplicate", a.clear)
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collector{a})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// stream writes events, one on each line, until the reader goes.
func (a *agent) stream(w http.ResponseWriter, r *http.Request) {
	events, leave := a.events.listen()
	defer leave()
	flush := http.NewResponseController(w).Flush
	w.Header().Set("Content-Type", "application/x-ndjson")
	for flush() == nil {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			if json.NewEncoder(w).Encode(e) != nil {
				return
			}
		}
	}
}

// clear lets a station move again that was a duplicate.
func (a *agent) clear(w http.ResponseWriter, r *http.Request) {
	mac, err := packet.ParseMAC(r.PathValue("mac"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	cleared := 0
	a.mu.Lock()
	var vnis []uint32
	a.table.Segments(func(s evpn.SegmentState) bool { vnis = append(vnis, s.VNI); return true })
	for _, vni := range vnis {
		if a.table.Clear(vni, mac) {
			cleared++
		}
	}
	a.mu.Unlock()
	if cleared == 0 {
		refuse(w, http.StatusNotFound, mac.String()+" is no duplicate: gvtep-evpn show mac has those that are")
		return
	}
	poke(a.kick)
	answer(w, map[string]int{"cleared": cleared})
}

func (a *agent) neighbors() []neighbor {
	list := []neighbor{}
	a.mu.Lock()
	s := a.speaker
	a.mu.Unlock()
	var states []speaker.State
	if s != nil {
		states, _ = s.States() // it fails only while we end
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.cfg.Neighbors {
		v := neighbor{Addr: n.Addr, ASN: n.AS, State: "idle", RIB: a.ribs[n.Addr]}
		for _, st := range states {
			if st.Neighbor == n.Addr {
				v.State, v.Uptime, v.Received, v.Sent, v.Flaps, v.Graceful, v.Error = st.State, st.Uptime.Seconds(), st.Received, st.Sent, st.Flaps, st.GracefulNeighbor, st.Error
			}
		}
		list = append(list, v)
	}
	return list
}

func (a *agent) status() status {
	s := status{
		Instance: a.cfg.Instance, Version: build.Read(version).Version, ASN: a.cfg.AS, RouterID: a.cfg.RouterID, Uptime: time.Since(a.started).Seconds(),
		Neighbors: a.neighbors(), Segments: []segmentView{}, Routes: map[string]int{}, Refused: map[string]int{},
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Gvtep, s.Complete, s.Moves = a.gvtepUp, a.complete, a.table.Moves()
	s.Malformed, s.Batches, s.Failed, s.Lines = a.stats.malformed, a.stats.batches, a.stats.failed, a.stats.lines
	kinds, why, leaving := a.table.Counts()
	for k, n := range kinds {
		s.Routes[k.String()] = n
	}
	for r, n := range why {
		if r == evpn.Taken {
			s.Installed = n
		} else {
			s.Refused[string(r)] = n
		}
	}
	s.Leaving = leaving
	a.table.Segments(func(g evpn.SegmentState) bool {
		v := segmentView{
			VNI: g.VNI, Ifname: g.Dev, VLAN: g.VLAN, Encap: g.Encap.String(), Mode: "l2", Local: g.Segment.Local, RD: g.RD.String(),
			VTEPs: g.VTEPs, LocalMAC: g.Local, Remote: g.Remote, Networks: g.Networks, Frozen: g.Frozen,
		}
		if g.L3 {
			v.Mode = "l3"
		}
		s.Segments = append(s.Segments, v)
		return true
	})
	slices.SortFunc(s.Segments, func(x, y segmentView) int { return cmp.Compare(x.VNI, y.VNI) })
	return s
}

func (a *agent) routes() []routeView {
	list := []routeView{}
	a.mu.Lock()
	a.table.Routes(func(r evpn.RouteState) bool {
		v := routeView{
			Type: r.Kind.String(), RD: r.RD.String(), VNI: r.VNI, IP: text(r.IP), NextHop: text(r.NextHop), Encap: r.Encap.String(),
			Targets: []string{}, Seq: r.Seq, Ifname: r.Dev, Refused: string(r.Why), Leaving: !r.Leaving.IsZero(),
		}
		if r.Kind == evpn.MACIP {
			v.MAC = r.MAC.String()
		}
		if r.Net.IsValid() {
			v.Prefix = r.Net.String()
		}
		for _, t := range r.Targets {
			v.Targets = append(v.Targets, t.String())
		}
		list = append(list, v)
		return true
	})
	a.mu.Unlock()
	slices.SortFunc(list, func(x, y routeView) int {
		return cmp.Or(cmp.Compare(x.VNI, y.VNI), cmp.Compare(x.Type, y.Type), cmp.Compare(x.MAC, y.MAC), cmp.Compare(x.IP, y.IP), cmp.Compare(x.Prefix, y.Prefix), cmp.Compare(x.RD, y.RD))
	})
	return list
}

func (a *agent) macs() []macView {
	list := []macView{}
	a.mu.Lock()
	a.table.Stations(func(s evpn.StationState) bool {
		v := macView{VNI: s.VNI, MAC: s.MAC.String(), Type: "remote", VTEP: text(s.VTEP), RemoteSeq: s.Remote, Duplicate: s.Frozen}
		if s.Local {
			v.Type, v.Intf, v.LocalSeq = "local", strconv.Itoa(s.Port), s.Seq
		}
		for _, ip := range s.IPs {
			v.Neighbors = append(v.Neighbors, ip.String())
		}
		slices.Sort(v.Neighbors)
		list = append(list, v)
		return true
	})
	a.mu.Unlock()
	names := map[string]string{}
	for i := range list {
		if list[i].Intf != "" {
			list[i].Intf = linkName(names, list[i].Intf)
		}
	}
	slices.SortFunc(list, func(x, y macView) int { return cmp.Or(cmp.Compare(x.VNI, y.VNI), cmp.Compare(x.MAC, y.MAC)) })
	return list
}
