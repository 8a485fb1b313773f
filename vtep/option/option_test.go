package option

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/geneve"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBuiltin: the built-in kinds are a valid registry, and each is found by both its names.
func TestBuiltin(t *testing.T) {
	r, err := NewRegistry(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Builtin() {
		for _, text := range []string{k.Name, k.ID.String(), "0x" + k.ID.String()} {
			if id, err := r.ID(text); err != nil || id != k.ID {
				t.Errorf("%q is %v, error %v; want %v", text, id, err, k.ID)
			}
		}
		if got, ok := r.Find(k.ID); !ok || got != k || r.ClassName(k.Class) == "" {
			t.Errorf("%v: found %v, class %q", k, got, r.ClassName(k.Class))
		}
	}
	if len(r.Kinds()) != len(Builtin()) {
		t.Errorf("%d kinds, want %d", len(r.Kinds()), len(Builtin()))
	}
}

func TestRegistry(t *testing.T) {
	id := ID{0xff01, 1}
	for _, c := range []struct {
		kinds []Kind
		wrong string
	}{
		{[]Kind{{ID: id, Name: "my.pod", Len: 4, Format: Uint}}, ""},
		{[]Kind{{ID: ID{0x0102, 0x80}, Name: "ports", Len: 4, Format: Hex}}, ""}, // in the place of the built-in one
		{[]Kind{{ID: id, Name: "my pod", Len: 4, Format: Uint}}, "want letters"},
		{[]Kind{{ID: id, Name: "", Len: 4, Format: Uint}}, "want letters"},
		{[]Kind{{ID: id, Name: "0a", Len: 4, Format: Uint}}, "want letters"},
		{[]Kind{{ID: id, Name: "a", Len: 3, Format: Uint}}, "multiple of 4"},
		{[]Kind{{ID: id, Name: "a", Len: 128, Format: Uint}}, "multiple of 4"},
		{[]Kind{{ID: id, Name: "a", Len: 4, Format: "decimal"}}, "format"},
		{[]Kind{{ID: id, Name: "a", Len: 4, Format: Hex}, {ID: id, Name: "b", Len: 4, Format: Hex}}, "given twice"},
		{[]Kind{{ID: id, Name: "ovn.ports", Len: 4, Format: Hex}}, "has that name"},
		{[]Kind{{ID: id, Name: "a", Len: 4, Format: MAC}}, "does not fit format mac"},
		{[]Kind{{ID: id, Name: "a", Len: 0, Format: Uint}}, "does not fit format uint"},
		{[]Kind{{ID: id, Name: "a", Len: 4, Format: Hex, Known: true}}, "not critical"},
		{[]Kind{{ID: ID{0xff01, 0x81}, Name: "a", Len: 4, Format: Hex, Known: true}}, ""},
	} {
		r, err := NewRegistry(c.kinds)
		if c.wrong == "" {
			if err != nil || r.Name(c.kinds[0].ID) != c.kinds[0].Name {
				t.Errorf("%v: %v", c.kinds, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%v: error %v, want %q", c.kinds, err, c.wrong)
		}
	}
}

func custom(t *testing.T) *Registry {
	t.Helper()
	r, err := NewRegistry([]Kind{
		{ID: ID{0xff01, 1}, Name: "my.pod", Len: 4, Format: Uint}, {ID: ID{0xff01, 2}, Name: "my.mac", Len: 8, Format: MAC}, {ID: ID{0xff01, 3}, Name: "my.host", Len: 4, Format: IPv4},
		{ID: ID{0xff01, 4}, Name: "my.text", Len: Variable, Format: Label}, {ID: ID{0xff01, 5}, Name: "my.wide", Len: 12, Format: Uint},
		{ID: ID{0xff01, 0x90}, Name: "my.known", Len: 4, Format: Hex, Known: true}, {ID: ID{0xff01, 0x91}, Name: "my.critical", Len: 4, Format: Hex},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParse(t *testing.T) {
	r := custom(t)
	for _, c := range []struct{ text, wire, words string }{
		{"0102:80:00010002", "0102 80 01 00010002", "ovn.ports:00010002"},
		{"0x0102:0x80:0x00010002", "0102 80 01 00010002", "ovn.ports:00010002"},
		{"ovn.ports:00010002,ff00:7:", "0102 80 01 00010002 ff00 07 00", "ovn.ports:00010002 ff00:07:"},
		{"oxide.external:", "0129 00 00", "oxide.external:"},
		{"my.pod:77", "ff01 01 01 0000004d", "my.pod:77"},
		{"my.pod:0x4d000000", "ff01 01 01 4d000000", "my.pod:1291845632"},
		{"my.wide:5", "ff01 05 03 000000000000000000000005", "my.wide:0x000000000000000000000005"},
		{"my.mac:02:00:00:00:00:0A", "ff01 02 02 02000000000a0000", "my.mac:02:00:00:00:00:0a"},
		{"my.host:10.0.0.1", "ff01 03 01 0a000001", "my.host:10.0.0.1"},
		{"my.text:hello", "ff01 04 02 68656c6c6f000000", "my.text:hello"},
		{"my.text:@vlan,ff02:00:@dscp,ff02:1:@src,ff02:2:@dst", "ff01 04 01 00000000 ff02 00 01 00000000 ff02 01 02 0000000000000000 ff02 02 02 0000000000000000",
			"my.text:@vlan ff02:00:@dscp ff02:01:@src ff02:02:@dst"},
	} {
		s, err := r.Parse(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if want := unhex(t, c.wire); !bytes.Equal([]byte(s.Set), want) {
			t.Errorf("%s: % x, want % x", c.text, s.Set, want)
		}
		words := r.Words(s)
		if got := strings.Join(words, " "); got != c.words {
			t.Errorf("%s: words %q, want %q", c.text, got, c.words)
		}
		if again, err := r.Parse(strings.Join(words, ",")); err != nil || again != s {
			t.Errorf("%s: its words are %v, error %v; want the same", c.text, again, err)
		}
	}
	for text, wrong := range map[string]string{
		"": "want CLASS:TYPE:DATA", "0102": "want CLASS:TYPE:DATA", "nobody:00": "or a name", "10102:80:00": "or a name", "0102:180:00": "or a name",
		"ff00:1:001": "hexadecimal", "ff00:1:0010": "multiple of 4", "ff02:80:0001000200": "multiple of 4", "ovn.ports:0001000200000000": "ovn.ports has 4",
		"my.pod:4294967296": "4 bytes hold", "my.mac:02:00": "want an Ethernet address", "my.host:host": "want an IPv4 address",
		"ff00:1:" + strings.Repeat("00", 128): "124", "my.pod:@src": "my.pod has 4",
		strings.Repeat("ff00:1:"+strings.Repeat("00", 124)+",", 2) + "ff00:2:": "at most 252", "a,": "want CLASS:TYPE:DATA",
	} {
		if s, err := r.Parse(text); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%.40q: %v, error %v; want %q", text, s, err, wrong)
		}
	}
}

func TestFill(t *testing.T) {
	s, err := custom(t).Parse("ff02:0:01020304,ff02:1:@vlan,ff02:2:@dscp,ff02:3:@src,ff02:4:@dst")
	if err != nil {
		t.Fatal(err)
	}
	frame := unhex(t, "02000000000b 02000000000a 8100 2064 0800 45b8 0014 0000 0000 4001 0000 0a000001 0a000002")
	var h packet.Headers
	packet.Walk(frame, false, &h)
	for _, c := range []struct {
		vid  uint16
		want string
	}{
		{0, "ff02 00 01 01020304 ff02 01 01 00000064 ff02 02 01 0000002e ff02 03 02 02000000000a0000 ff02 04 02 02000000000b0000"},
		{7, "ff02 00 01 01020304 ff02 01 01 00000007 ff02 02 01 0000002e ff02 03 02 02000000000a0000 ff02 04 02 02000000000b0000"},
	} {
		header := []byte(s.Set)
		Fill(header, s.Slots(), frame, &h, c.vid)
		if want := unhex(t, c.want); !bytes.Equal(header, want) {
			t.Errorf("VLAN %d: % x, want % x", c.vid, header, want)
		}
	}
}

func TestRules(t *testing.T) {
	r := custom(t)
	for _, text := range []string{"accept ovn.ports", "drop ff01:07", "count my.pod:77", "drop any", "accept ff03:80:01020304/ffff0000", "count oxide.external",
		"vlan 7 my.pod:77", "vni 0 any", "drop my.pod:77 and my.host:10.0.0.1 and ff03:80:01020304/ffff0000 and ovn.ports",
		"accept my.text:a-b and my.text:0x612f6200", "vni 16777215 ff01:07"} {
		u, err := r.ParseRule(text)
		if err != nil || r.RuleText(u) != text {
			t.Errorf("%q is %q, error %v", text, r.RuleText(u), err)
		}
	}
	for text, wrong := range map[string]string{
		"": "want accept", "allow any": "want accept", "accept": "CLASS:TYPE", "drop ff02:1:00": "multiple of 4", "drop ff01:9:00000000/ff": "want 4 bytes",
		"drop ff01:9:00000000/zz": "want 4 bytes", "accept ff01:4:@vlan": "want data", "accept ovn.ports/ff": "CLASS:TYPE:DATA",
		"accept ff01:09:00000000,ff01:0a:": "write and between", "drop any and ff01:01": "CLASS:TYPE", "drop ff01:01 and": "CLASS:TYPE", "drop ff01:01 and  and ff01:02": "CLASS:TYPE",
		"drop ff01:01 and ff01:02 and ff01:03 and ff01:04 and ff01:05": "at most", "mark 7 any": "no mark", "vlan any": "up to 4094", "vlan 0 any": "up to 4094", "vlan 4095 any": "up to 4094", "vni 16777216 any": "up to 16777215",
		"vni -1 any": "up to 16777215", "vlan 7": "CLASS:TYPE",
	} {
		if _, err := r.ParseRule(text); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: error %v, want %q", text, err, wrong)
		}
	}
}

func TestPolicy(t *testing.T) {
	r, none := custom(t), Default()
	for _, c := range []struct {
		rules, options string
		want           Verdict
		hits           []uint64
	}{
		{"accept ovn.ports", "", Accept, []uint64{0}},
		{"accept ovn.ports", "0102:80:00010002", Accept, []uint64{1}},
		{"accept ovn.ports", "ff01:80:00010002", Unknown, []uint64{0}},
		{"accept ovn.ports", "0102:80:00010002,ff01:80:", Unknown, []uint64{1}},
		{"accept any", "ff01:80:", Unknown, []uint64{1}},
		{"accept any", "ff01:7f:", Accept, []uint64{1}},
		{"count ff01:80", "ff01:80:", Accept, []uint64{1}},
		{"drop ff01:80", "ff01:80:", Drop, []uint64{1}},
		{"count any; drop my.pod:77; accept my.pod; drop any", "my.pod:77", Drop, []uint64{1, 1, 0, 0}},
		{"count any; drop my.pod:77; accept my.pod; drop any", "my.pod:78", Accept, []uint64{1, 0, 1, 0}},
		{"count any; drop my.pod:77; accept my.pod; drop any", "", Drop, []uint64{1, 0, 0, 1}},
		{"drop ff02:4:01020304/ffff0000", "ff02:4:0102ffff", Drop, []uint64{1}},
		{"drop ff02:4:01020304/ffff0000", "ff02:4:0103ffff", Accept, []uint64{0}},
		{"drop ff02:4:01020304", "ff02:4:0102030405060708", Drop, []uint64{1}}, // begins with it
		{"drop ff02:4:0102030405060708", "ff02:4:01020304", Accept, []uint64{0}},
		{"drop my.pod:2", "my.pod:1,my.pod:2", Drop, []uint64{1}}, // any of several
		{"accept any; count ovn.ports", "wire 0102 80 02 0001000200000000", Malformed, []uint64{0, 0}},
		{"accept any", "wire 0108 01 01 00000000", Accept, []uint64{1}}, // nobody here knows it
		{"accept any", "wire ff01 01 02 0000004d00000000", Malformed, []uint64{0}},
		{"", "wire ff01 01 02 0000004d00000000", Malformed, nil}, // an own kind needs no rule
		{"", "my.pod:7", Accept, nil},
		{"", "my.known:00000000", Accept, nil},
		{"", "my.critical:00000000", Unknown, nil},
		{"drop my.known", "my.known:00000000", Drop, []uint64{1}},
		{"count any; vlan 7 my.pod:77; drop any", "my.pod:77", Accept, []uint64{1, 1, 0}},
		{"vni 7 ff01:80; drop any", "ff01:80:", Accept, []uint64{1, 0}}, // which it knows
		{"vni 7 any", "ff01:80:", Unknown, []uint64{1}},
		// Pairs of labels: a pod in a namespace.
		{"drop mizar.pod_label:0000004d and mizar.namespace_label:00000001; count any", "mizar.pod_label:0000004d,mizar.namespace_label:00000001", Drop, []uint64{1, 0}},
		{"drop mizar.pod_label:0000004d and mizar.namespace_label:00000001; count any", "mizar.namespace_label:00000001,mizar.pod_label:0000004d", Drop, []uint64{1, 0}},
		{"drop mizar.pod_label:0000004d and mizar.namespace_label:00000001; count any", "mizar.pod_label:0000004d,mizar.namespace_label:00000002", Accept, []uint64{0, 1}},
		{"drop mizar.pod_label:0000004d and mizar.namespace_label:00000001; count any", "mizar.namespace_label:00000001", Accept, []uint64{0, 1}},
		{"accept ff01:80 and ff01:81", "ff01:80:,ff01:81:", Accept, []uint64{1}},
	} {
		var rules []Rule
		for text := range strings.SplitSeq(c.rules, "; ") {
			if text == "" {
				continue
			}
			u, err := r.ParseRule(text)
			if err != nil {
				t.Fatal(err)
			}
			rules = append(rules, u)
		}
		var s Sent
		if wire, ok := strings.CutPrefix(c.options, "wire "); ok {
			s.Set = Set(unhex(t, wire))
		} else if c.options != "" {
			var err error
			if s, err = r.Parse(c.options); err != nil {
				t.Fatal(err)
			}
		}
		p, hits := NewPolicy(rules), make([]atomic.Uint64, len(rules))
		area := []byte(s.Set)
		var got Verdict
		var by *Rule
		if allocs := testing.AllocsPerRun(1, func() { got, by = p.Decide(r, area, hits, 1) }); allocs != 0 {
			t.Errorf("%s: %v allocations", c.rules, allocs)
		}
		if by != nil && (by.Action == ActDrop || by.Action == ActCount) {
			t.Errorf("%q on %q: %q let it in, which decides nothing", c.rules, c.options, r.RuleText(*by))
		}
		counted := make([]uint64, len(hits))
		for i := range hits {
			counted[i] = hits[i].Load() / 2 // AllocsPerRun runs it once more
		}
		if got != c.want || !slices.Equal(counted, c.hits) {
			t.Errorf("%q on %q: verdict %d, hits %v; want %d, %v", c.rules, c.options, got, counted, c.want, c.hits)
		}
	}
	if NewPolicy(nil) != nil {
		t.Error("a policy without rules is one")
	}
	some, _ := none.ParseRule("drop ff01:07")
	every, _ := none.ParseRule("drop any")
	for _, c := range []struct {
		p             *Policy
		names         *Registry
		bare, options bool
	}{
		{nil, nil, false, false}, {nil, none, false, false}, {nil, r, false, true},
		{NewPolicy([]Rule{some}), none, false, true}, {NewPolicy([]Rule{some, every}), none, true, true},
	} {
		if bare, options := c.p.Concerns(c.names, false), c.p.Concerns(c.names, true); bare != c.bare || options != c.options {
			t.Errorf("%v: concerns %v without options, %v with; want %v, %v", c.p.Rules(), bare, options, c.bare, c.options)
		}
	}
}

// FuzzParse: what is read can be written and read again, and is a well-formed area.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"0102:80:00010002", "ovn.ports:00010002,ff00:7:", "my.mac:02:00:00:00:00:0A", "my.text:a b", "ff01:1:@src", "my.pod:9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := custom(t)
		s, err := r.Parse(text)
		if err != nil {
			return
		}
		if err := geneve.Options(s.Set).Check(func(uint16, uint8) bool { return true }); err != nil || len(s.Set) > MaxSetLen {
			t.Fatalf("%q: %d bytes, %v", text, len(s.Set), err)
		}
		words := strings.Join(r.Words(s), ",")
		if again, err := r.Parse(words); err != nil || again != s {
			t.Fatalf("%q: written as %q it is % x, error %v; was % x", text, words, again.Set, err, s.Set)
		}
	})
}

// FuzzRule: what is read can be written, and read again as the same rule.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"drop any", "vlan 7 my.pod:77 and my.mac:02:00:00:00:00:0a", "vni 0x10 ff03:80:01020304/ffff0000 and my.text:a-b", "count my.host:10.0.0.1/ffffff00", "accept my.text:0x612f6200"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := custom(t)
		u, err := r.ParseRule(text)
		if err != nil {
			return
		}
		if again, err := r.ParseRule(r.RuleText(u)); err != nil || again != u {
			t.Fatalf("%q: written as %q it is %+v, error %v; was %+v", text, r.RuleText(u), again, err, u)
		}
	})
}

// FuzzDecide: no area makes a policy fail, not even one that is not well formed.
func FuzzDecide(f *testing.F) {
	r := Default()
	var rules []Rule
	for _, text := range []string{"count ff01:01:01020304/ff00ff00", "accept ovn.ports", "drop ff01:80", "count any"} {
		u, _ := r.ParseRule(text)
		rules = append(rules, u)
	}
	p, hits := NewPolicy(rules), make([]atomic.Uint64, len(rules))
	f.Add([]byte{1, 2, 0x80, 1, 0, 1, 0, 2})
	f.Fuzz(func(t *testing.T, area []byte) {
		p.Decide(r, area, hits, 1)
		r.Describe(area)
	})
}

// TestShared: equal sets are equal, and another process reads what one has written, but nothing else.
func TestShared(t *testing.T) {
	r := custom(t)
	if !(Sent{}).Share().IsZero() || !(Shared{}).Sent().IsZero() {
		t.Error("nothing is something")
	}
	for _, text := range []string{"my.pod:77", "ff02:00:01020304,ff02:01:@vlan,ff02:02:@src,ff02:83:"} {
		s, err := r.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := r.Parse(text)
		written, err := s.Share().MarshalText()
		var read Shared
		if err != nil || read.UnmarshalText(written) != nil || read != s.Share() || read != again.Share() || read.Sent() != s {
			t.Errorf("%s: written as %s it is %v, error %v", text, written, read.Sent(), err)
		}
	}
	for _, text := range []string{"0", "ff010101", "ff01010100000001/0", "ff01010100000001/01", "ff01010100000001/0103", "ff01010100000001/0908", "ff01010100000001/0304", "zz/",
		strings.Repeat("ff010100", 64)} {
		var read Shared
		if err := read.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%.40q is %v, want an error", text, read.Sent())
		}
	}
}
