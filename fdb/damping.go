package fdb

import "time"

// Damping. An address that two stations use, or that a loop brings back, moves
// with every frame. RFC 7432 section 15.1 tells it from a station that has
// moved by counting: it is a duplicate if DampMoves moves are seen before
// DampWindow has passed since the first of them. These are the RFC's defaults.
// The entry is then frozen where it is, so that one of the two has service and
// the workers have peace, and its owner is told by EventFrozen.
//
// The RFC leaves open for how long. Here it is DampHold, whatever is heard
// meanwhile: a station that has really moved, after a loop was cut, waits that
// long at most, and a duplicate costs DampMoves moves in every DampHold.
// Deleting or replacing the entry ends it at once, by hand.
//
// The count is a part of the entry's word, so no number of addresses makes the
// table forget one, or take more memory: strikes is how many moves were
// counted, DampMoves if it is frozen; since is the second in which the first was, or in
// which it froze. since has 9 bits: Sweep clears the strikes that have lost
// their meaning long before since comes round again, after 512 s.
const (
	DampMoves  = 5
	DampWindow = 180 * time.Second
	DampHold   = 30 * time.Second
)

// skew is how many seconds the clock of one worker may be behind another's,
// and a since therefore in the future.
const skew = 16

func seconds(now int64) uint64 { return uint64(now / int64(time.Second)) }

// age is how many seconds ago since was.
func (v value) age(now int64) int64 {
	return int64((seconds(now)-v.since()+skew)&sinceMask) - skew
}

// frozen is how much longer v stays where it is; 0 if it may move. It thaws
// with a full second, not before DampHold is over.
func (t *Table) frozen(v value, now int64) time.Duration {
	if v.strikes() < DampMoves || !t.damping.Load() {
		return 0
	}
	left := int64(DampHold/time.Second) + 1 - v.age(now)
	return max(time.Duration(left)*time.Second-time.Duration(now%int64(time.Second)), 0)
}

// rested reports whether v has strikes that no longer mean anything.
func (t *Table) rested(v value, now int64) bool {
	switch n := v.strikes(); {
	case n == 0:
		return false
	case n < DampMoves:
		return v.age(now) >= int64(DampWindow/time.Second)
	}
	return t.frozen(v, now) == 0
}

// struck is v, which was struck as often as before has it, with one more.
func (v value) struck(before value, now int64) value {
	n, since := before.strikes()+1, before.since()
	if n == 1 || n == DampMoves {
		since = seconds(now)
	}
	return v.withStrikes(n, since)
}

// The following need the lock.

// rest clears the strikes of s.
func (t *Table) rest(s *slot, v value) {
	w := v.withStrikes(0, 0)
	t.change(s, w)
	if v.strikes() == DampMoves {
		t.tell(EventThawed, s.key.Load(), w, 0)
	}
}

// SetDamping sets whether an address that moves too often is frozen where it
// is for a while. Without, all that are frozen may move at once; the next
// Sweep tells.
func (t *Table) SetDamping(on bool) { t.damping.Store(on) }

// Damping returns what SetDamping has set.
func (t *Table) Damping() bool { return t.damping.Load() }
