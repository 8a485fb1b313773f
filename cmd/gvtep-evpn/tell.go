package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
	"gvtep/internal/evpn"
	"gvtep/internal/evpn/speaker"
	"gvtep/internal/netwatch"
)

const (
	// gather is how long after changes were told others are gathered: a single one is told at once.
	gather = 20 * time.Millisecond
	// tick is how often withdrawals that wait are looked at.
	tick = 250 * time.Millisecond
)

// tell tells the speaker and gvtep what changed, until ctx ends.
func (a *agent) tell(ctx context.Context, ready func()) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	told := time.Time{}
	for first := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-a.again:
			if err := a.refresh(ctx); err != nil && !errors.Is(err, control.ErrUnreachable) && ctx.Err() == nil {
				a.log.Warn("tunnels cannot be read", zap.Error(err))
			}
		case <-a.kick:
			pause(ctx, time.Until(told.Add(gather)))
		case <-ticker.C:
			a.tick(ctx)
		}
		a.flush(ctx)
		told = time.Now()
		if a.mu.Lock(); first && a.speaker != nil {
			first = false
			ready()
		}
		a.mu.Unlock()
	}
}

// tick lets withdrawals that have waited end, and routes in that there is room for.
func (a *agent) tick(ctx context.Context) {
	a.mu.Lock()
	a.completed(time.Now())
	waiting := a.table.Waiting()
	a.mu.Unlock()
	if !waiting {
		return
	}
	heard := a.listen(ctx)
	a.mu.Lock()
	a.table.Tick(time.Now(), func(dev string, addr netip.Addr) (time.Duration, bool) {
		ago, ever := heard[seenKey{dev, addr}]
		return ago, ever
	})
	a.mu.Unlock()
}

// listen asks gvtep whom it hears.
func (a *agent) listen(ctx context.Context) map[seenKey]time.Duration {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	heard := map[seenKey]time.Duration{}
	list, err := a.gvtep.Tunnels(ctx)
	if err != nil {
		return heard
	}
	for _, t := range list {
		for _, p := range t.Gvtep.Peers {
			if p.SeenAgo != nil {
				heard[seenKey{t.Ifname, p.Remote}] = time.Duration(*p.SeenAgo * float64(time.Second))
			}
		}
	}
	return heard
}

// flush tells what has come up.
func (a *agent) flush(ctx context.Context) {
	a.mu.Lock()
	s := a.speaker
	var out evpn.Output
	if s != nil {
		out = a.table.Take()
	}
	devs := map[string]bool{}
	if a.gvtepUp {
		for _, dev := range a.table.Devices() {
			devs[dev] = true
		}
		for dev := range a.whole {
			devs[dev] = true
		}
	}
	a.mu.Unlock()
	if s != nil {
		a.announce(s, out)
	}
	for _, dev := range slices.Sorted(maps.Keys(devs)) {
		a.batch(ctx, dev)
	}
}

func (a *agent) announce(s *speaker.Speaker, out evpn.Output) {
	if a.cfg.Constraint && out.Wanted != nil {
		if err := s.Want(out.Wanted); err != nil {
			a.log.Warn("neighbours cannot be asked for routes by their targets", zap.Error(err))
		}
	}
	for _, c := range out.Routes {
		do, what := s.Announce, "route cannot be announced"
		if c.Withdraw {
			do, what = s.Withdraw, "route cannot be withdrawn"
		}
		if err := do(c.Route); err != nil {
			a.log.Warn(what, zap.Stringer("type", c.Kind), zap.Uint32("vni", c.VNI), zap.Stringer("mac", c.MAC), zap.Error(err))
		}
	}
	for _, f := range out.Forget {
		a.forget(f)
	}
	for _, d := range out.Frozen {
		a.log.Error("two places claim a station: it stays as it is until gvtep-evpn clear", zap.Uint32("vni", d.VNI), zap.Stringer("mac", d.MAC), zap.Stringer("remote", d.Other))
		a.events.put(event{Object: "mac", Action: "duplicate", VNI: d.VNI, MAC: d.MAC.String(), VTEP: d.Other.String()})
	}
}

// forget has the bridge forget a station that is elsewhere.
func (a *agent) forget(f evpn.Forget) {
	a.mu.Lock()
	var at []netwatch.Station
	for _, t := range a.tunnels {
		for _, s := range t.segments {
			if s.VNI == f.VNI && t.bridge.Index != 0 {
				vlan := s.VLAN
				if vlan == 0 && t.bridge.VLANs {
					vlan = t.dev.PVID
				}
				at = append(at, netwatch.Station{Port: f.Port, MAC: f.MAC, VLAN: vlan})
			}
		}
	}
	a.mu.Unlock()
	for _, s := range at {
		if err := netwatch.Forget(s); err != nil {
			a.log.Warn("the bridge does not forget a station", zap.Stringer("mac", f.MAC), zap.Error(err))
		}
	}
}

// batch tells gvtep what changed of a tunnel, or, if it may not know the rest, everything.
func (a *agent) batch(ctx context.Context, dev string) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	lines := 0
	add := func(l evpn.Line) {
		enc.Encode(l)
		lines++
	}
	a.mu.Lock()
	o := control.BatchOptions{Owner: evpn.Owner}
	whole := a.whole[dev]
	if whole {
		delete(a.whole, dev)
		o.Sync = a.complete
		a.table.All(dev, add)
	} else {
		a.table.Changes(dev, add)
	}
	a.mu.Unlock()
	if lines == 0 && !o.Sync {
		return
	}
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	done, err := a.gvtep.Batch(ask, dev, o, &text)
	a.mu.Lock()
	a.stats.batches++
	a.stats.lines += uint64(lines)
	var gone *control.NotFoundError
	if err != nil && !errors.As(err, &gone) {
		a.stats.failed++
		a.whole[dev] = true // with the next tick
	}
	a.mu.Unlock()
	switch {
	case err == nil:
		a.log.Debug("gvtep was told", zap.String("device", dev), zap.Int("lines", lines), zap.Bool("sync", o.Sync), zap.Int("set", done.Set), zap.Int("removed", done.Removed))
	case !errors.Is(err, control.ErrUnreachable) && ctx.Err() == nil:
		a.log.Error("gvtep refuses what it is told", zap.String("device", dev), zap.Error(err))
		pause(ctx, time.Second)
	}
}
