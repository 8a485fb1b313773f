// Package netwatch tells which stations are behind the ports of a bridge, which IP addresses they
// use, and what links there are: by netlink, and by the ARP and ND that leave through a device.
package netwatch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// Station is an address that a bridge has behind one of its ports.
type Station struct {
	Bridge int // index of the bridge, as Port of the port; they are the same for the bridge itself
	Port   int
	MAC    packet.MAC
	VLAN   uint16 // 0 of a bridge that does not filter VLANs
}

// Binding is an IP address with the MAC address that it has on a link.
type Binding struct {
	Link int
	IP   netip.Addr
	MAC  packet.MAC
}

// Sink takes what happens. Its methods are called by one goroutine, Bound by several.
type Sink interface {
	// Begin is followed by all stations that there are, and then End: what was not named is gone.
	Begin()
	End()
	Station(s Station, gone bool)
	Bound(b Binding)
}

// again is how often everything is read anew, in case something was missed.
const again = time.Minute

// Watch tells sink until ctx ends. When messages were lost it begins anew, and when somebody asks by anew.
func Watch(ctx context.Context, sink Sink, anew <-chan struct{}) error {
	for {
		err := watch(ctx, sink, anew)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("netlink: %w", err)
		}
	}
}

func watch(ctx context.Context, sink Sink, anew <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, again)
	defer cancel()
	updates := make(chan netlink.NeighUpdate, 1024)
	failed := make(chan error, 1)
	err := netlink.NeighSubscribeWithOptions(updates, ctx.Done(), netlink.NeighSubscribeOptions{
		ReceiveBufferSize: 4 << 20,
		ErrorCallback: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() { // until the subscription has ended
		cancel()
		drain(updates)
	}()
	if err := snapshot(sink); err != nil {
		return err
	}
	for {
		select {
		case u, open := <-updates:
			if !open {
				select {
				case err := <-failed:
					return err
				default:
					return nil
				}
			}
			tell(sink, u.Neigh, u.Type == unix.RTM_DELNEIGH)
		case <-anew:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func snapshot(sink Sink) error {
	stations, err := netlink.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return err
	}
	sink.Begin()
	for _, n := range stations {
		tell(sink, n, false)
	}
	sink.End()
	neighbours, err := netlink.NeighList(0, unix.AF_UNSPEC)
	for _, n := range neighbours {
		tell(sink, n, false)
	}
	return err
}

func tell(sink Sink, n netlink.Neigh, gone bool) {
	if len(n.HardwareAddr) != 6 {
		return
	}
	mac := packet.MAC(n.HardwareAddr)
	switch n.Family {
	case unix.AF_BRIDGE:
		// Permanent ones are the ports' own addresses, and those with the flag self a device's, not
		// the bridge's.
		if n.MasterIndex == 0 || n.Flags&netlink.NTF_SELF != 0 || n.State&netlink.NUD_PERMANENT != 0 || mac.IsGroup() {
			return
		}
		sink.Station(Station{Bridge: n.MasterIndex, Port: n.LinkIndex, MAC: mac, VLAN: uint16(n.Vlan)}, gone)
	case unix.AF_INET, unix.AF_INET6:
		const valid = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
		ip, ok := netip.AddrFromSlice(n.IP)
		if ok && !gone && n.State&valid != 0 && packet.IsStation(ip.Unmap()) {
			sink.Bound(Binding{Link: n.LinkIndex, IP: ip.Unmap(), MAC: mac})
		}
	}
}

// Forget removes a station from its bridge, if it is still behind that port.
func Forget(s Station) error {
	err := netlink.NeighDel(&netlink.Neigh{
		LinkIndex: s.Port, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, Vlan: int(s.VLAN), HardwareAddr: net.HardwareAddr(s.MAC[:]),
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Link is what a device is.
type Link struct {
	Index, Master int
	MAC           packet.MAC
	Addrs         []netip.Addr // of global scope
	VLANs         bool         // of a bridge: it filters them
	PVID          uint16       // of a port of such a bridge; 0: none
}

// Own reads a device, and the bridge that it is a port of; bridge.Index is 0 if there is none.
func Own(name string) (dev, bridge Link, err error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return dev, bridge, err
	}
	if dev, err = linkOf(l); err != nil || dev.Master == 0 {
		return dev, bridge, err
	}
	if l, err = netlink.LinkByIndex(dev.Master); err != nil {
		return dev, bridge, err
	}
	b, isBridge := l.(*netlink.Bridge)
	if !isBridge { // a VRF, say
		dev.Master = 0
		return dev, bridge, nil
	}
	if bridge, err = linkOf(l); err != nil {
		return dev, bridge, err
	}
	if b.VlanFiltering == nil || !*b.VlanFiltering {
		return dev, bridge, nil
	}
	bridge.VLANs = true
	all, err := netlink.BridgeVlanList()
	for _, v := range all[int32(dev.Index)] {
		if v.PortVID() {
			dev.PVID = v.Vid
		}
	}
	return dev, bridge, err
}

func linkOf(l netlink.Link) (Link, error) {
	a := l.Attrs()
	out := Link{Index: a.Index, Master: a.MasterIndex}
	if len(a.HardwareAddr) == 6 {
		out.MAC = packet.MAC(a.HardwareAddr)
	}
	addrs, err := netlink.AddrList(l, unix.AF_UNSPEC)
	for _, x := range addrs {
		if ip, ok := netip.AddrFromSlice(x.IP); ok && x.Scope == unix.RT_SCOPE_UNIVERSE {
			out.Addrs = append(out.Addrs, ip.Unmap())
		}
	}
	return out, err
}

// Links calls changed after links or addresses changed, until ctx ends or messages were lost.
func Links(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	links, addrs := make(chan netlink.LinkUpdate, 256), make(chan netlink.AddrUpdate, 256)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		cancel()
		return fmt.Errorf("netlink: %w", err)
	}
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		cancel()
		close(addrs)
		drain(links)
		return fmt.Errorf("netlink: %w", err)
	}
	defer func() { // until the subscriptions have ended
		cancel()
		go drain(addrs)
		drain(links)
	}()
	for open := true; open; changed() {
		select {
		case _, open = <-links:
		case _, open = <-addrs:
		}
	}
	return nil
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
