package doctor

import (
	"fmt"
	"slices"
	"strings"

	"gvtep/vtep/count"
)

// What of a tunnel with fastpath on or auto goes the ordinary way.

// fastPathOff finds tunnels that are not carried although the user has said that they are to
// be. That auto steps back is no fault.
func fastPathOff(f *Facts) (all []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		fp := t.Gvtep.FastPath
		if fp == nil || fp.Wanted != "on" || fp.Reason == "" || fp.Reason == "starting" {
			continue
		}
		found := Finding{
			Device: t.Ifname, What: "the fast path does not carry it: " + fp.Reason,
			Evidence: "fastpath on, and no device of the underlay is served", Try: fastPathTry(fp.Reason) + fmt.Sprintf("; or gvtep tunnel set %s fastpath off", t.Ifname),
		}
		if len(fp.Devices) > 0 {
			var names []string
			for _, d := range fp.Devices {
				names = append(names, d.Name)
			}
			found.What = "the fast path does not carry all of it: " + fp.Reason
			found.Evidence = "fastpath on, and served are " + strings.Join(names, ", ")
		}
		all = append(all, found)
	}
	return all
}

// fastPathTry is what helps against a reason.
func fastPathTry(reason string) string {
	for _, c := range []struct{ part, try string }{
		{"CAP_", "the drop-in fastpath.conf of the unit grants what it needs (docs/fastpath.md)"},
		{"locked down", "boot without lockdown"},
		{"Linux 6.6", "a newer kernel"},
		{"CONFIG_DEBUG_INFO_BTF", "a kernel with BTF"},
		{"device is down", "set the device up"},
		{"no peer", "gvtep doctor says more of the peers once something was sent to them"},
	} {
		if strings.Contains(reason, c.part) {
			return c.try
		}
	}
	return "docs/fastpath.md says which tunnels and devices are carried"
}

// Of fewer packets than these nothing is said: a fast path begins with learning.
const fewPackets = 10_000

// fastPathPunts finds that most of what a fast path has met it has left to userspace, for
// reasons that something can be done about.
func fastPathPunts(f *Facts) (all []Finding) {
	carried := map[string]uint64{}
	for i := range f.Tunnels {
		if fp := f.Tunnels[i].Gvtep.FastPath; fp != nil {
			carried["in"] += fp.RX
			carried["out"] += fp.TX
		}
	}
	usual := map[string]bool{}
	for _, p := range count.Punts() {
		usual[p.Name] = p.Usual
	}
	for _, way := range []string{"in", "out"} {
		var sum uint64
		var parts, first []string
		for _, p := range f.Status.Punts {
			if p.Direction == way && !usual[p.Reason] {
				sum += p.Packets
				parts, first = append(parts, fmt.Sprintf("%s %d", p.Reason, p.Packets)), append(first, p.Reason)
			}
		}
		if sum < fewPackets || sum < carried[way] {
			continue
		}
		all = append(all, Finding{
			What:     fmt.Sprintf("the fast path leaves most of what %s to the ordinary way", map[string]string{"in": "comes in", "out": "goes out"}[way]),
			Evidence: fmt.Sprintf("%d packets carried, %d left: %s", carried[way], sum, strings.Join(slices.Clip(parts[:min(3, len(parts))]), ", ")),
			Try:      "gvtep explain " + first[0],
		})
	}
	return all
}
