package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
	"gvtep/internal/evpn"
	"gvtep/internal/evpn/speaker"
	"gvtep/internal/netwatch"
)

// tunnel is one of gvtep's, with the devices that belong to it.
type tunnel struct {
	segments    []evpn.Segment
	dev, bridge netwatch.Link
	self        netwatch.Link // the device that is the host's own station: the bridge, or the tunnel; no MAC: there is none
	stop        context.CancelFunc
}

// carries reports whether a VLAN of the bridge is the segment.
func (t *tunnel) carries(s *evpn.Segment, vlan uint16) bool {
	switch {
	case s.VLAN != 0:
		return vlan == s.VLAN
	case t.bridge.VLANs:
		return vlan == t.dev.PVID
	}
	return vlan == 0
}

// askTimeout is how long gvtep may take for one answer.
const askTimeout = 20 * time.Second

// followGvtep keeps the tunnels as they are in gvtep. When gvtep was away it is told everything again.
func (a *agent) followGvtep(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.gvtep.EventsFrom(ctx, "tunnel", control.EventsFrom{Snapshot: true}, func() {}, func(e control.Event) error {
			if e.Object == "snapshot" {
				return a.returned(ctx)
			}
			if e.Action != "snapshot" {
				poke(a.again)
			}
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		was := a.gvtepUp
		a.gvtepUp = false
		a.mu.Unlock()
		if was || err != nil && !errors.Is(err, control.ErrUnreachable) {
			a.log.Warn("gvtep is not there", zap.Error(err))
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// returned is after a connection to gvtep: it may be another one, that knows nothing.
func (a *agent) returned(ctx context.Context) error {
	if err := a.refresh(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	a.gvtepUp = true
	for dev := range a.tunnels {
		a.whole[dev] = true
	}
	begun := a.speaker != nil
	n := len(a.tunnels)
	a.mu.Unlock()
	a.log.Info("gvtep answers", zap.Int("tunnels", n))
	poke(a.kick)
	if begun {
		return nil
	}
	return a.begin()
}

// begin starts the sessions. Before it our own routes are known, so that they go out as one.
func (a *agent) begin() error {
	s, err := speaker.Start(a.cfg, a)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.speaker = s
	out := a.table.Take()
	a.mu.Unlock()
	a.announce(s, out)
	return s.Connect(a.cfg)
}

// refresh reads the tunnels, and the devices that they are ports of.
func (a *agent) refresh(ctx context.Context) error {
	ask, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	list, err := a.gvtep.Tunnels(ask)
	if err != nil {
		return err
	}
	now := map[string]*tunnel{}
	var segments []evpn.Segment
	for i := range list {
		t := &list[i]
		if a.cfg.Tunnels != nil && !slices.Contains(a.cfg.Tunnels, t.Ifname) || t.Gvtep.Netns != "" {
			continue
		}
		x := &tunnel{segments: a.segmentsOf(t)}
		if x.dev, x.bridge, err = netwatch.Own(t.Ifname); err != nil {
			continue // it is on its way
		}
		x.self = x.dev
		if x.bridge.Index != 0 {
			x.self = netwatch.Link{}
			if len(x.bridge.Addrs) > 0 && !x.bridge.VLANs {
				x.self = x.bridge
			}
		}
		now[t.Ifname] = x
		segments = append(segments, x.segments...)
	}
	a.replace(ctx, now, segments)
	return nil
}

// replace has the tunnels be those.
func (a *agent) replace(ctx context.Context, now map[string]*tunnel, segments []evpn.Segment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := len(now) != len(a.tunnels)
	for dev, t := range now {
		old := a.tunnels[dev]
		if old != nil && old.dev.Index == t.dev.Index {
			t.stop, old.stop = old.stop, nil
		} else {
			a.whole[dev] = true // it is a new one
			a.snoop(ctx, t)
		}
		again = again || old == nil || old.bridge.Index != t.bridge.Index || old.dev.PVID != t.dev.PVID || old.self.MAC != t.self.MAC ||
			!slices.EqualFunc(old.segments, t.segments, func(x, y evpn.Segment) bool { return x.VNI == y.VNI && x.VLAN == y.VLAN })
	}
	for _, t := range a.tunnels {
		if t.stop != nil && !slices.ContainsFunc(sorted(now), func(o *tunnel) bool { return o.dev.Index == t.dev.Index }) {
			t.stop()
		}
	}
	a.tunnels = now
	a.table.SetSegments(segments, time.Now())
	for _, t := range now {
		for _, s := range t.segments {
			a.present(t, &s)
		}
	}
	if again {
		poke(a.anew)
	}
	poke(a.kick)
}

func sorted(m map[string]*tunnel) (list []*tunnel) {
	for _, t := range m {
		list = append(list, t)
	}
	return list
}

// present announces the host itself. a.mu is held.
func (a *agent) present(t *tunnel, s *evpn.Segment) {
	if s.L3 {
		a.table.SetPrefixes(s.VNI, a.cfg.Prefixes)
		return
	}
	if t.self.MAC.IsZero() || s.VLAN != 0 {
		return
	}
	a.table.Learn(s.VNI, t.self.MAC, t.self.Index, true, time.Now())
	for _, ip := range t.self.Addrs {
		a.table.Bind(s.VNI, ip, t.self.MAC)
	}
}

// snoop watches what stations say of their IP addresses, as long as the device is there.
func (a *agent) snoop(ctx context.Context, t *tunnel) {
	if a.cfg.BareMAC || len(t.segments) > 0 && t.segments[0].L3 {
		return
	}
	ctx, t.stop = context.WithCancel(ctx)
	go func() {
		for ctx.Err() == nil {
			if err := netwatch.Snoop(ctx, t.dev.Index, a); err != nil && ctx.Err() == nil {
				a.log.Debug("ARP and ND cannot be seen", zap.Int("ifindex", t.dev.Index), zap.Error(err))
				pause(ctx, time.Second)
			}
		}
	}()
}

// segmentsOf are those of a tunnel.
func (a *agent) segmentsOf(t *control.Tunnel) (list []evpn.Segment) {
	s := evpn.Segment{Dev: t.Ifname, Local: a.cfg.RouterID, Encap: evpn.Geneve, L3: t.Gvtep.Mode == "l3", Targets: a.cfg.Targets}
	if t.LinkInfo.Kind == "vxlan" {
		s.Encap = evpn.VXLAN
	}
	for _, text := range []string{t.LinkInfo.Data.Local, t.LinkInfo.Data.Local6} {
		if ip, err := netip.ParseAddr(text); err == nil {
			s.Local = ip
		}
	}
	if t.LinkInfo.Data.ID != nil {
		s.VNI = *t.LinkInfo.Data.ID
		list = append(list, s)
	}
	for _, v := range t.Gvtep.VLANs {
		for vid := v.First; vid <= max(v.First, v.Last); vid++ {
			s.VLAN, s.VNI = vid, v.ID+uint32(vid-v.First)
			list = append(list, s)
		}
	}
	return list
}
