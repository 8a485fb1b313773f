package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/bugreport"
	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/doctor"
	"gvtep/config"
)

const (
	// reportFor is how long a report may take in all.
	reportFor = time.Minute
	// reportLines is how many lines of the log are in it.
	reportLines = "2000"
)

// reported is what gvtep -j bugreport prints.
type reported struct {
	File  string              `json:"file"`
	Bytes int64               `json:"bytes"`
	Parts []bugreport.Written `json:"parts"`
}

func (a *app) bugreportCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "bugreport [-w FILE|-]",
		Short: "pack what is known of a daemon and its host into one archive, without secrets",
		Long: `Pack what is known of a daemon and its host into one .tar.gz: versions, status,
tunnels and peers with their counters, findings of doctor, metrics, configuration,
the newest lines of the log, devices, addresses, routes, rules, neighbours,
sockets and firewall. What is not there is told of and left out; a daemon that
does not answer is no hindrance. It takes a minute at most, and each part has
8 MiB at most.

Arguments of hooks, data of GENEVE options and bytes of packets are left out.
Addresses and names are in it: look at it before you pass it on. It is readable
for its owner only.`,
		Example:           "  gvtep bugreport\n  gvtep bugreport -w report.tar.gz\n  gvtep bugreport -w - | ssh desk tar -tzf -",
		Args:              atMost(0),
		ValidArgsFunction: a.completing(),
	}
	cmd.Flags().StringVarP(&file, "write", "w", "", "write to `FILE`, or - for standard output (gvtep-INSTANCE-TIME.tar.gz)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), reportFor)
		defer cancel()
		now := time.Now()
		name := fmt.Sprintf("gvtep-%s-%s", cmp.Or(a.onlyInstance(), "none"), now.UTC().Format("20060102-150405"))
		if file == "-" {
			_, err := bugreport.Write(ctx, a.out, name, now, a.reportParts())
			return inCommand(cmd, err)
		}
		return inCommand(cmd, a.report(ctx, cmp.Or(file, name+".tar.gz"), name, now))
	}
	return cmd
}

// report writes the archive to a file, and says what is in it.
func (a *app) report(ctx context.Context, path, name string, now time.Time) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return refused(err)
	}
	defer f.Close()
	parts, err := bugreport.Write(ctx, f, name, now, a.reportParts())
	if err = cmp.Or(err, f.Chmod(0o600)); err != nil {
		return refused(err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return refused(err)
	}
	if a.json {
		return a.printJSON(reported{path, size, parts})
	}
	for _, p := range parts {
		fmt.Fprintf(a.out, "%-18s %9d  %s\n", p.Name, p.Bytes, strings.TrimSpace(p.About+"  "+p.Note))
	}
	fmt.Fprintf(a.out, "\n%s\n%s (%d bytes): look at it before you pass it on\n", bugreport.LeftOut, path, size)
	return nil
}

// onlyInstance is the name of the daemon, "" if it is not known.
func (a *app) onlyInstance() string {
	if a.instance != "" || a.control != "" {
		return a.instance
	}
	found, err := control.Find(a.runDir)
	if err != nil || len(found) != 1 {
		return ""
	}
	return found[0].Name
}

// reportParts are those of a report.
func (a *app) reportParts() []bugreport.Part {
	netns, away := a.daemonsNetns()
	c, none := a.client()
	if none != nil {
		c = nil
	}
	parts := append(a.reportOfDaemon(c, none, netns), a.reportOfConfig(c, none))
	instance := cmp.Or(a.onlyInstance(), "*")
	parts = append(parts,
		bugreport.Command("log.txt", "the newest lines of the log", "journalctl", "--no-pager", "-o", "short-iso", "-n", reportLines, "-u", "gvtep@"+instance),
		bugreport.Command("kernel.txt", "the kernel", "uname", "-a"),
	)
	if away != nil && none == nil {
		return append(parts, bugreport.Part{Name: "network", About: "devices, routes and so on", Get: func(context.Context) ([]byte, error) { return nil, away }})
	}
	for _, p := range [][]string{
		{"link.json", "devices", "ip", "-d", "-s", "-j", "link"}, {"addr.json", "addresses", "ip", "-j", "addr"},
		{"route.txt", "routes", "ip", "route", "show", "table", "all"}, {"route6.txt", "IPv6 routes", "ip", "-6", "route", "show", "table", "all"},
		{"rule.txt", "policy rules", "ip", "rule"}, {"neigh.txt", "neighbours", "ip", "neigh"}, {"bridge-fdb.txt", "tables of bridges", "bridge", "fdb"},
		{"qdisc.txt", "queueing", "tc", "-s", "qdisc"}, {"sockets.txt", "UDP sockets", "ss", "-unlp"}, {"nft.txt", "firewall", "nft", "list", "ruleset"},
	} {
		parts = append(parts, bugreport.Command(p[0], p[1], p[2:]...))
	}
	return parts
}

// reportOfDaemon is what it says of itself; none is why it cannot be asked.
func (a *app) reportOfDaemon(c *control.Client, none error, netns string) []bugreport.Part {
	here := build.Read(version)
	parts := []bugreport.Part{bugreport.JSON("version.json", "this program", func(context.Context) (build.Info, error) { return here, nil })}
	if c == nil {
		return append(parts, bugreport.Part{Name: "status.json", About: "the daemon", Get: func(context.Context) ([]byte, error) { return nil, none }})
	}
	return append(parts,
		bugreport.JSON("status.json", "the daemon as a whole", func(ctx context.Context) (control.Status, error) { return c.Status(ctx, true) }),
		bugreport.JSON("tunnels.json", "tunnels, peers, counters, sizes of tables", c.Tunnels),
		bugreport.JSON("doctor.json", "what gvtep doctor finds", func(ctx context.Context) ([]doctor.Finding, error) {
			facts, err := doctor.Gather(ctx, c, "", netns)
			if err != nil {
				return nil, err
			}
			return doctor.Examine(facts), nil
		}),
		bugreport.Part{Name: "metrics.txt", About: "metrics", Get: c.Metrics},
	)
}

// reportOfConfig is the configuration that the daemon would read at a reload.
func (a *app) reportOfConfig(c *control.Client, none error) bugreport.Part {
	return bugreport.Part{Name: "config.toml", About: "its configuration, as it would be read now", Get: func(ctx context.Context) ([]byte, error) {
		if c == nil {
			return nil, none
		}
		s, err := c.Status(ctx, false)
		switch {
		case err != nil:
			return nil, err
		case s.Config == "":
			return nil, errors.New("it runs without a file")
		}
		cfg, err := config.Load(s.Config)
		if err != nil {
			return nil, err
		}
		return []byte(bugreport.Config(config.Print(cfg, false))), nil
	}}
}
