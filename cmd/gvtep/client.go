package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
	"gvtep/vtep/spec"
)

// asking makes the RunE of a command that asks the daemon: with a client, a
// bounded time, and errors that begin with the command.
func (a *app) asking(f func(context.Context, *control.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		c, err := a.client()
		if err == nil {
			err = f(ctx, c, args)
		}
		return inCommand(cmd, err)
	}
}

// client returns a client of the daemon: the one of the batch for all its
// commands.
func (a *app) client() (*control.Client, error) {
	if a.within != nil && a.within.session != nil {
		return a.within.session, nil
	}
	path, err := a.socketPath()
	switch {
	case err != nil:
		return nil, err
	case a.within == nil:
		return control.NewClient(path), nil
	}
	a.within.session = control.NewSession(path)
	return a.within.session, nil
}

// inCommand puts the name of the command before an error.
func inCommand(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	if invalid := new(control.InvalidError); errors.As(err, &invalid) {
		err = &spec.Error{Text: fmt.Sprintf("%d %s in the configuration, nothing is changed", invalid.Faults, plural(invalid.Faults, "error")), Cause: err}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = exitError{exitTimeout, fmt.Errorf("timed out: %w", err)}
	}
	return fmt.Errorf("%s%w", label(cmd, ": "), err)
}

// errNoDaemon is for when there is no instance at all.
var errNoDaemon = fmt.Errorf("%w: no instance is running, start one with gvtep run", control.ErrUnreachable)

// socketPath finds the daemon to talk to: the one that was named, or the only
// one there is.
func (a *app) socketPath() (string, error) {
	if a.control != "" {
		return a.control, nil
	}
	if a.instance != "" {
		return control.SocketPath(a.runDir, a.instance), config.CheckInstance(a.instance)
	}
	found, err := control.Find(a.runDir)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("%w: %w", control.ErrUnreachable, err)
	}
	if err != nil {
		return "", err
	}
	live := slices.DeleteFunc(found, func(f control.Found) bool { return !f.Live() })
	if len(live) == 0 {
		return "", errNoDaemon
	}
	if len(live) > 1 {
		near := slices.DeleteFunc(slices.Clone(live), func(f control.Found) bool { return !ownNetns(f.PID) })
		if len(near) != 1 {
			return "", fmt.Errorf("several instances are running, choose one with -i: %s", a.describeInstances(live))
		}
		live = near
	}
	return control.SocketPath(a.runDir, live[0].Name), nil
}

// printJSON prints v on one line, or indented with -p.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	if a.pretty {
		enc.SetIndent("", "    ")
	}
	return enc.Encode(v)
}

// jsonArray prints an array as printJSON does, element by element.
type jsonArray struct {
	out    io.Writer
	pretty bool
	line   bytes.Buffer
	any    bool
}

func (a *app) jsonArray(out io.Writer) *jsonArray { return &jsonArray{out: out, pretty: a.pretty} }

func (j *jsonArray) add(v any) error {
	begin, between := "[", ","
	j.line.Reset()
	enc := json.NewEncoder(&j.line)
	enc.SetEscapeHTML(false)
	if j.pretty {
		begin, between = "[\n    ", ",\n    "
		enc.SetIndent("    ", "    ")
	}
	if j.any {
		begin = between
	}
	j.any = true
	j.line.WriteString(begin)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := j.out.Write(bytes.TrimSuffix(j.line.Bytes(), []byte("\n")))
	return err
}

func (j *jsonArray) end() error {
	text := "[]\n"
	switch {
	case j.any && j.pretty:
		text = "\n]\n"
	case j.any:
		text = "]\n"
	}
	_, err := io.WriteString(j.out, text)
	return err
}

// unwrapPath is the reason of an error about a file whose name was said already.
func unwrapPath(err error) error {
	if p := new(fs.PathError); errors.As(err, &p) {
		return p.Err
	}
	return err
}
