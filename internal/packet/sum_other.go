//go:build !amd64

package packet

// sumLong is for processors for which there is something faster than Sum's
// own loop, and so is copySumLong.
func sumLong(b []byte) (sum uint64, rest []byte) { return 0, b }

func copySumLong(dst, src []byte) (sum uint64, n int) { return 0, 0 }
