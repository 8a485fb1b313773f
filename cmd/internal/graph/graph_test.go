package graph

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gvtep/cmd/internal/control"
)

var update = flag.Bool("update", false, "write the expected output anew")

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// host is one with a tunnel gnv0, id 42, bound to an address.
func host(name, local string, peers ...Peer) Host {
	a := netip.MustParseAddr(local)
	return Host{Host: name, Instance: "fabric", Started: at, Taken: at, Ready: true, Addresses: []netip.Addr{a},
		Tunnels: []Tunnel{{Ifname: "gnv0", Kind: "geneve", IDs: [][2]int64{{42, 42}}, Local: a, Port: 6081, MTU: 1450, Ready: true, Peers: peers}}}
}

func peer(remote, state string) Peer {
	return Peer{Remote: netip.MustParseAddrPort(remote), State: state}
}

const one, two, three = "192.0.2.1", "192.0.2.2", "192.0.2.3"

// TestEdges: what the two ends say of each other, and what that makes of both directions.
func TestEdges(t *testing.T) {
	refused := peer(one+":6081", "refused")
	refused.Note = "other_mode, id 42"
	firewall := peer(two+":6081", "silent")
	firewall.Note = "EPERM"
	heardOnce := peer(two+":6081", "no route")
	ago := 3.0
	heardOnce.SeenAgo = &ago
	anyLocal := func(h Host) Host { h.Tunnels[0].Local = netip.Addr{}; return h }
	otherID := func(h Host) Host { h.Tunnels[0].IDs = [][2]int64{{43, 43}}; return h }
	drops := func(h Host, reason string, id uint32) Host {
		h.Refused = []Refused{{reason, netip.MustParseAddr(one), id, 5}}
		return h
	}
	otherPort := func(h Host) Host { h.Tunnels[0].Port = 7081; return h }
	trunk := func(h Host) Host { h.Tunnels[0].IDs = [][2]int64{{1, 1}, {40, 50}}; return h }
	for name, c := range map[string]struct {
		hosts []Host
		want  []string
	}{
		"both heard": {[]Host{host("a", one, peer(two+":6081", "heard")), host("b", two, peer(one+":6081", "heard"))},
			[]string{"a gnv0 -> b gnv0: heard | heard"}},
		"one way, the receiver hears nothing": {[]Host{host("a", one, peer(two+":6081", "heard")), host("b", two, peer(one+":6081", "silent"))},
			[]string{"a gnv0 -> b gnv0: silent | heard ONE WAY"}},
		"the sender's firewall is the reason": {[]Host{host("a", one, firewall), host("b", two, peer(one+":6081", "silent"))},
			[]string{"a gnv0 -> b gnv0: silent (EPERM) | silent"}},
		"refused with its reason": {[]Host{host("a", one, peer(two+":6081", "heard")), host("b", two, refused)},
			[]string{"a gnv0 -> b gnv0: refused (other_mode, id 42) | heard ONE WAY"}},
		"no route one way, heard the other": {[]Host{host("a", one, heardOnce), host("b", two, peer(one+":6081", "silent"))},
			[]string{"a gnv0 -> b gnv0: no route | heard ONE WAY"}},
		"one does not have the other as a peer": {[]Host{host("a", one, peer(two+":6081", "silent")), host("b", two)},
			[]string{"a gnv0 -> b gnv0: no peer (b/fabric does not have it as a peer) | no peer (b/fabric does not send there)"}},
		"and drops what comes": {[]Host{host("a", one, peer(two+":6081", "silent")), drops(host("b", two), "unknown_peer", 42)},
			[]string{"a gnv0 -> b gnv0: refused (unknown_peer, id 42) | no peer (b/fabric does not send there)"}},
		"wrong VNI: no such tunnel there, and both drop": {
			[]Host{host("a", one, peer(two+":6081", "silent")), otherID(drops(host("b", two, peer(one+":6081", "silent")), "unknown_vni", 42))},
			[]string{"a gnv0 -> 192.0.2.2:6081 (b/fabric has no such tunnel there): refused (unknown_vni, id 42) | silent",
				"b gnv0 -> 192.0.2.1:6081 (a/fabric has no such tunnel there): unknown | silent"}},
		"ports differ": {[]Host{host("a", one, peer(two+":6081", "heard")), otherPort(host("b", two, peer(one+":6081", "silent")))},
			[]string{"a gnv0 -> 192.0.2.2:6081 (b/fabric has no such tunnel there): unknown | heard", "b gnv0 -> a gnv0: heard | silent ONE WAY"}},
		"local any is found by the host's addresses": {
			[]Host{anyLocal(host("a", one, peer(two+":6081", "heard"))), anyLocal(host("b", two, peer(one+":6081", "heard")))},
			[]string{"a gnv0 -> b gnv0: heard | heard"}},
		"a trunk's range": {[]Host{trunk(host("a", one, peer(two+":6081", "heard"))), host("b", two, peer(one+":6081", "heard"))},
			[]string{"a gnv0 -> b gnv0: heard | heard"}},
		"a host that was not asked": {[]Host{host("a", one, peer(three+":6081", "heard"), peer(two+":6081", "no route"))},
			[]string{"a gnv0 -> 192.0.2.3:6081: unknown | heard", "a gnv0 -> 192.0.2.2:6081: no route | silent"}},
		"a group": {[]Host{host("a", one, peer("239.1.1.1:6081", ""))}, []string{"a gnv0 -> 239.1.1.1:6081 (group): unknown | "}},
		"an address of two hosts is nobody's": {
			[]Host{host("a", one, peer(two+":6081", "heard")), host("b", two), host("c", two)},
			[]string{"a gnv0 -> 192.0.2.2:6081 (several hosts have this address): unknown | heard"}},
		"the address of a bridge that another host has, too": {
			[]Host{host("a", one, peer(two+":6081", "heard")), host("b", two, peer(one+":6081", "heard")), func() Host {
				h := anyLocal(host("c", three))
				h.Addresses = append(h.Addresses, netip.MustParseAddr(two))
				return h
			}()},
			[]string{"a gnv0 -> b gnv0: heard | heard"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, e := range New(c.hosts).Edges {
				got = append(got, e.text())
			}
			if d := cmp.Diff(strings.Join(c.want, "\n"), strings.Join(got, "\n")); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func (e Edge) text() string {
	note := func(s string) string {
		if s == "" {
			return ""
		}
		return " (" + s + ")"
	}
	b := e.B.Host + " " + e.B.Ifname
	if e.B.Address != "" {
		b = e.B.Address + note(e.B.Note)
	}
	text := e.A.Host + " " + e.A.Ifname + " -> " + b + ": " + e.AToB.State + note(e.AToB.Note) + " | " + e.BToA.State + note(e.BToA.Note)
	if e.OneWay {
		text += " ONE WAY"
	}
	return text
}

// TestRead: an answer of a daemon becomes what is saved, and that survives being saved.
func TestRead(t *testing.T) {
	id, ago := uint32(42), 0.5
	h := Read("a", at, []netip.Addr{netip.MustParseAddr(one)}, control.Status{Instance: "fabric", Started: at, Ready: true,
		Refused: []control.Refused{{Reason: "unknown_vni", Source: netip.MustParseAddr(two), ID: 7, Packets: 3, Head: "00"}}},
		[]control.Tunnel{{Ifname: "gnv0", MTU: 1450, LinkInfo: control.LinkInfo{Kind: "geneve", Data: control.InfoData{ID: &id, Port: 6081, Local: one}},
			Gvtep: control.TunnelDetail{Ready: true, VLANs: []control.VLAN{{First: 1, Last: 3, ID: 101, LastID: 103}, {First: 9, ID: 9}}, Peers: []control.Peer{
				{Remote: netip.MustParseAddr(two), Port: 6081, State: "heard", SeenAgo: &ago},
				{Remote: netip.MustParseAddr(three), Port: 6081, State: "refused", SendError: &control.SendError{Errno: "EPERM"},
					Refused: []control.PeerRefused{{Reason: "ecn", ID: 42, LastAgo: 9}, {Reason: "other_mode", ID: 42, LastAgo: 1}}},
				{Remote: netip.MustParseAddr(three), Port: 6082, State: "silent", SendError: &control.SendError{Errno: "EPERM", LastAgo: 61},
					ICMP: &control.ICMP{What: "port unreachable", From: netip.MustParseAddr(three), LastAgo: 2}},
			}}}})
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"host":"a","instance":"fabric","started":"2026-01-02T03:04:05Z","taken":"2026-01-02T03:04:05Z","ready":true,"addresses":["192.0.2.1"],` +
		`"tunnels":[{"ifname":"gnv0","kind":"geneve","ids":[[42,42],[101,103],[9,9]],"local":"192.0.2.1","port":6081,"mtu":1450,"ready":true,"peers":[` +
		`{"remote":"192.0.2.2:6081","state":"heard","last_seen_seconds":0.5},{"remote":"192.0.2.3:6081","state":"refused","note":"other_mode, id 42"},` +
		`{"remote":"192.0.2.3:6082","state":"silent","note":"port unreachable from 192.0.2.3"}]}],"refused":[{"reason":"unknown_vni","source":"192.0.2.2","id":7,"packets":3}]}`
	if d := cmp.Diff(want, string(text)); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	var again Host
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	if second, _ := json.Marshal(again); string(second) != string(text) {
		t.Errorf("read again it is %s", second)
	}
}

func TestMerge(t *testing.T) {
	early, late := host("a", one, peer(two+":6081", "silent")), host("a", one, peer(two+":6081", "heard"))
	late.Taken = at.Add(time.Minute)
	for _, hosts := range [][]Host{{early, late}, {late, early}} {
		got, err := Merge(hosts)
		if err != nil || len(got) != 1 || got[0].Tunnels[0].Peers[0].State != "heard" {
			t.Errorf("of one daemon that was asked twice: %+v, %v; want the last answer", got, err)
		}
	}
	restarted := early
	restarted.Started = at.Add(time.Hour)
	if _, err := Merge([]Host{early, restarted}); err == nil || !strings.HasPrefix(err.Error(), "two daemons are called a/fabric: one was started at 2026-01-02T03:04:05Z") {
		t.Errorf("two daemons with one name: %v", err)
	}
}

// TestDraw: the whole text of a picture, with names that try to be more than text.
func TestDraw(t *testing.T) {
	refused := peer(one+":6081", "refused")
	refused.Note = "other_mode, id 42"
	evil := host("c\"]\n<b>\\", three, peer(one+":6081", "heard"), peer("203.0.113.9:6081", "silent"))
	evil.Tunnels[0].Ready = false
	hosts := []Host{host("a", one, peer(two+":6081", "heard"), peer(three+":6081", "heard")), host("b", two, refused), evil}
	for _, format := range Formats {
		var b strings.Builder
		if err := New(hosts).Draw(&b, format); err != nil {
			t.Fatal(err)
		}
		golden := "testdata/" + format
		if *update {
			if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), b.String()); d != "" {
			t.Errorf("%s: -want +got\n%s", format, d)
		}
		if strings.Contains(b.String(), "<b>") && format == "mermaid" || strings.Contains(b.String(), "c\"") {
			t.Errorf("%s: a name is markup", format)
		}
	}
}
