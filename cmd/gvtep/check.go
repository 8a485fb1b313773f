package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/logging"
	"gvtep/config"
)

// confDir is where the service has its configurations.
const confDir = "/etc/gvtep"

// reloadTimeout is how long reload and diff wait unless --timeout says so:
// thousands of devices take their time.
const reloadTimeout = time.Minute

// loadConfig reads a configuration and lets the command line amend it. Of
// config.Errors in the chain, main prints all.
func loadConfig(path string, amend func(*config.Config) error) (config.Config, error) {
	cfg, err := config.Load(path)
	var faults config.Errors
	switch {
	case errors.As(err, &faults):
		return cfg, reworded{fmt.Sprintf("%d %s in the configuration", len(faults), plural(len(faults), "error")), err}
	case err != nil:
		return cfg, fmt.Errorf("%s: %w", path, unwrapPath(err))
	case amend != nil:
		return cfg, amend(&cfg)
	}
	return cfg, nil
}

// checked is what gvtep -j check prints.
type checked struct {
	Path     string         `json:"path"`
	OK       bool           `json:"ok"`
	Tunnels  int            `json:"tunnels"`
	Errors   []config.Error `json:"errors"`
	Warnings []string       `json:"warnings"`
}

func (a *app) checkCmd() *cobra.Command {
	var print bool
	cmd := &cobra.Command{
		Use:   "check [PATH] [--print]",
		Short: "check a configuration; exit 1 and all errors with their places",
		Long: `Check a configuration, a file or a directory, without running it. Without PATH
it is that of the instance (-i) in ` + confDir + `.`,
		Example: `  gvtep check fabric.toml
  gvtep check fabric.toml --print    # without includes, defaults and ranges
  gvtep -j check fabric.toml`,
		Args:              atMost(1),
		ValidArgsFunction: completeFiles,
	}
	cmd.Flags().BoolVar(&print, "print", false, "print each tunnel as it would run; with -d all of its settings")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var path string
		switch {
		case len(args) == 1:
			path = args[0]
		case a.instance != "":
			path = filepath.Join(confDir, a.instance+".toml")
		default:
			return fmt.Errorf("check: no PATH: gvtep check FILE, or -i INSTANCE for %s/INSTANCE.toml", confDir)
		}
		cfg, err := loadConfig(path, nil)
		out := checked{Path: path, OK: err == nil, Tunnels: len(cfg.Tunnels), Errors: []config.Error{}, Warnings: []string{}}
		for _, t := range cfg.Tunnels {
			for _, w := range config.Warnings(&t) {
				out.Warnings = append(out.Warnings, t.Device.Name+": "+w)
			}
		}
		var faults config.Errors
		switch {
		case a.json && errors.As(err, &faults):
			out.Errors = faults
			err = errors.New(err.Error()) // said already
			fallthrough
		case a.json && err == nil:
			if err := a.printJSON(out); err != nil {
				return err
			}
		case err != nil:
		case print:
			fmt.Fprint(a.out, config.Print(cfg, a.details))
		default:
			for _, w := range out.Warnings {
				fmt.Fprintf(a.out, "%s: warning: %s\n", path, w)
			}
			fmt.Fprintf(a.out, "%s: ok, %d %s\n", path, out.Tunnels, plural(out.Tunnels, "tunnel"))
		}
		return inCommand(cmd, err)
	}
	return cmd
}

func (a *app) configCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config example|import|schema",
		Short:   "show examples of configuration files and their schema, or make one of what the kernel has",
		Example: "  gvtep config example > /etc/gvtep/p2p.toml",
		Args:    cobra.ArbitraryArgs,

		ValidArgsFunction: a.completing(),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	names := exampleNames()
	example := &cobra.Command{
		Use:               "example [" + strings.Join(names, "|") + "]",
		Short:             "print an example of a configuration file",
		Example:           "  gvtep config example fabric > /etc/gvtep/fabric.toml",
		Args:              atMost(1),
		ValidArgsFunction: a.completing(oneOf(names...)),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "p2p"
			if len(args) == 1 {
				name = args[0]
			}
			if !slices.Contains(names, name) {
				return inCommand(cmd, fmt.Errorf("no example %q: want %s", name, strings.Join(names, ", ")))
			}
			text, err := fs.ReadFile(config.Examples, "examples/"+name+".toml")
			if err != nil {
				return inCommand(cmd, err)
			}
			_, err = a.out.Write(text)
			return inCommand(cmd, err)
		},
	}
	schema := &cobra.Command{
		Use:               "schema",
		Short:             "print the JSON schema of configuration files, for editors",
		Example:           "  gvtep config schema > gvtep.schema.json    # and in the file: #:schema gvtep.schema.json",
		Args:              atMost(0),
		ValidArgsFunction: a.completing(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := a.out.Write(config.Schema())
			return inCommand(cmd, err)
		},
	}
	cmd.AddCommand(example, schema, a.importCmd())
	return cmd
}

func (a *app) importCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import [FILE|-]...",
		Short: "make a configuration of the kernel's vxlan and geneve devices",
		Long: `Make a configuration of the vxlan and geneve devices that ip tells of, with the
addresses that ip -d -j addr show has, and with the peers and entries that bridge
-j fdb show has. FILE is what they print, and - or none the standard input.

What cannot be carried over is said in comments beside the tunnel, and the rest
passes gvtep check. Nothing is changed in the kernel.`,
		Example: `  ip -d -j link show type vxlan | gvtep config import - > /etc/gvtep/fabric.toml
  { ip -d -j addr show type geneve; bridge -j fdb show; } | gvtep config import -
  gvtep config import links.json fdb.json`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeFiles,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f, ok := a.in.(*os.File); ok && len(args) == 0 && logging.IsTerminal(f) {
			return inCommand(cmd, errors.New("no FILE: ip -d -j link show type vxlan | gvtep config import -"))
		}
		if len(args) == 0 {
			args = []string{"-"}
		}
		var inputs []io.Reader
		for _, name := range args {
			if name == "-" {
				inputs = append(inputs, a.in)
				continue
			}
			f, err := os.Open(name)
			if err != nil {
				return inCommand(cmd, fmt.Errorf("%s: %w", name, unwrapPath(err)))
			}
			defer f.Close()
			inputs = append(inputs, f)
		}
		text, err := config.Import(inputs...)
		// The comments tell more than the error.
		if _, err := io.WriteString(a.out, text); err != nil {
			return inCommand(cmd, err)
		}
		return inCommand(cmd, err)
	}
	return cmd
}

// exampleNames lists the examples.
func exampleNames() []string {
	files, _ := fs.Glob(config.Examples, "examples/*.toml")
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".toml")
	}
	return files
}
