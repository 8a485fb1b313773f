package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"gvtep/vtep"
)

// The memory of an instance is a file in its runtime directory: the next
// process goes on with the forwarding tables. It is of use only together with
// the descriptors that the service manager keeps, and like these it goes when
// the service is stopped.

const memoryName = "memory.json"

// memoryVersion is of the file's form. Another one is not read.
const memoryVersion = 1

// memoryFile is the file.
type memoryFile struct {
	Version int
	Saved   int64 // CLOCK_BOOTTIME in ns: nobody sets it, and it counts while the host sleeps
	Memory  vtep.Memory
}

func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // has no way to fail
	return ts.Nano()
}

// saveMemory writes the file; what was there before stays until it is whole.
func saveMemory(dir string, m vtep.Memory) error {
	text, err := json.Marshal(memoryFile{memoryVersion, bootTime(), m})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, memoryName), text, 0o600)
}

// loadMemory reads the file and says how old it is. No file is no error.
func loadMemory(dir string) (m vtep.Memory, age time.Duration, err error) {
	text, err := os.ReadFile(filepath.Join(dir, memoryName))
	if errors.Is(err, fs.ErrNotExist) {
		return m, 0, nil
	}
	var f memoryFile
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	age = time.Duration(bootTime() - f.Saved)
	switch {
	case err != nil:
		return m, 0, fmt.Errorf("%s: %w", memoryName, err)
	case f.Version != memoryVersion:
		return m, 0, fmt.Errorf("%s has version %d, not %d", memoryName, f.Version, memoryVersion)
	case age < 0:
		return m, 0, fmt.Errorf("%s is from before the host was started", memoryName)
	}
	return f.Memory, age, nil
}

// writeFile writes a file at once: readers see the old or the new one.
func writeFile(path string, text []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// recall reads the memory that another process of this instance has left.
// Only a service manager that keeps descriptors makes it of use.
func (d *daemon) recall(dir string) (m vtep.Memory, age time.Duration) {
	if dir == "" || !d.Manager.Present() {
		return m, 0
	}
	m, age, err := loadMemory(dir)
	if err != nil {
		d.Log.Warn("the forwarding tables begin empty", zap.NamedError("err", err))
	}
	return m, age
}
