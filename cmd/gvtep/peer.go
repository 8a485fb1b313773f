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
	return a.object("peer [show|add|set|del]", "show, add, change and remove peers of running tunnels", "peer", isDev, a.peerVerbs())
}

func (a *app) peerVerbs() []verb {
	const settings = "ADDR dev NAME [name TEXT] [dstport PORT] [flood on|off] [bfd off|on|TIMExN] [bum_limit PPS] [routes PREFIX,...]"
	const routes = `Routes are the networks behind a peer of a mode l3 tunnel. The longest prefix
decides which peer a packet goes to, and which peer may send it. Routes replace
those that the peer had. A prefix moves from the peer that has it, in one step.
"any" is 0.0.0.0/0 and ::/0, "none" removes all routes of the peer.`
	peerWords := func() words { return append(words{onTunnel}, keywordWords(config.PeerKeywords())...) }
	return []verb{
		{
			names: "show list", args: "[dev NAME]", short: "show peers",
			examples: "peer show dev gnv0\n-j peer show | jq -r '.[]|select(.last_seen==null).remote'",
			read:     perhapsOf(a.showPeers),
		}, {
			names: "add", args: settings, short: "add a peer to a running tunnel", long: routes,
			examples: "peer add 203.0.113.2 dev gnv0 name leaf3 dstport 6082 flood off",
			changes:  true, read: readPeer((*control.Client).PeerAdd, ""), at: []candidates{(*completion).nothing}, words: peerWords,
		}, {
			names: "set", args: settings, short: "change a peer of a running tunnel", long: routes,
			examples: "peer set 203.0.113.2 dev gnv0 flood on",
			changes:  true, read: readPeer((*control.Client).PeerSet, ""), at: []candidates{(*completion).peers}, words: peerWords,
		}, {
			names: "del delete", args: "ADDR dev NAME", short: "remove a peer from a running tunnel",
			examples: "peer del 203.0.113.2 dev gnv0",
			changes:  true, read: readPeer(func(c *control.Client, ctx context.Context, dev string, w control.PeerWrite) error {
				return c.PeerDelete(ctx, dev, w.Remote)
			}, "peer del"),
			at: []candidates{(*completion).peers},
		},
	}
}

// readPeer reads "ADDR dev NAME" and the settings of a peer, for which the command bare has no
// place.
func readPeer(send func(*control.Client, context.Context, string, control.PeerWrite) error, bare string) func([]string) (ask, error) {
	return func(args []string) (ask, error) {
		addr, dev, rest, err := target(args, "ADDR: the address of a peer")
		if err == nil && bare != "" {
			err = noMore(bare, rest)
		}
		if err == nil {
			_, err = config.ParsePeer(config.Peer{}, addr, rest, nil)
		}
		return func(ctx context.Context, c *control.Client) error {
			return about(addr, send(c, ctx, dev, control.PeerWrite{Remote: addr, Keywords: rest}))
		}, err
	}
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
