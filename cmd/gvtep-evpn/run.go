package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
	"gvtep/cmd/internal/service"
	"gvtep/internal/evpn"
)

func (a *app) load() (evpn.Config, error) { return evpn.Load(a.config) }

func (a *app) checkCmd([]string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s: ok, AS %d with %d neighbours, for gvtep %s\n", a.config, c.AS, len(c.Neighbors), c.Instance)
	return nil
}

// runCmd runs an agent until a signal. TERM is a restart, or an update: gvtep goes on as it is, and
// neighbours that know graceful restart wait for us. INT is for good: others are told, and gvtep forgets.
func (a *app) runCmd([]string) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	manager, err := service.New()
	if err != nil {
		return err
	}
	log, logs, err := logging.New(os.Stderr, a.level, a.format)
	if err != nil {
		return err
	}
	defer logs.Close()
	path := a.control
	if path == "" {
		path = control.SocketPath(runDir, cfg.Instance)
	}
	l, err := control.Listen(path)
	if err != nil {
		return err
	}
	defer l.Close()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	g := newAgent(&cfg, log, control.NewClient(control.SocketPath(control.RunDir, cfg.Instance)))
	server := &http.Server{Handler: g.handler(), ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(l)
	defer server.Close()
	forGood := make(chan bool, 1)
	go func() {
		s := <-signals
		forGood <- s == syscall.SIGINT
		stop()
	}()
	log.Info("gvtep-evpn starts", zap.String("version", build.Read(version).Version), zap.Uint32("asn", cfg.AS), zap.String("instance", cfg.Instance))
	g.run(ctx, func() {
		log.Info("ready")
		manager.Notify("READY=1")
	})
	manager.Notify("STOPPING=1")
	g.end(<-forGood)
	log.Info("gvtep-evpn ends")
	return nil
}

// end ends the sessions, and with forGood what we told gvtep.
func (a *agent) end(forGood bool) {
	a.mu.Lock()
	s := a.speaker
	a.mu.Unlock()
	if s != nil {
		s.Stop(!forGood)
	}
	if !forGood {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	for dev := range a.tunnels {
		if _, err := a.gvtep.Batch(ctx, dev, control.BatchOptions{Owner: evpn.Owner, Sync: true}, strings.NewReader("")); err != nil {
			a.log.Warn("gvtep keeps what it was told", zap.String("device", dev), zap.Error(err))
		}
	}
}
