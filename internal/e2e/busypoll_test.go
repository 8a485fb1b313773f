package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBusyPoll: after traffic a worker keeps looking for more, as long as
// busypoll says, and a reload changes that.
//
//	a gnv0 192.0.2.1 ==== VNI 42 ==== 192.0.2.2 gnv0 b
func TestBusyPoll(t *testing.T) {
	need(t, "ping")
	a, b := underlay(t)
	b.tunnel("gnv0", "--id", "42", "--local", "10.77.0.2", "--remote", "10.77.0.1", "--address", "192.0.2.2/24")
	text := func(busy string) string {
		return fmt.Sprintf("[socket]\nworkers = 1\nbusypoll = %q\n[[tunnel]]\nname = \"gnv0\"\nid = 42\nlocal = \"10.77.0.1\"\nremote = \"10.77.0.2\"\naddress = \"192.0.2.1/24\"\n", busy)
	}
	path := file(t, "busy.toml", text("100ms"))
	g := a.configured("gnv0", path)
	// Twenty packets, 50 ms apart. Looking for 100 ms after each is the whole
	// second; without, it takes some ms.
	spent := func() time.Duration {
		before := cpuTime(t, g.cmd.Process.Pid)
		a.ok(20*time.Second, "ping", "-q", "-c", "20", "-i", "0.05", "-W", "2", "192.0.2.2")
		return cpuTime(t, g.cmd.Process.Pid) - before
	}
	polling := spent()
	if err := os.WriteFile(path, []byte(text("0us")), 0o644); err != nil {
		t.Fatal(err)
	}
	a.ok(10*time.Second, g.binary, "-i", g.instance, "reload")
	time.Sleep(200 * time.Millisecond)
	sleeping := spent()
	t.Logf("CPU time of 20 pings in a second: busypoll 100ms %s, 0us %s", polling, sleeping)
	if polling < 2*sleeping+100*time.Millisecond {
		t.Errorf("CPU time of 20 pings: %s with busypoll 100ms, %s with 0us, want far more with it", polling, sleeping)
	}
}

// cpuTime is what a process has used until now.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		var ns int64
		if err != nil {
			continue // that thread has ended
		}
		if _, err := fmt.Sscan(strings.TrimSpace(string(text)), &ns); err != nil {
			t.Fatalf("%s: %q: %v", path, text, err)
		}
		sum += ns
	}
	return time.Duration(sum)
}
