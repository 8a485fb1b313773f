package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gvtep/config"
	"gvtep/vtep/spec"
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
	return amended(cfg, path, err, amend)
}

// amended is a configuration that was read from path, with what the command line says.
func amended(cfg config.Config, path string, err error, amend func(*config.Config) error) (config.Config, error) {
	var faults config.Errors
	switch {
	case errors.As(err, &faults):
		return cfg, &spec.Error{Text: fmt.Sprintf("%d %s in the configuration", len(faults), plural(len(faults), "error")), Cause: err}
	case err != nil:
		return cfg, fmt.Errorf("%s: %w", path, unwrapPath(err))
	case amend != nil:
		return cfg, amend(&cfg)
	}
	return cfg, nil
}

// readConfig reads the configuration at path, - for standard input.
func (a *app) readConfig(path string) (config.Config, error) {
	switch {
	case path != "-":
		return loadConfig(path, nil)
	case a.within != nil:
		return config.Config{}, errors.New("-: not in a batch, whose standard input is the commands' own")
	}
	cfg, err := config.Read(path, a.in)
	return amended(cfg, path, err, nil)
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
		Use:   "check [PATH|-] [--print]",
		Short: "check a configuration; exit 1 and all errors with their places",
		Long: `Check a configuration, a file, a directory or - for standard input, without
running it. Without PATH it is that of the instance (-i) in ` + confDir + `.`,
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
		cfg, err := a.readConfig(path)
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
