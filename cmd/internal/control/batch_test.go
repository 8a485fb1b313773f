package control

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// endless is a stream of one line again and again.
type endless struct {
	line string
	left int
}

func (e *endless) Read(b []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	e.left--
	return copy(b, e.line), nil
}

// TestBatch: a batch is streamed, however long it is, and a wrong line ends it.
func TestBatch(t *testing.T) {
	path := start(t, fake{}, 5*time.Second, 5*time.Second)
	c := NewClient(path)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	line := `{"fdb":"02:00:00:00:00:01","dst":"192.0.2.2"}` + "\n"
	const many = 100_000 // four times what other requests may have
	done, err := c.Batch(ctx, "gnv0", BatchOptions{Owner: "fleet", Sync: true}, &endless{line, many})
	if want := (BatchResult{Lines: many, Set: many * len(line), Removed: 1}); err != nil || done != want {
		t.Errorf("%+v, %v; want %+v", done, err, want)
	}
	for _, wrong := range []struct {
		dev, owner, text, want string
	}{
		{"gnv0", "fleet", "a\nwrong\nb\n", "line 2: wrong"},
		{"gnv0", "fleet", "a\nb\nwrong", "line 3: wrong"},
		{"gnv0", "fleet", "a\n" + strings.Repeat("x", maxLine+1), "line 2: longer than"},
		{"gnv0", "a b", "a\n", "owner \"a b\""},
		{"gnv0", strings.Repeat("o", maxOwner+1), "a\n", "want a name"},
		{"refused", "fleet", "a\n", "File exists"},
	} {
		_, err := c.Batch(ctx, wrong.dev, BatchOptions{Owner: wrong.owner}, strings.NewReader(wrong.text))
		if err == nil || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("%.40q: %v, want %s", wrong.text, err, wrong.want)
		}
	}
	// Who sees that it is wrong need not read the rest.
	if _, err := c.Batch(ctx, "gnv0", BatchOptions{}, io.MultiReader(strings.NewReader("wrong\n"), &endless{line, many})); err == nil || !strings.Contains(err.Error(), "line 1: wrong") {
		t.Errorf("a wrong line before many: %v", err)
	}
	if code, body := get(t, path, http.MethodPost, "/v1/tunnels/gnv0/batch?sync=perhaps"); code != http.StatusBadRequest || !strings.Contains(body, "want true or false") {
		t.Errorf("sync=perhaps: %d %s", code, body)
	}
}
