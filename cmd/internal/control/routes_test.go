package control

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestRoutesGuarded: nobody who is not known changes anything or sees the
// memory, and what monitoring asks for is for anybody.
func TestRoutesGuarded(t *testing.T) {
	for _, r := range slices.Concat(watched, routes, changing, checking()) {
		method := r.method
		if method == "" {
			method = "PUT"
		}
		open := method == "GET" && !strings.HasPrefix(r.path, "/debug/") && r.path != "/v1/capture" // packets are for few
		if why := r.may(nil, httptest.NewRequest(method, "/", nil)); (why == "") != open {
			t.Errorf("%s %s: refused with %q, want it open: %t", method, r.path, why, open)
		}
	}
}

// TestQuery: what is written is read, and a filter without a value is refused
// rather than taken for all.
func TestQuery(t *testing.T) {
	f := FDBFlush{Port: 7, VLAN: 4094, SrcVNI: new(uint32(0)), Is: map[string]bool{"static": false, "sticky": true}}
	text := writeQuery(f.query())
	if want := "?port=7&src_vni=0&static=false&sticky=true&vlan=4094"; text != want {
		t.Errorf("%s, want %s", text, want)
	}
	var got FDBFlush
	if err := parseQuery(httptest.NewRequest("DELETE", "/"+text, nil).URL.Query(), got.query()); err != nil || writeQuery(got.query()) != text {
		t.Errorf("%+v, %v; want what was written", got, err)
	}
	for _, p := range f.query() {
		var none FDBFlush
		if err := parseQuery(map[string][]string{p.key: {""}}, none.query()); err == nil {
			t.Errorf("%s= is read: it would flush everything", p.key)
		}
	}
}
