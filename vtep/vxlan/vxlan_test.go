package vxlan

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"gvtep/internal/packet"
)

func x(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// rules are those of RFC 7348 section 5 for the header, one datagram each.
var rules = []struct {
	name  string
	bytes string
	vni   packet.VNI
	err   error
}{
	{"I flag and VNI", "08 000000 123456 00", 0x123456, nil},
	{"the I flag MUST be set: no flag at all", "00 000000 123456 00", 0, ErrNoVNI},
	{"the I flag MUST be set: all flags but it", "f7 ffffff 123456 ff", 0, ErrNoVNI},
	{"R bits in front are ignored", "f8 000000 123456 00", 0x123456, nil},
	{"R bits behind are ignored", "0f 000000 123456 00", 0x123456, nil},
	{"24 reserved bits are ignored", "08 ffffff 123456 00", 0x123456, nil},
	{"8 reserved bits are ignored, and no part of the VNI", "08 000000 001234 56", 0x1234, nil},
	{"all bits that are reserved", "ff ffffff 123456 ff", 0x123456, nil},
	{"group policy: the G flag and an ID", "88 00abcd 123456 00", 0x123456, nil},
	{"group policy: don't learn, and applied", "88 48abcd 123456 00", 0x123456, nil},
	{"the next protocol of GPE on this port", "0c 000003 123456 00", 0x123456, nil},
	{"the byte order of the VNI", "08 000000 563412 00", 0x563412, nil},
	{"VNI 0 is a VNI", "08 000000 000000 00", 0, nil},
	{"VNI ffffff is a VNI", "08 000000 ffffff 00", packet.MaxVNI, nil},
	{"GENEVE without options", "00 006558 123456 00", 0, ErrNoVNI},
	{"GENEVE with an option", "01 006558 123456 00 ffff0000", 0, ErrNoVNI},
	{"7 bytes", "08 000000 123456", 0, ErrShort},
	{"nothing", "", 0, ErrShort},
}

func TestScan(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			vni, protocol, length, err := Scan(x(r.bytes))
			if vni != r.vni || err != r.err {
				t.Errorf("%s: got VNI %06x, error %v; want %06x, %v", r.bytes, int(vni), err, int(r.vni), r.err)
			}
			if good := err == nil; good != (length == HeaderLen) || good != (protocol == packet.EtherTypeEthernet) {
				t.Errorf("%s: %d bytes of header before %#04x, error %v", r.bytes, length, protocol, err)
			}
		})
	}
}

// TestAppendHeader: reserved bits are 0, whatever stood in the room before.
func TestAppendHeader(t *testing.T) {
	room := bytes.Repeat([]byte{0xff}, 32)
	for vni, want := range map[packet.VNI]string{
		0: "08 000000 000000 00", 0x123456: "08 000000 123456 00", packet.MaxVNI: "08 000000 ffffff 00",
	} {
		got, err := AppendHeader(room[:2], vni)
		if err != nil || !bytes.Equal(got, append(x("ffff"), x(want)...)) {
			t.Errorf("VNI %d: got % x, error %v; want %s behind ffff", vni, got, err, want)
		}
	}
	if got, err := AppendHeader(room[:2], packet.MaxVNI+1); err == nil || len(got) != 2 || !strings.Contains(err.Error(), "24 bits") {
		t.Errorf("VNI of 25 bits: got % x, error %v; want it untouched and an error", got, err)
	}
}

// FuzzScan: nothing is read behind the header or written at all, and a header that was taken is,
// but for reserved bits, the one that AppendHeader makes.
func FuzzScan(f *testing.F) {
	for _, r := range rules {
		f.Add(x(r.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		vni, _, length, err := Scan(b[:len(b):len(b)])
		if !bytes.Equal(b, before) {
			t.Fatalf("Scan changed its input: got % x, want % x", b, before)
		}
		switch err {
		case nil:
			clean := []byte{b[0] & 0x08, 0, 0, 0, b[4], b[5], b[6], 0}
			if sent, err := AppendHeader(nil, vni); err != nil || !bytes.Equal(sent, clean) {
				t.Fatalf("% x: VNI %d, which is sent as % x (%v)", b, vni, sent, err)
			}
		case ErrShort:
			if len(b) >= HeaderLen {
				t.Fatalf("% x: %v", b, err)
			}
		case ErrNoVNI:
			if b[0]&0x08 != 0 {
				t.Fatalf("% x: %v", b, err)
			}
		default:
			t.Fatalf("% x: %v", b, err)
		}
		if err != nil && (vni != 0 || length != 0) || length > len(b) {
			t.Fatalf("% x: VNI %d and %d bytes of header beside %v", b, vni, length, err)
		}
	})
}
