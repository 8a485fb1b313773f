package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

// verb makes a command that changes something: check refuses wrong words
// before any daemon is asked.
func (a *app) verb(use, short string, check func(args []string) error, do func(context.Context, *control.Client, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := check(args); err != nil {
			return inCommand(cmd, err)
		}
		return a.asking(do)(cmd, args)
	}
	cmd.ValidArgsFunction = a.completingWords(func() words { return words{onTunnel} })
	return cmd
}

// group makes a command of its commands, the first of which is what it does
// without a command.
func group(use, short string, isWord func(string) bool, cmds ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && !isWord(args[0]) {
			return unknownCommand(cmd, args[0])
		}
		cmds[0].SetContext(cmd.Context())
		return cmds[0].RunE(cmds[0], args)
	}
	cmd.AddCommand(cmds...)
	return cmd
}

// target takes "X ... dev NAME" apart. what says what X is; "" if there is none.
func target(args []string, what string) (x, dev string, rest []string, err error) {
	if what != "" {
		if len(args) == 0 {
			return "", "", nil, fmt.Errorf("no %s", what)
		}
		x, args = args[0], args[1:]
	}
	i := slices.Index(args, "dev")
	if i < 0 || i == len(args)-1 {
		return "", "", nil, errors.New("no tunnel: add dev NAME")
	}
	dev, rest = args[i+1], slices.Delete(slices.Clone(args), i, i+2)
	if slices.Contains(rest, "dev") {
		return "", "", nil, errors.New("dev is given twice")
	}
	return x, dev, rest, config.CheckDevice(dev)
}

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

// about puts what a verb was about before its error.
func about(what string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), what) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
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

func (a *app) monitorCmd() *cobra.Command {
	objects := []string{"all", "tunnel", "peer", "fdb"}
	cmd := &cobra.Command{
		Use: "monitor [all|tunnel|peer|fdb]", Short: "print changes as they happen, until the daemon ends",
		Long: `Print each change of tunnels, peers and forwarding entries on one line, with -j
as JSON, until the daemon ends. If the reader is too slow, a line says how many
changes were lost.`,
		Example:           "  gvtep monitor fdb\n  gvtep -j monitor | jq .mac",
		Args:              atMost(1),
		ValidArgsFunction: a.completing(oneOf(objects...)),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		object := "all"
		if len(args) == 1 {
			object = args[0]
		}
		if !slices.Contains(objects, object) {
			return inCommand(cmd, fmt.Errorf("%s: want %s", object, strings.Join(objects, ", ")))
		}
		path, err := a.socketPath()
		if err != nil {
			return inCommand(cmd, err)
		}
		// The time-out is for the beginning only.
		ctx, cancel := context.WithCancelCause(cmd.Context())
		defer cancel(nil)
		late := time.AfterFunc(a.timeout, func() { cancel(context.DeadlineExceeded) })
		begun := func() { late.Stop() }
		err = control.NewClient(path).Events(ctx, strings.TrimPrefix(object, "all"), begun, func(e control.Event) error {
			if a.json {
				return a.printJSON(e)
			}
			_, err := fmt.Fprintln(a.out, eventLine(e))
			return err
		})
		if errors.Is(err, context.Canceled) && context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
		return inCommand(cmd, err)
	}
	return cmd
}

// eventLine is an event in the manner of bridge monitor.
func eventLine(e control.Event) string {
	var words []string
	switch e.Action {
	case "deleted", "aged", "flushed", "evicted":
		words = append(words, "Deleted")
	}
	switch e.Object {
	case "lost":
		return fmt.Sprintf("%d events were lost", e.Lost)
	case "tunnel":
		words = append(words, "tunnel", e.Ifname)
	case "peer":
		words = append(words, "peer", e.Dst, "dev", e.Ifname)
	default:
		words = append(words, e.MAC, "dev", e.Ifname)
		if e.VLAN != 0 {
			words = append(words, "vlan", fmt.Sprint(e.VLAN))
		}
		if e.Dst != "" && !e.Local {
			words = append(words, "dst", e.Dst)
		}
		words = append(words, e.Flags...)
		if e.State != "" {
			words = append(words, e.State)
		}
		if e.Local {
			words = append(words, "local")
		}
	}
	if e.Action != "new" && e.Action != "deleted" {
		words = append(words, e.Action)
	}
	if e.Action == "moved" && e.From != "" {
		words = append(words, "from", e.From)
	}
	return strings.Join(words, " ")
}
