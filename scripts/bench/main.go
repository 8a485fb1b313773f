// Bench measures gvtep against the kernel's VXLAN device, the bare veth and
// wireguard-go on one machine, in network namespaces that it makes and
// removes. scripts/bench/run.sh builds and starts it; docs/benchmarks.md says
// what is measured, why so, and what the figures mean.
//
// A figure never fails a run. The exit code is 1 if something could not be
// measured at all, and 2 if the run could not start.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// measures are the words of --only, in the order in which they run.
var measures = []string{"tcp1", "tcp4", "udp64", "udp1300", "nodrop64", "nodrop1300", "ping", "flood", "tcp1br", "tcp4br", "idle"}

// labNames are all labs; newSite and cutAtSender say what they are.
var labNames = []string{"veth", "wire", "nic"}

// options is what the command line asks for.
type options struct {
	runs       int
	secs       int // of one TCP or overload measurement
	pings      int
	steps      int // of the search for the no-drop rate
	tunnels    int // that are idle
	only       []string
	labs       []string
	contenders []string
	gvtep      string   // a program to measure instead of this source tree's
	extra      []string // more words for gvtep run
	congestion string   // TCP congestion control, "": the system's
}

func parseOptions(args []string) (options, error) {
	o := options{pings: 1000, steps: 6, tunnels: 1000}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := f.Bool("quick", false, "one short run: to see that it works, not for figures")
	f.IntVar(&o.runs, "runs", 9, "rounds; in each, every contender has its turn")
	f.IntVar(&o.secs, "secs", 3, "seconds of one TCP or overload measurement")
	only := f.String("only", strings.Join(measures, ","), "what to measure; or scale, how costs grow with what there is")
	labs := f.String("labs", "veth,wire", "where")
	contenders := f.String("contenders", strings.Join(contenderNames, ","), "whom")
	extra := f.String("extra", "", "more words for gvtep run, such as \"--workers 1\"")
	f.StringVar(&o.gvtep, "gvtep", "", "measure this `FILE` (default: built from this tree)")
	f.StringVar(&o.congestion, "congestion", "", "TCP congestion control `NAME` (default: that of the system)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	set := map[string]bool{}
	f.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if *quick {
		o.pings, o.steps, o.tunnels = 200, 4, 100
		if !set["runs"] {
			o.runs = 1
		}
		if !set["secs"] {
			o.secs = 1
		}
	}
	o.extra = strings.Fields(*extra)
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected word %q: run.sh --help lists the flags", f.Arg(0))
	}
	if o.runs < 1 || o.secs < 1 {
		return o, fmt.Errorf("--runs %d --secs %d: want at least 1 of each", o.runs, o.secs)
	}
	var err error
	words := func(name, list string, known []string) (out []string) {
		for w := range strings.SplitSeq(list, ",") {
			if !slices.Contains(known, w) && err == nil {
				err = fmt.Errorf("--%s %s: want some of %s", name, w, strings.Join(known, ","))
			}
		}
		for _, k := range known { // in our order, each once
			if slices.Contains(strings.Split(list, ","), k) {
				out = append(out, k)
			}
		}
		return out
	}
	if o.only = words("only", *only, append(slices.Clone(measures), wordScale)); slices.Contains(o.only, wordScale) && err == nil {
		if len(o.only) > 1 {
			return o, fmt.Errorf("--only %s: %s is measured by itself", *only, wordScale)
		}
		*contenders = "gvtep"
	}
	o.labs = words("labs", *labs, labNames)
	o.contenders = words("contenders", *contenders, contenderNames)
	return o, err
}

func main() {
	if len(os.Args) > 1 && (os.Args[1] == wordSend || os.Args[1] == wordSink) {
		if err := loadMain(os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == wordRelay {
		fmt.Println(relayMain(os.Args[1:]))
		os.Exit(2)
	}
	o, err := parseOptions(os.Args[1:])
	switch {
	case err == flag.ErrHelp:
		return
	case err == nil && os.Geteuid() != 0:
		err = fmt.Errorf("namespaces need root: sudo scripts/bench/run.sh")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	failed := 0
	if err == nil {
		failed, err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "bench: measurements that failed, see above: %d\n", failed)
		os.Exit(1)
	}
}

// run is the whole benchmark. It returns how many measurements failed.
func run(ctx context.Context, o options) (failed int, err error) {
	dir, err := os.MkdirTemp("", "gvtep-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	sweep(ctx)
	head := header(ctx, o) // first: building is load
	contenders, program, err := build(ctx, dir, o)
	if err != nil {
		return 0, err
	}
	if slices.Equal(o.only, []string{wordScale}) {
		text, failed := scale(ctx, dir, o, program)
		fmt.Print(head, text)
		return failed, nil
	}
	logf("measuring %s in %s, %d rounds", strings.Join(o.only, ","), strings.Join(o.labs, " and "), o.runs)

	t, sections := newTable(), o.labs
	if slices.Contains(o.only, "idle") {
		sections = append(slices.Clone(o.labs), idleLab)
	}
	for round := 1; round <= o.runs; round++ {
		for _, lab := range sections {
			for _, c := range contenders {
				m := &meter{options: o, table: t, dir: dir, lab: lab, contender: c, round: round}
				switch {
				case lab != idleLab:
					m.measure(ctx)
				case c.upMany != nil:
					m.idle(ctx)
				}
				failed += m.failed
				if ctx.Err() != nil {
					logf("stopped: the table has what was measured until now")
					fmt.Print(head, t.markdown(sections))
					return failed, nil
				}
			}
		}
	}
	fmt.Print(head, t.markdown(sections))
	return failed, nil
}

// logf writes one line of progress.
func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
