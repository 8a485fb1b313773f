package tap

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gvtep/internal/netio"
)

// watched runs a watcher in the namespace of the test, on its own thread, and
// returns the notes that it has made so far.
func watched(t *testing.T, devices ...*Device) (w *Watcher, notes func() []Note) {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	w = NewWatcher()
	for _, d := range devices {
		w.Add(d)
	}
	ctx, stop := context.WithCancel(context.Background())
	var mu sync.Mutex
	var all []Note
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := netns.Set(here); err != nil {
			t.Error(err)
			return
		}
		w.Run(ctx, func() {}, func(n Note) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, n)
		})
	}()
	t.Cleanup(func() { stop(); <-done; here.Close() })
	becomes(t, "watching", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.running })
	return w, func() []Note {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// becomes waits for what the watcher does by itself.
func becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// addresses lists those of a device, without the link-local one.
func addresses(t testing.TB, name string) (list []string) {
	t.Helper()
	all, err := netlink.AddrList(device(t, name), netlink.FAMILY_ALL)
	must(t, err)
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			list = append(list, a.IPNet.String())
		}
		if a.Flags&unix.IFA_F_TENTATIVE != 0 && !a.IP.IsLinkLocalUnicast() {
			t.Errorf("%s is tentative", a.IPNet)
		}
	}
	slices.Sort(list)
	return list
}

func sysctl(t testing.TB, key, value string) {
	t.Helper()
	// Through the thread: the first thread of the process is in another namespace.
	must(t, os.WriteFile("/proc/sys/"+key, []byte(value), 0))
}

// TestAddressesHeld: what the kernel removes as a side effect comes back, whether the cause
// lasts or is over at once, and what is deleted by hand stays away.
func TestAddressesHeld(t *testing.T) {
	const off = "net/ipv6/conf/gnv0/disable_ipv6"
	mtu := func(n int) func(testing.TB) {
		return func(t testing.TB) { must(t, netlink.LinkSetMTU(device(t, "gnv0"), n)) }
	}
	up := func(t testing.TB) { must(t, netlink.LinkSetUp(device(t, "gnv0"))) }
	down := func(t testing.TB) { must(t, netlink.LinkSetDown(device(t, "gnv0"))) }
	for _, c := range []struct {
		name     string
		do, undo func(testing.TB)
		fault    string
	}{
		{name: "MTU", do: mtu(1200), undo: mtu(1400), fault: "device gnv0 lacks addresses 2001:db8::1/64, 2001:db8:1::1/64: IPv6 needs an MTU of 1280 or more"},
		{name: "down", do: down, undo: up},
		{name: "disable_ipv6", do: func(t testing.TB) { sysctl(t, off, "1") }, undo: func(t testing.TB) { sysctl(t, off, "0") },
			fault: "device gnv0 lacks addresses 2001:db8::1/64, 2001:db8:1::1/64: IPv6 is switched off on the device (sysctl disable_ipv6)"},
	} {
		for _, llMode := range []string{"0", "1"} { // with a link-local address and without
			t.Run(c.name+", addr_gen_mode "+llMode, func(t *testing.T) {
				private(t)
				sysctl(t, "net/ipv6/conf/default/addr_gen_mode", llMode)
				o := Options{Name: "gnv0", Queues: 1, Addresses: []netip.Prefix{
					netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64"), netip.MustParsePrefix("2001:db8:1::1/64")}}
				d := open(t, o)
				_, notes := watched(t, d)
				all := addresses(t, "gnv0")
				if len(all) != 3 {
					t.Fatalf("addresses %q at first", all)
				}
				if f := d.State().Faults; len(f) != 0 {
					t.Fatalf("faults %q at first", f)
				}
				for round := range 3 { // the last two at once
					c.do(t)
					if round == 0 {
						var want []string
						if c.fault != "" {
							want = []string{c.fault}
						}
						shows := func() bool { s := d.State(); return slices.Equal(s.Faults, want) && s.Up == (want != nil) }
						becomes(t, "down, or "+c.fault, shows)
						time.Sleep(2 * grace) // and it stays so
						if !shows() {
							t.Errorf("state %+v, want down or %q", d.State(), c.fault)
						}
					}
					c.undo(t)
					becomes(t, "the addresses are back", func() bool { return slices.Equal(addresses(t, "gnv0"), all) })
					becomes(t, "no fault", func() bool { return len(d.State().Faults) == 0 })
					becomes(t, "a note of it", func() bool { return len(notes()) == round+1 })
				}
				for _, n := range notes() {
					if n.Err != nil || n.Device != "gnv0" || len(n.Addresses) != 2 {
						t.Errorf("note %+v, want one of two addresses", n)
					}
				}

				// By hand: it stays away, whatever happens afterwards.
				must(t, netlink.AddrDel(device(t, "gnv0"), address(o.Addresses[1])))
				byHand := "device gnv0 lacks address 2001:db8::1/64: it was deleted by hand"
				becomes(t, byHand, func() bool { return slices.Equal(d.State().Faults, []string{byHand}) })
				c.do(t)
				c.undo(t)
				becomes(t, "the other one is back", func() bool {
					return slices.Equal(addresses(t, "gnv0"), []string{"192.0.2.1/24", "2001:db8:1::1/64"})
				})
				time.Sleep(2 * grace)
				if got := addresses(t, "gnv0"); len(got) != 2 {
					t.Errorf("addresses %q, want that deleted by hand away", got)
				}
				if f := d.State().Faults; !slices.Equal(f, []string{byHand}) {
					t.Errorf("faults %q, want %q", f, byHand)
				}

				// A flush takes all, and none comes back before it is asked for.
				for _, a := range o.Addresses {
					netlink.AddrDel(device(t, "gnv0"), address(a))
				}
				becomes(t, "all missing", func() bool {
					f := d.State().Faults
					return len(f) == 1 && strings.Contains(f[0], "192.0.2.1/24, 2001:db8::1/64, 2001:db8:1::1/64: it was deleted by hand")
				})
				must(t, d.Restore())
				if got := addresses(t, "gnv0"); !slices.Equal(got, all) {
					t.Errorf("restored: addresses %q, want %q", got, all)
				}
				if f := d.State().Faults; len(f) != 0 {
					t.Errorf("restored: faults %q", f)
				}
			})
		}
	}
}

// TestWatch: what others do to a device shows in its state.
func TestWatch(t *testing.T) {
	private(t)
	for _, name := range []string{"br0", "br1"} {
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	}
	d := open(t, Options{Name: "gnv0", Queues: 1, Master: "br0", Isolated: true, MTU: 1400})
	watched(t, d)
	becomes(t, "no faults at first", func() bool { return len(d.State().Faults) == 0 })
	link := func() netlink.Link { return device(t, "gnv0") }
	for _, c := range []struct {
		what string
		do   func() error
		is   func(netio.DeviceState) bool
	}{
		{"MAC", func() error { return netlink.LinkSetHardwareAddr(link(), net.HardwareAddr{2, 0, 0, 0, 0, 9}) },
			func(s netio.DeviceState) bool { return s.LLAddr.String() == "02:00:00:00:00:09" }},
		{"MTU", func() error { return netlink.LinkSetMTU(link(), 1300) }, func(s netio.DeviceState) bool { return s.MTU == 1300 }},
		{"not isolated", func() error { return netlink.LinkSetIsolated(link(), false) },
			func(s netio.DeviceState) bool {
				return slices.Equal(s.Faults, []string{"device gnv0 is not isolated in bridge br0"})
			}},
		{"isolated", func() error { return netlink.LinkSetIsolated(link(), true) }, func(s netio.DeviceState) bool { return len(s.Faults) == 0 && s.Bridged }},
		{"no bridge", func() error { return netlink.LinkSetNoMaster(link()) },
			func(s netio.DeviceState) bool {
				return !s.Bridged && slices.Equal(s.Faults, []string{"device gnv0 is not in bridge br0"})
			}},
		{"another bridge", func() error {
			br, err := netlink.LinkByName("br1")
			must(t, err)
			return netlink.LinkSetMaster(link(), br)
		}, func(s netio.DeviceState) bool {
			return s.Bridged && slices.Equal(s.Faults, []string{"device gnv0 is in bridge br1, not in br0"})
		}},
		{"restored", d.Restore, func(s netio.DeviceState) bool { return len(s.Faults) == 0 }},
		{"down", func() error { return netlink.LinkSetDown(link()) },
			func(s netio.DeviceState) bool { return !s.Up && len(s.Faults) == 0 }},
		{"restored", d.Restore, func(s netio.DeviceState) bool { return s.Up && len(s.Faults) == 0 }},
		{"renamed", func() error { return netlink.LinkSetName(link(), "other") },
			func(s netio.DeviceState) bool {
				return slices.Equal(s.Faults, []string{"device gnv0 is called other now"})
			}},
		{"deleted", func() error { return netlink.LinkDel(device(t, "other")) },
			func(s netio.DeviceState) bool { return s.Deleted && !s.Up && len(s.Faults) == 0 }},
	} {
		must(t, c.do())
		becomes(t, c.what, func() bool { return c.is(d.State()) })
	}
}

// TestWatchNetns: devices in another namespace are followed, too, moved there by us, by
// hand, or kept from before; and the watcher does not keep a namespace alive.
func TestWatchNetns(t *testing.T) {
	private(t)
	blue := namespace(t, "blue")
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	in := func(ns netns.NsHandle, f func() error) {
		t.Helper()
		must(t, netns.Set(ns))
		defer netns.Set(here)
		must(t, f())
	}
	a6 := []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}
	d := open(t, Options{Name: "gnv0", Queues: 1, Netns: "blue", Addresses: a6})
	stray := open(t, Options{Name: "gnv1", Queues: 1, Addresses: a6})
	_, notes := watched(t, d, stray)
	in(blue, func() error { return netlink.LinkSetMTU(device(t, "gnv0"), 1200) })
	becomes(t, "without IPv6", func() bool { s := d.State(); return s.MTU == 1200 && len(s.Faults) == 1 })
	in(blue, func() error { return netlink.LinkSetMTU(device(t, "gnv0"), 1500) })
	becomes(t, "the address is back", func() bool {
		var have []string
		in(blue, func() error { have = addresses(t, "gnv0"); return nil })
		return slices.Equal(have, []string{"2001:db8::1/64"}) && len(d.State().Faults) == 0
	})
	if n := notes(); len(n) != 1 {
		t.Errorf("notes %+v, want one", n)
	}

	must(t, netlink.LinkSetNsFd(device(t, "gnv1"), int(blue)))
	becomes(t, "moved by hand", func() bool {
		s := stray.State()
		return !s.Here && !s.Up && slices.Equal(s.Faults, []string{"device gnv1 was moved to another network namespace",
			"device gnv1 lacks address 2001:db8::1/64: it went when the device was moved to another network namespace"})
	})
	in(blue, func() error { return netlink.LinkSetUp(device(t, "gnv1")) })
	becomes(t, "up there", func() bool { return stray.State().Up })

	must(t, netns.DeleteNamed("blue"))
	blue.Close()
	becomes(t, "both have gone with the namespace", func() bool { return d.State().Deleted && stray.State().Deleted })
}

// TestWatchLost: after messages were lost all is compared, and what was not seen to go by
// hand is set again.
func TestWatchLost(t *testing.T) {
	private(t)
	o := Options{Name: "gnv0", Queues: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}}
	d := open(t, o)
	all := addresses(t, "gnv0")
	for _, a := range o.Addresses { // nobody watches yet
		must(t, netlink.AddrDel(device(t, "gnv0"), address(a)))
	}
	watched(t, d)
	becomes(t, "the addresses are back", func() bool { return slices.Equal(addresses(t, "gnv0"), all) && len(d.State().Faults) == 0 })
}
