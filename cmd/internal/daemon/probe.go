package daemon

import (
	"context"
	"errors"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/view"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/spec"
)

// maxProbe is how long an answer to a probe is waited for at most.
const maxProbe = 10 * time.Second

// Probe asks a peer, see control.Source.
func (s *source) Probe(ctx context.Context, dev string, r control.ProbeRequest) (control.Probed, error) {
	p := vtep.Ping{Tunnel: dev, Remote: r.Remote, Size: r.Size}
	if r.ID != nil {
		if *r.ID > uint32(packet.MaxVNI) {
			return control.Probed{}, &control.UsageError{Text: "id: want 0 to 16777215"}
		}
		p.VNI = new(packet.VNI(*r.ID))
	}
	patience := time.Duration(r.Timeout * float64(time.Second))
	if patience <= 0 || patience > maxProbe {
		return control.Probed{}, &control.UsageError{Text: "timeout_seconds: want more than 0, at most 10"}
	}
	if _, err := s.endpoint.Config(dev); err != nil {
		return control.Probed{}, s.noTunnel(dev)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pong, err := s.endpoint.Ping(ctx, p)
	if wrong := new(spec.Error); errors.As(err, &wrong) && wrong.Errno == 0 {
		err = &control.UsageError{Text: err.Error()}
	}
	return view.Probed(&pong), err
}
