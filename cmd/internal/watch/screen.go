package watch

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Order is what peers are sorted by.
type Order int

const (
	ByRate    Order = iota // both directions, the most first
	ByTrouble              // those in trouble first
	ByName
	orders
)

func (o Order) String() string { return [...]string{"rate", "trouble", "name"}[o] }

// View is what a user has chosen to see.
type View struct {
	Width, Height int
	Sort          Order
	Paused        bool
	HideDrops     bool
	First         int    // peers before this one are not shown
	Failure       string // why there is nothing newer than the report
	Colors        bool
}

// minWidth is what the screen takes at least; a terminal that is narrower cuts it.
const minWidth = 80

const (
	red     = "31"
	green   = "32"
	yellow  = "33"
	inverse = "7"
	faint   = "2"
)

// line is what a line of a screen is made of.
type line struct {
	strings.Builder
	v     *View
	width int
}

// put writes text in a field of so many columns, to the left, or to the right if width is less than
// 0. Text that does not fit is cut.
func (l *line) put(width int, color, text string) {
	text = cut(text, max(width, -width))
	blanks := strings.Repeat(" ", max(width, -width)-utf8.RuneCountInString(text))
	l.width += max(width, -width)
	if l.v.Colors && color != "" {
		text = "\x1b[" + color + "m" + text + "\x1b[0m"
	}
	if width < 0 {
		text = blanks + text
	} else {
		text += blanks
	}
	l.WriteString(text)
}

// cut shortens a text to a number of runes. What is no character of a screen is not shown: names
// come from files of others.
func cut(text string, width int) string {
	runes := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text))
	if len(runes) > width {
		runes = append(runes[:max(0, width-1)], '…')[:width]
	}
	return string(runes)
}

// Screen draws a report as lines, at most as many as the height, none wider than the width, or
// minWidth.
func (v View) Screen(r *Report) []string {
	v.Width, v.Height = max(v.Width, minWidth), max(v.Height, 6)
	lines := []string{v.head(r), v.totals(r)}
	if !r.Ready {
		lines = append(lines, v.one(v.Width, red, "not ready: "+r.Reason))
	}
	foot := v.foot()
	rest := v.Height - len(lines) - 1
	var drops []string
	if !v.HideDrops {
		drops = v.drops(r)
		drops = drops[:min(len(drops), max(rest/3, rest-1-len(r.Peers)))]
		rest -= len(drops)
	}
	lines = append(lines, v.peers(r, rest)...)
	for len(lines) < v.Height-1-len(drops) {
		lines = append(lines, "")
	}
	return append(append(lines, drops...), foot)
}

func (v *View) one(width int, color, text string) string {
	l := line{v: v}
	l.put(width, color, text)
	return l.String()
}

func (v *View) head(r *Report) string {
	text := fmt.Sprintf("gvtep %s  up %s  %s, %d of %d peers heard", r.Instance, span(r.Uptime), count(r.Tunnels, "tunnel"), r.Heard, r.Of)
	if r.Ready {
		text += "  ready"
	} else {
		text += "  NOT READY"
	}
	right := r.Time.Local().Format("15:04:05")
	switch {
	case v.Failure != "":
		text, right = "gvtep "+r.Instance+"  no answer: "+v.Failure, "since "+right
	case v.Paused:
		right = "PAUSED at " + right
	}
	width := v.Width - utf8.RuneCountInString(right) - 1
	return v.one(v.Width, inverse, fmt.Sprintf("%-*s %s", width, cut(text, width), right))
}

func (v *View) totals(r *Report) string {
	l := line{v: v}
	l.put(v.Width-18, "", fmt.Sprintf("rx %s pkt/s %s bit/s   tx %s pkt/s %s bit/s", short(r.RX.Packets), short(r.RX.Bits), short(r.TX.Packets), short(r.TX.Bits)))
	color := ""
	if r.Dropped > 0 {
		color = red
	}
	l.put(-18, color, "drops "+short(r.Dropped)+"/s")
	return l.String()
}

func (v *View) foot() string {
	pause, drops := "p pause", "d hide drops"
	if v.Paused {
		pause = "p go on"
	}
	if v.HideDrops {
		drops = "d drops"
	}
	return v.one(v.Width, faint, "q quit   s sort: "+v.Sort.String()+"   "+pause+"   "+drops+"   ↑↓ scroll")
}

// Columns of peers: what is left is for the names and the past.
const (
	devWidth   = 9
	stateWidth = 9
	rateWidth  = 7
	pastWidth  = 12 // at least; a wider screen gives half of what it has more
)

// peers draws the first pane in so many lines.
func (v *View) peers(r *Report, height int) []string {
	if height < 1 {
		return nil
	}
	past := min(pastWidth+(v.Width-minWidth)/2, pastLength)
	width := v.Width - devWidth - stateWidth - 4*rateWidth - past - 1
	head := line{v: v}
	head.put(devWidth, faint, "DEVICE")
	head.put(width, faint, "PEER")
	head.put(stateWidth, faint, "STATE")
	for _, s := range []string{"RX p/s", "bit/s", "TX p/s", "bit/s"} {
		head.put(-rateWidth, faint, s)
	}
	head.put(1, "", "")
	head.put(past, faint, "LAST")
	lines := []string{head.String()}
	all := v.ordered(r.Peers)
	all = all[min(v.First, max(0, len(all)-1)):]
	room := height - 1
	for i := range all {
		if len(lines) == room && i < len(all)-1 {
			return append(lines, v.one(v.Width, faint, fmt.Sprintf("and %d more", len(all)-i)))
		}
		if len(lines) > room {
			break
		}
		lines = append(lines, v.peer(&all[i], width, past))
	}
	return lines
}

func (v *View) ordered(peers []Peer) []Peer {
	switch v.Sort {
	case ByName:
		peers = slices.Clone(peers)
		slices.SortStableFunc(peers, func(x, y Peer) int { return byName(&x, &y) })
	case ByTrouble:
		peers = slices.Clone(peers)
		slices.SortStableFunc(peers, func(x, y Peer) int { return cmp.Compare(y.badness(), x.badness()) })
	}
	return peers
}

// badness is how much a peer is in need of a look.
func (p *Peer) badness() int {
	switch {
	case p.State == "refused":
		return 4
	case p.State == "no route":
		return 3
	case p.State == "silent":
		return 2
	case p.Trouble != "":
		return 1
	}
	return 0
}

func (v *View) peer(p *Peer, width, past int) string {
	l := line{v: v}
	l.put(devWidth, "", cut(p.Ifname, devWidth-1))
	l.put(width, "", cut(p.label(width-1), width-1))
	text, color := p.state()
	l.put(stateWidth, color, cut(text, stateWidth-1))
	for _, n := range []float64{p.RX.Packets, p.RX.Bits, p.TX.Packets, p.TX.Bits} {
		l.put(-rateWidth, "", short(n))
	}
	l.put(1, "", "")
	l.put(past, "", spark(p.past, past))
	return l.String()
}

// label names a peer in at most so many columns, as far as that goes: what tells it from others
// comes first.
func (p *Peer) label(width int) string {
	address := p.Remote.String()
	if !p.usual {
		address = netip.AddrPortFrom(p.Remote, p.Port).String()
	}
	switch full := p.Name + " " + address; {
	case p.Name == "":
		return address
	case utf8.RuneCountInString(full) <= width:
		return full
	}
	return p.Name
}

// state is a word for the column, in the colors of show.
func (p *Peer) state() (text, color string) {
	switch {
	case p.State == "heard" && p.SeenAgo != nil && *p.SeenAgo < 10:
		return span(*p.SeenAgo) + " ago", green
	case p.State == "heard" && p.SeenAgo != nil:
		return span(*p.SeenAgo) + " ago", yellow
	case p.badness() > 1:
		return p.State, red
	}
	return p.State, ""
}

// drops draws the second pane: peers in trouble, then what was dropped and of whom.
func (v *View) drops(r *Report) []string {
	head := line{v: v}
	head.put(devWidth, faint, "DEVICE")
	head.put(4, faint, "DIR")
	head.put(17, faint, "DROPPED BECAUSE")
	head.put(-rateWidth, faint, "/s")
	head.put(-rateWidth-1, faint, "ALL")
	head.put(1, "", "")
	head.put(v.Width-devWidth-4-17-2*rateWidth-2, faint, "FROM (THE LATEST FIRST)")
	lines := []string{head.String()}
	for i := range r.Peers {
		p := &r.Peers[i]
		if p.Trouble == "" {
			continue
		}
		l := line{v: v}
		l.put(devWidth, "", cut(p.Ifname, devWidth-1))
		l.put(v.Width-devWidth, red, "to "+p.Remote.String()+": "+p.Trouble)
		lines = append(lines, l.String())
	}
	for i := range r.Drops {
		d := &r.Drops[i]
		color := ""
		if d.Rate > 0 {
			color = red
		}
		l := line{v: v}
		l.put(devWidth, "", cut(cmp.Or(d.Ifname, "-"), devWidth-1))
		l.put(4, "", d.Direction)
		l.put(17, color, d.Reason)
		l.put(-rateWidth, color, short(d.Rate))
		l.put(-rateWidth-1, "", short(float64(d.Packets)))
		l.put(1, "", "")
		l.put(v.Width-l.width, "", d.from())
		lines = append(lines, l.String())
	}
	if len(lines) == 1 {
		return []string{v.one(v.Width, faint, "nothing was dropped")}
	}
	return lines
}

func (d *Drop) from() string {
	var all []string
	for _, s := range d.From {
		all = append(all, fmt.Sprintf("%s id %d %s ago", s.Source, s.ID, span(s.LastAgo)))
	}
	return strings.Join(all, ", ")
}

// Line is a report on one line, for what is no terminal.
func (r *Report) Line() string {
	l := fmt.Sprintf("%s  %s, %d of %d peers heard  rx %s pkt/s %s bit/s  tx %s pkt/s %s bit/s  drops %s/s", r.Time.Local().Format("15:04:05"),
		count(r.Tunnels, "tunnel"), r.Heard, r.Of, short(r.RX.Packets), short(r.RX.Bits), short(r.TX.Packets), short(r.TX.Bits), short(r.Dropped))
	var now []string
	for _, d := range r.Drops {
		if d.Rate > 0 {
			now = append(now, strings.TrimSpace(d.Ifname+" "+d.Direction)+" "+d.Reason+" "+short(d.Rate))
		}
	}
	if len(now) > 0 {
		l += " (" + strings.Join(now, ", ") + ")"
	}
	if !r.Ready {
		l += "  NOT READY: " + r.Reason
	}
	return l
}

// bars are eighths of a character's height.
var bars = []rune("▁▂▃▄▅▆▇█")

// spark draws the last rates, the highest as a full bar. Nothing is a blank, little the lowest bar.
func spark(past []float64, width int) string {
	past = past[max(0, len(past)-width):]
	if len(past) == 0 {
		return ""
	}
	most := slices.Max(past)
	out := make([]rune, len(past))
	for i, n := range past {
		switch {
		case n <= 0:
			out[i] = ' '
		default:
			out[i] = bars[min(int(n/most*float64(len(bars))), len(bars)-1)]
		}
	}
	return strings.Repeat(" ", width-len(past)) + string(out)
}

// short is a number in at most six characters, with thousands of 1000.
func short(n float64) string {
	if n <= 0 {
		return "0"
	}
	if n < 9.95 {
		if text := strconv.FormatFloat(n, 'f', 1, 64); text != "0.0" {
			return strings.TrimSuffix(text, ".0")
		}
		return "<0.1"
	}
	const units = " kMGTPE"
	unit := 0
	for n >= 999.5 && unit < len(units)-1 {
		n, unit = n/1000, unit+1
	}
	decimals := 0
	if unit > 0 && n < 99.95 {
		decimals = 1
	}
	return strings.TrimSpace(strconv.FormatFloat(n, 'f', decimals, 64) + units[unit:unit+1])
}

// span is a time in seconds, short: 0.4s, 12s, 5m, 3h, 2d.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", max(0, d.Truncate(100*time.Millisecond).Seconds()))
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return strconv.Itoa(n) + " " + word + "s"
}
