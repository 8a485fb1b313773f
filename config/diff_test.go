package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gvtep/internal/packet"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// describe is a change in lines: + added, - removed, ~ changed, ! takes a restart.
func describe(c Changes) (lines []string) {
	key := func(name string, k KeyChange) {
		mark := "!"
		if k.Live {
			mark = "~"
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s: %s > %s", mark, name, k.Key, k.Old, k.New)))
	}
	for _, k := range c.Process {
		key("-", k)
	}
	for _, name := range c.Removed {
		lines = append(lines, "- "+name)
	}
	for _, t := range c.Added {
		lines = append(lines, "+ "+t.Device.Name)
	}
	for _, t := range c.Changed {
		for _, k := range t.Keys {
			key(t.Tunnel.Device.Name, k)
		}
	}
	return lines
}

func TestDiff(t *testing.T) {
	const one = "[[tunnel]]\nname = \"a\"\nid = 1\nremote = [\"192.0.2.1\", \"192.0.2.2\"]\n"
	const two = "[[tunnel]]\nname = \"b\"\nid = 2\nremote = \"192.0.2.1\"\n"
	for _, tt := range []struct {
		from, to string
		want     []string
	}{
		{one, one, nil},
		{one + two, two + one, nil}, // the order means nothing
		{one, one + two, []string{"+ b"}},
		{one + two, two, []string{"- a"}},
		{one, two, []string{"- a", "+ b"}},
		{one, one + "ttl = 9\ntos = \"inherit\"\n", []string{`~ a ttl: "auto" > 9`, `~ a tos: 0 > "inherit"`}},
		{one + "ttl = 64\n", one + "ttl = \"auto\"\n", nil}, // the same in other words
		{one, "[defaults]\nmtu = 1400\n" + one + two, []string{"+ b", `~ a mtu: "auto" > 1400`}},
		{one, strings.Replace(one, "id = 1", "id = 3", 1), []string{"! a id: 1 > 3"}},
		{one, one + "dstport = 7\npersist = true\nup = false\naddress = \"10.0.0.1/8\"\n",
			[]string{"! a dstport: 6081 > 7", `! a address:  > "10.0.0.1/8"`, "! a persist: false > true", "~ a up: true > false"}},
		{one, "socket.port = 7\n" + one, []string{"! a dstport: 6081 > 7"}},
		{one, "socket.ports = 7\n" + one, []string{"~ a ports: 64 > 7"}},
		{one, one + "srcport = [5000, 5001]\n", []string{"~ a srcport: [49152, 65535] > [5000, 5001]"}},
		{one, "instance = \"x\"\nsocket.workers = 3\nlog.level = \"debug\"\nlog.format = \"json\"\n" + one,
			[]string{`! - instance:  > "x"`, `~ - log.level: "info" > "debug"`, `! - log.format: "auto" > "json"`, `! - socket.workers: "auto" > 3`}},
		{one, strings.Replace(one, "192.0.2.2", "192.0.2.3", 1),
			[]string{"~ a peer 192.0.2.3:  > {flood = true}", "~ a peer 192.0.2.2: {flood = true} > "}},
		{one, strings.Replace(one, "remote", "peer = [{remote = \"192.0.2.2\", flood = false, name = \"x\"}, {remote = \"192.0.2.1\"}]\n#", 1),
			[]string{`~ a peer 192.0.2.2: {flood = true} > {name = "x", flood = false}`}},
		{one, one + "locked = true\naccept = [\"any\"]\n[[tunnel.fdb]]\nlladdr = \"02:00:00:00:00:01\"\ndst = \"192.0.2.1\"\n",
			[]string{`~ a accept:  > "any"`, "~ a locked: false > true", `~ a fdb 02:00:00:00:00:01:  > {dst = "192.0.2.1", state = "permanent"}`}},
		{one + "[[tunnel.fdb]]\nlladdr = \"02:00:00:00:00:01\"\ndst = \"192.0.2.1\"\n", one + "[[tunnel.fdb]]\nlladdr = \"02:00:00:00:00:01\"\ndst = \"192.0.2.1\"\noptions = [\"ovn.ports:00010002\", \"ff01:01:@src\"]\n",
			[]string{`~ a fdb 02:00:00:00:00:01: {dst = "192.0.2.1", state = "permanent"} > {dst = "192.0.2.1", state = "permanent", options = ["ovn.ports:00010002", "ff01:01:@src"]}`}},
		{one, one + "local = \"192.0.2.9\"\ndev = \"eth9\"\n", []string{`! a local:  > "192.0.2.9"`, `! a dev:  > "eth9"`}},
		{one, strings.Replace(one, `["192.0.2.1", "192.0.2.2"]`, `"2001:db8::1"`, 1),
			[]string{"~ a peer 2001:db8::1:  > {flood = true}", "~ a peer 192.0.2.1: {flood = true} > ", "~ a peer 192.0.2.2: {flood = true} > "}},
	} {
		from, err1 := parse("from", tt.from)
		to, err2 := parse("to", tt.to)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		c := Diff(from, to)
		got := describe(c)
		for i := range got {
			got[i] = strings.TrimSpace(got[i])
		}
		for i := range tt.want {
			tt.want[i] = strings.TrimSpace(tt.want[i])
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s\n->\n%s\n(-want +got)\n%s", tt.from, tt.to, d)
		}
		if restart := slices.ContainsFunc(got, func(s string) bool { return s[0] == '!' }); c.Restart() != restart || c.Empty() != (got == nil) {
			t.Errorf("%q: restart %v, empty %v", got, c.Restart(), c.Empty())
		}
	}
}

// TestKeepProcess: what of a process changes without a restart is what its entry says.
func TestKeepProcess(t *testing.T) {
	from, to := defaultConfig(), defaultConfig()
	from.Instance, to.Instance = "a", "b"
	to.Log = Log{Level: "debug", Format: "json"}
	to.Socket = Socket{Workers: 3, CPUs: "1", Rcvbuf: 4096, Port: 7, Ports: 8, BusyPoll: time.Millisecond}
	to.Metrics = Metrics{Listen: "127.0.0.1:1", Page: true, Peers: 5}
	to.Hooks.Up = []string{"/bin/true"}
	want := to
	want.Instance, want.Log.Format, want.Metrics.Listen = from.Instance, from.Log.Format, from.Metrics.Listen
	want.Metrics.Page = false
	want.Socket.Workers, want.Socket.CPUs, want.Socket.Rcvbuf = from.Socket.Workers, from.Socket.CPUs, from.Socket.Rcvbuf
	if d := cmp.Diff(want, KeepProcess(from, to)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for _, k := range Diff(from, to).Process {
		if left := Diff(KeepProcess(from, to), to); k.Live == slices.ContainsFunc(left.Process, func(o KeyChange) bool { return o.Key == k.Key }) {
			t.Errorf("%s, live %v, differs still", k.Key, k.Live)
		}
	}
}

// Of each keyword alone: what a change does at once is what its entry says.
func TestDiffKeywords(t *testing.T) {
	base, err := parse("base", "[[tunnel]]\nname = \"a\"\nid = 1\nremote = \"192.0.2.1\"\n")
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]string{
		"group": "239.1.1.1", "accept": "any", "flood": "off", "mcast_flood": "off", "bcast_flood": "off", "bum_limit": "9", "locked": "on",
		"move_damping": "off", "bfd": "100msx3", "neigh_suppress": "on", "neigh": "192.0.2.9=02:00:00:00:0a:09",
		"encap": "vxlan", "id": "2", "mode": "l3", "local": "192.0.2.9", "dev": "eth9", "dstport": "7", "srcport": "8-9", "ttl": "inherit", "tos": "4", "df": "unset",
		"udpcsum": "off", "udp6zerocsumtx": "on", "udp6zerocsumrx": "on", "fwmark": "1", "learning": "off", "ageing": "1", "maxaddress": "1",
		"l2_control": "pass", "vlan_tags": "drop", "mtu": "1400", "address": "10.0.0.1/8", "lladdr": "02:00:00:00:00:01", "master": "br0",
		"options": "ff01:01:00000001", "match": "drop any", "send": "any then vni 3", "vlan": "10-12:20-22", "isolated": "on", "device_netns": "blue", "txqueuelen": "5", "numqueues": "3", "persist": "on", "up": "off", "offload": "off", "fastpath": "on",
	}
	for _, e := range tunnelKeywords(option.Default()) {
		if e.Kind == Short || e.Name == "remote" {
			continue
		}
		if other[e.Name] == "" {
			t.Errorf("%s: add another value to this test", e.Name)
			continue
		}
		to := base
		to.Tunnels = slices.Clone(base.Tunnels)
		if err := e.give(&to.Tunnels[0], e.Name, other[e.Name]); err != nil {
			t.Fatal(err)
		}
		c := Diff(base, to)
		if len(c.Changed) != 1 || len(c.Changed[0].Keys) != 1 || c.Changed[0].Keys[0].Key != e.Name || c.Changed[0].Keys[0].Live != e.Live || c.Changed[0].Live() != e.Live {
			t.Errorf("%s: %+v", e.Name, c)
			continue
		}
		// The endpoint asks the same table.
		if fixed := spec.Fixed(&base.Tunnels[0], &to.Tunnels[0]); e.Live && fixed != "" || !e.Live && fixed != e.Name {
			t.Errorf("%s (live %t): the endpoint refuses for %q", e.Name, e.Live, fixed)
		}
		want := &base.Tunnels[0]
		if e.Live {
			want = &to.Tunnels[0]
		}
		if got := e.get(&c.Changed[0].Now); !slices.Equal(got, e.get(want)) {
			t.Errorf("%s (live %t): %q now, want %q", e.Name, e.Live, got, e.get(want))
		}
	}
}

// TestTakeBack: what a change did to peers and entries is undone, and what others did since then is
// not. Settings are those from before.
func TestTakeBack(t *testing.T) {
	peer := func(last byte, name string) Peer {
		return Peer{Name: name, Remote: netip.AddrFrom4([4]byte{192, 0, 2, last})}
	}
	entry := func(last byte, port uint16) Entry { return Entry{MAC: packet.MAC{2, 0, 0, 0, 0, last}, Port: port} }
	before := Tunnel{TTL: 64, Peers: []Peer{peer(1, "stays"), peer(2, "old"), peer(3, "went")}, Entries: []Entry{entry(1, 0), entry(2, 1), entry(3, 0)}}
	after := Tunnel{TTL: 7, Peers: []Peer{peer(1, "stays"), peer(2, "new"), peer(4, "came")}, Entries: []Entry{entry(1, 0), entry(2, 2), entry(4, 0)}}
	now := after
	now.Peers = []Peer{peer(1, "renamed since"), peer(2, "new"), peer(4, "came"), peer(9, "since")}
	now.Entries = []Entry{entry(2, 2), entry(4, 0), entry(9, 0)} // the first was removed since
	want := Tunnel{TTL: 64, Peers: []Peer{peer(1, "renamed since"), peer(2, "old"), peer(9, "since"), peer(3, "went")}, Entries: []Entry{entry(2, 1), entry(9, 0), entry(3, 0)}}
	if d := cmp.Diff(want, TakeBack(now, before, after), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if got := TakeBack(before, before, before); !sameArray(got.Entries, before.Entries) {
		t.Error("a list that nothing has touched is copied")
	}
}
