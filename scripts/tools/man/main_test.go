package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gvtep/config"
)

// pages makes the pages of the program as it is.
func pages(t *testing.T) (dir string, root command) {
	t.Helper()
	help, err := exec.Command("go", "run", "gvtep/cmd/gvtep", "-j", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(help, &root); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := write(bytes.NewReader(help), dir, "2026-01-02"); err != nil {
		t.Fatal(err)
	}
	return dir, root
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPages(t *testing.T) {
	dir, root := pages(t)
	t.Run("commands", func(t *testing.T) {
		page := read(t, filepath.Join(dir, "gvtep.8"))
		all := flat(root.Commands)
		if len(all) < 25 {
			t.Errorf("only %d commands", len(all))
		}
		for _, c := range all {
			_, section, ok := strings.Cut(page, "\n.Ss "+arg("gvtep "+c.Name)+"\n")
			section, _, _ = strings.Cut(section, "\n.Ss ")
			switch {
			case !ok:
				t.Errorf("gvtep.8 has no section about gvtep %s", c.Name)
			case c.Example == "":
				t.Errorf("gvtep %s has no Example", c.Name)
			default:
				for _, line := range strings.Split(c.Example, "\n") {
					if !strings.Contains(section, "\n"+text(strings.TrimPrefix(line, "  "))+"\n") {
						t.Errorf("gvtep.8 lacks an example of gvtep %s: %s", c.Name, line)
					}
				}
			}
			for _, f := range ownFlags(c) {
				if !strings.Contains(section, `Fl \-`+strings.ReplaceAll(f.Name, "-", `\-`)) {
					t.Errorf("gvtep.8 lacks --%s of gvtep %s", f.Name, c.Name)
				}
			}
		}
		for _, f := range root.Flags {
			if !strings.Contains(page, `Fl \-`+f.Name) {
				t.Errorf("gvtep.8 lacks --%s", f.Name)
			}
		}
		for _, k := range config.Keywords() {
			if !strings.Contains(page, "\n"+strings.SplitN(keyword(k), "\n", 2)[0]) {
				t.Errorf("gvtep.8 lacks the keyword %s", k.Name)
			}
		}
	})
	t.Run("keys", func(t *testing.T) {
		page := read(t, filepath.Join(dir, "gvtep.toml.5"))
		for _, s := range config.Sections() {
			for _, k := range fileKeys(s) {
				row := ".It " + arg(s.Name) + " Ta " + arg(k.Name) + " Ta " + arg(initial(k)) + " Ta " + live(k) + "\n"
				if !strings.Contains(page, row) || !strings.Contains(page, "\n.It Cm "+arg(k.Name)+" No = ") {
					t.Errorf("gvtep.toml.5 lacks %s of %s", k.Name, s.Name)
				}
			}
		}
	})
	t.Run("mandoc", func(t *testing.T) {
		need(t, "mandoc")
		// That pages are not installed where they are made is no fault of theirs.
		out, _ := exec.Command("mandoc", "-Tlint", "-Wstyle", filepath.Join(dir, "gvtep.8"), filepath.Join(dir, "gvtep.toml.5")).Output()
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			if line != "" && !strings.Contains(line, "referenced manual not found") {
				t.Error(line)
			}
		}
	})
	t.Run("groff", func(t *testing.T) {
		need(t, "groff")
		for _, name := range []string{"gvtep.8", "gvtep.toml.5"} {
			// As man --warnings does it.
			out, err := exec.Command("groff", "-mandoc", "-ww", "-Tutf8", "-z", filepath.Join(dir, name)).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
	})
}

func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("GVTEP_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

func TestRefusesWhatIsNoHelp(t *testing.T) {
	if err := write(strings.NewReader("Usage: gvtep"), t.TempDir(), "2026-01-02"); err == nil {
		t.Error("pages of nothing")
	}
}

// The pages of docs that are made from tables are as the tables are.
func TestDocs(t *testing.T) {
	for _, name := range docsPages {
		want, err := docsPage(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, filepath.Join("../../../docs", name)); got != want {
			t.Errorf("docs/%s is not what the tables say: run make docs", name)
		}
	}
}
