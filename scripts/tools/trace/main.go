// Trace does two things of a debugger, for tests in a virtual machine that has
// no room for one:
//
//	trace stop TID   stop this thread, and no other of its process, until it ends or trace does
//	trace self       take a descriptor out of a process, this one, by pidfd_getfd, which is anyone's
//	                 right unless a call filter forbids it; says "allowed" or the error
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "trace:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "self":
		self, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			return fmt.Errorf("pidfd_open: %w", err)
		}
		if _, err := unix.PidfdGetfd(self, 0, 0); err != nil {
			fmt.Println(err)
			return nil
		}
		fmt.Println("allowed")
		return nil
	case len(args) == 2 && args[0] == "stop":
		tid, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return stop(tid)
	}
	return fmt.Errorf("usage: trace stop TID | trace self")
}

// stop returns when the thread has ended. The kernel lets go of the thread if
// this process ends before.
func stop(tid int) error {
	runtime.LockOSThread() // the tracer is one thread
	if err := unix.PtraceSeize(tid); err != nil {
		return fmt.Errorf("seize %d: %w", tid, err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("interrupt %d: %w", tid, err)
	}
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(tid, &status, unix.WALL, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for %d: %w", tid, err)
		case status.Exited() || status.Signaled():
			fmt.Println("ended", tid)
			return nil
		default: // it stays stopped, whatever signal it was to get
			fmt.Println("stopped", tid)
		}
	}
}
