package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"gvtep/internal/packet"
)

var encap = []byte("\x00\x00\x65\x58\x00\x00\x2a\x00")

// cutAll returns the whole pieces without encap.
func cutAll(t testing.TB, hdr packet.VirtioHdr, frame []byte, l3 bool) [][]byte {
	t.Helper()
	h := walk(frame, l3)
	var c Cutter
	n, err := c.Start(&hdr, frame, &h, encap)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	if got := Pieces(&hdr, frame, &h); got != n {
		t.Errorf("Pieces says %d, Start %d", got, n)
	}
	var out [][]byte
	run := c.Cut(make([]byte, len(frame)+n*c.HeadLen()))
	for piece := range slices.Chunk(run, c.HeadLen()+int(hdr.GSOSize)) {
		if !bytes.HasPrefix(piece, encap) {
			t.Fatalf("piece %x, want one that begins with %x", piece, encap)
		}
		out = append(out, piece[len(encap):])
	}
	if len(out) != n {
		t.Fatalf("Start said %d pieces, Cut gave %d", n, len(out))
	}
	return out
}

func TestCut(t *testing.T) {
	hopByHop := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	var list []spec
	for _, n := range []int{1, 1400, 1401, 2800, 10000} {
		list = append(list, shapes(n)...)
	}
	for _, s := range shapes(5000) {
		if s.proto == 6 {
			s.flags |= tcpPSH | tcpFIN | tcpCWR
			s.urgent = 3
		}
		s.ext = []byte{1, 1, 1, 0}
		if s.version == 6 {
			s.ext = bytes.Clone(hopByHop)
			s.ext[0] = byte(s.proto)
		}
		list = append(list, s)
	}
	for _, s := range list {
		hdr, super := s.super(1400)
		if s.flags&tcpCWR != 0 && s.proto == 6 {
			hdr.GSOType |= packet.GSOECN
		}
		hdr.HdrLen = 3 // never looked at
		before := bytes.Clone(super)
		got := cutAll(t, hdr, super, s.l3)
		wantBytes(t, "super-frame after the cut", super, before)
		want := s.pieces(1400)
		if len(got) != len(want) {
			t.Fatalf("%v: %d pieces, want %d", s, len(got), len(want))
		}
		for i := range got {
			wantBytes(t, s.String(), got[i], want[i].frame())
			if err := valid(got[i], s.l3); err != nil {
				t.Errorf("%v piece %d: %v", s, i, err)
			}
		}
	}
}

// A full 64 KiB packet: all length fields at their end.
func TestCutLargest(t *testing.T) {
	for _, s := range shapes(0) {
		l3, _, off := s.offsets()
		total := 65535
		if s.version == 6 {
			total = 65535 + 40
		}
		n := total - (off - l3)
		b := base(s.version, s.proto, n)
		s.payload = b.payload
		hdr, super := s.super(1448)
		got := cutAll(t, hdr, super, s.l3)
		for i, p := range s.pieces(1448) {
			wantBytes(t, s.String(), got[i], p.frame())
		}
	}
}

// A payload can be chosen so that the UDP checksum comes out as 0.
func TestUDPZeroIsWrittenAsOnes(t *testing.T) {
	for _, version := range []int{4, 6} {
		s := base(version, 17, 64)
		f := s.frame()
		_, _, off := s.offsets()
		// Put what is left of the sum into the payload, then it is zero.
		sum := binary.BigEndian.Uint16(f[s.csumField():])
		w := uint32(binary.BigEndian.Uint16(f[off:])) + uint32(sum)
		binary.BigEndian.PutUint16(s.payload, uint16(w+w>>16))
		if got := binary.BigEndian.Uint16(s.frame()[s.csumField():]); got != 0xffff {
			t.Fatalf("v%d: the case makes %#x, want 0xffff", version, got)
		}
		hdr, super := s.super(64)
		wantBytes(t, "cut", cutAll(t, hdr, super, false)[0], s.frame())
		hdr.GSOType, hdr.GSOSize = 0, 0
		if err := FinishChecksum(&hdr, super); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "finished", super, s.frame())
	}
}

func TestStartRefuses(t *testing.T) {
	tcp4, tcp6, udp4 := base(4, 6, 3000), base(6, 6, 3000), base(4, 17, 3000)
	fragment := tcp4
	fragment.frag = 0x2000
	empty := base(4, 6, 0)
	tests := []struct {
		name string
		s    spec
		edit func(hdr *packet.VirtioHdr, f []byte) []byte
		want error
	}{
		{"not a super-frame", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = 0; return f }, errGSOType},
		{"UFO", udp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = packet.GSOUDP; return f }, errGSOType},
		{"unknown bit", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType |= 0x40; return f }, errGSOType},
		{"ECN with UDP", udp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType |= 0x80; return f }, errGSOType},
		{"ECN with none", udp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = 0x80; return f }, errGSOType},
		{"size 0", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOSize = 0; return f }, errGSOSize},
		{"TCP without NEEDS_CSUM", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.Flags = 2; return f }, errGSOCsum},
		{"UDP without NEEDS_CSUM", udp4, func(h *packet.VirtioHdr, f []byte) []byte { h.Flags = 0; return f }, errGSOCsum},
		{"TCPv6 says TCPv4", tcp6, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = 1; return f }, errGSOProto},
		{"TCPv4 says TCPv6", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = 4; return f }, errGSOProto},
		{"UDP says TCP", udp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = 1; return f }, errGSOProto},
		{"TCP says UDP", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.GSOType = 5; return f }, errGSOProto},
		{"ARP says UDP", udp4, func(h *packet.VirtioHdr, f []byte) []byte { f[13] = 6; return f }, errGSOProto},
		{"fragment", fragment, nil, errGSOProto},
		{"nothing", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { return nil }, errGSOProto},
		{"cut in the TCP header", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { return f[:40] }, errGSOProto},
		{"data offset 4", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { f[46] = 0x40; return f }, errGSOProto},
		{"start is the IP header", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.CsumStart = 14; return f }, errGSOOffset},
		{"start beyond", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.CsumStart = 0xffff; return f }, errGSOOffset},
		{"field of UDP in TCP", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { h.CsumOffset = 6; return f }, errGSOOffset},
		{"field of TCP in UDP", udp4, func(h *packet.VirtioHdr, f []byte) []byte { h.CsumOffset = 16; return f }, errGSOOffset},
		{"truncated", tcp4, func(h *packet.VirtioHdr, f []byte) []byte { return f[:len(f)-1] }, errGSOLength},
		{"truncated v6", tcp6, func(h *packet.VirtioHdr, f []byte) []byte { return f[:len(f)-1] }, errGSOLength},
		{"bytes behind it", udp4, func(h *packet.VirtioHdr, f []byte) []byte { return append(f, 0) }, errGSOLength},
		{"UDP length", udp4, func(h *packet.VirtioHdr, f []byte) []byte { f[39]++; return f }, errGSOLength},
		{"empty", empty, nil, errGSOEmpty},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hdr, f := tt.s.super(1400)
			if tt.edit != nil {
				f = tt.edit(&hdr, f)
			}
			h := walk(f, false)
			good, g := tcp4.super(1400)
			gh := walk(g, false)
			var c Cutter
			if _, err := c.Start(&good, g, &gh, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Start(&hdr, f, &h, nil); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if run := c.Cut(make([]byte, 2*len(g))); len(run) > 0 {
				t.Error("pieces after an error")
			}
		})
	}
}

func TestFinishChecksum(t *testing.T) {
	for _, s := range shapes(333) {
		hdr, f := s.super(1)
		hdr.GSOType, hdr.GSOSize = 0, 0
		done := hdr
		done.Flags = packet.VirtioDataValid
		before := bytes.Clone(f)
		if err := FinishChecksum(&done, f); err != nil || !bytes.Equal(f, before) {
			t.Errorf("%v: without NEEDS_CSUM: err %v, or frame changed", s, err)
		}
		if err := FinishChecksum(&hdr, f); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, s.String(), f, s.frame())
	}
	frame := make([]byte, 100)
	for _, tt := range []struct {
		hdr  packet.VirtioHdr
		want error
	}{
		{packet.VirtioHdr{Flags: 1, CsumStart: 92, CsumOffset: 6}, nil},
		{packet.VirtioHdr{Flags: 1, CsumStart: 93, CsumOffset: 6}, errCsumRange},
		{packet.VirtioHdr{Flags: 1, CsumStart: 65535, CsumOffset: 65535}, errCsumRange},
		{packet.VirtioHdr{Flags: 1, CsumStart: 0, CsumOffset: 99}, errCsumRange},
		{packet.VirtioHdr{Flags: 1, CsumStart: 34, CsumOffset: 16, GSOType: 1}, errCsumGSO},
	} {
		if err := FinishChecksum(&tt.hdr, frame); !errors.Is(err, tt.want) {
			t.Errorf("%+v: got %v, want %v", tt.hdr, err, tt.want)
		}
	}
}

// Whatever comes from the device: no panic, no endless cutting, and a right
// partial sum gives right pieces.
func FuzzCut(f *testing.F) {
	for _, s := range shapes(700) {
		hdr, frame := s.super(300)
		raw := make([]byte, packet.VirtioHdrLen)
		hdr.Encode(raw)
		f.Add(raw, s.l3, frame)
	}
	f.Fuzz(func(t *testing.T, raw []byte, l3 bool, frame []byte) {
		if len(raw) < packet.VirtioHdrLen || len(frame) > packet.MaxFrame {
			return
		}
		var hdr packet.VirtioHdr
		hdr.Decode(raw)
		finished := bytes.Clone(frame)
		_ = FinishChecksum(&hdr, finished)
		h := walk(frame, l3)
		var c Cutter
		n, err := c.Start(&hdr, frame, &h, encap)
		switch pieces := Pieces(&hdr, frame, &h); {
		case err != nil && pieces < 1:
			t.Fatalf("Pieces says %d", pieces)
		case err != nil:
			return
		case pieces != n:
			t.Fatalf("Pieces says %d, Start %d", pieces, n)
		}
		// Make the partial sum right, then every piece must be.
		at, l4 := int(h.L3), int(h.L4)
		addrs := frame[at+8:][:32]
		if h.Version == 4 {
			addrs = frame[at+12:][:8]
		}
		length := len(frame) - l4
		sum := dullSum(addrs, []byte{0, h.Proto, byte(length >> 8), byte(length)})
		binary.BigEndian.PutUint16(frame[l4+int(hdr.CsumOffset):], sum)
		pieces := cutAll(t, hdr, frame, l3)
		if len(pieces) != n {
			t.Fatalf("%d pieces, want %d", len(pieces), n)
		}
		var payload []byte
		for i, p := range pieces {
			if err := valid(p, l3); err != nil {
				t.Fatalf("piece %d of %d: %v\n%x", i, n, err, p)
			}
			payload = append(payload, p[c.off:]...)
			if len(p)-c.off > int(hdr.GSOSize) {
				t.Fatalf("piece %d has %d bytes, want at most %d", i, len(p)-c.off, hdr.GSOSize)
			}
		}
		wantBytes(t, "payload", payload, frame[c.off:])
	})
}

func TestCutAllocatesNothing(t *testing.T) {
	s := base(4, 6, 65000)
	hdr, frame := s.super(1448)
	h := walk(frame, false)
	var c Cutter
	dst := make([]byte, 2*len(frame))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Start(&hdr, frame, &h, encap); err != nil {
			t.Fatal(err)
		}
		if run := c.Cut(dst); len(run) < len(frame) {
			t.Fatalf("%d bytes", len(run))
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkCut(b *testing.B) {
	for _, s := range []spec{base(4, 6, 65000), base(6, 6, 65000), base(4, 17, 65000)} {
		b.Run(s.String(), func(b *testing.B) {
			hdr, frame := s.super(1400)
			h := walk(frame, false)
			var c Cutter
			dst := make([]byte, 2*len(frame))
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Start(&hdr, frame, &h, encap)
				c.Cut(dst)
			}
		})
	}
}
