package fastpath

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/cilium/ebpf"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// Flags of a peer, as in fast.c.
const (
	peerIPv6 = 1 << iota
	peerLone
	peerInheritTTL
	peerInheritTOS
	peerNoSum
	peerCuts
	peerNext
	peerNext6
)

// Set implements netio.FastPath.
func (p *Path) Set(t netio.FastTunnel) map[int32]netio.FastCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.tunnels[t.Port]
	if now == nil {
		now = &tunnel{peers: make(map[int32]bpfPeer), admits: make(map[bpfAdmit]bpfAdmitted)}
		p.tunnels[t.Port] = now
	}
	if now.tap && now.Ifindex != t.Ifindex {
		p.withdraw(now)
	}
	now.FastTunnel = t
	p.changed = true
	p.poke()
	return p.bring(now)
}

// Remove implements netio.FastPath.
func (p *Path) Remove(port uint32) map[int32]netio.FastCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tunnels[port]
	if t == nil {
		return nil
	}
	if p.leaving { // it is carried on
		last := make(map[int32]netio.FastCounts)
		for id := range t.peers {
			p.last(id, last)
		}
		return last
	}
	t.Peers = nil
	last := p.bring(t)
	p.withdraw(t)
	delete(p.tunnels, port)
	p.changed = true
	p.poke()
	return last
}

// apply brings all tunnels into the maps as they are to be now: a device may have become
// able to cut, or rules may have come or gone.
func (p *Path) apply() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.tunnels {
		p.bring(t)
	}
}

// bring makes the maps say what a tunnel is to have: first goes what goes, then comes what
// comes. It returns the last counters of peers that were removed. What does not find room
// stays with userspace. p.mu is held.
func (p *Path) bring(t *tunnel) (last map[int32]netio.FastCounts) {
	k := p.kernel
	if k == nil {
		return nil
	}
	served := !t.Cautious || p.rules == ""
	peers, admits := make(map[int32]bpfPeer, len(t.Peers)), make(map[bpfAdmit]bpfAdmitted, len(t.Peers))
	for i := range t.Peers {
		fp := &t.Peers[i]
		d := p.under[fp.Ifindex]
		peers[fp.ID] = inKernel(fp, d == nil || !d.bulk)
		if !served {
			continue
		}
		for _, a := range fp.Admit {
			admits[admitOf(fp, a)] = bpfAdmitted{Peer: fp.ID, Port: t.Port, Tap: uint32(t.Ifindex), Limited: boolean(fp.FloodLimited)}
		}
	}
	if !served {
		p.withdraw(t)
	}
	for key := range t.admits {
		if _, stays := admits[key]; !stays {
			p.must(k.Admits.Delete(key))
		}
	}
	for id := range t.peers {
		if _, stays := peers[id]; stays {
			continue
		}
		p.must(k.Peers.Delete(id))
		if last == nil {
			last = make(map[int32]netio.FastCounts)
		}
		p.last(id, last)
		p.uncount(id)
	}
	for id, peer := range peers {
		before, there := t.peers[id]
		if !there {
			p.must(k.Counts.Update(id, make([]bpfTraffic, ebpf.MustPossibleCPU()), ebpf.UpdateNoExist))
		}
		if !there || before != peer {
			p.must(k.Peers.Put(id, peer))
		}
	}
	for key, value := range admits {
		if before, there := t.admits[key]; !there || before != value {
			p.must(k.Admits.Put(key, value))
		}
	}
	t.peers, t.admits = peers, admits
	if served {
		p.announce(t)
	}
	return last
}

// announce has frames of a tunnel's device looked at. p.mu is held.
func (p *Path) announce(t *tunnel) {
	if t.mac != t.MAC {
		if !t.mac.IsZero() {
			p.must(p.kernel.Fdb.Delete(stationOf(t.Port, t.mac)))
		}
		p.must(p.kernel.Fdb.Put(stationOf(t.Port, t.MAC), bpfPlace{}))
		t.mac = t.MAC
	}
	if !t.tap {
		p.must(p.kernel.Taps.Put(uint32(t.Ifindex), bpfTap{Port: t.Port}))
		t.tap = true
	}
}

// withdraw has frames of a tunnel's device looked at no longer. p.mu is held.
func (p *Path) withdraw(t *tunnel) {
	if t.tap && p.kernel != nil {
		p.must(p.kernel.Taps.Delete(uint32(t.Ifindex)))
		t.tap = false
	}
}

// must keeps the error of a change of a map for State. That an entry to be removed is not
// there is none; without the one that was to be made, packets go to userspace.
func (p *Path) must(err error) {
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && p.fault == nil {
		p.fault = err
	}
}

func boolean(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func stationOf(port uint32, mac packet.MAC) bpfStation { return bpfStation{Port: port, Mac: mac} }

// words are the bytes of an address as they lie in memory, IPv4 mapped.
func words(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// raw is a number in network byte order as it lies in memory.
func raw(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

func admitOf(fp *netio.FastPeer, a netio.FastAdmission) bpfAdmit {
	return bpfAdmit{
		Src: words(fp.Remote.Addr().WithZone("")), Dst: words(a.Local.WithZone("")),
		Vni:     binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, a.VNI<<8)),
		Ifindex: uint32(fp.Ifindex), Dport: raw(a.Port),
	}
}

// inKernel is a peer as the programs have it.
func inKernel(fp *netio.FastPeer, lone bool) bpfPeer {
	to := fp.Remote.Addr()
	b := bpfPeer{
		Ifindex: uint32(fp.Ifindex), Mark: fp.Mark, Limit: uint32(fp.Limit),
		Dport: raw(fp.Remote.Port()), Ttl: fp.TTL, Tos: fp.TOS, Count: uint8(len(fp.Ports)),
	}
	src, dst := words(fp.Source), words(to.WithZone(""))
	b.Path = uint16(dst[3] * 2654435761 >> 22)
	if to.Is4() {
		src, dst = [4]uint32{src[3]}, [4]uint32{dst[3]}
	} else {
		b.Flags |= peerIPv6
	}
	b.Src, b.Dst = src, dst
	if fp.NextHop.IsValid() {
		b.Next = words(fp.NextHop)
		if fp.NextHop.Is4() {
			b.Next = [4]uint32{b.Next[3]}
		}
	}
	sum := uint64(raw(17)) + uint64(b.Dport)
	for i := range b.Header {
		b.Header[i] = binary.NativeEndian.Uint32(fp.Header[4*i:])
		sum += uint64(b.Header[i])
	}
	for i := range src {
		sum += uint64(src[i]) + uint64(dst[i])
	}
	for sum>>32 != 0 {
		sum = sum&0xffffffff + sum>>32
	}
	b.Sum = uint32(sum)
	for _, f := range []struct {
		flag uint8
		set  bool
	}{
		{peerLone, lone}, {peerInheritTTL, fp.InheritTTL}, {peerInheritTOS, fp.InheritTOS}, {peerNoSum, fp.NoChecksum}, {peerCuts, fp.MayCut},
		{peerNext, fp.NextHop.IsValid()}, {peerNext6, fp.NextHop.Is6()},
	} {
		if f.set {
			b.Flags |= f.flag
		}
	}
	for i, port := range fp.Ports {
		b.Ports[i] = raw(port)
	}
	return b
}
