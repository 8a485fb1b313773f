package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
	"gvtep/config"
	"gvtep/vtep"
)

// A reload on trial is taken back by the daemon itself: it may have cut the connection of the
// one who would do it.

// trial is a reload that is not kept yet.
type trial struct {
	path    string        // that was loaded
	until   time.Time     // when it is taken back
	failed  error         // why it was not
	oldPath string        // of what ran before
	process config.Config // that ran before, without the tunnels
	// The tunnels before and after the reload, by name, without what owners have of them.
	before, after map[string]config.Tunnel
	changes       config.Changes // between the two
}

// trialRetry is how long after a trial that could not be taken back that is tried again.
const trialRetry = 5 * time.Second

// undecided refuses a reload while another one is on trial: it would not be known what to go
// back to.
func (r *reloader) undecided() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.onTrial; t != nil {
		return fmt.Errorf("the reload of %s is on trial for another %s: first gvtep reload --keep, or gvtep reload --revert", t.path, time.Until(t.until).Round(time.Second))
	}
	return nil
}

// ReloadTrial reloads, and takes that back in time.
func (r changer) ReloadTrial(q control.TrialRequest) (control.Reload, error) {
	after := time.Duration(q.After * float64(time.Second))
	if after < control.MinTrial || after > control.MaxTrial {
		return control.Reload{}, usage(fmt.Errorf("revert_after_seconds %g: want %g to %g", q.After, control.MinTrial.Seconds(), control.MaxTrial.Seconds()))
	}
	r.one.Lock()
	defer r.one.Unlock()
	return r.announced(func() (out control.Reload, err error) {
		if err := r.undecided(); err != nil {
			return out, err
		}
		path, cfg, err := r.load(control.ReloadRequest{Config: q.Config})
		if err != nil {
			return out, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		t := &trial{path: path, oldPath: r.path, process: r.process}
		before := r.named()
		if out, err = r.become(path, r.loadedInto(cfg), false); err != nil {
			return out, err
		}
		now := r.named()
		t.before, t.after, t.changes = byName(before), byName(now), config.Diff(config.Config{Tunnels: before}, config.Config{Tunnels: now})
		t.until = time.Now().Add(after)
		out.Reverts = after.Seconds()
		r.onTrial = t
		r.due.Reset(after)
		r.daemon.Log.Info("the reload is on trial", zap.String("config", path), zap.Time("until", t.until))
		return out, nil
	})
}

var errNoTrial = errors.New("no reload is on trial: it was kept or taken back already, or there was none (gvtep reload --revert-after TIME)")

// ReloadKeep makes a reload on trial last.
func (r changer) ReloadKeep() error {
	r.one.Lock()
	defer r.one.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.onTrial == nil {
		return errNoTrial
	}
	r.decided()
	r.daemon.Log.Info("the reload is kept", r.who(nil)...)
	return nil
}

// decided ends the trial. r.mu is held.
func (r *reloader) decided() {
	r.onTrial = nil
	r.due.Stop()
}

// ReloadRevert takes a reload on trial back.
func (r changer) ReloadRevert() (control.Reload, error) {
	r.one.Lock()
	defer r.one.Unlock()
	return r.takeBack(func(*trial) bool { return true })
}

// takeBack takes the reload on trial back if it may. r.one is held.
func (r changer) takeBack(may func(*trial) bool) (control.Reload, error) {
	r.mu.Lock()
	t := r.onTrial // which r.one guards, too
	r.mu.Unlock()
	if t == nil || !may(t) {
		return control.Reload{}, errNoTrial
	}
	return r.announced(func() (control.Reload, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		out, err := r.become(t.oldPath, r.target(t), false)
		if t.failed = err; err != nil {
			r.due.Reset(trialRetry)
			return out, fmt.Errorf("not taken back: %w", err)
		}
		r.decided()
		r.daemon.Log.Info("the reload is taken back", zap.String("config", t.path))
		return out, nil
	})
}

// target is what there is to be once a trial is taken back: what ran before it, with what
// others have changed since then. r.mu is held.
func (r *reloader) target(t *trial) config.Config {
	came, changed := make(map[string]bool), make(map[string]bool)
	for i := range t.changes.Added {
		came[t.changes.Added[i].Device.Name] = true
	}
	for i := range t.changes.Changed {
		changed[t.changes.Changed[i].Tunnel.Device.Name] = true
	}
	cfg, there := t.process, make(map[string]bool)
	for _, now := range r.endpoint.Configs() {
		name := now.Device.Name
		there[name] = true
		switch {
		case came[name]:
			continue
		case changed[name]:
			now = r.endpoint.WithOwned(config.TakeBack(now, t.before[name], t.after[name]))
		}
		cfg.Tunnels = append(cfg.Tunnels, now)
	}
	for _, name := range t.changes.Removed {
		if !there[name] {
			cfg.Tunnels = append(cfg.Tunnels, t.before[name])
		}
	}
	return cfg
}

// named are the tunnels that run, without what owners have of them.
func (r *reloader) named() []config.Tunnel {
	all := r.endpoint.Configs()
	for i := range all {
		all[i] = r.endpoint.WithoutOwned(all[i])
	}
	return all
}

func byName(tunnels []config.Tunnel) map[string]config.Tunnel {
	all := make(map[string]config.Tunnel, len(tunnels))
	for _, t := range tunnels {
		all[t.Device.Name] = t
	}
	return all
}

// stoppedTimer returns a timer that does not run.
func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// endTrials takes back each reload on trial whose time is over, until ctx ends.
func (r *reloader) endTrials(ctx context.Context) {
	defer r.due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.due.C:
		}
		r.one.Lock()
		over := func(t *trial) bool { return !time.Now().Before(t.until) }                                  // it may be a newer one
		_, _ = changer{reloader: r, by: vtep.Caller{Command: "gvtep reload --revert-after"}}.takeBack(over) // it logs what became of it
		r.one.Unlock()
	}
}

// trialState is the reload on trial, for people.
func (r *reloader) trialState(now time.Time) *control.Trial {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.onTrial
	if t == nil {
		return nil
	}
	out := &control.Trial{Config: t.path, Deadline: t.until, Left: max(0, t.until.Sub(now).Seconds())}
	if t.failed != nil {
		out.Error = t.failed.Error()
	}
	return out
}
