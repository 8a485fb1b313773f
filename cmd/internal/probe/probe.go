// Package probe asks peers by the daemon whether what is sent to them arrives, and how long it may be.
package probe

import (
	"context"
	"errors"
	"sync"
	"time"

	"gvtep/cmd/internal/control"
)

// Asker is the daemon as far as it is asked here.
type Asker interface {
	Probe(ctx context.Context, dev string, r control.ProbeRequest) (control.Probed, error)
}

const (
	// tries is how often a question is put that is not answered: a packet may be lost by chance.
	tries = 3
	// patience is how long an answer is waited for, and slack how many times as long as the way
	// there and back of one that came.
	patience = 300 * time.Millisecond
	slack    = 10
)

// Ask puts a question until it is answered, tries times at most. That there is no answer is no error.
func Ask(ctx context.Context, c Asker, dev string, r control.ProbeRequest) (answer control.Probed, err error) {
	if r.Timeout == 0 {
		r.Timeout = patience.Seconds()
	}
	for range tries {
		if answer, err = c.Probe(ctx, dev, r); err != nil || answer.Answered || answer.Error != "" {
			return answer, err
		}
	}
	return answer, nil
}

// Widest finds the longest packet that is answered, where one of low bytes is and one of high bytes is
// not. after is how long the answer to the former took. If ctx ends before, it is the longest found by then.
func Widest(ctx context.Context, c Asker, dev string, r control.ProbeRequest, low, high int, after time.Duration) (int, error) {
	r.Timeout = max(patience, slack*after).Seconds()
	return Search(ctx, low, high, func(sizes []int) ([]bool, error) {
		answered, errs := make([]bool, len(sizes)), make([]error, len(sizes))
		var all sync.WaitGroup
		for i, size := range sizes {
			q := r
			q.Size = size
			all.Go(func() {
				var a control.Probed
				a, errs[i] = Ask(ctx, c, dev, q)
				answered[i] = a.Answered
			})
		}
		all.Wait()
		return answered, errors.Join(errs...)
	})
}

// atOnce is how many sizes are tried together: what does not pass costs a wait, whether one or many.
const atOnce = 12

// Search finds the largest size that passes, where low does and high does not. passes tells it of sizes
// in ascending order. If ctx ends before, it is the largest found by then.
func Search(ctx context.Context, low, high int, passes func(sizes []int) ([]bool, error)) (int, error) {
	for high-low > 1 {
		var sizes []int
		for i := range min(atOnce, high-low-1) {
			sizes = append(sizes, low+(high-low)*(i+1)/(min(atOnce, high-low-1)+1))
		}
		passed, err := passes(sizes)
		if ctx.Err() != nil {
			return low, nil
		}
		if err != nil {
			return 0, err
		}
		for i, size := range sizes {
			if !passed[i] {
				high = size
				break
			}
			low = size
		}
	}
	return low, nil
}
