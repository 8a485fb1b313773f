package config

import (
	"net/netip"
)

// claims are what tunnels have for themselves.
type claims struct {
	names   map[string]place
	peers   map[admission]claimant
	sockets map[listening]bool
	inOrder []claimedSocket
}

type claimedSocket struct {
	listening
	by claimant
}

type claimant struct {
	tunnel string
	place
}

// listening names receive sockets.
type listening struct {
	local     netip.Addr
	port      uint16
	dev       string
	zeroCsum6 bool
}

// admission is by what a packet is known to be for a tunnel.
type admission struct {
	listening
	vni    uint32
	remote netip.Addr
}

func newClaims() claims {
	return claims{names: map[string]place{}, peers: map[admission]claimant{}, sockets: map[listening]bool{}}
}

// claim finds the conflicts of a tunnel with those before it.
func (l *loader) claim(d definition, t *Tunnel) {
	name := d.place("name", 0)
	if other, ok := l.seen.names[t.Name]; ok {
		l.fault(name.file, name.at, "name: there is a tunnel %s already, in %s", t.Name, other.where())
		return
	}
	l.seen.names[t.Name] = name
	for _, s := range t.listens() {
		if l.seen.sockets[s] {
			continue
		}
		for _, other := range l.seen.inOrder {
			if other.excludes(s) {
				at := d.place("local", 0)
				l.fault(at.file, at.at, "local %s port %d cannot be bound beside local %s of tunnel %s (%s): give both the same local, dev and udp6zerocsumrx, or one another dstport",
					s.local, s.port, other.local, other.by.tunnel, other.by.where())
				break
			}
		}
		l.seen.sockets[s] = true
		l.seen.inOrder = append(l.seen.inOrder, claimedSocket{s, claimant{t.Name, name}})
	}
	for i, p := range t.Peers {
		for _, vni := range t.segments() {
			key := admission{t.listening(p.Remote), vni, p.Remote}
			if by, ok := l.seen.peers[key]; ok {
				at := d.place("remote", i)
				l.fault(at.file, at.at, "remote %s: tunnel %s (%s) has id %d with it on the same socket; one of id, remote, local and dstport must differ",
					p.Remote, by.tunnel, by.where(), vni)
				break
			}
			l.seen.peers[key] = claimant{t.Name, name}
		}
	}
}

// listening is where a tunnel hears a remote.
func (t *Tunnel) listening(remote netip.Addr) listening {
	local := t.Local
	if !local.IsValid() {
		local = anyOf(remote)
	}
	return listening{local, t.DstPort, t.Dev, t.AcceptZ6 && local.Is6()}
}

// listens is where a tunnel hears anybody: without local, two addresses.
func (t *Tunnel) listens() []listening {
	if t.Local.IsValid() {
		return []listening{t.listening(t.Local)}
	}
	return []listening{t.listening(netip.IPv4Unspecified()), t.listening(netip.IPv6Unspecified())}
}

// excludes reports whether the kernel refuses to bind one while the other is
// bound: the first socket of an address is bound without SO_REUSEPORT.
func (s listening) excludes(o listening) bool {
	return s.port == o.port && s.local.Is4() == o.local.Is4() &&
		(s.local == o.local || s.local.IsUnspecified() || o.local.IsUnspecified()) &&
		(s.dev == "" || o.dev == "" || s.dev == o.dev)
}
