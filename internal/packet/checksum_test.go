package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// dullSum is RFC 1071 section 4.1, word by word.
func dullSum(b []byte, initial uint32) uint16 {
	sum := uint64(initial)
	for i, v := range b {
		if i%2 == 0 {
			sum += uint64(v) << 8
		} else {
			sum += uint64(v)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func TestSumRFC1071(t *testing.T) {
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7} // section 3
	if got := Fold(Sum(b, 0)); got != 0xddf2 {
		t.Errorf("got %#x, want 0xddf2", got)
	}
}

func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	buf, copied := make([]byte, 70000), make([]byte, 70001)
	fill := func(kind int) {
		for i := range buf {
			buf[i] = byte(r.Uint32())
			if kind == 1 {
				buf[i] = 0xff // every addition carries
			} else if kind == 2 {
				buf[i] = 0
			}
		}
	}
	for kind := range 3 {
		fill(kind)
		check := func(b []byte, initial uint16, split int) {
			t.Helper()
			want := dullSum(b, uint32(initial))
			if got := Fold(Sum(b, SumWord(initial))); got != want {
				t.Fatalf("kind %d, %d bytes, initial %#x: got %#x, want %#x", kind, len(b), initial, got, want)
			}
			copied[len(b)] = 0xa5
			if got := Fold(SumCopy(copied, b, SumWord(initial))); got != want || !bytes.Equal(copied[:len(b)], b) || copied[len(b)] != 0xa5 {
				t.Fatalf("kind %d, %d bytes, initial %#x: SumCopy %#x, want %#x and a copy of just them", kind, len(b), initial, got, want)
			}
			// In two parts; a part that begins at an odd offset counts turned
			// round (RFC 1071 section 2 B).
			a, rest := Sum(b[:split], SumWord(initial)), Sum(b[split:], 0)
			if split%2 == 1 {
				rest = bits.RotateLeft64(rest, 8)
			}
			sum, c := bits.Add64(a, rest, 0)
			if got := Fold(sum + c); got != want {
				t.Fatalf("kind %d, %d bytes split at %d: got %#x, want %#x", kind, len(b), split, got, want)
			}
		}
		for n := range 300 {
			for off := range 9 {
				check(buf[off:off+n], uint16(r.Uint32()), r.IntN(n+1))
			}
		}
		for range 200 {
			off := r.IntN(1000)
			n := r.IntN(len(buf) - off)
			check(buf[off:off+n], uint16(r.Uint32()), r.IntN(n+1))
		}
	}
	// A running sum that is all ones and still takes carries.
	ones := make([]byte, 24)
	for i := range ones {
		ones[i] = 0xff
	}
	if got := Fold(Sum(ones, ^uint64(0))); got != 0xffff {
		t.Errorf("all ones: got %#x, want 0xffff", got)
	}
	long := bytes.Repeat([]byte{0xff}, 300)
	if got := Fold(SumCopy(copied, long, ^uint64(0))); got != 0xffff {
		t.Errorf("copy of all ones: got %#x, want 0xffff", got)
	}
	if got := Fold(Sum([]byte{0, 1}, ^uint64(0))); got != 1 {
		t.Errorf("all ones and 1: got %#x, want 1", got)
	}
}

func TestPseudoSum(t *testing.T) {
	for _, f := range []struct {
		name  string
		frame []byte
	}{
		{"v4", tcp4()}, {"v6", tcp6()}, {"v6 behind two tags", tagged(tcp6(), 0x88a8, 0x8100)},
	} {
		var h Headers
		Walk(f.frame, false, &h)
		addrs := f.frame[h.L3+12 : h.L3+20]
		if h.Version == 6 {
			addrs = f.frame[h.L3+8 : h.L3+40]
		}
		for _, n := range []int{0, 20, 65535, 65536, 0x12345} {
			want := dullSum(append(append([]byte{}, addrs...), byte(n>>24), byte(n>>16), byte(n>>8), byte(n), 0, 0, 0, h.Proto), 0)
			if got := Fold(PseudoSum(f.frame, &h, n)); got != want {
				t.Errorf("%s, %d bytes: got %#x, want %#x", f.name, n, got, want)
			}
		}
	}
}

func TestUpdateChecksum(t *testing.T) {
	// The example of RFC 1624 section 4.
	if got := UpdateChecksum(0xdd2f, 0x5555, 0x3285); got != 0x0000 {
		t.Errorf("got %#x, want 0", got)
	}
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 20)
	for range 100000 {
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		b[0] |= 0x40
		at := 2 * (1 + r.IntN(9))
		old := binary.BigEndian.Uint16(b[at:])
		check := ^dullSum(b, 0)
		word := []uint16{uint16(r.Uint32()), 0, 0xffff, old, ^old}[r.IntN(5)]
		binary.BigEndian.PutUint16(b[at:], word)
		if got, want := UpdateChecksum(check, old, word), ^dullSum(b, 0); got != want {
			t.Fatalf("%#x, %#x to %#x: got %#x, want %#x", check, old, word, got, want)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	buf := make([]byte, 65536)
	for _, n := range []int{20, 64, 1400, 65536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			var x uint64
			for b.Loop() {
				x += Sum(buf[:n], 0)
			}
			if x != 0 {
				b.Fatal(x)
			}
		})
	}
}

func BenchmarkSumCopy(b *testing.B) {
	src, dst := make([]byte, 65536), make([]byte, 65536)
	for _, n := range []int{64, 1400, 65536} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			var x uint64
			for b.Loop() {
				x += SumCopy(dst, src[:n], 0)
			}
			if x != 0 {
				b.Fatal(x)
			}
		})
	}
}
