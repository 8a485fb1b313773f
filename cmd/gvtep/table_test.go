package main

import (
	"net/netip"
	"strings"
	"testing"

	"gvtep/cmd/internal/control"
)

// TestPeerTable: each peer has its own line and below it its own troubles, however many have some.
func TestPeerTable(t *testing.T) {
	var peers []control.Peer
	for _, s := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"} {
		at := netip.MustParseAddr(s)
		peers = append(peers, control.Peer{Remote: at, Port: 6081, State: "silent", Error: "wrong at " + s, PathMTU: 1500})
	}
	peers[1].Error = ""
	app := newApp("")
	got := app.peerTable(peers)
	want := []string{"PEER", "192.0.2.1:6081", "ERROR: wrong at 192.0.2.1", "192.0.2.2:6081", "192.0.2.3:6081", "ERROR: wrong at 192.0.2.3"}
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i, line := range got {
		if !strings.Contains(line, want[i]) {
			t.Errorf("line %d is %q, want %q", i+1, line, want[i])
		}
	}
}
