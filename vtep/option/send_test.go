package option

import (
	"strings"
	"testing"

	"gvtep/internal/packet"
)

func TestSendRules(t *testing.T) {
	r := custom(t)
	for _, text := range []string{
		"any then options my.pod:77", "any then options none", "src 10.0.0.0/24 dst 10.0.0.2/32 vlan 7 dscp 46 proto tcp sport 1024-65535 dport 443 then options my.pod:77,ff02:01:@vlan dscp 10 vni 43",
		"dst fd00::/64 proto icmpv6 then vni 0", "proto 47 then dscp 0",
	} {
		u, err := r.ParseSendRule(text)
		if err != nil || r.SendText(u) != text {
			t.Errorf("%q is %q, error %v", text, r.SendText(u), err)
		}
	}
	for text, wrong := range map[string]string{
		"": "want WHEN", "then vni 1": "want WHEN", "any then": "want WHEN", "any options ff01:01:": "want WHEN", "to 10.0.0.1 then vni 1": "want src, dst",
		"any then ttl 3": "want options, dscp, vni", "src 10.0.0.1/24 then vni 1": "try 10.0.0.0/24", "src ten then vni 1": "want a prefix", "vlan 0 then vni 1": "from 1 to 4094",
		"vlan 3-4 then vni 1": "one VLAN ID", "dscp 64 then vni 1": "from 0 to 63", "dport 9-3 then vni 1": "smaller first", "proto ip then vni 1": "want tcp",
		"proto icmp dport 3 then vni 1": "proto icmp has no ports", "any then vni 16777216": "0 to 16777215", "any then dscp 3-4": "one DSCP", "any then options my.pot:1": "or a name",
		"any then vni 1 vni 2": "given twice", "dscp then vni 1": "needs a value", "any then vni": "needs a value",
	} {
		if _, err := r.ParseSendRule(text); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%q: error %v, want %q", text, err, wrong)
		}
	}
}

func TestSendMatches(t *testing.T) {
	r := custom(t)
	// VLAN 100, DSCP 46, UDP from 1234 to 53.
	v4 := "02000000000b 02000000000a 8100 2064 0800 45b8 0020 0000 0000 4011 0000 0a000001 0a000002 04d2 0035 000c 0000 01020304"
	v6 := "02000000000b 02000000000a 86dd 6b800000 000c 11 40 fd000000000000000000000000000001 fd000000000000000000000000000002 04d2 0035 000c 0000 01020304"
	later := "02000000000b 02000000000a 0800 4500 0020 0000 0001 4011 0000 0a000001 0a000002 04d2 0035 000c 0000 01020304"
	arp := "ffffffffffff 02000000000a 0806 0001080006040001 020000000202 0a000002 000000000000 0a000001"
	for _, c := range []struct {
		when, frame string
		vid         uint16
		want        bool
	}{
		{"any", v4, 0, true}, {"any", arp, 0, true},
		{"src 10.0.0.0/24 dst 10.0.0.2", v4, 0, true}, {"src 10.0.0.2", v4, 0, false}, {"dst 10.0.0.1", v4, 0, false}, {"src 0.0.0.0/0", v6, 0, false}, {"src 0.0.0.0/0", arp, 0, false},
		{"src fd00::1 dst fd00::/64", v6, 0, true}, {"dst fd01::/64", v6, 0, false}, {"src ::/0", v4, 0, false},
		{"vlan 100", v4, 0, true}, {"vlan 100", v4, 7, false}, {"vlan 7", v6, 7, true}, {"vlan 7", v6, 0, false},
		{"dscp 46", v4, 0, true}, {"dscp 40-46", v6, 0, true}, {"dscp 0-45", v4, 0, false}, {"dscp 0", arp, 0, false},
		{"proto udp", v4, 0, true}, {"proto udp", later, 0, true}, {"proto tcp", v6, 0, false}, {"proto 0", arp, 0, false},
		{"sport 1234 dport 50-60", v4, 0, true}, {"dport 53", v6, 0, true}, {"dport 54", v4, 0, false}, {"sport 53", v4, 0, false}, {"dport 53", later, 0, false}, {"dport 0", arp, 0, false},
	} {
		u, err := r.ParseSendRule(c.when + " then vni 1")
		if err != nil {
			t.Fatal(err)
		}
		frame := unhex(t, c.frame)
		var h packet.Headers
		packet.Walk(frame, false, &h)
		got := false
		if allocs := testing.AllocsPerRun(1, func() { got = u.Matches(frame, &h, c.vid) }); got != c.want || allocs != 0 {
			t.Errorf("%q on %.60s, VLAN %d: %v with %v allocations, want %v with none", c.when, c.frame, c.vid, got, allocs, c.want)
		}
	}
}

// FuzzSendRule: what is read can be written and read again.
func FuzzSendRule(f *testing.F) {
	f.Add("src 10.0.0.0/24 vlan 7 dscp 46 proto tcp dport 443 then options my.pod:77 dscp 10 vni 43")
	f.Add("any then options none")
	f.Fuzz(func(t *testing.T, text string) {
		r := custom(t)
		u, err := r.ParseSendRule(text)
		if err != nil {
			return
		}
		words := r.SendText(u)
		if again, err := r.ParseSendRule(words); err != nil || again != u {
			t.Fatalf("%q: written as %q it is %v, error %v; was %v", text, words, again, err, u)
		}
	})
}
