package main

import (
	"fmt"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// newLogger logs to w. Times are RFC 3339. Field names, everywhere: device vni
// remote peer mac reason err.
func newLogger(w *os.File, format, level string) (*zap.Logger, error) {
	lvl, err := zapcore.ParseLevel(level)
	if err != nil || lvl > zapcore.ErrorLevel {
		return nil, fmt.Errorf("--log-level %s: want debug, info, warn or error", level)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "time"
	enc.EncodeTime = zapcore.RFC3339TimeEncoder
	var encoder zapcore.Encoder
	switch format {
	case "auto":
		if !isTerminal(w) {
			encoder = zapcore.NewJSONEncoder(enc)
			break
		}
		fallthrough
	case "console":
		enc.ConsoleSeparator = " "
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	case "json":
		encoder = zapcore.NewJSONEncoder(enc)
	default:
		return nil, fmt.Errorf("--log-format %s: want auto, console or json", format)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(w), lvl)), nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
