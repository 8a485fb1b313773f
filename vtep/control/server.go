package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Source is what the server asks. All methods are called concurrently.
type Source interface {
	// Status has its Go only if details are wanted.
	Status(details bool) Status
	Tunnels() []Tunnel
	// FDB returns the entries that pass the filter.
	FDB(FDBFilter) []FDBEntry
	// Reload loads the configuration anew, all of it or nothing. Errors that
	// are not an *InvalidError mean that it cannot be done now.
	Reload(ReloadRequest) (Reload, error)
}

// InvalidError says that a configuration is wrong. The text has several lines:
// each fault with its place.
type InvalidError struct {
	Text   string
	Faults int
}

func (e *InvalidError) Error() string { return e.Text }

// Time-outs of the server. A client that stalls loses its connection; the
// data path does not notice either way.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 10 * time.Second
	// reloadTimeout is that of POST /v1/reload.
	reloadTimeout = 5 * time.Minute
	maxBody       = 1 << 20
	maxHeader     = 16 << 10
)

// Serve answers on l until ctx ends, and closes it.
func Serve(ctx context.Context, l net.Listener, src Source) error {
	return serve(ctx, l, src, readTimeout, writeTimeout)
}

func serve(ctx context.Context, l net.Listener, src Source, read, write time.Duration) error {
	srv := &http.Server{
		Handler:           handler(src),
		ReadHeaderTimeout: read,
		ReadTimeout:       read,
		IdleTimeout:       read,
		WriteTimeout:      write,
		MaxHeaderBytes:    maxHeader,
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if ctx.Err() != nil {
		return nil
	}
	srv.Close()
	return fmt.Errorf("control socket: %w", err)
}

func handler(src Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		details := r.URL.Query().Has("details")
		answer(w, http.StatusOK, src.Status(details))
	})
	mux.HandleFunc("GET /v1/tunnels", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, src.Tunnels())
	})
	mux.HandleFunc("GET /v1/tunnels/{name}", func(w http.ResponseWriter, r *http.Request) {
		if t, ok := tunnel(w, src, r.PathValue("name")); ok {
			answer(w, http.StatusOK, t)
		}
	})
	mux.HandleFunc("GET /v1/tunnels/{name}/peers", func(w http.ResponseWriter, r *http.Request) {
		if t, ok := tunnel(w, src, r.PathValue("name")); ok {
			answer(w, http.StatusOK, t.Gvtep.Peers)
		}
	})
	mux.HandleFunc("GET /v1/tunnels/{name}/fdb", func(w http.ResponseWriter, r *http.Request) {
		if t, ok := tunnel(w, src, r.PathValue("name")); ok {
			answer(w, http.StatusOK, src.FDB(FDBFilter{Dev: t.Ifname}))
		}
	})
	mux.HandleFunc("GET /v1/fdb", func(w http.ResponseWriter, r *http.Request) {
		f, err := parseFilter(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		if f.Dev != "" {
			if _, ok := tunnel(w, src, f.Dev); !ok {
				return
			}
		}
		answer(w, http.StatusOK, src.FDB(f))
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		req := ReloadRequest{Config: q.Get("config"), DryRun: q.Has("dry_run")}
		// Thousands of devices take their time.
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadTimeout))
		result, err := src.Reload(req)
		var invalid *InvalidError
		switch {
		case errors.As(err, &invalid):
			answer(w, http.StatusUnprocessableEntity, errorBody{Error: invalid.Text, Faults: invalid.Faults})
		case err != nil:
			refuse(w, http.StatusConflict, err.Error())
		default:
			answer(w, http.StatusOK, result)
		}
	})
	mux.HandleFunc("/v1/reload", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", "POST")
		refuse(w, http.StatusMethodNotAllowed, "a reload is a POST")
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		src.Status(false) // waits while a change does not come to its end
		health(w, true, "")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		st := src.Status(false)
		health(w, st.Ready, st.Reason)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "here one can only ask; what can be told is POST /v1/reload")
			return
		}
		refuse(w, http.StatusNotFound, "no such path: /v1/status, /v1/tunnels, /v1/fdb, /v1/reload, /healthz, /readyz")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	})
}

// tunnel looks name up, and answers if there is none.
func tunnel(w http.ResponseWriter, src Source, name string) (Tunnel, bool) {
	names := []string{}
	for _, t := range src.Tunnels() {
		if t.Ifname == name {
			return t, true
		}
		names = append(names, t.Ifname)
	}
	refuse(w, http.StatusNotFound, fmt.Sprintf("no tunnel %q, there is: %s", name, strings.Join(names, ", ")))
	return Tunnel{}, false
}

func parseFilter(r *http.Request) (FDBFilter, error) {
	q := r.URL.Query()
	f := FDBFilter{Dev: q.Get("dev")}
	for key := range q {
		switch key {
		case "dev", "vni", "dst":
		default:
			return f, fmt.Errorf("unknown filter %q: want dev, vni or dst", key)
		}
	}
	if s := q.Get("vni"); s != "" {
		n, err := strconv.ParseUint(s, 0, 24)
		if err != nil {
			return f, fmt.Errorf("vni %s: a VNI is 0 to 16777215", s)
		}
		vni := uint32(n)
		f.VNI = &vni
	}
	if s := q.Get("dst"); s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return f, fmt.Errorf("dst %s: not an IP address", s)
		}
		f.Dst = a
	}
	return f, nil
}

func health(w http.ResponseWriter, ok bool, reason string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, reason)
		return
	}
	fmt.Fprintln(w, "ok")
}

type errorBody struct {
	Error  string `json:"error"`
	Faults int    `json:"faults,omitempty"` // of a configuration
}

func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, errorBody{Error: text})
}

// answer writes v. A client that is gone by now is nobody's error.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
