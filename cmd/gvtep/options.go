package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/vtep/option"
)

func (a *app) optionsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "options",
		Short: "list the GENEVE options that have a name",
		Long: `List the kinds of GENEVE options that have a name in a running instance: those that are
built in, and those of [[option]] in its configuration. Length is that of the data in bytes.
An option that is critical makes a receiver that does not know it drop the packet.`,
		Example:           "  gvtep options\n  gvtep -j options | jq -r '.[].name'",
		Args:              atMost(0),
		ValidArgsFunction: a.completing(),
	}
	cmd.RunE = a.asking(func(ctx context.Context, c *control.Client, _ []string) error {
		kinds, err := c.Options(ctx)
		switch {
		case err != nil:
			return err
		case a.json:
			return a.printJSON(kinds)
		}
		out := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(out, "NAME\tID\tLENGTH\tFORMAT\tNOTES")
		for _, k := range kinds {
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", k.Name, k.ID, lengthOf(k), k.Format, notesOn(k))
		}
		return out.Flush()
	})
	return cmd
}

func lengthOf(k control.OptionKind) string {
	if k.Length == nil {
		return "any"
	}
	return fmt.Sprint(*k.Length)
}

// notesOn is what else there is to say of a kind of options.
func notesOn(k control.OptionKind) string {
	notes := "built in"
	if k.Own {
		notes = "own"
	}
	switch {
	case k.Known:
		notes += ", critical, known"
	case k.Critical:
		notes += ", critical"
	}
	return notes
}

// optionNames asks a daemon for the options that have a name.
func (a *app) optionNames(ctx context.Context, c *control.Client) (*option.Registry, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	kinds, err := c.Options(ctx)
	if err != nil {
		return nil, err
	}
	var own []option.Kind
	for _, k := range kinds {
		if !k.Own {
			continue
		}
		id, err := option.ParseID(k.ID)
		if err != nil {
			return nil, fmt.Errorf("option %s: %w", k.Name, err)
		}
		kind := option.Kind{ID: id, Name: k.Name, Len: option.Variable, Format: option.Format(k.Format), Known: k.Known}
		if k.Length != nil {
			kind.Len = *k.Length
		}
		own = append(own, kind)
	}
	return option.NewRegistry(own)
}
