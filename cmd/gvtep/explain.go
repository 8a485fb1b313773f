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
likely caused it, and what to try. Without REASON all of them.`,
		Example: `  gvtep explain unknown_peer
  gvtep -j explain`,
		Args: cobra.ArbitraryArgs, // unknown ones are refused in RunE, with our error text
		ValidArgsFunction: a.completingWords(func() words { return nil },
			func(c *completion) []string { return reasonNames() }),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var wanted []count.Explanation
		for _, name := range args {
			i := slices.Index(reasonNames(), name)
			if i < 0 {
				return inCommand(cmd, fmt.Errorf("%s: no such reason; gvtep explain lists all: %s", name, strings.Join(reasonNames(), " ")))
			}
			wanted = append(wanted, count.Reasons()[i].Explain())
		}
		if len(args) == 0 {
			for _, r := range count.Reasons() {
				wanted = append(wanted, r.Explain())
			}
		}
		return a.printExplanations(wanted)
	}
	return cmd
}

// explanation is a reason in JSON.
type explanation struct {
	Reason    string   `json:"reason"`
	Direction []string `json:"direction"`
	What      string   `json:"what"`
	Cause     string   `json:"cause"`
	Remedy    string   `json:"remedy"`
}

func (a *app) printExplanations(all []count.Explanation) error {
	out := make([]explanation, len(all))
	for i, e := range all {
		// The texts mark code as documents do.
		plain := func(s string) string { return strings.ReplaceAll(s, "`", "") }
		out[i] = explanation{Reason: e.Name, What: plain(e.What), Cause: plain(e.Cause), Remedy: plain(e.Remedy)}
		for direction, counted := range map[string]bool{"in": e.In, "out": e.Out} {
			if counted {
				out[i].Direction = append(out[i].Direction, direction)
			}
		}
		slices.Sort(out[i].Direction)
	}
	if a.json {
		return a.printJSON(out)
	}
	for _, e := range out {
		a.printLines([]string{
			fmt.Sprintf("%s (%s): %s", e.Reason, strings.Join(e.Direction, ", "), e.What),
			"    likely: " + e.Cause,
			"    try:    " + e.Remedy,
		})
	}
	return nil
}

func reasonNames() (names []string) {
	for _, r := range count.Reasons() {
		names = append(names, r.String())
	}
	return names
}
