package packet

import "testing"

func TestBatches(t *testing.T) {
	var b Batches
	for _, n := range []int{1, 1, 2, 3, 4, 5, 64, 65, 1000} {
		b.Add(n)
	}
	var c BatchCounts
	b.AddTo(&c)
	want := BatchCounts{Buckets: [8]uint64{2, 1, 2, 1, 0, 0, 1, 2}, Packets: 1145}
	if c != want {
		t.Errorf("counts %v, want %v", c, want)
	}
}
