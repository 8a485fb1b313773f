package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/count"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

var update = flag.Bool("update", false, "write the expected output anew")

// full is a state in which every family has a value.
func full() Snapshot {
	at := time.Unix(1_700_000_000, 5e8)
	t := vtep.TunnelState{
		Config: vtep.Tunnel{VNI: 200, DstPort: 6081, Device: netio.DeviceOptions{Name: "gnv0", Netns: "blue", Offload: true}},
		Up:     true, MTU: 1450, Offload: packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6,
		Stats: count.Stats{RxPackets: 1, RxBytes: 2, TxPackets: 30, TxBytes: 300, TxFlood: 20, TxFloodBytes: 200, TxGroup: 5, TxGroupBytes: 50},
		Peers: []vtep.PeerState{
			{Peer: vtep.Peer{Name: "leaf2"}, Remote: netip.MustParseAddrPort("192.0.2.2:6081"), Speaks: true, PathMTU: 1500, LastSeen: at, Contact: vtep.Heard, Live: vtep.BFDState{On: true, Up: true, Downs: 2}, Stats: count.Stats{RxPackets: 1, TxPackets: 12}},
			{Remote: netip.MustParseAddrPort("192.0.2.3:6082"), Speaks: true, PathMTU: 1400, Contact: vtep.Rejects},
			{Remote: netip.MustParseAddrPort("239.1.1.1:6081"), Stats: count.Stats{TxPackets: 18}},
			{Remote: netip.MustParseAddrPort("192.0.2.4:6081")},
		},
		FDB: vtep.FDBState{Learned: 3, Static: 5, Permanent: 1, Limit: 4096, Entered: 6, Moved: 7, Aged: 8, Full: 9, Own: 10, Evicted: 22},
	}
	t.Drops.Rx[count.DropLocked], t.Drops.Tx[count.DropTooBig], t.TooBig = 11, 7, 21
	t.Fast = vtep.FastState{Wanted: spec.FastOn, RxPackets: 22, TxPackets: 23, FastState: netio.FastState{Devices: []netio.FastDevice{{Name: "eth0", Bulk: true}}}}
	t.OddECN = 23
	// The first rule stands there twice.
	ovn, err := option.Default().ParseRule("accept ovn.ports")
	if err != nil {
		panic(err) // it is one of the built-in ones
	}
	t.Config.OptionRules = []option.Rule{{Action: option.ActCount}, ovn, {Action: option.ActCount}}
	t.OptionHits, t.Names = []uint64{26, 27, 28}, option.Default()
	t.Config.SendRules, t.SendHits = []option.SendRule{{Proto: 6, OuterDSCP: 10}, {Proto: -1, OuterDSCP: -1, HasOptions: true}}, []uint64{31, 32}
	s := vtep.State{
		Workers: 2, Stuck: []int{1}, Started: at, Tunnels: []vtep.TunnelState{t},
		Sockets:   []vtep.SocketState{{Local: netip.MustParseAddrPort("192.0.2.1:6081"), Received: 12, Overflows: 13, Rcvbuf: 14, GRO: true}},
		Sent:      []packet.Sent{{Family: 4, Local: netip.MustParseAddr("192.0.2.1"), Device: "eth0", Datagrams: 15, GSO: true}},
		FastPunts: []netio.FastPunt{{Reason: "group", Count: 24}, {Reason: "source", In: true, Count: 25}},
		Options:   []count.OptionState{{Class: 0x102, Ignored: 16, Dropped: 17}, {Other: true, Ignored: 18}},
	}
	s.Dropped.Rx[count.DropUnknownVNI], s.Dropped.Rx[count.DropLocked], s.Dropped.Tx[count.DropTooBig] = 19, 11, 20
	s.UDPReceive = packet.BatchCounts{Buckets: [8]uint64{1, 0, 2, 0, 0, 0, 0, 1}, Packets: 110}
	return Snapshot{
		State: s, Reloaded: true, ReloadedAt: at, MaxPeers: 3,
		Logged:     map[string]uint64{"debug": 0, "info": 21, "warn": 1, "error": 0},
		LogDropped: 4,
	}
}

func scrape(t *testing.T, snap Snapshot) string {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(New(Build{"v1.2.3", "abcdef", "go1.26"}, func() Snapshot { return snap })).
		ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestOutput holds every name, label and value to what is promised, and the
// whole to the conventions.
func TestOutput(t *testing.T) {
	text := scrape(t, full())
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	var ours strings.Builder
	for line := range strings.Lines(text) {
		// Each reason to drop has a line; those that moved will do.
		if strings.Contains(line, "gvtep_") && !(strings.HasPrefix(line, "gvtep_dropped") && strings.HasSuffix(line, " 0\n")) {
			ours.WriteString(line)
		}
	}
	if *update {
		if err := os.WriteFile("testdata/output.txt", []byte(ours.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/output.txt")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), ours.String()); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	for _, f := range append([]string{batchDesc.String()}, names()...) {
		name := strings.Split(f, `"`)[1]
		if !bytes.Contains(want, []byte("\n"+name)) {
			t.Errorf("%s has no value: the test does not cover it", name)
		}
	}
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "go_goroutines", "go_gc_duration_seconds"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
}

func names() (list []string) {
	for _, f := range all {
		list = append(list, f.desc.String())
	}
	return list
}

// TestPeerLimit: peers beyond the limit have no series, and are counted; two
// that differ in nothing that is a label are one.
func TestPeerLimit(t *testing.T) {
	snap := full()
	snap.MaxPeers = 1
	twin := snap.State.Tunnels[0].Peers[0]
	twin.PathMTU = 1400
	snap.State.Tunnels[0].Peers = append(snap.State.Tunnels[0].Peers, twin)
	text := scrape(t, snap)
	for _, want := range []string{
		"gvtep_peers_without_series 3\n",
		`gvtep_peer_receive_packets_total{device="gnv0",peer="leaf2",remote="192.0.2.2",vni="200"} 2` + "\n",
		`gvtep_peer_path_mtu_bytes{remote="192.0.2.2"} 1400` + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	if n := strings.Count(text, "\ngvtep_peer_transmit_packets_total{"); n != 1 {
		t.Errorf("%d peers with series, want 1", n)
	}
}

// TestRules: each rule of a tunnel has a series with the words of show, also one that stands there twice.
func TestRules(t *testing.T) {
	text := scrape(t, full())
	for _, want := range []string{
		`gvtep_option_rule_packets_total{device="gnv0",place="1",rule="count any",vni="200"} 26`,
		`gvtep_option_rule_packets_total{device="gnv0",place="2",rule="accept ovn.ports",vni="200"} 27`,
		`gvtep_option_rule_packets_total{device="gnv0",place="3",rule="count any",vni="200"} 28`,
		`gvtep_send_rule_packets_total{device="gnv0",place="1",rule="proto tcp then dscp 10",vni="200"} 31`,
		`gvtep_send_rule_packets_total{device="gnv0",place="2",rule="any then options none",vni="200"} 32`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

// TestRunsRefused: one peer that gets no runs is enough to say so.
func TestRunsRefused(t *testing.T) {
	snap := full()
	for _, want := range []string{`gvtep_offload_enabled{offload="udp_gso"} 1`, `gvtep_offload_enabled{offload="udp_gso"} 0`} {
		if text := scrape(t, snap); !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
		snap.State.Tunnels[0].Peers[1].NoGSO = true
	}
}

// TestNothing: a scrape in the first moment, and names that are no text.
func TestNothing(t *testing.T) {
	scrape(t, Snapshot{})
	snap := full()
	snap.State.Tunnels[0].Config.Device.Netns = "a\xff\"\n"
	if text := scrape(t, snap); !strings.Contains(text, `netns="a`+"\ufffd"+`\"\n"`) {
		t.Error("a name that is no UTF-8 was not replaced")
	}
}

// TestDrops: a device has its own drops and no others, the rest is without one, and the sum of all is what was
// dropped. There is no series of what cannot be.
func TestDrops(t *testing.T) {
	snap := full()
	text := scrape(t, snap)
	sum := 0.0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "gvtep_dropped_packets_total{") {
			continue
		}
		var n float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &n); err != nil {
			t.Fatal(err)
		}
		sum += n
		if strings.Contains(line, `device="gnv0"`) && n == 0 {
			t.Errorf("a device has a series of what did not happen: %s", line)
		}
	}
	if sum != 19+11+20 {
		t.Errorf("all series together have %g packets, want %d", sum, 19+11+20)
	}
	for _, r := range count.Reasons() {
		e := r.Explain()
		for direction, possible := range map[string]bool{"receive": e.In, "transmit": e.Out} {
			if there := strings.Contains(text, fmt.Sprintf("gvtep_dropped_packets_total{device=%q,direction=%q,reason=%q}", "", direction, e.Name)); there != possible {
				t.Errorf("%s, %s: a series is %v, want %v", e.Name, direction, there, possible)
			}
		}
	}
}
