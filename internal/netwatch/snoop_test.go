package netwatch

import (
	"encoding/hex"
	"strings"
	"testing"
)

func frame(t testing.TB, text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	ethernet = "ffffffffffff 020000000110 "
	request  = ethernet + "0806 0001 0800 06 04 0001 020000000110 0a010010 000000000000 0a010001"
	v6       = ethernet + "86dd 60000000 0018 3a ff fd000000000000000000000000000010 ff0200000000000000000001ff000001 "
	solicit  = v6 + "8700 0000 00000000 fd000000000000000000000000000001"
	advert   = v6 + "8800 0000 60000000 fd000000000000000000000000000011"
)

func TestBinding(t *testing.T) {
	for _, x := range []struct{ name, frame, want string }{
		{"ARP request", request, "10.1.0.16"},
		{"ARP probe", strings.Replace(request, "0a010010", "00000000", 1), ""},
		{"ARP of another's address", strings.Replace(request, "0001 020000000110", "0001 020000000199", 1), ""},
		{"ARP of broadcast", strings.Replace(request, "0a010010", "ffffffff", 1), ""},
		{"ARP cut off", request[:80], ""},
		{"ARP over something else", strings.Replace(request, "0001 0800", "0006 0800", 1), ""},
		{"solicitation", solicit, "fd00::10"},
		{"duplicate address detection", strings.Replace(solicit, "fd000000000000000000000000000010", "00000000000000000000000000000000", 1), ""},
		{"advertisement", advert, "fd00::11"},
		{"advertisement through a router", strings.Replace(advert, "3a ff", "3a fe", 1), ""},
		{"advertisement cut off", advert[:len(advert)-2], ""},
		{"echo", strings.Replace(solicit, "8700", "8000", 1), ""},
		{"IPv4", ethernet + "0800", ""},
		{"nothing", "", ""},
	} {
		b, ok := bindingOf(frame(t, x.frame))
		if ok != (x.want != "") || ok && (b.IP.String() != x.want || b.MAC.String() != "02:00:00:00:01:10") {
			t.Errorf("%s: %+v, %v", x.name, b, ok)
		}
	}
}

func FuzzBinding(f *testing.F) {
	for _, text := range []string{request, solicit, advert} {
		f.Add(frame(f, text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, ok := bindingOf(b); ok && (!x.IP.IsValid() || x.MAC.IsGroup()) {
			t.Errorf("%x: %+v", b, x)
		}
	})
}
