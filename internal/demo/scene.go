package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/lastack/lastack/internal/lab"
)

// picture is the network that newScene builds.
const picture = `
                           +------------------------+
                           |       appliance        |   10.0.1.21
   192.0.2.2               |          10.0.1.1 lan0 |-------------- web1
 client -------------------| wan0                   |
                           | 192.0.2.10             |   10.0.2.22
                           |          10.0.2.1 lan1 |-------------- web2
                           +------------------------+`

// Where the services of the configuration listen, and behind them.
const (
	webAddr  = "192.0.2.10:80"
	sortAddr = "192.0.2.10:7000"
)

var (
	webBackends  = []string{"10.0.1.21:80", "10.0.2.22:80"}
	sortBackends = []string{"10.0.1.21:7000", "10.0.2.22:7000"}
	// boxAddrs is what the kernel of the appliance's host has on its cards.
	boxAddrs = map[string]string{"wan0": "192.0.2.10/24", "lan0": "10.0.1.1/24", "lan1": "10.0.2.1/24"}
)

// scene is the network and the servers in it.
type scene struct {
	client, box *lab.Host
	webs        []*lab.Host
	servers     []interface{ Close() error }
}

// newScene builds it. What it made is closed again after an error.
func newScene(ctx context.Context) (*scene, error) {
	s := &scene{}
	if err := s.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build the network: %w", err), s.close())
	}
	return s, nil
}

func (s *scene) build(ctx context.Context) (err error) {
	if s.client, err = lab.NewHost("client"); err != nil {
		return err
	}
	if s.box, err = lab.NewHost("appliance"); err != nil {
		return err
	}
	if err := s.wire(s.client, "eth0", "192.0.2.2/24", "wan0"); err != nil {
		return err
	}
	for i, addr := range []string{"10.0.1.21/24", "10.0.2.22/24"} {
		web, err := lab.NewHost(fmt.Sprintf("web%d", i+1))
		if err != nil {
			return err
		}
		s.webs = append(s.webs, web)
		if err := s.wire(web, "eth0", addr, fmt.Sprintf("lan%d", i)); err != nil {
			return err
		}
		if err := s.serve(ctx, web, webBackends[i], sortBackends[i]); err != nil {
			return err
		}
	}
	return nil
}

// wire connects a host to a card of the appliance's.
func (s *scene) wire(h *lab.Host, ifname, addr, card string) error {
	if err := lab.Wire(h, ifname, s.box, card); err != nil {
		return err
	}
	return errors.Join(
		h.AddAddr(ifname, netip.MustParsePrefix(addr)),
		s.box.AddAddr(card, netip.MustParsePrefix(boxAddrs[card])))
}

// serve starts the servers of a backend.
func (s *scene) serve(ctx context.Context, h *lab.Host, webAt, sortAt string) error {
	web, err := lab.NewWeb(ctx, h, webAt, site(h.Name()))
	if err != nil {
		return err
	}
	s.servers = append(s.servers, web)
	sorter, err := lab.Serve(ctx, h, sortAt, sortLines)
	if err != nil {
		return err
	}
	s.servers = append(s.servers, sorter)
	return nil
}

// hosts are all hosts there are.
func (s *scene) hosts() []*lab.Host {
	var all []*lab.Host
	for _, h := range append([]*lab.Host{s.client, s.box}, s.webs...) {
		if h != nil {
			all = append(all, h)
		}
	}
	return all
}

func (s *scene) close() error {
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	for _, h := range s.hosts() {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// kernelAddrs is what the kernel says it has on a card of the appliance's.
func (s *scene) kernelAddrs(card string) (string, error) {
	var names []string
	err := s.box.Do(func() error {
		i, err := net.InterfaceByName(card)
		if err != nil {
			return err
		}
		addrs, err := i.Addrs()
		for _, a := range addrs {
			names = append(names, a.String())
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ask the kernel for the addresses of %s: %w", card, err)
	}
	if len(names) == 0 {
		return "no address", nil
	}
	return strings.Join(names, " "), nil
}

// openSockets counts the TCP connections that the kernels of client and web
// servers still know, those in TIME-WAIT left out.
func (s *scene) openSockets() (int, error) {
	n := 0
	for _, h := range append([]*lab.Host{s.client}, s.webs...) {
		counts, err := h.CountTCP()
		if err != nil {
			return 0, err
		}
		for state, c := range counts {
			if state != lab.Listening && state != lab.TimeWait {
				n += c
			}
		}
	}
	return n, nil
}
