package logging

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
)

// slowLog takes what is written while it is open, and holds the writer else.
type slowLog struct {
	gate sync.Mutex
	fail error

	mu    sync.Mutex
	lines []string
}

func (s *slowLog) write(r record) error {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, string(r.text))
	return nil
}

func gap(lost uint64) record { return record{text: fmt.Append(nil, "gap ", lost)} }

// TestQueue: order is kept, what does not fit is dropped, and said where it
// is missing.
func TestQueue(t *testing.T) {
	var s slowLog
	q := newQueue(s.write, gap)
	filler := strings.Repeat("x", 1<<10)
	const n = 3 << 10 // three times what fits
	s.gate.Lock()
	for i := range n {
		q.put(record{text: fmt.Appendf(nil, "%d %s", i, filler)})
	}
	dropped := q.dropped.Load()
	if q.mu.Lock(); q.bytes > room {
		t.Errorf("%d bytes wait, want at most %d", q.bytes, room)
	}
	q.mu.Unlock()
	s.gate.Unlock()
	told := fmt.Sprint("gap ", dropped)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		done := len(s.lines) > 0 && s.lines[len(s.lines)-1] == told
		s.mu.Unlock()
		if done {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q", told)
		}
	}
	fmt.Fprint(q, "last")
	q.close()
	fmt.Fprint(q, "too late")
	if dropped == 0 || len(s.lines) != n-int(dropped)+2 || s.lines[len(s.lines)-1] != "last" {
		t.Fatalf("%d lines, %d dropped, the last is %.20q; want %d in all, and one about the gap", len(s.lines), dropped, s.lines[len(s.lines)-1], n)
	}
	for i, l := range s.lines[:n-dropped] {
		if !strings.HasPrefix(l, fmt.Sprint(i, " ")) {
			t.Fatalf("line %d is %.20q", i, l)
		}
	}
	if q.dropped.Load() != dropped+1 {
		t.Errorf("%d dropped, want %d and the one after the end", q.dropped.Load(), dropped)
	}
}

// TestQueueFails: what cannot be written is counted once, and told when the
// next can.
func TestQueueFails(t *testing.T) {
	s := slowLog{fail: errors.New("broken pipe")}
	q := newQueue(s.write, gap)
	const n = 100
	for range n {
		fmt.Fprint(q, "lost")
	}
	for end := time.Now().Add(20 * time.Second); q.dropped.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d dropped, want %d", q.dropped.Load(), n)
		}
	}
	s.gate.Lock()
	s.fail = nil
	s.gate.Unlock()
	fmt.Fprint(q, "again")
	q.close()
	if got := strings.Join(s.lines, ","); got != "gap 100,again" || q.dropped.Load() != n {
		t.Errorf("written %q, %d dropped; want the gap and what came after it", got, q.dropped.Load())
	}
}

// TestQueueClose: a writer that hangs holds nobody up for long.
func TestQueueClose(t *testing.T) {
	var s slowLog
	q := newQueue(s.write, gap)
	s.gate.Lock()
	defer s.gate.Unlock()
	fmt.Fprint(q, "stuck")
	start := time.Now()
	q.close()
	if took := time.Since(start); took < farewell {
		t.Errorf("it took %s, want the whole farewell", took)
	}
}

// TestJournalHangs: neither the journal nor standard error takes anything.
func TestJournalHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	j, err := dialJournal(path, w)
	if err != nil {
		t.Fatal(err)
	}
	state := newState("info")
	log := state.logger(j.write, encodeJournal)
	const n = 20000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			log.Info("to nobody", zap.String("device", "gnv0"))
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("whoever logs waits for the journal")
	}
	if logged, lost := state.Counts(); lost == 0 || logged["info"] != n {
		t.Errorf("%d dropped of %d, want some of %d", lost, logged["info"], n)
	}
}
