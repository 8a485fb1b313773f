// Package service talks to the service manager that started us: systemd, or another that
// implements its protocols (sd_notify(3), sd_listen_fds(3)). It reports our state, and lets
// the manager hold descriptors over a restart.
//
// Without a manager every method does nothing, and reports that where it matters. A manager
// that hangs is waited for once. After that a call takes almost no time until the manager
// answers again, since others may wait for the caller.
package service

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Manager is the service manager.
type Manager struct {
	socket    string // NOTIFY_SOCKET; "": there is none
	watchdog  time.Duration
	inherited []Descriptor

	full   atomic.Bool // it did not take the last message in time
	silent atomic.Bool // it did not answer the last barrier in time
}

// Descriptor is one that the manager holds for us, or held.
type Descriptor struct {
	Name string // FDNAME
	FD   int
}

// New takes from the environment what the manager has put there for this
// process. Descriptors are taken over with it: they are closed on exec from
// now on and belong to whoever asks for them first.
func New() (*Manager, error) {
	m := &Manager{socket: os.Getenv("NOTIFY_SOCKET")}
	var err error
	if m.watchdog, err = daemon.SdWatchdogEnabled(true); err != nil {
		return nil, fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	for _, f := range activation.Files(true) {
		fd, err := takeOver(f)
		if err != nil {
			return nil, fmt.Errorf("descriptor %s from the service manager: %w", f.Name(), err)
		}
		m.inherited = append(m.inherited, Descriptor{f.Name(), fd})
	}
	return m, nil
}

// takeOver moves a descriptor out of Go's poller, into which os.NewFile puts
// those that do not block: it would wake a second thread with every packet.
func takeOver(f *os.File) (fd int, err error) {
	defer f.Close()
	raw, err := f.SyscallConn() // Fd would make it blocking
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(p uintptr) { fd, err = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) })
	return fd, errors.Join(ctlErr, err)
}

// Present reports whether there is a manager to talk to.
func (m *Manager) Present() bool { return m.socket != "" }

// Watchdog is how often Notify("WATCHDOG=1") is expected at least; 0: never.
func (m *Manager) Watchdog() time.Duration { return m.watchdog }

// Inherited returns the descriptors that the manager held, once.
func (m *Manager) Inherited() []Descriptor {
	all := m.inherited
	m.inherited = nil
	return all
}

// Notify sends assignments as of sd_notify(3), separated by newlines.
func (m *Manager) Notify(state string) error {
	if !m.Present() {
		return nil
	}
	return m.send(state, -1)
}

// Reloading says that a reload has begun. READY=1 ends it.
func (m *Manager) Reloading() error {
	return m.Notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}
