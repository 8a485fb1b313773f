package e2e

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture is a packet socket on one device: it keeps what passes, VLAN tags
// included, and puts frames on the device.
type capture struct {
	t    *testing.T
	name string
	fd   int
	to   unix.SockaddrLinklayer

	mu     sync.Mutex
	frames []frame
	limit  int
	total  int

	buf, oob []byte // of takeAll
}

// frame is one frame on a device.
type frame struct {
	at   time.Time
	out  bool // sent by the host, not received
	data []byte
}

// capture opens a packet socket that keeps up to limit frames.
func (h *host) capture(dev string, limit int) *capture {
	h.t.Helper()
	c := &capture{t: h.t, name: dev + " on " + h.name, limit: limit, buf: make([]byte, 1<<17), oob: make([]byte, 256)}
	c.to = unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_ALL), Ifindex: h.index(dev)}
	h.do(func() (err error) {
		// Protocol 0 until it is bound: nothing from other devices.
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		return unix.Bind(c.fd, &c.to)
	})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		c.read(stop)
	}()
	h.t.Cleanup(func() {
		close(stop)
		<-stopped
		unix.Close(c.fd)
	})
	return c
}

func swap16(n uint16) uint16 { return n<<8 | n>>8 } // the machines we run on are little-endian

func (c *capture) read(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, 50)
		c.mu.Lock()
		c.takeAll()
		c.mu.Unlock()
	}
}

// takeAll takes what the kernel has for us up to now. Who asks what has passed calls it
// too: the reader may be kept from its work, and what had passed before would come to
// light after it. c.mu is held.
func (c *capture) takeAll() {
	for begin := time.Now(); ; {
		n, oobn, _, from, err := unix.Recvmsg(c.fd, c.buf, c.oob, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // nothing is there, or the device is down for now
		}
		f := frame{at: stamp(c.oob[:oobn])}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			f.out = ll.Pkttype == unix.PACKET_OUTGOING
		}
		c.total++
		if len(c.frames) < c.limit {
			f.data = retag(slices.Clone(c.buf[:n]), c.oob[:oobn])
			c.frames = append(c.frames, f)
		}
		if f.at.After(begin) {
			return
		}
	}
}

// stamp is when the kernel saw a frame: this process may be kept from its work for a while.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		if err == nil && m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// retag puts back the VLAN tag that the kernel has taken out of a frame
// (linux/if_packet.h, struct tpacket_auxdata).
func retag(data, oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(data) < 14 {
		return data
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		tpid := uint16(0x8100)
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[18:])
		}
		return tag(data, tpid, binary.NativeEndian.Uint16(m.Data[16:]))
	}
	return data
}

// send puts a frame on the device, as if the host sent it.
func (c *capture) send(data []byte) {
	c.t.Helper()
	to := c.to // Sendto writes to it, and there may be several who send
	// ENOBUFS: the device's queue is full for a moment.
	for range 100 {
		err := unix.Sendto(c.fd, data, 0, &to)
		if err == nil {
			return
		}
		if err != unix.ENOBUFS && err != unix.EINTR {
			c.t.Fatalf("send %d bytes on %s: %v", len(data), c.name, err)
		}
		time.Sleep(time.Millisecond)
	}
	c.t.Fatalf("send on %s: no room", c.name)
}

// grow lets it keep up to limit frames.
func (c *capture) grow(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
}

// count is how many frames have passed.
func (c *capture) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takeAll()
	return c.total
}

// kept returns the frames kept that pass the test, from the one numbered
// from on; nil passes all.
func (c *capture) kept(from int, pass func(frame) bool) (all []frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takeAll()
	for _, f := range c.frames[min(from, len(c.frames)):] {
		if pass == nil || pass(f) {
			all = append(all, f)
		}
	}
	return all
}

// await waits until n frames pass the test, and returns all that do.
func (c *capture) await(timeout time.Duration, n, from int, pass func(frame) bool) []frame {
	soon(timeout, func() bool { return len(c.kept(from, pass)) >= n })
	return c.kept(from, pass)
}

// received passes frames that the host has received and that contain text.
func received(text string) func(frame) bool {
	return func(f frame) bool { return !f.out && bytes.Contains(f.data, []byte(text)) }
}

// write makes a pcap file of the frames that pass.
func (c *capture) write(pass func(frame) bool) (path string, frames int) {
	c.t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint16(le.AppendUint16(b, 2), 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(le.AppendUint32(b, 1<<18), 1) // Ethernet
	for _, f := range c.kept(0, pass) {
		frames++
		b = le.AppendUint32(b, uint32(f.at.Unix()))
		b = le.AppendUint32(b, uint32(f.at.Nanosecond()/1000))
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(f.data))), uint32(len(f.data)))
		b = append(b, f.data...)
	}
	path = filepath.Join(c.t.TempDir(), "wire.pcap")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path, frames
}
