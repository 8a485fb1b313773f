package fdb

import (
	"fmt"
	"sort"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	for _, grow := range []bool{true, false} {
		tb := NewTable(Options{})
		if !grow {
			tb.cur.Store(newArray(1 << 21))
		}
		type st struct {
			i      int
			d      time.Duration
			slots  int
			moving bool
		}
		var top []st
		next := time.Now()
		for i := range 1000000 {
			if i%200 == 0 {
				time.Sleep(time.Until(next))
				next = next.Add(time.Millisecond)
			}
			a := tb.cur.Load()
			s := time.Now()
			tb.Learn(number(i), 1, 1)
			if d := time.Since(s); d > 100*time.Microsecond {
				top = append(top, st{i, d, len(a.slots), a.next.Load() != nil})
			}
		}
		sort.Slice(top, func(i, j int) bool { return top[i].d > top[j].d })
		fmt.Println("grow", grow, len(top))
		for i := 0; i < 12 && i < len(top); i++ {
			fmt.Printf("%+v\n", top[i])
		}
	}
}
