package fastpath

import (
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// bypassed says what the kernel has of rules that packets on the fast path do not meet, ""
// if there are none. If it cannot be known it says so.
func bypassed() string {
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		if text, _ := os.ReadFile("/proc/net/" + name); len(strings.TrimSpace(string(text))) > 0 {
			return fmt.Sprintf("iptables has rules (%s: %s), which it would bypass", name, strings.Join(strings.Fields(string(text)), " "))
		}
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	chains, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	switch {
	case err == unix.EPROTONOSUPPORT || err == unix.EINVAL || err == unix.EOPNOTSUPP:
		return "" // this kernel has no nftables
	case err != nil:
		return fmt.Sprintf("the kernel does not say whether it has nftables rules: %v", err)
	}
	for _, chain := range chains {
		attrs, err := nl.ParseRouteAttr(chain[nl.SizeofNfgenmsg:])
		if err != nil {
			return fmt.Sprintf("the kernel's nftables chains cannot be read: %v", err)
		}
		table, hooked := "", false
		for _, a := range attrs {
			switch a.Attr.Type & nl.NLA_TYPE_MASK {
			case unix.NFTA_CHAIN_TABLE:
				table = strings.TrimRight(string(a.Value), "\x00")
			case unix.NFTA_CHAIN_HOOK:
				hooked = true
			}
		}
		if hooked {
			return fmt.Sprintf("nftables has rules (table %s), which it would bypass", table)
		}
	}
	return ""
}
