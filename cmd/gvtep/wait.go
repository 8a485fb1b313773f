package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
)

func (a *app) waitCmd() *cobra.Command {
	var what string
	cmd := &cobra.Command{
		Use:   "wait [NAME] [--for up|ready|peers|peer=ADDR|mac=LLADDR]",
		Short: "wait until a goal is reached; exit 4 after --timeout",
		Long: `Wait until a goal is reached, of one tunnel or of all. A tunnel is ready when
packets can flow: its device is up, and all is as configured. Without NAME the
daemon has to be ready, as for gvtep status and /readyz.`,
		Example: `  gvtep wait gnv0 --for ready
  gvtep wait gnv0 --for peer=203.0.113.1 --timeout 10s`,
		Args:              atMost(1),
		ValidArgsFunction: a.completing((*completion).tunnelNamesOrAll),
	}
	cmd.Flags().StringVar(&what, "for", "ready", "wait for `GOAL`: up, the device is up; ready, packets can flow; peers, all are heard; peer=ADDR, a packet from it was taken; mac=LLADDR, it is in the FDB")
	a.completingFlag(cmd, "for", (*completion).goals)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := ""
		if len(args) == 1 && args[0] != "all" {
			name = args[0]
		}
		goal, err := parseGoal(what)
		if err != nil {
			return inCommand(cmd, err)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		return inCommand(cmd, a.await(ctx, name, goal))
	}
	return cmd
}

// goal reports what is still missing of tunnels, "" if nothing. named says that one was asked for.
type goal func(ctx context.Context, c *control.Client, _ bool, tunnels []control.Tunnel) (missing string, err error)

func parseGoal(what string) (goal, error) {
	kind, value, _ := strings.Cut(what, "=")
	switch {
	case what == "up":
		return func(_ context.Context, _ *control.Client, _ bool, tunnels []control.Tunnel) (string, error) {
			for _, t := range tunnels {
				if !slices.Contains(t.Flags, "UP") {
					return t.Ifname + " is down", nil
				}
			}
			return "", nil
		}, nil
	case what == "ready":
		return func(ctx context.Context, c *control.Client, named bool, tunnels []control.Tunnel) (string, error) {
			if named {
				return unready(tunnels[0]), nil
			}
			s, err := c.Status(ctx, false)
			if err == nil && !s.Ready {
				return "not ready: " + s.Reason, nil
			}
			return "", err
		}, nil
	case what == "peers":
		return func(_ context.Context, _ *control.Client, _ bool, tunnels []control.Tunnel) (string, error) {
			return unheard(tunnels), nil
		}, nil
	case kind == "peer":
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return nil, fmt.Errorf("--for %s: want peer=ADDR, an IP address", what)
		}
		return func(_ context.Context, _ *control.Client, _ bool, tunnels []control.Tunnel) (string, error) {
			for _, t := range tunnels {
				for _, p := range t.Gvtep.Peers {
					if p.Remote == addr && p.LastSeen != nil {
						return "", nil
					}
				}
			}
			return fmt.Sprintf("peer %s was never heard", addr), nil
		}, nil
	case kind == "mac":
		mac, err := net.ParseMAC(value)
		if err != nil || len(mac) != 6 {
			return nil, fmt.Errorf("--for %s: want mac=LLADDR, an Ethernet address", what)
		}
		return func(ctx context.Context, c *control.Client, _ bool, tunnels []control.Tunnel) (string, error) {
			for _, t := range tunnels {
				_, err := c.FDBGet(ctx, t.Ifname, mac.String())
				if missing := new(control.RefusedError); !errors.As(err, &missing) {
					return "", err
				}
			}
			return fmt.Sprintf("%s is not in the fdb", mac), nil
		}, nil
	}
	return nil, fmt.Errorf("--for %s: want up, ready, peers, peer=ADDR or mac=LLADDR", what)
}

// unready says why a tunnel is not ready, "" if it is.
func unready(t control.Tunnel) string {
	switch {
	case t.Gvtep.Ready:
		return ""
	case len(t.Gvtep.Unready) == 0:
		return "not ready: starting or stopping"
	}
	return "not ready: " + strings.Join(t.Gvtep.Unready, ", ")
}

// unheard names the peers that are not heard, "" if all are.
func unheard(tunnels []control.Tunnel) string {
	all, missing, first := 0, 0, ""
	for _, t := range tunnels {
		for _, p := range t.Gvtep.Peers {
			if p.State == "" {
				continue
			}
			if all++; p.State == "heard" {
				continue
			}
			if missing++; missing == 1 {
				first = fmt.Sprintf("%s of %s is %s", p.Remote, t.Ifname, stateWord(p))
			}
		}
	}
	switch {
	case all == 0:
		return "there is no peer"
	case missing == 0:
		return ""
	}
	return fmt.Sprintf("%d of %d peers are not heard: %s", missing, all, first)
}

// await polls the daemon. It waits for a daemon that has not started yet, but not for one that
// has ended: that will not come back by itself.
func (a *app) await(ctx context.Context, name string, reached goal) error {
	pause, last, seen := 5*time.Millisecond, "no answer from the daemon", false
	for {
		missing, err := a.try(ctx, name, reached)
		switch code := exitCode(err); {
		case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		case code == exitUnreachable && !seen && !errors.Is(err, control.ErrEnded), code == exitRefused:
			last = err.Error()
		case code == exitUnreachable:
			return fmt.Errorf("the daemon has ended, its log says why: %w", err)
		case err != nil || missing == "":
			return err
		default:
			last = missing
		}
		seen = seen || ctx.Err() == nil && exitCode(err) != exitUnreachable
		select {
		case <-ctx.Done():
			return exitError{exitTimeout, fmt.Errorf("timed out after %s: %s", a.timeout, last)}
		case <-time.After(pause):
			pause = min(2*pause, 100*time.Millisecond)
		}
	}
}

func (a *app) try(ctx context.Context, name string, reached goal) (missing string, err error) {
	c, err := a.client()
	if err == nil {
		var tunnels []control.Tunnel
		if tunnels, err = c.Tunnels(ctx); err == nil {
			if name != "" {
				tunnels = slices.DeleteFunc(tunnels, func(t control.Tunnel) bool { return t.Ifname != name })
			}
			switch {
			case len(tunnels) == 0 && name != "":
				return "there is no tunnel " + name, nil
			case len(tunnels) == 0:
				return "there is no tunnel", nil
			}
			missing, err = reached(ctx, c, name != "", tunnels)
		}
	}
	return missing, err
}
