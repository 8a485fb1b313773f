package daemon

import (
	"runtime"
	"testing"

	"gvtep/config"
)

// TestShare: workers follow the CPUs that Go may use, which counts the limit of a cgroup.
func TestShare(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	workers, cpus, err := share(new(config.Socket))
	if err != nil || workers != 3 || cpus != nil {
		t.Errorf("%d workers on the CPUs %v, error %v; want 3 on any", workers, cpus, err)
	}
	if n := runtime.GOMAXPROCS(0); n != 5 {
		t.Errorf("%d threads for Go, want 2 beside the workers", n)
	}
	if workers, _, err = share(&config.Socket{Workers: 7}); err != nil || workers != 7 {
		t.Errorf("%d workers, error %v; want the 7 that were asked for", workers, err)
	}
}
