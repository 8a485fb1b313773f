package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestEventsFrom: what a controller does: it reads what is there, then what changes, loses its
// connection, and goes on where it was.
func TestEventsFrom(t *testing.T) {
	need(t)
	a, _ := underlay(t)
	g := a.tunnel("gnv0", "--id", "42", "--remote", "10.77.0.2")
	g.h.ok(5*time.Second, g.binary, "-i", g.instance, "fdb", "add", "02:00:00:00:00:01", "dev", "gnv0", "dst", "10.77.0.2", "static")
	type event struct {
		Seq                              uint64
		Object, Action, Ifname, MAC, Dst string
	}
	// follow reads events from a place on until enough says so.
	follow := func(from string, enough func(event) bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://gvtep/v1/events?from="+from, nil)
		resp, err := g.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatalf("%s: %v", lines.Text(), err)
			}
			if enough(e) {
				return
			}
		}
		t.Fatalf("events from %s ended before enough: %v", from, lines.Err())
	}
	change := func(i int) {
		g.h.ok(5*time.Second, g.binary, "-i", g.instance, "fdb", "replace", fmt.Sprintf("02:00:00:00:01:%02x", i), "dev", "gnv0", "dst", "10.77.0.2")
	}

	there := map[string]int{}
	var last uint64
	follow("snapshot", func(e event) bool {
		switch {
		case e.Object == "snapshot" && e.Action == "end":
			change(1)
		case e.Action == "snapshot":
			there[e.Object]++
			there[e.MAC]++
		default:
			last = e.Seq
			return e.Object == "fdb" && e.Action == "new" && e.MAC == "02:00:00:00:01:01"
		}
		return false
	})
	if there["tunnel"] != 1 || there["peer"] != 1 || there["02:00:00:00:00:01"] != 1 {
		t.Errorf("the snapshot has %v, want the tunnel, its peer and its entry", there)
	}
	change(2) // while nobody reads
	follow(fmt.Sprint(last), func(e event) bool {
		if e.Object == "lost" {
			t.Errorf("events after %d are lost", last)
		}
		if e.Seq <= last {
			t.Errorf("event %d comes again, after %d", e.Seq, last)
		}
		return e.MAC == "02:00:00:00:01:02"
	})
	follow("1", func(e event) bool {
		if e.Object != "lost" || e.Action != "gap" {
			t.Errorf("from a number of long ago: %+v, want a gap", e)
		}
		return true
	})
}
