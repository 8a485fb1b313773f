// Package internal_test holds the walls between the packages of the program.
package internal_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const zap, cobra, tea = "go.uber.org/zap", "github.com/spf13/cobra", "charm.land/bubbletea"

// TestWalls: what the packages of the program may import of this module, and of
// the libraries that have walls.
func TestWalls(t *testing.T) {
	allowed := map[string][]string{
		"build":   {},
		"capture": {"cmd/internal/dissect", "internal/packet", "vtep/capture", "vtep/count"},
		"control": {"cmd/internal/page"},
		"dissect": {"internal/packet", "vtep/encap", "vtep/option"},
		"logging": {zap, "go.uber.org/zap/zapcore"},
		"service": {},
		"metrics": {"internal/packet", "vtep", "vtep/count", "vtep/spec"},
		"doctor":  {"cmd/internal/control", "cmd/internal/probe", "vtep/count"},
		"ping":    {"cmd/internal/control", "cmd/internal/doctor", "cmd/internal/probe"},
		"probe":   {"cmd/internal/control"},
		"page":    {"vtep/count"},
		"graph":   {"cmd/internal/control"},
		"watch":   {"cmd/internal/control"},
		"keep":    {zap, "cmd/internal/service", "internal/netio", "tap", "udp"},
		"view":    {"cmd/internal/control", "config", "fdb", "internal/packet", "vtep", "vtep/count", "vtep/encap", "vtep/option", "vtep/spec"},
		"daemon": {
			zap, "cmd/internal/build", "cmd/internal/capture", "cmd/internal/control", "cmd/internal/keep", "cmd/internal/logging", "cmd/internal/metrics",
			"cmd/internal/service", "cmd/internal/view", "config", "fdb", "internal/fastpath", "internal/netio", "internal/packet", "vtep", "vtep/geneve", "vtep/option", "vtep/spec",
		},
		"../gvtep-evpn": {
			zap, "cmd/internal/build", "cmd/internal/control", "cmd/internal/logging", "cmd/internal/service",
			"internal/evpn", "internal/evpn/speaker", "internal/netwatch", "internal/packet",
		},
		"../gvtep": {
			cobra, "cmd/internal/bugreport", "cmd/internal/build", "cmd/internal/capture", "cmd/internal/control", "cmd/internal/daemon", "cmd/internal/dissect", "cmd/internal/doctor", "cmd/internal/graph", "cmd/internal/logging", "cmd/internal/ping", "cmd/internal/service", "cmd/internal/watch",
			"config", "vtep/capture", "vtep/count", "vtep/option", "vtep/spec",
		},
		"bugreport": {},
	}
	dirs, _ := filepath.Glob("*/*.go")
	for _, file := range dirs {
		if allowed[filepath.Dir(file)] == nil {
			t.Errorf("%s: this package has no walls: add it to the table", file)
		}
	}
	for dir, may := range allowed {
		found := imports(t, dir)
		if len(found) == 0 {
			t.Errorf("%s imports nothing: there is no such package", dir)
		}
		for path, file := range found {
			own, ours := strings.CutPrefix(path, "gvtep/")
			library := strings.HasPrefix(path, zap) || strings.HasPrefix(path, cobra)
			if (ours || library) && !slices.Contains(may, own) {
				t.Errorf("%s imports %s, which is on the other side of a wall", file, path)
			}
		}
	}
}

// TestOneDoor: what only one package of the module knows.
func TestOneDoor(t *testing.T) {
	const root = "../.."
	packages := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			packages[filepath.Dir(path)] = true
		}
		return err
	})
	if err != nil || len(packages) < 20 {
		t.Fatalf("%d packages, %v", len(packages), err)
	}
	for dir := range packages {
		found := imports(t, dir)
		name, _ := filepath.Rel(root, dir)
		if found[cobra] != "" && name != "cmd/gvtep" {
			t.Errorf("%s imports %s: only cmd/gvtep does", name, cobra)
		}
		for path := range found {
			if strings.HasPrefix(path, tea) && name != "cmd/internal/watch" {
				t.Errorf("%s imports %s: only cmd/internal/watch does", name, path)
			}
		}
		if found["gvtep/tap"] != "" && found["gvtep/udp"] != "" && name != "cmd/internal/keep" {
			t.Errorf("%s imports tap and udp: only cmd/internal/keep does", name)
		}
	}
}

// TestEngine: BGP is in gvtep-evpn, and nothing of it in gvtep. Only one package knows whose it is.
func TestEngine(t *testing.T) {
	deps := func(pkg string) []string {
		out, err := exec.Command("go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", pkg, err)
		}
		return strings.Fields(string(out))
	}
	const engine = "github.com/osrg/gobgp/"
	isEngine := func(dep string) bool {
		return strings.HasPrefix(dep, engine) || strings.HasPrefix(dep, "google.golang.org/grpc") || strings.HasPrefix(dep, "gvtep/internal/evpn")
	}
	for _, pkg := range []string{"gvtep/cmd/gvtep", "gvtep/vtep"} {
		if i := slices.IndexFunc(deps(pkg), isEngine); i >= 0 {
			t.Errorf("%s has %s in it", pkg, deps(pkg)[i])
		}
	}
	if !slices.ContainsFunc(deps("gvtep/cmd/gvtep-evpn"), isEngine) {
		t.Error("gvtep-evpn has no engine: this test finds nothing")
	}
	for _, dir := range []string{"../../internal/evpn", "../gvtep-evpn", "../../internal/netwatch"} {
		for path, file := range imports(t, dir) {
			if strings.HasPrefix(path, engine) {
				t.Errorf("%s imports %s: only internal/evpn/speaker does", file, path)
			}
		}
	}
}

// imports returns what the package in a directory imports, and where.
func imports(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			found[path] = file
		}
	}
	return found
}
