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
func (a *app) addKeywords(cmd *cobra.Command, draft *config.Draft) {
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
			a.completingFlag(cmd, word, keywordValues(k))
		}
	}
}

// joinArgs allows what pflag cannot express: a flag with two values (--srcport
// MIN MAX), an optional value after a space (-c, -c never), and the long flags
// of ip with one dash (-json, -batch FILE, -force).
func joinArgs(args []string) []string {
	isPair := func(arg string) bool {
		name, isFlag := strings.CutPrefix(arg, "--")
		return isFlag && slices.ContainsFunc(config.Keywords(), func(k config.Keyword) bool { return k.Name == name && k.Kind == config.Pair })
	}
	var out []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		left := args[i+1:]
		switch {
		case arg == "--":
			return append(out, args[i:]...)
		case len(left) >= 2 && isNumber(left[0]) && isNumber(left[1]) && isPair(arg):
			out = append(out, arg+"="+left[0]+"-"+left[1])
			i += 2
		case ipFlags[arg] != "":
			out = append(out, ipFlags[arg])
		case arg == "-c" || arg == "-color" || arg == "--color":
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

// ipFlags are the long flags of ip and bridge.
var ipFlags = map[string]string{
	"-json": "--json", "-pretty": "--pretty", "-stats": "--stats", "-statistics": "--stats", "-details": "--details", "-oneline": "--oneline",
	"-netns": "--netns", "-batch": "--batch", "-force": "--force", "-Version": "--version",
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// flagError rewords pflag's errors in the form of ours.
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
		if name == "external" || name == "noexternal" {
			err = config.NewDraft().Set(name, "on") // which says why not
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

// unknownWord is the error for a word that is none of those wanted.
func unknownWord(word string, want []string) error {
	if near := config.Closest(word, want); near != "" {
		return fmt.Errorf("unknown word %q: did you mean %s?", word, near)
	}
	return fmt.Errorf("unknown word %q: want %s", word, strings.Join(want, ", "))
}

// errNoShell is for gvtep completion alone. It knows the user's own shell.
func errNoShell(shells []string, own string) error {
	if !slices.Contains(shells, own) {
		own = shells[0]
	}
	return fmt.Errorf("no shell: want %s, such as source <(gvtep completion %s)", strings.Join(shells, ", "), own)
}

func itoa[N int | uint32](n N) string { return fmt.Sprint(n) }

// elsewhere is what to try instead of commands that other programs have. Those below an object have
// words of their own.
var elsewhere = map[string]string{
	"top": "gvtep watch", "stats": "gvtep -s show, or gvtep metrics", "statistics": "gvtep -s show, or gvtep metrics", "info": "gvtep -d show",
	"list": "gvtep show for tunnels, gvtep ls for instances", "ps": "gvtep ls", "instances": "gvtep ls",
	"trace": "gvtep ping", "traceroute": "gvtep ping", "probe": "gvtep ping", "diagnose": "gvtep doctor",
	"add": "gvtep tunnel add, peer add, fdb add or vlan add", "create": "gvtep tunnel add", "new": "gvtep tunnel add",
	"del": "gvtep tunnel del, peer del, fdb del or vlan del", "delete": "gvtep tunnel del, peer del, fdb del or vlan del", "remove": "gvtep tunnel del, peer del, fdb del or vlan del",
	"set": "gvtep tunnel set, or peer set", "start": "gvtep run", "up": "gvtep run, or gvtep tunnel up NAME", "down": "gvtep tunnel down NAME",
	"stop": "a signal to the process (gvtep ls has its number), or systemctl stop", "restart": "gvtep reload, which interrupts nothing",
	"peers": "gvtep peer", "tunnels": "gvtep tunnel", "mac": "gvtep fdb", "arp": "gvtep fdb", "bridge": "gvtep fdb, or gvtep vlan", "neigh": "gvtep fdb",
	"route": "gvtep peer set ADDR dev NAME routes PREFIX", "test": "gvtep check", "validate": "gvtep check", "logs": "journalctl -u gvtep@INSTANCE", "log": "journalctl -u gvtep@INSTANCE, or gvtep log-level",
}

func unknownCommand(cmd *cobra.Command, word string) error {
	if instead := elsewhere[word]; instead != "" && !cmd.HasParent() {
		return fmt.Errorf("unknown command %q: try %s", word, instead)
	}
	var all []string
	for _, c := range cmd.Commands() {
		all = append(all, c.Name())
	}
	if near := config.Closest(word, all); near != "" {
		return fmt.Errorf("%sunknown command %q: did you mean %s?", label(cmd, ": "), word, near)
	}
	return fmt.Errorf("%sunknown command %q: gvtep %s--help lists them", label(cmd, ": "), word, label(cmd, " "))
}
