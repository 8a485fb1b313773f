package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Print returns the text of a file that says what cfg says, without includes,
// defaults and ranges: each tunnel for itself. What has its default value is
// left out unless all is asked for.
func Print(cfg Config, all bool) string {
	var b strings.Builder
	if cfg.Instance != "" {
		fmt.Fprintf(&b, "instance = %s\n", quote(cfg.Instance))
	}
	log, socket, tunnel, peer, fdb := logKeywords(), socketKeywords(), tunnelKeywords(cfg.Names), peerKeywords(cfg.Names), entryKeywords(cfg.Names)
	section(&b, "[log]", log, cfg.Log, defaultLog(), all)
	section(&b, "[socket]", socket, cfg.Socket, defaultSocket(), all)
	section(&b, "[metrics]", metricsKeywords(), cfg.Metrics, defaultMetrics(), all)
	section(&b, "[hooks]", hookKeywords(), cfg.Hooks, defaultHooks(), all)
	for _, k := range cfg.Names.Own() {
		fmt.Fprintf(&b, "\n[[option]]\n")
		lines(&b, "", optionKeywords(), k, defaultKind(), all)
	}
	base := defaults()
	for _, t := range cfg.Tunnels {
		base.DstPort = cmp.Or(cfg.Socket.Port, t.Encap.Port())
		peers := t.Peers
		if slices.ContainsFunc(peers, func(p Peer) bool { return !p.Equal(Peer{Remote: p.Remote}) }) {
			t.Peers = nil
		}
		fmt.Fprintf(&b, "\n[[tunnel]]\nname = %s\n", quote(t.Device.Name))
		if !t.NoVNI {
			fmt.Fprintf(&b, "id = %d\n", t.VNI)
		}
		lines(&b, "", slices.DeleteFunc(slices.Clone(tunnel), func(e entry[Tunnel]) bool {
			return e.Name == "id" || e.Name == "vlan" || t.Device.L3 && slices.Contains(l2Keys(), e.Name)
		}), t, base, all)
		for _, v := range t.VLANs {
			vid, id, _ := strings.Cut(v.String(), ":")
			fmt.Fprintf(&b, "  [[tunnel.vlan]]\n  vid = %s\n  id = %s\n", quote(vid), quote(id))
		}
		if t.Peers != nil {
			peers = nil
		}
		for _, p := range peers {
			fmt.Fprintf(&b, "  [[tunnel.peer]]\n  remote = %s\n", quote(p.Remote.String()))
			lines(&b, "  ", slices.DeleteFunc(slices.Clone(peer), func(e entry[Peer]) bool { return t.Device.L3 && e.Name == "flood" }), p, Peer{}, all)
		}
		for _, e := range t.Entries {
			fmt.Fprintf(&b, "  [[tunnel.fdb]]\n  lladdr = %s\n", quote(e.MAC.String()))
			lines(&b, "  ", fdb, e, defaultEntry(), all)
		}
	}
	return strings.TrimPrefix(b.String(), "\n")
}

func section[T any](b *strings.Builder, head string, table []entry[T], value, initial T, all bool) {
	var body strings.Builder
	lines(&body, "", table, value, initial, all)
	if body.Len() > 0 {
		fmt.Fprintf(b, "%s\n%s", head, &body)
	}
}

func lines[T any](b *strings.Builder, indent string, table []entry[T], value, initial T, all bool) {
	for _, e := range table {
		if e.Kind == Short {
			continue
		}
		texts := e.get(&value)
		if texts == nil || !all && slices.Equal(texts, e.get(&initial)) {
			continue
		}
		fmt.Fprintf(b, "%s%s = %s\n", indent, e.Name, e.toml(texts))
	}
}

// toml is a value as it is written in a file.
func (e *entry[T]) toml(texts []string) string {
	out := make([]string, len(texts))
	for i, text := range texts {
		switch _, err := parseNumber(text, 0, 1<<62, ""); {
		case e.Number && err == nil:
			out[i] = text
		case e.isSwitch():
			out[i] = map[string]string{"on": "true", "off": "false"}[text]
		default:
			out[i] = quote(text)
		}
	}
	if e.Kind == Pair || len(out) > 1 {
		return "[" + strings.Join(out, ", ") + "]"
	}
	return out[0]
}

// quote writes a basic string (TOML 1.0).
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
