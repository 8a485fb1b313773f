package logging

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// journalSocket is where journald takes entries in its native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram each.
const journalSocket = "/run/systemd/journal/socket"

const (
	// maxJournalValue keeps an entry below the smallest default send buffer
	// (net.core.wmem_default, 212,992 bytes), so that it is one datagram.
	maxJournalValue = 8 << 10

	// A journal that takes nothing for this long must not hold up the rest of
	// the log.
	journalPatience = 100 * time.Millisecond
)

// toJournal reports whether w is connected to the journal: the variable has
// the device and inode number of the stream that systemd has made.
func toJournal(w *os.File, stream string) bool {
	var st unix.Stat_t
	if stream == "" || unix.Fstat(int(w.Fd()), &st) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journal is a connection to the journal, and another place for what it does
// not take.
type journal struct {
	conn  *net.UnixConn
	other io.Writer
}

func dialJournal(path string, other io.Writer) (*journal, error) {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return &journal{c, other}, nil
}

// priority is a level in syslog's numbers.
func priority(l zapcore.Level) string {
	switch {
	case l < zapcore.InfoLevel:
		return "7"
	case l == zapcore.InfoLevel:
		return "6"
	case l == zapcore.WarnLevel:
		return "4"
	}
	return "3"
}

// encodeJournal encodes a message for the journal, with its fields as fields of
// the journal: GVTEP_DEVICE, GVTEP_VNI, GVTEP_REMOTE and so on.
func encodeJournal(e zapcore.Entry, fields []zapcore.Field) (record, error) {
	// The fields are in the message as well: journalctl shows nothing else
	// unless it is asked to.
	message := e.Message
	var b []byte
	for _, f := range fields {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		value, ok := enc.Fields[f.Key]
		if !ok || value == nil {
			continue
		}
		text := fmt.Sprint(value)
		message += " " + f.Key + "=" + text
		b = appendJournal(b, "GVTEP_"+journalName(f.Key), text)
	}
	b = appendJournal(b, "MESSAGE", message)
	b = appendJournal(b, "PRIORITY", priority(e.Level))
	b = appendJournal(b, "SYSLOG_IDENTIFIER", "gvtep")
	return record{text: fmt.Appendf(nil, "%s %s\n", e.Level.CapitalString(), message), entry: b}, nil
}

// write sends one entry. What the journal does not take in time goes to the
// other place.
func (j *journal) write(r record) error {
	if r.entry != nil {
		j.conn.SetWriteDeadline(time.Now().Add(journalPatience))
		if _, err := j.conn.Write(r.entry); err == nil {
			return nil
		}
	}
	_, err := j.other.Write(r.text)
	return err
}

// journalName makes a field name of a key: capitals, digits and underscores.
func journalName(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

// appendJournal adds a field: NAME=VALUE and a newline, or, if there is a
// newline in the value, NAME, a newline, the length and the value.
func appendJournal(b []byte, name, value string) []byte {
	if len(value) > maxJournalValue {
		value = value[:maxJournalValue]
	}
	b = append(b, name...)
	if strings.Contains(value, "\n") {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	} else {
		b = append(b, '=')
	}
	return append(append(b, value...), '\n')
}
