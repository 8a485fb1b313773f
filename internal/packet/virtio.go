package packet

import "encoding/binary"

// VirtioHdrLen is the length of struct virtio_net_hdr_v1 (12 bytes: the ten
// below and num_buffers, which is 0 on a TAP).
const VirtioHdrLen = 12

// Flags and GSO types of VirtioHdr (linux/virtio_net.h).
const (
	VirtioNeedsCsum = 1 // Flags: checksum from CsumStart on is to be finished
	VirtioDataValid = 2 // Flags: checksum was verified

	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // fragmentation offload, never offered by us
	GSOTCPv6 = 4
	GSOUDPL4 = 5 // UDP segmentation (USO)
	GSOECN   = 0x80
)

// OffloadFor is the ability that super-frames of a GSO type need, beside that of partial checksums; none
// for GSONone.
func OffloadFor(gso uint8) Offload {
	switch gso {
	case GSONone:
		return 0
	case GSOTCPv4:
		return OffloadTSO4
	case GSOTCPv6:
		return OffloadTSO6
	}
	return OffloadUSO
}

// VirtioHdr says what is left to do to the frame behind it. Offsets count
// from the first byte of the frame: the Ethernet header on a TAP, the IP
// header on a TUN. The zero value is an ordinary, finished frame.
type VirtioHdr struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16 // a hint that is often wrong; never relied upon
	GSOSize    uint16 // payload bytes of each piece
	CsumStart  uint16
	CsumOffset uint16 // of the checksum field, from CsumStart
}

// Decode reads the first VirtioHdrLen bytes of b, in host byte
// order as the device was told to use.
func (h *VirtioHdr) Decode(b []byte) {
	_ = b[VirtioHdrLen-1]
	h.Flags, h.GSOType = b[0], b[1]
	h.HdrLen = binary.NativeEndian.Uint16(b[2:])
	h.GSOSize = binary.NativeEndian.Uint16(b[4:])
	h.CsumStart = binary.NativeEndian.Uint16(b[6:])
	h.CsumOffset = binary.NativeEndian.Uint16(b[8:])
}

// Encode writes VirtioHdrLen bytes to b.
func (h *VirtioHdr) Encode(b []byte) {
	_ = b[VirtioHdrLen-1]
	b[0], b[1] = h.Flags, h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
	b[10], b[11] = 0, 0
}
