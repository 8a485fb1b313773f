package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"gvtep/config"
)

// Programs of [hooks] are run one after the other, in the order of the events, each with a
// time-out. Runs that do not fit into the queue are dropped and logged.

const (
	// hookQueue is how many runs may wait.
	hookQueue = 256
	// hookOutput is how much of what a failed program wrote is logged.
	hookOutput = 1 << 10
	// hookFarewell bounds the runs of on-down when the process stops, well
	// within the unit's TimeoutStopSec=.
	hookFarewell = 5 * time.Second
)

// happening is something that a hook may be run for.
type happening struct {
	hook    string // on-up and so on
	program []string
	timeout time.Duration
	env     []string
}

// hooks runs programs.
type hooks struct {
	log   *zap.Logger
	queue chan happening
	lost  int // dropped since the last that fitted
}

func newHooks(log *zap.Logger) *hooks {
	return &hooks{log: log, queue: make(chan happening, hookQueue)}
}

// call queues the program for a hook, if there is one. Only one goroutine calls it.
func (h *hooks) call(cfg *config.Hooks, hook string, env ...string) {
	program := map[string][]string{
		"on-up": cfg.Up, "on-down": cfg.Down, "on-peer-seen": cfg.PeerSeen, "on-peer-lost": cfg.PeerLost,
	}[hook]
	if len(program) == 0 {
		return
	}
	select {
	case h.queue <- happening{hook, program, cfg.Timeout, append(env, "GVTEP_EVENT="+strings.TrimPrefix(hook, "on-"))}:
		if h.lost > 0 {
			h.log.Warn("hooks were not run: more happened than the programs kept up with", zap.Int("count", h.lost))
			h.lost = 0
		}
	default:
		h.lost++
	}
}

// close ends the queue: call is not called any more.
func (h *hooks) close() {
	close(h.queue)
	if h.lost > 0 {
		h.log.Warn("hooks were not run: more happened than the programs kept up with", zap.Int("count", h.lost))
	}
}

// run runs what is queued until the queue is closed or ctx ends.
func (h *hooks) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case what, ok := <-h.queue:
			if !ok {
				return
			}
			h.one(ctx, what)
		}
	}
}

// one runs a program to its end. It gets no more of our environment than PATH:
// the rest is between us and the service manager.
func (h *hooks) one(ctx context.Context, what happening) {
	ctx, cancel := context.WithTimeout(ctx, what.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, what.program[0], what.program[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, what.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &limited{&out}, &limited{&out}
	// What it started ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	start := time.Now()
	err := cmd.Run()
	about := []zap.Field{zap.String("hook", what.hook), zap.Strings("env", what.env), zap.Duration("took", time.Since(start))}
	if err == nil {
		h.log.Debug("hook", about...)
		return
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("killed, it did not end in time: %w", err)
	}
	h.log.Warn("a hook failed", append(about, zap.Strings("program", what.program), zap.NamedError("err", err), zap.String("output", strings.TrimSpace(out.String())))...)
}

// limited keeps the beginning of what is written.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, hookOutput-l.b.Len()))])
	return len(p), nil
}
