#include "textflag.h"

// func sumBlocks(p *byte, n int) uint64
//
// Adds the little-endian 32-bit words of n bytes, n a multiple of 128, in
// eight times four 64-bit lanes. A lane overflows after 2^32 words at the
// earliest, far beyond any packet.
TEXT ·sumBlocks(SB), NOSPLIT, $0-24
	MOVQ p+0(FP), SI
	MOVQ n+8(FP), CX
	VPXOR Y0, Y0, Y0
	VPXOR Y1, Y1, Y1
	VPXOR Y2, Y2, Y2
	VPXOR Y3, Y3, Y3
	VPXOR Y4, Y4, Y4
	VPXOR Y5, Y5, Y5
	VPXOR Y6, Y6, Y6
	VPXOR Y7, Y7, Y7
	VPXOR Y15, Y15, Y15

loop:
	VMOVDQU (SI), Y8
	VMOVDQU 32(SI), Y9
	VMOVDQU 64(SI), Y10
	VMOVDQU 96(SI), Y11

	// Interleaving with zero makes 64-bit words of 32-bit ones.
	VPUNPCKLDQ Y15, Y8, Y12
	VPUNPCKHDQ Y15, Y8, Y13
	VPADDQ Y12, Y0, Y0
	VPADDQ Y13, Y1, Y1
	VPUNPCKLDQ Y15, Y9, Y12
	VPUNPCKHDQ Y15, Y9, Y13
	VPADDQ Y12, Y2, Y2
	VPADDQ Y13, Y3, Y3
	VPUNPCKLDQ Y15, Y10, Y12
	VPUNPCKHDQ Y15, Y10, Y13
	VPADDQ Y12, Y4, Y4
	VPADDQ Y13, Y5, Y5
	VPUNPCKLDQ Y15, Y11, Y12
	VPUNPCKHDQ Y15, Y11, Y13
	VPADDQ Y12, Y6, Y6
	VPADDQ Y13, Y7, Y7

	ADDQ $128, SI
	SUBQ $128, CX
	JNZ loop

	VPADDQ Y1, Y0, Y0
	VPADDQ Y3, Y2, Y2
	VPADDQ Y5, Y4, Y4
	VPADDQ Y7, Y6, Y6
	VPADDQ Y2, Y0, Y0
	VPADDQ Y6, Y4, Y4
	VPADDQ Y4, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPADDQ X1, X0, X0
	VPSRLDQ $8, X0, X1
	VPADDQ X1, X0, X0
	VMOVQ X0, AX
	VZEROUPPER
	MOVQ AX, ret+16(FP)
	RET
