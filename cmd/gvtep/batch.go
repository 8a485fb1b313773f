package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gvtep/cmd/internal/control"
)

// maxCommand is the longest command of a batch, in bytes. A longer line means that the file
// is not one of commands.
const maxCommand = 64 << 10

// batch is what the commands of one have in common.
type batch struct {
	flags   *pflag.FlagSet  // of the command line
	session *control.Client // nil: nobody was asked yet
}

// runBatch runs the commands of a file, as "ip -b" does: in turn, until the
// first that fails, or all with --force. What went wrong is printed as it
// comes, with its place.
func (a *app) runBatch(cmd *cobra.Command) error {
	name, in := a.batchFile, a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("-b %s: %w", name, unwrapPath(err))
		}
		defer f.Close()
		in = f
	}
	b := &batch{flags: cmd.Root().PersistentFlags()}
	defer b.close()
	one := &app{in: a.in, out: a.out, errOut: a.errOut, runDir: a.runDir, within: b}
	root := one.root() // one for all: making it takes longer than most commands
	failed := 0
	for r := (batchReader{in: bufio.NewReader(in)}); ; {
		words, line, err := r.next()
		switch {
		case errors.Is(err, io.EOF) && failed == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s: %d %s failed", name, failed, plural(failed, "command"))
		case err == nil:
			err = one.command(cmd.Context(), root, words)
			forget(root)
		}
		if err == nil {
			continue
		}
		if err := fmt.Errorf("%s:%d: %w", name, line, err); !a.force {
			// The exit code is that of ip -b, whatever the command's own is.
			return exitError{exitUsage, err}
		} else if failed++; failed > 0 {
			a.explain(err)
		}
	}
}

func (b *batch) close() {
	if b.session != nil {
		b.session.Close()
	}
}

// inBatch are the flags that belong to the batch as a whole.
var inBatch = []string{"batch", "force", "instance", "control", "netns"}

// inherit gives a command of the batch the flags of the command line.
func (b *batch) inherit(cmd *cobra.Command) (err error) {
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		own := f.Changed
		switch whole := slices.Contains(inBatch, f.Name); {
		case own && whole:
			err = fmt.Errorf("--%s belongs to the batch: write it before -b", f.Name)
		case !own && f.Name != "batch" && f.Name != "force":
			// A value that was taken once is taken again.
			_ = f.Value.Set(b.flags.Lookup(f.Name).Value.String())
		}
	})
	return err
}

// endless replaces, in a batch, a command that does not end.
func endless(name string) *cobra.Command {
	return &cobra.Command{
		Use: name, DisableFlagParsing: true, Args: cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%s: not in a batch: it does not end, and what comes after it would never run", name)
		},
	}
}

// forget makes the flags of a command line unset for the next.
func forget(cmd *cobra.Command) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			f.Changed = false
			_ = f.Value.Set(f.DefValue) // it is one
		}
	})
	for _, sub := range cmd.Commands() {
		forget(sub)
	}
}

// command runs one command line.
func (a *app) command(ctx context.Context, root *cobra.Command, words []string) error {
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.SetArgs(joinArgs(words))
	return root.ExecuteContext(ctx)
}

// batchReader reads commands: words between blanks, '...' and "..." and \ as in
// a shell, \ at the end of a line for one more line, and # before a comment.
type batchReader struct {
	in   *bufio.Reader
	line int // lines read
}

// next returns the words of the next command, and the line it begins in. With
// an error other than io.EOF the one after it can be read.
func (r *batchReader) next() (words []string, line int, err error) {
	for {
		words, line, err = r.command()
		if err != nil || len(words) > 0 {
			return words, line, err
		}
	}
}

func (r *batchReader) command() (words []string, line int, err error) {
	line = r.line + 1
	var word []byte
	inWord, quote, size := false, byte(0), 0
	end := func() {
		if inWord {
			words, word, inWord = append(words, string(word)), nil, false
		}
	}
	for {
		c, err := r.in.ReadByte()
		switch size++; {
		case errors.Is(err, io.EOF) && size == 1:
			return nil, line, io.EOF
		case errors.Is(err, io.EOF):
			c = '\n' // a last line without end
		case err != nil:
			return nil, line, err
		case size > maxCommand && c != '\n':
			r.skip()
			return nil, line, fmt.Errorf("a command of more than %d bytes", maxCommand)
		}
		if c == '\n' {
			r.line++
		}
		switch {
		case c == '\n' && quote != 0:
			return nil, line, fmt.Errorf("no end of %c...%c in this line", quote, quote)
		case c == '\n':
			end()
			return words, line, nil
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && quote != '\'':
			next, err := r.in.ReadByte()
			switch size++; {
			case err != nil:
				return nil, line, errors.New("nothing after the \\ at the end")
			case next == '\n':
				r.line++
				continue
			case quote == '"' && next != '"' && next != '\\':
				word = append(word, c)
			}
			word, inWord = append(word, next), true
		case quote != 0:
			word = append(word, c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\r':
			end()
		case c == '#' && !inWord:
			r.skip()
			return words, line, nil
		default:
			word, inWord = append(word, c), true
		}
	}
}

// skip reads to the end of the line.
func (r *batchReader) skip() {
	for {
		if c, err := r.in.ReadByte(); err != nil || c == '\n' {
			r.line++
			return
		}
	}
}

// batchCmd is one change of many lines of JSON, which is not a batch of commands.
func (a *app) batchCmd() *cobra.Command {
	return a.verb(verb{
		names: "batch", args: "FILE dev NAME [owner OWNER] [sync]", short: "apply a file of peers, routes, neighbours and forwarding entries, all or nothing",
		long: `Apply a file of JSON, one value on each line, to a running tunnel: peers, routes,
neighbours and forwarding entries, to be written or, with "del", removed. FILE may
be - for standard input. If a line is wrong nothing is changed. All that is written
belongs to OWNER (` + control.DefaultOwner + `); with sync, what OWNER had and the file does not name is
removed. What the configuration has is not touched.`,
		examples: "batch stations.ndjson dev gnv0 owner fleet sync\nbatch /dev/null dev gnv0 owner fleet sync",
		read:     a.readBatch, at: []candidates{(*completion).nothing},
		words: func() words {
			return words{
				onTunnel,
				{names: []string{"owner"}, usage: "who has what is written", values: 1, source: (*completion).nothing},
				{names: []string{"sync"}, usage: "remove what the owner had and the file does not name"},
			}
		},
	})
}

func (a *app) readBatch(args []string) (ask, error) {
	name, dev, rest, err := target(args, "FILE: lines of JSON, or - for standard input")
	var o control.BatchOptions
	for i := 0; err == nil && i < len(rest); i++ {
		switch {
		case rest[i] == "sync":
			o.Sync = true
		case rest[i] != "owner":
			err = unknownWord(rest[i], []string{"dev", "owner", "sync"})
		case i == len(rest)-1:
			err = errors.New("owner needs a value")
		default:
			i++
			o.Owner = rest[i]
		}
	}
	return func(ctx context.Context, c *control.Client) error {
		in := a.in
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, unwrapPath(err))
			}
			defer f.Close()
			in = f
		}
		done, err := c.Batch(ctx, dev, o, in)
		switch {
		case err != nil:
			return about(name, err)
		case a.json:
			return a.printJSON(done)
		}
		_, err = fmt.Fprintf(a.out, "%d lines: %d set, %d there already, %d removed, %d skipped\n", done.Lines, done.Set, done.Same, done.Removed, done.Skipped)
		return err
	}, err
}
