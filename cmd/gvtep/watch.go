package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
	"gvtep/cmd/internal/watch"
)

// The shortest and the longest interval of a watch. Each sample asks the daemon about all its peers.
const (
	leastInterval = 100 * time.Millisecond
	mostInterval  = time.Hour
)

func (a *app) watchCmd() *cobra.Command {
	interval, count := time.Second, 0
	cmd := &cobra.Command{
		Use:   "watch [NAME] [--interval TIME] [--count N]",
		Short: "live view of peers by rate, and of what is dropped and of whom",
		Long: `Show the tunnel NAME, or all, on the terminal, anew every second: peers with what they send
and get, the busiest first, and below them what is dropped, why, and who sent it. Rates are
of inner packets. Keys:

  q  quit                                d  hide or show what is dropped
  s  sort by rate, trouble or name       p  pause, and go on
  up, down, page up, page down           more peers

If the output is no terminal, each interval is one line; with -j it is an object.`,
		Example:           "  gvtep watch\n  gvtep watch gnv0 --interval 5s\n  gvtep watch --count 10 >log\n  gvtep -j watch --count 1 | jq '.peers[0]'",
		Args:              atMost(1),
		ValidArgsFunction: a.completing((*completion).tunnelNames),
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().DurationVar(&interval, "interval", interval, "`TIME` between two looks")
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` of them; 0: do not end")
	a.completingFlag(cmd, "interval", (*completion).nothing)
	a.completingFlag(cmd, "count", (*completion).nothing)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return inCommand(cmd, a.watch(cmd.Context(), args, interval, count))
	}
	return cmd
}

func (a *app) watch(ctx context.Context, args []string, interval time.Duration, count int) error {
	switch {
	case interval < leastInterval || interval > mostInterval:
		return fmt.Errorf("--interval %s: want %s to %s", interval, leastInterval, mostInterval)
	case count < 0:
		return fmt.Errorf("--count %d: want 1 or more, or 0 for no end", count)
	}
	path, err := a.socketPath()
	if err != nil {
		return err
	}
	c := control.NewSession(path)
	defer c.Close()
	signals, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	ask := func(ctx context.Context) (watch.Sample, error) { return a.sample(ctx, c, args) }

	f, _ := a.out.(*os.File)
	if f == nil || !logging.IsTerminal(f) || a.json || count > 0 {
		return watch.Lines(signals, ask, interval, count, func(r watch.Report) error {
			if a.json {
				return a.printJSON(r)
			}
			_, err := fmt.Fprintln(a.out, r.Line())
			return err
		})
	}
	if _, err := ask(signals); err != nil {
		return err // said on a line that stays, not on a screen that goes
	}
	return watch.Run(signals, ask, interval, f, a.paint(red, "") != "")
}

// sample asks a daemon how it is.
func (a *app) sample(ctx context.Context, c *control.Client, args []string) (s watch.Sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if s.Tunnels, err = tunnelsNamed(ctx, c, args); err == nil {
		s.Status, err = c.Status(ctx, false)
	}
	s.Time = time.Now()
	return s, err
}
