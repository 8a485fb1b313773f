package fastpath

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compiler is the version of clang, Debian 12's, that the committed object is made with.
// Another one makes other bytes.
const compiler = "clang version 14.0."

// TestObject: the committed object is what fast.c and this compiler make, by "make bpf".
func TestObject(t *testing.T) {
	skip := t.Skipf
	if os.Getenv("GVTEP_TEST_REQUIRE") == "1" {
		skip = t.Fatalf
	}
	version, err := exec.Command("clang", "--version").Output()
	if err != nil {
		skip("no clang: scripts/tools/need.sh clang")
	}
	if !strings.Contains(string(version), compiler) {
		skip("want %s: %s", compiler, version)
	}
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(source), "//go:generate ")
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line) // go run PACKAGE ...
	dir := t.TempDir()
	cmd := exec.Command(words[0], append([]string{words[1], words[2], "-output-dir", dir, "-go-package", "fastpath"}, words[3:]...)...)
	arch, _ := exec.Command("uname", "-m").Output()
	cmd.Env = append(os.Environ(), "BPF2GO_CFLAGS=-idirafter /usr/include/"+strings.TrimSpace(string(arch))+"-linux-gnu")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	for _, name := range []string{"bpf_bpfel.o", "bpf_bpfel.go"} {
		made, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		committed, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(made, committed) {
			t.Errorf("%s is not what fast.c makes: make bpf, and commit it", name)
		}
	}
}
