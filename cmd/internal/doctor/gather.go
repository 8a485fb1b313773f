package doctor

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
)

const (
	// listenFor is how long ARP is listened to on tunnel devices: longer than the second that
	// Linux waits between two requests.
	listenFor = 1200 * time.Millisecond
	// maxListen is on how many devices at most.
	maxListen = 256
)

// Gather is Look, after peers were asked by probes, and others on tunnel devices by ARP.
func Gather(ctx context.Context, c *control.Client, name, netns string) (*Facts, error) {
	tunnels, err := tunnelsOf(ctx, c, name)
	if err != nil {
		return nil, err
	}
	heard := &Facts{Tunnels: tunnels, Host: Host{Claims: map[string][]Claim{}, Addresses: map[string][]netip.Addr{}}}
	var asked sync.WaitGroup
	asked.Go(func() { heard.Probes = probes(ctx, c, tunnels) })
	heard.listen()
	asked.Wait()
	f, err := Look(ctx, c, name, netns) // with what came of it, such as ICMP
	if err != nil {
		return nil, err
	}
	f.Probes, f.Host.Claims, f.Host.Addresses = heard.Probes, heard.Host.Claims, heard.Host.Addresses
	return f, nil
}

func tunnelsOf(ctx context.Context, c *control.Client, name string) ([]control.Tunnel, error) {
	if name == "" {
		return c.Tunnels(ctx)
	}
	one, err := c.Tunnel(ctx, name)
	return []control.Tunnel{one}, err
}

// Look asks the daemon, and this host in the network namespace of the caller, which netns names, what is
// known without sending anything. name is a tunnel, "" stands for all. What the host does not tell is left out.
func Look(ctx context.Context, c *control.Client, name, netns string) (*Facts, error) {
	tunnels, err := tunnelsOf(ctx, c, name)
	if err != nil {
		return nil, err
	}
	f := &Facts{Tunnels: tunnels, Host: Host{Netns: netns, Neigh: map[netip.Addr]string{}, Routes: map[netip.Addr]Route{}, RPFilter: map[string]int{}}}
	f.Host.links()
	f.Host.sysctls()
	f.Host.Firewall = inputChains(ctx)
	for _, t := range tunnels {
		for _, p := range t.Gvtep.Peers {
			f.Host.route(p.Remote)
		}
	}
	f.Host.neighbours()
	f.devices()
	f.Status, err = c.Status(ctx, false)
	f.Host.process(f.Status.PID)
	return f, err
}

func (h *Host) links() {
	all, _ := netlink.LinkList()
	for _, l := range all {
		a := l.Attrs()
		link := Link{Name: a.Name, Kind: l.Type(), Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, Below: a.ParentIndex}
		switch l := l.(type) {
		case *netlink.Vxlan:
			link.Port = l.Port
		case *netlink.Geneve:
			link.Port = int(l.Dport)
		}
		h.Links = append(h.Links, link)
	}
}

// sysctls reads those that decide what arrives.
func (h *Host) sysctls() {
	number := func(path string) int {
		text, err := os.ReadFile("/proc/sys/net/" + path)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	h.RmemMax = number("core/rmem_max")
	if text, err := os.ReadFile("/proc/thread-self/net/netstat"); err == nil {
		h.Reversed = parseNetstat(string(text), "IPReversePathFilter")
	}
	all := number("ipv4/conf/all/rp_filter")
	for _, l := range h.Links {
		// The higher of both holds (ip-sysctl.rst).
		h.RPFilter[l.Name] = max(all, number("ipv4/conf/"+l.Name+"/rp_filter"))
	}
}

// inputChains names the chains of nftables that see what arrives, those of iptables-nft included.
func inputChains(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "nft", "list", "chains").Output()
	if err != nil {
		return nil
	}
	return parseChains(string(out))
}

// parseChains reads what nft lists: tables, in them chains, in these a line about the hook.
func parseChains(text string) (names []string) {
	table, chain := "", ""
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) >= 3 && words[0] == "table":
			table = words[1] + " " + words[2]
		case len(words) >= 2 && words[0] == "chain":
			chain = words[1]
		case len(words) > 4 && words[0] == "type" && words[2] == "hook" && (words[3] == "input" || words[3] == "prerouting" || words[3] == "ingress") && words[1] == "filter":
			names = append(names, table+" "+chain)
		}
	}
	return names
}

func (h *Host) route(to netip.Addr) {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 {
		return
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return
	}
	via, _ := netip.AddrFromSlice(routes[0].Gw)
	h.Routes[to] = Route{link.Attrs().Name, via.Unmap()}
}

// neighbours finds those that have not answered.
func (h *Host) neighbours() {
	all, _ := netlink.NeighList(0, 0)
	for _, n := range all {
		a, ok := netip.AddrFromSlice(n.IP)
		if !ok || n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(n.LinkIndex); err == nil {
			h.Neigh[a.Unmap()] = link.Attrs().Name
		}
	}
}

// listen asks by ARP who else has the addresses of tunnel devices, and hears what others say there
// meanwhile. In another namespace they cannot be asked.
func (f *Facts) listen() {
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, t := range f.Tunnels[:min(len(f.Tunnels), maxListen)] {
		link, err := net.InterfaceByName(t.Ifname)
		if t.Gvtep.Netns != "" || err != nil || len(link.HardwareAddr) != 6 || link.Flags&net.FlagUp == 0 {
			continue
		}
		ours := addressesOf(link)
		f.Host.Addresses[t.Ifname] = ours
		all.Go(func() {
			heard := listenARP(link, ours)
			mu.Lock()
			defer mu.Unlock()
			f.Host.Claims[t.Ifname] = heard
		})
	}
	all.Wait()
}

// addressesOf are the IPv4 addresses of a device.
func addressesOf(link *net.Interface) (all []netip.Addr) {
	addrs, _ := link.Addrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() {
				all = append(all, ip.Unmap())
			}
		}
	}
	return all
}

// listenARP sends a probe for each address (RFC 5227: the sender has none yet, so that no table
// changes) and returns what was heard.
func listenARP(link *net.Interface, probes []netip.Addr) (heard []Claim) {
	const arp = unix.ETH_P_ARP<<8&0xff00 | unix.ETH_P_ARP>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, arp)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: link.Index}) != nil {
		return nil
	}
	for _, a := range probes {
		unix.Sendto(fd, arpProbe(link.HardwareAddr, a), 0, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: link.Index})
	}
	buf := make([]byte, 128)
	for end := time.Now().Add(listenFor); time.Now().Before(end); {
		left := unix.NsecToTimeval(int64(time.Until(end)))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return heard
		}
		if c, ok := parseARP(buf[:n]); ok && !slices.Contains(heard, c) {
			heard = append(heard, c)
		}
	}
	return heard
}

// arpProbe is an Ethernet frame that asks for an address (RFC 826, Ethernet and IPv4).
func arpProbe(from net.HardwareAddr, to netip.Addr) []byte {
	b := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, from, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, from, make([]byte, 4), make([]byte, 6), to.AsSlice())
	return b
}

// parseARP reads an ARP packet of IPv4 on Ethernet.
func parseARP(b []byte) (c Claim, ok bool) {
	if len(b) < 42 || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_ARP || binary.BigEndian.Uint16(b[16:]) != 0x800 || b[18] != 6 || b[19] != 4 {
		return c, false
	}
	return Claim{netip.AddrFrom4([4]byte(b[28:32])), net.HardwareAddr(b[22:28]).String(), netip.AddrFrom4([4]byte(b[38:42]))}, true
}
