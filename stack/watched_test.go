package stack_test

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/lastack/lastack/netif/frame"
)

// watched is a link in memory whose frames a filter sees, as a card's are.
type watched struct {
	gstack.LinkEndpoint
	filter     frame.Filter
	dispatcher gstack.NetworkDispatcher
}

// etherFrame is a packet as a filter sees it, behind a link header without
// names.
func etherFrame(p *gstack.PacketBuffer) *frame.Frame {
	return &frame.Frame{Eth: make([]byte, frame.EthernetSize), Net: p.ToView().AsSlice()}
}

// WritePackets implements stack.LinkWriter.
func (w *watched) WritePackets(list gstack.PacketBufferList) (int, tcpip.Error) {
	var out gstack.PacketBufferList
	for _, p := range list.AsSlice() {
		if w.filter.Outbound(etherFrame(p)) == frame.Pass {
			out.PushBack(p)
		}
	}
	if out.Len() == 0 {
		return list.Len(), nil
	}
	if _, err := w.LinkEndpoint.WritePackets(out); err != nil {
		return 0, err
	}
	return list.Len(), nil
}

// Attach implements stack.LinkEndpoint.
func (w *watched) Attach(d gstack.NetworkDispatcher) {
	w.dispatcher = d
	if d == nil {
		w.LinkEndpoint.Attach(nil)
		return
	}
	w.LinkEndpoint.Attach(w)
}

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (w *watched) DeliverNetworkPacket(proto tcpip.NetworkProtocolNumber, p *gstack.PacketBuffer) {
	f := etherFrame(p)
	switch w.filter.Inbound(f) {
	case frame.Pass:
		w.dispatcher.DeliverNetworkPacket(proto, p)
	case frame.Reply:
		answer := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(f.Net)})
		defer answer.DecRef()
		answer.NetworkProtocolNumber = proto
		var list gstack.PacketBufferList
		list.PushBack(answer)
		// The line's other end takes everything.
		_, _ = w.LinkEndpoint.WritePackets(list)
	}
}

// DeliverLinkPacket implements stack.NetworkDispatcher.
func (w *watched) DeliverLinkPacket(proto tcpip.NetworkProtocolNumber, p *gstack.PacketBuffer) {
	w.dispatcher.DeliverLinkPacket(proto, p)
}
