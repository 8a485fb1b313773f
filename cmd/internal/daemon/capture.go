package daemon

import (
	"context"
	"io"

	pump "gvtep/cmd/internal/capture"
	"gvtep/cmd/internal/control"
)

// Capture begins to copy packets, see control.Source.
func (s *source) Capture(r control.CaptureRequest) (func(context.Context, io.Writer) error, error) {
	o, err := pump.Options(r.Points, r.Filter, r.Snaplen, r.Buffer)
	if err != nil {
		return nil, &control.UsageError{Text: err.Error()}
	}
	o.Dev, o.Rate = r.Dev, r.Rate
	if o.Dev != "" {
		if _, err := s.endpoint.Config(o.Dev); err != nil {
			return nil, s.noTunnel(o.Dev)
		}
	}
	tap, stop, err := s.endpoint.Capture(o)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		defer stop()
		return pump.Pump(ctx, tap, w, r.Count)
	}, nil
}
