package config

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a file can have is in the manual, which is made from Sections, and in
// the schema: both know the same keys.
func TestSectionsAreThoseOfTheSchema(t *testing.T) {
	type shape struct {
		Properties map[string]*shape `json:"properties"`
		Items      *shape            `json:"items"`
	}
	var root shape
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	keys := map[string][]string{}
	var walk func(name string, s *shape)
	walk = func(name string, s *shape) {
		for _, key := range slices.Sorted(maps.Keys(s.Properties)) {
			sub := s.Properties[key]
			path := key
			if name != "" {
				path = name + "." + key
			}
			switch {
			case sub.Properties != nil:
				walk(path, sub)
			case sub.Items != nil && sub.Items.Properties != nil:
				walk(path, sub.Items)
			default:
				keys[name] = append(keys[name], key)
			}
		}
	}
	walk("", &root)
	keys["defaults"] = nil // said in words

	got := map[string][]string{}
	for _, s := range Sections() {
		name := s.Name
		for len(name) > 0 && name[0] == '[' {
			name = name[1 : len(name)-1]
		}
		got[name] = nil
		for _, k := range s.Keys {
			if k.Usage == "" {
				t.Errorf("%s %s has no Usage, which is its text in the manual", s.Name, k.Name)
			}
			if k.Kind != Short {
				got[name] = append(got[name], k.Name)
			}
		}
		slices.Sort(got[name])
		if s.About == "" {
			t.Errorf("%s has no About, which is its text in the manual", s.Name)
		}
	}
	if d := cmp.Diff(keys, got); d != "" {
		t.Errorf("add to Sections in config/sections.go what is in the schema (- schema, + Sections):\n%s", d)
	}
}
