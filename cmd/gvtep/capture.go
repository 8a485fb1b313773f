package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/capture"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/dissect"
	"gvtep/cmd/internal/logging"
	"gvtep/config"
	filter "gvtep/vtep/capture"
	"gvtep/vtep/option"
)

// captureFlags are where the packets go.
type captureFlags struct {
	drops    bool
	write    string
	fileSize int64 // MB; 0: one file
	files    int   // kept; 0: all
}

func (a *app) captureCmd() *cobra.Command {
	names, meanings := filter.Words()
	var words strings.Builder
	for i, name := range names {
		fmt.Fprintf(&words, "  %-7s %s\n", name, meanings[i])
	}
	cmd := &cobra.Command{
		Use:   "capture [NAME] [flags] [FILTER...]",
		Short: "show or save packets where gvtep sees them, those that it drops with the reason",
		Long: `Copy packets of the tunnel NAME, or of all, until interrupted: as one line each, or with
-w as pcapng for Wireshark and tshark. Five points are interfaces of the file:

  outer-in   datagrams from the underlay     outer-out  datagrams to the underlay
  inner-in   frames written to a device      inner-out  frames read from a device
  drops      what is dropped, with reason, direction, sender, VNI and counts as a comment

FILTER is words, each behind an optional "not". Of several values of one word any does,
of different words all must hold:

` + words.String() + `
A capture does not slow down the tunnels: packets for which there is no time or room are
not copied, and the end says how many. There is one capture at a time in a daemon. Packets
are for root and the user of the daemon. What the fast path carries is not seen.`,
		Example: `  gvtep capture gnv0
  gvtep capture --drops
  gvtep capture gnv0 -w /tmp/gnv0.pcapng --count 1000 port 443 not host 10.0.0.9
  gvtep capture -w - | wireshark -k -i -`,
		Args:              cobra.ArbitraryArgs, // of the filter, which is refused in RunE
		ValidArgsFunction: a.completingWords(captureWords),
	}
	var r control.CaptureRequest
	var to captureFlags
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&to.write, "write", "w", "", "write pcapng to `FILE`, or - for standard output")
	f.BoolVar(&to.drops, "drops", false, "only what is dropped: --point drops")
	f.StringSliceVar(&r.Points, "point", nil, "only at these `POINTS`: "+strings.Join(capture.Sets(), ", "))
	f.IntVar(&r.Count, "count", 0, "end after `N` packets")
	f.IntVar(&r.Snaplen, "snaplen", 0, fmt.Sprintf("keep `BYTES` of each packet (%d)", filter.MaxSnaplen))
	f.IntVar(&r.Rate, "rate", 0, "copy at most `N` packets a second")
	f.IntVar(&r.Buffer, "buffer", 0, fmt.Sprintf("`BYTES` of memory in the daemon for each of its workers (%d)", filter.DefaultBuffer))
	f.Int64Var(&to.fileSize, "file-size", 0, "with -w: begin another file, FILE.1 and so on, after `MB`")
	f.IntVar(&to.files, "files", 0, "with --file-size: keep the newest `N` files")
	a.completingFlag(cmd, "point", oneOf(capture.Sets()...))
	for _, flag := range []string{"count", "snaplen", "rate", "buffer", "file-size", "files"} {
		a.completingFlag(cmd, flag, (*completion).nothing)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := r
		err := readCapture(&request, &to, args)
		if err == nil {
			err = a.runCapture(cmd.Context(), request, &to)
		}
		return inCommand(cmd, err)
	}
	return cmd
}

// captureWords are what completes the words of a capture.
func captureWords() words {
	grammar := words{{source: (*completion).tunnelNames}, {names: []string{"not"}, usage: "none of what follows", many: true}}
	names, meanings := filter.Words()
	for i, name := range names {
		values := (*completion).nothing
		switch name {
		case "reason":
			values = func(*completion) []string { return reasonNames() }
		case "vni":
			values = (*completion).vnis
		}
		grammar = append(grammar, word{names: []string{name}, usage: meanings[i], values: 1, source: values, many: true})
	}
	return grammar
}

// readCapture reads NAME and filter, and checks all before a daemon is asked.
func readCapture(r *control.CaptureRequest, to *captureFlags, args []string) error {
	names, _ := filter.Words()
	switch {
	case len(args) > 1 && args[0] == "dev":
		r.Dev, args = args[1], args[2:]
	case len(args) > 0 && args[0] != "not" && !slices.Contains(names, args[0]):
		r.Dev, args = args[0], args[1:]
	}
	if r.Dev != "" {
		if err := config.CheckDevice(r.Dev); err != nil {
			return err
		}
	}
	r.Filter = args
	switch {
	case to.drops && len(r.Points) > 0:
		return errors.New("--drops and --point: one of them")
	case to.drops:
		r.Points = []string{filter.Drops.String()}
	}
	switch {
	case min(r.Count, r.Rate, to.files) < 0 || to.fileSize < 0:
		return errors.New("--count, --rate, --file-size and --files are no less than 0")
	case to.fileSize > 0 && (to.write == "" || to.write == "-"):
		return errors.New("--file-size needs -w FILE")
	case to.files > 0 && to.fileSize == 0:
		return errors.New("--files needs --file-size")
	}
	_, err := capture.Options(r.Points, r.Filter, r.Snaplen, r.Buffer)
	return err
}

// runCapture copies until the daemon has no more or a signal comes.
func (a *app) runCapture(ctx context.Context, r control.CaptureRequest, to *captureFlags) error {
	if f, ok := a.out.(*os.File); ok && to.write == "-" && logging.IsTerminal(f) {
		return errors.New("pcapng is not for a terminal: -w FILE, or send it to a program")
	}
	path, err := a.socketPath()
	if err != nil {
		return err
	}
	signals, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	// The time-out is for the beginning only.
	begun, cancel := context.WithCancelCause(signals)
	defer cancel(nil)
	client := control.NewClient(path)
	var names *option.Registry
	if to.write == "" {
		if names, err = a.optionNames(ctx, client); err != nil {
			return err
		}
	}
	late := time.AfterFunc(a.timeout, func() { cancel(context.DeadlineExceeded) })
	var totals capture.Totals
	err = client.Capture(begun, r, func(body io.Reader) (err error) {
		late.Stop()
		if to.write != "" {
			totals, err = capture.Save(body, to.open(a.out), to.fileSize*1e6)
		} else {
			totals, err = a.printPackets(body, names)
		}
		if signals.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil // the way in which a client stops to read
		}
		return err
	})
	if err != nil {
		if errors.Is(err, context.Canceled) && context.Cause(begun) != nil {
			err = context.Cause(begun)
		}
		return err
	}
	text := severalOf(int(totals.Packets), "packet")
	if totals.Lost > 0 {
		text += fmt.Sprintf(", and %d more that were not copied, for want of time or room", totals.Lost)
	}
	fmt.Fprintln(a.errOut, text)
	return nil
}

// open makes the nth file, for its owner only, and removes the one that is too many.
func (to *captureFlags) open(out io.Writer) func(n int) (io.WriteCloser, error) {
	name := func(n int) string {
		if n == 0 {
			return to.write
		}
		return fmt.Sprintf("%s.%d", to.write, n)
	}
	return func(n int) (io.WriteCloser, error) {
		if to.write == "-" {
			return keptOpen{out}, nil
		}
		if old := n - to.files; to.files > 0 && old >= 0 {
			if err := os.Remove(name(old)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
		return os.OpenFile(name(n), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	}
}

// keptOpen is a writer that others close.
type keptOpen struct{ io.Writer }

func (keptOpen) Close() error { return nil }

// capturedPacket is a packet in JSON.
type capturedPacket struct {
	Time      time.Time       `json:"time"`
	Point     string          `json:"point"`
	Direction string          `json:"direction"`
	Ifname    string          `json:"ifname,omitempty"`
	VNI       string          `json:"vni,omitempty"`
	Length    int             `json:"length"`
	Captured  int             `json:"captured"`
	Reason    string          `json:"reason,omitempty"`
	Comments  []string        `json:"comments,omitempty"`
	Summary   string          `json:"summary"`
	Fields    []dissect.Field `json:"fields,omitempty"` // with -d
}

// printPackets prints a stream, a line for each packet.
func (a *app) printPackets(body io.Reader, names *option.Registry) (capture.Totals, error) {
	in := bufio.NewReaderSize(body, 256<<10)
	out := bufio.NewWriter(a.out)
	defer out.Flush()
	screen := *a
	screen.out, screen.color = out, "never"
	if a.paint(red, "") != "" {
		screen.color = "always"
	}
	return capture.Packets(in, func(s *capture.Seen) error {
		if err := screen.printPacket(s, names); err != nil || in.Buffered() > 0 {
			return err
		}
		return out.Flush()
	})
}

func (a *app) printPacket(s *capture.Seen, names *option.Registry) error {
	about, p := s.About(), dissect.Dissect(s.Data, s.Length, s.Link, names)
	if a.json {
		direction := "in"
		if s.Out {
			direction = "out"
		}
		line := capturedPacket{s.Time, s.Point, direction, about["dev"], about["vni"], s.Length, len(s.Data), about["reason"], s.Comments, p.Summary, nil}
		if a.details {
			line.Fields = p.Fields
		}
		return a.printJSON(line)
	}
	line := s.Time.Local().Format("15:04:05.000000") + fmt.Sprintf(" %-9s ", s.Point)
	if about["reason"] != "" {
		line += a.paint(red, s.Comments[0]) + ": "
	} else if dev := about["dev"]; dev != "" {
		line += dev + " "
	}
	if _, err := fmt.Fprintln(a.out, line+p.Summary); err != nil || !a.details {
		return err
	}
	return printFields(a.out, s.Data, p.Fields)
}
