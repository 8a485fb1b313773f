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

const (
	// A worker that has not begun a loop this long after it was called is
	// stuck. A loop takes milliseconds at most; the rest is for a machine with
	// far more to do than it has processors.
	answerBound = 2 * time.Second

	// How often the endpoint itself asks. Each time costs a worker one wake-up.
	probePeriod = time.Second
)

// Progress wakes every worker and returns, by number and in order, those that
// have not begun another loop when ctx ends, at the latest after two seconds.
// An idle worker answers within microseconds, one that carries packets at the
// end of its round, a stuck one not at all. Nothing that a worker could hold is
// waited for, so it also answers while a change is waiting for a stuck worker.
// Outside of Run there is no worker and so none is stuck.
func (e *Endpoint) Progress(ctx context.Context) (stuck []int) {
	if !e.carrying.Load() {
		return nil
	}
	// Asking costs a load for each worker, telling would cost each worker
	// something in every loop.
	before := make([]uint64, len(e.workers))
	for i, w := range e.workers {
		before[i] = w.loops.Load()
	}
	e.summon(answerBound, func() bool {
		stuck = stuck[:0]
		for i, w := range e.workers {
			if w.loops.Load() == before[i] {
				stuck = append(stuck, i)
			}
		}
		return len(stuck) == 0 || ctx.Err() != nil || !e.carrying.Load()
	})
	if len(stuck) == 0 || !e.carrying.Load() {
		return nil
	}
	return stuck
}

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
		stuck := e.Progress(ctx)
		if ctx.Err() != nil {
			return // it was not given the time to answer
		}
		was := e.stuckWorkers()
		e.stuck.Store(&stuck)
		if len(stuck) > 0 {
			e.callUp() // what is ready must not wait for it
		} else {
			e.catchUp()
		}
		for i, w := range e.workers {
			about := []zap.Field{zap.Int("worker", i), zap.Int32("thread", w.thread.Load())}
			switch now, before := slices.Contains(stuck, i), slices.Contains(was, i); {
			case now && !before:
				e.log.Error("a worker is stuck: what the kernel hands to it is not carried", about...)
			case before && !now:
				e.log.Warn("the worker goes on", about...)
			}
		}
	}
}

// stuckWorkers are those that did not answer when last asked.
func (e *Endpoint) stuckWorkers() []int {
	if stuck := e.stuck.Load(); stuck != nil {
		return *stuck
	}
	return nil
}

// stuckError is why nothing can be changed now, nil if nothing keeps us: a
// worker that does not follow may go on using what the change would close.
func (e *Endpoint) stuckError() error {
	stuck := e.stuckWorkers()
	if len(stuck) == 0 {
		return nil
	}
	return fmt.Errorf("%s, nothing can be changed until it goes on: %w", StuckText(stuck), unix.EBUSY)
}

// StuckText says which workers are stuck: "worker 1 is stuck".
func StuckText(stuck []int) string {
	if len(stuck) == 1 {
		return fmt.Sprintf("worker %d is stuck", stuck[0])
	}
	return fmt.Sprintf("workers %s are stuck", strings.Trim(strings.ReplaceAll(fmt.Sprint(stuck), " ", ", "), "[]"))
}
