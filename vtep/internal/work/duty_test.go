package work

import (
	"testing"
	"time"
)

// TestDuty is the table of the rules: what a worker sees, one event after the other, and
// what it does then.
func TestDuty(t *testing.T) {
	const ms = time.Millisecond
	idle := time.Minute // since it served something
	type step struct {
		seen seen
		want action
	}
	inSample := duty{rounds: sampleEach - 1}
	lastSample := duty{rounds: sampleEach - 1, ready: samples - 1}
	for _, tc := range []struct {
		name  string
		duty  duty
		steps []step
		after func(duty) bool // nil: whatever
	}{
		{"alone, long idle: sleeps in an ordinary call", duty{}, []step{
			{seen{event: began, onDuty: 1, sinceServed: idle}, action{do: sleep, limit: forever, take: maxEvents}},
			{seen{event: slept, onDuty: 1, ready: 1}, action{do: serve}},
		}, nil},
		{"alone, just served: sleeps in a raw call for as long as attention lasts", duty{}, []step{
			{seen{event: began, onDuty: 1, sinceServed: 30 * ms}, action{do: sleep, limit: 71 * ms, raw: true, take: maxEvents}},
			{seen{event: slept, onDuty: 1}, action{do: serve}},
		}, nil},
		{"it holds a descriptor: it looks for others, and serves", duty{}, []step{
			{seen{event: began, held: true, mustNotWait: true, onDuty: 1}, action{do: poll, take: maxEvents}},
			{seen{event: polled, held: true, mustNotWait: true, onDuty: 1}, action{do: serve}},
		}, nil},
		{"with others on duty it takes one descriptor at a time", duty{}, []step{
			{seen{event: began, held: true, mustNotWait: true, onDuty: 2}, action{do: poll, take: 1}},
		}, nil},
		{"not needed: it rests after a short sleep", duty{}, []step{
			{seen{event: began, onDuty: 2, sinceServed: idle}, action{do: sleep, limit: spare, take: 1}},
			{seen{event: slept, onDuty: 2, sinceCalled: linger}, action{do: rest}},
		}, nil},
		{"not needed, but the last one after all: it sleeps on", duty{}, []step{
			{seen{event: began, onDuty: 2, sinceServed: idle}, action{do: sleep, limit: spare, take: 1}},
			{seen{event: slept, onDuty: 2, sinceCalled: linger}, action{do: rest}},
			{seen{event: stayed, onDuty: 1, sinceServed: idle}, action{do: sleep, limit: forever, take: maxEvents}},
			{seen{event: slept, onDuty: 1}, action{do: serve}},
		}, nil},
		{"somebody was called a moment ago: it stays for a while", duty{}, []step{
			{seen{event: began, onDuty: 2, sinceServed: idle}, action{do: sleep, limit: spare, take: 1}},
			{seen{event: slept, onDuty: 2, sinceCalled: linger - 1, sinceServed: idle}, action{do: sleep, limit: linger, take: 1}},
			{seen{event: slept, onDuty: 2, sinceCalled: 2 * linger}, action{do: serve}},
		}, nil},
		{"another is stuck: it stays", duty{}, []step{
			{seen{event: began, onDuty: 2, sinceServed: idle}, action{do: sleep, limit: spare, take: 1}},
			{seen{event: slept, onDuty: 2, sinceCalled: linger, stuck: true, sinceServed: idle}, action{do: sleep, limit: linger, take: 1}},
		}, nil},
		{"datagrams wait in it: it stays", duty{}, []step{
			{seen{event: began, onDuty: 2, sinceServed: idle}, action{do: sleep, limit: spare, take: 1}},
			{seen{event: slept, onDuty: 2, sinceCalled: linger, pending: true, sinceServed: idle}, action{do: sleep, limit: linger, take: 1}},
		}, nil},
		{"woken by the event: it goes round, whatever else", duty{}, []step{
			{seen{event: began, onDuty: 2, sinceServed: idle}, action{do: sleep, limit: spare, take: 1}},
			{seen{event: slept, onDuty: 2, woken: true, sinceCalled: linger}, action{do: serve}},
		}, nil},

		{"busy polling: it looks, gives way, and sleeps in the end", duty{}, []step{
			{seen{event: began, onDuty: 1, busyPoll: ms, sinceBulk: idle, sinceServed: idle}, action{do: poll, take: maxEvents}},
			{seen{event: polled, onDuty: 1, busyPoll: ms, spun: ms / 2, sinceBulk: idle, sinceServed: idle}, action{do: poll, yield: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, busyPoll: ms, spun: ms, sinceBulk: idle, sinceServed: idle}, action{do: sleep, limit: forever, take: maxEvents}},
		}, nil},
		{"busy polling finds something", duty{}, []step{
			{seen{event: began, onDuty: 1, busyPoll: ms, sinceBulk: idle}, action{do: poll, take: maxEvents}},
			{seen{event: polled, onDuty: 1, busyPoll: ms, ready: 1}, action{do: serve}},
		}, nil},
		{"no busy polling while bulk data flows", duty{}, []step{
			{seen{event: began, onDuty: 1, busyPoll: ms, sinceBulk: bulkFor, sinceServed: idle}, action{do: sleep, limit: forever, take: maxEvents}},
		}, nil},

		{"a sample finds nothing: the count begins anew", duty{rounds: sampleEach - 1, ready: 7}, []step{
			{seen{event: began, onDuty: 1, sinceServed: idle}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, sinceServed: idle}, action{do: sleep, limit: forever, take: maxEvents}},
		}, func(d duty) bool { return d.ready == 0 }},
		{"a sample finds something: it is counted", inSample, []step{
			{seen{event: began, onDuty: 1}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, ready: 1}, action{do: serve}},
		}, func(d duty) bool { return d.ready == 1 }},
		{"it has not had to wait for many samples: it needs help", lastSample, []step{
			{seen{event: began, onDuty: 1}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, ready: 1}, action{do: serve, call: true}},
		}, nil},
		{"it keeps one busy, and one other is ready: that may be its acknowledgements", lastSample, []step{
			{seen{event: began, onDuty: 1, held: true, mustNotWait: true}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, held: true, mustNotWait: true, ready: 1}, action{do: serve}},
		}, func(d duty) bool { return d.ready == 0 }},
		{"it keeps one busy, and two others are ready: it needs help", lastSample, []step{
			{seen{event: began, onDuty: 1, held: true, mustNotWait: true}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, held: true, mustNotWait: true, ready: 2}, action{do: serve, call: true}},
		}, nil},
		{"it keeps one busy and its processor, too: it needs help", inSample, []step{
			{seen{event: began, onDuty: 1, held: true, mustNotWait: true}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, held: true, mustNotWait: true, measured: true, busy: saturated}, action{do: serve, call: true}},
		}, func(d duty) bool { return !d.shares }},
		{"it waits for its processor as often as it runs: help would not help", inSample, []step{
			{seen{event: began, onDuty: 1, held: true, mustNotWait: true}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, held: true, mustNotWait: true, measured: true, busy: 50, waited: 50}, action{do: serve}},
		}, func(d duty) bool { return d.shares }},
		{"a busy processor without anything in hand is no reason to call", inSample, []step{
			{seen{event: began, onDuty: 1, sinceServed: idle}, action{do: poll, measure: true, take: maxEvents}},
			{seen{event: polled, onDuty: 1, measured: true, busy: 100, sinceServed: idle}, action{do: sleep, limit: forever, take: maxEvents}},
		}, nil},

		{"a turn that empties the queue", duty{}, []step{
			{seen{event: turned, moved: 1500}, action{}},
		}, nil},
		{"a turn of a flood calls another worker", duty{}, []step{
			{seen{event: turned, more: true, moved: 64 * TurnReads}, action{call: true}},
		}, nil},
		{"a turn of a flood on a shared processor: others run first", duty{shares: true}, []step{
			{seen{event: turned, more: true, moved: 64 * TurnReads}, action{call: true, nap: true}},
		}, nil},
		{"a full turn of super-frames is no flood", duty{shares: true}, []step{
			{seen{event: turned, more: true, moved: TurnBytes}, action{bulk: true}},
		}, nil},
		{"a full turn beside another descriptor in hand", duty{}, []step{
			{seen{event: turned, held: true, more: true, moved: TurnBytes}, action{call: true, bulk: true}},
		}, nil},
		{"bulk, and nothing is left", duty{shares: true}, []step{
			{seen{event: turned, moved: bulkTurn}, action{bulk: true}},
		}, nil},
	} {
		d := tc.duty
		for i, s := range tc.steps {
			if got := d.next(s.seen); got != s.want {
				t.Errorf("%s: step %d: %+v\nwant %+v", tc.name, i, got, s.want)
			}
		}
		if tc.after != nil && !tc.after(d) {
			t.Errorf("%s: afterwards %+v", tc.name, d)
		}
	}
}
