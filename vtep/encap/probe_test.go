package encap

import (
	"bytes"
	"encoding/hex"
	"testing"

	"gvtep/vtep/count"
	"gvtep/vtep/geneve"
)

// TestProbe holds the bytes of a probe against the wire format in its comment, written by hand.
func TestProbe(t *testing.T) {
	for _, tc := range []struct {
		probe Probe
		bytes string
	}{
		{Probe{VNI: 0x123456, Size: 1472, Nonce: 0x0102030405060708}, "05c088b512345600" + "ff678104" + "67767470" + "010005c0" + "0102030405060708"},
		{Probe{Answer: true, VNI: 42, Status: ProbeDown, Size: 28, Nonce: 1}, "05c088b500002a00" + "ff678204" + "67767470" + "0102001c" + "0000000000000001"},
	} {
		b := make([]byte, MinProbe+3)
		tc.probe.Put(b)
		if got := hex.EncodeToString(b); got != tc.bytes+"000000" {
			t.Errorf("%+v\n got %s\nwant %s", tc.probe, got, tc.bytes)
		}
		if got, ok := ParseProbe(b); !ok || got != tc.probe {
			t.Errorf("read back: %+v, %t; want %+v", got, ok, tc.probe)
		}
		if got, ok := ParseProbe(b[:MinProbe-1]); ok {
			t.Errorf("a cut one is %+v", got)
		}
	}
}

// TestProbeStrange: whoever does not know a probe drops it, and what is otherwise is none.
func TestProbeStrange(t *testing.T) {
	b := make([]byte, MinProbe)
	Probe{VNI: 42}.Put(b)
	if _, _, _, err := geneve.Scan(b); Reason(err) != count.DropControl {
		t.Errorf("the parser of packets says %v, want that it is a control packet", err)
	}
	if h, _, _ := geneve.Parse(b); !h.Critical || h.Options.Check(nil) != geneve.ErrCritical {
		t.Errorf("%+v: it has no critical option", h)
	}
	for i := range 17 { // up to the version; in VNI and status any bits will do
		if i >= 4 && i < 8 {
			continue
		}
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			reserved := i == 1 && bit < 6 || i == 11 && bit >= 5
			if p, ok := ParseProbe(c); ok != (reserved || p.Answer) {
				t.Errorf("with bit %d of byte %d: %+v, %t", bit, i, p, ok)
			}
		}
	}
}

func FuzzParseProbe(f *testing.F) {
	b := make([]byte, MinProbe+9)
	Probe{VNI: 42, Size: len(b), Nonce: 7}.Put(b)
	f.Add(bytes.Clone(b))
	Probe{Answer: true, VNI: 42, Size: len(b), Nonce: 7, Status: ProbeNoTunnel}.Put(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		p, ok := ParseProbe(b)
		if !bytes.Equal(before, b) {
			t.Fatal("the datagram was changed")
		}
		if !ok {
			return
		}
		if _, _, _, err := geneve.Scan(b); err != geneve.ErrControl {
			t.Fatalf("%x is a probe, and for others %v", b, err)
		}
		again := make([]byte, MinProbe)
		p.Put(again)
		if q, ok := ParseProbe(again); !ok || q != p {
			t.Fatalf("%+v was written as %+v", p, q)
		}
	})
}
