package boot

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inputEvent is struct input_event of linux/input.h.
type inputEvent struct {
	Time  unix.Timeval
	Type  uint16
	Code  uint16
	Value int32
}

const (
	evKey    = 1
	keyPower = 116
)

// watchButtons makes the power button, and what a host does to shut a virtual machine down,
// switch the box off in order. Its goroutines end with the machine.
func (b *Box) watchButtons() {
	files, err := filepath.Glob(b.path("dev/input/event*"))
	if err != nil {
		return
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			b.warn("button", err)
			continue
		}
		b.start(func() {
			defer f.Close()
			if pressed(f) {
				b.order(Order{Kind: PowerOff, Why: "asked by the power button"})
			}
		})
	}
}

// pressed returns true when the power button is pressed, false if the device goes away.
func pressed(r io.Reader) bool {
	buf := make([]byte, unsafe.Sizeof(inputEvent{}))
	for {
		if _, err := io.ReadFull(r, buf); err != nil {
			return false
		}
		var e inputEvent
		if _, err := binary.Decode(buf, binary.NativeEndian, &e); err != nil {
			return false
		}
		if e.Type == evKey && e.Code == keyPower && e.Value == 1 {
			return true
		}
	}
}
