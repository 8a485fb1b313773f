package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"gvtep/cmd/internal/control"
	"gvtep/config"
	"gvtep/fdb"
	"gvtep/internal/packet"
	"gvtep/vtep"
	"gvtep/vtep/option"
	"gvtep/vtep/spec"
)

// Batch gathers the lines without any lock, for as long as they take to arrive, and then makes
// all of the changes at once.
func (r changer) Batch(dev string, o control.BatchOptions, lines iter.Seq2[[]byte, error]) (control.BatchResult, error) {
	t, err := r.endpoint.Config(dev)
	if err != nil {
		return control.BatchResult{}, control.NoTunnel(dev, r.names())
	}
	g := gatherer{batch: vtep.Batch{Owner: o.Owner, Sync: o.Sync}, tunnel: &t, places: spec.PlacesOf(&t), addrs: make(map[string]netip.Addr), names: r.endpoint.Names()}
	n := 0
	for line, err := range lines {
		if err != nil {
			return control.BatchResult{}, fmt.Errorf("line %d: %w", n+1, err)
		}
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := g.take(n, line); err != nil {
			return control.BatchResult{}, usage(fmt.Errorf("line %d: %w", n, err))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, err := r.endpoint.Config(dev); err == nil && g.placed && !slices.Equal(now.VLANs, t.VLANs) {
		return control.BatchResult{}, errors.New("the VLANs of the tunnel have changed meanwhile: send it again")
	}
	done, err := r.endpoint.ApplyBatch(dev, &g.batch)
	if line := new(vtep.LineError); errors.As(err, &line) {
		return control.BatchResult{}, usage(spec.Reason(err))
	}
	if err != nil {
		return control.BatchResult{}, r.done("batch", dev, err)
	}
	if done.Set+done.Removed > 0 {
		r.changed()
	}
	r.daemon.Log.Info("batch", append([]zap.Field{zap.String("device", dev), zap.String("owner", o.Owner), zap.Int("lines", done.Lines),
		zap.Int("set", done.Set), zap.Int("removed", done.Removed), zap.Int("skipped", done.Skipped)}, r.who(nil)...)...)
	return control.BatchResult(done), nil
}

// batchLine is a line in JSON: what it is about is one of the first four.
type batchLine struct {
	FDB   string `json:"fdb"`
	Peer  string `json:"peer"`
	Neigh string `json:"neigh"`
	Route string `json:"route"`

	Del      bool     `json:"del"`
	Dst      string   `json:"dst"`
	LLAddr   string   `json:"lladdr"`
	Keywords []string `json:"keywords"`
	Local    bool     `json:"local"`
	State    string   `json:"state"`
	Sticky   bool     `json:"sticky"`
	Port     uint16   `json:"port"`
	VNI      *uint32  `json:"vni"`
	VLAN     uint16   `json:"vlan"`
	SrcVNI   *uint32  `json:"src_vni"`
	Via      string   `json:"via"`
	Options  string   `json:"options"`
	Seq      uint32   `json:"seq"`
}

// gatherer makes a batch of lines.
type gatherer struct {
	batch  vtep.Batch
	tunnel *config.Tunnel
	names  *option.Registry
	places spec.Places
	placed bool                  // a VLAN was found by its VNI
	addrs  map[string]netip.Addr // that were read before
	line   batchLine
}

func (g *gatherer) take(n int, text []byte) error {
	l := &g.line
	*l = batchLine{Keywords: l.Keywords[:0]}
	if !l.scan(text) {
		*l = batchLine{}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(l); err != nil {
			return fmt.Errorf("not the JSON of an fdb, peer, neigh or route: %w", err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return errors.New("more than one value: each is a line of its own")
		}
	}
	subjects := 0
	for _, s := range []string{l.FDB, l.Peer, l.Neigh, l.Route} {
		if s != "" {
			subjects++
		}
	}
	if subjects != 1 {
		return errors.New("want one of fdb, peer, neigh and route")
	}
	if err := l.stray(); err != nil {
		return err
	}
	switch {
	case l.FDB != "":
		return g.fdb(n)
	case l.Peer != "":
		p, err := config.ParsePeer(config.Peer{}, l.Peer, l.Keywords, g.names)
		if err != nil {
			return err
		}
		return g.batch.Peer(n, p, l.Del)
	case l.Route != "":
		return g.route(n)
	}
	return g.neigh(n)
}

// stray refuses keys that say nothing about what a line is about.
func (l *batchLine) stray() error {
	fdbOnly := l.State != "" || l.Sticky || l.Local || l.Port != 0 || l.VNI != nil || l.Via != "" || l.Options != ""
	placed := l.VLAN != 0 || l.SrcVNI != nil || l.Seq != 0
	var wrong bool
	var what, want string
	switch {
	case l.FDB != "":
		what, want = "fdb", "dst, port, vni, via, options, local, state, sticky, vlan, src_vni, seq or del"
		wrong = len(l.Keywords) > 0 || l.LLAddr != ""
	case l.Peer != "":
		what, want = "peer", "keywords or del"
		wrong = fdbOnly || placed || l.Dst != "" || l.LLAddr != ""
	case l.Route != "":
		what, want = "route", "dst or del"
		wrong = fdbOnly || placed || len(l.Keywords) > 0 || l.LLAddr != ""
	default:
		what, want = "neigh", "lladdr, vlan, src_vni, seq or del"
		wrong = fdbOnly || len(l.Keywords) > 0 || l.Dst != ""
	}
	if wrong {
		return fmt.Errorf("%s: it has a key of something else: want %s", what, want)
	}
	return nil
}

func (g *gatherer) fdb(n int) error {
	l := &g.line
	mac, err := packet.ParseMAC(l.FDB)
	if err != nil {
		return err
	}
	e := config.Entry{MAC: mac, Local: l.Local, Port: l.Port, Via: l.Via, VLAN: l.VLAN}
	switch l.State {
	case "", "dynamic":
		e.State, e.Flags = fdb.Dynamic, fdb.ExternLearn
	case "static":
		e.State = fdb.Static
	case "permanent":
		e.State = fdb.Permanent
	default:
		return fmt.Errorf("state %s: want dynamic, static or permanent", l.State)
	}
	if l.Sticky {
		e.Flags |= fdb.Sticky
	}
	if l.VNI != nil {
		e.VNI, e.HasVNI = packet.VNI(*l.VNI), true
	}
	if l.Dst != "" {
		if e.Remote, err = g.addr("dst", l.Dst); err != nil {
			return err
		}
	}
	if l.Options != "" {
		sent, err := g.names.Parse(l.Options)
		if err != nil {
			return err
		}
		e.Options = sent.Share()
	}
	if err := g.place(&e); err != nil {
		return err
	}
	return g.batch.Entry(n, e, l.Seq, l.Del)
}

// place finds the VLAN that src_vni stands for.
func (g *gatherer) place(e *config.Entry) error {
	if g.line.SrcVNI == nil {
		return nil
	}
	g.placed = true
	e.SrcVNI, e.HasSrcVNI = packet.VNI(*g.line.SrcVNI), true
	return g.places.Place(e)
}

// addr reads an address. Most of many are those of a line before.
func (g *gatherer) addr(key, text string) (netip.Addr, error) {
	if a, ok := g.addrs[text]; ok {
		return a, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("%s %q: want an IP address without a zone", key, text)
	}
	a = a.Unmap()
	if len(g.addrs) < vtep.MaxBatchOthers {
		g.addrs[text] = a
	}
	return a, nil
}

func (g *gatherer) route(n int) error {
	route, err := netip.ParsePrefix(g.line.Route)
	if err != nil || route != route.Masked() || route.Addr().Is4In6() {
		return fmt.Errorf("route %q: want a network such as 10.1.0.0/16, without bits behind it", g.line.Route)
	}
	var to netip.Addr
	if g.line.Dst != "" || !g.line.Del {
		if to, err = g.addr("dst", g.line.Dst); err != nil {
			return err
		}
	}
	return g.batch.Route(n, route, to, g.line.Del)
}

func (g *gatherer) neigh(n int) error {
	addr, err := g.addr("neigh", g.line.Neigh)
	if err != nil {
		return err
	}
	var mac packet.MAC
	if g.line.LLAddr != "" || !g.line.Del {
		if mac, err = packet.ParseMAC(g.line.LLAddr); err != nil {
			return err
		}
	}
	e := config.Entry{VLAN: g.line.VLAN}
	if err := g.place(&e); err != nil {
		return err
	}
	return g.batch.Neighbour(n, e.VLAN, vtep.Neighbour{Addr: addr, MAC: mac}, g.line.Seq, g.line.Del)
}

// scan reads a line without a nested value or an escape, as nearly all are, at a tenth of the
// cost of encoding/json. What it does not know is left to that, which also finds the words for
// what is wrong.
func (l *batchLine) scan(text []byte) bool {
	s := scanner{text}
	if !s.skip('{') {
		return false
	}
	for {
		key, ok := s.quoted()
		if !ok || !s.skip(':') {
			return false
		}
		var to *string
		switch string(key) {
		case "fdb":
			to = &l.FDB
		case "dst":
			to = &l.Dst
		case "neigh":
			to = &l.Neigh
		case "lladdr":
			to = &l.LLAddr
		case "route":
			to = &l.Route
		case "state":
			to = &l.State
		case "seq":
			n, ok := s.number()
			if !ok {
				return false
			}
			l.Seq = n
		default:
			return false
		}
		if to != nil {
			value, ok := s.quoted()
			if !ok {
				return false
			}
			*to = string(value)
		}
		if s.skip('}') {
			s.blanks()
			return len(s.text) == 0
		}
		if !s.skip(',') {
			return false
		}
	}
}

type scanner struct{ text []byte }

func (s *scanner) blanks() {
	for len(s.text) > 0 && (s.text[0] == ' ' || s.text[0] == '\t') {
		s.text = s.text[1:]
	}
}

// skip takes a sign, and the blanks before it.
func (s *scanner) skip(sign byte) bool {
	s.blanks()
	if len(s.text) == 0 || s.text[0] != sign {
		return false
	}
	s.text = s.text[1:]
	return true
}

// quoted takes a string of plain ASCII.
func (s *scanner) quoted() ([]byte, bool) {
	if !s.skip('"') {
		return nil, false
	}
	for i, c := range s.text {
		switch {
		case c == '"':
			value := s.text[:i]
			s.text = s.text[i+1:]
			return value, true
		case c == '\\' || c < ' ' || c > '~':
			return nil, false
		}
	}
	return nil, false
}

// number takes a number of up to nine digits.
func (s *scanner) number() (n uint32, ok bool) {
	s.blanks()
	i := 0
	for ; i < len(s.text) && i < 9 && '0' <= s.text[i] && s.text[i] <= '9'; i++ {
		n = 10*n + uint32(s.text[i]-'0')
	}
	leading := i > 1 && s.text[0] == '0'
	s.text = s.text[i:]
	return n, i > 0 && !leading
}
