package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gvtep/internal/netio"
	"gvtep/vtep"
)

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
