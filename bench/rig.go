package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// The addresses of every rig: it has its own network.
var (
	clientNet = netip.MustParsePrefix("10.1.0.0/24")
	serverNet = netip.MustParsePrefix("10.2.0.0/24")
	clientIP  = netip.MustParseAddr("10.1.0.2")
	wanIP     = netip.MustParseAddr("10.1.0.1")
	lanIP     = netip.MustParseAddr("10.2.0.1")
	serverIP  = netip.MustParseAddr("10.2.0.2")
)

// The ports that the server and every proxy listen on.
const (
	httpPort = 8080
	bulkPort = 5201
)

// rig is a network with one peer in the middle. Whoever builds it closes it.
type rig struct {
	peer                   peer
	client, middle, server *lab.Host
	serving                *held
	proxy                  *process // nil for kernel routing
	dir                    string   // for the peer's files
	profile                string   // where the appliance writes its CPU profile; empty for none
}

// build makes the network and starts server and peer; when it returns, requests
// are answered.
func build(ctx context.Context, p peer, profile string) (r *rig, err error) {
	r = &rig{peer: p, profile: profile}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("set %s up: %w", p.title, err), r.close())
		}
	}()
	if err := r.wire(); err != nil {
		return r, err
	}
	if r.dir, err = os.MkdirTemp("", "lastack-bench-"); err != nil {
		return r, err
	}
	if r.serving, err = hold(ctx, r.server, "the server", roleServe,
		"-http", addrPort(serverIP, httpPort), "-bulk", addrPort(serverIP, bulkPort)); err != nil {
		return r, err
	}
	if err := p.start(r); err != nil {
		return r, err
	}
	return r, r.awaitAnswer(ctx)
}

// wire makes the three hosts. The middle gets no addresses.
func (r *rig) wire() (err error) {
	for _, h := range []struct {
		at   **lab.Host
		name string
	}{{&r.client, "client"}, {&r.middle, "middle"}, {&r.server, "server"}} {
		if *h.at, err = lab.NewHost(h.name); err != nil {
			return err
		}
		// The same for all: what a proxy can do without, it should do without.
		if err := (*h.at).Sysctl("net.ipv4.tcp_timestamps", "0"); err != nil {
			return err
		}
	}
	return errors.Join(
		lab.Wire(r.client, "c0", r.middle, "wan0"),
		lab.Wire(r.server, "s0", r.middle, "lan0"),
		r.client.AddAddr("c0", netip.PrefixFrom(clientIP, clientNet.Bits())),
		r.server.AddAddr("s0", netip.PrefixFrom(serverIP, serverNet.Bits())),
	)
}

// addressMiddle gives the kernel in the middle the addresses that the
// appliance would take.
func (r *rig) addressMiddle() error {
	return errors.Join(
		r.middle.AddAddr("wan0", netip.PrefixFrom(wanIP, clientNet.Bits())),
		r.middle.AddAddr("lan0", netip.PrefixFrom(lanIP, serverNet.Bits())),
	)
}

// route makes the kernel in the middle a router.
func (r *rig) route() error {
	return errors.Join(
		r.addressMiddle(),
		r.middle.Sysctl("net.ipv4.ip_forward", "1"),
		r.client.AddRoute(serverNet, wanIP),
		r.server.AddRoute(clientNet, lanIP),
	)
}

// target is where a client connects.
func (r *rig) target(port uint16) string { return addrPort(r.peer.target, port) }

func addrPort(ip netip.Addr, port uint16) string { return netip.AddrPortFrom(ip, port).String() }

// awaitAnswer asks until there is an answer.
func (r *rig) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := r.askOnce(ctx)
		if err == nil {
			return nil
		}
		if r.proxy != nil {
			if dead := r.proxy.alive(); dead != nil {
				return dead
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *rig) askOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := r.client.Dial(ctx, "tcp", r.target(httpPort))
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	return exchange(c)
}

// exchange asks once on c.
func exchange(c net.Conn) error {
	if _, err := io.WriteString(c, lastRequest); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, []byte(lastAnswer)) {
		err = fmt.Errorf("got answer %q, want %q", got, lastAnswer)
	}
	return err
}

// close stops the peer and the server and gives the network up.
func (r *rig) close() error {
	var errs []error
	if r.proxy != nil {
		errs = append(errs, r.proxy.stop(r.proxy.terminate, 10*time.Second))
	}
	errs = append(errs, r.serving.close())
	for _, h := range []*lab.Host{r.client, r.middle, r.server} {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}
