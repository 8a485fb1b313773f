package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"slices"
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

	// What changes things. An error that is a *UsageError means that the words
	// are wrong, others that it cannot be done.
	TunnelAdd(TunnelWrite) error
	TunnelSet(TunnelWrite) error
	TunnelDelete(name string) error
	PeerAdd(dev string, w PeerWrite) error
	PeerSet(dev string, w PeerWrite) error
	PeerDelete(dev, addr string) error
	// VLANs returns ranges, or with stats each VLAN for itself.
	VLANs(dev string, stats bool) ([]VLAN, error)
	VLANAdd(dev string, w VLANWrite) error
	VLANDelete(dev string, w VLANWrite) error
	FDBSet(dev string, w FDBWrite) error
	FDBDelete(dev string, w FDBWrite) error
	FDBFlush(dev string, f FDBFlush) (int, error)
	FDBGet(dev, mac string) ([]FDBEntry, error)
	// Events returns what happens from now on, until ctx ends.
	Events(ctx context.Context) iter.Seq[Event]

	// Health must answer also while a change hangs.
	Health() Health
	// Metrics answers GET /metrics.
	Metrics() http.Handler
	// LogLevel returns what is logged now; SetLogLevel changes it, for For
	// seconds unless that is 0.
	LogLevel() LogLevel
	SetLogLevel(LogLevelWrite) error
}

// UsageError says that the words of a request are wrong.
type UsageError struct{ Text string }

func (e *UsageError) Error() string { return e.Text }

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

	// maxLarge is how many answers that can be large are in the making or on
	// their way to slow readers at once: a table of 100,000 entries is some
	// 50 MiB of objects and JSON.
	maxLarge = 8
	// maxStreams is how many clients may follow events. They stay, so that
	// without a limit they would leave no connection to others.
	maxStreams = MaxClients / 2
	// maxError is the longest text of an error: who sends a name of 64 KiB
	// need not read it again.
	maxError = 4 << 10
)

// Serve answers on l until ctx ends, and closes it.
func Serve(ctx context.Context, l net.Listener, door *Door) error {
	return serve(ctx, l, door, readTimeout, writeTimeout)
}

func serve(ctx context.Context, l net.Listener, door *Door, read, write time.Duration) error {
	h := door.handler(write/2, func(src Source) http.Handler { return handler(src, read, write) })
	return serveHandler(ctx, l, h, read, write)
}

// ServeMetrics answers /metrics, /healthz and /readyz on l, which anybody may
// reach, until ctx ends, and closes it.
func ServeMetrics(ctx context.Context, l net.Listener, door *Door) error {
	h := door.handler(writeTimeout/2, func(src Source) http.Handler {
		mux := http.NewServeMux()
		watched(mux, src)
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			refuse(w, http.StatusNotFound, "no such path: /metrics, /healthz, /readyz")
		})
		return mux
	})
	return serveHandler(ctx, Limit(l), h, readTimeout, writeTimeout)
}

func serveHandler(ctx context.Context, l net.Listener, h http.Handler, read, write time.Duration) error {
	srv := &http.Server{
		Handler:           h,
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
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
	return fmt.Errorf("%s: %w", l.Addr(), err)
}

// connKey finds the connection of a request in its context.
type connKey struct{}

// objects are what events are about.
var objects = []string{"tunnel", "peer", "fdb"}

// watched adds what monitoring asks for.
func watched(mux *http.ServeMux, src Source) {
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) { src.Metrics().ServeHTTP(w, r) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		h := src.Health()
		health(w, len(h.Faults) == 0, strings.Join(h.Faults, "\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		h := src.Health()
		reason := "starting or stopping"
		if faults := append(h.Faults, h.Unmet...); len(faults) > 0 {
			reason = strings.Join(faults, "\n")
		}
		health(w, h.Ready, reason)
	})
}

// profiles adds what net/http/pprof has. Profiles tell what is in memory:
// they are for root.
func profiles(mux *http.ServeMux) {
	for path, f := range map[string]http.HandlerFunc{
		"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		mux.HandleFunc("GET /debug/pprof/"+path, func(w http.ResponseWriter, r *http.Request) {
			// Those that take a time set their own deadline for writing.
			http.NewResponseController(w).SetReadDeadline(time.Time{})
			f(w, r)
		})
	}
}

// gate lets a limited number through.
type gate chan struct{}

// pass reports whether there is room, for which it waits if patience is not 0.
func (g gate) pass(ctx context.Context, patience time.Duration) bool {
	select {
	case g <- struct{}{}:
		return true
	default:
	}
	if patience == 0 {
		return false
	}
	select {
	case g <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-time.After(patience):
	}
	return false
}

func (g gate) leave() { <-g }

func handler(src Source, read, write time.Duration) http.Handler {
	mux := http.NewServeMux()
	watched(mux, src)
	profiles(mux)
	large, streams := make(gate, maxLarge), make(gate, maxStreams)
	mux.HandleFunc("GET /v1/log/level", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, src.LogLevel())
	})
	mux.HandleFunc("PUT /v1/log/level", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, src.SetLogLevel)
	})
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
	mux.HandleFunc("GET /v1/tunnels/{name}/fdb/{mac}", func(w http.ResponseWriter, r *http.Request) {
		entries, err := src.FDBGet(r.PathValue("name"), r.PathValue("mac"))
		outcome(w, entries, err)
	})
	mux.HandleFunc("POST /v1/tunnels", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, src.TunnelAdd)
	})
	mux.HandleFunc("PATCH /v1/tunnels/{name}", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, func(t TunnelWrite) error {
			t.Name = r.PathValue("name")
			return src.TunnelSet(t)
		})
	})
	mux.HandleFunc("DELETE /v1/tunnels/{name}", func(w http.ResponseWriter, r *http.Request) {
		outcome(w, struct{}{}, src.TunnelDelete(r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/tunnels/{name}/peers", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, func(p PeerWrite) error { return src.PeerAdd(r.PathValue("name"), p) })
	})
	mux.HandleFunc("PATCH /v1/tunnels/{name}/peers", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, func(p PeerWrite) error { return src.PeerSet(r.PathValue("name"), p) })
	})
	mux.HandleFunc("DELETE /v1/tunnels/{name}/peers/{addr}", func(w http.ResponseWriter, r *http.Request) {
		outcome(w, struct{}{}, src.PeerDelete(r.PathValue("name"), r.PathValue("addr")))
	})
	mux.HandleFunc("GET /v1/tunnels/{name}/vlans", func(w http.ResponseWriter, r *http.Request) {
		if t, ok := tunnel(w, src, r.PathValue("name")); ok {
			vlans, err := src.VLANs(t.Ifname, r.URL.Query().Has("stats"))
			outcome(w, vlans, err)
		}
	})
	mux.HandleFunc("POST /v1/tunnels/{name}/vlans", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, func(v VLANWrite) error { return src.VLANAdd(r.PathValue("name"), v) })
	})
	mux.HandleFunc("DELETE /v1/tunnels/{name}/vlans/{vid}", func(w http.ResponseWriter, r *http.Request) {
		v := VLANWrite{VID: r.PathValue("vid"), ID: r.URL.Query().Get("id")}
		outcome(w, struct{}{}, src.VLANDelete(r.PathValue("name"), v))
	})
	mux.HandleFunc("POST /v1/tunnels/{name}/fdb", func(w http.ResponseWriter, r *http.Request) {
		change(w, r, func(e FDBWrite) error { return src.FDBSet(r.PathValue("name"), e) })
	})
	mux.HandleFunc("DELETE /v1/tunnels/{name}/fdb/{mac}", func(w http.ResponseWriter, r *http.Request) {
		e := FDBWrite{MAC: r.PathValue("mac"), Keywords: r.URL.Query()["keyword"]}
		outcome(w, struct{}{}, src.FDBDelete(r.PathValue("name"), e))
	})
	mux.HandleFunc("DELETE /v1/tunnels/{name}/fdb", func(w http.ResponseWriter, r *http.Request) {
		f, err := parseFlush(r)
		n := 0
		if err == nil {
			n, err = src.FDBFlush(r.PathValue("name"), f)
		}
		outcome(w, Flushed{n}, err)
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		object := r.URL.Query().Get("object")
		if object != "" && !slices.Contains(objects, object) {
			refuse(w, http.StatusBadRequest, fmt.Sprintf("object %q: want %s", object, strings.Join(objects, ", ")))
			return
		}
		if !streams.pass(r.Context(), 0) {
			refuse(w, http.StatusServiceUnavailable, "too many clients follow events")
			return
		}
		defer streams.leave()
		rc := http.NewResponseController(w)
		rc.SetReadDeadline(time.Time{}) // the reader has nothing more to say
		events := src.Events(r.Context())
		w.Header().Set("Content-Type", "application/x-ndjson")
		rc.Flush() // tells that it has begun
		enc := json.NewEncoder(w)
		for e := range events {
			if object != "" && e.Object != object && e.Object != "lost" {
				continue
			}
			rc.SetWriteDeadline(time.Now().Add(write))
			if enc.Encode(e) != nil || rc.Flush() != nil {
				return
			}
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
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "here one can only ask; what can be told is below /v1/tunnels, POST /v1/reload and PUT /v1/log/level")
			return
		}
		refuse(w, http.StatusNotFound, "no such path: /v1/status, /v1/tunnels, /v1/fdb, /v1/events, /v1/reload, /v1/log/level, /metrics, /healthz, /readyz, /debug/pprof/")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if changes(r) {
			if c, ok := r.Context().Value(connKey{}).(*conn); !ok || !c.mayWrite() {
				refuse(w, http.StatusForbidden, "Operation not permitted (changes are for root and the user of the daemon)")
				return
			}
		}
		if strings.HasPrefix(r.URL.Path, "/debug/") {
			if c, ok := r.Context().Value(connKey{}).(*conn); !ok || !c.isRoot() {
				refuse(w, http.StatusForbidden, "Operation not permitted (profiles are for root)")
				return
			}
		}
		if reads := r.Method == http.MethodGet || r.Method == http.MethodHead; reads && strings.HasPrefix(r.URL.Path, "/v1/") && r.URL.Path != "/v1/events" {
			// Slow readers do not stay longer than the time-out for writing.
			if !large.pass(r.Context(), read) {
				refuse(w, http.StatusServiceUnavailable, "too many answers are on their way")
				return
			}
			defer large.leave()
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		mux.ServeHTTP(w, r)
	})
}

// changes reports whether a request would change something, or have a file
// read that the daemon may read and the one who asks perhaps not.
func changes(r *http.Request) bool {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return false
	case r.URL.Path == "/v1/reload":
		q := r.URL.Query()
		return !q.Has("dry_run") || q.Get("config") != ""
	}
	return true
}

// change reads what is wanted and answers with what became of it.
func change[T any](w http.ResponseWriter, r *http.Request, do func(T) error) {
	var wanted T
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&wanted); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("not the JSON of a %T: %v", wanted, err))
		return
	}
	outcome(w, struct{}{}, do(wanted))
}

// outcome answers with v, or why there is none.
func outcome(w http.ResponseWriter, v any, err error) {
	var usage *UsageError
	switch {
	case errors.As(err, &usage):
		refuse(w, http.StatusBadRequest, err.Error())
	case err != nil:
		refuse(w, http.StatusConflict, err.Error())
	default:
		answer(w, http.StatusOK, v)
	}
}

func parseFlush(r *http.Request) (f FDBFlush, err error) {
	f.Is = map[string]bool{}
	rest := r.URL.Query()
	for key := range rest {
		v := rest.Get(key)
		switch {
		case key == "port":
			n, e := strconv.ParseUint(v, 0, 16)
			if e != nil || n == 0 {
				return f, &UsageError{fmt.Sprintf("port %s: a UDP port is 1 to 65535", v)}
			}
			f.Port = uint16(n)
			rest.Del(key)
		case key == "src_vni":
			if f.SrcVNI, err = parseVNI(key, v); err != nil {
				return f, &UsageError{err.Error()}
			}
			rest.Del(key)
		case slices.Contains(FlushWords[:], key):
			if f.Is[key], err = strconv.ParseBool(v); err != nil {
				return f, &UsageError{fmt.Sprintf("%s %s: want true or false", key, v)}
			}
			rest.Del(key)
		}
	}
	filter, err := filterOf(rest)
	if err == nil && rest.Has("dev") {
		err = errors.New("dev is in the path")
	}
	if err != nil {
		return f, &UsageError{err.Error()}
	}
	f.Dst, f.VNI, f.VLAN = filter.Dst, filter.VNI, filter.VLAN
	return f, nil
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

func parseFilter(r *http.Request) (FDBFilter, error) { return filterOf(r.URL.Query()) }

func filterOf(q url.Values) (FDBFilter, error) {
	f := FDBFilter{Dev: q.Get("dev")}
	for key := range q {
		switch key {
		case "dev", "vni", "vlan", "dst":
		default:
			return f, fmt.Errorf("unknown filter %q: want dev, vni, vlan or dst", key)
		}
	}
	if s := q.Get("vni"); s != "" {
		vni, err := parseVNI("vni", s)
		if err != nil {
			return f, err
		}
		f.VNI = vni
	}
	if s := q.Get("vlan"); s != "" {
		n, err := strconv.ParseUint(s, 0, 12)
		if err != nil || n == 0 || n == 4095 {
			return f, fmt.Errorf("vlan %s: a VLAN ID is 1 to 4094", s)
		}
		f.VLAN = uint16(n)
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

func parseVNI(key, s string) (*uint32, error) {
	n, err := strconv.ParseUint(s, 0, 24)
	if err != nil {
		return nil, fmt.Errorf("%s %s: a VNI is 0 to 16777215", key, s)
	}
	vni := uint32(n)
	return &vni, nil
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
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + " ..."
	}
	answer(w, status, errorBody{Error: text})
}

// answer writes v. A client that is gone by now is nobody's error.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
