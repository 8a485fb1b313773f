package daemon

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
	"gvtep/cmd/internal/service"
	"gvtep/config"
)

// newTrialSource has gnv0 and gnv1, and a file that changes the one, removes the other and adds
// gnv2.
func newTrialSource(t *testing.T, seen *seams) (s *source, path string) {
	t.Helper()
	s = newTestSource(t, 2, seen)
	var err error
	if s.daemon.Manager, err = service.New(); err != nil {
		t.Fatal(err)
	}
	if _, s.daemon.Logging, err = logging.New(os.Stderr, "info", "json"); err != nil {
		t.Fatal(err)
	}
	s.daemon.Load = config.Load
	path = filepath.Join(t.TempDir(), "new.toml")
	const text = `
[[tunnel]]
name = "gnv0"
id = 0
ttl = 7
remote = ["192.0.2.2", "192.0.2.3"]
[[tunnel]]
name = "gnv2"
id = 2
remote = "192.0.2.2"
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, path
}

// what runs, as words.
func running(s *source) string {
	var words []string
	for _, t := range s.endpoint.Configs() {
		line := t.Device.Name
		if t.TTL == 7 {
			line += " ttl 7"
		}
		remotes := []string{}
		for _, p := range t.Peers {
			remotes = append(remotes, strings.TrimPrefix(p.Remote.String(), "192.0.2"))
		}
		slices.Sort(remotes)
		words = append(words, line+" "+strings.Join(remotes, ""))
	}
	return strings.Join(words, "; ")
}

const (
	ranBefore = "gnv0 .2; gnv1 .2"
	runsNow   = "gnv0 ttl 7 .2.3; gnv2 .2"
)

func mustTry(t *testing.T, s *source, path string, after time.Duration) {
	t.Helper()
	out, err := s.ReloadTrial(control.TrialRequest{Config: path, After: after.Seconds()})
	if err != nil || !out.Applied || out.Reverts != after.Seconds() {
		t.Fatalf("the trial: %+v, %v", out, err)
	}
	if got := running(s); got != runsNow {
		t.Fatalf("on trial there is %s, want %s", got, runsNow)
	}
	if st := s.Status(false).Trial; st == nil || st.Config != path || st.Left <= 0 || st.Left > after.Seconds() {
		t.Fatalf("on trial the status is %+v", st)
	}
}

// TestTrialTakenBack: what the reload changed goes back, what others changed meanwhile stays, and
// the peers of owners are still theirs.
func TestTrialTakenBack(t *testing.T) {
	s, path := newTrialSource(t, new(seams))
	batch := func(lines string, sync bool) {
		t.Helper()
		each := func(yield func([]byte, error) bool) {
			for line := range strings.Lines(lines) {
				if !yield([]byte(line), nil) {
					return
				}
			}
		}
		for _, dev := range []string{"gnv0", "gnv1"} {
			if _, err := s.Batch(dev, control.BatchOptions{Owner: "fleet", Sync: sync}, each); err != nil {
				t.Fatal(err)
			}
		}
	}
	batch(`{"peer": "192.0.2.7"}`, false)
	out, err := s.ReloadTrial(control.TrialRequest{Config: path, After: 3600})
	if err != nil || len(out.Removed) != 1 || len(out.Added) != 1 || len(out.Changed) != 1 {
		t.Fatalf("the trial: %+v, %v", out, err)
	}
	for what, err := range map[string]error{
		"peer add":   s.PeerAdd("gnv0", control.PeerWrite{Remote: "192.0.2.9"}),
		"tunnel add": s.TunnelAdd(control.TunnelWrite{Name: "gnv5", Keywords: []string{"id", "5", "remote", "192.0.2.2"}}),
	} {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_, again := s.Reload(control.ReloadRequest{Config: path})
	_, twice := s.ReloadTrial(control.TrialRequest{Config: path, After: 60})
	for _, err := range []error{again, twice} {
		if err == nil || !strings.Contains(err.Error(), "--keep") {
			t.Errorf("another reload meanwhile: %v, want the ways out", err)
		}
	}
	if _, err := s.Reload(control.ReloadRequest{Config: path, DryRun: true}); err != nil {
		t.Errorf("a look at the differences: %v", err)
	}
	if _, err := s.ReloadRevert(); err != nil {
		t.Fatal(err)
	}
	if got, want := running(s), "gnv0 .2.7.9; gnv1 .2; gnv5 .2"; got != want {
		t.Errorf("taken back there is %s, want %s", got, want)
	}
	if s.Status(false).Trial != nil || s.config() != "" {
		t.Errorf("taken back: %+v, of %q", s.Status(false).Trial, s.config())
	}
	batch("", true)
	if got, want := running(s), "gnv0 .2.9; gnv1 .2; gnv5 .2"; got != want {
		t.Errorf("its owner has taken the peer away, there is %s, want %s", got, want)
	}
}

// TestTrialKept: it lasts, and there is nothing to take back.
func TestTrialKept(t *testing.T) {
	s, path := newTrialSource(t, new(seams))
	mustTry(t, s, path, time.Hour)
	if err := s.ReloadKeep(); err != nil {
		t.Fatal(err)
	}
	_, err := s.ReloadRevert()
	if kept := s.ReloadKeep(); err == nil || kept == nil {
		t.Errorf("kept already: revert %v, keep %v", err, kept)
	}
	if _, err := s.Reload(control.ReloadRequest{}); err != nil || running(s) != runsNow || s.Status(false).Trial != nil {
		t.Errorf("kept there is %s, %+v; a reload: %v", running(s), s.Status(false).Trial, err)
	}
}

// TestTrialEnds: the daemon takes it back by itself, and tries again if it cannot.
func TestTrialEnds(t *testing.T) {
	seen := new(seams)
	s, path := newTrialSource(t, seen)
	mustTry(t, s, path, control.MinTrial)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen.broken = "gnv1"
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		s.endTrials(ctx)
	}()
	soon(t, "its time is over", func() bool {
		st := s.Status(false).Trial
		return st != nil && st.Error != "" && st.Left == 0
	})
	cancel()
	<-failed
	if got := running(s); got != runsNow {
		t.Errorf("not taken back there is %s, want %s", got, runsNow)
	}
	seen.broken = ""
	ended := make(chan struct{})
	again, stop := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		s.endTrials(again)
	}()
	s.mu.Lock()
	s.due.Reset(0)
	s.mu.Unlock()
	soon(t, "taken back at the second try", func() bool { return s.Status(false).Trial == nil })
	stop()
	<-ended
	if got := running(s); got != ranBefore {
		t.Errorf("taken back there is %s, want %s", got, ranBefore)
	}
}

// TestTrialBounds: a trial of no time, or of more than a day, is a mistake.
func TestTrialBounds(t *testing.T) {
	s, path := newTrialSource(t, new(seams))
	for _, after := range []float64{-1, 0, 0.5, 86401} {
		if _, err := s.ReloadTrial(control.TrialRequest{Config: path, After: after}); err == nil || running(s) != ranBefore {
			t.Errorf("%g seconds: %v, there is %s", after, err, running(s))
		}
	}
}

func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
