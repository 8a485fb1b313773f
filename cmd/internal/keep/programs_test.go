package keep

import (
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/cmd/internal/service"
)

// hear is a service manager that notes what it is told. It ends when the returned function,
// which gives the notes, is called.
func hear(t *testing.T) (said func() []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	var notes []string
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		text, control := make([]byte, 4096), make([]byte, 256)
		for {
			n, oob, _, _, err := c.ReadMsgUnix(text, control)
			if err != nil {
				return
			}
			notes = append(notes, strings.ReplaceAll(string(text[:n]), "\n", " "))
			if messages, err := unix.ParseSocketControlMessage(control[:oob]); err == nil && len(messages) == 1 {
				fds, _ := unix.ParseUnixRights(&messages[0])
				for _, fd := range fds {
					unix.Close(fd)
				}
			}
		}
	}()
	t.Cleanup(func() { c.Close() })
	return func() []string { c.Close(); <-ended; return notes }
}

// TestPrograms: what a fast path has kept is handed to the next one by its names, and neither
// devices nor sockets take it; each descriptor is given to the manager once, and taken back if
// it has it.
func TestPrograms(t *testing.T) {
	said := hear(t)
	m, err := service.New()
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(m, zap.NewNop())
	var ends [2]int // of a pipe: the one tells when the other is closed
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	first, second := ends[0], ends[1]
	defer unix.Close(first)
	for name, fd := range map[string]int{"fast.link.tap.5": first, "fast.": -1, "tap.gnv0.0": -1, "faster": -1} {
		if took := s.program(name, fd); took != (fd >= 0) {
			t.Errorf("%s: taken %t", name, took)
		}
	}
	if !s.program("fast.link.tap.5", second) {
		t.Error("the second of a name is not taken")
	}
	if n, err := unix.Read(first, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the second of a name is not closed: %d, %v", n, err)
	}
	p := Programs{s}
	if kept := p.Kept(); !maps.Equal(kept, map[string]int{"link.tap.5": first}) || len(p.Kept()) != 0 || len(s.kept) != 0 {
		t.Errorf("kept: %v", kept)
	}
	p.Keep("link.tap.5", first) // the manager has it
	p.Keep("link.under.2", first)
	p.Keep("link.under.2", first)
	p.Drop()
	p.Drop("link.tap.6")
	p.Drop("link.tap.6", "link.tap.5")
	want := []string{"FDSTORE=1 FDNAME=fast.link.under.2 FDPOLL=0", "FDSTOREREMOVE=1 FDNAME=fast.link.tap.5", "BARRIER=1"}
	if got := said(); !slices.Equal(got, want) {
		t.Errorf("the manager heard %q, want %q", got, want)
	}
}
