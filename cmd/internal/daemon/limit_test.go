package daemon

import (
	"math"
	"os"
	"runtime/debug"
	"testing"
	"testing/fstest"

	"go.uber.org/zap"
)

// TestCgroupMemory: the least limit of the process's cgroup and those around it, in both versions.
func TestCgroupMemory(t *testing.T) {
	const (
		mount2 = "30 22 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
		mount1 = "34 30 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	)
	for _, tc := range []struct {
		name, cgroup, mounts string
		files                map[string]string
		want                 int64
	}{
		{"nothing", "", "", nil, 0},
		{"none", "0::/a/b\n", mount2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.high": "max\n"}, 0},
		{"max", "0::/a/b\n", mount2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n"}, 1000},
		{"high", "0::/a/b\n", mount2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.high": "900\n"}, 900},
		{"of the parent", "0::/a/b\n", mount2, map[string]string{"sys/fs/cgroup/a/b/memory.max": "1000\n", "sys/fs/cgroup/a/memory.max": "800\n"}, 800},
		{"of another", "0::/a/b\n", mount2, map[string]string{"sys/fs/cgroup/a/c/memory.max": "1000\n"}, 0},
		{"a container", "0::/\n", mount2, map[string]string{"sys/fs/cgroup/memory.max": "1000\n"}, 1000},
		{"the mount is below", "0::/x/y\n", "30 22 0:27 /x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", map[string]string{"sys/fs/cgroup/y/memory.max": "700"}, 700},
		{"version 1", "4:cpu,memory:/p/q\n0::/\n", mount1 + mount2, map[string]string{
			"sys/fs/cgroup/memory/p/q/memory.limit_in_bytes": "500\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 500},
		{"not mounted", "0::/a\n", "22 1 0:2 / / rw - ext4 /dev/sda rw\n", map[string]string{"sys/fs/cgroup/a/memory.max": "1000\n"}, 0},
	} {
		root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(tc.cgroup)}, "proc/self/mountinfo": {Data: []byte(tc.mounts)}}
		for name, text := range tc.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := cgroupMemory(root); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestLimitMemory: the environment goes first.
func TestLimitMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	gc := debug.SetGCPercent(100)
	defer debug.SetMemoryLimit(before)
	defer debug.SetGCPercent(gc)
	d := &daemon{Options: Options{Log: zap.NewNop()}}
	t.Setenv("GOMEMLIMIT", "1GiB")
	t.Setenv("GOGC", "100")
	debug.SetMemoryLimit(1 << 30)
	d.limitMemory()
	if n, p := debug.SetMemoryLimit(-1), debug.SetGCPercent(100); n != 1<<30 || p != 100 {
		t.Errorf("with GOMEMLIMIT the limit is %d, with GOGC %d", n, p)
	}
	os.Unsetenv("GOMEMLIMIT")
	os.Unsetenv("GOGC")
	debug.SetMemoryLimit(math.MaxInt64)
	d.limitMemory()
	want := int64(math.MaxInt64)
	if most := cgroupMemory(os.DirFS("/")); most > 0 {
		want = int64(goShare * float64(most))
	}
	if n, p := debug.SetMemoryLimit(-1), debug.SetGCPercent(100); n != want || p != garbage {
		t.Errorf("without GOMEMLIMIT the limit is %d, want %d; GOGC is %d", n, want, p)
	}
}
