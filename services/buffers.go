package services

import "sync"

// buffers are pools of what one side couldn't take yet, by size, so that a
// slow reader holds little more than what it was slow to take.
type buffers struct {
	pools [len(bufferSizes)]sync.Pool
}

var bufferSizes = [...]int{8 << 10, 32 << 10, 128 << 10, scratchSize}

// buffer is memory from one of the pools.
type buffer struct {
	class int // index into bufferSizes, -1 if it fits none
	mem   []byte
}

func newBuffers() *buffers {
	b := &buffers{}
	for class, size := range bufferSizes {
		b.pools[class].New = func() any { return &buffer{class: class, mem: make([]byte, size)} }
	}
	return b
}

// keep copies p into a buffer.
func (b *buffers) keep(p []byte) *buffer {
	for class, size := range bufferSizes {
		if len(p) <= size {
			buf := b.pools[class].Get().(*buffer)
			copy(buf.mem, p)
			return buf
		}
	}
	return &buffer{class: -1, mem: append([]byte(nil), p...)}
}

// free gives a buffer back.
func (b *buffers) free(buf *buffer) {
	if buf.class >= 0 {
		b.pools[buf.class].Put(buf)
	}
}
