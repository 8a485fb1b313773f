package main

import (
	"io"
	"sync"
)

// spool writes behind the back of its writer: a pager that has shown its first page takes no
// more, and the daemon does not wait for readers that stop. What it cannot get rid of is kept.
type spool struct {
	mu    sync.Mutex
	more  sync.Cond // there is more, or it has ended, or err
	ready []byte
	ended bool
	err   error
	done  chan struct{}
}

// spooled is how much is kept before a write waits for the next one, if out is as fast as its
// writer.
const spooled = 64 << 10

func newSpool(out io.Writer) *spool {
	s := &spool{done: make(chan struct{})}
	s.more.L = &s.mu
	go s.drain(out)
	return s
}

// Write keeps b to be written. Its error is that of an earlier write, such as when nobody
// reads any more.
func (s *spool) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	if s.ready = append(s.ready, b...); len(s.ready) >= spooled {
		s.more.Signal()
	}
	return len(b), nil
}

// Close waits until all is written.
func (s *spool) Close() error {
	s.mu.Lock()
	s.ended = true
	s.more.Signal()
	s.mu.Unlock()
	<-s.done
	return s.err
}

func (s *spool) drain(out io.Writer) {
	defer close(s.done)
	var writing []byte
	for {
		s.mu.Lock()
		for len(s.ready) < spooled && !s.ended {
			s.more.Wait()
		}
		writing, s.ready = s.ready, writing[:0]
		ended := s.ended
		s.mu.Unlock()
		_, err := out.Write(writing)
		if err != nil {
			s.mu.Lock()
			s.err = err
			s.mu.Unlock()
		}
		if err != nil || ended {
			return
		}
	}
}
