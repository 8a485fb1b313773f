package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/service"
	"gvtep/config"
	"gvtep/vtep"
)

// TestHookReadsEnv: NAME.env is there before on-up runs, and gone before on-down.
func TestHookReadsEnv(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := service.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := &daemon{Options: Options{Log: zap.NewNop(), Manager: m, Hooks: true}}
	r := &reloader{process: config.Config{Hooks: config.Hooks{Up: []string{"/bin/true"}, Down: []string{"/bin/false"}}}}
	a := newAttendant(d, nil, nil, r, dir)
	a.programs.queue = make(chan happening) // each is taken at once, or not at all
	seen := make(chan error)
	go func() {
		for what := range a.programs.queue {
			_, err := os.Stat(filepath.Join(dir, "gnv0.env"))
			if up := what.hook == "on-up"; up != (err == nil) {
				seen <- fmt.Errorf("%s: the file is there: %t", what.hook, !up)
			} else {
				seen <- nil
			}
		}
	}()
	defer close(a.programs.queue)
	called, k := 0, &attended{}
	step := func(up bool, do func()) {
		t.Helper()
		k.brief = vtep.Brief{Name: "gnv0", Up: up, MTU: 1450}
		a.programs.lost = 0
		do()
		if a.programs.lost > 0 {
			return // nobody was ready to take it
		}
		called++
		if err := <-seen; err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		step(true, func() { a.follow(k, false) })
		step(false, func() { a.follow(k, true) })
		step(true, func() { a.follow(k, false) })
		step(true, func() { a.gone(k) })
	}
	if called == 0 {
		t.Error("no hook was called")
	}
}

func TestEnvFile(t *testing.T) {
	for name, want := range map[string]string{
		"gnv0":   "GVTEP_DEV=gnv0\nGVTEP_VNI=7\nGVTEP_MTU=1450\n",
		"a;b'$c": `GVTEP_DEV='a;b'\''$c'` + "\nGVTEP_VNI=7\nGVTEP_MTU=1450\n",
	} {
		if got := envFile(&vtep.Brief{Name: name, VNI: 7, MTU: 1450}); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestHear: a peer that speaks is heard once, is silent a minute after its last packet, and is
// forgotten when it goes.
func TestHear(t *testing.T) {
	s := newTestSource(t, 1, new(seams))
	sub := s.endpoint.Subscribe()
	defer sub.Close()
	a := &attendant{daemon: s.daemon, endpoint: s.endpoint}
	k := &attended{brief: vtep.Brief{Name: "gnv0"}, heard: map[netip.AddrPort]bool{}}
	p := vtep.BriefPeer{Remote: netip.MustParseAddrPort("192.0.2.2:6081")}
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, step := range []struct {
		seen, now time.Duration // after begin; seen 0: never
		heard     bool
		event     string
	}{
		{0, time.Second, false, ""},
		{time.Second, 2 * time.Second, true, "heard"},
		{time.Second, 60 * time.Second, true, ""},
		{time.Second, 61 * time.Second, false, "silent"},
		{time.Second, 62 * time.Second, false, ""},
		{63 * time.Second, 63 * time.Second, true, "heard"},
	} {
		p.LastSeen = time.Time{}
		if step.seen != 0 {
			p.LastSeen = begin.Add(step.seen)
		}
		if heard := a.hear(k, &p, begin.Add(step.now)); heard != step.heard {
			t.Errorf("step %d: heard %t, want %t", i, heard, step.heard)
		}
		got := ""
		select {
		case e := <-sub.C:
			got = e.Action
			if e.Object != "peer" || e.Tunnel != "gnv0" || e.Remote != p.Remote {
				t.Errorf("step %d: %+v", i, e)
			}
		default:
		}
		if got != step.event {
			t.Errorf("step %d: event %q, want %q", i, got, step.event)
		}
	}
	if forget(k.heard, []vtep.BriefPeer{p}); len(k.heard) != 1 {
		t.Error("a peer that is there was forgotten")
	}
	if forget(k.heard, nil); len(k.heard) != 0 {
		t.Error("a peer that went is remembered")
	}
}
