package tap

import (
	"bytes"
	"os"

	"github.com/vishvananda/netlink"
)

// IPv6 reports whether the device has IPv6 or may get it: the kernel has it, and it is
// not disabled on the device. A bridge port counts as one that has, for what is behind
// the bridge and the bridge itself. If it cannot be seen, the answer is yes.
func (d *Device) IPv6() (yes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	yes = true
	d.kernel(func(c *conn, link netlink.Link) error {
		if link.Attrs().MasterIndex != 0 {
			return nil
		}
		read := func() error {
			yes = ipv6Enabled(link.Attrs().Name)
			return nil
		}
		if c.ns.IsOpen() {
			return within(c.ns, read)
		}
		return read()
	})
	return yes
}

// ipv6Enabled reads the settings of the thread's network namespace. A device with an MTU
// below 1280 has none, and gets those of default with a larger one.
func ipv6Enabled(device string) bool {
	for _, name := range []string{device, "default"} {
		text, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
		if err == nil {
			return bytes.HasPrefix(text, []byte("0"))
		}
	}
	return false
}
