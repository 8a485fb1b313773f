package spec

import (
	"testing"

	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// TestTags: no rule puts a VLAN tag where there can be none; one that chooses a VNI is for all.
func TestTags(t *testing.T) {
	for _, c := range []struct {
		rule, want string
		edit       func(*Tunnel)
	}{
		{"vlan 7 any", "", func(*Tunnel) {}},
		{"vlan 7 any", "match vlan 7 any: a mode l3 packet has no VLAN", func(c *Tunnel) { c.Device.L3 = true }},
		{"vlan 7 any", "match vlan 7 any: the VLANs of a trunk have VNIs, choose by vni", func(c *Tunnel) { c.VLANs = []VLAN{{First: 1, Last: 1, VNI: 1}} }},
		{"vlan 7 any", "match vlan 7 any: the tunnel drops frames with a VLAN tag (vlan_tags drop)", func(c *Tunnel) { c.VLANDrop = true }},
		{"vlan 7 any", "match: encap vxlan has no options, encap geneve has", func(c *Tunnel) { c.Encap = encap.VXLAN }},
		{"vni 8 any", "", func(c *Tunnel) { c.Device.L3 = true }},
		{"vni 8 any", "", func(c *Tunnel) { c.VLANs, c.VLANDrop = []VLAN{{First: 1, Last: 1, VNI: 1}}, true }},
	} {
		u, err := option.Default().ParseRule(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		cfg := good()
		cfg.OptionRules = []option.Rule{u}
		c.edit(cfg)
		got := ""
		for _, p := range Check(cfg) {
			if p.Key == "match" {
				got += p.Text
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.rule, got, c.want)
		}
	}
}

// TestEntryOptions: an entry of VXLAN has no options.
func TestEntryOptions(t *testing.T) {
	sent, err := option.Default().Parse("ff01:01:00000001")
	if err != nil {
		t.Fatal(err)
	}
	cfg := good()
	cfg.Entries = []Entry{{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Remote: cfg.Peers[0].Remote, Options: sent.Share()}}
	if found := CheckEntries(cfg); len(found) != 0 {
		t.Errorf("GENEVE: %v, want nothing", found)
	}
	cfg.Encap = encap.VXLAN
	if found := CheckEntries(cfg); len(found) != 1 || found[0].Text != "options: encap vxlan has none, encap geneve has" {
		t.Errorf("VXLAN: %v, want that it has no options", found)
	}
}
