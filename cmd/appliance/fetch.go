package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// What update install URL fetches comes over the daemon's own stack, because the
// kernel of a box has no card.

const (
	fetchDial   = 30 * time.Second
	fetchHeader = 30 * time.Second
	dnsPort     = 53
)

// Fetch implements admin.Source.
func (d *daemon) Fetch(ctx context.Context, from string) (io.ReadCloser, int64, error) {
	u, err := url.Parse(from)
	if err != nil {
		return nil, 0, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, 0, fmt.Errorf("%q is no http or https URL", from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: d.dialHost, ResponseHeaderTimeout: fetchHeader, TLSHandshakeTimeout: fetchHeader, DisableKeepAlives: true, DisableCompression: true,
		// A box has no roots and may not know the time yet. What is fetched is believed for
		// its own signature, whoever sends it.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
	}}
	res, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, 0, errors.Join(fmt.Errorf("%s answers %s", u.Host, res.Status), res.Body.Close())
	}
	return res.Body, res.ContentLength, nil
}

// dialHost connects to the first of a host's addresses that takes it.
func (d *daemon) dialHost(ctx context.Context, _, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchDial)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range addrs {
		c, err := d.stack.DialStream(ctx, netip.AddrPortFrom(a.Unmap(), uint16(number)), "default")
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// lookup finds a host's addresses, by the servers that DHCP has named.
func (d *daemon) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	var servers []netip.Addr
	for _, i := range d.Status().Interfaces {
		if i.DHCP != nil {
			servers = append(servers, i.DHCP.DNS...)
		}
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s cannot be looked up: no name server is known, since no DHCP lease names one; give the address instead", host)
	}
	var next atomic.Uint32 // A and AAAA are asked for at once
	r := net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		to := netip.AddrPortFrom(servers[int(next.Add(1)-1)%len(servers)], dnsPort)
		if network == "tcp" {
			return d.stack.DialStream(ctx, to, "default")
		}
		return d.stack.DialUDP(to)
	}}
	return r.LookupNetIP(ctx, "ip", host)
}
