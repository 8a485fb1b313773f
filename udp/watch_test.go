package udp

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// scripted is a socket that reads what it is told to.
type scripted struct {
	results chan error
	closed  chan struct{}
	message []byte // what each read yields
}

func newScripted(results ...error) *scripted {
	s := &scripted{results: make(chan error, len(results)+1), closed: make(chan struct{}), message: []byte{16, 0, 0, 0, unix.RTM_NEWLINK, 15: 0}}
	for _, err := range results {
		s.results <- err
	}
	return s
}

func (s *scripted) Read(b []byte) (int, error) {
	select {
	case err := <-s.results:
		return copy(b, s.message), err
	case <-s.closed:
		return 0, io.EOF
	}
}

func (s *scripted) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// TestWatchReopens: a socket that fails is opened again, as often as it takes, and what may
// have been missed is a change. An overrun is no failure.
func TestWatchReopens(t *testing.T) {
	t.Parallel() // it waits for seconds
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second := newScripted()
	opened := 0
	changed := follow(ctx, newScripted(unix.ENOBUFS, unix.ENOMEM), func() (io.ReadCloser, error) {
		if opened++; opened == 1 {
			return nil, errors.New("no socket now")
		}
		return second, nil
	})
	next := func(what string) {
		t.Helper()
		select {
		case c, ok := <-changed:
			if !ok {
				t.Fatalf("%s: the watch has ended", what)
			}
			if !c.All {
				t.Errorf("%s: something may have been missed, so all has changed", what)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing is told", what)
		}
	}
	next("an overrun")
	next("opened again")
	second.results <- nil
	next("a message on the new socket")
	cancel()
	for range changed { // until it is closed
	}
	select {
	case <-second.closed:
	default:
		t.Error("the socket is still open")
	}
}

// TestChangesOf: routes by their prefixes, and all for anything else, or what cannot be read.
func TestChangesOf(t *testing.T) {
	link := []byte{16, 0, 0, 0, unix.RTM_NEWLINK, 15: 0}
	route := func(kind, family, bits byte, dst ...byte) []byte {
		m := append([]byte{4: kind, 15: 0}, make([]byte, unix.SizeofRtMsg)...)
		m[16], m[17] = family, bits
		if len(dst) > 0 {
			m = append(append(m, byte(4+len(dst)), 0, unix.RTA_DST, 0), dst...)
			m = append(m, make([]byte, -len(m)&3)...) // NLMSG_ALIGN
		}
		m[0] = byte(len(m))
		return m
	}
	ten := route(unix.RTM_NEWROUTE, unix.AF_INET, 8, 10, 0, 0, 0)
	for _, tc := range []struct {
		name      string
		data      []byte
		all, none bool
		concern   string
	}{
		{"nothing", nil, false, true, ""},
		{"a link", link, true, false, ""},
		{"a route", ten, false, false, "10.1.2.3"},
		{"a route that goes", route(unix.RTM_DELROUTE, unix.AF_INET, 32, 192, 0, 2, 1), false, false, "192.0.2.1"},
		{"the default route", route(unix.RTM_NEWROUTE, unix.AF_INET6, 0), false, false, "2001:db8::1"},
		{"two routes", append(route(unix.RTM_DELROUTE, unix.AF_INET, 32, 192, 0, 2, 1), ten...), false, false, "10.1.2.3"},
		{"a route, then a link", append(append([]byte{}, ten...), link...), true, false, ""},
		{"of no IP", route(unix.RTM_NEWROUTE, unix.AF_MPLS, 20), false, true, ""},
		{"cut short", ten[:len(ten)-2], true, false, ""},
		{"a prefix too long", route(unix.RTM_NEWROUTE, unix.AF_INET, 33, 10, 0, 0, 0), true, false, ""},
		{"an address of three bytes", route(unix.RTM_NEWROUTE, unix.AF_INET, 8, 10, 0, 0), true, false, ""},
		{"no rtmsg", []byte{20, 0, 0, 0, unix.RTM_NEWROUTE, 19: 0}, true, false, ""},
	} {
		c := changesOf(tc.data)
		if c.All != tc.all || c.None() != tc.none {
			t.Errorf("%s: all is %t, none is %t", tc.name, c.All, c.None())
		}
		if tc.concern != "" && !c.Concern(netip.MustParseAddr(tc.concern)) || c.Concern(netip.MustParseAddr("198.51.100.1")) != tc.all {
			t.Errorf("%s: concerned are others than wanted", tc.name)
		}
	}
}
