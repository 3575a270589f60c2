package vm

import "fmt"

// ExampleConfig is a configuration that fits the networks of a Machine: it
// forwards port 80 of the first card to a port of the host's 127.0.0.1 by the
// second, and answers to SSH.
func ExampleConfig(backend uint16) string {
	return fmt.Sprintf(`# What appliance qemu gives the box.
interfaces:
  eth0: {dhcp: true}
  eth1: {addresses: [%s/24]}
services:
  web: {type: proxy, listen: "eth0:80", backends: ["%s:%d"]}
admin:
  ssh: {listen: "eth0:22", authorized_keys_file: /data/config/authorized_keys}
`, GuestLAN, HostLAN, backend)
}
