// Package speaker is the BGP side of gvtep-evpn: GoBGP's server, which keeps the sessions, and
// what turns its routes into ours.
package speaker

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"gvtep/internal/evpn"
	"gvtep/internal/packet"
)

// keyOf reads what a route is about; false: of a type that is not for us, or malformed.
func keyOf(nlri bgp.NLRI) (r evpn.Route, ok bool) {
	n, isEVPN := nlri.(*bgp.EVPNNLRI)
	if !isEVPN || n.RouteTypeData == nil {
		return r, false
	}
	var rd bgp.RouteDistinguisherInterface
	switch e := n.RouteTypeData.(type) {
	case *bgp.EVPNMacIPAdvertisementRoute:
		if len(e.MacAddress) != 6 || e.MacAddressLength != 48 || len(e.Labels) == 0 {
			return r, false
		}
		rd = e.RD
		r.Key = evpn.Key{Kind: evpn.MACIP, Tag: e.ETag, MAC: packet.MAC(e.MacAddress), IP: e.IPAddress.Unmap()}
		r.VNI = e.Labels[0]
	case *bgp.EVPNMulticastEthernetTagRoute:
		rd = e.RD
		r.Key = evpn.Key{Kind: evpn.Multicast, Tag: e.ETag, IP: e.IPAddress.Unmap()}
	case *bgp.EVPNIPPrefixRoute:
		net, err := e.IPPrefix.Prefix(int(e.IPPrefixLength))
		if err != nil {
			return r, false
		}
		rd = e.RD
		r.Key = evpn.Key{Kind: evpn.Prefix, Tag: e.ETag, Net: net}
		r.VNI = e.Label
		if e.GWIPAddress.IsValid() && !e.GWIPAddress.IsUnspecified() {
			r.Gateway = e.GWIPAddress
		}
	default:
		return r, false
	}
	if rd == nil {
		return r, false
	}
	raw, err := rd.Serialize()
	if err != nil || len(raw) != len(r.RD) {
		return r, false
	}
	r.RD = evpn.RD(raw)
	return r, true
}

// decode reads a route that was received.
func decode(p *apiutil.Path) (r evpn.Route, ok bool) {
	if r, ok = keyOf(p.Nlri); !ok || p.Withdrawal {
		return r, ok
	}
	for _, a := range p.Attrs {
		switch a := a.(type) {
		case *bgp.PathAttributeMpReachNLRI:
			r.NextHop = a.Nexthop.Unmap()
		case *bgp.PathAttributeNextHop:
			if !r.NextHop.IsValid() {
				r.NextHop = a.Value.Unmap()
			}
		case *bgp.PathAttributePmsiTunnel:
			r.Flooding = uint8(a.TunnelType)
			if r.Kind == evpn.Multicast {
				r.VNI = a.Label
			}
		case *bgp.PathAttributeExtendedCommunities:
			for _, c := range a.Value {
				community(&r, c)
			}
		}
	}
	return r, true
}

func community(r *evpn.Route, c bgp.ExtendedCommunityInterface) {
	switch c := c.(type) {
	case *bgp.EncapExtended:
		switch c.TunnelType {
		case bgp.TUNNEL_TYPE_VXLAN:
			r.Encap |= evpn.VXLAN
		case bgp.TUNNEL_TYPE_GENEVE:
			r.Encap |= evpn.Geneve
		default:
			r.Encap |= evpn.Other
		}
	case *bgp.MacMobilityExtended:
		r.Seq, r.Sticky = c.Sequence, c.IsSticky
	case *bgp.RouterMacExtended:
		if len(c.Mac) == 6 {
			r.RouterMAC = packet.MAC(c.Mac)
		}
	case *bgp.TwoOctetAsSpecificExtended, *bgp.FourOctetAsSpecificExtended, *bgp.IPv4AddressSpecificExtended:
		if _, sub := c.GetTypes(); sub != bgp.EC_SUBTYPE_ROUTE_TARGET {
			return
		}
		if raw, err := c.Serialize(); err == nil && len(raw) == 8 {
			r.Targets = append(r.Targets, evpn.Target(raw))
		}
	}
}

// encode makes a path of a route of ours.
func encode(r *evpn.Route) (*apiutil.Path, error) {
	nlri, err := nlriOf(r)
	if err != nil {
		return nil, err
	}
	reach, err := bgp.NewPathAttributeMpReachNLRI(bgp.RF_EVPN, []bgp.PathNLRI{{NLRI: nlri}}, r.NextHop)
	if err != nil {
		return nil, err
	}
	communities, err := communitiesOf(r)
	if err != nil {
		return nil, err
	}
	attrs := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP), reach, communities}
	if r.Kind == evpn.Multicast {
		id, err := ingress(r.NextHop)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, bgp.NewPathAttributePmsiTunnel(bgp.PMSI_TUNNEL_TYPE_INGRESS_REPL, false, r.VNI, id))
	}
	return &apiutil.Path{Family: bgp.RF_EVPN, Nlri: nlri, Attrs: attrs, Age: time.Now().Unix()}, nil
}

func ingress(a netip.Addr) (bgp.PmsiTunnelIDInterface, error) {
	if !a.IsValid() {
		return nil, fmt.Errorf("no address of our own")
	}
	return &bgp.IngressReplTunnelID{Value: a}, nil
}

func nlriOf(r *evpn.Route) (bgp.NLRI, error) {
	rd := bgp.GetRouteDistinguisher(r.RD[:])
	esi := bgp.EthernetSegmentIdentifier{}
	switch r.Kind {
	case evpn.MACIP:
		return bgp.NewEVPNMacIPAdvertisementRoute(rd, esi, r.Tag, net.HardwareAddr(r.MAC[:]).String(), r.IP, []uint32{r.VNI})
	case evpn.Multicast:
		return bgp.NewEVPNMulticastEthernetTagRoute(rd, r.Tag, r.IP)
	case evpn.Prefix:
		gateway := netip.IPv4Unspecified()
		if r.Net.Addr().Is6() {
			gateway = netip.IPv6Unspecified()
		}
		return bgp.NewEVPNIPPrefixRoute(rd, esi, r.Tag, uint8(r.Net.Bits()), r.Net.Addr(), gateway, r.VNI)
	}
	return nil, fmt.Errorf("no route of type %s is announced", r.Kind)
}

// membership is the route that asks for those with a target.
func membership(as uint32, target evpn.Target) (*apiutil.Path, error) {
	c, err := bgp.ParseExtended(target[:])
	if err != nil {
		return nil, err
	}
	nlri := bgp.NewRouteTargetMembershipNLRI(as, c)
	reach, err := bgp.NewPathAttributeMpReachNLRI(bgp.RF_RTC_UC, []bgp.PathNLRI{{NLRI: nlri}}, netip.IPv4Unspecified())
	if err != nil {
		return nil, err
	}
	attrs := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP), reach}
	return &apiutil.Path{Family: bgp.RF_RTC_UC, Nlri: nlri, Attrs: attrs, Age: time.Now().Unix()}, nil
}

func communitiesOf(r *evpn.Route) (bgp.PathAttributeInterface, error) {
	var list []bgp.ExtendedCommunityInterface
	for _, t := range r.Targets {
		c, err := bgp.ParseExtended(t[:])
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	switch r.Encap {
	case evpn.VXLAN:
		list = append(list, bgp.NewEncapExtended(bgp.TUNNEL_TYPE_VXLAN))
	case evpn.Geneve:
		list = append(list, bgp.NewEncapExtended(bgp.TUNNEL_TYPE_GENEVE))
	}
	if r.Kind == evpn.MACIP && (r.Seq > 0 || r.Sticky) {
		list = append(list, bgp.NewMacMobilityExtended(r.Seq, r.Sticky))
	}
	if r.Kind == evpn.Prefix && !r.RouterMAC.IsZero() {
		list = append(list, bgp.NewRoutersMacExtended(r.RouterMAC.String()))
	}
	return bgp.NewPathAttributeExtendedCommunities(list), nil
}
