package config

import (
	"strings"

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
