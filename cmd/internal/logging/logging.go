// Package logging sets up zap: text, JSON or the journal, a level that can be changed for
// some time, and a queue, so that logging never waits for the reader of the log.
package logging

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// New logs to w, or to the journal, from a level on that can be changed. The
// format is json, console, journal or auto. Times are RFC 3339. Field names,
// everywhere: device vni remote peer mac reason err.
func New(w *os.File, level, format string) (*zap.Logger, *State, error) {
	state := newState(level)
	write := func(r record) error {
		_, err := w.Write(r.text)
		return err
	}
	encode := textEncoder(w, format)
	if format == "journal" || format == "auto" && toJournal(w, os.Getenv("JOURNAL_STREAM")) {
		switch j, err := dialJournal(journalSocket, w); {
		case err == nil:
			write, encode = j.write, encodeJournal
		case format == "journal":
			return nil, nil, fmt.Errorf("log-format journal: %w", err)
		}
	}
	return state.logger(write, encode), state, nil
}

// textEncoder encodes for files and terminals.
func textEncoder(w *os.File, format string) encodeFunc {
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "time"
	enc.EncodeTime = zapcore.RFC3339TimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if format == "console" || format == "auto" && IsTerminal(w) {
		enc.ConsoleSeparator = " "
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	return func(e zapcore.Entry, fields []zapcore.Field) (record, error) {
		b, err := encoder.EncodeEntry(e, fields)
		if err != nil {
			return record{}, err
		}
		defer b.Free()
		return record{text: bytes.Clone(b.Bytes())}, nil
	}
}

// encodeFunc encodes a message.
type encodeFunc func(zapcore.Entry, []zapcore.Field) (record, error)

// logger makes a logger that queues what encode makes of messages for write.
func (s *State) logger(write func(record) error, encode encodeFunc) *zap.Logger {
	s.queue = newQueue(write, func(lost uint64) record {
		r, _ := encode(zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: gapText}, []zapcore.Field{zap.Uint64("count", lost)})
		return r
	})
	return zap.New(&queueCore{LevelEnabler: s.level, encode: encode, queue: s.queue}, zap.Hooks(s.count))
}

// gapText is where messages are missing.
const gapText = "messages were dropped here: the log was not read fast enough, or could not be written"

// queueCore is a zapcore.Core that writes by way of a queue.
type queueCore struct {
	zapcore.LevelEnabler
	encode encodeFunc
	queue  *queue
	with   []zapcore.Field
}

func (c *queueCore) With(fields []zapcore.Field) zapcore.Core {
	return &queueCore{c.LevelEnabler, c.encode, c.queue, slices.Concat(c.with, fields)}
}

func (c *queueCore) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// Write encodes at once: what the fields point to may change later.
func (c *queueCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r, err := c.encode(e, slices.Concat(c.with, fields))
	if err == nil {
		c.queue.put(r)
	}
	return err
}

func (c *queueCore) Sync() error { return nil }

// parseLevel is a level in zap's terms; config has checked the word.
func parseLevel(word string) zapcore.Level {
	level, err := zapcore.ParseLevel(word)
	if err != nil {
		return zapcore.InfoLevel
	}
	return level
}

// levels are the levels that there are, from which messages are counted.
var levels = [...]zapcore.Level{zapcore.DebugLevel, zapcore.InfoLevel, zapcore.WarnLevel, zapcore.ErrorLevel}

// State is the level, which may be another one for a while, how many
// messages there were, and the queue that they go through.
type State struct {
	level    zap.AtomicLevel
	queue    *queue
	messages [len(levels)]atomic.Uint64

	mu    sync.Mutex
	base  zapcore.Level // what comes back
	back  *time.Timer   // when it does; nil: it is what holds
	until time.Time
}

func newState(level string) *State {
	l := parseLevel(level)
	return &State{level: zap.NewAtomicLevelAt(l), base: l}
}

// Write queues text as it is: what else goes to standard error.
func (s *State) Write(text []byte) (int, error) { return s.queue.Write(text) }

// Close waits until all is written, but not for long. What comes later is
// dropped.
func (s *State) Close() { s.queue.close() }

func (s *State) count(e zapcore.Entry) error {
	s.messages[min(int(e.Level-zapcore.DebugLevel), len(levels)-1)].Add(1)
	return nil
}

// Counts are the messages so far by level, and how many of them were dropped.
func (s *State) Counts() (logged map[string]uint64, dropped uint64) {
	logged = make(map[string]uint64, len(levels))
	for i, l := range levels {
		logged[l.String()] = s.messages[i].Load()
	}
	return logged, s.queue.dropped.Load()
}

// Configure sets the level of the configuration. One that was set for a while
// stays for the rest of it.
func (s *State) Configure(level string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = parseLevel(level)
	if s.back == nil {
		s.level.SetLevel(s.base)
	}
}

// set sets the level, for good or for a while.
func (s *State) set(level zapcore.Level, during time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back != nil {
		s.back.Stop()
		s.back = nil
	}
	s.level.SetLevel(level)
	if during == 0 {
		s.base = level
		return
	}
	s.until = time.Now().Add(during)
	var mine *time.Timer
	mine = time.AfterFunc(during, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.back == mine {
			s.back = nil
			s.level.SetLevel(s.base)
		}
	})
	s.back = mine
}

// Level is what is logged now. If that is for a while, until is when it ends
// and then what comes back; else until is zero.
func (s *State) Level() (now string, until time.Time, then string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back == nil {
		return s.level.String(), until, ""
	}
	return s.level.String(), s.until, s.base.String()
}

// MaxFor is the longest time that a level can be asked for: a year.
const MaxFor = 365 * 24 * time.Hour

// SetLevel sets the level for some seconds, or with 0 for good.
func (s *State) SetLevel(word string, seconds float64) error {
	for _, l := range levels {
		if l.String() != word {
			continue
		}
		if seconds < 0 || seconds > MaxFor.Seconds() {
			return fmt.Errorf("for %g seconds: want 0 to %.0f", seconds, MaxFor.Seconds())
		}
		s.set(l, time.Duration(seconds*float64(time.Second)))
		return nil
	}
	return fmt.Errorf("level %s: want debug, info, warn or error", word)
}

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
