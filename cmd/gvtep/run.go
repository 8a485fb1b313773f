package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/daemon"
	"gvtep/cmd/internal/logging"
	"gvtep/cmd/internal/service"
	"gvtep/config"

	"github.com/spf13/cobra"
)

func (a *app) runCmd() *cobra.Command {
	draft := config.NewDraft()
	var path string
	var noControl, waits bool
	hooks := "on"
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
	f.StringVar(&path, "config", "", "configuration, a file or a directory: `PATH`")
	a.addKeywords(cmd, draft)
	// The keyword netns hides the global flag of this name.
	f.StringVarP(&a.netns, "underlay-netns", "n", "", netnsUsage+", sockets included")
	f.BoolVar(&noControl, "no-control", false, "no control socket")
	f.StringVar(&hooks, "hooks", "on", "run the programs of [hooks] in the configuration: `on|off` (GVTEP_HOOKS)")
	f.BoolVar(&waits, "wait-underlay", false, "wait for local addresses and devices that are not there yet (always under systemd)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx, hangups := handleSignals(cmd.Context(), path != "")
		if env := os.Getenv("GVTEP_HOOKS"); env != "" && !cmd.Flags().Changed("hooks") {
			hooks = env
		}
		if hooks != "on" && hooks != "off" {
			return fmt.Errorf("run: hooks %s: want on or off", hooks)
		}
		o := daemon.Options{Path: path, Hangups: hangups, RunDir: a.runDir, Named: a.instance != "", Hooks: hooks == "on", Build: build.Read(version)}
		// First, so that no descriptor of the service manager's is taken for
		// something else.
		if o.Manager, err = service.New(); err != nil {
			return refused(fmt.Errorf("run: %w", err))
		}
		o.Patient = waits || o.Manager.Present()
		o.Load = func(path string) (config.Config, error) { return loadConfig(path, nil) }
		name, called := path, config.InstanceName(path)
		switch {
		case path == "" && len(args) == 0:
			return errors.New("run: no NAME: gvtep run NAME KEYWORDS, such as gvtep run gnv0 --id 100 --remote 203.0.113.1, or gvtep run --config FILE")
		case path != "" && len(args) > 0:
			return fmt.Errorf("run %s: beside --config: write the tunnel into the file", args[0])
		case path == "":
			name, called = args[0], args[0]
			draft.SetName(name)
			if err = draft.Words(args[1:]); err == nil {
				o.Config, err = draft.Config()
			}
		default:
			o.Load = func(path string) (config.Config, error) { return loadConfig(path, draft.Amend) }
			if o.Config, err = o.Load(path); err == nil {
				o.Path, err = filepath.Abs(path) // for reloads
			}
		}
		if err == nil {
			o.Log, o.Logging, err = logging.New(os.Stderr, o.Config.Log.Level, o.Config.Log.Format)
			err = refused(err)
		}
		if err == nil {
			// What else is said, last words included, waits for nobody either.
			a.errOut, a.flush = o.Logging, o.Logging.Close
		}
		o.Instance = cmp.Or(a.instance, o.Config.Instance, called)
		if err == nil {
			err = config.CheckInstance(o.Instance)
		}
		o.Config.Instance = o.Instance
		if !noControl {
			o.Control = cmp.Or(a.control, control.SocketPath(a.runDir, o.Instance))
		}
		if err == nil {
			err = refused(daemon.Run(ctx, o))
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", name, withoutPrefix(err, name+": "))
		}
		return nil
	}
	return cmd
}
