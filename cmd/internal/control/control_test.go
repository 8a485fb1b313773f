package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	// The test binary as a daemon of its own, to be killed.
	if path := os.Getenv("CONTROL_TEST_SOCKET"); path != "" {
		l, err := Listen(path)
		fmt.Println(err)
		if err == nil {
			Serve(context.Background(), l, NewDoor(fake{}))
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// fake is an endpoint with two tunnels.
type fake struct {
	Source
	entries int
	yielded *atomic.Int64 // of entries
}

func (fake) Health() Health {
	return Health{Faults: []string{"worker 1 is stuck", "device gnv0 is down"}}
}

func (fake) Progress() Progress { return Progress{Done: 400, Of: 1000} }

func (fake) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "gvtep_ready 0\n") })
}

func (fake) Options() []OptionKind {
	return []OptionKind{{Name: "my.pod", ID: "ff01:01", Format: "hex", Own: true}}
}

func (fake) LogLevel() LogLevel { return LogLevel{Level: "debug", Until: &epoch, Then: "info"} }

func (fake) SetLogLevel(w LogLevelWrite) error { return told(w.Level) }

// told does what the name says.
func told(name string) error {
	switch name {
	case "usage":
		return fmt.Errorf("no: %w", &UsageError{"wrong words"})
	case "refused":
		return errors.New("File exists")
	}
	return nil
}

func (fake) TunnelAdd(w TunnelWrite) error         { return told(w.Name) }
func (fake) TunnelSet(w TunnelWrite) error         { return told(w.Name) }
func (fake) TunnelDelete(name string) error        { return told(name) }
func (fake) PeerAdd(dev string, _ PeerWrite) error { return told(dev) }
func (fake) PeerSet(dev string, _ PeerWrite) error { return told(dev) }
func (fake) PeerDelete(dev, _ string) error        { return told(dev) }
func (fake) VLANAdd(dev string, w VLANWrite) error {
	if w != (VLANWrite{"10-19", "5010-5019"}) {
		return errors.New("not what was written")
	}
	return told(dev)
}
func (fake) VLANDelete(dev string, w VLANWrite) error {
	if w != (VLANWrite{"10-19", ""}) && w != (VLANWrite{"10", "5010"}) {
		return errors.New("not what was written")
	}
	return told(dev)
}
func (fake) VLANs(dev string, stats bool) ([]VLAN, error) {
	if stats {
		return []VLAN{{First: 10, ID: 5010, Gvtep: &VLANDetail{Traffic{1000, 10}, Traffic{2000, 20}, FDBCount{Learned: 1, Limit: 4096}}}}, told(dev)
	}
	if _, err := (fake{}).Tunnel(dev); err != nil {
		return nil, err
	}
	return []VLAN{{First: 10, Last: 19, ID: 5010, LastID: 5019}, {First: 30, ID: 7}}, told(dev)
}

// Batch reads all, and refuses the line "wrong".
func (fake) Batch(dev string, o BatchOptions, lines iter.Seq2[[]byte, error]) (done BatchResult, err error) {
	if o.Owner != "fleet" && o.Owner != DefaultOwner {
		return done, fmt.Errorf("owner %q", o.Owner)
	}
	for line, err := range lines {
		if err != nil {
			return done, fmt.Errorf("line %d: %w", done.Lines+1, err)
		}
		if done.Lines++; strings.TrimSpace(string(line)) == "wrong" {
			return done, &UsageError{fmt.Sprintf("line %d: wrong", done.Lines)}
		}
		done.Set += len(line)
	}
	if o.Sync {
		done.Removed = 1
	}
	return done, told(dev)
}
func (fake) FDBSet(dev string, _ FDBWrite) error    { return told(dev) }
func (fake) FDBDelete(dev string, w FDBWrite) error { return told(dev) }
func (f fake) FDBGet(dev, _ string) ([]FDBEntry, error) {
	all, err := f.FDB(FDBFilter{Dev: dev})
	if err != nil {
		return nil, err
	}
	return slices.Collect(all), nil
}

// FDBFlush counts what it is told.
func (fake) FDBFlush(dev string, f FDBFlush) (int, error) {
	n := len(f.Is)
	if f.Is["static"] && !f.Is["sticky"] && f.Dst.IsValid() && f.Port == 7 && f.VNI != nil && *f.VNI == 5 {
		n += 100
	}
	return n, told(dev)
}

// Capture writes what it is asked for, until ctx ends.
func (fake) Capture(r CaptureRequest) (func(context.Context, io.Writer) error, error) {
	if r.Dev == "busy" {
		return nil, errors.New("another capture runs")
	}
	if err := told(r.Dev); err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		_, err := fmt.Fprintf(w, "%+v", r)
		if r.Count == 0 {
			<-ctx.Done()
			captured.Add(1)
		}
		return err
	}, nil
}

// Probe answers with what it is asked for.
func (fake) Probe(_ context.Context, dev string, r ProbeRequest) (Probed, error) {
	return Probed{Answered: true, After: r.Timeout, Status: r.Remote.String(), Size: r.Size, Error: fmt.Sprint(*r.ID)}, told(dev)
}

// captured counts captures that ended as their reader had gone.
var captured atomic.Int64

// Events are four, and then nothing.
func (fake) Events(ctx context.Context, _ EventsFrom) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for _, e := range []Event{
			{Time: epoch, Object: "tunnel", Action: "new", Ifname: "gnv0"},
			{Time: epoch, Object: "peer", Action: "new", Ifname: "gnv0", Dst: "203.0.113.1", Port: 6081},
			{Time: epoch, Object: "lost", Lost: 3},
			{Time: epoch, Object: "fdb", Action: "moved", Ifname: "gnv0", MAC: "02:00:00:00:02:10", Dst: "203.0.113.1", Port: 6081, From: "203.0.113.2", Flags: []string{"self"}},
		} {
			if !yield(e) {
				return
			}
		}
		<-ctx.Done()
	}
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (fake) Status(details bool) Status {
	s := Status{
		Instance: "p1", PID: 42, Version: "v0.1.0", Ready: false, Reason: "starting", Started: epoch, Uptime: 1.5, Workers: 2, Stuck: []int{}, Tunnels: 2,
		Sockets: []Socket{{Local: netip.MustParseAddr("198.51.100.1"), Port: 6081, Dev: "eth0", Overflows: 7}},
		Drops:   Drops{RX: map[string]uint64{"unknown_vni": 9, "short": 1}, TX: map[string]uint64{}},
		Config:  "/etc/gvtep/p1.toml",
	}
	if details {
		s.Go = &Runtime{HeapObjects: 12345, Goroutines: 7}
	}
	return s
}

// Reload does what the name of the configuration says.
func (fake) Reload(r ReloadRequest) (Reload, error) {
	switch r.Config {
	case "/invalid":
		return Reload{}, fmt.Errorf("load: %w", &InvalidError{"x.toml:1:1: wrong\n1| x\n | ~", 3})
	case "/refused":
		return Reload{}, errors.New("gnv0: no")
	}
	return Reload{
		Config: "/etc/gvtep/p1.toml" + r.Config, Applied: !r.DryRun, Tunnels: 2, Added: []string{"gnv1"}, Removed: []string{},
		Changed: []TunnelChange{{"gnv0", []KeyChange{{"ttl", "64", `"inherit"`, true}, {"id", "5", "6", false}}}},
		Process: []KeyChange{{"socket.workers", `"auto"`, "2", false}}, Restart: true,
		Faults: []DeviceFault{{"gnv0", "device gnv0 lacks address 192.0.2.1/24: it was deleted by hand"}},
	}, nil
}

func (fake) Tunnels() []Tunnel {
	ago := 0.4
	v4 := Tunnel{
		Ifindex: 7, Ifname: "gnv0", Flags: []string{"UP", "LOWER_UP"}, MTU: 1450, LinkType: "ether", Address: "02:00:00:00:00:01",
		LinkInfo: LinkInfo{"geneve", InfoData{ID: new(uint32(100)), Remote: "203.0.113.1", Local: "198.51.100.1", TTL: 64, TOS: "0xb8", DF: "set", Port: 6081, UDPCsum: true}},
		Stats:    Stats64{RX: Counters{1000, 10, 1}, TX: Counters{2000, 20, 2}},
		Gvtep: TunnelDetail{
			Mode: "l2", TTL: "64", TOS: "0xb8", Local: "198.51.100.1:6081", SrcPortMin: 49152, SrcPortMax: 65535, MTUAuto: true,
			Addresses: []string{"192.0.2.1/24"}, Queues: 2, Offload: []string{"vnet_hdr", "csum", "tso4"}, Since: epoch, Uptime: 1.5,
			Learning: true, Ageing: 300, L2Control: "drop", VLANTags: "pass", TxFlood: 3,
			Group: "239.1.1.1", Accept: []string{"203.0.113.0/24"}, Flood: true, McastFlood: true, BcastFlood: true, Damping: true, BUMLimit: 9, Answered: 2,
			Drops: Drops{RX: map[string]uint64{"ecn": 1}, TX: map[string]uint64{"too_big": 2}},
			Peers: []Peer{{
				Remote: netip.MustParseAddr("203.0.113.1"), Port: 6081, Flood: true, Origin: "config", LastSeen: &epoch, SeenAgo: &ago,
				RX: Traffic{1000, 10}, TX: Traffic{2000, 20}, PathMTU: 1500, BUMLimit: 100, Flooded: 3,
			}},
			VLANs: []VLAN{{First: 10, Last: 19, ID: 5010, LastID: 5019}},
			FDB:   FDBCount{Learned: 1, Static: 0, Limit: 4096, Moved: 1},
		},
	}
	v6 := Tunnel{
		Ifindex: 8, Ifname: "gnv6", Flags: []string{}, MTU: 1430, LinkType: "none",
		LinkInfo: LinkInfo{"geneve", InfoData{ID: new(uint32(0)), Remote6: "2001:db8::2", DF: "unset", Port: 6082, ZeroCsumT: true}},
		Gvtep: TunnelDetail{
			Mode: "l3", TTL: "inherit", TOS: "inherit", Local: "[::]:6082", Dev: "eth0", Netns: "blue", Addresses: []string{}, Offload: []string{}, Since: epoch,
			Peers: []Peer{{Name: "leaf2", Remote: netip.MustParseAddr("2001:db8::2"), Port: 6082, Error: "no route"}},
			Drops: Drops{RX: map[string]uint64{}, TX: map[string]uint64{}},
		},
	}
	return []Tunnel{v4, v6}
}

func (f fake) Tunnel(name string) (Tunnel, error) {
	var names []string
	for _, t := range f.Tunnels() {
		if t.Ifname == name {
			return t, nil
		}
		names = append(names, t.Ifname)
	}
	return Tunnel{}, NoTunnel(name, names)
}

func (f fake) FDB(filter FDBFilter) (iter.Seq[FDBEntry], error) {
	if f.entries > 0 {
		return func(yield func(FDBEntry) bool) {
			for range f.entries {
				if f.yielded != nil {
					f.yielded.Add(1)
				}
				if !yield(FDBEntry{}) {
					return
				}
			}
		}, nil
	}
	if filter.Dev != "" {
		if _, err := f.Tunnel(filter.Dev); err != nil {
			return nil, err
		}
	}
	one, two := 1, 2
	all := []FDBEntry{
		{MAC: "00:00:00:00:00:00", Ifname: "gnv0", Dst: "203.0.113.1", Flags: []string{"self"}, State: "permanent", Gvtep: &FDBDetail{ID: new(uint32(100)), Local: false, Origin: "config"}},
		{MAC: "02:00:00:00:02:10", Ifname: "gnv0", Dst: "203.0.113.1", Flags: []string{"self"}, Used: &one, Updated: &two, Gvtep: &FDBDetail{ID: new(uint32(100)), Local: false, Origin: "learned"}},
		{MAC: "02:00:00:00:00:aa", Ifname: "gnv0", Flags: []string{"self"}, Gvtep: &FDBDetail{ID: new(uint32(100)), Local: true, Origin: "learned"}},
		{MAC: "02:00:00:00:02:11", Ifname: "gnv0", Dst: "203.0.113.1", VLAN: 10, SrcVNI: new(uint32(5010)), Flags: []string{"self"}, State: "static", Gvtep: &FDBDetail{ID: new(uint32(5010)), Local: false, Origin: "config"}},
		{MAC: "00:00:00:00:00:00", Ifname: "gnv6", Dst: "2001:db8::2", Port: 6083, Flags: []string{"self"}, State: "permanent", Gvtep: &FDBDetail{ID: new(uint32(0)), Local: false, Origin: "config"}},
	}
	out := []FDBEntry{}
	for _, e := range all {
		if filter.Dev != "" && filter.Dev != e.Ifname || filter.VNI != nil && *filter.VNI != *e.Gvtep.ID || filter.Dst.IsValid() && filter.Dst.String() != e.Dst || filter.VLAN != 0 && filter.VLAN != e.VLAN {
			continue
		}
		out = append(out, e)
	}
	return slices.Values(out), nil
}

// start serves src on a socket of its own until the test ends.
func start(t *testing.T, src Source, read, write time.Duration) (path string) {
	t.Helper()
	path = SocketPath(t.TempDir(), "p1")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- serve(ctx, l, NewDoor(src), read, write) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory of the instance is left behind: %v", err)
		}
	})
	return path
}

// get asks as curl would.
func get(t *testing.T, path, method, url string) (int, string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
	req, err := http.NewRequest(method, "http://gvtep"+url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// The JSON is a promise: a golden file that changes breaks somebody's script.
func TestGolden(t *testing.T) {
	path := start(t, fake{}, time.Second, time.Second)
	for name, url := range map[string]string{
		"status": "/v1/status", "progress": "/v1/progress", "status_details": "/v1/status?details", "reload": "POST /v1/reload?dry_run", "tunnels": "/v1/tunnels", "tunnel": "/v1/tunnels/gnv0", "peers": "/v1/tunnels/gnv6/peers",
		"tunnel_fdb": "/v1/tunnels/gnv6/fdb", "fdb": "/v1/fdb", "vlans": "/v1/tunnels/gnv0/vlans", "vlans_stats": "/v1/tunnels/gnv0/vlans?stats", "fdb_get": "/v1/tunnels/gnv6/fdb/00:00:00:00:00:00", "fdb_flush": "DELETE /v1/tunnels/gnv0/fdb?static=true",
	} {
		method, url, ok := strings.Cut(url, " ")
		if !ok {
			method, url = "GET", method
		}
		code, body := get(t, path, method, url)
		if code != 200 {
			t.Errorf("%s: %d %s", url, code, body)
		}
		var pretty bytes.Buffer
		json.Indent(&pretty, []byte(body), "", "  ")
		file := filepath.Join("testdata", name+".json")
		if *update {
			os.WriteFile(file, pretty.Bytes(), 0o644)
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), pretty.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", url, d)
		}
	}
}

func TestAnswers(t *testing.T) {
	path := start(t, fake{}, time.Second, time.Second)
	for _, tt := range []struct {
		method, url string
		code        int
		body        string
	}{
		{"GET", "/healthz", 503, "worker 1 is stuck\ndevice gnv0 is down\n"},
		{"GET", "/readyz", 503, "worker 1 is stuck\ndevice gnv0 is down\n"},
		{"GET", "/metrics", 200, "gvtep_ready 0\n"},
		{"GET", "/debug/pprof/cmdline", 200, "*"},
		{"GET", "/v1/options", 200, `[{"name":"my.pod","id":"ff01:01","format":"hex","critical":false,"own":true}]` + "\n"},
		{"GET", "/v1/log/level", 200, `{"level":"debug","until":"2026-01-02T03:04:05Z","then":"info"}` + "\n"},
		{"GET", "/v1/tunnels/gnv9", 404, `{"error":"no tunnel \"gnv9\", there is: gnv0, gnv6"}` + "\n"},
		{"GET", "/v1/tunnels/gnv9/fdb", 404, `{"error":"no tunnel \"gnv9\", there is: gnv0, gnv6"}` + "\n"},
		{"GET", "/v1/tunnels/gnv9/peers", 404, `{"error":"no tunnel \"gnv9\", there is: gnv0, gnv6"}` + "\n"},
		{"GET", "/v1/fdb?dev=gnv9", 404, `{"error":"no tunnel \"gnv9\", there is: gnv0, gnv6"}` + "\n"},
		{"GET", "/v1/fdb?vni=16777216", 400, `{"error":"vni 16777216: a VNI is 0 to 16777215"}` + "\n"},
		{"GET", "/v1/fdb?vlan=4095", 400, `{"error":"vlan 4095: a VLAN ID is 1 to 4094"}` + "\n"},
		{"GET", "/v1/tunnels/gnv9/fdb/02:00:00:00:00:01", 404, `{"error":"no tunnel \"gnv9\", there is: gnv0, gnv6"}` + "\n"},
		{"GET", "/v1/tunnels/gnv9/vlans", 404, `{"error":"no tunnel \"gnv9\", there is: gnv0, gnv6"}` + "\n"},
		{"POST", "/v1/tunnels/gnv0/vlans", 400, `{"error":"not the JSON of a control.VLANWrite: EOF"}` + "\n"},
		{"DELETE", "/v1/tunnels/gnv0/vlans/10?id=5010", 200, "{}\n"},
		{"DELETE", "/v1/tunnels/gnv0/fdb?src_vni=x", 400, `{"error":"src_vni x: a VNI is 0 to 16777215"}` + "\n"},
		{"GET", "/v1/fdb?dst=nope", 400, `{"error":"dst nope: not an IP address"}` + "\n"},
		{"GET", "/v1/fdb?mac=x", 400, `{"error":"unknown filter \"mac\": want dev, vni, vlan or dst"}` + "\n"},
		{"GET", "/v2", 404, `{"error":"no such path: /v1/status, /v1/tunnels, /v1/fdb, /v1/events, /v1/capture, /v1/options, /v1/reload, /v1/log/level, /metrics, /healthz, /readyz, /debug/pprof/"}` + "\n"},
		{"POST", "/v1/tunnels", 400, `{"error":"not the JSON of a control.TunnelWrite: EOF"}` + "\n"},
		{"PUT", "/v1/status", 405, `{"error":"this path is read-only; changes go to /v1/tunnels, POST /v1/reload or PUT /v1/log/level"}` + "\n"},
		{"DELETE", "/v1/tunnels/usage", 400, `{"error":"no: wrong words"}` + "\n"},
		{"DELETE", "/v1/tunnels/refused/peers/192.0.2.1", 409, `{"error":"File exists"}` + "\n"},
		{"DELETE", "/v1/tunnels/gnv0/fdb?dst=192.0.2.1&vni=5&port=7&static=true&sticky=false", 200, `{"flushed":102}` + "\n"},
		{"DELETE", "/v1/tunnels/gnv0/fdb?old=true", 400, `{"error":"unknown filter \"old\": want dst, vni, vlan, src_vni, port, owner, permanent, static, dynamic, sticky or extern_learn"}` + "\n"},
		{"DELETE", "/v1/tunnels/gnv0/fdb?dst=", 400, `{"error":"dst : not an IP address"}` + "\n"},
		{"GET", "/v1/fdb?dst=&vni=7", 200, "[]\n"},
		{"DELETE", "/v1/tunnels/gnv0/fdb?static=7", 400, `{"error":"static 7: want true or false"}` + "\n"},
		{"GET", "/v1/events?object=link", 400, `{"error":"object \"link\": want tunnel, peer, fdb, drop"}` + "\n"},
		{"GET", "/v1/reload", 405, `{"error":"a reload is a POST"}` + "\n"},
		{"POST", "/v1/reload?config=/refused", 409, `{"error":"gnv0: no"}` + "\n"},
		{"POST", "/v1/reload?config=/invalid", 422, `{"error":"x.toml:1:1: wrong\n1| x\n | ~","faults":3}` + "\n"},
		{"DELETE", "/v1/tunnels/gnv0", 200, "{}\n"},
	} {
		code, body := get(t, path, tt.method, tt.url)
		if code != tt.code || body != tt.body && tt.body != "*" {
			t.Errorf("%s %s: got %d %q, want %d %q", tt.method, tt.url, code, body, tt.code, tt.body)
		}
	}
}

func TestClient(t *testing.T) {
	c := NewClient(start(t, fake{}, time.Second, time.Second))
	ctx := context.Background()
	check := func(what string, err error, want, got any) {
		t.Helper()
		opt := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		if d := cmp.Diff(want, got, opt); err != nil || d != "" {
			t.Errorf("%s: %v (-want +got)\n%s", what, err, d)
		}
	}
	for _, details := range []bool{false, true} {
		s, err := c.Status(ctx, details)
		check("Status", err, fake{}.Status(details), s)
	}
	for _, req := range []ReloadRequest{{}, {DryRun: true}, {Config: "/a b?&", DryRun: true}} {
		got, err := c.Reload(ctx, req)
		want, _ := fake{}.Reload(req)
		check(fmt.Sprintf("Reload %+v", req), err, want, got)
	}
	var invalid *InvalidError
	if _, err := c.Reload(ctx, ReloadRequest{Config: "/invalid"}); !errors.As(err, &invalid) || invalid.Faults != 3 || invalid.Text == "" {
		t.Errorf("Reload /invalid: %v", err)
	}
	var refused *RefusedError
	if _, err := c.Reload(ctx, ReloadRequest{Config: "/refused"}); !errors.As(err, &refused) || refused.Text != "gnv0: no" {
		t.Errorf("Reload /refused: %v", err)
	}
	ts, err := c.Tunnels(ctx)
	check("Tunnels", err, fake{}.Tunnels(), ts)
	one, err := c.Tunnel(ctx, "gnv6")
	check("Tunnel", err, fake{}.Tunnels()[1], one)
	vni := uint32(0)
	for _, f := range []FDBFilter{{}, {Dev: "gnv0"}, {VLAN: 10}, {VNI: &vni}, {Dst: netip.MustParseAddr("203.0.113.1")}, {Dev: "gnv6", VNI: &vni}} {
		var es []FDBEntry
		err := c.FDB(ctx, f, func(e FDBEntry) error { es = append(es, e); return nil })
		want, _ := fake{}.FDB(f)
		check(fmt.Sprintf("FDB %+v", f), err, slices.Collect(want), es)
	}
	for _, stats := range []bool{false, true} {
		got, err := c.VLANs(ctx, "gnv0", stats)
		want, _ := fake{}.VLANs("gnv0", stats)
		check("VLANs", err, want, got)
	}
	check("VLANAdd", c.VLANAdd(ctx, "gnv0", VLANWrite{"10-19", "5010-5019"}), nil, nil)
	check("VLANDelete", c.VLANDelete(ctx, "gnv0", VLANWrite{"10-19", ""}), nil, nil)
	check("VLANDelete", c.VLANDelete(ctx, "gnv0", VLANWrite{"10", "5010"}), nil, nil)
	var missing *NotFoundError
	if _, err := c.Tunnel(ctx, "../status?x"); !errors.As(err, &missing) {
		t.Errorf("Tunnel of a bad name: %v, want a NotFoundError", err)
	}
}

// A stream goes on beyond the time-outs of the server, and ends with it.
// A session asks all its questions on one connection, answers that are errors
// included, and makes a new one rather than trust one that was idle for long
// or is gone.
func TestSession(t *testing.T) {
	l := &counting{}
	c := NewSession(start(t, fake{}, time.Minute, time.Minute))
	defer c.Close()
	conns := func() *connection {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.idle
	}
	var refused *RefusedError
	for i := range 3 {
		if _, err := c.Tunnels(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.see(conns())
		if err := c.TunnelDelete(t.Context(), "refused"); !errors.As(err, &refused) {
			t.Fatalf("%d: %v", i, err)
		}
		l.see(conns())
	}
	if len(l.seen) != 1 || l.seen[nil] {
		t.Errorf("%d connections for one session", len(l.seen))
	}
	conns().since = time.Now().Add(-maxIdle - time.Second)
	if _, err := c.Tunnels(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.see(conns()); len(l.seen) != 2 {
		t.Error("a connection was used that the server may be about to close")
	}
	// A question that ends early leaves nothing behind for the next one.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Tunnels(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if tunnels, err := c.Tunnels(t.Context()); err != nil || len(tunnels) == 0 {
		t.Errorf("%v %v", tunnels, err)
	}
	conns().Conn.Close()
	if _, err := c.Tunnels(t.Context()); err == nil {
		t.Error("an answer on a connection that is closed")
	}
	if _, err := c.Tunnels(t.Context()); err != nil {
		t.Errorf("after a connection that broke: %v", err)
	}
}

// counting tells connections apart.
type counting struct{ seen map[*connection]bool }

// TestProbe: the question and the answer arrive whole, and refusals are told apart.
func TestProbe(t *testing.T) {
	c := NewClient(start(t, fake{}, time.Second, time.Second))
	q := ProbeRequest{Remote: netip.MustParseAddr("192.0.2.2"), ID: new(uint32(42)), Size: 1500, Timeout: 0.5}
	if got, err := c.Probe(t.Context(), "gnv0", q); err != nil || got != (Probed{true, 0.5, "192.0.2.2", 1500, "42"}) {
		t.Errorf("%+v, %v", got, err)
	}
	var refused *RefusedError
	if _, err := c.Probe(t.Context(), "refused", q); !errors.As(err, &refused) {
		t.Errorf("%v, want a refusal", err)
	}
}

// TestCapture: what is asked for arrives, errors are answers, and a reader that has gone ends it.
func TestCapture(t *testing.T) {
	c := NewClient(start(t, fake{}, time.Second, time.Second))
	all := func(in *string) func(io.Reader) error {
		return func(r io.Reader) error {
			b, err := io.ReadAll(r)
			*in = string(b)
			return err
		}
	}
	var got string
	want := CaptureRequest{Dev: "gnv0", Points: []string{"outer-in", "drops"}, Filter: []string{"not", "vni", "7"}, Snaplen: 96, Rate: 5, Buffer: 1 << 20, Count: 3}
	if err := c.Capture(t.Context(), want, all(&got)); err != nil || got != fmt.Sprintf("%+v", want) {
		t.Errorf("%q, %v; want %+v", got, err, want)
	}
	var refused *RefusedError
	if err := c.Capture(t.Context(), CaptureRequest{Dev: "busy"}, all(&got)); !errors.As(err, &refused) {
		t.Errorf("a second capture: %v, want it refused", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	before := captured.Load()
	err := c.Capture(ctx, CaptureRequest{Dev: "gnv0"}, func(r io.Reader) error {
		_, err := io.ReadFull(r, make([]byte, 1)) // it has begun
		cancel()
		return err
	})
	if err != nil {
		t.Errorf("a capture that is left: %v", err)
	}
	for end := time.Now().Add(30 * time.Second); captured.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the daemon goes on copying for a reader that has gone")
		}
	}
}

func (c *counting) see(conn *connection) {
	if c.seen == nil {
		c.seen = map[*connection]bool{}
	}
	c.seen[conn] = true
}

func TestEvents(t *testing.T) {
	c := NewClient(start(t, fake{}, 50*time.Millisecond, 50*time.Millisecond))
	for object, want := range map[string]string{"": "tunnel peer lost fdb ", "fdb": "lost fdb "} {
		ctx, cancel := context.WithCancel(context.Background())
		got, begun := "", false
		time.AfterFunc(200*time.Millisecond, cancel)
		err := c.Events(ctx, object, func() { begun = true }, func(e Event) error {
			got += e.Object + " "
			return nil
		})
		if !errors.Is(err, context.Canceled) || got != want || !begun {
			t.Errorf("object %q: %q, %v, begun %v; want %q until it is cancelled", object, got, err, begun, want)
		}
	}
}

// Others than root and our own user may look and not change.
func TestMayWrite(t *testing.T) {
	if os.Getuid() != 0 {
		skip(t, "not root: cannot be another user")
	}
	path := start(t, fake{}, time.Second, time.Second)
	os.Chmod(filepath.Dir(path), 0o755)
	os.Chmod(path, 0o666)
	for dir := filepath.Dir(path); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	answers := make(chan string)
	go func() {
		// Of this thread only, which ends with the goroutine.
		runtime.LockOSThread()
		unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534)
		for _, request := range []string{"DELETE /v1/tunnels/gnv0", "POST /v1/reload", "POST /v1/reload?dry_run&config=/x", "PUT /v1/log/level", "GET /debug/pprof/heap", "GET /debug/", "POST /v1/reload?dry_run", "GET /v1/tunnels/gnv0", "GET /metrics", "GET /v1/log/level"} {
			conn, err := net.Dial("unix", path)
			if err != nil {
				answers <- err.Error()
				continue
			}
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: gvtep\r\nConnection: close\r\n\r\n", request)
			line := make([]byte, 12)
			io.ReadFull(conn, line)
			conn.Close()
			answers <- string(line)
		}
	}()
	for _, want := range []string{"HTTP/1.1 403", "HTTP/1.1 403", "HTTP/1.1 403", "HTTP/1.1 403", "HTTP/1.1 403", "HTTP/1.1 403", "HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 200"} {
		if got := <-answers; got != want {
			t.Errorf("another user got %q, want %q", got, want)
		}
	}
}

func TestClientUnreachable(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{filepath.Join(dir, "nobody"), stale} {
		if _, err := NewClient(path).Status(context.Background(), false); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v, want ErrUnreachable", path, err)
		}
	}
	// One that ends with our connection in hand, or still in its queue.
	for _, accepts := range []bool{true, false} {
		path := filepath.Join(dir, fmt.Sprint("dying", accepts))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if accepts {
				if c, err := l.Accept(); err == nil {
					c.Close()
				}
			} else {
				time.Sleep(50 * time.Millisecond)
			}
			l.Close()
		}()
		if _, err := NewClient(path).Status(context.Background(), false); !errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrEnded) {
			t.Errorf("a server that ends, accepts first: %t: %v, want ErrUnreachable and ErrEnded", accepts, err)
		}
	}
	// One that accepts and never answers.
	mute := filepath.Join(dir, "mute")
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: mute, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := NewClient(mute).Status(ctx, false); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnreachable) {
		t.Errorf("mute server: %v, want DeadlineExceeded", err)
	}
}

// A client that sends half a request, one that sends too much and one that
// does not read lose their connections.
func TestBadClients(t *testing.T) {
	const limit = 200 * time.Millisecond
	path := start(t, fake{entries: 100_000}, limit, limit)
	for name, request := range map[string]string{
		"silent":       "",
		"half request": "GET /v1/sta",
		"half header":  "GET /v1/status HTTP/1.1\r\nHost: gvtep\r\nX: ",
		"no reader":    "GET /v1/fdb HTTP/1.1\r\nHost: gvtep\r\n\r\n",
		"nonsense":     "\x00\x01\x02\r\n\r\n",
		"64 KiB name":  "GET /v1/tunnels/" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: gvtep\r\n\r\n",
		"huge header":  "GET /v1/status HTTP/1.1\r\nHost: gvtep\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
		"huge body":    "POST /v1/tunnels HTTP/1.1\r\nHost: gvtep\r\nContent-Length: 2097152\r\n\r\n" + strings.Repeat("x", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			begin := time.Now()
			c.SetDeadline(begin.Add(30 * time.Second))
			io.WriteString(c, request) // may fail when the server has had enough
			if name == "no reader" {
				time.Sleep(2 * limit)
			}
			n, err := io.Copy(io.Discard, c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("the connection is still open after %s", time.Since(begin))
			}
			if whole := int64(100_000 * 50); name == "no reader" && n >= whole {
				t.Errorf("got %d bytes: the server waited for a reader that does not read", n)
			}
		})
	}
}

// TestStream: a table is read as it is sent, by a client that may take longer for all of it than
// it waits for one entry, and that says when it has had enough.
func TestStream(t *testing.T) {
	const entries, limit = 200_000, time.Second
	src := fake{entries: entries, yielded: new(atomic.Int64)}
	path := start(t, src, limit, limit)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, ahead, begin := 0, int64(0), time.Now()
	err := NewClient(path).FDB(ctx, FDBFilter{}, func(FDBEntry) error {
		if got++; got == 1 {
			ahead = src.yielded.Load()
		}
		if got%(entries/10) == 0 {
			time.Sleep(limit / 4)
		}
		return nil
	})
	if err != nil || got != entries || time.Since(begin) < 2*limit {
		t.Errorf("%d entries of %d in %s: %v", got, entries, time.Since(begin), err)
	}
	if ahead == 0 || ahead == entries {
		t.Errorf("the server had made %d entries of %d before the first was read", ahead, entries)
	}
	src.yielded.Store(0)
	enough := errors.New("enough")
	if err := NewClient(path).FDB(context.Background(), FDBFilter{}, func(FDBEntry) error { return enough }); err != enough {
		t.Errorf("%v, want what the reader said", err)
	}
	if n := src.yielded.Load(); n == entries {
		t.Errorf("all %d entries were sent to a reader that wanted one", n)
	}
	ctx, cancel = context.WithCancel(context.Background())
	if err := NewClient(path).FDB(ctx, FDBFilter{}, func(FDBEntry) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after a cancellation: %v", err)
	}
}

// More than MaxClients idle connections do not keep others out for longer
// than a time-out, and a client that comes too often tries again by itself.
func TestTooManyClients(t *testing.T) {
	const limit = 300 * time.Millisecond
	path := start(t, fake{}, limit, limit)
	refused := make(chan bool)
	for range MaxClients + 40 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			b, _ := io.ReadAll(c)
			refused <- bytes.HasPrefix(b, []byte("HTTP/1.1 503 "))
		}()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := NewClient(path).Status(ctx, false); err != nil {
		t.Errorf("client among idle ones: %v", err)
	}
	n := 0
	for range MaxClients + 40 {
		if <-refused {
			n++
		}
	}
	if n < 40 || n > 60 {
		t.Errorf("%d of %d connections were refused, want about 40", n, MaxClients+40)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := SocketPath(dir, "p1")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]fs.FileMode{filepath.Dir(path): 0o750 | fs.ModeDir, path: 0o660 | fs.ModeSocket} {
		if fi, err := os.Stat(file); err != nil || fi.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", file, fi.Mode(), err, want)
		}
	}
	_, err = Listen(path)
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("second Listen: %v, want an InUseError with pid %d", err, os.Getpid())
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the second Listen took the socket away: %v", err)
	}
	l.Close()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// Faults leave nothing behind either.
	long := SocketPath(dir, strings.Repeat("x", 100))
	if _, err := Listen(long); err == nil || !strings.Contains(err.Error(), "at most 107") {
		t.Errorf("long path: %v", err)
	}
	os.MkdirAll(filepath.Dir(path), 0o755)
	os.WriteFile(path, []byte("precious"), 0o644)
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Error("the file in the way is gone")
	}
}

// A process that was killed leaves socket and lock file; the next takes over.
// Of many that try at once, one wins.
func TestTakeOver(t *testing.T) {
	path := SocketPath(t.TempDir(), "p1")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CONTROL_TEST_SOCKET="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	buf := make([]byte, 64)
	if n, err := out.Read(buf); string(buf[:n]) != "<nil>\n" {
		t.Fatalf("child: %q, %v", buf[:n], err)
	}
	var inUse *InUseError
	if _, err := Listen(path); !errors.As(err, &inUse) || inUse.PID != cmd.Process.Pid {
		t.Errorf("while the child lives: %v, want an InUseError with pid %d", err, cmd.Process.Pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the killed child left no socket: %v", err)
	}
	if live, err := Instances(filepath.Dir(filepath.Dir(path))); err != nil || len(live) != 0 {
		t.Errorf("Instances = %v, %v, want none: the child is dead", live, err)
	}

	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []net.Listener
	for range 8 {
		wg.Go(func() {
			l, err := Listen(path)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, l)
			} else if !errors.As(err, new(*InUseError)) {
				t.Errorf("Listen: %v", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d of 8 processes have the socket, want 1", len(won))
	}
	for _, l := range won {
		l.Close()
	}
}

// Instances that start and stop together do not take each other's
// directories away.
func TestListenTogether(t *testing.T) {
	run := filepath.Join(t.TempDir(), filepath.Base(RunDir))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				l, err := Listen(SocketPath(run, fmt.Sprint("p", i)))
				if err != nil {
					t.Errorf("p%d: %v", i, err)
					return
				}
				l.Close()
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(run); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", run, err)
	}
}

func TestInstances(t *testing.T) {
	run := filepath.Join(t.TempDir(), "gvtep")
	if live, err := Instances(run); err != nil || len(live) != 0 {
		t.Errorf("no directory: %v, %v", live, err)
	}
	for _, name := range []string{"b", "a"} {
		l, err := Listen(SocketPath(run, name))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	os.Mkdir(filepath.Join(run, "empty"), 0o755)
	live, err := Instances(run)
	if d := cmp.Diff([]string{"a", "b"}, live); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
}

// skip is t.Skip, unless nothing may be skipped: CI installs what is needed.
func skip(t testing.TB, args ...any) {
	t.Helper()
	if os.Getenv("GVTEP_TEST_REQUIRE") != "" {
		t.Fatal(append([]any{"GVTEP_TEST_REQUIRE is set: "}, args...)...)
	}
	t.Skip(args...)
}

// TestLimits: those who follow events leave room for others, a large name does
// not come back whole, and slow readers do not keep others from being served.
func TestLimits(t *testing.T) {
	path := start(t, fake{}, 300*time.Millisecond, time.Second)
	c := NewClient(path)
	var streams []net.Conn
	defer func() {
		for _, s := range streams {
			s.Close()
		}
	}()
	follow := func() string {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, conn)
		fmt.Fprint(conn, "GET /v1/events HTTP/1.1\r\nHost: gvtep\r\n\r\n")
		line := make([]byte, 12)
		io.ReadFull(conn, line)
		return string(line)
	}
	for i := range maxStreams {
		if got := follow(); got != "HTTP/1.1 200" {
			t.Fatalf("stream %d: %q", i, got)
		}
	}
	if got := follow(); got != "HTTP/1.1 503" {
		t.Errorf("one stream too many: %q, want 503", got)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Status(ctx, false); err != nil {
		t.Errorf("a client beside %d that follow events: %v", maxStreams, err)
	}

	name := strings.Repeat("x", 64<<10)
	err := c.PeerAdd(ctx, "gnv0", PeerWrite{Remote: "192.0.2.1", Keywords: []string{name}})
	if err != nil && len(err.Error()) > maxError+100 {
		t.Errorf("an error of %d bytes, want at most %d", len(err.Error()), maxError)
	}
	rec := httptest.NewRecorder()
	refuse(rec, http.StatusBadRequest, name)
	if n := rec.Body.Len(); n > maxError+100 {
		t.Errorf("an answer of %d bytes, want at most %d", n, maxError)
	}
}

// TestDoor: a daemon that is starting lets a request wait, for half the time there is
// to answer it. One that waits itself says for what, and that it lives.
func TestDoor(t *testing.T) {
	path := SocketPath(t.TempDir(), "p1")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var door Door
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- serve(ctx, l, &door, time.Second, 400*time.Millisecond) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	level := func() (string, error) {
		l, err := NewClient(path).LogLevel(t.Context())
		return l.Level, err
	}
	refused := func(want string) {
		t.Helper()
		var r *RefusedError
		if _, err := level(); !errors.As(err, &r) || r.Text != want {
			t.Errorf("answer %v, want it refused: %s", err, want)
		}
	}
	begin := time.Now()
	refused("starting")
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("refused after %v, want half of 400 ms", took)
	}

	door.Wait("the underlay: 10.0.0.1")
	refused("starting, waiting for the underlay: 10.0.0.1")
	for path, want := range map[string]string{
		"/healthz": "200 ok\n", "/readyz": "503 starting, waiting for the underlay: 10.0.0.1\n", "/metrics": "503 starting, waiting for the underlay: 10.0.0.1\n",
	} {
		w := httptest.NewRecorder()
		door.handler(time.Second, nil).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}

	w := httptest.NewRecorder()
	door.handler(time.Second, nil).ServeHTTP(w, httptest.NewRequest("POST", "/v1/reload", nil))
	if want := fmt.Sprintf("`kill -HUP %d`", os.Getpid()); !strings.Contains(w.Body.String(), want) {
		t.Errorf("reload: %q, want %s in it", w.Body, want)
	}

	// Two that came before it opened.
	door.Wait("")
	answers := make(chan error)
	for range 2 {
		go func() {
			level, err := level()
			if err == nil && level != "debug" {
				err = fmt.Errorf("level %q, want debug", level)
			}
			answers <- err
		}()
	}
	time.Sleep(50 * time.Millisecond)
	door.Open(fake{})
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

// TestServeMetrics: a listener that anybody may reach has health, metrics and, if it is wanted, the page, and nothing else.
func TestServeMetrics(t *testing.T) {
	for path, want := range map[string][2]int{ // without and with the page
		"/metrics": {200, 200}, "/healthz": {503, 503}, "/readyz": {503, 503}, "/v1/status": {404, 404}, "/v1/fdb": {404, 404}, "/debug/pprof/": {404, 404},
		"/v1/log/level": {404, 404}, "/v1/options": {404, 404}, "/": {404, 404}, "/page/": {404, 200}, "/page/page.js": {404, 200}, "/page/page.css": {404, 200}, "/page/page.html": {404, 404},
		"/page/fdb/": {404, 404}, "/page/fdb/02:00:00:00:02:10": {404, 200},
	} {
		for i, withPage := range []bool{false, true} {
			resp, body := askMetrics(t, "GET", path, withPage)
			if resp.StatusCode != want[i] {
				t.Errorf("%s, page %v: %d, want %d: %s", path, withPage, resp.StatusCode, want[i], body)
			}
			if resp.StatusCode == 200 && strings.HasPrefix(path, "/page/") && !strings.Contains(path, "fdb") &&
				!strings.HasPrefix(resp.Header.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self';") {
				t.Errorf("%s: policy %q", path, resp.Header.Get("Content-Security-Policy"))
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		for _, path := range []string{"/page/", "/page/fdb/02:00:00:00:02:10", "/v1/tunnels"} {
			if resp, _ := askMetrics(t, method, path, true); resp.StatusCode < 400 {
				t.Errorf("%s %s: %d, want a refusal", method, path, resp.StatusCode)
			}
		}
	}
}

// askMetrics asks a listener of metrics that lives as long.
func askMetrics(t *testing.T, method, path string, withPage bool) (*http.Response, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ServeMetrics(ctx, l, NewDoor(fake{}), withPage) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequest(method, "http://"+l.Addr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

// TestCaller: who asks over a unix socket is known by process, user and command line.
func TestCaller(t *testing.T) {
	path := SocketPath(t.TempDir(), "p1")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := net.Dial("unix", path); err == nil {
			defer c.Close()
			c.Read(make([]byte, 1))
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	who, ok := c.(*conn).caller()
	if !ok || who.PID != os.Getpid() || who.UID != os.Getuid() || !strings.HasPrefix(who.Command, os.Args[0]) {
		t.Errorf("%+v, %v; want this process", who, ok)
	}
	for words, want := range map[string]string{
		"gvtep\x00tunnel\x00down\x00gnv0\x00": "gvtep tunnel down gnv0", "": "", "a\x1b[2J\n\x00": "a?[2J?",
		strings.Repeat("x", 500): strings.Repeat("x", maxCommand-1) + "…",
	} {
		if got := commandLine([]byte(words)); got != want {
			t.Errorf("commandLine(%q) = %q, want %q", words, got, want)
		}
	}
	for want, who := range map[string]Caller{
		"SIGHUP": {Command: "SIGHUP"}, "pid 7 uid 8 (a b)": {7, 8, "a b"}, "pid 7 uid 0": {PID: 7}, "pid 0 uid 8": {UID: 8},
	} {
		if got := who.String(); got != want {
			t.Errorf("%+v is %q, want %q", who, got, want)
		}
	}
}
