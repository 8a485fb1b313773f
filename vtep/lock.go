package vtep

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// lock is a mutex that tells how long the one who holds it has made no progress.
type lock struct {
	sync.Mutex
	since atomic.Pointer[time.Time] // nil: nobody holds it

	done, all atomic.Int64 // steps of who holds it; all is 0 if it has not said how many
}

func (l *lock) Lock() {
	l.Mutex.Lock()
	l.progress()
}

func (l *lock) TryLock() bool {
	if !l.Mutex.TryLock() {
		return false
	}
	l.progress()
	return true
}

func (l *lock) Unlock() {
	l.all.Store(0)
	l.since.Store(nil)
	l.Mutex.Unlock()
}

// progress is called by who holds the lock and has come to the next of many steps.
func (l *lock) progress() {
	now := time.Now()
	l.since.Store(&now)
}

// steps says how many steps there are to come.
func (l *lock) steps(all int) {
	l.done.Store(0)
	l.all.Store(int64(all))
}

// step is progress by one of the steps.
func (l *lock) step() {
	l.progress()
	l.done.Add(1)
}

func (l *lock) held() time.Duration {
	if since := l.since.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

// heldTooLong is when a change that makes no progress is a fault. One tunnel takes
// milliseconds, a worker that is stuck two seconds, a service manager that does
// not answer five.
const heldTooLong = 10 * time.Second

// Held tells for how long the change that is under way, if there is one, has made
// no progress. All other changes and State wait for it; Held does not.
func (e *Endpoint) Held() time.Duration { return e.mu.held() }

// Changing tells of a change under way how many of its tunnels have had their turn. of is 0
// if there is none. It does not wait.
func (e *Endpoint) Changing() (done, of int) {
	if of = int(e.mu.all.Load()); of > 0 {
		done = min(int(e.mu.done.Load()), of)
	}
	return done, of
}

// heldFault says what is wrong if a change hangs.
func (e *Endpoint) heldFault() []string {
	if held := e.Held(); held > heldTooLong {
		return []string{fmt.Sprintf("a change has hung for %d s: routes, ageing and all other changes wait for it", int(held.Seconds()))}
	}
	return nil
}
