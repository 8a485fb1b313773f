package count

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPunts: the reasons are those of the programs, in their order, and docs/fastpath.md has
// them all.
func TestPunts(t *testing.T) {
	source, err := os.ReadFile("../../internal/fastpath/fast.c")
	if err != nil {
		t.Fatal(err)
	}
	_, enum, _ := strings.Cut(string(source), "enum punt {")
	enum, _, _ = strings.Cut(enum, "PUNTS")
	named := regexp.MustCompile(`(?m)^\t[A-Z_0-9]+[,= ]`).FindAllString(enum, -1)
	if all := Punts(); len(all) != len(named) {
		t.Errorf("%d reasons, and fast.c has %d: %q", len(all), len(named), named)
	}
	doc, err := os.ReadFile("../../docs/fastpath.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| reason | |")
	table, _, _ = strings.Cut(table, "\n\n")
	seen := map[string]bool{}
	for _, p := range Punts() {
		if !strings.Contains(table, "`"+p.Name+"`") {
			t.Errorf("docs/fastpath.md does not have %s", p.Name)
		}
		if seen[p.Name] || !p.In && !p.Out || p.What == "" || p.Cause == "" || p.Remedy == "" {
			t.Errorf("%+v", p)
		}
		seen[p.Name] = true
	}
}
