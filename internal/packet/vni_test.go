package packet

import "testing"

func TestVNI(t *testing.T) {
	if !MaxVNI.Valid() || (MaxVNI + 1).Valid() {
		t.Error("Valid: want 16777215 to be valid and 16777216 not")
	}
	if got := MaxVNI.String(); got != "16777215" {
		t.Errorf("String: got %s, want 16777215", got)
	}
}
