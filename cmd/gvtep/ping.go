package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/ping"
)

// mtuTakes is how much longer a ping may take that looks for the longest packet: each one that vanishes
// is waited for.
const mtuTakes = 20 * time.Second

func (a *app) pingCmd() *cobra.Command {
	o := ping.Options{}
	cmd := &cobra.Command{
		Use:   "ping TARGET [dev NAME]",
		Short: "follow a packet to its target step by step, and say where it breaks; exit 0 only if it does not",
		Long: `Follow a packet from the tables to TARGET: an IP address behind a tunnel, the MAC
address of a station there, or a peer. The steps are

  table     where the target is, as our tables have it
  route     the way of outer packets to that peer
  host      whether there is anybody
  endpoint  whether a tunnel endpoint takes what we send, with our id
  overlay   whether the target answers
  mtu       whether the longest packets arrive

Each has a verdict: ok, FAULT, which is the last, or ? where nobody can be asked.
Only gvtep answers the probes of the step endpoint, and only to peers that its
configuration names (docs/operations.md); others are judged by their packets and
by ICMP. With --mtu, probes of growing size find the black hole that comes of a
narrow link and filtered ICMP.

The exit code is 0 if no step has a fault, and 2 otherwise. It is for root, and
nothing is changed.`,
		Example: "  gvtep ping 10.10.0.2\n  gvtep ping 203.0.113.1 --mtu\n  gvtep ping 02:00:00:00:02:10 dev gnv0\n  gvtep -j ping 10.10.0.2 | jq -r '.steps[-1].what'",
	}
	cmd.ValidArgsFunction = a.completingWords(func() words {
		return words{{names: []string{"dev"}, usage: "the tunnel", values: 1, source: (*completion).tunnelNames}}
	}, (*completion).pinged)
	cmd.Args = a.pingWords(&o)
	f := cmd.Flags()
	f.BoolVar(&o.MTU, "mtu", false, "find how long packets may be")
	f.IntVar(&o.Count, "count", 1, "ask the peer `N` times, and show the quickest answer")
	a.completingFlag(cmd, "count", (*completion).nothing)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.Count < 1 || o.Count > 1000 {
			return inCommand(cmd, fmt.Errorf("count %d: want 1 to 1000", o.Count))
		}
		netns, err := a.daemonsNetns()
		if err != nil {
			return inCommand(cmd, err)
		}
		b := *a
		if o.MTU {
			b.timeout += mtuTakes
		}
		return b.asking(func(ctx context.Context, c *control.Client, _ []string) error {
			r, err := ping.Run(ctx, c, ping.Here{Client: c, Netns: netns}, o)
			if err != nil {
				return err
			}
			return a.printTrip(&r)
		})(cmd, args)
	}
	return cmd
}

// pingWords reads TARGET [dev NAME].
func (a *app) pingWords(o *ping.Options) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 && (len(args) != 3 || args[1] != "dev") {
			return inCommand(cmd, errors.New("want TARGET [dev NAME], a target being an IP address behind a tunnel, a MAC address or a peer"))
		}
		if o.Target = args[0]; len(args) == 3 {
			o.Dev = args[2]
		}
		return nil
	}
}

// daemonsNetns goes to the network namespace of the daemon, where routes and devices are its own, and
// names it.
func (a *app) daemonsNetns() (string, error) {
	path, err := a.socketPath()
	if err != nil {
		return "", err
	}
	pid := control.ServedBy(path)
	if pid != 0 && netnsOf(pid) != "" && !ownNetns(pid) {
		if err := enterNetns(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			return "", refused(fmt.Errorf("the daemon is in another network namespace: %w", err))
		}
	}
	return cmp.Or(netnsOf(pid), "not known"), nil
}

func (a *app) printTrip(r *ping.Result) error {
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		if !a.json {
			verdict := map[string]string{ping.OK: a.paint(green, "ok   "), ping.Fault: a.paint(red, "FAULT"), ping.Unknown: a.paint(yellow, "?    ")}[s.Verdict]
			fmt.Fprintf(a.out, "%-8s  %s  %s\n", s.Step, verdict, s.What)
			if s.Try != "" {
				fmt.Fprintf(a.out, "          try:   %s\n", s.Try)
			}
		}
		if s.Verdict == ping.Fault {
			return exitError{exitRefused, fmt.Errorf("it breaks at %s", s.Step)}
		}
	}
	return nil
}
