package daemon

import (
	"context"
	"time"

	"gvtep/vtep"
)

// hungForGood is when a change that makes no progress is taken for one that never
// will: long after it is a fault, so that a slow one is not killed.
const hungForGood = time.Minute

// feedWatchdog tells the service manager that all workers make progress, and
// changes as well, as long as they do, until ctx ends.
func (d *daemon) feedWatchdog(ctx context.Context, ep *vtep.Endpoint) {
	period := d.Manager.Watchdog()
	if period == 0 {
		return
	}
	// Asking a stuck worker takes two seconds. A quarter leaves room for that.
	tick := time.NewTicker(period / 4)
	defer tick.Stop()
	for {
		if stuck := ep.Progress(ctx); len(stuck) == 0 && ep.Held() < hungForGood {
			d.notify("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
