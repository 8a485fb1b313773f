package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/metrics"
)

// monitoring is what the source tells those who watch.
type monitoring struct{ handler http.Handler }

func (m monitoring) Metrics() http.Handler { return m.handler }

// newMonitoring makes the metrics of a source.
func newMonitoring(s *source) monitoring {
	b := buildVersion()
	return monitoring{metrics.Handler(metrics.New(
		metrics.Build{Version: b.Version, Revision: b.Revision, GoVersion: b.GoVersion},
		func() metrics.Snapshot {
			snap := metrics.Snapshot{State: s.endpoint.State(), Logged: s.logState.counts(), LogDropped: s.logState.queue.dropped.Load()}
			snap.Reloaded, snap.ReloadedAt, snap.MaxPeers = s.reloader.outcome()
			return snap
		}))}
}

func (s *source) Health() control.Health { return control.Health(s.endpoint.Health()) }

// listenMetrics opens what [metrics] listen says. Nobody is asked who he is
// there: an address that others can reach is worth a warning.
func (d *daemon) listenMetrics(listen string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		l, err := control.Listen(path)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("metrics %s: %w; take another port", listen, unix.EADDRINUSE)
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("metrics %s: %w", listen, err)
	}
	if at, err := netip.ParseAddrPort(listen); err == nil && !at.Addr().IsLoopback() {
		d.log.Warn("metrics are served to whoever reaches this address; nobody is asked for a password", zap.String("listen", listen))
	}
	return l, nil
}

func (a *app) metricsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metrics [print | write FILE]",
		Short: "print the metrics of the daemon, or write them into a file",
		Long: `Print the metrics of the daemon in the format of Prometheus, or write them
into FILE, which is replaced in one step: for the textfile collector of
node_exporter, whose files end in .prom.`,
		Example: "  gvtep metrics\n  gvtep metrics write /var/lib/prometheus/node-exporter/gvtep.prom",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 || slices.Equal(args, []string{"print"}):
				return nil
			case args[0] != "print" && args[0] != "write":
				return fmt.Errorf("metrics: unknown word %q: want print, or write FILE", args[0])
			case args[0] == "write" && len(args) == 1:
				return errors.New("metrics: write needs a file: write FILE")
			case args[0] == "write" && len(args) == 2:
				return nil
			}
			return fmt.Errorf("metrics: unexpected word %q: gvtep metrics --help tells more", args[len(args)-1])
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return []string{"print", "write"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.RunE = a.asking(func(ctx context.Context, c *control.Client, args []string) error {
		text, err := c.Metrics(ctx)
		if err != nil {
			return err
		}
		if len(args) == 2 {
			return refused(replaceFile(args[1], text))
		}
		_, err = a.out.Write(text)
		return err
	})
	return cmd
}

// replaceFile gives a file a new content in one step: a reader sees the old or
// the new one, and a fault leaves the old one.
func replaceFile(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("%s: %w", path, unwrapPath(err))
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("%s: %w", path, unwrapPath(err))
		}
	}()
	if _, err = f.Write(text); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil { // the collector is another user
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return errors.Unwrap(err)
	}
	return nil
}

func (a *app) logLevelCmd() *cobra.Command {
	var during time.Duration
	cmd := &cobra.Command{
		Use:     "log-level [LEVEL] [--for TIME]",
		Short:   "show or change what the daemon logs, for good or for a while",
		Example: "  gvtep log-level\n  gvtep log-level debug --for 60s",
		Args:    atMost(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().DurationVar(&during, "for", 0, "go back after this `TIME`, such as 60s; without it the level stays until it is changed, or the daemon ends")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed("for")
		switch {
		case given && len(args) == 0:
			return inCommand(cmd, errors.New("--for without a level: gvtep log-level debug --for 60s"))
		case given && (during <= 0 || during > maxLogFor):
			return inCommand(cmd, fmt.Errorf("--for %s: want more than 0 and at most %s", during, maxLogFor))
		}
		return a.asking(func(ctx context.Context, c *control.Client, args []string) error {
			if len(args) == 1 {
				if err := c.SetLogLevel(ctx, control.LogLevelWrite{Level: args[0], For: during.Seconds()}); err != nil {
					return err
				}
				if !a.json {
					return nil
				}
			}
			l, err := c.LogLevel(ctx)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(l)
			case l.Until != nil:
				fmt.Fprintf(a.out, "%s until %s, then %s\n", l.Level, l.Until.Format(time.RFC3339), l.Then)
			default:
				fmt.Fprintln(a.out, l.Level)
			}
			return nil
		})(cmd, args)
	}
	return cmd
}
