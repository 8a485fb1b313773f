package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestManyAddresses: a table of a million addresses (in a short run a tenth of that) is saved,
// shown, listed, and there again after a restart, and never is there a second copy of it in memory.
func TestManyAddresses(t *testing.T) {
	need(t, "ping")
	addresses, maxRSS := 100_000, 60 // MiB
	if long() {
		addresses, maxRSS = 1_000_000, 200
	}
	m := newManager(t)
	words := []string{"--maxaddress", "1100000"}
	a, b, g := serviceLab(t, m, words...)
	// peak is the most that the process has had since the last look.
	peak := func(g *gvtep, what string) {
		t.Helper()
		dir := fmt.Sprintf("/proc/%d", g.cmd.Process.Pid)
		rss := memory(t, dir+"/status", "VmHWM:")
		t.Logf("%s: RSS up to %d MiB", what, rss)
		if rss > maxRSS {
			t.Errorf("%s: RSS up to %d MiB, want at most %d", what, rss, maxRSS)
		}
		if err := os.WriteFile(dir+"/clear_refs", []byte("5"), 0); err != nil { // proc_pid_clear_refs(5)
			t.Fatal(err)
		}
	}
	timed := func(do func()) time.Duration {
		start := time.Now()
		do()
		return time.Since(start).Round(time.Millisecond)
	}
	learned := func(g *gvtep) int {
		t.Helper()
		var s struct {
			Gvtep struct {
				FDB struct{ Learned int } `json:"fdb"`
			} `json:"gvtep"`
		}
		if err := g.ask("/v1/tunnels/gnv0", &s); err != nil {
			t.Fatal(err)
		}
		return s.Gvtep.FDB.Learned
	}
	took := timed(func() { teach(t, b, g, addresses, func() bool { return learned(g) >= addresses }) })
	peak(g, fmt.Sprintf("%d addresses learned in %s", learned(g), took))
	list := func(g *gvtep, words ...string) {
		t.Helper()
		args := append([]string{"-i", g.instance}, words...)
		var lines int
		took := timed(func() {
			lines = bytes.Count([]byte(g.h.ok(2*time.Minute, g.binary, args...)), []byte("06:00:00:"))
		})
		peak(g, fmt.Sprintf("gvtep %v: %d addresses in %s", words, lines, took))
		if lines != addresses {
			t.Errorf("gvtep %v: %d addresses, want %d", words, lines, addresses)
		}
	}
	list(g, "fdb", "show", "dev", "gnv0")
	list(g, "-j", "fdb", "show", "dev", "gnv0")
	took = timed(func() { g.client("show") })
	peak(g, fmt.Sprintf("gvtep show in %s", took))
	if long() {
		file := filepath.Join(runDir(g.instance), "memory.json")
		saved := func() time.Time {
			info, err := os.Stat(file)
			if err != nil {
				return time.Time{}
			}
			return info.ModTime()
		}
		before := saved()
		within(t, 2*time.Minute, "a save", func() bool { return saved().After(before) })
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		peak(g, fmt.Sprintf("%d MiB saved", info.Size()>>20))
	}
	took = timed(func() { g = m.restart(g, nil, g.binary, append(slices.Clone(plainWords), words...)...) })
	peak(g, fmt.Sprintf("restarted in %s", took))
	if n := learned(g); n < addresses {
		t.Errorf("%d addresses after the restart, want %d", n, addresses)
	}
	reaches(t, b)
	_ = a
}

// teach sends frames from as many addresses, from h to the tunnel of g, until done.
func teach(t *testing.T, h *host, g *gvtep, addresses int, done func() bool) {
	t.Helper()
	const window, run = 4096, 64 // packets on the way, and in one send
	packet := join("0000 6558 00002a00", eth(mac{2, 0, 0, 0, 0x0d, 1}, mac{}, typeLabel, make([]byte, 46)))
	c := h.forger("10.77.0.2", "10.77.0.1", len(packet))
	packets := make([]byte, 0, run*len(packet))
	heard, sent := g.fromPeer("10.77.0.2"), 0
	for pass := 0; pass < 6 && !done(); pass++ {
		for i := 0; i < addresses; {
			packets = packets[:0]
			for range min(run, addresses-i) {
				copy(packet[14:], []byte{6, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}) // behind 8 bytes of header and 6 of destination
				packets = append(packets, packet...)
				i++
				sent++
			}
			if err := c.send(packets); err != nil {
				t.Fatal(err)
			}
			if sent%2048 < run {
				soon(time.Second, func() bool { return g.fromPeer("10.77.0.2")-heard >= sent-window })
			}
		}
	}
	if !done() {
		t.Fatalf("not all of %d addresses were learned", addresses)
	}
}
