package geneve

import (
	"encoding/hex"
	"strings"

	"gvtep/internal/packet"
)

// vector is one datagram and what has to come of it. The names V01a to V15e
// are those of the project's list of conformance checks; others say what they
// are about. The expectation is written out above the bytes, for readers and
// for other implementations.
type vector struct {
	name   string
	expect string
	bytes  []byte // the datagram: the payload of a UDP packet
	err    error
	header Header // Options nil: none
	// payload is what is left for the layer above.
	payload []byte
	// sent is the header as AppendHeader writes it, if that differs from
	// what was received: reserved bits cleared, C bit made true.
	sent []byte
}

// x reads hex with spaces.
func x(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// frame is a 60-byte Ethernet frame from 02:00:00:00:0b:02 to
// 02:00:00:00:0a:01 with a UDP packet that carries the vector's marker.
func frame(name string) []byte {
	f := cat(
		x("020000000a01 020000000b02 0800"),
		x("4500002e 00000000 40110000 0a630002 0a63004d"),
		x("c0000009 001a0000"),
		[]byte("GENEVE-CHECK-"+name+"."),
	)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f[:60]
}

// ping4 and ping6 are bare IP packets, without Ethernet header.
var (
	ping4 = x("4500001c 00000000 ff010000 c0000202 7f000001 08000000 00000000")
	ping6 = x("60000000 00083aff fe800000000000000000000000000001 fe800000000000000000000000000002 80000000 00000000")
)

// vni is the one of the check list.
const vni packet.VNI = 0x123456

// plain is the header of the minimal valid packet.
var plain = Header{VNI: vni, Protocol: packet.EtherTypeEthernet}

// with returns plain with options, C bit as given.
func with(critical bool, options ...[]byte) Header {
	h := plain
	h.Critical = critical
	h.Options = cat(options...)
	return h
}

var (
	zeros120 = make([]byte, 120)
	zeros124 = make([]byte, 124)
	// empties is 63 options that are nothing but their headers.
	empties = func() (b []byte) {
		for i := range 63 {
			b = append(b, 0xff, 0, byte(i), 0)
		}
		return b
	}()
)

var vectors = []vector{{
	name:    "V01a",
	expect:  "minimal packet: the frame begins at byte 8",
	bytes:   cat(x("00 00 6558 123456 00"), frame("V01a")),
	header:  plain,
	payload: frame("V01a"),
}, {
	name:    "V02a",
	expect:  "six reserved flag bits set: ignored, and sent as zero",
	bytes:   cat(x("00 3f 6558 123456 00"), frame("V02a")),
	header:  plain,
	payload: frame("V02a"),
	sent:    x("00 00 6558 123456 00"),
}, {
	name:    "V02b",
	expect:  "last byte set: ignored, and sent as zero",
	bytes:   cat(x("00 00 6558 123456 ff"), frame("V02b")),
	header:  plain,
	payload: frame("V02b"),
	sent:    x("00 00 6558 123456 00"),
}, {
	name:    "V02c",
	expect:  "all reserved bits of the base header set: ignored, and sent as zero",
	bytes:   cat(x("00 3f 6558 123456 ff"), frame("V02c")),
	header:  plain,
	payload: frame("V02c"),
	sent:    x("00 00 6558 123456 00"),
}, {
	name:   "V03a",
	expect: "version 1: dropped",
	bytes:  cat(x("40 00 6558 123456 00"), frame("V03a")),
	err:    ErrVersion,
}, {
	name:   "V03b",
	expect: "version 2: dropped",
	bytes:  cat(x("80 00 6558 123456 00"), frame("V03b")),
	err:    ErrVersion,
}, {
	name:   "V03c",
	expect: "version 3: dropped",
	bytes:  cat(x("c0 00 6558 123456 00"), frame("V03c")),
	err:    ErrVersion,
}, {
	name:   "version before Opt Len",
	expect: "version 1 and options beyond the end: the version is the reason",
	bytes:  x("7f 00 6558 123456 00"),
	err:    ErrVersion,
}, {
	name:    "V04a",
	expect:  "O bit: a control message, payload never forwarded",
	bytes:   cat(x("00 80 6558 123456 00"), frame("V04a")),
	err:     ErrControl,
	header:  Header{VNI: vni, Protocol: packet.EtherTypeEthernet, Control: true},
	payload: frame("V04a"),
}, {
	name:    "V04b",
	expect:  "O bit without payload: a control message",
	bytes:   x("00 80 6558 123456 00"),
	err:     ErrControl,
	header:  Header{VNI: vni, Protocol: packet.EtherTypeEthernet, Control: true},
	payload: []byte{},
}, {
	name:    "V04c",
	expect:  "O bit, IPv4 to 127.0.0.1 in VNI 1: a control message",
	bytes:   cat(x("00 80 0800 000001 00"), ping4),
	err:     ErrControl,
	header:  Header{VNI: 1, Protocol: packet.EtherTypeIPv4, Control: true},
	payload: ping4,
}, {
	name:    "O bit before critical",
	expect:  "O bit and a critical option: the O bit is the reason, the option is there to see",
	bytes:   x("01 c0 6558 123456 00 ff008100"),
	err:     ErrControl,
	header:  Header{VNI: vni, Protocol: packet.EtherTypeEthernet, Control: true, Critical: true, Options: x("ff008100")},
	payload: []byte{},
}, {
	name:    "V05a",
	expect:  "one unknown option that is not critical: skipped, the frame begins behind it",
	bytes:   cat(x("02 00 6558 123456 00 ff000101 deadbeef"), frame("V05a")),
	header:  with(false, x("ff000101 deadbeef")),
	payload: frame("V05a"),
}, {
	name:    "V05b",
	expect:  "three unknown options of class 0108: skipped",
	bytes:   cat(x("08 00 6558 123456 00 01080101 00000001 01080202 0000000200000003 01080301 00000004 01080400"), frame("V05b")),
	header:  with(false, x("01080101 00000001 01080202 0000000200000003 01080301 00000004 01080400")),
	payload: frame("V05b"),
}, {
	name:    "V06a",
	expect:  "unknown critical option: dropped",
	bytes:   cat(x("02 40 6558 123456 00 ff008101 deadbeef"), frame("V06a")),
	err:     ErrCritical,
	header:  with(true, x("ff008101 deadbeef")),
	payload: frame("V06a"),
}, {
	name:    "V06b",
	expect:  "critical option in second place: dropped",
	bytes:   cat(x("04 40 6558 123456 00 ff000101 deadbeef ff008101 deadbeef"), frame("V06b")),
	err:     ErrCritical,
	header:  with(true, x("ff000101 deadbeef ff008101 deadbeef")),
	payload: frame("V06b"),
}, {
	name:    "V06c",
	expect:  "the critical option of OVN (class 0102 type 80): dropped",
	bytes:   cat(x("02 40 6558 123456 00 01028001 00010002"), frame("V06c")),
	err:     ErrCritical,
	header:  with(true, x("01028001 00010002")),
	payload: frame("V06c"),
}, {
	name:    "V07a",
	expect:  "critical option, C bit clear: dropped all the same; C is set when sent",
	bytes:   cat(x("02 00 6558 123456 00 ff008101 deadbeef"), frame("V07a")),
	err:     ErrCritical,
	header:  with(false, x("ff008101 deadbeef")),
	payload: frame("V07a"),
	sent:    x("02 40 6558 123456 00 ff008101 deadbeef"),
}, {
	name:    "V07b",
	expect:  "C bit without any option: accepted, nothing is critical",
	bytes:   cat(x("00 40 6558 123456 00"), frame("V07b")),
	header:  Header{VNI: vni, Protocol: packet.EtherTypeEthernet, Critical: true},
	payload: frame("V07b"),
	sent:    x("00 00 6558 123456 00"),
}, {
	name:    "V07c",
	expect:  "C bit with an option that is not critical: accepted",
	bytes:   cat(x("02 40 6558 123456 00 ff000101 deadbeef"), frame("V07c")),
	header:  with(true, x("ff000101 deadbeef")),
	payload: frame("V07c"),
	sent:    x("02 00 6558 123456 00 ff000101 deadbeef"),
}, {
	name:    "V08a",
	expect:  "reserved bits of an option set: ignored, its length is 1 word; sent as zero",
	bytes:   cat(x("02 00 6558 123456 00 ff0001e1 deadbeef"), frame("V08a")),
	header:  with(false, x("ff0001e1 deadbeef")),
	payload: frame("V08a"),
	sent:    x("02 00 6558 123456 00 ff000101 deadbeef"),
}, {
	name:    "V08b",
	expect:  "two options without data: accepted, the frame begins at byte 16",
	bytes:   cat(x("02 00 6558 123456 00 ff000100 ff000200"), frame("V08b")),
	header:  with(false, x("ff000100 ff000200")),
	payload: frame("V08b"),
}, {
	name:   "V09a",
	expect: "Opt Len 63 with 60 bytes left: dropped",
	bytes:  cat(x("3f 00 6558 123456 00"), frame("V09a")),
	err:    ErrShort,
}, {
	name:   "V09b",
	expect: "Opt Len 15 swallows the frame, whose bytes are no options: dropped",
	bytes:  cat(x("0f 00 6558 123456 00"), frame("V09b")),
	err:    ErrOptions,
}, {
	name:    "V09c",
	expect:  "one option and no payload: a whole header; the empty frame is for the layer above to refuse",
	bytes:   x("02 00 6558 123456 00 ff000101 deadbeef"),
	header:  with(false, x("ff000101 deadbeef")),
	payload: []byte{},
}, {
	name:   "V10a",
	expect: "option of 2 words in an area of 1: dropped, though the datagram goes on",
	bytes:  cat(x("01 00 6558 123456 00 ff000101"), frame("V10a")),
	err:    ErrOptions,
}, {
	name:   "V10b",
	expect: "the same with C: dropped",
	bytes:  cat(x("01 40 6558 123456 00 ff000101"), frame("V10b")),
	err:    ErrOptions,
}, {
	name:   "V10c",
	expect: "second option claims 31 words: dropped",
	bytes:  cat(x("03 00 6558 123456 00 ff000101 deadbeef ff00021f"), frame("V10c"), frame("V10c"), frame("V10c")),
	err:    ErrOptions,
}, {
	name:   "overrun before critical",
	expect: "a critical option, then one that runs over the end: the lengths are the reason",
	bytes:  cat(x("02 40 6558 123456 00 ff008100 ff000101"), frame("overrun")),
	err:    ErrOptions,
}, {
	name:    "V11a",
	expect:  "the largest area, options of 128 and 124 bytes: accepted",
	bytes:   cat(x("3f 00 6558 123456 00 ff00011f"), zeros124, x("ff00021e"), zeros120, frame("V11a")),
	header:  with(false, x("ff00011f"), zeros124, x("ff00021e"), zeros120),
	payload: frame("V11a"),
}, {
	name:    "V11b",
	expect:  "the largest area, 63 options without data: accepted",
	bytes:   cat(x("3f 00 6558 123456 00"), empties, frame("V11b")),
	header:  with(false, empties),
	payload: frame("V11b"),
}, {
	name:   "V12a",
	expect: "no byte at all: dropped",
	bytes:  []byte{},
	err:    ErrShort,
}, {
	name:   "V12b",
	expect: "one byte ff: too short comes before the version",
	bytes:  x("ff"),
	err:    ErrShort,
}, {
	name:   "V12c",
	expect: "seven bytes of a header: dropped",
	bytes:  x("00 00 6558 123456"),
	err:    ErrShort,
}, {
	name:    "V12d",
	expect:  "header only: an empty payload, for the layer above to refuse",
	bytes:   x("00 00 6558 123456 00"),
	header:  plain,
	payload: []byte{},
}, {
	name:    "V12e",
	expect:  "header and 13 bytes: payload of 13, for the layer above to refuse",
	bytes:   cat(x("00 00 6558 123456 00"), frame("V12e")[:13]),
	header:  plain,
	payload: frame("V12e")[:13],
}, {
	name:    "V12f",
	expect:  "header and an Ethernet header: payload of 14",
	bytes:   cat(x("00 00 6558 123456 00"), frame("V12f")[:14]),
	header:  plain,
	payload: frame("V12f")[:14],
}, {
	name:    "V13a",
	expect:  "protocol type 88b5: reported as it is",
	bytes:   cat(x("00 00 88b5 123456 00"), frame("V13a")),
	header:  Header{VNI: vni, Protocol: 0x88b5},
	payload: frame("V13a"),
}, {
	name:    "V13b",
	expect:  "protocol type with its bytes swapped: is not Ethernet",
	bytes:   cat(x("00 00 5865 123456 00"), frame("V13b")),
	header:  Header{VNI: vni, Protocol: 0x5865},
	payload: frame("V13b"),
}, {
	name:    "V14a",
	expect:  "IPv4 without Ethernet: protocol type 0800",
	bytes:   cat(x("00 00 0800 123456 00"), ping4),
	header:  Header{VNI: vni, Protocol: packet.EtherTypeIPv4},
	payload: ping4,
}, {
	name:    "V14b",
	expect:  "IPv6 without Ethernet: protocol type 86dd",
	bytes:   cat(x("00 00 86dd 123456 00"), ping6),
	header:  Header{VNI: vni, Protocol: packet.EtherTypeIPv6},
	payload: ping6,
}, {
	name:    "V14c",
	expect:  "protocol type 0800 with an IPv6 packet: the header says 0800, the nibble is for the layer above",
	bytes:   cat(x("00 00 0800 123456 00"), ping6),
	header:  Header{VNI: vni, Protocol: packet.EtherTypeIPv4},
	payload: ping6,
}, {
	name:    "V15a",
	expect:  "VNI 123457",
	bytes:   cat(x("00 00 6558 123457 00"), frame("V15a")),
	header:  Header{VNI: 0x123457, Protocol: packet.EtherTypeEthernet},
	payload: frame("V15a"),
}, {
	name:    "V15b",
	expect:  "VNI 001234 and reserved byte 56: the byte is no part of the VNI",
	bytes:   cat(x("00 00 6558 001234 56"), frame("V15b")),
	header:  Header{VNI: 0x1234, Protocol: packet.EtherTypeEthernet},
	payload: frame("V15b"),
	sent:    x("00 00 6558 001234 00"),
}, {
	name:    "V15c",
	expect:  "VNI with its bytes swapped",
	bytes:   cat(x("00 00 6558 563412 00"), frame("V15c")),
	header:  Header{VNI: 0x563412, Protocol: packet.EtherTypeEthernet},
	payload: frame("V15c"),
}, {
	name:    "V15d",
	expect:  "VNI 0 is a VNI",
	bytes:   cat(x("00 00 6558 000000 00"), frame("V15d")),
	header:  Header{VNI: 0, Protocol: packet.EtherTypeEthernet},
	payload: frame("V15d"),
}, {
	name:    "V15e",
	expect:  "VNI ffffff is a VNI",
	bytes:   cat(x("00 00 6558 ffffff 00"), frame("V15e")),
	header:  Header{VNI: packet.MaxVNI, Protocol: packet.EtherTypeEthernet},
	payload: frame("V15e"),
}, {
	// A parser that stops looking at options once fewer than 5 bytes are
	// left takes the trailing empty option for payload.
	name:    "fault: trailing empty option",
	expect:  "an option with data, then one without: the frame begins where Opt Len says",
	bytes:   cat(x("03 00 6558 123456 00 ff000101 deadbeef ff000200"), frame("tail")),
	header:  with(false, x("ff000101 deadbeef ff000200")),
	payload: frame("tail"),
}, {
	// A parser that holds an option's length against the datagram, or
	// against nothing, reads the frame as option data.
	name:   "fault: option longer than the area",
	expect: "an option of 31 words in an area of 2, 200 bytes behind it: dropped",
	bytes:  cat(x("02 00 6558 123456 00 ff00011f 00000000"), make([]byte, 200)),
	err:    ErrOptions,
}}
