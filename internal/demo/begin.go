package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// configuration is the file, but for the path of the socket.
const configuration = `interfaces:
  wan0: {addresses: [192.0.2.10/24]}
  lan0: {addresses: [10.0.1.1/24]}
  lan1: {addresses: [10.0.2.1/24]}
policies:
  default:
    keepalive: {idle: 60s, interval: 5s, probes: 3}
    half_close: 5m
services:
  web:
    type: proxy
    listen: wan0:80
    backends: [10.0.1.21:80, 10.0.2.22:80]
  sort:
    type: proxy
    listen: wan0:7000
    backends: [10.0.1.21:7000, 10.0.2.22:7000]
drain: {announce: 0s, deadline: 3s, fin_grace: 2s}
admin: {socket: %q}
`

// socketMost is how long the path of a unix socket may be, see unix(7).
const socketMost = 107

func (d *demo) showNetwork(ctx context.Context) (err error) {
	if d.scene, err = newScene(ctx); err != nil {
		return err
	}
	d.page.output(strings.TrimPrefix(picture, "\n"))
	d.page.gap()
	d.page.say("Four network namespaces, joined by veth pairs. client, web1 and web2 use\n" +
		"their kernel's TCP. Nothing of this machine's own network is touched.")
	return nil
}

func (d *demo) showConfiguration(context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "lastack-demo-"); err != nil {
		return fmt.Errorf("make a directory for the demonstration, TMPDIR says where: %w", err)
	}
	file, socket := filepath.Join(d.dir, configName), filepath.Join(d.dir, socketName)
	if len(socket) > socketMost {
		return fmt.Errorf("the path %s is too long for a unix socket: set TMPDIR to a shorter one", socket)
	}
	text := fmt.Sprintf(configuration, socket)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	d.page.command("cd", d.dir)
	d.page.command("cat", configName)
	d.page.say("%s", strings.TrimSpace(text))
	d.page.gap()
	_, err = d.command("check", "-c", configName)
	return err
}

// showStart starts the appliance, and shows that the kernel has lost the card.
func (d *demo) showStart(ctx context.Context) error {
	before, err := d.scene.kernelAddrs("wan0")
	if err != nil {
		return err
	}
	d.page.say("wan0 in the kernel before: %s", before)
	d.page.command(append([]string{"appliance"}, append(runArgs, "&")...)...)
	d.daemon, err = startDaemon(ctx, d.program, d.dir, d.scene.box)
	if err != nil {
		d.showLog(10)
		return err
	}
	if err := d.logLines("serving", 2); err != nil {
		return err
	}
	if err := d.logLines("ready", 1); err != nil {
		return err
	}
	now, err := d.scene.kernelAddrs("wan0")
	if err != nil {
		return err
	}
	d.page.say("wan0 in the kernel now:    %s", now)
	if strings.Contains(now, "192.0.2.10") {
		return fmt.Errorf("the kernel still has %s on wan0, which the appliance has taken", now)
	}
	d.page.gap()
	d.page.say("From here on 192.0.2.10 is the appliance's own TCP/IP stack on a raw socket.")
	return nil
}

// logLines shows the last lines of the appliance's log with text in them.
func (d *demo) logLines(text string, n int) error {
	lines, err := d.daemon.lines(text, n)
	if err != nil {
		return err
	}
	d.page.log(lines)
	return nil
}

// showLog shows the end of the log when something has gone wrong.
func (d *demo) showLog(n int) {
	if lines, err := d.daemon.lines("", n); err == nil && lines != "" {
		d.page.say("the end of the appliance's log:")
		d.page.log(lines)
	}
}

// showRequests asks for a page four times: the backends take turns.
func (d *demo) showRequests(ctx context.Context) error {
	answers := make(map[string]bool)
	for range 4 {
		text, err := d.get(ctx, "/")
		if err != nil {
			return fmt.Errorf("ask for a page through the appliance: %w", err)
		}
		d.page.say("client: GET http://%s/ -> %s", webAddr, strings.TrimSpace(text))
		name, _, _ := strings.Cut(text, ",")
		answers[name] = true
	}
	if len(answers) != len(webBackends) {
		return fmt.Errorf("%d of %d backends answered", len(answers), len(webBackends))
	}
	d.page.gap()
	d.page.say("The backends take turns. Each sees the appliance's address on its side.")
	return nil
}
