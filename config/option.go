package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"gvtep/vtep/option"
)

// The keywords for GENEVE options: those that are sent, and rules for those that arrive.

// optionsKeyword is the keyword of a tunnel, a peer and an entry. Without names the value is not looked
// at: a client does not know those of the daemon that it is for.
func optionsKeyword[T any](names *option.Registry, live bool, usage, more string, get func(*T) option.Sent, set func(*T, option.Sent)) entry[T] {
	return custom(Keyword{Name: "options", Aliases: []string{"geneve_opts"}, Kind: List, Arg: "CLASS:TYPE:DATA[,...]", Live: live, Usage: usage, More: more},
		func(t *T, v string) error {
			if names == nil {
				return nil
			}
			if before := names.Words(get(t)); len(before) > 0 {
				v = strings.Join(before, ",") + "," + v
			}
			sent, err := names.Parse(v)
			if err == nil {
				set(t, sent)
			}
			return err
		},
		func(t *T) []string { return names.Words(get(t)) })
}

// matchKeyword is the keyword of a tunnel for rules.
func matchKeyword(names *option.Registry) entry[Tunnel] {
	return custom(Keyword{Name: "match", Kind: List, Arg: "RULE", Usage: "rule for the GENEVE options of packets that arrive: \"accept|drop|count|vlan VID|vni VNI CLASS:TYPE[:DATA[/MASK]] [and ...]\", or any for every packet",
		More: "The rules are asked in their order; the first that does more than count decides, and what none matches is accepted. vlan gives the frame a VLAN tag, vni takes the packet as if it had come with that VNI. Packets with a critical option are dropped unless a rule that lets in or counts names it."},
		func(t *Tunnel, v string) error {
			if names == nil {
				return nil
			}
			rule, err := names.ParseRule(v)
			if err == nil {
				t.OptionRules = append(slices.Clip(t.OptionRules), rule)
			}
			return err
		},
		func(t *Tunnel) (all []string) {
			for _, rule := range t.OptionRules {
				all = append(all, names.RuleText(rule))
			}
			return all
		})
}

// sendKeyword is the keyword of a tunnel for rules about what is sent.
func sendKeyword(names *option.Registry) entry[Tunnel] {
	return custom(Keyword{Name: "send", Kind: List, Arg: "RULE", Usage: "rule for packets from the device: \"WHEN... then WHAT...\", such as \"dst 10.1.0.0/16 proto tcp then options ff01:01:0000004d dscp 10\"",
		More: "WHEN is src PREFIX, dst PREFIX, vlan VID, dscp N[-N], proto NAME, sport N[-N] or dport N[-N] of the inner packet, all of which must hold, or any. WHAT is options CLASS:TYPE:DATA[,...] or options none, in the place of those of tunnel and peer, dscp N of the outer packet, and vni VNI. The first rule that matches holds. The automatic MTU leaves room for the longest set of options."},
		func(t *Tunnel, v string) error {
			if names == nil {
				return nil
			}
			rule, err := names.ParseSendRule(v)
			if err == nil {
				t.SendRules = append(slices.Clip(t.SendRules), rule)
			}
			return err
		},
		func(t *Tunnel) (all []string) {
			for _, rule := range t.SendRules {
				all = append(all, names.SendText(rule))
			}
			return all
		})
}

// optionKeywords are the keys of [[option]].
func optionKeywords() []entry[option.Kind] {
	return []entry[option.Kind]{
		text(Keyword{Name: "name", Arg: "NAME", Live: true, Usage: "name of the option, such as my.pod"},
			func(k *option.Kind) *string { return &k.Name },
			func(v string) (string, error) {
				if !option.ValidName(v) {
					return "", wrong(option.WantName)
				}
				return v, nil
			}),
		custom(Keyword{Name: "id", Arg: "CLASS:TYPE", Live: true, Usage: "class and type in hexadecimal, such as ff01:81; types from 80 to ff are critical",
			More: "Classes from ff00 to ffff are free for experiments."},
			func(k *option.Kind, v string) (err error) {
				k.ID, err = option.ParseID(v)
				return err
			},
			func(k *option.Kind) []string { return []string{k.ID.String()} }),
		number(Keyword{Name: "length", Arg: "N|any", Values: []string{"any"}, Default: "any", Live: true, Usage: "length of the data in bytes, a multiple of 4; a packet in which it has another length is dropped",
			Min: 0, Max: 124, Step: 4, want: "want any or 0 to 124"},
			func(k *option.Kind) *int { return &k.Len }, option.Variable),
		choice(Keyword{Name: "format", Arg: "FORMAT", Values: option.Formats(), Default: string(option.Hex), Live: true, Usage: "how the data is written"},
			func(k *option.Kind) *option.Format { return &k.Format }, option.Hex, option.Uint, option.MAC, option.IPv4, option.Label),
		onoff(Keyword{Name: "known", Default: "false", Live: true, Usage: "let packets with the option in although it is critical; what the option means is not looked at"},
			func(k *option.Kind) *bool { return &k.Known }, true),
	}
}

func defaultKind() option.Kind { return option.Kind{Len: option.Variable, Format: option.Hex} }

// names are the options that have a name: the built-in ones and those of [[option]].
func (l *loader) names() *option.Registry {
	table := newIndex(optionKeywords())
	var kinds []option.Kind
	var places []place
	for _, f := range l.files {
		n := f.root.get("option")
		if n == nil {
			continue
		}
		if n.kind != unstable.ArrayTable {
			l.fault(f, n.key, "there can be several options: write [[option]]")
			continue
		}
		for _, item := range n.items {
			if k, ok := l.option(f, item, table); ok {
				kinds, places = append(kinds, k), append(places, place{f, item.at})
			}
		}
	}
	for {
		names, err := option.NewRegistry(kinds)
		bad := new(option.KindError)
		if !errors.As(err, &bad) {
			return names
		}
		l.fault(places[bad.Nth].file, places[bad.Nth].at, "%s", bad)
		kinds, places = slices.Delete(kinds, bad.Nth, bad.Nth+1), slices.Delete(places, bad.Nth, bad.Nth+1)
	}
}

// option reads an [[option]], and reports whether all in it is right.
func (l *loader) option(f *file, item *node, table index[option.Kind]) (k option.Kind, ok bool) {
	k = defaultKind()
	before := len(l.faults)
	for n := range item.table.all() {
		if e := table.entries[n.name]; e != nil {
			assignOne(l, f, e, &k, n)
		} else {
			l.fault(f, n.key, "unknown key %s: %s", plain(n.name), table.hint(n.name))
		}
	}
	for _, key := range []string{"name", "id"} {
		if item.table.get(key) == nil {
			l.fault(f, item.at, "no %s: an option has a name and an id, such as name = \"my.pod\" and id = \"ff01:01\"", key)
		}
	}
	return k, len(l.faults) == before
}
