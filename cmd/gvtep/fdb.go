package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/config"
	"gvtep/vtep/control"
)

func (a *app) fdbCmd() *cobra.Command {
	const filter = "[dev NAME] [dst ADDR] [vni VNI] [state STATE] [dynamic]"
	const example = `  gvtep fdb show dev gnv0
  gvtep -s fdb show dst 203.0.113.1
  gvtep -j fdb | jq -r '.[]|select(.state=="").mac'`
	show := &cobra.Command{
		Use: "show " + filter, Aliases: []string{"list"}, Example: example,
		Short: "show forwarding entries; addresses behind the own device only with -d",
	}
	show.RunE = func(cmd *cobra.Command, args []string) error {
		q, err := parseFDB(args)
		if err != nil {
			return inCommand(cmd, err)
		}
		return a.asking(func(ctx context.Context, c *control.Client, _ []string) error {
			return a.showFDB(ctx, c, q)
		})(cmd, args)
	}
	fdb := &cobra.Command{
		Use: "fdb [show] " + filter, Example: example,
		Short: "show which address is behind which peer",
		Args:  cobra.ArbitraryArgs,
	}
	fdb.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && !slices.Contains(fdbWords, args[0]) {
			return unknownCommand(cmd, args[0])
		}
		show.SetContext(cmd.Context())
		return show.RunE(show, args)
	}
	complete := func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			switch args[len(args)-1] {
			case "dev":
				return a.completeTunnels(nil, nil, "")
			case "state":
				return fdbStates, cobra.ShellCompDirectiveNoFileComp
			case "dst", "vni":
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
		}
		return fdbWords, cobra.ShellCompDirectiveNoFileComp
	}
	fdb.ValidArgsFunction, show.ValidArgsFunction = complete, complete
	fdb.AddCommand(show)
	return fdb
}

var (
	fdbWords  = []string{"dev", "dst", "vni", "state", "dynamic"}
	fdbStates = []string{"permanent", "static", "dynamic"}
)

// fdbQuery is what the daemon filters, and what is filtered here.
type fdbQuery struct {
	control.FDBFilter
	state string
}

func parseFDB(words []string) (q fdbQuery, err error) {
	seen := map[string]bool{}
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if seen[word] {
			return q, fmt.Errorf("%s is given twice", word)
		}
		seen[word] = true
		if word == "dynamic" {
			q.state = "dynamic"
			continue
		}
		if !slices.Contains(fdbWords, word) {
			if near := config.Closest(word, fdbWords); near != "" {
				return q, fmt.Errorf("unknown word %q: did you mean %s?", word, near)
			}
			return q, fmt.Errorf("unknown word %q: want %s", word, strings.Join(fdbWords, ", "))
		}
		if len(words) == 0 {
			return q, fmt.Errorf("%s needs a value", word)
		}
		value := words[0]
		words = words[1:]
		switch word {
		case "dev":
			q.Dev = value
			if err := config.CheckDevice(value); err != nil {
				return q, err
			}
		case "dst":
			if q.Dst, err = netip.ParseAddr(value); err != nil {
				return q, fmt.Errorf("dst %s: not an IP address", value)
			}
		case "vni":
			n, err := strconv.ParseUint(value, 0, 24)
			if err != nil {
				return q, fmt.Errorf("vni %s: a VNI is 0 to 16777215", value)
			}
			vni := uint32(n)
			q.VNI = &vni
		case "state":
			if !slices.Contains(fdbStates, value) {
				return q, fmt.Errorf("state %s: want %s", value, strings.Join(fdbStates, ", "))
			}
			q.state = value
		}
	}
	return q, nil
}

func (a *app) showFDB(ctx context.Context, c *control.Client, q fdbQuery) error {
	entries, err := c.FDB(ctx, q.FDBFilter)
	if err != nil {
		return err
	}
	shown := make([]control.FDBEntry, 0, len(entries))
	for _, e := range entries {
		state := e.State
		if state == "" {
			state = "dynamic"
		}
		// bridge shows what is behind a tunnel, so our own side is a detail.
		own := e.Gvtep != nil && e.Gvtep.Local
		if q.state != "" && state != q.state || own && !a.details {
			continue
		}
		if !a.stats {
			e.Used, e.Updated = nil, nil
		}
		shown = append(shown, e)
	}
	if a.json {
		return a.printJSON(shown)
	}
	for _, e := range shown {
		fmt.Fprintln(a.out, a.fdbLine(e, q.Dev == ""))
	}
	return nil
}

// fdbLine is an entry as bridge fdb prints it.
func (a *app) fdbLine(e control.FDBEntry, dev bool) string {
	words := []string{e.MAC}
	if dev {
		words = append(words, "dev", e.Ifname)
	}
	if e.Dst != "" {
		words = append(words, "dst", e.Dst)
	}
	if e.Port != 0 {
		words = append(words, "port", fmt.Sprint(e.Port))
	}
	if e.Used != nil && e.Updated != nil {
		words = append(words, fmt.Sprintf("used %d/%d", *e.Used, *e.Updated))
	}
	words = append(words, e.Flags...)
	if e.State != "" {
		words = append(words, e.State)
	}
	if a.details && e.Gvtep != nil {
		words = append(words, e.Gvtep.Origin)
		if e.Gvtep.Local {
			words = append(words, "local")
		}
	}
	return strings.Join(words, " ")
}
