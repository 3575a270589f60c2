package flow

import (
	"testing"
	"unsafe"
)

// What Linux spends on a connection in TIME-WAIT is the most a Flow may take.
func TestAFlowFitsInto256Bytes(t *testing.T) {
	if got := unsafe.Sizeof(Flow{}); got > 256 {
		t.Errorf("a Flow has %d bytes, want at most 256", got)
	}
}
