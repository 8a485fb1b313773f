package service

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake hears what a Manager says, and has room for some descriptors.
type fake struct {
	mu   sync.Mutex
	said []string
	held []int
	room int
}

func newFake(t *testing.T, room int) *fake {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	f, ended := &fake{room: room}, make(chan struct{})
	go func() {
		defer close(ended)
		text, control := make([]byte, 4096), make([]byte, 256)
		for {
			n, oob, _, _, err := c.ReadMsgUnix(text, control)
			if err != nil {
				return
			}
			f.mu.Lock()
			f.said = append(f.said, string(text[:n]))
			if messages, err := unix.ParseSocketControlMessage(control[:oob]); err == nil && len(messages) == 1 {
				fds, _ := unix.ParseUnixRights(&messages[0])
				for _, fd := range fds {
					if strings.HasPrefix(string(text[:n]), "FDSTORE=1") && len(f.held) < f.room {
						f.held = append(f.held, fd)
					} else {
						unix.Close(fd)
					}
				}
			}
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
		for _, fd := range f.held {
			unix.Close(fd)
		}
	})
	return f
}

func (f *fake) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.said)
}

// TestStore: what is stored is there when Barrier returns, and Room tells.
func TestStore(t *testing.T) {
	f := newFake(t, 2)
	m, err := New()
	if err != nil || !m.Present() {
		t.Fatalf("New: %v, present %t", err, m.Present())
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i, want := range []bool{true, false} {
		if err := m.Store(Descriptor{fmt.Sprintf("tap.gnv0.%d", i), int(file.Fd())}); err != nil {
			t.Fatal(err)
		}
		if room, err := m.Room(); err != nil || room != want {
			t.Errorf("room with %d of 2 stored: %t, %v; want %t", i+1, room, err, want)
		}
	}
	if err := m.Remove("tap.gnv0.0", "udp.0"); err != nil {
		t.Error(err)
	}
	said := f.heard()
	for _, want := range []string{
		"FDSTORE=1\nFDNAME=tap.gnv0.1\nFDPOLL=0", "FDSTOREREMOVE=1\nFDNAME=probe",
		"FDSTOREREMOVE=1\nFDNAME=tap.gnv0.0", "FDSTOREREMOVE=1\nFDNAME=udp.0",
	} {
		if !slices.Contains(said, want) {
			t.Errorf("the manager has not heard %q, only %q", want, said)
		}
	}
	if said[len(said)-1] != "BARRIER=1" {
		t.Errorf("Remove ended with %q, want a barrier", said[len(said)-1])
	}
}

func TestReloading(t *testing.T) {
	f := newFake(t, 0)
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Reloading(); err != nil {
		t.Fatal(err)
	}
	if err := m.Barrier(); err != nil {
		t.Fatal(err)
	}
	if said := f.heard(); !strings.HasPrefix(said[0], "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("heard %q", said)
	}
}

// TestNone: without a manager nothing happens, and takes no time.
func TestNone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := New()
	if err != nil || m.Present() || m.Watchdog() != 0 || len(m.Inherited()) != 0 {
		t.Fatalf("New: %v, %+v; want none", err, m)
	}
	room, err := m.Room()
	for _, err := range []error{err, m.Notify("READY=1"), m.Reloading(), m.Store(Descriptor{"a", 0}), m.Remove("a"), m.Barrier()} {
		if err != nil {
			t.Error(err)
		}
	}
	if room {
		t.Error("there is room with nobody")
	}
}

// TestGone: a manager that is no longer there is an error, not a wait.
func TestGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if m.Notify("READY=1") == nil || m.Barrier() == nil || m.Store(Descriptor{"a", 0}) == nil {
		t.Error("no error")
	}
	if took := time.Since(start); took > answerTime {
		t.Errorf("it took %s", took)
	}
}

func TestWatchdog(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		fails     bool
	}{
		{"20000000", "", 20 * time.Second, false},
		{"20000000", fmt.Sprint(os.Getpid()), 20 * time.Second, false},
		{"20000000", "1", 0, false}, // another process is watched
		{"soon", "", 0, true},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if c.pid == "" {
			os.Unsetenv("WATCHDOG_PID")
		}
		m, err := New()
		if (err != nil) != c.fails || err == nil && m.Watchdog() != c.want {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %v, %v; want %v", c.usec, c.pid, m, err, c.want)
		}
		if _, there := os.LookupEnv("WATCHDOG_USEC"); there {
			t.Error("WATCHDOG_USEC is still there for children")
		}
	}
}
