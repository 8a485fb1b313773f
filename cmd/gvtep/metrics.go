package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
)

func (a *app) metricsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "metrics [print | write FILE]",
		Short: "print the metrics of the daemon, or write them to a file",
		Long: `Print the metrics of the daemon in the format of Prometheus, or write them to
FILE, which is replaced in one step. The textfile collector of node_exporter
reads such files; their names must end in .prom.`,
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
