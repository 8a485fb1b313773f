package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"gvtep/cmd/internal/dissect"
)

// Totals are how many packets came, and how many were not copied as there was no room.
type Totals struct{ Packets, Lost uint64 }

// Seen is a packet of a stream or file.
type Seen struct {
	Time     time.Time
	Point    string // name of the interface
	Out      bool
	Comments []string
	Link     dissect.Link
	Length   int    // of the whole packet
	Data     []byte // lent until the next
}

// About returns the values of the first comment by their keys, such as reason.
func (s *Seen) About() map[string]string {
	about := make(map[string]string)
	if len(s.Comments) > 0 {
		for word := range strings.FieldsSeq(s.Comments[0]) {
			if key, value, ok := strings.Cut(word, "="); ok {
				about[key] = value
			}
		}
	}
	return about
}

// Packets hands the packets of a pcapng stream to each, until it ends or each fails.
func Packets(in io.Reader, each func(*Seen) error) (t Totals, err error) {
	r, err := pcapgo.NewNgReader(in, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		return t, ended(err)
	}
	for {
		data, about, options, err := r.ZeroCopyReadPacketDataWithOptions()
		if err != nil {
			for i := range r.NInterfaces() {
				if on, err := r.Interface(i); err == nil && on.Statistics.PacketsDropped != pcapgo.NgNoValue64 {
					t.Lost += on.Statistics.PacketsDropped
				}
			}
			return t, ended(err)
		}
		on, err := r.Interface(about.InterfaceIndex)
		if err != nil {
			return t, err
		}
		s := Seen{Time: about.Timestamp, Point: on.Name, Comments: options.Comments, Length: about.Length, Data: data}
		s.Out = options.Flags != nil && options.Flags.Direction == pcapgo.NgEpbFlagDirectionOutbound
		if s.Link, err = linkOf(on.LinkType); err != nil {
			return t, err
		}
		t.Packets++
		if err := each(&s); err != nil {
			return t, err
		}
	}
}

// Magic numbers of files, as their first four bytes stand in them: pcapng, and pcap in both byte
// orders with microseconds and nanoseconds.
var magics = []uint32{blockSection, 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1}

// IsFile reports whether a file that begins with these bytes is pcap or pcapng.
func IsFile(begin []byte) bool {
	return len(begin) >= 4 && slices.Contains(magics, binary.LittleEndian.Uint32(begin))
}

// File hands the packets of a pcap or pcapng file to each, until it ends or each fails.
func File(in *bufio.Reader, each func(*Seen) error) (t Totals, err error) {
	if begin, _ := in.Peek(4); len(begin) == 4 && binary.LittleEndian.Uint32(begin) == blockSection {
		return Packets(in, each)
	}
	r, err := pcapgo.NewReader(in)
	if err != nil {
		return t, err
	}
	link, err := linkOf(r.LinkType())
	for err == nil {
		var s Seen
		data, about, end := r.ReadPacketData()
		if end != nil {
			return t, ended(end)
		}
		s.Time, s.Length, s.Data, s.Link = about.Timestamp, about.Length, data, link
		t.Packets++
		err = each(&s)
	}
	return t, err
}

// linkOf tells link types that a dissection can begin with.
func linkOf(t layers.LinkType) (dissect.Link, error) {
	switch t {
	case layers.LinkTypeEthernet:
		return dissect.Ethernet, nil
	case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6:
		return dissect.IP, nil
	}
	return 0, fmt.Errorf("link type %d: want Ethernet (%d) or IP (%d)", t, layers.LinkTypeEthernet, layers.LinkTypeRaw)
}

// ended makes nil of errors that mean that the other end has no more.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// Blocks of pcapng (draft-ietf-opsawg-pcapng section 3.1): type, length, body, length again.
const (
	blockSection    = 0x0a0d0d0a
	blockInterface  = 1
	blockPacket     = 6
	blockStatistics = 5
	optionDropped   = 5 // isb_ifdrop
	maxBlock        = 16 << 20
)

// Save copies the stream of a daemon to files, block by block. open opens the nth, which begins with
// a section and all interfaces so far; limit is how long one may become in bytes, 0: there is one file.
func Save(in io.Reader, open func(n int) (io.WriteCloser, error), limit int64) (t Totals, err error) {
	file := &files{open: open, limit: limit}
	defer func() { err = errors.Join(err, file.close()) }()
	if err := file.next(); err != nil { // also where nothing comes
		return t, err
	}
	lost := map[uint32]uint64{} // by interface
	from := bufio.NewReaderSize(in, 256<<10)
	block := make([]byte, 0, 64<<10)
	for {
		block, err = readBlock(from, block[:0])
		if err != nil {
			return t, ended(err)
		}
		kind := binary.LittleEndian.Uint32(block)
		switch kind {
		case blockPacket:
			t.Packets++
		case blockStatistics:
			on, n := droppedOf(block)
			t.Lost += n - lost[on]
			lost[on] = n
		}
		if err := file.write(kind, block); err != nil {
			return t, err
		}
		if from.Buffered() == 0 { // what comes is seen at once
			if err := file.out.Flush(); err != nil {
				return t, err
			}
		}
	}
}

// readBlock appends the next block to b.
func readBlock(in *bufio.Reader, b []byte) ([]byte, error) {
	head, err := in.Peek(8)
	if err != nil {
		return b, err
	}
	length := binary.LittleEndian.Uint32(head[4:])
	if length < 12 || length%4 != 0 || length > maxBlock {
		return b, fmt.Errorf("a block of %d bytes: this is no pcapng of a daemon", length)
	}
	if cap(b) < int(length) {
		b = make([]byte, 0, length)
	}
	b = b[:length]
	_, err = io.ReadFull(in, b)
	return b, err
}

// droppedOf is the interface that a block of statistics is about, and how many packets it lost.
func droppedOf(block []byte) (on uint32, lost uint64) {
	body := block[8 : len(block)-4]
	if len(body) < 12 {
		return 0, 0
	}
	on = binary.LittleEndian.Uint32(body)
	for options := body[12:]; len(options) >= 4; {
		code, n := binary.LittleEndian.Uint16(options), int(binary.LittleEndian.Uint16(options[2:]))
		size := 4 + (n+3)&^3
		if size > len(options) {
			break
		}
		if code == optionDropped && n == 8 {
			lost = binary.LittleEndian.Uint64(options[4:])
		}
		options = options[size:]
	}
	return on, lost
}

// files is where a stream is saved.
type files struct {
	open  func(n int) (io.WriteCloser, error)
	limit int64
	n     int
	file  io.WriteCloser
	out   *bufio.Writer
	size  int64
	head  []byte // section and interfaces, with which each file begins
}

func (f *files) write(kind uint32, block []byte) error {
	if kind == blockSection || kind == blockInterface {
		f.head = append(f.head, block...)
	} else if f.limit > 0 && f.size+int64(len(block)) > f.limit && f.size > int64(len(f.head)) {
		if err := errors.Join(f.close(), f.next()); err != nil {
			return err
		}
		f.size = int64(len(f.head))
		if _, err := f.out.Write(f.head); err != nil {
			return err
		}
	}
	f.size += int64(len(block))
	_, err := f.out.Write(block)
	return err
}

func (f *files) next() (err error) {
	if f.file, err = f.open(f.n); err != nil {
		return err
	}
	f.n++
	f.out, f.size = bufio.NewWriterSize(f.file, 256<<10), 0
	return nil
}

func (f *files) close() error {
	if f.file == nil {
		return nil
	}
	err := errors.Join(f.out.Flush(), f.file.Close())
	f.file = nil
	return err
}
