package offload

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"gvtep/internal/packet"
)

// unfinished is the frame as a kernel leaves it to the network card.
func (s spec) unfinished() []byte {
	_, f := s.super(1)
	return f
}

// withOptions are frames with all kinds of headers, options and extension headers among them.
func withOptions(payload int) []spec {
	out := shapes(payload)
	for _, proto := range []int{6, 17} {
		four, six := base(4, proto, payload), base(6, proto, payload)
		four.ext = []byte{0x94, 4, 0, 0} // router alert
		six.ext, six.extType = []byte{byte(proto), 0, 5, 2, 0, 0, 1, 0}, 0
		out = append(out, four, six)
	}
	return out
}

// recognised returns what Unfinished says.
func recognised(frame []byte, l3 bool) (bool, packet.VirtioHdr) {
	h := walk(frame, l3)
	var hdr packet.VirtioHdr
	ok := Unfinished(&hdr, frame, &h)
	return ok, hdr
}

// TestUnfinished: a frame without a finished checksum is known by it, and finishing the checksum gives
// the frame that the sender meant. A finished one is not touched.
func TestUnfinished(t *testing.T) {
	for _, n := range []int{0, 1, 2, 101, 1400} {
		for _, s := range withOptions(n) {
			_, l4, _ := s.offsets()
			f := s.unfinished()
			ok, hdr := recognised(f, s.l3)
			want := packet.VirtioHdr{Flags: 1, CsumStart: uint16(l4), CsumOffset: uint16(s.csumField() - l4)}
			if !ok || hdr != want {
				t.Errorf("%v, %d bytes: %t %+v, want %+v", s, n, ok, hdr, want)
				continue
			}
			if err := FinishChecksum(&hdr, f); err != nil {
				t.Errorf("%v, %d bytes: %v", s, n, err)
			}
			wantBytes(t, s.String(), f, s.frame())
			if ok, hdr := recognised(f, s.l3); ok || hdr != (packet.VirtioHdr{}) {
				t.Errorf("%v, %d bytes: a finished checksum is taken for an unfinished one", s, n)
			}
		}
	}
}

// TestUnfinishedIsOneNumber: of all numbers that can be in the field one says that it is
// unfinished. So of damaged frames, whose field may be any, one of 65,536 is taken for unfinished.
func TestUnfinishedIsOneNumber(t *testing.T) {
	for _, s := range withOptions(33) {
		damaged := s.frame()
		damaged[len(damaged)-1] ^= 4
		partial := s.pseudoSum(damaged)
		for field := range 1 << 16 {
			binary.BigEndian.PutUint16(damaged[s.csumField():], uint16(field))
			if ok, _ := recognised(damaged, s.l3); ok != (uint16(field) == partial) {
				t.Fatalf("%v: field %#x, sum of the pseudo-header %#x: %t", s, field, partial, ok)
			}
		}
	}
}

// TestUnfinishedOrFinished: where the finished checksum is that same number, both readings
// give the same frame.
func TestUnfinishedOrFinished(t *testing.T) {
	for _, s := range withOptions(100) {
		// The last word of the payload is chosen so.
		partial := s.pseudoSum(s.raw())
		s.payload[98], s.payload[99] = 0, 0
		f := s.frame()
		without := ^binary.BigEndian.Uint16(f[s.csumField():])
		word := dullSum(binary.BigEndian.AppendUint16(nil, ^partial), binary.BigEndian.AppendUint16(nil, ^without))
		binary.BigEndian.PutUint16(s.payload[98:], word)
		f = s.frame()
		if got := binary.BigEndian.Uint16(f[s.csumField():]); got != partial {
			t.Fatalf("%v: finished checksum %#x, want %#x: the test tests nothing", s, got, partial)
		}
		ok, hdr := recognised(f, s.l3)
		if err := FinishChecksum(&hdr, f); err != nil || !ok {
			t.Errorf("%v: %t, %v", s, ok, err)
		}
		wantBytes(t, s.String(), f, s.frame())
	}
}

// TestNotUnfinished: frames of which nothing may be said, whatever the field holds.
func TestNotUnfinished(t *testing.T) {
	be := binary.BigEndian
	for _, s := range withOptions(64) {
		l3, l4, _ := s.offsets()
		for _, c := range []struct {
			what   string
			change func([]byte) []byte
		}{
			{"payload that was damaged behind a finished checksum", func([]byte) []byte {
				f := s.frame()
				f[len(f)-3] ^= 0x10
				return f
			}},
			{"complement of the sum", func(f []byte) []byte {
				be.PutUint16(f[s.csumField():], ^be.Uint16(f[s.csumField():]))
				return f
			}},
			{"no checksum", func(f []byte) []byte { be.PutUint16(f[s.csumField():], 0); return f }},
			{"something behind its end", func(f []byte) []byte { return append(f, 0) }},
			{"cut short", func(f []byte) []byte { return f[:len(f)-1] }},
			{"cut in the transport header", func(f []byte) []byte { return f[:l4+6] }},
			{"another address", func(f []byte) []byte { f[l3+15] ^= 1; return f }},
			{"another protocol", func(f []byte) []byte {
				if s.version == 4 {
					f[l3+9] = packet.ProtoSCTP
				} else if f[l3+6] = packet.ProtoSCTP; len(s.ext) > 0 {
					f[l3+6], f[l3+40] = 0, packet.ProtoSCTP
				}
				return f
			}},
			{"fragment", func(f []byte) []byte {
				if s.version == 4 {
					be.PutUint16(f[l3+6:], 0x2000)
					return f
				}
				// In the place of the payload's first bytes, so that the length stays.
				next := f[l3+6]
				f[l3+6] = 44
				copy(f[l3+48:], f[l3+40:len(f)-8])
				copy(f[l3+40:], []byte{next, 0, 0, 1, 0, 0, 0, 7})
				return f
			}},
		} {
			f := c.change(s.unfinished())
			if ok, hdr := recognised(f, s.l3); ok || hdr != (packet.VirtioHdr{}) {
				t.Errorf("%v: %s: taken for unfinished, %+v", s, c.what, hdr)
			}
		}
		if s.proto == 17 {
			f := s.unfinished()
			be.PutUint16(f[l4+4:], be.Uint16(f[l4+4:])-1)
			if ok, _ := recognised(f, s.l3); ok {
				t.Errorf("%v: a UDP length that is not the packet's: taken for unfinished", s)
			}
		}
	}
}

// TestUncut: a TCP frame that is longer than the path is cut for the path, a UDP frame as
// the kernel says and else not at all.
func TestUncut(t *testing.T) {
	for _, s := range withOptions(20_000) {
		_, l4, off := s.offsets()
		f := s.unfinished()
		h := walk(f, s.l3)
		kind := map[[2]int]uint8{{4, 6}: 1, {6, 6}: 4, {4, 17}: 5, {6, 17}: 5}[[2]int{s.version, s.proto}]
		for _, c := range []struct{ longest, size, want int }{ // want: of TCP, and of UDP size if that is less than all
			{len(f), 0, 0},
			{len(f), 20_000, 0},
			{len(f) - 1, 19_999, 19_999},
			{off + 1400, 1400, 1400},
			{off + leastMSS, leastMSS, leastMSS},
			{off + 5, 7, leastMSS},
			{0, 0, leastMSS},
		} {
			var hdr packet.VirtioHdr
			if !Unfinished(&hdr, f, &h) {
				t.Fatalf("%v: not unfinished", s)
			}
			want := c.want
			if s.proto == 17 {
				if want = c.size; want >= 20_000 {
					want = 0
				}
			}
			got := Uncut(&hdr, f, &h, c.longest, c.size)
			wantHdr := packet.VirtioHdr{Flags: 1, CsumStart: uint16(l4), CsumOffset: uint16(s.csumField() - l4)}
			if want > 0 {
				wantHdr.GSOType, wantHdr.GSOSize, wantHdr.HdrLen = kind, uint16(want), uint16(off)
			}
			if got != (want > 0) || hdr != wantHdr {
				t.Errorf("%v, path %d, told %d: %t %+v, want %+v", s, c.longest, c.size, got, hdr, wantHdr)
				continue
			}
			if got {
				if cut := cutAll(t, hdr, f, s.l3); !slices.EqualFunc(cut, frames(s.pieces(want)), bytes.Equal) {
					t.Errorf("%v, path %d, told %d: the cut is not that of the sender's kernel", s, c.longest, c.size)
				}
			}
		}
		if got, want := UncutRun(f, &h, 1000), s.proto == 17; got != want {
			t.Errorf("%v: one frame instead of a train: %t, want %t", s, got, want)
		}
		for what, f := range map[string][]byte{"finished": s.frame(), "followed by another": append(s.unfinished(), s.frame()...)} {
			if h := walk(f, s.l3); UncutRun(f, &h, 1000) {
				t.Errorf("%v, %s: one frame instead of a train", s, what)
			}
		}
		if UncutRun(f, &h, 20_000/mostPiecesUDP) {
			t.Errorf("%v: one frame of more pieces than a kernel makes", s)
		}
	}
}

// TestTakes: what a device must be able to do.
func TestTakes(t *testing.T) {
	const csum, tso4, tso6, uso = packet.OffloadCsum, packet.OffloadTSO4, packet.OffloadTSO6, packet.OffloadUSO
	for _, c := range []struct {
		version, proto, payload, size int
		need                          packet.Offload
	}{
		{4, 6, 100, 0, csum}, {6, 17, 100, 0, csum},
		{4, 6, 5000, 1000, csum | tso4}, {6, 6, 5000, 1000, csum | tso6},
		{4, 17, 5000, 1000, csum | uso}, {6, 17, 5000, 1000, csum | uso},
		{4, 17, 64 * 100, 100, csum | uso}, {4, 17, 64*100 + 1, 100, 0}, // more than kernels before 6.9 take
	} {
		s := base(c.version, c.proto, c.payload)
		f := s.unfinished()
		h := walk(f, false)
		var hdr packet.VirtioHdr
		if !Unfinished(&hdr, f, &h) {
			t.Fatalf("%v: not unfinished", s)
		}
		_, _, off := s.offsets()
		longest := len(f)
		if c.size > 0 {
			longest = off + c.size
		}
		Uncut(&hdr, f, &h, longest, c.size)
		for ability := range everything + 1 {
			if got, want := Takes(ability, &hdr, f, &h), c.need != 0 && ability.Has(c.need); got != want {
				t.Errorf("%v, %d bytes in pieces of %d: abilities %04b: %t, want %t", s, c.payload, c.size, ability, got, want)
			}
		}
	}
}

// TestUnfinishedIsNotJoined: neither with others nor with finished frames, which are joined all the
// same.
func TestUnfinishedIsNotJoined(t *testing.T) {
	for _, s := range shapes(7000) {
		specs := s.pieces(1000)
		in := frames(specs)
		in[2], in[3] = specs[2].unfinished(), specs[3].unfinished()
		hdrs, out := joinAll(t, everything, s.l3, in)
		if len(out) != 4 {
			t.Errorf("%v: written as %d frames, want 2 pieces, 1, 1 and 3", s, len(out))
			continue
		}
		for i, hdr := range hdrs {
			single := i == 1 || i == 2
			if (hdr.GSOType == packet.GSONone) != single || hdr.Flags != packet.VirtioNeedsCsum {
				t.Errorf("%v: frame %d: %+v", s, i, hdr)
			}
		}
	}
}
