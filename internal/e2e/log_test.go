package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The log is optional: whoever reads it, or does not, the daemon goes on.

// logsInto starts a gvtep whose log goes into a pipe, and waits until it is
// ready. The test has the other end.
func (h *host) logsInto(t *testing.T, dev string, words ...string) (g *gvtep, reader *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	g = newClient(h, built(t), newInstance(), dev)
	g.program = h.start(func(c *exec.Cmd) { c.Stderr = w }, g.binary, append([]string{"-i", g.instance, "run", dev, "--log-format", "json"}, words...)...)
	w.Close()
	t.Cleanup(g.cleanup)
	g.ready()
	return g, r
}

// chatter makes the daemon log n lines, one for each command.
func (g *gvtep) chatter(t *testing.T, n int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "batch")
	line := fmt.Sprintf("fdb del 02:00:00:00:00:01 dev %s dst 10.77.0.2\n", g.dev)
	if err := os.WriteFile(path, []byte(strings.Repeat(line, n)), 0o644); err != nil {
		t.Fatal(err)
	}
	p := g.h.start(nil, g.binary, "-i", g.instance, "-b", path, "--force")
	if _, err := p.wait(60 * time.Second); err != nil {
		t.Fatalf("%d commands: %v", n, err)
	}
	// All of them fail, as there is no such entry: with one line each.
	if got := strings.Count(p.stderr.String(), "No such file or directory"); got < n {
		t.Fatalf("%d of %d commands were answered: %.300s", got, n, p.stderr.String())
	}
}

// metric is one sample of /metrics.
func (g *gvtep) metric(t *testing.T, name string) int {
	t.Helper()
	resp, err := g.http.Get("http://gvtep/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %s, %v", resp.Status, err)
	}
	return sample(string(text), name)
}

const logDropped = "gvtep_log_dropped_total"

// TestLogNobodyReads: the reader of the log stops reading. Commands are
// answered, what does not fit is dropped and counted, the log says so when it
// is read again, and SIGTERM ends the daemon.
func TestLogNobodyReads(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	g, r := a.logsInto(t, "gnv0", "--id", "42", "--remote", "10.77.0.2", "--log-level", "debug")
	if _, err := unix.FcntlInt(r.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	const lines = 12000
	g.chatter(t, lines)
	g.client("tunnel", "set", "gnv0", "ttl", "9")
	dropped := g.metric(t, logDropped)
	if dropped == 0 || dropped >= lines {
		t.Errorf("%d lines were dropped, want some of %d", dropped, lines)
	}

	// What fitted comes whole and in order, then how much did not.
	type entry struct {
		Time    time.Time `json:"time"`
		Message string    `json:"msg"`
		Count   int       `json:"count"`
	}
	told, read := 0, 0
	var last time.Time
	text := bufio.NewScanner(r)
	r.SetReadDeadline(time.Now().Add(20 * time.Second))
	for told == 0 && text.Scan() {
		var e entry
		if err := json.Unmarshal(text.Bytes(), &e); err != nil {
			t.Fatalf("a line of the log is not whole: %v: %s", err, text.Bytes())
		}
		if e.Time.Before(last) {
			t.Errorf("a line of %v behind one of %v", e.Time, last)
		}
		last = e.Time
		if read++; strings.Contains(e.Message, "dropped") {
			told = e.Count
		}
	}
	if told != dropped {
		t.Errorf("after %d lines the log says that %d were dropped, want %d (%v)", read, told, dropped, text.Err())
	}
	if n := g.metric(t, logDropped); n != dropped {
		t.Errorf("%d dropped in the end, %d before", n, dropped)
	}

	g.chatter(t, lines)
	g.client("status")
	if code, err := g.end(syscall.SIGTERM, 5*time.Second); code != 0 || err != nil {
		t.Errorf("SIGTERM while nobody reads: exit status %d, %v; want 0 within 10 s", code, err)
	}
	if a.has("gnv0") {
		t.Error("the device is still there")
	}
}

// TestLogReaderGone: the reader of the log ends, as in "gvtep run ... 2>&1 | head -1".
func TestLogReaderGone(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	g, r := a.logsInto(t, "gnv0", "--id", "42", "--remote", "10.77.0.2", "--log-level", "debug")
	r.Close()
	g.chatter(t, 10)
	g.client("tunnel", "set", "gnv0", "ttl", "9")
	within(t, 5*time.Second, "the lines that nobody could read counted", func() bool { return g.metric(t, logDropped) >= 10 })
	if code, err := g.end(syscall.SIGTERM, 5*time.Second); code != 0 || err != nil {
		t.Errorf("SIGTERM without a reader: exit status %d, %v; want 0", code, err)
	}
}

// TestLogLastWords: a daemon that fails while nobody reads its log ends.
func TestLogLastWords(t *testing.T) {
	need(t, "ip")
	a, _ := underlay(t)
	g, r := a.logsInto(t, "gnv0", "--id", "42", "--remote", "10.77.0.2", "--log-level", "debug")
	if _, err := unix.FcntlInt(r.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	g.chatter(t, 100)
	a.ok(5*time.Second, "ip", "link", "del", "gnv0")
	if code, err := g.wait(15 * time.Second); code != 2 || err != nil {
		t.Errorf("the only device was deleted: exit status %d, %v; want 2", code, err)
	}
	// The reason is among the last lines.
	text, err := io.ReadAll(r)
	if err != nil || bytes.Count(text, []byte("\n")) < 10 {
		t.Errorf("read %d bytes of the log, %v", len(text), err)
	}
}

// TestHookSignals: what the daemon ignores or handles, programs of [hooks]
// find at its default, also if the starter had SIGHUP ignored.
func TestHookSignals(t *testing.T) {
	need(t, "nohup")
	a, _ := underlay(t)
	dir := t.TempDir()
	out, path := filepath.Join(dir, "status"), filepath.Join(dir, "gvtep.toml")
	text := fmt.Sprintf("[hooks]\non-up = [\"/bin/sh\", \"-c\", \"grep ^SigIgn: /proc/self/status > %s.new && mv %s.new %s\"]\n[[tunnel]]\nname = \"gnv0\"\nid = 42\nremote = \"10.77.0.2\"\n", out, out, out)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	g := newClient(a, built(t), newInstance(), "gnv0")
	g.program = a.start(nil, "nohup", g.binary, "-i", g.instance, "run", "--config", path)
	t.Cleanup(g.cleanup)
	g.ready()
	var status []byte
	within(t, 5*time.Second, "the hook's file", func() (ok bool) { status, _ = os.ReadFile(out); return len(status) > 0 })
	mask, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(string(status), "SigIgn:")), 16, 64)
	if err != nil {
		t.Fatalf("%q: %v", status, err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGHUP} {
		if mask&(1<<(sig-1)) != 0 {
			t.Errorf("a hook has %v ignored", sig)
		}
	}
	g.stop()
}
