// Package view tells the state of an endpoint, and changes of a configuration, in
// the words of the control socket. Its functions do nothing else.
package view

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/config"
	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/count"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// Status is the daemon as a whole. What only the daemon knows, its configuration and
// runtime, is not in it.
func Status(s vtep.State, instance, version string, now time.Time) control.Status {
	st := control.Status{
		Instance: instance, PID: os.Getpid(), Version: version,
		Ready: s.Ready, Started: s.Started, Uptime: seconds(now.Sub(s.Started)),
		Workers: s.Workers, Stuck: append([]int{}, s.Stuck...), Tunnels: len(s.Tunnels), Sockets: []control.Socket{},
		Drops: dropsOf(&s.Drops), Peers: countPeers(s.Tunnels), Refused: refusals(s.Refused, now), ICMP: !s.Deaf,
	}
	switch {
	case len(s.Faults) > 0:
		st.Reason = strings.Join(s.Faults, ", ")
	case !s.Ready:
		st.Reason = "starting or stopping"
	}
	st.Punts = puntsOf(&s)
	for _, sock := range s.Sockets {
		st.Sockets = append(st.Sockets, control.Socket{
			Local: sock.Local.Addr(), Port: sock.Local.Port(), Dev: sock.Device, Overflows: sock.Overflows, Rcvbuf: sock.Rcvbuf,
		})
	}
	return st
}

// Tunnel is one tunnel.
func Tunnel(t *vtep.TunnelState, now time.Time) control.Tunnel {
	cfg := &t.Config
	out := control.Tunnel{
		Ifindex: t.Ifindex, Ifname: cfg.Device.Name, MTU: t.MTU, Master: cfg.Device.Master,
		Flags: []string{}, LinkType: "ether", Address: t.LLAddr.String(),
		LinkInfo: control.LinkInfo{Kind: cfg.Encap.String(), Data: infoOf(cfg)},
	}
	if t.Up {
		out.Flags = []string{"UP", "LOWER_UP"}
	}
	var rxDrops, txDrops uint64
	for i := range t.Drops.Rx {
		rxDrops += t.Drops.Rx[i]
		txDrops += t.Drops.Tx[i]
	}
	out.Stats.RX = control.Counters{Bytes: t.Stats.RxBytes, Packets: t.Stats.RxPackets, Dropped: rxDrops}
	out.Stats.TX = control.Counters{Bytes: t.Stats.TxBytes, Packets: t.Stats.TxPackets, Dropped: txDrops}

	g := &out.Gvtep
	*g = control.TunnelDetail{
		Mode: "l2", TTL: fmt.Sprint(cfg.TTL), TOS: fmt.Sprintf("%#x", cfg.TOS), Local: netip.AddrPortFrom(cfg.Local, cfg.DstPort).String(),
		Dev: cfg.Dev, Netns: cfg.Device.Netns, SrcPortMin: cfg.SrcPortMin, SrcPortMax: cfg.SrcPortMax, Mark: cfg.Mark,
		MTUAuto: t.MTUAuto, Addresses: []string{}, Persist: cfg.Device.Persist, Queues: t.Queues,
		Offload: Offloads(t.Offload), Since: t.Since, Uptime: seconds(now.Sub(t.Since)),
		Learning: cfg.Learning, Ageing: seconds(cfg.Ageing), L2Control: "drop", VLANTags: "pass",
		Flood: !cfg.NoFlood, McastFlood: !cfg.NoMcastFlood, BcastFlood: !cfg.NoBcastFlood, BUMLimit: cfg.BUMLimit,
		Locked: cfg.Locked, Damping: !cfg.NoMoveDamping, Suppress: cfg.NeighSuppress, Isolated: cfg.Device.Isolated, Answered: t.Answered, TooBig: t.TooBig,
		VLANs:   VLANs(cfg.VLANs),
		TxFlood: t.Stats.TxFlood, Drops: dropsOf(&t.Drops), Peers: []control.Peer{},
		FDB: Count(&t.FDB), Ready: t.Ready, Unready: t.Unready, Options: t.Names.Words(cfg.Options), FastPath: fastOf(&t.Fast),
	}
	for i, rule := range cfg.OptionRules {
		g.Match = append(g.Match, control.Match{Rule: t.Names.RuleText(rule), Packets: t.OptionHits[i]})
	}
	for i, rule := range cfg.SendRules {
		g.Send = append(g.Send, control.Match{Rule: t.Names.SendText(rule), Packets: t.SendHits[i]})
	}
	if cfg.BFD.Interval != 0 {
		g.BFD = cfg.BFD.String()
	}
	if !cfg.Local.IsValid() {
		g.Local = fmt.Sprintf("any:%d", cfg.DstPort)
	}
	if cfg.Group.IsValid() {
		g.Group = cfg.Group.String()
	}
	for _, p := range t.Accept {
		g.Accept = append(g.Accept, p.String())
	}
	for _, n := range cfg.Neighbours {
		g.Neigh = append(g.Neigh, n.Addr.String()+"="+n.MAC.String())
	}
	if cfg.Device.L3 {
		g.Mode, out.LinkType, out.Address = "l3", "none", ""
	}
	if cfg.TTL == vtep.Inherit {
		g.TTL = "inherit"
	}
	if cfg.TOS == vtep.Inherit {
		g.TOS = "inherit"
	}
	if cfg.L2ControlPass {
		g.L2Control = "pass"
	}
	if cfg.VLANDrop {
		g.VLANTags = "drop"
	}
	for _, p := range cfg.Device.Addresses {
		g.Addresses = append(g.Addresses, p.String())
	}
	for i := range t.Peers {
		g.Peers = append(g.Peers, peerOf(&t.Peers[i], t, now))
	}
	return out
}

// Options are the kinds of options that names knows, in the order of their IDs.
func Options(names *option.Registry) []control.OptionKind {
	out := []control.OptionKind{}
	for _, k := range names.Kinds() {
		kind := control.OptionKind{Name: k.Name, ID: k.ID.String(), Format: string(k.Format), Critical: k.Critical(), Known: k.Known, Own: names.IsOwn(k.ID)}
		if k.Len != option.Variable {
			kind.Length = &k.Len
		}
		out = append(out, kind)
	}
	return out
}

// puntsOf is what the fast path has left to the ordinary way, the most frequent first.
func puntsOf(s *vtep.State) (out []control.Punt) {
	for _, p := range s.FastPunts {
		if p.Count > 0 {
			out = append(out, control.Punt{Direction: map[bool]string{true: "in", false: "out"}[p.In], Reason: p.Reason, Packets: p.Count})
		}
	}
	slices.SortStableFunc(out, func(a, b control.Punt) int { return cmp.Compare(b.Packets, a.Packets) })
	return out
}

// fastOf is how a tunnel with a fast path is carried; nil: it has none.
func fastOf(s *vtep.FastState) *control.FastPath {
	if s.Wanted == spec.FastOff {
		return nil
	}
	out := &control.FastPath{Wanted: s.Wanted.String(), Devices: []control.FastDevice{}, Reason: s.Reason, RX: s.RxPackets, TX: s.TxPackets}
	for _, d := range s.Devices {
		out.Devices = append(out.Devices, control.FastDevice{Name: d.Name, Bulk: d.Bulk})
	}
	return out
}

// infoOf has the keys and habits of "ip -j link" for a geneve device.
func infoOf(cfg *vtep.Tunnel) control.InfoData {
	d := control.InfoData{
		Port: cfg.DstPort, TTL: max(cfg.TTL, 0), // inherit has no number there
		DF:      map[vtep.DF]string{vtep.DFSet: "set", vtep.DFUnset: "unset", vtep.DFInherit: "inherit"}[cfg.DF],
		UDPCsum: cfg.UDPCsum, ZeroCsumT: cfg.ZeroCsum6, ZeroCsumR: cfg.AcceptZ6,
	}
	if id := uint32(cfg.VNI); !cfg.NoVNI {
		d.ID = &id
	}
	switch cfg.TOS {
	case 0:
	case vtep.Inherit:
		d.TOS = "0x1"
	default:
		d.TOS = fmt.Sprintf("%#x", cfg.TOS)
	}
	if len(cfg.Peers) > 0 {
		if r := cfg.Peers[0].Remote.WithZone(""); r.Is4() {
			d.Remote = r.String()
		} else {
			d.Remote6 = r.String()
		}
	}
	if l := cfg.Local; l.IsValid() && !l.IsUnspecified() {
		if l.Is4() {
			d.Local = l.String()
		} else {
			d.Local6 = l.String()
		}
	}
	return d
}

func peerOf(p *vtep.PeerState, t *vtep.TunnelState, now time.Time) control.Peer {
	cfg := &t.Config
	out := control.Peer{
		Name: p.Name, Remote: p.Remote.Addr().WithZone(""), Port: p.Remote.Port(), Flood: p.Flood, Origin: "fdb",
		RX:      control.Traffic{Bytes: p.Stats.RxBytes, Packets: p.Stats.RxPackets},
		TX:      control.Traffic{Bytes: p.Stats.TxBytes, Packets: p.Stats.TxPackets},
		PathMTU: p.PathMTU, Error: p.Error, BUMLimit: p.BUMLimit, Flooded: p.Flooded, Options: t.Names.Words(p.Options),
	}
	switch {
	case p.Dynamic:
		out.Origin = "accept"
	case p.Peer.Remote == cfg.Group:
		out.Origin = "group"
	case p.Given:
		out.Origin = "config"
	}
	for _, route := range p.Routes {
		out.Routes = append(out.Routes, route.String())
	}
	if p.Routes != nil && len(p.Routes) == 0 {
		out.Routes = []string{"none"}
	}
	if !p.LastSeen.IsZero() {
		ago := max(0, seconds(now.Sub(p.LastSeen)))
		out.LastSeen, out.SeenAgo = &p.LastSeen, &ago
	}
	if p.Speaks {
		out.State = p.Contact.String()
	}
	if b := &p.Live; b.On {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		out.BFD = &control.PeerBFD{
			State: b.State, Remote: b.Remote, Dead: b.Dead, Diagnostic: b.Diagnostic, For: seconds(b.For),
			Interval: ms(b.Interval), Detection: ms(b.Detection), Downs: b.Downs, Received: b.Received,
		}
	}
	addEvidence(&out, p, now)
	return out
}

// Entry is one entry of the forwarding table of a tunnel. names are those of its options.
func Entry(e *vtep.FDBEntry, t *vtep.Tunnel, names *option.Registry) control.FDBEntry {
	out := control.FDBEntry{
		MAC: e.MAC.String(), Ifname: e.Tunnel, VLAN: e.VLAN, Flags: []string{"self"},
		Gvtep: &control.FDBDetail{Local: e.Local, Origin: "config", Seq: e.Seq},
	}
	if e.Owner != vtep.ConfigOwner {
		out.Gvtep.Owner = e.Owner
	}
	if id := uint32(e.ID); !e.Flood || !t.NoVNI {
		out.Gvtep.ID = &id
		if e.VLAN != 0 {
			out.SrcVNI = &id
		}
	}
	if !e.Local && e.Remote.IsValid() {
		out.Dst = e.Remote.Addr().WithZone("").String()
		if e.Remote.Port() != t.DstPort {
			out.Port = e.Remote.Port()
		}
		if e.OtherVNI {
			vni := uint32(e.VNI)
			out.VNI = &vni
		}
		if e.Via != t.Dev {
			out.Via = e.Via
		}
		out.Gvtep.Options = names.Words(e.Options.Sent())
	}
	if e.State == fdb.Dynamic {
		// What was learned has no word in bridge's output.
		out.Gvtep.Origin = "learned"
		used, updated := int(e.Used.Seconds()), int(e.Updated.Seconds())
		out.Used, out.Updated = &used, &updated
	} else {
		out.State = e.State.String()
	}
	if e.Flags != 0 {
		out.Flags = append(out.Flags, strings.Fields(e.Flags.String())...)
	}
	return out
}

// VLANs are the VLANs of a trunk, as ranges.
func VLANs(ranges []vtep.VLANRange) (all []control.VLAN) {
	for _, r := range ranges {
		v := control.VLAN{First: r.First, ID: uint32(r.VNI)}
		if r.Last != r.First {
			v.Last, v.LastID = r.Last, v.ID+uint32(r.Last-r.First)
		}
		all = append(all, v)
	}
	return all
}

// Count sums up a forwarding table.
func Count(f *vtep.FDBState) control.FDBCount {
	return control.FDBCount{Learned: f.Learned, Static: f.Static, Limit: f.Limit, Moved: f.Moved, Aged: f.Aged, Damped: f.Damped, Frozen: f.Frozen}
}

// Event is something that happened.
func Event(e vtep.Event) control.Event {
	out := control.Event{Seq: e.Seq, Time: e.Time, Object: e.Object, Action: e.Action, Ifname: e.Tunnel, Local: e.Local}
	if e.Remote.IsValid() {
		out.Dst, out.Port = e.Remote.Addr().WithZone("").String(), e.Remote.Port()
	}
	if e.From.IsValid() {
		out.From = e.From.Addr().WithZone("").String()
	}
	if c := e.Cause; c != nil {
		if out.MoreKeys = c.More; c.By != (vtep.Caller{}) {
			out.By = new(control.Caller(c.By))
		}
		for _, k := range c.Keys {
			out.Keys = append(out.Keys, control.KeyChange{Key: k.Key, Old: k.Old, New: k.New, Live: true})
		}
	}
	if r := e.Refused; r != nil {
		out.Reason, out.Packets, out.ID = r.Reason.String(), r.Count, new(uint32(r.VNI))
	}
	if e.Object == "fdb" {
		out.VLAN = e.VLAN
		out.MAC, out.Flags = e.MAC.String(), append([]string{"self"}, strings.Fields(e.Flags.String())...)
		if e.State != fdb.Dynamic {
			out.State = e.State.String()
		}
	}
	return out
}

func dropsOf(d *count.Drops) control.Drops {
	out := control.Drops{RX: map[string]uint64{}, TX: map[string]uint64{}}
	for _, r := range count.Reasons() {
		if n := d.Rx[r]; n != 0 {
			out.RX[r.String()] = n
		}
		if n := d.Tx[r]; n != 0 {
			out.TX[r.String()] = n
		}
	}
	return out
}

// Offloads are the names of offloads.
func Offloads(o packet.Offload) []string {
	names := []string{}
	if o != 0 {
		names = append(names, "vnet_hdr")
	}
	for _, ability := range []struct {
		bit  packet.Offload
		name string
	}{
		{packet.OffloadCsum, "csum"}, {packet.OffloadTSO4, "tso4"}, {packet.OffloadTSO6, "tso6"}, {packet.OffloadUSO, "uso"},
	} {
		if o.Has(ability.bit) {
			names = append(names, ability.name)
		}
	}
	return names
}

// LogLevel is the level that is logged, and what comes back when.
func LogLevel(now string, until time.Time, then string) control.LogLevel {
	l := control.LogLevel{Level: now, Then: then}
	if !until.IsZero() {
		l.Until = &until
	}
	return l
}

// seconds keeps milliseconds: more digits are noise in JSON.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }

// Reload returns what changes between a configuration and cfg, which is at path.
func Reload(path string, c config.Changes, cfg config.Config, faults []control.DeviceFault) control.Reload {
	out := control.Reload{
		Config: path, Tunnels: len(cfg.Tunnels), Restart: c.Restart(),
		Added: []string{}, Removed: []string{}, Changed: []control.TunnelChange{}, Process: keysOf(c.Process),
		Faults: append([]control.DeviceFault{}, faults...),
	}
	for _, t := range c.Added {
		out.Added = append(out.Added, t.Device.Name)
	}
	out.Removed = append(out.Removed, c.Removed...)
	for _, t := range c.Changed {
		out.Changed = append(out.Changed, control.TunnelChange{Ifname: t.Tunnel.Device.Name, Keys: keysOf(t.Keys)})
	}
	return out
}

// Change is what changes of one tunnel.
func Change(name string, keys []config.KeyChange) control.TunnelChange {
	return control.TunnelChange{Ifname: name, Keys: keysOf(keys)}
}

func keysOf(keys []config.KeyChange) []control.KeyChange {
	out := make([]control.KeyChange, len(keys))
	for i, k := range keys {
		out[i] = control.KeyChange(k)
	}
	return out
}
