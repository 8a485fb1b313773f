package encap

import (
	"bytes"
	"testing"

	"gvtep/internal/packet"
	"gvtep/vtep/count"
)

// TestRoundTrip: what a format writes it reads, and the VNI is where PutVNI puts it.
func TestRoundTrip(t *testing.T) {
	for _, f := range Formats() {
		t.Run(f.String(), func(t *testing.T) {
			head, err := f.AppendHeader(nil, 0x123456, packet.EtherTypeEthernet)
			if err != nil || len(head) != HeaderLen {
				t.Fatalf("header % x, error %v; want %d bytes", head, err, HeaderLen)
			}
			datagram := append(head, "the frame"...)
			parse := f.Parser()
			vni, protocol, length, err := parse(datagram)
			if err != nil || vni != 0x123456 || protocol != packet.EtherTypeEthernet || length != HeaderLen {
				t.Errorf("got VNI %d, protocol %#04x, %d bytes, error %v", vni, protocol, length, err)
			}
			if o := Options(datagram, length); o != nil {
				t.Errorf("options % x, want none", o)
			}
			other, _ := f.AppendHeader(nil, packet.MaxVNI, packet.EtherTypeEthernet)
			if PutVNI(head, packet.MaxVNI); !bytes.Equal(head, other) {
				t.Errorf("PutVNI made % x, AppendHeader % x", head, other)
			}
			if _, _, _, err := parse(datagram[:HeaderLen-1]); Reason(err) != count.DropShort {
				t.Errorf("7 bytes: got %v, want %v", Reason(err), count.DropShort)
			}
			if _, err := f.AppendHeader(nil, packet.MaxVNI+1, packet.EtherTypeEthernet); err == nil {
				t.Error("a VNI of 25 bits: no error")
			}
			if n := testing.AllocsPerRun(100, func() { parse(datagram) }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
		})
	}
}

// TestReason: each fault of a header is a reason of its own, and options can be looked at
// where they are whole.
func TestReason(t *testing.T) {
	for _, c := range []struct {
		name   string
		format Format
		bytes  []byte
		want   count.Reason
		len    int
	}{
		{"version 1", Geneve, []byte{0x40, 0, 0x65, 0x58, 0, 0, 1, 0}, count.DropBadVersion, 0},
		{"control", Geneve, []byte{0, 0x80, 0x65, 0x58, 0, 0, 1, 0}, count.DropControl, 8},
		{"option over the end", Geneve, []byte{1, 0, 0x65, 0x58, 0, 0, 1, 0, 0, 0, 0, 1}, count.DropBadOptions, 0},
		{"critical option", Geneve, []byte{1, 0, 0x65, 0x58, 0, 0, 1, 0, 0, 0, 0x80, 0}, count.DropCriticalOption, 12},
		{"no I flag", VXLAN, []byte{0xf7, 0, 0, 0, 0, 0, 1, 0}, count.DropNoVNI, 0},
		{"options cut off", Geneve, []byte{2, 0, 0x65, 0x58, 0, 0, 1, 0, 0, 0, 0, 0}, count.DropShort, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, length, err := c.format.Parser()(c.bytes)
			if err == nil || Reason(err) != c.want || length != c.len {
				t.Errorf("got %d bytes of header, %v (%v); want %d, %v", length, Reason(err), err, c.len, c.want)
			}
		})
	}
}

// BenchmarkParse is a part of what every datagram costs that follows no other.
func BenchmarkParse(b *testing.B) {
	for _, f := range Formats() {
		b.Run(f.String(), func(b *testing.B) {
			head, _ := f.AppendHeader(nil, 100, packet.EtherTypeEthernet)
			datagram := append(head, make([]byte, 60)...)
			parse := f.Parser()
			for b.Loop() {
				if _, _, length, err := parse(datagram); err != nil || length != HeaderLen {
					b.Fatal(length, err)
				}
			}
		})
	}
}
