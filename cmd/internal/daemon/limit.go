package daemon

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// garbage is how much of what lives may be garbage, in percent (GOGC). What grows here are tables,
// in which the collector has nothing to look for, and nothing is allocated for a packet: it runs
// seldom and is soon done, so that Go's 100 would buy memory for nothing.
const garbage = 50

// goShare of the memory that the cgroup has is for Go; the rest is for what the kernel counts
// beside it, such as socket buffers and the files in /run.
const goShare = 0.9

// limitMemory makes the collector mind the limit of the cgroup. What the environment says goes first.
func (d *daemon) limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if most := cgroupMemory(os.DirFS("/")); most > 0 {
		debug.SetMemoryLimit(int64(goShare * float64(most)))
		d.Log.Debug("memory is limited", zap.Int64("cgroup", most))
	}
}

// cgroupMemory is the least of the limits on the memory of the cgroup that this process is in, and
// of those around it, in bytes; 0 is none. root has /proc and /sys. It knows both versions (cgroups(7)).
func cgroupMemory(root fs.FS) (least int64) {
	at := cgroupPaths(root)
	for _, h := range []struct {
		controller string
		files      []string
	}{
		{"", []string{"memory.max", "memory.high"}},
		{"memory", []string{"memory.limit_in_bytes"}},
	} {
		own, mount := at[h.controller], cgroupMount(root, h.controller)
		if own == "" || mount.dir == "" {
			continue
		}
		// What is above the mount is not to be seen, such as from a container.
		for inside := path.Join("/", strings.TrimPrefix(own, mount.root)); ; inside = path.Dir(inside) {
			for _, file := range h.files {
				text, _ := fs.ReadFile(root, strings.TrimPrefix(path.Join(mount.dir, inside, file), "/"))
				n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64) // "max" is none
				if err == nil && n > 0 && n < 1<<62 && (least == 0 || n < least) {
					least = n
				}
			}
			if inside == "/" {
				break
			}
		}
	}
	return least
}

// cgroupPaths is where this process is, by controller; "" is version 2.
func cgroupPaths(root fs.FS) map[string]string {
	at := make(map[string]string)
	text, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(fields) == 3 {
			for controller := range strings.SplitSeq(fields[1], ",") {
				at[controller] = fields[2]
			}
		}
	}
	return at
}

// mounted is a cgroup that is mounted on a directory.
type mounted struct{ root, dir string }

// cgroupMount finds where a hierarchy is mounted (proc_pid_mountinfo(5)).
func cgroupMount(root fs.FS, controller string) (m mounted) {
	text, _ := fs.ReadFile(root, "proc/self/mountinfo")
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, source := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(source) < 3 {
			continue
		}
		if controller == "" && source[0] == "cgroup2" ||
			controller != "" && source[0] == "cgroup" && slices.Contains(strings.Split(source[2], ","), controller) {
			return mounted{strings.TrimSuffix(mount[3], "/"), mount[4]}
		}
	}
	return m
}
