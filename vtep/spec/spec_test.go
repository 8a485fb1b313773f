package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func good() *Tunnel {
	return &Tunnel{
		VNI: 7, Device: Device{Name: "gnv0"}, DstPort: 6081, SrcPortMin: 1024, SrcPortMax: 2047, SrcPorts: 64,
		Local: netip.MustParseAddr("192.0.2.1"), Peers: []Peer{{Remote: netip.MustParseAddr("192.0.2.2")}},
	}
}

// TestCheck is for what no grammar lets pass, and for accept; what files and words can say is
// tested with them in package config.
func TestCheck(t *testing.T) {
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, c := range []struct {
		want string
		edit func(*Tunnel)
	}{
		{"", func(*Tunnel) {}},
		{"", func(t *Tunnel) { t.Peers = nil }},
		{"id 16777216: a VNI has 24 bits, 0 to 16777215", func(t *Tunnel) { t.VNI = 1 << 24 }},
		{"dstport 0: want 1-65535", func(t *Tunnel) { t.DstPort = 0 }},
		{"srcport 1024 1023: want a range within 1-65535", func(t *Tunnel) { t.SrcPortMax = 1023 }},
		{"remote 239.1.1.1: want the unicast address of another host", func(t *Tunnel) { t.Peers[0].Remote = netip.MustParseAddr("239.1.1.1") }},
		{"vlan 20-10:0-65526: want VLAN IDs from 1 to 4094, and VNIs up to 16777215", func(t *Tunnel) { t.VLANs = []VLAN{{First: 20, Last: 10}} }},
		{"vlan 11 with id 31: one of them is given twice", func(t *Tunnel) { t.VLANs = []VLAN{{10, 11, 20}, {11, 11, 31}} }},
		{"accept ::/0 and local 192.0.2.1 are of different families: nobody would be admitted", func(t *Tunnel) { t.Accept = prefixes("::/0") }},
		{"accept ::/0 and local 192.0.2.1 are of different families: nobody would be admitted", func(t *Tunnel) { t.Accept, t.Peers = prefixes("::/0"), nil }},
		{"", func(t *Tunnel) { t.Accept = prefixes("0.0.0.0/0", "::/0") }},
		{"", func(t *Tunnel) { t.Accept, t.Local = prefixes("::/0"), netip.Addr{} }},
	} {
		tunnel := good()
		c.edit(tunnel)
		got := ""
		for _, p := range append(Check(tunnel), CheckEntries(tunnel)...) {
			got += p.Text
		}
		if got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// TestError: an error names its tunnel once, keeps what it was made of, and can be told without
// the name.
func TestError(t *testing.T) {
	kernel := fmt.Errorf("gnv0: open /dev/net/tun: %w", unix.EACCES)
	err := fmt.Errorf("change: %w", About("gnv0", kernel))
	if want := "change: gnv0: open /dev/net/tun: permission denied"; err.Error() != want || !errors.Is(err, unix.EACCES) {
		t.Errorf("%v, want %s", err, want)
	}
	reason := Reason(About("gnv0", Busy("id")))
	if want := "id: Device or resource busy (it cannot change while the tunnel is there: tunnel del, tunnel add)"; reason.Error() != want || !errors.Is(reason, unix.EBUSY) {
		t.Errorf("%v, want %s", reason, want)
	}
	if e := new(Error); !errors.As(reason, &e) || e.Key != "id" || e.Errno != unix.EBUSY {
		t.Errorf("%+v, want the key and the errno of what it was made of", e)
	}
	if About("gnv0", nil) != nil || Reason(nil) != nil {
		t.Error("no error became one")
	}
}
