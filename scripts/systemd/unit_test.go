// Package systemd holds the unit files; this test is what systemd says of them.
package systemd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// analyze runs systemd-analyze, or skips the test where there is none.
func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("GVTEP_TEST_REQUIRE") == "1" {
			t.Fatal("GVTEP_TEST_REQUIRE=1 and systemd-analyze is missing")
		}
		t.Skip("systemd-analyze is missing: scripts/tools/need.sh systemd-analyze")
	}
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	return string(out), err
}

// installed copies the unit, with a program that is there, and drop-ins to
// where systemd-analyze reads them together.
func installed(t *testing.T, name string, dropIns ...string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	unit := filepath.Join(dir, name)
	text = regexp.MustCompile(`/usr/bin/gvtep\S*`).ReplaceAll(text, []byte("/bin/true"))
	// The manual pages are packaged with the program.
	text = bytes.ReplaceAll(text, []byte("Documentation=man:"), []byte("#"))
	for _, name := range dropIns {
		more, err := os.ReadFile(filepath.Join("drop-in", name))
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, more...) // verify reads one file; the later setting counts, as in a drop-in
	}
	if err := os.WriteFile(unit, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return unit
}

// TestUnit: nothing in the units that systemd does not know, and an exposure of
// 2.0 at most.
func TestUnit(t *testing.T) {
	for _, name := range []string{"gvtep@.service", "gvtep-evpn@.service"} {
		unit := installed(t, name)
		if out, err := analyze(t, "verify", unit); err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("%s: systemd-analyze verify: %v\n%s", name, err, out)
		}
		if out, err := analyze(t, "security", "--offline=true", "--threshold=20", unit); err != nil {
			t.Errorf("%s: systemd-analyze security: %v\n%s", name, err, out)
		}
	}
}

// TestDropIns: they too hold nothing unknown.
func TestDropIns(t *testing.T) {
	for _, name := range []string{"netns.conf", "hooks.conf", "underlay-device.conf", "fastpath.conf"} {
		if out, err := analyze(t, "verify", installed(t, "gvtep@.service", name)); err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("%s: systemd-analyze verify: %v\n%s", name, err, out)
		}
	}
}
