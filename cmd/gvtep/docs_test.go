package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Commands in the README and in docs exist, with the flags that they are shown
// with.
func TestDocumentedCommands(t *testing.T) {
	pages, _ := filepath.Glob("../../docs/*.md")
	seen := map[string]bool{}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		fenced, output := false, false
		for i, line := range strings.Split(string(text), "\n") {
			if strings.HasPrefix(line, "```") {
				fenced, output = !fenced, !fenced && line == "```text"
			}
			if output && !strings.HasPrefix(line, "$ ") {
				continue // what a command printed
			}
			for _, words := range commandsIn(line, fenced || strings.HasPrefix(line, "    ")) {
				name, err := documented(words)
				if err != nil {
					t.Errorf("%s:%d: gvtep %s: %v", filepath.Base(page), i+1, strings.Join(words, " "), err)
				}
				seen[name] = true
			}
		}
	}
	for _, want := range []string{"run", "show", "fdb add", "peer add", "tunnel set", "config import", "reload", "check", "wait"} {
		if !seen[want] {
			t.Errorf("gvtep %s is not shown in any page, or was not found there", want)
		}
	}
	for _, wrong := range []string{"shwo", "fdb ad 02:00:00:00:00:01", "config exampel", "run gnv0 --remotte 192.0.2.1", "--detials show", "show -x"} {
		if _, err := documented(strings.Fields(wrong)); err == nil {
			t.Errorf("gvtep %s passes", wrong)
		}
	}
}

var (
	shown    = regexp.MustCompile("`gvtep ([^`]+)`")
	prompted = regexp.MustCompile(`^(?:hostA# |hostB# |\$ |sudo |.*[|;&] )*gvtep (.*)`)
)

// commandsIn returns the words behind gvtep in a line of a page: as code in
// the text, or, where the line is code, as one could type it.
func commandsIn(line string, isCode bool) (all [][]string) {
	add := func(s string) {
		if i := strings.IndexAny(s, "|>&;#)"); i >= 0 {
			s = s[:i]
		}
		if words := strings.Fields(s); len(words) > 0 {
			all = append(all, words)
		}
	}
	for _, m := range shown.FindAllStringSubmatch(line, -1) {
		add(m[1])
	}
	if m := prompted.FindStringSubmatch(strings.TrimSpace(line)); m != nil && isCode {
		add(m[1])
	}
	return all
}

// documented returns the command that words name. Its keywords may be left out.
func documented(words []string) (name string, err error) {
	root := newApp("").root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd, rest, err := root.Find(joinArgs(words))
	if err != nil {
		return "", err
	}
	cmd.InheritedFlags() // merges them
	var bare []string
	for i := 0; i < len(rest); i++ {
		w := rest[i]
		var f *pflag.Flag
		switch {
		case strings.HasPrefix(w, "--"):
			long, _, _ := strings.Cut(w[2:], "=")
			if f = cmd.Flag(long); f == nil && long != "help" {
				return "", fmt.Errorf("no flag %s", w)
			}
		case strings.HasPrefix(w, "-") && len(w) == 2 && w != "-h":
			if f = cmd.Flags().ShorthandLookup(w[1:]); f == nil {
				if f = cmd.InheritedFlags().ShorthandLookup(w[1:]); f == nil {
					return "", fmt.Errorf("no flag %s", w)
				}
			}
		default:
			bare = append(bare, w)
		}
		if f != nil && f.NoOptDefVal == "" && !strings.Contains(w, "=") {
			i++ // its value
		}
	}
	// Who has subcommands takes few words of its own.
	if cmd.HasSubCommands() && len(bare) > 0 {
		return "", fmt.Errorf("no command %s", bare[0])
	}
	return label(cmd, ""), nil
}
