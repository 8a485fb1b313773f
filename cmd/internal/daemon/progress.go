package daemon

import (
	"context"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
)

// progressPeriod is how often a change of many tunnels is reported.
const progressPeriod = time.Second

// follow reports how far a change is until stop is called, which waits for the last report.
// changing is asked each period, and a change of one tunnel is no news.
func follow(changing func() (done, of int), period time.Duration, report func(control.Progress)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if done, of := changing(); of > 1 {
				report(control.Progress{Done: done, Of: of})
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// tellProgress reports a change to the service manager and the log. what is "starting" or
// "reloading".
func (d *daemon) tellProgress(what string, p control.Progress) {
	d.notify("STATUS=" + what + ": " + p.String() + " tunnels")
	d.Log.Info(what, zap.Stringer("tunnels", p))
}
