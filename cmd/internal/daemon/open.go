package daemon

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/view"
	"gvtep/config"
	"gvtep/vtep"
)

// open opens all tunnels. A patient daemon waits for underlay addresses, devices and bridges
// that do not exist yet: at boot their order is not known. SIGHUP loads the configuration
// again and waits for what it says now, all or nothing.
func (d *daemon) open(ctx context.Context, ep *vtep.Endpoint) error {
	said := ""
	var before *config.Config // the last that was waited for, if the present one was not tried yet
	for {
		stop := follow(ep.Changing, progressPeriod, func(p control.Progress) {
			d.tellProgress("starting", p)
			d.door.Wait("its tunnels: " + p.String())
		})
		err := ep.SetNames(d.Config.Names)
		if err == nil {
			err = ep.Add(d.Config.Tunnels...)
		}
		stop()
		waits := d.Patient && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV))
		switch {
		case err == nil:
			return nil
		case !waits && before == nil:
			return err
		case !waits:
			d.Log.Error("not reloaded; still waiting with the old configuration", zap.NamedError("err", err))
			d.Config, before = *before, nil
			continue
		}
		before = nil
		if text := err.Error(); text != said {
			said = text
			d.Log.Warn("waiting for the underlay", zap.NamedError("err", err))
			text = "the underlay: " + strings.ReplaceAll(text, "\n", "; ")
			d.notify("STATUS=waiting for " + text)
			d.door.Wait(text)
		}
		select {
		case <-ctx.Done():
			return err
		case <-d.Hangups:
			cfg, err := d.Load(d.Path)
			if err != nil {
				d.Log.Error("not reloaded; still waiting with the old configuration", zap.NamedError("err", err))
				continue
			}
			old := d.Config
			before, d.Config, said = &old, config.KeepProcess(old, cfg), ""
			d.Logging.Configure(cfg.Log.Level)
			d.warn(cfg.Tunnels)
			d.warnHooks(&cfg.Hooks)
			d.Log.Info("the configuration was loaded again", zap.String("config", d.Path), zap.Int("tunnels", len(cfg.Tunnels)))
		case <-time.After(underlayPoll):
		}
	}
}

// underlayPoll is how often open tries again.
const underlayPoll = time.Second

// withoutOffload names a tunnel that insists on offloads and has none.
func withoutOffload(tunnels []config.Tunnel, state vtep.State) string {
	for _, t := range tunnels {
		if !t.NeedOffload {
			continue
		}
		for _, s := range state.Tunnels {
			if s.Config.Device.Name == t.Device.Name && s.Offload == 0 {
				return t.Device.Name
			}
		}
	}
	return ""
}

// announce logs that packets can flow, and returns false if they never did. Before it says so it
// calls settle: what an earlier process has left carries nothing then that is not configured.
func (d *daemon) announce(ctx context.Context, ep *vtep.Endpoint, settle func()) bool {
	for {
		if s := ep.State(); s.Running {
			settle()
			d.tellReady(&s)
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// tellReady logs that packets can flow.
func (d *daemon) tellReady(s *vtep.State) {
	switch {
	case len(s.Faults) > 0: // this does not wait until all is well, which may take long
		d.Log.Warn("running, but not ready", zap.String("instance", d.Instance), zap.Int("tunnels", len(s.Tunnels)), zap.Strings("reasons", s.Faults))
	case len(s.Tunnels) == 1:
		t := s.Tunnels[0]
		vni := zap.Uint32("vni", uint32(t.Config.VNI))
		if t.Config.NoVNI {
			vni = zap.Skip()
		}
		d.Log.Info("ready", zap.String("device", t.Config.Device.Name), vni,
			zap.Int("mtu", t.MTU), zap.Stringers("addresses", t.Config.Device.Addresses),
			zap.Strings("offload", view.Offloads(t.Offload)), zap.Int("workers", s.Workers))
	default:
		d.Log.Info("ready", zap.String("instance", d.Instance), zap.Int("tunnels", len(s.Tunnels)), zap.Int("workers", s.Workers))
	}
}
