package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gvtep/cmd/internal/build"
	"gvtep/cmd/internal/control"
)

func TestBatchReader(t *testing.T) {
	long := strings.Repeat("x", maxCommand+1)
	for text, want := range map[string]string{
		"":                             "",
		"\n \t\r\n# only a comment\n":  "",
		"show\n":                       "1[show]",
		"show":                         "1[show]",
		"show gnv0\r\nfdb":             "1[show gnv0] 2[fdb]",
		"a # b\nc#d\n":                 "1[a] 2[c#d]",
		"a \\\n b\nc":                  "1[a b] 3[c]",
		"a\\\nb c":                     "1[ab c]",
		"# no \\\na":                   "2[a]",
		"a 'b  c' \"d  e\"f g''h '' i": "1[a b  c d  ef gh  i]",
		`a 'b\' "c\"d\\e\f" \# g\ h`:   `1[a b\ c"d\e\f # g h]`,
		"a '# b' \"# c\"":              "1[a # b # c]",
		"a 'b\nc":                      "1!no end of '...' in this line 2[c]",
		"a \"b":                        "1!no end of \"...\" in this line",
		"a \\":                         "1!nothing after the \\ at the end",
		long + " y\nz":                 fmt.Sprintf("1!a command of more than %d bytes 2[z]", maxCommand),
		"a '" + long + "\nb":           fmt.Sprintf("1!a command of more than %d bytes 2[b]", maxCommand),
	} {
		r := batchReader{in: bufio.NewReader(strings.NewReader(text))}
		var got []string
		for {
			words, line, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				got = append(got, fmt.Sprintf("%d!%v", line, err))
			} else {
				got = append(got, fmt.Sprintf("%d%v", line, words))
			}
		}
		if d := cmp.Diff(want, strings.Join(got, " ")); d != "" {
			t.Errorf("%.40q (-want +got)\n%s", text, d)
		}
	}
}

// counted counts connections.
type counted struct {
	net.Listener
	n atomic.Int32
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return c, err
}

// A thousand commands of a batch take one connection, also those that the
// daemon refuses, and one to find the daemon.
func TestBatchTakesOneConnection(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	inner, err := control.Listen(control.SocketPath(dir, "p1"))
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: inner}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- control.Serve(ctx, l, control.NewDoor(fakeSource{instance: "p1", ready: true})) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var out, errOut bytes.Buffer
	a := newApp(dir)
	a.in, a.out, a.errOut = strings.NewReader(strings.Repeat("show gnv0 peers\n-j fdb get 02:00:00:00:02:99 dev gnv0\n", 500)), &out, &errOut
	if code := a.execute([]string{"--force", "-b", "-"}); code != exitUsage {
		t.Errorf("exit code %d, as of ip it is %d", code, exitUsage)
	}
	if got := strings.Count(out.String(), "192.0.2.2\n"); got != 500 {
		t.Errorf("%d of 500 commands were answered", got)
	}
	if got := strings.Count(errOut.String(), "No such file or directory"); got != 500 {
		t.Errorf("%d of 500 commands were refused", got)
	}
	if n := l.n.Load(); n > 2 {
		t.Errorf("%d connections for 1,000 commands", n)
	}
}

// Flags of one line do not stay for the next.
func TestBatchForgetsFlags(t *testing.T) {
	var out, errOut bytes.Buffer
	a := newApp(t.TempDir())
	a.in, a.out, a.errOut = strings.NewReader("-j -p version\nversion\nversion --daemon --timeout 50ms\nversion\n"), &out, &errOut
	a.execute([]string{"--force", "-b", "-"})
	want := fmt.Sprintf("gvtep %s %s\n", build.Read(version).Version, build.Read(version).GoVersion)
	if got := out.String(); strings.Count(got, want) != 2 || !strings.HasPrefix(got, "{\n") {
		t.Errorf("%s\nwant JSON, and twice %s", got, want)
	}
	if got := errOut.String(); strings.Count(got, "daemon not reachable") != 1 {
		t.Error(got)
	}
}
