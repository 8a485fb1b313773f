package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// unpack reads an archive.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

// TestWrite: what can be had is in the archive, and what cannot is told.
func TestWrite(t *testing.T) {
	var out bytes.Buffer
	all, err := Write(t.Context(), &out, "report", time.Unix(0, 0), []Part{
		{"one", "the first", func(context.Context) ([]byte, error) { return []byte("1"), nil }},
		{"none", "not there", func(context.Context) ([]byte, error) { return nil, errors.New("no\nsuch thing") }},
		{"some", "half", func(context.Context) ([]byte, error) { return []byte("2"), errors.New("it broke") }},
		{"large", "much", func(context.Context) ([]byte, error) { return make([]byte, MaxPart+7), nil }},
		Command("echo", "words", "echo", "hello"),
		Command("program", "that is not there", "gvtep-no-such-program"),
		Command("endless", "much of a program", "sh", "-c", "head -c 9000000 /dev/zero; echo wrong >&2; exit 3"),
		JSON("json", "a value", func(context.Context) (any, error) {
			return map[string]any{"a": []any{map[string]any{"options": "0102:80:deadbeef", "id": 9007199254740993}}, "head": "00ff"}, nil
		}),
	})
	if err != nil || len(all) != 8 {
		t.Fatalf("%d parts, %v", len(all), err)
	}
	files := unpack(t, out.Bytes())
	for name, want := range map[string]string{
		"one": "1", "some": "2", "echo": "hello\n",
		"json": "{\n  \"a\": [\n    {\n      \"id\": 9007199254740993,\n      \"options\": \"left out\"\n    }\n  ],\n  \"head\": \"left out\"\n}",
	} {
		if got := files["report/"+name]; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"large", "endless"} {
		if n := len(files["report/"+name]); n != MaxPart {
			t.Errorf("%s has %d bytes, want %d", name, n, MaxPart)
		}
	}
	for _, name := range []string{"none", "program"} {
		if text, ok := files["report/"+name]; ok {
			t.Errorf("%s is there: %q", name, text)
		}
	}
	contents := files["report/CONTENTS"]
	for _, want := range []string{"not there  (no; such thing)", "half  (it broke)", "(cut after 8388608 of 8388615 bytes)", "executable file not found", "exit status 3", LeftOut} {
		if !strings.Contains(contents, want) {
			t.Errorf("%q is not in\n%s", want, contents)
		}
	}
}

// TestWriteEnds: when time is up, the rest says so and the archive is whole.
func TestWriteEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	all, err := Write(ctx, &out, "r", time.Unix(0, 0), []Part{
		{"first", "", func(context.Context) ([]byte, error) { cancel(); return []byte("1"), nil }},
		Command("second", "a program", "sleep", "1000"),
	})
	if err != nil || all[1].Note == "" || unpack(t, out.Bytes())["r/first"] != "1" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestConfig(t *testing.T) {
	const text = "[hooks]\non-up = [\"/bin/notify\", \"token\"]\ntimeout = \"10s\"\n\n[[tunnel]]\nname = \"gnv0\"\noptions = \"0102:80:dead\"\n  [[tunnel.peer]]\n  remote = \"192.0.2.2\"\n  options = \"0102:80:beef\"\nmatch = [\"x\"]\n"
	const want = "[hooks]\non-up = \"left out\"\ntimeout = \"10s\"\n\n[[tunnel]]\nname = \"gnv0\"\noptions = \"left out\"\n  [[tunnel.peer]]\n  remote = \"192.0.2.2\"\n  options = \"left out\"\nmatch = \"left out\"\n"
	if got := Config(text); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
