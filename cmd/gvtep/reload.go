package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
)

func (a *app) reloadCmd() *cobra.Command {
	return a.changing("reload [PATH]", "apply what has changed in the configuration, all or nothing",
		"  gvtep reload\n  gvtep -i fabric reload /etc/gvtep/fabric.new.toml", false)
}

func (a *app) diffCmd() *cobra.Command {
	return a.changing("diff [PATH]", "show what a reload would change",
		"  gvtep diff\n  gvtep -j diff /etc/gvtep/fabric.new.toml", true)
}

// changing makes the two commands that compare a configuration with what runs.
func (a *app) changing(use, short, example string, dryRun bool) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: atMost(1), ValidArgsFunction: completeFiles}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("timeout") && os.Getenv("GVTEP_TIMEOUT") == "" {
			a.timeout = reloadTimeout
		}
		return a.asking(func(ctx context.Context, c *control.Client, args []string) (err error) {
			req := control.ReloadRequest{DryRun: dryRun}
			if len(args) == 1 {
				if req.Config, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			stop := a.showProgress(ctx, c)
			r, err := c.Reload(ctx, req)
			stop()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			a.printReload(r)
			return nil
		})(cmd, args)
	}
	return cmd
}

// showProgress keeps a line on a terminal that says how far a change of many tunnels is, until
// stop is called. Anywhere else it shows nothing.
func (a *app) showProgress(ctx context.Context, c *control.Client) (stop func()) {
	f, ok := a.errOut.(*os.File)
	if !ok || a.json || !logging.IsTerminal(f) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for clean := ""; ; {
			select {
			case <-ctx.Done():
				fmt.Fprint(f, clean)
				return
			case <-tick.C:
			}
			if p, err := c.Progress(ctx); err == nil && p.Of > 1 {
				clean = "\r\x1b[K"
				fmt.Fprintf(f, "%s%s tunnels", clean, p)
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// printReload is one line a change.
func (a *app) printReload(r control.Reload) {
	keys := func(name string, keys []control.KeyChange) {
		for _, k := range keys {
			mark, later := a.paint(yellow, "~"), ""
			if !k.Live {
				mark, later = a.paint(red, "!"), "  (takes a restart)"
			}
			fmt.Fprintf(a.out, "%s %s: %s -> %s%s\n", mark, name+k.Key, cmp.Or(k.Old, "none"), cmp.Or(k.New, "none"), later)
		}
	}
	keys("", r.Process)
	for _, name := range r.Removed {
		fmt.Fprintln(a.out, a.paint(red, "-"), name)
	}
	for _, name := range r.Added {
		fmt.Fprintln(a.out, a.paint(green, "+"), name)
	}
	for _, t := range r.Changed {
		keys(t.Ifname+" ", t.Keys)
	}
	for _, f := range r.Faults {
		fmt.Fprintln(a.out, a.paint(yellow, "~"), f.Fault)
	}
	if len(r.Removed)+len(r.Added)+len(r.Changed)+len(r.Process)+len(r.Faults) == 0 {
		fmt.Fprintln(a.out, "no change")
	}
}
