package count

import (
	"cmp"
	"slices"
	"sync/atomic"

	"gvtep/vtep/geneve"
)

// maxOptionClasses is how many option classes a worker counts one by one. A
// sender can make up 65,536 of them, and each would be a metric.
const maxOptionClasses = 16

// OptionState counts received packets that carried an option of a class.
type OptionState struct {
	Class   uint16
	Other   bool   // all classes beyond the first that were seen
	Ignored uint64 // with options that we may not know
	Dropped uint64 // with critical options that we do not know
}

// OptionCounters counts options of received packets. One worker writes.
type OptionCounters struct {
	used    atomic.Int32 // of classes, the last is for all others
	packets uint64       // calls of Count so far
	classes [maxOptionClasses + 1]struct {
		class            uint16 // set before used counts it
		packet           uint64 // the last call that it was counted in
		ignored, dropped atomic.Uint64
	}
}

// Count counts the options that each of n packets has. If they are dropped because of an
// option, only the critical ones count: the others had no chance.
func (o *OptionCounters) Count(options geneve.Options, critical bool, n uint64) {
	o.packets++
	for opt := range options.All() {
		if critical && !opt.Critical() {
			continue
		}
		c := &o.classes[o.find(opt.Class)]
		if c.packet == o.packets {
			continue // packets count once
		}
		c.packet = o.packets
		if critical {
			c.dropped.Add(n)
		} else {
			c.ignored.Add(n)
		}
	}
}

func (o *OptionCounters) find(class uint16) int {
	used := int(o.used.Load())
	for i := range o.classes[:used] {
		if o.classes[i].class == class {
			return i
		}
	}
	if used < maxOptionClasses {
		o.classes[used].class = class
		o.used.Store(int32(used + 1))
	}
	return used
}

// AddTo adds the counts to those of other workers, under -1 what has no class
// of its own.
func (o *OptionCounters) AddTo(all map[int]*OptionState) {
	used := int(o.used.Load())
	for i := range o.classes {
		c := &o.classes[i]
		ignored, dropped := c.ignored.Load(), c.dropped.Load()
		if i >= used && (i != maxOptionClasses || ignored+dropped == 0) {
			continue
		}
		key := -1
		if i < maxOptionClasses {
			key = int(c.class)
		}
		if all[key] == nil {
			all[key] = &OptionState{Class: uint16(max(key, 0)), Other: key < 0}
		}
		all[key].Ignored += ignored
		all[key].Dropped += dropped
	}
}

func SortedOptions(all map[int]*OptionState) []OptionState {
	var out []OptionState
	for _, o := range all {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b OptionState) int {
		if a.Other != b.Other {
			return map[bool]int{true: 1, false: -1}[a.Other]
		}
		return cmp.Compare(a.Class, b.Class)
	})
	return out
}
