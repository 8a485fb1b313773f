package main

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"gvtep/config"
	"gvtep/vtep/control"
)

// newLogger logs to w, or to the journal, from a level on that can be changed.
// Times are RFC 3339. Field names, everywhere: device vni remote peer mac
// reason err.
func newLogger(w *os.File, cfg config.Log) (*zap.Logger, *logState, error) {
	state := newLogState(cfg.Level)
	count := zap.Hooks(state.count)
	if cfg.Format == "journal" || cfg.Format == "auto" && toJournal(w, os.Getenv("JOURNAL_STREAM")) {
		j, err := dialJournal(journalSocket, w)
		if err == nil {
			return zap.New(&journalCore{LevelEnabler: state.level, journal: j}, count), state, nil
		}
		if cfg.Format == "journal" {
			return zap.NewNop(), state, fmt.Errorf("log-format journal: %w", err)
		}
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "time"
	enc.EncodeTime = zapcore.RFC3339TimeEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if cfg.Format == "console" || cfg.Format == "auto" && isTerminal(w) {
		enc.ConsoleSeparator = " "
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(w), state.level), count), state, nil
}

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

// logState is the level, which may be another one for a while, and how many
// messages there were.
type logState struct {
	level    zap.AtomicLevel
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
