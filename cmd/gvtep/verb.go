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

// verb makes a command that changes something: check refuses wrong words
// before any daemon is asked.
func (a *app) verb(use, short string, check func(args []string) error, do func(context.Context, *control.Client, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(args); err != nil {
			return inCommand(cmd, err)
		}
		return a.asking(do)(cmd, args)
	}
	cmd.ValidArgsFunction = a.completingWords(func() words { return words{onTunnel} })
	return cmd
}

// group makes a command of its commands, the first of which is what it does
// without a command.
func group(use, short string, isWord func(string) bool, cmds ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && !isWord(args[0]) {
			return unknownCommand(cmd, args[0])
		}
		cmds[0].SetContext(cmd.Context())
		return cmds[0].RunE(cmds[0], args)
	}
	cmd.AddCommand(cmds...)
	return cmd
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

// about puts what a verb was about before its error.
func about(what string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), what) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
