package tap

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestSetUp: down and up again, with the addresses that the kernel takes away
// from a device that goes down.
func TestSetUp(t *testing.T) {
	private(t)
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
	o := Options{Name: "gnv0", Queues: 1, Addresses: want, Persist: true}
	d := open(t, o)
	for round := range 3 {
		if round == 2 { // by another process
			readers, writers := d.Queues()
			for _, fds := range [][]int{readers, writers} {
				for i, fd := range fds {
					var err error
					fds[i], err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
					must(t, err)
				}
			}
			var err error
			d, err = Adopt(o, &o, readers, writers)
			must(t, err)
			t.Cleanup(func() { d.Close() })
		}
		must(t, d.SetUp(false))
		if device(t, "gnv0").RawFlags&unix.IFF_UP != 0 {
			t.Fatal("up after SetUp(false)")
		}
		must(t, d.SetUp(true))
		if device(t, "gnv0").RawFlags&unix.IFF_UP == 0 {
			t.Fatal("not up after SetUp(true)")
		}
		have, err := netlink.AddrList(device(t, "gnv0"), netlink.FAMILY_ALL)
		must(t, err)
		for _, p := range want {
			found := false
			for _, a := range have {
				found = found || a.IPNet.String() == p.String() && a.Flags&unix.IFA_F_TENTATIVE == 0
			}
			if !found {
				t.Errorf("after down and up %s is not there: %v", p, have)
			}
		}
	}
}

// TestIsolated: the flag of the bridge port, from the beginning, later, and
// taken back from a device that is adopted; without a bridge it is refused.
func TestIsolated(t *testing.T) {
	private(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
	isolated := func(want bool) {
		t.Helper()
		port, err := netlink.LinkGetProtinfo(device(t, "gnv0"))
		must(t, err)
		if port.Isolated != want {
			t.Errorf("isolated %t, want %t", port.Isolated, want)
		}
	}
	d, err := Open(Options{Name: "gnv0", Queues: 1, Master: "br0", Isolated: true, Persist: true})
	must(t, err)
	isolated(true)
	must(t, d.SetIsolated(false))
	isolated(false)
	must(t, d.SetIsolated(true))
	isolated(true)
	must(t, d.Close())

	d = open(t, Options{Name: "gnv0", Queues: 1, Master: "br0", Persist: true})
	isolated(false)
	must(t, netlink.LinkSetNoMaster(device(t, "gnv0")))
	must(t, d.SetIsolated(false))
	if err := d.SetIsolated(true); !errors.Is(err, unix.EINVAL) {
		t.Errorf("isolated without a bridge: %v, want EINVAL", err)
	}
	if _, err := Open(Options{Name: "gnv1", Queues: 1, Isolated: true}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("opened isolated without a bridge: %v, want EINVAL", err)
	}
	if _, err := netlink.LinkByName("gnv1"); err == nil {
		t.Error("a device that could not be opened is there")
	}
}

// TestRefresh: the state is the kernel's own word, also after the device has another
// name, and the last one once it is gone.
func TestRefresh(t *testing.T) {
	private(t)
	d := open(t, Options{Name: "gnv0", Queues: 1})
	for i, name := range []string{"gnv0", "other"} {
		if name != "gnv0" {
			must(t, netlink.LinkSetName(device(t, "gnv0"), name))
		}
		want := net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}
		must(t, netlink.LinkSetHardwareAddr(device(t, name), want))
		must(t, d.Refresh())
		if got := d.LLAddr(); got.String() != want.String() {
			t.Errorf("%s: LLAddr %v, want %v", name, got, want)
		}
	}
	if got := d.State().Faults; !slices.Equal(got, []string{"device gnv0 is called other now"}) {
		t.Errorf("renamed: faults %q", got)
	}
	must(t, d.Close())
	if got := d.LLAddr().String(); got != "02:00:00:00:01:01" {
		t.Errorf("closed: LLAddr %s, want the last one known", got)
	}
	if l3 := open(t, Options{Name: "gnv1", Queues: 1, L3: true}); !l3.LLAddr().IsZero() {
		t.Errorf("a TUN has LLAddr %v", l3.LLAddr())
	}
}
