package vtep

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// probePeriod is how often the endpoint itself asks. Each time costs a worker one wake-up.
const probePeriod = time.Second

// Progress wakes every worker and returns, by number and in order, those that
// have not begun another round when ctx ends, at the latest after two seconds.
// An idle worker answers within microseconds, one that carries packets at the
// end of its round, a stuck one not at all. It does not wait for anything that a worker could
// hold, so it also answers while a change is waiting for a stuck worker.
// Outside of Run there is no worker and so none is stuck.
func (e *Endpoint) Progress(ctx context.Context) (stuck []int) { return e.pool.Progress(ctx) }

// probe keeps the list of stuck workers up to date until ctx ends.
func (e *Endpoint) probe(ctx context.Context) {
	tick := time.NewTicker(probePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := e.pool.Stuck()
		now := e.pool.Probe(ctx)
		if len(now) == 0 {
			e.catchUp()
		}
		for i := range e.workers {
			about := []zap.Field{zap.Int("worker", i), zap.Int32("thread", e.pool.Thread(i))}
			switch is, was := slices.Contains(now, i), slices.Contains(before, i); {
			case is && !was:
				e.log.Error("a worker is stuck: what the kernel hands to it is not carried", about...)
			case was && !is:
				e.log.Warn("the worker continues", about...)
			}
		}
	}
}

// catchUp completes a change that a stuck worker has delayed, unless another is under way.
func (e *Endpoint) catchUp() {
	if !e.pool.Unfinished() || !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	if err := e.pool.CatchUp(); err != nil {
		e.log.Warn("workers could not be updated", zapErr(err))
	}
}

// stuckError is why nothing can be changed now, or nil: a worker that is stuck may still use
// what a change would close.
func (e *Endpoint) stuckError() error {
	stuck := e.pool.Stuck()
	if len(stuck) == 0 {
		return nil
	}
	return fmt.Errorf("%s, nothing can be changed until it continues: %w", StuckText(stuck), unix.EBUSY)
}

// StuckText says which workers are stuck: "worker 1 is stuck".
func StuckText(stuck []int) string {
	if len(stuck) == 1 {
		return fmt.Sprintf("worker %d is stuck", stuck[0])
	}
	return fmt.Sprintf("workers %s are stuck", strings.Trim(strings.ReplaceAll(fmt.Sprint(stuck), " ", ", "), "[]"))
}
