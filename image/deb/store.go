package deb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lastack/lastack/image/lock"
)

// Store is a directory with package files, and apt's own below it.
type Store struct {
	Dir    string
	Mirror string    // host and path before /debian; "" = DefaultMirror
	Log    io.Writer // what is fetched, for a person
}

// DefaultMirror is where packages come from.
const DefaultMirror = "http://deb.debian.org"

// Get returns the path of a package's file, fetched if need be, whose SHA-256
// is that of the lock.
func (s *Store) Get(ctx context.Context, suite string, p lock.Package) (string, error) {
	path := filepath.Join(s.Dir, p.FileName())
	err := checkSum(path, p.SHA256)
	if err == nil {
		return path, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(s.Log, "%v: it is fetched again\n", err)
	}
	fmt.Fprintf(s.Log, "fetching %s (%.1f MB)\n", p.FileName(), float64(p.Size)/1e6)
	a, err := s.apt(suite, p.Arch)
	if err != nil {
		return "", err
	}
	if err := a.download(ctx, p); err != nil {
		return "", fmt.Errorf("get package %s %s: %w\n%s", p.Name, p.Version, err, s.advice(p))
	}
	if err := checkSum(path, p.SHA256); err != nil {
		return "", fmt.Errorf("get package %s: %w; if the lock file is older than what Debian offers, renew it: appliance image lock --update", p.Name, err)
	}
	return path, nil
}

// advice is what to do when Debian has a package no more: it keeps only the
// newest of each suite.
func (s *Store) advice(p lock.Package) string {
	return "Debian removes a version when a newer one is out. Either renew the lock file (appliance image lock --update),\n" +
		"or get this one from https://snapshot.debian.org/package/" + p.Source + "/\n" +
		"and put it into " + s.Dir + " as " + p.FileName() + "; its SHA-256 must be\n" + p.SHA256
}

func checkSum(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s has SHA-256 %s, the lock file says %s", path, got, want)
	}
	return nil
}
