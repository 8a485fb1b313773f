// Package netio is what the endpoint needs of the kernel: devices on one side, the
// underlay on the other. Packages tap and udp implement it on the kernel, tests in
// memory.
package netio

import (
	"context"
	"net/netip"

	"gvtep/internal/packet"
)

// Devices opens tunnel devices.
type Devices interface {
	// Open makes or adopts the device and brings it to the state that the
	// options ask for. On error nothing is left behind.
	Open(DeviceOptions) (Device, error)
	// Try says why Open would fail, as far as that can be known without making a device.
	Try(DeviceOptions) error
	// CloseAll closes devices together, which is quicker than one by one.
	CloseAll([]Device) error
	// Watch follows what others do with open devices until ctx ends, and calls changed,
	// which returns at once, when the State of some has become another. Addresses that
	// the kernel has removed as a side effect it sets again.
	Watch(ctx context.Context, changed func())
}

// DeviceOptions is what a tunnel wants of its device.
type DeviceOptions struct {
	Name      string         // 1 to 15 bytes
	L3        bool           // TUN instead of TAP
	MTU       int            // 68 to 65,521 (TUN: 65,535) bytes; 0: leave as it is
	LLAddr    packet.MAC     // zero: leave as it is
	Addresses []netip.Prefix // added without duplicate address detection
	Netns     string         // name or path of the namespace to move it to; "": stay
	Master    string         // bridge to join; "": none
	Persist   bool           // outlive the process, if it is made here
	Queues    int            // to read from, 1 to 255
	TxQueue   int            // txqueuelen in packets; 0: leave as it is
	Offload   bool           // virtio-net headers and offloads, as far as the kernel has them
	Down      bool           // leave it administratively down
	Isolated  bool           // as a port of Master, exchange frames with none that is isolated, too
}

// Device is an open tunnel device.
type Device interface {
	Name() string
	// State is what the device is like. It asks the kernel nothing.
	State() DeviceState
	// Offload returns what may be written to and will be read from it.
	Offload() packet.Offload
	// Queue is the i-th of as many queues as were asked for.
	Queue(i int) Queue
	// Writer writes to the device, for one worker of any number.
	Writer(worker int) Writer
	MTU() (int, error)
	SetMTU(int) error
	// Bridged reports whether it is a port of a bridge.
	Bridged() bool
	// IPv6 reports whether it has IPv6 or may get it.
	IPv6() bool
	// SetUp brings the device up, with the addresses of its options, or down.
	SetUp(bool) error
	// SetIsolated sets or clears the flag of the bridge port that the device
	// is. Setting it where there is no bridge is an error.
	SetIsolated(bool) error
	// TryIsolated says why SetIsolated(true) would fail.
	TryIsolated() error
	// Restore gives the device again what its options say, also what was taken away
	// by hand. The MTU stays.
	Restore() error
	// Close detaches all queues; the device goes unless it persists.
	Close() error
}

// DeviceState is what a device is like.
type DeviceState struct {
	Ifindex int // in the namespace it is in
	// Here reports whether that is the namespace of the sockets, where Ifindex can be
	// compared with the arrival device of a datagram.
	Here    bool
	LLAddr  packet.MAC
	MTU     int
	Up      bool // administratively
	Bridged bool // it is a port of a bridge
	Deleted bool
	// Faults say what else is other than its options say, one sentence each.
	Faults []string
}

// Queue is one queue of a device. One worker at a time reads from it.
type Queue interface {
	// FD polls readable when Read has something.
	FD() int
	// Read reads one frame or super-frame into buf, which must hold
	// packet.VirtioHdrLen + packet.MaxFrame bytes, and returns the frame
	// as a part of buf. It never blocks: unix.EAGAIN says there is nothing.
	Read(buf []byte, hdr *packet.VirtioHdr) ([]byte, error)
}

// Writer takes what goes into a device, from one worker.
type Writer interface {
	// Write writes one frame or super-frame. With a zero hdr it is an ordinary
	// frame. It is the caller's again on return.
	Write(hdr *packet.VirtioHdr, frame []byte) error
}

// Underlay opens sockets and knows the routes.
type Underlay interface {
	// Listen opens the receive sockets of one address, as many as workers.
	Listen(ListenOptions) (Listener, error)
	// TryListen says why Listen would fail. Nothing stays open, and no datagram goes astray.
	TryListen(ListenOptions) error
	// Ports returns the set of source ports for opts, shared by all who ask
	// with the same; Release gives it back.
	Ports(PortOptions) (*packet.PortSet, error)
	Release(*packet.PortSet)
	// Sender is the sending half of a worker, made once per worker. Another one of the same
	// worker shares its descriptors, and may be used by another thread.
	Sender(worker int) Sender
	// Route asks the kernel how datagrams to remote leave now from the ports that
	// Ports returns for opts. A multicast group needs a device. It may take its time.
	Route(remote netip.AddrPort, opts PortOptions) (Route, error)
	// Prefixes returns the networks that a device has addresses in.
	Prefixes(dev string) ([]netip.Prefix, error)
	// Renew binds and joins again source ports and groups that were bound to
	// a device, if it has gone and come back, and returns how many sockets.
	Renew() (int, error)
	// Cards returns the network cards, and what is only stacked on some: what comes
	// in by them has crossed a wire. The order is ascending.
	Cards() ([]int, error)
	// Stacked returns the devices that packets out of those given may come up to: bridges
	// and bonds they are in, VLAN and macvlan devices over them, to any depth.
	Stacked(ifindexes []int) ([]Upper, error)
	// Locals returns what the kernel takes for addresses of this host.
	Locals() ([]netip.Prefix, error)
	// NextHop tells where the next hop of a route is that leaves by an Upper with a
	// Bridge, as far as the kernel knows at this moment; zero values stand for what it
	// does not.
	NextHop(hop netip.Addr, by Upper) (mac packet.MAC, port int)
	// Sent returns what has left so far, for each local address and device.
	Sent() []packet.Sent
	// Errors calls tell for each ICMP error about what was sent from Ports, until ctx ends. It
	// may be called from several goroutines. An error says that nothing can be heard.
	Errors(ctx context.Context, tell func(ICMP)) error
	// Watch sends what has changed of links, addresses, routes and rules, many changes
	// in one value, until ctx ends.
	Watch(ctx context.Context) (<-chan Changes, error)
}

// Upper is a device that is stacked on some of ours.
type Upper struct {
	Ifindex int
	Below   []int // ours, in ascending order
	// Joint names the bridge or bond that joins ours with others; "": all that comes up
	// to this device is from ours.
	Joint string
	// Bridge is its ifindex if its table knows what is behind which port, and VLAN where
	// in that table this device's neighbours are; 0: it is not told apart.
	Bridge int
	VLAN   uint16
}

// ListenOptions names the receive sockets of one address.
type ListenOptions struct {
	Local     netip.Addr // unspecified (0.0.0.0 or ::) for all of its family
	Port      uint16
	Device    string // bind to this device; "": any
	ZeroCsum6 bool   // accept UDP checksum 0 over IPv6
	// Group makes it one socket that receives a multicast group joined on
	// Device, which is then needed; Local is its address and not bound to.
	Group netip.Addr
	// Beside is set while sockets of ours that overlap are about to be closed, or are
	// a group's: the kernel then lets these be bound beside them.
	Beside bool
}

// PortOptions names a set of source ports: what only a socket can hold.
type PortOptions struct {
	Family   int        // 4 or 6
	Local    netip.Addr // pinned source address; zero: chosen by route
	Device   string     // bind to this device; "": any
	DF       bool
	ZeroCsum bool
	Min, Max uint16 // range, both ends included
	Count    int    // ports wanted; fewer if the range is smaller
	Mark     uint32 // SO_MARK
}

// Listener is the receive sockets of one address.
type Listener interface {
	// Receiver is the i-th socket, of as many as there are workers. A group
	// has one socket only: all others are nil.
	Receiver(i int) Receiver
	// Rcvbuf is the receive buffer of each socket in bytes, and GRO whether
	// the kernel hands over trains.
	Rcvbuf() int
	GRO() bool
	// Stale reports that the sockets are bound to a device that has gone
	// and come back as another: another Listener must take their place.
	Stale() bool
	Close() error
}

// A receive takes up to ReceiveBatch trains or datagrams. Each has ReceiveStride bytes of the
// buffer, the longest train of 64 KiB and some cache lines: at exact powers of two the headers
// of all would compete for one set of every cache.
const (
	ReceiveBatch  = 32
	ReceiveStride = 1<<16 + 5*64
	ReceiveBuffer = ReceiveBatch * ReceiveStride
)

// Receiver is one receive socket. One worker at a time uses it.
type Receiver interface {
	FD() int
	// Receive returns what is there now, nothing if there is nothing, as much as has
	// room in buf, which is the caller's and of ReceiveBuffer bytes. The trains are lent
	// until the next Receive, their data is in buf. An error is
	// returned only when the descriptor is of no more use. With more it is
	// worth calling again at once.
	Receive(buf []byte) (trains []packet.Train, more bool, err error)
	// Overflows is how many datagrams the kernel dropped for want of room.
	// Anybody may call it until the listener is closed.
	Overflows() uint64
}

// Sender gathers datagrams and sends them as runs. Only its worker uses it.
type Sender interface {
	// Add queues one datagram, head and tail together, to go to path from
	// the source port that hash picks, with the outer TOS and TTL given.
	// head and tail are lent until Flush returns. Datagrams with the same
	// path and hash leave in the order they were added in. A full queue is
	// sent at once.
	Add(path *packet.Path, hash uint32, tos, ttl uint8, head, tail []byte)
	// AddRun queues the datagrams of size bytes that stand in run, one right
	// behind the other, the last of them perhaps shorter, as Add would one by one.
	// There is at least one byte.
	AddRun(path *packet.Path, hash uint32, tos, ttl uint8, run []byte, size int)
	// Flush sends all that is queued and returns what could not be sent
	// since the last Flush, valid until the next Add.
	Flush() []packet.Failure
	// Batches is how many datagrams each system call carried.
	Batches() *packet.Batches
}

// Route is how datagrams to a remote leave.
type Route struct {
	Ifindex int
	Source  netip.Addr
	Gateway netip.Addr // the next hop; invalid: the remote itself
	// BySocket says that ports or the user of the socket decide about the way (policy
	// rules, several ways): without them the kernel finds another one, or none.
	BySocket bool
	MTU      int // of the path, in bytes of IP packet, as a socket has it
	// Link is the MTU of the device, or a smaller one that an administrator set on the
	// route. MTU may be below it without Learned: IPsec takes its part, or a router
	// told the MTU of an IPv6 link.
	Link int
	// Learned says that the kernel has learned something about the remote by ICMP.
	Learned bool
	// Local and Broadcast say that the remote is no other host: one of our own
	// addresses, or the broadcast address of a network that we are on.
	Local, Broadcast bool
}
