package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBatch: so many addresses behind 1,000 places are written by one batch while a flood of
// pings goes through, of which none is lost.
func TestBatch(t *testing.T) {
	need(t, "ping")
	addresses := 100_000
	if long() {
		addresses = 1_000_000
	}
	m := newManager(t)
	_, b, g := serviceLab(t, m)
	file := filepath.Join(t.TempDir(), "stations.ndjson")
	write := func(seq int) {
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := bufio.NewWriter(f)
		for i := range addresses {
			fmt.Fprintf(w, `{"fdb":"06:00:00:%02x:%02x:%02x","dst":"10.77.%d.%d","seq":%d}`+"\n", byte(i>>16), byte(i>>8), byte(i), 1+i%1000/250, 1+i%250, seq)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	reaches(t, b)
	stop := make(chan struct{})
	pinged := make(chan string)
	go func() {
		lost := ""
		for {
			select {
			case <-stop:
				pinged <- lost
				return
			default:
			}
			out := b.ok(time.Minute, "ping", "-q", "-i", "0.01", "-c", "100", "-W", "5", "192.0.2.1")
			if !strings.Contains(out, " 0% packet loss") {
				lost += out
			}
		}
	}()
	batch := func(words ...string) {
		t.Helper()
		args := append([]string{"-i", g.instance, "--timeout", "1m", "batch", file, "dev", "gnv0", "owner", "fleet"}, words...)
		start := time.Now()
		out := g.h.ok(2*time.Minute, g.binary, args...)
		rss := memory(t, fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid), "VmHWM:")
		t.Logf("%v: %s in %s, RSS up to %d MiB", words, strings.TrimSpace(out), time.Since(start).Round(time.Millisecond), rss)
		if rss > 350 {
			t.Errorf("RSS up to %d MiB, want at most 350", rss)
		}
	}
	write(1)
	batch()
	write(2)
	batch("sync")
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	batch("sync")
	close(stop)
	if lost := <-pinged; lost != "" {
		t.Errorf("pings were lost:\n%s", lost)
	}
}
