package spec

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is what keeps a tunnel, or a change of it, from being made. Files, commands and the
// endpoint share this one form.
type Error struct {
	Device string     // the tunnel; "": the text names all that there is to name
	Key    string     // the keyword at fault, or ""
	Text   string     // what was wrong and what to try, without Device
	Errno  unix.Errno // EINVAL: the words are wrong; 0: none
	Cause  error      // what the text was made of, or nil
}

func (e *Error) Error() string {
	if e.Device == "" {
		return e.Text
	}
	return e.Device + ": " + e.Text
}

func (e *Error) Unwrap() (all []error) {
	if e.Errno != 0 {
		all = append(all, e.Errno)
	}
	if e.Cause != nil {
		all = append(all, e.Cause)
	}
	return all
}

// Wrong is the error for words that make no sense.
func Wrong(format string, args ...any) *Error {
	return &Error{Text: fmt.Sprintf(format, args...), Errno: unix.EINVAL}
}

// Exists, NotFound and Busy have the words of the kernel, which scripts look for, and say
// more in brackets, unless hint is empty.

// Exists is the error for what is there already.
func Exists(hint string) *Error { return refusal("File exists", hint, unix.EEXIST) }

// NotFound is the error for what is not there.
func NotFound(hint string) *Error { return refusal("No such file or directory", hint, unix.ENOENT) }

// NoTunnel is the error for the name of no tunnel.
func NoTunnel(name string) *Error { return NotFound("there is no tunnel " + name) }

// Busy is the error for a keyword that cannot change while the tunnel is there.
func Busy(key string) *Error {
	e := refusal(key+": Device or resource busy", "it cannot change while the tunnel is there: tunnel del, tunnel add", unix.EBUSY)
	e.Key = key
	return e
}

func refusal(words, hint string, errno unix.Errno) *Error {
	if hint != "" {
		words += " (" + hint + ")"
	}
	return &Error{Text: words, Errno: errno}
}

// About returns err as one of a tunnel, unless it is nil.
func About(device string, err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for strings.HasPrefix(text, device+": ") {
		text = text[len(device)+2:]
	}
	e := &Error{Device: device, Text: text, Cause: err}
	if inner := new(Error); errors.As(err, &inner) {
		e.Key, e.Errno = inner.Key, inner.Errno
	}
	return e
}

// Reason returns err without the name of the tunnel that it is about, for those who said it.
func Reason(err error) error {
	e := new(Error)
	if !errors.As(err, &e) || e.Device == "" {
		return err
	}
	return &Error{Key: e.Key, Text: strings.TrimPrefix(err.Error(), e.Device+": "), Errno: e.Errno, Cause: err}
}
