package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// screensFile shows what people see. TestScreens writes it from a real run, with -update.
const screensFile = "../../docs/screens.md"

const screensHead = "# Screens\n\n" +
	"What the commands for looking show, of a real run: `make screenshots` made this page. This is `leaf1`. Its peer `leaf2` answers pings; `leaf3` was given another VNI. Times, rates and\n" +
	"MAC addresses are other ones each time. On a terminal, what is bad is red or yellow.\n"

// screen is one command, and the words that it must show.
type screen struct {
	command, about string
	shows          []string
	code           int // exit code
	live           bool
}

var screens = []screen{
	{command: "show", about: "Tunnels, their peers and what is dropped. `-s` and `-d` add counters and settings ([cli.md](cli.md#look)).",
		shows: []string{"gnv0  GENEVE id 100", "leaf2 10.77.0.2:6081", "leaf3 10.77.0.3:6081", "refused", "unknown_vni"}},
	{command: "watch", about: "The same live, until `q`: the busiest peers first, below them drops and who sent what was dropped.",
		shows: []string{"leaf2 10.77.0.2", "10.77.0.3 id 101", "q quit"}, live: true},
	{command: "doctor", about: "What is wrong, on what evidence, and what to try. The exit code is 2 if there are findings.",
		shows: []string{"its peer 10.77.0.3 sends with id 101", "seen:", "try:"}, code: 2},
	{command: "capture gnv0 --count 6", about: "Packets where gvtep sees them: from the underlay, into the device, out of it, to the underlay.",
		shows: []string{"outer-in", "inner-in", "ICMP"}},
	{command: "capture --drops --count 2", about: "Those that are dropped, with the reason.",
		shows: []string{"unknown_vni", "10.77.0.3"}},
	{command: "ping 192.0.2.2 dev gnv0", about: "The way to an address behind the tunnel, step by step.",
		shows: []string{"overlay", "ok"}},
}

// TestScreens: the commands show what docs/screens.md is about, and that has these commands.
func TestScreens(t *testing.T) {
	need(t, "ping")
	hosts := lan(t)
	start := func(i int, id string, words ...string) *gvtep {
		near := fmt.Sprintf("10.77.0.%d", i+1)
		return hosts[i].tunnel("gnv0", append([]string{"--id", id, "--local", near, "--address", fmt.Sprintf("192.0.2.%d/24", i+1)}, words...)...)
	}
	g := start(0, "100", "--remote", "10.77.0.2", "--remote", "10.77.0.3")
	start(1, "100", "--remote", "10.77.0.1")
	start(2, "101", "--remote", "10.77.0.1")
	for _, n := range []string{"2", "3"} {
		g.cli("peer", "set", "10.77.0."+n, "dev", "gnv0", "name", "leaf"+n)
	}
	hosts[0].start(nil, "ping", "-q", "-i", "0.2", "192.0.2.2")
	hosts[2].start(nil, "ping", "-q", "-i", "0.2", "192.0.2.1") // asks by ARP, again and again

	var page, commands strings.Builder
	page.WriteString(screensHead)
	for _, s := range screens {
		got := strings.ReplaceAll(s.taken(t, hosts[0], g), g.instance, "leaf1")
		got = regexp.MustCompile(`[ \t]+\n`).ReplaceAllString(got+"\n", "\n")
		fmt.Fprintf(&page, "\n## gvtep %s\n\n%s\n\n```text\n$ gvtep %s\n%s\n```\n", s.command, s.about, s.command, strings.Trim(got, "\n"))
		fmt.Fprintf(&commands, "$ gvtep %s\n", s.command)
	}
	if *update {
		if err := os.WriteFile(screensFile, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(screensFile)
	if err != nil {
		t.Fatal(err)
	}
	if there := regexp.MustCompile(`(?m)^\$ gvtep .*\n`).FindAllString(string(text), -1); strings.Join(there, "") != commands.String() || !strings.HasPrefix(string(text), screensHead) {
		t.Errorf("docs/screens.md is not of these commands: make screenshots. It has\n%swant\n%s", strings.Join(there, ""), commands.String())
	}
}

// taken runs the command until it shows what it must.
func (s *screen) taken(t *testing.T, h *host, g *gvtep) (got string) {
	t.Helper()
	args := append([]string{"-i", g.instance}, strings.Fields(s.command)...)
	take := func() string {
		stdout, stderr, code := h.run(60*time.Second, g.binary, args...)
		if code != s.code {
			return fmt.Sprintf("exit status %d\n%s%s", code, stdout, stderr)
		}
		return stdout
	}
	if s.live {
		screen := h.terminal(80, 17, g.binary, args...)
		take = screen.String
	}
	if !soon(2*time.Minute, func() bool {
		got = take()
		for _, text := range s.shows {
			if !strings.Contains(got, text) {
				return false
			}
		}
		return true
	}) {
		t.Fatalf("gvtep %s does not show %q, but\n%s", s.command, s.shows, got)
	}
	return got
}
