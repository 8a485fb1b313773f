package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gvtep/internal/netio"
	"gvtep/vtep"
)

func TestParseName(t *testing.T) {
	for _, c := range []struct {
		name, device string
		number       int
		ok           bool
	}{
		{"tap.gnv0.0", "gnv0", 0, true},
		{"tap.gnv0.254", "gnv0", 254, true},
		{"tap.a.b.3", "a.b", 3, true},
		{"tapw.gnv0.1", "gnv0", 1, true},
		{"udp.0", "", 0, true},
		{"udp6.12", "", 12, true},
		{"tap..0", "", 0, false},
		{"tap.gnv0", "", 0, false},
		{"tap.gnv0.x", "gnv0", 0, false},
		{"udp.-1", "", -1, false},
		{"udp.", "", 0, false},
		{"stored", "", 0, false},
		{"LISTEN_FD_3", "", 0, false},
	} {
		device, number, ok := parseName(c.name)
		if ok != c.ok || ok && (device != c.device || number != c.number) {
			t.Errorf("%s: %q, %d, %t; want %q, %d, %t", c.name, device, number, ok, c.device, c.number, c.ok)
		}
	}
	names := []string{"udp.10", "udp6.3", "udp.9"}
	if slices.SortFunc(names, byNumber); !slices.Equal(names, []string{"udp6.3", "udp.9", "udp.10"}) {
		t.Errorf("in order: %s", names)
	}
}

// TestMemoryFile: what is saved is loaded, and nothing else.
func TestMemoryFile(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := loadMemory(dir); err != nil {
		t.Errorf("no file: %v", err)
	}
	m := vtep.Memory{Tunnels: []vtep.TunnelMemory{{
		Device: netio.DeviceOptions{Name: "gnv0", MTU: 1450},
		Table:  []vtep.Learned{{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Updated: time.Second}},
	}}}
	if err := saveMemory(dir, m); err != nil {
		t.Fatal(err)
	}
	got, age, err := loadMemory(dir)
	if err != nil || age <= 0 || age > time.Minute {
		t.Fatalf("age %s, %v", age, err)
	}
	if d := cmp.Diff(m, got, cmp.Comparer(func(a, b netio.DeviceOptions) bool { return a.Name == b.Name && a.MTU == b.MTU }),
		cmp.Comparer(func(a, b vtep.Learned) bool { return a == b })); d != "" {
		t.Errorf("(-saved +loaded)\n%s", d)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	path := filepath.Join(dir, memoryName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range text { // wherever the disk was full
		if err := os.WriteFile(path, text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if m, _, err := loadMemory(dir); err == nil || len(m.Tunnels) > 0 {
			t.Fatalf("cut after %d of %d bytes: %v, %v", n, len(text), m, err)
		}
	}
	if err := saveMemory(filepath.Join(dir, "nowhere"), m); err == nil {
		t.Error("saved where there is no directory")
	}
}

func TestEnvFile(t *testing.T) {
	for name, want := range map[string]string{
		"gnv0":   "GVTEP_DEV=gnv0\nGVTEP_VNI=7\nGVTEP_MTU=1450\n",
		"a;b'$c": `GVTEP_DEV='a;b'\''$c'` + "\nGVTEP_VNI=7\nGVTEP_MTU=1450\n",
	} {
		if got := envFile(&vtep.Brief{Name: name, VNI: 7, MTU: 1450}); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
