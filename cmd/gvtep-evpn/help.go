package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// command is one of the words after gvtep-evpn.
type command struct {
	name, args, help string
	min, max         int // arguments
	run              func(*app, []string) error
	example          string // lines for the manual
}

func commands() []command {
	return []command{
		{"run", "", "speak BGP and tell gvtep, in the foreground", 0, 0, (*app).runCmd, "gvtep-evpn run -c /etc/gvtep/fabric.evpn.toml"},
		{"check", "", "say what is wrong with the configuration", 0, 0, (*app).checkCmd, "gvtep-evpn check -c /etc/gvtep/fabric.evpn.toml"},
		{"status", "", "sessions, segments and counters of the running agent", 0, 0, (*app).statusCmd, "gvtep-evpn status\ngvtep-evpn -j status | jq .complete"},
		{
			"show", "routes|mac|peers [vni VNI] [type TYPE]", "routes received, stations, or BGP sessions", 1, 5, (*app).showCmd,
			"gvtep-evpn show routes vni 100 type imet\ngvtep-evpn show mac type local\ngvtep-evpn -j show mac vni 100\ngvtep-evpn show peers",
		},
		{"clear", "LLADDR", "let a station move again that two places claimed", 1, 1, (*app).clearCmd, "gvtep-evpn clear 02:00:00:00:00:01"},
		{"monitor", "", "print routes and sessions as they change", 0, 0, (*app).monitorCmd, "gvtep-evpn -j monitor"},
		{"metrics", "", "print the metrics", 0, 0, (*app).metricsCmd, "gvtep-evpn metrics | grep session_up"},
		{"version", "", "print the version", 0, 0, (*app).versionCmd, "gvtep-evpn version"},
		{"help", "", "print the commands and flags", 0, 0, (*app).helpCmd, "gvtep-evpn help"},
	}
}

// helpView is the program as "gvtep-evpn -j help" tells of it, with the keys of gvtep's. The manual is made of it: scripts/tools/man.
type helpView struct {
	Name     string        `json:"name"`
	Flags    []flagView    `json:"flags"`
	Commands []commandView `json:"commands"`
}

type commandView struct {
	Name    string `json:"name"`
	Use     string `json:"use"`
	Short   string `json:"short"`
	Example string `json:"example"`
}

type flagView struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Arg       string `json:"arg,omitempty"` // "": it has no value
	Usage     string `json:"usage"`
	Default   string `json:"default,omitempty"`
}

func (a *app) helpCmd([]string) error {
	if a.json {
		return a.print(a.helpView())
	}
	fmt.Fprint(a.out, "usage: gvtep-evpn [FLAG...] COMMAND\n\ncommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(a.out, "  %-52s %s\n", c.use(), c.help)
	}
	fmt.Fprintf(a.out, "\nflags:\n%s", a.flags.FlagUsages())
	return nil
}

func (c *command) use() string { return strings.TrimSpace(c.name + " " + c.args) }

func (a *app) helpView() helpView {
	v := helpView{Name: "gvtep-evpn"}
	a.flags.VisitAll(func(f *pflag.Flag) {
		arg, usage := pflag.UnquoteUsage(f)
		h := flagView{Name: f.Name, Shorthand: f.Shorthand, Arg: arg, Usage: usage, Default: f.DefValue}
		if f.Value.Type() == "bool" {
			h.Arg, h.Default = "", ""
		}
		v.Flags = append(v.Flags, h)
	})
	for _, c := range commands() {
		v.Commands = append(v.Commands, commandView{Name: c.name, Use: c.use(), Short: c.help, Example: c.example})
	}
	return v
}
