package main

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/lastack/lastack/internal/sshd"
	"github.com/lastack/lastack/internal/wholefile"
	"github.com/lastack/lastack/services/admin"
)

// startSSH begins to serve the command line on a network, if the configuration
// says so.
func (d *daemon) startSSH() error {
	conf := d.conf().Admin.SSH
	if len(conf.Listen) == 0 {
		return nil
	}
	path := cmp.Or(conf.HostKey, filepath.Join(d.journalDir(), "ssh_host_ed25519_key"))
	key, made, err := sshd.HostKey(path, wholefile.Write)
	if err != nil {
		return err
	}
	if made {
		d.log.Info("made a host key for SSH", "file", path)
	}
	d.log.Info("SSH", "host_key", ssh.FingerprintSHA256(key.PublicKey()), "keys", len(d.mayLogIn()))
	d.ssh.Store(sshd.New(sshd.Options{
		Host: key, Keys: d.mayLogIn, Commands: d.commander(), Prompt: "appliance> ", Version: version, Log: d.log,
	}))
	return d.listenSSH()
}

// commander runs the daemon's own commands.
func (d *daemon) commander() commander {
	return commander{socket: d.conf().Admin.Socket, config: d.conf().File, stateDir: d.journalDir()}
}

// listenSSH makes SSH accept at the addresses of this moment.
func (d *daemon) listenSSH() error {
	server := d.ssh.Load()
	if server == nil {
		return nil
	}
	return server.Listen(d.conf().Admin.SSH.With(d.leases.extra()), func(a netip.AddrPort) (net.Listener, error) {
		return d.stack.ListenStreams(a, "default")
	})
}

// mayLogIn are the keys of the configuration and of its file, which is read at
// each login.
func (d *daemon) mayLogIn() []sshd.Key {
	conf := d.conf().Admin.SSH
	var all []sshd.Key
	for _, line := range conf.AuthorizedKeys {
		if k, err := sshd.ParseKey(line); err == nil { // the configuration was checked
			all = append(all, k)
		}
	}
	if conf.AuthorizedKeysFile == "" {
		return all
	}
	text, err := os.ReadFile(conf.AuthorizedKeysFile)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) || len(all) == 0 {
			d.log.Warn("the file of keys that may log in cannot be read", "error", err)
		}
		return all
	}
	more, err := sshd.ReadKeys(string(text))
	if err != nil {
		d.log.Warn("a key that may log in is left out", "file", conf.AuthorizedKeysFile, "error", err)
	}
	return append(all, more...)
}

// statusSSH is what SSH does, or nil.
func (d *daemon) statusSSH() *admin.SSH {
	server := d.ssh.Load()
	if server == nil {
		return nil
	}
	count, now := server.Counters()
	return &admin.SSH{
		Listen: d.conf().Admin.SSH.With(d.leases.extra()), LoggedIn: now,
		Counters: map[string]uint64{
			"accepted": count.Accepted, "logged_in": count.LoggedIn, "failed": count.Failed, "throttled": count.Throttled,
			"full": count.Full, "commands": count.Commands,
		},
	}
}

// hangUp ends the sessions of SSH, all of them or those on an address.
func (d *daemon) hangUp(on netip.Addr) {
	server := d.ssh.Load()
	if server == nil {
		return
	}
	server.HangUp(func(local net.Addr) bool {
		return !on.IsValid() || strings.HasPrefix(local.String(), net.JoinHostPort(on.String(), ""))
	})
}
