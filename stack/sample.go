package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// sampleWait is how long the two ends of a sample have to meet.
const sampleWait = 2 * time.Second

// Sample writes a connection that is nobody's, in the form of Save: who can
// read it can read the others. A connection of another version of gVisor has
// other fields.
func Sample(w io.Writer) error {
	l, err := findLinks()
	if err != nil {
		return err
	}
	clock := NewClock(0)
	s := gstack.New(gstack.Options{
		Clock:              clock,
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocolCUBIC},
	})
	defer s.Destroy()
	ends, err := converse(s)
	if err != nil {
		return fmt.Errorf("make a connection to try a hand-over with: %w", err)
	}
	s.Pause()
	defer s.Resume()
	clock.stop() // no timer may find an endpoint that leads elsewhere
	defer clock.start()
	var b bytes.Buffer
	if err := l.write(&b, &root{endpoints: ends}); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// TrySample reads what Sample has written, and tells why that can't be done.
func TrySample(r io.Reader) error {
	l, err := findLinks()
	if err != nil {
		return err
	}
	endpoints, err := readPart(r)
	var payloads []byte
	if err == nil {
		payloads, err = readPart(r)
	}
	var from *root
	if err == nil {
		from, err = l.read(endpoints, payloads)
	}
	if err != nil {
		return fmt.Errorf("its connections are of another form: %w", err)
	}
	if len(from.endpoints) != 2 {
		return fmt.Errorf("its sample has %d ends of a connection where 2 belong", len(from.endpoints))
	}
	return nil
}

// converse makes a connection of a stack with itself, with bytes that nobody
// has read.
func converse(s *gstack.Stack) ([]*tcp.Endpoint, error) {
	home := tcpip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err := s.CreateNIC(1, loopback.New()); err != nil {
		return nil, toError(err)
	}
	if err := s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: home.WithPrefix()}, gstack.AddressProperties{}); err != nil {
		return nil, toError(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: home.WithPrefix().Subnet(), NIC: 1}})
	var queues [2]waiter.Queue
	listener, err := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queues[0])
	if err != nil {
		return nil, toError(err)
	}
	defer listener.Close()
	client, err := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, &queues[1])
	if err != nil {
		return nil, toError(err)
	}
	entry, waiting := waiter.NewChannelEntry(waiter.ReadableEvents)
	queues[0].EventRegister(&entry)
	at := tcpip.FullAddress{Addr: home, Port: 1}
	if err := listener.Bind(at); err != nil {
		return nil, toError(err)
	}
	if err := listener.Listen(1); err != nil {
		return nil, toError(err)
	}
	if err := client.Connect(at); err != nil {
		if _, started := err.(*tcpip.ErrConnectStarted); !started {
			return nil, toError(err)
		}
	}
	select {
	case <-waiting:
	case <-time.After(sampleWait):
		return nil, errors.New("its two ends do not meet")
	}
	server, _, err := listener.Accept(nil)
	if err != nil {
		return nil, toError(err)
	}
	if _, err := client.Write(bytes.NewReader([]byte("sample")), tcpip.WriteOptions{}); err != nil {
		return nil, toError(err)
	}
	return []*tcp.Endpoint{client.(*tcp.Endpoint), server.(*tcp.Endpoint)}, nil
}
