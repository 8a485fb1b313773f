package tap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where ip-netns(8) keeps names.
const netnsDir = "/run/netns"

// openNetns opens a network namespace by its ip-netns(8) name or, if there
// is a slash in it, by path.
func openNetns(name string) (netns.NsHandle, error) {
	path := name
	if !strings.Contains(name, "/") {
		path = netnsDir + "/" + name
	}
	ns, err := netns.GetFromPath(path)
	switch {
	case errors.Is(err, unix.ENOENT) && path != name:
		return -1, refuse(unix.ENOENT, "no network namespace %q in %s, %s", name, netnsDir, netnsNames())
	case err != nil:
		return -1, fmt.Errorf("network namespace %s: %w", path, err)
	}
	if t, err := unix.IoctlRetInt(int(ns), unix.NS_GET_NSTYPE); err != nil || t != unix.CLONE_NEWNET {
		ns.Close()
		return -1, refuse(unix.EINVAL, "%s is not a network namespace", path)
	}
	return ns, nil
}

// netnsNames lists the named namespaces, for error texts.
func netnsNames() string {
	entries, _ := os.ReadDir(netnsDir)
	if len(entries) == 0 {
		return "which has none (ip netns add NAME makes one)"
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return "which has: " + strings.Join(names, ", ")
}

// conn speaks rtnetlink in one namespace.
type conn struct {
	*netlink.Handle
	ns netns.NsHandle // borrowed; none for that of the calling thread
}

func dial(ns netns.NsHandle) (*conn, error) {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return &conn{h, ns}, nil
}

// execute sends a request that the netlink package has no call for.
func (c *conn) execute(req *nl.NetlinkRequest, reply uint16) ([][]byte, error) {
	s, err := nl.GetNetlinkSocketAt(c.ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	// With it a dump is of the device that the request names, not of all. Kernels
	// before 4.20 do not know it.
	unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	return req.Execute(unix.NETLINK_ROUTE, reply)
}

// within runs f in another namespace, on a thread that ends with it: no way
// back that could fail.
func within(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
