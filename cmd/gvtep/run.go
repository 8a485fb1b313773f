package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/service"
	"gvtep/config"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/tap"
	"gvtep/udp"
	"gvtep/vtep"
	"gvtep/vtep/geneve"
)

// daemon is what gvtep run was asked for.
type daemon struct {
	config   config.Config
	path     string                     // where it came from; "": the command line
	amend    func(*config.Config) error // what the command line says besides
	instance string
	named    bool   // the instance was named on the command line
	control  string // path of the control socket; "": none
	log      *zap.Logger
	level    *logState
	hangups  <-chan os.Signal // each asks for a reload; nil: there is nothing to reload
	manager  *service.Manager
	door     control.Door // of what answers; open when the tunnels are
	runDir   string       // where instances have their directories
	runHooks bool         // run the programs of [hooks]
	patient  bool         // wait for an underlay that is not there yet
}

func (a *app) runCmd() *cobra.Command {
	d := &daemon{}
	draft := config.NewDraft()
	var noControl, waits bool
	hooks := "on"
	cmd := &cobra.Command{
		Use:   "run NAME KEYWORDS | run --config PATH",
		Short: "carry tunnels until a signal ends it",
		Long: `Carry a tunnel on the device NAME, or those of a configuration, in the
foreground, until SIGINT or SIGTERM. SIGHUP reloads the configuration, also
while the daemon waits for its underlay; without one it ends the daemon, unless
it was ignored when that started (nohup).

Every keyword is a flag (--ttl 64) or two bare words (ttl 64), so the tail of
an "ip link add NAME type geneve ..." line can be pasted. Instead of --KEYWORD
those that are on or off may be written --noKEYWORD.`,
		Example: `  gvtep run gnv0 --id 100 --local 198.51.100.1 --remote 203.0.113.1 --address 192.0.2.1/24
  gvtep run gnv0 type geneve id 100 remote 203.0.113.1 noudpcsum
  gvtep run --config /etc/gvtep/fabric.toml`,
		ValidArgsFunction: a.completingWords(func() words { return keywordWords(config.Keywords()) }, (*completion).nothing),
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&d.path, "config", "", "configuration, a file or a directory: `PATH`")
	a.addKeywords(cmd, draft)
	// The keyword netns hides the global flag of this name.
	f.StringVarP(&a.netns, "underlay-netns", "n", "", netnsUsage+", sockets included")
	f.BoolVar(&noControl, "no-control", false, "no control socket")
	f.StringVar(&hooks, "hooks", "on", "run the programs of [hooks] in the configuration: `on|off` (GVTEP_HOOKS)")
	f.BoolVar(&waits, "wait-underlay", false, "wait for local addresses and devices that are not there yet (always under systemd)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx, hangups := handleSignals(cmd.Context(), d.path != "")
		d.hangups = hangups
		if env := os.Getenv("GVTEP_HOOKS"); env != "" && !cmd.Flags().Changed("hooks") {
			hooks = env
		}
		if hooks != "on" && hooks != "off" {
			return fmt.Errorf("run: hooks %s: want on or off", hooks)
		}
		// First, so that no descriptor of the service manager's is taken for
		// something else.
		if d.manager, err = service.New(); err != nil {
			return refused(fmt.Errorf("run: %w", err))
		}
		d.runDir, d.runHooks, d.patient = a.runDir, hooks == "on", waits || d.manager.Present()
		name, called := d.path, config.InstanceName(d.path)
		switch {
		case d.path == "" && len(args) == 0:
			return errors.New("run: no NAME: gvtep run NAME KEYWORDS, such as gvtep run gnv0 --id 100 --remote 203.0.113.1, or gvtep run --config FILE")
		case d.path != "" && len(args) > 0:
			return fmt.Errorf("run %s: beside --config: write the tunnel into the file", args[0])
		case d.path == "":
			name, called = args[0], args[0]
			draft.SetName(name)
			if err = draft.Words(args[1:]); err == nil {
				d.config, err = draft.Config()
			}
		default:
			d.amend = draft.Amend
			if d.config, err = loadConfig(d.path, d.amend); err == nil {
				d.path, err = filepath.Abs(d.path) // for reloads
			}
		}
		if err == nil {
			d.log, d.level, err = newLogger(os.Stderr, d.config.Log)
			err = refused(err)
		}
		if err == nil {
			// What else is said, last words included, waits for nobody either.
			a.errOut, a.flush = d.level.queue, d.level.queue.close
			zap.RedirectStdLog(d.log) // net/http's
		}
		d.named = a.instance != ""
		d.instance = firstOf(a.instance, d.config.Instance, called)
		if err == nil {
			err = config.CheckInstance(d.instance)
		}
		d.config.Instance = d.instance
		if !noControl {
			d.control = firstOf(a.control, control.SocketPath(a.runDir, d.instance))
		}
		if err == nil {
			err = refused(d.run(ctx))
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", name, withoutPrefix(err, name+": "))
		}
		return nil
	}
	return cmd
}

// firstOf returns the first that is not empty.
func firstOf(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

// run carries the tunnels until a signal or a fault ends it. Whatever the way,
// nothing is left behind.
func (d *daemon) run(ctx context.Context) (err error) {
	cfg := &d.config
	cpus, err := usableCPUs(cfg.Socket.CPUs)
	if err != nil {
		return err
	}
	workers := cfg.Socket.Workers
	if workers == 0 {
		workers = min(runtime.NumCPU(), 255)
		if len(cpus) > 0 {
			workers = min(len(cpus), 255)
		}
	}
	// Workers hold their threads, also in system calls: without room for two
	// more, the control socket waits for seconds.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), workers+2))
	// The soft limit of open files is raised to the hard one by the Go runtime.

	d.warn(cfg.Tunnels)
	d.warnHooks(&cfg.Hooks)
	var l net.Listener
	if d.control != "" {
		// First of all: it keeps a second daemon of this name away.
		if l, err = control.Listen(d.control); err != nil {
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
				err = fmt.Errorf("%w (another place: --control PATH, none: --no-control)", err)
			}
			return err
		}
		defer control.RemoveDirs(d.control)
		defer l.Close()
	}
	var watching net.Listener
	if cfg.Metrics.Listen != "" {
		if watching, err = d.listenMetrics(cfg.Metrics.Listen); err != nil {
			return err
		}
		defer watching.Close()
	}
	// Whoever asks is answered from here on, also while the underlay is waited for.
	var parts sync.WaitGroup
	running, cancel := context.WithCancel(context.Background())
	defer parts.Wait()
	defer cancel()
	if l != nil {
		parts.Go(func() {
			if err := control.Serve(running, l, &d.door); err != nil {
				d.log.Error("no longer answering; the tunnels go on", zap.NamedError("err", err))
			}
		})
	}
	if watching != nil {
		parts.Go(func() {
			if err := control.ServeMetrics(running, watching, &d.door); err != nil {
				d.log.Error("metrics are no longer served; the tunnels go on", zap.NamedError("err", err))
			}
		})
	}
	dir := filepath.Dir(control.SocketPath(d.runDir, d.instance))
	if _, err := os.Stat(dir); err != nil {
		dir = "" // it belongs to the control socket, and that is elsewhere
	}
	offload := slices.ContainsFunc(cfg.Tunnels, func(t config.Tunnel) bool { return t.Offload != config.OffloadOff })
	under, err := udp.New(udp.Config{Workers: workers, Rcvbuf: cfg.Socket.Rcvbuf, GSO: offload, GRO: offload})
	if err != nil {
		return err
	}
	defer under.Close()
	kept := newStore(d.manager, d.log)
	memory, age := d.recall(dir, kept)
	ep, err := vtep.New(vtep.Config{Workers: workers, CPUs: cpus, Devices: tapDevices{kept, tap.NewWatcher()}, Underlay: newUnderlay(under, kept), Log: d.log})
	if err != nil {
		return err
	}
	ep.SetBusyPoll(cfg.Socket.BusyPoll)
	if err := d.open(ctx, ep); err != nil {
		err = errors.Join(err, ep.Close())
		if ctx.Err() != nil {
			return nil // a signal ended the waiting
		}
		return err
	}
	if name := withoutOffload(cfg.Tunnels, ep.State()); name != "" {
		return errors.Join(fmt.Errorf("%s: offload on: this kernel has no offloads for the device; offload auto does without", name), ep.Close())
	}

	kept.settle(under)
	if n := ep.Recall(memory, age); n > 0 {
		d.log.Info("the forwarding tables were kept over the restart", zap.Int("entries", n), zap.Duration("age", age))
	}

	// What is closed from now on may be gone on with by another process.
	defer context.AfterFunc(ctx, func() {
		kept.leave()
		d.notify("STOPPING=1")
		cancel()
	})()
	ctx = running
	reload := &reloader{daemon: d, endpoint: ep, path: d.path, running: *cfg, loaded: true, loadedAt: time.Now()}
	attendant := newAttendant(d, ep, kept, reload, dir)
	reload.changed = attendant.poke
	d.door.Open(newSource(ep, reload, d))
	parts.Go(func() { reload.onSignal(ctx, d.hangups) })
	parts.Go(func() { d.feedWatchdog(ctx, ep) })
	parts.Go(func() {
		if d.announce(ctx, ep) {
			attendant.run(ctx, func() { d.notify("READY=1") })
		}
	})
	err = ep.Run(ctx)
	cancel()
	parts.Wait()
	if dir != "" && d.manager.Present() {
		if err := saveMemory(dir, ep.Memory()); err != nil {
			d.log.Warn("the forwarding tables could not be saved", zap.NamedError("err", err))
		}
	}
	d.log.Info("stopped", zap.String("instance", d.instance), zap.NamedError("err", err))
	return err
}

// warn logs what is valid but perhaps not meant.
func (d *daemon) warn(tunnels []config.Tunnel) {
	for _, t := range tunnels {
		for _, w := range t.Warnings() {
			d.log.Warn(w, zap.String("device", t.Name), zap.Uint32("vni", t.VNI))
		}
	}
}

// withoutOffload names a tunnel that insists on offloads and has none.
func withoutOffload(tunnels []config.Tunnel, state vtep.State) string {
	for _, t := range tunnels {
		if t.Offload != config.OffloadOn {
			continue
		}
		for _, s := range state.Tunnels {
			if s.Config.Device.Name == t.Name && s.Offload == 0 {
				return t.Name
			}
		}
	}
	return ""
}

// recall reads the memory that another process of this instance has left.
// Only a service manager that keeps descriptors makes it of use.
func (d *daemon) recall(dir string, kept *store) (m vtep.Memory, age time.Duration) {
	if dir == "" || !d.manager.Present() {
		return m, 0
	}
	m, age, err := loadMemory(dir)
	if err != nil {
		d.log.Warn("the forwarding tables begin empty", zap.NamedError("err", err))
	}
	kept.before = make(map[string]netio.DeviceOptions, len(m.Tunnels))
	for i := range m.Tunnels {
		kept.before[m.Tunnels[i].Device.Name] = m.Tunnels[i].Device
	}
	return m, age
}

// open opens all tunnels. A patient daemon waits for addresses and devices of
// the underlay, and for bridges, that are not there yet: at boot they come when
// they come. SIGHUP replaces what it waits for by what the configuration says
// now, all or nothing.
func (d *daemon) open(ctx context.Context, ep *vtep.Endpoint) error {
	said := ""
	var before *config.Config // the last that was waited for, if the present one was not tried yet
	for {
		err := ep.Add(vtepTunnels(d.config.Tunnels)...)
		waits := d.patient && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV))
		switch {
		case err == nil:
			return nil
		case !waits && before == nil:
			return err
		case !waits:
			d.log.Error("not reloaded; what was waited for before still is", zap.NamedError("err", err))
			d.config, before = *before, nil
			continue
		}
		before = nil
		if text := err.Error(); text != said {
			said = text
			d.log.Warn("waiting for the underlay", zap.NamedError("err", err))
			text = "the underlay: " + strings.ReplaceAll(text, "\n", "; ")
			d.notify("STATUS=waiting for " + text)
			d.door.Wait(text)
		}
		select {
		case <-ctx.Done():
			return err
		case <-d.hangups:
			cfg, err := loadConfig(d.path, d.amend)
			if err != nil {
				d.log.Error("not reloaded; what was waited for before still is", zap.NamedError("err", err))
				continue
			}
			old := d.config
			before, d.config, said = &old, config.KeepProcess(old, cfg), ""
			d.level.configure(cfg.Log.Level)
			d.warn(cfg.Tunnels)
			d.warnHooks(&cfg.Hooks)
			d.log.Info("the configuration was loaded again", zap.String("config", d.path), zap.Int("tunnels", len(cfg.Tunnels)))
		case <-time.After(underlayPoll):
		}
	}
}

// underlayPoll is how often open tries again.
const underlayPoll = time.Second

// usableCPUs reads a list of CPUs and makes sure that this process may run on
// them.
func usableCPUs(list string) ([]int, error) {
	if list == "" {
		return nil, nil
	}
	cpus, err := config.ParseCPUs(list)
	if err != nil {
		return nil, err // not with a checked list
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return nil, fmt.Errorf("cpus %s: %w", list, err)
	}
	for _, cpu := range cpus {
		if !allowed.IsSet(cpu) {
			return nil, fmt.Errorf("cpus %s: this process may not run on CPU %d; taskset -cp %d shows where it may: %w", list, cpu, os.Getpid(), unix.EINVAL)
		}
	}
	return cpus, nil
}

// warnHooks says if there are hooks that will not be run.
func (d *daemon) warnHooks(h *config.Hooks) {
	if h.Any() && !d.runHooks {
		d.log.Warn("the programs of [hooks] are not run: hooks are off (GVTEP_HOOKS=on in the environment, such as by a drop-in of the unit, allows them)")
	}
}

// announce logs that packets can flow, and returns false if they never did.
func (d *daemon) announce(ctx context.Context, ep *vtep.Endpoint) bool {
	for {
		if s := ep.State(); s.Running && len(s.Faults) > 0 {
			// It waits for nobody: what is wrong may be so for long.
			d.log.Warn("running, but not ready", zap.String("instance", d.instance), zap.Int("tunnels", len(s.Tunnels)), zap.Strings("reasons", s.Faults))
			return true
		} else if s.Ready && len(s.Tunnels) == 1 {
			t := s.Tunnels[0]
			vni := zap.Uint32("vni", uint32(t.Config.VNI))
			if t.Config.NoVNI {
				vni = zap.Skip()
			}
			d.log.Info("ready", zap.String("device", t.Config.Device.Name), vni,
				zap.Int("mtu", t.MTU), zap.Stringers("addresses", t.Config.Device.Addresses),
				zap.Strings("offload", offloadNames(t.Offload)), zap.Int("workers", s.Workers))
			return true
		} else if s.Ready {
			d.log.Info("ready", zap.String("instance", d.instance), zap.Int("tunnels", len(s.Tunnels)), zap.Int("workers", s.Workers))
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func vtepTunnels(tunnels []config.Tunnel) []vtep.Tunnel {
	all := make([]vtep.Tunnel, len(tunnels))
	for i := range tunnels {
		all[i] = vtepTunnel(&tunnels[i])
	}
	return all
}

// vtepTunnel says what config says in the words of the endpoint.
func vtepTunnel(t *config.Tunnel) vtep.Tunnel {
	v := vtep.Tunnel{
		VNI: geneve.VNI(t.VNI), NoVNI: t.NoVNI,
		Device: netio.DeviceOptions{
			Name: t.Name, L3: t.L3, MTU: t.MTU, Addresses: t.Addresses, Netns: t.Netns, Master: t.Master,
			Persist: t.Persist, TxQueue: t.TxQueue, Offload: t.Offload != config.OffloadOff, Down: !t.Up, Isolated: t.Isolated,
		},
		Local: t.Local, Dev: t.Dev, DstPort: t.DstPort,
		SrcPortMin: t.SrcPortMin, SrcPortMax: t.SrcPortMax, SrcPorts: t.SrcPorts,
		TTL: t.TTL, TOS: t.TOS, DF: map[config.DF]vtep.DF{
			config.DFSet: vtep.DFSet, config.DFUnset: vtep.DFUnset, config.DFInherit: vtep.DFInherit,
		}[t.DF],
		UDPCsum: t.UDPCsum, ZeroCsum6: t.ZeroCsum6, AcceptZ6: t.AcceptZ6, Mark: t.Mark,
		Learning: t.Learning, Ageing: t.Ageing, MaxAddress: t.MaxAddress,
		Group:   t.Group,
		NoFlood: t.NoFlood, NoMcastFlood: t.NoMcastFlood, NoBcastFlood: t.NoBcastFlood, BUMLimit: t.BUMLimit,
		Locked: t.Locked, NoMoveDamping: t.NoMoveDamping, NeighSuppress: t.NeighSuppress,
		L2ControlPass: t.L2ControlPass, VLANDrop: t.VLANDrop,
	}
	for _, r := range t.VLANs {
		v.VLANs = append(v.VLANs, vtep.VLANRange{First: r.First, Last: r.Last, VNI: geneve.VNI(r.VNI)})
	}
	for _, p := range t.Accept {
		// Of "any" what the tunnel's own family has.
		if !t.Local.IsValid() || p.Addr().Is4() == t.Local.Is4() {
			v.Accept = append(v.Accept, p)
		}
	}
	for _, n := range t.Neighbours {
		mac, _ := packet.ParseMAC(n.LLAddr) // checked by config
		v.Neighbours = append(v.Neighbours, vtep.Neighbour{Addr: n.Addr, MAC: mac})
	}
	for _, e := range t.Entries {
		v.Entries = append(v.Entries, vtepEntry(t, e))
	}
	if t.TTL == config.Inherit {
		v.TTL = vtep.Inherit
	}
	if t.TOS == config.Inherit {
		v.TOS = vtep.Inherit
	}
	if t.LLAddr != "" {
		v.Device.LLAddr, _ = packet.ParseMAC(t.LLAddr) // checked by config
	}
	for _, p := range t.Peers {
		if p.Remote.Is6() && p.Remote.IsLinkLocalUnicast() {
			p.Remote = p.Remote.WithZone(t.Dev)
		}
		v.Peers = append(v.Peers, p)
	}
	return v
}
