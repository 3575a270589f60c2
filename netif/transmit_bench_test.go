package netif

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// BenchmarkTransmit sends batches to a veth whose far end drops them, with and
// without PACKET_QDISC_BYPASS, see openTx.
func BenchmarkTransmit(b *testing.B) {
	for _, qdisc := range []string{"noqueue", "pfifo_fast"} {
		for _, kind := range []struct {
			name        string
			batch, size int
			segment     uint16
		}{
			{"1 small", 1, 20, 0},
			{"64 full", 64, 1448, 0},
			{"16 super", 16, 60000, 1448},
		} {
			for _, bypass := range []int{0, 1} {
				b.Run(fmt.Sprintf("%s/%s/bypass=%d", qdisc, kind.name, bypass), func(b *testing.B) {
					e := transmitter(b, qdisc, bypass)
					list := packets(e.Port(0), kind.batch, kind.size, kind.segment)
					defer list.Reset()
					b.ReportAllocs()
					for b.Loop() {
						_, _ = e.Port(0).WritePackets(list) // counts what fails
						e.txq.flush()
					}
					c := e.Counters()
					if want := uint64(b.N * kind.batch); c.TxFrames < want {
						b.Errorf("%d of %d frames were sent: %+v", c.TxFrames, want, c)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*kind.batch), "ns/frame")
				})
			}
		}
	}
}

// transmitter is an Endpoint on a veth with a queueing discipline.
func transmitter(b *testing.B, qdisc string, bypass int) *Endpoint {
	b.Helper()
	peer, card := labtest.Host(b, "peer"), labtest.Host(b, "card")
	wire(b, peer, card)
	e := openOn(b, card, EndpointOptions{Queues: 1})
	err := card.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if qdisc != "noqueue" { // what a veth has by itself
			attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
			if err := netlink.QdiscReplace(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: qdisc}); err != nil {
				return fmt.Errorf("set %s: %w", qdisc, err)
			}
		}
		return unix.SetsockoptInt(e.txq.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, bypass)
	})
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// packets are segments as the stack hands them down, with so much payload,
// super-frames if segment is not 0.
func packets(p *Port, n, size int, segment uint16) gstack.PacketBufferList {
	var list gstack.PacketBufferList
	for range n {
		pkt := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
			ReserveHeaderBytes: int(p.MaxHeaderLength()),
			Payload:            buffer.MakeWithData(tcp4(0x10, 1, make([]byte, size))),
		})
		pkt.NetworkProtocolNumber = 0x0800
		pkt.EgressRoute.RemoteLinkAddress = tcpip.LinkAddress(peerMAC[:])
		pkt.EgressRoute.LocalLinkAddress = tcpip.LinkAddress(ourMAC[:])
		if segment > 0 {
			pkt.NetworkHeader().Consume(20)
			pkt.TransportHeader().Consume(20)
			pkt.GSOOptions = gstack.GSO{Type: gstack.GSOTCPv4, NeedsCsum: true, CsumOffset: 16, MSS: segment, L3HdrLen: 20}
		}
		p.AddHeader(pkt)
		list.PushBack(pkt)
	}
	return list
}
