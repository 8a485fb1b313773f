package udp

import (
	"context"
	"encoding/binary"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
	"gvtep/internal/packet"
)

// TestParseICMP: what quotes a UDP datagram whole enough, and nothing else.
func TestParseICMP(t *testing.T) {
	v4 := func(kind, code byte, word uint32, options int) []byte {
		b := append([]byte{kind, code, 0, 0}, binary.BigEndian.AppendUint32(nil, word)...)
		ip := make([]byte, 20+options)
		ip[0], ip[9] = byte(0x40+len(ip)/4), unix.IPPROTO_UDP
		copy(ip[16:], []byte{192, 0, 2, 9})
		return append(append(b, ip...), 0xc0, 0, 0x17, 0xc1, 0, 8, 0, 0)
	}
	v6 := func(kind, code byte, word uint32) []byte {
		b := append([]byte{kind, code, 0, 0}, binary.BigEndian.AppendUint32(nil, word)...)
		ip := make([]byte, 40)
		ip[0], ip[6] = 0x60, unix.IPPROTO_UDP
		copy(ip[24:], netip.MustParseAddr("fd00::9").AsSlice())
		return append(append(b, ip...), 0xc0, 0, 0x17, 0xc1, 0, 8, 0, 0)
	}
	for _, tc := range []struct {
		name string
		b    []byte
		v6   bool
		to   string // "": it is nothing
		text string
	}{
		{"port", v4(3, 3, 0, 0), false, "192.0.2.9:6081", "port unreachable"},
		{"options of the quoted header", v4(3, 13, 0, 8), false, "192.0.2.9:6081", "communication prohibited"},
		{"too big", v4(3, 4, 1400, 0), false, "192.0.2.9:6081", "packet too big, MTU 1400"},
		{"something new", v4(3, 99, 0, 0), false, "192.0.2.9:6081", "ICMP type 3 code 99"},
		{"cut off", v4(3, 3, 0, 0)[:30], false, "", ""},
		{"IPv6 port", v6(1, 4, 0), true, "[fd00::9]:6081", "port unreachable"},
		{"IPv6 too big", v6(2, 0, 1280), true, "[fd00::9]:6081", "packet too big, MTU 1280"},
		{"IPv6 cut off", v6(1, 4, 0)[:50], true, "", ""},
	} {
		got, port, ok := parseICMP(tc.b, tc.v6)
		if !ok || tc.to == "" {
			if ok != (tc.to != "") {
				t.Errorf("%s: %v, %t", tc.name, got, ok)
			}
			continue
		}
		if got.To.String() != tc.to || got.String() != tc.text || port != 49152 {
			t.Errorf("%s: to %s, %q, from port %d; want %s, %q", tc.name, got.To, got, port, tc.to, tc.text)
		}
	}
}

// TestErrors: the answer of a host on whose port nobody listens is heard and says who gave it,
// for both families; an answer to another program is not.
func TestErrors(t *testing.T) {
	families(t, func(t *testing.T, n *network, family int, local, remote netip.Addr) {
		u := newUnderlay(t, Config{Workers: 1})
		ctx, cancel := context.WithCancel(context.Background())
		heard, done := make(chan netio.ICMP, 10), make(chan error, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread is in the namespace
			if err := netns.Set(n.here); err != nil {
				done <- err
				return
			}
			done <- u.Errors(ctx, func(m netio.ICMP) { heard <- m })
		}()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		set, err := u.Ports(fixed(family, 1))
		must(t, err)
		s := u.Sender(0)
		path := &packet.Path{Set: set, Remote: netip.AddrPortFrom(remote, 6999)}
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			s.Add(path, 0, 0, 0, []byte("to nobody"), nil)
			s.Flush()
			select {
			case m := <-heard:
				if m.From != remote || m.To != path.Remote || m.String() != "port unreachable" || m.IPv6 != (family == 6) {
					t.Errorf("%+v, want port unreachable from %s", m, remote)
				}
				return
			case err := <-done:
				done <- err
				t.Fatal(err)
			case <-time.After(100 * time.Millisecond): // the socket may not have been open yet
			}
		}
		t.Error("nothing heard")
	})
}
