package geneve

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"gvtep/internal/packet"
)

// random returns a header with random fields and options, as an endpoint may send it.
func random(r *rand.Rand) Header {
	h := Header{VNI: packet.VNI(r.Uint32()) & packet.MaxVNI, Protocol: []uint16{packet.EtherTypeEthernet, packet.EtherTypeIPv4, packet.EtherTypeIPv6}[r.IntN(3)], Control: r.IntN(8) == 0}
	for room := r.IntN(MaxOptionsLen + 1); room >= 4; {
		o := Option{Class: uint16(r.Uint32()), Type: uint8(r.Uint32()), Data: make([]byte, 4*r.IntN(min(room/4-1, 31)+1))}
		for i := range o.Data {
			o.Data[i] = byte(r.Uint32())
		}
		h.Options, _ = AppendOption(h.Options, o)
		h.Critical = h.Critical || o.Critical()
		room -= 4 + len(o.Data)
	}
	return h
}

// fields writes a header as scripts/interop/codec.py reads it: VNI, protocol, O, C, and
// class, type and data of each option.
func fields(h Header) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %t %t", h.VNI, h.Protocol, h.Control, h.Critical)
	for o := range h.Options.All() {
		fmt.Fprintf(&b, " %d:%d:%x", o.Class, o.Type, o.Data)
	}
	return b.String()
}

// TestForeign makes random headers. Parse reads what AppendHeader has written. With
// GVTEP_FOREIGN=N:FILE they are N, and written to FILE for others to read: a line each with the
// header in hex and its fields, and as FILE.pcap, packets to port 6081 with small frames inside.
func TestForeign(t *testing.T) {
	count, file := 1000, ""
	if v := os.Getenv("GVTEP_FOREIGN"); v != "" {
		n, name, _ := strings.Cut(v, ":")
		var err error
		if count, err = strconv.Atoi(n); err != nil || name == "" {
			t.Fatalf("GVTEP_FOREIGN=%s: want NUMBER:FILE", v)
		}
		file = name
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	var lines, packets strings.Builder
	packets.WriteString("\xd4\xc3\xb2\xa1\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00\x01\x00\x00\x00")
	for range count {
		want := random(r)
		b, err := AppendHeader(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		got, rest, err := Parse(append(b[:len(b):len(b)], "payload"...))
		if want.Control != (err == ErrControl) || !want.Control && want.Critical != (err == ErrCritical) {
			t.Fatalf("%x: %v", b, err)
		}
		if !want.Control && (fields(got) != fields(want) || string(rest) != "payload") {
			t.Fatalf("%x: %s, want %s", b, fields(got), fields(want))
		}
		if file != "" {
			fmt.Fprintf(&lines, "%s %s\n", hex.EncodeToString(b), fields(want))
			captured(&packets, r, want.Protocol, b)
		}
	}
	if file == "" {
		return
	}
	for name, b := range map[string]*strings.Builder{file: &lines, file + ".pcap": &packets} {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		w := bufio.NewWriter(f)
		w.WriteString(b.String())
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// captured appends one captured packet: header behind Ethernet, IPv4 and UDP, before an inner
// packet of that protocol, which is UDP to the discard port with random data.
func captured(b *strings.Builder, r *rand.Rand, protocol uint16, header []byte) {
	data := make([]byte, r.IntN(200))
	udp := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(udp, 9)
	binary.BigEndian.PutUint16(udp[2:], 9)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(data)))
	udp = append(udp, data...)
	ether := func(kind uint16) []byte { return append(make([]byte, 12), byte(kind>>8), byte(kind)) }
	var inner []byte
	switch {
	case protocol == packet.EtherTypeIPv6:
		inner = v6(udp)
	case protocol == packet.EtherTypeIPv4:
		inner = v4(udp)
	case r.IntN(2) == 0:
		inner = append(ether(packet.EtherTypeIPv4), v4(udp)...)
	default:
		inner = append(ether(packet.EtherTypeIPv6), v6(udp)...)
	}
	outer := make([]byte, 8)
	binary.BigEndian.PutUint16(outer, 49152)
	binary.BigEndian.PutUint16(outer[2:], 6081)
	binary.BigEndian.PutUint16(outer[4:], uint16(8+len(header)+len(inner)))
	frame := append(ether(packet.EtherTypeIPv4), v4(append(append(outer, header...), inner...))...)
	record := make([]byte, 16)
	binary.LittleEndian.PutUint32(record[8:], uint32(len(frame)))
	binary.LittleEndian.PutUint32(record[12:], uint32(len(frame)))
	b.Write(record)
	b.Write(frame)
}

func v4(udp []byte) []byte {
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	return append(ip, udp...)
}

func v6(udp []byte) []byte {
	ip := append([]byte{0x60, 0, 0, 0, 0, 0, 17, 64}, make([]byte, 32)...)
	binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
	return append(ip, udp...)
}
