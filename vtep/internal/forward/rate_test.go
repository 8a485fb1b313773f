package forward

import (
	"sync/atomic"
	"testing"
	"time"
)

func TestRateLimit(t *testing.T) {
	for _, tc := range []struct {
		pps      int
		every    time.Duration
		length   time.Duration
		frames   int
		min, max int
	}{
		{0, time.Microsecond, 10 * time.Millisecond, 1, 10000, 10000},
		{100, time.Millisecond, 10 * time.Second, 1, 1000, 1012},
		{100, 20 * time.Millisecond, 10 * time.Second, 1, 500, 500},
		{1, time.Millisecond, 10 * time.Second, 1, 10, 12},
		{1000000, 100 * time.Microsecond, time.Second, 1, 10000, 10000},
		{100, time.Millisecond, 10 * time.Second, 45, 1000, 1100},
		{100, time.Second, 10 * time.Second, 45, 450, 450},
	} {
		l := NewRateLimit(tc.pps, new(atomic.Int64))
		passed := 0
		for now := int64(0); now < int64(tc.length); now += int64(tc.every) {
			if l.Allow(now, tc.frames) {
				passed += tc.frames
			}
		}
		if passed < tc.min || passed > tc.max {
			t.Errorf("limit %d/s, %d frames every %v for %v: %d passed, want %d to %d",
				tc.pps, tc.frames, tc.every, tc.length, passed, tc.min, tc.max)
		}
	}
}
