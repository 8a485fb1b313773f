package geneve

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"gvtep/internal/packet"
)

// same compares headers by value; a nil and an empty option area are alike.
func same(a, b Header) bool {
	ao, bo := a.Options, b.Options
	return a.VNI == b.VNI && a.Protocol == b.Protocol && a.Control == b.Control &&
		a.Critical == b.Critical && bytes.Equal(ao, bo)
}

func TestParse(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			h, payload, err := Parse(v.bytes)
			if err != v.err || !same(h, v.header) || !bytes.Equal(payload, v.payload) {
				t.Errorf("%s\nparsing % x\n got %+v, payload % x, error %v\nwant %+v, payload % x, error %v",
					v.expect, v.bytes, h, payload, err, v.header, v.payload, v.err)
			}
		})
	}
}

func TestAppendHeader(t *testing.T) {
	for _, v := range vectors {
		if v.err != nil && v.err != ErrControl && v.err != ErrCritical {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			want := v.sent
			if want == nil {
				want = v.bytes[:v.header.Len()]
			}
			prefix := []byte("in front")
			got, err := AppendHeader(slices.Clone(prefix), v.header)
			if err != nil || !bytes.Equal(got, append(prefix, want...)) {
				t.Errorf("%s\nencoding %+v\n got % x, error %v\nwant % x behind %q", v.expect, v.header, got, err, want, prefix)
			}
		})
	}
}

func TestAppendHeaderRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		h    Header
		want string
	}{
		{"VNI of 25 bits", Header{VNI: packet.MaxVNI + 1}, "24 bits"},
		{"256 bytes of options", Header{Options: make(Options, 256)}, "256 bytes of options"},
		{"options of 6 bytes", Header{Options: Options(x("ff000100 ff00"))}, "do not add up"},
		{"option over the end", Header{Options: Options(x("ff000101"))}, "do not add up"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := AppendHeader([]byte("before"), c.h)
			if err == nil || !strings.Contains(err.Error(), c.want) || string(got) != "before" {
				t.Errorf("got %q, error %v; want %q untouched and an error with %q", got, err, "before", c.want)
			}
		})
	}
}

// TestFreshValue is the third fault of other parsers: a flag that stays set
// from one datagram to the next.
func TestFreshValue(t *testing.T) {
	h, _, _ := Parse(x("02 c0 6558 123456 00 ff008101 deadbeef"))
	if !h.Control || !h.Critical || len(h.Options) != 8 {
		t.Fatalf("first datagram: got %+v, want O, C and 8 bytes of options", h)
	}
	h, payload, err := Parse(x("00 00 6558 123456 00"))
	if err != nil || !same(h, plain) || len(payload) != 0 {
		t.Errorf("second datagram: got %+v, payload % x, error %v; want %+v and nothing left of the first", h, payload, err, plain)
	}
}

// TestEveryLength holds Parse against the arithmetic of RFC 8926 section 3.4
// for every Opt Len and every datagram up to well beyond the largest header.
func TestEveryLength(t *testing.T) {
	for optLen := range 64 {
		for n := range HeaderLen + 301 {
			b := make([]byte, n) // zero bytes are options without data
			for i := range b {
				if i >= HeaderLen+4*optLen {
					b[i] = 0xee
				}
			}
			if n > 0 {
				b[0] = byte(optLen)
			}
			// Nothing behind b may be looked at.
			b = b[:n:n]
			h, payload, err := Parse(b)
			if n < HeaderLen+4*optLen || n < HeaderLen {
				if err != ErrShort || payload != nil || h.Options != nil {
					t.Fatalf("Opt Len %d in %d bytes: got %+v, %d bytes, error %v; want ErrShort and nothing else", optLen, n, h, len(payload), err)
				}
				continue
			}
			if err != nil || len(h.Options) != 4*optLen || len(payload) != n-HeaderLen-4*optLen {
				t.Fatalf("Opt Len %d in %d bytes: got %d bytes of options, %d of payload, error %v; want %d and %d",
					optLen, n, len(h.Options), len(payload), err, 4*optLen, n-HeaderLen-4*optLen)
			}
			for i, c := range payload {
				if c != 0xee {
					t.Fatalf("Opt Len %d in %d bytes: byte %d of the payload is an option's", optLen, n, i)
				}
			}
			if len(payload) > 0 && &payload[0] != &b[HeaderLen+4*optLen] {
				t.Fatalf("Opt Len %d in %d bytes: payload is not a view", optLen, n)
			}
		}
	}
}

// TestEveryOptionLength puts one option of every length into an area of every
// length: it fits or it is refused, whatever the datagram has behind.
func TestEveryOptionLength(t *testing.T) {
	for area := 1; area < 64; area++ {
		for words := range 32 {
			b := make([]byte, HeaderLen+4*area+200)
			b[0] = byte(area)
			b[HeaderLen+3] = byte(words)
			_, _, err := Parse(b)
			if want := words+1 > area; (err == ErrOptions) != want || err != nil && err != ErrOptions {
				t.Errorf("option of %d words in an area of %d: got error %v, want refused %t", words+1, area, err, want)
			}
		}
	}
}

func TestEveryFlagByte(t *testing.T) {
	for first := range 256 {
		for second := range 256 {
			b := make([]byte, MaxHeaderLen)
			b[0], b[1] = byte(first), byte(second)
			h, _, err := Parse(b)
			var want error
			switch {
			case first>>6 != 0:
				want = ErrVersion
			case second&0x80 != 0:
				want = ErrControl
			}
			if err != want || want != ErrVersion && (h.Control != (second&0x80 != 0) || h.Critical != (second&0x40 != 0)) {
				t.Fatalf("bytes %02x %02x: got %+v, error %v; want error %v and the flags of the second byte", first, second, h, err, want)
			}
		}
	}
}

func TestViewsDoNotGrowIntoTheBuffer(t *testing.T) {
	b := cat(x("01 00 6558 123456 00 ff000100 aabb"), x("ccdd"))
	h, payload, err := Parse(b[:14])
	if err != nil {
		t.Fatal(err)
	}
	_ = append(h.Options, 1)
	_ = append(payload, 2)
	if want := x("01 00 6558 123456 00 ff000100 aabb ccdd"); !bytes.Equal(b, want) {
		t.Errorf("appending to the views wrote into the datagram: got % x, want % x", b, want)
	}
}

func TestOptions(t *testing.T) {
	want := []Option{
		{Class: 0x0102, Type: 0x80, Data: x("00010002")},
		{Class: 0xff00, Type: 0x01},
		{Class: 0xff00, Type: 0x02, Data: zeros124},
	}
	var area Options
	for _, o := range want {
		var err error
		if area, err = AppendOption(area, o); err != nil {
			t.Fatal(err)
		}
	}
	if bytes := cat(x("01028001 00010002 ff000100 ff00021f"), zeros124); !slices.Equal(area, bytes) {
		t.Errorf("encoded: got % x, want % x", area, bytes)
	}
	equal := func(a, b Option) bool {
		return a.Class == b.Class && a.Type == b.Type && bytes.Equal(a.Data, b.Data)
	}
	if got := slices.Collect(area.All()); !slices.EqualFunc(got, want, equal) {
		t.Errorf("decoded: got %x, want %x", got, want)
	}
	for range area.All() {
		break // must not go on
	}
	for _, o := range want {
		if got, ok := area.Find(o.Class, o.Type); !ok || !equal(got, o) {
			t.Errorf("Find(%#x, %#x): got %x, %t; want %x", o.Class, o.Type, got, ok, o)
		}
		if got, want := o.Critical(), o.Type == 0x80; got != want {
			t.Errorf("Critical of type %#x: got %t, want %t", o.Type, got, want)
		}
	}
	if got, ok := area.Find(0x0102, 0x00); ok {
		t.Errorf("Find without the critical bit: got %x, want none", got)
	}
	if err := area.Check(nil); err != ErrCritical {
		t.Errorf("Check knowing nothing: got %v, want ErrCritical", err)
	}
	known := func(class uint16, typ uint8) bool { return class == 0x0102 && typ == 0x80 }
	if err := area.Check(known); err != nil {
		t.Errorf("Check knowing the critical option: got %v, want nil", err)
	}
	if err := area[:len(area)-1].Check(known); err != ErrOptions {
		t.Errorf("Check of a cut area: got %v, want ErrOptions", err)
	}
	if got := slices.Collect(area[:len(area)-1].All()); len(got) != 2 {
		t.Errorf("All of a cut area: got %d options, want the 2 whole ones", len(got))
	}
}

func TestAppendOptionRefuses(t *testing.T) {
	full, err := AppendOption(nil, Option{Data: make([]byte, 124)})
	if err != nil {
		t.Fatal(err)
	}
	if full, err = AppendOption(full, Option{Data: make([]byte, 120)}); err != nil || len(full) != MaxOptionsLen {
		t.Fatalf("filling the area: got %d bytes, error %v; want %d", len(full), err, MaxOptionsLen)
	}
	for _, c := range []struct {
		name string
		dst  Options
		data int
		want string
	}{
		{"not a multiple of 4", nil, 5, "multiple of 4"},
		{"too long", nil, 128, "at most 124"},
		{"full area", full, 0, "at most 252"},
		{"one word too many", full[:248], 4, "at most 252"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := AppendOption(c.dst, Option{Data: make([]byte, c.data)})
			if err == nil || !strings.Contains(err.Error(), c.want) || !bytes.Equal(got, c.dst) {
				t.Errorf("got %d bytes, error %v; want %d bytes and an error with %q", len(got), err, len(c.dst), c.want)
			}
		})
	}
}

// canonical clears what RFC 8926 calls reserved in a well-formed header and
// makes the C bit agree with the options: the two ways in which a header may
// differ from what we send.
func canonical(b []byte, h Header) []byte {
	b = slices.Clone(b)
	b[1] &= 0x80
	b[7] = 0
	for at := HeaderLen; at < h.Len(); at += 4 + 4*int(b[at+3]) {
		b[at+3] &= 0x1f
		if b[at+2]&0x80 != 0 {
			b[1] |= 0x40
		}
	}
	return b
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors {
		f.Add(v.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		h, payload, err := Parse(b)
		if !bytes.Equal(b, before) {
			t.Fatalf("Parse changed its input: got % x, want % x", b, before)
		}
		switch {
		case err == nil, errors.Is(err, ErrCritical):
			if h.Control {
				t.Fatalf("O bit passed: % x", b)
			}
		case errors.Is(err, ErrControl):
			if h.Options.Check(nil) == ErrOptions {
				return
			}
		default:
			if payload != nil || !same(h, Header{}) {
				t.Fatalf("refused with %v, but got %+v and % x", err, h, payload)
			}
			return
		}
		// The options, taken out one by one, make up the area again.
		var area Options
		critical := false
		for o := range h.Options.All() {
			critical = critical || o.Critical()
			if area, err = AppendOption(area, o); err != nil {
				t.Fatalf("option %+v was read but cannot be written: %v", o, err)
			}
		}
		if got := h.Options.Check(nil) == ErrCritical; got != critical {
			t.Fatalf("Check says critical %t, the options say %t: % x", got, critical, h.Options)
		}
		want := canonical(b, h)
		for _, options := range []Options{h.Options, area} {
			h.Options = options
			got, err := AppendHeader(nil, h)
			if got = append(got, payload...); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("encoding again % x:\n got % x, error %v\nwant % x", b, got, err, want)
			}
		}
	})
}

func TestNoAllocs(t *testing.T) {
	option := cat(x("03 00 6558 123456 00 ff000101 deadbeef ff000200"), frame("options"))
	buf := make([]byte, 0, MaxHeaderLen)
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"Parse", func() { Parse(vectors[0].bytes) }},
		{"Parse with options", func() { Parse(option) }},
		{"Parse of a bad datagram", func() { Parse(option[:9]) }},
		{"All", func() {
			h, _, _ := Parse(option)
			n := 0
			for o := range h.Options.All() {
				n += len(o.Data)
			}
			if n != 4 {
				panic("options lost")
			}
		}},
		{"Find", func() {
			h, _, _ := Parse(option)
			if _, ok := h.Options.Find(0xff00, 2); !ok {
				panic("option lost")
			}
		}},
		{"AppendHeader", func() { AppendHeader(buf, plain) }},
	} {
		if n := testing.AllocsPerRun(100, c.run); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", c.name, n)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	for _, c := range []struct{ name, vector string }{{"plain", "V01a"}, {"1 option", "V05a"}, {"63 options", "V11b"}} {
		i := slices.IndexFunc(vectors, func(v vector) bool { return v.name == c.vector })
		data := vectors[i].bytes
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, length, err := Scan(data); err != nil || len(data)-length != 60 {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOptions(b *testing.B) {
	area := Options(empties)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range area.All() {
			n++
		}
		if n != 63 {
			b.Fatal(n)
		}
	}
}

func BenchmarkAppendHeader(b *testing.B) {
	buf := make([]byte, 0, MaxHeaderLen)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := AppendHeader(buf, plain); err != nil {
			b.Fatal(err)
		}
	}
}
