package keep

import (
	"slices"
	"testing"
)

func TestParseName(t *testing.T) {
	for _, c := range []struct {
		name, device string
		number       int
		ok           bool
	}{
		{"tap.gnv0.0", "gnv0", 0, true},
		{"tap.gnv0.254", "gnv0", 254, true},
		{"tap.a.b.3", "a.b", 3, true},
		{"tapw.gnv0.1", "gnv0", 1, true},
		{"udp.0", "", 0, true},
		{"udp6.12", "", 12, true},
		{"tap..0", "", 0, false},
		{"tap.gnv0", "", 0, false},
		{"tap.gnv0.x", "gnv0", 0, false},
		{"udp.-1", "", -1, false},
		{"udp.", "", 0, false},
		{"stored", "", 0, false},
		{"LISTEN_FD_3", "", 0, false},
	} {
		device, number, ok := parseName(c.name)
		if ok != c.ok || ok && (device != c.device || number != c.number) {
			t.Errorf("%s: %q, %d, %t; want %q, %d, %t", c.name, device, number, ok, c.device, c.number, c.ok)
		}
	}
	names := []string{"udp.10", "udp6.3", "udp.9"}
	if slices.SortFunc(names, byNumber); !slices.Equal(names, []string{"udp6.3", "udp.9", "udp.10"}) {
		t.Errorf("in order: %s", names)
	}
}
