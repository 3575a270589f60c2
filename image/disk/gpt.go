package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Partition is one of a disk.
type Partition struct {
	Name  string
	Start int64 // bytes
	Size  int64 // bytes
}

// header is a GPT header (UEFI 2.10, table 5.5).
type header struct {
	self, other         uint64
	firstData, lastData uint64
	disk                [16]byte
	entriesAt           uint64
	entries             []byte
}

const (
	gptSignature = "EFI PART"
	gptHeader    = 92
	gptEntries   = 128
	gptEntry     = 128
)

// readGPT reads both tables of a disk and fails unless they are whole and say
// the same.
func readGPT(r io.ReaderAt) ([]Partition, error) {
	var mbr [sector]byte
	if _, err := r.ReadAt(mbr[:], 0); err != nil {
		return nil, fmt.Errorf("read the first sector: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa || mbr[450] != 0xee {
		return nil, errors.New("the first sector is no protective MBR")
	}
	first, err := readHeader(r, 1)
	if err != nil {
		return nil, fmt.Errorf("the first partition table: %w", err)
	}
	second, err := readHeader(r, first.other)
	if err != nil {
		return nil, fmt.Errorf("the second partition table: %w", err)
	}
	if second.other != 1 || second.disk != first.disk || second.firstData != first.firstData || second.lastData != first.lastData ||
		!bytes.Equal(first.entries, second.entries) {
		return nil, errors.New("the two partition tables differ")
	}
	if end := first.entriesAt*sector + uint64(len(first.entries)); end > first.firstData*sector {
		return nil, errors.New("the first partition table reaches into the partitions")
	}
	if second.entriesAt <= second.lastData {
		return nil, errors.New("the partitions reach into the second partition table")
	}
	return partitions(first)
}

func readHeader(r io.ReaderAt, lba uint64) (*header, error) {
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, int64(lba)*sector); err != nil {
		return nil, fmt.Errorf("read sector %d: %w", lba, err)
	}
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	if string(b[:8]) != gptSignature || u32(b[12:]) != gptHeader {
		return nil, fmt.Errorf("sector %d is no GPT header", lba)
	}
	want := u32(b[16:])
	clear(b[16:20])
	if got := crc32.ChecksumIEEE(b[:gptHeader]); got != want {
		return nil, fmt.Errorf("the header's CRC is %08x, it says %08x", got, want)
	}
	h := &header{self: u64(b[24:]), other: u64(b[32:]), firstData: u64(b[40:]), lastData: u64(b[48:]), disk: [16]byte(b[56:72]), entriesAt: u64(b[72:])}
	if h.self != lba {
		return nil, fmt.Errorf("the header in sector %d says it is in %d", lba, h.self)
	}
	if u32(b[80:]) != gptEntries || u32(b[84:]) != gptEntry {
		return nil, fmt.Errorf("%d entries of %d bytes, want %d of %d", u32(b[80:]), u32(b[84:]), gptEntries, gptEntry)
	}
	h.entries = make([]byte, gptEntries*gptEntry)
	if _, err := r.ReadAt(h.entries, int64(h.entriesAt)*sector); err != nil {
		return nil, fmt.Errorf("read the entries: %w", err)
	}
	if got, want := crc32.ChecksumIEEE(h.entries), u32(b[88:]); got != want {
		return nil, fmt.Errorf("the entries' CRC is %08x, the header says %08x", got, want)
	}
	return h, nil
}

func partitions(h *header) ([]Partition, error) {
	var all []Partition
	last := h.firstData - 1
	for e := h.entries; len(e) > 0; e = e[gptEntry:] {
		if [16]byte(e) == [16]byte{} {
			continue
		}
		from, to := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		name := partitionName(e[56:gptEntry])
		if from <= last || to < from || to > h.lastData {
			return nil, fmt.Errorf("partition %s (sectors %d to %d) overlaps another or the tables", name, from, to)
		}
		last = to
		all = append(all, Partition{Name: name, Start: int64(from) * sector, Size: int64(to-from+1) * sector})
	}
	return all, nil
}

func partitionName(b []byte) string {
	var u []uint16
	for ; len(b) >= 2 && b[0]|b[1] != 0; b = b[2:] {
		u = append(u, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(u))
}
