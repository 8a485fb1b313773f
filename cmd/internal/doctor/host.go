package doctor

import (
	"fmt"
	"net/netip"
	"strings"

	"gvtep/cmd/internal/control"
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

func smallBuffer(f *Facts) (all []Finding) {
	for _, s := range f.Status.Sockets {
		if s.Rcvbuf == 0 || s.Rcvbuf >= s.Wanted {
			continue
		}
		all = append(all, Finding{
			What:     fmt.Sprintf("socket %s has a smaller receive buffer than rcvbuf in [socket]", netip.AddrPortFrom(s.Local, s.Port)),
			Evidence: fmt.Sprintf("%d bytes instead of %d; net.core.rmem_max is %d", s.Rcvbuf, s.Wanted, f.Host.RmemMax),
			Try:      fmt.Sprintf("sysctl net.core.rmem_max=%d, or CAP_NET_ADMIN in the first user namespace; then a restart. Or less rcvbuf", s.Wanted),
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
				whose, try := "the kernel's", fmt.Sprintf("gvtep config import takes its settings over; then ip link del %s. Or another dstport", l.Name)
				if strings.HasPrefix(l.Name, "genev_sys_") || strings.HasPrefix(l.Name, "vxlan_sys_") {
					whose, try = "Open vSwitch's", "ovs-vsctl show has the tunnel port; another options:dst_port there, or another dstport here"
				}
				all = append(all, Finding{
					What:     fmt.Sprintf("%s device %s (%s) has UDP port %d, too", whose, l.Name, l.Kind, l.Port),
					Evidence: fmt.Sprintf("socket %s of gvtep beside it: packets go to the more specific one", netip.AddrPortFrom(s.Local, s.Port)),
					Try:      try,
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

// rpFilter says about silent peers whose packets the kernel may drop because of where they come in.
func rpFilter(f *Facts) []Finding {
	if f.Host.Reversed == 0 {
		return nil
	}
	return eachPeer(f, func(t *control.Tunnel, p *control.Peer) (Finding, bool) {
		if p.State != "silent" || p.TX.Packets == 0 || f.Probes[Ask{t.Ifname, p.Remote}].Answered {
			return Finding{}, false
		}
		out := f.Host.Routes[p.Remote].Dev
		for _, l := range f.Host.Links {
			if l.Name == out || l.Name == "lo" || !l.Up || f.Host.RPFilter[l.Name] != 1 || l.Name == t.Ifname {
				continue
			}
			return Finding{
				What:     fmt.Sprintf("its peer %s is silent, and rp_filter drops packets: what comes in by %s must not, as the way back leaves by %s", p.Remote, l.Name, out),
				Evidence: fmt.Sprintf("%d packets dropped by rp_filter in this network namespace (IPReversePathFilter); it is 1, strict, on %s", f.Host.Reversed, l.Name),
				Try:      fmt.Sprintf("sysctl net.ipv4.conf.%s.rp_filter=2 (loose), or a route to %s by %s", l.Name, p.Remote, l.Name),
			}, true
		}
		return Finding{}, false
	})
}

// minAgeing is for how long an entry should live, in seconds: hosts that are quiet ask by ARP twice a
// minute or less often (base_reachable_time is 30 s), and each packet to one whose entry is gone is flooded.
const minAgeing = 30

func shortAgeing(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		g := &t.Gvtep
		return Finding{
			What:     fmt.Sprintf("learned entries live for %.0f s only: what is sent to a station that is quiet for longer goes to all peers", g.Ageing),
			Evidence: fmt.Sprintf("ageing %.0f s, %d entries aged, %d copies flooded; hosts ask by ARP every 30 s or less often", g.Ageing, g.FDB.Aged, g.TxFlood),
			Try:      fmt.Sprintf("gvtep tunnel set %s ageing 300s", t.Ifname),
		}, g.Mode != "l3" && g.Learning && g.Ageing > 0 && g.Ageing < minAgeing
	})
}

func bridgeFDB(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		macs := f.Host.ByHand[t.Ifname]
		if len(macs) == 0 {
			return Finding{}, false
		}
		return Finding{
			What:     "bridge fdb add has written entries to its device, which say nothing to gvtep: dst is lost there",
			Evidence: fmt.Sprintf("%d entries self permanent on %s: %s", len(macs), t.Ifname, list(macs[:min(len(macs), 3)])),
			Try:      fmt.Sprintf("bridge fdb del %s dev %s, and the same words to gvtep: gvtep fdb add %s dev %s dst PEER", macs[0], t.Ifname, macs[0], t.Ifname),
		}, true
	})
}

func offloadOff(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		off := f.Host.Off[t.Ifname]
		return Finding{
			What:     fmt.Sprintf("offloads of its device were switched off by hand: %s. Each packet goes alone, at several times the cost", list(off)),
			Evidence: "gvtep has switched them on, and the device has them off",
			Try:      fmt.Sprintf("ethtool -K %s tx on tso on", t.Ifname),
		}, len(off) > 0
	})
}

func qdiscMQ(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		return Finding{
			What:     "its device has the qdisc mq, with a queue of its own for each of 256: they delay and drop what gvtep would take",
			Evidence: fmt.Sprintf("tc qdisc show dev %s; devices that gvtep makes itself have noqueue", t.Ifname),
			Try:      fmt.Sprintf("tc qdisc replace dev %s root noqueue", t.Ifname),
		}, f.Host.Qdisc[t.Ifname] == "mq"
	})
}

// manyFiles is from which share of its descriptors on a daemon has too few.
const manyFiles = 0.8

func descriptors(f *Facts) []Finding {
	h := &f.Host
	if h.FilesMax == 0 || float64(h.Files) < manyFiles*float64(h.FilesMax) {
		return nil
	}
	return []Finding{{
		What:     fmt.Sprintf("the daemon has %d descriptors open and may have %d: tunnels and peers that come will be refused", h.Files, h.FilesMax),
		Evidence: fmt.Sprintf("/proc/%d/fd and limits; a tunnel takes one for each queue and worker, docs/operations.md has the sums", f.Status.PID),
		Try:      "LimitNOFILE= in a drop-in of the unit, or ulimit -n; fewer workers or numqueues need fewer; trunks need one device for all VLANs",
	}}
}
