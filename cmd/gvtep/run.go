package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/daemon"
	"gvtep/cmd/internal/logging"
	"gvtep/cmd/internal/service"
	"gvtep/config"
	"gvtep/vtep/spec"
)

// runFlags are the flags of gvtep run, and the keywords that were given.
type runFlags struct {
	draft            *config.Draft
	path, hooks      string
	noControl, waits bool
}

func (a *app) runCmd() *cobra.Command {
	run := &runFlags{draft: config.NewDraft()}
	cmd := &cobra.Command{
		Use:   "run NAME KEYWORDS | run --config PATH",
		Short: "carry tunnels until a signal ends it",
		Long: `Carry a tunnel on the device NAME, or those of a configuration, in the
foreground, until SIGINT or SIGTERM. SIGHUP reloads the configuration, also
while the daemon waits for its underlay; without one it ends the daemon, unless
it was ignored when that started (nohup).

Every keyword is a flag (--ttl 64) or two bare words (ttl 64), so the tail of
an "ip link add NAME type geneve ..." line can be pasted. Instead of --KEYWORD
those that are on or off may be written --noKEYWORD.`,
		Example: `  gvtep run gnv0 --id 100 --local 198.51.100.1 --remote 203.0.113.1 --address 192.0.2.1/24
  gvtep run gnv0 type geneve id 100 remote 203.0.113.1 noudpcsum
  gvtep run --config /etc/gvtep/fabric.toml`,
		ValidArgsFunction: a.completingWords(func() words { return keywordWords(config.Keywords()) }, (*completion).nothing),
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&run.path, "config", "", "configuration, a file or a directory: `PATH`")
	a.addKeywords(cmd, run.draft)
	f.BoolVar(&run.noControl, "no-control", false, "no control socket")
	f.StringVar(&run.hooks, "hooks", "on", "run the programs of [hooks] in the configuration: `on|off` (GVTEP_HOOKS)")
	f.BoolVar(&run.waits, "wait-underlay", false, "wait for local addresses and devices that are not there yet (always under systemd)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.run(cmd, run, args) }
	return cmd
}

func (a *app) run(cmd *cobra.Command, f *runFlags, args []string) error {
	ctx, hangups := handleSignals(cmd.Context(), f.path != "")
	if env := os.Getenv("GVTEP_HOOKS"); env != "" && !cmd.Flags().Changed("hooks") {
		f.hooks = env
	}
	if f.hooks != "on" && f.hooks != "off" {
		return fmt.Errorf("run: hooks %s: want on or off", f.hooks)
	}
	// First, so that no descriptor of the service manager's is taken for
	// something else.
	manager, err := service.New()
	if err != nil {
		return refused(fmt.Errorf("run: %w", err))
	}
	name := f.path
	switch {
	case f.path == "" && len(args) == 0:
		return errors.New("run: no NAME: gvtep run NAME KEYWORDS, such as gvtep run gnv0 --id 100 --remote 203.0.113.1, or gvtep run --config FILE")
	case f.path != "" && len(args) > 0:
		return fmt.Errorf("run %s: beside --config: write the tunnel into the file", args[0])
	case f.path == "":
		name = args[0]
	}
	o := daemon.Options{
		Hangups: hangups, RunDir: a.runDir, Named: a.instance != "", Hooks: f.hooks == "on", Patient: f.waits || manager.Present(),
		Build: build.Read(version), Manager: manager,
	}
	if err = a.configure(&o, f, args); err == nil {
		err = refused(daemon.Run(ctx, o))
	}
	if err != nil {
		return fmt.Errorf("run %w", spec.About(name, err))
	}
	return nil
}

// configure adds what the configuration says, which is in a file or in words.
func (a *app) configure(o *daemon.Options, f *runFlags, words []string) (err error) {
	o.Load = func(path string) (config.Config, error) { return loadConfig(path, nil) }
	called := config.InstanceName(f.path)
	if f.path != "" {
		o.Load = func(path string) (config.Config, error) { return loadConfig(path, f.draft.Amend) }
		if o.Config, err = o.Load(f.path); err == nil {
			o.Path, err = filepath.Abs(f.path) // for reloads
		}
	} else {
		called = words[0]
		f.draft.SetName(called)
		if err = f.draft.Words(words[1:]); err == nil {
			o.Config, err = f.draft.Config()
		}
	}
	if err != nil {
		return err
	}
	if o.Log, o.Logging, err = logging.New(os.Stderr, o.Config.Log.Level, o.Config.Log.Format); err != nil {
		return refused(err)
	}
	// Other output, including the last error, does not wait for a reader either.
	a.errOut, a.flush = o.Logging, o.Logging.Close
	o.Instance = cmp.Or(a.instance, o.Config.Instance, called)
	o.Config.Instance = o.Instance
	if !f.noControl {
		o.Control = cmp.Or(a.control, control.SocketPath(a.runDir, o.Instance))
	}
	return config.CheckInstance(o.Instance)
}
