package capture

import (
	"cmp"
	"fmt"
	"strings"

	"gvtep/vtep/capture"
)

// Sets are the words for points, and for several of them.
func Sets() (names []string) {
	for p := capture.Point(0); p < capture.NumPoints; p++ {
		names = append(names, p.String())
	}
	return append(names, "outer", "inner", "all")
}

// Options reads words for points (nil: all) and of a filter, and checks the numbers, of which 0 is the
// usual value.
func Options(points, filter []string, snaplen, buffer int) (o capture.Options, err error) {
	for _, name := range points {
		set := capture.Points(0)
		for p := capture.Point(0); p < capture.NumPoints; p++ {
			if word := p.String(); word == name || name == "all" || p != capture.Drops && strings.HasPrefix(word, name+"-") {
				set |= capture.Of(p)
			}
		}
		if set == 0 {
			return o, fmt.Errorf("point %q: want %s", name, strings.Join(Sets(), ", "))
		}
		o.Points |= set
	}
	if o.Points == 0 {
		o.Points = 1<<capture.NumPoints - 1
	}
	o.Snaplen, o.Buffer = cmp.Or(snaplen, capture.MaxSnaplen), cmp.Or(buffer, capture.DefaultBuffer)
	switch {
	case o.Snaplen < 1 || o.Snaplen > capture.MaxSnaplen:
		return o, fmt.Errorf("snaplen %d: want 1 to %d bytes", o.Snaplen, capture.MaxSnaplen)
	case o.Buffer < capture.MinBuffer || o.Buffer > capture.MaxBuffer:
		return o, fmt.Errorf("buffer %d: want %d to %d bytes", o.Buffer, capture.MinBuffer, capture.MaxBuffer)
	}
	o.Filter, err = capture.ParseFilter(filter)
	return o, err
}
