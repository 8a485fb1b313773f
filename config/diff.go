package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gvtep/vtep/option"
)

// Changes is what makes one configuration of another.
type Changes struct {
	Process []KeyChange // of [log], [socket], [metrics], [hooks] and [[option]], by their full name, such as socket.workers
	Added   []Tunnel
	Removed []string
	Changed []TunnelChange
}

// TunnelChange is a tunnel that is in both configurations and not the same.
type TunnelChange struct {
	Tunnel Tunnel // as it is to be
	// Now is what it can be without a restart: Tunnel with the old values of
	// the keywords that are not live.
	Now  Tunnel
	Keys []KeyChange
}

// Live reports whether Now differs from what was before.
func (t *TunnelChange) Live() bool {
	return slices.ContainsFunc(t.Keys, func(k KeyChange) bool { return k.Live })
}

// KeyChange is a keyword that has another value.
type KeyChange struct {
	Key      string
	Old, New string // as in a file; "": not set
	// Live says that it can be changed while packets flow. Otherwise it takes
	// a restart.
	Live bool
}

// Empty reports whether there is no change.
func (c *Changes) Empty() bool {
	return len(c.Process)+len(c.Added)+len(c.Removed)+len(c.Changed) == 0
}

// Restart reports whether something takes a restart.
func (c *Changes) Restart() bool {
	fixed := func(k KeyChange) bool { return !k.Live }
	return slices.ContainsFunc(c.Process, fixed) ||
		slices.ContainsFunc(c.Changed, func(t TunnelChange) bool { return slices.ContainsFunc(t.Keys, fixed) })
}

// keepFixed sets the keywords of to that are not live, and differ, to the values
// of old.
func keepFixed[T any](table []entry[T], to, old *T) {
	for i := range table {
		if e := &table[i]; !e.Live && !slices.Equal(e.get(old), e.get(to)) {
			e.copy(to, old)
		}
	}
}

// TakeBack returns before, from which a change made after, with the peers and entries that
// others have added to now, removed from it or changed since then.
func TakeBack(now, before, after Tunnel) Tunnel {
	before.Peers = takeBack(now.Peers, before.Peers, after.Peers, Peer.Equal, func(p *Peer) netip.Addr { return p.Remote })
	before.Entries = takeBack(now.Entries, before.Entries, after.Entries, func(a, b Entry) bool { return a == b }, (*Entry).ID)
	return before
}

// takeBack is TakeBack of peers, or entries, by their key.
func takeBack[T any, K comparable](now, before, after []T, equal func(T, T) bool, key func(*T) K) []T {
	if sameArray(before, after) {
		return now
	}
	was, is := make(map[K]*T, len(before)), make(map[K]*T, len(after))
	for i := range before {
		was[key(&before[i])] = &before[i]
	}
	for i := range after {
		is[key(&after[i])] = &after[i]
	}
	left, there := make([]T, 0, len(now)), make(map[K]bool, len(now))
	for i := range now {
		k := key(&now[i])
		old, new := was[k], is[k]
		switch {
		case old == nil && new != nil: // it came with the change
			continue
		case old != nil && new != nil && !equal(*old, *new):
			left = append(left, *old)
		default:
			left = append(left, now[i])
		}
		there[k] = true
	}
	for i := range before {
		if k := key(&before[i]); is[k] == nil && !there[k] {
			left = append(left, before[i])
		}
	}
	return left
}

// sameArray reports whether two lists are one, without a look at their elements.
func sameArray[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// KeepProcess is to as a process that runs from can have it without a restart, but
// for the tunnels, of which Diff tells.
func KeepProcess(from, to Config) Config {
	to.Instance = from.Instance
	keepFixed(logKeywords(), &to.Log, &from.Log)
	keepFixed(processKeywords(), &to.Socket, &from.Socket)
	keepFixed(hookKeywords(), &to.Hooks, &from.Hooks)
	keepFixed(metricsKeywords(), &to.Metrics, &from.Metrics)
	return to
}

// processKeywords are those of [socket] without the defaults of tunnels, which show
// in the tunnels.
func processKeywords() []entry[Socket] {
	return slices.DeleteFunc(socketKeywords(), func(e entry[Socket]) bool { return fileOnly(e.Name) })
}

// Diff finds what makes to of from. Tunnels are the same if their names are;
// they come in the order of to, those removed in the order of from.
func Diff(from, to Config) Changes {
	var c Changes
	if from.Instance != to.Instance {
		c.Process = append(c.Process, KeyChange{Key: "instance", Old: optional(from.Instance), New: optional(to.Instance)})
	}
	c.Process = append(c.Process, changedKeys("log.", logKeywords(), &from.Log, &to.Log)...)
	c.Process = append(c.Process, changedKeys("socket.", processKeywords(), &from.Socket, &to.Socket)...)
	c.Process = append(c.Process, changedKeys("hooks.", hookKeywords(), &from.Hooks, &to.Hooks)...)

	c.Process = append(c.Process, changedKeys("metrics.", metricsKeywords(), &from.Metrics, &to.Metrics)...)
	c.Process = append(c.Process, changedItems("option ", optionKeywords(), from.Names.Own(), to.Names.Own(),
		func(a, b option.Kind) bool { return a == b }, func(k *option.Kind) option.ID { return k.ID })...)

	// The peers have a form of their own below.
	tunnels := slices.DeleteFunc(tunnelKeywords(to.Names), func(e entry[Tunnel]) bool { return e.Kind == Short || e.Name == "remote" })
	peers, entries := peerKeywords(to.Names), entryKeywords(to.Names)
	old := make(map[string]*Tunnel, len(from.Tunnels))
	for i := range from.Tunnels {
		old[from.Tunnels[i].Device.Name] = &from.Tunnels[i]
	}
	kept := make(map[string]bool, len(to.Tunnels))
	for i := range to.Tunnels {
		t := &to.Tunnels[i]
		before := old[t.Device.Name]
		if before == nil {
			c.Added = append(c.Added, *t)
			continue
		}
		kept[t.Device.Name] = true
		keys := changedKeys("", tunnels, before, t)
		if before.SrcPorts != t.SrcPorts && before.SrcPortMin == t.SrcPortMin && before.SrcPortMax == t.SrcPortMax {
			keys = append(keys, KeyChange{"ports", itoa(before.SrcPorts), itoa(t.SrcPorts), true})
		}
		keys = append(keys, changedItems("peer ", peers, before.Peers, t.Peers, Peer.Equal, func(p *Peer) netip.Addr { return p.Remote })...)
		keys = append(keys, changedItems("fdb ", entries, before.Entries, t.Entries, func(a, b Entry) bool { return a == b }, (*Entry).ID)...)
		if len(keys) > 0 {
			now := *t
			keepFixed(tunnels, &now, before)
			c.Changed = append(c.Changed, TunnelChange{*t, now, keys})
		}
	}
	for _, t := range from.Tunnels {
		if !kept[t.Device.Name] {
			c.Removed = append(c.Removed, t.Device.Name)
		}
	}
	return c
}

func optional(s string) string {
	if s == "" {
		return ""
	}
	return quote(s)
}

func changedKeys[T any](prefix string, table []entry[T], from, to *T) (keys []KeyChange) {
	for i := range table {
		e := &table[i]
		a, b := e.get(from), e.get(to)
		if slices.Equal(a, b) {
			continue
		}
		k := KeyChange{Key: prefix + e.Name, Live: e.Live}
		if a != nil {
			k.Old = e.toml(a)
		}
		if b != nil {
			k.New = e.toml(b)
		}
		keys = append(keys, k)
	}
	return keys
}

// changedItems compares peers, or entries, by their key. Their order means
// nothing.
func changedItems[T any, K interface {
	comparable
	fmt.Stringer
}](prefix string, table []entry[T], from, to []T, equal func(T, T) bool, key func(*T) K) (keys []KeyChange) {
	if sameArray(from, to) || slices.EqualFunc(from, to, equal) {
		return nil
	}
	// Only what differs is put into words: of a million entries often one.
	describe := func(item *T) string {
		if item == nil {
			return ""
		}
		words := []string{}
		for _, e := range table {
			if v := e.get(item); v != nil {
				words = append(words, fmt.Sprintf("%s = %s", e.Name, e.toml(v)))
			}
		}
		return "{" + strings.Join(words, ", ") + "}"
	}
	before := make(map[K]*T, len(from))
	for i := range from {
		before[key(&from[i])] = &from[i]
	}
	now := make(map[K]bool, len(to))
	for i := range to {
		k := key(&to[i])
		now[k] = true
		if old := before[k]; old == nil || !equal(*old, to[i]) {
			if a, b := describe(old), describe(&to[i]); a != b {
				keys = append(keys, KeyChange{prefix + k.String(), a, b, true})
			}
		}
	}
	for i := range from {
		if k := key(&from[i]); !now[k] {
			keys = append(keys, KeyChange{prefix + k.String(), describe(&from[i]), "", true})
		}
	}
	return keys
}
