// Package capture makes a pcapng file of the packets that workers have copied, as a stream, and
// reads such a stream.
package capture

import (
	"context"
	"io"
	"time"

	"gvtep/vtep/capture"
)

const (
	// share is how many times as long as it works the pump rests: it takes a 25th of a processor
	// at most, and so does whoever reads the stream. Copies that find no room meanwhile are lost.
	share = 24
	// turn is how long it works at most, longest how long it rests.
	turn     = 2 * time.Millisecond
	shortest = 5 * time.Millisecond
	idle     = 10 * time.Millisecond // of rest where there was nothing to do
	longest  = 100 * time.Millisecond
	// told is how often it says how many packets were lost, if that has changed.
	told = time.Second
)

// Pump writes what is captured to w until ctx ends, count packets are written (0: no limit), or w
// fails. w gets whole blocks.
func Pump(ctx context.Context, tap *capture.Tap, w io.Writer, count int) error {
	out, err := newWriter(w, &tap.Options, tap.Began)
	if err != nil {
		return err
	}
	last := time.Now()
	for left := count; ; {
		begun := time.Now()
		n, failed := 0, error(nil)
		tap.Read(func(r *capture.Record) bool {
			failed = out.packet(r)
			n++
			return failed == nil && n != left && (n%16 != 0 || time.Since(begun) < turn)
		})
		if left -= n; failed != nil {
			return failed
		}
		ended := count > 0 && left == 0
		if now := time.Now(); ended || now.Sub(last) >= told {
			last = now
			if err := out.statistics(tap.Lost()); err != nil {
				return err
			}
		}
		if err := out.flush(); err != nil || ended {
			return err
		}
		rest := min(max(share*time.Since(begun), shortest), longest)
		if n == 0 {
			rest = idle
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}
