package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"gvtep/internal/packet"
	"gvtep/vtep/spec"
)

const (
	wantVID  = "a VLAN ID is 1 to 4094"
	wantVNI  = "a VNI is 0 to 16777215"
	wantVLAN = "want VID:VNI, or VID-VID:VNI-VNI with as many of each, such as 10-19:5010-5019"
)

// ParseVLAN reads the two halves of a map, as bridge(8) has them: VID[-VID] and
// VNI[-VNI].
func ParseVLAN(vid, id string) (VLAN, error) {
	first, last, err := ParseVIDs(vid)
	if err != nil {
		return VLAN{}, err
	}
	from, to, err := parseRange(id, 0, 1<<24-1, wantVNI)
	if err != nil {
		return VLAN{}, fmt.Errorf("id %s: %w", plain(id), err)
	}
	if vids, vnis := int(last-first)+1, to-from+1; vids != vnis {
		return VLAN{}, fmt.Errorf("vid %s is %d, and id %s is %d: give as many of each", plain(vid), vids, plain(id), vnis)
	}
	return VLAN{First: first, Last: last, VNI: packet.VNI(from)}, nil
}

// ParseVIDs reads VID[-VID].
func ParseVIDs(s string) (first, last uint16, err error) {
	from, to, err := parseRange(s, 1, spec.MaxVID, wantVID)
	if err != nil {
		return 0, 0, fmt.Errorf("vid %s: %w", plain(s), err)
	}
	return uint16(from), uint16(to), nil
}

// parseRange reads a number, or two with a dash between them.
func parseRange(s string, lo, hi int, want string) (from, to int, err error) {
	a, b, two := strings.Cut(s, "-")
	if from, err = parseNumber(strings.TrimSpace(a), lo, hi, want); err != nil || !two {
		return from, from, err
	}
	if to, err = parseNumber(strings.TrimSpace(b), lo, hi, want); err == nil && to < from {
		err = wrong("want the smaller first")
	}
	return from, to, err
}

// AddVLAN maps more VLANs, none of which may be mapped yet. It takes
// t.VLANs apart from those of other tunnels.
func AddVLAN(t *Tunnel, v VLAN) error {
	for _, o := range t.VLANs {
		if v.First <= o.Last && o.First <= v.Last {
			return &TakenError{fmt.Sprintf("vlan %d has id %d", max(v.First, o.First), o.VNI+packet.VNI(max(v.First, o.First)-o.First))}
		}
		if v.VNI <= o.LastVNI() && o.VNI <= v.LastVNI() {
			id := max(v.VNI, o.VNI)
			return &TakenError{fmt.Sprintf("id %d is that of vlan %d", id, o.First+uint16(id-o.VNI))}
		}
	}
	at, _ := slices.BinarySearchFunc(t.VLANs, v, func(a, b VLAN) int { return cmp.Compare(a.First, b.First) })
	t.VLANs = tidyVLANs(slices.Insert(slices.Clone(t.VLANs), at, v))
	return nil
}

// TakenError says that a VLAN or its VNI is mapped already.
type TakenError struct{ text string }

func (e *TakenError) Error() string { return e.text + " already" }

// DeleteVLANs takes VLANs out of the map, with the entries of the forwarding
// table that are in them. It reports whether all were there; else it does nothing.
func DeleteVLANs(t *Tunnel, first, last uint16) bool {
	var rest []VLAN
	there := 0
	for _, o := range t.VLANs {
		from, to := max(first, o.First), min(last, o.Last)
		if from > to {
			rest = append(rest, o)
			continue
		}
		there += int(to-from) + 1
		if o.First < from {
			rest = append(rest, VLAN{First: o.First, Last: from - 1, VNI: o.VNI})
		}
		if to < o.Last {
			rest = append(rest, VLAN{First: to + 1, Last: o.Last, VNI: o.VNI + packet.VNI(to+1-o.First)})
		}
	}
	if there != int(last-first)+1 {
		return false
	}
	t.VLANs = rest
	goes := func(e Entry) bool { return first <= e.VLAN && e.VLAN <= last }
	if slices.ContainsFunc(t.Entries, goes) {
		t.Entries = slices.DeleteFunc(slices.Clone(t.Entries), goes)
	}
	return true
}

// HasVLAN reports whether all of v is mapped so.
func HasVLAN(t *Tunnel, v VLAN) bool {
	there := 0
	for vid, vni := range spec.Segments(t) {
		if v.First <= vid && vid <= v.Last && vni == v.VNI+packet.VNI(vid-v.First) {
			there++
		}
	}
	return there == int(v.Last-v.First)+1
}

// tidyVLANs joins what is one range.
func tidyVLANs(all []VLAN) []VLAN {
	tidy := all[:0]
	for _, v := range all {
		if n := len(tidy); n > 0 && tidy[n-1].Last+1 == v.First && tidy[n-1].LastVNI()+1 == v.VNI {
			tidy[n-1].Last = v.Last
			continue
		}
		tidy = append(tidy, v)
	}
	return tidy
}

// Place finds out in which VLAN an entry is, which may say so by its src_vni.
func Place(t *Tunnel, e *Entry) error { return spec.PlacesOf(t).Place(e) }

func setVLAN(t *Tunnel, v string) error {
	vid, id, ok := strings.Cut(v, ":")
	if !ok {
		return wrong(wantVLAN)
	}
	parsed, err := ParseVLAN(vid, id)
	if err == nil {
		err = AddVLAN(t, parsed)
	}
	return err
}

// vlans reads the [[tunnel.vlan]] of a tunnel.
func (l *loader) vlans(f *file, v *node, t *Tunnel, at map[string][]span) {
	at["vlan"] = []span{}
	for _, item := range l.items(f, v, "vlan") {
		halves, before := map[string]string{}, len(l.faults)
		for n := range item.table.all() {
			key := n.name
			switch {
			case key != "vid" && key != "id":
				l.fault(f, n.key, "vlan: unknown key %s: %s", plain(key), hintFor(key, []string{"vid", "id"}))
			case n.kind != unstable.String && n.kind != unstable.Integer:
				l.fault(f, n.at, "%s: want a number, or a range in quotes, not %s", key, n.kindName())
			default:
				halves[key] = strings.ReplaceAll(n.text, "_", "")
			}
		}
		if len(l.faults) > before {
			continue
		}
		if halves["vid"] == "" || halves["id"] == "" {
			l.fault(f, item.at, "want vid and id, such as vid = \"10-19\" and id = \"5010-5019\"")
			continue
		}
		parsed, err := ParseVLAN(halves["vid"], halves["id"])
		if err == nil {
			err = AddVLAN(t, parsed)
		}
		if err != nil {
			l.fault(f, item.at, "vlan: %s", err)
			continue
		}
		at["vlan"] = append(at["vlan"], item.at)
	}
}
