// Package internal_test holds the walls between the packages of the endpoint.
package internal_test

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestWalls: what a package must not import, directly. Arrows point one way: cmd, vtep, work,
// forward, and the small packages below.
func TestWalls(t *testing.T) {
	const zap, cobra, system = "go.uber.org/zap", "github.com/spf13/cobra", "golang.org/x/sys/unix"
	const geneve, vxlan = "gvtep/vtep/geneve", "gvtep/vtep/vxlan" // behind vtep/encap
	for dir, banned := range map[string][]string{
		"../../vtep/internal/forward": {"gvtep/vtep", "gvtep/vtep/internal/work", "gvtep/tap", "gvtep/udp", geneve, vxlan, system, zap, cobra},
		"../../vtep/internal/work":    {"gvtep/vtep", "gvtep/tap", "gvtep/udp", geneve, vxlan, zap, cobra},
		"../../vtep/internal/bfd":     {"gvtep/vtep", "gvtep/vtep/internal/forward", "gvtep/vtep/internal/work", "gvtep/internal/netio", geneve, vxlan, system, zap, cobra},
		"../../vtep/capture":          {"gvtep/vtep", "gvtep/vtep/internal/forward", "gvtep/internal/netio", geneve, vxlan, system, zap, cobra},
		"../../vtep/count":            {"gvtep/vtep", "gvtep/vtep/internal/forward", "gvtep/internal/netio", system, zap, cobra},
		"../../vtep":                  {"gvtep/tap", "gvtep/udp", "gvtep/internal/fastpath", "gvtep/config", "gvtep/cmd/internal/control", geneve, vxlan, cobra},
		"../../internal/netio":        {"gvtep/vtep", "gvtep/tap", "gvtep/udp", system, zap, cobra},
		"../../internal/fastpath":     {"gvtep/vtep", "gvtep/tap", "gvtep/udp", "gvtep/fdb", zap, cobra},
		"../../tap":                   {"gvtep/vtep", "gvtep/udp", zap, cobra},
		"../../udp":                   {"gvtep/vtep", "gvtep/tap", zap, cobra},
		"../../fdb":                   {"gvtep/vtep", "gvtep/internal/netio", system, zap, cobra},
		"../../config":                {"gvtep/vtep", geneve, vxlan, zap, cobra},
	} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range f.Imports {
				if path, _ := strconv.Unquote(spec.Path.Value); slices.Contains(banned, path) {
					t.Errorf("%s imports %s, which is on the other side of a wall", strings.TrimPrefix(file, "../../"), path)
				}
			}
		}
	}
}
