package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gvtep/cmd/internal/control"
	"gvtep/config"
)

// VLANs of a trunk, in the words of "bridge vlan".

func (a *app) vlanCmd() *cobra.Command {
	return a.object("vlan [show|add|del]", "show, add and remove VLANs of trunks", "vlan\n-s vlan dev gnvtrunk", isDev, a.vlanVerbs())
}

func (a *app) vlanVerbs() []verb {
	grammar := func() words {
		return words{
			onTunnel,
			{names: []string{"vid"}, usage: "VLAN IDs, VID or VID-VID", values: 1},
			{names: []string{"tunnel_info"}, usage: "what follows is the segments"},
			{names: []string{"id"}, usage: "as many VNIs, VNI or VNI-VNI", values: 1},
		}
	}
	return []verb{
		{
			names: "show list tunnelshow", args: "[dev NAME]", short: "show the segment of each VLAN of a trunk; -s adds counters",
			examples: "vlan show dev gnvtrunk\n-j vlan show | jq -r '.[].tunnels[].tunid'",
			read:     perhapsOf(a.showVLANs),
		}, {
			names: "add", args: "dev NAME vid VID[-VID] tunnel_info id VNI[-VNI]", short: "make each of these VLANs of a running tunnel a segment of its own",
			examples: "vlan add dev gnvtrunk vid 10-19 tunnel_info id 5010-5019",
			changes:  true, read: readVLAN((*control.Client).VLANAdd, true), words: grammar,
		}, {
			names: "del delete", args: "dev NAME vid VID[-VID] [tunnel_info id VNI[-VNI]]", short: "remove VLANs from a running tunnel",
			examples: "vlan del dev gnvtrunk vid 12",
			changes:  true, read: readVLAN((*control.Client).VLANDelete, false), words: grammar,
		},
	}
}

func readVLAN(send func(*control.Client, context.Context, string, control.VLANWrite) error, add bool) func([]string) (ask, error) {
	return func(args []string) (ask, error) {
		dev, w, err := parseVLANWords(args, add)
		return func(ctx context.Context, c *control.Client) error { return about("vid "+w.VID, send(c, ctx, dev, w)) }, err
	}
}

// parseVLANWords reads "dev NAME vid VID[-VID] tunnel_info id VNI[-VNI]", of
// which the end may be missing where VLANs are removed.
func parseVLANWords(args []string, add bool) (dev string, w control.VLANWrite, err error) {
	_, dev, rest, err := target(args, "")
	for err == nil && len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		to := &w.VID
		switch word {
		case "tunnel_info": // bridge wants the word before id
			continue
		case "id":
			to = &w.ID
		case "vid":
		default:
			return dev, w, fmt.Errorf("unknown word %q: want vid VID[-VID] and tunnel_info id VNI[-VNI]", word)
		}
		switch {
		case *to != "":
			return dev, w, fmt.Errorf("%s is given twice", word)
		case len(rest) == 0:
			return dev, w, fmt.Errorf("%s needs a value", word)
		}
		*to, rest = rest[0], rest[1:]
	}
	switch {
	case err != nil:
		return dev, w, err
	case w.VID == "":
		return dev, w, errors.New("no VLAN: add vid VID[-VID]")
	case w.ID == "" && add:
		return dev, w, errors.New("no segment: add tunnel_info id VNI[-VNI]")
	case w.ID == "":
		_, _, err = config.ParseVIDs(w.VID)
	default:
		_, err = config.ParseVLAN(w.VID, w.ID)
	}
	return dev, w, err
}

// vlansOf is an element of "bridge -j vlan tunnelshow".
type vlansOf struct {
	Ifname string         `json:"ifname"`
	VLANs  []control.VLAN `json:"tunnels"`
}

func (a *app) showVLANs(ctx context.Context, c *control.Client, dev string) error {
	tunnels, err := c.Tunnels(ctx)
	if dev != "" {
		var t control.Tunnel
		t, err = c.Tunnel(ctx, dev)
		tunnels = []control.Tunnel{t}
	}
	if err != nil {
		return err
	}
	all := []vlansOf{}
	for _, t := range tunnels {
		v := vlansOf{t.Ifname, t.Gvtep.VLANs}
		if a.stats && len(v.VLANs) > 0 {
			if v.VLANs, err = c.VLANs(ctx, t.Ifname, true); err != nil {
				return err
			}
		}
		if len(v.VLANs) > 0 {
			all = append(all, v)
		}
	}
	if a.json {
		return a.printJSON(all)
	}
	head := fmt.Sprintf("%-16s  %-9s  %s", "port", "vlan-id", "tunnel-id")
	if a.stats {
		head = fmt.Sprintf("%s            rx bytes packets      tx bytes packets  fdb", head)
	}
	fmt.Fprintln(a.out, head)
	for _, t := range all {
		name := t.Ifname
		for _, v := range t.VLANs {
			line := fmt.Sprintf("%-16s  %-9s  %s", name, numbers(uint32(v.First), uint32(v.Last)), numbers(v.ID, v.LastID))
			if g := v.Gvtep; g != nil {
				line = fmt.Sprintf("%-38s  %17d %7d %13d %7d  %3d", line, g.RX.Bytes, g.RX.Packets, g.TX.Bytes, g.TX.Packets, g.FDB.Learned+g.FDB.Static)
			}
			fmt.Fprintln(a.out, line)
			if !a.oneline {
				name = ""
			}
		}
	}
	return nil
}

// numbers is one number or a range.
func numbers(first, last uint32) string {
	if last == 0 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

// vlanLine is the line about the VLANs of a trunk, which may be thousands of ranges.
func vlanLine(vlans []control.VLAN) string {
	const most = 8
	var words []string
	n := 0
	for i, v := range vlans {
		n += 1
		if v.Last != 0 {
			n += int(v.Last - v.First)
		}
		if i < most {
			words = append(words, numbers(uint32(v.First), uint32(v.Last))+":"+numbers(v.ID, v.LastID))
		}
	}
	if len(vlans) > most {
		words = append(words, "...")
	}
	return fmt.Sprintf("  vlan %s  (%d %s)", strings.Join(words, " "), n, plural(n, "segment"))
}
