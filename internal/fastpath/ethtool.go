package fastpath

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/ethtool.h.
const (
	setFeatures  = 4 // ETH_SS_FEATURES
	stringLen    = 32
	featureBlock = 16 // struct ethtool_get_features_block
	maxFeatures  = 1024
)

// cutting are the features of a device that cuts super-frames inside UDP tunnels: one of TCP
// needs two at once. Where one is off the kernel cuts before the device, and packets of a
// flow may then overtake each other: what was cut has lost the mark of a tunnel
// (skb->encapsulation), and over a veth GRO holds back what has none and passes on what has
// one (udp_gro_receive).
var cutting = []string{"tx-udp_tnl-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation"}

// cutsInTunnels reports whether a device cuts super-frames inside UDP tunnels. If nobody
// says so it does not.
func cutsInTunnels(dev string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// struct ethtool_sset_info: command, reserved, mask of sets, a length for each.
	info := make([]byte, 20)
	binary.NativeEndian.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	binary.NativeEndian.PutUint64(info[8:], 1<<setFeatures)
	if ethtool(fd, dev, info) != nil {
		return false
	}
	n := binary.NativeEndian.Uint32(info[16:])
	if n == 0 || n > maxFeatures {
		return false
	}
	// struct ethtool_gstrings: command, set, length, strings.
	names := make([]byte, 12+n*stringLen)
	binary.NativeEndian.PutUint32(names, unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(names[4:], setFeatures)
	binary.NativeEndian.PutUint32(names[8:], n)
	// struct ethtool_gfeatures: command, blocks, of each available, requested, active, never changed.
	blocks := (n + 31) / 32
	features := make([]byte, 8+blocks*featureBlock)
	binary.NativeEndian.PutUint32(features, unix.ETHTOOL_GFEATURES)
	binary.NativeEndian.PutUint32(features[4:], blocks)
	if ethtool(fd, dev, names) != nil || ethtool(fd, dev, features) != nil {
		return false
	}
	on := 0
	for i := range n {
		name, _, _ := bytes.Cut(names[12+i*stringLen:][:stringLen], []byte{0})
		active := binary.NativeEndian.Uint32(features[8+i/32*featureBlock+8:])
		if active&(1<<(i%32)) != 0 && slices.Contains(cutting, string(name)) {
			on++
		}
	}
	return on == len(cutting)
}

// ethtool asks the driver of a device; data is changed to the answer.
func ethtool(fd int, dev string, data []byte) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // struct ifreq is longer
	}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	req.data = unsafe.Pointer(&data[0])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
