package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/view"
	"gvtep/config"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
)

// TestOneTunnel: a question about one tunnel looks at the device of that one, and a change of
// one asks the kernel about that one, however many there are.
func TestOneTunnel(t *testing.T) {
	flood := control.FDBWrite{Verb: "append", MAC: "00:00:00:00:00:00", Keywords: []string{"dst", "192.0.2.3"}}
	entry := control.FDBWrite{Verb: "replace", MAC: "02:00:00:00:00:01", Keywords: []string{"dst", "192.0.2.4"}}
	const questions = 4
	var before []seams
	for _, n := range []int{1, 100} {
		var seen seams
		s := newTestSource(t, n, &seen)
		var costs []seams
		for i, do := range []func() error{
			func() error { _, err := s.Tunnel("gnv0"); return err },
			func() error { _, err := s.FDB(control.FDBFilter{Dev: "gnv0"}); return err },
			func() error { _, err := s.VLANs("gnv0", false); return err },
			func() error { _, err := s.FDBGet("gnv0", flood.MAC); return err },
			func() error { return s.FDBSet("gnv0", flood) },
			func() error { return s.FDBSet("gnv0", entry) },
			func() error { return s.PeerDelete("gnv0", "192.0.2.3") },
			func() error { return s.TunnelSet(control.TunnelWrite{Name: "gnv0", Keywords: []string{"ttl", "7"}}) },
		} {
			seen = seams{}
			if err := do(); err != nil {
				t.Fatal(err)
			}
			if i >= questions {
				seen.looks = 0 // a change makes a snapshot of all tunnels, from memory
			}
			costs = append(costs, seen)
		}
		if before != nil && !slices.Equal(before, costs) {
			t.Errorf("looks at devices, and questions to the kernel: with one tunnel %v, with %d %v", before, n, costs)
		}
		if before = costs; costs[0].looks == 0 || costs[questions].asked == 0 {
			t.Errorf("nothing is counted: %v", costs)
		}
	}
}

// seams counts what an endpoint wants of its devices and of the underlay.
type seams struct {
	looks, asked int
	broken       string // a device that cannot be opened
}

// TestBy: events of changes have who asked for them, and old and new values; the log has the same.
func TestBy(t *testing.T) {
	s := newTestSource(t, 1, new(seams))
	core, logged := observer.New(zap.InfoLevel)
	s.daemon.Log = zap.New(core)
	sub := s.endpoint.Subscribe()
	defer sub.Close()
	who := control.Caller{PID: 4711, UID: 998, Command: "gvtep tunnel set gnv0 ttl 7"}
	mine := s.By(who)
	var peers []string
	for i := range vtep.MaxKeys + 5 {
		peers = append(peers, "remote", fmt.Sprintf("198.51.100.%d", i+1))
	}
	for i, c := range []struct {
		change   func() error
		action   string
		by       *control.Caller
		keys     []string
		moreKeys int
	}{
		{func() error {
			return mine.TunnelSet(control.TunnelWrite{Name: "gnv0", Keywords: []string{"ttl", "7", "fwmark", "3"}})
		}, "changed", &who, []string{"fwmark 0 -> 3", "ttl \"auto\" -> 7"}, 0},
		{func() error { return s.TunnelSet(control.TunnelWrite{Name: "gnv0", Keywords: []string{"ttl", "8"}}) }, "changed", nil, []string{"ttl 7 -> 8"}, 0},
		{func() error {
			return mine.TunnelAdd(control.TunnelWrite{Name: "gnv1", Keywords: append([]string{"id", "9"}, peers...)})
		}, "new", &who, nil, 0},
		{func() error { return mine.TunnelDelete("gnv1") }, "deleted", &who, nil, 0},
	} {
		if err := c.change(); err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		e := view.Event(<-sub.C)
		var keys []string
		for _, k := range e.Keys {
			keys = append(keys, k.String())
		}
		slices.Sort(keys)
		if e.Object != "tunnel" || e.Action != c.action || !slices.Equal(keys, c.keys) || e.MoreKeys != c.moreKeys || (e.By == nil) != (c.by == nil) || e.By != nil && *e.By != *c.by {
			t.Errorf("change %d: %+v by %v, keys %q; want %+v", i, e, e.By, keys, c)
		}
		entries := logged.TakeAll()
		entries = slices.DeleteFunc(entries, func(l observer.LoggedEntry) bool { return l.Message != "changed" })
		if len(entries) != 1 {
			t.Fatalf("change %d: %d lines of the log, want 1", i, len(entries))
		}
		text := fmt.Sprint(entries[0].ContextMap())
		if c.by != nil && !strings.Contains(text, c.by.String()) {
			t.Errorf("change %d: the log has %s", i, text)
		}
		for _, k := range c.keys {
			if !strings.Contains(text, k) {
				t.Errorf("change %d: the log has %s, without %s", i, text, k)
			}
		}
	}
}

// TestCause: of very many keywords some are told, and how many there are beside; not those that a
// change leaves as they are.
func TestCause(t *testing.T) {
	keys := []config.KeyChange{{Key: "id", Old: "1", New: "2"}}
	for i := range vtep.MaxKeys + 5 {
		keys = append(keys, config.KeyChange{Key: fmt.Sprint(i), Live: true})
	}
	if c := (changer{}).cause(keys); len(c.Keys) != vtep.MaxKeys || c.More != 5 || c.Keys[0].Key != "0" {
		t.Errorf("%d keys and %d more, the first is %v", len(c.Keys), c.More, c.Keys[0])
	}
	if c := (changer{}).cause(keys[:1]); c != nil {
		t.Errorf("nobody changed nothing: %+v", c)
	}
}

// TestNoTunnel: a name that is none is answered with those that there are.
func TestNoTunnel(t *testing.T) {
	s := newTestSource(t, 2, new(seams))
	for what, ask := range map[string]func() error{
		"show":      func() error { _, err := s.Tunnel("gnv9"); return err },
		"fdb":       func() error { _, err := s.FDB(control.FDBFilter{Dev: "gnv9"}); return err },
		"vlans":     func() error { _, err := s.VLANs("gnv9", false); return err },
		"each vlan": func() error { _, err := s.VLANs("gnv9", true); return err },
		"fdb get":   func() error { _, err := s.FDBGet("gnv9", "02:00:00:00:00:01"); return err },
	} {
		err, missing := ask(), new(control.NotFoundError)
		if want := `no tunnel "gnv9", there is: gnv0, gnv1`; !errors.As(err, &missing) || err.Error() != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	for what, err := range map[string]error{
		"set": s.TunnelSet(control.TunnelWrite{Name: "gnv9", Keywords: []string{"ttl", "7"}}),
		"del": s.TunnelDelete("gnv9"),
	} {
		if want := "No such file or directory (there is no tunnel gnv9)"; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
}

// newTestSource has n tunnels, gnv0 and so on, on devices that count in seen how often
// somebody looks at them.
func newTestSource(t *testing.T, n int, seen *seams) *source {
	t.Helper()
	ep, err := vtep.New(vtep.Config{Workers: 1, Devices: testDevices{t, seen}, Underlay: testUnderlay{t: t, seen: seen}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ep.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &reloader{daemon: &daemon{Options: Options{Log: zap.NewNop()}}, endpoint: ep, process: config.Config{Socket: config.Socket{Port: 6081, Ports: 64}}, changed: func() {}, due: stoppedTimer()}
	s := &source{changer: changer{reloader: r}, runtime: new(lookout)}
	for i := range n {
		words := []string{"id", fmt.Sprint(i), "remote", "192.0.2.2"}
		if err := s.TunnelAdd(control.TunnelWrite{Name: fmt.Sprint("gnv", i), Keywords: words}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// testDevices opens devices without a kernel.
type testDevices struct {
	t    *testing.T
	seen *seams
}

func (d testDevices) Open(o netio.DeviceOptions) (netio.Device, error) {
	if err := d.Try(o); err != nil {
		return nil, err
	}
	return &testDevice{nil, o, d.seen, testFD(d.t)}, nil
}
func (d testDevices) Try(o netio.DeviceOptions) error {
	if o.Name == d.seen.broken {
		return unix.EBUSY
	}
	return nil
}
func (testDevices) CloseAll([]netio.Device) error { return nil }
func (testDevices) Watch(context.Context, func()) {}

type testDevice struct {
	netio.Device // nil: what is not below is not used
	options      netio.DeviceOptions
	seen         *seams
	queue        testQueue
}

func (d *testDevice) State() netio.DeviceState {
	d.seen.looks++
	return netio.DeviceState{Ifindex: 7, MTU: d.options.MTU, Up: true}
}
func (*testDevice) Offload() packet.Offload   { return 0 }
func (d *testDevice) Queue(int) netio.Queue   { return d.queue }
func (d *testDevice) Writer(int) netio.Writer { return d.queue }
func (d *testDevice) Bridged() bool {
	d.seen.asked++
	return false
}
func (d *testDevice) IPv6() bool {
	d.seen.asked++
	return false
}
func (d *testDevice) SetMTU(int) error {
	d.seen.asked++
	return nil
}

// testUnderlay has one network, and sends nothing.
type testUnderlay struct {
	netio.Underlay
	t    *testing.T
	seen *seams
}

func (u testUnderlay) Listen(netio.ListenOptions) (netio.Listener, error) {
	return testListener{fd: testFD(u.t)}, nil
}
func (testUnderlay) TryListen(netio.ListenOptions) error { return nil }
func (testUnderlay) Ports(netio.PortOptions) (*packet.PortSet, error) {
	return new(packet.PortSet), nil
}
func (testUnderlay) Release(*packet.PortSet) {}
func (testUnderlay) Sender(int) netio.Sender { return testSender{} }
func (testUnderlay) Cards() ([]int, error)   { return nil, fs.ErrPermission }
func (testUnderlay) Sent() []packet.Sent     { return nil }
func (u testUnderlay) Route(netip.AddrPort, netio.PortOptions) (netio.Route, error) {
	u.seen.asked++
	return netio.Route{Ifindex: 2, MTU: 1500, Link: 1500}, nil
}

// testSender has sent nothing.
type testSender struct{ netio.Sender }

func (testSender) Batches() *packet.Batches { return new(packet.Batches) }

type testListener struct {
	netio.Listener
	fd testQueue
}

func (l testListener) Receiver(int) netio.Receiver { return testReceiver{fd: l.fd} }
func (testListener) Rcvbuf() int                   { return 0 }
func (testListener) GRO() bool                     { return false }
func (testListener) Close() error                  { return nil }

// testQueue is a descriptor that never has anything.
type testQueue int

func testFD(t *testing.T) testQueue {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return testQueue(fd)
}

func (q testQueue) FD() int                                      { return int(q) }
func (testQueue) Read([]byte, *packet.VirtioHdr) ([]byte, error) { return nil, unix.EAGAIN }
func (testQueue) Write(*packet.VirtioHdr, []byte) error          { return nil }

type testReceiver struct {
	netio.Receiver
	fd testQueue
}

func (r testReceiver) FD() int         { return r.fd.FD() }
func (testReceiver) Overflows() uint64 { return 0 }
