package control

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// RunDir is where instances have their directories.
const RunDir = "/run/gvtep"

const socketName = "control.sock"

// MaxClients is how many connections are served at once; more are told so
// and closed.
const MaxClients = 64

// SocketPath is the control socket of an instance below runDir.
func SocketPath(runDir, instance string) string {
	return filepath.Join(runDir, instance, socketName)
}

// Found is an instance that has a control socket.
type Found struct {
	Name string
	PID  int   // of who serves the socket; 0: it is not known
	Err  error // why nobody can be asked; fs.ErrPermission: who runs lets us not in
}

// Live reports whether somebody serves the socket: of an instance that does not let us in we
// know that it is there.
func (f Found) Live() bool { return f.Err == nil || errors.Is(f.Err, fs.ErrPermission) }

// Find lists the instances below runDir, those included that ended without removing their socket.
func Find(runDir string) (all []Found, err error) {
	dirs, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		path := SocketPath(runDir, d.Name())
		pid, err := serving(path)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			all = append(all, Found{d.Name(), pid, err})
		}
	}
	return all, nil
}

// Instances lists the instances below runDir that answer.
func Instances(runDir string) (live []string, err error) {
	all, err := Find(runDir)
	for _, f := range all {
		if f.Live() {
			live = append(live, f.Name)
		}
	}
	return live, err
}

// InUseError says that a live process serves the socket.
type InUseError struct {
	Path string
	PID  int // 0: not known
}

func (e *InUseError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("control socket %s is served by %s: another name for this one, -i NAME, or stop that", e.Path, who)
}

// Listen makes the socket at path, its directory included, and takes it over
// from a process that is gone. Of two processes only one succeeds: the file
// path.lock is locked (flock) as long as the listener lives, whatever the way
// its process ends. A live holder makes an *InUseError. Closing removes the
// socket, the lock file and the directories that are empty then.
func Listen(path string) (net.Listener, error) {
	// sun_path has 108 bytes with its final zero (linux/un.h).
	if len(path) > 107 {
		return nil, fmt.Errorf("control socket %s: the path has %d bytes, at most 107 are possible", path, len(path))
	}
	lock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	undo := func() {
		os.Remove(lock.Name())
		RemoveDirs(path)
		lock.Close()
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		undo()
		return nil, fmt.Errorf("control socket %s: there is a file of this name that is no socket", path)
	}
	os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		undo()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		undo()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &listener{Limit(l), sync.OnceFunc(undo)}, nil
}

// lockFile makes and locks path.lock. Whoever ends removes the file, so a
// lock counts only if the file still has its name after it was got.
func lockFile(path string) (*os.File, error) {
	name := path + ".lock"
	var err error
	for i := range 100 {
		// Instances that end remove empty directories between our steps. They
		// may go on doing so: not always in step with us.
		time.Sleep(time.Duration(i) * time.Duration(rand.IntN(50)) * time.Microsecond)
		dir := filepath.Dir(path)
		if err = os.MkdirAll(filepath.Dir(dir), 0o755); errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			break
		}
		if err = os.Mkdir(dir, 0o750); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			break
		}
		var f *os.File
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			break
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, &InUseError{Path: path, PID: holder(path)}
			}
			return nil, fmt.Errorf("control socket: lock %s: %w", name, err)
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(name)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
		err = errors.Join(err1, err2)
	}
	return nil, fmt.Errorf("control socket: %w", err)
}

// holder asks the kernel who listens at path, 0 if nobody does.
func holder(path string) int {
	pid, _ := serving(path)
	return pid
}

// ServedBy is the process that serves the control socket at path; 0: nobody, or one in another PID
// namespace.
func ServedBy(path string) int { return holder(path) }

// serving asks the kernel who listens at path. It is 0 where that is in another PID namespace.
func serving(path string) (pid int, err error) {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid, nil
}

// allowed is who may connect to the socket at path: the group of its directory, if that is not
// root's.
func allowed(path string) string {
	var st unix.Stat_t
	if unix.Stat(filepath.Dir(path), &st) != nil || st.Gid == 0 {
		return "root"
	}
	name := strconv.Itoa(int(st.Gid))
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	return "root or a member of group " + name
}

// RemoveDirs removes the directory of an instance with the socket at path and
// the one above, as far as they are empty and look like ours. Closing the
// listener does so too; it is for who has had files there for longer.
func RemoveDirs(path string) {
	if filepath.Base(path) != socketName {
		return // a path of the user's own choice
	}
	dir := filepath.Dir(path)
	if os.Remove(dir) == nil && filepath.Base(filepath.Dir(dir)) == filepath.Base(RunDir) {
		os.Remove(filepath.Dir(dir))
	}
}

// listener is the control socket.
type listener struct {
	net.Listener // limited
	undo         func()
}

// limited limits the number of connections.
type limited struct {
	net.Listener
	clients atomic.Int32
}

// Limit serves MaxClients connections of l at once.
func Limit(l net.Listener) net.Listener { return &limited{Listener: l} }

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.clients.Add(1) <= MaxClients {
			return &conn{Conn: c, done: sync.OnceFunc(func() { l.clients.Add(-1) })}, nil
		}
		// A queue would let clients that say nothing keep out all others for
		// as long as they like.
		l.clients.Add(-1)
		c.SetDeadline(time.Now().Add(time.Second))
		c.Write([]byte(busyAnswer()))
		c.Close()
	}
}

// busyAnswer is what a client over the limit gets.
func busyAnswer() string {
	const body = `{"error":"too many clients"}` + "\n"
	return fmt.Sprintf("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	l.undo()
	return err
}

type conn struct {
	net.Conn
	done func()
}

// mayWrite reports whether the other end may change things: root and the user
// that the daemon runs as. Others that file permissions let in may look.
func (c *conn) mayWrite() bool {
	uid, ok := c.peer()
	return ok && (uid == 0 || uid == os.Geteuid())
}

// caller is the process at the other end. What it is called is read from /proc, which may hide it.
func (c *conn) caller() (who Caller, ok bool) {
	cred, ok := c.credentials()
	if !ok {
		return Caller{}, false
	}
	who = Caller{PID: int(cred.Pid), UID: int(cred.Uid)}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", who.PID))
	if err == nil {
		who.Command = commandLine(text)
	}
	return who, true
}

// maxCommand is how many characters of a command line are told.
const maxCommand = 200

// commandLine makes one line of the words that a process was started with.
func commandLine(words []byte) string {
	text := []rune(strings.Map(func(r rune) rune {
		switch {
		case r == 0:
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, strings.TrimRight(string(words), "\x00")))
	if len(text) > maxCommand {
		text = append(text[:maxCommand-1], '…')
	}
	return string(text)
}

func (c *conn) isRoot() bool {
	uid, ok := c.peer()
	return ok && uid == 0
}

// peer is the user at the other end.
func (c *conn) peer() (uid int, ok bool) {
	cred, ok := c.credentials()
	if !ok {
		return 0, false
	}
	return int(cred.Uid), true
}

// credentials are those of the other end, which only a unix socket knows.
func (c *conn) credentials() (cred *unix.Ucred, ok bool) {
	u, ok := c.Conn.(*net.UnixConn)
	if !ok {
		return nil, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, false
	}
	raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	return cred, err == nil
}

func (c *conn) Close() error {
	c.done()
	return c.Conn.Close()
}
