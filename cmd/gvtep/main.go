// Gvtep is a userspace GENEVE (RFC 8926) tunnel endpoint: the daemon ("gvtep
// run") and the commands that ask it what it is doing.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/config"
)

func main() { os.Exit(newApp(control.RunDir).execute(os.Args[1:])) }

// app is the global flags and what surrounds the program.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	flush       func() // waits for what was written to errOut; nil: it is written
	runDir      string // where instances have their directories
	within      *batch // nil: not a command of a batch

	json, pretty, stats, details, oneline, force bool
	color, instance, control, netns, batchFile   string
	timeout                                      time.Duration
}

func newApp(runDir string) *app {
	return &app{in: os.Stdin, out: os.Stdout, errOut: os.Stderr, runDir: runDir}
}

// execute runs the command line of the process and returns the exit code.
func (a *app) execute(args []string) int {
	err := a.command(context.Background(), a.root(), args)
	if err != nil {
		a.explain(err)
	}
	if a.flush != nil {
		a.flush()
	}
	return exitCode(err)
}

// explain is the one place where errors are printed.
func (a *app) explain(err error) {
	var faults config.Errors
	var invalid *control.InvalidError
	switch {
	case errors.As(err, &faults):
		fmt.Fprintln(a.errOut, faults)
	case errors.As(err, &invalid):
		fmt.Fprintln(a.errOut, invalid.Text)
	}
	fmt.Fprintln(a.errOut, "gvtep:", strings.ReplaceAll(err.Error(), "\n", "; "))
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "gvtep",
		Short:         "GENEVE (RFC 8926) tunnels in user space",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs, // an unknown command is refused in RunE, with our error text
		Version:       build.Read(version).Version,
	}
	root.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > 0:
			return unknownCommand(root, args[0])
		case a.batchFile != "":
			return a.runBatch(cmd)
		}
		return cmd.Help()
	}
	globalFlagsOnce(root)
	root.SetVersionTemplate("gvtep {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.within != nil {
			return cmp.Or(a.within.inherit(cmd), a.checkColor())
		}
		switch {
		case a.batchFile != "" && cmd != root:
			return fmt.Errorf("%s beside -b: commands come from %s", label(cmd, ""), a.batchFile)
		case a.batchFile == "" && a.force:
			return errors.New("--force is for -b FILE")
		}
		if err := a.environment(cmd); err != nil {
			return err
		}
		if a.netns == "" {
			return nil
		}
		return refused(enterNetns(a.netns))
	}

	root.Flags().SortFlags = false
	f := root.PersistentFlags()
	f.SortFlags = false
	f.StringVarP(&a.instance, "instance", "i", "", "`INSTANCE` to run or to talk to (run: NAME; else the only one there is)")
	f.StringVar(&a.control, "control", "", "control socket `PATH` (/run/gvtep/INSTANCE/control.sock)")
	f.StringVarP(&a.netns, "netns", "n", "", netnsUsage)
	f.BoolVarP(&a.json, "json", "j", false, "JSON, with the keys of ip and bridge")
	f.BoolVarP(&a.pretty, "pretty", "p", false, "indented JSON")
	f.BoolVarP(&a.stats, "stats", "s", false, "more counters")
	f.BoolVarP(&a.details, "details", "d", false, "more settings")
	f.BoolVarP(&a.oneline, "oneline", "o", false, "one line a record")
	f.StringVarP(&a.color, "color", "c", "auto", "colors: `WHEN` is auto, always or never; -c alone is always")
	f.StringVarP(&a.batchFile, "batch", "b", "", "run the commands in `FILE`, or - for standard input, one a line, until one fails")
	f.BoolVar(&a.force, "force", false, "with -b: go on after commands that fail")
	f.DurationVar(&a.timeout, "timeout", 5*time.Second, "longest `TIME` to wait")
	root.Flags().BoolP("version", "V", false, "print the version")

	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(a.helpCmd())
	if a.within != nil {
		root.AddCommand(endless("run"), endless("monitor"), endless("watch"), endless("capture"))
	} else {
		root.AddCommand(a.runCmd(), a.monitorCmd(), a.watchCmd(), a.captureCmd())
	}
	root.AddCommand(a.checkCmd(), a.diffCmd(), a.reloadCmd(), a.showCmd(), a.tunnelCmd(), a.peerCmd(), a.fdbCmd(), a.vlanCmd(), a.batchCmd(), a.statusCmd(), a.lsCmd(), a.graphCmd(), a.doctorCmd(), a.pingCmd(), a.bugreportCmd(), a.explainCmd(), a.decodeCmd(), a.optionsCmd(), a.waitCmd(), a.metricsCmd(), a.logLevelCmd(), a.configCmd(), a.versionCmd(), a.completionCmd())
	root.InitDefaultHelpCmd()
	a.completingFlag(root, "instance", (*completion).instances)
	a.completingFlag(root, "netns", (*completion).namespaces)
	a.completingFlag(root, "color", oneOf(colors...))
	a.completingFlag(root, "timeout", (*completion).nothing)
	return root
}

const netnsUsage = "work in the network namespace `NETNS`, a name or path"

// environment lets GVTEP_INSTANCE stand for --instance, and so on.
func (a *app) environment(cmd *cobra.Command) (err error) {
	f := cmd.Root().PersistentFlags()
	for _, name := range []string{"instance", "control", "netns", "color", "timeout", "json", "pretty", "stats", "details", "oneline"} {
		env := "GVTEP_" + strings.ToUpper(name)
		flag := f.Lookup(name)
		if v := os.Getenv(env); v != "" && flag.Value.String() == flag.DefValue && flag.Value.Set(v) != nil {
			return fmt.Errorf("%s=%s: not a value of --%s", env, v, name)
		}
	}
	return a.checkColor()
}

func (a *app) checkColor() error {
	if !slices.Contains(colors, a.color) {
		return fmt.Errorf("color %s: want auto, always or never", a.color)
	}
	return nil
}

var colors = []string{"auto", "always", "never"}

// Exit codes, as those of ip(8) where it has them.
const (
	exitUsage       = 1 // wrong usage or configuration
	exitRefused     = 2 // the kernel or the daemon said no
	exitUnreachable = 3 // no daemon
	exitTimeout     = 4
)

// exitError gives an error an exit code other than exitUsage.
type exitError struct {
	code int
	error
}

func (e exitError) Unwrap() error { return e.error }

// refused marks an error as a refusal.
func refused(err error) error {
	if err == nil {
		return nil
	}
	return exitError{exitRefused, err}
}

func exitCode(err error) int {
	var exit exitError
	var notFound *control.NotFoundError
	var no *control.RefusedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, control.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.As(err, &notFound) || errors.As(err, &no):
		return exitRefused
	}
	return exitUsage
}
