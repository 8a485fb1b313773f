package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep/option"
)

// Draft gathers the keywords of one tunnel on the command line, and those of
// the process.
type Draft struct {
	config Config
	tunnel Tunnel
	words  map[string]spelling
	given  map[string]bool // by name
	help   string          // where the words are listed
	amends bool            // a running tunnel: the first value of a List replaces it
}

// spelling is a word that can be given.
type spelling struct {
	keyword *Keyword
	negated bool // the no-form of a switch
	give    func(word, value string) error
}

// NewDraft starts with the default values.
func NewDraft() *Draft {
	d := &Draft{
		config: defaultConfig(), tunnel: defaults(),
		words: map[string]spelling{}, given: map[string]bool{}, help: "gvtep run --help",
	}
	bind(d, tunnelKeywords(option.Default()), &d.tunnel, "")
	bind(d, processKeywords(), &d.config.Socket, "")
	bind(d, logKeywords(), &d.config.Log, logPrefix)
	bind(d, metricsWords(), &d.config.Metrics, "")
	return d
}

// bind adds the words of a table.
func bind[T any](d *Draft, table []entry[T], t *T, prefix string) {
	for i := range table {
		e := &table[i]
		e.Name = prefix + e.Name
		give := func(word, value string) error { return e.give(t, word, value) }
		for _, word := range append(e.Words(), e.Former...) {
			d.words[word] = spelling{&e.Keyword, e.Kind == Switch && word == "no"+e.Name, give}
		}
	}
}

// SetName names the tunnel.
func (d *Draft) SetName(name string) { d.tunnel.Device.Name = name }

// Set gives a keyword its value, which is checked at once. The value of a
// switch is on, off, true or false, that of a pair MIN-MAX.
func (d *Draft) Set(word, value string) error {
	s, ok := d.words[word]
	if !ok {
		return d.unknown(word)
	}
	k := s.keyword
	switch {
	case k.Name == "address" && isMAC(value):
		return d.Set("lladdr", value) // as in ip link add NAME address LLADDR type geneve
	case k.Kind == Short:
		if value != "on" && value != "true" {
			return fmt.Errorf("%s takes no value", word)
		}
		word, value, _ = strings.Cut(k.stands, " ")
		return d.Set(word, value)
	case s.negated:
		switch value {
		case "on", "true":
			value = "off"
		case "off", "false":
			value = "on"
		}
	}
	if d.given[k.Name] && k.Kind != List {
		return fmt.Errorf("%s is given twice", k.Name)
	}
	if d.amends && !d.given[k.Name] {
		switch k.Name {
		case "remote":
			d.tunnel.Peers = nil
		case "accept":
			d.tunnel.Accept = nil
		case "vlan":
			d.tunnel.VLANs = nil
		case "neigh":
			d.tunnel.Neighbours = nil
		case "options":
			d.tunnel.Options = option.Sent{}
		case "match":
			d.tunnel.OptionRules = nil
		case "send":
			d.tunnel.SendRules = nil
		case "address":
			d.tunnel.Device.Addresses = nil
		}
	}
	d.given[k.Name] = true
	return s.give(word, value)
}

// Words reads bare words, such as the tail of an "ip link add" line:
// type vxlan id 100 remote 203.0.113.1 noudpcsum.
func (d *Draft) Words(words []string) error {
	for len(words) > 0 {
		word, rest := words[0], words[1:]
		s, ok := d.words[word]
		if !ok {
			return d.unknown(word)
		}
		k := s.keyword
		value, n := "on", 0
		switch k.Kind {
		case Value, List:
			n = 1
		case Switch:
			if len(rest) > 0 && (rest[0] == "on" || rest[0] == "off") {
				n = 1
			}
		case Pair:
			n = 2
			if len(rest) > 0 && strings.Contains(rest[0], "-") {
				n = 1
			}
		}
		if n > len(rest) {
			return fmt.Errorf("%s needs a value: %s %s", word, k.Name, k.Arg)
		}
		if n > 0 {
			value = strings.Join(rest[:n], "-")
		}
		if err := d.Set(word, value); err != nil {
			return err
		}
		words = rest[n:]
	}
	return nil
}

// Config returns the checked configuration: that of the one tunnel.
func (d *Draft) Config() (Config, error) {
	t := d.tunnel
	given := func(key string) bool { return d.given[key] }
	found := append(check(&t, given, d.config.Socket.Ports), misplaced(&t, given)...)
	if len(found) > 0 {
		return Config{}, errors.New(found[0].Text)
	}
	cfg := d.config
	cfg.Tunnels = []Tunnel{t}
	return cfg, nil
}

// newWords reads words of one table into to.
func newWords[T any](table []entry[T], to *T, help string) *Draft {
	d := &Draft{words: map[string]spelling{}, given: map[string]bool{}, help: help}
	bind(d, table, to, "")
	return d
}

// ParseTunnel reads the keywords of a tunnel to be added to a process with
// the settings s and the options that names knows; nil: those are not looked at. help is the
// command that lists the keywords.
func ParseTunnel(name string, words []string, s Socket, names *option.Registry, help string) (Tunnel, error) {
	t := defaults()
	t.Device.Name, t.DstPort = name, s.Port
	d := newWords(tunnelKeywords(names), &t, help)
	if err := d.Words(words); err != nil {
		return t, err
	}
	given := func(key string) bool { return d.given[key] }
	if found := append(check(&t, given, s.Ports), misplaced(&t, given)...); len(found) > 0 {
		return t, errors.New(found[0].Text)
	}
	return t, nil
}

// AmendTunnel is t with keywords changed. Those that can be repeated replace
// all values that there were; a remote that stays keeps its settings. The
// result is not yet checked as a whole: the endpoint does that.
func AmendTunnel(t Tunnel, words []string, names *option.Registry, help string) (Tunnel, error) {
	before := t.Peers
	d := &Draft{tunnel: t, words: map[string]spelling{}, given: map[string]bool{}, help: help, amends: true}
	bind(d, tunnelKeywords(names), &d.tunnel, "")
	err := d.Words(words)
	t = d.tunnel
	if d.given["remote"] {
		known := make(map[netip.Addr]Peer, len(before))
		for _, p := range before {
			known[p.Remote] = p
		}
		for i, p := range t.Peers {
			if o, ok := known[p.Remote]; ok {
				t.Peers[i] = o
			}
		}
	}
	if found := misplaced(&t, func(key string) bool { return d.given[key] }); err == nil && len(found) > 0 {
		err = errors.New(found[0].Text)
	}
	return t, err
}

// ParsePeer reads a peer, "ADDR [name TEXT] [dstport PORT] [flood on|off]
// [bfd off|on|TIMExN] [bum_limit PPS] [routes PREFIX]...", over the settings that it has. Routes replace all that there were.
func ParsePeer(p Peer, addr string, words []string, names *option.Registry) (_ Peer, err error) {
	if p.Remote, err = remote(addr); err != nil {
		return p, fmt.Errorf("%s: %w", plain(addr), err)
	}
	before, options := p.Routes, p.Options
	p.Routes, p.Options = nil, option.Sent{}
	d := newWords(peerKeywords(names), &p, "gvtep peer --help")
	if err = d.Words(words); !d.given["routes"] {
		p.Routes = before
	}
	if !d.given["options"] {
		p.Options = options
	}
	routes := makeSet[netip.Prefix](len(p.Routes))
	for _, r := range p.Routes {
		if !routes.add(r) && err == nil {
			err = fmt.Errorf("routes %s: given twice", r)
		}
	}
	return p, err
}

// ParseEntry reads an entry of a forwarding table in the words of bridge(8),
// "LLADDR [local|static|dynamic|permanent] [sticky] [extern_learn] [dst ADDR]
// [port PORT] [vni VNI] [vlan VID] [src_vni VNI] [via DEV] [options CLASS:TYPE:DATA]". The zero
// address is the flood list. Without names options are not looked at.
func ParseEntry(addr string, words []string, names *option.Registry) (Entry, error) {
	e := defaultEntry()
	var err error
	if addr == zeroAddress {
		e.MAC = packet.MAC{}
	} else if e.MAC, err = entryAddress(addr); err != nil {
		return e, fmt.Errorf("%s: %w", plain(addr), err)
	}
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "self" }) // as bridge prints it
	d := newWords(append(entryKeywords(names), handKeywords()...), &e, "gvtep fdb --help")
	if err := d.Words(words); err != nil {
		return e, err
	}
	switch {
	case d.given["dynamic"] && d.given["state"]:
		at := slices.IndexFunc(words, func(w string) bool { return w == fdb.Static.String() || w == fdb.Permanent.String() })
		return e, fmt.Errorf("dynamic and %s exclude each other", words[at])
	case e.State != fdb.Dynamic && e.Flags != 0:
		return e, errors.New("sticky and extern_learn are for dynamic entries: add dynamic")
	case e.Local && e.Remote.IsValid():
		return e, errors.New("local and dst exclude each other")
	}
	return e, nil
}

// Amend lets what was given on the command line stand before what a file says.
// Keywords of a tunnel have no place there.
func (d *Draft) Amend(cfg *Config) error {
	for _, e := range tunnelKeywords(nil) {
		if d.given[e.Name] {
			return fmt.Errorf("%s beside --config: write it into the file", e.Name)
		}
	}
	for _, change := range []struct {
		word string
		do   func()
	}{
		{"workers", func() { cfg.Socket.Workers = d.config.Socket.Workers }},
		{"cpus", func() { cfg.Socket.CPUs = d.config.Socket.CPUs }},
		{"rcvbuf", func() { cfg.Socket.Rcvbuf = d.config.Socket.Rcvbuf }},
		{"busypoll", func() { cfg.Socket.BusyPoll = d.config.Socket.BusyPoll }},
		{"log-level", func() { cfg.Log.Level = d.config.Log.Level }},
		{"log-format", func() { cfg.Log.Format = d.config.Log.Format }},
		{"metrics", func() { cfg.Metrics.Listen = d.config.Metrics.Listen }},
	} {
		if d.given[change.word] {
			change.do()
		}
	}
	return nil
}

// kernelOnly is what to do instead of a word of "ip link add ... type vxlan" that stands for
// nothing here; "": it is none.
func kernelOnly(word string) string {
	switch word {
	case "external", "vnifilter":
		return "a TAP has no metadata per packet, use one tunnel for each VNI, or vlan"
	case "proxy":
		return "use neigh_suppress on, which answers ARP and ND"
	case "l2miss", "l3miss":
		return "leave it out; gvtep monitor tells what happens"
	case "gbp", "gpe", "rsc", "remcsumtx", "remcsumrx", "localbypass", "flowlabel":
		return "leave it out, gvtep has none of this"
	}
	return ""
}

func (d *Draft) unknown(word string) error {
	if instead := kernelOnly(strings.TrimPrefix(word, "no")); instead != "" {
		return fmt.Errorf("%s: %s", word, instead)
	}
	if near := Closest(word, slices.Sorted(maps.Keys(d.words))); near != "" {
		return fmt.Errorf("unknown keyword %q: did you mean %s?", word, near)
	}
	return fmt.Errorf("unknown keyword %q: %s lists them", word, d.help)
}

// Closest returns the word that word was probably meant to be, or "". Two
// mistakes are forgiven, one in a short word.
func Closest(word string, words []string) string {
	best, bestDistance := "", 1+min(2, (len(word)+1)/3)
	for _, w := range words {
		if d := distance(word, w); d < bestDistance {
			best, bestDistance = w, d
		}
	}
	return best
}

// distance counts the insertions, deletions, changes and swaps of neighbours
// between two words (optimal string alignment).
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
