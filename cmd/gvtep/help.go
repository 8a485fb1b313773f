package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// described in JSON, the commands are what the manual is made from:
// scripts/tools/man.

// commandHelp is a command as "gvtep -j help" tells of it.
type commandHelp struct {
	Name     string        `json:"name"` // with those above it, without that of the program
	Use      string        `json:"use"`  // with arguments
	Aliases  []string      `json:"aliases,omitempty"`
	Short    string        `json:"short"`
	Long     string        `json:"long,omitempty"`
	Example  string        `json:"example,omitempty"`
	Flags    []flagHelp    `json:"flags,omitempty"` // without those of the commands above it
	Commands []commandHelp `json:"commands,omitempty"`
}

type flagHelp struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Arg       string `json:"arg,omitempty"` // "": it has no value
	Usage     string `json:"usage"`
	Default   string `json:"default,omitempty"`
	Keyword   bool   `json:"keyword,omitempty"` // also a bare word, and a key of a file
}

func helpOf(cmd *cobra.Command) commandHelp {
	h := commandHelp{
		Name: label(cmd, ""), Use: cmd.UseLine(), Aliases: cmd.Aliases, Short: cmd.Short, Long: cmd.Long, Example: cmd.Example,
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			h.Flags = append(h.Flags, helpOfFlag(f))
		}
	})
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			h.Commands = append(h.Commands, helpOf(sub))
		}
	}
	return h
}

func helpOfFlag(f *pflag.Flag) flagHelp {
	arg, usage := pflag.UnquoteUsage(f)
	h := flagHelp{Name: f.Name, Shorthand: f.Shorthand, Arg: arg, Usage: usage, Default: f.DefValue}
	if f.Value.Type() == "bool" {
		h.Arg = ""
	}
	if h.Default == "false" {
		h.Default = ""
	}
	_, h.Keyword = f.Value.(keywordFlag)
	return h
}

// globalFlagsOnce keeps the flags of the program out of the usage of its commands, which names the
// place where they are.
func globalFlagsOnce(root *cobra.Command) {
	usual := root.UsageFunc()
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		if cmd == root {
			return usual(cmd)
		}
		var global []*pflag.Flag
		cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				global = append(global, f)
				f.Hidden = true
			}
		})
		err := usual(cmd)
		for _, f := range global {
			f.Hidden = false
		}
		fmt.Fprintln(cmd.OutOrStdout(), "\nGlobal flags, such as -j and -i: gvtep --help")
		return err
	})
}

func (a *app) helpCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "show help for a command",
		Long: `Show help for a command, as gvtep COMMAND --help does. -j prints JSON, with the
commands below it.`,
		Example: "  gvtep help fdb add\n  gvtep -j help | jq -r '.commands[].name'",
		Args:    cobra.ArbitraryArgs,
	}
	// find goes down from the program.
	find := func(args []string) (at *cobra.Command, rest []string) {
		at = cmd.Root()
		for i, word := range args {
			var next *cobra.Command
			for _, c := range at.Commands() {
				if c.Name() == word || c.HasAlias(word) {
					next = c
				}
			}
			if next == nil {
				return at, args[i:]
			}
			at = next
		}
		return at, nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, rest := find(args)
		if len(rest) > 0 {
			return inCommand(cmd, unknownCommand(at, rest[0]))
		}
		if a.json {
			return a.printJSON(helpOf(at))
		}
		at.InitDefaultHelpFlag() // which cobra adds only to a command that runs
		if err := at.Help(); err != nil {
			return inCommand(cmd, fmt.Errorf("%s: %w", label(at, ""), err))
		}
		return nil
	}
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		at, rest := find(args)
		if len(rest) == 0 {
			for _, c := range at.Commands() {
				names = append(names, described(c.Name(), c.Short))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}
