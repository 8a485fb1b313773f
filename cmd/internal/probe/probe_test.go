package probe

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"gvtep/cmd/internal/control"
)

// path carries packets of so many bytes, and loses the first ones of each size.
type path struct {
	carries, loses int
	fail           error

	mu    sync.Mutex
	asked map[int]int
}

func (p *path) Probe(_ context.Context, dev string, r control.ProbeRequest) (control.Probed, error) {
	if dev != "gnv0" || r.Timeout <= 0 {
		return control.Probed{}, errors.New("not what was asked")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[r.Size]++
	return control.Probed{Answered: r.Size <= p.carries && p.asked[r.Size] > p.loses}, p.fail
}

func TestWidest(t *testing.T) {
	for _, carries := range []int{56, 57, 1280, 1300, 1498, 1499} {
		for loses := range tries {
			p := &path{carries: carries, loses: loses, asked: map[int]int{}}
			got, err := Widest(t.Context(), p, "gnv0", control.ProbeRequest{}, 56, 1500, time.Millisecond)
			if err != nil || got != carries {
				t.Errorf("%d bytes, %d lost: %d, %v", carries, loses, got, err)
			}
			if len(p.asked) > 3*atOnce {
				t.Errorf("%d sizes were asked, of 1,444", len(p.asked))
			}
		}
	}
	gone := errors.New("gone")
	if _, err := Widest(t.Context(), &path{asked: map[int]int{}, fail: gone}, "gnv0", control.ProbeRequest{}, 56, 1500, 0); !errors.Is(err, gone) {
		t.Errorf("%v, want what the daemon said", err)
	}
}

func TestAsk(t *testing.T) {
	p := &path{carries: 100, loses: tries, asked: map[int]int{}}
	if a, err := Ask(t.Context(), p, "gnv0", control.ProbeRequest{Size: 56}); err != nil || a.Answered || p.asked[56] != tries {
		t.Errorf("%+v, %v after %d tries", a, err, p.asked[56])
	}
}

// TestSearchEnds: what was found by the end is the answer.
func TestSearchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	got, err := Search(ctx, 56, 1500, func(sizes []int) ([]bool, error) {
		cancel()
		return make([]bool, len(sizes)), ctx.Err()
	})
	if got != 56 || err != nil {
		t.Errorf("%d, %v; want what was known", got, err)
	}
}
