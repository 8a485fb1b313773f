package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/doctor"
)

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [NAME]",
		Short: "say what is wrong, on what evidence, and what to try; exit 0 only if nothing is",
		Long: `Look for what is wrong with the tunnel NAME, or with all: device, addresses, MTU,
routes, firewalls, what peers send and why it is dropped, and what routers say.
Each finding has at most three lines: what is wrong, what was seen of it, and what
to try. It takes a second and a half, in which it asks by ARP on the tunnel devices
who else has their addresses, and by probes whether peers take what is sent to them
(see gvtep ping); nothing is changed. Root sees most.

The exit code is 0 if all is well, and 2 if there are findings.`,
		Example:           "  gvtep doctor\n  gvtep doctor gnv0\n  gvtep -j doctor | jq -r '.[].fault'",
		Args:              atMost(1),
		ValidArgsFunction: a.completing((*completion).tunnelNames),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// Routes and devices are those of the daemon's namespace.
		netns, err := a.daemonsNetns()
		if err != nil {
			return inCommand(cmd, err)
		}
		return a.asking(func(ctx context.Context, c *control.Client, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			facts, err := doctor.Gather(ctx, c, name, netns)
			if err != nil {
				return err
			}
			return a.printFindings(doctor.Examine(facts), len(facts.Tunnels))
		})(cmd, args)
	}
	return cmd
}

func (a *app) printFindings(all []doctor.Finding, tunnels int) error {
	switch {
	case a.json:
		if err := a.printJSON(all); err != nil {
			return err
		}
	case len(all) == 0:
		fmt.Fprintf(a.out, "%s: nothing is wrong that can be seen from here\n", severalOf(tunnels, "tunnel"))
	}
	if !a.json {
		for i := range all {
			lines := all[i].Lines()
			lines[0] = a.paint(red, lines[0])
			a.printLines(lines)
		}
	}
	if len(all) > 0 {
		return exitError{exitRefused, errors.New(severalOf(len(all), "finding"))}
	}
	return nil
}

func severalOf(n int, word string) string { return fmt.Sprintf("%d %s", n, plural(n, word)) }
