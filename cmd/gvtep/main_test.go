package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	pcapng "gvtep/cmd/internal/capture"
	"gvtep/cmd/internal/control"
	"gvtep/cmd/internal/logging"
	scrapes "gvtep/cmd/internal/metrics"
	"gvtep/cmd/internal/view"
	"gvtep/config"
	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/capture"
	"gvtep/vtep/count"
	"gvtep/vtep/encap"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

var update = flag.Bool("update", false, "write what the scripts expect anew")

// The scripts run this binary as gvtep, and as a daemon with a made-up state.
// Instances are below $RUN.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gvtep": func() { os.Exit(recorded(os.Args[1:])) },
		"fake":  fakeDaemon,
	})
}

func TestScripts(t *testing.T) {
	runs, begun := recording(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			// Not below the work directory, which makes paths too long for sockets.
			run, err := os.MkdirTemp("", "run")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(run) })
			e.Setenv("RUN", filepath.Join(run, "gvtep"))
			script := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-")
			begun(script)
			e.Setenv("GVTEP_RECORD", runs)
			e.Setenv("GVTEP_SCRIPT", script)
			// The race detector's runtime keeps each process for a second.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "lab" {
				return labCondition()
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// TestWaitForTheDead: a daemon that was there and ends will not become ready.
func TestWaitForTheDead(t *testing.T) {
	const queued, answered, reset = "in its queue", "after an answer", "before an answer"
	for _, how := range []string{queued, answered, reset} {
		path := filepath.Join(t.TempDir(), "control.sock")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer l.Close() // and the name is gone
			if how == queued {
				time.Sleep(50 * time.Millisecond)
				return
			}
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if how == answered {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
			}
		}()
		var text strings.Builder
		a := newApp(t.TempDir())
		a.errOut = &text
		if code := a.execute([]string{"--control", path, "wait", "gnv0", "--timeout", "20s"}); code != exitUnreachable ||
			!strings.HasPrefix(text.String(), "gvtep: wait: the daemon has ended, its log says why: ") || strings.Count(text.String(), "\n") != 1 {
			t.Errorf("it ends %s: exit code %d, %q; want %d and a line that says so", how, code, text.String(), exitUnreachable)
		}
	}
}

// labCondition reports whether namespaces can be made. GVTEP_TEST_REQUIRE=1
// makes an error of it that they cannot, so that nothing is skipped silently.
func labCondition() (bool, error) {
	_, err := exec.LookPath("ip")
	if err == nil {
		_, err = exec.LookPath("unshare")
	}
	if err == nil && os.Getuid() != 0 {
		err = errors.New("not root")
	}
	if err != nil && os.Getenv("GVTEP_TEST_REQUIRE") == "1" {
		return false, err
	}
	return err == nil, nil
}

// fakeSource is an endpoint of made-up state, as package vtep would report it.
type fakeSource struct {
	control.Source // nothing of it can be changed
	instance       string
	logs           *logging.State
	ready, stuck   bool
}

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func fakeState(ready bool) vtep.State {
	peer := func(name, remote string, seen time.Duration) vtep.PeerState {
		p := vtep.PeerState{
			Peer: vtep.Peer{Name: name, Remote: netip.MustParseAddr(remote)}, Remote: netip.AddrPortFrom(netip.MustParseAddr(remote), 6081),
			Stats: count.Stats{RxPackets: 10, RxBytes: 13 << 30, TxPackets: 20, TxBytes: 8990}, PathMTU: 1500, Flood: true, Given: true, Speaks: true,
		}
		if seen > 0 {
			p.LastSeen = begin.Add(-seen)
		}
		if seen > 0 && seen < vtep.HeardFor {
			p.Contact = vtep.Heard
		}
		return p
	}
	gnv0 := vtep.TunnelState{
		Config: vtep.Tunnel{
			VNI: 200, Local: netip.MustParseAddr("192.0.2.1"), Peers: []vtep.Peer{{Remote: netip.MustParseAddr("192.0.2.2")}}, DstPort: 6081, SrcPortMin: 49152, SrcPortMax: 65535,
			TTL: 64, DF: vtep.DFSet, UDPCsum: true, Learning: true, Ageing: 300 * time.Second, MaxAddress: 4096,
			Device: netio.DeviceOptions{Name: "gnv0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.1/24")}},
		},
		Ifindex: 7, LLAddr: packet.MAC{2, 0, 0, 0, 0, 1}, Up: true, MTU: 1450, Queues: 2, MTUAuto: true, Since: begin.Add(-51 * time.Hour),
		Offload: packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6 | packet.OffloadUSO,
		Stats:   count.Stats{RxPackets: 30, RxBytes: 3000, TxPackets: 40, TxBytes: 4000, TxFlood: 5},
		Peers:   []vtep.PeerState{peer("leaf2", "192.0.2.2", 400*time.Millisecond), peer("", "192.0.2.3", 0)},
		FDB:     vtep.FDBState{Learned: 2, Static: 1, Limit: 4096, Moved: 6, Aged: 7},
	}
	gnv0.Peers[1].Flood, gnv0.Peers[1].PathMTU, gnv0.Peers[1].Error = false, 0, "no route"
	gnv0.Config.Peers = []vtep.Peer{gnv0.Peers[0].Peer}
	gnv0.Config.Group, gnv0.Config.NeighSuppress, gnv0.Config.Locked, gnv0.Config.NoBcastFlood, gnv0.Config.BUMLimit =
		netip.MustParseAddr("239.1.1.1"), true, true, true, 1000
	gnv0.Config.VLANs = []vtep.VLANRange{{First: 10, Last: 19, VNI: 5010}, {First: 20, Last: 20, VNI: 7000}}
	gnv0.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	group, pointed := peer("", "239.1.1.1", 0), peer("", "192.0.2.9", 0)
	pointed.Given = false
	pointed.Flood = false
	group.Speaks, pointed.Speaks = false, false
	gnv0.Config.BFD = spec.BFD{Interval: 300 * time.Millisecond, Mult: 3}
	gnv0.Peers[0].Live = vtep.BFDState{On: true, Up: true, State: "up", Remote: "up", Diagnostic: "no diagnostic", For: time.Hour,
		Interval: 270 * time.Millisecond, Detection: 810 * time.Millisecond, Downs: 1, Received: 9000}
	gnv0.Peers[1].Dynamic = true
	gnv0.Peers[1].Contact = vtep.NoRoute
	gnv0.Peers[1].Refused = []vtep.PeerRefused{{Reason: count.DropUnknownVNI, VNI: 300, Count: 4, Last: begin.Add(-2 * time.Second)}}
	gnv0.Peers[1].SendErr = vtep.SendError{Err: unix.EPERM, At: begin.Add(-90 * time.Second)}
	gnv0.Peers[1].ICMP = vtep.ICMPError{ICMP: netio.ICMP{Type: 3, Code: 4, From: netip.MustParseAddr("198.51.100.1"), MTU: 1400}, At: begin.Add(-3 * time.Hour)}
	gnv0.Peers = append(gnv0.Peers, group, pointed)
	gnv0.Fast = vtep.FastState{Wanted: spec.FastAuto, RxPackets: 30, TxPackets: 40, FastState: netio.FastState{
		Devices: []netio.FastDevice{{Name: "eth0", Bulk: true}, {Name: "eth1"}}, Reason: "eth2: it is no Ethernet device"}}
	gnv0.Answered, gnv0.TooBig, gnv0.FDB.Damped, gnv0.FDB.Frozen = 8, 4, 11, 1
	gnv0.Drops.Rx[count.DropUnknownPeer], gnv0.Drops.Rx[count.DropECN], gnv0.Drops.Tx[count.DropTooBig] = 9, 1, 3
	gnv3 := vtep.TunnelState{
		Config: vtep.Tunnel{
			VNI: 3, Local: netip.IPv6Unspecified(), Peers: []vtep.Peer{{Remote: netip.MustParseAddr("2001:db8::9")}}, DstPort: 6082,
			Dev: "eth0", TTL: vtep.Inherit, TOS: vtep.Inherit, DF: vtep.DFUnset, ZeroCsum6: true, VLANDrop: true, L2ControlPass: true,
			Device: netio.DeviceOptions{Name: "gnv3", L3: true, Netns: "blue", Persist: true},
		},
		Ifindex: 8, MTU: 1400, Queues: 2, Since: begin.Add(-90 * time.Second), Peers: []vtep.PeerState{peer("", "2001:db8::9", 70*time.Second)},
	}
	gnv3.Peers[0].Flood, gnv3.Peers[0].Routes = false, []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd01::/48")}
	gnv0.Ready, gnv3.Unready = ready, []string{"device gnv3 is down, as configured: gvtep tunnel up gnv3"}
	s := vtep.State{
		Workers: 2, Started: begin.Add(-51 * time.Hour), Ready: ready, Tunnels: []vtep.TunnelState{gnv0, gnv3},
		FastPunts: []netio.FastPunt{{Reason: "group", Count: 6}, {Reason: "source", In: true, Count: 7}, {Reason: "bulk"}},
		Sockets: []vtep.SocketState{
			{Local: netip.MustParseAddrPort("192.0.2.1:6081"), Overflows: 12}, {Local: netip.MustParseAddrPort("[::]:6082"), Device: "eth0"},
		},
	}
	s.Drops.Rx[count.DropUnknownVNI] = 5
	s.Refused = []vtep.Refused{{
		Reason: count.DropUnknownVNI, Source: netip.MustParseAddr("192.0.2.3"), VNI: 300, Protocol: 0x6558, Port: 6081, Count: 5,
		First: begin.Add(-time.Minute), Last: begin.Add(-2 * time.Second), Head: []byte{0, 0, 0x65, 0x58, 0, 1, 0x2c, 0},
	}}
	return s
}

func (f fakeSource) Health() control.Health {
	return control.Health{Ready: f.ready}
}

func (f fakeSource) Progress() control.Progress { return control.Progress{} }

func (f fakeSource) Options() []control.OptionKind {
	return append(view.Options(option.Default()), control.OptionKind{Name: "my.secret", ID: "ff01:81", Format: "hex", Known: true, Own: true})
}

func (f fakeSource) LogLevel() control.LogLevel { return view.LogLevel(f.logs.Level()) }

func (f fakeSource) SetLogLevel(w control.LogLevelWrite) error {
	if err := f.logs.SetLevel(w.Level, w.For); err != nil {
		return &control.UsageError{Text: err.Error()}
	}
	return nil
}

func (f fakeSource) Metrics() http.Handler {
	return scrapes.Handler(scrapes.New(scrapes.Build{Version: "v0.1.0", Revision: "abc", GoVersion: "go"}, func() scrapes.Snapshot {
		logged, _ := f.logs.Counts()
		return scrapes.Snapshot{State: fakeState(f.ready), Reloaded: true, ReloadedAt: begin, Logged: logged, MaxPeers: 10}
	}))
}

func (f fakeSource) Status(details bool) control.Status {
	state := fakeState(f.ready)
	if f.stuck {
		state.Stuck, state.Faults = []int{1}, []string{vtep.StuckText([]int{1})}
	}
	s := view.Status(state, f.instance, "v0.1.0", begin)
	s.PID = 4242
	s.Sockets[0].Rcvbuf, s.Sockets[0].Wanted = 208<<10, 8<<20
	if details {
		s.Config, s.Go = "/etc/gvtep/p1.toml", &control.Runtime{HeapObjects: 12345, Goroutines: 7}
		s.Trial = &control.Trial{Config: "/etc/gvtep/new.toml", Deadline: begin, Error: "gnv9: device or resource busy"}
	}
	return s
}

// Reload compares a file with old.toml.
func (f fakeSource) Reload(req control.ReloadRequest) (control.Reload, error) {
	if f.instance == "p2" {
		return control.Reload{}, errors.New("gnv9: device or resource busy")
	}
	running, err := config.Load("old.toml")
	if err != nil {
		return control.Reload{}, err
	}
	cfg, err := loadConfig(req.Config, nil)
	var faults config.Errors
	if errors.As(err, &faults) {
		return control.Reload{}, &control.InvalidError{Text: faults.Error(), Faults: len(faults)}
	}
	if err != nil {
		return control.Reload{}, &control.InvalidError{Text: err.Error(), Faults: 1}
	}
	changes, drift := config.Diff(running, cfg), []control.DeviceFault(nil)
	if !changes.Empty() {
		drift = append(drift, control.DeviceFault{Ifname: "gnv0", Fault: "device gnv0 lacks address 192.0.2.1/24: it was deleted by hand"})
	}
	out := view.Reload("/etc/gvtep/p1.toml", changes, cfg, drift)
	out.Applied = !req.DryRun
	return out, nil
}

// fakeRehearsal would do anything.
type fakeRehearsal struct {
	fakeSource
	would *control.Would
}

func (f fakeSource) Rehearse(would *control.Would) control.Source { return fakeRehearsal{f, would} }

func (f fakeRehearsal) TunnelAdd(w control.TunnelWrite) error {
	f.would.Added = []string{w.Name}
	return nil
}

func (f fakeRehearsal) TunnelDelete(name string) error {
	f.would.Removed = []string{name}
	return nil
}

func (f fakeRehearsal) PeerAdd(dev string, w control.PeerWrite) error {
	f.would.Changed = []control.TunnelChange{{Ifname: dev, Keys: []control.KeyChange{{Key: "peer " + w.Remote, New: "{}", Live: true}}}}
	return nil
}

func (f fakeRehearsal) FDBFlush(dev string, filter control.FDBFlush) (n int, err error) {
	f.would.Flushed, err = f.fakeSource.FDBFlush(dev, filter)
	return f.would.Flushed, err
}

func (f fakeSource) ReloadTrial(q control.TrialRequest) (control.Reload, error) {
	out, err := f.Reload(control.ReloadRequest{Config: q.Config})
	out.Reverts = q.After
	return out, err
}

func (fakeSource) ReloadKeep() error { return nil }

func (f fakeSource) ReloadRevert() (control.Reload, error) {
	return control.Reload{}, errors.New("no reload is on trial")
}

func (f fakeSource) Tunnels() (out []control.Tunnel) {
	s := fakeState(f.ready)
	for i := range s.Tunnels {
		out = append(out, view.Tunnel(&s.Tunnels[i], begin))
	}
	return out
}

func (f fakeSource) Tunnel(name string) (control.Tunnel, error) {
	var names []string
	for _, t := range f.Tunnels() {
		if t.Ifname == name {
			return t, nil
		}
		names = append(names, t.Ifname)
	}
	return control.Tunnel{}, control.NoTunnel(name, names)
}

func (f fakeSource) FDB(filter control.FDBFilter) (iter.Seq[control.FDBEntry], error) {
	if filter.Dev != "" {
		if _, err := f.Tunnel(filter.Dev); err != nil {
			return nil, err
		}
	}
	s := fakeState(f.ready)
	gnv0, gnv3 := &s.Tunnels[0].Config, &s.Tunnels[1].Config
	remote, other := netip.MustParseAddrPort("192.0.2.2:6081"), netip.MustParseAddrPort("192.0.2.3:6099")
	entry := func(mac byte, state fdb.State) fdb.Entry {
		return fdb.Entry{MAC: packet.MAC{2, 0, 0, 0, 2, mac}, State: state, Used: 3 * time.Second, Updated: 4 * time.Second}
	}
	options, err := option.Default().Parse("ovn.ports:00010002,ff01:01:@vlan")
	if err != nil {
		return nil, err
	}
	sticky := entry(0x12, fdb.Dynamic)
	sticky.Flags = fdb.Sticky | fdb.ExternLearn
	flood := vtep.FDBEntry{Entry: fdb.Entry{State: fdb.Permanent}, Tunnel: "gnv0", ID: gnv0.VNI, Flood: true, Remote: remote}
	v6 := vtep.FDBEntry{Entry: fdb.Entry{State: fdb.Permanent}, Tunnel: "gnv3", ID: gnv3.VNI, Flood: true, Remote: netip.MustParseAddrPort("[2001:db8::9]:6082")}
	all := []control.FDBEntry{
		view.Entry(&flood, gnv0, option.Default()),
		view.Entry(&vtep.FDBEntry{Entry: entry(0x10, fdb.Static), Tunnel: "gnv0", ID: gnv0.VNI, Remote: other}, gnv0, option.Default()),
		view.Entry(&vtep.FDBEntry{Entry: entry(0x13, fdb.Permanent), Tunnel: "gnv0", ID: gnv0.VNI, Remote: remote, VNI: 7, OtherVNI: true, Via: "eth1", Options: options.Share()}, gnv0, option.Default()),
		view.Entry(&vtep.FDBEntry{Entry: entry(0x11, fdb.Dynamic), Tunnel: "gnv0", ID: gnv0.VNI, Remote: remote}, gnv0, option.Default()),
		view.Entry(&vtep.FDBEntry{Entry: sticky, Tunnel: "gnv0", ID: gnv0.VNI, Remote: remote}, gnv0, option.Default()),
		view.Entry(&vtep.FDBEntry{Entry: entry(0xaa, fdb.Dynamic), Tunnel: "gnv0", ID: gnv0.VNI, Local: true}, gnv0, option.Default()),
		view.Entry(&v6, gnv3, option.Default()),
	}
	return slices.Values(slices.DeleteFunc(all, func(e control.FDBEntry) bool {
		return filter.Dev != "" && filter.Dev != e.Ifname || filter.VNI != nil && *filter.VNI != *e.Gvtep.ID || filter.Dst.IsValid() && filter.Dst.String() != e.Dst
	})), nil
}

func (f fakeSource) FDBGet(dev, mac string) ([]control.FDBEntry, error) {
	found, err := f.FDB(control.FDBFilter{Dev: dev})
	if err != nil {
		return nil, err
	}
	all := slices.DeleteFunc(slices.Collect(found), func(e control.FDBEntry) bool { return e.MAC != mac })
	if len(all) == 0 {
		return nil, spec.NotFound("")
	}
	return all, nil
}

// FDBFlush takes the flood list for all there is.
func (f fakeSource) FDBFlush(dev string, _ control.FDBFlush) (int, error) {
	all, err := f.FDB(control.FDBFilter{Dev: dev})
	if err != nil {
		return 0, err
	}
	return len(slices.Collect(all)), nil
}

// Capture is one packet of each kind: a datagram, a frame, and a drop.
func (f fakeSource) Capture(r control.CaptureRequest) (func(context.Context, io.Writer) error, error) {
	o, err := pcapng.Options(r.Points, r.Filter, r.Snaplen, r.Buffer)
	if err != nil {
		return nil, &control.UsageError{Text: err.Error()}
	}
	if r.Dev != "" {
		if _, err := f.Tunnel(r.Dev); err != nil {
			return nil, err
		}
	}
	tap := capture.New(o, 1, begin)
	inner, _ := hex.DecodeString("02000000020102000000020208004500002100000000401166ca0a0000010a00000204d20050000df000" + "68656c6c6f")
	header, _ := encap.Geneve.AppendHeader(nil, 100, packet.EtherTypeEthernet)
	from, to := netip.MustParseAddrPort("192.0.2.2:0"), netip.MustParseAddrPort("192.0.2.1:6081")
	for _, r := range []capture.Record{
		{Time: 1e9, Point: capture.OuterIn, Dev: "gnv0", VNI: 100, Source: from, Dest: to},
		{Time: 2e9, Point: capture.InnerIn, Frame: true, Dev: "gnv0", VNI: 100, Source: from},
		{Time: 3e9, Point: capture.Drops, Reason: count.DropUnknownVNI, VNI: 100, Source: from, Dest: to, Count: 1},
	} {
		head := header
		if r.Frame {
			head = nil
		}
		if o.Points.Has(r.Point) {
			tap.Add(0, &r, head, inner, inner, new(packet.Headers))
		}
	}
	return func(ctx context.Context, w io.Writer) error { return pcapng.Pump(ctx, tap, w, r.Count) }, nil
}

// Probe is answered by all peers.
func (f fakeSource) Probe(_ context.Context, dev string, r control.ProbeRequest) (control.Probed, error) {
	if _, err := f.Tunnel(dev); err != nil {
		return control.Probed{}, err
	}
	return control.Probed{Answered: true, After: 0.0002, Status: "ok", Size: r.Size}, nil
}

// Events are one of each kind, and then the daemon has no more to say.
func (f fakeSource) Batch(_ string, _ control.BatchOptions, lines iter.Seq2[[]byte, error]) (done control.BatchResult, err error) {
	for range lines {
		done.Lines++
	}
	return done, nil
}

func (fakeSource) Events(_ context.Context, f control.EventsFrom) iter.Seq[control.Event] {
	if f.Drops {
		return slices.Values([]control.Event{
			{Time: begin, Object: "drop", Action: "in", Reason: "unknown_vni", Packets: 12, Source: netip.MustParseAddr("192.0.2.3"), ID: new(uint32(300)), Payload: "ethernet", Port: 6081},
			{Time: begin, Object: "drop", Action: "out", Ifname: "gnv0", Reason: "too_big", Packets: 3},
		})
	}
	remote, old := netip.MustParseAddrPort("192.0.2.2:6081"), netip.MustParseAddrPort("192.0.2.3:6081")
	return func(yield func(control.Event) bool) {
		for _, e := range []vtep.Event{
			{Time: begin, Object: "tunnel", Action: "changed", Tunnel: "gnv0", Cause: &vtep.Cause{
				By: vtep.Caller{PID: 4711, Command: "gvtep tunnel set gnv0 ttl 9 dev eth1"}, Keys: []vtep.KeyChange{{Key: "ttl", Old: "64", New: "9"}, {Key: "dev", New: "eth1"}}, More: 2,
			}},
			{Time: begin, Object: "tunnel", Action: "deleted", Tunnel: "gnv7", Cause: &vtep.Cause{By: vtep.Caller{Command: "SIGHUP"}}},
			{Time: begin, Object: "tunnel", Action: "down", Tunnel: "gnv0", Cause: &vtep.Cause{By: vtep.Caller{PID: 4711, UID: 998}}},
			{Time: begin, Object: "tunnel", Action: "up", Tunnel: "gnv0"},
			{Time: begin, Object: "tunnel", Action: "gone", Tunnel: "gnv0"},
			{Time: begin, Object: "peer", Action: "refused", Tunnel: "gnv0", Remote: remote, Refused: &vtep.PeerRefused{Reason: count.DropUnknownVNI, VNI: 43, Count: 7}},
			{Time: begin, Object: "peer", Action: "route_lost", Tunnel: "gnv0", Remote: remote},
			{Time: begin, Object: "peer", Action: "route_back", Tunnel: "gnv0", Remote: remote},
			{Time: begin, Object: "peer", Action: "new", Tunnel: "gnv0", Remote: remote},
			{Time: begin, Object: "fdb", Action: "moved", Tunnel: "gnv0", MAC: packet.MAC{2, 0, 0, 0, 2, 0x10}, Remote: remote, From: old, State: fdb.Static},
			{Time: begin, Object: "fdb", Action: "new", Tunnel: "gnv0", MAC: packet.MAC{2, 0, 0, 0, 2, 0xaa}, Local: true, State: fdb.Dynamic},
		} {
			if !yield(view.Event(e)) {
				return
			}
		}
		yield(control.Event{Time: begin, Object: "lost", Lost: 7})
	}
}

// fakeDaemon is "fake INSTANCE [unready|stuck]".
func fakeDaemon() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	_, logs, err := logging.New(os.Stderr, "info", "json")
	var l net.Listener
	if err == nil {
		l, err = control.Listen(control.SocketPath(os.Getenv("RUN"), os.Args[1]))
	}
	if err == nil {
		err = control.Serve(ctx, l, control.NewDoor(fakeSource{logs: logs, instance: os.Args[1], ready: len(os.Args) == 2, stuck: slices.Contains(os.Args[2:], "stuck")}))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake:", err)
		os.Exit(1)
	}
}

func TestJoinArgs(t *testing.T) {
	for line, want := range map[string]string{
		"run gnv0 --srcport 50000 50010 --id 5": "run gnv0 --srcport=50000-50010 --id 5",
		"run gnv0 --srcport 50000-50010":        "run gnv0 --srcport 50000-50010",
		"run gnv0 srcport 50000 50010":          "run gnv0 srcport 50000 50010",
		"run --srcport 50000":                   "run --srcport 50000",
		"-c show":                               "--color=always show",
		"-c never show":                         "--color=never show",
		"--color=auto show":                     "--color=auto show",
		"show --color":                          "show --color=always",
		"show -- -c":                            "show -- -c",
	} {
		if got := strings.Join(joinArgs(strings.Fields(line)), " "); got != want {
			t.Errorf("%q\n got  %q\n want %q", line, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for seconds, want := range map[float64]string{
		-1: "0.0s", 0: "0.0s", 0.44: "0.4s", 9.99: "9.9s", 10: "10s", 59.9: "59s", 60: "1m00s", 312: "5m12s", 3600: "1h00m", 11100: "3h05m", 86400: "1d0h", 183600: "2d3h",
	} {
		if got := age(seconds); got != want {
			t.Errorf("age(%g) = %s, want %s", seconds, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 9011: "8.8 KiB", 13 << 30: "13.0 GiB", 1<<64 - 1: "16384.0 PiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

// Making the commands and flags is the part of the start-up that grows with the
// code; a process that was killed must be back
// within 10 ms.
func BenchmarkStart(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newApp(control.RunDir).root()
	}
}
