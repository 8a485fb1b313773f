// Package metrics tells a running endpoint's state in the words of
// Prometheus. A scrape reads one snapshot; between scrapes nothing is done.
package metrics

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/count"
	"gvtep/vtep/spec"
)

// Snapshot is what one scrape tells.
type Snapshot struct {
	State vtep.State
	// Whether the configuration was loaded when last tried, and when that last
	// went well.
	Reloaded   bool
	ReloadedAt time.Time
	Logged     map[string]uint64 // messages by level, all levels
	LogDropped uint64            // of these, messages that could not be written
	// MaxPeers is how many peers have series of their own; those beyond are
	// only counted.
	MaxPeers int
}

// Build is what the program was made of.
type Build struct{ Version, Revision, GoVersion string }

// New returns a registry that calls snapshot, which must be safe for
// concurrent use, for each scrape. The process and the Go runtime are in it
// under their usual names.
func New(build Build, snapshot func() Snapshot) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		&collector{build, snapshot},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewGoCollector(),
	)
	return r
}

// Handler answers scrapes, a few at a time.
func Handler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// family is the description of a metric, and of which kind its values are.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc("gvtep_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc("gvtep_"+name+"_total", help, labels, nil), prometheus.CounterValue}
}

// The families. Names and labels are promised to stay.
var (
	buildInfo  = gauge("build_info", "Always 1; what the program was made of.", "version", "revision", "goversion")
	startTime  = gauge("start_time_seconds", "When the endpoint was started, as Unix time.")
	ready      = gauge("ready", "Whether packets can flow: all is started, no worker is stuck, every device is up.")
	stuck      = gauge("worker_stuck", "Whether a worker no longer goes round, so that what the kernel hands to it is not carried.", "worker")
	reloadOK   = gauge("config_last_reload_successful", "Whether the configuration was loaded when last tried.")
	reloadTime = gauge("config_last_reload_success_timestamp_seconds", "When the configuration was last loaded, as Unix time.")

	tunnelInfo      = gauge("tunnel_info", "Always 1; settings of a tunnel.", "device", "vni", "encap", "mode", "dstport", "netns")
	tunnelUp        = gauge("tunnel_up", "Whether the device is there and administratively up.", "device", "vni")
	tunnelMTU       = gauge("tunnel_mtu_bytes", "MTU of the device.", "device", "vni")
	receivePackets  = counter("receive_packets", "Inner packets received from peers.", "device", "vni")
	receiveBytes    = counter("receive_bytes", "Bytes of inner packets received from peers.", "device", "vni")
	transmitPackets = counter("transmit_packets", "Inner packets sent to peers, each copy counted: unicast, as copies of flooded packets, to a multicast group.", "device", "vni", "type")
	transmitBytes   = counter("transmit_bytes", "Bytes of inner packets sent to peers, each copy counted.", "device", "vni", "type")
	tooBig          = counter("icmp_too_big", "Senders told by ICMP that a packet is too big for the path to its peer.", "device", "vni")
	oddECN          = counter("ecn_mismatches", "Packets from peers whose outer ECN field does not go with the inner one (RFC 6040 section 4.2), and were delivered.", "device", "vni")
	dropped         = counter("dropped_packets", "Packets dropped, received from the underlay or to be transmitted to it; without a device those of no tunnel, and of tunnels that are gone.", "device", "direction", "reason")

	peerReceive  = counter("peer_receive_packets", "Inner packets received from a peer.", "device", "vni", "remote", "peer")
	peerTransmit = counter("peer_transmit_packets", "Inner packets sent to a peer.", "device", "vni", "remote", "peer")
	peerLast     = gauge("peer_last_receive_timestamp_seconds", "When a packet of a peer was last taken, as Unix time; 0: never.", "device", "vni", "remote", "peer")
	peerState    = gauge("peer_state", "1 for the state that a peer is in, 0 for the others: heard, refused (its packets arrive and are dropped), silent, no route.", "device", "vni", "remote", "peer", "state")
	peerBFD      = gauge("peer_bfd_up", "Whether the BFD session with a peer is up; only of peers that have one.", "device", "vni", "remote", "peer")
	peerDead     = gauge("peer_bfd_dead", "Whether BFD has found a peer dead, so that nothing is sent to it.", "device", "vni", "remote", "peer")
	peerDowns    = counter("peer_bfd_downs", "How often the BFD session with a peer was up and went down.", "device", "vni", "remote", "peer")
	peerMTU      = gauge("peer_path_mtu_bytes", "The longest outer packet that reaches a peer whole; 0: there is no route.", "remote")
	peersHidden  = gauge("peers_without_series", "Peers that have no series of their own, because metrics.peers is reached.")

	fdbEntries  = gauge("fdb_entries", "Entries of the forwarding table.", "device", "vni", "state")
	fdbMax      = gauge("fdb_max_entries", "Learned entries that the forwarding table takes.", "device", "vni")
	fdbLearned  = counter("fdb_learned", "Addresses learned.", "device", "vni")
	fdbMoved    = counter("fdb_moved", "Addresses that moved from one peer, or our own side, to another: a migration, or a loop.", "device", "vni")
	fdbAged     = counter("fdb_aged", "Learned addresses that expired.", "device", "vni")
	fdbEvicted  = counter("fdb_evicted", "Learned addresses that made room for one of a peer with less than its share of the table.", "device", "vni")
	fdbRejected = counter("fdb_rejected", "Source addresses not learned: the table is full, the address is pinned elsewhere, it is our own.", "device", "vni", "reason")

	udpReceive    = counter("udp_receive_datagrams", "Datagrams received.", "socket")
	udpTransmit   = counter("udp_transmit_datagrams", "Datagrams that the kernel took for sending.", "socket")
	udpOverflows  = counter("udp_receive_queue_overflows", "Datagrams that the kernel dropped at the socket, mostly for want of room.", "socket")
	udpBuffer     = gauge("udp_receive_buffer_bytes", "Receive buffer of each worker's socket.", "socket")
	offloads      = gauge("offload_enabled", "Whether an offload is in use by all devices or sockets that it is meant for.", "offload")
	optionPackets = counter("option_packets", "Received packets with an option of a class: ignored, or the packet dropped for it.", "class", "action")
	optionRules   = counter("option_rule_packets", "Packets that a rule of match has matched, by its place in the list.", "device", "vni", "place", "rule")
	sendRules     = counter("send_rule_packets", "Packets from the device that a rule of send was for, pieces counted one by one, by its place in the list.", "device", "vni", "place", "rule")
	logMessages   = counter("log_messages", "Messages logged.", "level")
	logDropped    = counter("log_dropped", "Messages dropped because the log was not read fast enough, or could not be written.")

	fastActive  = gauge("fastpath_active", "Whether the fast path carries the tunnel on a device of the underlay; a tunnel with fastpath on or auto has a series for each, or one with 0 and no device.", "device", "vni", "underlay")
	fastPackets = counter("fastpath_packets", "Inner packets that the fast path has carried, of those received and transmitted.", "device", "vni", "direction")
	fastPunts   = counter("fastpath_punts", "Packets that the fast path has left to the ordinary way.", "direction", "reason")

	batchDesc = prometheus.NewDesc("gvtep_io_batch_packets", "Wire-sized packets that one system call carried.", []string{"path"}, nil)
)

// all lists the families with one value each.
var all = []family{
	buildInfo, startTime, ready, stuck, reloadOK, reloadTime,
	tunnelInfo, tunnelUp, tunnelMTU, receivePackets, receiveBytes, transmitPackets, transmitBytes, tooBig, dropped,
	peerReceive, peerTransmit, peerLast, peerState, peerBFD, peerDead, peerDowns, peerMTU, peersHidden,
	fdbEntries, fdbMax, fdbLearned, fdbMoved, fdbAged, fdbEvicted, fdbRejected, oddECN,
	udpReceive, udpTransmit, udpOverflows, udpBuffer, offloads, optionPackets, optionRules, sendRules, logMessages, logDropped,
	fastActive, fastPackets, fastPunts,
}

type collector struct {
	build    Build
	snapshot func() Snapshot
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range all {
		ch <- f.desc
	}
	ch <- batchDesc
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	snap := c.snapshot()
	o := output{ch}
	s := &snap.State
	o.put(buildInfo, 1, c.build.Version, c.build.Revision, c.build.GoVersion)
	o.put(startTime, unix(s.Started))
	o.put(ready, bit(s.Ready))
	o.put(reloadOK, bit(snap.Reloaded))
	o.put(reloadTime, unix(snap.ReloadedAt))
	o.put(logDropped, float64(snap.LogDropped))
	for level, n := range snap.Logged {
		o.put(logMessages, float64(n), level)
	}
	o.workers(s)
	o.drops(s)
	for i := range s.Tunnels {
		o.tunnel(&s.Tunnels[i])
	}
	o.peers(s, snap.MaxPeers)
	o.sockets(s)
	o.offloads(s)
	o.fastPath(s)
	for _, opt := range s.Options {
		class := fmt.Sprintf("%#04x", opt.Class)
		if opt.Other {
			class = "other"
		}
		if opt.Ignored > 0 {
			o.put(optionPackets, float64(opt.Ignored), class, "ignored")
		}
		if opt.Dropped > 0 {
			o.put(optionPackets, float64(opt.Dropped), class, "dropped")
		}
	}
}

// output takes the values of one scrape.
type output struct{ ch chan<- prometheus.Metric }

// put hands over one value. What users name things may be no UTF-8.
func (o output) put(f family, value float64, labels ...string) {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\ufffd")
	}
	m, err := prometheus.NewConstMetric(f.desc, f.kind, value, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	o.ch <- m
}

func (o output) workers(s *vtep.State) {
	is := make([]float64, s.Workers)
	for _, w := range s.Stuck {
		is[w] = 1
	}
	for w, v := range is {
		o.put(stuck, v, fmt.Sprint(w))
	}
	for path, b := range map[string]*packet.BatchCounts{
		"udp_receive": &s.UDPReceive, "udp_transmit": &s.UDPTransmit, "tap_receive": &s.TAPReceive, "tap_transmit": &s.TAPTransmit,
	} {
		buckets, n := map[float64]uint64{}, uint64(0)
		for i, count := range b.Buckets {
			n += count
			if i < len(packet.BatchBounds) {
				buckets[float64(packet.BatchBounds[i])] = n
			}
		}
		o.ch <- prometheus.MustNewConstHistogram(batchDesc, n, float64(b.Packets), buckets, path)
	}
}

// drops gives those of no tunnel a series for each reason that there can be, so that a rate sees the first one. Of
// a device only what has happened: with thousands of tunnels most would be 0.
func (o output) drops(s *vtep.State) {
	rest := s.Dropped
	for i := range s.Tunnels {
		t := &s.Tunnels[i]
		for r := range rest.Rx {
			rest.Rx[r] -= t.Drops.Rx[r]
			rest.Tx[r] -= t.Drops.Tx[r]
		}
		o.dropped(t.Config.Device.Name, &t.Drops, false)
	}
	o.dropped("", &rest, true)
}

func (o output) dropped(device string, d *count.Drops, possible bool) {
	for _, r := range count.Reasons() {
		e := r.Explain()
		if n := d.Rx[r]; n > 0 || possible && e.In {
			o.put(dropped, float64(n), device, "receive", e.Name)
		}
		if n := d.Tx[r]; n > 0 || possible && e.Out {
			o.put(dropped, float64(n), device, "transmit", e.Name)
		}
	}
}

func (o output) tunnel(t *vtep.TunnelState) {
	cfg := &t.Config
	device, vni, mode := cfg.Device.Name, vniOf(cfg), "l2"
	if cfg.Device.L3 {
		mode = "l3"
	}
	o.put(tunnelInfo, 1, device, vni, cfg.Encap.String(), mode, fmt.Sprint(cfg.DstPort), cfg.Device.Netns)
	o.put(tunnelUp, bit(t.Up), device, vni)
	o.put(tunnelMTU, float64(t.MTU), device, vni)
	o.put(tooBig, float64(t.TooBig), device, vni)
	st := &t.Stats
	o.put(receivePackets, float64(st.RxPackets), device, vni)
	o.put(receiveBytes, float64(st.RxBytes), device, vni)
	for _, kind := range []struct {
		name           string
		packets, bytes uint64
	}{
		{"unicast", st.TxPackets - st.TxFlood, st.TxBytes - st.TxFloodBytes},
		{"flood", st.TxFlood - st.TxGroup, st.TxFloodBytes - st.TxGroupBytes},
		{"multicast", st.TxGroup, st.TxGroupBytes},
	} {
		o.put(transmitPackets, float64(kind.packets), device, vni, kind.name)
		o.put(transmitBytes, float64(kind.bytes), device, vni, kind.name)
	}
	table := &t.FDB
	o.put(fdbEntries, float64(table.Learned), device, vni, "dynamic")
	o.put(fdbEntries, float64(table.Static-table.Permanent), device, vni, "static")
	o.put(fdbEntries, float64(table.Permanent), device, vni, "permanent")
	o.put(fdbMax, float64(table.Limit), device, vni)
	o.put(fdbLearned, float64(table.Entered), device, vni)
	o.put(fdbMoved, float64(table.Moved), device, vni)
	o.put(fdbAged, float64(table.Aged), device, vni)
	o.put(fdbEvicted, float64(table.Evicted), device, vni)
	o.put(oddECN, float64(t.OddECN), device, vni)
	o.put(fdbRejected, float64(table.Full), device, vni, "table_full")
	o.put(fdbRejected, float64(t.Drops.Rx[count.DropLocked]+t.Drops.Tx[count.DropLocked]), device, vni, "locked")
	o.put(fdbRejected, float64(table.Own), device, vni, "own_address")
	for i, rule := range cfg.OptionRules {
		o.put(optionRules, float64(t.OptionHits[i]), device, vni, fmt.Sprint(i+1), t.Names.RuleText(rule))
	}
	for i, rule := range cfg.SendRules {
		o.put(sendRules, float64(t.SendHits[i]), device, vni, fmt.Sprint(i+1), t.Names.SendText(rule))
	}
}

// peers tells of the first peers, in the order of tunnels and configuration.
func (o output) peers(s *vtep.State, most int) {
	type key struct{ device, vni, remote, peer string }
	type figures struct {
		rx, tx, last float64
		speaks       bool
		state        vtep.Contact
		live         vtep.BFDState
	}
	values, paths := map[key]figures{}, map[string]float64{}
	var hidden int
	for i := range s.Tunnels {
		t := &s.Tunnels[i]
		for _, p := range t.Peers {
			// Peers that differ only in what is no label count together.
			k := key{t.Config.Device.Name, vniOf(&t.Config), remoteOf(p.Remote, t.Config.DstPort), p.Name}
			f, known := values[k]
			if !known && len(values) >= most {
				hidden++
				continue
			}
			f.rx += float64(p.Stats.RxPackets)
			f.tx += float64(p.Stats.TxPackets)
			f.last = max(f.last, unix(p.LastSeen))
			if p.Speaks {
				f.speaks, f.state, f.live = true, p.Contact, p.Live
			}
			values[k] = f
			// A path is that of an address; the worst of what is known counts.
			if mtu, ok := paths[k.remote]; !ok || float64(p.PathMTU) < mtu {
				paths[k.remote] = float64(p.PathMTU)
			}
		}
	}
	for k, f := range values {
		o.put(peerTransmit, f.tx, k.device, k.vni, k.remote, k.peer)
		if f.speaks {
			o.put(peerReceive, f.rx, k.device, k.vni, k.remote, k.peer)
			o.put(peerLast, f.last, k.device, k.vni, k.remote, k.peer)
			if f.live.On {
				o.put(peerBFD, bit(f.live.Up), k.device, k.vni, k.remote, k.peer)
				o.put(peerDead, bit(f.live.Dead), k.device, k.vni, k.remote, k.peer)
				o.put(peerDowns, float64(f.live.Downs), k.device, k.vni, k.remote, k.peer)
			}
			for _, c := range vtep.Contacts() {
				o.put(peerState, bit(c == f.state), k.device, k.vni, k.remote, k.peer, c.String())
			}
		}
	}
	for remote, mtu := range paths {
		o.put(peerMTU, mtu, remote)
	}
	o.put(peersHidden, float64(hidden))
}

// vniOf is a tunnel's own VNI; a trunk may have none beside those of its VLANs.
func vniOf(t *vtep.Tunnel) string {
	if t.NoVNI {
		return ""
	}
	return fmt.Sprint(t.VNI)
}

// remoteOf is a peer's address, with its port only if that is not the tunnel's.
func remoteOf(a netip.AddrPort, port uint16) string {
	if a.Port() == port {
		return a.Addr().WithZone("").String()
	}
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()).String()
}

func (o output) sockets(s *vtep.State) {
	receive, overflows, buffer := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for _, sock := range s.Sockets {
		name := socketOf(sock.Local.String(), sock.Device)
		receive[name] += float64(sock.Received)
		overflows[name] += float64(sock.Overflows)
		buffer[name] = float64(sock.Rcvbuf)
	}
	for name, n := range receive {
		o.put(udpReceive, n, name)
		o.put(udpOverflows, overflows[name], name)
		o.put(udpBuffer, buffer[name], name)
	}
	for _, sent := range s.Sent {
		o.put(udpTransmit, float64(sent.Datagrams), socketOf(sent.Local.String(), sent.Device))
	}
}

// socketOf names sockets by what they are bound to. Sending ones have no port
// of their own there: they have many.
func socketOf(local, device string) string {
	if device != "" {
		return local + "%" + device
	}
	return local
}

func (o output) offloads(s *vtep.State) {
	type tally struct{ n, have int }
	count := func(t *tally, has bool) {
		t.n++
		if has {
			t.have++
		}
	}
	var header, tso, uso, gso, gro tally
	for i := range s.Tunnels {
		if t := &s.Tunnels[i]; t.Config.Device.Offload {
			count(&header, t.Offload != 0)
			count(&tso, t.Offload.Has(packet.OffloadTSO4|packet.OffloadTSO6))
			count(&uso, t.Offload.Has(packet.OffloadUSO))
		}
		for j := range s.Tunnels[i].Peers {
			if s.Tunnels[i].Peers[j].NoGSO {
				count(&gso, false)
			}
		}
	}
	for _, sent := range s.Sent {
		count(&gso, sent.GSO)
	}
	for _, sock := range s.Sockets {
		count(&gro, sock.GRO)
	}
	for name, t := range map[string]tally{"tap_vnet_hdr": header, "tap_tso": tso, "tap_uso": uso, "udp_gso": gso, "udp_gro": gro} {
		o.put(offloads, bit(t.n > 0 && t.have == t.n), name)
	}
}

func (o output) fastPath(s *vtep.State) {
	for i := range s.Tunnels {
		t := &s.Tunnels[i]
		if t.Fast.Wanted == spec.FastOff {
			continue
		}
		device, vni := t.Config.Device.Name, vniOf(&t.Config)
		for _, d := range t.Fast.Devices {
			o.put(fastActive, 1, device, vni, d.Name)
		}
		if len(t.Fast.Devices) == 0 {
			o.put(fastActive, 0, device, vni, "")
		}
		o.put(fastPackets, float64(t.Fast.RxPackets), device, vni, "receive")
		o.put(fastPackets, float64(t.Fast.TxPackets), device, vni, "transmit")
	}
	for _, p := range s.FastPunts {
		direction := "transmit"
		if p.In {
			direction = "receive"
		}
		o.put(fastPunts, float64(p.Count), direction, p.Reason)
	}
}

func bit(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// unix is a time as metrics have it, 0 for none.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
