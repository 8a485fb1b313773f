package udp

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scripted is a socket that reads what it is told to.
type scripted struct {
	results chan error
	closed  chan struct{}
}

func newScripted(results ...error) *scripted {
	s := &scripted{make(chan error, len(results)+1), make(chan struct{})}
	for _, err := range results {
		s.results <- err
	}
	return s
}

func (s *scripted) Read([]byte) (int, error) {
	select {
	case err := <-s.results:
		return 0, err
	case <-s.closed:
		return 0, io.EOF
	}
}

func (s *scripted) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// TestWatchReopens: a socket that fails is opened again, as often as it takes, and what may
// have been missed is a change. An overrun is no failure.
func TestWatchReopens(t *testing.T) {
	t.Parallel() // it waits for seconds
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second := newScripted()
	opened := 0
	changed := follow(ctx, newScripted(unix.ENOBUFS, unix.ENOMEM), func() (io.ReadCloser, error) {
		if opened++; opened == 1 {
			return nil, errors.New("no socket now")
		}
		return second, nil
	})
	next := func(what string) {
		t.Helper()
		select {
		case _, ok := <-changed:
			if !ok {
				t.Fatalf("%s: the watch has ended", what)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing is told", what)
		}
	}
	next("an overrun")
	next("opened again")
	second.results <- nil
	next("a message on the new socket")
	cancel()
	for range changed { // until it is closed
	}
	select {
	case <-second.closed:
	default:
		t.Error("the socket is still open")
	}
}
