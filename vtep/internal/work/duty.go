package work

import "time"

// Who works and who rests.
//
// Workers on duty wait for packets; all others rest until one is called. At least
// one is on duty, and one is enough as long as it keeps up: to wake a second thread,
// on another processor, for the answer to the packet in hand takes longer than to
// handle that packet oneself, and cost one TCP stream a tenth of its rate.
//
// The rules are here and nowhere else, without clocks and system calls:
// TestDuty is the table of them. worker.go measures, asks and obeys.

// The figures behind the rules. Most were measured on two nested virtual
// processors, old and new build in turn (docs/benchmarks.md).
const (
	// A ready descriptor has this budget per turn. With 1,000 devices and one
	// flooded, draining until EAGAIN delayed the others by 292 ms (p50), a
	// budget of 64 reads by 0.12 ms.
	TurnReads = 64
	TurnBytes = 256 << 10

	// maxEvents is how many descriptors a worker takes at a time if it is alone on
	// duty. With others on duty it takes one, as another can take the second: a ping
	// beside a flooded tunnel took 0.8 to 3.9 ms (p99) instead of 4.5 to 7.5 since
	// what is ready no longer waits for a busy worker.
	maxEvents = 16

	// For attention after the last packet a worker sleeps in a raw system call,
	// which keeps its P; then in an ordinary one, from which it takes longer to
	// return: 335 against 255 us for a ping there and back each 10 ms. Go's
	// scheduler sends a signal to a thread that keeps its P for 10 ms, which ends
	// the call. That costs 1 % of a processor, so it is not for ever.
	attention = 100 * time.Millisecond

	// spare is how long a worker sleeps that is not alone on duty before it may
	// find that it is not needed, and linger how long it stays on duty after a worker
	// was called last. Both bound how often workers come and go, nothing else.
	spare  = 2 * time.Millisecond
	linger = 100 * time.Millisecond

	// Every sampleEach rounds a worker looks whether it has to wait at all, which
	// costs a system call. It needs help if it did not have to so many samples in
	// a row, which takes a tenth of a second or more. All workers always on duty
	// instead: TCP 5.5 against 6.3 Gbit/s in lab veth.
	sampleEach = 32
	samples    = 16

	// A worker with a descriptor in hand needs help as well if it ran for that much of
	// the last window or longer: then it is what limits a flow of super-frames, and
	// another processor can take the acknowledgements. One TCP stream in lab wire ran at
	// 5.64 instead of 5.43 Gbit/s (32 rounds). At 70 % lab veth lost 5 %: there a worker
	// waits for a processor as often as it runs, and limits nothing.
	saturated       = 80 // percent
	saturatedWindow = 10 * time.Millisecond

	// contended is for how much of the time a worker waits for its processor if
	// it has to share it. One that has a processor for itself waits for 1 % or less.
	contended = 5 // percent

	// nap is how long a worker sleeps between turns of a flood if it has to share its
	// processor, and slice the share of a processor that it asks for at a time, the
	// least that the kernel grants (kernel/sched/syscalls.c). A thread that has
	// slept and asks for little runs before one that computes; one that is preempted
	// or yields waits for a tick, up to 4 ms. The p99 of a ping beside a
	// flood was 2.7 to 3.2 ms with the kernel's slice and sched_yield, 1.5 with the
	// short slice, 0.9 to 1.0 with both. Naps of 50 us: 0.7 to 1.4, and a fifth
	// less of the flood arrived; of 1 us: 2.5 to 5.3.
	nap   = 20 * time.Microsecond
	slice = 100 * time.Microsecond

	// A turn of bulkTurn bytes or more is bulk: for bulkFor after it nobody polls
	// busily, which would take the processor from those who make and take the data.
	// With busy polling one TCP stream fell from 6.4 to 5.4 Gbit/s.
	bulkTurn = 32 << 10
	bulkFor  = 5 * time.Millisecond
)

// duty decides what one worker does next. The zero value is a worker on duty.
type duty struct {
	rounds   uint32
	ready    int  // samples in a row that found something ready
	shares   bool // its processor, with others that have much to do
	sampling bool // this round is a sample
	tried    bool // it has slept for spare in this round, and may have tried to rest
}

// event is what has just happened.
type event uint8

const (
	began  event = iota // a round
	polled              // the descriptors, without sleeping
	slept               // and woke, or the time was over
	stayed              // on duty, although it wanted to rest: it is the last one
	turned              // a descriptor has had its turn
)

// seen is what a worker knows when it asks. What no rule for the event reads
// may be left out.
type seen struct {
	event  event
	held   bool // it keeps a descriptor for its next turn; in turned: another one than this
	onDuty int  // workers

	// began, polled, slept
	mustNotWait bool          // it has something else to do than wait
	ready       int           // descriptors that are ready and now the worker's
	woken       bool          // by the wake-up event or a signal
	spun        time.Duration // since its last round, if busy polling is on
	busyPoll    time.Duration // how long to poll busily; 0: not
	sinceBulk   time.Duration // since a worker's last bulk turn
	sinceServed time.Duration // since this worker last served something
	// polled in a sample whose window is over
	measured     bool
	busy, waited int64 // percent of the window that it ran, and waited for a processor
	// slept, with nothing ready
	sinceCalled time.Duration // since a worker was called last
	stuck       bool          // some worker
	pending     bool          // datagrams wait in this worker

	// turned
	more  bool // there may be more to do
	moved int  // bytes
}

// verb is what a worker does next.
type verb uint8

const (
	serve verb = iota // what is ready and what is in hand; after a turn: go on
	poll              // see what is ready, without sleeping
	sleep             // until something is ready, or the limit is over
	rest              // leave duty, unless it is the last on it
)

// action is a verb and what belongs to it.
type action struct {
	do   verb
	call bool // call one more worker to duty first

	take    int           // poll, sleep: how many descriptors at most
	measure bool          // poll: this is a sample
	yield   bool          // poll: give way to other threads first
	limit   time.Duration // sleep; forever: none
	raw     bool          // sleep: in a raw system call

	nap  bool // turned: let others have the processor
	bulk bool // turned: it was bulk
}

// forever is no limit, as epoll has it.
const forever = -time.Millisecond

// next decides. A round asks from began on until the answer is serve or rest, and
// once more after each turn.
func (d *duty) next(s seen) action {
	switch s.event {
	case began:
		d.rounds++
		d.sampling, d.tried = d.rounds%sampleEach == 0, false
		if d.sampling || s.mustNotWait {
			return action{do: poll, measure: d.sampling, take: s.share()}
		}
		return d.wait(s, false)
	case polled:
		call := d.sampling && d.needsHelp(s)
		spun := !d.sampling
		d.sampling = false
		if s.ready > 0 || s.woken || s.mustNotWait {
			return action{do: serve, call: call}
		}
		a := d.wait(s, spun)
		a.call = call
		return a
	case slept:
		switch {
		case s.ready > 0 || s.woken || !d.tried:
			return action{do: serve}
		case s.onDuty > 1 && s.sinceCalled >= linger && !s.pending && !s.stuck:
			// Not while another is stuck: that may be the one that would be left.
			return action{do: rest}
		}
		return d.stay(s)
	case stayed:
		return d.stay(s)
	}
	return d.afterTurn(s)
}

// wait polls busily or sleeps.
func (d *duty) wait(s seen, yield bool) action {
	switch {
	case s.spun < s.busyPoll && s.sinceBulk > bulkFor:
		return action{do: poll, yield: yield, take: s.share()}
	case s.onDuty > 1:
		d.tried = true
		return s.sleep(spare)
	}
	return s.sleep(forever)
}

// stay sleeps on after a first sleep: with others on duty until it may rest.
func (d *duty) stay(s seen) action {
	d.tried = false
	if s.onDuty > 1 {
		return s.sleep(linger)
	}
	return s.sleep(forever)
}

func (s *seen) sleep(limit time.Duration) action {
	a := action{do: sleep, limit: limit, take: s.share()}
	if left := attention - s.sinceServed; left > 0 {
		a.raw = true
		if limit == forever || limit > left {
			a.limit = left + time.Millisecond // which epoll counts in
		}
	}
	return a
}

// share is how many descriptors to take: one, if another could take the second.
func (s *seen) share() int {
	if s.onDuty > 1 {
		return 1
	}
	return maxEvents
}

// needsHelp takes a sample. A worker that keeps one descriptor busy never waits: it
// needs help only if two others were ready in every sample, as one may just be the
// acknowledgements of its own flow.
func (d *duty) needsHelp(s seen) bool {
	need := 1
	if s.held {
		need = 2
	}
	if d.ready++; s.ready < need {
		d.ready = 0
	}
	help := d.ready >= samples
	if s.measured {
		d.shares = s.waited > contended
		help = help || s.held && s.busy >= saturated
	}
	return help
}

// afterTurn decides what a turn means for others. A turn that leaves something is part
// of a flood of small packets unless it was full of bytes. Nothing else may wait behind
// a flood, neither for this worker nor for its processor, which the scheduler leaves
// to it for 4 ms at a time. With super-frames both cost more than they give: a
// fifth of TCP's rate on two processors.
func (d *duty) afterTurn(s seen) action {
	flood := s.more && s.moved < TurnBytes
	return action{
		call: flood || s.more && s.held,
		nap:  flood && d.shares,
		bulk: s.moved >= bulkTurn,
	}
}
