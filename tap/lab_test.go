package tap

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// private puts the test on a thread in a new network namespace, with a /run
// of its own. The thread ends with the test, and all of that with it. It holds
// for this goroutine only: a subtest calls it for itself.
func private(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		skip(t, "needs root to make network namespaces")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		skip(t, "needs /dev/net/tun")
	}
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		skip(t, "cannot make namespaces: ", err)
	}
	must(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
}

// namespace makes a second, named namespace. The handle is closed at the end.
func namespace(t testing.TB, name string) netns.NsHandle {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	ns, err := netns.NewNamed(name)
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	must(t, netns.Set(here))
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a device and closes it at the end of the test.
func open(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := Open(o)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// persistent makes a persistent device as ip-tuntap(8) does.
func persistent(t testing.TB, name string, mode netlink.TuntapMode, flags netlink.TuntapFlag) *netlink.Tuntap {
	t.Helper()
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: mode, Flags: flags, Queues: 1}
	must(t, netlink.LinkAdd(link))
	for _, f := range link.Fds {
		f.Close()
	}
	return device(t, name)
}

// device reads a device back.
func device(t testing.TB, name string) *netlink.Tuntap {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link.(*netlink.Tuntap)
}

func exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

// qdiscs lists the root qdiscs of a device.
func qdiscs(t testing.TB, name string) string {
	t.Helper()
	list, err := netlink.QdiscList(device(t, name))
	must(t, err)
	var kinds []string
	for _, q := range list {
		kinds = append(kinds, q.Type())
	}
	return fmt.Sprint(kinds)
}

// wants fails unless err has all the words and unwraps to errno.
func wants(t testing.TB, err error, errno unix.Errno, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v and %q", errno, words)
	}
	if !is(err, errno) {
		t.Errorf("error %q does not unwrap to %v", err, errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q has more than one line", err)
	}
}

// openFDs lists what the process has open, apart from Go's own poller.
func openFDs(t testing.TB) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	count := map[string]int{}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		switch {
		case err != nil, strings.HasPrefix(to, "anon_inode:"):
		case strings.HasPrefix(to, "socket:"):
			count["socket"]++
		default:
			count[to]++
		}
	}
	return count
}

// readable waits until a queue of d has something; nil after a second.
func readable(d ...*Queue) *Queue {
	p := make([]unix.PollFd, len(d))
	for i, q := range d {
		p[i] = unix.PollFd{Fd: int32(q.FD()), Events: unix.POLLIN}
	}
	deadline := time.Now().Add(time.Second)
	for time.Now().Before(deadline) {
		if n, err := unix.Poll(p, 100); n < 1 || err != nil {
			continue
		}
		for i := range p {
			if p[i].Revents != 0 {
				return d[i]
			}
		}
	}
	return nil
}

// skip is t.Skip, unless nothing may be skipped: CI installs what is needed.
func skip(t testing.TB, args ...any) {
	t.Helper()
	if os.Getenv("GVTEP_TEST_REQUIRE") != "" {
		t.Fatal(append([]any{"GVTEP_TEST_REQUIRE is set: "}, args...)...)
	}
	t.Skip(args...)
}
