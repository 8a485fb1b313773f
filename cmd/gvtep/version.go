package main

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
)

// version is for the linker (-X main.version=v1.2.3) where a package is made of
// something that Go finds no version for. Else the build info has it.
var version string

// build is what a binary knows about its making.
type build struct {
	Version   string `json:"version"`
	Revision  string `json:"revision,omitempty"`
	Time      string `json:"time,omitempty"`
	Modified  bool   `json:"modified"`
	GoVersion string `json:"goversion"`
	Daemon    string `json:"daemon,omitempty"` // version of the running daemon
}

func buildVersion() build {
	b := build{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.GoVersion = info.GoVersion
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	if version != "" {
		b.Version = version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
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
		b := buildVersion()
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
