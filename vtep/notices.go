package vtep

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// notices are the findings of one check of all peers, for the log: one line for all peers with
// the same finding, since the loss of a link affects thousands of them.
type notices struct{ all []*notice }

type notice struct {
	level  zapcore.Level
	text   string
	fields []zap.Field // of the first
	count  int
	first  []string
}

// add takes note of something about a peer. fields are told if it is the only one.
func (n *notices) add(level zapcore.Level, text string, t *tunnel, p *peer, fields ...zap.Field) {
	var same *notice
	for _, o := range n.all {
		if o.text == text {
			same = o
		}
	}
	if same == nil {
		same = &notice{level: level, text: text}
		same.fields = append([]zap.Field{zap.String("device", t.port.Name), zap.Stringer("remote", p.Dest.Remote.Addr())}, fields...)
		n.all = append(n.all, same)
	}
	if same.count++; len(same.first) < maxFlaps {
		same.first = append(same.first, p.Dest.Remote.Addr().String()+" on "+t.port.Name)
	}
}

// log writes them.
func (n *notices) log(to *zap.Logger) {
	for _, o := range n.all {
		if o.count > 1 {
			o.fields = []zap.Field{zap.Int("peers", o.count), zap.Strings("first", o.first)}
		}
		to.Log(o.level, o.text, o.fields...)
	}
	n.all = nil
}
