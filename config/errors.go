package config

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"
)

// Error is something wrong at one place of a file.
type Error struct {
	File   string `json:"file"`
	Line   int    `json:"line"`   // from 1; 0: the file as a whole
	Column int    `json:"column"` // from 1, in characters
	Text   string `json:"text"`   // one line
	// Excerpt is the line with its neighbours and a ~~~~ below the place.
	Excerpt string `json:"-"`
}

func (e Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s\n%s", e.File, e.Line, e.Column, e.Text, e.Excerpt)
}

// Errors is all that is wrong with a configuration, in the order of its text.
// Its text has several lines.
type Errors []Error

func (all Errors) Error() string {
	var b strings.Builder
	for i, e := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(strings.TrimSuffix(e.Error(), "\n"))
	}
	return b.String()
}

// fault is an Error before its place is turned into lines and columns.
type fault struct {
	file *file
	at   span
	text string
}

// file is one file and its text.
type file struct {
	name  string
	text  string
	root  *table
	lines []int // where they begin; made on first use
}

// errorsOf brings faults into the order of the text: that of the files, then
// that of the places. What is wrong in the same way at the same place is said
// once.
func errorsOf(files []*file, faults []fault) Errors {
	nth := make(map[*file]int, len(files))
	for i, f := range files {
		nth[f] = i
	}
	slices.SortStableFunc(faults, func(a, b fault) int {
		if a.file != b.file {
			return nth[a.file] - nth[b.file]
		}
		return int(a.at.from - b.at.from)
	})
	faults = slices.Compact(faults)
	var all Errors
	for _, f := range faults {
		all = append(all, f.file.errorAt(f.at, f.text))
	}
	return all
}

func (f *file) errorAt(at span, text string) Error {
	e := Error{File: f.name, Text: text}
	if f.text == "" {
		return e
	}
	line := f.line(int(at.from))
	e.Line = line + 1
	current := f.lineText(line)
	from := min(int(at.from)-f.lines[line], len(current))
	for from > 0 && from < len(current) && !utf8.RuneStart(current[from]) {
		from-- // the parser counts in bytes
	}
	to := max(from+1, min(int(at.to)-f.lines[line], len(current)))
	for to < len(current) && !utf8.RuneStart(current[to]) {
		to++
	}
	e.Column = utf8.RuneCountInString(current[:from]) + 1
	e.Excerpt = f.excerpt(line, from, to)
	return e
}

// line returns the number, from 0, of the line that has the byte at offset.
func (f *file) line(offset int) int {
	if f.lines == nil {
		f.lines = []int{0}
		for i := range len(f.text) {
			if f.text[i] == '\n' && i+1 < len(f.text) {
				f.lines = append(f.lines, i+1)
			}
		}
	}
	return sort.SearchInts(f.lines, offset+1) - 1
}

// lineText is a line without its end.
func (f *file) lineText(line int) string {
	text := f.text[f.lines[line]:]
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	return strings.TrimSuffix(text, "\r")
}

// excerpt shows a line between its neighbours, and marks its bytes from-to.
func (f *file) excerpt(line, from, to int) string {
	// Long lines are shown around the place, by whole characters.
	const widest = 100
	left, right := 0, widest
	if before := utf8.RuneCountInString(f.lineText(line)[:from]); before > widest/2 {
		left, right = before-widest/2, before+widest/2
	}
	clip := func(s string) string {
		runes := []rune(s)
		return string(runes[min(left, len(runes)):min(right, len(runes))])
	}
	var b strings.Builder
	width := len(itoa(line + 2))
	for n := max(0, line-1); n <= min(line+1, len(f.lines)-1); n++ {
		text := f.lineText(n)
		fmt.Fprintf(&b, "%*d| %s\n", width, n+1, printable(clip(text)))
		if n != line {
			continue
		}
		to = min(to, len(text)+1)
		marked := strings.Repeat("~", utf8.RuneCountInString(text[min(from, len(text)):min(to, len(text))]))
		if marked == "" {
			marked = "~" // the end of the line
		}
		gap := func(r rune) rune {
			if r == '\t' {
				return r
			}
			return ' '
		}
		fmt.Fprintf(&b, "%*s| %s\n", width, "", clip(strings.Map(gap, text[:from])+marked))
	}
	return b.String()
}

// printable replaces control characters, so that a file that is no text cannot control the
// terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\ufffd'
		}
		return r
	}, s)
}
