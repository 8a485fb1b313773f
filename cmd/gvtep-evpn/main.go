// gvtep-evpn is a BGP EVPN speaker for gvtep: it finds the other VTEPs and their stations through
// route reflectors, and announces its own. See docs/evpn.md.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// version is for the linker (-X main.version=v1.2.3).
var version string

// app is one call of the program.
type app struct {
	out, errOut      io.Writer
	flags            *pflag.FlagSet
	instance, config string
	control, level   string
	format           string
	json             bool
}

// usageError is a call that makes no sense.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// exitCodes: 0 done, 1 failed, 2 wrong words, 3 nobody to ask.
const (
	exitFailed = 1 + iota
	exitUsage
	exitUnreachable
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

func execute(args []string, out, errOut io.Writer) int {
	a := &app{out: out, errOut: errOut, flags: pflag.NewFlagSet("gvtep-evpn", pflag.ContinueOnError)}
	f := a.flags
	f.SetOutput(io.Discard)
	f.StringVarP(&a.instance, "instance", "i", "", "`NAME` of the agent to ask, that of its gvtep; not needed if there is one only")
	f.StringVarP(&a.config, "config", "c", "/etc/gvtep/evpn.toml", "the configuration `FILE`, of run and check")
	f.StringVar(&a.control, "control", "", "`PATH` of the control socket of the agent to ask, or to run")
	f.StringVar(&a.level, "log-level", "info", "the `LEVEL` from which on run logs: debug, info, warn or error")
	f.StringVar(&a.format, "log-format", "auto", "the `FORMAT` of what run logs: json, console, journal or auto")
	f.BoolVarP(&a.json, "json", "j", false, "print JSON")
	err := f.Parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		args, err = []string{"help"}, nil
	} else {
		args = f.Args()
	}
	if err != nil {
		err = usageError{err.Error()}
	} else {
		err = a.dispatch(args)
	}
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(errOut, "gvtep-evpn: %s; gvtep-evpn help has the commands\n", oneLine(err))
		return exitUsage
	case errors.Is(err, errUnreachable):
		fmt.Fprintf(errOut, "gvtep-evpn: %s\n", oneLine(err))
		return exitUnreachable
	}
	fmt.Fprintf(errOut, "gvtep-evpn: %s\n", oneLine(err))
	return exitFailed
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", ": ") }

func (a *app) dispatch(args []string) error {
	if len(args) == 0 {
		return usageError{"a command is missing"}
	}
	if !strings.Contains(" json console journal auto ", " "+a.format+" ") {
		return usageError{fmt.Sprintf("--log-format %s: want json, console, journal or auto", a.format)}
	}
	if !strings.Contains(" debug info warn error ", " "+a.level+" ") {
		return usageError{fmt.Sprintf("--log-level %s: want debug, info, warn or error", a.level)}
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		if n := len(args) - 1; n < c.min || n > c.max {
			return usageError{"want: gvtep-evpn " + c.use()}
		}
		return c.run(a, args[1:])
	}
	return usageError{fmt.Sprintf("there is no command %q", args[0])}
}
