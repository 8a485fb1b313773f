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

// Want is an option that a rule asks for.
type Want struct {
	ID
	// Data and Mask are as long as each other: an option is wanted whose data begins with Data, as far
	// as the bits of Mask are set. "" wants every option of the kind.
	Data, Mask string
}

// MaxWants is how many options a rule can ask for together: the two labels of a pair, and more.
const MaxWants = 4

// Rule matches packets by their options. It can be compared. The zero value accepts every packet.
type Rule struct {
	Action Action
	To     uint32 // of ActVLAN and ActVNI
	wants  [MaxWants]Want
	n      uint8 // of wants
}

// Wants are the options that a packet must have, all of them. Without any the rule matches every packet.
func (u *Rule) Wants() []Want { return u.wants[:u.n] }

// is reports whether an option is the one that is wanted.
func (w *Want) is(opt geneve.Option) bool {
	if w.Class != opt.Class || w.Type != opt.Type || len(opt.Data) < len(w.Data) {
		return false
	}
	for i := range len(w.Data) {
		if (opt.Data[i]^w.Data[i])&w.Mask[i] != 0 {
			return false
		}
	}
	return true
}

// found reports whether one of the options is the one that is wanted.
func (w *Want) found(options geneve.Options) bool {
	for opt := range options.All() {
		if w.is(opt) {
			return true
		}
	}
	return false
}

// matches reports whether options are what a rule wants.
func (u *Rule) matches(options geneve.Options) bool {
	wants := u.Wants()
	for i := range wants {
		if !wants[i].found(options) {
			return false
		}
	}
	return true
}

// and stands between the options of a rule.
const and = " and "

// ParseRule reads a rule: "ACTION WANT [and WANT]..." or "ACTION any". WANT is
// CLASS:TYPE[:DATA[/MASK]].
func (r *Registry) ParseRule(text string) (u Rule, err error) {
	what, err := u.action(text)
	if err != nil || what == "any" {
		return u, err
	}
	for word := range strings.SplitSeq(what, and) {
		if u.n == MaxWants {
			return Rule{}, fmt.Errorf("a rule asks for %d options at most", MaxWants)
		}
		if u.wants[u.n], err = r.want(strings.TrimSpace(word)); err != nil {
			return Rule{}, err
		}
		u.n++
	}
	return u, nil
}

// want reads CLASS:TYPE[:DATA[/MASK]].
func (r *Registry) want(text string) (w Want, err error) {
	if strings.Contains(text, ",") {
		return w, fmt.Errorf("%q: write and between two options, not a comma", text)
	}
	what, mask, masked := strings.Cut(text, "/")
	if w.ID, err = r.ID(what); err == nil && !masked {
		return w, nil
	}
	sent, err := r.Parse(what)
	switch {
	case err != nil:
		return w, err
	case sent.slots != "":
		return w, fmt.Errorf("%q: want data, such as 00010002", what)
	}
	for opt := range geneve.Options(sent.Set).All() {
		w.ID, w.Data = ID{opt.Class, opt.Type}, string(opt.Data)
	}
	w.Mask = exact(len(w.Data))
	if masked {
		m, err := Hex.parse(mask, Variable)
		if err != nil || len(m) != len(w.Data) {
			return w, fmt.Errorf("mask %q: want %d bytes in hexadecimal, as many as the data has", mask, len(w.Data))
		}
		w.Mask = string(m)
	}
	return w, nil
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
	if u.n == 0 {
		return action + " any"
	}
	var words []string
	for _, w := range u.Wants() {
		words = append(words, r.wantText(w))
	}
	return action + " " + strings.Join(words, and)
}

func (r *Registry) wantText(w Want) string {
	text := r.Name(w.ID)
	if w.Data != "" {
		word := r.word(geneve.Option{Class: w.Class, Type: w.Type, Data: []byte(w.Data)}, "")
		if strings.Contains(word, "/") { // in a label, where it is no mask
			word = fmt.Sprintf("%s:0x%x", text, w.Data)
		}
		text = word
	}
	if w.Mask != exact(len(w.Data)) {
		text += fmt.Sprintf("/%x", w.Mask)
	}
	return text
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
	for i := range rules {
		for _, w := range rules[i].Wants() {
			if k, ok := known.Find(w.ID); ok && k.Len != Variable {
				p.builtin = append(p.builtin, k)
			}
		}
		p.any = p.any || rules[i].n == 0
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
		if !u.matches(options) {
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
		if rules[i].Action == ActDrop {
			continue
		}
		for _, w := range rules[i].Wants() {
			if w.ID == id {
				return true
			}
		}
	}
	return false
}

// knows reports whether a critical option is let in without a rule.
func (r *Registry) knows(id ID) bool { return len(r.Own()) > 0 && r.ownIDs[id].Known }
