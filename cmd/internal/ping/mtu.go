package ping

import (
	"context"
	"fmt"
	"time"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/probe"
)

// The last step: how long packets may be. Where a link is narrower than the kernel believes, and the
// ICMP that would tell is filtered, only trying finds it.

func (t *trip) mtu(ctx context.Context) (Step, error) {
	full := t.peer.PathMTU
	if outer := t.tunnel.MTU + full - t.inner(full); outer < full {
		full = outer // longer ones there are none
	}
	switch {
	case !t.MTU:
		return Step{Step: MTU, Verdict: Unknown, What: fmt.Sprintf("%d bytes, %d inside, as the kernel has it; --mtu tries whether they arrive", t.peer.PathMTU, t.inner(full))}, nil
	case t.tunnel.LinkInfo.Data.DF == "unset" && t.peer.Remote.Is4():
		return Step{Step: MTU, Verdict: OK, What: "routers may cut what is too long (df unset)"}, nil
	case t.answer.Answered:
		return t.mtuByProbes(ctx, full)
	case t.echo > 0:
		return t.mtuByEchoes(ctx)
	}
	return Step{Step: MTU, Verdict: Unknown, What: "it cannot be asked: neither the peer nor a station behind it answers"}, nil
}

func (t *trip) mtuByProbes(ctx context.Context, full int) (Step, error) {
	r := control.ProbeRequest{Remote: t.peer.Remote, ID: t.id, Size: full}
	long, err := probe.Ask(ctx, t.daemon, t.tunnel.Ifname, r)
	switch {
	case err != nil:
		return Step{}, err
	case long.Answered:
		return Step{Step: MTU, Verdict: OK, What: fmt.Sprintf("packets of %d bytes, %d inside, arrive whole", full, t.inner(full))}, nil
	case long.Error != "":
		return t.told()
	}
	widest, err := probe.Widest(ctx, t.daemon, t.tunnel.Ifname, r, t.answer.Size, full, time.Duration(t.answer.After*float64(time.Second)))
	if err != nil {
		return Step{}, err
	}
	if now, err := t.network.Facts(ctx, t.tunnel.Ifname); err == nil {
		for i := range now.Tunnels {
			for _, p := range now.Tunnels[i].Gvtep.Peers {
				if p.Remote == t.peer.Remote && p.PathMTU != 0 && p.PathMTU <= widest {
					return t.told()
				}
			}
		}
	}
	return t.hole(full, widest, t.inner(widest)), nil
}

// told is the step where a router has said that its link is narrow: senders are told.
func (t *trip) told() (Step, error) {
	return Step{Step: MTU, Verdict: OK, What: "a router has just said that the path is narrower than that: senders are told now. Try again, and gvtep doctor",
		Try: fmt.Sprintf("gvtep doctor %s says which router, and what MTU to set", t.tunnel.Ifname)}, nil
}

func (t *trip) hole(full, widest, fits int) Step {
	return Step{
		Step: MTU, Verdict: Fault,
		What: fmt.Sprintf("packets of up to %d bytes arrive, those of %d vanish, and no router says so: ICMP is filtered on the way", widest, full),
		Try:  fmt.Sprintf("gvtep tunnel set %s mtu %d, at both ends; or let ICMP type 3 code 4 (ICMPv6 type 2) pass on the way", t.tunnel.Ifname, fits),
	}
}

// mtuByEchoes tries with pings through the tunnel: they say that the way there or that back is narrow.
func (t *trip) mtuByEchoes(ctx context.Context) (Step, error) {
	echo := func(sizes []int) ([]bool, error) {
		passed := make([]bool, len(sizes))
		for i, after := range t.network.Echo(ctx, t.addr, t.tunnel.Ifname, sizes...) {
			passed[i] = after > 0
		}
		return passed, nil
	}
	full := min(t.tunnel.MTU, t.inner(t.peer.PathMTU))
	if passed, _ := echo([]int{full}); passed[0] {
		return Step{Step: MTU, Verdict: OK, What: fmt.Sprintf("pings of %d bytes pass, %d outside", full, full+t.peer.PathMTU-t.inner(t.peer.PathMTU))}, nil
	}
	widest, err := probe.Search(ctx, echoed, full, echo)
	if err != nil {
		return Step{}, err
	}
	s := t.hole(full, widest, widest)
	s.What = fmt.Sprintf("pings of up to %d bytes pass, those of %d vanish, there or on the way back, and no router says so: ICMP is filtered, or the other end has a smaller MTU", widest, full)
	return s, nil
}
