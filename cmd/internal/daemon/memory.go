package daemon

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/fdb"
	"gvtep/internal/netio"
	"gvtep/internal/packet"
	"gvtep/vtep"
)

// The memory of an instance is a file in its runtime directory: the next
// process goes on with the forwarding tables. It is of use only together with
// the descriptors that the service manager keeps, and like these it goes when
// the service is stopped. It is written and read line by line: with a million
// entries all of it at once would take more room than the tables.

const memoryName = "memory.json"

// memoryVersion is of the file's form: a line of JSON for the file, then for each tunnel one,
// followed by one for each entry of its table, and one that ends it. Version 1, which was all
// in one value, is read as well (memory1.go). Others are not.
const memoryVersion = 2

// memoryHead is the first line.
type memoryHead struct {
	Version int
	Saved   int64 // CLOCK_BOOTTIME in ns: nobody sets it, and it counts while the host sleeps
}

// memoryTunnel is the line of a tunnel.
type memoryTunnel struct{ Tunnel *vtep.TunnelMemory }

// memoryEnd is the last line. Without it the file is not whole.
const memoryEnd = "null\n"

func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // has no way to fail
	return ts.Nano()
}

// saveMemory writes the file; what was there before stays until it is whole.
func saveMemory(dir string, m vtep.Memory) error {
	return writeFile(filepath.Join(dir, memoryName), 0o600, func(w *bufio.Writer) error {
		lines := json.NewEncoder(w)
		if err := lines.Encode(memoryHead{memoryVersion, bootTime()}); err != nil {
			return err
		}
		var line []byte
		for tunnel, table := range m {
			if err := lines.Encode(memoryTunnel{tunnel}); err != nil {
				return err
			}
			for l := range table {
				line = appendLearned(line[:0], &l)
				if _, err := w.Write(line); err != nil {
					return err
				}
			}
		}
		_, err := w.WriteString(memoryEnd)
		return err
	})
}

// appendLearned appends the line of an entry: an array of numbers, with ages in ms.
func appendLearned(line []byte, l *vtep.Learned) []byte {
	line = append(line, '[')
	for _, n := range [...]int64{
		numberOf(l.MAC), int64(l.VLAN), int64(l.Segment), int64(l.To), int64(l.Flags), int64(l.Moves), l.Updated.Milliseconds(),
	} {
		line = append(strconv.AppendInt(line, n, 10), ',')
	}
	return append(strconv.AppendInt(line, l.Used.Milliseconds(), 10), "]\n"...)
}

// parseLearned reads such a line, without its end.
func parseLearned(line []byte) (l vtep.Learned, err error) {
	rest, begins := bytes.CutPrefix(line, []byte("["))
	rest, ends := bytes.CutSuffix(rest, []byte("]"))
	var n [8]int64
	for i := range n {
		text, after, more := bytes.Cut(rest, []byte(","))
		n[i], err = strconv.ParseInt(string(text), 10, 64)
		if !begins || !ends || err != nil || more != (i < len(n)-1) {
			return l, fmt.Errorf("not an entry: %.100q", line)
		}
		rest = after
	}
	return vtep.Learned{
		MAC: macOf(n[0]), VLAN: uint16(n[1]), Segment: packet.VNI(n[2]), To: int(n[3]), Flags: fdb.Flags(n[4]), Moves: uint16(n[5]),
		Updated: time.Duration(n[6]) * time.Millisecond, Used: time.Duration(n[7]) * time.Millisecond,
	}, nil
}

func numberOf(m packet.MAC) int64 {
	var b [8]byte
	copy(b[2:], m[:])
	return int64(binary.BigEndian.Uint64(b[:]))
}

func macOf(n int64) packet.MAC {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	return packet.MAC(b[2:])
}

// memoryFile is the file to be read. Its zero value is that of nobody.
type memoryFile struct {
	file    *os.File
	old     *memory1 // what is in it, if it is of version 1
	age     time.Duration
	devices map[string]netio.DeviceOptions // by name
	err     error                          // what ended all
}

// openMemory opens the file, and reads how old it is and of which devices it tells. No file is
// no error.
func openMemory(dir string) (*memoryFile, error) {
	m := &memoryFile{devices: make(map[string]netio.DeviceOptions)}
	var err error
	m.file, err = os.Open(filepath.Join(dir, memoryName))
	if errors.Is(err, fs.ErrNotExist) {
		return &memoryFile{}, nil
	}
	if err == nil {
		err = m.examine()
	}
	if err != nil {
		m.close()
		return &memoryFile{}, fmt.Errorf("%s: %w", memoryName, err)
	}
	return m, nil
}

func (m *memoryFile) close() { m.file.Close() }

func (m *memoryFile) examine() error {
	head, err := m.head()
	m.age = time.Duration(bootTime() - head.Saved)
	switch {
	case err != nil:
		return err
	case head.Version != memoryVersion && head.Version != 1:
		return fmt.Errorf("version %d, not %d", head.Version, memoryVersion)
	case m.age < 0:
		return errors.New("it is from before the host was started")
	case head.Version == 1:
		m.old, err = readMemory1(m.file)
	default:
		err = m.whole()
	}
	if err != nil {
		return err
	}
	for tunnel := range m.all() {
		m.devices[tunnel.Device.Name] = tunnel.Device
	}
	return m.err
}

// head reads the beginning, which is the same in all versions.
func (m *memoryFile) head() (head memoryHead, err error) {
	text := make([]byte, 100)
	n, err := m.file.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return head, err
	}
	if n, err := fmt.Sscanf(string(text[:n]), `{"Version":%d,"Saved":%d`, &head.Version, &head.Saved); n == 0 {
		return head, fmt.Errorf("it does not begin like one: %w", err)
	}
	return head, nil
}

// whole looks for the last line.
func (m *memoryFile) whole() error {
	end := make([]byte, len(memoryEnd))
	size, err := m.file.Seek(-int64(len(end)), io.SeekEnd)
	if err == nil {
		_, err = m.file.ReadAt(end, size)
	}
	if err == nil && string(end) != memoryEnd {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// all reads the memory. It ends early on an error, which is m.err then.
func (m *memoryFile) all() vtep.Memory {
	if m.old != nil {
		return m.old.all()
	}
	return func(yield func(*vtep.TunnelMemory, iter.Seq[vtep.Learned]) bool) {
		if m.file == nil {
			return
		}
		_, m.err = m.file.Seek(0, io.SeekStart)
		lines := bufio.NewScanner(m.file)
		lines.Buffer(make([]byte, 64<<10), math.MaxInt) // what was set by hand is in the line of its tunnel
		lines.Scan()                                    // the head
		here := lines.Scan()
		for here && m.err == nil && string(lines.Bytes()) != memoryEnd[:len(memoryEnd)-1] {
			var next memoryTunnel
			if m.err = json.Unmarshal(lines.Bytes(), &next); m.err != nil || next.Tunnel == nil {
				break
			}
			here = lines.Scan()
			if !yield(next.Tunnel, m.table(lines, &here)) {
				return
			}
			for here && isLearned(lines.Bytes()) { // what nobody wanted
				here = lines.Scan()
			}
		}
		m.err = cmp.Or(m.err, lines.Err())
	}
}

func isLearned(line []byte) bool { return bytes.HasPrefix(line, []byte("[")) }

// table reads the lines of a table; the last that was scanned, if any, is here.
func (m *memoryFile) table(lines *bufio.Scanner, here *bool) iter.Seq[vtep.Learned] {
	return func(yield func(vtep.Learned) bool) {
		for *here && isLearned(lines.Bytes()) {
			var l vtep.Learned
			if l, m.err = parseLearned(lines.Bytes()); m.err != nil || !yield(l) {
				return
			}
			*here = lines.Scan()
		}
	}
}

// writeFile writes a file at once: readers see the old or the new one.
func writeFile(path string, mode fs.FileMode, write func(*bufio.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 64<<10)
	err = write(w)
	err = errors.Join(err, w.Flush(), f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// recall opens the memory that another process of this instance has left.
// Only a service manager that keeps descriptors makes it of use.
func (d *daemon) recall(dir string) *memoryFile {
	if dir == "" || !d.Manager.Present() {
		return &memoryFile{}
	}
	m, err := openMemory(dir)
	if err != nil {
		d.Log.Warn("the forwarding tables begin empty", zap.NamedError("err", err))
	}
	return m
}

// remind lets an endpoint go on with a memory, which is closed afterwards.
func (d *daemon) remind(ep *vtep.Endpoint, m *memoryFile) {
	if n := ep.Recall(m.all(), m.age); n > 0 {
		d.Log.Info("the forwarding tables were kept over the restart", zap.Int("entries", n), zap.Duration("age", m.age))
	}
	if m.err != nil {
		d.Log.Warn("the rest of the forwarding tables begins empty", zap.NamedError("err", m.err))
	}
	m.close()
	m.old = nil // it can be large
}
