package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"

	"gvtep/cmd/internal/service"
	"gvtep/config"
	"gvtep/vtep"
	"gvtep/vtep/count"
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

// TestHear: what is heard of a peer is told once, as often as it changes, and is forgotten when the peer goes.
func TestHear(t *testing.T) {
	s := newTestSource(t, 1, new(seams))
	sub := s.endpoint.Subscribe()
	defer sub.Close()
	a := &attendant{daemon: s.daemon, endpoint: s.endpoint}
	k := &attended{brief: vtep.Brief{Name: "gnv0"}, contact: map[netip.AddrPort]vtep.Contact{}}
	p := vtep.BriefPeer{Remote: netip.MustParseAddrPort("192.0.2.2:6081")}
	dropped := vtep.PeerRefused{Reason: count.DropUnknownVNI, VNI: 43, Count: 7}
	for i, step := range []struct {
		contact vtep.Contact
		event   string
	}{
		{vtep.Silent, ""}, {vtep.Heard, "heard"}, {vtep.Heard, ""}, {vtep.Silent, "silent"}, {vtep.Silent, ""},
		{vtep.Rejects, "refused"}, {vtep.Rejects, ""}, {vtep.Heard, "heard"}, {vtep.Rejects, "refused"}, {vtep.Silent, "silent"}, {vtep.Heard, "heard"},
	} {
		p.Contact, p.Refused = step.contact, nil
		if step.contact == vtep.Rejects {
			p.Refused = &dropped
		}
		if heard := a.hear(k, &p); heard != (step.contact == vtep.Heard) {
			t.Errorf("step %d: heard %t", i, heard)
		}
		got := ""
		select {
		case e := <-sub.C:
			got = e.Action
			if e.Object != "peer" || e.Tunnel != "gnv0" || e.Remote != p.Remote || e.Refused != p.Refused {
				t.Errorf("step %d: %+v", i, e)
			}
		default:
		}
		if got != step.event {
			t.Errorf("step %d: event %q, want %q", i, got, step.event)
		}
	}
	if forget(k.contact, []vtep.BriefPeer{p}); len(k.contact) != 1 {
		t.Error("a peer that is there was forgotten")
	}
	if forget(k.contact, nil); len(k.contact) != 0 {
		t.Error("a peer that went is remembered")
	}
}
