package vtep

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep/encap"
	"gvtep/vtep/internal/forward"
	"gvtep/vtep/option"
)

// What the kernel's routes say about the peers: how long a frame may be, and
// whether the way to a peer leads into one of our own devices. It is looked up
// when something changed, never per packet.
//
// A look has three steps: gather the questions under Endpoint.mu, ask the kernel
// without it, apply the answers under it, to those who are still there. A change that
// brings peers asks ahead, so that they can send from the start.

// gsoRetry is how long a peer goes without runs after the kernel has refused one.
// What stood in the way, such as IPsec, may have gone; a try costs one more send.
const gsoRetry = 10 * time.Minute

// question is what decides how datagrams leave to a peer.
type question struct {
	remote netip.AddrPort
	ports  netio.PortOptions
}

// answer is what the kernel says.
type answer struct {
	route netio.Route
	err   error
	at    int64 // Endpoint.clock when it was asked for
	// On a bridge that joins tunnel devices with the underlay: the next hop's Ethernet
	// address, and the port it is behind, as far as is known.
	hop  packet.MAC
	port int
}

// answers are kept for as long as the change takes that they were asked for.
type answers struct {
	mu   sync.Mutex
	all  map[question]answer
	till time.Time
}

// answersLast is how long answers that were asked for ahead are taken for the kernel's.
const answersLast = 5 * time.Second

// put keeps answers, with those that another change may still need.
func (a *answers) put(more map[question]answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.all == nil || now.After(a.till) {
		a.all = make(map[question]answer)
	}
	for q, answer := range more {
		a.all[q] = answer
	}
	a.till = now.Add(answersLast)
}

// get returns the answer to a question if it is there and not too old.
func (a *answers) get(q question) (answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Now().After(a.till) {
		a.all = nil
	}
	found, ok := a.all[q]
	return found, ok
}

// ask asks the kernel, each question once. Endpoint.mu is not held.
func (e *Endpoint) ask(questions []question) map[question]answer {
	asked := make(map[question]answer, len(questions))
	for _, q := range questions {
		if _, ok := asked[q]; !ok {
			at := e.clock()
			r, err := e.underlay.Route(q.remote, q.ports)
			asked[q] = answer{route: r, err: err, at: at}
		}
	}
	e.nextHops(asked)
	return asked
}

// questionOf is what to ask about a destination of a tunnel.
func questionOf(cfg *Tunnel, d forward.Destination) question {
	return question{d.Remote, portOptions(cfg, d, true)}
}

// questionsOf are those about the peers of a configuration, but for those that the version
// before it, old, has already; nil: there is none.
func questionsOf(cfg *Tunnel, old *tunnel) (all []question) {
	t := &tunnel{config: *cfg}
	same := old != nil && asksAlike(cfg, &old.config)
	add := func(d forward.Destination) {
		if !same || old.byDestination[d] == nil {
			all = append(all, questionOf(cfg, d))
		}
	}
	for i, p := range cfg.Peers {
		if same && i < len(old.config.Peers) && p.Remote == old.config.Peers[i].Remote && p.Port == old.config.Peers[i].Port {
			continue // as most of many are
		}
		add(t.destination(p.Remote, p.Port))
	}
	if cfg.Group.IsValid() {
		add(t.destination(cfg.Group, 0))
	}
	if same && sameArray(cfg.Entries, old.config.Entries) && keepsVLANs(cfg, &old.config) {
		return all
	}
	for _, entry := range cfg.Entries {
		if !entry.Local {
			add(t.entryDestination(entry))
		}
	}
	return all
}

// askAhead asks about peers that a change is about to bring. gather is called with e.mu
// held, which then is not.
func (e *Endpoint) askAhead(gather func() []question) {
	e.mu.Lock()
	questions := gather()
	e.mu.Unlock()
	if len(questions) > 0 {
		e.answers.put(e.ask(questions))
	}
}

// recheckPaths asks for the routes of doubtful peers to be looked up again at once.
func (e *Endpoint) recheckPaths() {
	select {
	case e.recheck <- struct{}{}:
	default:
	}
}

func anyPeer(*tunnel, *peer) bool { return true }

// doubtfulPeer holds for a peer once after something was refused to be sent to it,
// or that has come without being asked about.
func doubtfulPeer(_ *tunnel, p *peer) bool { return p.Doubtful.Swap(false) }

// checkPaths asks for the routes to those peers that which holds for, each route once, and
// acts on the answers. e.mu is not held.
func (e *Endpoint) checkPaths(which func(*tunnel, *peer) bool) {
	var doubted []*peer
	var questions []question
	e.mu.Lock()
	for _, t := range e.sorted() {
		for _, p := range t.peers {
			if which(t, p) {
				doubted, questions = append(doubted, p), append(questions, p.question)
			}
		}
	}
	e.mu.Unlock()
	if len(questions) == 0 {
		return
	}
	asked := e.ask(questions)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.noteWays(doubted, func(p *peer) (answer, bool) { return asked[p.question], true })
	var told notices
	var looked *tunnel // the peers of one come together
	for _, before := range doubted {
		t := e.owners[before.Tunnel]
		if t == nil {
			continue
		}
		p := t.byDestination[before.Dest]
		if p == nil || p.question != before.question {
			continue
		}
		if looked != nil && looked != t {
			e.follow(looked)
		}
		looked = t
		e.takeAnswer(t, p, asked[p.question], &told)
	}
	told.log(e.log)
	if looked != nil {
		e.follow(looked)
	}
	e.publishFast(e.pool.Snapshot())
}

// takeAnswer acts on what the kernel says about the way to a peer, unless something newer
// is known. e.mu is held.
func (e *Endpoint) takeAnswer(t *tunnel, p *peer, a answer, told *notices) {
	if a.at < p.routeAt {
		return
	}
	p.routeAt = a.at
	if a.err != nil || a.route.Local {
		a.route = netio.Route{}
	}
	// A device's own MTU says nothing of the path: following it would make it smaller
	// with every look.
	loop := e.wayBack(t, p, a)
	if loop == nil && p.setRoute(a.route, e.clock()) {
		told.add(zap.WarnLevel, "the kernel refuses to send to the peer what the route allows: less is sent; IPsec, or a firewall?", t, p,
			zap.Int("mtu", a.route.MTU), zap.Int32("sent", p.Limit.Load()+int32(p.Outer)))
	}
	setLoop(t, p, loop, told)
	e.doubtFast(t)
	if p.checkRuns(e.clock()) {
		told.add(zap.WarnLevel, "the kernel takes no runs of datagrams (UDP_SEGMENT) for the peer: they are sent one by one, which is slower; IPsec, or a device without checksum offload?", t, p)
	}
	if none := p.Limit.Load() == 0; none != p.noRoute {
		p.noRoute = none
		action := "route_back"
		if none {
			action = "route_lost"
		}
		e.Tell(Event{Object: "peer", Action: action, Tunnel: t.port.Name, Remote: p.Dest.Remote})
		if none {
			told.add(zap.WarnLevel, "no route to the peer", t, p, zap.NamedError("err", a.err))
		} else {
			told.add(zap.InfoLevel, "a route to the peer has come", t, p)
		}
	}
}

// takeAnswers acts on what was asked ahead about the peers of a tunnel that has come or
// changed. e.mu is held.
func (e *Endpoint) takeAnswers(t *tunnel) {
	e.noteWays(t.fresh, func(p *peer) (answer, bool) { return e.answers.get(p.question) })
	var told notices
	for _, p := range t.fresh {
		if a, ok := e.answers.get(p.question); ok {
			e.takeAnswer(t, p, a, &told)
		}
	}
	told.log(e.log)
	if len(t.fresh) > 0 {
		e.followMTU(t)
		e.publishFast(e.pool.Snapshot())
	}
}

// follow adapts a tunnel to the routes of its peers. e.mu is held.
func (e *Endpoint) follow(t *tunnel) {
	if slices.ContainsFunc(t.peers, (*peer).narrow) && e.stuckError() == nil {
		if err := e.rewire(t, func(*tunnel) {}); err != nil {
			e.log.Error("no source ports for outer fragments: what exceeds the path is lost", zap.String("device", t.port.Name), zap.NamedError("err", err))
			return
		}
		t = e.tunnels[t.config.Device.Name]
	}
	e.followMTU(t)
}

// narrow reports whether a peer lacks the source ports for outer fragments although its
// path does not carry every packet of minIPv6 bytes whole.
func (p *peer) narrow() bool {
	return p.PathFrag == nil && p.needsFragments()
}

// needsFragments reports whether the path does not carry every packet of minIPv6 bytes
// whole.
func (p *peer) needsFragments() bool {
	limit := p.Limit.Load()
	return limit > 0 && limit < forward.MinIPv6+forward.MaxLink
}

// runsRefused reports whether the kernel has refused a run to the peer.
func (p *peer) runsRefused() bool {
	return p.Path != nil && p.Path.NoGSO.Load() || p.PathFrag != nil && p.PathFrag.NoGSO.Load()
}

// checkRuns reports whether the kernel has refused runs to the peer for the first
// time, and lets them be tried again gsoRetry later. Endpoint.mu is held.
func (p *peer) checkRuns(now int64) (tell bool) {
	switch {
	case !p.runsRefused():
		p.refusedSince = 0
	case p.refusedSince == 0:
		p.refusedSince = now
		tell, p.reportedRefused = !p.reportedRefused, true
	case now-p.refusedSince > int64(gsoRetry):
		for _, path := range []*packet.Path{p.Path, p.PathFrag} {
			if path != nil {
				path.NoGSO.Store(false)
			}
		}
	}
	return tell
}

// setRoute takes over what a route says about the path, and reports if that cannot be
// all of the truth for the first time. Endpoint.mu is held.
func (p *peer) setRoute(r netio.Route, now int64) (tell bool) {
	limit := int32(max(0, r.MTU-p.Outer))
	if !r.Learned && r.Link > 0 {
		p.overhead = r.Link - r.MTU
	}
	if r.Link > 0 {
		p.link = r.Link - p.overhead
	}
	changed := r != p.route
	p.route = r
	ceiling := p.Ceiling.Load()
	switch {
	case ceiling == 0:
		p.loweredSince = 0
	case limit < p.Refused.Load() || changed || p.loweredSince != 0 && now-p.loweredSince > int64(forward.RefusedRetry):
		// The route explains it by now, or it is time for another try.
		p.Ceiling.Store(0)
		p.Refusals.Store(0)
		p.loweredSince, p.reportedLowered = 0, p.reportedLowered && !changed
	case ceiling < limit:
		if limit = ceiling; p.loweredSince == 0 {
			p.loweredSince = max(now, 1)
			tell, p.reportedLowered = !p.reportedLowered, true
		}
	}
	p.Limit.Store(limit)
	return tell
}

// autoMTU is the device MTU at which no frame is too big for the link to any peer, as
// far as links and administrators decide. What the kernel has learned of one path does
// not count: anybody can claim it, it passes, and it concerns one peer.
func (t *tunnel) autoMTU() int {
	link := forward.EthernetLen
	if t.config.Device.L3 {
		link = 0
	}
	if len(t.peers) == 0 {
		// Who will speak is not known yet: the longer headers leave room for both.
		outer := ipUDPLen(netip.IPv6Unspecified())
		if t.config.Local.Is4() {
			outer = ipUDPLen(t.config.Local)
		}
		return forward.AssumedMTU - outer - encap.HeaderLen - max(len(t.config.Options.Set), option.Longest(t.config.SendRules)) - link
	}
	mtu := 0
	for _, p := range t.peers {
		of := p.link
		if of == 0 {
			of = forward.AssumedMTU
		}
		if m := of - p.Outer - link; mtu == 0 || m < mtu {
			mtu = m
		}
	}
	// Below minIPv6 the kernel takes IPv6 and its addresses from the device.
	if mtu < forward.MinIPv6 && (t.device == nil || t.device.IPv6()) {
		return forward.MinIPv6
	}
	return max(mtu, forward.MinMTU)
}

// nextMTU returns what a device's automatic MTU becomes from was. A bridge drops what
// is longer than its port's MTU without a word (net/bridge/br_forward.c): while the device
// is in one it does not become less, and those who send too much are told.
func (t *tunnel) nextMTU(was int) int {
	if mtu := t.autoMTU(); mtu >= was || !t.device.Bridged() {
		return mtu
	}
	return was
}

// followMTU sets the device's MTU after the links have changed, unless the
// user fixed it, in the configuration or since then by hand.
func (e *Endpoint) followMTU(t *tunnel) {
	if !t.mtuAuto || !slices.ContainsFunc(t.peers, func(p *peer) bool { return p.link != 0 }) {
		return
	}
	mtu := t.nextMTU(t.mtu)
	if mtu == t.mtu {
		return
	}
	name := zap.String("device", t.config.Device.Name)
	if now, err := t.device.MTU(); err != nil || now != t.mtu {
		return
	}
	if err := t.device.SetMTU(mtu); err != nil {
		e.log.Warn("cannot set the MTU that the underlay asks for", name, zap.Int("mtu", mtu), zap.NamedError("err", err))
	} else {
		e.log.Info("MTU follows the underlay", name, zap.Int("mtu", mtu), zap.Int("was", t.mtu))
	}
	t.mtu = mtu
}
