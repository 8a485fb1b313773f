package config

import (
	"fmt"
	"strings"
)

// Draft gathers the keywords of one tunnel, from whatever source.
type Draft struct {
	table  []Keyword
	tunnel Tunnel
	given  map[string]bool
}

// NewDraft starts a tunnel with the default values.
func NewDraft(name string) *Draft {
	return &Draft{table: keywords(), tunnel: defaults(name), given: map[string]bool{}}
}

// SetName names the tunnel.
func (d *Draft) SetName(name string) { d.tunnel.Name = name }

// Set gives a keyword its value, which is checked at once. The value of a
// switch is on, off, true or false, that of a pair MIN-MAX.
func (d *Draft) Set(word, value string) error {
	k, negated, ok := find(d.table, word)
	if !ok {
		return d.unknown(word)
	}
	switch {
	case k.Kind == Short:
		if value != "on" && value != "true" {
			return fmt.Errorf("%s takes no value", word)
		}
		word, value, _ = strings.Cut(k.stands, " ")
		return d.Set(word, value)
	case negated:
		switch value {
		case "on", "true":
			value = "off"
		case "off", "false":
			value = "on"
		}
	}
	if d.given[k.Name] && k.Kind != List {
		return fmt.Errorf("%s is given twice", k.Name)
	}
	d.given[k.Name] = true
	if value == "" {
		return fmt.Errorf("%s needs a value: %s %s", word, k.Name, k.Arg)
	}
	if err := k.set(&d.tunnel, value); err != nil {
		return fmt.Errorf("%s %s: %w", word, value, err)
	}
	return nil
}

// Words reads bare words, such as the tail of an "ip link add" line:
// type geneve id 100 remote 203.0.113.1 noudpcsum.
func (d *Draft) Words(words []string) error {
	for len(words) > 0 {
		word, rest := words[0], words[1:]
		if word == "type" && len(rest) > 0 {
			if rest[0] != "geneve" {
				return fmt.Errorf("type %s: only geneve is spoken here", rest[0])
			}
			words = rest[1:]
			continue
		}
		k, _, ok := find(d.table, word)
		if !ok {
			return d.unknown(word)
		}
		value, n := "on", 0
		switch k.Kind {
		case Value, List:
			n = 1
		case Pair:
			n = 2
			if len(rest) > 0 && strings.Contains(rest[0], "-") {
				n = 1
			}
		}
		if n > len(rest) {
			return fmt.Errorf("%s needs a value: %s %s", word, k.Name, k.Arg)
		}
		if n > 0 {
			value = strings.Join(rest[:n], "-")
		}
		if err := d.Set(word, value); err != nil {
			return err
		}
		words = rest[n:]
	}
	return nil
}

// Tunnel returns the checked tunnel.
func (d *Draft) Tunnel() (Tunnel, error) {
	t := d.tunnel
	if err := t.check(d.given); err != nil {
		return Tunnel{}, err
	}
	return t, nil
}

func (d *Draft) unknown(word string) error {
	if word == "external" || word == "noexternal" {
		return fmt.Errorf("%s: a TAP has no metadata per packet, use one tunnel for each VNI", word)
	}
	var all []string
	for _, k := range d.table {
		all = append(all, k.Words()...)
	}
	if near := Closest(word, all); near != "" {
		return fmt.Errorf("unknown keyword %q: did you mean %s?", word, near)
	}
	return fmt.Errorf("unknown keyword %q: gvtep run --help lists them", word)
}

// Closest returns the word that word was probably meant to be, or "". Two
// mistakes are forgiven, one in a short word.
func Closest(word string, words []string) string {
	best, bestDistance := "", 1+min(2, (len(word)+1)/3)
	for _, w := range words {
		if d := distance(word, w); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance counts the insertions, deletions, changes and swaps of neighbours
// between two words (optimal string alignment).
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
