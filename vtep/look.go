package vtep

import (
	"time"

	"gvtep/internal/netio"
)

// How long changes of the kernel's are gathered: they come by the hundred, and a look can ask
// about every peer. The first is looked at after changePause, the next ones at half the rate
// each, down to one look in lookPeriod, until there was nothing for as long. After a look that
// took long it is lookShare times as long, but not above pathPoll, so that a host whose routes are in
// motion has most of its time for other things.
const (
	changePause = 20 * time.Millisecond
	lookPeriod  = time.Second
	lookShare   = 20
)

// look gathers changes until it is time to look at them. The watcher has one.
type look struct {
	pace
	changes netio.Changes
	due     <-chan time.Time // nil: there is nothing to look at
}

// gather adds changes.
func (l *look) gather(c *netio.Changes) {
	l.changes.Join(c)
	if l.due == nil {
		l.due = time.After(l.wait(time.Now()))
	}
}

// at has an endpoint look at what was gathered: after changes of routes alone at the ways to those
// whom they concern.
func (l *look) at(e *Endpoint) {
	c, start := l.changes, time.Now()
	l.changes, l.due = netio.Changes{}, nil
	if c.All {
		e.lookAround()
	}
	e.checkPaths(func(_ *tunnel, p *peer) bool { return c.Concern(p.Dest.Remote.Addr()) })
	l.looked(start, time.Now())
}

// pace is how often there is a look.
type pace struct {
	last  time.Time // when the last one ended
	pause time.Duration
}

// wait is how long the next look has to wait after a change.
func (p *pace) wait(now time.Time) time.Duration {
	quiet := now.Sub(p.last)
	if quiet >= max(lookPeriod, p.pause) {
		p.pause = changePause
	}
	return max(changePause, p.pause-quiet)
}

// looked takes note of a look.
func (p *pace) looked(start, end time.Time) {
	p.last = end
	p.pause = min(max(min(2*p.pause, lookPeriod), lookShare*end.Sub(start)), pathPoll)
}
