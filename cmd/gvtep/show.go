package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
)

func (a *app) showCmd() *cobra.Command {
	words := views()
	cmd := &cobra.Command{
		Use:   "show [NAME|all] [" + strings.Join(words, "|") + "]",
		Short: "show tunnels with their peers and counters",
		Long: `Show tunnels with their peers, forwarding tables and drops, in and out. PATH is the
MTU of the path to a peer. -d adds settings, offloads of the device included, -s more counters. A peer is heard if a packet of it was taken in the last
minute, refused if its packets arrive and are dropped, silent if nothing comes, or
there is no route to it. On a terminal, peers heard in the last ten seconds are
green, in the last minute yellow, all others red.

` + viewsText(),
		Example: `  gvtep show
  gvtep -s -d show gnv0
  gvtep show all dump
  gvtep show gnv0 last-seen
  gvtep -j show | jq -r '.[].gvtep.peers[].remote'`,
		Args:              atMost(2),
		ValidArgsFunction: a.completing((*completion).tunnelNamesOrAll, oneOf(words...)),
	}
	onlyProblems := false
	cmd.Flags().BoolVar(&onlyProblems, "problems", false, "only tunnels that are not ready, and peers that are not heard")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 2 && onlyProblems {
			return inCommand(cmd, fmt.Errorf("--problems beside %s: views have all peers", args[1]))
		}
		if len(args) == 2 && !slices.Contains(words, args[1]) {
			return inCommand(cmd, unknownWord(args[1], words))
		}
		return a.asking(func(ctx context.Context, c *control.Client, args []string) error {
			tunnels, err := tunnelsNamed(ctx, c, args)
			switch {
			case err != nil && len(args) == 1 && slices.Contains(words, args[0]):
				return fmt.Errorf("%w; did you mean show all %s?", err, args[0])
			case err != nil:
				return err
			case onlyProblems:
				tunnels = problems(tunnels)
			case len(args) == 2:
				return a.printView(args[1], tunnels, args[0] == "all")
			}
			return a.printTunnels(tunnels)
		})(cmd, args)
	}
	return cmd
}

// tunnelsNamed asks for the tunnel that args begin with, or for all.
func tunnelsNamed(ctx context.Context, c *control.Client, args []string) ([]control.Tunnel, error) {
	if len(args) == 0 || args[0] == "all" {
		return c.Tunnels(ctx)
	}
	t, err := c.Tunnel(ctx, args[0])
	return []control.Tunnel{t}, err
}

func (a *app) printTunnels(tunnels []control.Tunnel) error {
	if a.json {
		return a.printJSON(tunnels)
	}
	for _, t := range tunnels {
		a.printLines(a.tunnelLines(t))
	}
	return nil
}

// printLines prints the lines of one record, on one line with -o.
func (a *app) printLines(lines []string) {
	sep := "\n"
	if a.oneline {
		sep = "\\" // as ip -o
	}
	fmt.Fprintln(a.out, strings.Join(lines, sep))
}

// tunnelLines is the view of one tunnel for people.
func (a *app) tunnelLines(t control.Tunnel) []string {
	g, d := t.Gvtep, t.LinkInfo.Data
	state := "down"
	if slices.Contains(t.Flags, "UP") {
		state = "up " + age(g.Uptime)
	}
	mtu := fmt.Sprint(t.MTU)
	if g.MTUAuto {
		mtu += " (auto)"
	}
	kind := "tap"
	if g.Mode == "l3" {
		kind = "tun"
	}
	id := "no id"
	if d.ID != nil {
		id = fmt.Sprintf("id %d", *d.ID)
	}
	lines := []string{fmt.Sprintf("%s  %s %s  local %s  mtu %s  %s", t.Ifname, strings.ToUpper(t.LinkInfo.Kind), id, g.Local, mtu, state)}
	for _, why := range g.Unready {
		lines = append(lines, "  "+a.paint(red, "NOT READY: "+why))
	}
	if a.details {
		device := fmt.Sprintf("  %s %d %s", kind, g.Queues, plural(g.Queues, "queue"))
		for _, o := range g.Offload {
			device += " " + o
		}
		lines = append(append(lines, device), settingLines(t)...)
	}
	if len(g.VLANs) > 0 {
		lines = append(lines, vlanLine(g.VLANs))
	}
	if len(g.Accept) > 0 {
		lines = append(lines, "  accept "+strings.Join(g.Accept, " "))
	}
	if g.FastPath != nil {
		lines = append(lines, a.fastLine(g))
	}
	lines = append(lines, a.peerTable(g.Peers)...)
	if g.Mode != "l3" { // that has no table
		last := fmt.Sprintf("  fdb %d learned, %d static, limit %d", g.FDB.Learned, g.FDB.Static, g.FDB.Limit)
		if len(g.VLANs) > 0 {
			last += " in each VLAN"
		}
		if a.stats {
			last += fmt.Sprintf(", %d moved, %d aged, %d damped, %d frozen", g.FDB.Moved, g.FDB.Aged, g.FDB.Damped, g.FDB.Frozen)
		}
		lines = append(lines, last)
	}
	if a.stats {
		lines = append(lines, fmt.Sprintf("  rx %d packets %d bytes  tx %d packets %d bytes  %d of them flooded copies  answered %d  too big told %d",
			t.Stats.RX.Packets, t.Stats.RX.Bytes, t.Stats.TX.Packets, t.Stats.TX.Bytes, g.TxFlood, g.Answered, g.TooBig))
	}
	return append(lines, fmt.Sprintf("  drops %d%s", g.Drops.Total(), directions(g.Drops)))
}

// fastLine says which devices the fast path joins, or why it does not.
func (a *app) fastLine(g control.TunnelDetail) string {
	f := g.FastPath
	line := "  fastpath " + f.Wanted
	for i, d := range f.Devices {
		line += []string{", serves ", ", "}[min(i, 1)] + d.Name
		if !d.Bulk {
			line += " (not super-frames)"
		}
	}
	if f.Reason != "" {
		line += "   " + a.paint(yellow, "not carried: "+f.Reason)
	}
	if a.stats {
		line += fmt.Sprintf("   rx %d tx %d packets", f.RX, f.TX)
	}
	return line
}

// settingLines are the settings in the words of the keywords.
func settingLines(t control.Tunnel) []string {
	g, d := t.Gvtep, t.LinkInfo.Data
	word := func(on bool, name string) string {
		if on {
			return name
		}
		return "no" + name
	}
	outer := fmt.Sprintf("  dstport %d  srcport %d %d  ttl %s  tos %s  df %s  %s %s %s  fwmark %d", d.Port, g.SrcPortMin, g.SrcPortMax,
		g.TTL, g.TOS, d.DF, word(d.UDPCsum, "udpcsum"), word(d.ZeroCsumT, "udp6zerocsumtx"), word(d.ZeroCsumR, "udp6zerocsumrx"), g.Mark)
	if g.Dev != "" {
		outer += "  dev " + g.Dev
	}
	table := fmt.Sprintf("  mode %s  %s  ageing %g  l2_control %s  vlan_tags %s", g.Mode, word(g.Learning, "learning"), g.Ageing, g.L2Control, g.VLANTags)
	onOff := map[bool]string{true: "on", false: "off"}
	flood := fmt.Sprintf("  flood %s  mcast_flood %s  bcast_flood %s  bum_limit %d  locked %s  move_damping %s  neigh_suppress %s  isolated %s",
		onOff[g.Flood], onOff[g.McastFlood], onOff[g.BcastFlood], g.BUMLimit, onOff[g.Locked], onOff[g.Damping], onOff[g.Suppress], onOff[g.Isolated])
	if g.BFD != "" {
		flood += "  bfd " + g.BFD
	}
	for _, n := range g.Neigh {
		flood += "  neigh " + n
	}
	device := fmt.Sprintf("  ifindex %d", t.Ifindex)
	if t.Address != "" {
		device += "  lladdr " + t.Address
	}
	for _, p := range g.Addresses {
		device += "  address " + p
	}
	if t.Master != "" {
		device += "  master " + t.Master
	}
	if g.Netns != "" {
		device += "  device_netns " + g.Netns
	}
	if g.Persist {
		device += "  persist on"
	}
	lines := []string{outer, table, flood, device}
	if g.Mode == "l3" {
		lines = []string{outer, "  mode l3", device}
	}
	if len(g.Options) > 0 {
		lines = append(lines, "  options "+strings.Join(g.Options, ","))
	}
	for _, m := range g.Send {
		lines = append(lines, fmt.Sprintf("  send %q  %d packets", m.Rule, m.Packets))
	}
	for _, m := range g.Match {
		lines = append(lines, fmt.Sprintf("  match %q  %d packets", m.Rule, m.Packets))
	}
	return lines
}

func (a *app) peerLine(p control.Peer) string {
	name := ""
	if p.Name != "" {
		name = p.Name + "  "
	}
	flood := "-    "
	if p.Flood {
		flood = "flood"
	}
	traffic := func(c control.Traffic) string {
		s := size(c.Bytes)
		if a.stats {
			s += fmt.Sprintf(" (%d packets)", c.Packets)
		}
		return s
	}
	line := fmt.Sprintf("  peer %s%s  %s  %s  rx %s  tx %s", name, netip.AddrPortFrom(p.Remote, p.Port).String(), flood,
		a.state(p), traffic(p.RX), traffic(p.TX))
	switch p.Origin {
	case "group", "fdb":
		line = fmt.Sprintf("  %s %s  %s  tx %s", p.Origin, netip.AddrPortFrom(p.Remote, p.Port).String(), flood, traffic(p.TX))
	case "accept":
		line += "   dynamic"
	}
	if p.BUMLimit != 0 {
		line += fmt.Sprintf("   bum_limit %d (%d dropped)", p.BUMLimit, p.Flooded)
	}
	if p.BFD != nil {
		line += "   " + bfdText(p.BFD)
	}
	if len(p.Routes) > 0 {
		line += "   routes " + strings.Join(p.Routes, ",")
	}
	if len(p.Options) > 0 {
		line += "   options " + strings.Join(p.Options, ",")
	}
	if p.PathMTU != 0 {
		line += fmt.Sprintf("   path mtu %d", p.PathMTU)
	}
	if p.Error != "" {
		line += "   " + a.paint(red, "ERROR: "+p.Error)
	}
	return line
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// stateCell is what is heard of a peer: green in the last ten seconds, yellow in the last minute, else red.
func (a *app) stateCell(p control.Peer) cell {
	switch {
	case p.State == "heard" && *p.SeenAgo < 10:
		return cell{"heard " + age(*p.SeenAgo) + " ago", green}
	case p.State == "heard":
		return cell{"heard " + age(*p.SeenAgo) + " ago", yellow}
	case p.State == "silent" && p.SeenAgo != nil:
		return cell{"silent for " + age(*p.SeenAgo), red}
	case p.State == "silent":
		return cell{"silent, never heard", red}
	}
	return cell{p.State, red}
}

// state is that, painted, with the reason if its packets are dropped.
func (a *app) state(p control.Peer) string {
	c := a.stateCell(p)
	if p.State == "refused" {
		c.text = stateWord(p)
	}
	return a.paint(c.color, c.text)
}

// stateWord is the state of a peer, with the reason if its packets are dropped.
func stateWord(p control.Peer) string {
	if p.State != "refused" || len(p.Refused) == 0 {
		return p.State
	}
	last := slices.MinFunc(p.Refused, func(x, y control.PeerRefused) int { return cmp.Compare(x.LastAgo, y.LastAgo) })
	return fmt.Sprintf("refused (%s %d, %s ago)", last.Reason, last.Packets, age(last.LastAgo))
}

func (a *app) paint(color, text string) string {
	on := a.color == "always"
	if f, ok := a.out.(*os.File); ok && a.color == "auto" {
		on = logging.IsTerminal(f) && os.Getenv("NO_COLOR") == ""
	}
	if !on {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// directions lists why packets were dropped, those from the underlay and those from the device apart.
func directions(d control.Drops) string {
	text := ""
	for _, of := range []struct {
		word  string
		drops map[string]uint64
	}{{"in", d.RX}, {"out", d.TX}} {
		if len(of.drops) > 0 {
			text += "  " + of.word + strings.NewReplacer("(", "", ")", "").Replace(reasons(control.Drops{RX: of.drops}))
		}
	}
	return text
}

// reasons lists why packets were dropped, the most frequent first.
func reasons(d control.Drops) string {
	sum := map[string]uint64{}
	var names []string
	for _, m := range []map[string]uint64{d.RX, d.TX} {
		for reason, n := range m {
			if sum[reason] == 0 {
				names = append(names, reason)
			}
			sum[reason] += n
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.SortFunc(names, func(x, y string) int {
		if sum[x] != sum[y] {
			if sum[x] > sum[y] {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	for i, reason := range names {
		names[i] = fmt.Sprintf("%s %d", reason, sum[reason])
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// age is a time span in seconds, short: 0.4s, 12s, 5m12s, 3h05m, 2d3h.
func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 0:
		return "0.0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", float64(int64(d/(100*time.Millisecond)))/10)
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// size is a number of bytes in binary units.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1024 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[unit])
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
