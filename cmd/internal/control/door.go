package control

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Door is what a server answers from: nothing at first, as a daemon listens
// before it has anything to tell, and a source in the end. Requests of before wait
// for it, unless the daemon itself waits and has said for what. The zero value
// is a closed door.
type Door struct {
	mu    sync.Mutex
	src   Source
	why   string        // the daemon waits
	moved chan struct{} // closed when either changes; nil: nobody looks
}

// NewDoor returns a door that is open already.
func NewDoor(src Source) *Door { return &Door{src: src} }

// Open lets all requests through to src.
func (d *Door) Open(src Source) { d.move(src, "") }

// Wait says what the daemon waits for before it can open.
func (d *Door) Wait(why string) { d.move(nil, why) }

func (d *Door) move(src Source, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.src, d.why = src, why
	if d.moved != nil {
		close(d.moved)
		d.moved = nil
	}
}

func (d *Door) look() (src Source, why string, moved <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moved == nil {
		d.moved = make(chan struct{})
	}
	return d.src, d.why, d.moved
}

// handler makes what answers once there is a source. Until then it answers
// itself, after patience at the latest.
func (d *Door) handler(patience time.Duration, through func(Source) http.Handler) http.Handler {
	var once sync.Once
	var h http.Handler
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		late := time.NewTimer(patience)
		defer late.Stop()
		for {
			src, why, moved := d.look()
			if src != nil {
				once.Do(func() { h = through(src) })
				h.ServeHTTP(w, r)
				return
			}
			if why != "" {
				closed(w, r, "starting, waiting for "+why)
				return
			}
			select {
			case <-moved:
			case <-late.C:
				closed(w, r, "starting")
				return
			case <-r.Context().Done():
				return
			}
		}
	})
}

// closed answers for a daemon that is starting: it lives, is not ready, and has no
// figures yet.
func closed(w http.ResponseWriter, r *http.Request, text string) {
	switch {
	case r.URL.Path == "/healthz":
		health(w, true, "")
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		if r.URL.Path == "/v1/reload" {
			text += fmt.Sprintf("; `kill -HUP %d` makes it load its configuration again", os.Getpid())
		}
		refuse(w, http.StatusConflict, text)
	default:
		health(w, false, text)
	}
}
