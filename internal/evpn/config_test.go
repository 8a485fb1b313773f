package evpn

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const least = "[bgp]\nasn = 65000\nrouter-id = \"192.0.2.1\"\nneighbor = [\"192.0.2.254\"]\n[evpn]\ninstance = \"fabric\"\n"

func TestParse(t *testing.T) {
	c, err := Parse([]byte(least), "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Hold != 9*time.Second || c.Restart != 2*time.Minute || c.Stale != time.Hour || c.Grace != 10*time.Second || c.Moves != 5 ||
		c.Window != 3*time.Minute || !c.Targets.Auto || c.Neighbors[0].AS != 65000 || c.Neighbors[0].Port != 179 || c.MaxRoutes != 1_000_000 || c.BareMAC {
		t.Errorf("what is not said: %+v", c)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = Parse([]byte(strings.NewReplacer("[evpn]", `neighbor-asn = 65001
hold = "3s"
grace = "0s"
password-file = "key"
ttl-security = true
max-routes = 7
port = 1179
[evpn]
rt = ["65000:1", "65000:2"]
announce = ["mac"]
duplicate = "3 in 1m"
prefixes = ["10.1.0.0/16", "fd00::/64"]
tunnels = ["gnv0"]`).Replace(least)), dir)
	if err != nil || c.Password != "secret" || c.Neighbors[0].AS != 65001 || c.Neighbors[0].Port != 1179 || c.Grace != 0 || !c.TTLSecurity || c.MaxRoutes != 7 ||
		len(c.Targets.List) != 2 || !c.BareMAC || c.Moves != 3 || c.Window != time.Minute || len(c.Prefixes) != 2 || c.Tunnels[0] != "gnv0" {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestParseErrors: one line each, with the key.
func TestParseErrors(t *testing.T) {
	for _, x := range []struct{ old, new, want string }{
		{"asn = 65000", "", "bgp.asn: missing"},
		{"asn = 65000", "asn = -1", "line 2"},
		{"asn = 65000", "asn = 65000\nholdtime = 3", "line 3: there is no key bgp.holdtime"},
		{"[evpn]", "[evpn", "line 5"},
		{`"192.0.2.1"`, `"fd00::1"`, `bgp.router-id "fd00::1"`},
		{`["192.0.2.254"]`, `[]`, "bgp.neighbor: missing"},
		{`["192.0.2.254"]`, `["rr1"]`, `bgp.neighbor "rr1": want an IP address`},
		{`["192.0.2.254"]`, `["192.0.2.254", "192.0.2.254"]`, "given twice"},
		{"[evpn]", "hold = \"2s\"\n[evpn]", `bgp.hold "2s": want whole seconds from 3s`},
		{"[evpn]", "restart = \"90\"\n[evpn]", `bgp.restart "90"`},
		{"[evpn]", "grace = \"1.5s\"\n[evpn]", `bgp.grace "1.5s"`},
		{"[evpn]", "password-file = \"nowhere\"\n[evpn]", "bgp.password-file: open"},
		{`"fabric"`, `""`, "evpn.instance"},
		{`"fabric"`, "\"fabric\"\nrt = \"all\"", "evpn.rt all: want"},
		{`"fabric"`, "\"fabric\"\nrt = [\"1\"]", `evpn.rt: route target "1"`},
		{`"fabric"`, "\"fabric\"\nrt = []", "evpn.rt []"},
		{`"fabric"`, "\"fabric\"\nannounce = [\"arp\"]", `evpn.announce "arp"`},
		{`"fabric"`, "\"fabric\"\nannounce = [\"ip\"]", `"ip" goes with "mac"`},
		{`"fabric"`, "\"fabric\"\nduplicate = \"5\"", `evpn.duplicate "5"`},
		{`"fabric"`, "\"fabric\"\nprefixes = [\"10.1.0.1/16\"]", "without bits behind it"},
	} {
		text := strings.Replace(least, x.old, x.new, 1)
		if _, err := Parse([]byte(text), t.TempDir()); err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", x.new, err, x.want)
		}
	}
	if _, err := Load("nowhere.toml"); err == nil {
		t.Error("no error for a file that is not there")
	}
}

// The example of the page for people is right.
func TestDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/evpn.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```toml gvtep-evpn\n")
	text, _, ok := strings.Cut(text, "```")
	if !ok {
		t.Fatal("no ```toml gvtep-evpn in docs/evpn.md")
	}
	if _, err := Parse([]byte(text), t.TempDir()); err != nil {
		t.Error(err)
	}
}

// TestSettings: the table has the keys of the file, and what it says of them is so.
func TestSettings(t *testing.T) {
	var want []string
	sections := reflect.TypeFor[file]()
	for i := range sections.NumField() {
		s := sections.Field(i)
		for j := range s.Type.NumField() {
			want = append(want, s.Tag.Get("toml")+"."+s.Type.Field(j).Tag.Get("toml"))
		}
	}
	var have []string
	text := ""
	section := ""
	for _, k := range Settings() {
		have = append(have, k.Name)
		of, name, _ := strings.Cut(k.Name, ".")
		if of != section {
			text += "[" + of + "]\n"
			section = of
		}
		switch k.Value {
		case "bgp.asn", "none", "all": // is no value
		default:
			text += name + " = " + k.Value + "\n"
		}
	}
	slices.Sort(want)
	if got := slices.Sorted(slices.Values(have)); !slices.Equal(got, want) {
		t.Errorf("the table has %q, the file %q", got, want)
	}
	all, err := Parse([]byte(text), "")
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	bare, err := Parse([]byte(least), "")
	if err != nil {
		t.Fatal(err)
	}
	all.Announce, all.Prefixes = nil, nil // empty and missing are not the same, but mean the same
	if !reflect.DeepEqual(all, bare) {
		t.Errorf("with the defaults of the table written out: %+v, without %+v", all, bare)
	}
}

// TestSettingsInDocs: docs/evpn.md has the table.
func TestSettingsInDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/evpn.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| key | default | |\n| --- | --- | --- |\n"
	for _, k := range Settings() {
		value := "`" + k.Value + "`"
		if k.Must {
			value = "must be there"
		}
		want += "| `" + k.Name + "` | " + value + " | " + k.Meaning + " |\n"
	}
	if !strings.Contains(string(page), want) {
		t.Errorf("docs/evpn.md does not have this table:\n%s", want)
	}
}
