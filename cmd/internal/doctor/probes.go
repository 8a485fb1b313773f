package doctor

import (
	"context"
	"sync"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/probe"
)

const (
	// maxProbed is how many peers are asked at most, and probeFor for how long.
	maxProbed = 64
	probeFor  = 3500 * time.Millisecond
	// maxAtOnce is how many questions are under way: the control socket has other clients, too.
	maxAtOnce = control.MaxClients / 4
)

// bounded lets so many questions through at a time.
type bounded struct {
	probe.Asker
	room chan struct{}
}

func (b bounded) Probe(ctx context.Context, dev string, r control.ProbeRequest) (control.Probed, error) {
	b.room <- struct{}{}
	defer func() { <-b.room }()
	if err := ctx.Err(); err != nil {
		return control.Probed{}, err
	}
	return b.Asker.Probe(ctx, dev, r)
}

// probes asks peers whether what is sent to them arrives. Those that cannot be asked are left out:
// others than gvtep, and all if the caller may not ask.
func probes(ctx context.Context, c probe.Asker, tunnels []control.Tunnel) map[Ask]Probe {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	c = bounded{c, make(chan struct{}, maxAtOnce)}
	found := make(map[Ask]Probe)
	var mu sync.Mutex
	var all sync.WaitGroup
	n := 0
	for i := range tunnels {
		t := &tunnels[i]
		for j := range t.Gvtep.Peers {
			p := &t.Gvtep.Peers[j]
			if p.State == "" || p.State == "no route" || t.LinkInfo.Kind == "vxlan" || n == maxProbed {
				continue
			}
			n++
			all.Go(func() {
				if one := probeOne(ctx, c, t, p); one.Answered {
					mu.Lock()
					defer mu.Unlock()
					found[Ask{t.Ifname, p.Remote}] = one
				}
			})
		}
	}
	all.Wait()
	return found
}

// probeOne asks a peer, and whether the longest packets that we send to it arrive, too.
func probeOne(ctx context.Context, c probe.Asker, t *control.Tunnel, p *control.Peer) (one Probe) {
	r := control.ProbeRequest{Remote: p.Remote}
	var err error
	if one.Probed, err = probe.Ask(ctx, c, t.Ifname, r); err != nil || one.Status != "ok" || t.LinkInfo.Data.DF == "unset" && p.Remote.Is4() {
		return one // with df unset routers cut what is too long
	}
	full := min(p.PathMTU, t.MTU+overhead(t, p.Remote))
	if full <= one.Size {
		return one
	}
	r.Size = full
	if long, err := probe.Ask(ctx, c, t.Ifname, r); err != nil || long.Answered || long.Error != "" || ctx.Err() != nil {
		return one
	}
	// It was no accident of the moment: the short one is answered now, too.
	r.Size = 0
	if again, err := probe.Ask(ctx, c, t.Ifname, r); err != nil || !again.Answered {
		return one
	}
	after := time.Duration(one.After * float64(time.Second))
	if widest, err := probe.Widest(ctx, c, t.Ifname, r, one.Size, full, after); err == nil {
		one.Lost, one.Carries = full, widest
	}
	return one
}
