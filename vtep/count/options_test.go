package count

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"gvtep/vtep/geneve"
)

// TestOptionCounters: a packet counts once for a class, one with a critical
// option only for the class of that, and there is an end to classes.
func TestOptionCounters(t *testing.T) {
	area := func(all ...geneve.Option) (o geneve.Options) {
		for _, opt := range all {
			var err error
			if o, err = geneve.AppendOption(o, opt); err != nil {
				t.Fatal(err)
			}
		}
		return o
	}
	var c OptionCounters
	twice := area(geneve.Option{Class: 0x102}, geneve.Option{Class: 0x101, Type: 1}, geneve.Option{Class: 0x101, Type: 2})
	c.Count(twice, false, 1)
	c.Count(area(geneve.Option{Class: 0x101}, geneve.Option{Class: 0x103, Type: 0x80}), true, 1)
	got := func() []OptionState {
		all := map[int]*OptionState{}
		c.AddTo(all)
		return SortedOptions(all)
	}
	want := []OptionState{{Class: 0x101, Ignored: 1}, {Class: 0x102, Ignored: 1}, {Class: 0x103, Dropped: 1}}
	if d := cmp.Diff(want, got()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	for class := range uint16(100) {
		c.Count(area(geneve.Option{Class: class}), false, 1)
	}
	all := got()
	if last := all[len(all)-1]; len(all) != maxOptionClasses+1 || !last.Other || last.Ignored != 100-(maxOptionClasses-3) {
		t.Errorf("%d kinds, the last %+v; want %d, and %d packets of other classes", len(all), last, maxOptionClasses+1, 100-(maxOptionClasses-3))
	}
	if n := testing.AllocsPerRun(100, func() { c.Count(twice, false, 1) }); n != 0 {
		t.Errorf("%v allocations a packet, want 0", n)
	}
}
