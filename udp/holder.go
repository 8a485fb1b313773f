package udp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder names the process whose UDP socket keeps us from binding addr and port, as far as we
// have the rights to see it.
func holder(addr netip.Addr, port uint16) string {
	// thread-self: a thread may be in another namespace than the process.
	tables := []string{"/proc/thread-self/net/udp6"}
	if addr.Is4() {
		// A dual-stack IPv6 socket holds IPv4 ports too.
		tables = []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"}
	}
	for _, table := range tables {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		if inode, ok := findSocket(text, addr, port); ok {
			return owner(inode)
		}
	}
	return "another socket"
}

// findSocket looks through the text of /proc/net/udp or udp6 for a socket with
// this port whose address overlaps addr, and returns its inode number.
func findSocket(table []byte, addr netip.Addr, port uint16) (inode uint64, ok bool) {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) < 10 {
			continue
		}
		at, ok := parseProcAddr(f[1])
		if !ok || at.Port() != port {
			continue
		}
		a := at.Addr().Unmap()
		if a != addr.WithZone("") && !a.IsUnspecified() && !addr.IsUnspecified() {
			continue
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		return inode, err == nil
	}
	return 0, false
}

// parseProcAddr reads ADDR:PORT in hex, the address as 32-bit words in host
// byte order (net/ipv4/udp.c udp4_format_sock, net/ipv6/datagram.c).
func parseProcAddr(s string) (netip.AddrPort, bool) {
	a, p, _ := strings.Cut(s, ":")
	port, err := strconv.ParseUint(p, 16, 16)
	b, err2 := hex.DecodeString(a)
	if err != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr, uint16(port)), true
}

const thisProcess = "this process"

// owner finds the process that has the socket with this inode open.
func owner(inode uint64) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	hidden := false
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		fds, err := os.ReadDir(dir + "/fd")
		if os.IsPermission(err) {
			hidden = true
		}
		for _, fd := range fds {
			if target, err := os.Readlink(dir + "/fd/" + fd.Name()); err != nil || target != want {
				continue
			}
			comm, _ := os.ReadFile(dir + "/comm")
			pid := filepath.Base(dir)
			name := strings.TrimSpace(string(comm))
			if pid == strconv.Itoa(os.Getpid()) {
				return fmt.Sprintf("%s, pid %s (%s)", thisProcess, pid, name)
			}
			return fmt.Sprintf("pid %s (%s)", pid, name)
		}
	}
	if hidden {
		return "a process of another user, or the kernel (ask as root to see which)"
	}
	return "the kernel (a geneve or vxlan device?)"
}
