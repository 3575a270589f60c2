package netif

import (
	"encoding/binary"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/netif/frame"
)

// outgoing is the packet of the frame that numbered makes, as the stack hands it down.
func outgoing(p *Port, n uint32, port uint16) *gstack.PacketBuffer {
	pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: int(p.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(numbered(n, port)[frame.EthernetSize:]),
	})
	pkt.NetworkProtocolNumber = frame.TypeIPv4
	pkt.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(peerMAC[:])
	pkt.EgressRoute.LocalLinkAddress = tcpip.LinkAddress(ourMAC[:])
	p.AddHeader(pkt)
	return pkt
}

func write(p *Port, pkt *gstack.PacketBuffer) {
	var list gstack.PacketBufferList
	list.PushBack(pkt)
	_, _ = p.WritePackets(list) // never fails
}

// arrive receives so many frames and returns their numbers by source port.
func arrive(t *testing.T, raw *lab.Raw, frames int) map[uint16][]uint32 {
	t.Helper()
	numbers := map[uint16][]uint32{}
	for i := range frames {
		f, err := raw.Recv(limit(t))
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", i, frames, err)
		}
		tcp := f.Data[frame.EthernetSize+20:]
		port := binary.BigEndian.Uint16(tcp)
		numbers[port] = append(numbers[port], binary.BigEndian.Uint32(tcp[4:]))
	}
	return numbers
}

func TestFramesLeaveInTheOrderTheyWereWritten(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{})
	p := r.e.Port(0)
	const writers, each = 4, 300 // more than a batch holds
	var owned sync.WaitGroup
	for w := range uint16(writers) {
		owned.Go(func() {
			for n := range uint32(each) {
				if n%16 == 15 { // as a filter does
					f := numbered(n, w)
					r.e.Send(frame.Header{}, f[:frame.EthernetSize], f[frame.EthernetSize:])
					continue
				}
				pkt := outgoing(p, n, w)
				write(p, pkt)
				pkt.DecRef()
			}
		})
	}
	numbers := arrive(t, raw, writers*each)
	owned.Wait()
	for w, got := range numbers {
		for i, n := range got {
			if n != uint32(i) {
				t.Errorf("writer %d: frame %d arrives in place %d", w, n, i)
				break
			}
		}
	}
	if c := r.e.Counters(); c.TxFrames != writers*each {
		t.Errorf("%d frames are counted, want %d", c.TxFrames, writers*each)
	}
}

func TestCloseSendsWhatWasWritten(t *testing.T) {
	r, raw := rawRig(t, EndpointOptions{})
	p := r.e.Port(0)
	pkts := make([]*gstack.PacketBuffer, txBatch/2)
	for n := range pkts {
		pkts[n] = outgoing(p, uint32(n), 0)
		write(p, pkts[n])
	}
	if err := r.e.Close(); err != nil {
		t.Fatal(err)
	}
	arrive(t, raw, len(pkts))
	late := outgoing(p, 0, 0)
	write(p, late)
	for _, pkt := range append(pkts, late) {
		if n := pkt.ReadRefs(); n != 1 {
			t.Fatalf("a packet is held %d times after it was sent, want 1", n)
		}
		pkt.DecRef()
	}
	if c := r.e.Counters(); c.TxDropLinkDown != 1 {
		t.Errorf("%d frames found no socket, want the 1 after Close", c.TxDropLinkDown)
	}
}
