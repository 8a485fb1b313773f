package watch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/google/go-cmp/cmp"

	"gvtep/cmd/internal/control"
)

var begin = time.Date(2026, 5, 1, 12, 0, 0, 0, time.Local)

// sampleAt is an instance with two tunnels, n seconds after it began to count.
func sampleAt(n int) Sample {
	u := uint64(n)
	peer := func(name, remote, state string, rx, tx uint64) control.Peer {
		p := control.Peer{
			Name: name, Remote: netip.MustParseAddr(remote), Port: 6081, Origin: "config", State: state,
			RX: control.Traffic{Packets: rx / 100, Bytes: rx}, TX: control.Traffic{Packets: tx / 100, Bytes: tx},
		}
		if state == "heard" {
			p.SeenAgo = new(0.4)
		}
		return p
	}
	gnv0 := control.Tunnel{
		Ifname: "gnv0", LinkInfo: control.LinkInfo{Data: control.InfoData{ID: new(uint32(200)), Port: 6081}},
		Stats: control.Stats64{RX: control.Counters{Packets: 1000 * u, Bytes: 100_000 * u}, TX: control.Counters{Packets: 10 * u, Bytes: 1000 * u}},
		Gvtep: control.TunnelDetail{
			Peers: []control.Peer{
				peer("leaf2", "192.0.2.2", "heard", 100_000*u, 900*u), peer("", "192.0.2.3", "refused", 0, 100*u), peer("leaf4", "192.0.2.4", "no route", 0, 0),
			},
			Drops: control.Drops{RX: map[string]uint64{"unknown_peer": 9 * u}, TX: map[string]uint64{"too_big": 3}},
		},
	}
	gnv0.Gvtep.Peers[2].Error = "no route"
	gnv6 := control.Tunnel{
		Ifname: "gnv-long-name6", LinkInfo: control.LinkInfo{Data: control.InfoData{ID: new(uint32(6)), Port: 6081}},
		Gvtep: control.TunnelDetail{Peers: []control.Peer{peer("", "2001:db8:1234:5678:9abc:def0:1234:5678", "silent", 0, 0), peer("", "239.1.1.42", "", 0, 12_500_000*u)}},
	}
	gnv6.Gvtep.Peers[1].Origin, gnv6.Gvtep.Peers[1].Port = "group", 6099
	gnv6.Gvtep.Peers[0].ICMP = &control.ICMP{What: "port unreachable", From: netip.MustParseAddr("2001:db8::1"), LastAgo: 2}
	refused := func(reason, source string, id uint32, ago float64) control.Refused {
		return control.Refused{Reason: reason, Source: netip.MustParseAddr(source), ID: id, Packets: 9 * u, LastAgo: ago}
	}
	return Sample{
		Time: begin.Add(time.Duration(n) * time.Second),
		Status: control.Status{
			Instance: "fabric", Ready: true, Started: begin, Uptime: float64(n), Drops: control.Drops{RX: map[string]uint64{"unknown_vni": 5}},
			Refused: []control.Refused{refused("unknown_peer", "192.0.2.3", 200, 0.5), refused("unknown_vni", "192.0.2.9", 300, 70), refused("unknown_peer", "192.0.2.8", 7, 1)},
		},
		Tunnels: []control.Tunnel{gnv0, gnv6},
	}
}

func reportOf(t *testing.T, samples ...Sample) Report {
	t.Helper()
	var h History
	var last Report
	for i, s := range samples {
		r, ok := h.Add(s)
		if ok != (i > 0) {
			t.Fatalf("sample %d: %v", i, ok)
		}
		last = r
	}
	return last
}

func TestRates(t *testing.T) {
	r := reportOf(t, sampleAt(10), sampleAt(12))
	if r.Seconds != 2 || r.Tunnels != 2 || r.Heard != 1 || r.Of != 4 || r.RX != (Rate{1000, 800_000}) || r.TX != (Rate{10, 8000}) || r.Dropped != 9 {
		t.Errorf("in all: %+v", r)
	}
	type row struct {
		Remote, State, Trouble string
		RX, TX                 Rate
	}
	var got []row
	for _, p := range r.Peers {
		got = append(got, row{p.Remote.String(), p.State, p.Trouble, p.RX, p.TX})
	}
	want := []row{
		{"239.1.1.42", "group", "", Rate{}, Rate{125_000, 1e8}},
		{"192.0.2.2", "heard", "", Rate{1000, 800_000}, Rate{9, 7200}},
		{"192.0.2.3", "refused", "", Rate{}, Rate{1, 800}},
		{"2001:db8:1234:5678:9abc:def0:1234:5678", "silent", "ICMP from 2001:db8::1: port unreachable", Rate{}, Rate{}},
		{"192.0.2.4", "no route", "no route", Rate{}, Rate{}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("peers, -want +got:\n%s", d)
	}
	addr := netip.MustParseAddr
	wantDrops := []Drop{
		{"gnv0", "in", "unknown_peer", 108, 9, []Source{{addr("192.0.2.3"), 200, 108, 0.5}}},
		{"", "in", "unknown_vni", 5, 0, []Source{{addr("192.0.2.9"), 300, 108, 70}}},
		{"gnv0", "out", "too_big", 3, 0, nil},
	}
	if d := cmp.Diff(wantDrops, r.Drops, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); d != "" {
		t.Errorf("drops, -want +got:\n%s", d)
	}
}

// TestAnew: what is counted anew, or is new, is no burst; and what began anew is no rate at all.
func TestAnew(t *testing.T) {
	added := sampleAt(1)
	added.Tunnels = added.Tunnels[:1]
	added.Tunnels[0].Gvtep.Peers = added.Tunnels[0].Gvtep.Peers[1:]
	r := reportOf(t, added, sampleAt(2))
	for _, p := range r.Peers {
		if new := p.Name == "leaf2" || p.Ifname != "gnv0"; new && (p.RX != Rate{} || p.TX != Rate{}) {
			t.Errorf("%s %s is new and has the rates %v and %v", p.Ifname, p.Remote, p.RX, p.TX)
		}
	}
	fewer := sampleAt(3)
	fewer.Tunnels[0].Gvtep.Peers[0].RX = control.Traffic{Packets: 7, Bytes: 700}
	r = reportOf(t, sampleAt(2), fewer)
	for _, p := range r.Peers {
		if p.Name == "leaf2" && p.RX != (Rate{7, 5600}) {
			t.Errorf("counted anew: %v, want 7 packets", p.RX)
		}
	}
	var h History
	h.Add(sampleAt(1))
	again := sampleAt(2)
	again.Status.Started = again.Time
	if r, ok := h.Add(again); ok {
		t.Errorf("another process: %+v, want no rates", r)
	}
	again.Time = again.Time.Add(time.Second)
	if _, ok := h.Add(again); !ok {
		t.Error("no rates of the second sample of another process")
	}
}

// TestPast: a minute is remembered, of each peer by itself.
func TestPast(t *testing.T) {
	var h History
	for n := range 100 {
		r, _ := h.Add(sampleAt(n))
		for _, p := range r.Peers {
			if len(p.past) != min(n, pastLength) {
				t.Fatalf("after %d samples %d rates of %s", n+1, len(p.past), p.Remote)
			}
		}
	}
}

const screen = `gvtep fabric  up 12s  2 tunnels, 1 of 4 peers heard  ready              12:00:12
rx 1.0k pkt/s 800k bit/s   tx 10 pkt/s 8.0k bit/s                      drops 9/s
DEVICE   PEER                 STATE     RX p/s  bit/s TX p/s  bit/s LAST        
gnv-lon… 239.1.1.42:6099      group          0      0   125k   100M            █
gnv0     leaf2 192.0.2.2      0.4s ago    1.0k   800k      9   7.2k            █
gnv0     192.0.2.3            refused        0      0      1    800            █
gnv-lon… 2001:db8:1234:5678:… silent         0      0      0      0             
gnv0     leaf4 192.0.2.4      no route       0      0      0      0             




DEVICE   DIR DROPPED BECAUSE       /s     ALL FROM (THE LATEST FIRST)           
gnv-lon… to 2001:db8:1234:5678:9abc:def0:1234:5678: ICMP from 2001:db8::1: port…
gnv0     to 192.0.2.4: no route                                                 
gnv0     in  unknown_peer           9     108 192.0.2.3 id 200 0.5s ago         
-        in  unknown_vni            0       5 192.0.2.9 id 300 1m ago           
gnv0     out too_big                0       3                                   
q quit   s sort: rate   p pause   d hide drops   ↑↓ scroll                      `

func TestScreen(t *testing.T) {
	r := reportOf(t, sampleAt(10), sampleAt(12))
	view := View{Width: 80, Height: 19}
	if d := cmp.Diff(strings.Split(screen, "\n"), view.Screen(&r)); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	// Whatever the size, and whatever is shown, it fits, and the last line has the keys.
	for width := 80; width <= 200; width += 40 {
		for height := 1; height < 40; height++ {
			for mask := range 8 {
				v := View{Width: width, Height: height, HideDrops: mask&1 != 0, Paused: mask&2 != 0, First: mask, Sort: Order(mask % int(orders))}
				lines := v.Screen(&r)
				if len(lines) != max(height, 6) || !strings.HasPrefix(lines[len(lines)-1], "q quit") {
					t.Fatalf("%+v: %d lines\n%s", v, len(lines), strings.Join(lines, "\n"))
				}
				for _, l := range lines {
					if n := utf8.RuneCountInString(l); n > width {
						t.Fatalf("%+v: a line of %d columns\n%s", v, n, l)
					}
				}
			}
		}
	}
}

// TestScreenWords: single lines of screens.
func TestScreenWords(t *testing.T) {
	many := sampleAt(12)
	for i := range 100 {
		p := many.Tunnels[0].Gvtep.Peers[1]
		p.Remote = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		many.Tunnels[0].Gvtep.Peers = append(many.Tunnels[0].Gvtep.Peers, p)
	}
	unready := sampleAt(12)
	unready.Status.Ready, unready.Status.Reason = false, "device gnv0 is down"
	evil := sampleAt(12)
	evil.Tunnels[0].Gvtep.Peers[0].Name = "a\x1b[2Jb"
	calm := sampleAt(12)
	calm.Status.Drops, calm.Tunnels = control.Drops{}, nil
	for name, c := range map[string]struct {
		sample     Sample
		view       View
		has, hasNo string
	}{
		"many peers leave room for drops": {many, View{Height: 24}, "unknown_peer", ""},
		"many peers say how many more":    {many, View{Height: 24}, "and 92 more", ""},
		"scrolled":                        {many, View{Height: 24, First: 101}, "10.0.0.99", "10.0.0.98"},
		"scrolled too far":                {many, View{Height: 24, First: 1000}, "leaf4", "10.0.0.99"},
		"not ready":                       {unready, View{Height: 24}, "not ready: device gnv0 is down", ""},
		"no answer":                       {sampleAt(12), View{Height: 24, Failure: "daemon not reachable"}, "no answer: daemon not reachable", "ready "},
		"paused":                          {sampleAt(12), View{Height: 24, Paused: true}, "PAUSED at 12:00:12", "p pause"},
		"no drops pane":                   {sampleAt(12), View{Height: 24, HideDrops: true}, "d drops", "unknown_peer"},
		"nothing dropped":                 {calm, View{Height: 24}, "nothing was dropped", "DIR"},
		"names are no commands":           {evil, View{Height: 24}, "a[2Jb", "\x1b"},
		"colors":                          {sampleAt(12), View{Height: 24, Colors: true}, "\x1b[32m0.4s ago\x1b[0m", ""},
		"wide enough for a long address":  {sampleAt(12), View{Width: 140, Height: 24}, "2001:db8:1234:5678:9abc:def0:1234:5678 ", "5678:…"},
	} {
		before := c.sample
		before.Time = begin.Add(10 * time.Second)
		r := reportOf(t, before, c.sample)
		text := strings.Join(c.view.Screen(&r), "\n")
		if !strings.Contains(text, c.has) || c.hasNo != "" && strings.Contains(text, c.hasNo) {
			t.Errorf("%s: want %q, and not %q, in\n%s", name, c.has, c.hasNo, text)
		}
	}
}

func TestOrder(t *testing.T) {
	r := reportOf(t, sampleAt(10), sampleAt(12))
	for order, want := range map[Order]string{
		ByRate:    "239.1.1.42 192.0.2.2 192.0.2.3 2001:db8:1234:5678:9abc:def0:1234:5678 192.0.2.4",
		ByTrouble: "192.0.2.3 192.0.2.4 2001:db8:1234:5678:9abc:def0:1234:5678 239.1.1.42 192.0.2.2",
		ByName:    "239.1.1.42 2001:db8:1234:5678:9abc:def0:1234:5678 192.0.2.2 192.0.2.3 192.0.2.4",
	} {
		var got []string
		for _, p := range (&View{Sort: order}).ordered(r.Peers) {
			got = append(got, p.Remote.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("by %s: %s\nwant %s", order, got, want)
		}
	}
}

// TestUpdate: what each key and message makes of the screen.
func TestUpdate(t *testing.T) {
	key := func(code rune, text string) tea.Msg { return tea.KeyPressMsg{Code: code, Text: text} }
	down := key(tea.KeyDown, "")
	for name, c := range map[string]struct {
		messages []tea.Msg
		want     View
		quits    bool
	}{
		"a size":              {[]tea.Msg{tea.WindowSizeMsg{Width: 100, Height: 50}}, View{Width: 100, Height: 50}, false},
		"s":                   {[]tea.Msg{key('s', "s")}, View{Sort: ByTrouble}, false},
		"s three times":       {[]tea.Msg{key('s', "s"), key('s', "s"), key('s', "s")}, View{}, false},
		"s goes to the top":   {[]tea.Msg{down, key('s', "s")}, View{Sort: ByTrouble}, false},
		"p":                   {[]tea.Msg{key('p', "p")}, View{Paused: true}, false},
		"p twice":             {[]tea.Msg{key('p', "p"), key('p', "p")}, View{}, false},
		"d":                   {[]tea.Msg{key('d', "d")}, View{HideDrops: true}, false},
		"down":                {[]tea.Msg{down, key('j', "j")}, View{First: 2}, false},
		"up at the top":       {[]tea.Msg{key(tea.KeyUp, "")}, View{}, false},
		"down and up":         {[]tea.Msg{down, down, key('k', "k")}, View{First: 1}, false},
		"a page, to the last": {[]tea.Msg{key(tea.KeyPgDown, "")}, View{First: 4}, false},
		"a page down and up":  {[]tea.Msg{key(tea.KeyPgDown, ""), key(tea.KeyPgUp, "")}, View{}, false},
		"other keys":          {[]tea.Msg{key('x', "x")}, View{}, false},
		"no answer":           {[]tea.Msg{answered{err: errors.New("gone")}}, View{Failure: "gone"}, false},
		"no answer, then one": {[]tea.Msg{answered{err: errors.New("gone")}, answered{sample: sampleAt(13)}}, View{}, false},
		"q":                   {[]tea.Msg{key('q', "q")}, View{}, true},
		"control-C":           {[]tea.Msg{tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl}}, View{}, true},
		"escape":              {[]tea.Msg{key(tea.KeyEscape, "")}, View{}, true},
	} {
		var m tea.Model = model{view: View{Width: 80, Height: 24}}
		for _, msg := range []tea.Msg{answered{sample: sampleAt(10)}, answered{sample: sampleAt(12)}} {
			m, _ = m.Update(msg)
		}
		var cmd tea.Cmd
		for _, msg := range c.messages {
			m, cmd = m.Update(msg)
		}
		if c.want.Width == 0 {
			c.want.Width, c.want.Height = 80, 24
		}
		if got := m.(model).view; got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		quits := false
		if cmd != nil && !strings.Contains(name, "answer") {
			_, quits = cmd().(tea.QuitMsg)
		}
		if quits != c.quits {
			t.Errorf("%s: quits: %v", name, quits)
		}
		if v := m.View(); !v.AltScreen || !strings.Contains(v.Content, "gvtep fabric") {
			t.Errorf("%s: it shows\n%s", name, v.Content)
		}
	}
}

// TestPaused: while it is paused, the report stays; afterwards it is a new one, and the past is whole.
func TestPaused(t *testing.T) {
	m := model{view: View{Height: 24}}
	for n := range 3 {
		m.take(answered{sample: sampleAt(n)})
	}
	m.view.Paused = true
	m.take(answered{sample: sampleAt(3)})
	if at := m.report.Time; at != sampleAt(2).Time {
		t.Errorf("paused, it shows %s", at)
	}
	m.view.Paused = false
	m.take(answered{sample: sampleAt(4)})
	if at, n := m.report.Time, len(m.report.Peers[0].past); at != sampleAt(4).Time || n != 4 {
		t.Errorf("it goes on with %s and %d rates, want 4", at, n)
	}
}

// TestBeforeReport: until there are rates, the screen says what it waits for, or why.
func TestBeforeReport(t *testing.T) {
	m := model{}
	if text := m.View().Content; !strings.Contains(text, "waiting") {
		t.Errorf("at the beginning: %q", text)
	}
	m.take(answered{err: errors.New("daemon not reachable")})
	if text := m.View().Content; !strings.Contains(text, "daemon not reachable") {
		t.Errorf("without an answer: %q", text)
	}
}

func TestLines(t *testing.T) {
	n := 0
	ask := func(context.Context) (Sample, error) { n++; return sampleAt(n), nil }
	var lines []string
	if err := Lines(t.Context(), ask, time.Millisecond, 2, func(r Report) error { lines = append(lines, r.Line()); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"12:00:02  2 tunnels, 1 of 4 peers heard  rx 1.0k pkt/s 800k bit/s  tx 10 pkt/s 8.0k bit/s  drops 9/s (gnv0 in unknown_peer 9)",
		"12:00:03  2 tunnels, 1 of 4 peers heard  rx 1.0k pkt/s 800k bit/s  tx 10 pkt/s 8.0k bit/s  drops 9/s (gnv0 in unknown_peer 9)",
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	broken := errors.New("gone")
	if err := Lines(t.Context(), func(context.Context) (Sample, error) { return Sample{}, broken }, time.Millisecond, 0, nil); !errors.Is(err, broken) {
		t.Errorf("an instance that is gone: %v", err)
	}
	if err := Lines(t.Context(), ask, time.Millisecond, 0, func(Report) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a reader that is gone: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Lines(ctx, ask, time.Millisecond, 0, func(Report) error { cancel(); return nil }); err != nil {
		t.Errorf("ended by its context: %v", err)
	}
}

// TestReportJSON: lists are lists, also where there is nothing.
func TestReportJSON(t *testing.T) {
	empty := Sample{Time: begin, Status: control.Status{Started: begin}}
	later := empty
	later.Time = begin.Add(time.Second)
	r := reportOf(t, empty, later)
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `"peers":[],"drops":[]`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0", -1: "0", 0.01: "<0.1", 0.5: "0.5", 1: "1", 9.94: "9.9", 9.96: "10", 99.6: "100", 999: "999", 999.6: "1.0k", 1000: "1.0k", 1234: "1.2k", 99_949: "99.9k",
		99_960: "100k", 999_600: "1.0M", 1.5e9: "1.5G", 1e25: "10000000E",
	} {
		if got := short(n); got != want && n < 1e24 || strings.HasSuffix(got, " ") {
			t.Errorf("short(%v) = %q, want %q", n, got, want)
		}
	}
}

func TestSpark(t *testing.T) {
	for _, c := range []struct {
		past []float64
		want string
	}{
		{nil, ""}, {[]float64{0}, "    "}, {[]float64{0, 1}, "   █"}, {[]float64{5, 1, 2, 4, 8}, "▂▃▅█"}, {[]float64{1e-9, 1, 0, 1}, "▁█ █"},
	} {
		if got := spark(c.past, 4); got != c.want {
			t.Errorf("spark(%v) = %q, want %q", c.past, got, c.want)
		}
	}
}

func TestSpan(t *testing.T) {
	for n, want := range map[float64]string{-1: "0.0s", 0.44: "0.4s", 9.99: "9.9s", 10: "10s", 61: "1m", 3700: "1h", 90000: "1d"} {
		if got := span(n); got != want {
			t.Errorf("span(%v) = %s, want %s", n, got, want)
		}
	}
}

// BenchmarkScreen: 10,000 peers a second must cost next to nothing.
func BenchmarkScreen(b *testing.B) {
	s := sampleAt(1)
	for i := range 10_000 {
		p := s.Tunnels[0].Gvtep.Peers[0]
		p.Remote = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		s.Tunnels[0].Gvtep.Peers = append(s.Tunnels[0].Gvtep.Peers, p)
	}
	var h History
	h.Add(s)
	view := View{Width: 80, Height: 24}
	for b.Loop() {
		s.Time = s.Time.Add(time.Second)
		r, _ := h.Add(s)
		if text := view.Screen(&r); len(text) != 24 {
			b.Fatal(fmt.Sprint(text))
		}
	}
}
