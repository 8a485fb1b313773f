package spec

import (
	"iter"

	"gvtep/internal/packet"
)

// Segments yields all segments of a tunnel: VLAN ID and VNI, the one for frames without a
// tag as VLAN 0 first.
func Segments(t *Tunnel) iter.Seq2[uint16, packet.VNI] {
	return func(yield func(uint16, packet.VNI) bool) {
		if !t.NoVNI && !yield(0, t.VNI) {
			return
		}
		for _, v := range t.VLANs {
			for vid := v.First; vid <= v.Last; vid++ {
				if !yield(vid, v.VNI+packet.VNI(vid-v.First)) {
					return
				}
			}
		}
	}
}

// Places are the VLANs of a tunnel, by themselves and by their VNI.
type Places struct {
	byVNI map[packet.VNI]uint16
	there map[uint16]struct{}
}

// PlacesOf returns those of t.
func PlacesOf(t *Tunnel) Places {
	p := Places{map[packet.VNI]uint16{}, map[uint16]struct{}{}}
	for vid, vni := range Segments(t) {
		p.byVNI[vni] = vid
		p.there[vid] = struct{}{}
	}
	return p
}

// Place gives an entry the VLAN that its SrcVNI stands for, and refuses one that is in no
// segment.
func (p Places) Place(e *Entry) error {
	vid, known := p.byVNI[e.SrcVNI]
	switch {
	case !e.HasSrcVNI:
		return p.check(e.VLAN)
	case !known:
		return Wrong("src_vni %d: the tunnel has no such segment", e.SrcVNI)
	case e.VLAN != 0 && e.VLAN != vid:
		return Wrong("vlan %d is not where src_vni %d is", e.VLAN, e.SrcVNI)
	}
	e.VLAN, e.SrcVNI, e.HasSrcVNI = vid, 0, false
	return nil
}

func (p Places) check(vid uint16) error {
	if _, ok := p.there[vid]; ok {
		return nil
	}
	return NoSegment(vid)
}

// NoSegment is the error for a VLAN, or for frames without a tag, that a tunnel has no
// segment for.
func NoSegment(vid uint16) *Error {
	if vid != 0 {
		return Wrong("vlan %d: the tunnel has no such VLAN", vid)
	}
	return Wrong("in which VLAN? The trunk has no id of its own: add vlan VID or src_vni VNI")
}
