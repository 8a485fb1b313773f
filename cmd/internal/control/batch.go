package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"
)

const (
	// maxBatches is how many batches may arrive at once. Each is kept until it is whole.
	maxBatches = 2
	// maxLine is the longest line of a batch.
	maxLine = 64 << 10
	// batchPause is how long a batch may bring nothing: its writer may still be computing.
	batchPause = time.Minute
)

// batch applies what is streamed, a value in JSON on each line, without a limit on all of it.
func (s *server) batch(w http.ResponseWriter, r *http.Request) {
	o := BatchOptions{Owner: DefaultOwner}
	if err := parseQuery(r.URL.Query(), o.query()); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if !s.batches.pass(r.Context(), s.read) {
		refuse(w, http.StatusServiceUnavailable, "too many batches are on their way")
		return
	}
	defer s.batches.leave()
	body := &unhurried{r.Body, http.NewResponseController(w)}
	outcome(w, r, s.asked(r), func(src Source, r *http.Request) (any, error) {
		done, err := src.Batch(dev(r), o, linesOf(body))
		body.rc.SetWriteDeadline(time.Now().Add(changeTimeout))
		return done, err
	})
}

// unhurried gives each read the time that others have for all of a request.
type unhurried struct {
	io.Reader
	rc *http.ResponseController
}

func (u *unhurried) Read(b []byte) (int, error) {
	u.rc.SetReadDeadline(time.Now().Add(batchPause))
	return u.Reader.Read(b)
}

// linesOf yields the lines of a stream, without their ends. Each is good until the next.
func linesOf(r io.Reader) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		in := bufio.NewReaderSize(r, maxLine)
		for {
			line, err := in.ReadSlice('\n')
			switch {
			case errors.Is(err, bufio.ErrBufferFull):
				yield(nil, &UsageError{fmt.Sprintf("longer than %d bytes: want one value in JSON on each line", maxLine)})
				return
			case errors.Is(err, io.EOF) && len(line) == 0:
				return
			case err != nil && !errors.Is(err, io.EOF):
				yield(nil, &UsageError{"the batch ended before it was whole: " + err.Error()})
				return
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// Batch streams lines to the daemon, which applies all of them or none. If the daemon has no
// room for one more batch, it is for the caller to try again: what was read of lines is gone.
func (c *Client) Batch(ctx context.Context, dev string, o BatchOptions, lines io.Reader) (done BatchResult, err error) {
	ctx, more, stop := eachInTime(ctx)
	defer stop()
	path := at(dev, "batch") + writeQuery(o.query())
	busy, err := c.try(ctx, http.MethodPost, path, &counted{lines, more}, decoded(&done))
	if busy {
		err = &RefusedError{"too many batches are on their way"}
	}
	return done, err
}

// counted tells of each read.
type counted struct {
	io.Reader
	more func()
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.more()
	return n, err
}
