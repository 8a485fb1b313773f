package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// ErrUnreachable is in the chain of errors that mean: nobody serves the
// socket, or we may not connect to it.
var ErrUnreachable = errors.New("daemon not reachable")

// NotFoundError says that the daemon does not have what was asked for.
type NotFoundError struct{ Text string }

func (e *NotFoundError) Error() string { return e.Text }

// Client asks a daemon. Its zero value is of no use; it need not be closed.
// Its methods may be called concurrently.
type Client struct{ path string }

// NewClient returns a client of the socket at path. Nothing is connected yet.
func NewClient(path string) *Client { return &Client{path} }

// RefusedError says that the daemon cannot do now what it was told.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// Status asks for the daemon as a whole, with details also for Status.Go.
func (c *Client) Status(ctx context.Context, details bool) (s Status, err error) {
	path := "/v1/status"
	if details {
		path += "?details"
	}
	return s, c.get(ctx, path, &s)
}

// Reload makes the daemon load its configuration anew. An *InvalidError says
// what is wrong with it, a *RefusedError why it cannot be applied.
func (c *Client) Reload(ctx context.Context, req ReloadRequest) (r Reload, err error) {
	q := url.Values{}
	if req.Config != "" {
		q.Set("config", req.Config)
	}
	if req.DryRun {
		q.Set("dry_run", "")
	}
	return r, c.do(ctx, http.MethodPost, "/v1/reload?"+q.Encode(), &r)
}

// Tunnels asks for all tunnels.
func (c *Client) Tunnels(ctx context.Context) (t []Tunnel, err error) {
	return t, c.get(ctx, "/v1/tunnels", &t)
}

// Tunnel asks for one tunnel.
func (c *Client) Tunnel(ctx context.Context, name string) (t Tunnel, err error) {
	return t, c.get(ctx, "/v1/tunnels/"+url.PathEscape(name), &t)
}

// Peers asks for the peers of one tunnel.
func (c *Client) Peers(ctx context.Context, name string) (p []Peer, err error) {
	return p, c.get(ctx, "/v1/tunnels/"+url.PathEscape(name)+"/peers", &p)
}

// FDB asks for forwarding entries.
func (c *Client) FDB(ctx context.Context, f FDBFilter) (e []FDBEntry, err error) {
	q := url.Values{}
	if f.Dev != "" {
		q.Set("dev", f.Dev)
	}
	if f.VNI != nil {
		q.Set("vni", strconv.FormatUint(uint64(*f.VNI), 10))
	}
	if f.Dst != (netip.Addr{}) {
		q.Set("dst", f.Dst.String())
	}
	return e, c.get(ctx, "/v1/fdb?"+q.Encode(), &e)
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	return c.do(ctx, http.MethodGet, path, v)
}

func (c *Client) do(ctx context.Context, method, path string, v any) error {
	for {
		busy, err := c.try(ctx, method, path, v)
		if !busy {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: too many clients", ctx.Err(), c.path)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// try asks once, on a connection of its own; busy says that the server had no
// room for us.
func (c *Client) try(ctx context.Context, method, path string, v any) (busy bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gvtep"+path, nil)
	if err != nil {
		return false, err
	}
	req.Close = true
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		if op := new(net.OpError); errors.As(err, &op) && ctx.Err() == nil {
			err = fmt.Errorf("%w: %s: %w", ErrUnreachable, c.path, op.Err)
		}
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	// A server without room answers and closes before it has read anything,
	// so an error of writing is not the last word. This is also why there is
	// no http.Client here: it takes such an answer for a fault.
	req.Write(conn)
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return false, c.failed(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
			return false, c.failed(ctx, err)
		}
		return false, nil
	case http.StatusServiceUnavailable:
		return true, nil
	}
	var body errorBody
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if json.Unmarshal(text, &body) != nil || body.Error == "" {
		body.Error = fmt.Sprintf("%s: %s answered %s", c.path, path, resp.Status)
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		return false, &NotFoundError{body.Error}
	case http.StatusUnprocessableEntity:
		return false, &InvalidError{body.Error, body.Faults}
	case http.StatusConflict:
		return false, &RefusedError{body.Error}
	}
	return false, errors.New(body.Error)
}

// failed is an error of a connection that was there.
func (c *Client) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return fmt.Errorf("%s: %w", c.path, err)
}
