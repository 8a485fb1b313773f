package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// idleLab is where many tunnels wait: no load at all.
const idleLab = "idle"

// idle measures what tunnels cost that carry nothing: each a device with an
// address of its own, all to one remote that is not there.
func (m *meter) idle(ctx context.Context) {
	s := &site{ends: [2]*end{{host: fmt.Sprintf("%s%d-idle", prefix, os.Getpid())}}}
	m.site = s
	defer s.close()
	const what = "idle tunnels"
	host := s.ends[0].host
	err := errors.Join(s.namespace(ctx, host),
		s.ip(ctx, host, "link", "add", underlayDevice, "type", "veth", "peer", "name", "u1"),
		s.ip(ctx, host, "addr", "add", "10.77.0.1/16", "dev", underlayDevice),
		s.ip(ctx, host, "link", "set", underlayDevice, "up"), s.ip(ctx, host, "link", "set", "u1", "up"))
	if err != nil {
		m.fail(ctx, what, err)
		return
	}
	config := filepath.Join(m.dir, "idle")
	if err := os.WriteFile(config, []byte(m.contender.many(m.tunnels)), 0o600); err != nil {
		m.fail(ctx, what, err)
		return
	}
	before := settled(ctx)
	start := time.Now()
	if err := m.contender.upMany(ctx, m.dir, config, s); err != nil {
		m.fail(ctx, what, err)
		return
	}
	add := func(what, unit string, value float64) {
		m.add(fmt.Sprintf("%d %s: %s", m.tunnels, "idle tunnels", what), unit, value, fmt.Sprintf("%d tunnels", m.tunnels))
	}
	add("start", "s", time.Since(start).Seconds())
	add("memory of the machine, each", "KiB", (before-settled(ctx))/float64(m.tunnels))
	d := s.ends[0].daemon
	if d == nil {
		return
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid()))
	files, err2 := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid()))
	if err := errors.Join(err, err2); err != nil {
		m.fail(ctx, what, err)
		return
	}
	add("RSS of the process", "MiB", field(status, "VmRSS:")/1024)
	add("descriptors", "", float64(len(files)))
	_, used := m.cpu()
	time.Sleep(5 * time.Second)
	_, now := m.cpu()
	add("CPU while nothing happens", "ms/s", (now-used)/5*1000)
	start = time.Now()
	d.stop()
	add("stop", "s", time.Since(start).Seconds())
}

// settled waits until the kernel has freed what it frees later, such as a
// namespace that has just been deleted, and returns MemAvailable in KiB.
func settled(ctx context.Context) (now float64) {
	for range 20 {
		was := now
		text, _ := os.ReadFile("/proc/meminfo")
		if now = field(text, "MemAvailable:"); max(now-was, was-now) < 2<<10 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return now
}

// field reads one number of a file of names and numbers, 0 if it is not there.
func field(text []byte, name string) (v float64) {
	_, rest, _ := strings.Cut(string(text), name)
	fmt.Sscan(rest, &v)
	return v
}
