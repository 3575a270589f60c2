package lab_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// superFrame is an IPv4 TCP frame with so much payload, its checksum left to
// the hardware, and the virtio_net_hdr that says so.
func superFrame(payload, mss int) (vnet, frame []byte) {
	const eth, ip, tcp = 14, 20, 20
	frame = make([]byte, eth+ip+tcp+payload)
	be := binary.BigEndian
	copy(frame, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0})
	h := frame[eth:]
	h[0], h[8], h[9] = 0x45, 64, 6
	be.PutUint16(h[2:], uint16(ip+tcp+payload))
	copy(h[12:], []byte{10, 9, 0, 1, 10, 9, 0, 2})
	be.PutUint16(h[10:], ^sum16(h[:ip]))
	s := h[ip:]
	be.PutUint16(s, 1000)
	be.PutUint16(s[2:], 2000)
	be.PutUint32(s[4:], 5000)
	s[12], s[13] = 5<<4, byte(lab.ACK)
	pseudo := append([]byte{10, 9, 0, 1, 10, 9, 0, 2, 0, 6}, be.AppendUint16(nil, uint16(tcp+payload))...)
	be.PutUint16(s[16:], sum16(pseudo))
	for i := range payload {
		s[tcp+i] = byte(i * 7)
	}
	vnet = make([]byte, 10)
	vnet[0] = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	if payload > mss {
		vnet[1] = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	}
	ne := binary.NativeEndian
	ne.PutUint16(vnet[2:], eth+ip+tcp)
	ne.PutUint16(vnet[4:], uint16(mss))
	ne.PutUint16(vnet[6:], eth+ip)
	ne.PutUint16(vnet[8:], 16)
	return vnet, frame
}

func sum16(b []byte) uint16 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func TestSuperFramesComeOutAsFramesOfTheWire(t *testing.T) {
	for _, c := range []struct {
		name          string
		payload, want int
		offloads      bool
	}{
		{"partial checksum", 100, 1, false},
		{"super frame", 9 * 1460, 9, false},
		{"super frame of 64 KB", 60000, 42, false},
		{"partial checksum, somebody turned offloads on", 100, 1, true},
		{"super frame, somebody turned offloads on", 5 * 1460, 5, true},
		{"super frame of 64 KB, somebody turned offloads on", 60000, 42, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := labtest.Host(t, "a"), labtest.Host(t, "b")
			link := labtest.WireImpaired(t, a, "eth0", b, "eth0", lab.Impairment{})
			if c.offloads {
				if err := a.Offload("eth0", true); err != nil {
					t.Fatal(err)
				}
			}
			ra, rb := labtest.Raw(t, a, "eth0"), labtest.Raw(t, b, "eth0")
			vnet, frame := superFrame(c.payload, 1460)
			if err := ra.SendVnet(vnet, frame); err != nil {
				t.Fatal(err)
			}
			receiveSegments(t, rb, frame[54:], c.want)
			if s := link.Stats().AToB; s.Oversize+s.RingDrops+s.SendErrors > 0 {
				t.Errorf("got %+v, want nothing lost", s)
			}
		})
	}
}

// receiveSegments wants the payload in so many complete segments.
func receiveSegments(t *testing.T, r *lab.Raw, payload []byte, want int) {
	t.Helper()
	var got []byte
	for i := range want {
		s, err := r.RecvSegment(limit(t), nil)
		if err != nil {
			t.Fatalf("after %d segments: %v", i, err)
		}
		if !s.Complete || len(s.Frame) > 1514 {
			t.Errorf("got %v in %d bytes, complete %v, want a frame of the wire", s, len(s.Frame), s.Complete)
		}
		got = append(got, s.Payload...)
	}
	if !bytes.Equal(got, payload) {
		t.Errorf("got %d bytes, want the %d that were sent", len(got), len(payload))
	}
}

func TestVLANTagsCrossTheLink(t *testing.T) {
	ra, rb, _ := silentPair(t)
	vnet, frame := superFrame(100, 1460)
	tagged := append(append(bytes.Clone(frame[:12]), 0x81, 0, 0x20, 42), frame[12:]...)
	vnet[2], vnet[6] = vnet[2]+4, vnet[6]+4
	if err := ra.SendVnet(vnet, tagged); err != nil {
		t.Fatal(err)
	}
	s, err := rb.RecvSegment(limit(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Frame[:16], tagged[:16]) || !s.Complete {
		t.Errorf("got %x, complete %v, want the tag %x and a checksum", s.Frame[:18], s.Complete, tagged[12:16])
	}
}

func TestJumboFramesCrossTheLink(t *testing.T) {
	a, b := labtest.Host(t, "a"), labtest.Host(t, "b")
	labtest.WireImpaired(t, a, "eth0", b, "eth0", lab.Impairment{})
	for _, h := range []*lab.Host{a, b} {
		if err := h.SetMTU("eth0", 9000); err != nil {
			t.Fatal(err)
		}
	}
	ra, rb := labtest.Raw(t, a, "eth0"), labtest.Raw(t, b, "eth0")
	vnet, frame := superFrame(8960, 8960)
	if err := ra.SendVnet(vnet, frame); err != nil {
		t.Fatal(err)
	}
	s, err := rb.RecvSegment(limit(t), nil)
	if err != nil || s.Len != 8960 || !s.Complete {
		t.Errorf("got %v, complete %v, %v, want 8960 bytes in one", s, s.Complete, err)
	}
}
