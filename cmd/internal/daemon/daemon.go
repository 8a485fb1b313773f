// Package daemon runs the tunnels of a configuration: it opens them, changes them while they
// run, serves the control socket and reports to the service manager.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/keep"
	"gvtep/cmd/internal/logging"
	"gvtep/cmd/internal/service"
	"gvtep/config"
	"gvtep/internal/fastpath"
	"gvtep/vtep"
)

// Options are what a daemon is started with.
type Options struct {
	Config config.Config
	// Path is where Config came from and what a reload reads, as an absolute
	// path; "": the command line.
	Path string
	// Load reads a configuration, and amends it by what the command line says
	// beside it.
	Load     func(path string) (config.Config, error)
	Hangups  <-chan os.Signal // each asks for a reload; nil: there is nothing to reload
	Instance string
	Named    bool   // it was named, and keeps its name over reloads
	RunDir   string // where instances have their directories
	Control  string // path of the control socket; "": none
	Hooks    bool   // run the programs of [hooks]
	Patient  bool   // wait for an underlay that is not there yet

	Build   build.Info
	Log     *zap.Logger
	Logging *logging.State // of Log
	Manager *service.Manager
}

// daemon is what its parts share.
type daemon struct {
	Options              // Config is what was opened last
	door    control.Door // of what answers; open when the tunnels are
	// overwritten says that the service manager was told of a reload since the attendant
	// told it the status.
	overwritten atomic.Bool
}

// tasks run beside the endpoint, each until its context ends.
type tasks struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newTasks() *tasks {
	t := &tasks{}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

func (t *tasks) start(run func(context.Context)) {
	t.running.Go(func() { run(t.ctx) })
}

// stop ends all of them and waits until they have.
func (t *tasks) stop() {
	t.cancel()
	t.running.Wait()
}

// Run carries the tunnels until ctx ends or a fault stops it. In either case nothing is left
// behind.
func Run(ctx context.Context, o Options) error {
	d := &daemon{Options: o}
	defer zap.RedirectStdLog(d.Log)() // net/http's
	workers, cpus, err := share(&o.Config.Socket)
	if err != nil {
		return err
	}
	d.limitMemory()
	d.warn(o.Config.Tunnels)
	d.warnHooks(&o.Config.Hooks)
	beside := newTasks()
	defer func() {
		beside.stop()
		if d.Control != "" {
			control.RemoveDirs(d.Control)
		}
	}()
	if err := d.answer(beside); err != nil {
		return err
	}

	offload := slices.ContainsFunc(o.Config.Tunnels, func(t config.Tunnel) bool { return t.Device.Offload })
	kernel, err := keep.Open(d.Manager, d.Log, keep.Options{Workers: workers, Rcvbuf: o.Config.Socket.Rcvbuf, Offload: offload})
	if err != nil {
		return err
	}
	defer kernel.Close()
	dir := d.dir()
	memory := d.recall(dir)
	fast := d.fastPath(kernel)
	defer fast.Close()
	ep, err := vtep.New(vtep.Config{
		Workers: workers, CPUs: cpus, Devices: kernel.Devices(memory.devices), Underlay: kernel.Underlay(), FastPath: fast, Log: d.Log, Names: o.Config.Names,
	})
	if err != nil {
		return err
	}
	ep.SetBusyPoll(o.Config.Socket.BusyPoll)
	if err := d.open(ctx, ep); err != nil {
		err = errors.Join(err, ep.Close())
		if ctx.Err() != nil {
			return nil // a signal ended the waiting
		}
		return err
	}
	if name := withoutOffload(d.Config.Tunnels, ep.State()); name != "" {
		return errors.Join(fmt.Errorf("%s: offload on: this kernel has no offloads for the device; offload auto does without", name), ep.Close())
	}
	kernel.Settle()
	d.remind(ep, memory)
	return d.carry(ctx, ep, kernel, fast, dir, beside)
}

// fastPath makes one, which goes on over a restart if there is a service manager.
func (d *daemon) fastPath(kernel *keep.Kernel) *fastpath.Path {
	if !d.Manager.Present() {
		return fastpath.New(nil)
	}
	return fastpath.New(kernel.Programs())
}

// carry runs an open endpoint and the tasks beside it.
func (d *daemon) carry(ctx context.Context, ep *vtep.Endpoint, kernel *keep.Kernel, fast *fastpath.Path, dir string, beside *tasks) error {
	// What is closed from now on may be used further by another process.
	defer context.AfterFunc(ctx, func() {
		kernel.Leave()
		fast.Leave()
		d.notify("STOPPING=1")
		beside.cancel()
	})()
	reload := &reloader{daemon: d, endpoint: ep, path: d.Path, process: withoutTunnels(d.Config), loaded: true, loadedAt: time.Now(), due: stoppedTimer()}
	attendant := newAttendant(d, ep, kernel, reload, dir)
	reload.changed = attendant.poke
	d.door.Open(newSource(reload))
	beside.start(reload.onSignal)
	beside.start(reload.endTrials)
	beside.start(func(ctx context.Context) { d.feedWatchdog(ctx, ep) })
	beside.start(func(ctx context.Context) {
		if d.announce(ctx, ep, fast.Settle) {
			attendant.run(ctx)
		}
	})
	err := ep.Run(beside.ctx)
	beside.stop()
	if dir != "" && d.Manager.Present() {
		if err := saveMemory(dir, ep.Memory()); err != nil {
			d.Log.Warn("the forwarding tables could not be saved", zap.NamedError("err", err))
		}
	}
	d.Log.Info("stopped", zap.String("instance", d.Instance), zap.NamedError("err", err))
	return err
}

// dir is the directory of the instance. It belongs to the control socket: ""
// if that is elsewhere.
func (d *daemon) dir() string {
	dir := filepath.Dir(control.SocketPath(d.RunDir, d.Instance))
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// share decides how many workers there are and on which CPUs, and gives the Go runtime
// enough threads beside them.
func share(s *config.Socket) (workers int, cpus []int, err error) {
	if cpus, err = usableCPUs(s.CPUs); err != nil {
		return 0, nil, err
	}
	if workers = s.Workers; workers == 0 {
		// As many as Go runs threads on: the CPUs that this process may use, or what the
		// CPU limit of its cgroup is worth, but at least two.
		workers = runtime.GOMAXPROCS(0)
		if len(cpus) > 0 {
			workers = len(cpus)
		}
		workers = min(workers, 255)
	}
	// Workers hold their threads, also in system calls: without room for two
	// more, the control socket waits for seconds.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), workers+2))
	// The soft limit of open files is raised to the hard one by the Go runtime.
	return workers, cpus, nil
}

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

// warn logs settings that are valid but may be a mistake.
func (d *daemon) warn(tunnels []config.Tunnel) {
	for _, t := range tunnels {
		for _, w := range config.Warnings(&t) {
			d.Log.Warn(w, zap.String("device", t.Device.Name), zap.Uint32("vni", uint32(t.VNI)))
		}
	}
}

// warnHooks says if there are hooks that will not be run.
func (d *daemon) warnHooks(h *config.Hooks) {
	if h.Any() && !d.Hooks {
		d.Log.Warn("the programs of [hooks] are not run: hooks are off (GVTEP_HOOKS=on in the environment, such as by a drop-in of the unit, allows them)")
	}
}
