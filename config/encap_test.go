package config

import (
	"fmt"
	"gvtep/vtep/option"
	"strings"
	"testing"
)

// TestEncapPort: where nobody names a port it is that of the encap, and a file that is printed
// says the same again.
func TestEncapPort(t *testing.T) {
	const tunnel = "[[tunnel]]\nname = \"a\"\nid = 1\nremote = \"192.0.2.2\"\n"
	for _, c := range []struct {
		text string
		want string
	}{
		{tunnel, "geneve 6081"},
		{tunnel + "encap = \"vxlan\"\n", "vxlan 4789"},
		{tunnel + "encap = \"vxlan\"\ndstport = 8472\n", "vxlan 8472"},
		{tunnel + "dstport = 4789\n", "geneve 4789"},
		{"[socket]\nport = 7000\n" + tunnel + "encap = \"vxlan\"\n", "vxlan 7000"},
		{"[defaults]\nencap = \"vxlan\"\n" + tunnel, "vxlan 4789"},
		{"[defaults]\nencap = \"vxlan\"\ndstport = 7000\n" + tunnel, "vxlan 7000"},
	} {
		cfg, err := parse("a.toml", c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		for _, all := range []bool{false, true} {
			again, err := parse("again.toml", Print(cfg, all))
			if err != nil {
				t.Errorf("%s: printed %v", c.text, err)
				continue
			}
			for _, tun := range []Tunnel{cfg.Tunnels[0], again.Tunnels[0]} {
				if got := fmt.Sprint(tun.Encap, " ", tun.DstPort); got != c.want {
					t.Errorf("%s: got %s, want %s", c.text, got, c.want)
				}
			}
		}
		if out := Print(cfg, false); strings.Contains(out, "dstport") != strings.Contains(c.text, "dstport") {
			t.Errorf("%s is printed as\n%s", c.text, out)
		}
	}
	got, err := ParseTunnel("a", strings.Fields("type vxlan id 42 local 192.0.2.1 remote 192.0.2.2 dev eth0 ttl 64 nolearning"), DefaultSocket(), option.Default(), "")
	if err != nil || got.DstPort != 4789 || got.Encap.String() != "vxlan" || got.Learning {
		t.Errorf("the words of ip link: %+v, %v", got, err)
	}
}

// TestOneEncapPerPort: a port is for one, whatever the addresses.
func TestOneEncapPerPort(t *testing.T) {
	text := func(first, second string) string {
		return "[[tunnel]]\nname = \"a\"\nid = 1\nremote = \"192.0.2.2\"\n" + first + "[[tunnel]]\nname = \"b\"\nid = 1\nremote = \"192.0.2.2\"\n" + second
	}
	for _, c := range []struct{ first, second, want string }{
		{"", "encap = \"vxlan\"\n", ""},
		{"encap = \"vxlan\"\n", "dstport = 4789\n", "encap geneve on port 4789: tunnel a (a.toml:2) has encap vxlan there, and one port is for one encap: give one of them another dstport"},
		{"local = \"192.0.2.1\"\n", "local = \"192.0.2.9\"\nencap = \"vxlan\"\ndstport = 6081\n", "encap vxlan on port 6081: tunnel a (a.toml:2) has encap geneve there, and one port is for one encap: give one of them another dstport"},
	} {
		switch _, err := parse("a.toml", text(c.first, c.second)); {
		case c.want == "" && err != nil:
			t.Errorf("%s beside %s: %v", c.second, c.first, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s beside %s: %v, want %s", c.second, c.first, err, c.want)
		}
	}
}
