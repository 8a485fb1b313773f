package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// enterNetns moves the process into a network namespace. A namespace belongs to a thread, and
// a Go program has several. So one thread enters it and executes the program again, which
// then runs in the right namespace.
func enterNetns(name string) error {
	path := name
	if !strings.Contains(name, "/") {
		path = "/run/netns/" + name
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("netns %s: %w (ip netns lists them)", name, unwrapPath(err))
	}
	defer ns.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	there, err := ns.Stat()
	if err != nil {
		return fmt.Errorf("netns %s: %w", name, unwrapPath(err))
	}
	if here, err := os.Stat("/proc/thread-self/ns/net"); err == nil && os.SameFile(here, there) {
		return nil
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("netns %s: %w (needs CAP_SYS_ADMIN, and a namespace)", name, err)
	}
	// By its path it keeps its name in ps; after an upgrade there may be none.
	if exe, err := os.Executable(); err == nil {
		unix.Exec(exe, os.Args, os.Environ())
	}
	err = unix.Exec("/proc/self/exe", os.Args, os.Environ())
	return fmt.Errorf("netns %s: start anew: %w", name, err)
}
