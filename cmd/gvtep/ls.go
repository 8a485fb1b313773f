package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
)

func (a *app) lsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "list the instances on this host, in all network namespaces",
		Long: `List the instances on this host: their process, the network namespace it works in,
whether they are ready, their tunnels, how many peers are heard, since when they
run, and the configuration that a reload reads. The namespace of the command
itself is marked with *. "stale" is a socket that a killed process left.`,
		Example:           "  gvtep ls\n  gvtep -j ls | jq -r '.[].instance'",
		Args:              atMost(0),
		ValidArgsFunction: a.completing(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := control.Find(a.runDir)
			if err != nil {
				return inCommand(cmd, refused(err))
			}
			all := make([]listed, len(found))
			for i, f := range found {
				all[i] = a.look(cmd.Context(), f)
			}
			if len(all) == 0 && !a.json {
				return inCommand(cmd, errNoDaemon)
			}
			return a.printInstances(all)
		},
	}
}

// listed is an instance as gvtep ls tells of it.
type listed struct {
	Instance string     `json:"instance"`
	PID      int        `json:"pid,omitempty"`
	Netns    string     `json:"netns,omitempty"` // name, or net:[INODE] of one without
	Own      bool       `json:"own_netns"`       // it is that of the command
	State    string     `json:"state"`           // "ready", "not ready", "stale", "no permission" or "no answer"
	Reason   string     `json:"reason,omitempty"`
	Tunnels  []string   `json:"tunnels"`
	Heard    int        `json:"peers_heard"`
	Peers    int        `json:"peers"`
	Started  *time.Time `json:"started,omitempty"`
	Config   string     `json:"config,omitempty"`

	uptime float64
}

// look asks an instance, for a second at most.
func (a *app) look(ctx context.Context, f control.Found) listed {
	l := listed{Instance: f.Name, PID: f.PID, Netns: netnsOf(f.PID), Own: ownNetns(f.PID), Tunnels: []string{}}
	switch {
	case errors.Is(f.Err, fs.ErrPermission):
		l.State, l.Reason = "no permission", "its control socket is for root and the group of the daemon"
		return l
	case f.Err != nil:
		l.State, l.Reason = "stale", "nobody serves its control socket: gvtep run takes it over, or remove "+filepath.Dir(control.SocketPath(a.runDir, f.Name))
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, min(a.timeout, time.Second))
	defer cancel()
	c := control.NewClient(control.SocketPath(a.runDir, f.Name))
	s, err := c.Status(ctx, false)
	if err != nil {
		l.State, l.Reason = "no answer", err.Error()
		return l
	}
	l.State, l.Reason = "ready", s.Reason
	if !s.Ready {
		l.State = "not ready"
	}
	l.Heard, l.Peers, l.Started, l.Config, l.uptime = s.Peers.Heard, s.Peers.Total, &s.Started, s.Config, s.Uptime
	tunnels, _ := c.Tunnels(ctx)
	for _, t := range tunnels {
		l.Tunnels = append(l.Tunnels, t.Ifname)
	}
	return l
}

func (a *app) printInstances(all []listed) error {
	if a.json {
		return a.printJSON(all)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tPID\tNETNS\tSTATE\tPEERS HEARD\tUP\tTUNNELS\tCONFIG")
	for _, l := range all {
		netns, pid, peers, up := cmp.Or(l.Netns, "-"), "-", "-", "-"
		if l.Own {
			netns += "*"
		}
		if l.PID != 0 {
			pid = fmt.Sprint(l.PID)
		}
		if l.Started != nil {
			peers, up = fmt.Sprintf("%d of %d", l.Heard, l.Peers), age(l.uptime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Instance, pid, netns, l.State, peers, up, cmp.Or(names(l.Tunnels), "-"), cmp.Or(l.Config, "-"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, l := range all {
		if l.Reason != "" {
			fmt.Fprintf(a.out, "%s: %s\n", l.Instance, l.Reason)
		}
	}
	return nil
}

// names are the first of some names, and how many there are more.
func names(all []string) string {
	const most = 4
	if len(all) <= most {
		return strings.Join(all, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], " "), len(all)-most)
}

// describeInstances is a list for an error: names, tunnels and namespaces.
func (a *app) describeInstances(all []control.Found) string {
	words := make([]string, len(all))
	for i, f := range all {
		l := a.look(context.Background(), f)
		words[i] = l.Instance + " (" + cmp.Or(names(l.Tunnels), l.State)
		switch {
		case l.Own:
			words[i] += ", this network namespace"
		case l.Netns != "":
			words[i] += ", netns " + l.Netns
		}
		words[i] += ")"
	}
	return strings.Join(words, ", ")
}

// netnsID is the network namespace of a process as the kernel names it, "" if that cannot be seen.
func netnsID(pid string) string {
	id, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		return ""
	}
	return id
}

// ownNetns reports whether a process is in the network namespace of this one.
func ownNetns(pid int) bool {
	return pid != 0 && netnsID(fmt.Sprint(pid)) == netnsID("self") && netnsID("self") != ""
}

// netnsOf is the name of a process's network namespace, net:[INODE] if it has none, "" if it cannot
// be seen.
func netnsOf(pid int) string {
	id := netnsID(fmt.Sprint(pid))
	if pid == 0 || id == "" {
		return ""
	}
	of, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return id
	}
	if first, err := os.Stat("/proc/1/ns/net"); err == nil && os.SameFile(first, of) {
		return "host"
	}
	const dir = "/run/netns"
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if named, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && os.SameFile(named, of) {
			return e.Name()
		}
	}
	return id
}
