package main

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lastack/lastack/internal/lab/labtest"
)

func TestTheTimeOfAServerThatDHCPNames(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	labtest.Addr(t, r.client, "c0", "192.0.2.123/24")
	labtest.NTP(t, r.client, "192.0.2.123:123", 90*time.Second)
	server := labtest.DHCP(t, r.client, "c0", gift("192.0.2.50/24", time.Hour))
	r.configureDynamic("{dhcp: true}", sshServices+"time: {}\n")
	p := r.start()
	eventually(t, 20*time.Second, "an answer", func() bool {
		s, err := r.admin.Status(t.Context())
		return err == nil && s.Time != nil && (s.Time.Offset-90*time.Second).Abs() < time.Second && !s.Time.Sets
	})
	out, _, _ := r.run("status")
	contains(t, "status", out, "Time: offset 1m", "by 192.0.2.123:123, stratum 2")
	if asked := server.Heard(dhcpv4.MessageTypeDiscover)[0]; !asked.IsOptionRequested(dhcpv4.OptionNTPServers) {
		t.Error("time servers are not asked for")
	}
	p.stop()
}

func TestTheTimeOfAServerOfTheConfiguration(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	labtest.NTP(t, r.client, net.JoinHostPort("2001:db8::2", "124"), -90*time.Second)
	text := interfacesYAML + sshServices + "admin: {socket: " + r.socket + "}\ntime: {servers: \"[2001:db8::2]:124\"}\n"
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := r.start()
	eventually(t, 20*time.Second, "an answer", func() bool {
		s, err := r.admin.Status(t.Context())
		return err == nil && s.Time != nil && (s.Time.Offset+90*time.Second).Abs() < time.Second
	})
	p.stop()
}
