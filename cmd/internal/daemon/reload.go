package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/view"
	"gvtep/config"
	"gvtep/vtep"
)

// reloader makes a running endpoint follow its configuration.
type reloader struct {
	daemon   *daemon
	endpoint *vtep.Endpoint

	one     sync.Mutex // held by one reload at a time, also while it reads files
	mu      sync.Mutex
	path    string        // "": there is none
	process config.Config // what runs, without the tunnels: these the endpoint has
	// Whether the configuration was loaded when last tried, and when it was.
	loaded   bool
	loadedAt time.Time
	changed  func() // called after a change was made

	onTrial *trial      // the reload that is not kept yet, or nil
	due     *time.Timer // fires when it is to be taken back
}

// hooksConfig is [hooks] as it is now.
func (r *reloader) hooksConfig() *config.Hooks {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.process.Hooks
	return &h
}

// onSignal reloads with each SIGHUP.
func (r *reloader) onSignal(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.daemon.Hangups:
			_, _ = changer{reloader: r, by: vtep.Caller{Command: "SIGHUP"}}.Reload(control.ReloadRequest{}) // it logs what became of it
		}
	}
}

// config is the path of the configuration.
func (r *reloader) config() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.path
}

// socket is [socket] as it runs.
func (r *reloader) socket() config.Socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process.Socket
}

// outcome is what became of the last try to load the configuration, and what
// of it the metrics follow.
func (r *reloader) outcome() (loaded bool, at time.Time, maxPeers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loaded, r.loadedAt, r.process.Metrics.Peers
}

// Reload applies the differences between what runs and what the files say, all of them or
// none.
func (r changer) Reload(req control.ReloadRequest) (control.Reload, error) {
	r.one.Lock()
	defer r.one.Unlock()
	if req.DryRun {
		return r.reload(req)
	}
	return r.announced(func() (control.Reload, error) {
		if err := r.undecided(); err != nil {
			return control.Reload{}, err
		}
		return r.reload(req)
	})
}

// announced tells the service manager and the log of a reload, and what became of it.
func (r changer) announced(reload func() (control.Reload, error)) (control.Reload, error) {
	log, manager := r.daemon.Log, r.daemon.Manager
	if err := manager.Reloading(); err != nil {
		log.Warn("the service manager could not be notified", zap.NamedError("err", err))
	}
	// It waits for this also when nothing was reloaded.
	defer r.daemon.notify("READY=1")
	out, err := reload()
	if err != nil {
		r.tried(false)
		r.daemon.notify("STATUS=not reloaded: " + strings.ReplaceAll(err.Error(), "\n", "; "))
		log.Error("not reloaded; the old configuration stays in effect", zap.NamedError("err", err))
		return out, err
	}
	r.tried(true)
	r.daemon.overwritten.Store(true)
	r.changed()
	log.Info("reloaded", append([]zap.Field{zap.String("config", out.Config), zap.Int("tunnels", out.Tunnels), zap.Int("added", len(out.Added)),
		zap.Int("removed", len(out.Removed)), zap.Int("changed", len(out.Changed)), zap.Bool("restart", out.Restart)}, r.who(nil)...)...)
	return out, nil
}

// tried notes whether the configuration was loaded.
func (r *reloader) tried(loaded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loaded = loaded; loaded {
		r.loadedAt = time.Now()
	}
}

// reload waits for files without r.mu, which all others need.
// reload makes what runs follow a configuration.
func (r changer) reload(req control.ReloadRequest) (out control.Reload, err error) {
	path, cfg, err := r.load(req)
	if err != nil {
		return out, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.become(path, r.loadedInto(cfg), req.DryRun)
}

// loadedInto is cfg, as files have it, with what this process has beside its files. r.mu is held.
func (r *reloader) loadedInto(cfg config.Config) config.Config {
	if r.daemon.Named || cfg.Instance == "" {
		cfg.Instance = r.process.Instance
	}
	for i := range cfg.Tunnels {
		cfg.Tunnels[i] = r.endpoint.WithOwned(cfg.Tunnels[i])
	}
	return cfg
}

// load reads the configuration that a request is about.
func (r changer) load(req control.ReloadRequest) (path string, cfg config.Config, err error) {
	path = cmp.Or(req.Config, r.config())
	if path == "" {
		return path, cfg, errors.New("this instance has its tunnel from the command line: name a PATH to load")
	}
	if !filepath.IsAbs(path) {
		return path, cfg, fmt.Errorf("%s: want an absolute path", path)
	}
	if cfg, err = r.daemon.Load(path); err != nil {
		var faults config.Errors
		if errors.As(err, &faults) {
			return path, cfg, &control.InvalidError{Text: faults.Error(), Faults: len(faults)}
		}
		return path, cfg, &control.InvalidError{Text: err.Error(), Faults: 1}
	}
	return path, cfg, nil
}

// become makes what runs like cfg, which came from path, or with dryRun only tells what that
// would change. r.mu is held.
func (r changer) become(path string, cfg config.Config, dryRun bool) (out control.Reload, err error) {
	running, dead, faults := r.drift(cfg)
	changes := config.Diff(running, cfg)
	out = view.Reload(path, changes, cfg, faults)
	if dryRun {
		return out, nil
	}
	isDead := make(map[string]bool, len(dead))
	for _, name := range dead {
		isDead[name] = true
	}
	if len(dead) > 0 {
		if err := r.endpoint.Apply(vtep.Change{Remove: dead, By: &r.by}); err != nil {
			return control.Reload{}, err
		}
	}

	if err := r.apply(changes); err != nil {
		return control.Reload{}, err
	}
	if !cfg.Names.Equal(r.process.Names) {
		if err := r.endpoint.SetNames(cfg.Names); err != nil {
			return control.Reload{}, err
		}
	}
	var others []string
	for _, f := range faults {
		if !isDead[f.Ifname] {
			others = append(others, f.Ifname)
		}
	}
	if err := r.endpoint.Restore(others...); err != nil {
		r.daemon.Log.Warn("a device is not as configured", zap.NamedError("err", err))
	}
	r.daemon.Logging.Configure(cfg.Log.Level)
	r.endpoint.SetBusyPoll(cfg.Socket.BusyPoll)
	r.process, r.path = withoutTunnels(config.KeepProcess(r.process, cfg)), path
	out.Applied = true
	r.daemon.warn(changes.Added)
	r.daemon.warnHooks(&cfg.Hooks)
	return out, nil
}

// withoutTunnels is cfg without its tunnels.
func withoutTunnels(cfg config.Config) config.Config {
	cfg.Tunnels = nil
	return cfg
}

// drift compares the devices of the tunnels in cfg with their configuration. A tunnel whose
// device was deleted is dead: it carries nothing and is made again, so it is not part of
// running.
func (r *reloader) drift(cfg config.Config) (running config.Config, dead []string, faults []control.DeviceFault) {
	stays := map[string]bool{}
	for _, t := range cfg.Tunnels {
		stays[t.Device.Name] = true
	}
	running = r.process
	for _, t := range r.endpoint.State().Tunnels {
		name := t.Config.Device.Name
		if !stays[name] || !t.Failed {
			running.Tunnels = append(running.Tunnels, t.Config)
		} else {
			dead = append(dead, name)
		}
		if !stays[name] {
			continue
		}
		for _, fault := range t.Faults {
			faults = append(faults, control.DeviceFault{Ifname: name, Fault: fault})
		}
	}
	return running, dead, faults
}

// apply makes those of the changes that need no restart, all or none.
func (r changer) apply(changes config.Changes) error {
	change := vtep.Change{Remove: changes.Removed, Add: changes.Added, By: &r.by, Causes: make(map[string]*vtep.Cause)}
	for _, t := range changes.Changed {
		if t.Live() {
			change.Set = append(change.Set, t.Now)
			change.Causes[t.Now.Device.Name] = r.cause(t.Keys)
		}
	}
	stop := follow(r.endpoint.Changing, progressPeriod, func(p control.Progress) { r.daemon.tellProgress("reloading", p) })
	defer stop()
	err := r.endpoint.Apply(change)
	if err == nil {
		r.logChanges(changes.Changed)
	}
	return err
}

// maxLogged is how many tunnels of one reload the log tells the changes of.
const maxLogged = 16

// logChanges tells what a reload has changed; how many tunnels these are is another line.
func (r changer) logChanges(changed []config.TunnelChange) {
	for _, t := range changed[:min(len(changed), maxLogged)] {
		keys := slices.DeleteFunc(slices.Clone(t.Keys), func(k config.KeyChange) bool { return !k.Live })
		if len(keys) > 0 {
			r.daemon.Log.Info("changed", append([]zap.Field{zap.String("what", "reload"), zap.String("device", t.Tunnel.Device.Name)}, r.who(keys)...)...)
		}
	}
}
