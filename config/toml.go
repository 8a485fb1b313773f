package config

import (
	"errors"
	"slices"

	"github.com/pelletier/go-toml/v2/unstable"
)

// The text of a file becomes a tree that knows where everything stands. The
// library's parser reads the text and gives the places; its decoder would keep
// those of keys only, and stop at the first error.

// span is a part of a file, in bytes.
type span struct{ from, to int }

// node is a value in a file.
type node struct {
	kind  unstable.Kind // a Table, ArrayTable, Array or scalar
	key   span          // the last part of its key; of an item: the item
	at    span
	text  string  // of a String its content, of other scalars as written
	items []*node // of an Array or ArrayTable
	table *table  // of a Table
}

// table is a table in a file.
type table struct {
	keys   []string         // in the order of the file
	nodes  []*node          // their values
	index  map[string]*node // of a table with many keys
	origin origin
}

// indexed is from how many keys on a table has an index. The tables that there are
// many of, those of peers and entries, are shorter.
const indexed = 16

// origin is what made a table, which decides who may add to it.
type origin int

const (
	implicit origin = iota // [a.b] makes an a
	header                 // [a]
	dotted                 // a.b = 1
	inline                 // a = {b = 1}
)

func newTable(o origin) *table { return &table{origin: o} }

func (t *table) put(key string, n *node) {
	t.keys, t.nodes = append(t.keys, key), append(t.nodes, n)
	switch {
	case t.index != nil:
		t.index[key] = n
	case len(t.keys) == indexed:
		t.index = make(map[string]*node, 2*indexed)
		for i, k := range t.keys {
			t.index[k] = t.nodes[i]
		}
	}
}

// get returns the value of a key, nil if there is none.
func (t *table) get(key string) *node {
	if t.index != nil {
		return t.index[key]
	}
	if i := slices.Index(t.keys, key); i >= 0 {
		return t.nodes[i]
	}
	return nil
}

// reader builds the tree of one file.
type reader struct {
	parser unstable.Parser
	text   string
	root   *table
	parts  []string // of path
	at     []span
	report func(at span, format string, args ...any)
}

// readTOML returns the tree of a text as far as it is right, and whether that
// is all of it.
func readTOML(text string, report func(at span, format string, args ...any)) (root *table, whole bool) {
	r := &reader{text: text, root: newTable(header), report: report}
	// Places are told by the capacity of slices.
	r.parser.Reset(slices.Clip([]byte(text)))
	current := r.root
	for r.parser.NextExpression() {
		switch e := r.parser.Expression(); e.Kind {
		case unstable.KeyValue:
			if current != nil {
				r.keyValue(current, e)
			}
		case unstable.Table, unstable.ArrayTable:
			current = r.header(e)
		}
	}
	if err := r.parser.Error(); err != nil {
		var at span
		if p := new(unstable.ParserError); errors.As(err, &p) {
			at = spanOf(r.parser.Range(p.Highlight))
		}
		report(at, "this is not TOML: %s", err)
		return r.root, false
	}
	return r.root, true
}

func spanOf(r unstable.Range) span { return span{int(r.Offset), int(r.Offset + r.Length)} }

// path returns the parts of a key and where they stand, until it is called again.
func (r *reader) path(e *unstable.Node) (parts []string, at []span) {
	parts, at = r.parts[:0], r.at[:0]
	for it := e.Key(); it.Next(); {
		raw := spanOf(it.Node().Raw)
		parts = append(parts, r.string(it.Node().Data, raw))
		at = append(at, raw)
	}
	r.parts, r.at = parts, at
	return parts, at
}

// string is data as a string: a part of the text, if it stands there as it is. A
// configuration that keeps it clones it, so as not to keep the text.
func (r *reader) string(data []byte, at span) string {
	for _, quotes := range []int{0, 1} {
		if from, to := at.from+quotes, at.to-quotes; to-from == len(data) && to <= len(r.text) && r.text[from:to] == string(data) {
			return r.text[from:to]
		}
	}
	return string(data)
}

// header finds or makes the table of [a.b] or [[a.b]]; nil if it may not be.
func (r *reader) header(e *unstable.Node) *table {
	parts, at := r.path(e)
	last := len(parts) - 1
	t := r.root
	for i, part := range parts[:last] {
		n := t.get(part)
		if n == nil {
			n = &node{kind: unstable.Table, key: at[i], at: at[i], table: newTable(implicit)}
			t.put(part, n)
		}
		if n.kind == unstable.ArrayTable {
			n = n.items[len(n.items)-1]
		}
		if n.kind != unstable.Table || n.table.origin == inline {
			r.report(at[i], "%s has a value already, it cannot be a table", plain(part))
			return nil
		}
		t = n.table
	}
	part, where := parts[last], at[last]
	n := t.get(part)
	made := &node{kind: unstable.Table, key: where, at: where, table: newTable(header)}
	switch {
	case e.Kind == unstable.ArrayTable && n == nil:
		t.put(part, &node{kind: unstable.ArrayTable, key: where, at: where, items: []*node{made}})
	case e.Kind == unstable.ArrayTable && n.kind == unstable.ArrayTable:
		n.items = append(n.items, made)
	case e.Kind == unstable.Table && n == nil:
		t.put(part, made)
	case e.Kind == unstable.Table && n.kind == unstable.Table && n.table.origin == implicit:
		n.table.origin, n.key, n.at = header, where, where
		return n.table
	case e.Kind == unstable.Table && n.kind == unstable.ArrayTable:
		r.report(where, "%[1]s is a list of tables: write [[%[1]s]]", plain(part))
		return nil
	default:
		r.report(where, "%s is given twice", plain(part))
		return nil
	}
	return made.table
}

// keyValue adds key = value to a table.
func (r *reader) keyValue(t *table, e *unstable.Node) {
	parts, at := r.path(e)
	last := len(parts) - 1
	for i, part := range parts[:last] {
		n := t.get(part)
		if n == nil {
			n = &node{kind: unstable.Table, key: at[i], at: at[i], table: newTable(dotted)}
			t.put(part, n)
		}
		if n.kind != unstable.Table || n.table.origin != dotted {
			r.report(at[i], "%s is given twice", plain(part))
			return
		}
		t = n.table
	}
	part, where := parts[last], at[last] // the values of an inline table have paths, too
	if t.get(part) != nil {
		r.report(where, "%s is given twice", plain(part))
		return
	}
	n := r.value(e.Value())
	n.key = where
	if n.kind == unstable.Array || n.kind == unstable.Table {
		n.at = r.behind(e, where)
	}
	t.put(part, n)
}

// behind is where the value of a key stands, for values of which the parser
// does not tell.
func (r *reader) behind(e *unstable.Node, key span) span {
	at := spanOf(e.Raw)
	if at.to <= key.to {
		return key
	}
	at.from = key.to
	for text := r.parser.Data(); at.from < at.to; at.from++ {
		switch text[at.from] {
		case ' ', '\t', '=':
			continue
		}
		break
	}
	return at
}

func (r *reader) value(e *unstable.Node) *node {
	n := &node{kind: e.Kind, at: spanOf(e.Raw)} // of an Array it is empty
	switch e.Kind {
	case unstable.InlineTable:
		n.kind, n.table = unstable.Table, newTable(inline)
		for it := e.Children(); it.Next(); {
			if kv := it.Node(); kv.Kind == unstable.KeyValue {
				r.keyValue(n.table, kv)
			}
		}
		// Whatever dotted keys made inside is closed as well.
		seal(n.table)
	case unstable.Array:
		for it := e.Children(); it.Next(); {
			if item := it.Node(); item.Kind != unstable.Comment {
				v := r.value(item)
				v.key = v.at
				n.items = append(n.items, v)
			}
		}
	default:
		n.text = r.string(e.Data, n.at)
	}
	return n
}

func seal(t *table) {
	t.origin = inline
	for _, n := range t.nodes {
		if n.kind == unstable.Table {
			seal(n.table)
		}
	}
}

// kindName is what a value is, for people.
func (n *node) kindName() string {
	switch n.kind {
	case unstable.Table:
		return "a table"
	case unstable.ArrayTable:
		return "a list of tables"
	case unstable.Array:
		return "a list"
	case unstable.String:
		return "a text"
	case unstable.Bool:
		return n.text
	case unstable.Integer:
		return "a number"
	case unstable.Float:
		return "a number with a fraction"
	}
	return "a date or time"
}
