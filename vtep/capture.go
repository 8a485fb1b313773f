package vtep

import (
	"errors"
	"net/netip"

	"gvtep/internal/packet"
	"gvtep/vtep/capture"
)

// ErrCapturing says that a capture runs already.
var ErrCapturing = errors.New("another capture runs: there is one at a time, so that packets are copied once")

// Capture begins to copy packets, and returns where they are read and what ends it. There is one
// capture at a time (ErrCapturing). With o.Dev, which must be a tunnel, o.VNIs and o.Peers are
// filled in. Peers that come later are known by what is admitted of them.
func (e *Endpoint) Capture(o capture.Options) (tap *capture.Tap, stop func(), err error) {
	if o.Dev != "" {
		cfg, err := e.Config(o.Dev)
		if err != nil {
			return nil, nil, err
		}
		if !cfg.NoVNI {
			o.VNIs = append(o.VNIs, capture.VNIRange{First: cfg.VNI, Last: cfg.VNI})
		}
		for _, v := range cfg.VLANs {
			o.VNIs = append(o.VNIs, capture.VNIRange{First: v.VNI, Last: v.VNI + packet.VNI(v.Last-v.First)})
		}
		o.Peers = make(map[netip.Addr]struct{})
		for _, p := range e.pool.Snapshot().Ports {
			if p.Name == o.Dev {
				for _, peer := range p.Configured {
					o.Peers[peer.Dest.Remote.Addr().WithZone("")] = struct{}{}
				}
			}
		}
	}
	tap = capture.New(o, e.pool.Workers, e.started)
	if !e.pool.SetTap(tap) {
		return nil, nil, ErrCapturing
	}
	return tap, func() { e.pool.SetTap(nil) }, nil
}
