package fastpath

// puntNames are those of enum punt in fast.c, from the first, as the metrics have them.
func puntNames() []string {
	return []string{
		"group", "not_ip", "vlan", "headers", "fragment", "protocol", "neighbour", "length", "no_checksum",
		"unknown_destination", "local_destination", "source", "no_peer", "too_big", "own_flow", "path",
		"bulk", "remainder", "geneve", "checksum", "ecn", "flood_limit", "kernel",
	}
}
