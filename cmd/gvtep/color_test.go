package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/control"
)

// terminal returns one end of a pseudo terminal.
func terminal(t *testing.T) *os.File {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return slave
}

func TestColors(t *testing.T) {
	tty := terminal(t)
	t.Setenv("NO_COLOR", "")
	peer := func(state string, ago ...float64) (p control.Peer) {
		p.State = state
		if len(ago) > 0 {
			p.SeenAgo = &ago[0]
		}
		return p
	}
	for _, tt := range []struct {
		peer control.Peer
		want string
	}{
		{peer("heard", 0), green}, {peer("heard", 9.9), green}, {peer("heard", 10), yellow}, {peer("heard", 59.9), yellow},
		{peer("silent", 60), red}, {peer("silent", 9e9), red}, {peer("silent"), red}, {peer("refused"), red}, {peer("no route", 1), red},
	} {
		on := &app{out: tty, color: "auto"}
		if got := on.state(tt.peer); !strings.HasPrefix(got, "\x1b["+tt.want+"m") || !strings.HasSuffix(got, "\x1b[0m") {
			t.Errorf("on a terminal: %q, want color %s", got, tt.want)
		}
	}
	for name, a := range map[string]*app{
		"in a pipe":                        {out: &bytes.Buffer{}, color: "auto"},
		"on a terminal with --color never": {out: tty, color: "never"},
	} {
		if got := a.state(peer("silent")); strings.Contains(got, "\x1b") {
			t.Errorf("%s: %q has colors", name, got)
		}
	}
	if got := (&app{out: &bytes.Buffer{}, color: "always"}).state(peer("silent")); !strings.Contains(got, "\x1b") {
		t.Errorf("-c in a pipe: %q has no colors", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := (&app{out: tty, color: "auto"}).state(peer("silent")); strings.Contains(got, "\x1b") {
		t.Errorf("with NO_COLOR: %q has colors", got)
	}
}
