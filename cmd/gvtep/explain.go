package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/vtep/count"
)

func (a *app) explainCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [REASON...]",
		Short: "say what a drop counter means, its likely cause and what to try",
		Long: `Say what a drop counter of "gvtep show" or "gvtep status" means, what most
likely caused it, and what to try. So it does of the reasons for which the fast
path leaves packets to the ordinary way. Without REASON all of them.`,
		Example: `  gvtep explain unknown_peer
  gvtep -j explain`,
		Args: cobra.ArbitraryArgs, // unknown ones are refused in RunE, with our error text
		ValidArgsFunction: a.completingWords(func() words { return nil },
			func(c *completion) []string { return reasonNames() }),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, name := range args {
			if !slices.Contains(reasonNames(), name) {
				return inCommand(cmd, fmt.Errorf("%s: no such reason; gvtep explain lists all: %s", name, strings.Join(reasonNames(), " ")))
			}
		}
		all := explanations()
		wanted := all
		if len(args) > 0 {
			wanted = nil
		}
		for _, name := range args { // a reason to drop and one to punt may have the same name
			for _, e := range all {
				if e.Reason == name {
					wanted = append(wanted, e)
				}
			}
		}
		return a.printExplanations(wanted)
	}
	return cmd
}

// explanation is a reason in JSON.
type explanation struct {
	Reason    string   `json:"reason"`
	FastPath  bool     `json:"fastpath"` // not dropped: left by the fast path to the ordinary way
	Direction []string `json:"direction"`
	What      string   `json:"what"`
	Cause     string   `json:"cause"`
	Remedy    string   `json:"remedy"`
}

// explanations are those of the drops, and then those of the fast path's punts.
func explanations() (all []explanation) {
	// The texts mark code as documents do.
	plain := func(s string) string { return strings.ReplaceAll(s, "`", "") }
	add := func(name string, fast, in, out bool, what, cause, remedy string) {
		e := explanation{Reason: name, FastPath: fast, What: plain(what), Cause: plain(cause), Remedy: plain(remedy)}
		if in {
			e.Direction = append(e.Direction, "in")
		}
		if out {
			e.Direction = append(e.Direction, "out")
		}
		all = append(all, e)
	}
	for _, r := range count.Reasons() {
		e := r.Explain()
		add(e.Name, false, e.In, e.Out, e.What, e.Cause, e.Remedy)
	}
	for _, p := range count.Punts() {
		add(p.Name, true, p.In, p.Out, p.What, p.Cause, p.Remedy)
	}
	return all
}

func (a *app) printExplanations(all []explanation) error {
	if a.json {
		return a.printJSON(all)
	}
	for _, e := range all {
		where := strings.Join(e.Direction, ", ")
		if e.FastPath {
			where = "fast path, " + where
		}
		a.printLines([]string{
			fmt.Sprintf("%s (%s): %s", e.Reason, where, e.What),
			"    likely: " + e.Cause,
			"    try:    " + e.Remedy,
		})
	}
	return nil
}

func reasonNames() (names []string) {
	for _, e := range explanations() {
		if !slices.Contains(names, e.Reason) {
			names = append(names, e.Reason)
		}
	}
	return names
}
