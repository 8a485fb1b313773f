package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
)

func (a *app) reloadCmd() *cobra.Command {
	var (
		after        time.Duration
		keep, revert bool
	)
	cmd := a.changing(
		"reload [PATH] [--revert-after TIME|--keep|--revert]", "apply what has changed in the configuration, all or nothing",
		"  gvtep reload\n  gvtep -i fabric reload /etc/gvtep/fabric.new.toml\n  gvtep reload --revert-after 60s    # and gvtep reload --keep, if all is well",
		func(ctx context.Context, c *control.Client, path string) (control.Reload, error) {
			switch {
			case revert:
				return c.ReloadRevert(ctx)
			case after != 0:
				return c.ReloadTrial(ctx, control.TrialRequest{Config: path, After: after.Seconds()})
			}
			return c.Reload(ctx, control.ReloadRequest{Config: path})
		})
	cmd.Long = `Apply what has changed in the configuration, or in that of PATH, all or nothing.

With --revert-after it is a trial: unless gvtep reload --keep comes within TIME, the daemon
takes it back, also if the one who asked for it has lost the connection. Tunnels that
the reload has not touched, and peers and entries that came since then, stay. Until the
trial is over no other reload is done; gvtep status shows how long that is.`
	f := cmd.Flags()
	f.SortFlags = false
	f.DurationVar(&after, "revert-after", 0, "take it back after `TIME`, 1s to 24h, unless gvtep reload --keep comes before")
	f.BoolVar(&keep, "keep", false, "keep the reload that is on trial")
	f.BoolVar(&revert, "revert", false, "take the reload that is on trial back now")
	apply := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case keep && revert, (keep || revert) && (len(args) > 0 || f.Changed("revert-after")):
			return errors.New("reload: --keep and --revert stand alone: they decide about the reload that is on trial")
		case f.Changed("revert-after") && (after < control.MinTrial || after > control.MaxTrial):
			return fmt.Errorf("reload: --revert-after %s: want %s to %s", after, "1s", "24h")
		case keep:
			return a.asking(func(ctx context.Context, c *control.Client, _ []string) error { return c.ReloadKeep(ctx) })(cmd, args)
		}
		return apply(cmd, args)
	}
	a.completingFlag(cmd, "revert-after", (*completion).nothing)
	return cmd
}

func (a *app) diffCmd() *cobra.Command {
	return a.changing("diff [PATH]", "show what a reload would change",
		"  gvtep diff\n  gvtep -j diff /etc/gvtep/fabric.new.toml",
		func(ctx context.Context, c *control.Client, path string) (control.Reload, error) {
			return c.Reload(ctx, control.ReloadRequest{Config: path, DryRun: true})
		})
}

// changing makes the two commands that compare a configuration with what runs.
func (a *app) changing(use, short, example string, ask func(context.Context, *control.Client, string) (control.Reload, error)) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: atMost(1), ValidArgsFunction: completeFiles}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("timeout") && os.Getenv("GVTEP_TIMEOUT") == "" {
			a.timeout = reloadTimeout
		}
		return a.asking(func(ctx context.Context, c *control.Client, args []string) (err error) {
			path := ""
			if len(args) == 1 {
				if path, err = filepath.Abs(args[0]); err != nil {
					return err
				}
			}
			stop := a.showProgress(ctx, c)
			r, err := ask(ctx, c, path)
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
	if r.Reverts > 0 {
		fmt.Fprintf(a.out, "on trial: taken back in %s, unless gvtep reload --keep\n", time.Duration(r.Reverts*float64(time.Second)))
	}
}
