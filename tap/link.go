package tap

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/packet"
)

// MTU limits of drivers/net/tun.c, and what IPv6 wants (RFC 8200 section 5).
const (
	minMTU     = 68
	maxMTU     = 65535
	etherLen   = 14
	minMTUIPv6 = 1280
)

func checkMTU(name string, l3 bool, mtu int) error {
	most, what := maxMTU-etherLen, "TAP"
	if l3 {
		most, what = maxMTU, "TUN"
	}
	if mtu < minMTU || mtu > most {
		return refuse(unix.EINVAL, "%s: MTU %d: a %s takes %d to %d", name, mtu, what, minMTU, most)
	}
	return nil
}

// configure moves the device to where it is wanted and sets what netlink
// sets, in the order that matters: the root qdisc before the first up, the
// addresses before up too, so that nothing leaves with another source.
func (s *setup) configure(from, there *conn, here netns.NsHandle) error {
	o, d := s.o, s.d
	link, err := from.device(o.Name)
	if err != nil {
		return err
	}
	if link.Queues > o.Queues {
		return busy(o.Name) // somebody else came since find
	}
	if from != there {
		if err := s.move(link, from, there, here); err != nil {
			return err
		}
		if link, err = there.device(o.Name); err != nil {
			return err
		}
	}

	was := *link.Attrs()
	steps, err := s.steps(link, was, there)
	if err != nil {
		return err
	}
	for _, st := range steps {
		if !st.wanted {
			continue
		}
		if err := s.do(st.what, st.do, st.undo); err != nil {
			return err
		}
	}
	return d.compare(there, was.Index)
}

// move moves the device to the namespace where it is wanted.
func (s *setup) move(link *netlink.Tuntap, from, there *conn, here netns.NsHandle) error {
	wasUp := link.RawFlags&unix.IFF_UP != 0
	return s.do("move to namespace "+s.o.Netns, func() error {
		return from.LinkSetNsFd(link, int(there.ns))
	}, func() error {
		if err := there.LinkSetNsFd(link, int(here)); err != nil || !wasUp {
			return err
		}
		return from.LinkSetUp(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: s.o.Name}})
	})
}

// master finds the bridge that a device is to join; nil: none.
func (c *conn) master(o *Options) (netlink.Link, error) {
	if o.Master == "" {
		return nil, nil
	}
	link, err := c.LinkByName(o.Master)
	if err != nil {
		return nil, fmt.Errorf("%s: no bridge %s to join: %w", o.Name, o.Master, unix.ENODEV)
	}
	return link, nil
}

// step is one setting of a device, and how to take it back.
type step struct {
	wanted   bool
	what     string
	do, undo func() error
}

// steps are the settings of a device that was as was, in the order that matters.
func (s *setup) steps(link *netlink.Tuntap, was netlink.LinkAttrs, there *conn) ([]step, error) {
	o := s.o
	master, err := there.master(o)
	if err != nil {
		return nil, err
	}
	isolated := false
	if s.adopted && was.MasterIndex != 0 && (master == nil || master.Attrs().Index == was.MasterIndex) {
		if port, err := there.LinkGetProtinfo(link); err == nil {
			isolated = port.Isolated
		}
	}
	root, chosen := there.rootQdisc(was.Index)
	noqueue := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: was.Index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  "noqueue",
	}
	steps := []step{
		// The default for a multi-queue device is mq with 256 children.
		{root != "noqueue" && !chosen, "root qdisc noqueue",
			func() error { return there.QdiscReplace(noqueue) },
			func() error { return there.QdiscDel(noqueue) }},
		{o.TxQueue != 0 && o.TxQueue != was.TxQLen, fmt.Sprintf("txqueuelen %d", o.TxQueue),
			func() error { return there.LinkSetTxQLen(link, o.TxQueue) },
			func() error { return there.LinkSetTxQLen(link, was.TxQLen) }},
		{o.MTU != 0 && o.MTU != was.MTU, fmt.Sprintf("MTU %d", o.MTU),
			func() error { return there.LinkSetMTU(link, o.MTU) },
			func() error { return there.LinkSetMTU(link, was.MTU) }},
		{!o.LLAddr.IsZero() && o.LLAddr != hardware(link), fmt.Sprintf("link-layer address %s", o.LLAddr),
			func() error { return there.LinkSetHardwareAddr(link, o.LLAddr[:]) },
			func() error { return there.LinkSetHardwareAddr(link, was.HardwareAddr) }},
	}
	for _, p := range o.Addresses {
		steps = append(steps, step{true, "address " + p.String(),
			func() error { return there.addAddress(link, p, cmp.Or(o.MTU, was.MTU)) },
			func() error { return there.AddrDel(link, address(p)) }})
	}
	return append(steps,
		step{master != nil && master.Attrs().Index != was.MasterIndex, "join " + o.Master,
			func() error { return there.LinkSetMaster(link, master) },
			func() error { return there.LinkSetMasterByIndex(link, was.MasterIndex) }},
		step{o.Isolated != isolated, "isolated",
			func() error {
				joined, err := there.device(o.Name) // it may have joined a moment ago
				if err != nil {
					return err
				}
				return there.isolate(joined, o.Isolated)
			},
			func() error { return there.LinkSetIsolated(link, isolated) }},
		step{!o.Down && was.RawFlags&unix.IFF_UP == 0, "up",
			func() error { return there.LinkSetUp(link) },
			func() error { return there.LinkSetDown(link) }},
	), nil
}

// errPresent says that a step found its work done by others: no undo.
var errPresent = errors.New("present")

// do takes one step. Without CAP_NET_ADMIN an adopted device may be used but
// not changed; its maker has then to set it up, and Refused tells.
func (s *setup) do(what string, do, undo func() error) error {
	err := do()
	switch {
	case err == nil:
		if s.adopted {
			s.undo = append(s.undo, undo)
		}
		return nil
	case err == errPresent:
		return nil
	}
	err = fmt.Errorf("%s: %s: %w", s.o.Name, what, err)
	if s.adopted && errors.Is(err, unix.EPERM) {
		s.d.refused = append(s.d.refused, err)
		return nil
	}
	return err
}

// device finds one of our devices again.
func (c *conn) device(name string) (*netlink.Tuntap, error) {
	link, err := c.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s: netlink: %w", name, unix.ENODEV)
	}
	tun, ok := link.(*netlink.Tuntap)
	if !ok {
		return nil, refuse(unix.ENODEV, "%s is gone and its name taken by a %s", name, describe(link))
	}
	return tun, nil
}

// isolate sets or clears the flag of a bridge port.
func (c *conn) isolate(link netlink.Link, on bool) error {
	switch err := canIsolate(link); {
	case err == nil:
		return c.LinkSetIsolated(link, on)
	case on:
		return err
	}
	return nil
}

func canIsolate(link netlink.Link) error {
	if link.Attrs().MasterIndex == 0 {
		return refuse(unix.EINVAL, "%s is in no bridge to be isolated in: give it a master", link.Attrs().Name)
	}
	return nil
}

// addAddress adds one address. Duplicate address detection would keep an
// IPv6 address unusable for a second after every start.
func (c *conn) addAddress(link netlink.Link, p netip.Prefix, mtu int) error {
	err := c.AddrAdd(link, address(p))
	switch {
	case errors.Is(err, unix.EEXIST):
		return errPresent
	case err == nil || p.Addr().Is4():
		return err
	case mtu < minMTUIPv6:
		return fmt.Errorf("IPv6 needs an MTU of %d or more: %w", minMTUIPv6, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("IPv6 is disabled there (sysctl net.ipv6.conf.*.disable_ipv6): %w", err)
	}
	return err
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// rootQdisc returns the kind of the root qdisc, and whether somebody chose it:
// only then it has a handle. It asks for this one; the list that the netlink
// package offers is that of all devices of the namespace. Before the first up
// there is none.
func (c *conn) rootQdisc(ifindex int) (kind string, chosen bool) {
	// ECHO, as the kernel treats its answer as a notification. ACK, as there
	// is no other answer before the first up: noop is not shown.
	req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_ECHO|unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(ifindex), Parent: netlink.HANDLE_ROOT})
	replies, err := c.execute(req, unix.RTM_NEWQDISC)
	if err != nil || len(replies) == 0 {
		return "", false
	}
	msg := nl.DeserializeTcMsg(replies[0])
	attrs, err := nl.ParseRouteAttr(replies[0][msg.Len():])
	if err != nil {
		return "", false
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.TCA_KIND {
			kind = nl.BytesToString(a.Value)
		}
	}
	return kind, msg.Handle != 0
}

// deleteGroup deletes all links of a group.
func (c *conn) deleteGroup(group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := c.execute(req, 0)
	return err
}

// hardware is the link-layer address of a TAP, zero for a TUN.
func hardware(link netlink.Link) (m packet.MAC) {
	if a := link.Attrs().HardwareAddr; len(a) == len(m) {
		copy(m[:], a)
	}
	return m
}
