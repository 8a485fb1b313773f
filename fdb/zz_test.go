package fdb
import ("testing";"time";"fmt")
func TestZZ(t *testing.T) {
	for round := range 4 {
	for _, mode := range []string{"locked","lockfree","nogrowth"} {
	lockedCopy = mode == "locked"
	tb := NewTable(Options{})
	if mode == "nogrowth" { tb.cur.Store(newArray(1<<21)) }
	var n100, n1, n3, mv100, mv1, mv3, full int
	var max, sum time.Duration
	next := time.Now()
	for i := range 700000 {
		if i%200 == 0 { time.Sleep(time.Until(next)); next = next.Add(time.Millisecond) }
		a := tb.cur.Load()
		s := time.Now()
		if tb.Learn(number(i), 1, 1) == Full { full++ }
		d := time.Since(s)
		mv := a.next.Load() != nil
		if d > max { max = d }
		if d > 100*time.Microsecond { n100++; sum += d; if mv {mv100++} }
		if d > time.Millisecond { n1++; if mv {mv1++} }
		if d > 3*time.Millisecond { n3++; if mv {mv3++} }
	}
	fmt.Printf("%d %-9s >100us %4d (moving %4d)  >1ms %3d (%3d)  >3ms %3d (%3d)  sum %v max %v full %d\n", round, mode, n100, mv100, n1, mv1, n3, mv3, sum, max, full)
	}}
}
