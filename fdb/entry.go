package fdb

import (
	"errors"
	"strings"
	"time"

	"gvtep/internal/packet"
)

// Nexthop is where frames for an address go: a small id for a peer or a set
// of peers. Only Local has a meaning here.
type Nexthop uint32

// Local is the nexthop of addresses behind our own device.
const Local Nexthop = 0

// State says how long an entry lives. The zero State is no entry's.
type State uint8

// The states, in the words of bridge(8).
const (
	Dynamic   State = iota + 1 // moves and ages
	Static                     // set by hand, neither moves nor ages
	Permanent                  // the same; the word that users get by default
)

// String returns dynamic, static or permanent.
func (s State) String() string {
	switch s {
	case Dynamic:
		return "dynamic"
	case Static:
		return "static"
	case Permanent:
		return "permanent"
	}
	return "invalid"
}

// Flags modify a dynamic entry.
type Flags uint8

// The flags, in the words of bridge(8).
const (
	// Sticky: learning does not move the entry. It still ages.
	Sticky Flags = 1 << iota
	// ExternLearn: a controller learned the entry, which therefore does not
	// age. It moves like any other and loses the flag in doing so.
	ExternLearn
)

// String returns the words of the flags that are set, separated by spaces.
func (f Flags) String() string {
	var words []string
	if f&Sticky != 0 {
		words = append(words, "sticky")
	}
	if f&ExternLearn != 0 {
		words = append(words, "extern_learn")
	}
	return strings.Join(words, " ")
}

// Entry is what the table knows of one address.
type Entry struct {
	MAC     packet.MAC
	Nexthop Nexthop
	State   State
	Flags   Flags
	// Moves is how often the address was learned from somewhere else,
	// at most 65,535.
	Moves uint16
	// Frozen is how much longer the entry will not move, because it has
	// moved too often; 0 if it may. See SetDamping. Add and Replace do not read it.
	Frozen time.Duration
	// Updated is how long ago the address was last heard from, or set.
	// Used is how long ago a frame for it was last looked up. Both are as
	// fine as about a second.
	Updated, Used time.Duration
}

// Errors of Add, Replace and Delete.
var (
	//lint:ignore ST1005 the words of the kernel, which scripts look for
	ErrExists = errors.New("File exists")
	//lint:ignore ST1005 the words of the kernel, which scripts look for
	ErrNotFound = errors.New("No such file or directory")
	ErrInvalid  = errors.New("fdb: entry has no state: want dynamic, static or permanent")
)

// Result is what Learn made of a source address.
type Result uint8

// What Learn can return.
const (
	Known   Result = iota // known to be there
	New                   // learned
	Moved                 // known elsewhere until now
	Full                  // as many entries as the limit, or the nexthop's share of it, allows: not learned; the frame is good
	Pinned                // a static or sticky entry says otherwise: drop the frame as spoofed
	Own                   // our own device's address, not learned; from a peer it is a loop or a spoof
	Ignored               // a group or the zero address, nobody's source address: not learned
	Damped                // frozen elsewhere, having moved too often: not learned; the frame is good
	Crowded               // not learned while a larger table is being filled, milliseconds; the frame is good
)

// String returns the result's name in lower case.
func (r Result) String() string {
	names := [...]string{"known", "new", "moved", "full", "pinned", "own", "ignored", "damped", "crowded"}
	if int(r) < len(names) {
		return names[r]
	}
	return "invalid"
}

// EventKind says what happened to an entry.
type EventKind uint8

// The kinds of events.
const (
	EventNew      EventKind = iota + 1 // learned or added
	EventMoved                         // learned from somewhere else
	EventReplaced                      // set anew by Replace
	EventDeleted                       // by Delete, or its address became our own
	EventAged                          // not heard from for the ageing time
	EventFlushed                       // by Flush or FlushNexthops
	EventFrozen                        // moved too often, will not move for DampHold; after EventMoved
	EventThawed                        // may move again; not told if it is replaced or removed first
	EventEvicted                       // its place was for a nexthop with less than its share
)

// String returns the kind's name in lower case.
func (k EventKind) String() string {
	names := [...]string{"invalid", "new", "moved", "replaced", "deleted", "aged", "flushed", "frozen", "thawed", "evicted"}
	if int(k) < len(names) {
		return names[k]
	}
	return names[0]
}

// Event is one change of the table.
type Event struct {
	Kind    EventKind
	MAC     packet.MAC
	Nexthop Nexthop // after the change; of the removed entry, if it is gone
	From    Nexthop // before EventMoved and EventReplaced
	State   State
	Flags   Flags
}

// Counts is the number of entries by state. Entries that have expired since
// the last Sweep are among them.
type Counts struct{ Dynamic, Static, Permanent int }

// Stats counts since the table was made.
type Stats struct {
	Learned uint64 // Learn returned New
	Moved   uint64 // Moved
	Aged    uint64 // entries that expired
	Full    uint64 // Learn returned Full
	Pinned  uint64 // Pinned
	Own     uint64 // Own
	Ignored uint64 // Ignored
	Damped  uint64 // Damped
	Frozen  uint64 // entries that froze
	Crowded uint64 // Crowded
	Evicted uint64 // entries that made room for a nexthop with less than its share
}
