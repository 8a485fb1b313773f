package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hangup sends SIGHUP.
func (g *gvtep) hangup() { g.cmd.Process.Signal(syscall.SIGHUP) }

// lives checks that it has not ended after a while in which a signal would
// have ended it.
func (g *gvtep) lives(t *testing.T, what string) {
	t.Helper()
	if code, err := g.wait(300 * time.Millisecond); err == nil {
		t.Fatalf("SIGHUP %s ended it: exit status %d\n%s", what, code, g.stderr.String())
	}
}

// says waits for the n-th line of the log with a text.
func (g *gvtep) says(t *testing.T, n int, text string) {
	t.Helper()
	within(t, 10*time.Second, "in the log: "+text, func() bool { return strings.Count(g.stderr.String(), text) >= n })
}

// TestHangupWaiting: SIGHUP reloads the configuration of a daemon that waits
// for its underlay, which goes on waiting: for what the new one wants.
func TestHangupWaiting(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	m := newManager(t)
	path := filepath.Join(t.TempDir(), "gvtep.toml")
	config := func(local string) string {
		return "[[tunnel]]\nname = \"gnv0\"\nid = 42\nremote = \"10.77.0.2\"\nlocal = \"" + local + "\"\n"
	}
	replace(t, path, config("10.77.0.66"))
	g := m.service(a, nil, built(t), newInstance(), "gnv0", "--config", path)
	g.says(t, 1, "10.77.0.66")
	g.hangup()
	g.lives(t, "while it waits")

	replace(t, path, config("10.77.0.67"))
	g.hangup()
	g.says(t, 1, "10.77.0.67")
	// What cannot be loaded, and what cannot be made, change nothing.
	replace(t, path, "nonsense")
	g.hangup()
	g.says(t, 1, "not reloaded")
	other := a.listenUDP("10.77.0.1:7081")
	defer other.Close()
	replace(t, path, config("10.77.0.1")+"dstport = 7081\n")
	g.hangup()
	g.says(t, 2, "not reloaded")
	g.lives(t, "with a configuration that cannot be made")
	if said, _ := m.heard(0); strings.Contains(strings.Join(said, "\n"), "READY=1") {
		t.Error("ready while it waits")
	}
	a.address("veth0", "10.77.0.67/24")
	m.await(0, 10*time.Second, "READY=1")
	// And a reload is one from here.
	replace(t, path, config("10.77.0.67")+"ttl = 9\n")
	g.hangup()
	g.says(t, 1, "\"changed\":1")
	g.hangup()
	g.hangup()
	g.stop()
}

// TestHangupStarting: SIGHUP comes while the configuration is still being read.
func TestHangupStarting(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	path := filepath.Join(t.TempDir(), "gvtep.toml")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	g := a.daemon(built(t), newInstance(), "gnv0", "--config", path)
	write := func() {
		t.Helper()
		var f *os.File
		within(t, 10*time.Second, "somebody who reads the configuration", func() (ok bool) {
			var err error
			f, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
			return err == nil
		})
		g.hangup()
		g.lives(t, "while it reads its configuration")
		if _, err := f.WriteString("[[tunnel]]\nname = \"gnv0\"\nid = 42\nremote = \"10.77.0.2\"\n"); err != nil {
			t.Error(err)
		}
		f.Close()
	}
	write()
	g.ready()
	write() // the reload that was asked for, and asks for another one
	g.says(t, 1, "reloaded")
	write()
	g.says(t, 2, "reloaded")
}

// TestHangupNohup: SIGHUP ends a daemon without a configuration, as a closed
// terminal should, unless its starter had it ignored. One with a configuration
// always reloads.
func TestHangupNohup(t *testing.T) {
	need(t, "nohup")
	a, _ := underlay(t)
	words := []string{"gnv0", "--id", "42", "--remote", "10.77.0.2"}
	g := a.tunnel(words[0], words[1:]...)
	g.hangup()
	g.hangup() // the terminal's own, after the shell's
	if code, err := g.wait(5 * time.Second); code != 0 || err != nil {
		t.Errorf("SIGHUP: exit status %d, %v; want 0", code, err)
	}
	if _, err := os.Stat(runDir(g.instance)); err == nil {
		t.Error("its directory is still there")
	}

	nohup := func(words ...string) *gvtep {
		g := newClient(a, built(t), newInstance(), "gnv0")
		g.program = a.start(nil, "nohup", append([]string{g.binary, "-i", g.instance, "run"}, words...)...)
		t.Cleanup(g.cleanup)
		return g
	}
	g = nohup(words...)
	g.ready()
	g.hangup()
	g.lives(t, "under nohup")
	g.stop()
	g = nohup(append(words, "--wait-underlay", "--local", "10.77.0.66")...)
	g.says(t, 1, "waiting for the underlay")
	g.hangup()
	g.lives(t, "under nohup while it waits")
	g.stop()

	path := filepath.Join(t.TempDir(), "gvtep.toml")
	replace(t, path, "[[tunnel]]\nname = \"gnv0\"\nid = 42\nremote = \"10.77.0.2\"\n")
	g = nohup("--config", path)
	g.ready()
	g.hangup()
	g.says(t, 1, "reloaded")
	g.stop()
}
