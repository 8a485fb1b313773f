package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

func (a *app) tunnelCmd() *cobra.Command {
	verbs := a.tunnelVerbs()
	var names []string
	for _, v := range verbs {
		names = append(names, strings.Fields(v.names)...)
	}
	// What is no verb, nor nearly one, is the name of a tunnel to show.
	isName := func(word string) bool { return config.Closest(word, names) == "" }
	cmd := a.object("tunnel [show|add|set|up|down|del]", "show, add, change and remove tunnels of the running process", "tunnel\n-d tunnel show gnv0", isName, verbs)
	cmd.Aliases = []string{"link", "t"}
	return cmd
}

func (a *app) tunnelVerbs() []verb {
	named, none := []candidates{(*completion).tunnelNames}, func() words { return nil }
	remove := func(ctx context.Context, c *control.Client, w control.TunnelWrite) error {
		return c.TunnelDelete(ctx, w.Name)
	}
	become := func(keyword string) sendTunnel {
		return func(ctx context.Context, c *control.Client, w control.TunnelWrite) error {
			return c.TunnelSet(ctx, control.TunnelWrite{Name: w.Name, Keywords: []string{keyword}})
		}
	}
	return []verb{
		{
			names: "show list", args: "[NAME] [id VNI] [up]", short: "show tunnels, as gvtep show does", // with the filters of ip link show
			examples: "tunnel show gnv0\n-j tunnel show id 100 up",
			read:     a.readTunnelShow,
			words: func() words {
				return words{
					{source: (*completion).tunnelNames},
					{names: []string{"id", "vni"}, usage: "with this VNI", values: 1, source: (*completion).vnis},
					{names: []string{"up"}, usage: "whose device is up"},
				}
			},
		}, {
			names: "add", args: "NAME KEYWORDS", short: "add a tunnel to the running process; it lasts until the process ends",
			examples: "tunnel add gnv1 type geneve id 101 remote 203.0.113.1",
			changes:  true, read: readTunnel(func(ctx context.Context, c *control.Client, w control.TunnelWrite) error { return c.TunnelAdd(ctx, w) }, func(w control.TunnelWrite) error {
				_, err := config.ParseTunnel(w.Name, w.Keywords, config.DefaultSocket(), nil, "gvtep run --help")
				return err
			}),
			at: []candidates{(*completion).nothing}, words: func() words { return keywordWords(config.TunnelKeywords()) },
		}, {
			names: "set", args: "NAME KEYWORDS", short: "change keywords of a running tunnel",
			examples: "tunnel set gnv1 ttl 9 remote 203.0.113.1 remote 203.0.113.2",
			changes:  true, read: readTunnel(func(ctx context.Context, c *control.Client, w control.TunnelWrite) error { return c.TunnelSet(ctx, w) }, func(w control.TunnelWrite) error {
				if len(w.Keywords) == 0 {
					return errors.New("no KEYWORDS: gvtep run --help lists them")
				}
				_, err := config.AmendTunnel(config.Tunnel{}, w.Keywords, nil, "gvtep run --help")
				return err
			}),
			at: named, words: func() words {
				return keywordWords(slices.DeleteFunc(config.TunnelKeywords(), func(k config.Keyword) bool { return !k.Live }))
			},
		}, {
			names: "up", args: "NAME", short: "bring the device of a running tunnel up, as ip link set up",
			examples: "tunnel up gnv1", changes: true, read: readTunnel(become("up"), bare("tunnel up")), at: named, words: none,
		}, {
			names: "down", args: "NAME", short: "take the device of a running tunnel down: nothing passes until it is up again",
			examples: "tunnel down gnv1", changes: true, read: readTunnel(become("noup"), bare("tunnel down")), at: named, words: none,
		}, {
			names: "del delete", args: "NAME", short: "remove a running tunnel",
			examples: "tunnel del gnv1", changes: true, read: readTunnel(remove, bare("tunnel del")), at: named, words: none,
		},
	}
}

type sendTunnel func(context.Context, *control.Client, control.TunnelWrite) error

// readTunnel reads "NAME KEYWORDS".
func readTunnel(send sendTunnel, check func(control.TunnelWrite) error) func([]string) (ask, error) {
	return func(args []string) (ask, error) {
		if len(args) == 0 {
			return nil, errors.New("no NAME")
		}
		w := control.TunnelWrite{Name: args[0], Keywords: args[1:]}
		err := config.CheckDevice(w.Name)
		if err == nil {
			err = check(w)
		}
		return func(ctx context.Context, c *control.Client) error { return send(ctx, c, w) }, err
	}
}

// bare is the check of a verb without keywords.
func bare(command string) func(control.TunnelWrite) error {
	return func(w control.TunnelWrite) error { return noMore(command, w.Keywords) }
}

func (a *app) readTunnelShow(args []string) (ask, error) {
	f, err := parseTunnelFilter(args)
	return func(ctx context.Context, c *control.Client) error {
		all, err := tunnelsNamed(ctx, c, f.name)
		if err != nil {
			return err
		}
		return a.printTunnels(slices.DeleteFunc(all, func(t control.Tunnel) bool {
			return f.up && !slices.Contains(t.Flags, "UP") || f.id >= 0 && !carries(t, uint32(f.id))
		}))
	}, err
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
