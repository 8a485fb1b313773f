package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/config"
	"gvtep/internal/packet"
	"gvtep/udp"
	"gvtep/vtep"
	"gvtep/vtep/control"
	"gvtep/vtep/geneve"
)

// daemon is what gvtep run was asked for.
type daemon struct {
	tunnel    config.Tunnel
	instance  string
	control   string // path of the control socket; "": none
	rcvbuf    int
	log       *zap.Logger
	logFormat string
	logLevel  string
}

func (a *app) runCmd() *cobra.Command {
	d := &daemon{}
	draft := config.NewDraft("")
	var rcvbuf string
	var noControl bool
	cmd := &cobra.Command{
		Use:   "run NAME KEYWORDS",
		Short: "carry a tunnel on the device NAME until a signal ends it",
		Long: `Carry a tunnel on the device NAME, in the foreground, until SIGINT or SIGTERM.

Every keyword is a flag (--ttl 64) or two bare words (ttl 64), so the tail of
an "ip link add NAME type geneve ..." line can be pasted. Instead of --KEYWORD
those that are on or off may be written --noKEYWORD.`,
		Example: `  gvtep run gnv0 --id 100 --local 198.51.100.1 --remote 203.0.113.1 --address 192.0.2.1/24
  gvtep run gnv0 type geneve id 100 remote 203.0.113.1 noudpcsum`,
		ValidArgsFunction: completeWords,
	}
	f := cmd.Flags()
	f.SortFlags = false
	addKeywords(cmd, draft)
	// The keyword netns hides the global flag of this name.
	f.StringVarP(&a.netns, "underlay-netns", "n", "", netnsUsage+", sockets included")
	f.StringVar(&rcvbuf, "rcvbuf", "8MiB", "receive buffer `SIZE` of a socket")
	f.StringVar(&d.logLevel, "log-level", "info", "`LEVEL` debug, info, warn or error")
	f.StringVar(&d.logFormat, "log-format", "auto", "`FORMAT` auto, console or json; auto is console on a terminal")
	f.BoolVar(&noControl, "no-control", false, "no control socket")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New("run: no NAME: gvtep run NAME KEYWORDS, such as gvtep run gnv0 --id 100 --remote 203.0.113.1")
		}
		name := args[0]
		draft.SetName(name)
		err := draft.Words(args[1:])
		if err == nil {
			d.tunnel, err = draft.Tunnel()
		}
		if err == nil {
			d.rcvbuf, err = config.ParseSize(rcvbuf)
			if err != nil {
				err = fmt.Errorf("--rcvbuf %w", err)
			}
		}
		if err == nil {
			d.log, err = newLogger(os.Stderr, d.logFormat, d.logLevel)
		}
		d.instance = a.instance
		if d.instance == "" {
			d.instance = name
		}
		if err == nil {
			err = control.CheckInstance(d.instance)
		}
		if !noControl {
			d.control = a.control
			if d.control == "" {
				d.control = control.SocketPath(a.runDir, d.instance)
			}
		}
		if err == nil {
			err = refused(d.run(cmd.Context()))
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", name, withoutPrefix(err, name+": "))
		}
		return nil
	}
	return cmd
}

// run carries the tunnel until a signal or a fault ends it. Whatever the way,
// nothing is left behind.
func (d *daemon) run(ctx context.Context) (err error) {
	// A second signal finds the default again and ends the process at once.
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	t := &d.tunnel
	workers := t.Workers
	if workers == 0 {
		workers = min(runtime.NumCPU(), 255)
	}
	// Workers hold their threads, also in system calls: without room for two
	// more, the control socket waits for seconds.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), workers+2))
	// The soft limit of open files is raised to the hard one by the Go runtime.

	for _, w := range t.Warnings() {
		d.log.Warn(w, zap.String("device", t.Name), zap.Uint32("vni", t.VNI))
	}
	var l net.Listener
	if d.control != "" {
		// First of all: it keeps a second daemon of this name away.
		if l, err = control.Listen(d.control); err != nil {
			if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
				err = fmt.Errorf("%w (another place: --control PATH, none: --no-control)", err)
			}
			return err
		}
		defer l.Close()
	}
	offload := t.Offload != config.OffloadOff
	under, err := udp.New(udp.Config{Workers: workers, Rcvbuf: d.rcvbuf, GSO: offload, GRO: offload})
	if err != nil {
		return err
	}
	defer under.Close()
	ep, err := vtep.New(vtep.Config{Workers: workers, Devices: tapDevices{}, Underlay: underlay{under}, Log: d.log})
	if err != nil {
		return err
	}
	if err := ep.Add(vtepTunnel(t)); err != nil {
		return errors.Join(err, ep.Close())
	}
	if t.Offload == config.OffloadOn && ep.State().Tunnels[0].Offload == 0 {
		return errors.Join(errors.New("offload on: this kernel has no offloads for the device; offload auto does without"), ep.Close())
	}

	var parts sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer parts.Wait()
	defer cancel()
	if l != nil {
		src := &source{endpoint: ep, instance: d.instance, version: buildVersion().Version}
		parts.Go(func() {
			if err := control.Serve(ctx, l, src); err != nil {
				d.log.Error("no longer answering; the tunnel goes on", zap.NamedError("err", err))
			}
		})
	}
	parts.Go(func() { d.announce(ctx, ep) })
	err = ep.Run(ctx)
	d.log.Info("stopped", zap.String("device", t.Name), zap.NamedError("err", err))
	return err
}

// announce logs that packets can flow.
func (d *daemon) announce(ctx context.Context, ep *vtep.Endpoint) {
	for {
		if s := ep.State(); s.Ready && len(s.Tunnels) > 0 {
			t := s.Tunnels[0]
			d.log.Info("ready", zap.String("device", t.Config.Device.Name), zap.Uint32("vni", uint32(t.Config.VNI)),
				zap.Int("mtu", t.MTU), zap.Stringers("addresses", t.Config.Device.Addresses),
				zap.Strings("offload", offloadNames(t.Offload)), zap.Int("workers", s.Workers))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// vtepTunnel says what config says in the words of the endpoint.
func vtepTunnel(t *config.Tunnel) vtep.Tunnel {
	v := vtep.Tunnel{
		VNI: geneve.VNI(t.VNI),
		Device: vtep.DeviceOptions{
			Name: t.Name, L3: t.L3, MTU: t.MTU, Addresses: t.Addresses, Netns: t.Netns, Master: t.Master,
			Persist: t.Persist, TxQueue: t.TxQueue, Offload: t.Offload != config.OffloadOff, Down: !t.Up,
		},
		Local: t.Local, Dev: t.Dev, DstPort: t.DstPort,
		SrcPortMin: t.SrcPortMin, SrcPortMax: t.SrcPortMax, SrcPorts: t.SrcPorts,
		TTL: t.TTL, TOS: t.TOS, DF: map[config.DF]vtep.DF{
			config.DFSet: vtep.DFSet, config.DFUnset: vtep.DFUnset, config.DFInherit: vtep.DFInherit,
		}[t.DF],
		UDPCsum: t.UDPCsum, ZeroCsum6: t.ZeroCsum6, AcceptZ6: t.AcceptZ6, Mark: t.Mark,
		Learning: t.Learning, Ageing: t.Ageing, MaxAddress: t.MaxAddress,
		L2ControlPass: t.L2ControlPass, VLANDrop: t.VLANDrop,
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
	for _, r := range t.Remotes {
		if r.Is6() && r.IsLinkLocalUnicast() {
			r = r.WithZone(t.Dev)
		}
		v.Peers = append(v.Peers, vtep.Peer{Remote: r})
	}
	return v
}
