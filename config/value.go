package config

import (
	"fmt"
	"slices"
	"strings"
)

// entry is a keyword with access to what it sets in a T. This is the one
// place where a value is checked, whether it came as a flag, as a bare word or
// in a file.
type entry[T any] struct {
	Keyword
	set func(t *T, value string) error
	// get returns the value in a form that set takes: nothing if there is none,
	// several of a List and the two of a Pair.
	get func(t *T) []string
	// copy takes the value over from another; nil if that is never wanted, as
	// of a custom keyword that is live.
	copy func(to, from *T)
}

// copying completes a custom keyword that is not live.
func (e entry[T]) copying(copy func(to, from *T)) entry[T] {
	e.copy = copy
	return e
}

func copyOf[T, V any](at func(*T) *V) func(to, from *T) {
	return func(to, from *T) { *at(to) = *at(from) }
}

// give sets the keyword, which was spelled word.
func (e *entry[T]) give(t *T, word, value string) error {
	if value == "" {
		return fmt.Errorf("%s needs a value: %s %s", word, e.Name, e.Arg)
	}
	if err := e.set(t, value); err != nil {
		return fmt.Errorf("%s %s: %w", word, plain(value), err)
	}
	return nil
}

// plain is a value as it may stand in a line for people.
func plain(value string) string {
	for _, r := range value {
		if r < '!' || r == 0x7f || r == '\ufffd' {
			return fmt.Sprintf("%.80q", value)
		}
	}
	if len(value) > 80 {
		return value[:80] + "..."
	}
	return value
}

func custom[T any](k Keyword, set func(*T, string) error, get func(*T) []string) entry[T] {
	if !k.Number && k.Kind != Switch {
		k.Text = true
	}
	return entry[T]{Keyword: k, set: set, get: get}
}

// number is a keyword for a number, or for one of its words, which stand for
// the numbers given.
func number[T any, N int | uint16 | uint32](k Keyword, at func(*T) *N, words ...N) entry[T] {
	k.Number = true
	set := func(t *T, v string) error {
		if i := slices.Index(k.Values, v); i >= 0 {
			*at(t) = words[i]
			return nil
		}
		n, err := parseNumber(v, k.Min, k.Max, k.want)
		if err == nil {
			*at(t) = N(n)
		}
		return err
	}
	get := func(t *T) []string {
		n := *at(t)
		if i := slices.Index(words, n); i >= 0 {
			return []string{k.Values[i]}
		}
		if int(n) < k.Min {
			return nil // not set
		}
		return []string{itoa(int(n))}
	}
	return entry[T]{k, set, get, copyOf(at)}
}

// choice is a keyword for one of its words, which stand for the values given.
func choice[T any, V comparable](k Keyword, at func(*T) *V, values ...V) entry[T] {
	return valued(k, func(t *T) V { return *at(t) }, func(t *T, v V) { *at(t) = v }, values...)
}

// valued is choice of a value that does not stand in one place.
func valued[T any, V comparable](k Keyword, valueOf func(*T) V, take func(*T, V), values ...V) entry[T] {
	last := len(k.Values) - 1
	k.want = "want " + strings.Join(k.Values[:last], ", ") + " or " + k.Values[last]
	set := func(t *T, v string) error {
		i := slices.Index(k.Values, v)
		if i < 0 {
			return wrong("%s", k.want)
		}
		take(t, values[i])
		return nil
	}
	get := func(t *T) []string {
		i := slices.Index(values, valueOf(t))
		if i < 0 {
			return nil
		}
		return []string{k.Values[i]}
	}
	return entry[T]{k, set, get, func(to, from *T) { take(to, valueOf(from)) }}
}

// word is a keyword for on or off; set is what on sets.
func word[T any](k Keyword, at func(*T) *bool, set bool) entry[T] {
	k.Arg, k.Values = "on|off", []string{"on", "off"}
	return choice(k, at, set, !set)
}

// onoff is a switch; set is what on sets.
func onoff[T any](k Keyword, at func(*T) *bool, set bool) entry[T] {
	k.Kind = Switch
	give := func(t *T, v string) error {
		on, err := parseSwitch(v)
		if err == nil {
			*at(t) = on == set
		}
		return err
	}
	return entry[T]{k, give, func(t *T) []string { return []string{onOff(*at(t) == set)} }, copyOf(at)}
}

// text is a keyword for a text that check brings into its canonical form.
func text[T any](k Keyword, at func(*T) *string, check func(string) (string, error)) entry[T] {
	k.Text = true
	set := func(t *T, v string) (err error) {
		*at(t), err = check(strings.Clone(v)) // it may be a part of a file
		return err
	}
	get := func(t *T) []string {
		if *at(t) == "" {
			return nil
		}
		return []string{*at(t)}
	}
	return entry[T]{k, set, get, copyOf(at)}
}
