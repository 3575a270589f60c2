package vm

import "fmt"

// ExampleConfig is a configuration that fits the networks of a Machine: it
// forwards port 80 of the first card to a port of the host's 127.0.0.1 by the second.
func ExampleConfig(backend uint16) string {
	return fmt.Sprintf(`interfaces:
  eth0: {addresses: [%s/24], gateway: %s}
  eth1: {addresses: [%s/24]}
services:
  web:
    type: proxy
    listen: eth0:80
    backends: ["%s:%d"]
`, GuestWAN, HostWAN, GuestLAN, HostLAN, backend)
}
