package e2e

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// seccomp filters the system calls of this thread, and of what it executes.
func seccomp(prog *unix.SockFprog) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(prog)), 0, 0)
}
