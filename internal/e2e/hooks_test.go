package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hookScript notes what it was called for.
const hookScript = `#!/bin/sh
echo "$1 $GVTEP_EVENT $GVTEP_INSTANCE $GVTEP_DEV $GVTEP_VNI $GVTEP_MTU $GVTEP_REMOTE $GVTEP_PEER${NOTIFY_SOCKET:+ leak}" >>"$0.log"
`

// TestHooks: programs run for tunnels and peers that come and go, and the file
// that tells other programs of a tunnel.
//
//	a gnv0 ==== VNI 42 ==== gnv0 b  speaks, and falls silent
func TestHooks(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "hook")
	if err := os.WriteFile(script, []byte(hookScript), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "gvtep.toml")
	text := fmt.Sprintf(`[hooks]
on-up        = [%[1]q, "with args"]
on-down      = %[1]q
on-peer-seen = %[1]q
on-peer-lost = %[1]q
lost-after   = "1s"
[[tunnel]]
name    = "gnv0"
id      = 42
address = "192.0.2.1/24"
  [[tunnel.peer]]
  name   = "leaf"
  remote = "10.77.0.2"
`, script)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	m := newManager(t)
	g := m.service(a, nil, built(t), newInstance(), "gnv0", "--config", path)
	m.await(0, 10*time.Second, "READY=1")
	notes := func() string { text, _ := os.ReadFile(script + ".log"); return string(text) }
	noted := func(line string) {
		t.Helper()
		line = strings.ReplaceAll(line, "INSTANCE", g.instance) + "\n"
		within(t, 8*time.Second, fmt.Sprintf("%q among %q", line, notes()), func() bool { return strings.Contains(notes(), line) })
	}
	noted("with args up INSTANCE gnv0 42 1450  ")
	env := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(runDir(g.instance), name+".env"))
		return string(text)
	}
	if got, want := env("gnv0"), "GVTEP_DEV=gnv0\nGVTEP_VNI=42\nGVTEP_MTU=1450\n"; got != want {
		t.Errorf("gnv0.env is %q when ready, want %q", got, want)
	}
	other := b.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	b.ok(5*time.Second, "ping", "-q", "-c", "1", "-W", "2", "192.0.2.1")
	noted(" peer-seen INSTANCE gnv0 42 1450 10.77.0.2 leaf")
	other.stop()
	noted(" peer-lost INSTANCE gnv0 42 1450 10.77.0.2 leaf")

	// A tunnel that comes and goes, and an MTU that follows the path.
	g.client("tunnel", "add", "gnv1", "id", "43", "remote", "10.77.0.3", "mtu", "1300")
	noted("with args up INSTANCE gnv1 43 1300  ")
	if got := env("gnv1"); !strings.Contains(got, "GVTEP_MTU=1300\n") {
		t.Errorf("gnv1.env is %q", got)
	}
	g.client("tunnel", "del", "gnv1")
	noted(" down INSTANCE gnv1 43 1300  ")
	within(t, 5*time.Second, "no gnv1.env", func() bool { return env("gnv1") == "" })
	a.must("mtu", a.nl.LinkSetMTU(a.link("veth0"), 1400))
	within(t, 20*time.Second, "the MTU of 1350 in gnv0.env", func() bool { return strings.Contains(env("gnv0"), "GVTEP_MTU=1350\n") })

	// One that fails and one that does not end are logged, and hold nothing up.
	write(strings.NewReplacer(fmt.Sprintf("on-up        = [%q, \"with args\"]", script),
		`on-up        = ["/bin/sh", "-c", "echo complaint; exit 7"]`+"\ntimeout = \"1s\"",
		fmt.Sprintf("on-down      = %q", script), `on-down      = ["/bin/sh", "-c", "sleep 60"]`).Replace(text))
	g.client("reload")
	g.client("tunnel", "add", "gnv1", "id", "43", "remote", "10.77.0.3")
	within(t, 5*time.Second, "a line about the failed hook", func() bool {
		return strings.Contains(g.stderr.String(), "exit status 7") && strings.Contains(g.stderr.String(), "complaint")
	})
	g.client("tunnel", "del", "gnv1")
	within(t, 5*time.Second, "a line about the hook that took too long", func() bool { return strings.Contains(g.stderr.String(), "did not end in time") })
	write(text)
	g.client("reload")
	g.stop()
	noted(" down INSTANCE gnv0 42 1350  ")
	if strings.Contains(notes(), "leak") {
		t.Error("a program got NOTIFY_SOCKET, which is not for it")
	}
}

// TestHooksOff: the unit's GVTEP_HOOKS=off is heard, and said.
func TestHooksOff(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	dir := t.TempDir()
	path, trace := filepath.Join(dir, "gvtep.toml"), filepath.Join(dir, "trace")
	text := fmt.Sprintf("[hooks]\non-up = [\"/bin/sh\", \"-c\", \"echo >>%s\"]\n[[tunnel]]\nname = \"gnv0\"\nid = 42\nremote = \"10.77.0.2\"\n", trace)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GVTEP_HOOKS", "off")
	g := a.configured("gnv0", path)
	within(t, 5*time.Second, "a line about it", func() bool { return strings.Contains(g.stderr.String(), "hooks are off") })
	time.Sleep(100 * time.Millisecond)
	g.stop()
	if _, err := os.Stat(trace); err == nil {
		t.Error("the program was run")
	}
	if _, err := os.Stat(runDir(g.instance)); err == nil {
		left, _ := filepath.Glob(runDir(g.instance) + "/*")
		t.Errorf("%s is still there, with %s", runDir(g.instance), left)
	}
	t.Setenv("GVTEP_HOOKS", "on")
	g = a.configured("gnv0", path)
	within(t, 5*time.Second, "the program run", func() bool { _, err := os.Stat(trace); return err == nil })
}

// TestCPUs: workers run where they are told to.
func TestCPUs(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	last := 0
	for cpu := range 1024 {
		if allowed.IsSet(cpu) {
			last = cpu
		}
	}
	g := a.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.2", "--cpus", fmt.Sprint(last), "--workers", "2")
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", g.cmd.Process.Pid))
	workers := 0
	for _, task := range tasks {
		name, _ := os.ReadFile(task + "/comm")
		status, _ := os.ReadFile(task + "/status")
		_, rest, _ := strings.Cut(string(status), "Cpus_allowed_list:\t")
		cpus, _, _ := strings.Cut(rest, "\n")
		switch isWorker := strings.HasPrefix(string(name), "gvtep-w"); {
		case isWorker:
			workers++
			if cpus != fmt.Sprint(last) {
				t.Errorf("%s may run on %s, want %d", strings.TrimSpace(string(name)), cpus, last)
			}
		case allowed.Count() > 1 && cpus == fmt.Sprint(last):
			t.Errorf("%s is bound to CPU %d, too", strings.TrimSpace(string(name)), last)
		}
	}
	if workers != 2 {
		t.Errorf("%d workers, want 2", workers)
	}
	g.stop()
	if g = a.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.2", "--cpus", fmt.Sprint(last)); !strings.Contains(g.client("-j", "status"), `"workers":1`) {
		t.Error("one CPU makes not one worker")
	}
	g.stop()
	_, stderr, code := a.run(5*time.Second, g.binary, "run", "gnv0", "--id", "42", "--remote", "10.77.0.2", "--cpus", "1000")
	if code != 2 || !oneLine(stderr) || !strings.Contains(stderr, "CPU 1000") {
		t.Errorf("--cpus 1000: exit status %d, %q; want 2 and one line", code, stderr)
	}
}
