package option

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

// Verdict is what becomes of a packet because of its options.
type Verdict uint8

// The verdicts.
const (
	Accept    Verdict = iota // it goes on
	Drop                     // a rule, or the default, says so
	Unknown                  // it has a critical option that no rule accepts
	Malformed                // an option is not as long as its kind is (RFC 8926 section 3.5.1)
)

// Actions are the words for what a rule does.
var actions = []string{"accept", "drop", "count", "vlan", "vni"}

// Action is what a rule does with a packet that it matches.
type Action uint8

// The actions.
const (
	ActAccept Action = iota // it is let in; no later rule is asked
	ActDrop                 // it is dropped; no later rule is asked
	ActCount                // it is counted, and the next rule is asked
	ActVLAN                 // it is let in, and gets a VLAN tag with the ID Rule.To
	ActVNI                  // it is let in as if it had come with the VNI Rule.To
)

func (a Action) String() string { return actions[a] }

// takes are the values that an action has: up to most; 0: it has none.
func (a Action) takes() (most uint64) {
	switch a {
	case ActVLAN:
		return 4094
	case ActVNI:
		return uint64(packet.MaxVNI)
	}
	return 0
}

// Rule matches packets by one option.
type Rule struct {
	ID
	// Any matches every packet, without an option as well.
	Any bool
	// Data and Mask are as long as each other: an option matches whose data begins with Data, as far
	// as the bits of Mask are set. "" matches every option of the kind.
	Data, Mask string
	Action     Action
	To         uint32 // of ActVLAN and ActVNI
}

// matches reports whether an option is what a rule wants.
func (u *Rule) matches(opt geneve.Option) bool {
	if u.Class != opt.Class || u.Type != opt.Type || len(opt.Data) < len(u.Data) {
		return false
	}
	for i := range len(u.Data) {
		if (opt.Data[i]^u.Data[i])&u.Mask[i] != 0 {
			return false
		}
	}
	return true
}

// ParseRule reads a rule: ACTION CLASS:TYPE[:DATA[/MASK]], or ACTION any.
func (r *Registry) ParseRule(text string) (u Rule, err error) {
	what, err := u.action(text)
	if err != nil {
		return Rule{}, err
	}
	if what == "any" {
		u.Any = true
		return u, nil
	}
	if strings.Contains(what, ",") {
		return Rule{}, fmt.Errorf("%q: a rule is about one option", what)
	}
	what, mask, masked := strings.Cut(what, "/")
	if u.ID, err = r.ID(what); err == nil && !masked {
		return u, nil
	}
	sent, err := r.Parse(what)
	switch {
	case err != nil:
		return Rule{}, err
	case sent.slots != "":
		return Rule{}, fmt.Errorf("%q: want data, such as 00010002", what)
	}
	for opt := range geneve.Options(sent.Set).All() {
		u.ID, u.Data = ID{opt.Class, opt.Type}, string(opt.Data)
	}
	u.Mask = exact(len(u.Data))
	if masked {
		m, err := Hex.parse(mask, Variable)
		if err != nil || len(m) != len(u.Data) {
			return Rule{}, fmt.Errorf("mask %q: want %d bytes in hexadecimal, as many as the data has", mask, len(u.Data))
		}
		u.Mask = string(m)
	}
	return u, nil
}

// action reads what a rule does, and returns the rest of its words.
func (u *Rule) action(text string) (rest string, err error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	if word == "mark" {
		return "", errors.New("the kernel takes no mark with what is written to a device: use vlan VID, and mark by that")
	}
	i := slices.Index(actions, word)
	if i < 0 {
		return "", errors.New("want accept, drop, count, vlan VID or vni VNI first")
	}
	u.Action, rest = Action(i), strings.TrimSpace(rest)
	if most := u.Action.takes(); most > 0 {
		value, behind, _ := strings.Cut(rest, " ")
		n, err := strconv.ParseUint(value, 0, 32)
		if err != nil || n > most || n == 0 && u.Action == ActVLAN {
			return "", fmt.Errorf("%s %q: want a number up to %d", word, value, most)
		}
		u.To, rest = uint32(n), strings.TrimSpace(behind)
	}
	return rest, nil
}

// exact is the mask that looks at all of n bytes.
func exact(n int) string { return string(bytes.Repeat([]byte{0xff}, n)) }

// RuleText writes a rule as ParseRule reads it.
func (r *Registry) RuleText(u Rule) string {
	action := u.Action.String()
	if u.Action.takes() > 0 {
		action = fmt.Sprintf("%s %d", action, u.To)
	}
	if u.Any {
		return action + " any"
	}
	what := r.Name(u.ID)
	if u.Data != "" {
		what = r.word(geneve.Option{Class: u.Class, Type: u.Type, Data: []byte(u.Data)}, "")
	}
	if u.Mask != exact(len(u.Data)) {
		what += fmt.Sprintf("/%x", u.Mask)
	}
	return action + " " + what
}

// Policy decides about packets by their options. It is never changed once made. A nil one has no
// rules.
type Policy struct {
	rules []Rule
	any   bool // some rule is about packets without options, too
	// builtin are the kinds of fixed length that rules name, as far as they are built in.
	builtin []Kind
}

// Rules are those that it was made of.
func (p *Policy) Rules() []Rule {
	if p == nil {
		return nil
	}
	return p.rules
}

// NewPolicy makes a policy of rules, of which the first that matches decides; nil if there are
// none. What no rule matches is accepted, unless it has a critical option.
func NewPolicy(rules []Rule) *Policy {
	if len(rules) == 0 {
		return nil
	}
	p := &Policy{rules: slices.Clone(rules)}
	known := Default()
	for _, u := range rules {
		if k, ok := known.Find(u.ID); ok && !u.Any && k.Len != Variable {
			p.builtin = append(p.builtin, k)
		}
		p.any = p.any || u.Any
	}
	return p
}

// Concerns reports whether Decide has to be asked about a packet that has options, or none.
func (p *Policy) Concerns(names *Registry, options bool) bool {
	if !options {
		return p != nil && p.any
	}
	return p != nil || len(names.Own()) > 0
}

// Decide says what becomes of n packets with an option area, which is well formed, and counts them
// for each rule that matched in hits, one for each rule. by is the rule that let it in, nil if none did.
// It does not allocate. A critical option is known if a rule that does not drop names its kind, or
// names says so.
func (p *Policy) Decide(names *Registry, area []byte, hits []atomic.Uint64, n uint64) (v Verdict, by *Rule) {
	options := geneve.Options(area)
	if p.malformed(names, options) {
		return Malformed, nil
	}
	rules := p.Rules()
	for i := range rules {
		u := &rules[i]
		if !u.Any && !u.found(options) {
			continue
		}
		hits[i].Add(n)
		switch u.Action {
		case ActCount:
			continue
		case ActDrop:
			return Drop, nil
		}
		return p.critical(names, options), u
	}
	return p.critical(names, options), nil
}

// malformed finds an option of another length than its kind has: one of the registry's own, or a
// built-in one that a rule names.
func (p *Policy) malformed(names *Registry, options geneve.Options) bool {
	own := len(names.Own()) > 0
	for opt := range options.All() {
		id := ID{opt.Class, opt.Type}
		if own {
			if k, ok := names.ownIDs[id]; ok {
				if k.Len != Variable && k.Len != len(opt.Data) {
					return true
				}
				continue
			}
		}
		if p == nil {
			continue
		}
		for i := range p.builtin {
			if k := &p.builtin[i]; k.ID == id && k.Len != len(opt.Data) {
				return true
			}
		}
	}
	return false
}

// found reports whether one of the options is what a rule wants.
func (u *Rule) found(options geneve.Options) bool {
	for opt := range options.All() {
		if u.matches(opt) {
			return true
		}
	}
	return false
}

// critical is the verdict on a packet that no rule drops.
func (p *Policy) critical(names *Registry, options geneve.Options) Verdict {
	for opt := range options.All() {
		if id := (ID{opt.Class, opt.Type}); opt.Critical() && !p.knows(id) && !names.knows(id) {
			return Unknown
		}
	}
	return Accept
}

func (p *Policy) knows(id ID) bool {
	rules := p.Rules()
	for i := range rules {
		if u := &rules[i]; !u.Any && u.ID == id && u.Action != ActDrop {
			return true
		}
	}
	return false
}

// knows reports whether a critical option is let in without a rule.
func (r *Registry) knows(id ID) bool { return len(r.Own()) > 0 && r.ownIDs[id].Known }
