package config

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"

	"gvtep/vtep/option"
)

// maxFile and maxTunnels keep mistakes from using up the memory.
const (
	maxFile    = 128 << 20 // a million entries are 70 MiB
	maxTunnels = 1 << 16
)

// Load reads the configuration at path: a file, or a directory, of which all
// files *.toml count in the order of their names. Files, with those that they
// include, are read as if they were one; a setting is given once in all.
//
// An error of the type Errors is all that is wrong.
func Load(path string) (Config, error) {
	l := newLoader()
	info, err := os.Stat(path)
	if err != nil {
		return Config{}, err
	}
	if info.IsDir() {
		l.directory(path)
	} else {
		l.open(path, nil, span{})
	}
	return l.config()
}

// Read reads a configuration from in, which name stands for in messages. What it includes is below
// the working directory.
func Read(name string, in io.Reader) (Config, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return Config{}, err
	case len(text) > maxFile:
		return Config{}, fmt.Errorf("larger than %s", formatSize(maxFile))
	}
	l := newLoader()
	l.add(name, string(text))
	return l.config()
}

func newLoader() loader { return loader{read: map[string]bool{}} }

// InstanceName is the instance of a configuration that does not say: the name
// of the file without .toml, or that of the directory.
func InstanceName(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	return strings.TrimSuffix(filepath.Base(abs), ".toml")
}

// parse reads a text that includes no others.
func parse(name, text string) (Config, error) {
	l := newLoader()
	l.add(name, text)
	return l.config()
}

// tables are the keywords of the parts of a file, made once for all of it.
type tables struct {
	tunnel  index[Tunnel]
	peer    index[Peer]
	fdb     index[Entry]
	socket  index[Socket]
	log     index[Log]
	metrics index[Metrics]
	hooks   index[Hooks]
}

// index finds the keywords of a table by name.
type index[T any] struct {
	entries map[string]*entry[T]
	extra   []string // keys that are no keywords
}

func newIndex[T any](table []entry[T], extra ...string) index[T] {
	x := index[T]{map[string]*entry[T]{}, extra}
	for i := range table {
		if table[i].Kind != Short {
			for _, name := range append(table[i].Former, table[i].Name) {
				x.entries[name] = &table[i]
			}
		}
	}
	return x
}

func newTables(names *option.Registry) tables {
	return tables{
		tunnel:  newIndex(tunnelKeywords(names), "name", "peer", "fdb"),
		peer:    newIndex(peerKeywords(names), "remote"),
		fdb:     newIndex(entryKeywords(names), "lladdr"),
		socket:  newIndex(socketKeywords()),
		log:     newIndex(logKeywords()),
		metrics: newIndex(metricsKeywords()),
		hooks:   newIndex(hookKeywords()),
	}
}

// loader turns files into a Config and a list of faults.
type loader struct {
	tables
	files  []*file
	read   map[string]bool // their resolved names
	faults []fault
	broken bool // a file could not be read to its end
	cfg    Config
	// base is what [defaults] make of a tunnel, and inherited their keys.
	base      Tunnel
	inherited map[string]bool
	seen      claims
}

// place is a part of a file.
type place struct {
	file *file
	at   span
}

func (l *loader) fault(f *file, at span, format string, args ...any) {
	l.faults = append(l.faults, fault{f, at, fmt.Sprintf(format, args...)})
}

// directory opens all files of a directory.
func (l *loader) directory(path string) {
	names, _ := filepath.Glob(filepath.Join(escapeGlob(path), "*.toml"))
	if len(names) == 0 {
		l.fault(l.file(path, ""), span{}, "no file *.toml in this directory")
	}
	for _, name := range names {
		l.open(name, nil, span{})
	}
}

// escapeGlob makes a pattern of a path that matches it alone.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

func (l *loader) file(name, text string) *file {
	f := &file{name: name, text: text, root: &table{origin: header}}
	l.files = append(l.files, f)
	return f
}

// open reads a file. By and at are the include that wants it.
func (l *loader) open(path string, by *file, at span) {
	text, err := readFile(path)
	if err != nil {
		l.broken = true
		if by == nil {
			by = l.file(path, "")
		}
		l.fault(by, at, "%s", err)
		return
	}
	l.read[resolved(path)] = true
	l.add(path, text)
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var text strings.Builder
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		text.Grow(int(min(info.Size(), maxFile)) + 1)
	}
	if _, err = io.Copy(&text, io.LimitReader(f, maxFile+1)); err == nil && text.Len() > maxFile {
		err = fmt.Errorf("%s: larger than %s", path, formatSize(maxFile))
	}
	return text.String(), err
}

// add reads the text of a file and opens those that it includes.
func (l *loader) add(name, text string) {
	f := l.file(name, text)
	if !utf8.ValidString(text) {
		l.broken = true
		at := int32(strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError }))
		l.fault(f, span{at, at + 1}, "this is not text in UTF-8")
		return
	}
	root, whole := readTOML(text, func(at span, format string, args ...any) { l.fault(f, at, format, args...) })
	f.root = root
	l.broken = l.broken || !whole
	if n := root.get("include"); n != nil {
		for _, pattern := range l.strings(f, n, "include") {
			l.include(f, pattern)
		}
	}
}

// include opens the files that a pattern matches, which is relative to the
// directory of the file that it stands in.
func (l *loader) include(f *file, pattern *node) {
	path := pattern.text
	if path == "" || strings.Contains(path, "\x00") {
		l.fault(f, pattern.at, "include: want the name of a file, or a pattern such as \"tenants.d/*.toml\"")
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(escapeGlob(filepath.Dir(f.name)), path)
	}
	names, err := filepath.Glob(path)
	if err != nil {
		l.fault(f, pattern.at, "include %s: not a pattern of file names", plain(pattern.text))
		return
	}
	if len(names) == 0 && !strings.ContainsAny(pattern.text, "*?[") {
		l.fault(f, pattern.at, "include %s: there is no such file", plain(pattern.text))
	}
	for _, name := range names {
		if l.read[resolved(name)] {
			l.fault(f, pattern.at, "include %s: %s is read already", plain(pattern.text), name)
			continue
		}
		l.open(name, f, pattern.at)
	}
}

// resolved is the one name of a file.
func resolved(name string) string {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	return name
}

// config makes the configuration of all files read.
func (l *loader) config() (Config, error) {
	l.cfg = defaultConfig()
	l.base, l.inherited = defaults(), map[string]bool{}
	l.seen = newClaims()
	l.cfg.Names = l.names()
	l.tables = newTables(l.cfg.Names)
	given := map[string]place{} // settings by their full name
	for _, f := range l.files {
		l.settings(f, given)
	}
	l.base.DstPort = l.cfg.Socket.Port
	for _, f := range l.files {
		if n := f.root.get("defaults"); n != nil && n.kind == unstable.Table {
			l.defaults(f, n.table, given)
		}
	}
	for _, f := range l.files {
		if n := f.root.get("tunnel"); n != nil && n.kind == unstable.ArrayTable {
			for _, item := range n.items {
				l.tunnel(f, item)
			}
		}
	}
	if len(l.cfg.Tunnels) == 0 && len(l.faults) == 0 {
		l.fault(l.files[0], span{}, "no [[tunnel]]: gvtep config example shows what a file looks like")
	}
	if len(l.faults) > 0 {
		return Config{}, errorsOf(l.files, l.faults)
	}
	return l.cfg, nil
}

// sections are the keys at the top of a file.
var sections = [...]string{"instance", "include", "log", "socket", "metrics", "hooks", "option", "defaults", "tunnel"}

// settings reads what concerns the process. given is what other files said.
func (l *loader) settings(f *file, given map[string]place) {
	for n := range f.root.all() {
		key := n.name
		switch key {
		case "include", "option": // done
		case "instance":
			if !l.once(f, n.key, key, given) {
				continue
			}
			if n.kind != unstable.String {
				l.fault(f, n.at, "instance: want a text in quotes, not %s", n.kindName())
			} else if err := CheckInstance(n.text); err != nil {
				l.fault(f, n.at, "%s", err)
			}
			l.cfg.Instance = strings.Clone(n.text)
		case "log":
			if t := l.section(f, key, n); t != nil {
				fill(l, f, t, &l.cfg.Log, l.tables.log, key, given)
			}
		case "socket":
			if t := l.section(f, key, n); t != nil {
				fill(l, f, t, &l.cfg.Socket, l.tables.socket, key, given)
			}
		case "metrics":
			if t := l.section(f, key, n); t != nil {
				fill(l, f, t, &l.cfg.Metrics, l.tables.metrics, key, given)
				if l.cfg.Metrics.Page && l.cfg.Metrics.Listen == "" {
					l.fault(f, n.key, "metrics: page without listen: say where, such as listen = \"127.0.0.1:9681\"")
				}
			}
		case "hooks":
			if t := l.section(f, key, n); t != nil {
				fill(l, f, t, &l.cfg.Hooks, l.tables.hooks, key, given)
			}
		case "defaults":
			l.section(f, key, n)
		case "tunnel":
			switch n.kind {
			case unstable.ArrayTable:
			case unstable.Table:
				l.fault(f, n.key, "there can be several tunnels: write [[tunnel]]")
			default:
				l.fault(f, n.key, "tunnel has no value of its own: write [[tunnel]] and its keys below")
			}
		default:
			hint := hintFor(key, sections[:])
			if _, ok := l.tables.tunnel.entries[key]; ok || key == "name" {
				hint = "write it below [[tunnel]], or below [defaults] for all tunnels"
			}
			l.fault(f, n.key, "unknown key %s: %s", plain(key), hint)
		}
	}
}

// section returns the table of a [key].
func (l *loader) section(f *file, key string, n *node) *table {
	if n.kind != unstable.Table {
		l.fault(f, n.key, "%[1]s is a table: write [%[1]s]", key)
		return nil
	}
	return n.table
}

// once reports a setting that was given before, perhaps in another file.
func (l *loader) once(f *file, at span, key string, given map[string]place) bool {
	if other, ok := given[key]; ok {
		l.fault(f, at, "%s is given twice, first in %s", key, other.where())
		return false
	}
	given[key] = place{f, at}
	return true
}

// where is a place for people.
func (p place) where() string {
	return fmt.Sprintf("%s:%d", p.file.name, p.file.line(int(p.at.from))+1)
}

// fill sets the keywords of a section.
func fill[T any](l *loader, f *file, t *table, to *T, x index[T], section string, given map[string]place) {
	for n := range t.all() {
		key := n.name
		e := x.entries[key]
		if e == nil {
			l.fault(f, n.key, "unknown key %s: %s", plain(key), x.hint(key))
			continue
		}
		if l.once(f, n.key, section+"."+e.Name, given) {
			assign(l, f, e, to, n)
		}
	}
}

// ownKeys are the keys of a tunnel that no other can share.
var ownKeys = []string{"name", "id", "lladdr", "address", "peer", "fdb", "vlan"}

// defaults reads [defaults] into the base of all tunnels.
func (l *loader) defaults(f *file, t *table, given map[string]place) {
	for n := range t.all() {
		key := n.name
		e := l.tables.tunnel.entries[key]
		switch {
		case slices.Contains(ownKeys, key):
			l.fault(f, n.key, "%s belongs to one tunnel: write it below [[tunnel]]", key)
		case e == nil:
			l.fault(f, n.key, "unknown key %s: %s", plain(key), l.tables.tunnel.hint(key))
		case l.once(f, n.key, "defaults."+e.Name, given):
			assign(l, f, e, &l.base, n)
			l.inherited[e.Name] = true
		}
	}
}

// hint is what to try instead of an unknown key.
func (x index[T]) hint(key string) string {
	for _, e := range x.entries {
		if slices.Contains(e.Aliases, key) {
			return "write " + e.Name
		}
		if e.Kind == Switch && key == "no"+e.Name {
			return fmt.Sprintf("write %s = false", e.Name)
		}
	}
	if key == "innerprotoinherit" && x.entries["mode"] != nil {
		return "write mode = \"l3\""
	}
	return hintFor(key, x.names())
}

// names returns all keys, and closest the one that a key was probably meant to
// be, or "".
func (x index[T]) names() []string { return append(slices.Sorted(maps.Keys(x.entries)), x.extra...) }

func (x index[T]) closest(key string) string {
	for _, e := range x.entries {
		if slices.Contains(e.Aliases, key) {
			return e.Name
		}
	}
	return Closest(key, x.names())
}

func hintFor(key string, known []string) string {
	if near := Closest(key, known); near != "" {
		return fmt.Sprintf("did you mean %s?", near)
	}
	if len(known) > 10 {
		return "gvtep run --help lists those of a tunnel"
	}
	return "there is " + strings.Join(known, ", ")
}
