package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

func (a *app) peerCmd() *cobra.Command {
	show := &cobra.Command{Use: "show [dev NAME]", Aliases: []string{"list"}, Short: "show peers", Args: cobra.ArbitraryArgs,
		Example: "  gvtep peer show dev gnv0\n  gvtep -j peer show | jq -r '.[]|select(.last_seen==null).remote'"}
	show.ValidArgsFunction = a.completingWords(func() words { return words{onTunnel} })
	show.RunE = func(cmd *cobra.Command, args []string) error {
		dev := ""
		if len(args) > 0 {
			var rest []string
			var err error
			if _, dev, rest, err = target(args, ""); err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown word %q: want dev NAME", rest[0])
			}
			if err != nil {
				return inCommand(cmd, err)
			}
		}
		return a.asking(func(ctx context.Context, c *control.Client, _ []string) error { return a.showPeers(ctx, c, dev) })(cmd, args)
	}
	const what = "ADDR: the address of a peer"
	check := func(args []string) error {
		addr, _, rest, err := target(args, what)
		if err == nil {
			_, err = config.ParsePeer(config.Peer{}, addr, rest)
		}
		return err
	}
	write := func(do func(*control.Client) func(context.Context, string, control.PeerWrite) error) func(context.Context, *control.Client, []string) error {
		return func(ctx context.Context, c *control.Client, args []string) error {
			addr, dev, rest, err := target(args, what)
			if err == nil {
				err = about(addr, do(c)(ctx, dev, control.PeerWrite{Remote: addr, Keywords: rest}))
			}
			return err
		}
	}
	const settings = " ADDR dev NAME [name TEXT] [port PORT] [flood|noflood] [bum_limit PPS] [routes PREFIX,...]"
	add := a.verb("add"+settings, "add a peer to a running tunnel", check,
		write(func(c *control.Client) func(context.Context, string, control.PeerWrite) error { return c.PeerAdd }))
	set := a.verb("set"+settings, "change a peer of a running tunnel", check,
		write(func(c *control.Client) func(context.Context, string, control.PeerWrite) error { return c.PeerSet }))
	add.Example = "  gvtep peer add 203.0.113.2 dev gnv0 routes 10.2.0.0/16,fd02::/48"
	for _, cmd := range []*cobra.Command{add, set} {
		cmd.Long = `Routes are the networks behind a peer of a mode l3 tunnel. The longest prefix
decides which peer a packet goes to, and which peer may send it. Routes replace
those that the peer had. A prefix moves from the peer that has it, in one step.
"any" is 0.0.0.0/0 and ::/0, "none" removes all routes of the peer.`
	}
	del := a.verb("del ADDR dev NAME", "remove a peer from a running tunnel",
		func(args []string) error {
			_, _, rest, err := target(args, what)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unexpected word %q: gvtep peer del --help tells more", rest[0])
			}
			if err == nil {
				err = check(args)
			}
			return err
		},
		func(ctx context.Context, c *control.Client, args []string) error {
			addr, dev, _, err := target(args, what)
			if err == nil {
				err = about(addr, c.PeerDelete(ctx, dev, addr))
			}
			return err
		})
	del.Aliases = []string{"delete"}
	peerWords := func() words { return append(words{onTunnel}, keywordWords(config.PeerKeywords())...) }
	add.Example, add.ValidArgsFunction = "  gvtep peer add 203.0.113.2 dev gnv0 name leaf3 port 6082 noflood", a.completingWords(peerWords, (*completion).nothing)
	set.Example, set.ValidArgsFunction = "  gvtep peer set 203.0.113.2 dev gnv0 flood", a.completingWords(peerWords, (*completion).peers)
	del.Example, del.ValidArgsFunction = "  gvtep peer del 203.0.113.2 dev gnv0", a.completingWords(func() words { return words{onTunnel} }, (*completion).peers)
	cmd := group("peer [show|add|set|del]", "show, add, change and remove peers of running tunnels", func(w string) bool { return w == "dev" }, show, add, set, del)
	cmd.Example, cmd.ValidArgsFunction = "  gvtep peer", show.ValidArgsFunction
	return cmd
}

// peerOfTunnel is an element of "gvtep -j peer".
type peerOfTunnel struct {
	Ifname string `json:"ifname"`
	control.Peer
}

func (a *app) showPeers(ctx context.Context, c *control.Client, dev string) error {
	var tunnels []control.Tunnel
	var err error
	if dev == "" {
		tunnels, err = c.Tunnels(ctx)
	} else {
		var t control.Tunnel
		t, err = c.Tunnel(ctx, dev)
		tunnels = []control.Tunnel{t}
	}
	if err != nil {
		return err
	}
	all := []peerOfTunnel{}
	for _, t := range tunnels {
		for _, p := range t.Gvtep.Peers {
			all = append(all, peerOfTunnel{t.Ifname, p})
		}
	}
	if a.json {
		return a.printJSON(all)
	}
	for _, p := range all {
		line := strings.TrimSpace(a.peerLine(p.Peer))
		if dev == "" {
			line += "   dev " + p.Ifname
		}
		fmt.Fprintln(a.out, line)
	}
	return nil
}
