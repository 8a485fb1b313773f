package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each testdata/import/*.json is what ip and bridge print; beside it is the
// configuration made of it, which must load.
func TestImport(t *testing.T) {
	inputs, _ := filepath.Glob("testdata/import/*.json")
	if len(inputs) < 2 {
		t.Fatal("no testdata/import/*.json")
	}
	for _, input := range inputs {
		t.Run(filepath.Base(input), func(t *testing.T) {
			f, err := os.Open(input)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			text, err := Import(f)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(input, ".json") + ".toml"
			if os.Getenv("UPDATE") != "" {
				os.WriteFile(golden, []byte(text), 0o644)
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), text); d != "" {
				t.Errorf("(-want +got, UPDATE=1 writes it anew)\n%s", d)
			}
			if _, err := parse("imported.toml", text); err != nil {
				t.Errorf("does not load: %v", err)
			}
		})
	}
}

func TestImportRefuses(t *testing.T) {
	for input, want := range map[string]string{
		"":                 "empty: want the output",
		"vx0: <BROADCAST>": "not the JSON of ip or bridge",
		"{}":               "not the JSON of ip or bridge",
		"[1]":              "not the JSON of ip -d -j link",
		"[]":               "no vxlan or geneve device in it",
		"[{}]":             "no vxlan or geneve device in it",
		`[{"ifname":"eth0","linkinfo":{"info_kind":"veth"}}]`:                                                    "no vxlan or geneve device in it",
		`[{"ifname":"gnv0","linkinfo":{"info_kind":"geneve","info_data":{"external":true,"id":0,"port":6081}}}]`: "none of the devices can be carried over",
	} {
		text, err := Import(strings.NewReader(input))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", input, err, want)
		}
		if strings.Contains(input, "external") && !strings.Contains(text, "# gnv0: left out: external: a TAP has no metadata per packet") {
			t.Errorf("%s: does not say why:\n%s", input, text)
		}
	}
}

// No name and no number makes a text that does not load, or breaks out of a
// comment.
func FuzzImport(f *testing.F) {
	inputs, _ := filepath.Glob("testdata/import/*.json")
	for _, name := range inputs {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(`[{"ifname":"a\nb","ifalias":"x\ny","linkinfo":{"info_kind":"geneve","info_data":{"id":1e9,"remote":"::1%0"}}}]`)
	f.Fuzz(func(t *testing.T, input string) {
		text, err := Import(strings.NewReader(input))
		if err != nil {
			return
		}
		if _, err := parse("imported.toml", text); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	})
}
