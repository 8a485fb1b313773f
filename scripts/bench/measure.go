package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// meter measures one contender in one lab once.
type meter struct {
	options
	table     *table
	dir       string
	lab       string
	contender contender
	round     int
	failed    int

	site *site
}

// measure does all that was asked for on a plain site, then on a bridged one.
func (m *meter) measure(ctx context.Context) {
	for _, bridged := range []bool{false, true} {
		var todo []string
		for _, word := range m.only {
			if word != "idle" && strings.HasSuffix(word, "br") == bridged {
				todo = append(todo, word)
			}
		}
		if len(todo) == 0 || bridged && !m.contender.bridgable || ctx.Err() != nil {
			continue
		}
		m.onSite(ctx, bridged, todo)
	}
}

func (m *meter) onSite(ctx context.Context, bridged bool, todo []string) {
	s, err := newSite(ctx, m.dir, m.lab, m.contender, bridged)
	defer s.close()
	if err != nil {
		m.fail(ctx, "setting up", err)
		return
	}
	m.site = s
	for _, word := range todo {
		if ctx.Err() != nil {
			return
		}
		if m.lab != "veth" && m.contender.uncut && strings.HasPrefix(word, "tcp") {
			continue
		}
		switch word {
		case "tcp1":
			m.tcp(ctx, "TCP 1 stream", 1, true)
		case "tcp4":
			m.tcp(ctx, "TCP 4 streams", 4, false)
		case "tcp1br":
			m.tcp(ctx, "TCP 1 stream, container - bridge", 1, false)
		case "tcp4br":
			m.tcp(ctx, "TCP 4 streams, container - bridge", 4, false)
		case "udp64":
			m.overload(ctx, 64)
		case "udp1300":
			m.overload(ctx, 1300)
		case "nodrop64":
			m.nodrop(ctx, 64)
		case "nodrop1300":
			m.nodrop(ctx, 1300)
		case "ping":
			m.ping(ctx)
		case "flood":
			m.flood(ctx)
		}
	}
	if !bridged {
		m.memory(ctx)
	}
}

// add stores one figure; with a note, it says so.
func (m *meter) add(what, unit string, value float64, note string) {
	m.table.add(row{m.lab, what, unit}, m.contender.name, m.round, value)
	if note != "" {
		m.say("%-46s %8s %-7s %s", what, digits(value), unit, note)
	}
}

func (m *meter) say(format string, args ...any) {
	logf("%d/%d %-4s %-9s %s", m.round, m.runs, m.lab, m.contender.name, fmt.Sprintf(format, args...))
}

func (m *meter) fail(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return // stopped by the user
	}
	m.failed++
	m.say("%s FAILED: %v", what, err)
}

// tcp measures both directions. The client ports are fixed, so that the
// kernel's flow hashes, and with them queues and cores, are those of the
// other rounds.
func (m *meter) tcp(ctx context.Context, what string, streams int, costs bool) {
	for from := range m.site.ends {
		label := what + ", " + []string{"a to b", "b to a"}[from]
		cut, err := linkOf(ctx, m.site.ends[1-from].host, underlayDevice)
		if err != nil {
			m.fail(ctx, label, err)
			continue
		}
		args := []string{"-P", fmt.Sprint(streams), "-t", fmt.Sprint(m.secs)}
		if m.congestion != "" {
			args = append(args, "-C", m.congestion)
		}
		r, err := m.iperf(ctx, from, 40000+1000*streams, time.Duration(m.secs)*time.Second, args...)
		if err != nil {
			m.fail(ctx, label, err)
			continue
		}
		gigabytes := r.End.Received.Bytes / 1e9
		note := fmt.Sprintf("cpu %.2f s/GB", r.busy/gigabytes)
		if r.daemons > 0 {
			note += fmt.Sprintf(", of that the endpoints %.2f", r.daemons/gigabytes)
		}
		if after, err := linkOf(ctx, m.site.ends[1-from].host, underlayDevice); err == nil {
			size := (after.Stats.Rx.Bytes - cut.Stats.Rx.Bytes) / (after.Stats.Rx.Packets - cut.Stats.Rx.Packets)
			note += fmt.Sprintf(", %.0f bytes a packet of the underlay", size)
			if m.lab != "veth" && size > 1514 {
				note += ": THAT IS NOT CUT, the lab is not what it should be"
			}
		}
		m.add(label, "Gbit/s", r.End.Received.BitsPerSecond/1e9, note)
		if costs && from == 0 && gigabytes > 0 {
			m.add("CPU of the machine, TCP 1 stream", "s/GB", r.busy/gigabytes, "")
			if r.daemons > 0 {
				m.add("CPU of the endpoints, TCP 1 stream", "s/GB", r.daemons/gigabytes, "")
			}
		}
	}
}

// overload sends as fast as the sender can and counts what is received.
func (m *meter) overload(ctx context.Context, size int) {
	what := fmt.Sprintf("UDP %d bytes, delivered at overload", size)
	r, err := m.udp(ctx, size, 0, m.secs)
	if err != nil {
		m.fail(ctx, what, err)
		return
	}
	note := fmt.Sprintf("of %s sent", digits(r.offered/1e3))
	if r.enough() {
		note += ": nothing lost, the sender is the limit"
	}
	m.add(what, "kpps", r.delivered/1e3, note)
}

// nodrop searches, by bisection, the highest rate at which enough arrives. It
// is slow, so only every third round has it.
func (m *meter) nodrop(ctx context.Context, size int) {
	if m.round%3 != 1 {
		return
	}
	what := fmt.Sprintf("UDP %d bytes, no-drop rate", size)
	r, err := m.udp(ctx, size, 0, 1)
	if err != nil {
		m.fail(ctx, what, err)
		return
	}
	best, low, high := 0.0, 0.0, r.offered
	if r.enough() {
		best, low = r.delivered, high
	}
	for step := 0; step < m.steps && low < high; step++ {
		rate := (low + high) / 2
		// A rate has a second try: one moment without a core is not its limit.
		for range 2 {
			r, err = m.udp(ctx, size, rate, 1)
			if err != nil {
				m.fail(ctx, what, err)
				return
			}
			if r.enough() {
				break
			}
		}
		if r.enough() {
			best, low = max(best, r.delivered), rate
		} else {
			high = rate
		}
	}
	m.add(what, "kpps", best/1e3, "less than 0.1 % lost")
}

// udpResult is in packets per second.
type udpResult struct{ offered, delivered float64 }

func (r udpResult) lost() float64 { return 1 - r.delivered/r.offered }

// enough says that less than 0.1 % was lost. Over a second of 64-byte packets
// RFC 2544's "none" would measure the scheduler of a small virtual machine.
func (r udpResult) enough() bool { return r.lost() < 0.001 }

// udp sends rate packets per second from a to b, 0: as many as it can.
func (m *meter) udp(ctx context.Context, size int, rate float64, secs int) (r udpResult, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(secs)*time.Second+patience)
	defer cancel()
	client, server := m.site.ends[0], m.site.ends[1]
	sink, err := start(server.load, self, wordSink, fmt.Sprint(size))
	if err != nil {
		return r, err
	}
	defer sink.stop()
	if err := sink.until(ctx, "listening", func() bool { return listens(sink.pid(), "udp", udpPort) }); err != nil {
		return r, err
	}
	sender, err := start(client.load, self, wordSend, server.addr.String(), fmt.Sprint(size), fmt.Sprint(rate), fmt.Sprint(secs))
	if err != nil {
		return r, err
	}
	defer sender.stop()
	select {
	case <-sender.done:
	case <-ctx.Done():
		return r, fmt.Errorf("the UDP sender did not end: %w", ctx.Err())
	}
	time.Sleep(2 * sinkIdle) // what is under way may arrive
	sink.stop()
	var sent, received, seconds float64
	if _, err := fmt.Sscan(sender.output.String(), &sent, &seconds); err != nil {
		return r, fmt.Errorf("the UDP sender failed: %s", tail(sender.output.String()))
	}
	if _, err := fmt.Sscan(sink.output.String(), &received); err != nil {
		return r, fmt.Errorf("the UDP sink failed: %s", tail(sink.output.String()))
	}
	if sent == 0 {
		return r, errors.New("the UDP sender could not send anything")
	}
	return udpResult{offered: sent / seconds, delivered: received / seconds}, nil
}

// iperfResult is what we read of iperf3's JSON, and the CPU time, in seconds,
// that went by meanwhile.
type iperfResult struct {
	Error string
	End   struct {
		Received iperfSum `json:"sum_received"`
	}
	busy    float64 // of the machine
	daemons float64 // of the tunnel's processes
}

type iperfSum struct {
	Bytes         float64
	BitsPerSecond float64 `json:"bits_per_second"`
}

// iperf runs one transfer from one end to the other, a second time if it does
// not work.
func (m *meter) iperf(ctx context.Context, from, port int, length time.Duration, args ...string) (r iperfResult, err error) {
	for try := range 2 {
		// The ports of a failed try may still be taken.
		r, err = m.iperfOnce(ctx, from, port+10*try, length, args...)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return r, err
}

func (m *meter) iperfOnce(ctx context.Context, from, port int, length time.Duration, args ...string) (r iperfResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, length+patience)
	defer cancel()
	client, server := m.site.ends[from], m.site.ends[1-from]
	p, err := start(server.load, "iperf3", "-s", "-1")
	if err != nil {
		return r, err
	}
	defer p.stop()
	if err := p.until(ctx, "listening", func() bool { return listens(p.pid(), "tcp", 5201) }); err != nil {
		return r, err
	}
	args = append([]string{"netns", "exec", client.load, "iperf3", "-c", server.addr.String(), "-J",
		"--cport", fmt.Sprint(port), "--connect-timeout", "5000"}, args...)
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second
	busy, daemons := m.cpu()
	out, err := cmd.Output()
	b, d := m.cpu()
	if bad := json.Unmarshal(out, &r); err == nil {
		err = bad
	}
	if r.Error != "" {
		err = errors.New(r.Error)
	}
	if err == nil && r.End.Received.Bytes == 0 {
		err = errors.New("nothing was received")
	}
	if err != nil {
		return r, fmt.Errorf("iperf3 %s: %w", strings.Join(args[6:], " "), err)
	}
	r.busy, r.daemons = b-busy, d-daemons
	return r, nil
}

// listens tells whether a port is open in the namespace of a process.
func listens(pid int, protocol string, port int) bool {
	for _, file := range []string{protocol, protocol + "6"} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		for line := range strings.Lines(string(text)) {
			// The state of a TCP socket that listens is 0A, that of a UDP
			// socket without a peer 07, with one 01.
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && (f[3] == "0A" || f[3] == "07" || f[3] == "01" && protocol == "udp") {
				return true
			}
		}
	}
	return false
}

// ping measures the round trip of 1,000 pings, one every 2 ms.
func (m *meter) ping(ctx context.Context) {
	const what = "ping RTT"
	e := m.site.ends
	out, err := command(ctx, "ip", "netns", "exec", e[0].load, "ping", "-n", "-i", "0.002", "-c", fmt.Sprint(m.pings), e[1].addr.String())
	times, bad := roundTrips(out)
	if err != nil || bad != nil {
		m.fail(ctx, what, errors.Join(err, bad))
		return
	}
	note := fmt.Sprintf("of %d pings", m.pings)
	if lost := m.pings - len(times); lost > 0 {
		note += fmt.Sprintf(", %d LOST", lost)
	}
	m.add(rttMiddle, "us", percentile(times, 50), note)
	m.add(rttWorst, "us", percentile(times, 99), note)
}

// flood pings through a second tunnel between the hosts, first alone, then while
// small packets flood the first one. The pause is one in which ping sleeps: below
// 10 ms it spins, and is one more that wants a processor.
func (m *meter) flood(ctx context.Context) {
	const what = "ping beside a flood"
	if m.contender.second == nil {
		return
	}
	device, err := m.contender.second(ctx, m.dir, m.site)
	for i, e := range m.site.ends {
		err = errors.Join(err,
			m.site.ip(ctx, e.host, "link", "set", device, "up"),
			m.site.ip(ctx, e.host, "addr", "add", fmt.Sprintf("10.79.0.%d/24", i+1), "dev", device))
	}
	if err != nil {
		m.fail(ctx, what, err)
		return
	}
	count := m.pings * 2 / 5
	pings := func() (times []float64, err error) {
		out, err := command(ctx, "ip", "netns", "exec", m.site.ends[0].host, "ping", "-n", "-i", "0.0105", "-c", fmt.Sprint(count), "10.79.0.2")
		times, bad := roundTrips(out)
		return times, errors.Join(err, bad)
	}
	alone, err := pings()
	if err != nil {
		m.fail(ctx, what, err)
		return
	}
	type outcome struct {
		udpResult
		err error
	}
	flooded := make(chan outcome)
	go func() {
		r, err := m.udp(ctx, 64, 0, int(float64(count)*0.0105)+2)
		flooded <- outcome{r, err}
	}()
	time.Sleep(time.Second) // it has begun
	beside, err := pings()
	flood := <-flooded
	if err := errors.Join(err, flood.err); err != nil {
		m.fail(ctx, what, err)
		return
	}
	note := fmt.Sprintf("of %d pings", count)
	m.add("ping each 10.5 ms, RTT p50", "us", percentile(alone, 50), note)
	m.add("ping each 10.5 ms, RTT p99", "us", percentile(alone, 99), note)
	note += fmt.Sprintf(", %d LOST, beside %s kpps", count-len(beside), digits(flood.delivered/1e3))
	m.add("the same beside a flooded tunnel, RTT p50", "us", percentile(beside, 50), note)
	m.add("the same beside a flooded tunnel, RTT p99", "us", percentile(beside, 99), note)
}

// roundTrips reads the times, in us, from what ping printed.
func roundTrips(out string) (times []float64, err error) {
	for line := range strings.Lines(out) {
		_, rest, ok := strings.Cut(line, " time=")
		if !ok {
			continue
		}
		text, unit, _ := strings.Cut(strings.TrimSpace(rest), " ")
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || unit != "ms" {
			return nil, fmt.Errorf("ping: not understood: %s", tail(line))
		}
		times = append(times, v*1000)
	}
	if len(times) == 0 {
		return nil, errors.New("ping: no answer")
	}
	return times, nil
}

// percentile is the smallest value that at least p percent do not exceed.
func percentile(values []float64, p int) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[max(0, (len(v)*p+99)/100-1)]
}

// memory is the larger of the two ends' peaks, after all of the load.
func (m *meter) memory(ctx context.Context) {
	peak := 0.0
	for _, e := range m.site.ends {
		if e.daemon == nil {
			return
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.daemon.pid()))
		if err != nil {
			m.fail(ctx, "memory", err)
			return
		}
		kib := field(text, "VmHWM:")
		if kib == 0 {
			m.fail(ctx, "memory", errors.New("no VmHWM in /proc/PID/status"))
			return
		}
		peak = max(peak, kib/1024)
	}
	m.add("peak RSS of an endpoint", "MiB", peak, "the larger of the two")
}

// ticks is USER_HZ: what Linux counts CPU time in towards user space, on
// every architecture that Go knows.
const ticks = 100

// cpu is the CPU time, in seconds, of the machine and of the daemons until now.
func (m *meter) cpu() (machine, daemons float64) {
	text, _ := os.ReadFile("/proc/stat")
	machine = busyTime(text)
	for _, e := range m.site.ends {
		if e != nil && e.daemon != nil {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.daemon.pid()))
			daemons += processTime(text)
		}
	}
	return machine, daemons
}

// busyTime reads /proc/stat: all but idle, waiting, and what a hypervisor did
// not give. Time of guests is contained in user time.
func busyTime(stat []byte) float64 {
	sc := bufio.NewScanner(bytes.NewReader(stat))
	sc.Scan()
	f := strings.Fields(sc.Text())
	if len(f) < 8 {
		return 0
	}
	sum := 0.0
	for _, i := range []int{1, 2, 3, 6, 7} { // user nice system irq softirq
		v, _ := strconv.ParseFloat(f[i], 64)
		sum += v
	}
	return sum / ticks
}

// processTime reads /proc/PID/stat: user and system time of all threads.
func processTime(stat []byte) float64 {
	// The name, in parentheses, may contain anything.
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / ticks
}
