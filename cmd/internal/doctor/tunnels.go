package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gvtep/cmd/internal/control"
)

// What is other than configured about devices, and what a configuration cannot do.

func notCarrying(f *Facts) []Finding {
	if len(f.Status.Stuck) == 0 {
		return nil
	}
	return []Finding{{
		What:     f.Status.Reason,
		Evidence: fmt.Sprintf("%d of %d workers do not go round", len(f.Status.Stuck), f.Status.Workers),
		Try:      "restart the daemon; before that, /proc/PID/task of thread gvtep-wN says where it hangs",
	}}
}

// about returns what keeps a tunnel from being ready and contains a phrase.
func about(t *control.Tunnel, phrase string) string {
	i := slices.IndexFunc(t.Gvtep.Unready, func(s string) bool { return strings.Contains(s, phrase) })
	if i < 0 {
		return ""
	}
	return t.Gvtep.Unready[i]
}

func deviceDeleted(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		why := about(t, "device "+t.Ifname+" was deleted")
		return Finding{
			What: "its device was deleted", Evidence: why,
			Try: fmt.Sprintf("gvtep tunnel del %s, and add it again, or restart the daemon", t.Ifname),
		}, why != ""
	})
}

func deviceDown(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		why := about(t, "is down")
		return Finding{
			What: "its device is down, and should be up: somebody else set it down", Evidence: why,
			Try: fmt.Sprintf("ip link set %s up", t.Ifname),
		}, why != "" && !strings.Contains(why, "as configured")
	})
}

func setDown(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		why := about(t, "as configured")
		return Finding{
			What: "its device is down, as gvtep was told (tunnel down, or up = false)",
			Try:  fmt.Sprintf("gvtep tunnel up %s", t.Ifname),
		}, why != ""
	})
}

func addressMissing(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		why := about(t, "lacks address")
		return Finding{
			What: "an address that is configured is not on the device", Evidence: why,
			Try: "gvtep reload sets it again; ip addr show dev " + t.Ifname,
		}, why != ""
	})
}

func notAsConfigured(f *Facts) (all []Finding) {
	known := []string{"was deleted", "is down", "lacks address", "reaches nobody", "is stuck"}
	for i := range f.Tunnels {
		for _, why := range f.Tunnels[i].Gvtep.Unready {
			if !slices.ContainsFunc(known, func(s string) bool { return strings.Contains(why, s) }) {
				all = append(all, Finding{Device: f.Tunnels[i].Ifname, What: why, Try: "gvtep diff shows all that others have changed, gvtep reload restores it"})
			}
		}
	}
	return all
}

func mtuAbovePath(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		if t.Gvtep.MTUAuto {
			return Finding{}, false
		}
		for _, p := range t.Gvtep.Peers {
			if fits := p.PathMTU - overhead(t, p.Remote); p.PathMTU != 0 && t.MTU > fits {
				return Finding{
					What:     fmt.Sprintf("its MTU, %d, was set above what the path to %s carries, %d", t.MTU, p.Remote, fits),
					Evidence: fmt.Sprintf("path MTU %d, of which outer headers take %d", p.PathMTU, overhead(t, p.Remote)),
					Try:      fmt.Sprintf("gvtep tunnel set %s mtu auto, or mtu %d", t.Ifname, fits),
				}, true
			}
		}
		return Finding{}, false
	})
}

// overhead is what stands before the inner IP packet: outer IP, UDP, the tunnel's header and, of an
// l2 tunnel, Ethernet.
func overhead(t *control.Tunnel, remote netip.Addr) int {
	n := 20 + 8 + 8
	if remote.Is6() {
		n += 20
	}
	if t.Gvtep.Mode != "l3" {
		n += 14
	}
	return n
}

func noWayOut(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		g := &t.Gvtep
		return Finding{
			What:     "what it has no entry for goes nowhere: flooding of unknown unicast is off, and nothing is learned",
			Evidence: fmt.Sprintf("flood off, learning off, %d static entries, %s dropped as flood_off or no_fdb_entry", g.FDB.Static, packets(g.Drops.TX["flood_off"]+g.Drops.TX["no_fdb_entry"])),
			Try:      fmt.Sprintf("gvtep tunnel set %s learning, or flood on, or gvtep fdb add for each station", t.Ifname),
		}, g.Mode != "l3" && !g.Learning && !g.Flood
	})
}

func learningOff(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		g := &t.Gvtep
		return Finding{
			What:     "learning is off here and no entry says where stations are: each packet to a station goes to all peers",
			Evidence: fmt.Sprintf("learning off, no learned entry, no static one, %d copies sent", g.TxFlood),
			Try:      fmt.Sprintf("gvtep tunnel set %s learning; or gvtep fdb add for each station", t.Ifname),
		}, g.Mode != "l3" && !g.Learning && g.Flood && g.FDB.Learned == 0 && g.FDB.Static == 0
	})
}

func sameAddress(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		for _, c := range f.Host.Claims[t.Ifname] {
			if slices.Contains(f.Host.Addresses[t.Ifname], c.Addr) && c.MAC != t.Address {
				return Finding{
					What:     fmt.Sprintf("its address %s is used by another station in the overlay, too", c.Addr),
					Evidence: fmt.Sprintf("%s answers for it by ARP; our own is %s", c.MAC, t.Address),
					Try:      fmt.Sprintf("gvtep fdb get %s dev %s says behind which peer; give one of both another address", c.MAC, t.Ifname),
				}, true
			}
		}
		return Finding{}, false
	})
}

func otherSubnet(f *Facts) []Finding {
	return eachTunnel(f, func(t *control.Tunnel) (Finding, bool) {
		var ours []netip.Prefix
		for _, a := range t.Gvtep.Addresses {
			if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() {
				ours = append(ours, p)
			}
		}
		inside := func(a netip.Addr) bool {
			return slices.ContainsFunc(ours, func(p netip.Prefix) bool { return p.Contains(a) })
		}
		for _, c := range f.Host.Claims[t.Ifname] {
			if len(ours) > 0 && c.MAC != t.Address && c.Addr.IsValid() && !c.Addr.IsUnspecified() && !inside(c.Addr) && !inside(c.Asks) {
				return Finding{
					What:     fmt.Sprintf("a station behind it has the address %s, which is in no subnet of ours: %s", c.Addr, list(t.Gvtep.Addresses)),
					Evidence: fmt.Sprintf("%s asks by ARP for %s", c.MAC, c.Asks),
					Try:      "give both ends addresses of one subnet",
				}, true
			}
		}
		return Finding{}, false
	})
}
