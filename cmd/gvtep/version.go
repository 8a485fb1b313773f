package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
)

// version is for the linker (-X main.version=v1.2.3) where a package is made of
// something that Go finds no version for. Else the build info has it.
var version string

// versions is what gvtep version -j prints.
type versions struct {
	build.Info
	Daemon string `json:"daemon,omitempty"` // version of the running daemon
}

func (a *app) versionCmd() *cobra.Command {
	var daemon bool
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "print the version, with --daemon also that of the running daemon",
		Example:           "  gvtep version --daemon\n  gvtep -j version | jq -r .revision",
		Args:              atMost(0),
		ValidArgsFunction: a.completing(),
	}
	cmd.Flags().BoolVar(&daemon, "daemon", false, "ask the daemon, too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b := versions{Info: build.Read(version)}
		if daemon {
			ask := a.asking(func(ctx context.Context, c *control.Client, _ []string) error {
				s, err := c.Status(ctx, false)
				b.Daemon = s.Version
				return err
			})
			if err := ask(cmd, args); err != nil {
				return err
			}
		}
		if a.json {
			return a.printJSON(b)
		}
		fmt.Fprintf(a.out, "gvtep %s %s\n", b.Version, b.GoVersion)
		if daemon {
			fmt.Fprintf(a.out, "daemon %s\n", b.Daemon)
		}
		return nil
	}
	return cmd
}
