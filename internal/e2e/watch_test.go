package e2e

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// watchScreen is what gvtep watch shows on 80 columns, without its figures.
const watchScreen = `gvtep NAME up # 1 tunnel, 1 of 2 peers heard ready #
rx # pkt/s # bit/s tx # pkt/s # bit/s drops #/s
DEVICE   PEER                 STATE     RX p/s  bit/s TX p/s  bit/s LAST
gnv0     10.77.0.2            heard
gnv0     leaf3 10.77.0.3      silent









DEVICE   DIR DROPPED BECAUSE       /s     ALL FROM (THE LATEST FIRST)
-        in  unknown_vni        #       # 10.77.0.2 id 77 # ago
q quit   s sort: name   p pause   d hide drops   ↑↓ scroll`

var (
	watchAgo    = regexp.MustCompile(`[0-9.]+[smh] ago`)
	watchNumber = regexp.MustCompile(`<?\b[0-9][0-9.:]*[kMsmh]?`)
)

// withoutFigures replaces what is other each time. What it puts for a column of rates is as wide.
func withoutFigures(screen, instance string) string {
	lines := strings.Split(screen, "\n")
	for i, l := range lines {
		switch {
		case i == 0:
			about, rest, _ := strings.Cut(strings.Join(strings.Fields(strings.Replace(l, instance, "NAME", 1)), " "), " up ")
			words := strings.Fields(rest)
			if len(words) > 2 {
				words[0], words[len(words)-1] = watchNumber.ReplaceAllString(words[0], "#"), watchNumber.ReplaceAllString(words[len(words)-1], "#")
			}
			lines[i] = about + " up " + strings.Join(words, " ")
		case i == 1:
			lines[i] = watchNumber.ReplaceAllString(strings.Join(strings.Fields(l), " "), "#")
		case strings.HasPrefix(l, "gnv0 ") && i < 5:
			lines[i] = strings.TrimRight(watchAgo.ReplaceAllString(l[:min(len(l), 39)], "heard"), " ")
		case strings.Contains(l, "unknown_vni"):
			figures := l[30:46]
			lines[i] = l[:30] + watchNumber.ReplaceAllStringFunc(figures, func(string) string { return "#" }) + watchAgo.ReplaceAllString(l[46:], "# ago")
			lines[i] = regexp.MustCompile(`unknown_vni +# +# `).ReplaceAllString(lines[i], "unknown_vni        #       # ")
		}
	}
	return strings.Join(lines, "\n")
}

// TestWatch: the screen of 80 columns, what its keys do, and that it leaves the terminal as it was.
func TestWatch(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	ga := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2", "--address", "192.0.2.1/24")
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	a.neighbour("veth0", "10.77.0.3", b.mac("veth0")) // who takes nothing for that address
	ga.cli("peer", "add", "10.77.0.3", "dev", "gnv0", "name", "leaf3")
	a.start(nil, "ping", "-q", "-i", "0.2", "192.0.2.2")
	to := b.dialUDP("10.77.0.1:6081")
	strange := append([]byte{0, 0, 0x65, 0x58, 0, 0, 77, 0}, make([]byte, 60)...)

	s := a.terminal(80, 17, ga.binary, "-i", ga.instance, "watch", "--interval", "100ms")
	before := s.settings()
	shows := func(what string, ok func(screen string) bool) string {
		t.Helper()
		var screen string
		within(t, 60*time.Second, what, func() bool {
			to.Write(strange)
			screen = s.String()
			return ok(screen)
		})
		return screen
	}
	has := func(text string) func(string) bool {
		return func(screen string) bool { return strings.Contains(screen, text) }
	}
	shows("the screen", has("sort: rate"))
	s.press("ss")
	var got string
	if !soon(60*time.Second, func() bool {
		to.Write(strange)
		got = withoutFigures(s.String(), ga.instance)
		return got == watchScreen
	}) {
		t.Fatalf("-want +got:\n%s\n%s", cmp.Diff(strings.Split(watchScreen, "\n"), strings.Split(got, "\n")), s.String())
	}
	// Pings are seen as rates, and so as bars.
	shows("a rate and its bar", func(screen string) bool {
		return regexp.MustCompile(`(?m)^gnv0 +10\.77\.0\.2 .*[1-9].*[▁▂▃▄▅▆▇█]`).MatchString(screen)
	})
	s.press("d")
	shows("no drops", func(screen string) bool {
		return strings.Contains(screen, "   d drops") && !strings.Contains(screen, "unknown_vni")
	})
	s.press("dp")
	paused := regexp.MustCompile(`PAUSED at [0-9:]+`)
	shows("a pause", func(screen string) bool { return paused.MatchString(screen) && strings.Contains(screen, "p go on") })
	s.press("p")
	shows("no pause", func(screen string) bool { return !paused.MatchString(screen) })
	s.resize(120, 30)
	shows("a larger screen", func(screen string) bool {
		lines := strings.Split(screen, "\n")
		return strings.HasPrefix(lines[29], "q quit") && len([]rune(lines[2])) > 80
	})
	if other, hidden := s.state(); !other || !hidden {
		t.Errorf("on the alternate screen: %v, without a cursor: %v", other, hidden)
	}
	s.press("q")
	if code, err := s.wait(30 * time.Second); code != 0 || err != nil {
		t.Fatalf("q: exit status %d, %v\n%s", code, err, s.stderr.String())
	}
	within(t, 10*time.Second, "the screen and the cursor are as before", func() bool {
		other, hidden := s.state()
		return !other && !hidden
	})
	if after := s.settings(); after != before {
		t.Errorf("the terminal has other settings:\n%+v, before\n%+v", after, before)
	}
}

// TestWatchLines: without a terminal, it is one line for each interval. An instance that is gone
// ends it there; on a terminal it is waited for.
func TestWatchLines(t *testing.T) {
	a, _ := underlay(t)
	g := a.tunnel("gnv0", "--id", "42", "--local", "10.77.0.1", "--remote", "10.77.0.2")
	lines := a.start(nil, g.binary, "-i", g.instance, "watch", "--interval", "100ms")
	within(t, 30*time.Second, "three lines", func() bool { return strings.Count(lines.stdout.String(), "\n") >= 3 })
	for l := range strings.Lines(lines.stdout.String()) {
		if !regexp.MustCompile(`^[0-9:]{8}  1 tunnel, 0 of 1 peers heard  rx \S+ pkt/s \S+ bit/s  tx \S+ pkt/s \S+ bit/s  drops \S+/s.*\n$`).MatchString(l) {
			t.Errorf("a line: %q", l)
		}
	}
	var report struct {
		Tunnels int
		Peers   []struct{ Ifname, Remote, State string }
	}
	text := a.ok(30*time.Second, g.binary, "-i", g.instance, "-j", "watch", "gnv0", "--count", "1", "--interval", "100ms")
	if err := json.Unmarshal([]byte(text), &report); err != nil || report.Tunnels != 1 || len(report.Peers) != 1 || report.Peers[0].Remote != "10.77.0.2" || report.Peers[0].State != "silent" {
		t.Errorf("%+v, %v in %s", report, err, text)
	}
	s := a.terminal(80, 24, g.binary, "-i", g.instance, "watch", "--interval", "100ms")
	within(t, 30*time.Second, "the screen", func() bool { return strings.Contains(s.String(), "gnv0     10.77.0.2") })
	g.stop()
	if code, err := lines.wait(30 * time.Second); code != 3 || err != nil || !strings.Contains(lines.stderr.String(), "daemon not reachable") {
		t.Errorf("after the instance has gone: exit status %d, %v, %q", code, err, lines.stderr.String())
	}
	within(t, 30*time.Second, "the screen says so", func() bool { return strings.Contains(s.String(), "no answer: ") })
	s.press("\x03")
	if code, err := s.wait(30 * time.Second); code != 0 || err != nil {
		t.Errorf("control-C: exit status %d, %v", code, err)
	}
}
