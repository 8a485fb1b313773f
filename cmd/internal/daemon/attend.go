package daemon

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/keep"
	"gvtep/vtep"
)

const (
	// attendPeriod is how often the attendant looks by itself.
	attendPeriod = time.Second
	// memoryPeriod is how often the memory is written while all goes well: a
	// process that is killed leaves one that is no older. Large tables are
	// written more seldom, so that writing takes no more than 1 part in
	// memoryShare of the time.
	memoryPeriod = 30 * time.Second
	memoryShare  = 20
)

// attendant follows a running endpoint: it reports its state to the service manager, keeps
// the NAME.env files for other tools up to date, runs hooks and writes the memory.
type attendant struct {
	*daemon
	endpoint *vtep.Endpoint
	kernel   *keep.Kernel
	reloader *reloader
	dir      string // of the instance; "": none
	wake     chan struct{}

	programs *hooks
	known    map[string]*attended
	status   string
	saved    time.Time // when the memory was last written
	pause    time.Duration
}

// attended is what the attendant knows of a tunnel.
type attended struct {
	brief vtep.Brief
	env   string                  // content of its NAME.env
	peers map[netip.AddrPort]bool // seen, and not lost since
	// contact is what was told of peers; those that are silent are not in it.
	contact map[netip.AddrPort]vtep.Contact
	round   int
}

func newAttendant(d *daemon, ep *vtep.Endpoint, k *keep.Kernel, r *reloader, dir string) *attendant {
	return &attendant{
		daemon: d, endpoint: ep, kernel: k, reloader: r, dir: dir,
		wake: make(chan struct{}, 1), programs: newHooks(d.Log), known: map[string]*attended{},
	}
}

// poke makes the attendant look at once. On a nil attendant it does nothing.
func (a *attendant) poke() {
	if a == nil {
		return
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run looks until ctx ends. The endpoint carries packets: the service manager is
// told so after the first look.
func (a *attendant) run(ctx context.Context) {
	ended := make(chan struct{}) // the programs of hooks have
	running, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		defer close(ended)
		a.programs.run(running)
	}()
	tick := time.NewTicker(attendPeriod)
	defer tick.Stop()
	a.clear()
	for round := 1; ; round++ {
		a.look(round)
		if round == 1 {
			a.notify("READY=1")
		}
		select {
		case <-tick.C:
			continue
		case <-a.wake:
			a.status = "" // may have been replaced by that of a failed reload
			continue
		case <-ctx.Done():
		}
		break
	}
	for _, t := range a.known {
		if !a.Manager.Present() {
			a.writeEnv(t, "")
		}
		if t.brief.Up {
			a.call("on-down", &t.brief)
		}
	}
	a.programs.close()
	select {
	case <-ended:
	case <-time.After(hookFarewell):
		stop()
		<-ended
	}
}

// look compares what is with what was.
func (a *attendant) look(round int) {
	up, peers, heard, now := 0, 0, 0, time.Now()
	cfg := a.reloader.hooksConfig()
	for _, b := range a.endpoint.Brief() {
		t := a.known[b.Name]
		if t != nil && t.brief.VNI != b.VNI { // removed and added again
			a.gone(t)
			t = nil
		}
		if t == nil {
			t = &attended{peers: map[netip.AddrPort]bool{}, contact: map[netip.AddrPort]vtep.Contact{}}
			a.known[b.Name] = t
		}
		was := t.brief.Up
		t.brief, t.round = b, round
		if b.Up {
			up++
		}
		a.follow(t, was)
		for _, p := range b.Peers {
			peers++
			if a.hear(t, &p) {
				heard++
			}
			talks := !p.LastSeen.IsZero() && now.Sub(p.LastSeen) < cfg.LostAfter
			switch {
			case talks && !t.peers[p.Remote]:
				t.peers[p.Remote] = true
				a.callPeer("on-peer-seen", &b, &p)
			case !talks && t.peers[p.Remote]:
				delete(t.peers, p.Remote)
				a.callPeer("on-peer-lost", &b, &p)
			}
		}
		// A peer that was removed was not lost.
		forget(t.peers, b.Peers)
		forget(t.contact, b.Peers)
	}
	for _, t := range a.known {
		if t.round != round {
			a.gone(t)
		}
	}
	a.kernel.CheckRoom()
	a.remember(now)
	status := fmt.Sprintf("%s up, %d of %s heard", several(up, "tunnel"), heard, several(peers, "peer"))
	if h := a.endpoint.Health(); !h.Ready && len(h.Faults)+len(h.Unmet) > 0 {
		faults := append(h.Faults, h.Unmet...)
		status = "not ready: " + faults[0]
		if n := len(faults) - 1; n > 0 {
			status += fmt.Sprintf(" (and %d more)", n)
		}
	}
	a.say(status)
}

// hear reports whether a peer is heard, and tells when what is heard of it has changed.
func (a *attendant) hear(t *attended, p *vtep.BriefPeer) bool {
	heard := p.Contact == vtep.Heard
	if p.Contact == t.contact[p.Remote] { // the zero value is silent
		return heard
	}
	about := []zap.Field{zap.String("device", t.brief.Name), zap.Stringer("remote", p.Remote)}
	t.contact[p.Remote] = p.Contact
	switch {
	case heard:
		a.Log.Info("the peer is heard", about...)
	case p.Refused != nil:
		a.Log.Warn("packets of the peer are dropped", append(about, zap.Stringer("reason", p.Refused.Reason), zap.Uint32("id", uint32(p.Refused.VNI)), zap.Uint64("packets", p.Refused.Count))...)
	default:
		delete(t.contact, p.Remote)
		a.Log.Info("the peer is silent", append(about, zap.Time("last_seen", p.LastSeen))...)
	}
	a.endpoint.Tell(vtep.Event{Object: "peer", Action: p.Contact.String(), Tunnel: t.brief.Name, Remote: p.Remote, Refused: p.Refused})
	return heard
}

// forget leaves the peers that there are. It looks only if there are fewer than before.
func forget[V any](of map[netip.AddrPort]V, peers []vtep.BriefPeer) {
	if len(of) <= len(peers) {
		return
	}
	there := make(map[netip.AddrPort]bool, len(peers))
	for _, p := range peers {
		there[p.Remote] = true
	}
	maps.DeleteFunc(of, func(remote netip.AddrPort, _ V) bool { return !there[remote] })
}

// follow acts on a tunnel that goes up or down. The file is written first: programs read it.
func (a *attendant) follow(t *attended, was bool) {
	b := &t.brief
	if b.Up {
		a.writeEnv(t, envFile(b))
	} else {
		a.writeEnv(t, "")
	}
	switch {
	case b.Up && !was:
		a.call("on-up", b)
	case was && !b.Up:
		a.call("on-down", b)
	}
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// say sends the status if it has changed.
func (a *attendant) say(status string) {
	if !a.overwritten.Swap(false) && status == a.status {
		return
	}
	a.status = status
	a.notify("STATUS=" + status)
}

// gone handles a tunnel that was removed.
func (a *attendant) gone(t *attended) {
	a.writeEnv(t, "")
	if t.brief.Up {
		a.call("on-down", &t.brief)
	}
	delete(a.known, t.brief.Name)
}

func (a *attendant) call(hook string, b *vtep.Brief, env ...string) {
	if !a.Hooks {
		return
	}
	a.programs.call(a.reloader.hooksConfig(), hook, append([]string{
		"GVTEP_INSTANCE=" + a.Instance, "GVTEP_DEV=" + b.Name, "GVTEP_VNI=" + vniText(b), fmt.Sprintf("GVTEP_MTU=%d", b.MTU),
	}, env...)...)
}

func (a *attendant) callPeer(hook string, b *vtep.Brief, p *vtep.BriefPeer) {
	a.call(hook, b, "GVTEP_REMOTE="+p.Remote.Addr().String(), fmt.Sprintf("GVTEP_PORT=%d", p.Remote.Port()), "GVTEP_PEER="+p.Name)
}

// envFile is the content of NAME.env, for shells and EnvironmentFile=.
func envFile(b *vtep.Brief) string {
	name := b.Name
	if strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}) {
		name = "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return fmt.Sprintf("GVTEP_DEV=%s\nGVTEP_VNI=%s\nGVTEP_MTU=%d\n", name, vniText(b), b.MTU)
}

const envSuffix = ".env"

// clear removes the files that a killed process left behind, of tunnels that are not ours.
func (a *attendant) clear() {
	if a.dir == "" {
		return
	}
	ours := a.endpoint.Brief()
	files, _ := os.ReadDir(a.dir)
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), envSuffix)
		if ok && !slices.ContainsFunc(ours, func(b vtep.Brief) bool { return b.Name == name }) || strings.HasSuffix(f.Name(), ".new") {
			os.Remove(filepath.Join(a.dir, f.Name()))
		}
	}
}

// writeEnv makes the NAME.env of a tunnel say text; "" removes it.
func (a *attendant) writeEnv(t *attended, text string) {
	if a.dir == "" || t.env == text {
		return
	}
	path := filepath.Join(a.dir, t.brief.Name+envSuffix)
	t.env = text // also if it fails: one line about it is enough
	var err error
	if text == "" {
		err = os.Remove(path)
	} else {
		err = writeFile(path, 0o644, func(w *bufio.Writer) error {
			_, err := w.WriteString(text)
			return err
		})
	}
	if err != nil {
		a.Log.Warn("the environment file could not be written", zap.String("device", t.brief.Name), zap.NamedError("err", err))
	}
}

// remember writes the memory if it is due.
func (a *attendant) remember(now time.Time) {
	if a.dir == "" || !a.Manager.Present() || now.Sub(a.saved) < a.pause {
		return
	}
	if err := saveMemory(a.dir, a.endpoint.Memory()); err != nil {
		a.Log.Warn("the forwarding tables could not be saved", zap.NamedError("err", err))
	}
	a.saved = time.Now()
	a.pause = max(memoryPeriod, memoryShare*a.saved.Sub(now))
}

// notify sends the service manager a message.
func (d *daemon) notify(state string) {
	if err := d.Manager.Notify(state); err != nil {
		d.Log.Warn("the service manager could not be notified", zap.NamedError("err", err))
	}
}

// vniText is the tunnel's own VNI; a trunk may have none.
func vniText(b *vtep.Brief) string {
	if b.NoVNI {
		return ""
	}
	return fmt.Sprint(b.VNI)
}
