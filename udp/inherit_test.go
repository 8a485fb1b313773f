package udp

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kept duplicates the sockets of a listener, as whoever keeps them has them, and
// closes the listener.
func kept(t *testing.T, l *Listener) (fds []int) {
	t.Helper()
	for _, fd := range l.Sockets() {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		must(t, err)
		fds = append(fds, dup)
	}
	must(t, l.Close())
	return fds
}

func inodes(t *testing.T, fds []int) (all []uint64) {
	t.Helper()
	for _, fd := range fds {
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		all = append(all, st.Ino)
	}
	return all
}

// TestInherit: Listen goes on with sockets that fit, in their order, with what
// waits in them, and with no others.
func TestInherit(t *testing.T) {
	n := newNetwork(t)
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for _, c := range []struct {
		name          string
		before, after ListenOptions
		fits          bool
	}{
		{"the same", ListenOptions{Local: any4, Port: 6081}, ListenOptions{Local: any4, Port: 6081}, true},
		{"IPv6", ListenOptions{Local: any6, Port: 6081}, ListenOptions{Local: any6, Port: 6081}, true},
		{"on a device", ListenOptions{Local: any4, Port: 6081, Device: "v0"}, ListenOptions{Local: any4, Port: 6081, Device: "v0"}, true},
		{"a group", ListenOptions{Group: netip.MustParseAddr("239.1.1.1"), Port: 6081, Device: "v0"},
			ListenOptions{Group: netip.MustParseAddr("239.1.1.1"), Port: 6081, Device: "v0"}, true},
		{"another port", ListenOptions{Local: any4, Port: 6081}, ListenOptions{Local: any4, Port: 6082}, false},
		{"another address", ListenOptions{Local: any4, Port: 6081}, ListenOptions{Local: netip.MustParseAddr("10.9.0.1"), Port: 6081}, false},
		{"another family", ListenOptions{Local: any4, Port: 6081}, ListenOptions{Local: any6, Port: 6081}, false},
		{"no longer on a device", ListenOptions{Local: any4, Port: 6081, Device: "v0"}, ListenOptions{Local: any4, Port: 6081}, false},
		{"now on a device", ListenOptions{Local: any4, Port: 6081}, ListenOptions{Local: any4, Port: 6081, Device: "v0"}, false},
		{"with checksums 0", ListenOptions{Local: any6, Port: 6081}, ListenOptions{Local: any6, Port: 6081, ZeroCsum6: true}, false},
	} {
		// No subtests: those are goroutines, and so elsewhere than in the network.
		first, err := newUnderlay(t, Config{Workers: 2}).Listen(c.before)
		must(t, err)
		fds := kept(t, first)
		was := inodes(t, fds)
		u := newUnderlay(t, Config{Workers: 2})
		u.Inherit(fds)
		second, err := u.Listen(c.after)
		if !c.fits && err != nil {
			// In the way as long as they are there.
			u.Disown()
			second, err = u.Listen(c.after)
		}
		must(t, err)
		if now := inodes(t, second.Sockets()); slices.Equal(now, was) != c.fits {
			t.Errorf("%s: sockets %v, before %v; want the same: %t", c.name, now, was, c.fits)
		}
		u.Disown()
		must(t, second.Close())
	}

	// What waits is received; others workers than before get sockets of their own.
	first, err := newUnderlay(t, Config{Workers: 1}).Listen(ListenOptions{Local: any4, Port: 6081})
	must(t, err)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(s)
	must(t, unix.Sendto(s, []byte("waits"), 0, &unix.SockaddrInet4{Port: 6081, Addr: [4]byte{127, 0, 0, 1}}))
	u := newUnderlay(t, Config{Workers: 3})
	u.Inherit(kept(t, first))
	second, err := u.Listen(ListenOptions{Local: any4, Port: 6081})
	must(t, err)
	trains, _, err := second.Receiver(0).Receive(room())
	must(t, err)
	if len(trains) != 1 || string(trains[0].Data) != "waits" {
		t.Errorf("received %v, want what waited", trains)
	}
	for w := range 3 {
		if second.Receiver(w) == nil {
			t.Errorf("worker %d has no socket", w)
		}
	}
	fds := kept(t, second)

	// Those of another namespace, though they have the same address.
	must(t, netns.Set(n.there))
	defer netns.Set(n.here)
	u = newUnderlay(t, Config{Workers: 1})
	u.Inherit(fds)
	third, err := u.Listen(ListenOptions{Local: any4, Port: 6081})
	must(t, err)
	if slices.Contains(fds, third.Sockets()[0]) {
		t.Error("a socket of another network namespace was taken")
	}
}
