package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// unhex reads bytes written in groups.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

const macs = "020000000002 020000000001 "

// tcp4 is 10.0.0.1:40000 > 10.0.0.2:80 with 12 bytes of options and 3 of payload.
func tcp4() []byte {
	return unhex(macs + `0800
	4500 0037 0001 4000 4006 26be 0a000001 0a000002
	9c40 0050 00000001 00000002 8010 01f6 0000 0000 0101080a0102030405060708 616263`)
}

func udp4() []byte {
	return unhex(macs + `0800
	45b8 001f 0001 0000 4011 0000 0a000001 0a000002
	9c40 0035 000b 0000 616263`)
}

func tcp6() []byte {
	return unhex(macs + `86dd
	6b812345 0014 06 40 fd000000000000000000000000000001 fd000000000000000000000000000002
	9c40 0050 00000001 00000002 5010 01f6 0000 0000`)
}

// ext6 is tcp6 with extension headers: pairs of type and bytes; the next
// header field, the first byte of each, is filled in.
func ext6(list ...any) []byte {
	f := tcp6()
	head, tail := f[:54], f[54:]
	var ext []byte
	at := 20 // of the next header field to fill in
	for i := 0; i < len(list); i += 2 {
		b := unhex(list[i+1].(string))
		if at == 20 {
			head[at] = byte(list[i].(int))
		} else {
			ext[at-54] = byte(list[i].(int))
		}
		at = 54 + len(ext)
		ext = append(ext, b...)
	}
	if len(ext) > 0 {
		ext[at-54] = 6
	}
	binary.BigEndian.PutUint16(head[18:], uint16(len(ext)+len(tail)))
	return append(append(append([]byte{}, head...), ext...), tail...)
}

func tagged(f []byte, types ...uint16) []byte {
	out := append([]byte{}, f[:12]...)
	for i, et := range types {
		out = binary.BigEndian.AppendUint16(out, et)
		out = append(out, 0, byte(i+5))
	}
	return append(out, f[12:]...)
}

func set(f []byte, at int, bytes ...byte) []byte {
	copy(f[at:], bytes)
	return f
}

func TestWalk(t *testing.T) {
	const ones = "00 00 0000 00000000"
	t4 := Headers{EtherType: 0x0800, Version: 4, Proto: 6, TTL: 64, L3: 14, L4: 34, End: 69}
	t6 := Headers{EtherType: 0x86dd, Version: 6, Proto: 6, TOS: 0xb8, TTL: 64, L3: 14, L4: 54, End: 74}
	with := func(h Headers, edit func(*Headers)) Headers { edit(&h); return h }
	only := func(et uint16, tags uint8) Headers { return Headers{EtherType: et, Tags: tags} }
	long6 := ext6(0, ones, 60, ones, 43, ones, 60, ones, 0, ones, 0, ones, 0, ones, 0, ones)
	tests := []struct {
		name  string
		frame []byte
		l3    bool
		want  Headers
	}{
		{"nothing", nil, false, Headers{}},
		{"nothing, L3", nil, true, Headers{}},
		{"13 bytes", tcp4()[:13], false, Headers{}},
		{"14 bytes", tcp4()[:14], false, only(0x0800, 0)},
		{"ARP", set(tcp4(), 12, 8, 6), false, only(0x0806, 0)},
		{"802.3 length", set(tcp4(), 12, 0, 40), false, only(40, 0)},

		{"TCPv4", tcp4(), false, t4},
		{"TCPv4, L3", tcp4()[14:], true, with(t4, func(h *Headers) { h.L3, h.L4, h.End = 0, 20, 55 })},
		{"TCPv4, padded", append(tcp4(), 0, 0, 0), false, t4},
		{"UDPv4", udp4(), false, Headers{EtherType: 0x0800, Version: 4, Proto: 17, TOS: 0xb8, TTL: 64, L3: 14, L4: 34, End: 45}},
		{"TCPv6", tcp6(), false, t6},
		{"TCPv6, L3", tcp6()[14:], true, with(t6, func(h *Headers) { h.L3, h.L4, h.End = 0, 40, 60 })},
		{"one tag", tagged(tcp4(), 0x8100), false, with(t4, func(h *Headers) { h.Tags, h.L3, h.L4, h.End = 1, 18, 38, 73 })},
		{"two tags", tagged(tcp4(), 0x88a8, 0x8100), false, with(t4, func(h *Headers) { h.Tags, h.L3, h.L4, h.End = 2, 22, 42, 77 })},
		{"old tag", tagged(tcp6(), 0x9100), false, with(t6, func(h *Headers) { h.Tags, h.L3, h.L4, h.End = 1, 18, 58, 78 })},
		{"three tags", tagged(tcp4(), 0x88a8, 0x8100, 0x8100), false, only(0x8100, 2)},
		{"ends in the tag", tagged(tcp4(), 0x8100)[:17], false, only(0, 1)},
		{"ends in the second tag", tagged(tcp4(), 0x8100, 0x8100)[:21], false, only(0, 2)},
		{"ends behind the tag", tagged(tcp4(), 0x8100)[:18], false, only(0x0800, 1)},

		{"L3, version 5", set(tcp4()[14:], 0, 0x55), true, Headers{}},
		{"L3, one byte", []byte{0x45}, true, only(0x0800, 0)},
		{"L3, one byte v6", []byte{0x60}, true, only(0x86dd, 0)},
		{"v4 says 6", set(tcp4(), 14, 0x65), false, only(0x0800, 0)},
		{"v6 says 4", set(tcp6(), 14, 0x4b), false, only(0x86dd, 0)},
		{"IHL 4", set(tcp4(), 14, 0x44), false, only(0x0800, 0)},
		{"IHL 15 beyond the frame", set(tcp4(), 14, 0x4f)[:70-2], false, only(0x0800, 0)},
		{"total length 19", set(tcp4(), 16, 0, 19), false, only(0x0800, 0)},
		{"total length below IHL", set(tcp4(), 14, 0x46, 0, 0, 23), false, only(0x0800, 0)},
		{"total length 0", set(tcp4(), 16, 0, 0), false, only(0x0800, 0)},
		{"total length 20", set(tcp4(), 16, 0, 20), false, with(t4, func(h *Headers) { h.L4, h.End = 0, 34 })},
		{"total length 65535", set(tcp4(), 16, 255, 255), false, t4},
		{"33 bytes", tcp4()[:33], false, only(0x0800, 0)},
		{"34 bytes", tcp4()[:34], false, with(t4, func(h *Headers) { h.L4, h.End = 0, 34 })},
		{"53 bytes v6", tcp6()[:53], false, only(0x86dd, 0)},
		{"54 bytes v6", tcp6()[:54], false, with(t6, func(h *Headers) { h.L4, h.End = 0, 54 })},
		{"payload length 0", set(tcp6(), 18, 0, 0), false, with(t6, func(h *Headers) { h.L4, h.End = 0, 54 })},
		{"payload length 65535", set(tcp6(), 18, 255, 255), false, t6},
		{"TCP options cut off", tcp4()[:65], false, with(t4, func(h *Headers) { h.L4, h.End = 0, 65 })},
		{"TCP data offset 4", set(tcp4(), 46, 0x40), false, with(t4, func(h *Headers) { h.L4 = 0 })},
		{"7 bytes of UDP", set(udp4(), 16, 0, 27), false, Headers{EtherType: 0x0800, Version: 4, Proto: 17, TOS: 0xb8, TTL: 64, L3: 14, End: 41}},
		{"SCTP", set(tcp4(), 23, 132), false, with(t4, func(h *Headers) { h.Proto = 132 })},
		{"SCTP, 3 bytes", set(tcp4(), 23, 132)[:37], false, with(t4, func(h *Headers) { h.Proto, h.L4, h.End = 132, 0, 37 })},
		{"ICMP", set(tcp4(), 23, 1), false, with(t4, func(h *Headers) { h.Proto, h.L4 = 1, 0 })},

		{"don't fragment off", set(tcp4(), 20, 0, 0), false, t4},
		{"first fragment", set(tcp4(), 20, 0x20, 0), false, with(t4, func(h *Headers) { h.L4, h.Fragment = 0, true })},
		{"later fragment", set(tcp4(), 20, 0, 1), false, with(t4, func(h *Headers) { h.L4, h.Fragment = 0, true })},
		{"far fragment", set(tcp4(), 20, 0x1f, 0xff), false, with(t4, func(h *Headers) { h.L4, h.Fragment = 0, true })},

		{"hop-by-hop", ext6(0, "00 00 0104 00000000"), false, with(t6, func(h *Headers) { h.L4, h.End = 62, 82 })},
		{"routing of 16", ext6(43, "00 01 0000 00000000 0000000000000000"), false, with(t6, func(h *Headers) { h.L4, h.End = 70, 90 })},
		{"AH of 12", ext6(51, "00 01 0000 00000000 00000000"), false, with(t6, func(h *Headers) { h.L4, h.End = 66, 86 })},
		{"hop-by-hop, destination, routing", ext6(0, ones, 60, ones, 43, ones), false, with(t6, func(h *Headers) { h.L4, h.End = 78, 98 })},
		{"eight", long6, false, with(t6, func(h *Headers) { h.L4, h.End = 118, 138 })},
		{"nine", ext6(0, ones, 60, ones, 43, ones, 60, ones, 0, ones, 0, ones, 0, ones, 0, ones, 0, ones), false,
			with(t6, func(h *Headers) { h.L4, h.End = 0, 146 })},
		{"fragment header", ext6(44, "00 00 0001 00000007"), false, with(t6, func(h *Headers) { h.L4, h.End, h.Fragment = 0, 82, true })},
		{"later fragment v6", ext6(60, ones, 44, "00 00 0008 00000007"), false, with(t6, func(h *Headers) { h.L4, h.End, h.Fragment = 0, 90, true })},
		{"fragment header cut off", ext6(44, "00 00 0001 00000007")[:61], false,
			with(t6, func(h *Headers) { h.L4, h.End, h.Fragment, h.Proto = 0, 61, true, 44 })},
		{"extension lies", ext6(60, "00 ff 0000 00000000"), false, with(t6, func(h *Headers) { h.L4, h.End, h.Proto = 0, 82, 60 })},
		{"extension cut off", ext6(60, ones)[:61], false, with(t6, func(h *Headers) { h.L4, h.End, h.Proto = 0, 61, 60 })},
		{"AH lies", ext6(51, "00 ff 0000 00000000"), false, with(t6, func(h *Headers) { h.L4, h.End, h.Proto = 0, 82, 51 })},
		{"no next header", set(tcp6(), 20, 59), false, with(t6, func(h *Headers) { h.L4, h.Proto = 0, 59 })},
		{"ESP", set(tcp6(), 20, 50), false, with(t6, func(h *Headers) { h.L4, h.Proto = 0, 50 })},
	}
	for _, tt := range tests {
		// A reused value, full of what must not stay.
		h := Headers{1, 2, 3, 4, 5, 6, true, 7, 8, 9}
		Walk(tt.frame[:len(tt.frame):len(tt.frame)], tt.l3, &h)
		if h != tt.want {
			t.Errorf("%s:\n got %+v\nwant %+v", tt.name, h, tt.want)
		}
	}
}

// A super-frame ends beyond what End can say.
func TestWalkLargest(t *testing.T) {
	f := append(tcp4(), make([]byte, 65549-69)...)
	set(f, 16, 255, 255)
	var h Headers
	if Walk(f, false, &h); h.End != 65535 || h.L4 != 34 {
		t.Errorf("got %+v, want End 65535 and L4 34", h)
	}
}

func FuzzWalk(f *testing.F) {
	for _, b := range [][]byte{tcp4(), udp4(), tcp6(), tagged(tcp4(), 0x88a8, 0x8100), ext6(0, "0000000000000000", 44, "0000000100000007")} {
		f.Add(b, false)
		f.Add(b[14:], true)
	}
	f.Fuzz(func(t *testing.T, frame []byte, l3 bool) {
		if len(frame) > MaxFrame {
			return
		}
		var h Headers
		Walk(frame[:len(frame):len(frame)], l3, &h)
		if int(h.End) > len(frame) || h.L4 > h.End || h.L3 > h.End || h.Tags > 2 {
			t.Fatalf("outside a frame of %d: %+v", len(frame), h)
		}
		if h.L4 != 0 && (h.Version == 0 || h.Fragment || h.L4 < h.L3+20) {
			t.Fatalf("L4 without reason: %+v", h)
		}
		before := Hash(frame, &h, l3, 1)
		var sum uint16
		old := bytes.Clone(frame)
		if h.Version == 4 {
			sum = dullSum(frame[h.L3:][:int(frame[h.L3]&15)*4], 0)
		}
		for ecn := range uint8(4) {
			SetECN(frame, &h, ecn)
			var again Headers
			if Walk(frame, l3, &again); again != h {
				t.Fatalf("after SetECN %d:\n got %+v\nwant %+v", ecn, again, h)
			}
			if h.Version != 0 && h.TOS&3 != ecn {
				t.Fatalf("ECN %d, want %d", h.TOS&3, ecn)
			}
			if h.Version == 4 {
				now := dullSum(frame[h.L3:][:int(frame[h.L3]&15)*4], 0)
				if now%0xffff != sum%0xffff {
					t.Fatalf("header sum %#x, was %#x", now, sum)
				}
			}
		}
		if h.Version == 0 && !bytes.Equal(frame, old) {
			t.Fatal("SetECN changed a frame without IP")
		}
		if got := Hash(frame, &h, l3, 1); got != before {
			t.Fatalf("hash %#x after SetECN, was %#x", got, before)
		}
	})
}

func TestSetECN(t *testing.T) {
	for _, f := range []struct {
		name  string
		frame []byte
		l3    bool
	}{
		{"v4", tcp4(), false}, {"v4 with DSCP", udp4(), false}, {"v4 L3", tcp4()[14:], true},
		{"v4 behind a tag", tagged(udp4(), 0x8100), false},
		{"v6", tcp6(), false}, {"v6 L3", tcp6()[14:], true}, {"v6 behind two tags", tagged(tcp6(), 0x88a8, 0x8100), false},
	} {
		for from := range uint8(4) {
			for to := range uint8(4) {
				frame := bytes.Clone(f.frame)
				var h Headers
				Walk(frame, f.l3, &h)
				// The frame with each value, made the dull way.
				write := func(ecn uint8) []byte {
					b := bytes.Clone(f.frame)
					ip := b[h.L3:]
					if h.Version == 4 {
						ip[1] = ip[1]&^3 | ecn
						ip[10], ip[11] = 0, 0
						binary.BigEndian.PutUint16(ip[10:], ^dullSum(ip[:20], 0))
					} else {
						ip[1] = ip[1]&^0x30 | ecn<<4
					}
					return b
				}
				frame = write(from)
				Walk(frame, f.l3, &h)
				SetECN(frame, &h, to)
				if want := write(to); !bytes.Equal(frame, want) {
					t.Errorf("%s, %d to %d:\n got %x\nwant %x", f.name, from, to, frame, want)
				}
				var want Headers
				if Walk(frame, f.l3, &want); h != want {
					t.Errorf("%s, %d to %d: headers %+v, want %+v", f.name, from, to, h, want)
				}
			}
		}
	}
}

func hashOf(frame []byte, l3 bool, seed uint64) uint32 {
	var h Headers
	Walk(frame, l3, &h)
	return Hash(frame, &h, l3, seed)
}

// flows are 4096 frames that differ in the way that the name says.
var flows = []struct {
	name string
	make func(i int) []byte
}{
	{"source port", func(i int) []byte { return set(tcp4(), 34, byte(i>>8), byte(i)) }},
	{"destination port", func(i int) []byte { return set(tcp4(), 36, byte(i>>8), byte(i)) }},
	{"port in steps of 16", func(i int) []byte { return set(tcp4(), 34, byte(i>>4), byte(i<<4)) }},
	{"source address", func(i int) []byte { return set(tcp4(), 28, byte(i>>8), byte(i)) }},
	{"network", func(i int) []byte { return set(tcp4(), 26, byte(i>>8), byte(i)) }},
	{"destination address", func(i int) []byte { return set(tcp4(), 32, byte(i>>8), byte(i)) }},
	{"ICMP address", func(i int) []byte { return set(set(tcp4(), 23, 1), 32, byte(i>>8), byte(i)) }},
	{"v6 port", func(i int) []byte { return set(tcp6(), 54, byte(i>>8), byte(i)) }},
	{"v6 host", func(i int) []byte { return set(tcp6(), 36, byte(i>>8), byte(i)) }},
	{"v6 network", func(i int) []byte { return set(tcp6(), 24, byte(i>>8), byte(i)) }},
	{"source MAC", func(i int) []byte { return set(set(tcp4(), 12, 8, 6), 10, byte(i>>8), byte(i)) }},
	{"destination MAC", func(i int) []byte { return set(set(tcp4(), 12, 8, 6), 4, byte(i>>8), byte(i)) }},
	{"EtherType", func(i int) []byte { return set(tcp4(), 12, 0x10|byte(i>>8), byte(i)) }},
}

func TestHashSpreads(t *testing.T) {
	const n, buckets = 4096, 64
	for _, f := range flows {
		for _, seed := range []uint64{0, 1, 0x8000000000000000, 0x0123456789abcdef, ^uint64(0)} {
			var count [buckets]int
			other := 0
			for i := range n {
				frame := f.make(i)
				hash := hashOf(frame, false, seed)
				count[uint64(hash)*buckets>>32]++
				if hash != hashOf(frame, false, seed+1) {
					other++
				}
			}
			// Chi-square with 63 degrees of freedom: 63 expected, above 125 in
			// five of a million honest dice.
			var chi float64
			for _, c := range count {
				d := float64(c) - n/buckets
				chi += d * d / (n / buckets)
			}
			if chi > 125 {
				t.Errorf("%s, seed %#x: chi-square %.0f, want at most 125: %v", f.name, seed, chi, count)
			}
			if other < n-2 {
				t.Errorf("%s: another seed changes %d of %d hashes", f.name, other, n)
			}
		}
	}
}

// Every input bit has to move every output bit in about half of the cases.
func TestHashAvalanche(t *testing.T) {
	const samples = 512
	r := rand.New(rand.NewPCG(5, 6))
	for _, proto := range []string{"v4", "v6"} {
		first, last := 26, 38
		if proto == "v6" {
			first, last = 22, 58
		}
		for bit := first * 8; bit < last*8; bit++ {
			var moved [32]int
			for range samples {
				f := tcp4()
				if proto == "v6" {
					f = tcp6()
				}
				for i := first; i < last; i++ {
					f[i] = byte(r.Uint32())
				}
				seed := r.Uint64()
				a := hashOf(f, false, seed)
				f[bit/8] ^= 1 << (bit % 8)
				for d, i := a^hashOf(f, false, seed), 0; i < 32; i++ {
					moved[i] += int(d >> i & 1)
				}
			}
			for i, m := range moved[16:] { // the ones that choose among up to 65,536
				if m < samples/3 || m > samples*2/3 {
					t.Errorf("%s: bit %d moves bit %d of the hash in %d of %d", proto, bit, i+16, m, samples)
				}
			}
		}
	}
}

func TestHashRule(t *testing.T) {
	const seed = 42
	same := []struct {
		name string
		a, b []byte
		l3b  bool
	}{
		{"tag", tcp4(), tagged(tcp4(), 0x8100), false},
		{"two tags", tcp6(), tagged(tcp6(), 0x88a8, 0x8100), false},
		{"L3", tcp4(), tcp4()[14:], true},
		{"L3 v6", tcp6(), tcp6()[14:], true},
		{"other MACs", tcp4(), set(tcp4(), 0, 9, 9, 9, 9, 9, 9, 8), false},
		{"TTL, TOS, ID, sequence", tcp4(), set(set(set(tcp4(), 15, 3), 18, 7, 7), 38, 1, 2, 3, 4), false},
		{"payload", tcp4(), set(tcp4(), 66, 0, 0, 0), false},
		{"IPv6 extension header", tcp6(), ext6(60, "00 00 0000 00000000"), false},
		{"first and later fragment", set(tcp4(), 20, 0x20, 0), set(set(tcp4(), 20, 0, 1), 34, 1, 2, 3, 4), false},
		{"first and later fragment v6", ext6(44, "00 00 0001 00000007"),
			set(ext6(44, "00 00 0008 00000007"), 62, 1, 2, 3, 4), false},
		{"ICMP types", set(tcp4(), 23, 1), set(set(tcp4(), 23, 1), 34, 8), false},
		{"payload of ARP", set(tcp4(), 12, 8, 6), set(set(tcp4(), 12, 8, 6), 20, 1, 2, 3), false},
	}
	for _, tt := range same {
		if a, b := hashOf(tt.a, false, seed), hashOf(tt.b, tt.l3b, seed); a != b {
			t.Errorf("%s: %#x and %#x, want the same", tt.name, a, b)
		}
	}
	differ := []struct {
		name string
		a, b []byte
	}{
		{"fragment and whole", tcp4(), set(tcp4(), 20, 0x20, 0)},
		{"fragments of two protocols", set(tcp4(), 20, 0x20, 0), set(set(tcp4(), 20, 0x20, 0), 23, 17)},
		{"protocol", tcp4(), set(tcp4(), 23, 17)},
		{"way back", tcp4(), set(tcp4(), 26, 10, 0, 0, 2, 10, 0, 0, 1)},
		{"EtherType", set(tcp4(), 12, 8, 6), set(tcp4(), 12, 8, 7)},
	}
	for _, tt := range differ {
		if a, b := hashOf(tt.a, false, seed), hashOf(tt.b, false, seed); a == b {
			t.Errorf("%s: both %#x, want different ones", tt.name, a)
		}
	}
	for n := range 15 { // a frame too short for anything
		hashOf(make([]byte, n), false, seed)
		hashOf(make([]byte, n), true, seed)
	}
}

// The function is written down in docs and BPF: these values must not move.
func TestHashIsStable(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame []byte
		want  uint32
	}{
		{"v4", tcp4(), 0xe786cd7f},
		{"v6", tcp6(), 0x81ce49d3},
		{"fragment", set(tcp4(), 20, 0x20, 0), 0xf870e93f},
		{"ARP", set(tcp4(), 12, 8, 6), 0xc34e6fcf},
	} {
		if got := hashOf(tt.frame, false, 0x0123456789abcdef); got != tt.want {
			t.Errorf("%s: got %#08x, want %#08x", tt.name, got, tt.want)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	for _, f := range []struct {
		name  string
		frame []byte
	}{{"tcp4", tcp4()}, {"udp4", udp4()}, {"tcp6", tcp6()}, {"tag", tagged(tcp4(), 0x8100)}, {"hopbyhop", ext6(0, "0000000000000000")}} {
		var h Headers
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() {
				Walk(f.frame, false, &h)
			}
		})
		var x uint32
		b.Run(fmt.Sprint("hash-", f.name), func(b *testing.B) {
			for b.Loop() {
				x += Hash(f.frame, &h, false, 7)
			}
		})
	}
}
