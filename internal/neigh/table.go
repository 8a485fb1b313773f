// Package neigh answers ARP requests and neighbour solicitations on behalf of
// stations behind peers, so that they need not be flooded: neigh_suppress of
// bridge(8), after RFC 9161.
//
//	t := neigh.NewTable(neigh.Options{Limit: 4096, Ageing: 300 * time.Second})
//	t.Observe(frame, &h, local, now)                      // all that is delivered, from both sides
//	owner, reply := t.Answer(frame, &h, now, buf)         // frames from our device
//	// if the fdb has owner behind a peer:
//	//   reply: write it to the device and do not flood
//	//   owner, but no reply: send the frame to owner only
//	// else forward as ever
//
// A table holds what stations of one segment have said of themselves in ARP
// (RFC 826, RFC 5227) and neighbour discovery (RFC 4861). Whatever is in doubt
// is not answered, and then the station asked answers for itself:
//
//   - addresses not known, or known on our own side of the tunnel;
//   - requests sent to one station only: they ask whether it is alive;
//   - gratuitous ARP, and who asks for its own address;
//   - ARP probes and duplicate address detection. RFC 9161 section 3.2 would
//     answer them too, but an entry may outlive its station, and would keep the
//     address from the next one;
//   - solicitations with options other than the source's link-layer address: no
//     proxy can sign for another (RFC 3971);
//   - IPv6 addresses of which no advertisement was heard. Solicitations do not
//     say whether a station is a router, and one that is advertised without
//     its router flag is struck off the hosts' default routers (RFC 4861
//     section 7.2.5);
//   - stations that speak for a link-layer address that is not the frame's source.
//
// What a station said holds for FreshFor. Then it may have lost the address without
// a word, so a request goes to it, and to nobody else (the unicast-forward function of RFC
// 9161): it answers, and its answer is heard. If none is heard within ProbeWait, requests are
// flooded until the station speaks again.
//
// Frames with up to two VLAN tags are answered with the same tags. An address is
// one in each VLAN.
package neigh

import (
	"errors"
	"iter"
	"net/netip"
	"sync"
	"time"

	"gvtep/internal/packet"
)

// Options are the settings of a new table.
type Options struct {
	// Limit is how many dynamic entries there may be for Observe to make
	// another; 0 is DefaultLimit.
	Limit int
	// Ageing is how long a dynamic entry lives when its station says nothing
	// more about it; 0 is DefaultAgeing.
	Ageing time.Duration
}

// What Options leave open.
const (
	DefaultLimit  = 4096              // that of neighbours in Linux is 1,024 (gc_thresh3), but here are those of all stations
	DefaultAgeing = 300 * time.Second // that of the addresses in a bridge
)

const (
	// FreshFor is how long what a station said of its address is good enough to answer
	// from: DELAY_FIRST_PROBE_TIME (RFC 4861 section 10; delay_first_probe_time in Linux),
	// for which a host, too, trusts a neighbour before it asks that neighbour itself.
	FreshFor = 5 * time.Second
	// ProbeWait is how long a station may take to answer: RETRANS_TIMER (RFC 4861 section
	// 10), after which hosts ask again.
	ProbeWait = time.Second
)

// Entry is what the table knows of one address.
type Entry struct {
	Addr netip.Addr // without zone
	// VLANs are the VLAN IDs of the outer and the inner tag; 0 is none.
	VLANs   [2]uint16
	MAC     packet.MAC
	Static  bool // set by hand, neither moves nor ages
	Local   bool // last heard on our own side
	Router  bool // IPv6: the router flag of its advertisements
	Anycast bool // IPv6: its advertisements do not override others
	// Silent: an IPv6 address of which no advertisement was heard, so that
	// it is not answered for.
	Silent bool
	// Updated is how long ago the station last spoke of it.
	Updated time.Duration
}

// Errors of Set and Delete.
var (
	ErrInvalid = errors.New("neigh: no unicast address of a station: want an IPv4 or IPv6 address without zone, an Ethernet address and VLAN IDs below 4095")
	//lint:ignore ST1005 the words of the kernel, which scripts look for
	ErrNotFound = errors.New("No such file or directory")
)

// Stats counts since the table was made.
type Stats struct {
	Learned uint64 // new entries by Observe
	Moved   uint64 // known elsewhere, or with another MAC, until then
	Aged    uint64 // entries that expired
	Full    uint64 // not learned for want of room
	Doubted uint64 // messages that name a MAC that is not the frame's source
}

// Table is the neighbours of one segment. Make it with NewTable. All methods
// may be called from any goroutine; they take one lock for a short time, but
// Observe and Answer take none for frames other than ARP and neighbour discovery.
//
// Time is an argument: nanoseconds of any clock that does not go backwards.
type Table struct {
	mu      sync.Mutex
	limit   int
	ageing  int64
	entries map[key]*entry
	dynamic int
	stats   Stats
}

// key is an address in a VLAN; IPv4 as ::ffff:a.b.c.d.
type key struct {
	addr  [16]byte
	vlans [2]uint16
}

type entry struct {
	mac     packet.MAC
	static  bool
	local   bool
	router  bool
	anycast bool
	silent  bool
	updated int64
	// probed is when the first request since updated went to the station; 0: none did.
	probed int64
}

// sighting is what one message says of one address.
type sighting struct {
	key key
	mac packet.MAC
	// doubtful: mac is not the frame's source, or no station's.
	doubtful bool
	// The flags are known: it is ARP or an advertisement.
	flags           bool
	router, anycast bool
	// unnamed: there was no link-layer address, mac is the frame's source.
	unnamed bool
}

// NewTable returns an empty table.
func NewTable(o Options) *Table {
	t := &Table{entries: map[key]*entry{}}
	t.Configure(o)
	return t
}

// Configure gives the table other settings. Entries above a lower limit stay until they
// expire.
func (t *Table) Configure(o Options) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit, t.ageing = o.Limit, int64(o.Ageing)
	if t.limit <= 0 {
		t.limit = DefaultLimit
	}
	if t.ageing <= 0 {
		t.ageing = int64(DefaultAgeing)
	}
}

// Concerns reports whether Observe and Answer may have to do with a frame: all
// of ARP and ICMPv6. For others they need not be called.
func Concerns(h *packet.Headers) bool {
	return h.EtherType == etherTypeARP || h.Proto == packet.ProtoICMPv6
}

// Observe learns from a frame that is delivered, from our own side if local.
// h is what packet.Walk found in it. Advertisements and ARP replies are mostly
// sent to one station: give it those, too.
func (t *Table) Observe(frame []byte, h *packet.Headers, local bool, now int64) {
	if !Concerns(h) {
		return
	}
	var s sighting
	if !sight(frame, h, &s) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.alive(s.key, now)
	switch {
	case e != nil && e.static:
	case s.doubtful:
		t.stats.Doubted++
		if e != nil {
			t.remove(s.key) // one of the two is wrong
		}
	case e == nil:
		if s.unnamed {
			return
		}
		if t.dynamic >= t.limit {
			t.stats.Full++
			return
		}
		t.stats.Learned++
		t.dynamic++
		t.entries[s.key] = &entry{mac: s.mac, local: local, router: s.router, anycast: s.anycast, silent: !s.flags, updated: now}
	case e.mac != s.mac:
		if s.unnamed || s.anycast {
			return // RFC 4861 section 7.2.5: it does not override
		}
		t.stats.Moved++
		*e = entry{mac: s.mac, local: local, router: s.router, silent: !s.flags, updated: now}
	default:
		if e.local != local {
			t.stats.Moved++
			e.local = local
		}
		if s.flags {
			e.router, e.anycast, e.silent = s.router, s.anycast, false
		}
		e.updated, e.probed = now, 0
	}
}

// Answer says who has the address that a request from our device asks for: the MAC of a
// station behind a peer, zero if that is not known. What the station said lately is the
// reply, written to buf, which must have room for MaxReply bytes, and returned as a part of
// it: a frame for the device. Without a reply the request is for the station itself.
//
// The table knows where an address was last spoken of, the fdb where its MAC
// was last heard: use the answer only if the fdb has owner behind a peer. A station that
// has come over to our side is there before it speaks ARP, and a reply in its name would
// lead the bridge astray.
func (t *Table) Answer(frame []byte, h *packet.Headers, now int64, buf []byte) (owner packet.MAC, reply []byte) {
	var q question
	if !ask(frame, h, &q) || len(buf) < MaxReply {
		return owner, nil
	}
	t.mu.Lock()
	e := t.alive(q.key, now)
	if e == nil || e.local || e.silent || e.mac == packet.MAC(frame[6:12]) || e.unconfirmed(now) {
		t.mu.Unlock()
		return owner, nil
	}
	fresh := e.static || now-e.updated < int64(FreshFor)
	if !fresh && e.probed == 0 {
		e.probed = max(now, 1)
	}
	known := *e
	t.mu.Unlock()
	if fresh {
		reply = q.reply(frame, &known, buf)
	}
	return known.mac, reply
}

// unconfirmed: the station did not answer when it was asked.
func (e *entry) unconfirmed(now int64) bool {
	return e.probed != 0 && now-e.probed >= int64(ProbeWait)
}

// alive returns the entry of k, or nil. An expired one is removed first. The
// lock is held.
func (t *Table) alive(k key, now int64) *entry {
	e := t.entries[k]
	if e != nil && t.expired(e, now) {
		t.remove(k)
		t.stats.Aged++
		return nil
	}
	return e
}

func (t *Table) expired(e *entry, now int64) bool {
	return !e.static && now-e.updated >= t.ageing
}

// remove takes away an entry that is there. The lock is held.
func (t *Table) remove(k key) {
	if !t.entries[k].static {
		t.dynamic--
	}
	delete(t.entries, k)
}

// Set makes an entry, or puts it in the place of the one there is, with the age it
// says. The limit does not hold for it. The error is ErrInvalid.
func (t *Table) Set(e Entry, now int64) error {
	k := key{e.Addr.As16(), e.VLANs}
	if !e.Addr.IsValid() || e.Addr.Zone() != "" || !packet.IsStation(e.Addr) || !isStationMAC(e.MAC) || e.VLANs[0] > 4094 || e.VLANs[1] > 4094 {
		return ErrInvalid
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries[k] != nil {
		t.remove(k)
	}
	if !e.Static {
		t.dynamic++
	}
	t.entries[k] = &entry{mac: e.MAC, static: e.Static, local: e.Local, router: e.Router, anycast: e.Anycast, silent: e.Silent, updated: now - int64(e.Updated)}
	return nil
}

// Delete removes the entry of an address. The error is ErrNotFound if there is none.
func (t *Table) Delete(addr netip.Addr, vlans [2]uint16, now int64) error {
	if !addr.IsValid() {
		return ErrNotFound
	}
	k := key{addr.As16(), vlans}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alive(k, now) == nil {
		return ErrNotFound
	}
	t.remove(k)
	return nil
}

// Flush removes all dynamic entries and returns how many.
func (t *Table) Flush() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.removeAll(func(e *entry) bool { return !e.static })
}

// Sweep removes the entries that have expired and returns how many. Call it
// every few seconds: until then they count for the limit.
func (t *Table) Sweep(now int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.removeAll(func(e *entry) bool { return t.expired(e, now) })
	t.stats.Aged += uint64(n)
	return n
}

func (t *Table) removeAll(match func(*entry) bool) int {
	n := 0
	for k, e := range t.entries {
		if match(e) {
			t.remove(k)
			n++
		}
	}
	return n
}

// All yields the entries that have not expired, in no order, as they were when
// it began.
func (t *Table) All(now int64) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		t.mu.Lock()
		list := make([]Entry, 0, len(t.entries))
		for k, e := range t.entries {
			if !t.expired(e, now) {
				list = append(list, Entry{
					Addr: netip.AddrFrom16(k.addr).Unmap(), VLANs: k.vlans, MAC: e.mac, Static: e.static, Local: e.local,
					Router: e.router, Anycast: e.anycast, Silent: e.silent, Updated: time.Duration(max(now-e.updated, 0)),
				})
			}
		}
		t.mu.Unlock()
		for _, e := range list {
			if !yield(e) {
				return
			}
		}
	}
}

// Len returns the number of entries. Those that have expired since the last
// Sweep are among them.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries)
}

// Stats returns the counters.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}
