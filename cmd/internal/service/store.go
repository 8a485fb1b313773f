package service

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The manager's descriptor store (systemd: FileDescriptorStoreMax=). What is
// put there lives on while the service restarts, is handed to the next process
// under its name, and goes when the service is stopped.

// answerTime is how long the manager may take to get to our messages. It reads
// them one by one, between all else that it does.
const answerTime = 5 * time.Second

const (
	// sendTime is how long the manager may have no room for a message.
	sendTime = 2 * time.Second
	// silentTime is answerTime for one that did not answer the last time.
	silentTime = 50 * time.Millisecond
)

// errNoAnswer says that the manager did not get to our messages in time.
var errNoAnswer = errors.New("the service manager does not answer")

// Store gives the manager a descriptor to hold. It does not tell whether it
// had room: Room does.
//
// One message each, as a message has one FDNAME. The limit of 253 descriptors
// a message (SCM_MAX_FD) is never met.
func (m *Manager) Store(d Descriptor) error {
	if !m.Present() {
		return nil
	}
	// FDPOLL=0: a device that is down or deleted would be dropped as hung up.
	return m.send("FDSTORE=1\nFDNAME="+d.Name+"\nFDPOLL=0", d.FD)
}

// Remove makes the manager drop what it holds under these names, and waits
// until it has: a port that it still held could not be bound again.
func (m *Manager) Remove(names ...string) error {
	if !m.Present() || len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if err := m.Notify("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
			return err
		}
	}
	return m.Barrier()
}

// Barrier waits until the manager has read all that was sent before.
func (m *Manager) Barrier() error {
	if !m.Present() {
		return nil
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(ends[0])
	err := m.send("BARRIER=1", ends[1])
	unix.Close(ends[1])
	if err != nil {
		return err
	}
	patience := answerTime
	if m.silent.Load() {
		patience = silentTime
	}
	gone, err := hungUp(ends[0], patience)
	m.silent.Store(!gone)
	if err != nil || !gone {
		return errors.Join(err, errNoAnswer)
	}
	return nil
}

// probeName is the descriptor by which Room finds out; it stays for a moment.
const probeName = "probe"

// Room reports whether the manager's store still takes descriptors after all
// that it was given. No manager before systemd 254 says how large its store is,
// and none says that it dropped something. So it is given the end of a pipe,
// and the other end tells whether it kept it.
func (m *Manager) Room() (bool, error) {
	if !m.Present() {
		return false, nil
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return false, err
	}
	defer unix.Close(ends[0])
	err := m.Store(Descriptor{probeName, ends[1]})
	unix.Close(ends[1])
	if err != nil {
		return false, err
	}
	if err := m.Barrier(); err != nil {
		return false, err
	}
	gone, err := hungUp(ends[0], 0)
	if err != nil || gone {
		return false, err
	}
	return true, m.Remove(probeName)
}

// hungUp reports whether the other end of a pipe is closed, or becomes so
// within the time.
func hungUp(fd int, within time.Duration) (bool, error) {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	for end := time.Now().Add(within); ; {
		n, err := unix.Poll(poll, int(max(0, time.Until(end).Milliseconds())))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return false, err
		}
		return n > 0 && poll[0].Revents&unix.POLLHUP != 0, nil
	}
}

// send sends a message, with a descriptor unless that is -1. go-systemd has no call
// for the one, and waits for ever with the other.
func (m *Manager) send(state string, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	flags := unix.MSG_NOSIGNAL
	if m.full.Load() {
		flags |= unix.MSG_DONTWAIT
	}
	limit := unix.NsecToTimeval(sendTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	to := &unix.SockaddrUnix{Name: m.socket} // a leading @ is the abstract namespace's
	for {
		err := unix.Sendmsg(s, []byte(state), rights, to, flags)
		if err == unix.EINTR {
			continue
		}
		m.full.Store(err == unix.EAGAIN)
		if err == unix.EAGAIN {
			err = errNoAnswer
		}
		if err != nil {
			what, _, _ := strings.Cut(state, "\n")
			return fmt.Errorf("%s to the service manager at %s: %w", what, m.socket, err)
		}
		return nil
	}
}
