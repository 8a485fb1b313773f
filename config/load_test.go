package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"gvtep/vtep/option"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write what the tests expect anew")

// Each archive in testdata is a directory with a main.toml, or, if there is
// none, with the files of a directory d, and what comes of it.
func TestLoad(t *testing.T) {
	archives, _ := filepath.Glob("testdata/*.txtar")
	if len(archives) < 5 {
		t.Fatalf("only %d archives in testdata", len(archives))
	}
	for _, name := range archives {
		name, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			want, path := (*txtar.File)(nil), "d"
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = &archive.Files[i]
					continue
				}
				if f.Name == "main.toml" {
					path = f.Name
				}
				os.MkdirAll(filepath.Dir(f.Name), 0o755)
				if err := os.WriteFile(f.Name, f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := Load(path)
			got := Print(cfg, false)
			if err != nil {
				got = err.Error() + "\n"
			} else {
				checkPrint(t, cfg)
			}
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(want.Data), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// checkPrint: what is printed says the same as what was read.
func checkPrint(t *testing.T, cfg Config) {
	t.Helper()
	for _, all := range []bool{false, true} {
		text := Print(cfg, all)
		again, err := parse("printed", text)
		if err != nil {
			t.Fatalf("printed, but not read again: %v\n%s", err, text)
		}
		if c := Diff(cfg, again); !c.Empty() {
			t.Errorf("printed and read again: %+v\n%s", c, text)
		}
	}
}

// Every key in every wrong way is refused at its place, and named.
func TestWrongTypes(t *testing.T) {
	values := map[string]string{ // by the kind that they are of
		"float": "1.5", "date": "2026-01-02", "time": "01:02:03", "table": "{a = 1}", "nested": "[[1]]",
		"mixed": `["x", 1]`, "empty": `""`, "newline": `"a\nb"`, "negative": "-1", "huge": "99999999999999999999",
		"list of tables": "[{a = 1}]", "infinity": "inf", "no": "[]",
	}
	section := func(head string, keys []string, tail string) {
		for _, key := range keys {
			for kind, value := range values {
				text := head + key + " = " + value + "\n" + tail
				_, err := parse("x.toml", text)
				var all Errors
				if !errors.As(err, &all) {
					t.Errorf("%s of %s: %v\n%s", key, kind, err, text)
					continue
				}
				line := strings.Count(head, "\n") + 1
				if !slices.ContainsFunc(all, func(e Error) bool { return e.Line == line && strings.Contains(e.Text, key) }) {
					t.Errorf("%s of %s: want an error in line %d about %s\n%v", key, kind, line, key, err)
				}
			}
		}
	}
	const rest = "[[tunnel]]\nname = \"gnv0\"\nid = 1\nremote = \"192.0.2.1\"\n"
	section("[log]\n", names(logKeywords()), rest)
	section("[socket]\n", names(socketKeywords()), rest)
	section("[[tunnel]]\n", append(names(tunnelKeywords(option.Default())), "name", "peer"), "")
	section("[[tunnel]]\nname = \"gnv0\"\nid = 1\n  [[tunnel.peer]]\n  remote = \"192.0.2.9\"\n [[tunnel.peer]]\n", append(names(peerKeywords(option.Default())), "remote"), "")
	section("", []string{"instance", "include"}, rest)
}

func names[T any](table []entry[T]) (all []string) {
	for _, e := range table {
		if e.Kind != Short {
			all = append(all, e.Name)
		}
	}
	return all
}

// The examples of the program, of the README and of docs are right.
func TestExamples(t *testing.T) {
	entries, err := fs.ReadDir(Examples, "examples")
	if err != nil || len(entries) < 3 {
		t.Fatal(err, entries)
	}
	check := func(name, text string) {
		// Included files are the reader's own.
		text = regexp.MustCompile(`(?m)^include .*$`).ReplaceAllString(text, "")
		cfg, err := parse(name, text)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		checkPrint(t, cfg)
	}
	for _, e := range entries {
		text, err := fs.ReadFile(Examples, "examples/"+e.Name())
		if err != nil {
			t.Fatal(err)
		}
		check(e.Name(), string(text))
	}
	documents, _ := filepath.Glob("../docs/*.md")
	found := 0
	for _, name := range append(documents, "../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatchIndex(text, -1) {
			found++
			// Empty lines before it, so that an error names the document's line.
			lines := bytes.Count(text[:block[2]], []byte("\n"))
			check(name, strings.Repeat("\n", lines)+string(text[block[2]:block[3]]))
		}
	}
	if found == 0 {
		t.Error("no ```toml in README.md and docs/*.md")
	}
}

// The schema is a promise to editors, and knows the keys of the table.
func TestSchema(t *testing.T) {
	got := Schema()
	if *update {
		os.WriteFile("testdata/schema.json", got, 0o644)
	}
	want, err := os.ReadFile("testdata/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestLoadMissing(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want %v", err, fs.ErrNotExist)
	}
}

func TestInstanceName(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, _ := os.Getwd()
	for path, want := range map[string]string{
		"p2p.toml": "p2p", "/etc/gvtep/fabric.toml": "fabric", "/etc/gvtep": "gvtep", "/etc/gvtep/": "gvtep", "a.conf": "a.conf", ".": filepath.Base(dir),
	} {
		if got := InstanceName(path); got != want {
			t.Errorf("InstanceName(%q) = %q, want %q", path, got, want)
		}
	}
}

// many is a file of n tunnels as a control plane might write it.
func many(n int) string {
	var b strings.Builder
	b.WriteString("[defaults]\nlocal = \"192.0.2.1\"\ntos = \"inherit\"\n")
	for i := range n {
		fmt.Fprintf(&b, "[[tunnel]]\nname = \"gnv%d\"\nid = %d\nmtu = 1450\naddress = [\"10.%d.%d.1/24\"]\nageing = \"300s\"\n"+
			"  [[tunnel.peer]]\n  name = \"leaf2\"\n  remote = \"192.0.2.2\"\n  [[tunnel.peer]]\n  remote = \"192.0.2.3\"\n  flood = false\n", i, i+1000, i/256, i%256)
	}
	return b.String()
}

func TestMany(t *testing.T) {
	text := many(4000)
	begin := time.Now()
	cfg, err := parse("many.toml", text)
	if err != nil || len(cfg.Tunnels) != 4000 {
		t.Fatalf("%d tunnels, %v", len(cfg.Tunnels), err)
	}
	t.Logf("4,000 tunnels, %d KiB: %v", len(text)>>10, time.Since(begin))
	begin = time.Now()
	if c := Diff(cfg, cfg); !c.Empty() {
		t.Errorf("no change, but %+v", c)
	}
	t.Logf("compared with itself: %v", time.Since(begin))
	// All of it wrong is not much slower.
	begin = time.Now()
	_, err = parse("many.toml", strings.ReplaceAll(text, "mtu = 1450", "mtw = 14500"))
	var all Errors
	if !errors.As(err, &all) || len(all) != 4000 {
		t.Errorf("%d errors, want 4000", len(all))
	}
	t.Logf("4,000 errors: %v", time.Since(begin))
}

func BenchmarkLoad(b *testing.B) {
	text := many(4000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse("many.toml", text); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever the text, there is no panic; errors have a place in it; what TOML
// refuses is refused; and what is accepted can be printed and read again.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/*.txtar", "examples/*.toml"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			text, _ := os.ReadFile(name)
			if archive := txtar.Parse(text); len(archive.Files) > 0 {
				for _, file := range archive.Files {
					f.Add(string(file.Data))
				}
				continue
			}
			f.Add(string(text))
		}
	}
	f.Add("[tunnel]\r\n\t[tunnel.peer]\nremote = ['x', \"\"\"\ny\"\"\"]")
	f.Add("a.b.c = 1\na.b = {d = [1, {e = 2}]}\n[a.b.f]\n[[tunnel]]\npeer = [{remote = \"192.0.2.1\"}]")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") {
			return // no files here
		}
		cfg, err := parse("fuzz.toml", text)
		if err == nil {
			var any map[string]any
			if err := toml.Unmarshal([]byte(text), &any); err != nil {
				t.Fatalf("accepted, but not TOML: %v\n%s", err, text)
			}
			if len(cfg.Tunnels) > 100 {
				return // a range; it only takes time
			}
			for _, tun := range cfg.Tunnels {
				checkTunnel(t, text, tun)
			}
			checkPrint(t, cfg)
			return
		}
		var all Errors
		if !errors.As(err, &all) || len(all) == 0 {
			t.Fatalf("not a list of errors: %v", err)
		}
		lines := strings.Split(text, "\n")
		for _, e := range all {
			if e.Line > len(lines) || e.Line > 0 && e.Column > utf8.RuneCountInString(lines[e.Line-1])+2 {
				t.Errorf("%q: no such place: %s", text, e)
			}
			if strings.ContainsAny(e.Text, "\n\r\x1b") {
				t.Errorf("%q: not one line: %q", text, e.Text)
			}
		}
	})
}
