package spec

import (
	"slices"
	"strings"

	"gvtep/vtep/encap"
	"gvtep/vtep/option"
)

// options finds GENEVE options where there can be none.
func (c *checker) options() {
	t := c.t
	if !t.Encap.HasOptions() {
		if t.Options.Set != "" || slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Options.Set != "" }) {
			c.report("options", 0, "options: encap %s has none, encap %s has", t.Encap, encap.Geneve)
		}
		if len(t.OptionRules) > 0 {
			c.report("match", 0, "match: encap %s has no options, encap %s has", t.Encap, encap.Geneve)
		}
		if i := slices.IndexFunc(t.SendRules, func(u option.SendRule) bool { return u.HasOptions }); i >= 0 {
			c.report("send", i, "send: encap %s has no options, encap %s has", t.Encap, encap.Geneve)
		}
		return
	}
	c.tags()
	if !t.Device.L3 {
		return
	}
	noEthernet := func(sent option.Sent) bool {
		return slices.ContainsFunc(sent.Slots(), func(s option.Slot) bool { return s.From != option.FromDSCP })
	}
	const text = "options %s: a mode l3 packet has no VLAN and no MAC address"
	if noEthernet(t.Options) {
		c.report("options", 0, text, strings.Join(option.Default().Words(t.Options), ","))
	}
	for i, p := range t.Peers {
		if noEthernet(p.Options) {
			c.report("remote", i, text, strings.Join(option.Default().Words(p.Options), ","))
		}
	}
	for i, u := range t.SendRules {
		if u.VLAN != 0 || noEthernet(u.Options) {
			c.report("send", i, "send %s: a mode l3 packet has no VLAN and no MAC address", option.Default().SendText(u))
		}
	}
}

// tags finds rules for received packets that put a tag where there can be none.
func (c *checker) tags() {
	t := c.t
	for i, u := range t.OptionRules {
		if u.Action != option.ActVLAN {
			continue
		}
		switch text := option.Default().RuleText(u); {
		case t.Device.L3:
			c.report("match", i, "match %s: a mode l3 packet has no VLAN", text)
		case len(t.VLANs) > 0:
			c.report("match", i, "match %s: the VLANs of a trunk have VNIs, choose by vni", text)
		case t.VLANDrop:
			c.report("match", i, "match %s: the tunnel drops frames with a VLAN tag (vlan_tags drop)", text)
		}
	}
}
