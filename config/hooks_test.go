package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string][]int{
		"0": {0}, "2-5,8": {2, 3, 4, 5, 8}, "3,1": {3, 1}, "1023": {1023},
		"": nil, "5-2": nil, "1,1": nil, "0-2,2": nil, "1024": nil, "a": nil, "1,": nil, "-1": nil,
	} {
		got, err := ParseCPUs(list)
		if (err != nil) != (want == nil) || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v; want %v", list, got, err, want)
		}
	}
}

// TestHooks: what [hooks] says comes back from Print, shows in Diff, and what is
// wrong is refused.
func TestHooks(t *testing.T) {
	const tunnel = "[[tunnel]]\nname = \"gnv0\"\nid = 1\nremote = \"192.0.2.2\"\n"
	cfg, err := parse("a.toml", "[hooks]\non-up = [\"/bin/a\", \"b c\"]\non-down = \"/bin/d\"\nlost-after = \"90s\"\n"+tunnel)
	if err != nil {
		t.Fatal(err)
	}
	h := cfg.Hooks
	if !slices.Equal(h.Up, []string{"/bin/a", "b c"}) || !slices.Equal(h.Down, []string{"/bin/d"}) || h.LostAfter != 90*time.Second ||
		h.Timeout != DefaultHookTimeout || !h.Any() {
		t.Errorf("hooks %+v", h)
	}
	again, err := parse("b.toml", Print(cfg, false))
	if err != nil {
		t.Fatal(err)
	}
	if c := Diff(cfg, again); !c.Empty() {
		t.Errorf("printed and read again: %+v", c)
	}
	plain, err := parse("c.toml", tunnel)
	if err != nil {
		t.Fatal(err)
	}
	c := Diff(cfg, plain)
	if len(c.Process) != 3 || c.Restart() || c.Process[0].Key != "hooks.on-up" || plain.Hooks.Any() {
		t.Errorf("without hooks: %+v", c)
	}
	for text, want := range map[string]string{
		`on-up = "notify"`:      "want the path of a program",
		`on-up = []`:            "an empty list",
		`on-up = 3`:             "want a text in quotes",
		`timeout = "0s"`:        "want a time from 1s to 24h",
		`lost-after = "1 week"`: "want a time from 1s to 24h",
		`on-seen = "/bin/a"`:    "unknown key on-seen",
	} {
		if _, err := parse("d.toml", "[hooks]\n"+text+"\n"+tunnel); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
