package main

import "github.com/prometheus/client_golang/prometheus"

// collector makes metrics of the status.
type collector struct{ a *agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gvtep_evpn_"+name, help, labels, nil)
}

// Describe says nothing of it beforehand: what there is depends on the neighbours and tunnels.
func (c collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.a.status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(name, help string, v uint64) {
		out <- prometheus.MustNewConstMetric(desc(name, help), prometheus.CounterValue, float64(v))
	}
	gauge(desc("gvtep_up", "Whether gvtep answers."), number(s.Gvtep))
	gauge(desc("complete", "Whether the neighbours have told all their routes."), number(s.Complete))
	up := desc("session_up", "Whether the BGP session is established.", "neighbor")
	received := desc("session_received_routes", "Routes that a neighbour has sent and not withdrawn.", "neighbor")
	for _, n := range s.Neighbors {
		gauge(up, number(n.State == "established"), n.Addr.String())
		gauge(received, float64(n.Received), n.Addr.String())
	}
	routes := desc("routes", "Routes received, by type.", "type")
	for _, kind := range []string{"mac", "imet", "prefix"} {
		gauge(routes, float64(s.Routes[kind]), kind)
	}
	gauge(desc("installed_routes", "Routes that gvtep was told of."), float64(s.Installed))
	refused := desc("refused_routes", "Routes that are not installed, by reason.", "reason")
	for _, reason := range reasons {
		gauge(refused, float64(s.Refused[string(reason)]), string(reason))
	}
	gauge(desc("leaving_routes", "Routes that were withdrawn and are kept for a while."), float64(s.Leaving))
	for _, x := range []struct {
		name, help string
		of         func(segmentView) int
	}{
		{"vteps", "VTEPs of a segment that want what is flooded, or have networks.", func(v segmentView) int { return v.VTEPs }},
		{"local_macs", "Stations of ours in a segment.", func(v segmentView) int { return v.LocalMAC }},
		{"remote_macs", "Stations of others in a segment.", func(v segmentView) int { return v.Remote }},
		{"duplicate_macs", "Stations that two places claim.", func(v segmentView) int { return v.Frozen }},
	} {
		d := desc(x.name, x.help, "vni")
		for _, v := range s.Segments {
			gauge(d, float64(x.of(v)), decimal(v.VNI))
		}
	}
	counter("moves_total", "How often stations moved to us or from us.", s.Moves)
	counter("malformed_routes_total", "Routes received that are of another type or cannot be read.", s.Malformed)
	counter("batches_total", "Batches sent to gvtep.", s.Batches)
	counter("failed_batches_total", "Batches that gvtep did not take.", s.Failed)
	counter("batch_lines_total", "Lines in batches.", s.Lines)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
