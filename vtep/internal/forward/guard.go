package forward

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvtep/internal/packet"
)

// A bridge may join a tunnel device with the underlay. Then packets of the underlay come
// out of the device, as a bridge sends to all its ports what it has no entry for; and what
// is written to the device may come back as a datagram on the bridge. Neither shows by the
// device that a packet arrives on. It does show in the frames themselves, all of which
// pass here.

// Guard is what frames are compared with while a tunnel device and the underlay share a
// bridge. It is never changed once published.
type Guard struct {
	Listening Listening
	Remotes   Shards[Remote, []*PeerState] // not empty; those of one address have the same way
	Locals    *Locals                      // nil: not known, so that any may be one
}

// Listening is where datagrams for our sockets go, by address: unspecified is all addresses of
// this host.
type Listening map[netip.Addr]map[uint16]struct{}

// Add adds a socket.
func (l Listening) Add(a netip.Addr, port uint16) {
	if l[a] == nil {
		l[a] = make(map[uint16]struct{})
	}
	l[a][port] = struct{}{}
}

// on reports whether there is a socket for an address and a port, which may be any if it is not known.
func (l Listening) on(a netip.Addr, port uint16, known bool) bool {
	ports := l[a]
	if !known {
		return len(ports) > 0
	}
	_, ok := ports[port]
	return ok
}

// Locals are addresses of this host.
type Locals struct {
	hosts    map[netip.Addr]struct{}
	networks []netip.Prefix
}

// NewLocals makes them of what the kernel takes for local.
func NewLocals(prefixes []netip.Prefix) *Locals {
	l := &Locals{hosts: make(map[netip.Addr]struct{}, len(prefixes))}
	for _, p := range prefixes {
		if p.IsSingleIP() {
			l.hosts[p.Addr()] = struct{}{}
		} else {
			l.networks = append(l.networks, p)
		}
	}
	return l
}

func (l *Locals) have(a netip.Addr) bool {
	if l == nil {
		return true
	}
	if _, ok := l.hosts[a]; ok {
		return true
	}
	for _, p := range l.networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Ours reports whether a frame out of a device is a packet of this host to a peer. Sent
// to peers it would be wrapped again and again, by each as often as there are others. Of
// what goes there all counts: of fragments and IPsec the ports do not show.
func (g *Guard) Ours(frame []byte, h *packet.Headers) bool {
	if h.Version == 0 {
		return false
	}
	src, dst := innerAddresses(frame, h)
	return len(g.Remotes.Get(Remote{dst})) > 0 && !g.carried(dst) && g.Locals.have(src)
}

// ForUs reports whether a frame to a device may become a datagram to one of our sockets:
// tenants do not speak to us (RFC 8926 section 6.2).
func (g *Guard) ForUs(frame []byte, h *packet.Headers) bool {
	if h.Version == 0 {
		return h.Tags == 2 && isTag(h.EtherType) // what is behind the third does not show
	}
	port, udp, known := destinationPort(frame, h)
	if !udp {
		return false
	}
	src, dst := innerAddresses(frame, h)
	if g.carried(src) {
		return false // workers compare the device that its datagrams come from
	}
	every := netip.IPv6Unspecified()
	if dst.Is4() {
		every = netip.IPv4Unspecified()
	}
	return g.Listening.on(dst, port, known) || g.Listening.on(every, port, known) && g.Locals.have(dst)
}

// carried reports whether an address is that of a peer that is reached through another
// tunnel of ours, so that its datagrams are frames of that one.
func (g *Guard) carried(remote netip.Addr) bool {
	all := g.Remotes.Get(Remote{remote})
	return len(all) > 0 && all[0].Through.Load() != 0
}

func isTag(etherType uint16) bool {
	return etherType == packet.EtherTypeVLAN || etherType == packet.EtherTypeQinQ || etherType == 0x9100
}

// IPv6 extension headers (IANA protocol numbers).
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAH       = 51
	extDestOpts = 60
)

// destinationPort finds the UDP port in a packet, the first fragment of a packet included:
// without it the others are nothing. That it is not known means that it may be any.
func destinationPort(frame []byte, h *packet.Headers) (port uint16, udp, known bool) {
	transport := int(h.L4)
	ip := frame[h.L3:]
	switch {
	case transport != 0:
	case h.Version == 4:
		if !h.Fragment || binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
			return 0, false, false
		}
		transport = int(h.L3) + int(ip[0]&15)*4
	case h.Fragment && ip[6] == extFragment && len(ip) >= 48:
		if binary.BigEndian.Uint16(ip[42:])&^7 != 0 {
			return 0, false, false
		}
		transport = int(h.L3) + 48
	case h.Fragment:
		return 0, true, false // behind other extension headers
	}
	switch h.Proto {
	case packet.ProtoUDP:
		if transport == 0 || len(frame) < transport+4 {
			return 0, h.Fragment, false
		}
		return binary.BigEndian.Uint16(frame[transport+2:]), true, true
	case extHopByHop, extRouting, extDestOpts, extAH:
		return 0, h.Version == 6, false // more extension headers than we walk
	}
	return 0, false, false
}

// echoHold is how long a peer counts as joined with us beside the tunnel after it was
// last seen to be. What is sent all the time in every network, such as ARP, shows it.
const echoHold = 30 * time.Second

// Echoes reports whether the segment behind a peer is the network of the underlay itself,
// which both ends have in one bridge with the tunnel: then every broadcast goes round for
// ever. It shows by the address of the next hop to the peer, which is on that network: it
// speaks inside. fresh says that it shows for the first time.
func (from *Peer) Echoes(frame []byte, now int64) (yes, fresh bool) {
	hop := from.Hop.Load()
	if hop == 0 || len(frame) < EthernetLen {
		return false, false
	}
	if HopNumber(packet.MAC(frame[6:12])) == hop {
		last := from.Echoed.Swap(max(now, 1))
		return true, last == 0 || now-last > int64(echoHold)
	}
	return from.Echoing(now), false
}

// Echoing reports whether it has shown lately.
func (p *PeerState) Echoing(now int64) bool {
	last := p.Echoed.Load()
	return last != 0 && now-last <= int64(echoHold)
}

// HopNumber is an Ethernet address as Hop holds it.
func HopNumber(m packet.MAC) uint64 {
	return uint64(binary.BigEndian.Uint16(m[:]))<<32 | uint64(binary.BigEndian.Uint32(m[2:]))
}
