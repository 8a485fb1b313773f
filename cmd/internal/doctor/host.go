package doctor

import (
	"fmt"
	"net/netip"
)

// What is wrong with the host.

func overflows(f *Facts) (all []Finding) {
	for _, s := range f.Status.Sockets {
		if s.Overflows == 0 {
			continue
		}
		all = append(all, Finding{
			What:     fmt.Sprintf("socket %s has lost datagrams for want of room", netip.AddrPortFrom(s.Local, s.Port)),
			Evidence: fmt.Sprintf("%d overflows since it was opened; net.core.rmem_max is %d", s.Overflows, f.Host.RmemMax),
			Try:      "more rcvbuf in [socket] (without CAP_NET_ADMIN also sysctl net.core.rmem_max), or more workers",
		})
	}
	return all
}

func kernelTunnel(f *Facts) (all []Finding) {
	for _, l := range f.Host.Links {
		if l.Kind != "geneve" && l.Kind != "vxlan" {
			continue
		}
		for _, s := range f.Status.Sockets {
			if int(s.Port) == l.Port {
				all = append(all, Finding{
					What:     fmt.Sprintf("the kernel's device %s (%s) has UDP port %d, too", l.Name, l.Kind, l.Port),
					Evidence: fmt.Sprintf("socket %s of gvtep beside it: packets go to the more specific one", netip.AddrPortFrom(s.Local, s.Port)),
					Try:      fmt.Sprintf("gvtep config import takes its settings over; then ip link del %s. Or another dstport", l.Name),
				})
				break
			}
		}
	}
	return all
}

// icmpUnseen says what is not known, if that may matter.
func icmpUnseen(f *Facts) []Finding {
	if f.Status.ICMP || f.Status.Peers.Silent == 0 {
		return nil
	}
	return []Finding{{
		What:     "ICMP errors about what is sent are not seen, so that less is known of silent peers",
		Evidence: "the daemon has no CAP_NET_RAW",
		Try:      "AmbientCapabilities=CAP_NET_RAW beside the others in a drop-in of the unit; or tcpdump -ni any icmp",
	}}
}
