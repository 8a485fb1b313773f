package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
)

func (a *app) monitorCmd() *cobra.Command {
	objects := []string{"all", "tunnel", "peer", "fdb", "drop"}
	cmd := &cobra.Command{
		Use: "monitor [all|tunnel|peer|fdb|drop]", Short: "print changes as they happen, until the daemon ends",
		Long: `Print each change of tunnels, peers and forwarding entries on one line with its
time, with -j as JSON, until the daemon ends, or for as long as --timeout says.

  tunnel  what was changed, from which value to which, and by which process; when
          the device goes up or down, and by whom, unless it was not gvtep
  peer    when it is heard, when its packets begin to be dropped (refused), when it
          has been silent for a minute, and when the route to it goes or comes back
  fdb     forwarding entries
  drop    once a second what was dropped, why, and of whom; this is not among all

If the reader is too slow, a line says how many changes were lost.`,
		Example:           "  gvtep monitor fdb\n  gvtep monitor peer --timeout 60s\n  gvtep monitor drop\n  gvtep -j monitor tunnel | jq .by",
		Args:              atMost(1),
		ValidArgsFunction: a.completing(oneOf(objects...)),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		object := "all"
		if len(args) == 1 {
			object = args[0]
		}
		if !slices.Contains(objects, object) {
			return inCommand(cmd, fmt.Errorf("%s: want %s", object, strings.Join(objects, ", ")))
		}
		path, err := a.socketPath()
		if err != nil {
			return inCommand(cmd, err)
		}
		// Unless a time is asked for, it is for the beginning only.
		ctx, cancel := context.WithCancelCause(cmd.Context())
		defer cancel(nil)
		late := time.AfterFunc(a.timeout, func() { cancel(context.DeadlineExceeded) })
		begun := func() {
			if late.Stop() && cmd.Flags().Changed("timeout") {
				time.AfterFunc(a.timeout, func() { cancel(errOver) })
			}
		}
		err = control.NewClient(path).Events(ctx, strings.TrimPrefix(object, "all"), begun, func(e control.Event) error {
			if a.json {
				return a.printJSON(e)
			}
			_, err := fmt.Fprintln(a.out, e.Time.Format("2006-01-02T15:04:05.000Z07:00"), eventLine(e))
			return err
		})
		if cause := context.Cause(ctx); errors.Is(cause, errOver) {
			return nil
		} else if errors.Is(err, context.Canceled) && cause != nil {
			err = cause
		}
		return inCommand(cmd, err)
	}
	return cmd
}

// errOver ends a monitor whose time is over.
var errOver = errors.New("the time is over")

// eventLine is an event in the manner of bridge monitor.
func eventLine(e control.Event) string {
	var words []string
	switch e.Action {
	case "deleted", "aged", "flushed", "evicted":
		words = append(words, "Deleted")
	}
	switch e.Object {
	case "lost":
		return fmt.Sprintf("%d events were lost", e.Lost)
	case "tunnel":
		return tunnelLine(append(words, "tunnel", e.Ifname), e)
	case "drop":
		return dropLine(e)
	case "peer":
		words = append(words, "peer", e.Dst, "dev", e.Ifname)
	default:
		words = append(words, e.MAC, "dev", e.Ifname)
		if e.VLAN != 0 {
			words = append(words, "vlan", fmt.Sprint(e.VLAN))
		}
		if e.Dst != "" && !e.Local {
			words = append(words, "dst", e.Dst)
		}
		words = append(words, e.Flags...)
		if e.State != "" {
			words = append(words, e.State)
		}
		if e.Local {
			words = append(words, "local")
		}
	}
	switch e.Action {
	case "new", "deleted":
	case "route_lost", "route_back":
		words = append(words, strings.ReplaceAll(e.Action, "_", " "))
	default:
		words = append(words, e.Action)
	}
	if e.Action == "moved" && e.From != "" {
		words = append(words, "from", e.From)
	}
	if e.Reason != "" {
		why := fmt.Sprintf("(%s %d", e.Reason, e.Packets)
		if e.ID != nil {
			why += fmt.Sprintf(", id %d", *e.ID)
		}
		words = append(words, why+")")
	}
	return strings.Join(words, " ")
}

// tunnelLine is about a tunnel, or its device.
func tunnelLine(words []string, e control.Event) string {
	switch e.Action {
	case "new", "deleted":
	case "up", "down":
		words = append(words, "device", e.Action)
	case "gone":
		words = append(words, "device deleted")
	default:
		words = append(words, e.Action)
	}
	line := strings.Join(words, " ")
	for i, k := range e.Keys {
		line += []string{" ", ", "}[min(i, 1)] + k.String()
	}
	if e.MoreKeys > 0 {
		line += fmt.Sprintf(", and %d more", e.MoreKeys)
	}
	switch e.Action {
	case "up", "down", "gone":
		if e.By == nil {
			return line + ", not by gvtep"
		}
	}
	if e.By != nil {
		line += ", by " + e.By.String()
	}
	return line
}

// dropLine is about packets that were dropped.
func dropLine(e control.Event) string {
	line := fmt.Sprintf("drop %s %s %d", e.Action, e.Reason, e.Packets)
	if e.Ifname != "" {
		line += " dev " + e.Ifname
	}
	if e.Source.IsValid() {
		line += " from " + e.Source.String()
	}
	if e.ID != nil {
		line += fmt.Sprintf(" id %d", *e.ID)
	}
	if e.Payload != "" {
		line += " " + e.Payload
	}
	return line
}
