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
	l.since.Store(nil)
	l.Mutex.Unlock()
}

// progress is called by who holds the lock and has come to the next of many steps.
func (l *lock) progress() {
	now := time.Now()
	l.since.Store(&now)
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

// heldFault says what is wrong if a change hangs.
func (e *Endpoint) heldFault() []string {
	if held := e.Held(); held > heldTooLong {
		return []string{fmt.Sprintf("a change has hung for %d s: routes, ageing and all other changes wait for it", int(held.Seconds()))}
	}
	return nil
}
