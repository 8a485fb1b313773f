package encap

import (
	"fmt"

	"gvtep/vtep/geneve"
)

// HasOptions reports whether a header can have options.
func (f Format) HasOptions() bool { return f == Geneve }

// WithOptions returns a header of f, which has none, with an option area behind it: its length
// and the critical bit follow from the area. Only GENEVE has options.
func (f Format) WithOptions(header []byte, area string) ([]byte, error) {
	if area == "" {
		return header, nil
	}
	if !f.HasOptions() {
		return nil, fmt.Errorf("%s has no options", f)
	}
	h, _, err := geneve.Parse(header)
	if err != nil {
		return nil, err
	}
	h.Options = geneve.Options(area)
	return geneve.AppendHeader(nil, h)
}
