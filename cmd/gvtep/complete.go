package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

// completeTimeout is how long a completion waits for the daemon: short enough not to look
// like a hang, long enough for the JSON of ten thousand tunnels.
const completeTimeout = 500 * time.Millisecond

type completeFunc = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completion is a command line that is being completed, and the daemon to ask. Errors give
// no candidates and no message: that would appear in the middle of the user's line.
type completion struct {
	ctx    context.Context
	client *control.Client // nil: no daemon
	runDir string
	args   []string // the words of the command before the one completed
	word   string
}

// candidates are those for a word, with a description behind a tab or not.
type candidates func(*completion) []string

// words is the grammar of the bare words of a command.
type words []word

// word is one of them.
type word struct {
	names  []string // its spellings; none: not a word but a value of source, given first
	usage  string
	values int        // how many values follow it
	source candidates // for values; nil: nobody knows
	many   bool       // may be repeated
}

// completing completes words by their position. After the last there is
// nothing.
func (a *app) completing(positions ...candidates) completeFunc {
	return a.completingWords(func() words { return nil }, positions...)
}

// completingWords completes words by their position, and then those of a
// grammar.
func (a *app) completingWords(grammar func() words, positions ...candidates) completeFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		c, cancel := a.completion(cmd, args, typed)
		defer cancel()
		if len(args) < len(positions) {
			return c.begun(positions[len(args)](c)), cobra.ShellCompDirectiveNoFileComp
		}
		return c.begun(grammar().complete(c, args[len(positions):])), cobra.ShellCompDirectiveNoFileComp
	}
}

// completingFlag completes the values of a flag.
func (a *app) completingFlag(cmd *cobra.Command, flag string, values candidates) {
	if a.within != nil {
		return // cobra keeps these for ever
	}
	// The error is that of a flag that is not there.
	if err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		c, cancel := a.completion(cmd, args, typed)
		defer cancel()
		return c.begun(values(c)), cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic(err)
	}
}

func (a *app) completion(cmd *cobra.Command, args []string, typed string) (*completion, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), min(a.timeout, completeTimeout))
	c := &completion{ctx: ctx, runDir: a.runDir, args: args, word: typed}
	if a.environment(cmd) == nil {
		if path, err := a.socketPath(); err == nil {
			c.client = control.NewClient(path)
		}
	}
	return c, cancel
}

// begun are the words that start with what was typed.
func (c *completion) begun(words []string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return !strings.HasPrefix(w, c.word) })
}

// completeFiles leaves it to the shell.
func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// complete walks the words given and returns what can come next.
func (w words) complete(c *completion, args []string) (out []string) {
	given := map[string]bool{}
	begins := len(args) == 0
	for len(args) > 0 {
		i := slices.IndexFunc(w, func(k word) bool { return slices.Contains(k.names, args[0]) })
		args = args[1:]
		if i < 0 {
			continue
		}
		k := w[i]
		given[k.names[0]] = true
		if len(args) < k.values {
			if k.source == nil {
				return nil
			}
			return k.source(c)
		}
		args = args[k.values:]
	}
	for _, k := range w {
		if k.names == nil {
			if begins {
				out = append(out, k.source(c)...)
			}
			continue
		}
		if given[k.names[0]] && !k.many {
			continue
		}
		for i, name := range k.names {
			// An alias is offered only when its first letters were typed.
			if i == 0 || c.word != "" || strings.HasPrefix(name, "no") {
				usage := k.usage
				if name == "no"+k.names[0] {
					usage = "off: " + usage
				}
				out = append(out, described(name, usage))
			}
		}
	}
	return out
}

func described(word, usage string) string {
	if usage == "" {
		return word
	}
	return word + "\t" + usage
}

// keywordWords makes a grammar of keywords.
func keywordWords(keywords []config.Keyword) (w words) {
	for _, k := range keywords {
		values := map[config.Kind]int{config.Value: 1, config.List: 1, config.Pair: 2}[k.Kind]
		w = append(w, word{k.Words(), k.Usage, values, keywordValues(k), k.Kind == config.List})
	}
	return w
}

// keywordValues are the values of a keyword: its words, or what the host has.
func keywordValues(k config.Keyword) candidates {
	switch k.Name {
	case "dev", "via", "master":
		return (*completion).devices
	case "device_netns":
		return (*completion).namespaces
	case "local":
		return (*completion).ownAddresses
	case "dst", "remote":
		return (*completion).peers
	}
	return oneOf(k.Values...)
}

func oneOf(values ...string) candidates { return func(*completion) []string { return values } }

func (*completion) nothing() []string { return nil }

// tunnels asks for names of tunnels.
func (c *completion) tunnelNames() (names []string) {
	for _, t := range c.tunnels() {
		names = append(names, t.Ifname)
	}
	return names
}

func (c *completion) tunnelNamesOrAll() []string { return append(c.tunnelNames(), "all") }

func (c *completion) vnis() (ids []string) {
	for _, t := range c.tunnels() {
		if id := t.LinkInfo.Data.ID; id != nil {
			ids = append(ids, described(itoa(*id), t.Ifname))
		}
	}
	return ids
}

func (c *completion) tunnels() []control.Tunnel {
	if c.client == nil {
		return nil
	}
	all, err := c.client.Tunnels(c.ctx)
	if err != nil {
		return nil
	}
	return all
}

// dev is the tunnel that the words before name, or "".
func (c *completion) dev() string {
	if i := slices.Index(c.args, "dev"); i >= 0 && i+1 < len(c.args) {
		return c.args[i+1]
	}
	return ""
}

// peerAddresses asks for the peers of the tunnel, or of all.
func (c *completion) peers() (addrs []string) {
	for _, t := range c.tunnels() {
		for _, p := range t.Gvtep.Peers {
			if d := c.dev(); p.Origin != "group" && (d == "" || d == t.Ifname) {
				addrs = append(addrs, described(p.Remote.String(), p.Name))
			}
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// addresses asks for the Ethernet addresses that the tunnel, or any, knows.
func (c *completion) addresses() (macs []string) {
	if c.client == nil {
		return nil
	}
	err := c.client.FDB(c.ctx, control.FDBFilter{Dev: c.dev()}, func(e control.FDBEntry) error {
		macs = append(macs, described(e.MAC, e.Dst))
		return nil
	})
	if err != nil {
		return nil
	}
	slices.Sort(macs)
	return slices.Compact(macs)
}

// pinged are the targets of a ping that are known: peers and stations.
func (c *completion) pinged() []string { return append(c.peers(), c.addresses()...) }

// instances lists those that answer.
func (c *completion) instances() []string {
	names, err := control.Instances(c.runDir)
	if err != nil {
		return nil
	}
	return names
}

// namespaces lists those of ip netns.
func (*completion) namespaces() (names []string) {
	all, _ := filepath.Glob("/run/netns/*")
	for _, path := range all {
		names = append(names, filepath.Base(path))
	}
	return names
}

// devices lists the network devices of this namespace.
func (*completion) devices() (names []string) {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

// ownAddresses lists the addresses of this host that others can send to.
func (*completion) ownAddresses() (addrs []string) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, ok := a.(*net.IPNet); ok && !p.IP.IsLoopback() && !p.IP.IsLinkLocalUnicast() {
			addrs = append(addrs, p.IP.String())
		}
	}
	return addrs
}

// goals are the values of gvtep wait --for.
func (c *completion) goals() []string {
	all := []string{"up", "ready", "peers"}
	switch {
	case strings.HasPrefix(c.word, "peer="):
		for _, addr := range c.peers() {
			all = append(all, "peer="+addr)
		}
	case strings.HasPrefix(c.word, "mac="):
		for _, mac := range c.addresses() {
			all = append(all, "mac="+mac)
		}
	default:
		all = append(all, "peer=", "mac=")
	}
	return all
}

func (a *app) completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	cmd := &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "print a script that completes commands, keywords and names of what runs",
		Long: `Print a script for a shell that completes commands, keywords and their values,
and the names of tunnels, peers and Ethernet addresses, which the daemon is asked
for. Packages install it; without one it can be loaded for the session.`,
		Example: `  source <(gvtep completion bash)
  gvtep completion zsh > "${fpath[1]}/_gvtep"
  gvtep completion fish > ~/.config/fish/completions/gvtep.fish`,
		Args:      atMost(1),
		ValidArgs: shells,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		root := cmd.Root()
		shell := ""
		if len(args) == 1 {
			shell = args[0]
		}
		switch shell {
		case "bash":
			return root.GenBashCompletionV2(a.out, true)
		case "zsh":
			return root.GenZshCompletion(a.out)
		case "fish":
			return root.GenFishCompletion(a.out, true)
		case "powershell":
			return root.GenPowerShellCompletionWithDesc(a.out)
		case "":
			return inCommand(cmd, errNoShell(shells, filepath.Base(os.Getenv("SHELL"))))
		}
		return inCommand(cmd, unknownWord(shell, shells))
	}
	return cmd
}
