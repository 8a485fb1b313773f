package offload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"gvtep/internal/packet"
)

const everything = packet.OffloadCsum | packet.OffloadTSO4 | packet.OffloadTSO6 | packet.OffloadUSO

func frames(specs []spec) [][]byte {
	var out [][]byte
	for _, s := range specs {
		out = append(out, s.frame())
	}
	return out
}

// joinAll does as a worker does and returns what it would write. It demands that
// Extend changes nothing of it, and what joinBy does.
func joinAll(t testing.TB, ability packet.Offload, l3 bool, in [][]byte) (hdrs []packet.VirtioHdr, out [][]byte) {
	t.Helper()
	hdrs, out, _ = joinBy(t, ability, l3, false, in)
	quickHdrs, quickOut, _ := joinBy(t, ability, l3, true, in)
	if !slices.Equal(quickHdrs, hdrs) || !slices.EqualFunc(quickOut, out, bytes.Equal) {
		t.Fatalf("with Extend:\n%+v %x\nwant\n%+v %x", quickHdrs, quickOut, hdrs, out)
	}
	return hdrs, out
}

// joinBy joins with Add alone, or asks Extend first and counts what that took. It
// demands of every group that Pieces are what was added and that the cut of Frame gives
// them back.
func joinBy(t testing.TB, ability packet.Offload, l3, quick bool, in [][]byte) (hdrs []packet.VirtioHdr, out [][]byte, extended int) {
	t.Helper()
	var j Joiner
	j.Reset(ability)
	var held [][]byte
	write := func() {
		t.Helper()
		var hdr packet.VirtioHdr
		super := bytes.Clone(j.Frame(&hdr))
		if again := j.Frame(&hdr); !bytes.Equal(again, super) {
			t.Fatal("Frame differs when called again")
		}
		if j.Count() != len(held) {
			t.Fatalf("Count %d, want %d", j.Count(), len(held))
		}
		if len(held) == 1 {
			var want packet.VirtioHdr
			h := walk(held[0], l3)
			Unfinished(&want, held[0], &h) // which TestUnfinished is about
			if hdr != want || !bytes.Equal(super, held[0]) {
				t.Fatalf("a single frame was changed: %+v\n got %x\nwant %x", hdr, super, held[0])
			}
		} else {
			cut, h0 := cutAll(t, hdr, super, l3), walk(held[0], l3)
			if len(cut) != len(held) {
				t.Fatalf("%d joined, %d after the cut", len(held), len(cut))
			}
			for i := range cut {
				keepID(cut[i], held[i], int(h0.L3), h0.Version == 4 && sameIDs(held, int(h0.L3)))
				if !bytes.Equal(cut[i], held[i]) {
					t.Fatalf("piece %d of %d differs after join and cut:\n got %x\nwant %x", i, len(cut), cut[i], held[i])
				}
			}
		}
		for i, p := range j.Pieces() {
			if !bytes.Equal(p, held[i]) {
				t.Fatalf("Pieces differ at %d of %d:\n got %x\nwant %x", i, len(held), p, held[i])
			}
		}
		if again := j.Frame(&hdr); !bytes.Equal(again, super) {
			t.Fatal("Frame differs after Pieces")
		}
		hdrs, out = append(hdrs, hdr), append(out, super)
		j.Reset(ability)
		held = nil
	}
	for _, f := range in {
		h := walk(f, l3)
		work := slices.Clip(bytes.Clone(f))
		if quick && j.Extend(work) {
			extended++
			held = append(held, f)
			continue
		}
		if !j.Add(work, &h) {
			if len(held) == 0 {
				t.Fatal("an empty Joiner refused a frame")
			}
			write()
			if !j.Add(work, &h) {
				t.Fatal("an empty Joiner refused a frame")
			}
		}
		held = append(held, f)
	}
	if len(held) > 0 {
		write()
	}
	return hdrs, out, extended
}

// Extend takes every full piece but the first two, and any number of super-frames
// is the same to it.
func TestExtend(t *testing.T) {
	for _, s := range shapes(50*1000 + 1) {
		pieces := frames(s.pieces(1000))
		_, out, extended := joinBy(t, everything, s.l3, true, slices.Concat(pieces, pieces, pieces))
		if want := 3 * (50 - 2); extended != want || len(out) != 3 {
			t.Errorf("%v: %d of %d pieces extended %d frames, want %d of 3", s, extended, 3*len(pieces), len(out), want)
		}
	}
}

// What is cut from a super-frame joins to that super-frame.
func TestJoin(t *testing.T) {
	for _, n := range []int{2800, 2801, 5000, 30000, 65000} {
		for _, s := range shapes(n) {
			if s.proto == 6 {
				s.flags |= tcpPSH
				if n > 5000 {
					s.flags |= tcpFIN
				}
			}
			wantHdr, want := s.super(1400)
			hdrs, got := joinAll(t, everything, s.l3, frames(s.pieces(1400)))
			if len(got) != 1 {
				t.Errorf("%v %d: written as %d frames, want 1", s, n, len(got))
				continue
			}
			wantBytes(t, s.String(), got[0], want)
			if hdrs[0] != wantHdr {
				t.Errorf("%v: header %+v, want %+v", s, hdrs[0], wantHdr)
			}
		}
	}
}

func TestJoinLimits(t *testing.T) {
	sizes := func(s spec, size int) (n []int) {
		_, out := joinAll(t, everything, false, frames(s.pieces(size)))
		_, _, off := s.offsets()
		for _, f := range out {
			n = append(n, (len(f)-off+size-1)/size)
		}
		return n
	}
	tests := []struct {
		name string
		s    spec
		size int
		want []int
	}{
		{"UDP 64 pieces", base(4, 17, 150*10), 10, []int{64, 64, 22}},
		{"UDP v6 64 pieces", base(6, 17, 65*10), 10, []int{64, 1}},
		{"TCP 500 pieces", base(4, 6, 501*10), 10, []int{500, 1}},
		{"TCP v4 65535 bytes", base(4, 6, 65535), 1448, []int{45, 1}},
		{"TCP v6 65535 bytes", base(6, 6, 65535), 1440, []int{45, 1}},
		// 20 + 32 bytes of headers: 65,483 of payload fit, 65,484 do not.
		{"the last byte that fits", base(4, 6, 65483), 9355, []int{7}},
		{"the first that does not", base(4, 6, 65484), 9355, []int{6, 1}},
		{"v6, the last byte that fits", base(6, 6, 65463), 9352, []int{7}},
		{"v6, the first that does not", base(6, 6, 65464), 9352, []int{6, 1}},
	}
	for _, tt := range tests {
		if tt.name == "the first that does not" || tt.name == "v6, the first that does not" {
			// As two specs, since one would not fit a length field.
			p := tt.s
			p.payload = p.payload[:len(p.payload)-1]
			last := p.pieces(tt.size)
			k := len(last) - 1
			last[k].payload = tt.s.payload[k*tt.size:]
			_, out := joinAll(t, everything, false, frames(last))
			if len(out) != 2 {
				t.Errorf("%s: written as %d frames, want 2", tt.name, len(out))
			}
			continue
		}
		if got := sizes(tt.s, tt.size); !slices.Equal(got, tt.want) {
			t.Errorf("%s: pieces %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestJoinAsPermitted(t *testing.T) {
	for _, s := range shapes(2800) {
		need := packet.OffloadUSO
		if s.proto == 6 && s.version == 4 {
			need = packet.OffloadTSO4
		} else if s.proto == 6 {
			need = packet.OffloadTSO6
		}
		for _, tt := range []struct {
			ability packet.Offload
			want    int
		}{
			{everything, 1}, {need | packet.OffloadCsum, 1},
			{everything &^ need, 2}, {need, 2}, {everything &^ packet.OffloadCsum, 2}, {0, 2},
		} {
			if _, out := joinAll(t, tt.ability, s.l3, frames(s.pieces(1400))); len(out) != tt.want {
				t.Errorf("%v with %04b: %d frames, want %d", s, tt.ability, len(out), tt.want)
			}
		}
	}
}

// Two frames that would join but for one thing that is changed in the second,
// in the first or in both. flip changes a bit of the finished frame.
func TestNeverJoined(t *testing.T) {
	type edit func(s *spec)
	tests := []struct {
		name       string
		version    int // 0: both
		proto      int // 0: both
		first, sec edit
	}{
		{"TTL differs", 0, 0, nil, func(s *spec) { s.ttl-- }},
		{"DSCP differs", 0, 0, nil, func(s *spec) { s.tos ^= 0x20 }},
		{"ECN differs", 0, 0, nil, func(s *spec) { s.tos |= 1 }},
		{"flow label differs", 6, 0, nil, func(s *spec) { s.label++ }},
		{"source address differs", 0, 0, nil, func(s *spec) { s.src++ }},
		{"source port differs", 0, 0, nil, func(s *spec) { s.sport++ }},
		{"VLAN tag in one", 0, 0, nil, func(s *spec) { s.tags = 1 }},
		{"other number of tags", 0, 0, func(s *spec) { s.tags = 1 }, func(s *spec) { s.tags = 2 }},
		{"DF in one", 4, 0, nil, func(s *spec) { s.frag = 0 }},
		{"reserved bit in both", 4, 0, func(s *spec) { s.frag = 0x8000 }, func(s *spec) { s.frag = 0x8000 }},
		{"first fragment", 4, 0, func(s *spec) { s.frag = 0x2000 }, func(s *spec) { s.frag = 0x2000 }},
		{"later fragment", 4, 0, nil, func(s *spec) { s.frag = 0x0010 }},
		{"IPv4 ID counts down", 4, 0, nil, func(s *spec) { s.id -= 2 }},
		{"DF gone with the same ID", 4, 0, nil, func(s *spec) { s.id--; s.frag = 0 }},
		{"DF come with the same ID", 4, 0, func(s *spec) { s.frag = 0 }, func(s *spec) { s.id-- }},
		{"IPv4 ID skips one", 4, 0, nil, func(s *spec) { s.id++ }},
		{"IPv4 options in both", 4, 0, func(s *spec) { s.ext = []byte{1, 1, 1, 1} }, func(s *spec) { s.ext = []byte{1, 1, 1, 1} }},
		{"IPv4 options in the second", 4, 0, nil, func(s *spec) { s.ext = []byte{1, 1, 1, 1} }},
		{"destination options in the second", 6, 0, nil, func(s *spec) { s.ext, s.extType = []byte{byte(s.proto), 0, 1, 4, 0, 0, 0, 0}, 60 }},
		{"other destination options", 6, 0, func(s *spec) { s.ext, s.extType = []byte{byte(s.proto), 0, 1, 4, 0, 0, 0, 0}, 60 },
			func(s *spec) { s.ext, s.extType = []byte{byte(s.proto), 0, 1, 4, 0, 0, 0, 1}, 60 }},
		{"options longer than there is room", 6, 6, func(s *spec) { s.ext, s.extType = longOptions(s.proto), 60 },
			func(s *spec) { s.ext, s.extType = longOptions(s.proto), 60 }},
		{"a way still to go", 6, 0, func(s *spec) { s.ext, s.extType = routing(s.proto), 43 },
			func(s *spec) { s.ext, s.extType = routing(s.proto), 43 }},
		{"atomic fragment", 6, 0, func(s *spec) { s.ext, s.extType = []byte{byte(s.proto), 0, 0, 0, 0, 0, 0, 1}, 44 },
			func(s *spec) { s.ext, s.extType = []byte{byte(s.proto), 0, 0, 0, 0, 0, 0, 1}, 44 }},
		{"longer than the first", 0, 0, nil, func(s *spec) { s.payload = append(bytes.Clone(s.payload), 1) }},
		{"no payload in the second", 0, 0, nil, func(s *spec) { s.payload = nil }},
		{"no payload in the first", 0, 0, func(s *spec) { s.payload = nil }, func(s *spec) { s.seq -= 1000 }},
		{"sequence gap", 0, 6, nil, func(s *spec) { s.seq++ }},
		{"sequence repeated", 0, 6, nil, func(s *spec) { s.seq -= 1000 }},
		{"acknowledges more", 0, 6, nil, func(s *spec) { s.ack++ }},
		{"window differs", 0, 6, nil, func(s *spec) { s.window++ }},
		{"urgent pointer differs", 0, 6, nil, func(s *spec) { s.urgent++ }},
		{"timestamp differs", 0, 6, nil, func(s *spec) { s.options = bytes.Clone(s.options); s.options[7]++ }},
		{"fewer options", 0, 6, nil, func(s *spec) { s.options = nil }},
		{"PSH in the first", 0, 6, func(s *spec) { s.flags |= tcpPSH }, nil},
		{"FIN in the first", 0, 6, func(s *spec) { s.flags |= tcpFIN }, nil},
		{"PSH in both", 0, 6, func(s *spec) { s.flags |= tcpPSH }, func(s *spec) { s.flags |= tcpPSH }},
		{"no ACK", 0, 6, func(s *spec) { s.flags = 0 }, func(s *spec) { s.flags = 0 }},
	}
	for flag, name := range map[byte]string{2: "SYN", 4: "RST", 0x20: "URG", 0x40: "ECE", 0x80: "CWR"} {
		set := func(s *spec) { s.flags |= flag }
		tests = append(tests, struct {
			name       string
			version    int
			proto      int
			first, sec edit
		}{name + " in the first", 0, 6, set, nil}, struct {
			name       string
			version    int
			proto      int
			first, sec edit
		}{name + " in the second", 0, 6, nil, set}, struct {
			name       string
			version    int
			proto      int
			first, sec edit
		}{name + " in both", 0, 6, set, set})
	}
	for _, tt := range tests {
		for _, s := range shapes(2000) {
			if tt.version != 0 && tt.version != s.version || tt.proto != 0 && tt.proto != s.proto || s.l3 || s.tags > 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/v%d-%d", tt.name, s.version, s.proto), func(t *testing.T) {
				two := s.pieces(1000)
				if _, out := joinAll(t, everything, s.l3, frames(two)); len(out) != 1 {
					t.Fatal("the unchanged frames do not join")
				}
				if tt.first != nil {
					tt.first(&two[0])
				}
				if tt.sec != nil {
					tt.sec(&two[1])
				}
				if _, out := joinAll(t, everything, s.l3, frames(two)); len(out) != 2 {
					t.Errorf("written as %d frame, want 2", len(out))
				}
			})
		}
	}
}

// Frames that are broken, padded or not what they seem.
func TestNeverJoinedRaw(t *testing.T) {
	for _, s := range shapes(3000) {
		good := frames(s.pieces(1000))
		l3, l4, off := s.offsets()
		field := s.csumField()
		flip := func(at int) func([]byte) []byte {
			return func(f []byte) []byte { f[at] ^= 1; return f }
		}
		tests := []struct {
			name string
			edit func(f []byte) []byte
		}{
			{"bit in the payload", flip(off + 500)},
			{"last bit", func(f []byte) []byte { f[len(f)-1] ^= 1; return f }},
			{"bit in the checksum", flip(field)},
			{"padding", func(f []byte) []byte { return append(f, 0, 0, 0, 0) }},
			{"truncated", func(f []byte) []byte { return f[:len(f)-1] }},
			{"IP length, all sums right", func(f []byte) []byte {
				if s.version == 6 {
					f[l3+5] -= 2
				} else {
					f[l3+3] -= 2
					f[l3+11] += 2
				}
				return f
			}},
			{"partial checksum", func(f []byte) []byte { f[field], f[field+1] = 0, 0; return f }},
		}
		add := func(name string, edit func([]byte) []byte) {
			tests = append(tests, struct {
				name string
				edit func([]byte) []byte
			}{name, edit})
		}
		if s.version == 4 {
			add("bit in the IPv4 checksum", flip(l3+10))
		}
		if s.proto == 17 {
			add("UDP length", flip(l4+5))
			add("UDP length that keeps the sum", func(f []byte) []byte {
				binary.BigEndian.PutUint16(f[l4+4:], 1006)
				binary.BigEndian.PutUint16(f[off:], packet.UpdateChecksum(binary.BigEndian.Uint16(f[off:]), 1008, 1006))
				return f
			})
			add("no UDP checksum", func(f []byte) []byte { f[field], f[field+1] = 0, 0; return f })
		} else {
			add("reserved bit of TCP", func(f []byte) []byte {
				f[l4+12] |= 2 // and the checksum made right
				binary.BigEndian.PutUint16(f[field:], packet.UpdateChecksum(binary.BigEndian.Uint16(f[field:]), 0, 0x0200))
				return f
			})
		}
		if !s.l3 {
			add("source MAC", flip(6))
			add("destination MAC", flip(0))
		}
		if s.tags > 0 {
			add("VLAN", flip(15))
			add("priority of the VLAN", flip(14))
		}
		for _, tt := range tests {
			for victim := range 3 {
				in := make([][]byte, 3)
				for i := range in {
					in[i] = bytes.Clone(good[i])
				}
				in[victim] = tt.edit(in[victim])
				_, out := joinAll(t, everything, s.l3, in)
				// The victim is alone, and the others join if they are neighbours.
				want := []int{2, 3, 2}[victim]
				if len(out) != want {
					t.Errorf("%v, %s in frame %d: written as %d frames, want %d", s, tt.name, victim, len(out), want)
					continue
				}
				if !bytes.Equal(out[[]int{0, 1, 1}[victim]], in[victim]) {
					t.Errorf("%v, %s in frame %d: not written as it came", s, tt.name, victim)
				}
			}
		}
	}
}

// Both ways to write zero verify; only one comes back from a cut. In UDP the
// other one says that there is no checksum.
func TestOtherZeroIsNotJoined(t *testing.T) {
	check := func(name string, in [][]byte, field int, usual, other uint16) {
		t.Helper()
		be := binary.BigEndian
		for _, victim := range []int{0, 1} {
			if got := be.Uint16(in[victim][field:]); got != usual {
				if victim == 1 {
					t.Fatalf("%s: the case makes %#x, want %#x", name, got, usual)
				}
				continue
			}
			if _, out := joinAll(t, everything, false, in); len(out) != 1 {
				t.Errorf("%s: checksum %#x: written as %d frames, want 1", name, usual, len(out))
			}
			be.PutUint16(in[victim][field:], other)
			if _, out := joinAll(t, everything, false, in); len(out) != 2 {
				t.Errorf("%s: checksum %#x: written as %d frames, want 2", name, other, len(out))
			}
			be.PutUint16(in[victim][field:], usual)
		}
	}
	for _, version := range []int{4, 6} {
		for _, proto := range []int{6, 17} {
			s := base(version, proto, 2000)
			two := s.pieces(1000)
			// What is left of the sum, put into the payload, makes it zero.
			for i := range two {
				two[i].payload = bytes.Clone(two[i].payload)
				sum := uint32(binary.BigEndian.Uint16(two[i].frame()[s.csumField():]))
				sum += uint32(binary.BigEndian.Uint16(two[i].payload))
				binary.BigEndian.PutUint16(two[i].payload, uint16(sum+sum>>16))
			}
			usual, other := uint16(0), uint16(0xffff)
			if proto == 17 {
				usual, other = other, usual
			}
			check(s.String(), frames(two), s.csumField(), usual, other)
		}
	}
	s := base(4, 6, 2000)
	second := s.pieces(1000)[1]
	second.id = 0
	s.id = binary.BigEndian.Uint16(second.frame()[24:]) - 1 // the second gets this ID, and so checksum 0
	check("IPv4 header", frames(s.pieces(1000)), 24, 0, 0xffff)
}

func TestNothingAfterShortPSHOrFIN(t *testing.T) {
	for _, s := range shapes(3000) {
		three := s.pieces(1000)
		three[1].payload = three[1].payload[:999]
		three[2].seq--
		if _, out := joinAll(t, everything, s.l3, frames(three)); len(out) != 2 {
			t.Errorf("%v: short one in the middle: %d frames, want 2", s, len(out))
		}
		for _, flag := range []byte{tcpPSH, tcpFIN} {
			three = s.pieces(1000)
			three[1].flags |= flag
			if _, out := joinAll(t, everything, s.l3, frames(three)); s.proto == 6 && len(out) != 2 {
				t.Errorf("%v: flag %#x in the middle: %d frames, want 2", s, flag, len(out))
			}
		}
	}
}

// Any two kinds of frame after one another, the second as short as can be.
func TestOtherHeadersAreNotJoined(t *testing.T) {
	for _, a := range shapes(1) {
		for _, b := range shapes(1) {
			if a.l3 != b.l3 || a.String() == b.String() {
				continue
			}
			if _, out := joinAll(t, everything, a.l3, [][]byte{a.frame(), b.frame()}); len(out) != 2 {
				t.Errorf("%v and %v: joined", a, b)
			}
		}
	}
}

func TestOtherFramesPass(t *testing.T) {
	arp := append(append([]byte{}, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x08\x06"...), make([]byte, 46)...)
	in := [][]byte{arp, arp, {1, 2, 3}, {}, arp}
	in = append(in, frames(base(4, 17, 50).pieces(25))...)
	if _, out := joinAll(t, everything, false, in); len(out) != 6 {
		t.Errorf("%d frames written, want 6", len(out))
	}
	var j Joiner
	var hdr packet.VirtioHdr
	if got := j.Frame(&hdr); len(got) != 0 || len(j.Pieces()) != 0 || j.Count() != 0 {
		t.Errorf("an empty Joiner holds %d frames", len(got))
	}
}

// Join, then cut, gives the input bytes back, whatever the input. Script bytes
// choose flows, sizes and faults; raw goes in as it is.
func FuzzJoin(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0}, uint8(0), []byte{})
	f.Add([]byte{1, 0, 9, 0, 33, 0, 77, 0, 0, 0}, uint8(3), base(4, 6, 10).frame())
	f.Add(bytes.Repeat([]byte{2, 0}, 70), uint8(7), base(6, 17, 10).frame())
	f.Add([]byte{0, 0, 128, 5, 0, 0, 200, 9, 0, 0}, uint8(12), []byte{0x45})
	f.Fuzz(func(t *testing.T, script []byte, which uint8, raw []byte) {
		list := shapes(0)
		s := list[int(which)%len(list)]
		if len(script) > 300 || len(raw) > 2000 {
			return
		}
		var in [][]byte
		for i, op := range script {
			p := s
			n := 40
			if op&3 == 1 {
				n = int(op >> 2)
			}
			p.payload = bytes.Repeat([]byte{op, byte(i)}, 64)[:n]
			switch op & 0x1f {
			case 2:
				p.flags |= tcpPSH
			case 6:
				p.flags |= tcpFIN | tcpPSH
			case 10:
				p.ttl = op
			case 14:
				p.tos = op
			case 18:
				p.seq += uint32(op)
			case 22:
				p.id += uint16(op)
			}
			frame := p.frame()
			if op&0x1f == 3 && i+1 < len(script) {
				frame[int(script[i+1])%len(frame)] ^= op
			}
			if op&0x1f == 7 {
				frame = bytes.Clone(raw)
			}
			in = append(in, frame)
			s.seq += uint32(n)
			s.id++
		}
		in = append(in, bytes.Clone(raw))
		_, out := joinAll(t, everything, s.l3, in)
		// Nothing is lost or doubled: joinAll compared every group with its input.
		if len(in) > 0 && (len(out) == 0 || len(out) > len(in)) {
			t.Fatalf("%d frames out of %d", len(out), len(in))
		}
		// The same two frames from the fuzzer, one after the other.
		joinAll(t, everything, s.l3, [][]byte{raw, raw})
	})
}

func TestJoinAllocatesNothing(t *testing.T) {
	in := frames(base(4, 6, 45*1448-100).pieces(1448))
	hs := make([]packet.Headers, len(in))
	for i := range in {
		hs[i] = walk(in[i], false)
	}
	var j Joiner
	var hdr packet.VirtioHdr
	if n := testing.AllocsPerRun(100, func() {
		j.Reset(everything)
		for i := range in {
			if !j.Add(in[i], &hs[i]) {
				t.Fatalf("piece %d refused", i)
			}
		}
		if n := len(j.Frame(&hdr)); n < 45*1448-100 || len(j.Pieces()) != 45 {
			t.Fatalf("%d bytes of %d pieces, want 45 pieces", n, len(j.Pieces()))
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkJoin(b *testing.B) {
	for _, s := range []spec{base(4, 6, 65000), base(6, 6, 65000), base(4, 17, 64*1000)} {
		for _, quick := range []bool{false, true} {
			b.Run(fmt.Sprintf("%v/extend=%v", s, quick), func(b *testing.B) {
				size := 1400
				if s.proto == 17 {
					size = 1000
				}
				in := frames(s.pieces(size))
				hs := make([]packet.Headers, len(in))
				n := 0
				for i := range in {
					hs[i] = walk(in[i], false)
					n += len(in[i])
				}
				var j Joiner
				var hdr packet.VirtioHdr
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					j.Reset(everything)
					for i := range in {
						if !(quick && j.Extend(in[i])) && !j.Add(in[i], &hs[i]) {
							b.Fatal("refused")
						}
					}
					j.Frame(&hdr)
				}
			})
		}
	}
}

// A frame that is not joined must cost next to nothing.
func BenchmarkJoinNothing(b *testing.B) {
	s := base(4, 6, 1400)
	two := [][]byte{s.frame(), s.frame()}
	h := walk(two[0], false)
	var j Joiner
	var hdr packet.VirtioHdr
	b.ReportAllocs()
	for b.Loop() {
		j.Reset(everything)
		j.Add(two[0], &h)
		if j.Add(two[1], &h) {
			b.Fatal("joined")
		}
		j.Frame(&hdr)
	}
}
