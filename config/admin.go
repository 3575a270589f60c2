package config

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"
)

func (p *parser) admin(v value, net *network, services []Service) Admin {
	a := Admin{Socket: DefaultSocket}
	if !v.present() {
		return a
	}
	if v.off() {
		return Admin{}
	}
	found := v.mapping(
		field{"socket", func(v value) { v.socket(&a.Socket) }},
		field{"ssh", func(v value) { a.SSH = v.ssh(net, services) }},
		field{"console", func(v value) { v.console(&a.Console) }},
	)
	if a.Socket == "" && len(a.SSH.Listen) > 0 {
		found["ssh"].failf("needs the admin socket, which is off: commands go that way")
	}
	return a
}

const maxKeys = 256 // that may log in

// ssh decodes where the command line is served, and for whom.
func (v value) ssh(net *network, services []Service) SSH {
	var s SSH
	if v.off() {
		return s
	}
	found := v.mapping(
		field{"listen", func(v value) { s.listen(v, net, services) }},
		field{"authorized_keys", func(v value) { s.keys(v) }},
		field{"authorized_keys_file", func(v value) { v.file(&s.AuthorizedKeysFile) }},
		field{"host_key", func(v value) { v.file(&s.HostKey) }},
	)
	if !v.isMapping() {
		return s
	}
	if _, ok := found["listen"]; !ok {
		v.missing("listen", "is missing; SSH needs a place to listen, as in lan0:22")
	}
	_, keys := found["authorized_keys"]
	if _, file := found["authorized_keys_file"]; !keys && !file {
		v.missing("authorized_keys", "is missing, and authorized_keys_file too: nobody could log in")
	}
	return s
}

// listen decodes the places, which services have not.
func (s *SSH) listen(v value, net *network, services []Service) {
	taken := map[netip.AddrPort]string{}
	places := map[string]string{}
	for _, one := range services {
		for _, l := range one.Listen {
			places[l.String()] = one.Name
			for _, a := range l.Addrs {
				taken[a] = one.Name
			}
		}
	}
	var d serviceDraft
	d.listen(v, net)
	s.Listen = d.Service.Listen
	for i, l := range s.Listen {
		if name, ok := places[l.String()]; ok {
			d.listenAt[i].failf("service %s listens on %s already", name, l)
			continue
		}
		for _, a := range l.Addrs {
			if name, ok := taken[a]; ok {
				d.listenAt[i].failf("service %s listens on %s already", name, a)
				break
			}
		}
	}
}

// With is the places with addresses that interfaces have besides those of the
// file, as Service.With.
func (s SSH) With(extra map[string][]netip.Addr) []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range s.Listen {
		all = append(all, l.with(extra[l.Interface])...)
	}
	return all
}

// keys decodes public keys, a line of ssh-keygen each.
func (s *SSH) keys(v value) {
	items := v.itemsOrOne("public keys, as in ssh-ed25519 AAAA... name")
	if len(items) > maxKeys {
		v.failf("has %d keys; at most %d are possible", len(items), maxKeys)
		return
	}
	for _, item := range items {
		text, ok := item.text("a public key, as in ssh-ed25519 AAAA... name")
		if !ok {
			continue
		}
		_, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
		switch {
		case err != nil || strings.TrimSpace(string(rest)) != "":
			item.failf("is no public key as ssh-keygen writes it, in one line that begins with ssh-ed25519, ssh-rsa or the like")
		case len(options) > 0:
			item.failf("has options before the key (%s), which are not supported", shorten(strings.Join(options, ",")))
		default:
			s.AuthorizedKeys = append(s.AuthorizedKeys, text)
		}
	}
}

// console decodes how one logs in on the serial line.
func (v value) console(dst *Console) {
	v.mapping(field{"password_hash", func(v value) {
		text, ok := v.text("a bcrypt hash, as appliance passwd --print makes it")
		if !ok {
			return
		}
		if _, err := bcrypt.Cost([]byte(text)); err != nil {
			v.failf("is no bcrypt hash; `appliance passwd --print` makes one, and so does htpasswd -nB")
			return
		}
		dst.PasswordHash = text
	}})
}

// file decodes the absolute path of a file.
func (v value) file(dst *string) {
	text, ok := v.text("an absolute path")
	if ok && v.cleanPath(text) {
		*dst = text
	}
}

// cleanPath reports whether a text is the path of a file, and says so if not.
func (v value) cleanPath(text string) bool {
	switch {
	case strings.ContainsFunc(text, invisible):
		v.failf("%s has an invisible character in it", quote(text))
	case !path.IsAbs(text):
		v.failf("%s is not an absolute path; it starts with /", quote(text))
	case path.Clean(text) != text:
		v.failf("%s is not a clean path of a file; write %s", quote(text), path.Clean(text))
	case text == "/":
		v.failf("%s is a directory", quote(text))
	default:
		return true
	}
	return false
}

// socket decodes the path of a unix socket, or off.
func (v value) socket(dst *string) {
	const longest = 107 // unix(7): sun_path has 108 bytes with the final NUL
	if v.off() {
		*dst = ""
		return
	}
	text, ok := v.text("an absolute path, or off")
	switch {
	case !ok || !v.cleanPath(text):
	case len(text) > longest:
		v.fail(fmt.Sprintf("the path has %d bytes, more than a unix socket can have", len(text)), fmt.Sprintf("up to %d bytes", longest))
	default:
		*dst = text
	}
}
