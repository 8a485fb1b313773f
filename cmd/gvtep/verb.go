package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

// verb is one command about what runs, as a row of a table: peerVerbs, fdbVerbs and so on.
// Usage, checks, completion and manual follow from it.
type verb struct {
	names    string // "del delete": the name, and others that stand for it
	args     string // what follows, as its usage shows it
	short    string
	long     string
	examples string // lines without the "gvtep" they begin with
	// read refuses wrong words before any daemon is asked, and returns what to ask it.
	read func(args []string) (ask, error)
	// Completion: of the first words by their position, and then of those of a grammar.
	at    []candidates
	words func() words // nil: dev NAME
	// changes says that it changes something, which --check only checks.
	changes bool
}

// ask is what a verb wants of the daemon.
type ask func(context.Context, *control.Client) error

// object makes a command of its verbs, the first of which is what it does without one. isWord
// tells the words of that one from verbs that there are not.
func (a *app) object(use, short, examples string, isWord func(string) bool, verbs []verb) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: exampleLines(examples), Args: cobra.ArbitraryArgs}
	first := a.verb(verbs[0])
	cmd.AddCommand(first)
	for _, v := range verbs[1:] {
		cmd.AddCommand(a.verb(v))
	}
	cmd.ValidArgsFunction = first.ValidArgsFunction
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && !isWord(args[0]) {
			return unknownCommand(cmd, args[0])
		}
		first.SetContext(cmd.Context())
		return first.RunE(first, args)
	}
	return cmd
}

// verb makes a command of a row.
func (a *app) verb(v verb) *cobra.Command {
	names, grammar := strings.Fields(v.names), v.words
	if grammar == nil {
		grammar = func() words { return words{onTunnel} }
	}
	cmd := &cobra.Command{
		Use: names[0] + " " + v.args, Aliases: names[1:], Short: v.short, Long: v.long, Example: exampleLines(v.examples),
		Args: cobra.ArbitraryArgs, ValidArgsFunction: a.completingWords(grammar, v.at...),
	}
	check := false
	if v.changes {
		cmd.Flags().BoolVar(&check, "check", false, "say what would change, or why it would be refused; nothing is changed")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		do, err := v.read(args)
		if err != nil {
			return inCommand(cmd, err)
		}
		if check {
			do = a.checking(do)
		}
		return a.asking(func(ctx context.Context, c *control.Client, _ []string) error { return do(ctx, c) })(cmd, args)
	}
	return cmd
}

// checking only checks what do would change, and prints it.
func (a *app) checking(do ask) ask {
	return func(ctx context.Context, c *control.Client) error {
		var would control.Would
		if err := do(ctx, c.Checking(&would)); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(would)
		}
		if would.Flushed > 0 {
			_, err := fmt.Fprintf(a.out, "Would flush %d entries.\n", would.Flushed)
			return err
		}
		a.printReload(control.Reload{Added: would.Added, Removed: would.Removed, Changed: would.Changed})
		return nil
	}
}

func exampleLines(lines string) string {
	return "  gvtep " + strings.ReplaceAll(lines, "\n", "\n  gvtep ")
}

// onTunnel is what most verbs need.
var onTunnel = word{names: []string{"dev"}, usage: "of this tunnel", values: 1, source: (*completion).tunnelNames}

// isDev tells the words of "show [dev NAME]" from verbs.
func isDev(word string) bool { return word == "dev" }

// perhapsOf reads "[dev NAME]".
func perhapsOf(do func(ctx context.Context, c *control.Client, dev string) error) func([]string) (ask, error) {
	return func(args []string) (ask, error) {
		dev := ""
		if len(args) > 0 {
			var rest []string
			var err error
			if _, dev, rest, err = target(args, ""); err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown word %q: want dev NAME", rest[0])
			}
			if err != nil {
				return nil, err
			}
		}
		return func(ctx context.Context, c *control.Client) error { return do(ctx, c, dev) }, nil
	}
}

// target takes "X ... dev NAME" apart. what says what X is; "" if there is none.
func target(args []string, what string) (x, dev string, rest []string, err error) {
	if what != "" {
		if len(args) == 0 {
			return "", "", nil, fmt.Errorf("no %s", what)
		}
		x, args = args[0], args[1:]
	}
	i := slices.Index(args, "dev")
	if i < 0 || i == len(args)-1 {
		return "", "", nil, errors.New("no tunnel: add dev NAME")
	}
	dev, rest = args[i+1], slices.Delete(slices.Clone(args), i, i+2)
	if slices.Contains(rest, "dev") {
		return "", "", nil, errors.New("dev is given twice")
	}
	return x, dev, rest, config.CheckDevice(dev)
}

// noMore refuses words behind the last that a command has.
func noMore(command string, rest []string) error {
	if len(rest) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected word %q: gvtep %s --help tells more", rest[0], command)
}

// about puts what a verb was about before its error.
func about(what string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), what) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
