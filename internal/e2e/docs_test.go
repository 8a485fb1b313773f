package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestTutorial runs what docs/tutorial.md has its readers type, in one shell
// and in order, and compares what it prints with what the page shows. All of it
// happens in namespaces (mounts, network, processes) that end with the shell.
func TestTutorial(t *testing.T) {
	need(t, "bash", "unshare", "ip", "ping", "tshark")
	gvtep, err := suite.plain()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := tutorialBlocks(string(page))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	script := strings.Builder{}
	// Nobody else's namespaces and sockets below /run, and ours for nobody else.
	script.WriteString("set -eo pipefail\nmount -t tmpfs tmpfs /run\nip link set lo up\n")
	dir := t.TempDir()
	for i, b := range blocks {
		fmt.Fprintf(&script, "exec >%s/%d 2>&1\n%s", dir, i, b.commands)
		if b.output != nil {
			shown++
		}
	}
	if len(blocks) < 10 || shown < 10 {
		t.Fatalf("only %d blocks of commands in the tutorial, %d with output: are the marks right?", len(blocks), shown)
	}
	bin, work := filepath.Join(dir, "bin"), filepath.Join(dir, "work")
	for _, d := range []string{bin, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(gvtep, filepath.Join(bin, "gvtep")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script.String())
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "GORACE=atexit_sleep_ms=10", "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.WaitDelay = 5 * time.Second
	_, runErr := cmd.CombinedOutput()
	for i, b := range blocks {
		got, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			break // the one before it was the last
		}
		t.Logf("line %d:\n%s%s", b.line, b.commands, got)
		if b.output != nil && !b.output.Match(got) {
			t.Errorf("docs/tutorial.md:%d: it printed\n%s\nwant\n%s", b.line, got, b.text)
		}
	}
	if runErr != nil {
		logs, _ := filepath.Glob(filepath.Join(work, "*.log"))
		for _, name := range logs {
			text, _ := os.ReadFile(name)
			t.Logf("%s:\n%s", filepath.Base(name), text)
		}
		t.Errorf("the last of these blocks ended the shell: %v", runErr)
	}
}

// tutorialBlock is what a reader types at once, and what that prints.
type tutorialBlock struct {
	line     int // of the page, for people
	commands string
	text     string // of the output, as shown
	output   *regexp.Regexp
}

// tutorialBlocks returns the ```sh blocks between the marks of the page. A
// ```text block after one of them is its output: "..." stands for anything in a
// line, and alone for any number of lines; runs of spaces are one.
func tutorialBlocks(page string) ([]tutorialBlock, error) {
	before, rest, ok := strings.Cut(page, "<!-- run -->\n")
	part, _, ok2 := strings.Cut(rest, "<!-- end -->\n")
	if !ok || !ok2 {
		return nil, fmt.Errorf("no <!-- run --> and <!-- end --> around what can be run")
	}
	line := strings.Count(before, "\n") + 2
	var blocks []tutorialBlock
	for _, m := range regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$").FindAllStringSubmatchIndex(part, -1) {
		kind, text := part[m[2]:m[3]], part[m[4]:m[5]]
		at := line + strings.Count(part[:m[0]], "\n")
		switch {
		case kind == "sh":
			blocks = append(blocks, tutorialBlock{line: at, commands: text})
		case kind == "text" && len(blocks) > 0 && blocks[len(blocks)-1].output == nil:
			b := &blocks[len(blocks)-1]
			b.text, b.output = text, outputPattern(text)
		default:
			return nil, fmt.Errorf("line %d: a block of %q, where commands or their output must stand", at, kind)
		}
	}
	return blocks, nil
}

func outputPattern(text string) *regexp.Regexp {
	var p strings.Builder
	p.WriteString(`^`)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if line == "..." {
			p.WriteString(`(?:.*\n)*`)
			continue
		}
		line = regexp.QuoteMeta(strings.Join(strings.Fields(line), " "))
		p.WriteString(`[ \t]*` + strings.NewReplacer(`\.\.\.`, `.*`, " ", `[ \t]+`).Replace(line) + `[ \t]*\n`)
	}
	p.WriteString(`$`)
	return regexp.MustCompile(p.String())
}

// The comparison fails where it should.
func TestTutorialOutput(t *testing.T) {
	for _, c := range []struct {
		shown, got string
		want       bool
	}{
		{"a b\n", "a b\n", true},
		{"a  b\n", "  a b \n", true},
		{"a\n", "a\nb\n", false},
		{"a\n", "", false},
		{"a\nb\n", "b\na\n", false},
		{"time=... ms\n", "time=0.4 ms\n", true},
		{"time=... ms\n", "time=0.4\nms\n", false},
		{"a\n...\nd\n", "a\nb\nc\nd\n", true},
		{"a\n...\nd\n", "a\nd\n", true},
		{"a\n...\nd\n", "a\nb\nc\n", false},
		{"(a) [b]*\n", "(a) [b]*\n", true},
		{"a.c\n", "abc\n", false},
	} {
		if got := outputPattern(c.shown).MatchString(c.got); got != c.want {
			t.Errorf("shown %q, printed %q: %v, want %v", c.shown, c.got, got, c.want)
		}
	}
}
