package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// wordScale is the measure of how the cost of one question, one change, start and stop grows with
// what there is. It is run on request only, once, and with gvtep alone.
const wordScale = "scale"

// tooLong bounds what one point waits for: a start, an answer, an end.
const tooLong = 30 * time.Second

// point is one size of one thing.
type point struct {
	what    string
	n       int
	config  func(*strings.Builder, int) // appends to what is always there
	changes int                         // of routes, a second
}

// points are all that are measured: each thing grows by itself.
func points() (all []point) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		all = append(all, point{"peers", n, manyPeers, 0})
	}
	for _, n := range []int{1000, 10_000, 100_000, 1_000_000} {
		all = append(all, point{"entries", n, manyEntries, 0})
	}
	for _, n := range []int{1, 10, 100, 1000} {
		all = append(all, point{"tunnels", n, manyTunnels, 0})
	}
	for _, n := range []int{10, 100, 1000} {
		all = append(all, point{"route changes/s, 1,000 peers", n, func(b *strings.Builder, _ int) { manyPeers(b, 1000) }, n})
	}
	return all
}

func scalePeer(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}) }

// The tunnel gnv0 is asked about and changed, gnvping is the other one, which pings.
func manyPeers(b *strings.Builder, n int) {
	fmt.Fprintf(b, "[[tunnel]]\nname = \"gnv0\"\nid = 1\nlocal = \"10.77.0.1\"\nremote = [")
	for i := range n {
		fmt.Fprintf(b, "\"%s\", ", scalePeer(i))
	}
	b.WriteString("]\n")
}

func manyEntries(b *strings.Builder, n int) {
	fmt.Fprintf(b, "[[tunnel]]\nname = \"gnv0\"\nid = 1\nlocal = \"10.77.0.1\"\nremote = \"198.18.0.1\"\n")
	for i := range n {
		fmt.Fprintf(b, "[[tunnel.fdb]]\nlladdr = \"02:00:%02x:%02x:%02x:%02x\"\ndst = \"%s\"\n", i>>24, i>>16&255, i>>8&255, i&255, scalePeer(i%100))
	}
}

func manyTunnels(b *strings.Builder, n int) {
	for i := range n {
		fmt.Fprintf(b, "[[tunnel]]\nname = \"gnv%d\"\nid = %d\nlocal = \"10.77.0.1\"\nremote = \"198.18.0.1\"\n", i, 1+i)
	}
}

// scaleColumns are those of the table, with their units.
var scaleColumns = []string{"check s", "start s", "question ms", "change ms", "idle CPU ms/s", "RSS MiB", "ping p50 us", "ping p99 us", "stop s"}

// scale measures all points and returns a table, and how many points could not be measured.
func scale(ctx context.Context, dir string, o options, program string) (text string, failed int) {
	var b strings.Builder
	fmt.Fprintf(&b, "\n| | n | %s |\n|%s\n", strings.Join(scaleColumns, " | "), strings.Repeat(" --- |", len(scaleColumns)+2))
	last := ""
	for _, p := range points() {
		if ctx.Err() != nil {
			break
		}
		row := make(map[string]float64)
		err := errors.New("the size before took too long")
		if last != p.what { // what was too slow is not tried in a larger size
			err = p.measure(ctx, dir, program, o, row)
		}
		fmt.Fprintf(&b, "| %s | %d |", p.what, p.n)
		for _, c := range scaleColumns {
			if v, ok := row[c]; ok {
				fmt.Fprintf(&b, " %s |", figure(v))
			} else {
				b.WriteString(" - |")
			}
		}
		b.WriteString("\n")
		if err != nil {
			logf("%d %s: %v", p.n, p.what, err)
			failed++
			last = p.what
			continue
		}
		logf("%d %s: %v", p.n, p.what, row)
	}
	return b.String(), failed
}

// figure has three digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// measure sets a point up, fills the row, and removes all again.
func (p point) measure(ctx context.Context, dir, program string, o options, row map[string]float64) (err error) {
	s := &site{}
	defer s.close()
	for i, side := range []string{"a", "b"} {
		e := &end{host: fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), side), underlay: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})}
		e.load, s.ends[i] = e.host, e
		if err := s.namespace(ctx, e.host); err != nil {
			return err
		}
		// What hosts say by themselves would go to every peer.
		_, err := command(ctx, "ip", "netns", "exec", e.host, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
		if err != nil {
			return err
		}
	}
	a, z := s.ends[0], s.ends[1]
	if err := s.ip(ctx, a.host, "link", "add", underlayDevice, "type", "veth", "peer", "name", underlayDevice, "netns", z.host); err != nil {
		return err
	}
	for _, e := range s.ends {
		if err := errors.Join(s.ip(ctx, e.host, "addr", "add", e.underlay.String()+"/24", "dev", underlayDevice), s.ip(ctx, e.host, "link", "set", underlayDevice, "up")); err != nil {
			return err
		}
	}
	if err := s.ip(ctx, a.host, "route", "add", "198.18.0.0/15", "via", z.underlay.String()); err != nil {
		return err
	}
	const ping = "[[tunnel]]\nname = \"gnvping\"\nid = 16000000\nlocal = \"%s\"\nremote = \"%s\"\naddress = [\"10.79.0.%d/24\"]\n"
	for i, e := range s.ends {
		var text strings.Builder
		fmt.Fprintf(&text, ping, e.underlay, s.ends[1-i].underlay, i+1)
		if e == a {
			p.config(&text, p.n)
		}
		file := filepath.Join(dir, e.host+".toml")
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			return err
		}
		if e == a {
			begin := time.Now()
			if err := bounded(ctx, program, "check", file); err != nil {
				return err
			}
			row["check s"] = time.Since(begin).Seconds()
		}
		begin := time.Now()
		control := filepath.Join(dir, e.host+".sock")
		os.Remove(control)
		if e.daemon, err = start(e.host, append([]string{program, "--control", control, "run", "--config", file}, o.extra...)...); err != nil {
			return err
		}
		if err := bounded(ctx, program, "--control", control, "--timeout", tooLong.String(), "wait", "--for", "ready"); err != nil {
			return err
		}
		if e == a {
			row["start s"] = time.Since(begin).Seconds()
		}
	}
	if err := p.live(ctx, filepath.Join(dir, a.host+".sock"), s, row); err != nil {
		return err
	}
	begin := time.Now()
	a.daemon.cmd.Process.Signal(os.Interrupt)
	select {
	case <-a.daemon.done:
		row["stop s"] = time.Since(begin).Seconds()
		return nil
	case <-time.After(tooLong):
		return errors.New("it did not stop")
	}
}

// live measures what needs a running process.
func (p point) live(ctx context.Context, control string, s *site, row map[string]float64) error {
	a := s.ends[0]
	if p.changes > 0 {
		stop := changeRoutes(a.host, p.changes)
		defer stop()
	}
	m := &meter{site: &site{ends: [2]*end{a}}}
	time.Sleep(time.Second) // what the start has set off
	_, used := m.cpu()
	time.Sleep(3 * time.Second)
	_, now := m.cpu()
	row["idle CPU ms/s"] = (now - used) / 3 * 1000
	api := &http.Client{Timeout: tooLong, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", control)
	}}}
	defer api.CloseIdleConnections()
	ask := func() error { return request(api, http.MethodGet, "/v1/tunnels/gnv0", nil) }
	ttl := 10
	change := func() error {
		ttl = 10 + (ttl-9)%200
		return request(api, http.MethodPatch, "/v1/tunnels/gnv0", map[string]any{"keywords": []string{"ttl", fmt.Sprint(ttl)}})
	}
	for name, do := range map[string]func() error{"question ms": ask, "change ms": change} {
		took, err := typical(3*time.Second, 15, do)
		if err != nil {
			return err
		}
		row[name] = float64(took.Microseconds()) / 1000
	}
	// The other tunnel, while both are asked for all the time.
	end := time.Now().Add(2 * time.Second)
	busy := make(chan error, 1)
	go func() {
		var err error
		for err == nil && time.Now().Before(end) {
			err = errors.Join(ask(), change())
		}
		busy <- err
	}()
	out, err := command(ctx, "ip", "netns", "exec", a.host, "ping", "-n", "-i", "0.004", "-c", "500", "-W", "2", "10.79.0.2")
	if err := errors.Join(err, <-busy); err != nil {
		return err
	}
	times, err := roundTrips(out)
	if err != nil || len(times) == 0 {
		return errors.Join(err, errors.New("no ping came back"))
	}
	row["ping p50 us"], row["ping p99 us"] = percentile(times, 50), percentile(times, 99)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.daemon.pid()))
	row["RSS MiB"] = field(status, "VmRSS:") / 1024
	return err
}

// typical is the median of at most n turns of do, within a time.
func typical(within time.Duration, n int, do func() error) (time.Duration, error) {
	var all []time.Duration
	for end := time.Now().Add(within); len(all) == 0 || len(all) < n && time.Now().Before(end); {
		begin := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// request asks the control socket and reads all of the answer.
func request(api *http.Client, method, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://gvtep"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, tail(string(said)))
	}
	return err
}

// changeRoutes adds and deletes routes that concern no peer, so many a second, until stop.
func changeRoutes(host string, rate int) (stop func()) {
	cmd := exec.Command("ip", "-n", host, "-force", "-batch", "-")
	cmd.SysProcAttr = attributes()
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		logf("route changes: %v", err)
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer in.Close()
		const tick = 20 * time.Millisecond
		begin, sent := time.Now(), 0
		for {
			select {
			case <-done:
				return
			case <-time.After(tick):
			}
			for ; sent < int(time.Since(begin).Seconds()*float64(rate)); sent++ {
				verb := []string{"add", "del"}[sent%2]
				if _, err := fmt.Fprintf(in, "route %s blackhole 203.0.%d.0/24\n", verb, sent/2%256); err != nil {
					return
				}
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		cmd.Wait()
	}
}

// bounded runs a program that may take tooLong.
func bounded(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, tooLong)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), errors.Join(ctx.Err(), err), tail(string(out)))
	}
	return nil
}
