// Package bugreport puts what is known of a running gvtep and its host into one archive, bounded in size
// and time, and without secrets.
package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// Bounds of an archive.
const (
	MaxPart  = 8 << 20          // bytes of each part; what is more is cut off
	PartTime = 10 * time.Second // of each part
)

// Part is one file of the archive.
type Part struct {
	Name  string
	About string // what it is, in a few words
	Get   func(context.Context) ([]byte, error)
}

// Written is what became of a part.
type Written struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	About string `json:"about"`
	Note  string `json:"note,omitempty"` // why it is not there, or not whole
}

// Write writes the parts as gzipped tar, below the folder dir, and at its end CONTENTS, which says what
// each is. A part that cannot be had is told of and left out. When ctx ends the rest is left out, too.
func Write(ctx context.Context, w io.Writer, dir string, now time.Time, parts []Part) ([]Written, error) {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	add := func(name string, data []byte) error {
		if err := archive.WriteHeader(&tar.Header{Name: dir + "/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: now}); err != nil {
			return err
		}
		_, err := archive.Write(data)
		return err
	}
	var all []Written
	var contents strings.Builder
	for _, p := range parts {
		done, data := get(ctx, &p)
		if len(data) > 0 {
			if err := add(p.Name, data); err != nil {
				return all, err
			}
		}
		all = append(all, done)
		fmt.Fprintf(&contents, "%-20s %9d  %s\n", done.Name, done.Bytes, strings.TrimSpace(done.About+"  "+done.Note))
	}
	contents.WriteString("\n" + LeftOut + "\n")
	if err := add("CONTENTS", []byte(contents.String())); err != nil {
		return all, err
	}
	if err := archive.Close(); err != nil {
		return all, err
	}
	return all, zip.Close()
}

// LeftOut says what an archive does not have.
const LeftOut = "Left out: arguments of hooks, data of GENEVE options and rules for them, bytes of dropped packets."

func get(ctx context.Context, p *Part) (done Written, data []byte) {
	ctx, cancel := context.WithTimeout(ctx, PartTime)
	defer cancel()
	done = Written{Name: p.Name, About: p.About}
	data, err := p.Get(ctx)
	if err != nil {
		done.Note = "(" + strings.ReplaceAll(err.Error(), "\n", "; ") + ")"
	}
	if len(data) > MaxPart {
		done.Note = strings.TrimSpace(done.Note + fmt.Sprintf(" (cut after %d of %d bytes)", MaxPart, len(data)))
		data = data[:MaxPart]
	}
	done.Bytes = len(data)
	return done, data
}

// Command is a part that a program prints, errors included.
func Command(name, about string, words ...string) Part {
	return Part{name, about + ": " + strings.Join(words, " "), func(ctx context.Context) ([]byte, error) {
		out := capped{most: MaxPart + 1}
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
		err := cmd.Run()
		return out.Bytes(), err
	}}
}

// capped keeps the first bytes of what is written.
type capped struct {
	bytes.Buffer
	most int
}

func (c *capped) Write(b []byte) (int, error) {
	c.Buffer.Write(b[:min(len(b), max(0, c.most-c.Len()))])
	return len(b), nil
}

// JSON is a part that is a value, without secrets.
func JSON[T any](name, about string, get func(context.Context) (T, error)) Part {
	return Part{name, about, func(ctx context.Context) ([]byte, error) {
		v, err := get(ctx)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		return withoutSecrets(text)
	}}
}

// secret are the keys of JSON whose values are left out.
var secret = map[string]bool{"options": true, "match": true, "head": true}

func withoutSecrets(text []byte) ([]byte, error) {
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	var v any
	if err := in.Decode(&v); err != nil {
		return nil, err
	}
	return json.MarshalIndent(strip(v), "", "  ")
}

func strip(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, value := range v {
			if secret[k] {
				v[k] = "left out"
			} else {
				v[k] = strip(value)
			}
		}
	case []any:
		for i := range v {
			v[i] = strip(v[i])
		}
	}
	return v
}

// secretLine is a line of a configuration, as config.Print writes it, whose value is left out.
var secretLine = regexp.MustCompile(`(?m)^(\s*(?:on-[a-z-]+|options|match) = ).*$`)

// Config is the text of a configuration without secrets.
func Config(text string) string { return secretLine.ReplaceAllString(text, `$1"left out"`) }
