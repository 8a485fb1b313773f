// Man writes the manual pages gvtep.8 and gvtep.toml.5, or gvtep-evpn.8, into a directory:
//
//	gvtep -j help | go run ./scripts/tools/man [-date 2026-01-02] DIR
//	gvtep-evpn -j help | go run ./scripts/tools/man [-date 2026-01-02] DIR
//
// With -docs it writes the pages of docs that are made from tables, reference.md
// and drops.md, and reads nothing:
//
//	go run ./scripts/tools/man -docs docs
//
// Commands, flags and examples are what the program says of itself, keys and
// their defaults are the tables of packages config and evpn; only the prose between them
// stands in the templates beside this file.
package main

import (
	"cmp"
	"embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"gvtep/config"
	"gvtep/internal/evpn"
)

//go:embed *.tmpl
var templates embed.FS

// command is one of "gvtep -j help".
type command struct {
	Name, Use, Short, Long, Example string
	Aliases                         []string
	Flags                           []flagOf
	Commands                        []command
}

type flagOf struct {
	Name, Shorthand, Arg, Usage, Default string
	Keyword                              bool
}

// pagesOf are the pages that are made of what a program says of itself, by the name that it gives.
func pagesOf(program string) []string {
	switch program {
	case "":
		return []string{"gvtep.8", "gvtep.toml.5"}
	case "gvtep-evpn":
		return []string{"gvtep-evpn.8"}
	}
	return nil
}

// page is what the templates can use.
type page struct {
	Date     string
	Root     command
	Commands []command // those that can be called, in the order of the manual
	Sections []config.Section
	Examples map[string]string // by name
}

func main() {
	date := flag.String("date", time.Now().UTC().Format(time.DateOnly), "date of the pages, as 2026-01-02")
	docs := flag.Bool("docs", false, "write the pages of docs instead")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: gvtep|gvtep-evpn -j help | man [-date DATE] DIR, or man -docs DIR")
		os.Exit(1)
	}
	do := func(dir string) error { return write(os.Stdin, dir, *date) }
	if *docs {
		do = writeDocs
	}
	if err := do(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
}

// write makes the pages of what is read from help.
func write(help io.Reader, dir, date string) error {
	p := page{Sections: config.Sections(), Examples: map[string]string{}}
	day, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return err
	}
	p.Date = day.Format("January 2, 2006")
	if err := json.NewDecoder(help).Decode(&p.Root); err != nil {
		return fmt.Errorf("this is not the output of gvtep -j help: %w", err)
	}
	p.Commands = flat(p.Root.Commands)
	files, err := fs.Glob(config.Examples, "examples/*.toml")
	if err != nil {
		return err
	}
	for _, f := range files {
		text, err := fs.ReadFile(config.Examples, f)
		if err != nil {
			return err
		}
		p.Examples[strings.TrimSuffix(filepath.Base(f), ".toml")] = string(text)
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"text": text, "arg": arg, "prose": prose, "literal": literal, "blocks": blocks, "values": values, "keyword": keyword, "flag": flagLine, "use": use, "live": live, "initial": initial, "sentence": sentence,
		"lines": func(s string) []string { return strings.Split(strings.Trim(s, "\n"), "\n") }, "ownFlags": ownFlags, "fileKeys": fileKeys,
		"tunnelKeywords": config.TunnelKeywords, "peerKeywords": config.PeerKeywords, "entryKeywords": config.EntryKeywords, "processKeywords": processKeywords,
		"settings": evpn.Settings, "setting": setting,
	}).ParseFS(templates, "*.[58].tmpl")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range pagesOf(p.Root.Name) {
		var b strings.Builder
		if err := t.ExecuteTemplate(&b, name+".tmpl", p); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(tidy(b.String())), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// flat puts commands behind those they belong to.
func flat(all []command) (out []command) {
	for _, c := range all {
		out = append(out, c)
		out = append(out, flat(c.Commands)...)
	}
	return out
}

// tidy drops what templates leave: empty lines, which mdoc(7) does not want
// outside of displays, where they are \& here.
func tidy(s string) string {
	var out []string
	for _, line := range strings.Split(s, "\n") {
		if line = strings.TrimRight(line, " "); line != "" {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n") + "\n"
}

// text escapes s for a line of text.
func text(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// arg escapes s for the arguments of a macro, as one.
func arg(s string) string {
	return `"` + `\&` + strings.ReplaceAll(text(s), `"`, `\(dq`) + `"`
}

// prose is a paragraph: a sentence begins on a line of its own, no line is
// longer than 78 characters, and dashes in words are hyphens.
func prose(s string) string {
	var out []string
	line := ""
	flush := func() {
		if line != "" {
			out = append(out, line)
		}
		line = ""
	}
	for _, w := range strings.Fields(s) {
		plain := w
		w = strings.ReplaceAll(w, `\`, `\e`)
		if strings.HasPrefix(strings.TrimLeft(w, "(\""), "-") {
			w = strings.ReplaceAll(w, "-", `\-`)
		}
		if len(line)+1+len(w) > 78 {
			flush()
		}
		if line == "" && (w[0] == '.' || w[0] == '\'') {
			w = `\&` + w
		}
		line = strings.TrimPrefix(line+" "+w, " ")
		if strings.ContainsAny(plain[len(plain)-1:], ".!?") {
			flush()
		}
	}
	flush()
	return strings.Join(out, "\n")
}

// sentence is prose that begins and ends like a sentence. Words that are typed
// stay as they are.
func sentence(s string) string {
	if first, _, _ := strings.Cut(s, " "); !isWord(strings.Trim(first, ",;:")) {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// isWord reports whether a word is a value of some keyword.
func isWord(word string) bool {
	return slices.ContainsFunc(config.Sections(), func(s config.Section) bool {
		return slices.ContainsFunc(s.Keys, func(k config.Keyword) bool { return slices.Contains(k.Values, word) })
	})
}

// literal is a display of lines as they are.
func literal(s string) string {
	var b strings.Builder
	b.WriteString(".Bd -literal -offset indent\n")
	for _, line := range strings.Split(strings.Trim(s, "\n"), "\n") {
		b.WriteString(cmp.Or(text(strings.TrimPrefix(line, "  ")), `\&`) + "\n")
	}
	b.WriteString(".Ed")
	return b.String()
}

// blocks are the paragraphs of a help text: indented ones are displays.
func blocks(s string) string {
	var out []string
	for _, block := range strings.Split(strings.Trim(s, "\n"), "\n\n") {
		if block = strings.Trim(block, "\n"); strings.HasPrefix(block, "  ") {
			out = append(out, literal(block))
			continue
		}
		if len(out) > 0 {
			out = append(out, ".Pp")
		}
		out = append(out, prose(block))
	}
	return strings.Join(out, "\n")
}

// ownFlags are those that are no keywords, which have a section of their own.
func ownFlags(c command) (own []flagOf) {
	for _, f := range c.Flags {
		if !f.Keyword {
			own = append(own, f)
		}
	}
	return own
}

// fileKeys are those that can stand in a file.
func fileKeys(s config.Section) (keys []config.Keyword) {
	for _, k := range s.Keys {
		if k.Kind != config.Short {
			keys = append(keys, k)
		}
	}
	return keys
}

// processKeywords are the keywords of gvtep run that are not of a tunnel.
func processKeywords() []config.Keyword {
	return config.Keywords()[len(config.TunnelKeywords()):]
}

// use is the line of a command without the program and the words that cobra
// adds.
func use(c command) string {
	s := strings.TrimSuffix(c.Use, " [flags]")
	return strings.TrimPrefix(s, "gvtep ")
}

func flagLine(f flagOf) string {
	line := ".It "
	if f.Shorthand != "" {
		line += "Fl " + f.Shorthand + " , "
	}
	line += `Fl \-` + strings.ReplaceAll(f.Name, "-", `\-`)
	if f.Arg != "" {
		line += " Ar " + arg(f.Arg)
	}
	usage := sentence(f.Usage)
	if f.Default != "" && f.Arg != "" {
		usage += " Default: " + f.Default + "."
	}
	return line + "\n" + prose(usage)
}

// keyword is a word of the command line.
func keyword(k config.Keyword) string {
	line := ".It Cm "
	switch k.Kind {
	case config.Switch:
		line += arg("[no]" + k.Name)
	default:
		line += arg(k.Name)
	}
	for _, a := range k.Aliases {
		line += " , Cm " + arg(a)
	}
	if k.Arg != "" {
		line += " Ar " + arg(k.Arg)
	}
	return line + "\n" + prose(sentence(k.Usage)+remarks(k))
}

func remarks(k config.Keyword) string {
	s := ""
	if k.Default != "" {
		s += " Default: " + map[bool]string{true: onOff(k.Default), false: k.Default}[k.Kind == config.Switch] + "."
	}
	if k.Kind == config.List {
		s += " It may be repeated."
	}
	return s
}

// setting is a key of the configuration of gvtep-evpn.
func setting(k evpn.Setting) string {
	usage := sentence(k.Meaning)
	if k.Must {
		usage += " It must be there, such as " + k.Value + "."
	} else {
		usage += " Default: " + k.Value + "."
	}
	return ".It Cm " + arg(k.Name) + "\n" + prose(usage)
}

func onOff(v string) string { return map[string]string{"true": "on", "false": "off"}[v] }

// values are what a key of a file can be.
func values(k config.Keyword) string {
	var forms []string
	switch {
	case k.Kind == config.Pair:
		return "[MIN, MAX]"
	case k.Switched():
		return "true | false"
	}
	for _, v := range k.Values {
		forms = append(forms, `"`+v+`"`)
	}
	if k.Number {
		name := fmt.Sprintf("%d-%d", k.Min, k.Max)
		if k.Step > 1 {
			name += fmt.Sprintf(" in steps of %d", k.Step)
		}
		forms = append(forms, name)
	}
	if k.Text || len(forms) == 0 {
		forms = append(forms, `"`+cmp.Or(k.Arg, "TEXT")+`"`)
	}
	form := strings.Join(forms, " | ")
	if k.Kind == config.List {
		form += " | [" + form + ", ...]"
	}
	return form
}

// initial is the value of a key that is not there.
func initial(k config.Keyword) string {
	switch v := k.Default; {
	case v == "":
		return "none"
	case k.Kind == config.Pair:
		return "[" + strings.Join(strings.Fields(v), ", ") + "]"
	case k.Kind == config.Switch:
		return v
	case k.Switched():
		return map[string]string{"on": "true", "off": "false"}[v]
	case k.Number && strings.Trim(v, "0123456789") == "":
		return v
	default:
		return `"` + v + `"`
	}
}

func live(k config.Keyword) string {
	if k.Live {
		return "yes"
	}
	return "no"
}
