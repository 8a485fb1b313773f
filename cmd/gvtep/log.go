package main

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

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

// newLogger logs to w, or to the journal, from a level on that can be changed.
// Nobody who logs waits for whoever reads the log. Times are RFC 3339. Field
// names, everywhere: device vni remote peer mac reason err.
func newLogger(w *os.File, cfg config.Log) (*zap.Logger, *logState, error) {
	state := newLogState(cfg.Level)
	write := func(r logRecord) error {
		_, err := w.Write(r.text)
		return err
	}
	encode := textEncoder(w, cfg.Format)
	if cfg.Format == "journal" || cfg.Format == "auto" && toJournal(w, os.Getenv("JOURNAL_STREAM")) {
		switch j, err := dialJournal(journalSocket, w); {
		case err == nil:
			write, encode = j.write, encodeJournal
		case cfg.Format == "journal":
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
	if format == "console" || format == "auto" && isTerminal(w) {
		enc.ConsoleSeparator = " "
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	return func(e zapcore.Entry, fields []zapcore.Field) (logRecord, error) {
		b, err := encoder.EncodeEntry(e, fields)
		if err != nil {
			return logRecord{}, err
		}
		defer b.Free()
		return logRecord{text: bytes.Clone(b.Bytes())}, nil
	}
}

// encodeFunc encodes a message.
type encodeFunc func(zapcore.Entry, []zapcore.Field) (logRecord, error)

// logger makes a logger that queues what encode makes of messages for write.
func (s *logState) logger(write func(logRecord) error, encode encodeFunc) *zap.Logger {
	s.queue = newLogQueue(write, func(lost uint64) logRecord {
		r, _ := encode(zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: logGap}, []zapcore.Field{zap.Uint64("count", lost)})
		return r
	})
	return zap.New(&queueCore{LevelEnabler: s.level, encode: encode, queue: s.queue}, zap.Hooks(s.count))
}

// logGap is where messages are missing.
const logGap = "messages were dropped here: the log was not read fast enough, or could not be written"

// queueCore is a zapcore.Core that writes by way of a queue.
type queueCore struct {
	zapcore.LevelEnabler
	encode encodeFunc
	queue  *logQueue
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

// logLevel is a level in zap's terms; config has checked the word.
func logLevel(word string) zapcore.Level {
	level, err := zapcore.ParseLevel(word)
	if err != nil {
		return zapcore.InfoLevel
	}
	return level
}

// logLevels are the levels that there are, from which messages are counted.
var logLevels = [...]zapcore.Level{zapcore.DebugLevel, zapcore.InfoLevel, zapcore.WarnLevel, zapcore.ErrorLevel}

// logState is the level, which may be another one for a while, how many
// messages there were, and the queue that they go through.
type logState struct {
	level    zap.AtomicLevel
	queue    *logQueue
	messages [len(logLevels)]atomic.Uint64

	mu    sync.Mutex
	base  zapcore.Level // what comes back
	back  *time.Timer   // when it does; nil: it is what holds
	until time.Time
}

func newLogState(level string) *logState {
	l := logLevel(level)
	return &logState{level: zap.NewAtomicLevelAt(l), base: l}
}

func (s *logState) count(e zapcore.Entry) error {
	s.messages[min(int(e.Level-zapcore.DebugLevel), len(logLevels)-1)].Add(1)
	return nil
}

// counts are the messages so far by level.
func (s *logState) counts() map[string]uint64 {
	all := make(map[string]uint64, len(logLevels))
	for i, l := range logLevels {
		all[l.String()] = s.messages[i].Load()
	}
	return all
}

// configure sets the level of the configuration. One that was set for a while
// stays for the rest of it.
func (s *logState) configure(level string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = logLevel(level)
	if s.back == nil {
		s.level.SetLevel(s.base)
	}
}

// set sets the level, for good or for a while.
func (s *logState) set(level zapcore.Level, during time.Duration) {
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

// LogLevel is part of control.Source.
func (s *logState) LogLevel() control.LogLevel {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := control.LogLevel{Level: s.level.String()}
	if s.back != nil {
		until := s.until
		l.Until, l.Then = &until, s.base.String()
	}
	return l
}

// maxLogFor is the longest time that a level can be asked for: a year.
const maxLogFor = 365 * 24 * time.Hour

// SetLogLevel is part of control.Source.
func (s *logState) SetLogLevel(w control.LogLevelWrite) error {
	for _, l := range logLevels {
		if l.String() != w.Level {
			continue
		}
		if w.For < 0 || w.For > maxLogFor.Seconds() {
			return &control.UsageError{Text: fmt.Sprintf("for %g seconds: want 0 to %.0f", w.For, maxLogFor.Seconds())}
		}
		s.set(l, time.Duration(w.For*float64(time.Second)))
		return nil
	}
	return &control.UsageError{Text: fmt.Sprintf("level %s: want debug, info, warn or error", w.Level)}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
