package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"gvtep/config"
)

// What is asked of every command is found out by running the scripts: each
// gvtep in them writes down what it did.

// quiet are commands without JSON: they print nothing, or what is no record.
var quiet = map[string]string{
	"":               "prints help",
	"run":            "logs",
	"metrics":        "prints what Prometheus reads",
	"wait":           "prints nothing",
	"completion":     "prints a script",
	"config":         "prints help",
	"config example": "prints TOML", "config import": "prints TOML", "config schema": "prints a schema",
	"tunnel add": "changes", "tunnel set": "changes", "tunnel del": "changes", "tunnel up": "changes", "tunnel down": "changes",
	"vlan add": "changes", "vlan del": "changes",
	"peer add": "changes", "peer set": "changes", "peer del": "changes",
	"fdb add": "changes", "fdb append": "changes", "fdb replace": "changes", "fdb del": "changes",
}

// alone are commands that ask no daemon, so that no script needs one for them.
var alone = []string{"", "check", "completion", "config", "config example", "config import", "config schema", "decode", "explain", "help"}

// varying are objects whose keys are no names but values.
var varying = []string{".drops.rx", ".drops.tx"}

// run is what one gvtep in a script did.
type run struct {
	Script  string   `json:"script"`
	Command string   `json:"command"`
	Code    int      `json:"code"`
	JSON    bool     `json:"json"`
	Keys    []string `json:"keys"`
}

// recorded is gvtep in a script.
func recorded(args []string) int {
	var out bytes.Buffer
	a := newApp(os.Getenv("RUN"))
	a.out = io.MultiWriter(os.Stdout, &out)
	code := a.execute(args)
	name := os.Getenv("GVTEP_RECORD")
	if name == "" || slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "__complete") }) {
		return code
	}
	cmd, _, err := newApp("").root().Find(joinArgs(args))
	if err != nil {
		return code
	}
	r := run{Script: os.Getenv("GVTEP_SCRIPT"), Command: label(cmd, ""), Code: code, JSON: a.json}
	if a.json && r.Command != "" {
		keys := map[string]bool{}
		for dec := json.NewDecoder(&out); ; {
			var v any
			if err := dec.Decode(&v); err != nil {
				break
			}
			keysOfJSON("", v, keys)
		}
		r.Keys = slices.Sorted(maps.Keys(keys))
	}
	if line, err := json.Marshal(r); err == nil {
		if f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			f.Write(append(line, '\n'))
			f.Close()
		}
	}
	return code
}

// keysOfJSON gathers the paths of all values.
func keysOfJSON(path string, v any, keys map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			if slices.ContainsFunc(varying, func(s string) bool { return strings.HasSuffix(path, s) }) {
				k = "*"
			}
			keysOfJSON(path+"."+k, value, keys)
		}
	case []any:
		for _, item := range v {
			keysOfJSON(path+"[]", item, keys)
		}
	default:
		keys[path] = true
	}
}

// recording makes the file that runs are written to, and checks it after all
// scripts have ended.
func recording(t *testing.T) (file string, begun func(script string)) {
	file = filepath.Join(t.TempDir(), "runs")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	scripts := map[string]bool{} // name -> with a real daemon
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		scripts[strings.TrimSuffix(filepath.Base(name), ".txt")] = bytes.Contains(text, []byte("[!lab]"))
	}
	left := maps.Clone(scripts)
	t.Cleanup(func() {
		if len(left) > 0 || t.Failed() {
			return // not all were run: -run chose some
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var runs []run
		for dec := json.NewDecoder(bytes.NewReader(text)); ; {
			var r run
			if err := dec.Decode(&r); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			runs = append(runs, r)
		}
		lab, err := labCondition()
		if err != nil {
			t.Error(err)
		}
		checkRuns(t, runs, func(script string) bool { return scripts[script] }, lab)
	})
	var mu sync.Mutex // scripts begin side by side
	return file, func(script string) {
		mu.Lock()
		defer mu.Unlock()
		delete(left, script)
	}
}

func checkRuns(t *testing.T, runs []run, real func(script string) bool, lab bool) {
	ran := func(cmd string, like func(run) bool) bool {
		return slices.ContainsFunc(runs, func(r run) bool {
			return r.Command == cmd && (r.Code == 0 || (cmd == "doctor" || cmd == "ping") && r.Code == exitRefused) && like(r) // they have found something
		})
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		name := label(c, "")
		_, silent := quiet[name]
		if !ran(name, func(run) bool { return true }) {
			t.Errorf("gvtep %s is in no script: run it in cmd/gvtep/testdata/*.txt, with exit code 0", name)
		} else if lab && !slices.Contains(alone, name) && !ran(name, func(r run) bool { return real(r.Script) }) {
			t.Errorf("gvtep %s never asks a real daemon: run it in a script with [!lab], such as testdata/verbs.txt (or add it to alone in commands_test.go if it asks none)", name)
		}
		if !silent && !ran(name, func(r run) bool { return r.JSON }) {
			t.Errorf("gvtep -j %s is in no script: run it in cmd/gvtep/testdata/*.txt (or add it to quiet in commands_test.go if it has nothing to show)", name)
		}
		if !silent && !ran(name, func(r run) bool { return r.JSON && !real(r.Script) && len(r.Keys) > 0 }) {
			t.Errorf("gvtep -j %s prints no record in a script without [!lab]: run it there, so that its keys are known; testdata/show.txt has a made-up daemon (fakeSource in main_test.go)", name)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newApp("").root())

	// Of real daemons the keys depend on what has happened by then.
	keys := map[string]bool{}
	for _, r := range runs {
		if !real(r.Script) {
			for _, k := range r.Keys {
				keys[r.Command+"\t"+k] = true
			}
		}
	}
	got := strings.Join(slices.Sorted(maps.Keys(keys)), "\n") + "\n"
	const golden = "testdata/json-keys"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Error(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("JSON keys are a promise: new ones go into %s with go test ./cmd/gvtep -update, none may go (-want +got)\n%s", golden, d)
	}
}

// Every command has what its help and the manual need, and none speaks in
// cobra's voice about wrong words.
func TestCommands(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		name := c.CommandPath()
		if c.Short == "" || c.RunE == nil {
			t.Errorf("%s: give it a Short text and a RunE", name)
		}
		if c.HasParent() && c.Example == "" {
			t.Errorf("%s: give it an Example, lines that begin with two blanks; the manual shows it and TestExamples runs it", name)
		}
		if c.HasParent() && c.ValidArgsFunction == nil && c.ValidArgs == nil {
			t.Errorf("%s: give it a ValidArgsFunction, such as a.completing(), so that no names of files are offered", name)
		}
		if c.Args == nil && c.HasParent() && name != "gvtep run" {
			t.Errorf("%s: give it Args, such as atMost(0), which refuses in our voice", name)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newApp(t.TempDir()).root())
}

// The examples are good command lines: they get as far as asking a daemon that
// is not there, or do what they say.
func TestExamples(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, line := range strings.Split(c.Example, "\n") {
			if c.Example != "" {
				t.Run(strings.TrimSpace(line), func(t *testing.T) { tryExample(t, c, line) })
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newApp("").root())
}

func tryExample(t *testing.T, c *cobra.Command, line string) {
	before, words, ok := strings.Cut(line, "gvtep ")
	if !strings.HasPrefix(line, "  ") || !ok {
		t.Fatalf("%q: want two blanks and gvtep COMMAND", line)
	}
	var args []string
	for _, w := range strings.Fields(words) {
		if w = strings.TrimSuffix(w, ")"); strings.HasPrefix(w, "#") || w == "|" || w == ">" || w == "&" {
			break
		} else if w != "" {
			args = append(args, w)
		}
	}
	root := newApp("").root()
	found, _, err := root.Find(joinArgs(args))
	if err != nil || !strings.HasPrefix(label(found, ""), label(c, "")) {
		t.Fatalf("%q is not about %s", line, c.CommandPath())
	}
	if label(found, "") == "run" {
		if err := found.ParseFlags(joinArgs(args)[1:]); err != nil {
			t.Fatal(flagError(found, err))
		}
		if words := found.Flags().Args(); len(words) > 0 {
			if err := config.NewDraft().Words(words[1:]); err != nil {
				t.Fatal(err)
			}
		}
		return
	}

	// The files that examples name.
	dir := t.TempDir()
	t.Chdir(dir)
	const links = `[{"ifname":"gnv0","flags":["UP"],"linkinfo":{"info_kind":"geneve","info_data":{"id":5,"remote":"203.0.113.1","ttl":0}}}]`
	const saved = `{"hosts":[{"host":"leaf1","tunnels":[]}]}`
	fabric, err := fs.ReadFile(config.Examples, "examples/fabric.toml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"fabric.toml": string(fabric), "links.json": links, "fdb.json": "[]", "leaf1.json": saved, "leaf2.json": saved, "commands": "# nothing\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errOut bytes.Buffer
	a := &app{in: strings.NewReader(links), out: &out, errOut: &errOut, runDir: filepath.Join(dir, "run")}
	switch code := a.execute(append(args, "--timeout=50ms")); {
	case code == exitUnreachable || code == exitTimeout:
	case code == 0 && out.Len() > 0:
	default:
		t.Errorf("%q%s: exit code %d\n%s%s", before, words, code, &out, &errOut)
	}
}

func TestKeysOfJSON(t *testing.T) {
	var v any
	if err := json.Unmarshal([]byte(`[{"a":1,"drops":{"rx":{"ecn":3,"short":4}}},{"b":{"c":[null,2]}}]`), &v); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	keysOfJSON("", v, keys)
	if got, want := fmt.Sprint(slices.Sorted(maps.Keys(keys))), "[[].a [].b.c[] [].drops.rx.*]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
