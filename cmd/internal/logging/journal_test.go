package logging

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// readJournal takes a datagram of the native protocol apart.
func readJournal(t *testing.T, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			t.Fatalf("no newline at the end: %q", b)
		}
		name, value, plain := strings.Cut(string(line), "=")
		b = rest
		if !plain {
			n := binary.LittleEndian.Uint64(rest)
			value, b = string(rest[8:8+n]), rest[8+n+1:]
		}
		fields[name] = value
	}
	return fields
}

// TestJournal reads what a journal would read.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var other bytes.Buffer
	j, err := dialJournal(path, &other)
	if err != nil {
		t.Fatal(err)
	}
	state := newState("info")
	log := state.logger(j.write, encodeJournal)
	log.Debug("not now")
	log.With(zap.String("device", "gnv0"), zap.Uint32("vni", 200)).Warn("no route to the peer",
		zap.Stringer("remote", netip.MustParseAddr("192.0.2.2")), zap.String("reason", "no_route"),
		zap.NamedError("err", errors.New("two\nlines")), zap.NamedError("none", nil), zap.Strings("odd-key", []string{"a", "b"}))
	log.Error(strings.Repeat("x", 1<<20))

	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1<<20)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"MESSAGE":  "no route to the peer device=gnv0 vni=200 remote=192.0.2.2 reason=no_route err=two\nlines odd-key=[a b]",
		"PRIORITY": "4", "SYSLOG_IDENTIFIER": "gvtep",
		"GVTEP_DEVICE": "gnv0", "GVTEP_VNI": "200", "GVTEP_REMOTE": "192.0.2.2", "GVTEP_REASON": "no_route",
		"GVTEP_ERR": "two\nlines", "GVTEP_ODD_KEY": "[a b]",
	}
	if d := cmp.Diff(want, readJournal(t, buf[:n])); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if n, err = conn.Read(buf); err != nil || len(readJournal(t, buf[:n])["MESSAGE"]) != maxJournalValue {
		t.Errorf("a message of 1 MiB: %d bytes, %v", n, err)
	}
	if c, _ := state.Counts(); c["debug"] != 0 || c["warn"] != 1 || c["error"] != 1 {
		t.Errorf("messages counted: %v, want one warn and one error", c)
	}

	// Without a journal nothing is lost.
	conn.Close()
	log.Info("alone", zap.String("device", "gnv0"))
	state.Close()
	if got := other.String(); got != "INFO alone device=gnv0\n" {
		t.Errorf("written elsewhere: %q", got)
	}
}

// TestToJournal: only if it is this very stream that systemd made.
func TestToJournal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(w.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		"": false, "8:1": false, "x": false, fmt.Sprintf("%d:%d", st.Dev, st.Ino): true,
	} {
		if got := toJournal(w, stream); got != want {
			t.Errorf("JOURNAL_STREAM=%s: %t, want %t", stream, got, want)
		}
	}
	if _, err := os.Stat(journalSocket); err != nil {
		if _, _, err := New(w, "info", "journal"); err == nil {
			t.Error("journal without a journal: no error")
		}
		t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", st.Dev, st.Ino))
		if _, _, err := New(w, "info", "auto"); err != nil {
			t.Errorf("auto without a journal: %v", err)
		}
	}
}

// TestLevelForAWhile: a reload in between decides what comes back.
func TestLevelForAWhile(t *testing.T) {
	s := newState("info")
	s.set(zap.DebugLevel, time.Hour)
	s.Configure("error")
	if now, until, then := s.Level(); now != "debug" || then != "error" || until.IsZero() {
		t.Errorf("%s until %s, then %s; want debug, then error", now, until, then)
	}
	s.set(zap.WarnLevel, time.Millisecond) // the hour no longer counts
	for end := time.Now().Add(10 * time.Second); s.level.Level() != zap.ErrorLevel; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s, want error again", s.level)
		}
	}
	s.set(zap.InfoLevel, 0)
	if now, until, _ := s.Level(); now != "info" || !until.IsZero() {
		t.Errorf("%s until %s, want info for good", now, until)
	}
}
