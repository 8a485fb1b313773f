package main

import (
	"fmt"
	"net/netip"
	"strings"

	"gvtep/cmd/internal/control"
)

// cell is a word of a table, in a color or in none.
type cell struct{ text, color string }

// table lays rows out in columns of two blanks between them. The last column of a row is not
// filled up.
func (a *app) table(rows [][]cell) []string {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len(c.text))
		}
	}
	lines := make([]string, len(rows))
	for n, row := range rows {
		last := len(row)
		for last > 0 && row[last-1].text == "" {
			last--
		}
		var b strings.Builder
		for i, c := range row[:last] {
			text := c.text
			if c.color != "" {
				text = a.paint(c.color, text)
			}
			b.WriteString("  " + text)
			if i < last-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-len(c.text)))
			}
		}
		lines[n] = b.String()
	}
	return lines
}

// peerTable has a line for each peer below a heading, and below a peer what is wrong with it.
func (a *app) peerTable(peers []control.Peer) []string {
	if len(peers) == 0 {
		return nil
	}
	rows := [][]cell{{{text: "PEER"}, {text: "STATE"}, {text: "RX"}, {text: "TX"}, {text: "PATH"}, {text: ""}}}
	for _, p := range peers {
		rows = append(rows, a.peerRow(p))
	}
	lines := a.table(rows)
	all := []string{lines[0]}
	for i, p := range peers {
		all = append(append(all, lines[i+1]), a.troubles(p)...)
	}
	return all
}

func (a *app) peerRow(p control.Peer) []cell {
	traffic := func(c control.Traffic) cell {
		if a.stats {
			return cell{text: fmt.Sprintf("%s (%d packets)", size(c.Bytes), c.Packets)}
		}
		return cell{text: size(c.Bytes)}
	}
	name := netip.AddrPortFrom(p.Remote, p.Port).String()
	if p.Name != "" {
		name = p.Name + " " + name
	}
	rx, state, path := traffic(p.RX), a.stateCell(p), cell{text: "-"}
	if p.State == "" {
		rx, state = cell{text: "-"}, cell{text: p.Origin}
	}
	if p.PathMTU != 0 {
		path.text = fmt.Sprint(p.PathMTU)
	}
	return []cell{{text: name}, state, rx, traffic(p.TX), path, {text: remarks(p)}}
}

// remarks are the settings of a peer that are not usual.
func remarks(p control.Peer) string {
	var all []string
	if p.Flood {
		all = append(all, "flood")
	}
	if p.Origin == "accept" {
		all = append(all, "dynamic")
	}
	if p.BUMLimit != 0 {
		all = append(all, fmt.Sprintf("bum_limit %d (%d dropped)", p.BUMLimit, p.Flooded))
	}
	if p.BFD != nil {
		all = append(all, bfdText(p.BFD))
	}
	if len(p.Routes) > 0 {
		all = append(all, "routes "+strings.Join(p.Routes, ","))
	}
	if len(p.Options) > 0 {
		all = append(all, "options "+strings.Join(p.Options, ","))
	}
	return strings.Join(all, "  ")
}

// bfdText is the BFD session of a peer, as "bfd up", or why the peer is dead.
func bfdText(b *control.PeerBFD) string {
	if b.Dead {
		return fmt.Sprintf("bfd %s, dead for %s (%s)", b.State, age(b.For), b.Diagnostic)
	}
	return "bfd " + b.State
}

// troubles are lines about what keeps a peer from being heard, or from hearing us.
func (a *app) troubles(p control.Peer) (lines []string) {
	add := func(format string, words ...any) {
		lines = append(lines, "      "+a.paint(red, fmt.Sprintf(format, words...)))
	}
	if p.Error != "" {
		add("ERROR: %s", p.Error)
	}
	if b := p.BFD; b != nil && b.Dead {
		add("BFD: nothing is sent to it: %s %s ago", b.Diagnostic, age(b.For))
	}
	if p.State != "heard" {
		for _, r := range p.Refused {
			add("its packets are dropped: %s %d (id %d), the last %s ago", r.Reason, r.Packets, r.ID, age(r.LastAgo))
		}
		if m := p.ICMP; m != nil {
			add("ICMP from %s, %s ago: %s", m.From, age(m.LastAgo), m.What)
		}
	}
	if e := p.SendError; e != nil && e.LastAgo < 60 {
		add("sending failed %s ago: %s (%s)", age(e.LastAgo), e.Text, e.Errno)
	}
	return lines
}

// problems are the tunnels that are not ready or have peers that are not heard, with these peers.
func problems(tunnels []control.Tunnel) (all []control.Tunnel) {
	for _, t := range tunnels {
		var peers []control.Peer
		for _, p := range t.Gvtep.Peers {
			if p.State != "" && p.State != "heard" {
				peers = append(peers, p)
			}
		}
		if t.Gvtep.Peers = peers; len(peers) > 0 || !t.Gvtep.Ready {
			all = append(all, t)
		}
	}
	return all
}
