package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
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
	// Tunnel returns one, at a cost that does not depend on how many there are; a name
	// that there is not is a *NotFoundError (NoTunnel), here and below.
	Tunnel(name string) (Tunnel, error)
	// FDB yields the entries that pass the filter. It can be read for as long as a client takes.
	FDB(FDBFilter) (iter.Seq[FDBEntry], error)
	// Reload loads the configuration anew, all of it or nothing. Errors that
	// are not an *InvalidError mean that it cannot be done now.
	Reload(ReloadRequest) (Reload, error)
	// ReloadTrial is a reload that is taken back after a time, unless ReloadKeep is called before.
	// There is one at a time, and no other reload while it lasts. ReloadRevert takes it back now.
	ReloadTrial(TrialRequest) (Reload, error)
	ReloadKeep() error
	ReloadRevert() (Reload, error)

	// Rehearse returns a source that checks changes of tunnels, peers, VLANs and entries and makes
	// none. It fills in would.
	Rehearse(would *Would) Source

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
	// Batch reads lines until they end or one is wrong, and applies all of them or none.
	// A line is good until the next; an error ends them.
	Batch(dev string, o BatchOptions, lines iter.Seq2[[]byte, error]) (BatchResult, error)
	// Events returns what happens, until ctx ends.
	Events(ctx context.Context, from EventsFrom) iter.Seq[Event]
	// Capture begins to copy packets and returns what writes them, as pcapng, until its ctx ends
	// or its writer fails. It must be called, as it ends the copying, too.
	Capture(CaptureRequest) (write func(ctx context.Context, w io.Writer) error, err error)

	// Probe asks a peer of a tunnel, and waits for its answer as long as the request says.
	Probe(ctx context.Context, dev string, r ProbeRequest) (Probed, error)

	// Health and Progress must answer also while a change hangs.
	Health() Health
	Progress() Progress
	// Metrics answers GET /metrics.
	Metrics() http.Handler
	// Options returns the kinds of GENEVE options that have a name.
	Options() []OptionKind
	// LogLevel returns what is logged now; SetLogLevel changes it, for For
	// seconds unless that is 0.
	LogLevel() LogLevel
	SetLogLevel(LogLevelWrite) error
}

// Attributed is a Source that tells by whom it was changed.
type Attributed interface {
	// By returns the source for the changes of one caller.
	By(Caller) Source
}

// asked is the source for changes that a request asks for.
func (s *server) asked(r *http.Request) Source {
	c, _ := r.Context().Value(connKey{}).(*conn)
	of, can := s.src.(Attributed)
	if c == nil || !can {
		return s.src
	}
	who, known := c.caller()
	if !known {
		return s.src
	}
	return of.By(who)
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
	// changeTimeout is that of answers to changes: thousands of devices take
	// their time.
	changeTimeout = 5 * time.Minute
	maxBody       = 1 << 20
	maxHeader     = 16 << 10

	// maxLarge is how many answers that can be large are in the making or on
	// their way to slow readers at once. Tables are not, they are written in pieces of
	// this many bytes as they are read, but thousands of tunnels and peers are.
	maxLarge = 8
	streamed = 64 << 10
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
// reach, until ctx ends, and closes it. With a page, it also answers below /page/.
func ServeMetrics(ctx context.Context, l net.Listener, door *Door, withPage bool) error {
	there, nothing := watched, "no such path: /metrics, /healthz, /readyz"
	if withPage {
		routes, err := pageRoutes()
		if err != nil {
			return err
		}
		there, nothing = slices.Concat(watched, routes), nothing+", /page/"
	}
	h := door.handler(writeTimeout/2, func(src Source) http.Handler {
		s := &server{src: src, large: make(gate, maxLookups)}
		return s.mux(append(slices.Clip(there), route{"", "/", anybody, func(_ *server, w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusNotFound, nothing)
		}}))
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
var objects = []string{"tunnel", "peer", "fdb", dropObject}

// dropObject is what events about packets that are dropped are about. They come only to those who
// ask for them: there may be many.
const dropObject = "drop"

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

// server answers from a source.
type server struct {
	src            Source
	read, write    time.Duration
	large, streams gate
	batches        gate
}

func handler(src Source, read, write time.Duration) http.Handler {
	s := &server{src, read, write, make(gate, maxLarge), make(gate, maxStreams), make(gate, maxBatches)}
	return s.mux(slices.Concat(watched, routes, changing, checking()))
}

// mux answers on routes.
func (s *server) mux(routes []route) *http.ServeMux {
	mux := http.NewServeMux()
	for _, to := range routes {
		mux.HandleFunc(strings.TrimSpace(to.method+" "+to.path), func(w http.ResponseWriter, r *http.Request) {
			c, _ := r.Context().Value(connKey{}).(*conn)
			if why := to.may(c, r); why != "" {
				refuse(w, http.StatusForbidden, why)
				return
			}
			to.answer(s, w, r)
		})
	}
	return mux
}

// events answers with events until the reader has gone.
func (s *server) events(w http.ResponseWriter, r *http.Request) {
	object := r.URL.Query().Get("object")
	if object != "" && !slices.Contains(objects, object) {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("object %q: want %s", object, strings.Join(objects, ", ")))
		return
	}
	from, err := parseFrom(r.URL.Query().Get("from"))
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if !s.streams.pass(r.Context(), 0) {
		refuse(w, http.StatusServiceUnavailable, "too many clients follow events")
		return
	}
	defer s.streams.leave()
	if from.Drops = object == dropObject; from.Drops && (from.Snapshot || from.After != 0) {
		refuse(w, http.StatusBadRequest, "drops are not remembered: leave out from")
		return
	}
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{}) // the reader has nothing more to say
	events := s.src.Events(r.Context(), from)
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc.Flush() // tells that it has begun
	enc := json.NewEncoder(w)
	for e := range events {
		if object != "" && e.Object != object && e.Object != "lost" && e.Object != "snapshot" {
			continue
		}
		rc.SetWriteDeadline(time.Now().Add(s.write))
		if enc.Encode(e) != nil || rc.Flush() != nil {
			return
		}
	}
}

// capture answers with packets until the reader has gone.
func (s *server) capture(w http.ResponseWriter, r *http.Request) {
	var wanted CaptureRequest
	if err := wanted.parse(r.URL.Query()); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if !s.streams.pass(r.Context(), 0) {
		refuse(w, http.StatusServiceUnavailable, "too many clients follow events")
		return
	}
	defer s.streams.leave()
	write, err := s.src.Capture(wanted)
	if err != nil {
		outcome(w, r, s.src, func(Source, *http.Request) (any, error) { return nil, err })
		return
	}
	http.NewResponseController(w).SetReadDeadline(time.Time{}) // the reader has nothing more to say
	w.Header().Set("Content-Type", "application/x-pcapng")
	write(r.Context(), &prompt{w, s.write})
}

// prompt hands on at once what is written. A reader that does not take it in time loses the
// connection.
type prompt struct {
	http.ResponseWriter
	patience time.Duration
}

func (p *prompt) Write(b []byte) (n int, err error) {
	rc := http.NewResponseController(p.ResponseWriter)
	rc.SetWriteDeadline(time.Now().Add(p.patience))
	if n, err = p.ResponseWriter.Write(b); err == nil {
		err = rc.Flush()
	}
	return n, err
}

// EventsFrom is where events begin; its zero value is now.
type EventsFrom struct {
	Snapshot bool   // with what is there
	After    uint64 // after the event of this number; 0: none
	Drops    bool   // what is dropped from now on, and nothing else
}

func (f EventsFrom) String() string {
	switch {
	case f.Snapshot:
		return "snapshot"
	case f.After != 0:
		return strconv.FormatUint(f.After, 10)
	}
	return ""
}

func parseFrom(text string) (f EventsFrom, err error) {
	switch text {
	case "":
	case "snapshot":
		f.Snapshot = true
	default:
		if f.After, err = strconv.ParseUint(text, 10, 64); err != nil || f.After == 0 {
			err = fmt.Errorf("from %.80q: want snapshot, or the number of an event", text)
		}
	}
	return f, err
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
	if entries, many := v.(iter.Seq[FDBEntry]); many {
		stream(w, entries)
		return
	}
	json.NewEncoder(w).Encode(v)
}

// stream writes an array as it comes: a million entries would be 500 MiB of objects and JSON.
func stream[T any](w io.Writer, all iter.Seq[T]) {
	out := bufio.NewWriterSize(w, streamed)
	enc := json.NewEncoder(out)
	out.WriteByte('[')
	first := true
	for v := range all {
		if !first {
			out.WriteByte(',')
		}
		first = false
		if enc.Encode(v) != nil { // the reader has gone
			return
		}
	}
	out.WriteString("]\n")
	out.Flush()
}

// patient gives each piece of an answer the time that others have for all of it, so that a
// reader loses the connection who stops to read, and not who has much to read.
type patient struct {
	http.ResponseWriter
	pause time.Duration
	end   time.Time // of the patience
}

func (p *patient) Write(b []byte) (int, error) {
	until := time.Now().Add(p.pause)
	if until.After(p.end) {
		until = p.end
	}
	http.NewResponseController(p.ResponseWriter).SetWriteDeadline(until)
	return p.ResponseWriter.Write(b)
}

func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
