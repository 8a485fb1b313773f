package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGraph: what two hosts save, merged, shows that one direction is broken, and which.
func TestGraph(t *testing.T) {
	need(t, "ping", "nft")
	a, b := underlay(t)
	ga := a.tunnel("gnv0", strings.Fields(wordsA)...)
	gb := b.tunnel("gnv0", strings.Fields(wordsB)...)
	(&faulty{t: t}).nft(b, "input", "udp dport 6081 drop")
	// b sends and is heard, a sends and is not.
	b.start(nil, "ping", "-q", "-i", "0.2", "-c", "300", "192.0.2.1")

	dir := t.TempDir()
	save := func(g *gvtep, name string) string {
		path := filepath.Join(dir, name)
		text := g.h.ok(5*time.Second, g.binary, "-i", g.instance, "-j", "graph")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	type direction struct{ State, Note string }
	type edge struct {
		A, B   struct{ Instance, Ifname, Address string }
		AToB   direction `json:"a_to_b"`
		BToA   direction `json:"b_to_a"`
		OneWay bool      `json:"one_way"`
	}
	edges := func(args ...string) []edge {
		var g struct{ Edges []edge }
		text := a.ok(5*time.Second, ga.binary, append([]string{"graph", "--format", "json"}, args...)...)
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(g.Edges) != 1 {
			t.Fatalf("%d edges, want 1\n%s", len(g.Edges), text)
		}
		return g.Edges
	}
	within(t, 20*time.Second, "b is heard at a", func() bool { return edges("-i", ga.instance)[0].BToA.State == "heard" })
	if e := edges("-i", ga.instance)[0]; e.B.Address != "10.77.0.2:6081" || e.AToB.State != "unknown" || e.OneWay {
		t.Errorf("a alone says %+v; only b could know", e)
	}
	fileA, fileB := save(ga, "a.json"), save(gb, "b.json")
	e := edges("--merge", fileA, fileB)[0]
	if e.A.Instance != ga.instance || e.B.Instance != gb.instance || e.AToB.State != "silent" || e.BToA.State != "heard" || !e.OneWay {
		t.Errorf("merged: %+v; want silent from a to b, heard back", e)
	}
	drawn := a.ok(5*time.Second, ga.binary, "graph", "--merge", fileA, fileB)
	for _, want := range []string{`  n0 -.->|"silent"| n1`, `  n1 -->|"heard"| n0`, "  linkStyle 0 stroke:#c00"} {
		if !strings.Contains(drawn, want) {
			t.Errorf("no %q in\n%s", want, drawn)
		}
	}

	// Mended, both directions are heard.
	b.ok(5*time.Second, "nft", "delete table inet fault")
	within(t, 20*time.Second, "both directions are heard", func() bool {
		e := edges("--merge", save(ga, "a.json"), save(gb, "b.json"))[0]
		return e.AToB.State == "heard" && e.BToA.State == "heard" && !e.OneWay
	})
}
