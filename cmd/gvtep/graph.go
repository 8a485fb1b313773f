package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/graph"
)

var graphFormats = append(slices.Clone(graph.Formats), "json")

func (a *app) graphCmd() *cobra.Command {
	format, merge := "mermaid", false
	cmd := &cobra.Command{
		Use:   "graph [--format FORMAT] [--merge FILE...]",
		Short: "draw tunnels and peers, with the state of both directions",
		Long: `Draw hosts, tunnels and peers, with the state of both directions between them, as
text for Mermaid (which Git forges show) or Graphviz, or as JSON.

One host knows only what it hears itself. So save the JSON of each host, as in
"ssh leaf1 gvtep -j graph > leaf1.json", and merge them: with --merge no daemon is asked, and
the files, or - for standard input, are drawn together. A direction that is heard
is a line, others are dashed with the reason, in red if it is known that nothing
arrives:

  refused   packets arrive and are dropped
  silent    nothing arrives
  no route  the sender has none
  no peer   one end does not have the other as a peer
  unknown   only a host that is not among these could say`,
		Example: `  gvtep graph
  gvtep -j graph > leaf1.json
  gvtep graph --merge leaf1.json leaf2.json
  gvtep graph --format dot | dot -T svg
  gvtep graph --format json --merge leaf1.json leaf2.json | jq '.edges[] | select(.one_way)'`,
		Args: cobra.ArbitraryArgs, // without --merge they are refused in RunE
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if merge {
				return completeFiles(cmd, args, typed)
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&format, "format", format, "`FORMAT` is mermaid, dot or json (as -j)")
	cmd.Flags().BoolVar(&merge, "merge", false, "draw the saved JSON of several hosts")
	a.completingFlag(cmd, "format", oneOf(graphFormats...))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if a.json && !cmd.Flags().Changed("format") {
			format = "json"
		}
		var draw func(*cobra.Command, []string) error
		switch {
		case !slices.Contains(graphFormats, format):
			return inCommand(cmd, fmt.Errorf("format %s: want %s", format, strings.Join(graphFormats, ", ")))
		case a.json && format != "json":
			return inCommand(cmd, fmt.Errorf("-j beside --format %s: choose one", format))
		case merge && len(args) == 0:
			return inCommand(cmd, errors.New("--merge wants files: save them with gvtep -j graph"))
		case merge:
			draw = func(cmd *cobra.Command, args []string) error { return inCommand(cmd, a.mergeGraph(format, args)) }
		case len(args) > 0:
			return inCommand(cmd, fmt.Errorf("%s without --merge: files are for that", args[0]))
		default:
			draw = a.graphHere(format)
		}
		return draw(cmd, args)
	}
	return cmd
}

// graphHere draws what the daemon knows.
func (a *app) graphHere(format string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		path, err := a.socketPath()
		if err != nil {
			return inCommand(cmd, err)
		}
		// The addresses are those of the daemon's namespace. Without the right to enter it, tunnels with "local any"
		// are not found by the other hosts; the rest is as good.
		own := true
		if pid := control.ServedBy(path); pid != 0 && netnsOf(pid) != "" && !ownNetns(pid) {
			own = enterNetns(fmt.Sprintf("/proc/%d/ns/net", pid)) == nil
		}
		return a.asking(func(ctx context.Context, c *control.Client, _ []string) error {
			s, err := c.Status(ctx, false)
			if err != nil {
				return err
			}
			tunnels, err := c.Tunnels(ctx)
			if err != nil {
				return err
			}
			name, err := os.Hostname()
			if err != nil {
				return err
			}
			var addresses []netip.Addr
			if own {
				addresses = hostAddresses()
			}
			return a.printGraph(format, graph.New([]graph.Host{graph.Read(name, time.Now(), addresses, s, tunnels)}))
		})(cmd, args)
	}
}

// hostAddresses are the addresses that other hosts can send to. Each machine has those of its
// loopback and its links, so these say nothing.
func hostAddresses() (all []netip.Addr) {
	found, _ := net.InterfaceAddrs()
	for _, a := range found {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			all = append(all, p.Addr().Unmap())
		}
	}
	return all
}

// mergeGraph draws what was saved. A file may have the output of several hosts.
func (a *app) mergeGraph(format string, files []string) error {
	var hosts []graph.Host
	for _, name := range files {
		found, err := a.savedGraphs(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		hosts = append(hosts, found...)
	}
	hosts, err := graph.Merge(hosts)
	if err != nil {
		return err
	}
	return a.printGraph(format, graph.New(hosts))
}

func (a *app) savedGraphs(name string) (hosts []graph.Host, err error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, unwrapPath(err)
		}
		defer f.Close()
		in = f
	}
	for dec := json.NewDecoder(in); ; {
		var g graph.Graph
		switch err := dec.Decode(&g); {
		case errors.Is(err, io.EOF) && len(hosts) > 0:
			return hosts, nil
		case errors.Is(err, io.EOF), err == nil && len(g.Hosts) == 0:
			return nil, errors.New("there is no host in it; save it with gvtep -j graph")
		case err != nil:
			return nil, fmt.Errorf("not the JSON of gvtep -j graph: %w", err)
		}
		hosts = append(hosts, g.Hosts...)
	}
}

func (a *app) printGraph(format string, g graph.Graph) error {
	if format == "json" {
		return a.printJSON(g)
	}
	return g.Draw(a.out, format)
}
