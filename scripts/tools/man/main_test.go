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
	"gvtep/internal/evpn"
)

// pages makes the pages of a program as it is, in dir.
func pages(t *testing.T, program, dir string) (root command) {
	t.Helper()
	help, err := exec.Command("go", "run", "gvtep/cmd/"+program, "-j", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(help, &root); err != nil {
		t.Fatal(err)
	}
	if err := write(bytes.NewReader(help), dir, "2026-01-02"); err != nil {
		t.Fatal(err)
	}
	return root
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
	dir := t.TempDir()
	root, agent := pages(t, "gvtep", dir), pages(t, "gvtep-evpn", dir)
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
	t.Run("agent", func(t *testing.T) {
		page := read(t, filepath.Join(dir, "gvtep-evpn.8"))
		if len(agent.Commands) < 8 {
			t.Errorf("only %d commands", len(agent.Commands))
		}
		for _, c := range agent.Commands {
			if !strings.Contains(page, "\n.It Cm "+arg(c.Use)+"\n") {
				t.Errorf("gvtep-evpn.8 lacks gvtep-evpn %s", c.Use)
			}
			for _, line := range strings.Split(c.Example, "\n") {
				if c.Example == "" || !strings.Contains(page, "\n"+text(line)+"\n") {
					t.Errorf("gvtep-evpn.8 lacks an example of gvtep-evpn %s: %q", c.Name, line)
				}
			}
		}
		for _, f := range agent.Flags {
			if !strings.Contains(page, `Fl \-`+strings.ReplaceAll(f.Name, "-", `\-`)) {
				t.Errorf("gvtep-evpn.8 lacks --%s", f.Name)
			}
		}
		for _, k := range evpn.Settings() {
			if !strings.Contains(page, "\n"+setting(k)+"\n") {
				t.Errorf("gvtep-evpn.8 lacks %s", k.Name)
			}
		}
	})
	all, err := filepath.Glob(filepath.Join(dir, "*.[1-8]"))
	if err != nil || len(all) != 3 {
		t.Fatalf("the pages are %q, %v", all, err)
	}
	t.Run("mandoc", func(t *testing.T) {
		need(t, "mandoc")
		// That pages are not installed where they are made is no fault of theirs.
		out, _ := exec.Command("mandoc", append([]string{"-Tlint", "-Wstyle"}, all...)...).Output()
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			if line != "" && !strings.Contains(line, "referenced manual not found") {
				t.Error(line)
			}
		}
	})
	t.Run("groff", func(t *testing.T) {
		need(t, "groff")
		for _, name := range all {
			// As man --warnings does it.
			out, err := exec.Command("groff", "-mandoc", "-ww", "-Tutf8", "-z", name).CombinedOutput()
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
