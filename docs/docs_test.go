// Package docs tests what the pages here say against the program.
package docs

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gvtep/config"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the lines below a heading, up to the next of its level or
// above.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no %q", heading)
	}
	level := strings.IndexByte(heading, ' ')
	if end := regexp.MustCompile(`(?m)^#{1,` + strconv.Itoa(level) + `} `).FindStringIndex(rest); end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// rows returns the cells of all tables, without heads.
func rows(text string) (all [][]string) {
	body := false
	for line := range strings.Lines(text) {
		switch {
		case !strings.HasPrefix(line, "|"):
			body = false
		case strings.HasPrefix(line, "| ---"):
			body = true
		case body:
			line = strings.ReplaceAll(strings.TrimSpace(line), `\|`, "\x00")
			var cells []string
			for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.TrimSpace(strings.ReplaceAll(c, "\x00", "|")))
			}
			all = append(all, cells)
		}
	}
	return all
}

var inCode = regexp.MustCompile("`([^`]+)`")

// code returns what is marked as code.
func code(text string) (all []string) {
	for _, m := range inCode.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// texts returns all string literals of the program, verbs of fmt as "...".
func texts(t *testing.T) (all []string) {
	t.Helper()
	verb := regexp.MustCompile(`%(\[\d+\])?[-+# 0]*[\d.]*[a-zA-Z]`)
	for _, dir := range []string{
		"cmd/gvtep", "cmd/internal/control", "cmd/internal/daemon", "cmd/internal/keep", "cmd/internal/logging", "cmd/internal/view",
		"config", "tap", "udp", "vtep", "vtep/spec", "vtep/internal/work", "fdb",
	} {
		names, err := filepath.Glob("../" + dir + "/*.go")
		if err != nil || len(names) == 0 {
			t.Fatalf("no source in %s: %v", dir, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					if s, err := strconv.Unquote(l.Value); err == nil {
						all = append(all, strings.ReplaceAll(verb.ReplaceAllString(s, "..."), "%%", "%"))
					}
				}
				return true
			})
		}
	}
	for errno := unix.Errno(1); errno < 134; errno++ {
		all = append(all, errno.Error())
	}
	return all
}

// said reports whether the quoted words, but for "...", stand in one of the
// texts in their order.
func said(quoted string, texts []string) bool {
next:
	for _, text := range texts {
		for part := range strings.SplitSeq(quoted, "...") {
			part = strings.TrimSpace(part)
			i := strings.Index(text, part)
			if i < 0 {
				continue next
			}
			text = text[i+len(part):]
		}
		return true
	}
	return false
}

// Messages quoted in the guide are those of the program.
func TestMessages(t *testing.T) {
	page := read(t, "troubleshooting.md")
	all := texts(t)
	quoted := 0
	for _, heading := range []string{"## By error message", "## Log lines"} {
		for _, cells := range rows(section(t, page, heading)) {
			words := code(cells[0])
			if len(words) == 0 {
				t.Errorf("%s: no message in the row %q", heading, cells[0])
			}
			for _, w := range words {
				if quoted++; !said(w, all) || len(strings.ReplaceAll(w, "...", "")) < 6 {
					t.Errorf("troubleshooting.md, %s: the program does not say %q", heading, w)
				}
			}
		}
	}
	if quoted < 100 {
		t.Errorf("only %d messages found in the page", quoted)
	}
	for _, wrong := range []string{"no such words", "a value ... needs", "is given once"} {
		if said(wrong, all) {
			t.Errorf("%q passes as a message of the program", wrong)
		}
	}
}

// keywords are all words of the command line and all keys of files.
func keywords(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, k := range config.Keywords() {
		for _, w := range k.Words() {
			all[w] = true
		}
	}
	var schema any
	if err := json.Unmarshal(config.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		m, _ := v.(map[string]any)
		properties, _ := m["properties"].(map[string]any)
		for name := range properties {
			all[name] = true
		}
		for _, v := range m {
			walk(v)
		}
	}
	walk(schema)
	return all
}

// The gvtep column of every table of the migration guide has keywords that
// exist.
func TestMigration(t *testing.T) {
	known := keywords(t)
	page := read(t, "migration.md")
	seen := map[string]bool{}
	for part := range strings.SplitSeq(page, "\n\n") {
		head, _, _ := strings.Cut(strings.TrimSpace(part), "\n")
		column := -1
		for i, c := range strings.Split(strings.Trim(head, "|"), "|") {
			if strings.TrimSpace(c) == "gvtep" {
				column = i
			}
		}
		if column < 0 || !strings.HasPrefix(head, "|") {
			continue
		}
		for _, cells := range rows(part) {
			if len(cells) <= column {
				t.Errorf("migration.md: a row without gvtep's column: %q", cells)
				continue
			}
			for _, c := range code(cells[column]) {
				if strings.HasPrefix(c, "gvtep ") || strings.HasPrefix(c, "[") {
					continue // a command, or the name of a section
				}
				word := strings.FieldsFunc(c, func(r rune) bool { return r == ' ' || r == '=' })[0]
				if seen[word] = true; !known[word] {
					t.Errorf("migration.md: gvtep knows no %s (%q)", word, c)
				}
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("only %d keywords found in the page", len(seen))
	}
}

// Places in the code that pages name as FILE:NAME exist, and so do packages of the map.
func TestPlaces(t *testing.T) {
	place := regexp.MustCompile("`([\\w/-]+\\.go)(?::(\\w+))?`")
	found := 0
	for _, page := range []string{"development.md", "architecture.md"} {
		for _, m := range place.FindAllStringSubmatch(read(t, page), -1) {
			if !strings.Contains(m[1], "/") {
				continue // said of a package before
			}
			found++
			code, err := os.ReadFile("../" + m[1])
			if err != nil { // as the pages say
				code, err = os.ReadFile("../vtep/internal/" + m[1])
			}
			if err != nil {
				t.Errorf("%s: %s: %v", page, m[0], err)
			} else if m[2] != "" && !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type |\t)`+m[2]+`\b`).Match(code) {
				t.Errorf("%s: %s: the file has no %s", page, m[0], m[2])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d places found", found)
	}
}

// Links to pages, files and headings lead somewhere.
func TestLinks(t *testing.T) { followLinks(t, ".") }

// So they do where the pages are installed, beside fewer files.
func TestInstalledLinks(t *testing.T) {
	dir, made := t.TempDir(), t.TempDir()
	for _, name := range []string{"gvtep", "gvtep-evpn", "gvtep.8", "gvtep.toml.5", "gvtep-evpn.8"} { // the pages are what counts
		if err := os.WriteFile(filepath.Join(made, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	install := exec.Command("../scripts/packaging/layout.sh", "install")
	install.Env = append(os.Environ(), "PREFIX=/usr", "DESTDIR="+dir, "BIN="+made, "TOOL=echo", "MANDIR="+made)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	followLinks(t, filepath.Join(dir, "usr/share/doc/gvtep/docs"))
}

func followLinks(t *testing.T, dir string) {
	t.Helper()
	pages, _ := filepath.Glob(filepath.Join(dir, "*.md"))
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	found := 0
	for _, page := range append(pages, filepath.Join(dir, "../README.md")) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", page, m[1], err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s: %s has no such heading", page, m[1], target)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d links found", found)
	}
}

// anchors are what headings are linked by.
func anchors(page string) (all []string) {
	other := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		all = append(all, strings.ReplaceAll(other.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}
