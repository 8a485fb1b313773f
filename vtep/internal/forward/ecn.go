package forward

// ECN code points (RFC 3168 section 5).
const (
	notECT = 0
	ect1   = 1
	ect0   = 2
	ce     = 3
)

// ecnDrop marks the one combination that must not be delivered.
const ecnDrop = 0xff

// ecnOdd are the combinations that RFC 6040 section 4.2 marks as unused, by inner and outer code
// point: somebody on the way sets what the sender did not. They are delivered, and counted.
var ecnOdd = [4][4]bool{
	notECT: {ect0: true, ect1: true},
	ect1:   {ect0: true},
	ce:     {ect1: true},
}

// ecnDecap is the table of RFC 6040 section 4.2: the code point to deliver,
// by inner (first index) and outer code point.
var ecnDecap = [4][4]uint8{
	notECT: {notECT: notECT, ect1: notECT, ect0: notECT, ce: ecnDrop},
	ect1:   {notECT: ect1, ect1: ect1, ect0: ect1, ce: ce},
	ect0:   {notECT: ect0, ect1: ect1, ect0: ect0, ce: ce},
	ce:     {notECT: ce, ect1: ce, ect0: ce, ce: ce},
}
