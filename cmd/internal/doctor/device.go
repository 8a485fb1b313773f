package doctor

import (
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
)

// What this host says of the tunnels' devices and of the process.

// devices looks at the tunnels' devices that are here.
func (f *Facts) devices() {
	h := &f.Host
	h.Qdisc, h.Off, h.ByHand = map[string]string{}, map[string][]string{}, map[string][]string{}
	for i := range f.Tunnels[:min(len(f.Tunnels), maxListen)] {
		t := &f.Tunnels[i]
		link, err := netlink.LinkByName(t.Ifname)
		if t.Gvtep.Netns != "" || err != nil {
			continue
		}
		h.Qdisc[t.Ifname] = rootQdisc(link)
		h.Off[t.Ifname] = offloadsOff(t)
		if all, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE); err == nil && !h.stacked(link) {
			h.ByHand[t.Ifname] = byHand(all, link.Attrs().HardwareAddr)
		}
	}
}

func rootQdisc(link netlink.Link) string {
	all, _ := netlink.QdiscList(link)
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_ROOT {
			return q.Type()
		}
	}
	return ""
}

// stacked reports whether the kernel writes addresses to a device for others: its bridge, or a macvlan above it.
func (h *Host) stacked(link netlink.Link) bool {
	return link.Attrs().MasterIndex != 0 || slices.ContainsFunc(h.Links, func(l Link) bool { return l.Below == link.Attrs().Index })
}

// byHand are the stations that "bridge fdb add" has written to a device itself, which is only a filter
// of what it receives. own is its address.
func byHand(all []netlink.Neigh, own net.HardwareAddr) (macs []string) {
	for _, n := range all {
		a := n.HardwareAddr
		if len(a) == 6 && a[0]&1 == 0 && a.String() != own.String() && n.Flags&netlink.NTF_SELF != 0 && n.State&netlink.NUD_PERMANENT != 0 {
			macs = append(macs, a.String())
		}
	}
	return macs
}

// offloadsOff are the offloads that gvtep has switched on and the device does not have.
func offloadsOff(t *control.Tunnel) (off []string) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	for _, o := range []struct {
		name    string // of gvtep
		command uint32
	}{{"csum", unix.ETHTOOL_GTXCSUM}, {"tso4", unix.ETHTOOL_GTSO}} {
		if on, err := feature(fd, t.Ifname, o.command); slices.Contains(t.Gvtep.Offload, o.name) && err == nil && !on {
			off = append(off, o.name)
		}
	}
	return off
}

// feature asks for one value of a device (linux/ethtool.h, struct ethtool_value).
func feature(fd int, dev string, command uint32) (bool, error) {
	arg := struct{ command, value uint32 }{command, 0}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], dev)
	request.data = unsafe.Pointer(&arg)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return false, errno
	}
	return arg.value != 0, nil
}

// process looks at the descriptors of the daemon.
func (h *Host) process(pid int) {
	dir := "/proc/" + strconv.Itoa(pid)
	limits, err := os.ReadFile(dir + "/limits")
	open, err2 := os.ReadDir(dir + "/fd")
	if pid == 0 || err != nil || err2 != nil {
		return
	}
	h.Files, h.FilesMax = len(open), parseFiles(string(limits))
}

// parseFiles reads the limit of open files; 0: none, or not known.
func parseFiles(limits string) int {
	for line := range strings.Lines(limits) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if words := strings.Fields(rest); len(words) > 0 {
				n, _ := strconv.Atoi(words[0])
				return n
			}
		}
	}
	return 0
}

// parseNetstat finds a counter in /proc/net/netstat: lines in pairs, of names and of numbers.
func parseNetstat(text, name string) uint64 {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if j := slices.Index(names, name); j >= 0 && j < len(values) {
			n, _ := strconv.ParseUint(values[j], 10, 64)
			return n
		}
	}
	return 0
}
