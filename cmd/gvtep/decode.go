package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/capture"
	"gvtep/cmd/internal/dissect"
	"gvtep/config"
	"gvtep/vtep/option"
)

func (a *app) decodeCmd() *cobra.Command {
	var begins, configured string
	count := 0
	cmd := &cobra.Command{
		Use:   "decode [FILE|-|HEX]",
		Short: "say what the bytes of a packet mean, and which are wrong by which section of which RFC",
		Long: `Print the headers of packets byte by byte: outer IP and UDP, GENEVE with its options
or VXLAN, and what is inside. Lines with ! say what is wrong, and the section that says so.
The exit code is 2 if something is.

The packets are in a pcap or pcapng file, or are one in hexadecimal digits: as an argument,
in a file, or on standard input (-, and without an argument). White space, colons and 0x
between digits do not matter, nor do the offsets and text of hexdump -C, xxd and tcpdump -x.`,
		Example: `  gvtep decode 0000655800006400ffffffffffff020000000202080600010800060400010200000002020a0000020000000000000a000001
  gvtep decode --begins ip 4500001c000000004001f6ddc0000202c00002010800f7ff00000000`,
		Args: atMost(1), ValidArgsFunction: completeFiles,
	}
	links := []string{"auto", "tunnel", "ip", "ethernet"}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&begins, "begins", "auto", "what hexadecimal digits begin `WITH`: "+strings.Join(links, ", "))
	cmd.Flags().IntVar(&count, "count", 0, "the first `N` packets of a file only")
	cmd.Flags().StringVar(&configured, "config", "", "name GENEVE options as the configuration at `PATH` does, too")
	a.completingFlag(cmd, "begins", oneOf(links...))
	a.completingFlag(cmd, "count", (*completion).nothing)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(links, begins) {
			return inCommand(cmd, fmt.Errorf("--begins %s: want %s", begins, strings.Join(links, ", ")))
		}
		name := "-"
		if len(args) == 1 {
			name = args[0]
		}
		names := option.Default()
		if configured != "" {
			cfg, err := config.Load(configured)
			if err != nil {
				return inCommand(cmd, err)
			}
			names = cfg.Names
		}
		faults, err := a.decode(name, begins, count, names)
		if err == nil && faults > 0 {
			err = exitError{exitRefused, errors.New(severalOf(faults, "fault"))}
		}
		return inCommand(cmd, err)
	}
	return cmd
}

// decode prints what is in a file, on standard input, or in the argument itself.
func (a *app) decode(name, begins string, count int, names *option.Registry) (faults int, err error) {
	var in io.Reader = a.in
	if name != "-" {
		f, err := os.Open(name)
		switch {
		case err == nil:
			defer f.Close()
			in = f
		case hexDigits(name) != nil:
			in = strings.NewReader(name)
		default:
			return 0, fmt.Errorf("%w, nor are these hexadecimal digits", err)
		}
	}
	packets := bufio.NewReaderSize(in, 64<<10)
	out := bufio.NewWriter(a.out)
	defer func() { err = errors.Join(err, out.Flush()) }()
	n := 0
	each := func(s *capture.Seen) error {
		p := dissect.Dissect(s.Data, s.Length, s.Link, names)
		for _, f := range p.Fields {
			if f.Fault != "" {
				faults++
			}
		}
		if n++; n > 1 && !a.json {
			fmt.Fprintln(out)
		}
		if err := a.printDecoded(out, n, s, p); err != nil {
			return err
		}
		if n == count {
			return errEnough
		}
		return nil
	}
	magic, _ := packets.Peek(4)
	if capture.IsFile(magic) {
		_, err = capture.File(packets, each)
	} else {
		err = decodeHex(packets, begins, each)
	}
	if err == errEnough {
		err = nil
	}
	return faults, err
}

var errEnough = errors.New("enough")

// decoded is a packet in JSON.
type decoded struct {
	Number   int             `json:"number"`
	Point    string          `json:"point,omitempty"`
	Length   int             `json:"length"`
	Comments []string        `json:"comments,omitempty"`
	Summary  string          `json:"summary"`
	Fields   []dissect.Field `json:"fields"`
}

func (a *app) printDecoded(out io.Writer, n int, s *capture.Seen, p dissect.Packet) error {
	b := *a
	b.out = out
	if a.json {
		return b.printJSON(decoded{n, s.Point, s.Length, s.Comments, p.Summary, p.Fields})
	}
	line := fmt.Sprintf("packet %d, %d bytes", n, s.Length)
	if s.Point != "" {
		line += ", " + s.Point
	}
	if _, err := fmt.Fprintln(out, line+": "+p.Summary); err != nil {
		return err
	}
	for _, comment := range s.Comments {
		fmt.Fprintln(out, "  #", comment)
	}
	return printFields(out, s.Data, p.Fields)
}

// bytesShown is how many bytes of a field are printed.
const bytesShown = 8

// printFields prints a line for each field: offset, bytes, layer, name and value, and what is wrong.
func printFields(out io.Writer, data []byte, fields []dissect.Field) error {
	for _, f := range fields {
		end := min(f.Offset+f.Length, len(data))
		text := fmt.Sprintf("% x", data[min(f.Offset, end):min(f.Offset+bytesShown, end)])
		if end-f.Offset > bytesShown {
			text += " .."
		}
		if _, err := fmt.Fprintf(out, "  %04x  %-26s  %-14s %s = %s\n", f.Offset, text, f.Layer, f.Name, f.Value); err != nil {
			return err
		}
		if f.Fault != "" {
			fmt.Fprintf(out, "  %34s! %s\n", "", f.Fault)
		}
	}
	return nil
}

// decodeHex decodes one packet in hexadecimal digits.
func decodeHex(in io.Reader, begins string, each func(*capture.Seen) error) error {
	const longest = 1 << 20 // of text: the largest packet in any layout
	text, err := io.ReadAll(io.LimitReader(in, longest))
	if err != nil {
		return err
	}
	data := hexDigits(string(text))
	if len(data) == 0 {
		return errors.New("neither pcap nor pcapng nor hexadecimal digits")
	}
	links := map[string]dissect.Link{"tunnel": dissect.Tunnel, "ip": dissect.IP, "ethernet": dissect.Ethernet}
	link, chosen := links[begins]
	if !chosen {
		link = dissect.Guess(data)
	}
	return each(&capture.Seen{Data: data, Length: len(data), Link: link})
}

// hexDigits reads bytes as people and dumps write them; nil: these are none.
func hexDigits(text string) []byte {
	var digits strings.Builder
	dump := false // of hexdump -C, which ends with an offset alone
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		first, rest, more := strings.Cut(line, " ")
		switch {
		case strings.HasSuffix(first, ":") && more: // xxd, tcpdump -x: two blanks, then text
			line, _, _ = strings.Cut(strings.TrimSpace(rest), "  ")
		case len(first) == 8 && strings.HasPrefix(rest, " "): // hexdump -C: text between bars
			line, _, _ = strings.Cut(rest, "|")
			dump = true
		case dump && len(line) == 8:
			line = ""
		}
		digits.WriteString(ignored.Replace(line))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		return nil
	}
	return b
}

// ignored is what may stand between digits.
var ignored = strings.NewReplacer("0x", "", ":", "", "-", "", ",", "", " ", "", "\t", "")
