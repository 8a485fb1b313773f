package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrUnreachable is in the chain of errors that mean: nobody serves the
// socket, or we may not connect to it.
var ErrUnreachable = errors.New("daemon not reachable")

// ErrEnded is in the chain of those of them that mean: it took our connection,
// and was gone before it had answered.
var ErrEnded = errors.New("it ended before it answered")

// NotFoundError says that the daemon does not have what was asked for.
type NotFoundError struct{ Text string }

func (e *NotFoundError) Error() string { return e.Text }

// NoTunnel is the NotFoundError for a name that is none of those of the tunnels.
func NoTunnel(name string, tunnels []string) error {
	return &NotFoundError{fmt.Sprintf("no tunnel %q, there is: %s", name, strings.Join(tunnels, ", "))}
}

// Client asks a daemon. Its zero value is of no use. Its methods may be called
// concurrently.
type Client struct {
	path  string
	keep  bool
	would *Would // nil: changes are made

	mu   sync.Mutex
	idle *connection // of a session; nil: none
}

// connection is one to the daemon, with what was read ahead.
type connection struct {
	net.Conn
	in    *bufio.Reader
	since time.Time // idle
}

// maxIdle is how long a connection may have been idle to be used again. It is
// well below the server's own limit, readTimeout, so that the server does not
// close it under a request of which nobody knows whether it was heard.
const maxIdle = readTimeout / 2

// NewClient returns a client of the socket at path, with a connection for each
// question. Nothing is connected yet, and it need not be closed.
func NewClient(path string) *Client { return &Client{path: path} }

// NewSession returns a client that keeps its connection for the next question.
// It must be closed.
func NewSession(path string) *Client { return &Client{path: path, keep: true} }

// Checking returns a client whose changes are only checked, by the code that makes them. would is
// what they would do. It need not be closed.
func (c *Client) Checking(would *Would) *Client { return &Client{path: c.path, would: would} }

// Checks reports whether changes are only checked.
func (c *Client) Checks() bool { return c.would != nil }

// Close closes the connection that is kept.
func (c *Client) Close() error {
	if conn := c.take(); conn != nil {
		return conn.Close()
	}
	return nil
}

// take returns the connection that is kept, if it can still be used.
func (c *Client) take() *connection {
	c.mu.Lock()
	conn := c.idle
	c.idle = nil
	c.mu.Unlock()
	if conn != nil && time.Since(conn.since) > maxIdle {
		conn.Close()
		return nil
	}
	return conn
}

// give keeps a connection for the next question.
func (c *Client) give(conn *connection) {
	conn.since = time.Now()
	c.mu.Lock()
	conn, c.idle = c.idle, conn
	c.mu.Unlock()
	if conn != nil {
		conn.Close() // of two at a time one is enough
	}
}

// connect returns a connection of the session, or a new one.
func (c *Client) connect(ctx context.Context) (*connection, error) {
	if conn := c.take(); conn != nil {
		return conn, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) { // a moment before ctx says so
			return nil, fmt.Errorf("%s: %w", c.path, context.DeadlineExceeded)
		}
		if op := new(net.OpError); errors.As(err, &op) && ctx.Err() == nil {
			err = fmt.Errorf("%w: %s: %w", ErrUnreachable, c.path, op.Err)
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w (ask as %s)", err, allowed(c.path))
			}
		}
		return nil, err
	}
	return &connection{Conn: conn, in: bufio.NewReader(conn)}, nil
}

// RefusedError says that the daemon cannot do now what it was told.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// call asks for, or does, something, and returns the answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (v T, err error) {
	return v, c.send(ctx, method, path, body, decoded(&v))
}

// decoded reads an answer.
func decoded[T any](v *T) func(io.Reader) error {
	return func(answer io.Reader) error { return json.NewDecoder(answer).Decode(v) }
}

// tell does something whose answer has nothing in it.
func (c *Client) tell(ctx context.Context, method, path string, body any) error {
	if c.would != nil {
		return c.send(ctx, method, checkPath+strings.TrimPrefix(path, "/v1"), body, decoded(c.would))
	}
	return c.send(ctx, method, path, body, nil)
}

// at is the path of something of a tunnel.
func at(dev string, rest ...string) string {
	path := "/v1/tunnels/" + url.PathEscape(dev)
	for _, s := range rest {
		path += "/" + url.PathEscape(s)
	}
	return path
}

// Status asks for the daemon as a whole, with details also for Status.Go.
func (c *Client) Status(ctx context.Context, details bool) (Status, error) {
	return call[Status](ctx, c, "GET", "/v1/status"+word("details", details), nil)
}

// Progress asks how far the change under way is.
func (c *Client) Progress(ctx context.Context) (Progress, error) {
	return call[Progress](ctx, c, "GET", "/v1/progress", nil)
}

// word is a query of a word that is there or not.
func word(word string, is bool) string {
	if is {
		return "?" + word
	}
	return ""
}

// Reload makes the daemon load its configuration anew. An *InvalidError says
// what is wrong with it, a *RefusedError why it cannot be applied.
func (c *Client) Reload(ctx context.Context, req ReloadRequest) (Reload, error) {
	q := url.Values{}
	if req.Config != "" {
		q.Set("config", req.Config)
	}
	if req.DryRun {
		q.Set("dry_run", "")
	}
	return call[Reload](ctx, c, "POST", "/v1/reload?"+q.Encode(), nil)
}

// ReloadTrial is a Reload that is taken back after a time, unless ReloadKeep comes before.
func (c *Client) ReloadTrial(ctx context.Context, q TrialRequest) (Reload, error) {
	return call[Reload](ctx, c, "POST", "/v1/reload/trial", q)
}

// ReloadKeep makes the reload that is on trial last.
func (c *Client) ReloadKeep(ctx context.Context) error {
	return c.tell(ctx, "POST", "/v1/reload/keep", nil)
}

// ReloadRevert takes the reload that is on trial back now.
func (c *Client) ReloadRevert(ctx context.Context) (Reload, error) {
	return call[Reload](ctx, c, "POST", "/v1/reload/revert", nil)
}

// Tunnels asks for all tunnels.
func (c *Client) Tunnels(ctx context.Context) ([]Tunnel, error) {
	return call[[]Tunnel](ctx, c, "GET", "/v1/tunnels", nil)
}

// Tunnel asks for one tunnel.
func (c *Client) Tunnel(ctx context.Context, name string) (Tunnel, error) {
	return call[Tunnel](ctx, c, "GET", at(name), nil)
}

// TunnelAdd adds a tunnel.
func (c *Client) TunnelAdd(ctx context.Context, w TunnelWrite) error {
	return c.tell(ctx, "POST", "/v1/tunnels", w)
}

// TunnelSet changes a tunnel.
func (c *Client) TunnelSet(ctx context.Context, w TunnelWrite) error {
	return c.tell(ctx, "PATCH", at(w.Name), w)
}

// TunnelDelete removes a tunnel.
func (c *Client) TunnelDelete(ctx context.Context, name string) error {
	return c.tell(ctx, "DELETE", at(name), nil)
}

// PeerAdd adds a peer to a tunnel.
func (c *Client) PeerAdd(ctx context.Context, dev string, w PeerWrite) error {
	return c.tell(ctx, "POST", at(dev, "peers"), w)
}

// PeerSet changes a peer of a tunnel.
func (c *Client) PeerSet(ctx context.Context, dev string, w PeerWrite) error {
	return c.tell(ctx, "PATCH", at(dev, "peers"), w)
}

// Probe asks a peer of a tunnel whether what is sent to it arrives.
func (c *Client) Probe(ctx context.Context, dev string, r ProbeRequest) (Probed, error) {
	return call[Probed](ctx, c, "POST", at(dev, "probe"), r)
}

// PeerDelete removes a peer from a tunnel.
func (c *Client) PeerDelete(ctx context.Context, dev, addr string) error {
	return c.tell(ctx, "DELETE", at(dev, "peers", addr), nil)
}

// VLANs asks for the VLANs of a trunk, with stats for each alone with its
// counters.
func (c *Client) VLANs(ctx context.Context, dev string, stats bool) ([]VLAN, error) {
	return call[[]VLAN](ctx, c, "GET", at(dev, "vlans")+word("stats", stats), nil)
}

// VLANAdd maps VLANs of a tunnel to segments.
func (c *Client) VLANAdd(ctx context.Context, dev string, w VLANWrite) error {
	return c.tell(ctx, "POST", at(dev, "vlans"), w)
}

// VLANDelete ends that.
func (c *Client) VLANDelete(ctx context.Context, dev string, w VLANWrite) error {
	return c.tell(ctx, "DELETE", at(dev, "vlans", w.VID)+"?"+url.Values{"id": {w.ID}}.Encode(), nil)
}

// FDB hands forwarding entries to each as they come, until each fails. The deadline of ctx is how long
// it waits for one, not for all.
func (c *Client) FDB(ctx context.Context, f FDBFilter, each func(FDBEntry) error) error {
	ctx, more, stop := eachInTime(ctx)
	defer stop()
	return c.send(ctx, "GET", "/v1/fdb"+writeQuery(f.query()), nil, func(answer io.Reader) error {
		array := json.NewDecoder(answer)
		_, err := array.Token() // the bracket
		for err == nil && array.More() {
			var e FDBEntry
			if err = array.Decode(&e); err == nil {
				more()
				if err := each(e); err != nil {
					return given{err}
				}
			}
		}
		if err == nil {
			_, err = array.Token()
		}
		return err
	})
}

// eachInTime makes the deadline of ctx one that begins anew with each call of more.
func eachInTime(ctx context.Context) (whole context.Context, more, stop func()) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return ctx, func() {}, func() {}
	}
	longest := time.Until(deadline)
	whole, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	timer := time.AfterFunc(longest, func() { cancel(context.DeadlineExceeded) })
	alone := context.AfterFunc(ctx, func() {
		if ctx.Err() == context.Canceled {
			cancel(context.Canceled)
		}
	})
	return whole, func() { timer.Reset(longest) }, func() { timer.Stop(); alone(); cancel(nil) }
}

// given is an error that is not the connection's.
type given struct{ error }

func (g given) Unwrap() error { return g.error }

// FDBGet asks for what is known of one address.
func (c *Client) FDBGet(ctx context.Context, dev, mac string) ([]FDBEntry, error) {
	return call[[]FDBEntry](ctx, c, "GET", at(dev, "fdb", mac), nil)
}

// FDBSet makes a forwarding entry.
func (c *Client) FDBSet(ctx context.Context, dev string, w FDBWrite) error {
	return c.tell(ctx, "POST", at(dev, "fdb"), w)
}

// FDBDelete removes a forwarding entry, with a dst that destination only.
func (c *Client) FDBDelete(ctx context.Context, dev string, w FDBWrite) error {
	return c.tell(ctx, "DELETE", at(dev, "fdb", w.MAC)+"?"+url.Values{"keyword": w.Keywords}.Encode(), nil)
}

// FDBFlush removes forwarding entries and returns how many.
func (c *Client) FDBFlush(ctx context.Context, dev string, f FDBFlush) (int, error) {
	path := at(dev, "fdb") + writeQuery(f.query())
	if c.would != nil {
		err := c.tell(ctx, "DELETE", path, nil)
		return c.would.Flushed, err
	}
	flushed, err := call[Flushed](ctx, c, "DELETE", path, nil)
	return flushed.Flushed, err
}

// Options asks for the kinds of GENEVE options that have a name, in the order of their IDs.
func (c *Client) Options(ctx context.Context) ([]OptionKind, error) {
	return call[[]OptionKind](ctx, c, "GET", "/v1/options", nil)
}

// LogLevel asks for the log level.
func (c *Client) LogLevel(ctx context.Context) (LogLevel, error) {
	return call[LogLevel](ctx, c, "GET", "/v1/log/level", nil)
}

// SetLogLevel changes the log level.
func (c *Client) SetLogLevel(ctx context.Context, w LogLevelWrite) error {
	return c.tell(ctx, "PUT", "/v1/log/level", w)
}

// Events hands events of an object ("" of all) to each, until ctx or the
// daemon ends or each fails. What happens after ready was called is among them.
func (c *Client) Events(ctx context.Context, object string, ready func(), each func(Event) error) error {
	return c.EventsFrom(ctx, object, EventsFrom{}, ready, each)
}

// EventsFrom is Events from another beginning than now.
func (c *Client) EventsFrom(ctx context.Context, object string, from EventsFrom, ready func(), each func(Event) error) error {
	return c.send(ctx, http.MethodGet, "/v1/events?"+url.Values{"object": {object}, "from": {from.String()}}.Encode(), nil, func(body io.Reader) error {
		ready()
		for lines := json.NewDecoder(body); ; {
			var e Event
			err := lines.Decode(&e)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
				return nil
			}
			if err == nil {
				err = each(e)
			}
			if err != nil {
				return err
			}
		}
	})
}

// Capture hands the stream of what is captured, pcapng, to read. The stream ends with ctx, with the
// daemon, or when as many packets have come as were asked for.
func (c *Client) Capture(ctx context.Context, r CaptureRequest, read func(io.Reader) error) error {
	return c.send(ctx, http.MethodGet, "/v1/capture?"+r.values().Encode(), nil, func(body io.Reader) error {
		if err := read(body); err != nil {
			return given{err}
		}
		return nil
	})
}

// Metrics returns the metrics as text.
func (c *Client) Metrics(ctx context.Context) (text []byte, err error) {
	return text, c.send(ctx, http.MethodGet, "/metrics", nil, func(answer io.Reader) (err error) {
		text, err = io.ReadAll(answer)
		return err
	})
}

// send sends body, unless it is nil, and has the answer read, unless read is nil.
func (c *Client) send(ctx context.Context, method, path string, body any, read func(io.Reader) error) error {
	text := []byte{}
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	for {
		busy, err := c.try(ctx, method, path, bytes.NewReader(text), read)
		if !busy {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: too many clients", context.Cause(ctx), c.path)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// try asks once; busy says that the server had no room for us.
func (c *Client) try(ctx context.Context, method, path string, content io.Reader, read func(io.Reader) error) (busy bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gvtep"+path, content)
	if err != nil {
		return false, err
	}
	req.Close = !c.keep
	conn, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	undisturbed := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	whole := false // the answer was read to its end, and more may come
	defer func() {
		if undisturbed() && whole && c.keep {
			c.give(conn)
		} else {
			conn.Close()
		}
	}()

	// A server without room answers and closes before it has read anything,
	// so an error of writing is not the last word. This is also why there is
	// no http.Client here: it takes such an answer for a fault.
	req.Write(conn)
	resp, err := http.ReadResponse(conn.in, req)
	if err != nil {
		return false, c.failed(ctx, err)
	}
	// The rest, such as a line's end. What the reader did not want has none.
	drain := func() {
		n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
		whole = err == nil && n < maxBody && !resp.Close
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if read != nil {
			if err := read(resp.Body); err != nil {
				return false, c.failed(ctx, err)
			}
		}
		drain()
		return false, nil
	case http.StatusServiceUnavailable:
		return true, nil
	}
	var body errorBody
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	drain()
	if json.Unmarshal(text, &body) != nil || body.Error == "" {
		body.Error = fmt.Sprintf("%s: %s answered %s", c.path, path, resp.Status)
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		return false, &NotFoundError{body.Error}
	case http.StatusUnprocessableEntity:
		return false, &InvalidError{body.Error, body.Faults}
	case http.StatusConflict, http.StatusForbidden:
		return false, &RefusedError{body.Error}
	}
	return false, errors.New(body.Error)
}

// failed is an error of a connection that was there.
func (c *Client) failed(ctx context.Context, err error) error {
	var mine given
	switch {
	case errors.As(err, &mine):
		return mine.error
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, c.path, ErrEnded)
	}
	return fmt.Errorf("%s: %w", c.path, err)
}
