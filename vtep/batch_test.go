package vtep

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gvtep/fdb"
	"gvtep/internal/packet"
)

// written makes a batch of lines in short: "[-]MAC DST [SEQ]", "[-]peer ADDR", "[-]neigh ADDR MAC",
// "[-]route PREFIX DST".
func written(t *testing.T, owner string, sync bool, lines ...string) *Batch {
	t.Helper()
	b := &Batch{Owner: owner, Sync: sync}
	for i, line := range lines {
		line, del := strings.CutPrefix(line, "-")
		words := append(strings.Fields(line), "", "")
		var err error
		switch words[0] {
		case "peer":
			err = b.Peer(i+1, Peer{Remote: addr(words[1])}, del)
		case "neigh":
			var mac packet.MAC
			if !del {
				mac, _ = packet.ParseMAC(words[2])
			}
			err = b.Neighbour(i+1, 0, Neighbour{Addr: addr(words[1]), MAC: mac}, 0, del)
		case "route":
			var to netip.Addr
			if words[2] != "" {
				to = addr(words[2])
			}
			err = b.Route(i+1, netip.MustParsePrefix(words[1]), to, del)
		default:
			mac, _ := packet.ParseMAC(words[0])
			e := Entry{MAC: mac, State: fdb.Dynamic, Flags: fdb.ExternLearn}
			if words[1] == "static" {
				e.State, e.Flags, words[1] = fdb.Static, 0, words[2]
				words[2] = ""
			}
			if words[1] != "" {
				e.Remote = addr(words[1])
			}
			var seq uint32
			fmt.Sscan(words[2], &seq)
			err = b.Entry(i+1, e, seq, del)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// tells returns what a tunnel has, in short.
func tells(t *testing.T, e *Endpoint, name string) (all []string) {
	t.Helper()
	for f := range entriesSeq(e, name) {
		if f.Flood || f.Local {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s %d", f.MAC, f.Remote.Addr(), f.Owner, f.Seq))
	}
	cfg, err := e.Config(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range cfg.Peers {
		all = append(all, strings.TrimSpace(fmt.Sprint("peer ", p.Remote, " ", strings.Trim(fmt.Sprint(p.Routes), "[]"))))
	}
	neighbours, err := e.Neighbours(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range neighbours {
		all = append(all, fmt.Sprintf("neigh %s %s %s", n.Addr, n.MAC, n.Owner))
	}
	slices.Sort(all)
	return all
}

func entriesSeq(e *Endpoint, name string) func(func(FDBEntry) bool) {
	return func(yield func(FDBEntry) bool) {
		for _, f := range e.FDB(name) {
			if !yield(f) {
				return
			}
		}
	}
}

const mac1, mac2, mac3 = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"

// TestBatch: batches of two owners and of nobody beside a configuration.
func TestBatch(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.NeighSuppress = true
	cfg.Neighbours = []Neighbour{{Addr: addr("10.0.0.1"), MAC: packet.MAC{2, 0, 0, 0, 0, 1}}}
	cfg.Entries = []Entry{{MAC: packet.MAC{2, 0, 0, 0, 0, 3}, Remote: addr("192.0.2.2"), State: fdb.Static}}
	h.add(cfg)
	config := []string{mac3 + " 192.0.2.2 config 0", "neigh 10.0.0.1 " + mac1 + " config", "peer 192.0.2.2"}
	for _, step := range []struct {
		what  string
		batch *Batch
		done  BatchResult
		want  []string // beside the configuration
	}{
		{"new", written(t, "a", false, "peer 192.0.2.5", mac1+" 192.0.2.5 7", mac2+" 192.0.2.9", "neigh 10.0.0.5 "+mac1),
			BatchResult{Lines: 4, Set: 4},
			[]string{"peer 192.0.2.5", mac1 + " 192.0.2.5 a 7", mac2 + " 192.0.2.9 a 0", "neigh 10.0.0.5 " + mac1 + " a"}},
		{"again, with another number", written(t, "a", true, "peer 192.0.2.5", mac1+" 192.0.2.5 8", mac2+" 192.0.2.9", "neigh 10.0.0.5 "+mac1),
			BatchResult{Lines: 4, Same: 4},
			[]string{"peer 192.0.2.5", mac1 + " 192.0.2.5 a 8", mac2 + " 192.0.2.9 a 0", "neigh 10.0.0.5 " + mac1 + " a"}},
		{"what is the configuration's", written(t, "a", false, "peer 192.0.2.2", "-peer 192.0.2.2", mac3+" 192.0.2.5", "-"+mac3, "neigh 10.0.0.1 "+mac2, "-neigh 10.0.0.1"),
			BatchResult{Lines: 6, Skipped: 6},
			[]string{"peer 192.0.2.5", mac1 + " 192.0.2.5 a 8", mac2 + " 192.0.2.9 a 0", "neigh 10.0.0.5 " + mac1 + " a"}},
		{"another takes over, and cannot remove", written(t, "b", true, mac2+" static 192.0.2.8", "-"+mac1, "-peer 192.0.2.5", "-neigh 10.0.0.5", "-peer 192.0.2.77"),
			BatchResult{Lines: 5, Set: 1, Skipped: 4},
			[]string{"peer 192.0.2.5", mac1 + " 192.0.2.5 a 8", mac2 + " 192.0.2.8 b 0", "neigh 10.0.0.5 " + mac1 + " a"}},
		{"the later line counts", written(t, "b", true, "-"+mac2, mac2+" 192.0.2.7", mac2+" 192.0.2.2"),
			BatchResult{Lines: 3, Set: 2, Removed: 1},
			[]string{"peer 192.0.2.5", mac1 + " 192.0.2.5 a 8", mac2 + " 192.0.2.2 b 0", "neigh 10.0.0.5 " + mac1 + " a"}},
		{"sync of one line", written(t, "a", true, mac1+" 192.0.2.6"),
			BatchResult{Lines: 1, Set: 1, Removed: 2},
			[]string{mac1 + " 192.0.2.6 a 0", mac2 + " 192.0.2.2 b 0"}},
		{"sync of nothing", written(t, "a", true), BatchResult{Removed: 1}, []string{mac2 + " 192.0.2.2 b 0"}},
		{"the other's", written(t, "b", true), BatchResult{Removed: 1}, nil},
	} {
		done, err := h.ApplyBatch("gnv0", step.batch)
		if err != nil || done != step.done {
			t.Fatalf("%s: %+v, %v; want %+v", step.what, done, err, step.done)
		}
		want := append(slices.Clone(config), step.want...)
		slices.Sort(want)
		if got := tells(t, h.Endpoint, "gnv0"); !slices.Equal(got, want) {
			t.Errorf("%s:\n%q, want\n%q", step.what, got, want)
		}
	}
	if n := len(h.tunnels["gnv0"].peers); n != 1 {
		t.Errorf("%d peers are left, want that of the configuration", n)
	}
}

// TestBatchWrong: a wrong line has its number, and nothing of its batch is applied.
func TestBatchWrong(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0", "192.0.2.2")
	cfg.Local = addr("192.0.2.1")
	h.add(cfg)
	good := []string{"peer 192.0.2.5", mac1 + " 192.0.2.5", "neigh 10.0.0.5 " + mac1}
	before := tells(t, h.Endpoint, "gnv0")
	for wrong, want := range map[string]string{
		mac2 + " 2001:db8::1":        "line 4: dst 2001:db8::1 and local",
		mac2:                         "line 4: dst is missing",
		"peer 2001:db8::1":           "line 4: remote 2001:db8::1",
		"peer 192.0.2.1":             "line 4: ",
		"route 10.0.0.0/8 192.0.2.5": "line 4: ", // a mode l2 tunnel
	} {
		_, err := h.ApplyBatch("gnv0", written(t, "a", true, append(slices.Clone(good), wrong)...))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", wrong, err, want)
		}
		if got := tells(t, h.Endpoint, "gnv0"); !slices.Equal(got, before) {
			t.Errorf("%s: left %q", wrong, got)
		}
	}
	for _, owner := range []string{"", ConfigOwner} {
		if _, err := h.ApplyBatch("gnv0", &Batch{Owner: owner}); err == nil {
			t.Errorf("owner %q is taken", owner)
		}
	}
	if err := new(Batch).Entry(1, Entry{Remote: addr("192.0.2.5")}, 0, false); err == nil {
		t.Error("a batch takes the zero address")
	}
	var line *LineError
	if _, err := h.ApplyBatch("gnv1", &Batch{Owner: "a"}); err == nil || errors.As(err, &line) {
		t.Errorf("no tunnel: %v", err)
	}
}

// TestBatchMoved: what has moved since, or was written by another hand, is no longer the owner's.
func TestBatchMoved(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	h.add(testTunnel("gnv0", "192.0.2.2", "192.0.2.3"))
	apply := func(b *Batch, want BatchResult) {
		t.Helper()
		if done, err := h.ApplyBatch("gnv0", b); err != nil || done != want {
			t.Fatalf("%+v, %v; want %+v", done, err, want)
		}
	}
	apply(written(t, "a", false, mac1+" 192.0.2.2", mac2+" 192.0.2.2", mac3+" 192.0.2.2"), BatchResult{Lines: 3, Set: 3})
	table := h.tunnels["gnv0"].domains[0].fdb
	if r := table.Learn(packet.MAC{2, 0, 0, 0, 0, 1}, fdb.Local, h.clock()); r != fdb.Moved {
		t.Fatal(r)
	}
	err := h.SetEntry("gnv0", EntryReplace, Entry{MAC: packet.MAC{2, 0, 0, 0, 0, 2}, Remote: addr("192.0.2.3"), State: fdb.Dynamic, Flags: fdb.ExternLearn})
	if err != nil {
		t.Fatal(err)
	}
	apply(written(t, "a", false, "-"+mac1, "-"+mac2), BatchResult{Lines: 2, Skipped: 2})
	apply(written(t, "a", true), BatchResult{Removed: 1})
	if n := table.Len(); n != 2 {
		t.Errorf("%d entries, want 2: the one that moved, and the one of another hand", n)
	}
}

// TestBatchRoutes: routes move between peers with those that have them.
func TestBatchRoutes(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0", "192.0.2.2")
	l3(&cfg)
	cfg.Peers[0].Routes = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	h.add(cfg)
	for _, step := range []struct {
		sync  bool
		lines []string
		want  []string
	}{
		{false, []string{"peer 192.0.2.5", "peer 192.0.2.6", "route 10.5.0.0/16 192.0.2.5", "route 10.2.0.0/16 192.0.2.2", "route 10.0.0.0/16 192.0.2.5"},
			[]string{"peer 192.0.2.2 10.0.0.0/16 10.2.0.0/16", "peer 192.0.2.5 10.5.0.0/16", "peer 192.0.2.6"}},
		{false, []string{"route 10.5.0.0/16 192.0.2.6", "-route 10.2.0.0/16", "-route 10.0.0.0/16"},
			[]string{"peer 192.0.2.2 10.0.0.0/16", "peer 192.0.2.5", "peer 192.0.2.6 10.5.0.0/16"}},
		{true, []string{"peer 192.0.2.6", "route 10.7.0.0/16 192.0.2.6"},
			[]string{"peer 192.0.2.2 10.0.0.0/16", "peer 192.0.2.6 10.7.0.0/16"}},
		{true, nil, []string{"peer 192.0.2.2 10.0.0.0/16"}},
	} {
		if _, err := h.ApplyBatch("gnv0", written(t, "a", step.sync, step.lines...)); err != nil {
			t.Fatal(err)
		}
		if got := tells(t, h.Endpoint, "gnv0"); !slices.Equal(got, step.want) {
			t.Errorf("%q: %q, want %q", step.lines, got, step.want)
		}
	}
}

// TestBatchReload: files come and go, what owners have stays.
func TestBatchReload(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0", "192.0.2.2")
	h.add(cfg)
	if _, err := h.ApplyBatch("gnv0", written(t, "a", false, "peer 192.0.2.5", mac1+" static 192.0.2.5")); err != nil {
		t.Fatal(err)
	}
	cfg.Peers = []Peer{{Remote: addr("192.0.2.3")}}
	cfg = h.WithOwned(cfg)
	if err := h.Apply(Change{Set: []Tunnel{cfg}}); err != nil {
		t.Fatal(err)
	}
	want := []string{mac1 + " 192.0.2.5 a 0", "peer 192.0.2.3", "peer 192.0.2.5"}
	if got := tells(t, h.Endpoint, "gnv0"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if done, err := h.ApplyBatch("gnv0", written(t, "a", true)); err != nil || done.Removed != 2 {
		t.Errorf("%+v, %v; want 2 removed", done, err)
	}
}

// TestBatchLocked: with locked, a peer may send from what a controller said is behind it, and from
// nothing else.
func TestBatchLocked(t *testing.T) {
	h := newHost(t, new(memWire), 1, "192.0.2.1")
	cfg := testTunnel("gnv0", "192.0.2.2", "192.0.2.3")
	cfg.Locked = true
	d := h.add(cfg)
	if _, err := h.ApplyBatch("gnv0", written(t, "a", false, mac1+" 192.0.2.2")); err != nil {
		t.Fatal(err)
	}
	for _, sent := range []struct {
		from string
		src  byte
		in   int
	}{{"192.0.2.2", 1, 1}, {"192.0.2.2", 2, 0}, {"192.0.2.3", 1, 0}} {
		f := frame(d.mac, packet.MAC{2, 0, 0, 0, 0, sent.src}, 0x0806, make([]byte, 46))
		h.step()
		h.underlay.inject(addr(sent.from), 6081, 0, 2, len(f)+8, good(f))
		h.step()
		if got := len(d.queues[0].take()); got != sent.in {
			t.Errorf("station %d from %s: %d frames delivered, want %d", sent.src, sent.from, got, sent.in)
		}
	}
}
