package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestSpool: whoever writes does not wait for a reader that has stopped, all of it comes in its
// order, and the end of the reader is told.
func TestSpool(t *testing.T) {
	r, w := io.Pipe()
	s := newSpool(w)
	var want bytes.Buffer
	for i := range 50_000 {
		line := strings.Repeat(string(rune('a'+i%26)), i%80) + "\n"
		want.WriteString(line)
		if _, err := io.WriteString(s, line); err != nil { // nobody reads yet
			t.Fatal(err)
		}
	}
	closed := make(chan error)
	go func() { closed <- errors.Join(s.Close(), w.Close()) }()
	got, err := io.ReadAll(r)
	if err = errors.Join(err, <-closed); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes of %d, %v", len(got), want.Len(), err)
	}

	r, w = io.Pipe()
	s = newSpool(w)
	r.CloseWithError(io.ErrClosedPipe)
	for err = nil; err == nil; {
		_, err = s.Write(make([]byte, 1000))
	}
	if !errors.Is(err, io.ErrClosedPipe) || !errors.Is(s.Close(), io.ErrClosedPipe) {
		t.Errorf("after the reader has gone: %v", err)
	}
}
