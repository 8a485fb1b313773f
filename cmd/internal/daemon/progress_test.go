package daemon

import (
	"testing"
	"time"

	"gvtep/cmd/internal/control"
)

// TestFollow: a change of many is reported while it goes on, none and one of a single tunnel
// never, and nothing after stop.
func TestFollow(t *testing.T) {
	steps := make(chan [2]int)
	reports := make(chan control.Progress, 10)
	stop := follow(func() (done, of int) {
		s, ok := <-steps
		if !ok {
			return 0, 0
		}
		return s[0], s[1]
	}, time.Microsecond, func(p control.Progress) { reports <- p })
	for _, s := range [][2]int{{0, 0}, {0, 1}, {400, 1000}, {1, 1}, {1000, 1000000}} {
		steps <- s
	}
	close(steps)
	stop()
	close(reports)
	var text []string
	for p := range reports {
		text = append(text, p.String())
	}
	if want := []string{"400 of 1,000", "1,000 of 1,000,000"}; len(text) != 2 || text[0] != want[0] || text[1] != want[1] {
		t.Errorf("reported %q, want %q", text, want)
	}
}
