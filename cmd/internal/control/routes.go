package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"
)

// route is one thing that can be asked or told.
type route struct {
	method, path string // as net/http has them; GET is HEAD, too
	may          permission
	answer       func(*server, http.ResponseWriter, *http.Request)
}

// permission returns why a request is refused, or "". c is nil if nothing is
// known of who asks.
type permission func(c *conn, r *http.Request) string

// anybody is whoever can connect.
func anybody(*conn, *http.Request) string { return "" }

// owner is root and the user of the daemon.
func owner(c *conn, _ *http.Request) string {
	if c != nil && c.mayWrite() {
		return ""
	}
	return "Operation not permitted (changes are for root and the user of the daemon)"
}

// capturing is for root and the user of the daemon: counters tell how much goes through a tunnel,
// and packets what.
func capturing(c *conn, _ *http.Request) string {
	if c != nil && c.mayWrite() {
		return ""
	}
	return "Operation not permitted (packets are for root and the user of the daemon)"
}

// probing is for root and the user of the daemon: it sends packets.
func probing(c *conn, _ *http.Request) string {
	if c != nil && c.mayWrite() {
		return ""
	}
	return "Operation not permitted (probes are for root and the user of the daemon)"
}

// root may see profiles: they tell what is in memory.
func root(c *conn, _ *http.Request) string {
	if c != nil && c.isRoot() {
		return ""
	}
	return "Operation not permitted (profiles are for root)"
}

// reloading lets anybody ask what a reload would change, but not have a file
// read that the daemon may read and the one who asks perhaps not.
func reloading(c *conn, r *http.Request) string {
	if q := r.URL.Query(); q.Has("dry_run") && q.Get("config") == "" {
		return ""
	}
	return owner(c, r)
}

// asking is for paths where there is nothing to change.
func asking(c *conn, r *http.Request) string {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return ""
	}
	return owner(c, r)
}

// watched is what monitoring asks for.
var watched = []route{
	{"GET", "/metrics", anybody, func(s *server, w http.ResponseWriter, r *http.Request) { s.src.Metrics().ServeHTTP(w, r) }},
	{"GET", "/healthz", anybody, func(s *server, w http.ResponseWriter, _ *http.Request) {
		h := s.src.Health()
		health(w, len(h.Faults) == 0, strings.Join(h.Faults, "\n"))
	}},
	{"GET", "/readyz", anybody, func(s *server, w http.ResponseWriter, _ *http.Request) {
		h := s.src.Health()
		reason := "starting or stopping"
		if faults := append(h.Faults, h.Unmet...); len(faults) > 0 {
			reason = strings.Join(faults, "\n")
		}
		health(w, h.Ready, reason)
	}},
}

// routes is the rest.
var routes = []route{
	{"GET", "/v1/status", anybody, reads(func(s Source, r *http.Request) (any, error) { return s.Status(r.URL.Query().Has("details")), nil })},
	{"GET", "/v1/progress", anybody, reads(func(s Source, _ *http.Request) (any, error) { return s.Progress(), nil })},
	{"GET", "/v1/tunnels", anybody, reads(func(s Source, _ *http.Request) (any, error) { return s.Tunnels(), nil })},
	{"GET", "/v1/tunnels/{dev}", anybody, reads(func(s Source, r *http.Request) (any, error) { return s.Tunnel(dev(r)) })},
	{"GET", "/v1/tunnels/{dev}/peers", anybody, reads(func(s Source, r *http.Request) (any, error) {
		t, err := s.Tunnel(dev(r))
		return t.Gvtep.Peers, err
	})},
	{"GET", "/v1/tunnels/{dev}/fdb", anybody, reads(func(s Source, r *http.Request) (any, error) { return s.FDB(FDBFilter{Dev: dev(r)}) })},
	{"GET", "/v1/tunnels/{dev}/fdb/{mac}", anybody, reads(func(s Source, r *http.Request) (any, error) { return s.FDBGet(dev(r), r.PathValue("mac")) })},
	{"GET", "/v1/tunnels/{dev}/vlans", anybody, reads(func(s Source, r *http.Request) (any, error) { return s.VLANs(dev(r), r.URL.Query().Has("stats")) })},
	{"GET", "/v1/fdb", anybody, reads(func(s Source, r *http.Request) (any, error) {
		var f FDBFilter
		q := r.URL.Query()
		maps.DeleteFunc(q, func(_ string, values []string) bool { return values[0] == "" }) // they choose nothing
		if err := parseQuery(q, f.query()); err != nil {
			return nil, err
		}
		return s.FDB(f)
	})},
	{"GET", "/v1/options", anybody, reads(func(s Source, _ *http.Request) (any, error) { return s.Options(), nil })},
	{"GET", "/v1/log/level", anybody, reads(func(s Source, _ *http.Request) (any, error) { return s.LogLevel(), nil })},
	{"GET", "/v1/events", anybody, (*server).events},
	{"GET", "/v1/capture", capturing, (*server).capture},

	{"POST", "/v1/reload", reloading, does(func(s Source, r *http.Request) (any, error) {
		q := r.URL.Query()
		return s.Reload(ReloadRequest{Config: q.Get("config"), DryRun: q.Has("dry_run")})
	})},
	// Paths of their own: an older daemon must not take them for reloads that last.
	{"POST", "/v1/reload/trial", owner, asks(func(s Source, _ *http.Request, q TrialRequest) (any, error) { return s.ReloadTrial(q) })},
	{"POST", "/v1/reload/keep", owner, does(func(s Source, _ *http.Request) (any, error) { return done, s.ReloadKeep() })},
	{"POST", "/v1/reload/revert", owner, does(func(s Source, _ *http.Request) (any, error) { return s.ReloadRevert() })},
	{"PUT", "/v1/log/level", owner, takes(func(s Source, _ *http.Request, w LogLevelWrite) error { return s.SetLogLevel(w) })},
	{"POST", "/v1/tunnels/{dev}/probe", probing, asks(func(s Source, r *http.Request, q ProbeRequest) (any, error) { return s.Probe(r.Context(), dev(r), q) })},
	{"POST", "/v1/tunnels/{dev}/batch", owner, (*server).batch},

	{"GET", "/debug/pprof/", root, profile(pprof.Index)},
	{"GET", "/debug/pprof/cmdline", root, profile(pprof.Cmdline)},
	{"GET", "/debug/pprof/profile", root, profile(pprof.Profile)},
	{"GET", "/debug/pprof/symbol", root, profile(pprof.Symbol)},
	{"GET", "/debug/pprof/trace", root, profile(pprof.Trace)},
	{"GET", "/debug/", root, nowhere},
	{"", "/v1/reload", asking, readOnly("POST", "a reload is a POST")},
	{"", "/", asking, nowhere},
}

// changing are the changes that can also be checked.
var changing = []route{
	{"POST", "/v1/tunnels", owner, takes(func(s Source, _ *http.Request, w TunnelWrite) error { return s.TunnelAdd(w) })},
	{"PATCH", "/v1/tunnels/{dev}", owner, takes(func(s Source, r *http.Request, w TunnelWrite) error {
		w.Name = dev(r)
		return s.TunnelSet(w)
	})},
	{"DELETE", "/v1/tunnels/{dev}", owner, does(func(s Source, r *http.Request) (any, error) { return done, s.TunnelDelete(dev(r)) })},
	{"POST", "/v1/tunnels/{dev}/peers", owner, takes(func(s Source, r *http.Request, w PeerWrite) error { return s.PeerAdd(dev(r), w) })},
	{"PATCH", "/v1/tunnels/{dev}/peers", owner, takes(func(s Source, r *http.Request, w PeerWrite) error { return s.PeerSet(dev(r), w) })},
	{"DELETE", "/v1/tunnels/{dev}/peers/{addr}", owner, does(func(s Source, r *http.Request) (any, error) { return done, s.PeerDelete(dev(r), r.PathValue("addr")) })},
	{"POST", "/v1/tunnels/{dev}/vlans", owner, takes(func(s Source, r *http.Request, w VLANWrite) error { return s.VLANAdd(dev(r), w) })},
	{"DELETE", "/v1/tunnels/{dev}/vlans/{vid}", owner, does(func(s Source, r *http.Request) (any, error) {
		return done, s.VLANDelete(dev(r), VLANWrite{VID: r.PathValue("vid"), ID: r.URL.Query().Get("id")})
	})},
	{"POST", "/v1/tunnels/{dev}/fdb", owner, takes(func(s Source, r *http.Request, w FDBWrite) error { return s.FDBSet(dev(r), w) })},
	{"DELETE", "/v1/tunnels/{dev}/fdb/{mac}", owner, does(func(s Source, r *http.Request) (any, error) {
		return done, s.FDBDelete(dev(r), FDBWrite{MAC: r.PathValue("mac"), Keywords: r.URL.Query()["keyword"]})
	})},
	{"DELETE", "/v1/tunnels/{dev}/fdb", owner, does(func(s Source, r *http.Request) (any, error) {
		var f FDBFlush
		if err := parseQuery(r.URL.Query(), f.query()); err != nil {
			return nil, err
		}
		n, err := s.FDBFlush(dev(r), f)
		return Flushed{n}, err
	})},
}

// checkPath is where what is below /v1 otherwise is only checked, and answered with a Would. It is a
// path of its own and no parameter: an older daemon must not make the change.
const checkPath = "/v1/check"

func checking() (all []route) {
	for _, r := range changing {
		r.path = checkPath + strings.TrimPrefix(r.path, "/v1")
		all = append(all, r)
	}
	return all
}

// done is the answer to a change.
var done = struct{}{}

func dev(r *http.Request) string { return r.PathValue("dev") }

// reads answers with what f returns, which can be large.
func reads(f func(Source, *http.Request) (any, error)) func(*server, http.ResponseWriter, *http.Request) {
	return func(s *server, w http.ResponseWriter, r *http.Request) {
		if !s.large.pass(r.Context(), s.read) {
			refuse(w, http.StatusServiceUnavailable, "too many answers are on their way")
			return
		}
		defer s.large.leave()
		outcome(&patient{w, s.write, time.Now().Add(changeTimeout)}, r, s.src, f)
	}
}

// does answers with what became of a change. It may take its time, as with
// thousands of devices.
func does(f func(Source, *http.Request) (any, error)) func(*server, http.ResponseWriter, *http.Request) {
	return func(s *server, w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(changeTimeout))
		src := s.asked(r)
		if strings.HasPrefix(r.URL.Path, checkPath+"/") {
			would := &Would{Added: []string{}, Removed: []string{}, Changed: []TunnelChange{}}
			src = src.Rehearse(would)
			do := f
			f = func(src Source, r *http.Request) (any, error) {
				_, err := do(src, r)
				return would, err
			}
		}
		outcome(w, r, src, f)
	}
}

// takes reads what is wanted, as JSON, and does it.
func takes[T any](f func(Source, *http.Request, T) error) func(*server, http.ResponseWriter, *http.Request) {
	return asks(func(s Source, r *http.Request, wanted T) (any, error) { return done, f(s, r, wanted) })
}

// asks reads what is wanted, as JSON, and answers.
func asks[T any](f func(Source, *http.Request, T) (any, error)) func(*server, http.ResponseWriter, *http.Request) {
	return does(func(s Source, r *http.Request) (any, error) {
		var wanted T
		dec := json.NewDecoder(io.LimitReader(r.Body, maxBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&wanted); err != nil {
			return nil, &UsageError{fmt.Sprintf("not the JSON of a %T: %v", wanted, err)}
		}
		return f(s, r, wanted)
	})
}

// outcome answers with what f returns, or says why there is nothing.
func outcome(w http.ResponseWriter, r *http.Request, s Source, f func(Source, *http.Request) (any, error)) {
	v, err := f(s, r)
	var usage *UsageError
	var missing *NotFoundError
	var invalid *InvalidError
	switch {
	case err == nil:
		answer(w, http.StatusOK, v)
	case errors.As(err, &usage):
		refuse(w, http.StatusBadRequest, err.Error())
	case errors.As(err, &missing):
		refuse(w, http.StatusNotFound, err.Error())
	case errors.As(err, &invalid):
		answer(w, http.StatusUnprocessableEntity, errorBody{Error: invalid.Text, Faults: invalid.Faults})
	default:
		refuse(w, http.StatusConflict, err.Error())
	}
}

// profile answers with a profile. One that takes a time sets its own deadline
// for writing.
func profile(f http.HandlerFunc) func(*server, http.ResponseWriter, *http.Request) {
	return func(_ *server, w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetReadDeadline(time.Time{})
		f(w, r)
	}
}

// readOnly refuses a method.
func readOnly(allow, text string) func(*server, http.ResponseWriter, *http.Request) {
	return func(_ *server, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", allow)
		refuse(w, http.StatusMethodNotAllowed, text)
	}
}

// nowhere answers for paths that do not exist.
func nowhere(s *server, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		readOnly("GET, HEAD", "this path is read-only; changes go to /v1/tunnels, POST /v1/reload or PUT /v1/log/level")(s, w, r)
		return
	}
	refuse(w, http.StatusNotFound, "no such path: /v1/status, /v1/tunnels, /v1/fdb, /v1/events, /v1/capture, /v1/options, /v1/reload, /v1/log/level, /metrics, /healthz, /readyz, /debug/pprof/")
}
