package speaker

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"gvtep/internal/evpn"
	"gvtep/internal/packet"
)

var (
	v4, v6 = netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("fd88::1")
	target = evpn.TargetOf(65000, 100)
	rd     = evpn.RDOf(v4, 100)
	mac    = packet.MAC{2, 0, 0, 0, 1, 16}
)

// samples are routes of every kind that we announce.
func samples() []evpn.Route {
	station := func(ip string, seq uint32) evpn.Key {
		return evpn.Key{Kind: evpn.MACIP, RD: rd, MAC: mac, IP: parse(ip)}
	}
	return []evpn.Route{
		{Key: evpn.Key{Kind: evpn.Multicast, RD: rd, IP: v4}, VNI: 100, NextHop: v4, Encap: evpn.Geneve, Targets: []evpn.Target{target}, Flooding: evpn.IngressReplication},
		{Key: evpn.Key{Kind: evpn.Multicast, RD: rd, IP: v6}, VNI: 0xfffffe, NextHop: v6, Encap: evpn.VXLAN, Targets: []evpn.Target{target}, Flooding: evpn.IngressReplication},
		{Key: station("", 0), VNI: 100, NextHop: v4, Encap: evpn.Geneve, Targets: []evpn.Target{target}},
		{Key: station("10.1.0.1", 7), VNI: 100, NextHop: v4, Encap: evpn.Geneve, Targets: []evpn.Target{target}, Seq: 7},
		{Key: station("fd10::1", 7), VNI: 100, NextHop: v6, Encap: evpn.VXLAN, Targets: []evpn.Target{target, {1, 2, 192, 0, 2, 1, 0, 9}, {2, 2, 250, 86, 234, 0, 0, 9}}, Seq: 7, Sticky: true},
		{Key: evpn.Key{Kind: evpn.Prefix, RD: rd, Net: netip.MustParsePrefix("172.20.1.0/24")}, VNI: 3000, NextHop: v4, Encap: evpn.Geneve, Targets: []evpn.Target{target}},
		{Key: evpn.Key{Kind: evpn.Prefix, RD: rd, Net: netip.MustParsePrefix("fd20::/48")}, VNI: 3000, NextHop: v6, Encap: evpn.VXLAN, Targets: []evpn.Target{target}, RouterMAC: mac},
	}
}

func parse(s string) (a netip.Addr) {
	if s != "" {
		a = netip.MustParseAddr(s)
	}
	return a
}

// update are the bytes of an UPDATE with a route.
func update(t testing.TB, r evpn.Route) []byte {
	t.Helper()
	p, err := encode(&r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	raw, err := bgp.NewBGPUpdateMessage(nil, p.Attrs, nil).Serialize()
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return raw
}

// received are the routes of an UPDATE, as the engine hands them over.
func received(raw []byte) (paths []*apiutil.Path) {
	m, err := bgp.ParseBGPMessage(raw)
	if err != nil {
		return nil
	}
	u, ok := m.Body.(*bgp.BGPUpdate)
	if !ok {
		return nil
	}
	for _, a := range u.PathAttributes {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			for _, n := range a.Value {
				paths = append(paths, &apiutil.Path{Family: bgp.NewFamily(a.AFI, a.SAFI), Nlri: n.NLRI, Attrs: u.PathAttributes})
			}
		case *bgp.PathAttributeMpUnreachNLRI:
			for _, n := range a.Value {
				paths = append(paths, &apiutil.Path{Family: bgp.NewFamily(a.AFI, a.SAFI), Nlri: n.NLRI, Withdrawal: true})
			}
		}
	}
	return paths
}

// TestCodec: what we announce is what another one of us reads, through the bytes on the wire.
func TestCodec(t *testing.T) {
	for _, want := range samples() {
		paths := received(update(t, want))
		if len(paths) != 1 {
			t.Errorf("%+v: %d routes", want, len(paths))
			continue
		}
		if have, ok := decode(paths[0]); !ok || !reflect.DeepEqual(have, want) {
			t.Errorf("\n%+v, want\n%+v", have, want)
		}
		paths[0].Withdrawal = true
		if have, ok := decode(paths[0]); !ok || have.Key != want.Key {
			t.Errorf("withdrawn: %+v, want %+v", have.Key, want.Key)
		}
	}
	bad := evpn.Route{Key: evpn.Key{Kind: 1}}
	if _, err := encode(&bad); err == nil {
		t.Error("a route of type 1 is announced")
	}
}

// TestOtherCommunities: an encapsulation that gvtep does not have is told from none at all.
func TestOtherCommunities(t *testing.T) {
	r := samples()[2]
	p, _ := encode(&r)
	for i, a := range p.Attrs {
		if _, ok := a.(*bgp.PathAttributeExtendedCommunities); ok {
			p.Attrs[i] = bgp.NewPathAttributeExtendedCommunities([]bgp.ExtendedCommunityInterface{
				bgp.NewEncapExtended(bgp.TUNNEL_TYPE_MPLS), bgp.NewEncapExtended(bgp.TUNNEL_TYPE_VXLAN), bgp.NewEncapExtended(bgp.TUNNEL_TYPE_GENEVE),
				bgp.NewDefaultGatewayExtended(),
			})
		}
	}
	if have, _ := decode(p); have.Encap != evpn.Other|evpn.VXLAN|evpn.Geneve || len(have.Targets) != 0 {
		t.Errorf("%+v", have)
	}
}

// FuzzUpdate: whatever a neighbour sends, the engine's parser, ours and the table take it.
func FuzzUpdate(f *testing.F) {
	for _, r := range samples() {
		f.Add(update(f, r))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		now := time.Unix(1e9, 0)
		table := evpn.New(evpn.Rules{AS: 65000, RouterID: v4, Moves: 5, Window: time.Minute}, now)
		us := netip.MustParseAddr("10.88.0.9")
		auto := evpn.Targets{Auto: true}
		table.SetSegments([]evpn.Segment{
			{VNI: 100, Dev: "gnv0", Local: us, Encap: evpn.Geneve, Targets: auto},
			{VNI: 3000, Dev: "gnv1", Local: us, Encap: evpn.Geneve, Targets: evpn.Targets{List: []evpn.Target{target}}, L3: true},
		}, now)
		table.Sessions(true, now)
		table.Learn(100, mac, 1, true, now)
		var keys []evpn.Key
		for _, p := range received(raw) {
			r, ok := decode(p)
			if !ok {
				continue
			}
			keys = append(keys, r.Key)
			if p.Withdrawal {
				table.Withdraw(r.Key, now)
			} else {
				table.Update(r, now)
			}
		}
		check := func(l evpn.Line) {
			if l.Dst != "" {
				if a, err := netip.ParseAddr(l.Dst); err != nil || !packet.IsStation(a) || a == us {
					t.Errorf("%+v", l)
				}
			}
		}
		for _, dev := range table.Devices() {
			table.Changes(dev, check)
		}
		for _, k := range keys {
			table.Withdraw(k, now)
		}
		table.Tick(now.Add(time.Minute), func(string, netip.Addr) (time.Duration, bool) { return 0, false })
		for _, dev := range table.Devices() {
			table.Changes(dev, check)
		}
		if kinds, _, leaving := table.Counts(); len(kinds)+leaving > 0 {
			t.Errorf("%v, %d leave, after all were withdrawn", kinds, leaving)
		}
	})
}
