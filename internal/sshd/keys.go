package sshd

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// HostKey reads the key of the host, or makes one at the first start: only its
// owner may read it. write leaves the whole file or none. made tells of a new one.
func HostKey(path string, write func(path string, text []byte, mode fs.FileMode) error) (key ssh.Signer, made bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newKey(); err == nil {
			err = write(path, text, 0o600)
		}
		made = true
	}
	if err != nil {
		return nil, false, fmt.Errorf("the host key for SSH: %w", err)
	}
	key, err = ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, false, fmt.Errorf("the host key for SSH in %s cannot be read: %w; remove it, and the next start makes another", path, err)
	}
	return key, made, nil
}

func newKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "lastack")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

// ParseKey reads one line of the form that ssh-keygen writes. Options before the
// key would promise what is not kept, and are refused.
func ParseKey(line string) (Key, error) {
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return Key{}, errors.New("not a public key as ssh-keygen writes it, as in ssh-ed25519 AAAA... name")
	case len(options) > 0:
		return Key{}, fmt.Errorf("options before a key (%s) are not supported", strings.Join(options, ","))
	case len(strings.TrimSpace(string(rest))) > 0:
		return Key{}, errors.New("more than one line")
	}
	return Key{Key: key, Name: comment}, nil
}

// ReadKeys reads a file of such lines; empty ones and comments are left out. What
// is wrong with a line is in the error, and the other keys count.
func ReadKeys(text string) (all []Key, err error) {
	var errs []error
	for n, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		k, err := ParseKey(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", n+1, err))
			continue
		}
		all = append(all, k)
	}
	return all, errors.Join(errs...)
}
