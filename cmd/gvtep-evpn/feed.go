package main

import (
	"net/netip"
	"sync"
	"time"

	"gvtep/internal/evpn"
)

// event is a change that monitor prints.
type event struct {
	Time     time.Time `json:"time"`
	Object   string    `json:"object"` // "route", "session" or "mac"
	Action   string    `json:"action"` // "update", "withdraw", "up", "down" or "duplicate"
	Type     string    `json:"type,omitempty"`
	RD       string    `json:"rd,omitempty"`
	VNI      uint32    `json:"vni,omitempty"`
	MAC      string    `json:"mac,omitempty"`
	IP       string    `json:"ip,omitempty"`
	Prefix   string    `json:"prefix,omitempty"`
	VTEP     string    `json:"vtep,omitempty"`
	Seq      uint32    `json:"seq,omitempty"`
	Neighbor string    `json:"neighbor,omitempty"`
	Lost     int       `json:"lost,omitempty"` // events before this one that the reader was too slow for
}

// feed hands events to whoever listens. It waits for nobody.
type feed struct {
	mu      sync.Mutex
	readers map[chan event]*int // and how many each has lost
}

func newFeed() *feed { return &feed{readers: map[chan event]*int{}} }

// listen returns what comes from now on, until leave is called.
func (f *feed) listen() (events <-chan event, leave func()) {
	c := make(chan event, 1024)
	f.mu.Lock()
	f.readers[c] = new(int)
	f.mu.Unlock()
	return c, func() {
		f.mu.Lock()
		delete(f.readers, c)
		f.mu.Unlock()
	}
}

func (f *feed) put(e event) {
	e.Time = time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, lost := range f.readers {
		e.Lost = *lost
		select {
		case c <- e:
			*lost = 0
		default:
			*lost++
		}
	}
}

func (f *feed) session(action string, neighbor netip.Addr) {
	f.put(event{Object: "session", Action: action, Neighbor: neighbor.String()})
}

func (f *feed) route(action string, r *evpn.Route) {
	f.mu.Lock()
	nobody := len(f.readers) == 0
	f.mu.Unlock()
	if nobody {
		return
	}
	e := event{Object: "route", Action: action, Type: r.Kind.String(), RD: r.RD.String(), VNI: r.VNI, Seq: r.Seq}
	if !r.MAC.IsZero() {
		e.MAC = r.MAC.String()
	}
	e.IP, e.VTEP = text(r.IP), text(r.NextHop)
	if r.Net.IsValid() {
		e.Prefix = r.Net.String()
	}
	f.put(e)
}

// text is an address, "" of none.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
