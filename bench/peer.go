package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
)

// The names of the peers in results.
const (
	routing   = "routing"
	haproxy   = "haproxy"
	appliance = "appliance"
)

// peer is one of those that are compared: what stands in the middle of a rig.
type peer struct {
	name string
	// carrier is the appliance's forwarding, empty for others.
	carrier string
	title   string
	target  netip.Addr // where clients connect
	start   func(r *rig) error
}

// routingPeer is the kernel as a router: no proxy, so the limit of what one
// can do on this machine with this load.
func routingPeer() peer {
	return peer{name: routing, title: "kernel routing", target: serverIP, start: (*rig).route}
}

// haproxyPeer runs HAProxy in the foreground.
func haproxyPeer(binary, version string, maxconn int) peer {
	return peer{name: haproxy, title: "HAProxy " + version, target: wanIP, start: func(r *rig) error {
		if err := r.addressMiddle(); err != nil {
			return err
		}
		file, err := r.write("haproxy.cfg", haproxyConfig(maxconn))
		if err != nil {
			return err
		}
		return r.run("HAProxy", exec.Command(binary, "-db", "-f", file))
	}}
}

// appliancePeer runs the appliance; it takes both cards itself.
func appliancePeer(binary, forwarding string) peer {
	name := appliance
	if forwarding != "auto" {
		name += " " + forwarding
	}
	return peer{name: name, carrier: forwarding, title: name, target: wanIP, start: func(r *rig) error {
		file, err := r.write("appliance.yaml", applianceConfig(filepath.Join(r.dir, "appliance.sock"), forwarding))
		if err != nil {
			return err
		}
		cmd := exec.Command(binary, "run", "-c", file,
			"--state-dir", filepath.Join(r.dir, "nic"), "--log-level", "warn", "--log-format", "text")
		if r.profile != "" {
			cmd.Env = append(os.Environ(), "APPLIANCE_CPU_PROFILE="+r.profile+"."+forwarding)
		}
		return r.run("the appliance", cmd)
	}}
}

// write makes a file for the peer.
func (r *rig) write(name, text string) (string, error) {
	file := filepath.Join(r.dir, name)
	return file, os.WriteFile(file, []byte(text), 0o600)
}

// run starts the proxy in the middle.
func (r *rig) run(name string, cmd *exec.Cmd) (err error) {
	r.proxy, err = start(r.middle, name, cmd)
	return err
}

// haproxyConfig is TCP mode with splice, the rest as HAProxy chooses: a thread
// for each core. maxconn keeps it below the limit of open files.
func haproxyConfig(maxconn int) string {
	text := fmt.Sprintf(`global
  maxconn %d
defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 60s
  timeout server 60s
`, maxconn)
	for _, s := range proxied {
		text += fmt.Sprintf(`frontend %[1]s
  bind %[2]s
  default_backend %[1]s
backend %[1]s
  server server %[3]s
`, s.name, addrPort(wanIP, s.port), addrPort(serverIP, s.port))
	}
	return text
}

// applianceConfig is the appliance with what it chooses by itself, but for how
// it carries connections.
func applianceConfig(socket, forwarding string) string {
	text := fmt.Sprintf("interfaces:\n  wan0: {addresses: [%s]}\n  lan0: {addresses: [%s]}\nservices:\n",
		netip.PrefixFrom(wanIP, clientNet.Bits()), netip.PrefixFrom(lanIP, serverNet.Bits()))
	for _, s := range proxied {
		text += fmt.Sprintf("  %s: {type: proxy, listen: \"wan0:%d\", backends: [\"%s\"], forwarding: %s}\n", s.name, s.port, addrPort(serverIP, s.port), forwarding)
	}
	return text + fmt.Sprintf("drain: {deadline: 1s, fin_grace: 1s}\nadmin: {socket: %q}\n", socket)
}

// proxied are the services of a proxy.
var proxied = []struct {
	name string
	port uint16
}{{"web", httpPort}, {"bulk", bulkPort}}
