package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
	"gvtep/vtep/spec"
)

func (a *app) fdbCmd() *cobra.Command {
	isFilter := func(word string) bool { return slices.Contains(fdbWords, word) }
	return a.object("fdb [show] "+fdbFilter, "show which MAC address is behind which peer",
		"fdb\n-s fdb dst 203.0.113.1\n-j fdb | jq -r '.[]|select(.state==\"\").mac'", isFilter, a.fdbVerbs())
}

const fdbFilter = "[dev NAME] [dst ADDR] [vni VNI] [vlan VID] [state STATE] [dynamic]"

func (a *app) fdbVerbs() []verb {
	const (
		to    = "[dst ADDR] [port PORT] [vni VNI] [vlan VID] [src_vni VNI] [via DEV] [options CLASS:TYPE:DATA[,...]]"
		entry = "LLADDR dev NAME {local|static|dynamic|permanent} [sticky] [extern_learn] " + to
		is    = "[[no]permanent] [[no]static] [[no]dynamic] [[no]sticky] [[no]extern_learn]"
	)
	known := []candidates{(*completion).addresses}
	return []verb{
		{
			names: "show list", args: fdbFilter, short: "show forwarding entries; -d adds those behind our own device",
			examples: "fdb show dev gnv0\n-j fdb show dev gnv0 | jq -r '.[]|select(.state==\"\").mac'",
			read:     a.readFDBShow, words: filterWords,
		}, {
			names: "add", args: entry, short: "add an entry to a running tunnel; 00:00:00:00:00:00 is its flood list",
			examples: "fdb add 02:00:00:00:02:10 dev gnv0 dst 192.0.2.2 static\nfdb add 02:00:00:00:02:11 dev gnv0 dst 192.0.2.2 static options ff01:01:0000004d",
			changes:  true, read: readEntry("add", (*control.Client).FDBSet), at: known, words: entryWords,
		}, {
			names: "append", args: entry, short: "add a destination to a group address or to the flood list",
			examples: "fdb append 00:00:00:00:00:00 dev gnv0 dst 192.0.2.3",
			changes:  true, read: readEntry("append", (*control.Client).FDBSet), at: known, words: entryWords,
		}, {
			names: "replace", args: entry, short: "add an entry, or replace the one that exists",
			examples: "fdb replace 02:00:00:00:02:10 dev gnv0 dst 192.0.2.3 dynamic extern_learn",
			changes:  true, read: readEntry("replace", (*control.Client).FDBSet), at: known, words: entryWords,
		}, {
			names: "del delete", args: "LLADDR dev NAME " + to, short: "remove an entry, or one of its destinations",
			examples: "fdb del 02:00:00:00:02:10 dev gnv0\nfdb del 00:00:00:00:00:00 dev gnv0 dst 192.0.2.3",
			changes:  true, read: readEntry("", (*control.Client).FDBDelete), at: known, words: entryWords,
		}, {
			names: "get", args: "LLADDR dev NAME [vlan VID] [src_vni VNI]", short: "show the entry of one MAC address, on a trunk in each VLAN",
			examples: "fdb get 02:00:00:00:02:10 dev gnv0\n-j fdb get 02:00:00:00:02:10 dev gnv0 | jq -r '.[].dst'",
			read:     a.readFDBGet, at: known,
		}, {
			names: "flush", args: "dev NAME [dst ADDR] [vni VNI] [vlan VID] [src_vni VNI] [port PORT] [owner NAME] " + is, short: "remove the entries that match, but for the flood list",
			examples: "fdb flush dev gnv0 dst 192.0.2.2 dynamic\nfdb flush dev gnv0 nopermanent nostatic\nfdb flush dev gnv0 owner evpn",
			changes:  true, read: a.readFDBFlush, words: flushWords,
		},
	}
}

const wantLLADDR = "LLADDR: an Ethernet address"

// readEntry reads "LLADDR dev NAME" and an entry, for a verb of FDBWrite.
func readEntry(verb string, send func(*control.Client, context.Context, string, control.FDBWrite) error) func([]string) (ask, error) {
	return func(args []string) (ask, error) {
		mac, dev, rest, err := target(args, wantLLADDR)
		if err == nil {
			_, err = config.ParseEntry(mac, rest, nil)
		}
		return func(ctx context.Context, c *control.Client) error {
			return about(mac, send(c, ctx, dev, control.FDBWrite{Verb: verb, MAC: mac, Keywords: rest}))
		}, err
	}
}

func (a *app) readFDBShow(args []string) (ask, error) {
	q, err := parseFDB(args)
	return func(ctx context.Context, c *control.Client) error { return a.showFDB(ctx, c, q) }, err
}

func (a *app) readFDBGet(args []string) (ask, error) {
	mac, dev, rest, err := target(args, wantLLADDR)
	for i := 0; err == nil && i < len(rest); i += 2 {
		if rest[i] != "vlan" && rest[i] != "src_vni" {
			err = noMore("fdb get", rest[i:])
		}
	}
	if err != nil {
		return nil, err
	}
	of, err := config.ParseEntry(mac, rest, nil)
	return func(ctx context.Context, c *control.Client) error {
		entries, err := c.FDBGet(ctx, dev, mac)
		if err != nil {
			return about(mac, err)
		}
		entries = slices.DeleteFunc(entries, func(e control.FDBEntry) bool {
			return of.VLAN != 0 && of.VLAN != e.VLAN || of.HasSrcVNI && (e.Gvtep == nil || e.Gvtep.ID == nil || *e.Gvtep.ID != uint32(of.SrcVNI))
		})
		if len(entries) == 0 {
			return about(mac, refused(spec.NotFound("")))
		}
		return a.printFDB(entries, fdbQuery{}, true)
	}, err
}

func (a *app) readFDBFlush(args []string) (ask, error) {
	_, dev, rest, err := target(args, "")
	if err != nil {
		return nil, err
	}
	f, err := parseFlush(rest)
	return func(ctx context.Context, c *control.Client) error {
		n, err := c.FDBFlush(ctx, dev, f)
		switch {
		case err != nil || c.Checks():
			return err
		case a.json:
			return a.printJSON(control.Flushed{Flushed: n})
		}
		_, err = fmt.Fprintf(a.out, "Flushed %d entries.\n", n) // as bridge says it
		return err
	}, err
}

// filterWords are those of fdb show.
func filterWords() words {
	return words{
		onTunnel,
		{names: []string{"dst"}, usage: "behind this peer", values: 1, source: (*completion).peers},
		{names: []string{"vni"}, usage: "of the tunnel of this VNI", values: 1, source: (*completion).vnis},
		{names: []string{"vlan"}, usage: "of this VLAN of a trunk", values: 1},
		{names: []string{"state"}, usage: "permanent, static or dynamic", values: 1, source: oneOf(fdbStates...)},
		{names: []string{"dynamic"}, usage: "learned ones only"},
	}
}

func flushWords() words {
	w := words{
		onTunnel,
		{names: []string{"dst"}, usage: "behind this peer", values: 1, source: (*completion).peers},
		{names: []string{"vni"}, usage: "sent with this VNI", values: 1, source: (*completion).vnis},
		{names: []string{"port"}, usage: "sent to this port", values: 1, source: (*completion).nothing},
		{names: []string{"owner"}, usage: "written by a batch with this owner", values: 1, source: (*completion).nothing},
	}
	for _, is := range control.FlushWords {
		w = append(w, word{names: []string{is}, usage: is + " ones"}, word{names: []string{"no" + is}, usage: "all but " + is + " ones"})
	}
	return w
}

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
		case words[i] == "owner":
			if i++; i == len(words) {
				return f, fmt.Errorf("owner needs a value")
			}
			f.Owner = words[i]
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
			return f, fmt.Errorf("unknown word %q: want dst, vni, vlan, src_vni, port, owner, %s or one of these with no before it", words[i], strings.Join(control.FlushWords[:], ", "))
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
	out := newSpool(a.out)
	p := a.fdbPrinter(out, q, a.details)
	err := c.FDB(ctx, q.FDBFilter, p.print)
	if err == nil {
		err = p.end()
	}
	return cmp.Or(err, out.Close())
}

// printFDB prints entries.
func (a *app) printFDB(entries []control.FDBEntry, q fdbQuery, own bool) error {
	p := a.fdbPrinter(a.out, q, own)
	for _, e := range entries {
		if err := p.print(e); err != nil {
			return err
		}
	}
	return p.end()
}

// fdbPrinter prints entries one by one.
type fdbPrinter struct {
	a    *app
	out  io.Writer
	q    fdbQuery
	own  bool // those of the own device, too
	json *jsonArray
}

func (a *app) fdbPrinter(out io.Writer, q fdbQuery, own bool) *fdbPrinter {
	return &fdbPrinter{a, out, q, own, a.jsonArray(out)}
}

func (p *fdbPrinter) print(e control.FDBEntry) error {
	state := e.State
	if state == "" {
		state = "dynamic"
	}
	// bridge shows what is behind a tunnel, so our own side is a detail.
	if p.q.state != "" && state != p.q.state || e.Gvtep != nil && e.Gvtep.Local && !p.own {
		return nil
	}
	if !p.a.stats {
		e.Used, e.Updated = nil, nil
	}
	if p.a.json {
		return p.json.add(e)
	}
	_, err := fmt.Fprintln(p.out, p.a.fdbLine(e, p.q.Dev == ""))
	return err
}

func (p *fdbPrinter) end() error {
	if p.a.json {
		return p.json.end()
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
	if e.Gvtep != nil && len(e.Gvtep.Options) > 0 {
		words = append(words, "options", strings.Join(e.Gvtep.Options, ","))
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
		if e.Gvtep.Owner != "" {
			words = append(words, "owner", e.Gvtep.Owner)
		}
		if e.Gvtep.Seq != 0 {
			words = append(words, "seq", fmt.Sprint(e.Gvtep.Seq))
		}
		if e.Gvtep.Local {
			words = append(words, "local")
		}
	}
	return strings.Join(words, " ")
}
