package work

import (
	"context"
	"time"
)

// answerBound: a worker that has not begun a round this long after it was woken is
// stuck. A round takes milliseconds at most; the rest is for a machine with
// far more to do than it has processors.
const answerBound = 2 * time.Second

// Progress wakes every worker and returns, by number and in order, those that
// have not begun another round when ctx ends, at the latest after answerBound.
func (p *Pool) Progress(ctx context.Context) (stuck []int) {
	if !p.carrying.Load() {
		return nil
	}
	// Asking costs a load for each worker, telling would cost each worker
	// something in every loop.
	before := make([]uint64, len(p.workers))
	for i, w := range p.workers {
		before[i] = w.loops.Load()
	}
	p.summon(answerBound, func() bool {
		stuck = stuck[:0]
		for i, w := range p.workers {
			if w.loops.Load() == before[i] {
				stuck = append(stuck, i)
			}
		}
		return len(stuck) == 0 || ctx.Err() != nil || !p.carrying.Load()
	})
	if len(stuck) == 0 || !p.carrying.Load() {
		return nil
	}
	return stuck
}

// Probe asks all workers, and remembers those that are stuck, unless ctx ends before they
// had the time to answer.
func (p *Pool) Probe(ctx context.Context) (stuck []int) {
	stuck = p.Progress(ctx)
	if ctx.Err() != nil {
		return p.Stuck()
	}
	p.stuck.Store(&stuck)
	if len(stuck) > 0 {
		p.callUp() // what is ready must not wait for it
	}
	return stuck
}

// Stuck are those that did not answer the last probe.
func (p *Pool) Stuck() []int {
	if stuck := p.stuck.Load(); stuck != nil {
		return *stuck
	}
	return nil
}
