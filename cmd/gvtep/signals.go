package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// handleSignals installs the handlers of a daemon. Call it before anything that
// can wait: until then a signal ends the process where it stands.
//
// SIGINT and SIGTERM end the context. A second one finds the default again and
// ends the process at once.
//
// SIGHUP is a value of hangups if the daemon has a configuration to reload. If it has
// none, SIGHUP ends the context, as a closed terminal should.
//
// SIGINT and, without a configuration, SIGHUP stay ignored if the starter has
// set them so: a shell does for "command &", nohup(1) does. A daemon with a
// configuration reloads in any case, as others do: SIGHUP to one that runs under nohup is
// meant as a reload.
//
// SIGPIPE does nothing: a write to a log that nobody reads any more returns
// EPIPE. It is handled and not ignored, since programs that we start would
// inherit that.
func handleSignals(ctx context.Context, reloads bool) (_ context.Context, hangups <-chan os.Signal) {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	hup := make(chan os.Signal, 1)
	if reloads || !signal.Ignored(unix.SIGHUP) {
		signal.Notify(hup, unix.SIGHUP)
	}
	ends := []os.Signal{unix.SIGTERM}
	if !signal.Ignored(unix.SIGINT) {
		ends = append(ends, unix.SIGINT)
	}
	ctx, stop := signal.NotifyContext(ctx, ends...)
	if reloads {
		context.AfterFunc(ctx, stop)
		return ctx, hup
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, stop)
	// The handler stays: a terminal that closes often sends a second SIGHUP.
	go func() {
		<-hup
		cancel()
	}()
	return ctx, nil
}
