package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"gvtep/internal/evpn"
)

// TestMetrics: docs/evpn.md has all of them, with their labels, and no others.
func TestMetrics(t *testing.T) {
	neighbor := netip.MustParseAddr("192.0.2.254")
	cfg := &evpn.Config{Rules: evpn.Rules{AS: 65000, RouterID: netip.MustParseAddr("192.0.2.1")}, Neighbors: []evpn.Neighbor{{Addr: neighbor}}}
	a := newAgent(cfg, zap.NewNop(), nil)
	a.table.SetSegments([]evpn.Segment{{VNI: 100, Dev: "gnv0", Local: cfg.RouterID, Encap: evpn.Geneve, Targets: evpn.Targets{Auto: true}}}, time.Now())
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{a})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), strings.TrimSuffix(f.GetHelp(), ".")))
	}
	page, err := os.ReadFile("../../docs/evpn.md")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `gvtep_evpn_") {
			have = append(have, strings.TrimSpace(line))
		}
	}
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("docs/evpn.md does not have these rows:\n%s", strings.Join(want, "\n"))
	}
}
