package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gvtep/config"
)

// keywordFlag is a keyword in the form of a flag.
type keywordFlag struct {
	draft   *config.Draft
	keyword config.Keyword
	word    string // the spelling
}

func (f keywordFlag) Set(value string) error { return f.draft.Set(f.word, value) }
func (f keywordFlag) String() string         { return f.keyword.Default }

func (f keywordFlag) Type() string {
	switch f.keyword.Kind {
	case config.Switch, config.Short:
		return "bool"
	}
	return f.keyword.Arg
}

// addKeywords makes every keyword a flag of cmd. Aliases and no-forms work
// but are not listed.
func addKeywords(cmd *cobra.Command, draft *config.Draft) {
	for _, k := range config.Keywords() {
		for i, word := range k.Words() {
			usage := k.Usage
			if k.Kind == config.Switch && k.Default == "true" {
				usage += "; --no" + k.Name + " is off"
			}
			f := cmd.Flags().VarPF(keywordFlag{draft, k, word}, word, "", usage)
			f.Hidden = i > 0
			if k.Kind == config.Switch || k.Kind == config.Short {
				f.NoOptDefVal = "true"
			}
			// The error is that of a flag registered twice.
			_ = cmd.RegisterFlagCompletionFunc(word, cobra.FixedCompletions(k.Values, cobra.ShellCompDirectiveNoFileComp))
		}
	}
}

// completeWords completes bare keywords and their values.
func completeWords(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var words []string
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp // the name of a device to be
	}
	for _, k := range config.Keywords() {
		if slices.Contains(k.Words(), args[len(args)-1]) && k.Arg != "" {
			return k.Values, cobra.ShellCompDirectiveNoFileComp
		}
		words = append(words, k.Words()...)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

// joinArgs allows what pflag cannot express: a flag with two values (--srcport
// MIN MAX), and an optional value after a space (-c, -c never).
func joinArgs(args []string) []string {
	var pairs []string
	for _, k := range config.Keywords() {
		if k.Kind == config.Pair {
			pairs = append(pairs, "--"+k.Name)
		}
	}
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		left := args[i+1:]
		switch {
		case arg == "--":
			return append(out, args[i:]...)
		case slices.Contains(pairs, arg) && len(left) >= 2 && isNumber(left[0]) && isNumber(left[1]):
			out = append(out, arg+"="+left[0]+"-"+left[1])
			i += 2
		case arg == "-c" || arg == "--color":
			value := "always"
			if len(left) > 0 && (left[0] == "auto" || left[0] == "always" || left[0] == "never") {
				value = left[0]
				i++
			}
			out = append(out, "--color="+value)
		default:
			out = append(out, arg)
		}
	}
	return out
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// flagError puts pflag's errors into our voice.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return err
	case errors.As(err, &invalid) && invalid.Unwrap() != nil:
		if _, ok := invalid.GetFlag().Value.(keywordFlag); ok {
			err = invalid.Unwrap()
		} else if f := invalid.GetFlag(); f.Value.Type() == "duration" {
			err = fmt.Errorf("--%s %s: want a time such as 500ms or 5s", f.Name, invalid.GetValue())
		} else {
			err = fmt.Errorf("--%s %s: %w", f.Name, invalid.GetValue(), invalid.Unwrap())
		}
	case errors.As(err, &missing):
		f := missing.GetFlag()
		arg, _ := pflag.UnquoteUsage(f)
		err = fmt.Errorf("--%s needs a value: --%s %s", f.Name, f.Name, arg)
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if len(name) == 1 {
			err = fmt.Errorf("unknown flag -%s: gvtep %s--help lists them", name, label(cmd, " "))
			break
		}
		var all []string
		each := func(f *pflag.Flag) { all = append(all, f.Name) }
		cmd.Flags().VisitAll(each)
		cmd.InheritedFlags().VisitAll(each)
		if near := config.Closest(name, all); near != "" {
			err = fmt.Errorf("unknown flag --%s: did you mean --%s?", name, near)
		} else {
			err = fmt.Errorf("unknown flag --%s: gvtep %s--help lists them", name, label(cmd, " "))
		}
	}
	if words := cmd.Flags().Args(); cmd.Name() == "run" && len(words) > 0 {
		return fmt.Errorf("run %s: %w", words[0], err)
	}
	return fmt.Errorf("%s%w", label(cmd, ": "), err)
}

// atMost allows n words after the command.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return fmt.Errorf("%sunexpected word %q: gvtep %s--help tells more", label(cmd, ": "), args[n], label(cmd, " "))
	}
}

// label is the name of a command without that of the program, and sep; for
// the program itself it is empty.
func label(cmd *cobra.Command, sep string) string {
	_, name, ok := strings.Cut(cmd.CommandPath(), " ")
	if !ok {
		return ""
	}
	return name + sep
}

func unknownCommand(cmd *cobra.Command, word string) error {
	var all []string
	for _, c := range cmd.Commands() {
		all = append(all, c.Name())
	}
	if near := config.Closest(word, all); near != "" {
		return fmt.Errorf("%sunknown command %q: did you mean %s?", label(cmd, ": "), word, near)
	}
	return fmt.Errorf("%sunknown command %q: gvtep --help lists them", label(cmd, ": "), word)
}
