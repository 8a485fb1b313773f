package neigh

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvtep/internal/packet"
)

// model is the table by the rules of the package comment, written down once
// more from the other end: what was said, not which bytes.
type model struct {
	entries map[id]*Entry // Updated is when
	probed  map[id]int64  // when the station was first asked, since Updated
	stats   Stats
	limit   int
}

type id struct {
	addr  netip.Addr
	vlans [2]uint16
}

const modelAgeing = 20 * sec

func (m *model) find(k id, now int64) *Entry {
	e := m.entries[k]
	if e != nil && !e.Static && now-int64(e.Updated) >= modelAgeing {
		delete(m.entries, k)
		m.stats.Aged++
		return nil
	}
	return e
}

func (m *model) dynamic() (n int) {
	for _, e := range m.entries {
		if !e.Static {
			n++
		}
	}
	return n
}

// said: the station mac speaks of its address, in a frame from src.
func (m *model) said(k id, mac, src packet.MAC, local, advertised, router, override bool, now int64) {
	e := m.find(k, now)
	if e != nil && e.Static {
		return
	}
	if mac != src {
		m.stats.Doubted++
		delete(m.entries, k)
		return
	}
	defer func() {
		if e := m.entries[k]; e != nil && int64(e.Updated) == now {
			delete(m.probed, k)
		}
	}()
	next := &Entry{Addr: k.addr, VLANs: k.vlans, MAC: mac, Local: local, Updated: time.Duration(now)}
	if advertised {
		next.Router, next.Anycast = router, !override
	} else {
		next.Silent = true
	}
	if e == nil {
		if m.dynamic() >= m.limit {
			m.stats.Full++
			return
		}
		m.stats.Learned++
		m.entries[k] = next
		return
	}
	if e.MAC != mac && advertised && !override {
		return
	}
	if e.MAC == mac && !advertised {
		next.Router, next.Anycast, next.Silent = e.Router, e.Anycast, e.Silent
	}
	if e.MAC != mac || e.Local != local {
		m.stats.Moved++
	}
	m.entries[k] = next
}

// frames of one conversation, with everything that varies.
type talk struct {
	addr, other netip.Addr // who speaks, or is asked for by other
	vlans       [2]uint16
	mac, src    packet.MAC
}

func (w talk) tags() (b []byte) {
	if w.vlans[0] != 0 {
		b = append(b, 0x88, 0xa8, byte(w.vlans[0]>>8), byte(w.vlans[0]))
	}
	if w.vlans[1] != 0 {
		b = append(b, 0x81, 0, byte(w.vlans[1]>>8), byte(w.vlans[1]))
	}
	return b
}

// says is an announcement of addr, by solicitation if not advertised.
func (w talk) says(advertised, router, override bool) []byte {
	var f []byte
	switch {
	case w.addr.Is4():
		f = change(arpAnswer, 28, w.addr.AsSlice()...)
		f = change(f, 22, w.mac[:]...)
	case advertised:
		flags := byte(0)
		if router {
			flags |= 0x80
		}
		if override {
			flags |= 0x20
		}
		f = change(ndUnsolicited, 62, w.addr.AsSlice()...)
		f = change(f, 22, w.addr.AsSlice()...)
		f = change(f, 58, flags)
		f = change(f, 80, w.mac[:]...)
	default:
		f = change(ndAsk, 22, w.addr.AsSlice()...)
		f = change(f, 80, w.mac[:]...)
	}
	return tagged(change(f, 6, w.src[:]...), w.tags()...)
}

// asks is other's request for addr.
func (w talk) asks() []byte {
	var f []byte
	if w.addr.Is4() {
		f = change(change(arpAsk, 28, w.other.AsSlice()...), 38, w.addr.AsSlice()...)
		f = change(f, 22, w.mac[:]...)
	} else {
		f = change(change(ndAsk, 22, w.other.AsSlice()...), 62, w.addr.AsSlice()...)
		f = change(f, 80, w.mac[:]...)
	}
	return tagged(change(f, 6, w.src[:]...), w.tags()...)
}

func TestModel(t *testing.T) {
	for range 30 {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 0))
		m := &model{entries: map[id]*Entry{}, probed: map[id]int64{}, limit: 2 + rnd.IntN(20)}
		table := NewTable(Options{Limit: m.limit, Ageing: time.Duration(modelAgeing)})
		now := 1000 * sec
		coin := func() bool { return rnd.IntN(2) == 0 }
		addr := func(v6 bool) netip.Addr {
			if n := byte(1 + rnd.IntN(6)); v6 {
				return netip.AddrFrom16([16]byte{0xfd, 15: n})
			} else {
				return netip.AddrFrom4([4]byte{10, 0, 0, n})
			}
		}
		mac := func() packet.MAC { return packet.MAC{2, 5: byte(rnd.IntN(4))} }
		for step := range 2000 {
			now += rnd.Int64N(2 * sec)
			v6 := coin()
			w := talk{addr: addr(v6), other: addr(v6), mac: mac()}
			w.src = w.mac
			if rnd.IntN(3) == 0 {
				w.vlans = [][2]uint16{{7}, {7, 8}, {0, 7}}[rnd.IntN(3)]
			}
			if w.vlans == [2]uint16{0, 7} {
				w.vlans = [2]uint16{0x123} // one tag is the outer one
			}
			k := id{w.addr, w.vlans}
			switch op := rnd.IntN(20); {
			case op < 9:
				if rnd.IntN(20) == 0 {
					w.src = mac()
				}
				local, advertised, router, override := coin(), coin() || !v6, coin() && v6, rnd.IntN(4) > 0 || !v6
				m.said(k, w.mac, w.src, local, advertised, router, override, now)
				observe(table, w.says(advertised, router, override), local, now)
			case op < 16:
				q := w.asks()
				owner, got := ownerOf(table, q, now)
				ok := got != nil
				var e *Entry
				if w.addr != w.other {
					e = m.find(k, now)
				}
				should := e != nil && !e.Local && !e.Silent && e.MAC != w.mac
				fresh := false
				if should {
					fresh = e.Static || now-int64(e.Updated) < 5*sec
					first, probed := m.probed[k]
					switch {
					case !fresh && !probed:
						m.probed[k] = now
					case !fresh && now-first >= sec:
						should = false
					}
				}
				want(t, "owner known", !owner.IsZero(), should)
				if should {
					want(t, "owner", owner, e.MAC)
				}
				should = should && fresh
				want(t, "answered", ok, should)
				if ok && should {
					a := talk{addr: w.addr, vlans: w.vlans, mac: e.MAC, src: e.MAC}.says(true, e.Router, !e.Anycast)
					at := 12 + len(w.tags())
					if !bytes.Equal(got[:6], w.mac[:]) || !bytes.Equal(got[6:at+2], a[6:at+2]) {
						t.Errorf("link header: got %x", got[:at+2])
					}
					if !v6 && !bytes.Equal(got[at+2:at+2+18], a[at+2:at+2+18]) {
						t.Errorf("ARP: got %x, want %x", got[at+2:], a[at+2:])
					}
					// The advertisement differs in its address and so in its checksum.
					if v6 && (got[at+2+44] != a[at+2+44]|0x40 || !bytes.Equal(got[at+2+48:], a[at+2+48:])) {
						t.Errorf("advertisement: got %x, want %x", got[at+2+44:], a[at+2+44:])
					}
				}
			case op == 16:
				e := Entry{Addr: w.addr, VLANs: w.vlans, MAC: w.mac, Static: coin(), Local: coin()}
				want(t, "Set", table.Set(e, now), nil)
				e.Updated = time.Duration(now)
				m.entries[k] = &e
				delete(m.probed, k)
			case op == 17:
				there := m.find(k, now) != nil
				delete(m.entries, k)
				want(t, "Delete", table.Delete(w.addr, w.vlans, now) == nil, there)
			case op == 18:
				n := 0
				for k := range m.entries {
					if m.find(k, now) == nil {
						n++
					}
				}
				want(t, "Sweep", table.Sweep(now), n)
			case op == 19 && rnd.IntN(20) == 0:
				n := m.dynamic()
				for k, e := range m.entries {
					if !e.Static {
						delete(m.entries, k)
					}
				}
				want(t, "Flush", table.Flush(), n)
			}
			if step%50 == 0 {
				m.check(t, table, now)
			}
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
		m.check(t, table, now)
	}
}

func (m *model) check(t *testing.T, table *Table, now int64) {
	t.Helper()
	want(t, "Len", table.Len(), len(m.entries))
	want(t, "dynamic ones", table.dynamic, m.dynamic())
	want(t, "stats", table.Stats(), m.stats)
	n := 0
	for e := range table.All(now) {
		x := m.entries[id{e.Addr, e.VLANs}]
		if x == nil {
			t.Errorf("All yields %+v, want none", e)
			continue
		}
		w := *x
		w.Updated = time.Duration(now) - x.Updated
		want(t, "entry", e, w)
		n++
	}
	for _, x := range m.entries {
		if x.Static || now-int64(x.Updated) < modelAgeing {
			n--
		}
	}
	want(t, "entries that All yields", n, 0)
}

// FuzzTable feeds it a frame from a peer and one from the device. Whatever they
// are, nothing outside them is read, they stay as they are, and a reply is one
// that teaches a table what was asked.
func FuzzTable(f *testing.F) {
	for _, frame := range [][]byte{arpAsk, arpAnswer, ndAsk, ndAnswer, ndUnsolicited} {
		for _, ask := range [][]byte{arpAsk, ndAsk} {
			f.Add(frame, ask)
			f.Add(tagged(frame, 0x81, 0, 0, 7), tagged(ask, 0x81, 0, 0, 7))
			f.Add(tagged(frame, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8), tagged(ask, 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8))
		}
	}
	f.Add(extended(0, 58, 0, 1, 4, 0, 0, 0, 0), grow(ndAsk, 14, 1, 1, 2, 3, 4, 5, 6))
	f.Fuzz(func(t *testing.T, said, asked []byte) {
		saidBefore, askedBefore := slices.Clone(said), slices.Clone(asked)
		table := NewTable(Options{})
		table.Set(Entry{Addr: ip4B, MAC: macB, Static: true}, 0)
		table.Set(Entry{Addr: ip6B, MAC: macB, Router: true, Static: true}, 0)
		table.Set(Entry{Addr: ip6B, MAC: macB, VLANs: [2]uint16{7, 8}}, 0)
		before := table.Len()
		observe(table, said, false, 0)
		if n := table.Len(); n > before+1 {
			t.Errorf("one frame made %d entries", n-before)
		}
		for e := range table.All(0) {
			if !isStationMAC(e.MAC) || !packet.IsStation(e.Addr) || e.Addr.Zone() != "" {
				t.Errorf("entry %+v", e)
			}
		}
		reply, ok := answer(table, asked, 0)
		if !bytes.Equal(said, saidBefore) || !bytes.Equal(asked, askedBefore) {
			t.Error("a frame has changed")
		}
		// A table that trusts nobody but the frame in hand, whose offsets may be anyone's.
		for _, h := range []packet.Headers{{EtherType: 0x0806, Tags: 2}, {Version: 6, Proto: 58, L3: 22, End: 94, Tags: 2, TTL: 255}, {Version: 6, Proto: 58, L3: 14, End: 65535, TTL: 255}, {Version: 6, Proto: 58, L3: 60000, End: 86, TTL: 255}} {
			table.Observe(asked[:len(asked):len(asked)], &h, true, 0)
			table.Answer(asked[:len(asked):len(asked)], &h, 0, make([]byte, MaxReply))
		}
		if !ok {
			return
		}
		if !bytes.Equal(reply[:6], asked[6:12]) || asked[0]&1 == 0 {
			t.Errorf("reply %x to %x", reply, asked)
		}
		learner := NewTable(Options{})
		observe(learner, reply, false, 0)
		n := 0
		for e := range learner.All(0) {
			n++
			if !bytes.Equal(reply[6:12], e.MAC[:]) || e.Silent {
				t.Errorf("reply %x teaches %+v", reply, e)
			}
			if x := get(table, e.Addr, e.VLANs, 0); x.MAC != e.MAC {
				t.Errorf("reply %x teaches %+v, the table has %+v", reply, e, x)
			}
		}
		if n != 1 {
			t.Errorf("reply %x teaches %d entries", reply, n)
		}
	})
}
