package packet

import (
	"net"
	"strings"
	"testing"
)

// TestParseMAC: an address is read as the standard library does, with any separator that it
// knows, and the usual form takes no allocation.
func TestParseMAC(t *testing.T) {
	const good = "02:aB:00:fF:0a:01"
	texts := []string{good, "02-ab-00-ff-0a-01", "02ab.00ff.0a01", "", "02:ab", "02:ab:00:ff:0a:01:02:03"}
	for i := range good { // one character that is wrong, each in turn
		for _, c := range []byte("gG:@`/0- \x80") {
			texts = append(texts, good[:i]+string(c)+good[i+1:])
		}
	}
	for _, text := range texts {
		want, err := net.ParseMAC(text)
		wanted := err == nil && len(want) == 6
		got, err := ParseMAC(text)
		switch {
		case (err == nil) != wanted, wanted && got != MAC(want):
			t.Errorf("%q is %s (%v), want %s", text, got, err, want)
		case err != nil && strings.Count(err.Error(), "\n") > 0:
			t.Errorf("%q: %v", text, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { ParseMAC(good) }); n != 0 {
		t.Errorf("%v allocations for %s, want 0", n, good)
	}
}
