package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal and the screen that it shows: of the control sequences of an xterm
// those that programs of ours use, colors apart. An unknown one fails the test.
type terminal struct {
	*program
	t    *testing.T
	keys *os.File // what is written here was typed

	mu            sync.Mutex
	cells         [][]rune
	x, y          int
	last          rune
	other, hidden bool // the alternate screen is shown, the cursor is hidden
	rest          []byte
	unknown       []string
}

// terminal starts a program on a terminal of so many columns and lines.
func (h *host) terminal(width, height int, name string, args ...string) *terminal {
	h.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer slave.Close()
	s := &terminal{t: h.t, keys: master}
	s.resize(width, height)
	s.program = h.start(func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stdout = slave, slave
		cmd.Env = append(cmd.Env, "TERM=xterm-256color", "COLORTERM=", "NO_COLOR=")
		cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	}, name, args...)
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 64<<10)
		for {
			n, err := master.Read(b)
			s.write(b[:n])
			if err != nil { // EIO: the program has ended
				return
			}
		}
	}()
	h.t.Cleanup(func() {
		s.end(syscall.SIGKILL, 10*time.Second)
		master.Close()
		<-read
		if h.t.Failed() {
			h.t.Logf("the screen:\n%s", s.String())
		}
	})
	return s
}

// resize gives it another size, of which the program is told.
func (s *terminal) resize(width, height int) {
	s.t.Helper()
	s.mu.Lock()
	s.cells = make([][]rune, height)
	for y := range s.cells {
		s.cells[y] = []rune(strings.Repeat(" ", width))
	}
	s.x, s.y = 0, 0
	s.mu.Unlock()
	if err := unix.IoctlSetWinsize(int(s.keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		s.t.Fatal(err)
	}
}

// press types keys.
func (s *terminal) press(keys string) {
	s.t.Helper()
	if _, err := s.keys.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// settings are those of the terminal, such as whether it echoes.
func (s *terminal) settings() unix.Termios {
	s.t.Helper()
	now, err := unix.IoctlGetTermios(int(s.keys.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *now
}

// String is what the screen shows, without blanks at the ends of lines.
func (s *terminal) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unknown) > 0 {
		s.t.Errorf("the terminal does not know %q", s.unknown)
		s.unknown = nil
	}
	lines := make([]string, len(s.cells))
	for y, l := range s.cells {
		lines[y] = strings.TrimRight(string(l), " ")
	}
	return strings.Join(lines, "\n")
}

// state is whether the alternate screen is shown, and whether the cursor is hidden.
func (s *terminal) state() (other, hidden bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.other, s.hidden
}

// write takes what a program has written. A sequence may come in parts.
func (s *terminal) write(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b = append(s.rest, b...)
	for len(b) > 0 {
		n := s.take(b)
		if n == 0 {
			break
		}
		b = b[n:]
	}
	s.rest = bytes.Clone(b)
}

// take takes one character or sequence, and returns its length: 0 if it is not whole.
func (s *terminal) take(b []byte) int {
	height, width := len(s.cells), len(s.cells[0])
	switch b[0] {
	case '\r':
		s.x = 0
	case '\n':
		s.down()
	case '\b':
		s.x = max(0, s.x-1)
	case '\t':
		s.x = min(width-1, s.x/8*8+8)
	case '\a', 0:
	case '\x1b':
		return s.escape(b)
	default:
		if !utf8.FullRune(b) {
			return 0
		}
		r, n := utf8.DecodeRune(b)
		if s.x >= width { // behind the last column it goes on in the next line
			s.x = 0
			s.down()
		}
		s.y = min(s.y, height-1)
		s.cells[s.y][s.x] = r
		s.x++
		s.last = r
		return n
	}
	return 1
}

func (s *terminal) down() {
	if s.y < len(s.cells)-1 {
		s.y++
		return
	}
	s.scroll(0, 1)
}

// scroll takes n lines out at a line and appends empty ones; less than 0, it inserts them.
func (s *terminal) scroll(at, n int) {
	width := len(s.cells[0])
	for ; n > 0; n-- {
		copy(s.cells[at:], s.cells[at+1:])
		s.cells[len(s.cells)-1] = []rune(strings.Repeat(" ", width))
	}
	for ; n < 0; n++ {
		copy(s.cells[at+1:], s.cells[at:])
		s.cells[at] = []rune(strings.Repeat(" ", width))
	}
}

// escape takes a sequence.
func (s *terminal) escape(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '[':
		for i, c := range b[2:] {
			if c >= 0x40 && c <= 0x7e {
				s.control(string(b[2:2+i]), c)
				return i + 3
			}
		}
		return 0
	case ']', 'P', '_': // a title and the like, until BEL or ST
		for i := range b {
			if b[i] == '\a' {
				return i + 1
			} else if i > 1 && b[i] == '\\' && b[i-1] == '\x1b' {
				return i + 1
			}
		}
		return 0
	case 'M':
		if s.y > 0 {
			s.y--
		} else {
			s.scroll(0, -1)
		}
	case '=', '>', '7', '8':
	default:
		s.unknown = append(s.unknown, string(b[:2]))
	}
	return 2
}

// control does what a control sequence says (ECMA-48, and ctlseqs of xterm).
func (s *terminal) control(parameters string, final byte) {
	height, width := len(s.cells), len(s.cells[0])
	var n []int
	for _, f := range strings.Split(parameters, ";") {
		v, _ := strconv.Atoi(f)
		n = append(n, v)
	}
	n = append(n, 0)
	count := max(1, n[0])
	s.x, s.y = min(s.x, width-1), min(s.y, height-1)
	line := s.cells[s.y]
	blank := func(cells []rune) {
		for i := range cells {
			cells[i] = ' '
		}
	}
	private := strings.ContainsAny(parameters, "?<=>$ ")
	switch {
	case final == 'h' || final == 'l':
		switch parameters {
		case "?1049":
			s.other = final == 'h'
			for y := range s.cells {
				blank(s.cells[y])
			}
		case "?25":
			s.hidden = final == 'l'
		}
	case private, strings.IndexByte("mntcqr", final) >= 0: // colors, questions, and what is not shown
	case final == 'A':
		s.y = max(0, s.y-count)
	case final == 'B', final == 'e':
		s.y = min(height-1, s.y+count)
	case final == 'C', final == 'a':
		s.x = min(width-1, s.x+count)
	case final == 'D':
		s.x = max(0, s.x-count)
	case final == 'G', final == '`':
		s.x = min(width, count) - 1
	case final == 'd':
		s.y = min(height, count) - 1
	case final == 'H', final == 'f':
		s.y, s.x = min(height, count)-1, min(width, max(1, n[1]))-1
	case final == 'J':
		for y := range s.cells {
			if n[0] == 2 || n[0] == 0 && y > s.y || n[0] == 1 && y < s.y {
				blank(s.cells[y])
			}
		}
		s.erase(line, n[0], blank)
	case final == 'K':
		s.erase(line, n[0], blank)
	case final == 'X':
		blank(line[s.x:min(width, s.x+count)])
	case final == 'P':
		copy(line[s.x:], line[min(width, s.x+count):])
		blank(line[max(s.x, width-count):])
	case final == '@':
		copy(line[min(width, s.x+count):], line[s.x:])
		blank(line[s.x:min(width, s.x+count)])
	case final == 'b':
		for range count {
			s.take([]byte(string(s.last)))
		}
	case final == 'L':
		s.scroll(s.y, -count)
	case final == 'M':
		s.scroll(s.y, count)
	case final == 'S':
		s.scroll(0, count)
	case final == 'T':
		s.scroll(0, -count)
	default:
		s.unknown = append(s.unknown, "\x1b["+parameters+string(final))
	}
}

// erase clears a line behind the cursor (0), before it (1) or all of it.
func (s *terminal) erase(line []rune, which int, blank func([]rune)) {
	switch which {
	case 0:
		blank(line[s.x:])
	case 1:
		blank(line[:s.x+1])
	default:
		blank(line)
	}
}

// TestTerminal: the screen is that of an xterm.
func TestTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"abc\r\ndef":                 "abc\ndef\n",
		"abcdefghij":                 "abcdefgh\nij\n",
		"a\x1b[2;3Hb\x1b[Hc":         "c\n  b\n",
		"abc\x1b[2D\x1b[K":           "a\n\n",
		"abcdef\x1b[3D\x1b[1K":       "    ef\n\n",
		"abc\r\x1b[2Pd":              "d\n\n",
		"abc\r\x1b[2@":               "  abc\n\n",
		"abc\r\x1b[2X":               "  c\n\n",
		"a\x1b[3b":                   "aaaa\n\n",
		"a\r\nb\r\nc\r\nd":           "b\nc\nd",
		"a\r\nb\r\nc\x1b[H\x1b[M":    "b\nc\n",
		"a\r\nb\x1b[H\x1b[Lx":        "x\na\nb",
		"a\x1b[?1049hb\x1b[2J\x1b[A": "\n\n",
		"a\x1b]0;title\x07b\tc":      "ab     c\n\n",
		"\x1b[31mred\x1b[0m ↑":       "red ↑\n\n",
	} {
		s := &terminal{t: t, cells: [][]rune{[]rune("        "), []rune("        "), []rune("        ")}}
		for _, b := range []byte(text) { // as it may come
			s.write([]byte{b})
		}
		if got := s.String(); got != want {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
}
