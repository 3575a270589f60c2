package lab

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// WritePcap writes the frames so far as a pcap file, for other tools to read:
// draft-ietf-opsawg-pcap, with times in nanoseconds.
func (c *Capture) WritePcap(w io.Writer) error {
	b := bufio.NewWriter(w)
	const ethernet = 1
	le := binary.LittleEndian
	head := le.AppendUint32(nil, 0xa1b23c4d)
	head = le.AppendUint16(head, 2)
	head = le.AppendUint16(head, 4)
	head = append(head, make([]byte, 8)...)
	head = le.AppendUint32(head, 1<<18)
	head = le.AppendUint32(head, ethernet)
	// A bufio.Writer keeps its first error for Flush.
	_, _ = b.Write(head)
	for _, f := range c.Frames() {
		rec := le.AppendUint32(nil, uint32(f.Time.Unix()))
		rec = le.AppendUint32(rec, uint32(f.Time.Nanosecond()))
		rec = le.AppendUint32(rec, uint32(len(f.Data)))
		rec = le.AppendUint32(rec, uint32(f.Length))
		_, _ = b.Write(append(rec, f.Data...))
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write pcap: %w", err)
	}
	return nil
}
