package config

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// importMix imports devices that are given as "ip -d -j link" has them.
func importMix(t *testing.T, links ...map[string]any) (text string, cfg Config) {
	t.Helper()
	raw, err := json.Marshal(links)
	if err != nil {
		t.Fatal(err)
	}
	text, err = Import(strings.NewReader(string(raw)))
	if err != nil {
		if !strings.HasPrefix(err.Error(), "none of the devices") {
			t.Fatalf("%v\n%s", err, raw)
		}
		return text, cfg
	}
	if cfg, err = parse("imported.toml", text); err != nil {
		t.Fatalf("check refuses what import has written: %v\n%s\nmade of %s", err, text, raw)
	}
	return text, cfg
}

// vxlan is a kernel device with a few settings.
func vxlan(name string, id int, data map[string]any) map[string]any {
	all := map[string]any{"id": id, "port": 4789, "ttl": 64, "learning": true, "udp_csum": true, "limit": 100}
	for key, value := range data {
		all[key] = value
	}
	return map[string]any{"ifname": name, "flags": []string{"UP"}, "linkinfo": map[string]any{"info_kind": "vxlan", "info_data": all}}
}

// Devices of one port share a socket of the kernel's, whatever their local, dev
// and checksum settings. Ours are bound to all three, so what differs is made the
// same where that is possible, and said.
func TestImportMixture(t *testing.T) {
	for name, tt := range map[string]struct {
		links []map[string]any
		want  []string // parts of the text
		out   []string // devices left out
	}{
		"one local of three": {
			[]map[string]any{
				vxlan("v1", 1, map[string]any{"remote": "192.0.2.2", "local": "192.0.2.1"}),
				vxlan("v2", 2, map[string]any{"remote": "192.0.2.3"}),
				vxlan("v3", 3, map[string]any{"remote": "192.0.2.4"}),
			},
			[]string{"# v2: local = 192.0.2.1 added", "# v3: local = 192.0.2.1 added", "name = \"v3\"\nid = 3\nencap = \"vxlan\"\nlocal = \"192.0.2.1\""},
			nil,
		},
		"the local comes last": {
			[]map[string]any{
				vxlan("v1", 1, map[string]any{"remote": "192.0.2.2"}),
				vxlan("v2", 2, map[string]any{"remote": "192.0.2.3", "local": "192.0.2.1"}),
			},
			[]string{"# v1: local = 192.0.2.1 added"},
			nil,
		},
		"flannel beside a device with a remote": {
			[]map[string]any{
				vxlan("flannel.1", 1, map[string]any{"local": "192.0.2.1", "link": "eth0", "port": 8472, "remote": "192.0.2.9"}),
				vxlan("vx1", 7, map[string]any{"remote": "192.0.2.3", "port": 8472}),
			},
			[]string{"# vx1: local = 192.0.2.1 added", "# flannel.1: dev = eth0 left away"},
			nil,
		},
		"a group needs its device": {
			[]map[string]any{
				vxlan("v1", 1, map[string]any{"group": "239.1.1.1", "link": "eth0"}),
				vxlan("v2", 2, map[string]any{"remote": "192.0.2.3"}),
			},
			[]string{"# v2: left out: local 0.0.0.0 port 4789 cannot be bound beside local 0.0.0.0 of tunnel v1: give both the same local, dev"},
			[]string{"v2"},
		},
		"two locals and one without": {
			[]map[string]any{
				vxlan("v0", 1, map[string]any{"remote": "192.0.2.3"}),
				vxlan("v1", 1, map[string]any{"remote": "192.0.2.3", "local": "192.0.2.1"}),
				vxlan("v2", 1, map[string]any{"remote": "192.0.2.3", "local": "192.0.2.2"}),
			},
			[]string{"# v0: left out: local 0.0.0.0 port 4789 cannot be bound beside local 192.0.2.1 of tunnel v1: give both the same local"},
			[]string{"v0"},
		},
		"two locals on devices of their own": {
			[]map[string]any{
				vxlan("v1", 1, map[string]any{"remote": "192.0.2.3", "local": "192.0.2.1", "link": "eth0"}),
				vxlan("v2", 1, map[string]any{"remote": "192.0.2.3", "local": "192.0.2.2"}),
			},
			[]string{"dev = \"eth0\""},
			nil,
		},
		"checksums over IPv6": {
			[]map[string]any{
				vxlan("v1", 1, map[string]any{"remote6": "2001:db8::2", "udp_zero_csum6_rx": true}),
				vxlan("v2", 2, map[string]any{"remote6": "2001:db8::2"}),
			},
			[]string{"# v2: udp6zerocsumrx = true added"},
			nil,
		},
		"what is refused keeps nothing": {
			[]map[string]any{
				vxlan("v1", 1, map[string]any{"remote": "192.0.2.2"}),
				vxlan("v2", 1, map[string]any{"remote": "192.0.2.2"}), // id and remote of v1
				vxlan("v2", 2, map[string]any{"remote": "192.0.2.2"}),
			},
			[]string{"# v2: left out: remote 192.0.2.2: tunnel v1 has id 1 with it on the same socket; one of id, remote, local and dstport must differ", "name = \"v2\"\nid = 2"},
			[]string{"v2"},
		},
		"a value that is none changes nothing": {
			[]map[string]any{vxlan("v1", 1, map[string]any{"remote": "192.0.2.2", "ageing": -5, "tos": "0x3", "local": "fe80::1%9"})},
			[]string{"# v1: not carried over: ageing -5", "# v1: not carried over: tos 0x3", "# v1: not carried over: local fe80::1%9"},
			nil,
		},
		"an option that this program has not heard of": {
			[]map[string]any{vxlan("v1", 1, map[string]any{"remote": "192.0.2.2", "shiny": true, "glossy": 7, "dull": false})},
			[]string{"# v1: not carried over: glossy 7", "# v1: not carried over: shiny"},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, cfg := importMix(t, tt.links...)
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("does not say %s", want)
				}
			}
			var out []string
			for _, m := range leftOut.FindAllStringSubmatch(text, -1) {
				out = append(out, m[1])
			}
			if !slices.Equal(out, tt.out) || len(cfg.Tunnels)+len(out) != len(tt.links) {
				t.Errorf("left out %v of %d, %d are there; want %v left out", out, len(tt.links), len(cfg.Tunnels), tt.out)
			}
			if strings.Contains(text, "dull") || slices.ContainsFunc(cfg.Tunnels, func(t Tunnel) bool { return t.Ageing != DefaultAgeing || t.TOS != 0 }) {
				t.Errorf("ageing, tos or dull are not as before")
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

var leftOut = regexp.MustCompile(`(?m)^# (\S+): left out: (.*)$`)

// wayOut is in every reason why a device is left out.
var wayOut = regexp.MustCompile(`\b(give|add|make|write|name the|must differ|is the address of the other host|without local, remotes may be of both|goes to remotes|want a|is for|cannot join|has no)\b`)

// Of sets of devices, at random but always the same: what is written passes
// check, every device is written or has its reason, and every setting is there or
// said.
func TestImportRandom(t *testing.T) {
	const sets = 1000
	devices, written := 0, 0
	for seed := range uint64(sets) {
		r := rand.New(rand.NewPCG(seed, 10))
		links := make([]map[string]any, 1+r.IntN(6))
		for i := range links {
			links[i] = randomLink(r, i)
		}
		entries := randomEntries(r, links)
		text, cfg := importMix(t, slices.Concat(links, entries)...)
		devices, written = devices+len(links), written+len(cfg.Tunnels)
		there := map[string]*Tunnel{}
		for i := range cfg.Tunnels {
			there[cfg.Tunnels[i].Device.Name] = &cfg.Tunnels[i]
		}
		reasons := map[string]string{}
		for _, m := range leftOut.FindAllStringSubmatch(text, -1) {
			reasons[m[1]] = m[2]
		}
		for _, link := range links {
			name := link["ifname"].(string)
			switch reason, out := reasons[name]; {
			case out == (there[name] != nil):
				t.Errorf("%s: written %v, left out %v", name, there[name] != nil, out)
			case out && !wayOut.MatchString(reason):
				t.Errorf("%s: left out without a way out: %s", name, reason)
			case !out:
				for _, what := range unsaid(link, there[name], text) {
					t.Errorf("%s: %s", name, what)
				}
			}
		}
		for _, e := range entries {
			if tunnel := there[e["ifname"].(string)]; tunnel != nil && !carried(e, tunnel, text) {
				t.Errorf("entry %v is not there and not said", e)
			}
		}
		if t.Failed() {
			raw, _ := json.Marshal(slices.Concat(links, entries))
			t.Fatalf("seed %d: %s\n%s", seed, raw, text)
		}
	}
	t.Logf("%d of %d devices written", written, devices)
	if written*2 < devices {
		t.Errorf("only %d of %d devices written", written, devices)
	}
}

// randomLink is a device of the kernel's with a little of everything. The
// choice is small, so that devices meet.
func randomLink(r *rand.Rand, i int) map[string]any {
	pick := func(values ...any) any { return values[r.IntN(len(values))] }
	sometimes := func(data map[string]any, key string, values ...any) {
		if r.IntN(3) == 0 {
			data[key] = pick(values...)
		}
	}
	kind := pick("vxlan", "vxlan", "geneve").(string)
	data := map[string]any{"id": 1 + r.IntN(4), "port": pick(4789, 4789, 8472, 6081, 7000), "df": pick("unset", "set", "inherit"), "udp_csum": pick(true, false)}
	six := r.IntN(3) == 0
	suffix, remotes, local := "", []any{"192.0.2.2", "192.0.2.3", "192.0.2.4"}, []any{"192.0.2.1", "192.0.2.1", "198.51.100.1"}
	if six {
		suffix, remotes, local = "6", []any{"2001:db8::2", "2001:db8::3", "fe80::2"}, []any{"2001:db8::1", "2001:db8::1", "fe80::1"}
	}
	switch r.IntN(8) {
	case 0: // no remote at all
	case 1:
		data["group"+suffix] = "239.1.1.1"
		if six {
			data["group6"] = "ff05::1"
		}
	default:
		data["remote"+suffix] = pick(remotes...)
	}
	sometimes(data, "local"+suffix, local...)
	sometimes(data, "link", "eth0", "eth0", "eth1")
	sometimes(data, "ttl", 0, 1, 64)
	sometimes(data, "tos", "0x0", "0x1", "0xb8", "0x3")
	sometimes(data, "label", "0x0", "0x7")
	sometimes(data, "ageing", 0, 77, 300)
	sometimes(data, "limit", 5)
	sometimes(data, "learning", true, false)
	sometimes(data, "udp_zero_csum6_tx", true, false)
	sometimes(data, "udp_zero_csum6_rx", true, false)
	sometimes(data, "port_range", map[string]any{"low": 0, "high": 0}, map[string]any{"low": 1000, "high": 2000})
	sometimes(data, "localbind", true, false)
	sometimes(data, "proxy", true, false)
	if r.IntN(12) == 0 {
		data["external"] = true
	}
	if kind == "geneve" && r.IntN(6) == 0 {
		data["inner_proto_inherit"] = true
	}
	link := map[string]any{
		"ifname": fmt.Sprintf("%s%d", kind[:1], i), "flags": pick([]string{"UP"}, []string{}), "mtu": pick(1450, 1500, 9000), "txqlen": pick(1000, 500),
		"address": fmt.Sprintf("02:00:00:00:00:%02x", i), "linkinfo": map[string]any{"info_kind": kind, "info_data": data},
	}
	if r.IntN(4) == 0 {
		link["master"] = "br0"
	}
	return link
}

// randomEntries are entries of forwarding tables, as "bridge -j fdb" has them.
func randomEntries(r *rand.Rand, links []map[string]any) (all []map[string]any) {
	for range r.IntN(4 * len(links)) {
		link := links[r.IntN(len(links))]
		if link["linkinfo"].(map[string]any)["info_kind"] == "geneve" {
			continue // it has no table
		}
		e := map[string]any{
			"mac": []string{"00:00:00:00:00:00", "02:00:00:00:00:11", "02:00:00:00:00:12", "01:00:5e:00:00:03"}[r.IntN(4)],
			"dst": fmt.Sprintf("192.0.2.%d", 2+r.IntN(4)), "ifname": link["ifname"],
			"state": []string{"permanent", "static"}[r.IntN(2)], "flags": []string{"self"},
		}
		raw, _ := json.Marshal(link)
		if strings.Contains(string(raw), ":db8::") || strings.Contains(string(raw), "fe80::") || strings.Contains(string(raw), "ff05::") {
			e["dst"] = fmt.Sprintf("2001:db8::%d", 2+r.IntN(4)) // the kernel refuses the other family
		}
		switch r.IntN(6) {
		case 0:
			e["port"] = 4000
		case 1:
			e["vni"] = 99
		case 2:
			e["viaIf"] = []string{"eth0", "a name that is too long"}[r.IntN(2)]
		}
		all = append(all, e)
	}
	return all
}

// carried reports whether an entry is in a tunnel as it was, or said.
func carried(e map[string]any, t *Tunnel, text string) bool {
	mac, dst := e["mac"].(string), netip.MustParseAddr(e["dst"].(string))
	if strings.Contains(text, fmt.Sprintf("# %s: not carried over: fdb %s ", t.Device.Name, mac)) || strings.Contains(text, fmt.Sprintf("flood list entry dst %s", dst)) {
		return true
	}
	if mac == zeroAddress {
		return slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Remote == dst && !p.NoFlood })
	}
	return slices.ContainsFunc(t.Entries, func(o Entry) bool {
		via, _ := e["viaIf"].(string)
		_, other := e["vni"]
		return o.MAC.String() == mac && o.Remote == dst && o.State.String() == e["state"] && (o.Port != 0) == (e["port"] != nil) && o.HasVNI == other && o.Via == via
	})
}

// unsaid compares a device with the tunnel made of it and what was said of it.
func unsaid(link map[string]any, t *Tunnel, text string) (all []string) {
	data := link["linkinfo"].(map[string]any)["info_data"].(map[string]any)
	said := func(words ...string) bool {
		for line := range strings.Lines(text) {
			if note, ok := strings.CutPrefix(line, "# "+t.Device.Name+": "); ok && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(note, w) }) {
				return true
			}
		}
		return false
	}
	expect := func(same bool, key string, words ...string) {
		if !same && !said(words...) {
			all = append(all, fmt.Sprintf("%s %v is not there and not said", key, data[key]))
		}
	}
	text4 := func(key string) string {
		for _, k := range []string{key, key + "6"} {
			if v, ok := data[k]; ok {
				return v.(string)
			}
		}
		return ""
	}
	given := func(key string) bool { _, ok := data[key]; return ok }
	expect(int(t.VNI) == data["id"] && !t.NoVNI, "id", "id")
	expect(int(t.DstPort) == data["port"], "port", "dstport")
	expect(t.Encap.String() == link["linkinfo"].(map[string]any)["info_kind"], "info_kind", "encap")
	expect(map[DF]string{DFSet: "set", DFUnset: "unset", DFInherit: "inherit"}[t.DF] == data["df"], "df", "df")
	remote := text4("remote")
	expect(remote == "" || len(t.Peers) > 0 && t.Peers[0].Remote.String() == remote, "remote", "remote")
	group := text4("group")
	expect(group == "" || t.Group.String() == group, "group", "group")
	local := netip.Addr{}
	if !t.Local.IsUnspecified() {
		local = t.Local
	}
	want, _ := netip.ParseAddr(text4("local"))
	expect(local == want, "local", "local")
	dev, _ := data["link"].(string)
	expect(t.Dev == dev, "link", "dev")
	six := t.Local.Is6()
	if on, ok := data["udp_zero_csum6_rx"].(bool); six {
		expect(t.AcceptZ6 == (ok && on), "udp_zero_csum6_rx", "udp6zerocsumrx")
	}
	if on, ok := data["udp_zero_csum6_tx"].(bool); ok && six {
		expect(t.ZeroCsum6 == on, "udp_zero_csum6_tx", "udp6zerocsumtx")
	}
	if !six {
		expect(t.UDPCsum == data["udp_csum"], "udp_csum", "udpcsum")
	}
	if on, ok := data["learning"].(bool); ok && !t.Device.L3 {
		expect(t.Learning == on, "learning", "learning")
	}
	if n, ok := data["ageing"].(int); ok && !t.Device.L3 {
		expect(int(t.Ageing.Seconds()) == n, "ageing", "ageing")
	}
	if n, ok := data["limit"].(int); ok && !t.Device.L3 {
		expect(t.MaxAddress == n, "limit", "maxaddress")
	}
	if n, ok := data["ttl"].(int); ok && n > 0 {
		expect(t.TTL == n, "ttl", "ttl")
	}
	if v, ok := data["tos"].(string); ok {
		expect(map[string]int{"0x0": 0, "0x1": Inherit, "0xb8": 0xb8, "0x3": -2}[v] == t.TOS, "tos", "tos")
	}
	expect(!given("label") || data["label"] == "0x0", "label", "flowlabel")
	for _, key := range []string{"proxy", "localbind"} {
		expect(data[key] != true, key, key)
	}
	if r, ok := data["port_range"].(map[string]any); ok && r["low"] != 0 {
		expect(int(t.SrcPortMin) == r["low"] && int(t.SrcPortMax) == r["high"], "port_range", "srcport")
	}
	expect(t.Device.L3 == (data["inner_proto_inherit"] == true), "inner_proto_inherit", "mode")
	if master, ok := link["master"].(string); ok {
		expect(t.Device.Master == master, "master", "master")
	}
	if len(link["flags"].([]string)) == 0 && !t.Device.Down {
		all = append(all, "it was down")
	}
	return all
}
