package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"gvtep/internal/packet"
)

// wrong is the second half of an error line; entry.give puts keyword and
// value before it.
func wrong(format string, args ...any) error { return fmt.Errorf(format, args...) }

const wantPort = "a UDP port is 1 to 65535"

// parseNumber reads a decimal, 0x or 0 octal number, as iproute2 does.
func parseNumber(s string, lo, hi int, want string) (int, error) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil || strings.Contains(s, "_") || n < uint64(lo) || n > uint64(hi) {
		return 0, wrong("%s", want)
	}
	return int(n), nil
}

// isNumber reports whether parseNumber may read it.
func isNumber(s string) bool {
	_, err := parseNumber(s, 0, 1<<62, "")
	return err == nil
}

func itoa(n int) string { return strconv.Itoa(n) }

func parseSwitch(v string) (bool, error) {
	switch v {
	case "on", "true":
		return true, nil
	case "off", "false":
		return false, nil
	}
	return false, wrong("want on or off")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// address reads an address that a socket can be bound to.
func address(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, notAddress(s)
	case a.Zone() != "":
		return a, wrong("write the address without zone, and dev %s", a.Zone())
	case a.Is4In6():
		return a, wrong("an IPv4 address, write %s", a.Unmap())
	case a.IsMulticast():
		return a, wrong("a multicast address, want that of one host")
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, wrong("the broadcast address, want that of one host")
	}
	return a, nil
}

// notAddress says what to write instead of what is not an address alone.
func notAddress(s string) error {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return wrong("an address and a port: write %s alone, and dstport %d", ap.Addr(), ap.Port())
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return wrong("a prefix: write %s alone", p.Addr())
	}
	return wrong("not an IP address (names are not looked up)")
}

// remote reads the address of a peer.
func remote(s string) (netip.Addr, error) {
	a, err := address(s)
	if err == nil && a.IsUnspecified() {
		return a, wrong("no host, want the address of the other end")
	}
	return a, err
}

func isMAC(s string) bool {
	_, err := packet.ParseMAC(s)
	return err == nil
}

func lladdr(v string) (packet.MAC, error) {
	mac, err := packet.ParseMAC(v)
	switch {
	case err != nil:
		return mac, wrong("want an Ethernet address, such as 02:00:00:00:0a:01")
	case mac.IsGroup():
		return mac, wrong("a group address, the first byte must be even")
	case mac.IsZero():
		return mac, wrong("not the address of a device")
	}
	return mac, nil
}

// entryAddress reads the address of an entry of a forwarding table.
func entryAddress(v string) (packet.MAC, error) {
	mac, err := packet.ParseMAC(v)
	switch {
	case err != nil:
		return mac, wrong("want an Ethernet address, such as 02:00:00:00:0a:01")
	case mac.IsZero():
		return mac, wrong("this is the flood list: write a peer")
	}
	return mac, nil
}

// zeroAddress stands for the flood list where bridge(8) shows a table.
const zeroAddress = "00:00:00:00:00:00"

func deviceName(v string) (string, error) { return v, CheckDevice(v) }

func netnsName(v string) (string, error) {
	odd := strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) })
	if odd || v == "." || v == ".." || strings.Contains(v, "/") && v[0] != '/' {
		return "", wrong("want a name as ip netns has it, or an absolute path")
	}
	return v, nil
}

// label checks what people call something: it is shown on their terminals.
func label(v string) (string, error) {
	if len(v) > 64 || strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", wrong("want at most 64 bytes of text that can be printed")
	}
	return v, nil
}

// CheckDevice reports why name cannot be the name of a network device. The
// rules are dev_valid_name of the kernel's net/core/dev.c; "%" is refused as
// well, which the tun driver would take as a template.
func CheckDevice(name string) error {
	var why string
	switch {
	case name == "":
		why = "is empty"
	case len(name) > 15:
		why = fmt.Sprintf("has %d bytes, at most 15 are possible", len(name))
	case name == "." || name == "..":
		why = "is reserved"
	case name == "all" || name == "default":
		why = "is reserved (/proc/sys/net has directories of this name)"
	}
	for _, b := range []byte(name) {
		if why == "" && (b <= ' ' || b == 0x7f || strings.IndexByte("/:%", b) >= 0) {
			why = fmt.Sprintf("contains %q", b)
		}
	}
	if why != "" {
		return fmt.Errorf("device name %q %s", name, why)
	}
	return nil
}

// CheckInstance reports why name cannot be the name of an instance, which is
// that of a directory.
func CheckInstance(name string) error {
	bad := name == "" || name == "." || name == ".." || len(name) > 64
	for _, b := range []byte(name) {
		bad = bad || b <= ' ' || b == 0x7f || b == '/'
	}
	if bad {
		return fmt.Errorf("instance name %q: want 1 to 64 characters without space and slash", name)
	}
	return nil
}

// parseSize reads a number of bytes up to 1 GiB: 65536, 64K, 64KiB, 8MiB.
// Units are powers of 1024, whether written K or KiB.
func parseSize(s string) (int, error) {
	digits := strings.TrimRight(strings.TrimSuffix(s, "iB"), "KMGkmg")
	unit := strings.ToUpper(strings.TrimSuffix(s[len(digits):], "iB"))
	shift, known := map[string]int{"": 0, "K": 10, "M": 20, "G": 30}[unit]
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || !known || n > 1<<30>>shift {
		return 0, wrong("want a size up to 1GiB, such as 8MiB")
	}
	return int(n) << shift, nil
}

// formatSize is the shortest text that parseSize reads as n.
func formatSize(n int) string {
	unit := 0
	for n != 0 && n%1024 == 0 && unit < 3 {
		n, unit = n/1024, unit+1
	}
	return itoa(n) + []string{"", "KiB", "MiB", "GiB"}[unit]
}
