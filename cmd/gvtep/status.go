package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
)

func (a *app) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show whether the daemon is ready; exit 0 only when it is",
		Long: `Show whether the daemon is ready, and if not, why, how many peers are heard, a reload
that is on trial, its sockets, and the drops of packets that belong to no tunnel. -d adds
the configuration and the number of objects in its heap.`,
		Example:           "  gvtep status\n  gvtep -j status | jq .ready",
		Args:              atMost(0),
		ValidArgsFunction: a.completing(),
		RunE: a.asking(func(ctx context.Context, c *control.Client, _ []string) error {
			s, err := c.Status(ctx, a.details)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(s)
			} else {
				a.printLines(a.statusLines(s))
			}
			if err == nil && !s.Ready {
				err = exitError{exitRefused, errors.New("not ready")} // the reason is printed
			}
			return err
		}),
	}
}

func (a *app) statusLines(s control.Status) []string {
	state := a.paint(green, "ready")
	if !s.Ready {
		state = a.paint(red, "not ready: "+s.Reason)
	}
	lines := []string{fmt.Sprintf("%s  %s  pid %d  version %s  up %s  %d %s  %d %s", s.Instance, state, s.PID, s.Version,
		age(s.Uptime), s.Workers, plural(s.Workers, "worker"), s.Tunnels, plural(s.Tunnels, "tunnel"))}
	lines = append(lines, "  peers "+peersText(s.Peers))
	if t := s.Trial; t != nil {
		line := fmt.Sprintf("  reload of %s on trial: taken back in %s, unless gvtep reload --keep", t.Config, age(t.Left))
		if t.Error != "" {
			line = fmt.Sprintf("  reload of %s on trial, which is over: %s (tried again)", t.Config, t.Error)
		}
		lines = append(lines, a.paint(yellow, line))
	}
	if s.Config != "" && a.details {
		lines = append(lines, "  config "+s.Config)
	}
	if s.Go != nil {
		lines = append(lines, fmt.Sprintf("  go  heap objects %d  goroutines %d", s.Go.HeapObjects, s.Go.Goroutines))
	}
	for _, sock := range s.Sockets {
		dev := ""
		if sock.Dev != "" {
			dev = "  dev " + sock.Dev
		}
		lines = append(lines, fmt.Sprintf("  socket %s%s  overflows %d", netip.AddrPortFrom(sock.Local, sock.Port).String(), dev, sock.Overflows)+a.bufferText(sock))
	}
	return append(lines, fmt.Sprintf("  drops of no tunnel %d%s", s.Drops.Total(), reasons(s.Drops)))
}

// bufferText says which buffer a socket has, if that is less than what was asked for.
func (a *app) bufferText(s control.Socket) string {
	if s.Rcvbuf >= s.Wanted {
		return ""
	}
	return "  " + a.paint(yellow, fmt.Sprintf("rcvbuf %s of %s", size(uint64(s.Rcvbuf)), size(uint64(s.Wanted))))
}

// peersText is how many peers are heard, and what the others are.
func peersText(n control.PeerCount) string {
	text := fmt.Sprintf("%d of %d heard", n.Heard, n.Total)
	for _, other := range []struct {
		n    int
		word string
	}{{n.Refused, "refused"}, {n.Silent, "silent"}, {n.NoRoute, "no route"}} {
		if other.n > 0 {
			text += fmt.Sprintf(", %d %s", other.n, other.word)
		}
	}
	return text
}
