package netif

import (
	"encoding/binary"
	"errors"
	"iter"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the kernel says about a card is kept as the rtnetlink(7) messages it
// was said in: given back to the kernel they restore every attribute,
// including those this program has never heard of.

const (
	attrHead     = 4      // struct rtattr
	attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER
	dumpTries    = 5      // a dump is repeated when the tables changed under it
)

// message is one object of the kernel's in the form it takes it back.
type message struct {
	Text string `json:"text"` // for the reader of the state file
	Raw  []byte `json:"raw"`
}

// dump asks the kernel for all objects of one kind. head is the fixed part of
// the request, which is also that of every answer.
func dump(get, answer uint16, head []byte) ([][]byte, error) {
	var err error
	for range dumpTries {
		req := nl.NewNetlinkRequest(int(get), unix.NLM_F_DUMP)
		req.AddRawData(head)
		var found [][]byte
		found, err = req.Execute(unix.NETLINK_ROUTE, answer)
		if err == nil {
			return found, nil
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	return nil, err
}

// send gives the kernel one object.
func send(kind uint16, flags int, raw []byte) error {
	req := nl.NewNetlinkRequest(int(kind), flags|unix.NLM_F_ACK)
	req.AddRawData(raw)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// attributes walks over the attributes of a message, whose fixed part was cut off.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= attrHead {
			size := int(binary.NativeEndian.Uint16(b))
			if size < attrHead || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:]), b[attrHead:size]) {
				return
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

// attribute returns one attribute, nil if there is none.
func attribute(b []byte, kind uint16) []byte {
	for k, v := range attributes(b) {
		if k&attrTypeMask == kind {
			return v
		}
	}
	return nil
}

// attributeU32 returns one attribute as a number, 0 if there is none.
func attributeU32(b []byte, kind uint16) uint32 {
	if v := attribute(b, kind); len(v) >= 4 {
		return binary.NativeEndian.Uint32(v)
	}
	return 0
}

// appendAttribute adds one attribute with its padding.
func appendAttribute(b []byte, kind uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHead+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, v...)
	return append(b, make([]byte, align4(len(v))-len(v))...)
}

// rewrite copies a message with a fixed part of head bytes and passes its
// attributes through edit, which returns the new value, or nil to leave it out.
func rewrite(raw []byte, head int, edit func(kind uint16, v []byte) []byte) []byte {
	out := append([]byte(nil), raw[:head]...)
	for kind, v := range attributes(raw[head:]) {
		if v = edit(kind&attrTypeMask, append([]byte{}, v...)); v != nil {
			out = appendAttribute(out, kind, v)
		}
	}
	return out
}

func align4(n int) int { return (n + 3) &^ 3 }
