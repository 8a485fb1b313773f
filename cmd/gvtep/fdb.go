package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

// errNotFound has the words of the kernel, which scripts look for.
var errNotFound = reworded{"No such file or directory", unix.ENOENT}

func (a *app) fdbCmd() *cobra.Command {
	const filter = "[dev NAME] [dst ADDR] [vni VNI] [vlan VID] [state STATE] [dynamic]"
	const example = `  gvtep fdb
  gvtep -s fdb dst 203.0.113.1
  gvtep -j fdb | jq -r '.[]|select(.state=="").mac'`
	show := &cobra.Command{
		Use: "show " + filter, Aliases: []string{"list"}, Args: cobra.ArbitraryArgs,
		Example: "  gvtep fdb show dev gnv0\n  gvtep -j fdb show dev gnv0 | jq -r '.[]|select(.state==\"\").mac'",
		Short:   "show forwarding entries; -d adds those behind our own device",
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
		Short: "show which MAC address is behind which peer",
		Args:  cobra.ArbitraryArgs,
	}
	fdb.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && !slices.Contains(fdbWords, args[0]) {
			return unknownCommand(cmd, args[0])
		}
		show.SetContext(cmd.Context())
		return show.RunE(show, args)
	}
	filters := func() words {
		return words{
			{names: []string{"dev"}, usage: "of this tunnel", values: 1, source: (*completion).tunnelNames},
			{names: []string{"dst"}, usage: "behind this peer", values: 1, source: (*completion).peers},
			{names: []string{"vni"}, usage: "of the tunnel of this VNI", values: 1, source: (*completion).vnis},
			{names: []string{"vlan"}, usage: "of this VLAN of a trunk", values: 1},
			{names: []string{"state"}, usage: "permanent, static or dynamic", values: 1, source: oneOf(fdbStates...)},
			{names: []string{"dynamic"}, usage: "learned ones only"},
		}
	}
	fdb.ValidArgsFunction, show.ValidArgsFunction = a.completingWords(filters), a.completingWords(filters)
	fdb.AddCommand(show)
	fdb.AddCommand(a.fdbVerbs()...)
	return fdb
}

// fdbVerbs are the commands that change a table of the running process, and get.
func (a *app) fdbVerbs() (all []*cobra.Command) {
	const what = "LLADDR: an Ethernet address"
	check := func(args []string) error {
		mac, _, rest, err := target(args, what)
		if err == nil {
			_, err = config.ParseEntry(mac, rest)
		}
		return err
	}
	for _, v := range []struct{ verb, short, example string }{
		{"add", "add an entry to a running tunnel; 00:00:00:00:00:00 is its flood list", "02:00:00:00:02:10 dev gnv0 dst 192.0.2.2 static"},
		{"append", "add a destination to a group address or to the flood list", "00:00:00:00:00:00 dev gnv0 dst 192.0.2.3"},
		{"replace", "add an entry, or replace the one that exists", "02:00:00:00:02:10 dev gnv0 dst 192.0.2.3 dynamic extern_learn"},
	} {
		verb, short := v.verb, v.short
		cmd := a.verb(verb+" LLADDR dev NAME {local|static|dynamic|permanent} [sticky] [extern_learn] [dst ADDR] [port PORT] [vni VNI] [vlan VID] [src_vni VNI] [via DEV]", short, check,
			func(ctx context.Context, c *control.Client, args []string) error {
				mac, dev, rest, err := target(args, what)
				if err == nil {
					err = about(mac, c.FDBSet(ctx, dev, control.FDBWrite{Verb: verb, MAC: mac, Keywords: rest}))
				}
				return err
			})
		cmd.Example = "  gvtep fdb " + verb + " " + v.example
		cmd.ValidArgsFunction = a.completingWords(entryWords, (*completion).addresses)
		all = append(all, cmd)
	}
	del := a.verb("del LLADDR dev NAME [dst ADDR] [port PORT] [vni VNI] [vlan VID] [src_vni VNI] [via DEV]", "remove an entry, or one of its destinations", check,
		func(ctx context.Context, c *control.Client, args []string) error {
			mac, dev, rest, err := target(args, what)
			if err == nil {
				err = about(mac, c.FDBDelete(ctx, dev, control.FDBWrite{MAC: mac, Keywords: rest}))
			}
			return err
		})
	del.Aliases = []string{"delete"}
	del.Example = "  gvtep fdb del 02:00:00:00:02:10 dev gnv0\n  gvtep fdb del 00:00:00:00:00:00 dev gnv0 dst 192.0.2.3"
	del.ValidArgsFunction = a.completingWords(entryWords, (*completion).addresses)
	get := a.verb("get LLADDR dev NAME [vlan VID] [src_vni VNI]", "show the entry of one MAC address, on a trunk in each VLAN",
		func(args []string) error {
			_, _, rest, err := target(args, what)
			for i := 0; err == nil && i < len(rest); i += 2 {
				if rest[i] != "vlan" && rest[i] != "src_vni" {
					return fmt.Errorf("unexpected word %q: gvtep fdb get --help tells more", rest[i])
				}
			}
			return cmp.Or(err, check(args))
		},
		func(ctx context.Context, c *control.Client, args []string) error {
			mac, dev, rest, err := target(args, what)
			if err != nil {
				return err
			}
			entries, err := c.FDBGet(ctx, dev, mac)
			if err != nil {
				return about(mac, err)
			}
			of, err := config.ParseEntry(mac, rest)
			if err != nil {
				return err
			}
			entries = slices.DeleteFunc(entries, func(e control.FDBEntry) bool {
				return of.VLAN != 0 && of.VLAN != e.VLAN || of.HasSrcVNI && (e.Gvtep == nil || e.Gvtep.ID == nil || *e.Gvtep.ID != uint32(of.SrcVNI))
			})
			if len(entries) == 0 {
				return about(mac, refused(errNotFound))
			}
			return a.printFDB(entries, fdbQuery{}, true)
		})
	flush := a.verb("flush dev NAME [dst ADDR] [vni VNI] [vlan VID] [src_vni VNI] [port PORT] [[no]permanent] [[no]static] [[no]dynamic] [[no]sticky] [[no]extern_learn]",
		"remove the entries that match, but for the flood list",
		func(args []string) error {
			_, _, rest, err := target(args, "")
			if err == nil {
				_, err = parseFlush(rest)
			}
			return err
		},
		func(ctx context.Context, c *control.Client, args []string) error {
			_, dev, rest, err := target(args, "")
			if err != nil {
				return err
			}
			f, err := parseFlush(rest)
			if err != nil {
				return err
			}
			n, err := c.FDBFlush(ctx, dev, f)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(control.Flushed{Flushed: n})
			}
			_, err = fmt.Fprintf(a.out, "Flushed %d entries.\n", n) // as bridge says it
			return err
		})
	get.Example = "  gvtep fdb get 02:00:00:00:02:10 dev gnv0\n  gvtep -j fdb get 02:00:00:00:02:10 dev gnv0 | jq -r '.[].dst'"
	get.ValidArgsFunction = a.completingWords(func() words { return words{onTunnel} }, (*completion).addresses)
	flush.Example = "  gvtep fdb flush dev gnv0 dst 192.0.2.2 dynamic\n  gvtep fdb flush dev gnv0 nopermanent nostatic"
	flush.ValidArgsFunction = a.completingWords(func() words {
		w := words{
			onTunnel,
			{names: []string{"dst"}, usage: "behind this peer", values: 1, source: (*completion).peers},
			{names: []string{"vni"}, usage: "sent with this VNI", values: 1, source: (*completion).vnis},
			{names: []string{"port"}, usage: "sent to this port", values: 1, source: (*completion).nothing},
		}
		for _, is := range control.FlushWords {
			w = append(w, word{names: []string{is, "no" + is}, usage: is + " ones"})
		}
		return w
	})
	return append(all, del, get, flush)
}

// onTunnel is what every verb on peers and entries needs.
var onTunnel = word{names: []string{"dev"}, usage: "of this tunnel", values: 1, source: (*completion).tunnelNames}

func entryWords() words { return append(words{onTunnel}, keywordWords(config.EntryKeywords())...) }

// parseFlush reads the words after "fdb flush dev NAME".
func parseFlush(words []string) (f control.FDBFlush, err error) {
	f.Is = map[string]bool{}
	var rest []string
	for i := 0; i < len(words); i++ {
		word, yes := words[i], true
		if !slices.Contains(control.FlushWords[:], word) {
			word, yes = strings.TrimPrefix(word, "no"), false
		}
		switch {
		case words[i] == "port":
			if i++; i == len(words) {
				return f, fmt.Errorf("port needs a value")
			}
			n, err := strconv.ParseUint(words[i], 0, 16)
			if err != nil || n == 0 {
				return f, fmt.Errorf("port %s: a UDP port is 1 to 65535", words[i])
			}
			f.Port = uint16(n)
		case words[i] == "src_vni":
			if i++; i == len(words) {
				return f, fmt.Errorf("src_vni needs a value")
			}
			if f.SrcVNI, err = parseVNI("src_vni", words[i]); err != nil {
				return f, err
			}
		case words[i] == "dst" || words[i] == "vni" || words[i] == "vlan":
			rest = append(rest, words[i:min(i+2, len(words))]...)
			i++
		case !slices.Contains(control.FlushWords[:], word):
			return f, fmt.Errorf("unknown word %q: want dst, vni, vlan, src_vni, port, %s or one of these with no before it", words[i], strings.Join(control.FlushWords[:], ", "))
		default:
			f.Is[word] = yes
		}
	}
	q, err := parseFDB(rest)
	f.Dst, f.VNI, f.VLAN = q.Dst, q.VNI, q.VLAN
	return f, err
}

var (
	fdbWords  = []string{"dev", "dst", "vni", "vlan", "state", "dynamic"}
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
			return q, unknownWord(word, fdbWords)
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
			if q.VNI, err = parseVNI(word, value); err != nil {
				return q, err
			}
		case "vlan":
			first, last, err := config.ParseVIDs(value)
			if err != nil || first != last {
				return q, fmt.Errorf("vlan %s: a VLAN ID is 1 to 4094", value)
			}
			q.VLAN = first
		case "state":
			if !slices.Contains(fdbStates, value) {
				return q, fmt.Errorf("state %s: want %s", value, strings.Join(fdbStates, ", "))
			}
			q.state = value
		}
	}
	return q, nil
}

func parseVNI(word, value string) (*uint32, error) {
	n, err := strconv.ParseUint(value, 0, 24)
	if err != nil {
		return nil, fmt.Errorf("%s %s: a VNI is 0 to 16777215", word, value)
	}
	vni := uint32(n)
	return &vni, nil
}

func (a *app) showFDB(ctx context.Context, c *control.Client, q fdbQuery) error {
	entries, err := c.FDB(ctx, q.FDBFilter)
	if err != nil {
		return err
	}
	return a.printFDB(entries, q, a.details)
}

// printFDB prints entries; those of the own device if own.
func (a *app) printFDB(entries []control.FDBEntry, q fdbQuery, own bool) error {
	shown := make([]control.FDBEntry, 0, len(entries))
	for _, e := range entries {
		state := e.State
		if state == "" {
			state = "dynamic"
		}
		// bridge shows what is behind a tunnel, so our own side is a detail.
		if q.state != "" && state != q.state || e.Gvtep != nil && e.Gvtep.Local && !own {
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
	if e.VLAN != 0 {
		words = append(words, "vlan", fmt.Sprint(e.VLAN))
	}
	if e.Port != 0 {
		words = append(words, "port", fmt.Sprint(e.Port))
	}
	if e.VNI != nil {
		words = append(words, "vni", fmt.Sprint(*e.VNI))
	}
	if e.SrcVNI != nil {
		words = append(words, "src_vni", fmt.Sprint(*e.SrcVNI))
	}
	if e.Via != "" {
		words = append(words, "via", e.Via)
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
