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

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/logging"
	"gvtep/config"
)

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
