package graph

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
)

// Formats are the names of what Draw can write.
var Formats = []string{"mermaid", "dot"}

// Draw writes a graph in a format of Formats.
func (g Graph) Draw(w io.Writer, format string) error {
	out := bufio.NewWriter(w)
	p := g.picture()
	if format == "dot" {
		p.dot(out)
	} else {
		p.mermaid(out)
	}
	return out.Flush()
}

// picture is a graph with numbers for its ends.
type picture struct {
	g       Graph
	number  map[End]int
	outside []End // in the order of their numbers, behind the tunnels
	tunnels int
}

func (g Graph) picture() *picture {
	p := &picture{g: g, number: map[End]int{}}
	for _, h := range g.Hosts {
		for _, t := range h.Tunnels {
			p.number[End{Host: h.Host, Instance: h.Instance, Ifname: t.Ifname}] = p.tunnels
			p.tunnels++
		}
	}
	for _, e := range g.Edges {
		if _, known := p.number[e.B]; !known {
			p.number[e.B] = p.tunnels + len(p.outside)
			p.outside = append(p.outside, e.B)
		}
	}
	return p
}

// label is the text of a tunnel, in lines.
func (t *Tunnel) label() []string {
	ids := make([]string, len(t.IDs))
	for i, r := range t.IDs {
		ids[i] = fmt.Sprint(r[0])
		if r[1] != r[0] {
			ids[i] += fmt.Sprintf("-%d", r[1])
		}
	}
	local := "any"
	if t.Local.IsValid() {
		local = t.Local.String()
	}
	lines := []string{t.Ifname, fmt.Sprintf("%s id %s, mtu %d", t.Kind, strings.Join(ids, ","), t.MTU), fmt.Sprintf("local %s, port %d", local, t.Port)}
	if !t.Ready {
		lines = append(lines, "not ready")
	}
	return lines
}

func (e End) label() []string {
	if e.Note == "" {
		return []string{e.Address}
	}
	return []string{e.Address, e.Note}
}

func (d Direction) label() string {
	if d.Note == "" {
		return d.State
	}
	return d.State + ": " + d.Note
}

// arrow is one direction of an edge, or both where both are heard.
type arrow struct {
	from, to int
	Direction
	both bool
}

func (p *picture) arrows() (all []arrow) {
	for _, e := range p.g.Edges {
		a, b := p.number[e.A], p.number[e.B]
		if e.AToB.State == "heard" && e.BToA.State == "heard" {
			all = append(all, arrow{a, b, e.AToB, true})
			continue
		}
		for _, one := range []arrow{{a, b, e.AToB, false}, {b, a, e.BToA, false}} {
			if one.State != "" {
				all = append(all, one)
			}
		}
	}
	return all
}

func (p *picture) mermaid(w io.Writer) {
	fmt.Fprintln(w, "flowchart LR")
	number := 0
	for i := range p.g.Hosts {
		h := &p.g.Hosts[i]
		fmt.Fprintf(w, "  subgraph h%d[\"%s, %s\"]\n", i, entities(h.name()), h.Taken.UTC().Format(time.RFC3339))
		for j := range h.Tunnels {
			t := &h.Tunnels[j]
			fmt.Fprintf(w, "    n%d[\"%s\"]\n", number, joined(t.label(), entities, "<br/>"))
			number++
		}
		fmt.Fprintln(w, "  end")
	}
	for i, e := range p.outside {
		fmt.Fprintf(w, "  n%d([\"%s\"])\n", p.tunnels+i, joined(e.label(), entities, "<br/>"))
	}
	var bad []string
	for i, a := range p.arrows() {
		line := "-->"
		switch {
		case a.both:
			line = "<-->"
		case a.State != "heard":
			line = "-.->"
		}
		fmt.Fprintf(w, "  n%d %s|\"%s\"| n%d\n", a.from, line, entities(a.label()), a.to)
		if a.bad() {
			bad = append(bad, fmt.Sprint(i))
		}
	}
	if len(bad) > 0 {
		fmt.Fprintf(w, "  linkStyle %s stroke:#c00,color:#c00\n", strings.Join(bad, ","))
	}
}

func (p *picture) dot(w io.Writer) {
	fmt.Fprintln(w, "digraph gvtep {\n  rankdir=LR;\n  node [shape=box];")
	number := 0
	for i := range p.g.Hosts {
		h := &p.g.Hosts[i]
		fmt.Fprintf(w, "  subgraph cluster_h%d {\n    label=\"%s, %s\";\n", i, quoted(h.name()), h.Taken.UTC().Format(time.RFC3339))
		for j := range h.Tunnels {
			t := &h.Tunnels[j]
			fmt.Fprintf(w, "    n%d [label=\"%s\"];\n", number, joined(t.label(), quoted, `\n`))
			number++
		}
		fmt.Fprintln(w, "  }")
	}
	for i, e := range p.outside {
		fmt.Fprintf(w, "  n%d [shape=ellipse, label=\"%s\"];\n", p.tunnels+i, joined(e.label(), quoted, `\n`))
	}
	for _, a := range p.arrows() {
		style := ""
		switch {
		case a.both:
			style = ", dir=both"
		case a.bad():
			style = `, style=dashed, color="#cc0000", fontcolor="#cc0000"`
		case a.State != "heard":
			style = ", style=dashed"
		}
		fmt.Fprintf(w, "  n%d -> n%d [label=\"%s\"%s];\n", a.from, a.to, quoted(a.label()), style)
	}
	fmt.Fprintln(w, "}")
}

func joined(lines []string, safe func(string) string, sep string) string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = safe(l)
	}
	return strings.Join(out, sep)
}

// entities writes text for a quoted string of Mermaid: what is neither a letter nor harmless is a character code, so that a
// name can neither end the string nor become markup.
func entities(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		switch {
		case r < ' ' || r == 0x7f:
			b.WriteByte(' ')
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" .,:-_/()[]", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	return b.String()
}

// quoted writes text for a quoted string of dot, where a backslash begins an escape.
func quoted(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
