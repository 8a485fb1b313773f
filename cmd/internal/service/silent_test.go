package service

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestUnread: a manager that reads nothing holds nobody up for long, and once only.
// It is heard again when it reads.
func TestUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	const messages = 5000 // net.unix.max_dgram_qlen is 10, or some hundreds
	failed, done := 0, make(chan struct{})
	var barriers, stores time.Duration
	go func() {
		defer close(done)
		for range messages {
			if m.Notify("STATUS=to nobody") != nil {
				failed++
			}
		}
		start := time.Now()
		for i := range 100 {
			if m.Store(Descriptor{"tap.gnv0.0", 0}) == nil {
				t.Errorf("descriptor %d was taken", i)
			}
		}
		stores = time.Since(start)
		start = time.Now()
		for range 10 {
			if m.Barrier() == nil {
				t.Error("a barrier was passed")
			}
		}
		barriers = time.Since(start)
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatal("it waits for a manager that does not read")
	}
	if failed == 0 || stores > sendTime || barriers > sendTime {
		t.Errorf("%d of %d messages failed; then 100 descriptors took %s, 10 barriers %s", failed, messages, stores, barriers)
	}
	buf := make([]byte, 1<<10)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for range messages - failed {
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Notify("READY=1"); err != nil {
		t.Errorf("once it reads again: %v", err)
	}
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("heard %q, %v", buf[:n], err)
	}
}

// TestSilent: a manager that does not get to a barrier is waited for as long as it may take,
// and hardly at all the next time.
func TestSilent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if m.Barrier() == nil {
		t.Error("a barrier was passed")
	}
	start := time.Now()
	for range 3 {
		if m.Remove("tap.gnv0.0") == nil {
			t.Error("removed by nobody")
		}
	}
	if took := time.Since(start); took > answerTime {
		t.Errorf("three more times took %s", took)
	}
}
