package evpn

// Setting is one of the configuration file: a row of the manual and of docs/evpn.md.
type Setting struct {
	Name    string // with its section, such as "bgp.asn"
	Value   string // an example, or the default as it would be written
	Must    bool   // it has to be there, and Value is no default
	Meaning string
}

// Settings are all of them, in the order of the manual.
func Settings() []Setting {
	return []Setting{
		{"bgp.asn", `65000`, true, "the number of our autonomous system"},
		{"bgp.router-id", `"192.0.2.1"`, true, "an IPv4 address that no other VTEP has; also that of our VTEP, unless a tunnel has a local"},
		{"bgp.neighbor", `["192.0.2.254"]`, true, "addresses of the route reflectors"},
		{"bgp.neighbor-asn", `bgp.asn`, false, "the AS of the neighbours"},
		{"bgp.port", `179`, false, "the port that the neighbours listen on; we listen nowhere"},
		{"bgp.hold", `"9s"`, false, "a neighbour that says nothing for so long is dead"},
		{"bgp.restart", `"120s"`, false, "graceful restart (RFC 4724): how long a neighbour keeps our routes while we are away"},
		{"bgp.long-lived", `"0s"`, false, "long-lived graceful restart (RFC 9494): how long after that it keeps them as a last resort"},
		{"bgp.grace", `"10s"`, false, "a VTEP that vanishes as a whole stays for so long while gvtep still hears it (in the last 3 s)"},
		{"bgp.stale", `"1h"`, false, "how long everything stays while there is no session at all"},
		{"bgp.password-file", `none`, false, "a file with the password of TCP MD5 (RFC 2385), of all neighbours; its name is relative to the configuration"},
		{"bgp.ttl-security", `false`, false, "packets of neighbours must come from the same link (RFC 5082)"},
		{"bgp.max-routes", `1000000`, false, "a neighbour that sends more is cut off until the agent is started anew; 0: no limit"},
		{"bgp.rt-constraint", `false`, false, "neighbours are asked for routes with our targets only (RFC 4684): those of evpn.rt, or both automatic forms of our AS"},
		{"evpn.instance", `"fabric"`, true, "the name of the gvtep instance, as gvtep ls shows it"},
		{"evpn.tunnels", `all`, false, "a list of names; those in other network namespaces are left out"},
		{"evpn.rt", `"auto"`, false, `route targets: "auto" is AS:VNI, "rfc8365" is derived as its section 5.1.2.1 says, and both take either form, of any AS; or a list such as ["65000:100"]`},
		{"evpn.announce", `["mac", "ip", "prefix"]`, false, "which of these are announced"},
		{"evpn.prefixes", `[]`, false, "networks that tunnels of mode l3 announce"},
		{"evpn.duplicate", `"5 in 180s"`, false, `moves that make a station a duplicate; or "off"`},
		{"evpn.max-vtep-routes", `100000`, false, "how many routes of stations and networks a tunnel takes of one VTEP; others are counted, and wait for room; 0: no limit"},
	}
}
