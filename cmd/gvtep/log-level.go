package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
)

func (a *app) logLevelCmd() *cobra.Command {
	var during time.Duration
	cmd := &cobra.Command{
		Use:     "log-level [LEVEL] [--for TIME]",
		Short:   "show or change the log level of the daemon, permanently or for a time",
		Example: "  gvtep log-level\n  gvtep log-level debug --for 60s",
		Args:    atMost(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().DurationVar(&during, "for", 0, "restore the level after this `TIME`, such as 60s; without it the level stays until it is changed, or the daemon ends")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		given := cmd.Flags().Changed("for")
		switch {
		case given && len(args) == 0:
			return inCommand(cmd, errors.New("--for without a level: gvtep log-level debug --for 60s"))
		case given && (during <= 0 || during > logging.MaxFor):
			return inCommand(cmd, fmt.Errorf("--for %s: want more than 0 and at most %s", during, logging.MaxFor))
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
