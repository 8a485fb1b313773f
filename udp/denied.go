package udp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// denied adds to an error of bind what a port that not everybody may take needs
// (ip(7)). Other errors stay as they are.
func denied(port uint16, err error) error {
	if !errors.Is(err, unix.EACCES) {
		return err
	}
	start := 1024                                                                 // PROT_SOCK
	text, readErr := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start") // for IPv6 too
	if n, numErr := strconv.Atoi(string(bytes.TrimSpace(text))); readErr == nil && numErr == nil {
		start = n
	}
	if int(port) >= start {
		return err
	}
	return fmt.Errorf("%w: ports below %d need the capability CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit), or sysctl net.ipv4.ip_unprivileged_port_start=%d", err, start, port)
}
