package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rows that the report adds something to.
const (
	rttMiddle = "ping RTT p50"
	rttWorst  = "ping RTT p99"
	overRaw   = ", added over raw"
)

// row is one line of the table of one lab.
type row struct{ lab, what, unit string }

// table holds every figure of every contender, by round.
type table struct {
	rows   []row // in the order of first appearance
	values map[row]map[string]map[int]float64
}

func newTable() *table { return &table{values: map[row]map[string]map[int]float64{}} }

func (t *table) add(r row, contender string, round int, value float64) {
	if t.values[r] == nil {
		t.rows = append(t.rows, r)
		t.values[r] = map[string]map[int]float64{}
	}
	if t.values[r][contender] == nil {
		t.values[r][contender] = map[int]float64{}
	}
	t.values[r][contender][round] = value
}

// has reports whether there is any figure of a contender.
func (t *table) has(contender string) bool {
	for _, of := range t.values {
		if len(of[contender]) > 0 {
			return true
		}
	}
	return false
}

// subtractRaw adds rows with what a contender adds to the bare veth, each round
// against the same round.
func (t *table) subtractRaw(what string) {
	for _, r := range slices.Clone(t.rows) {
		if r.what != what {
			continue
		}
		for contender, rounds := range t.values[r] {
			for round, v := range rounds {
				if bare, ok := t.values[r]["raw"][round]; ok && contender != "raw" {
					t.add(row{r.lab, what + overRaw, r.unit}, contender, round, v-bare)
				}
			}
		}
	}
}

type column struct {
	contender, title string
	rival            bool
}

// The columns, and what the table calls them; those without a figure are left
// out. Rivals are those that gvtep is compared with.
var columns = []column{
	{"gvtep", "gvtep", false},
	{"gvtep-vxlan", "gvtep-vxlan", false},
	{"options", "gvtep, 3 options", false},
	{"fast", "gvtep --fastpath on", false},
	{"busypoll", "gvtep --busypoll 3ms", false},
	{"relay", "bare relay", true},
	{"vxlan", "VXLAN", true},
	{"raw", "raw veth", true},
	{"wireguard", "wireguard-go", true},
}

// comparison is one column of ratios.
type comparison struct{ ours, rival, title string }

// comparisons are those that there are figures for: gvtep with each rival, with options to without,
// and with VXLAN's header with the kernel's VXLAN.
func (t *table) comparisons(columns []column) (all []comparison) {
	for _, c := range columns {
		if c.rival && t.has("gvtep") {
			all = append(all, comparison{"gvtep", c.contender, "to " + c.title})
		}
	}
	if t.has("options") && t.has("gvtep") {
		all = append(all, comparison{"options", "gvtep", "3 options to none"})
	}
	if t.has("gvtep-vxlan") && t.has("vxlan") {
		all = append(all, comparison{"gvtep-vxlan", "vxlan", "gvtep-vxlan to VXLAN"})
	}
	return all
}

// markdown is one table for each lab: medians with the smallest and largest
// figure, and how gvtep compares.
func (t *table) markdown(labs []string) string {
	t.subtractRaw(rttMiddle)
	t.subtractRaw(rttWorst)
	columns := slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return !t.has(c.contender) })
	comparisons := t.comparisons(columns)
	var b strings.Builder
	for _, lab := range labs {
		fmt.Fprintf(&b, "\n### Lab `%s`\n\n|", lab)
		rule := "| ---"
		for _, c := range columns {
			b.WriteString(" | " + c.title)
			rule += " | ---:"
		}
		for _, c := range comparisons {
			b.WriteString(" | " + c.title)
			rule += " | ---:"
		}
		b.WriteString(" |\n" + rule + " |\n")
		for _, r := range t.rows {
			if r.lab != lab {
				continue
			}
			b.WriteString("| " + r.what)
			if r.unit != "" { // a number of something
				b.WriteString(", " + r.unit)
			}
			for _, c := range columns {
				b.WriteString(" | " + cell(t.values[r][c.contender]))
			}
			for _, c := range comparisons {
				if strings.HasSuffix(r.what, overRaw) {
					b.WriteString(" | -") // by a difference that may be nothing
					continue
				}
				b.WriteString(" | " + ratio(t.values[r][c.ours], t.values[r][c.rival]))
			}
			b.WriteString(" |\n")
		}
	}
	return b.String()
}

func cell(rounds map[int]float64) string {
	if len(rounds) == 0 {
		return "-"
	}
	v := sorted(rounds)
	if len(v) == 1 {
		return digits(v[0])
	}
	return fmt.Sprintf("**%s** (%s-%s)", digits(median(v)), digits(v[0]), digits(v[len(v)-1]))
}

func ratio(a, b map[int]float64) string {
	if len(a) == 0 || len(b) == 0 || median(sorted(b)) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", median(sorted(a))/median(sorted(b)))
}

func sorted(rounds map[int]float64) []float64 {
	v := make([]float64, 0, len(rounds))
	for _, x := range rounds {
		v = append(v, x)
	}
	slices.Sort(v)
	return v
}

// median is that of sorted values, of which there is at least one.
func median(v []float64) float64 {
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// digits keeps three of them.
func digits(v float64) string {
	switch a := max(v, -v); {
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// header says what the figures were made with.
func header(ctx context.Context, o options) string {
	first := func(args ...string) string {
		out, err := command(ctx, args...)
		line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
		if err != nil || line == "" {
			return "unknown"
		}
		return line
	}
	file := func(path string) string {
		text, _ := os.ReadFile(path)
		return strings.TrimSpace(string(text))
	}
	commit := first("git", "describe", "--always", "--dirty", "--abbrev=12")
	if o.gvtep != "" {
		commit = o.gvtep + ", started from a tree at " + commit
	}
	congestion := o.congestion
	if congestion == "" {
		congestion = file("/proc/sys/net/ipv4/tcp_congestion_control")
	}
	// Load of others spoils the figures: say how much of it there is.
	stat := func() float64 { return busyTime([]byte(file("/proc/stat"))) }
	before := stat()
	time.Sleep(time.Second)
	others := stat() - before
	if others > 0.1 {
		logf("the machine is not quiet: others use %.1f of %d cores", others, runtime.NumCPU())
	}

	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "| %s | %s |\n", name, value) }
	b.WriteString("| | |\n| --- | --- |\n")
	line("command", "`scripts/bench/run.sh "+strings.Join(os.Args[1:], " ")+"`")
	line("date", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	line("gvtep", commit+", "+runtime.Version())
	line("kernel", file("/proc/sys/kernel/ostype")+" "+file("/proc/sys/kernel/osrelease"))
	line("CPU", fmt.Sprintf("%s, %d cores, %.1f of them busy before the start", processor(file("/proc/cpuinfo")), runtime.NumCPU(), others))
	line("TCP", congestion)
	line("load", first("iperf3", "--version")+", "+first("ping", "-V"))
	if slices.Contains(o.contenders, "wireguard") {
		line("wireguard-go", wireguardGo)
	}
	line("figures", fmt.Sprintf("**median** (smallest-largest) of %d rounds; the last columns are gvtep's median divided by that of another", o.runs))
	return b.String()
}

// processor is the name of the first one in /proc/cpuinfo.
func processor(cpuinfo string) string {
	_, rest, _ := strings.Cut(cpuinfo, "model name")
	line, _, _ := strings.Cut(rest, "\n")
	_, name, ok := strings.Cut(line, ":")
	if !ok {
		return runtime.GOARCH
	}
	return strings.TrimSpace(name)
}
