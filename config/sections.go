package config

// Section is a table of a configuration file, for manuals and editors.
type Section struct {
	Name  string // as it is written in a file; "": the top of it
	About string
	Keys  []Keyword // Short ones are words of the command line only
}

// Sections returns all that can stand in a configuration file.
func Sections() []Section {
	of := func(name, about string, keys []Keyword, before ...Keyword) Section {
		return Section{name, about, append(before, keys...)}
	}
	return []Section{
		of("", "The top of a file.", nil,
			Keyword{Name: "instance", Arg: "NAME", Text: true, Usage: "name of the instance, and of its directory below /run/gvtep (that of the file)"},
			Keyword{Name: "include", Kind: List, Arg: "FILE", Text: true, Live: true, Usage: "further files to read, such as tenants.d/*.toml, relative to the file that includes them"}),
		of("[log]", "What to log, and how.", keywordsOf(logKeywords())),
		of("[socket]", "Settings that all tunnels share.", keywordsOf(socketKeywords())),
		of("[metrics]", "Metrics for Prometheus.", keywordsOf(metricsKeywords())),
		of("[hooks]", "Programs to run on events, without a shell. Their environment has GVTEP_EVENT, GVTEP_INSTANCE, GVTEP_DEV, GVTEP_VNI and GVTEP_MTU, and for events of a peer also GVTEP_REMOTE, GVTEP_PORT and GVTEP_PEER.", keywordsOf(hookKeywords())),
		of("[[option]]", "A kind of GENEVE options of one's own. There may be any number; the words of options and of match know its name.", keywordsOf(optionKeywords())),
		of("[defaults]", "Keys of [[tunnel]], for all tunnels that do not set them. Keys that belong to one tunnel are not allowed here: name, id, lladdr, address and the tables below [[tunnel]].", nil),
		of("[[tunnel]]", "A tunnel. There may be any number.", keywordsOf(tunnelKeywords(nil)),
			Keyword{Name: "name", Arg: "DEVICE", Text: true, Usage: "name of the tunnel's device, at most 15 bytes; with %d in it, and a range such as \"1000-1999\" as id, it stands for as many tunnels"}),
		of("[[tunnel.peer]]", "A peer of the tunnel above it, for which remote is not enough.", keywordsOf(peerKeywords(nil)),
			Keyword{Name: "remote", Arg: "ADDR", Text: true, Live: true, Usage: "address of the peer"}),
		of("[[tunnel.fdb]]", "An entry of the forwarding table of the tunnel above it.", keywordsOf(entryKeywords(nil)),
			Keyword{Name: "lladdr", Arg: "LLADDR", Text: true, Live: true, Usage: "MAC address of the entry"}),
	}
}

func keywordsOf[T any](table []entry[T]) (all []Keyword) {
	for _, e := range table {
		all = append(all, e.Keyword)
	}
	return all
}

// TunnelKeywords are the words of a tunnel that is added to a process, and
// PeerKeywords and EntryKeywords those of its peers and forwarding entries.
func TunnelKeywords() []Keyword { return keywordsOf(tunnelKeywords(nil)) }

// PeerKeywords are the words after the address of a peer.
func PeerKeywords() []Keyword { return keywordsOf(peerKeywords(nil)) }

// EntryKeywords are the words after the address of a forwarding entry.
func EntryKeywords() []Keyword { return keywordsOf(append(entryKeywords(nil), handKeywords()...)) }

// Switched reports whether a file has true or false for it.
func (k *Keyword) Switched() bool { return k.isSwitch() }
