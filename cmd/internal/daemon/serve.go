package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
)

// answer opens the control socket and the metrics, and answers there from now
// on, also while the underlay is waited for.
func (d *daemon) answer(beside *tasks) error {
	serve := func(l net.Listener, serve func(context.Context, net.Listener, *control.Door) error, failed string) {
		beside.start(func(ctx context.Context) {
			if err := serve(ctx, l, &d.door); err != nil {
				d.Log.Error(failed, zap.NamedError("err", err))
			}
		})
	}
	if d.Control != "" {
		// First of all: it keeps a second daemon of this name away.
		l, err := control.Listen(d.Control)
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
			err = fmt.Errorf("%w (another place: --control PATH, none: --no-control)", err)
		}
		if err != nil {
			return err
		}
		serve(l, control.Serve, "no longer answering; the tunnels go on")
	}
	if listen := d.Config.Metrics.Listen; listen != "" {
		l, err := d.listenMetrics(listen)
		if err != nil {
			return err
		}
		serve(l, func(ctx context.Context, l net.Listener, door *control.Door) error {
			return control.ServeMetrics(ctx, l, door, d.Config.Metrics.Page)
		}, "metrics are no longer served; the tunnels go on")
	}
	return nil
}

// listenMetrics opens the listener of [metrics] listen. It has no authentication, so an
// address that other hosts can reach is worth a warning.
func (d *daemon) listenMetrics(listen string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		l, err := control.Listen(path)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("metrics %s: %w; take another port", listen, unix.EADDRINUSE)
		}
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("metrics %s: %w", listen, err)
	}
	if at, err := netip.ParseAddrPort(listen); err == nil && !at.Addr().IsLoopback() {
		d.Log.Warn("metrics are served without authentication to everybody who can reach this address", zap.String("listen", listen))
	}
	return l, nil
}
