package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

func (a *app) tunnelCmd() *cobra.Command {
	show := a.tunnelShowCmd()
	name := func(args []string) error {
		if len(args) == 0 {
			return errors.New("no NAME")
		}
		return config.CheckDevice(args[0])
	}
	add := a.verb("add NAME KEYWORDS", "add a tunnel to the running process; it lasts until the process ends",
		func(args []string) error {
			if err := name(args); err != nil {
				return err
			}
			_, err := config.ParseTunnel(args[0], args[1:], config.DefaultSocket(), "gvtep run --help")
			return err
		},
		func(ctx context.Context, c *control.Client, args []string) error {
			return c.TunnelAdd(ctx, control.TunnelWrite{Name: args[0], Keywords: args[1:]})
		})
	add.Example = "  gvtep tunnel add gnv1 type geneve id 101 remote 203.0.113.1"
	set := a.verb("set NAME KEYWORDS", "change keywords of a running tunnel",
		func(args []string) error {
			if err := name(args); err != nil {
				return err
			}
			if len(args) == 1 {
				return errors.New("no KEYWORDS: gvtep run --help lists them")
			}
			_, err := config.AmendTunnel(config.Tunnel{}, args[1:], "gvtep run --help")
			return err
		},
		func(ctx context.Context, c *control.Client, args []string) error {
			return c.TunnelSet(ctx, control.TunnelWrite{Name: args[0], Keywords: args[1:]})
		})
	set.Example = "  gvtep tunnel set gnv1 ttl 9 remote 203.0.113.1 remote 203.0.113.2"
	del := a.verb("del NAME", "remove a running tunnel",
		func(args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("unexpected word %q: gvtep tunnel del --help tells more", args[1])
			}
			return name(args)
		},
		func(ctx context.Context, c *control.Client, args []string) error { return c.TunnelDelete(ctx, args[0]) })
	del.Aliases = []string{"delete"}
	del.Example = "  gvtep tunnel del gnv1"
	del.ValidArgsFunction = a.completing((*completion).tunnelNames)
	add.ValidArgsFunction = a.completingWords(func() words { return keywordWords(config.TunnelKeywords()) }, (*completion).nothing)
	set.ValidArgsFunction = a.completingWords(func() words {
		live := slices.DeleteFunc(config.TunnelKeywords(), func(k config.Keyword) bool { return !k.Live })
		return keywordWords(live)
	}, (*completion).tunnelNames)
	state := func(word, short string) *cobra.Command {
		cmd := a.verb(word+" NAME", short,
			func(args []string) error {
				if len(args) > 1 {
					return fmt.Errorf("unexpected word %q: gvtep tunnel %s --help tells more", args[1], word)
				}
				return name(args)
			},
			func(ctx context.Context, c *control.Client, args []string) error {
				keyword := map[string]string{"up": "up", "down": "noup"}[word]
				return c.TunnelSet(ctx, control.TunnelWrite{Name: args[0], Keywords: []string{keyword}})
			})
		cmd.Example = "  gvtep tunnel " + word + " gnv1"
		cmd.ValidArgsFunction = a.completing((*completion).tunnelNames)
		return cmd
	}
	up, down := state("up", "bring the device of a running tunnel up, as ip link set up"), state("down", "take the device of a running tunnel down: nothing passes until it is up again")
	cmd := group("tunnel [show|add|set|up|down|del]", "show, add, change and remove tunnels of the running process", func(word string) bool {
		// What is no verb, nor nearly one, is a name.
		return config.Closest(word, []string{"show", "list", "add", "set", "up", "down", "del", "delete"}) == ""
	}, show, add, set, up, down, del)
	cmd.Aliases, cmd.Example, cmd.ValidArgsFunction = []string{"link", "t"}, "  gvtep tunnel\n  gvtep -d tunnel show gnv0", show.ValidArgsFunction
	return cmd
}

// tunnelShowCmd is gvtep show with the filters of ip link show.
func (a *app) tunnelShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [NAME] [id VNI] [up]", Aliases: []string{"list"}, Args: cobra.ArbitraryArgs,
		Short:   "show tunnels, as gvtep show does",
		Example: "  gvtep tunnel show gnv0\n  gvtep -j tunnel show id 100 up",
	}
	cmd.ValidArgsFunction = func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		filters := func() words {
			return words{
				{names: []string{"id", "vni"}, usage: "with this VNI", values: 1, source: (*completion).vnis},
				{names: []string{"up"}, usage: "whose device is up"},
			}
		}
		if len(args) > 0 {
			return a.completingWords(filters)(c, args, typed)
		}
		names, directive := a.completing((*completion).tunnelNames)(c, args, typed)
		more, _ := a.completingWords(filters)(c, args, typed)
		return append(names, more...), directive
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := parseTunnelFilter(args)
		if err != nil {
			return inCommand(cmd, err)
		}
		return a.asking(func(ctx context.Context, c *control.Client, _ []string) error {
			all, err := tunnelsNamed(ctx, c, f.name)
			if err != nil {
				return err
			}
			return a.printTunnels(slices.DeleteFunc(all, func(t control.Tunnel) bool {
				return f.up && !slices.Contains(t.Flags, "UP") || f.id >= 0 && !carries(t, uint32(f.id))
			}))
		})(cmd, args)
	}
	return cmd
}

// carries reports whether a VNI is the tunnel's own, or that of one of its VLANs.
func carries(t control.Tunnel, vni uint32) bool {
	id := t.LinkInfo.Data.ID
	return id != nil && *id == vni || slices.ContainsFunc(t.Gvtep.VLANs, func(v control.VLAN) bool {
		return v.ID <= vni && vni <= max(v.ID, v.LastID)
	})
}

// tunnelFilter chooses tunnels.
type tunnelFilter struct {
	name []string // none: all
	id   int      // negative: any
	up   bool
}

func parseTunnelFilter(args []string) (tunnelFilter, error) {
	f := tunnelFilter{id: -1}
	for i := 0; i < len(args); i++ {
		switch word := args[i]; {
		case word == "up":
			f.up = true
		case word == "id" || word == "vni":
			if i++; i == len(args) {
				return f, fmt.Errorf("%s needs a value: %s VNI", word, word)
			}
			n, err := strconv.ParseUint(args[i], 0, 24)
			if err != nil {
				return f, fmt.Errorf("%s %s: a VNI is 0 to 16777215", word, args[i])
			}
			f.id = int(n)
		case i == 0:
			f.name = args[:1]
		default:
			return f, unknownWord(word, []string{"id", "up"})
		}
	}
	return f, nil
}
