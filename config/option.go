package config

import (
	"slices"
	"strings"

	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// The keywords for GENEVE options: those that are sent, and rules for those that arrive.

// optionsKeyword is the keyword of a tunnel, and of a peer.
func optionsKeyword[T any](live bool, usage, more string, at func(*T) *option.Sent) entry[T] {
	return custom(Keyword{Name: "options", Aliases: []string{"geneve_opts"}, Kind: List, Arg: "CLASS:TYPE:DATA[,...]", Live: live, Usage: usage, More: more},
		func(t *T, v string) error {
			names := option.Default()
			if before := names.Words(*at(t)); len(before) > 0 {
				v = strings.Join(before, ",") + "," + v
			}
			sent, err := names.Parse(v)
			if err == nil {
				*at(t) = sent
			}
			return err
		},
		func(t *T) []string { return option.Default().Words(*at(t)) })
}

// matchKeyword is the keyword of a tunnel for rules.
func matchKeyword() entry[Tunnel] {
	return custom(Keyword{Name: "match", Kind: List, Arg: "RULE", Usage: "rule for the GENEVE options of packets that arrive: \"accept|drop|count CLASS:TYPE[:DATA[/MASK]]\", or any for every packet",
		More: "The rules are asked in their order; the first that accepts or drops decides, and what none matches is accepted. Packets with a critical option are dropped unless a rule that accepts or counts names it."},
		func(t *Tunnel, v string) error {
			rule, err := option.Default().ParseRule(v)
			if err == nil {
				t.OptionRules = append(t.OptionRules, rule)
			}
			return err
		},
		func(t *Tunnel) (all []string) {
			for _, rule := range t.OptionRules {
				all = append(all, option.Default().RuleText(rule))
			}
			return all
		})
}

// checkOptions is the part of check for options.
func checkOptions(t *Tunnel, report func(key string, nth int, format string, args ...any)) {
	if !t.Encap.HasOptions() {
		given := t.Options.Set != "" || slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Options.Set != "" })
		switch {
		case given:
			report("options", 0, "options: encap %s has none, encap %s has", t.Encap, encap.Geneve)
		case len(t.OptionRules) > 0:
			report("match", 0, "match: encap %s has no options, encap %s has", t.Encap, encap.Geneve)
		}
		return
	}
	look := func(key string, nth int, sent option.Sent) {
		for _, s := range sent.Slots() {
			if t.Device.L3 && s.From != option.FromDSCP {
				report(key, nth, "options %s: a mode l3 packet has no VLAN and no MAC address", strings.Join(option.Default().Words(sent), ","))
				return
			}
		}
	}
	look("options", 0, t.Options)
	for i, p := range t.Peers {
		look("remote", i, p.Options)
	}
}
