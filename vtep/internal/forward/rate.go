package forward

import (
	"sync/atomic"
	"time"
)

// rateBurst is how long a flood may last at any rate before a limit takes effect:
// the ARP requests of a segment that wakes up come together.
const rateBurst = int64(100 * time.Millisecond)

// RateLimit limits frames of one kind, such as flooded ones, over all workers, by
// the generic cell rate algorithm (ITU-T I.371): the only state is when the next
// frame would be due if frames came evenly.
type RateLimit struct {
	Interval int64 // ns between frames at the limit; 0: no limit
	due      *atomic.Int64
}

// NewRateLimit allows pps frames a second; 0 allows all.
func NewRateLimit(pps int, due *atomic.Int64) RateLimit {
	l := RateLimit{due: due}
	if pps > 0 {
		l.Interval = max(1, int64(time.Second)/int64(pps))
	}
	return l
}

// Allow reports whether frames, the pieces of one super-frame perhaps, may go now:
// all or none. A super-frame may go when its first piece may.
func (l *RateLimit) Allow(now int64, frames int) bool {
	if l.Interval == 0 {
		return true
	}
	burst := max(rateBurst, l.Interval)
	for {
		due := l.due.Load()
		first := max(due, now) + l.Interval
		next := first + int64(frames-1)*l.Interval
		if first-now > burst+l.Interval {
			return false
		}
		if l.due.CompareAndSwap(due, next) {
			return true
		}
	}
}
