package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is a refusal in one line for the user. It unwraps to an errno, so
// that errors.Is(err, unix.EBUSY) and the like classify it.
type Error struct {
	Text  string
	Errno unix.Errno
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.Errno }

// refuse is for errors whose text says it all.
func refuse(errno unix.Errno, format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), errno}
}

// openError explains why /dev/net/tun could not be opened.
func openError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("/dev/net/tun: %w: load the driver (modprobe tun) or give the container this device", err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("/dev/net/tun: %w: this user or container may not open it", err)
	}
	return fmt.Errorf("/dev/net/tun: %w%s", err, limitHint(err))
}

// limitHint says what to do about a limit of open files.
func limitHint(err error) string {
	switch {
	case errors.Is(err, unix.EMFILE):
		return ": each tunnel takes two descriptors a worker, raise the limit (ulimit -n, or LimitNOFILE= in the unit)"
	case errors.Is(err, unix.ENFILE):
		return ": the whole machine's limit, sysctl fs.file-max"
	}
	return ""
}

// attachError explains why TUNSETIFF failed on a device that looked free.
func attachError(o *Options, adopted bool, err error) error {
	switch {
	case errors.Is(err, unix.EPERM) && adopted:
		return fmt.Errorf("%s: %w: attaching needs CAP_NET_ADMIN, or a device made for this user (ip tuntap add dev %s mode %s multi_queue user USER)",
			o.Name, err, o.Name, kind(o.L3))
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w: making a device needs CAP_NET_ADMIN (run as root, or with that capability)", o.Name, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s: %w: somebody else has just taken the name", o.Name, err)
	}
	return fmt.Errorf("%s: TUNSETIFF: %w%s", o.Name, err, limitHint(err))
}

// kind is the word of ip-tuntap(8).
func kind(l3 bool) string {
	if l3 {
		return "tun"
	}
	return "tap"
}

// holders names the processes that have a queue of the device attached, as
// far as /proc shows them to this user.
func holders(name string) string {
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		fds, _ := os.ReadDir(proc + "/fd") // fails for other users' processes
		for _, fd := range fds {
			// The link first: reading every fdinfo of a host takes long.
			if to, _ := os.Readlink(proc + "/fd/" + fd.Name()); to != "/dev/net/tun" {
				continue
			}
			info, _ := os.ReadFile(proc + "/fdinfo/" + fd.Name())
			if !holds(string(info), name) {
				continue
			}
			pid := filepath.Base(proc)
			if pid == strconv.Itoa(os.Getpid()) {
				found = append(found, "this process")
			} else {
				comm, _ := os.ReadFile(proc + "/comm")
				found = append(found, fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm))))
			}
			break
		}
	}
	if len(found) == 0 {
		return "another process"
	}
	return strings.Join(found, ", ")
}

// holds reads the line that the kernel's tun_chr_show_fdinfo wrote.
func holds(fdinfo, name string) bool {
	for line := range strings.Lines(fdinfo) {
		if v, ok := strings.CutPrefix(line, "iff:"); ok {
			return strings.TrimSpace(v) == name
		}
	}
	return false
}
