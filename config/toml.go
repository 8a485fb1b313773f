package config

import (
	"errors"
	"iter"
	"unsafe"

	"github.com/pelletier/go-toml/v2/unstable"
)

// The text of a file becomes a tree that knows where everything stands. The
// library's parser reads the text and gives the places; its decoder would keep
// those of keys only, and stop at the first error.

// span is a part of a file, in bytes: of a file of at most maxFile.
type span struct{ from, to int32 }

// node is a value in a file. A million entries are three million nodes, so that nothing is in
// them that most have not.
type node struct {
	name   string // its key in its table
	text   string // of a String its content, of other scalars as written
	key    span   // the last part of its key; of an item: the item
	at     span
	kind   unstable.Kind // a Table, ArrayTable, Array or scalar
	*table               // of a Table its keys, of an Array or ArrayTable its items; else nil
	next   *node         // in the table
}

// table is what a node has in it.
type table struct {
	first, last *node // in the order of the file
	len         int
	index       map[string]*node // of a table with many keys
	items       []*node          // of an Array or ArrayTable
	origin      origin
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

func (t *table) put(key string, n *node) {
	n.name = key
	if t.last == nil {
		t.first = n
	} else {
		t.last.next = n
	}
	t.last = n
	t.len++
	switch {
	case t.index != nil:
		t.index[key] = n
	case t.len == indexed:
		t.index = make(map[string]*node, 2*indexed)
		for n := range t.all() {
			t.index[n.name] = n
		}
	}
}

// get returns the value of a key, nil if there is none.
func (t *table) get(key string) *node {
	if t.index != nil {
		return t.index[key]
	}
	for n := t.first; n != nil; n = n.next {
		if n.name == key {
			return n
		}
	}
	return nil
}

// all yields the values, whose names are their keys, in the order of the file.
func (t *table) all() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for n := t.first; n != nil && yield(n); n = n.next {
		}
	}
}

// slab hands out values of one type, many of them from one allocation.
type slab[T any] []T

func (s *slab[T]) new(v T) *T {
	if len(*s) == cap(*s) {
		*s = make([]T, 0, min(max(2*cap(*s), 8), 512))
	}
	*s = append(*s, v)
	return &(*s)[len(*s)-1]
}

// reader builds the tree of one file.
type reader struct {
	parser unstable.Parser
	text   string
	root   *table
	parts  []string // of path
	at     []span
	nodes  slab[node]
	tables slab[table]
	report func(at span, format string, args ...any)
}

// readTOML returns the tree of a text as far as it is right, and whether that
// is all of it.
func readTOML(text string, report func(at span, format string, args ...any)) (root *table, whole bool) {
	r := &reader{text: text, root: &table{origin: header}, report: report}
	// The parser only reads, so that it gets the text itself: of a million entries a copy takes
	// 70 MiB. Places are told by the capacity of slices, which is that of the text here.
	r.parser.Reset(unsafe.Slice(unsafe.StringData(text), len(text)))
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

func spanOf(r unstable.Range) span { return span{int32(r.Offset), int32(r.Offset + r.Length)} }

// table makes a node that is a table.
func (r *reader) table(o origin, at span) *node {
	return r.nodes.new(node{kind: unstable.Table, key: at, at: at, table: r.tables.new(table{origin: o})})
}

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
	for _, quotes := range [...]int32{0, 1} {
		if from, to := at.from+quotes, at.to-quotes; int(to-from) == len(data) && int(to) <= len(r.text) && r.text[from:to] == string(data) {
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
			n = r.table(implicit, at[i])
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
	made := r.table(header, where)
	switch {
	case e.Kind == unstable.ArrayTable && n == nil:
		t.put(part, r.nodes.new(node{kind: unstable.ArrayTable, key: where, at: where, table: r.tables.new(table{items: []*node{made}})}))
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
			n = r.table(dotted, at[i])
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
	n := r.nodes.new(node{kind: e.Kind, at: spanOf(e.Raw)}) // of an Array it is empty
	switch e.Kind {
	case unstable.InlineTable:
		n.kind, n.table = unstable.Table, r.tables.new(table{origin: inline})
		for it := e.Children(); it.Next(); {
			if kv := it.Node(); kv.Kind == unstable.KeyValue {
				r.keyValue(n.table, kv)
			}
		}
		// Whatever dotted keys made inside is closed as well.
		seal(n.table)
	case unstable.Array:
		n.table = r.tables.new(table{})
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
	for n := range t.all() {
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
