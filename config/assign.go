package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// assign gives a keyword its value and returns where that stands: where each
// stands that is right, of a List.
func assign[T any](l *loader, f *file, e *entry[T], to *T, n *node) []span {
	values := []*node{n}
	if e.Kind == List {
		values = l.strings(f, n, e.Name)
	}
	at := []span{}
	for _, v := range values {
		if assignOne(l, f, e, to, v) {
			at = append(at, v.at)
		}
	}
	return at
}

// assignOne gives a keyword one value, and reports whether it is right.
func assignOne[T any](l *loader, f *file, e *entry[T], to *T, n *node) bool {
	text, why := e.valueText(n)
	if why == "" {
		kept := *to
		err := e.give(to, e.Name, text)
		if err == nil {
			return true
		}
		*to = kept
		why = err.Error()
	}
	l.fault(f, n.at, "%s", why)
	return false
}

// strings returns the texts of a List: one, or several in brackets.
func (l *loader) strings(f *file, n *node, key string) []*node {
	all := []*node{n}
	if n.kind == unstable.Array {
		all = n.items
		if len(all) == 0 {
			l.fault(f, n.at, "%s: an empty list, leave the key out", key)
		}
	}
	var texts []*node
	for _, v := range all {
		if v.kind == unstable.String {
			texts = append(texts, v)
			continue
		}
		at := v.at
		if at == (span{}) {
			at = n.at // of a list in a list the parser does not tell where it is
		}
		l.fault(f, at, "%s: want a text in quotes, or several in brackets, not %s", key, v.kindName())
	}
	return texts
}

// valueText returns a value in the form that the keyword's check takes, or why
// it is none.
func (e *entry[T]) valueText(n *node) (value, why string) {
	switch n.kind {
	case unstable.Bool:
		if e.isSwitch() {
			return map[string]string{"true": "on", "false": "off"}[n.text], ""
		}
	case unstable.Integer:
		if e.Number && e.Kind != Pair {
			return strings.ReplaceAll(strings.TrimPrefix(n.text, "+"), "_", ""), ""
		}
	case unstable.String:
		switch {
		case slices.Contains(e.Values, n.text) || e.Text:
			return n.text, ""
		case e.Kind == Pair && strings.Contains(n.text, "-"):
			return n.text, ""
		case e.Number && isNumber(n.text):
			return "", fmt.Sprintf("%s %s: a number is written without quotes", e.Name, n.text)
		case e.Kind != Switch:
			return n.text, "" // the check says what is wanted
		}
	case unstable.Array:
		if e.Kind == Pair && len(n.items) == 2 && n.items[0].kind == unstable.Integer && n.items[1].kind == unstable.Integer {
			return strings.ReplaceAll(n.items[0].text+"-"+n.items[1].text, "_", ""), ""
		}
	}
	return "", fmt.Sprintf("%s: want %s, not %s", e.Name, e.wanted(), n.kindName())
}

// isSwitch reports whether the value is true or false in a file.
func (k *Keyword) isSwitch() bool {
	return k.Kind == Switch || slices.Equal(k.Values, []string{"on", "off"})
}

// wanted is what kind of value a keyword has.
func (e *entry[T]) wanted() string {
	switch {
	case e.isSwitch():
		return "true or false"
	case e.Kind == Pair:
		return "two numbers in brackets, [MIN, MAX]"
	case e.Number && e.Text:
		return "a number, or a text in quotes"
	case e.Number && e.Values != nil:
		return "a number, or " + strings.Join(e.Values, " or ") + " in quotes"
	case e.Number:
		return "a number"
	case e.Values != nil:
		return strings.TrimPrefix(e.want, "want ") + " in quotes"
	}
	return "a text in quotes"
}
