package config

import (
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Hooks are programs to run when something happens: path and arguments. None
// goes through a shell.
type Hooks struct {
	Up, Down           []string      // a tunnel carries packets, or no longer
	PeerSeen, PeerLost []string      // a packet of a peer came for the first time or again, or none for LostAfter
	Timeout            time.Duration // a program that runs longer is killed
	LostAfter          time.Duration
}

// Any reports whether there is a program to run.
func (h *Hooks) Any() bool { return len(h.Up)+len(h.Down)+len(h.PeerSeen)+len(h.PeerLost) > 0 }

// Defaults of [hooks].
const (
	DefaultHookTimeout = 10 * time.Second
	DefaultLostAfter   = 60 * time.Second
)

func defaultHooks() Hooks { return Hooks{Timeout: DefaultHookTimeout, LostAfter: DefaultLostAfter} }

// hookKeywords are the keys of [hooks].
func hookKeywords() []entry[Hooks] {
	return []entry[Hooks]{
		program("on-up", "program, with its arguments, to run when a tunnel begins to carry packets", func(h *Hooks) *[]string { return &h.Up }),
		program("on-down", "program to run when a tunnel no longer carries packets", func(h *Hooks) *[]string { return &h.Down }),
		program("on-peer-seen", "program to run when the first packet of a peer arrives, or the first since it was lost", func(h *Hooks) *[]string { return &h.PeerSeen }),
		program("on-peer-lost", "program to run when a peer has been silent for lost-after", func(h *Hooks) *[]string { return &h.PeerLost }),
		period("timeout", "10s", "time after which a running program is killed", func(h *Hooks) *time.Duration { return &h.Timeout }),
		period("lost-after", "1m0s", "silence after which a peer is lost", func(h *Hooks) *time.Duration { return &h.LostAfter }),
	}
}

// program is a keyword for a program and its arguments.
func program(name, usage string, at func(*Hooks) *[]string) entry[Hooks] {
	return custom(Keyword{Name: name, Kind: List, Arg: "PROGRAM", Live: true, Usage: usage},
		func(h *Hooks, v string) error {
			words := at(h)
			if len(*words) == 0 && !filepath.IsAbs(v) {
				return wrong("want the path of a program, such as /usr/local/bin/notify; a shell is asked by name: [\"/bin/sh\", \"-c\", \"...\"]")
			}
			*words = append(slices.Clip(*words), strings.Clone(v))
			return nil
		},
		func(h *Hooks) []string { return *at(h) })
}

// period is a keyword for a time from a second to a day.
func period(name, standard, usage string, at func(*Hooks) *time.Duration) entry[Hooks] {
	return custom(Keyword{Name: name, Arg: "TIME", Default: standard, Live: true, Usage: usage, Text: true},
		func(h *Hooks, v string) error {
			d, err := time.ParseDuration(v)
			if err != nil || d < time.Second || d > 24*time.Hour {
				return wrong("want a time from 1s to 24h")
			}
			*at(h) = d
			return nil
		},
		func(h *Hooks) []string {
			if *at(h) == 0 {
				return nil // not set
			}
			return []string{at(h).String()}
		})
}
