package work

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAdvance: how far each descriptor comes on the way to a snapshot, before and after
// all workers have passed to it.
func TestAdvance(t *testing.T) {
	s, err := newPollSet()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close(nil)
	event := func() int {
		fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	of := func(slots ...*slot) *view {
		snap := new(view)
		for _, l := range slots {
			snap.turns = append(snap.turns, make([]turn, max(0, int(l.index)+1-len(snap.turns)))...)
			snap.turns[l.index] = turn{slot: l}
		}
		return snap
	}
	// ready are the indices of what a worker would be told of.
	ready := func() (all []int32) {
		var events [8]unix.EpollEvent
		n, _ := unix.EpollWait(s.epoll, events[:], 0)
		for _, ev := range events[:max(n, 0)] {
			all = append(all, ev.Fd)
		}
		for _, l := range s.slots {
			if l.state == waited {
				s.arm(l)
			}
		}
		slices.Sort(all)
		return all
	}
	a, b := s.reserve(event()), s.reserve(event())
	bad := s.reserve(-1)
	var next *slot
	for _, step := range []struct {
		what     string
		do       func() *view
		passed   bool
		unpolled int
		a, b     state
		ready    []int32
	}{
		{"handed over", func() *view { return of(a, b, bad) }, false, 0, fresh, fresh, nil},
		{"all have passed", func() *view { return of(a, b, bad) }, true, 1, waited, waited, []int32{0, 1}},
		{"the kernel takes the third, too", func() *view { bad.fd = event(); return of(a, b, bad) }, true, 0, waited, waited, []int32{0, 1, 2}},
		{"the second goes", func() *view { return of(a, bad) }, false, 0, waited, leaving, []int32{0, 2}},
		{"it is wanted again before all have passed: with another slot", func() *view {
			next = s.reserve(b.fd)
			return of(a, bad, next)
		}, false, 0, waited, leaving, []int32{0, 2}},
		{"all have passed again", func() *view { return of(a, bad, next) }, true, 0, waited, gone, []int32{0, 2, 3}},
	} {
		snap := step.do()
		if n, err := s.advance(snap, step.passed); n != step.unpolled || (err != nil) != (n > 0) {
			t.Errorf("%s: %d could not be waited for, %v; want %d", step.what, n, err, step.unpolled)
		}
		if got := ready(); a.state != step.a || b.state != step.b || !slices.Equal(got, step.ready) {
			t.Errorf("%s: states %d and %d, ready %d; want %d and %d, %d", step.what, a.state, b.state, got, step.a, step.b, step.ready)
		}
	}
	// The index is given away now, and not for what was there.
	if l := s.reserve(event()); l.index != b.index || of(a).turn(b) != nil || l.generation == b.generation {
		t.Errorf("slot %d generation %d after %d generation %d", l.index, l.generation, b.index, b.generation)
	}
}
